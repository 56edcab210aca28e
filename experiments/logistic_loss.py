"""Logistic loss: in the kernel regime gradient flow is 1/t, and so is the heavy ball, but Nesterov
is t^(-2)

The paper's loss is the square. With L = sum log(1 + e^(-y f)) only dL/df changes: f' = -H dL/df
under gradient flow, and the loss has no minimum, so nothing decays geometrically. When H separates
the labels, L ~ 1/(gamma^2 t) with the margin gamma; constant friction b only rescales time, L ~
b/(gamma^2 t), while Nesterov's friction d/t, which dies out, makes it t^(-2). Wide networks follow
the linear model that has their limit kernel for ever.
"""

from dataclasses import dataclass

import equinox as eqx
import jax
import numpy as np
import scipy.optimize
import xarray

import ntk_momentum as nm
from ntk_momentum.study import plotting

ORDER = 116
CAPTION = """Logistic training loss of wide networks under the three flows, median and range over
seeds, and (dashed) of the linear model with the limit kernel, without a fit. Dotted: 1/(gamma^2 t)
and b/(gamma^2 t), whose constant is the margin; slopes in the legend are of the last half
decade. A step is h of time: eta = h without momentum, about h^2 with it."""


@dataclass(frozen=True)
class Config:
    n: int = 12
    p: int = 24
    width: int = 4096
    seeds: int = 3
    b: float = 0.5  # friction of the heavy ball
    d: float = 3.0
    h: float = 0.5  # time step of the discrete twins; eta itself for gradient descent
    horizon: float = 400.0
    save_every: int = 4


SIZES = {
    "smoke": Config(width=256, seeds=1, horizon=60.0),
    "default": Config(),
    "full": Config(n=50, p=100, width=65536, seeds=10, horizon=4000.0),
}


def run(config, progress):
    data = nm.sphere(config.n, config.p, key=jax.random.key(0))
    limit = np.asarray(nm.infinite_ntk(data.X))
    values, vectors = np.linalg.eigh(limit)
    features = nm.Dataset(vectors * np.sqrt(values), data.y)
    line = eqx.nn.Linear(config.n, "scalar", use_bias=False, key=jax.random.key(0))
    line = eqx.tree_at(
        lambda m: m.weight, line, 0 * line.weight
    )  # a linear model of the features has the limit kernel for ever
    flows = {
        "gradient_flow": nm.GradientFlow(),
        "heavy_ball": nm.HeavyBall(config.b),
        "nesterov": nm.Nesterov(config.d),
    }
    options = {"save_every": config.save_every, "loss": nm.logistic, "readouts": ("loss",)}
    steps = config.save_every * (int(config.horizon / config.h) // config.save_every)
    saved = slice(1, None)
    loss, theory, time = np.empty((len(flows), config.seeds, steps // config.save_every)), [], []
    for i, flow in enumerate(flows.values()):
        optimizer, offset = flow.discretize(config.h)
        time.append(config.h * np.arange(0, steps + 1, config.save_every)[saved] + float(offset))
        theory.append(np.asarray(nm.train(line, features, optimizer, steps, **options).loss)[saved])
        for k in range(config.seeds):
            net = nm.init_two_layer(
                config.width, config.p, key=jax.random.key(k), antisymmetric=True
            )
            loss[i, k] = np.asarray(nm.train(net, data, optimizer, steps, **options).loss)[saved]
            progress(i * config.seeds + k + 1, loss[:, :, 0].size)
    variables = {
        "loss": (("flow", "seed", "step"), loss),
        "theory": (("flow", "step"), theory),
        "time": (("flow", "step"), time),
    }
    attrs = {
        "gamma": margin(limit, np.asarray(data.y)),
        "b": config.b,
        "d": config.d,
        "h": config.h,
        "width": config.width,
    }
    return xarray.Dataset(variables, coords={"flow": list(flows)}, attrs=attrs)


def margin(kernel, y):
    """The largest min_i y_i f_i over functions of unit kernel norm: from the dual, min c . (y H y)
    c over the simplex is gamma^2."""
    values, vectors = np.linalg.eigh(y[:, None] * kernel * y[None])
    root = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
    weights = scipy.optimize.nnls(
        np.vstack([root, 1e3 * np.ones(y.size)]), np.append(np.zeros(y.size), 1e3)
    )[0]
    return float(np.linalg.norm(root @ (weights / weights.sum())))


def slope(time, loss):
    """Power of t over the last half decade."""
    late = np.asarray(time) >= float(time[-1]) / np.sqrt(10)
    return plotting.power_law(np.asarray(time)[late], np.atleast_2d(loss)[:, late])[:2]


def headline(ds):
    lines = {"margin gamma of the limit kernel": f"{ds.attrs['gamma']:.3f}"}
    for flow in ds.flow.values:
        one = ds.sel(flow=flow)
        fitted, theory = slope(one.time, one.loss), slope(one.time, one.theory)[0]
        factor = float(np.exp(abs(np.log(one.loss / one.theory)).max()))
        name = plotting.FLOW_NAMES[flow]
        lines[f"power of t, {name}, networks / limit kernel"] = (
            f"{plotting.with_interval(*fitted)} / {theory:.2f}"
        )
        lines[f"largest factor between networks and limit kernel, {name}"] = f"{factor:.3f}"
    return lines


@plotting.house_style
def plot(ds):
    figure, axes = plotting.panels(1, 1, height=3.8, width=6.2)
    for flow in ds.flow.values:
        one, color = ds.sel(flow=flow), plotting.COLORS[flow]
        label = f"{plotting.FLOW_NAMES[flow]}: $t^{{{slope(one.time, one.loss)[0]:.2f}}}$"
        steps = one.time / ds.attrs["h"]
        plotting.band(axes, steps, one.loss, color=color, label=label)
        axes.plot(
            steps,
            one.theory,
            color=plotting.THEORY,
            linestyle="--",
            linewidth=1,
            label="limit kernel" if flow == "nesterov" else None,
        )
    late = np.geomspace(10, float(ds.time.max()), 50)
    for factor, text in ((1.0, "gradient_flow"), (ds.attrs["b"], "heavy_ball")):
        axes.plot(
            late / ds.attrs["h"],
            factor / (ds.attrs["gamma"] ** 2 * late),
            color=plotting.COLORS[text],
            linestyle=":",
            linewidth=1.2,
        )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="step $k = t/h$",
        ylabel=r"loss $\sum_i \log(1 + e^{-y_i f_i})$",
    )
    axes.set_title(
        f"logistic loss, m = {ds.attrs['width']}, b = {ds.attrs['b']:g}, d = {ds.attrs['d']:g}"
    )
    axes.legend()
    return figure

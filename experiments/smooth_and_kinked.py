"""Smooth against kinked: without kinks the kernel's drift falls like 1/m, with them little faster
than m^(-1/2)

The paper asks for piecewise linear activations; (A.1) needs that only because it drops a second
derivative. A smooth activation adds m^(-1/2) sum_r a_r sigma''(w_r . x)(w_r' . x)^2 = O(1/m) to
(3.5), less than the kinks' impulses, O(m^(-1/2)), and its kernel moves by 1/m, where that of a
kinked one moves by the flips' m^(-3/4) to m^(-1/2). So the theory holds better where the paper does
not claim it.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import xarray

import ntk_momentum as nm
from ntk_momentum.study import plotting

ORDER = 114
CAPTION = """Left: relative drift of the kernel during heavy-ball training, right: largest distance
of f from its own kernel's prediction over the motion |f(0) - y|; median and range over seeds
against the width, lines with fitted powers. Solid: smooth, dashed: kinked activations; grey: 1/m
and m^(-1/2)."""
ACTIVATIONS = {
    "ReLU": jax.nn.relu,
    "absolute value": jnp.abs,
    "tanh": jnp.tanh,
    "softplus": jax.nn.softplus,
}
KINKED = ("ReLU", "absolute value")


@dataclass(frozen=True)
class Config:
    n: int = 12
    p: int = 24
    widths: tuple[int, ...] = (256, 512, 1024, 4096)
    seeds: int = 4
    activations: tuple[str, ...] = tuple(ACTIVATIONS)  # by name
    steps: int = 150


SIZES = {
    "smoke": Config(widths=(128, 512), seeds=2, activations=("ReLU", "tanh"), steps=60),
    "default": Config(),
    "full": Config(n=50, p=100, widths=tuple(4**k for k in range(4, 9)), seeds=10, steps=600),
}


def run(config, progress):
    data = nm.sphere(config.n, config.p, key=jax.random.key(0))
    counts = np.arange(0, config.steps + 1, 5)
    shape = (len(config.activations), len(config.widths), config.seeds)
    drift, gap = np.empty(shape), np.empty(shape)
    readouts = {
        "f": "f",
        "drift": lambda s: (
            jnp.linalg.norm(s.kernel - s.start.kernel) / jnp.linalg.norm(s.start.kernel)
        ),
    }
    for i, name in enumerate(config.activations):
        for j, width in enumerate(config.widths):
            for k in range(config.seeds):
                net = nm.init_two_layer(
                    width,
                    config.p,
                    key=jax.random.key(k),
                    activation=ACTIVATIONS[name],
                    antisymmetric=True,
                )
                kernel = np.asarray(nm.empirical_ntk(net, data.X))
                lam = np.linalg.eigvalsh(kernel)
                optimizer = nm.best_parameters(
                    "heavy_ball", max(lam[0], 0.01 * lam[-1]), 2 * lam[-1]
                ).optimizer
                one = nm.train(net, data, optimizer, config.steps, save_every=5, readouts=readouts)
                frozen = nm.predict(kernel, -data.y, optimizer, counts).residual + data.y[None]
                drift[i, j, k] = one.drift.max()
                gap[i, j, k] = np.linalg.norm(one.f - frozen, axis=1).max() / np.linalg.norm(data.y)
                progress(k + 1 + config.seeds * (j + len(config.widths) * i), drift.size)
    dims = ("activation", "width", "seed")
    coords = {"activation": list(config.activations), "width": list(config.widths)}
    return xarray.Dataset({"drift": (dims, drift), "gap": (dims, gap)}, coords=coords)


def fit(ds, quantity, name):
    """(slope, half width, prefactor) in m."""
    return plotting.power_law(
        ds.width, ds[quantity].sel(activation=name).transpose("seed", "width")
    )


def headline(ds):
    titles = {"drift": "kernel drift", "gap": "distance from the prediction"}
    return {
        f"slope of the {title} in m, {name}": plotting.with_interval(*fit(ds, quantity, name)[:2])
        for quantity, title in titles.items()
        for name in ds.activation.values
    }


@plotting.house_style
def plot(ds):
    figure, row = plotting.panels(1, 2, height=3.5)
    for axes, quantity in zip(row, ("drift", "gap"), strict=True):
        for name, color in zip(ds.activation.values, plotting.CYCLE[2:], strict=False):
            slope, half, prefactor = fit(ds, quantity, name)
            label = f"{name}: {plotting.power(slope, half)}"
            plotting.band(
                axes,
                ds.width,
                ds[quantity].sel(activation=name).transpose("seed", "width"),
                color=color,
                points=True,
                label=label,
            )
            axes.plot(
                ds.width,
                prefactor * ds.width**slope,
                color=color,
                linewidth=1.2,
                linestyle="--" if name in KINKED else "-",
            )
        start = 0.4 * float(ds[quantity].isel(width=0).min())
        for power in (-0.5, -1.0):
            axes.plot(
                ds.width,
                start * (ds.width / ds.width[0]) ** power,
                color=plotting.MUTED,
                linewidth=0.8,
            )
        axes.set(xscale="log", yscale="log", xlabel="width $m$")
        axes.set_ylim(
            bottom=start * float(ds.width[0] / ds.width[-1]) / 60
        )  # room for the legend below the lines
        plotting.power_ticks(axes.xaxis, ds.width.values)
        axes.legend(loc="lower left", handlelength=1.2)
    row[0].set(title="kernel", ylabel=r"$\max_k \|H_k - H_0\|_F / \|H_0\|_F$")
    row[1].set(title="trajectory", ylabel=r"$\max_k |f_k - f_k^{lin}| / |f_0 - y|$")
    return figure

"""What momentum buys: the square root of the steps, for as long as the kernel stays

Gradient descent (2.1), the heavy ball (3.1) and Nesterov's method (4.1) train the hidden layer,
each with the parameters that its kernel's spectrum recommends (`nm.advise`), near the step's limit
of stability. Counted in steps, on one axis. To reduce the error of the slowest mode by a factor e
gradient descent needs kappa/2 steps and the heavy ball sqrt(kappa)/2, kappa = lambda_max/lambda_0:
so momentum buys little for a rough fit, which the large eigenvalues give, and the more the finer
the fit. Dashed: the closed form for the network's own kernel at the start; dotted: that of infinite
width. What lies between them is finite width; what lies between the run and the dashed line is the
kernel's motion.
"""

from dataclasses import dataclass

import jax
import numpy as np
from ntk_momentum.experiments._unit import unit_data

import ntk_momentum as nm
from ntk_momentum.study import plotting

ORDER = 1
CAPTION = """Training loss against the number of steps, relative to its start: solid the network,
dashed the closed form for its own kernel at the start, dotted that for infinite width, nothing
fitted. Each method has the best parameters for its kernel and the target. Right: how many times
fewer steps than gradient descent until the loss stays below a share of its start, for the network
(points) and its kernel (dashed)."""
METHODS = {
    "gradient_descent": "gradient descent",
    "heavy_ball": "heavy ball",
    "nesterov": "Nesterov",
}
SHARES = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)


@dataclass(frozen=True)
class Config:
    data: str = "digits"
    n: int = 50
    width: int = 4096
    target: float = 1e-3  # share of the initial loss that the parameters are tuned for
    margin: float = 0.1  # how much lambda_max may grow before a step is unstable
    most: int = 3000  # steps at most


SIZES = {
    "smoke": Config(n=20, width=1024),
    "default": Config(),
    "full": Config(n=200, width=16384, most=20000),
}


def run(config, progress):
    xr = plotting.require("xarray", "experiments")
    data = unit_data(config.data, config.n)
    net = nm.init_two_layer(config.width, data.input_size, key=jax.random.key(0))
    kernels = {"own": nm.empirical_ntk(net, data.X), "infinite": nm.infinite_ntk(data.X)}
    residual = jax.vmap(net)(data.X) - data.y
    advice = nm.advise(kernels["own"], residual, target=config.target, margin=config.margin)
    slow = min(config.most, 1.6 * advice["gradient_descent"].steps)
    counts = np.arange(int(slow) + 1)
    loss = np.empty((len(METHODS), 3, counts.size))
    for i, name in enumerate(METHODS):
        optimizer = advice[name].optimizer
        trained = nm.train(net, data, optimizer, int(slow), save_every=1, readouts=["loss"])
        loss[i, 0] = trained.loss
        for j, kernel in enumerate(kernels.values(), start=1):
            loss[i, j] = nm.predict(kernel, residual, optimizer, counts).loss
        progress(i + 1, len(METHODS))
    lam = np.linalg.eigvalsh(np.asarray(kernels["own"]))
    return xr.Dataset(
        {
            "share": (("algorithm", "curve", "step"), loss / loss[:, :, :1]),
            "steps": (
                ("algorithm", "curve", "target"),
                [[[until(one, s) for s in SHARES] for one in three] for three in loss],
            ),
        },
        {
            "algorithm": list(METHODS),
            "curve": ["network", *kernels],
            "step": counts,
            "target": list(SHARES),
        },
        {"data": data.name, "width": config.width, "kappa": float(lam[-1] / lam[0])},
    )


def until(loss, share):
    """Steps until the loss stays below a share of its start; NaN where it does not."""
    above = np.flatnonzero(~(loss <= share * loss[0]))
    return above[-1] + 1.0 if above[-1] + 1 < loss.size else np.nan


def headline(ds):
    lines = {"kappa of the network's own kernel": f"{ds.attrs['kappa']:.3g}"}
    for share in (0.1, 0.01, 0.001):
        steps = ds.steps.sel(target=share)
        plain = steps.sel(algorithm="gradient_descent")
        for method in ("heavy_ball", "nesterov"):
            run, own = (
                f"{said(plain.sel(curve=curve))} / {said(steps.sel(algorithm=method, curve=curve))}"
                f" = {said(plain.sel(curve=curve) / steps.sel(algorithm=method, curve=curve), 1)}"
                for curve in ("network", "own")
            )
            key = f"steps to {100 * share:g} % of the loss, gradient descent / {METHODS[method]}"
            lines[key] = f"{run} (its kernel: {own})"
    return lines


def said(value, digits=0):
    return f"{float(value):.{digits}f}" if np.isfinite(value) else "not reached"


@plotting.house_style
def plot(ds):
    figure, (left, right) = plotting.panels(1, 2, height=3.2, width_ratios=(1.7, 1))
    for name, words in METHODS.items():
        color, one = plotting.flow_color(name), ds.share.sel(algorithm=name)
        left.plot(ds.step, one.sel(curve="network"), color=color, label=words)
        for curve, style in (("own", "--"), ("infinite", ":")):
            left.plot(ds.step, one.sel(curve=curve), color=color, linestyle=style, linewidth=1)
        if name != "gradient_descent":
            gain = ds.steps.sel(algorithm="gradient_descent") / ds.steps.sel(algorithm=name)
            right.plot(ds.target, gain.sel(curve="network"), "o", color=color)
            right.plot(ds.target, gain.sel(curve="own"), "--", color=color, linewidth=1)
    plotting.frame(left, ds.share.sel(curve="network"))
    left.set(xlabel="step", ylabel="loss / initial loss", xlim=(0, ds.sizes["step"]))
    left.set_title(f"{ds.attrs['data']}, $m$ = {ds.attrs['width']}")
    left.set_ylim(max(float(ds.target.min()) / 3, left.get_ylim()[0]), None)
    left.legend(loc="upper right")
    right.axhline(1, color=plotting.MUTED, linewidth=0.8)
    right.set(xscale="log", xlabel="share of the loss that remains", ylim=(0, None))
    right.set_title("times fewer steps")
    right.invert_xaxis()
    return figure

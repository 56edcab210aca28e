"""Published: Nesterov against the epoch, power laws with exponent d until the step is felt

The authors' third figure: their network under Nesterov in PyTorch's form (momentum (k - 1)/(k + d - 1) in velocity and
look-ahead) for several d, and gradient descent, on two logarithmic axes. A mode of the flow (4.2) has the envelope
t^(-d/2), so the MSE falls like k^(-d). At a fixed step an eigenvalue with x = 2 eta lambda / n also loses the factor
(1 - x) per step, which overtakes the power at k = d/x: the largest eigenvalues pass it at once, the smallest (marked, where
the axis reaches it) last. Dashed: the initial kernel's prediction, without a fit. Changed by default: 50 digits of 8 x 8
pixels for 600 MNIST images, m = 500, fewer epochs.
"""

from dataclasses import dataclass

import jax
import numpy as np
import xarray

import ntk_momentum as nm
from ntk_momentum import plotting, published

ORDER = 102
CAPTION = """Mean squared error of the authors' network under Nesterov and gradient descent: solid the run, dashed the
prediction from its own initial kernel, without a fit. Legend: slope over the last decade, run / prediction; the flow's
law for one mode is -d. Dotted: k = 1/x of the median eigenvalue, whence half the modes decay geometrically (times d)."""


@dataclass(frozen=True)
class Config:
    n: int = 50
    width: int = 500
    eta: float = 5e-4
    steps: int = 2000
    every: int = 5
    ds: tuple[float, ...] = (2.0, 3.0, 6.0, 8.0)
    mnist: str = ""  # the folder with MNIST's files; else scikit-learn's digits


SIZES = {
    "smoke": Config(n=20, width=100, steps=200, ds=(3.0,)),
    "default": Config(),
    "full": Config(n=600, width=3000, eta=1e-4, steps=5000),
}


def run(config, progress):
    data = published.images(config.n, config.mnist)
    net = published.network(config.width, data.input_size, key=jax.random.key(0))
    counts = np.arange(0, config.steps + 1, config.every)
    methods = {"GD": nm.heavy_ball(config.eta, 0.0), **{f"d = {d:g}": nm.nesterov_torch(config.eta, d) for d in config.ds}}
    mse = np.empty((2, len(methods), counts.size))
    for i, optimizer in enumerate(methods.values()):
        mse[0, i] = published.measured(net, data, optimizer, config.steps, config.every)
        mse[1, i] = published.predicted(net, data, optimizer, counts)
        progress(i + 1, len(methods))
    x = 2 * config.eta / data.n * np.linalg.eigvalsh(np.asarray(nm.empirical_ntk(net, data.X, trainable="all")))
    coords = {"curve": ["run", "prediction"], "algorithm": list(methods), "epoch": counts}
    attrs = {"data": data.name, "width": config.width}
    return xarray.Dataset({"mse": (("curve", "algorithm", "epoch"), mse), "x": ("mode", x)}, coords=coords, attrs=attrs)


def slope(one):
    """Of log MSE in log k over the last decade."""
    late = one.sel(epoch=slice(int(one.epoch[-1]) // 10, None))
    return plotting.power_law(late.epoch, late)[0]


def headline(ds):
    eigenvalues = f"{float(ds.x[0]):.1e}, {float(ds.x.median()):.1e}, {float(ds.x[-1]):.2f}"
    slopes = {
        f"slope over the last decade, {name}: run / prediction": " / ".join(f"{slope(one):.2f}" for one in ds.mse.sel(algorithm=name))
        for name in ds.algorithm.values
    }
    return {"2 eta lambda / n, smallest, median, largest": eigenvalues, **slopes}


@plotting.house_style
def plot(ds):
    figure, axes = plotting.panels(1, 1, height=4.0, width=6.2)
    tones = plotting.shades(plotting.COLORS["nesterov"], ds.sizes["algorithm"] - 1)
    for name, color in zip(ds.algorithm.values, (plotting.COLORS["gradient_flow"], *tones), strict=True):
        both = ds.mse.sel(algorithm=name).isel(epoch=slice(1, None))
        axes.plot(both.epoch, both[0], color=color, label=f"{name}: ${slope(both[0]):.1f}$ / ${slope(both[1]):.1f}$")
        axes.plot(both.epoch, both[1], color=color, linestyle="--", linewidth=1)
    crossover = 1 / float(ds.x.median())
    if crossover < ds.epoch[-1]:
        axes.axvline(crossover, color=plotting.MUTED, linestyle=":", linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="epoch (step)", ylabel="mean squared error")
    axes.set_title(f"Nesterov in PyTorch's form, {ds.attrs['data']}, m = {ds.attrs['width']}")
    axes.legend(title="slope, run / prediction", loc="lower left")
    return figure

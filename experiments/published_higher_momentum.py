"""Published: higher momentum, a second memory adds up with the first

The authors' last figure: w_{k+1} - w_k = beta1 (w_k - w_{k-1}) + beta2 (w_{k-1} - w_{k-2}) - eta grad L, log MSE against the
step. For an eigenvalue with x = 2 eta lambda / n small, both momenta act through their sum: the loss falls per step like
(1 - x/(1 - beta1 - beta2))^2, so (0.2, 0.5) trains like the heavy ball with beta = 0.7. That heavy ball is drawn beside it, and so is
the initial kernel's prediction, without a fit. Changed by default: 50 digits of 8 x 8 pixels for 600 MNIST images,
m = 500, fewer epochs.
"""

from dataclasses import dataclass

import jax
import numpy as np
import xarray

import ntk_momentum as nm
from ntk_momentum import plotting, published

ORDER = 104
CAPTION = """Mean squared error of the authors' network under multi-step momentum (beta1, beta2): solid the run, dashed the
prediction from its own initial kernel, without a fit. Dotted: the heavy ball whose beta is the last pair's sum. Legend: decades per
1000 steps over the last half, run / prediction."""


@dataclass(frozen=True)
class Config:
    n: int = 50
    width: int = 500
    eta: float = 5e-4
    steps: int = 2000
    every: int = 10
    betas: tuple[tuple[float, float], ...] = ((0.0, 0.0), (0.2, 0.0), (0.2, 0.2), (0.2, 0.5))
    mnist: str = ""  # the folder with MNIST's files; else scikit-learn's digits


SIZES = {
    "smoke": Config(n=20, width=100, steps=200),
    "default": Config(),
    "full": Config(n=600, width=3000, eta=1e-4, steps=5000),
}


def run(config, progress):
    data = published.images(config.n, config.mnist)
    net = published.network(config.width, data.input_size, key=jax.random.key(0))
    counts = np.arange(0, config.steps + 1, config.every)
    pairs = [*config.betas, (sum(config.betas[-1]), 0.0)]
    mse = np.empty((2, len(pairs), counts.size))
    for i, (beta1, beta2) in enumerate(pairs):
        optimizer = nm.multi_step_momentum(config.eta, beta1, beta2)
        mse[0, i] = published.measured(net, data, optimizer, config.steps, config.every)
        mse[1, i] = published.predicted(net, data, optimizer, counts)
        progress(i + 1, len(pairs))
    coords = {"curve": ["run", "prediction"], "momenta": [f"({b1:g}, {b2:g})" for b1, b2 in pairs], "epoch": counts}
    attrs = {"data": data.name, "width": config.width}
    return xarray.Dataset({"mse": (("curve", "momenta", "epoch"), mse)}, coords=coords, attrs=attrs)


def slope(one):
    """Decades per 1000 steps over the last half."""
    late = one.isel(epoch=slice(one.epoch.size // 2, None))
    return 1000 * float(np.polyfit(late.epoch, np.log10(late), 1)[0])


def headline(ds):
    return {
        f"decades per 1000 steps, (beta1, beta2) = {name}: run / prediction": " / ".join(
            f"{slope(one):.2f}" for one in ds.mse.sel(momenta=name)
        )
        for name in ds.momenta.values
    }


@plotting.house_style
def plot(ds):
    figure, axes = plotting.panels(1, 1, height=3.8, width=6.2)
    tones = plotting.shades(plotting.COLORS["heavy_ball"], ds.sizes["momenta"] - 1)
    for name, color in zip(ds.momenta.values, (*tones, plotting.THEORY), strict=True):
        both, last = ds.mse.sel(momenta=name), name == ds.momenta.values[-1]
        label = f"{name}: ${slope(both[0]):.2f}$ / ${slope(both[1]):.2f}$"
        axes.plot(ds.epoch, both[0], color=color, label=label, linestyle=":" if last else "-", zorder=3 if last else 2)
        if not last:
            axes.plot(ds.epoch, both[1], color=color, linestyle="--", linewidth=1)
    axes.set(yscale="log", xlabel="epoch (step)", ylabel="mean squared error")
    axes.set_title(f"multi-step momentum, {ds.attrs['data']}, m = {ds.attrs['width']}")
    axes.legend(title=r"$(\beta_1, \beta_2)$: decades / 1000 steps")
    return figure

"""Published: the heavy ball against the epoch, steeper with its momentum

The authors' first figure: their network (every weight trained, scale 1, mean squared error) under heavy ball in
PyTorch's form, log MSE against the step. Past the transient the lines are steeper the larger the momentum: an
eigenvalue with x = 2 eta lambda / n small decays per step as (1 - x / (1 - beta))^2, so beta acts like the step eta / (1 - beta).
Beside each run, what the kernel of that network at initialisation predicts, with nothing fitted; the gap is what the
kernel's motion does in a scaling that is not the paper's. Changed by default: 50 digits of 8 x 8 pixels instead of 600
MNIST images (fewer images than pixels, as there), m = 500, a step that keeps eta lambda_max comparable, fewer epochs.
"""

from dataclasses import dataclass

import jax
import numpy as np
import xarray

import ntk_momentum as nm
from ntk_momentum import plotting, published

ORDER = 100
CAPTION = """Mean squared error of the authors' network under the heavy ball: solid the run, dashed the prediction from
its own initial kernel, without a fit. Slopes in the legend: decades per 1000 steps over the last half, run / prediction."""


@dataclass(frozen=True)
class Config:
    n: int = 50
    width: int = 500
    eta: float = 5e-4
    steps: int = 2000
    every: int = 10
    betas: tuple[float, ...] = (0.0, 0.2, 0.5, 0.8)
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
    mse = np.empty((2, len(config.betas), counts.size))
    for i, beta in enumerate(config.betas):
        optimizer = nm.heavy_ball(config.eta, beta)
        mse[0, i] = published.measured(net, data, optimizer, config.steps, config.every)
        mse[1, i] = published.predicted(net, data, optimizer, counts)
        progress(i + 1, len(config.betas))
    coords = {"curve": ["run", "prediction"], "beta": list(config.betas), "epoch": counts}
    attrs = {"stiffness": config.eta * published.sharpness(net, data), "data": data.name, "width": config.width}
    return xarray.Dataset({"mse": (("curve", "beta", "epoch"), mse)}, coords=coords, attrs=attrs)


def slope(one):
    """Decades per 1000 steps over the last half."""
    late = one.isel(epoch=slice(one.epoch.size // 2, None))
    return 1000 * float(np.polyfit(late.epoch, np.log10(late), 1)[0])


def headline(ds):
    slopes = {
        f"decades per 1000 steps, beta = {beta}: run / prediction": " / ".join(f"{slope(one):.2f}" for one in ds.mse.sel(beta=beta))
        for beta in ds.beta.values
    }
    return {"eta 2 lambda_max / n at initialisation": f"{ds.attrs['stiffness']:.2f}", **slopes}


@plotting.house_style
def plot(ds):
    figure, axes = plotting.panels(1, 1, height=3.8, width=6.2)
    for beta, color in zip(ds.beta.values, plotting.shades(plotting.COLORS["heavy_ball"], ds.sizes["beta"]), strict=True):
        both = ds.mse.sel(beta=beta)
        label = rf"$\beta = {beta}$: ${slope(both[0]):.2f}$ / ${slope(both[1]):.2f}$"
        axes.plot(ds.epoch, both[0], color=color, label=label)
        axes.plot(ds.epoch, both[1], color=color, linestyle="--", linewidth=1)
    axes.set(yscale="log", xlabel="epoch (step)", ylabel="mean squared error")
    axes.set_title(f"heavy ball, {ds.attrs['data']}, m = {ds.attrs['width']}")
    axes.legend(title="decades / 1000 steps")
    return figure

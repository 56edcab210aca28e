"""Published: Nesterov against the epoch, power laws with exponent d until the step is felt

The authors' third figure: their network under Nesterov in PyTorch's form (momentum (k - 1)/(k + d -
1) in velocity and look-ahead) for several d, and gradient descent, on two logarithmic axes. A mode
of the flow (4.2) has the envelope t^(-d/2), so the MSE falls like k^(-d). At a fixed step an
eigenvalue with x = 2 eta lambda / n also loses the factor (1 - x) per step, which overtakes the
power at k = d/x: the largest eigenvalues pass it at once, the smallest last. From there the decay
is geometric, which the flow has not. Dashed: the initial kernel's prediction, without a fit, in the
authors' and in the paper's scaling at the same eta lambda_max. In the authors' the kernel moves at
first, and then the loss falls faster than by any kernel: at d = 2 that of step 750 foretells sixty
times what is left at 1500. Crossings are why (Proposition 15). Each turns motion that the outputs
see into motion that they do not, on which friction acts twice as fast: after 300 steps 85 % of the
weights' kinetic energy is hidden at d = 2, 76 % at d = 3, 77 % at d = 6. In the paper's scaling the
kernel hardly moves, and runs are slower all the same (see the heavy ball's figure). Wider networks
close the gap (try `--width 8000 --eta 3e-5`). Changed by default: 50 digits of 8 x 8 pixels for 600
MNIST images, m = 500, fewer epochs, two seeds for one.
"""

from dataclasses import dataclass

import numpy as np
from ntk_momentum.experiments import _published as published
from ntk_momentum.experiments import _published_figures as figures

import ntk_momentum as nm
from ntk_momentum.study import plotting

ORDER = 90
CAPTION = """Mean squared error under Nesterov and gradient descent, median and range over seeds:
solid the run, dashed the prediction of its own initial kernel, dash-dotted, where that leaves the
frame, that of its kernel after a tenth of the steps, without a fit. Right: the slope of log MSE in
log k; dotted: -d, the flow's law. The vertical line marks k = 1/x of the smallest eigenvalue, where
geometric decay begins to overtake the power."""


@dataclass(frozen=True)
class Config(published.Epochs):
    ds: tuple[float, ...] = (2.0, 3.0, 6.0, 8.0)


SIZES = {size: Config(**options) for size, options in published.EPOCHS.items()}


def run(config, progress):
    nesterov = lambda eta: {f"d = {d:g}": nm.nesterov_torch(eta, d) for d in config.ds}
    return published.against_epoch(
        lambda eta: {"GD": nm.gradient_descent(eta), **nesterov(eta)}, config, progress
    )


def power(one):
    """(steps, local slope of log MSE in log k) over a factor of two."""
    late = one.sel(epoch=slice(20, None))
    places, slope = published.local_slope(np.log(late.epoch), np.log(late), np.log(2) / 2)
    return np.exp(places), slope


def crossovers(ds, scaling):
    """k = 1/x of the smallest eigenvalue."""
    return 1 / float(ds.x.sel(scaling=scaling)[0])


def headline(ds):
    last = int(ds.epoch[-1])
    ds_ = [float(name.split()[-1]) for name in ds.algorithm.values[1:]]
    lines = published.against_limit(ds, [2.0, *(published.nesterov_limit(last, d) for d in ds_)])
    for scaling in ds.scaling.values:
        x = ds.x.sel(scaling=scaling)
        eigenvalues = f"{float(x[0]):.1e}, {float(x.median()):.1e}, {float(x[-1]):.2f}"
        lines[f"2 eta lambda / n, smallest, median, largest; scaling: {scaling}"] = eigenvalues
        for name in ds.algorithm.values:
            late = ds.mse.sel(
                scaling=scaling, algorithm=name, epoch=slice(int(ds.epoch[-1]) // 10, None)
            )
            slopes = " / ".join(
                published.said(plotting.power_law(one.epoch, one)[0])
                if one.notnull().all()
                else ("diverges" if one.isnull()[-1] else "begins later")
                for one in late.median("seed", skipna=False)
            )
            lines[
                f"slope over the last decade, {name}, scaling: {scaling}; run / prediction / that "
                "of the kernel later"
            ] = slopes
    return lines


@plotting.house_style
def plot(ds):
    greens = plotting.shades(plotting.COLORS["nesterov"], ds.sizes["algorithm"] - 1)
    figure, row = figures.epochs(ds, [plotting.COLORS["gradient_flow"], *greens], power)
    ds_ = [float(name.split()[-1]) for name in ds.algorithm.values[1:]]
    for d, color in zip(ds_, greens, strict=True):
        row[2].axhline(-d, color=color, linestyle=":", linewidth=1.2)
    for axes, scaling in zip(row, ("authors", "paper", "paper"), strict=True):
        axes.set_xscale("log")
        if crossovers(ds, scaling) < ds.epoch[-1]:
            axes.axvline(crossovers(ds, scaling), color=plotting.MUTED, linestyle=":", linewidth=1)
    below = figures.lowest(row[2], [-max(ds_)])
    row[2].set(ylabel="slope of log MSE in log k", ylim=(below, 0.5))
    return figure

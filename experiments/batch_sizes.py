"""What momentum buys against the batch size: nothing below a critical batch, square roots above

For small batches noise limits the step, and the examples that a loss takes hardly depend on the
method or the batch: momentum only rescales the step. For large ones the largest eigenvalue limits
it, steps stop falling with the batch, and examples grow in proportion to it; with momentum later,
since its critical batch is larger. The lines are the exact limits and the expected loss of a
constant kernel, with no fitted parameter; the points are means of runs in function space.
"""

from dataclasses import dataclass

import jax
import numpy as np
import xarray as xr

import ntk_momentum as nm
from ntk_momentum.study import plotting

ORDER = 119
METHODS = ("gradient_descent", "heavy_ball", "nesterov")
CAPTION = """Left: examples until a share of the loss is left, with the best step and momentum of
each method for each batch (lines: predicted; points: runs in function space with those
parameters, until they stay below it for as long again). Flat where noise limits the step, in
proportion to the batch where the largest eigenvalue does. Nesterov's loss grows again in the end
where the batch is less than a third of the samples. Right: the critical step times that eigenvalue,
for fixed momenta; it leaves proportionality at the critical batch (dotted), later with
momentum."""


@dataclass(frozen=True)
class Config:
    n: int = 50
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 25, 50)
    target: float = 0.01
    beta: float = 0.9
    runs: int = 200  # trainings, each with its own draws of batches


SIZES = {
    "smoke": Config(n=8, batch_sizes=(1, 8), target=0.1, runs=50),
    "default": Config(),
    "full": Config(n=200, batch_sizes=(1, 2, 4, 8, 16, 32, 64, 128, 200), runs=400),
}


def run(config, progress):
    data = nm.load_digits(config.n, key=jax.random.key(0))
    kernel, start = nm.infinite_ntk(data.X), -np.asarray(data.y)
    largest = float(np.linalg.eigvalsh(kernel)[-1])
    held = (nm.gradient_descent(1.0), nm.heavy_ball(1.0, config.beta))
    shape = (len(METHODS), len(config.batch_sizes))
    predicted, sampled, limits = np.zeros(shape), np.zeros(shape), np.zeros((2, shape[1]))
    for j, batch in enumerate(config.batch_sizes):
        advice = nm.advise(kernel, start, target=config.target, batch_size=batch)
        for i, name in enumerate(METHODS):
            found = advice[name]
            predicted[i, j] = found.examples
            # twice the steps: long enough for oscillations, and not for what grows in the end, as
            # the expected loss of (4.1) does on batches of less than a third of the samples
            counts = np.arange(0, 2 * int(found.steps) + 1)
            runs = nm.predict_stochastic(
                kernel, start, found.optimizer, counts, batch_size=batch, method="sampled",
                runs=config.runs,
            )  # fmt: skip
            share = np.asarray(runs.loss / runs.loss[0])
            sampled[i, j] = batch * (1 + int(np.flatnonzero(share > config.target)[-1]))
        for i, method in enumerate(held):
            limits[i, j] = nm.critical_step(method, kernel, batch_size=batch).eta * largest
        progress(j + 1, shape[1])
    critical = [nm.critical_batch(method, kernel) for method in held]
    return xr.Dataset(
        {
            "examples": (("optimizer", "batch"), predicted),
            "sampled": (("optimizer", "batch"), sampled),
            "critical_step": (("momentum", "batch"), limits),
            "critical_batch": ("momentum", critical),
        },
        {
            "optimizer": list(METHODS),
            "batch": list(config.batch_sizes),
            "momentum": [0.0, config.beta],
        },
        {"target": config.target},
    )


def headline(ds):
    return {
        f"critical batch at beta = {float(beta):g}, of {int(ds.batch[-1])} samples": int(batch)
        for beta, batch in zip(ds.momentum, ds.critical_batch, strict=True)
    }


@plotting.house_style
def plot(ds):
    figure, (left, right) = plotting.panels(1, 2, height=3.5)
    names = ("gradient descent", "heavy ball", "Nesterov (4.1)")
    colors = list(plotting.COLORS.values())
    for i, (name, color) in enumerate(zip(names, colors, strict=True)):
        one = ds.isel(optimizer=i)
        left.plot(ds.batch, one.examples, color=color, label=name)
        left.plot(ds.batch, one.sampled, color=color, marker="o", linestyle="none")
    left.set(
        xscale="log",
        yscale="log",
        xlabel="batch $B$",
        title=f"examples until {ds.attrs['target']:g} of the loss is left",
    )
    left.legend()
    for i, color in enumerate(colors[:2]):
        beta = float(ds.momentum[i])
        right.plot(
            ds.batch, ds.critical_step[i], color=color, marker="o", label=rf"$\beta = {beta:g}$"
        )
        right.axhline(2 * (1 + beta), color=color, linestyle="--", linewidth=0.8)
        right.axvline(float(ds.critical_batch[i]), color=color, linestyle=":", linewidth=0.8)
    right.set(
        xscale="log",
        yscale="log",
        xlabel="batch $B$",
        title=r"critical step $\eta_c\lambda_{\max}$ (dashed: $2(1+\beta)$)",
    )
    right.legend()
    for axes in (left, right):
        axes.set_xticks(ds.batch.values, [str(batch) for batch in ds.batch.values])
        axes.minorticks_off()
        plotting.log_ticks(axes.yaxis)
    return figure

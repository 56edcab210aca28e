"""Published: the heavy ball against the epoch, steeper with its momentum

The authors' first figure: their network (every weight trained, scale 1, mean squared error) under
heavy ball in PyTorch's form, log MSE against the step. Past the transient the lines are steeper the
larger the momentum: an eigenvalue with x = 2 eta lambda / n small decays per step as (1 - x / (1 -
beta))^2, so beta acts like the step eta / (1 - beta). The slope tends to that of the slowest
eigenvalue's companion matrix z^2 - (1 + beta - x) z + beta. Beside each run, what the kernel of
that network at initialisation predicts, with nothing fitted; and from a tenth of the steps on
(`--settle`), what its kernel there does. In the authors' scaling the kernel moves. In the paper's,
past the first steps, it hardly does, and yet the run is slower than either. Under gradient descent
more and more neurons are held at their kinks, where every step sends them back over, and the kernel
that acts is the smaller one on the slide: it gives the rate of small networks (n = 20, m = 100) to
2 %, and at this size a part of what is missing. Wider networks close the gap (try `--width 8000
--eta 3e-5`). On the authors' 600 images 2 eta lambda_max / n is 3.9 at the start: the initial
kernel's prediction explodes, the network is thrown to where its kernel is stable, and that kernel
predicts most of what follows. Changed by default: 50 digits of 8 x 8 pixels instead of 600 MNIST
images (fewer images than pixels, as there), m = 500, a step that keeps eta lambda_max comparable,
fewer epochs, two seeds for one.
"""

from dataclasses import dataclass

from ntk_momentum.experiments import _published as published
from ntk_momentum.experiments import _published_figures as figures

import ntk_momentum as nm
from ntk_momentum.study import plotting

ORDER = 91
CAPTION = """Mean squared error under the heavy ball, median and range over seeds: solid the run,
dashed the prediction of its own initial kernel, dash-dotted, where that leaves the frame, that of
its kernel after a tenth of the steps, without a fit. Right: decades per 1000 steps; dotted: the
companion-matrix rate of the smallest eigenvalue."""


@dataclass(frozen=True)
class Config(published.Epochs):
    betas: tuple[float, ...] = (0.0, 0.2, 0.5, 0.8)


SIZES = {size: Config(**options) for size, options in published.EPOCHS.items()}


def run(config, progress):
    return published.against_epoch(
        lambda eta: {f"beta = {b:g}": nm.heavy_ball(eta, b) for b in config.betas}, config, progress
    )


def methods(ds):
    """The algorithms at eta = 1."""
    return [nm.heavy_ball(1.0, float(name.split()[-1])) for name in ds.algorithm.values]


def headline(ds):
    limits = map(nm.stability_limit, methods(ds))
    return published.against_limit(ds, limits) | published.end_slopes(ds, methods(ds))


@plotting.house_style
def plot(ds):
    tones = plotting.shades(plotting.COLORS["heavy_ball"], ds.sizes["algorithm"])
    return figures.decades(
        ds, tones, published.decades, published.companion(ds, "paper", methods(ds))
    )

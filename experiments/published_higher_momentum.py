"""Published: higher momentum, a second memory adds up with the first

The authors' last figure: w_{k+1} - w_k = beta1 (w_k - w_{k-1}) + beta2 (w_{k-1} - w_{k-2}) - eta
grad L, log MSE against the step. For an eigenvalue with x = 2 eta lambda / n small, both momenta
act through their sum: the loss falls per step like (1 - x/(1 - beta1 - beta2))^2, so (0.2, 0.5)
trains like the heavy ball with beta = 0.7. That heavy ball is drawn beside it, and so is the
initial kernel's prediction, without a fit, in the authors' and in the paper's scaling. Changed by
default: 50 digits of 8 x 8 pixels for 600 MNIST images, m = 500, fewer epochs, two seeds for one.
"""

from dataclasses import dataclass

from ntk_momentum.experiments import _published as published
from ntk_momentum.experiments import _published_figures as figures

import ntk_momentum as nm
from ntk_momentum.study import plotting

ORDER = 104
CAPTION = """Mean squared error under multi-step momentum (beta1, beta2), median and range over
seeds: solid the run, dashed the prediction of its own initial kernel, dash-dotted, where that
leaves the frame, that of its kernel after a tenth of the steps, without a fit. In the colour of the
text: the heavy ball whose beta is the last pair's sum. Right: decades per 1000 steps; dotted: the
rate of the smallest eigenvalue from its 3 x 3 companion matrix."""


@dataclass(frozen=True)
class Config(published.Epochs):
    # (beta1, beta2), each in turn
    pairs: tuple[tuple[float, float], ...] = (
        (0.0, 0.0),
        (0.2, 0.0),
        (0.2, 0.2),
        (0.2, 0.5),
        (0.7, 0.0),
    )


SIZES = {size: Config(**options) for size, options in published.EPOCHS.items()}


def run(config, progress):
    methods = lambda eta: {
        f"({b1:g}, {b2:g})": nm.multi_step_momentum(eta, b1, b2) for b1, b2 in config.pairs
    }
    return published.against_epoch(methods, config, progress)


def methods(ds):
    """The algorithms at eta = 1."""
    pairs = [name.strip("()").split(",") for name in ds.algorithm.values]
    return [nm.multi_step_momentum(1.0, float(beta1), float(beta2)) for beta1, beta2 in pairs]


def headline(ds):
    limits = map(nm.stability_limit, methods(ds))
    return published.against_limit(ds, limits) | published.end_slopes(ds, methods(ds))


@plotting.house_style
def plot(ds):
    tones = [
        *plotting.shades(plotting.COLORS["heavy_ball"], ds.sizes["algorithm"] - 1),
        plotting.THEORY,
    ]
    return figures.decades(
        ds, tones, published.decades, published.companion(ds, "paper", methods(ds))
    )

"""Published: Nesterov against the width, best at a moderate one

The authors' fourth and fifth figures, one run and the mean of ten seeds: the loss after a fixed
number of steps has its minimum at a moderate width. Their kernel grows like m, and Nesterov's limit
of stability, 2 (1 + beta)/(1 + 2 beta) of eta lambda_max, falls from 2 to 4/3 as its momentum k/(k
+ d) grows: the best width is near the one where the initial kernel meets it. On the authors' images
that holds for d = 2; for d = 10, whose momentum is still small in the first steps, the best width
lies beyond it, as without momentum: the network is thrown to where its kernel is smaller and trains
on from there. What the kernel and the velocity after thirty steps foretell (dash-dotted) puts the
best width of every d where it is, on digits. In the paper's scaling, m^(-1/2), the kernel does not
grow and wider runs come closer to what their kernel predicts. Changed by default: 50 digits, widths
500 to 3000, epoch 100, a step that puts the limit among these widths.
"""

from dataclasses import dataclass, replace

from ntk_momentum.experiments import _published as published
from ntk_momentum.experiments import _published_figures as figures

import ntk_momentum as nm
from ntk_momentum.study import plotting

ORDER = 103
CAPTION = """Left: mean squared error after a fixed number of steps, median and range over seeds,
and dash-dotted what the kernel and the velocity after the first steps foretell. Middle: the largest
eigenvalue of the kernel in units of the step, at the start (dots) and at the end (crosses), and the
limit of stability at the momentum of the last step, dashed; the widths where the start meets it are
dotted on the left. Right: the paper's parametrisation (the middle d), the loss over the prediction
of the network's own kernel."""


@dataclass(frozen=True)
class Config(published.Widths):
    ds: tuple[float, ...] = (2.0, 4.0, 10.0)


SIZES = {size: Config(**options) for size, options in published.WIDTHS.items()}
SIZES["full"] = replace(SIZES["full"], widths=tuple(range(1000, 8001, 1000)))


def run(config, progress):
    methods = {f"d = {d:g}": nm.nesterov_torch(config.eta, d) for d in config.ds}
    plain = nm.nesterov_torch(1.0, config.ds[len(config.ds) // 2])
    return published.against_width(
        published.images(config.n, config.data), methods, plain, config, progress
    )


def limits(ds):
    """2 (1 + beta)/(1 + 2 beta) at the last momentum beta."""
    epoch = ds.attrs["epoch"]
    return [published.nesterov_limit(epoch, float(d.split()[-1])) for d in ds.algorithm.values]


def headline(ds):
    return published.best_widths(ds, limits(ds))


@plotting.house_style
def plot(ds):
    own = plotting.COLORS["nesterov"]
    colors = plotting.shades(own, ds.sizes["algorithm"])
    return figures.widths(ds, limits(ds), colors, own)

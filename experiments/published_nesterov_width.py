"""Published: Nesterov against the width, best at a moderate one

The authors' fourth and fifth figures, one run and the mean of ten seeds: the loss after a fixed number of steps has its minimum at a
moderate width. Their kernel grows like m, and Nesterov's limit of stability, 2 (1 + beta)/(1 + 2 beta) of eta lambda_max,
falls from 2 to 4/3 as its momentum k/(k + d) grows: the best width is near the one where the initial kernel meets it, for
every d. In the paper's scaling, m^(-1/2), the kernel does not grow and wider runs come closer to what their kernel
predicts. Changed by default: 50 digits, widths 500 to 3000, epoch 100, a step that puts the limit among these widths.
"""

from dataclasses import dataclass

import numpy as np

import ntk_momentum as nm
from ntk_momentum import plotting, published

ORDER = 103
CAPTION = """Left: mean squared error after a fixed number of steps, median and range over seeds. Middle: the largest
eigenvalue of the initial kernel in units of the step, and the limit of stability at the momentum of the last step,
dashed; the widths where they meet are dotted on the left. Right: the paper's parametrisation (the middle d), the loss over
the prediction of the network's own kernel."""


@dataclass(frozen=True)
class Config:
    n: int = 50
    widths: tuple[int, ...] = (500, 1000, 1500, 2000, 3000)
    seeds: int = 2
    epoch: int = 100
    eta: float = 4e-4
    eta_paper: float = 0.05  # of the paper's parametrisation, whose kernel does not grow with m
    ds: tuple[float, ...] = (2.0, 4.0, 10.0)
    mnist: str = ""  # the folder with MNIST's files; else scikit-learn's digits


SIZES = {
    "smoke": Config(n=20, widths=(100, 400), seeds=1, epoch=20, ds=(4.0,)),
    "default": Config(),
    "full": Config(n=600, widths=tuple(range(1000, 8001, 1000)), seeds=10, epoch=200, eta=5e-5),
}


def run(config, progress):
    methods = {f"d = {d:g}": nm.nesterov_torch(config.eta, d) for d in config.ds}
    plain = nm.nesterov_torch(config.eta_paper, config.ds[len(config.ds) // 2])
    return published.against_width(published.images(config.n, config.mnist), methods, plain, config, progress)


def limits(ds):
    """2 (1 + beta)/(1 + 2 beta) at the last momentum beta."""
    last = [(ds.attrs["epoch"] - 1) / (ds.attrs["epoch"] - 1 + float(name.split()[-1])) for name in ds.algorithm.values]
    return [2 * (1 + beta) / (1 + 2 * beta) for beta in last]


def headline(ds):
    best = {name: int(one.width[np.argmin(one.median("seed").values)]) for name, one in zip(ds.algorithm.values, ds.mse, strict=True)}
    meets = [published.crossing(ds.width, ds.stiffness.median("seed"), limit) for limit in limits(ds)]
    return {
        **{
            f"best width, {name} (eta lambda_max meets the limit at)": f"{best[name]} ({width:.0f})"
            for name, width in zip(best, meets, strict=True)
        },
        "paper's scaling, run / prediction, narrowest and widest": ", ".join(f"{v:.3f}" for v in ds.ratio.median("seed").values[[0, -1]]),
    }


@plotting.house_style
def plot(ds):
    return plotting.published_widths(ds, limits(ds), plotting.COLORS["nesterov"])

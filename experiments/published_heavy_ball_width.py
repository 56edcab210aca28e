"""Published: the heavy ball against the width, a U whose right arm is the step's limit of stability

The authors' second figure: the loss after a fixed number of steps falls with the width and rises again. Their network
has scale 1, so its kernel grows like m and the effective step eta lambda_max with it: wider is faster until eta
lambda_max of the initial kernel meets the limit 2 (1 + beta), beyond which the first steps throw the network away from
its initialisation before its kernel shrinks. In the paper's scaling, m^(-1/2), the kernel does not grow: there is no right arm,
and wider runs come closer to what their kernel predicts. Changed by default: 50 digits, widths 500 to 3000, epoch 100, a
step that puts the limit among these widths; two seeds for the authors' one run.
"""

from dataclasses import dataclass

import numpy as np

import ntk_momentum as nm
from ntk_momentum import plotting, published

ORDER = 101
CAPTION = """Left: mean squared error after a fixed number of steps, median and range over seeds. Middle: the largest
eigenvalue of the initial kernel in units of the step, and each momentum's limit of stability, dashed; the widths where
they meet are dotted on the left. Right: the paper's parametrisation (beta of the middle curve), the loss over the prediction of
the network's own kernel."""


@dataclass(frozen=True)
class Config:
    n: int = 50
    widths: tuple[int, ...] = (500, 1000, 1500, 2000, 3000)
    seeds: int = 2
    epoch: int = 100
    eta: float = 4e-4
    eta_paper: float = 0.05  # of the paper's parametrisation, whose kernel does not grow with m
    betas: tuple[float, ...] = (0.0, 0.6, 0.9)
    mnist: str = ""  # the folder with MNIST's files; else scikit-learn's digits


SIZES = {
    "smoke": Config(n=20, widths=(100, 400), seeds=1, epoch=20, betas=(0.6,)),
    "default": Config(),
    "full": Config(n=600, widths=tuple(range(2000, 8001, 500)), seeds=10, epoch=200, eta=5e-5),
}


def run(config, progress):
    methods = {f"beta = {beta:g}": nm.heavy_ball(config.eta, beta) for beta in config.betas}
    plain = nm.heavy_ball(config.eta_paper, config.betas[len(config.betas) // 2])
    return published.against_width(published.images(config.n, config.mnist), methods, plain, config, progress)


def limits(ds):
    """2 (1 + beta)."""
    return [2 * (1 + float(name.split()[-1])) for name in ds.algorithm.values]


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
    return plotting.published_widths(ds, limits(ds), plotting.COLORS["heavy_ball"])

"""The smallest eigenvalue along training: bounded below once the network is wide

Every proof runs on lambda_min(H(t)) >= lambda_0 / 2 for all t (Lemmas 4 and 5 at initialisation and
nearby). On images a narrow network starts below lambda_0 and sinks under lambda_0 / 2 while it
trains; a wide one starts at lambda_0 and stays. The kernel is (2.8), evaluated along the heavy ball
(3.2) with b = sqrt(2 lambda_0); gradient flow moves the network less.
"""

from dataclasses import dataclass

import numpy as np
from ntk_momentum.experiments._unit import unit_data

import ntk_momentum as nm
from ntk_momentum.study import plotting
from ntk_momentum.theory import bounds

ORDER = 40
CAPTION = """Smallest eigenvalue of the kernel H(t), median and range over seeds, fuller in colour
for wider networks. Lines: that of the limit kernel, lambda_0, and the half of it that the theorems
need."""

READOUTS = (
    "f",
    "loss",
    "lambda_min",
    "displacement",
    "kernel_drift",
    "flips",
)  # one set in three experiments: programs compile once


@dataclass(frozen=True)
class Config:
    data: str = "digits"
    n: int = 50
    widths: tuple[int, ...] = (128, 1024, 8192)
    seeds: int = 3
    horizon: float = 6.0  # in units of 1/sqrt(lambda_0)
    times: int = 41
    tol: float = 1e-3


SIZES = {
    "smoke": Config(n=20, widths=(512,), seeds=2, times=9),
    "default": Config(),
    "full": Config(n=200, widths=(1024, 8192, 65536), seeds=10, times=81, tol=1e-4),
}


def run(config, progress):
    data = unit_data(config.data, config.n)
    lam0 = float(np.linalg.eigvalsh(nm.infinite_ntk(data.X))[0])
    flow = nm.HeavyBall(float(bounds.paper_friction(lam0)))
    ts = config.horizon / np.sqrt(lam0) * np.linspace(0, 1, config.times)
    runs = nm.ensemble(
        data,
        flow,
        config.widths,
        config.seeds,
        ts,
        readouts=READOUTS,
        config=nm.Numerics(tol=config.tol),
        progress=progress,
    )
    return (
        runs.to_xarray()
        .isel(flow=0)[["lambda_min", "loss", "verdict", "accepted", "rejected"]]
        .assign_attrs(lambda_0=lam0, n=data.n)
    )


def headline(ds):
    lowest = ds.lambda_min.min("step").median("seed") / ds.attrs["lambda_0"]
    return {
        "min over t of lambda_min(H(t)) / lambda_0 (theorems: >= 0.5 once wide)": ", ".join(
            f"{float(v):.2f} at m = {int(v.width)}" for v in lowest
        )
    }


@plotting.house_style
def plot(ds):
    figure, axes = plotting.panels(1, 1, height=3.4, width=5.6)
    kind, lam0 = plotting.flow_kind(str(ds.flow.values)), ds.attrs["lambda_0"]
    for width, color in zip(
        ds.width.values, plotting.shades(plotting.COLORS[kind], ds.sizes["width"]), strict=True
    ):
        plotting.band(
            axes, ds.time, ds.lambda_min.sel(width=width), color=color, label=f"$m = {width}$"
        )
    for height, line, text in ((lam0, "-", r"$\lambda_0$"), (lam0 / 2, "--", r"$\lambda_0/2$")):
        axes.axhline(height, color=plotting.THEORY, linewidth=1, linestyle=line)
        axes.annotate(
            text,
            (1, height),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set(
        title=f"{plotting.FLOW_NAMES[kind]}, n = {ds.attrs['n']} digits",
        xlabel=plotting.TIME_LABELS[kind],
        ylim=(0, 1.35 * lam0),
    )
    axes.set_ylabel(r"smallest eigenvalue $\lambda_{\min}(H(t))$")
    axes.legend(loc="upper center", ncols=ds.sizes["width"])
    return figure

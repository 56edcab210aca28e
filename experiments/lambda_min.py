"""The smallest eigenvalue along training: bounded below once the network is wide

Every proof runs on lambda_min(H(t)) >= lambda_0 / 2 for all t (Lemmas 4 and 5 at initialisation and nearby). On images a narrow network starts below lambda_0 and
sinks under lambda_0 / 2 while it trains; a wide one starts at lambda_0 and stays. The kernel is that of (2.8), measured, under the heavy ball (3.2) with b = sqrt(2 lambda_0)
and under gradient flow (2.2).
"""

from dataclasses import dataclass

import jax
import numpy as np

import ntk_momentum as nm
from ntk_momentum import plotting
from ntk_momentum.solver import LazyExponential
from ntk_momentum.theory import bounds

ORDER = 40
CAPTION = """Smallest eigenvalue of the kernel H(t), median and range over seeds, darker for wider networks. Lines: that of the limit kernel, lambda_0, and
the half of it that the theorems need."""


@dataclass(frozen=True)
class Config:
    n: int = 50
    widths: tuple[int, ...] = (256, 2048, 16384)
    seeds: int = 4
    horizon: float = 2.0  # in units of 1/lambda_0 for gradient flow, 3/sqrt(lambda_0) for momentum
    times: int = 41
    tol: float = 1e-5  # of the lazy exponential integrator


SIZES = {
    "smoke": Config(n=20, widths=(512,), seeds=2, times=11),
    "default": Config(),
    "full": Config(n=200, widths=(1024, 8192, 65536), seeds=10, times=81, tol=1e-6),
}


def run(config, progress):
    data = nm.load_digits(config.n, key=jax.random.key(0))
    lam0 = float(np.linalg.eigvalsh(nm.infinite_ntk(data.X))[0])
    flows = [nm.GradientFlow(), nm.HeavyBall(float(bounds.paper_friction(lam0)))]
    ends = config.horizon * np.array([1 / lam0, 3 / np.sqrt(lam0)])
    ts = ends[:, None] * np.linspace(0, 1, config.times)[None]
    readouts, numerics = ("loss", "lambda_min"), nm.Numerics(tol=config.tol)
    runs = nm.ensemble(
        data, flows, config.widths, config.seeds, ts, readouts=readouts, solver=LazyExponential(), config=numerics, progress=progress
    )
    return runs.to_xarray().assign_attrs(lambda_0=lam0)


def headline(ds):
    lowest = (ds.lambda_min.min("step").median("seed") / ds.attrs["lambda_0"]).min("flow")
    return {"min over t of lambda_min(H(t)) / lambda_0 (theorems: >= 0.5)": ", ".join(f"{float(v):.2f} at m = {int(v.width)}" for v in lowest)}


@plotting.house_style
def plot(ds):
    figure, row = plotting.panels(1, ds.sizes["flow"], height=3.0, sharey=True)
    for axes, flow in zip(row, ds.flow.values, strict=True):
        one, kind = ds.sel(flow=flow), plotting.flow_kind(flow)
        for width, color in zip(ds.width.values, plotting.shades(plotting.COLORS[kind], ds.sizes["width"]), strict=True):
            plotting.band(axes, one.time, one.lambda_min.sel(width=width), color=color, label=f"$m = {width}$")
        for level, text in ((1.0, r"$\lambda_0$"), (0.5, r"$\lambda_0/2$")):
            height = level * ds.attrs["lambda_0"]
            axes.axhline(height, color=plotting.THEORY, linewidth=1, linestyle="-" if level == 1 else "--")
            axes.annotate(text, (1, height), xycoords=("axes fraction", "data"), xytext=(-2, 3), textcoords="offset points", ha="right")
        axes.set(title=plotting.FLOW_NAMES[kind], xlabel=plotting.TIME_LABELS[kind], ylim=(0, 1.35 * ds.attrs["lambda_0"]))
        axes.legend(loc="upper center", ncols=ds.sizes["width"])
    row[0].set_ylabel(r"smallest eigenvalue $\lambda_{\min}(H(t))$")
    return figure

"""Nesterov's constant from 0.5 to 12: the loss falls like t^(-d) for every d

Theorem 3 proves t^(-2d/3) and leaves out small d; the published discussion doubts d < 3. For a
constant kernel the loss of (4.2) falls like t^(-d) with a known constant, for every d > 0, and so
it does on wide networks. A larger d pays at the start, where the friction d/t is large, and wins at
the end; a given accuracy has its best d.
"""

from dataclasses import dataclass

import jax
import numpy as np

import ntk_momentum as nm
from ntk_momentum.study import plotting

ORDER = 111
CAPTION = """Left: energy |f'|^2/2 + pseudo-loss of wide networks under Nesterov's flow (solid,
median and range over seeds), fuller in colour for larger d; dashed: the limit kernel's closed form.
Right: the fitted power of t over the last half decade, against the sharp law -d (solid) and the
theorem's -2d/3 (dashed)."""


@dataclass(frozen=True)
class Config:
    n: int = 10
    p: int = 20
    width: int = 4096
    seeds: int = 3
    ds: tuple[float, ...] = (0.5, 1.0, 2.0, 3.0, 4.5, 6.0, 9.0, 12.0)
    horizon: float = 60.0  # in units of 1/sqrt(lambda_0)
    times: int = 81
    tol: float = 1e-4


SIZES = {
    "smoke": Config(width=256, seeds=2, ds=(1.0, 3.0), horizon=20.0, times=41),
    "default": Config(),
    "full": Config(n=50, p=100, width=65536, seeds=10, horizon=200.0, times=321),
}


def run(config, progress):
    data = nm.sphere(config.n, config.p, key=jax.random.key(0))
    limit = nm.infinite_ntk(data.X)
    lam0 = float(np.linalg.eigvalsh(limit)[0])
    flows = [nm.Nesterov(d) for d in config.ds]
    ts = np.geomspace(1.0, config.horizon, config.times) / np.sqrt(lam0)
    runs = nm.ensemble(
        data,
        flows,
        [config.width],
        config.seeds,
        ts,
        antisymmetric=True,
        readouts={"energy": energy},
        config=nm.Numerics(tol=config.tol),
        progress=progress,
    )
    ds = runs.to_xarray().isel(width=0)
    theory = [nm.predict(limit, -data.y, flow, ts) for flow in flows]
    ds["predicted"] = (
        ("flow", "step"),
        [np.asarray(0.5 * (one.velocity**2).sum(1) + one.pseudo_loss) for one in theory],
    )
    return (
        ds[["energy", "predicted", "verdict"]]
        .assign_coords(d=("flow", list(config.ds)))
        .assign_attrs(lambda_0=lam0, width=config.width)
    )


def energy(s):
    """|f'|^2/2 + the pseudo-loss: falls like the loss, without its zeros."""
    return 0.5 * (s.velocity**2).sum() + 0.5 * s.residual @ (s.kernel @ s.residual)


def fits(ds, which="energy"):
    """(slope, half width of its interval) by d."""
    late = np.flatnonzero(ds.time[0] >= float(ds.time[0, -1]) / 4)
    samples = [np.atleast_2d(ds[which].isel(flow=i, step=late)) for i in range(ds.sizes["flow"])]
    return np.array([plotting.power_law(ds.time[0, late], one)[:2] for one in samples])


def headline(ds):
    return {
        f"power of t at d = {float(d):g}, network / limit kernel": (
            f"{plotting.with_interval(*fit)} / {theory[0]:.2f}"
        )
        for d, fit, theory in zip(ds.d.values, fits(ds), fits(ds, "predicted"), strict=True)
    }


@plotting.house_style
def plot(ds):
    figure, (left, right) = plotting.panels(1, 2, height=3.5)
    for i, color in enumerate(plotting.shades(plotting.COLORS["nesterov"], ds.sizes["flow"])):
        one = ds.isel(flow=i)
        time = np.sqrt(ds.attrs["lambda_0"]) * one.time
        plotting.band(
            left,
            time,
            one.energy.transpose("seed", "step"),
            color=color,
            label=f"$d = {float(one.d):g}$",
        )
        left.plot(time, one.predicted, color=plotting.THEORY, linestyle="--", linewidth=0.8)
    left.set(
        xscale="log",
        yscale="log",
        xlabel=r"time $\sqrt{\lambda_0}\,t$",
        title=f"energy, m = {ds.attrs['width']}",
    )
    left.legend(ncols=2, loc="lower left")
    d, fitted = ds.d.values, fits(ds)
    half = np.nan_to_num(fitted[:, 1])
    right.errorbar(
        d,
        -fitted[:, 0],
        yerr=half,
        color=plotting.COLORS["nesterov"],
        marker="o",
        linestyle="none",
        label="network",
    )
    line = np.array([0, 1.05 * d.max()])
    right.plot(line, line, color=plotting.THEORY, linewidth=1, label="$t^{-d}$, constant kernel")
    right.plot(
        line,
        2 * line / 3,
        color=plotting.THEORY,
        linestyle="--",
        linewidth=1,
        label="$t^{-2d/3}$, Theorem 3",
    )
    right.set(xlabel="$d$", ylabel="fitted power of $1/t$", title="decay exponent")
    right.legend(loc="upper left")
    return figure

"""The finite-width story in one picture: impulses, flips, drift and the certificate against the
width

(A.1) drops the kinks "almost surely", but neurons do cross w_r . x_i = 0. Exactly, f'' + b f' +
H(t)(f - y) is a sum of impulses, each of order 1/m; about sqrt(m) neurons cross, so the impulses
add up to m^(-1/2), and the kernel drifts by m^(-3/4) to m^(-1/2). Both vanish, but slowly: a run
carries a certificate, a proven rate of its own, once the mean of eps(t) = ||(H(t) - H_ref)
H_ref^(-1/2)|| is below b/2, or a sharper quadratic form decays (judge.certificate). A network
trains well before that.
"""

from dataclasses import dataclass

import jax
import numpy as np
import xarray

import ntk_momentum as nm
from ntk_momentum.judge import CERTIFICATE_READOUTS
from ntk_momentum.study import plotting

ORDER = 112
CAPTION = """Heavy ball at b = 2 sqrt(lambda_0): what the kinks do, against the width, median and
range over seeds; lines: fitted powers, dashed: those of the theory. Last: the exponent of L that
each run's certificate proves, over b = 2 sqrt(lambda_0), the exponent of the frozen limit kernel;
reference H(0) or H infinity. At zero and below nothing is certified."""
MEASURES = {
    "impulses": ("impulses", r"$\sup_t |\sum J|$", -0.5),
    "flips": ("pairs that changed sign", r"neurons $\times$ samples", 0.5),
    "drift": ("kernel drift", r"$\sup_t \|H(t) - H(0)\|_2$", -0.5),
}


@dataclass(frozen=True)
class Config:
    n: int = 12
    p: int = 24
    widths: tuple[int, ...] = (16, 64, 256, 1024, 4096, 16384, 65536)
    seeds: int = 3
    horizon: float = 5.0  # in units of 1/sqrt(lambda_0)
    times: int = 31
    tol: float = 1e-3


SIZES = {
    "smoke": Config(widths=(128, 1024), seeds=1, times=13),
    "default": Config(),
    "full": Config(
        n=50, p=100, widths=tuple(4**k for k in range(4, 11)), seeds=10, times=81, tol=1e-4
    ),
}


def run(config, progress):
    data = nm.sphere(config.n, config.p, key=jax.random.key(0))
    lam0 = float(np.linalg.eigvalsh(nm.infinite_ntk(data.X))[0])
    flow, ts = (
        nm.HeavyBall(2 * lam0**0.5),
        config.horizon / lam0**0.5 * np.linspace(0, 1, config.times),
    )
    readouts = {
        **CERTIFICATE_READOUTS,
        "jumps": "impulses",
        "flips": "flips",
        "drift": "kernel_drift",
    }
    shape = (len(config.widths), config.seeds)
    found = {name: np.empty(shape) for name in (*MEASURES, "initial", "infinite")}
    for i, width in enumerate(config.widths):
        for k in range(config.seeds):
            net = nm.init_two_layer(width, config.p, key=jax.random.key(k), antisymmetric=True)
            one = nm.simulate(
                net, data, flow, ts, readouts=readouts, config=nm.Numerics(tol=config.tol)
            )
            found["impulses"][i, k] = np.linalg.norm(one.jumps, axis=1).max()
            found["flips"][i, k] = one.flips[-1]
            found["drift"][i, k] = one.drift.max()
            for reference in ("initial", "infinite"):
                found[reference][i, k] = nm.certify(one, reference=reference).rate
            progress(i * config.seeds + k + 1, found["drift"].size)
    variables = {name: (("width", "seed"), values) for name, values in found.items()}
    return xarray.Dataset(
        variables,
        coords={"width": list(config.widths)},
        attrs={"lambda_0": lam0, "b": 2 * lam0**0.5},
    )


def headline(ds):
    slopes = {
        f"slope of {what} in m (expected {expected:+})": plotting.with_interval(
            *plotting.power_law(ds.width, ds[name].T)[:2]
        )
        for name, (what, _, expected) in MEASURES.items()
    }
    for reference in ("initial", "infinite"):
        rates = (ds[reference] / ds.attrs["b"]).median("seed")
        slopes[f"certified exponent / b, reference {reference}"] = ", ".join(
            f"{float(r):.2f} at m = {int(r.width)}" for r in rates
        )
    return slopes


@plotting.house_style
def plot(ds):
    figure, grid = plotting.panels(2, 2)
    row = grid.ravel()
    color = plotting.COLORS["heavy_ball"]
    for axes, (name, (title, label, power)) in zip(row, MEASURES.items(), strict=False):
        slope, half, prefactor = plotting.power_law(ds.width, ds[name].T)
        plotting.band(
            axes, ds.width, ds[name].T, color=color, points=True, label=plotting.power(slope, half)
        )
        axes.plot(ds.width, prefactor * ds.width**slope, color=color, linewidth=1)
        guide = 0.6 * float(ds[name].median("seed")[0]) * (ds.width / ds.width[0]) ** power
        axes.plot(
            ds.width,
            guide,
            color=plotting.MUTED,
            linestyle="--",
            linewidth=1,
            label=f"$m^{{{power}}}$",
        )
        axes.set(title=title, ylabel=label, yscale="log")
    for reference, tone in (("initial", color), ("infinite", plotting.THEORY)):
        name = {"initial": "$H(0)$", "infinite": r"$H^\infty$"}[reference]
        plotting.band(
            row[3],
            ds.width,
            ds[reference].T / ds.attrs["b"],
            color=tone,
            label=f"reference {name}",
            marker="o",
        )
    row[3].axhline(1, color=plotting.THEORY, linestyle="--", linewidth=1)
    row[3].axhline(0, color=plotting.MUTED, linewidth=0.8)
    row[3].set(title="certified exponent", ylabel=r"over $b = 2\sqrt{\lambda_0}$", ylim=(-0.5, 1.1))
    for axes in row:
        axes.set(xscale="log", xlabel="width $m$")
        plotting.power_ticks(axes.xaxis, plotting.few(ds.width.values))
        axes.legend(loc="best", handlelength=1.4)
    return figure

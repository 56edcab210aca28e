"""How narrow a network can be certified: the rate that a run proves of itself, against its width

The widths of the theorems, n^6/(lambda_0^4 delta^3) with their constants, are beyond any machine on
fifty digits. A single run can be certified by the Lyapunov function on a fixed reference kernel
(Lemma 2 of docs/theorems.md), its kernel's path and its impulses included. What it certifies grows
with the width from the first one at which the kernel and the impulses move little enough. The
kernel at the start, or its mean over the run, is a better reference than the limit kernel, whose
distance from H(0) falls only like m^{-1/2} and is paid for at all times. Of Nesterov's flow, which
has no rate to pay with, a power of 1/t is certified by a reference that follows the kernel (Theorem
14 there).
"""

from dataclasses import dataclass

import jax
import numpy as np
import xarray

import ntk_momentum as nm
from ntk_momentum.study import plotting
from ntk_momentum.theory import bounds

ORDER = 121
REFERENCES = ("initial", "mean", "infinite")
D = 3.0
CAPTION = """Exponent of L that a heavy ball at b = 2 sqrt(lambda_0) certifies of its own run, over
sqrt(lambda_0), by the reference kernel behind the certificate; 0 where none is issued. A constant
kernel has 2, the paper promises 0.71. Dotted: what the mean reference certifies at the friction
that suits this kernel's motion best. Right: the power of 1/t that Nesterov's flow certifies of its
own run, d = 3; a constant kernel has 3."""


@dataclass(frozen=True)
class Config:
    ns: tuple[int, ...] = (20, 50)  # numbers of samples, on the sphere
    widths: tuple[int, ...] = (1024, 2048, 4096, 8192, 16384)
    horizon: float = 12.0  # in units of 1/sqrt(lambda_0)
    times: int = 241
    until: float = 60.0  # of Nesterov's flow, in the same units
    saves: int = 961  # of it
    tol: float = 1e-3


SIZES = {
    "smoke": Config(ns=(8,), widths=(512, 2048), horizon=6.0, times=61, until=30.0, saves=241),
    "default": Config(),
    "full": Config(ns=(50, 200), widths=(2048, 4096, 8192, 16384, 32768, 65536)),
}


def run(config, progress):
    shape = (len(config.ns), len(config.widths), len(REFERENCES))
    rate, best, scale = np.zeros(shape), np.zeros(shape), np.zeros(len(config.ns))
    power = np.zeros(shape[:2])
    for i, n in enumerate(config.ns):
        data = nm.load_digits(n, key=jax.random.key(0))
        lam0 = float(np.linalg.eigvalsh(nm.infinite_ntk(data.X))[0])
        scale[i] = lam0
        ts = config.horizon / np.sqrt(lam0) * np.linspace(0, 1, config.times)
        for j, width in enumerate(config.widths):
            net = nm.init_two_layer(
                width, data.input_size, key=jax.random.key(1), antisymmetric=True
            )
            options = {
                "readouts": nm.judge.CERTIFICATE_READOUTS,
                "config": nm.Numerics(tol=config.tol),
            }
            seen = nm.simulate(net, data, nm.HeavyBall(2 * np.sqrt(lam0)), ts, **options)
            late = config.until / np.sqrt(lam0) * np.linspace(0, 1, config.saves)
            found = nm.certify(nm.simulate(net, data, nm.Nesterov(D), late, **options))
            power[i, j] = found.rate if found.issued else 0.0
            for k, reference in enumerate(REFERENCES):
                found = nm.certify(seen, reference)
                rate[i, j, k] = found.rate if found.issued else 0.0
                best[i, j, k] = max(found.best_rate, 0.0)
            progress(i * len(config.widths) + j + 1, len(config.ns) * len(config.widths))
    dims = ("n", "width", "reference")
    # what the proof asks for, with its constants, delta = 0.1 and |Delta(0)|^2 = n
    asked = [
        bounds.width_from_displacement(n, 0.1, lam0, np.sqrt(n))
        for n, lam0 in zip(config.ns, scale, strict=True)
    ]
    return xarray.Dataset(
        {
            "rate": (dims, rate),
            "best_rate": (dims, best),
            "power": (dims[:2], power),
            "lambda_0": ("n", scale),
            "asked": ("n", asked),
        },
        coords={"n": list(config.ns), "width": list(config.widths), "reference": list(REFERENCES)},
    )


def headline(ds):
    found = {}
    for n in ds.n.values:
        widths = {
            str(name): ds.width.values[ds.rate.sel(n=n, reference=name).values > 0]
            for name in ds.reference.values
        }
        found[f"narrowest certified width, {n} digits"] = ", ".join(
            f"{name} {widths[name].min() if widths[name].size else 'none'}" for name in widths
        )
        some = ds.width.values[ds.power.sel(n=n).values > 0]
        found[f"narrowest width at which a power is certified of Nesterov's flow, {n} digits"] = (
            f"{some.min() if some.size else 'none'}"
        )
        found[f"width of the proof, {n} digits"] = f"{float(ds.asked.sel(n=n)):.2g}"
    return found


@plotting.house_style
def plot(ds):
    figure, axes = plotting.panels(1, ds.sizes["n"] + 1, height=3.0, squeeze=False)
    for axis, n in zip(axes[0], ds.n.values, strict=False):
        root = float(np.sqrt(ds.lambda_0.sel(n=n)))
        for name, color in zip(ds.reference.values, plotting.CYCLE, strict=False):
            values = ds.rate.sel(n=n, reference=name) / root
            axis.plot(ds.width, values, "o-", color=color, label=str(name), markersize=4)
        axis.plot(
            ds.width,
            ds.best_rate.sel(n=n, reference="mean") / root,
            ":",
            color=plotting.THEORY,
            label="mean, best friction",
        )
        axis.set(title=f"{n} digits", xlabel="width $m$", xscale="log", ylim=(0, 2))
        axis.set_xticks(ds.width.values, [str(width) for width in ds.width.values])
        axis.minorticks_off()
        axis.legend()
    last = axes[0][-1]
    for n in ds.n.values:
        last.plot(ds.width, ds.power.sel(n=n), "o-", label=f"{n} digits", markersize=4)
    last.axhline(D, color=plotting.THEORY, ls=":", label="constant kernel")
    last.set_ylim(0, 1.1 * D)
    last.set(title="Nesterov", xlabel="width $m$", xscale="log", ylabel="certified power of $1/t$")
    last.set_xticks(ds.width.values, [str(width) for width in ds.width.values])
    last.minorticks_off()
    last.legend()
    axes[0][0].set_ylabel(r"certified exponent of $L$ / $\sqrt{\lambda_0}$")
    return figure

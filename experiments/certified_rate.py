"""How narrow a network can be certified: the rate that a run proves of itself, against its width

The widths of the theorems, n^6/(lambda_0^4 delta^3) with their constants, are beyond any machine on
twenty digits. A single run can be certified by the Lyapunov function on a fixed reference kernel
(Lemma 2 of docs/theorems.md), its kernel's path and its impulses included. What it certifies grows
with the width from the first one at which the kernel and the impulses move little enough: of the
exponent 2 sqrt(lambda_0) that a kernel at rest would have, a part is lost that falls like a power
of the width. The mean of the kernel over the run is the best reference, then the kernel at the
start; the limit kernel is the worst, since its distance from H(0) falls only like m^{-1/2} and is
paid for at all times. Of Nesterov's flow, which has no rate to pay with, a power of 1/t is
certified by a reference that follows the kernel (Theorem 14 there).

Saves lie at t = horizon (k/times)^2: what the kernel may do between them is paid for, and it moves
early.
"""

from dataclasses import dataclass, replace

import jax
import numpy as np
import xarray
from ntk_momentum.experiments._unit import unit_data

import ntk_momentum as nm
from ntk_momentum.study import plotting
from ntk_momentum.theory import bounds
from ntk_momentum.words import data_word

ORDER = 121
REFERENCES = ("mean", "initial", "infinite")
D, DELTA = 3.0, 0.1
CAPTION = """Left: exponent of L that a heavy ball at b = 2 sqrt(lambda_0) certifies of its own run
by its mean kernel, over sqrt(lambda_0), where a certificate is issued; dotted, what that reference
certifies at the friction that suits this kernel's motion best. A constant kernel has 2, the paper
promises 0.71. Middle: the power of 1/t that Nesterov's flow certifies of its own run, d = 3; a
constant kernel has 3. Right: widths. Dots: from which on the loss stays below Theorem 3's bound in
fact; triangles: at which a certificate is issued, open where no run was wide enough and its motion
was scaled like m^{-1/2}; squares: the width that the paper's argument asks for, with n^6."""


@dataclass(frozen=True)
class Config:
    data: tuple[str, ...] = ("digits",)  # data sets
    ns: tuple[int, ...] = (20, 50, 200)  # numbers of samples of each
    widths: tuple[int, ...] = (512, 2048, 8192)
    only_mean: bool = False  # of the three reference kernels
    horizon: float = 12.0  # in units of 1/sqrt(lambda_0)
    times: int = 181
    until: float = 60.0  # of Nesterov's flow, in the same units
    saves: int = 241  # of it, none: it is left out
    narrow: tuple[int, ...] = (4, 8, 16, 32, 64)  # where the bound begins to hold
    seeds: int = 3  # of these
    tol: float = 1e-3


SIZES = {
    "smoke": Config(
        ns=(8,), widths=(512,), horizon=6.0, times=61, until=30.0, saves=241, narrow=(16,), seeds=1
    ),
    "default": Config(),
    "full": Config(ns=(50, 200), widths=(128, 512, 2048, 8192, 32768), times=481, saves=961),
}


def run(config, progress):
    sets = [(name, n) for name in config.data for n in config.ns]
    references = REFERENCES[:1] if config.only_mean else REFERENCES
    shape = (len(sets), len(config.widths), len(references))
    rate, best, taken = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    power, taken_moving = np.full(shape[:2], np.nan), np.full(shape[:2], np.nan)
    lost = np.zeros(shape)
    scale, asked = np.zeros(len(sets)), np.zeros(len(sets))
    kicked = np.full(shape[:2], np.nan)
    met = np.zeros((len(sets), len(config.narrow)), bool)
    numerics = nm.Numerics(tol=config.tol)
    for i, (name, n) in enumerate(sets):
        data = unit_data(name, n)
        limit = np.asarray(nm.infinite_ntk(data.X))
        lam0 = scale[i] = float(np.linalg.eigvalsh(limit)[0])
        # where Proposition 10's displacement meets the radius of Lemma 5, and |Delta(0)| = |y|
        size = float(np.linalg.norm(data.y))
        asked[i] = bounds.width_from_displacement(n, DELTA, lam0, size)
        met[i] = _met(config, data, limit, lam0)
        ts = config.horizon / np.sqrt(lam0) * np.linspace(0, 1, config.times) ** 2
        late = config.until / np.sqrt(lam0) * np.linspace(0, 1, config.saves) ** 2
        for j, width in enumerate(config.widths):
            net = nm.init_two_layer(
                width, data.input_size, key=jax.random.key(1), antisymmetric=True
            )
            options = {"readouts": nm.judge.CERTIFICATE_READOUTS, "config": numerics}
            seen = nm.simulate(net, data, nm.HeavyBall(2 * np.sqrt(lam0)), ts, **options)
            for k, reference in enumerate(references):
                found = nm.certify(seen, reference)
                rate[i, j, k] = found.rate if found.issued else 0.0
                lost[i, j, k] = 2 - found.rates["lifted"] / np.sqrt(lam0)
                best[i, j, k] = max(found.best_rate, 0.0)
                taken[i, j, k] = min(found.widths.values())
                if reference == "mean" and found.issued:
                    without = nm.certify(_without_impulses(seen), "mean")
                    kicked[i, j] = found.bound[-1] / without.bound[-1]
            if config.saves:
                found = nm.certify(nm.simulate(net, data, nm.Nesterov(D), late, **options))
                power[i, j] = found.rate if found.issued else 0.0
                taken_moving[i, j] = found.widths["moving"]
            progress(i * len(config.widths) + j + 1, len(sets) * len(config.widths))
    dims = ("set", "width", "reference")
    return xarray.Dataset(
        {
            "rate": (dims, rate),
            "lost": (dims, lost),
            "best_rate": (dims, best),
            "taken": (dims, taken),
            "power": (dims[:2], power),
            "taken_moving": (dims[:2], taken_moving),
            "kicked": (dims[:2], kicked),
            "met": (("set", "narrow"), met),
            "lambda_0": ("set", scale),
            "asked": ("set", asked),
        },
        coords={
            "set": [f"{n} {data_word(name).kind}" for name, n in sets],
            "width": list(config.widths),
            "narrow": list(config.narrow),
            "reference": list(references),
        },
    )


def _without_impulses(seen):
    """What a run would have been seen to do whose neurons cross their kinks at rest."""
    readouts = dict(seen.readouts)
    for name in ("impulses", "impulse_spread"):
        readouts[name] = 0 * readouts[name]
    return replace(seen, readouts=readouts)


def _met(config, data, limit, lam0):
    """Whether L stays below Theorem 3's bound, every seed, at the narrow widths."""
    ts = config.horizon / np.sqrt(lam0) * np.linspace(0, 1, 61)
    y = np.asarray(data.y)
    bound = bounds.theorem_2_moving(ts, lam0, 0.5 * y @ limit @ y)
    flow = nm.HeavyBall(float(bounds.paper_friction(lam0)))
    runs = nm.ensemble(
        data,
        [flow],
        config.narrow,
        config.seeds,
        ts[None],
        readouts=("loss",),
        antisymmetric=True,
        config=nm.Numerics(tol=config.tol),
    )
    loss = np.asarray(runs.to_xarray().isel(flow=0).loss.transpose("width", "seed", "step"))
    return np.all(loss <= bound * (1 + 10 * config.tol), axis=(1, 2))


def _first(widths, holds):
    """The narrowest width from which on it holds, None where it does not at the widest."""
    lasting = np.flip(np.logical_and.accumulate(np.flip(holds)))
    return widths[lasting].min() if lasting.any() else None


def _certified(ds, name, reference=None):
    """(narrowest certified width, whether a run was that wide)."""
    one = ds.sel(set=name) if reference is None else ds.sel(set=name, reference=reference)
    found = _first(ds.width.values, (one.power if reference is None else one.rate).values > 0)
    if found is not None:
        return float(found), True
    return float((one.taken_moving if reference is None else one.taken).values[-1]), False


def _trend(ds, name):
    """(power of m with which the mean reference's lost exponent falls, width at which it is all of
    2 sqrt(lambda_0)): by least squares, from the widest on."""
    lost = ds.lost.sel(set=name, reference="mean").values
    if len(lost) < 2:
        return np.nan, np.nan
    slope = np.polyfit(np.log(ds.width.values), np.log(lost), 1)[0]
    return slope, float(ds.width[-1]) * (2 / lost[-1]) ** (1 / slope)


def headline(ds):
    found = {}
    for name in ds.set.values:
        words = {}
        for reference in (*ds.reference.values, None):
            width, run_ = _certified(ds, name, reference)
            if np.isnan(width):
                continue
            named = "Nesterov" if reference is None else str(reference)
            words[named] = f"{width:.0f}" if run_ else f"about {width:.2g}"
        found[f"narrowest certified width, {name}"] = ", ".join(
            f"{named} {width}" for named, width in words.items()
        )
        first = _first(ds.narrow.values, ds.met.sel(set=name).values)
        found[f"width from which on Theorem 3's bound holds in fact, {name}"] = str(
            first or f"above {ds.narrow.values[-1]}"
        )
        slope, wide = _trend(ds, name)
        if np.isfinite(slope):
            lost = float(ds.lost.sel(set=name, reference="mean")[-1])
            found[f"exponent lost to the motion, {name}"] = (
                f"{lost:.3g} of 2 (sqrt(lambda_0)) at {int(ds.width[-1])}, falling like "
                f"m^{slope:.2f}: all of it below m = {wide:.2g}"
            )
        ends = ds.kicked.sel(set=name).values
        if np.isfinite(ends).any():
            found[f"factor that the impulses add to the certified end, {name}"] = (
                f"{np.nanmin(ends):.2f} to {np.nanmax(ends):.2f}"
            )
        found[f"width of the paper's argument, {name}"] = f"{float(ds.asked.sel(set=name)):.2g}"
    return found


@plotting.house_style
def plot(ds):
    rows = len(ds.set)
    figure, axes = plotting.panels(1, 3, height=2.6 + 0.3 * rows, width=9.6)
    for name, color in zip(ds.set.values, plotting.CYCLE, strict=False):
        one = ds.sel(set=name)
        root, mean = float(np.sqrt(one.lambda_0)), one.sel(reference="mean")
        axes[0].plot(ds.width, mean.rate / root, "o-", color=color, label=name, markersize=4)
        axes[0].plot(ds.width, mean.best_rate / root, ":", color=color)
        axes[1].plot(ds.width, one.power, "o-", color=color, label=name, markersize=4)
    axes[0].set(title="heavy ball", ylabel=r"certified exponent / $\sqrt{\lambda_0}$", ylim=(0, 2))
    axes[1].set(title="Nesterov", ylabel="certified power of $1/t$", ylim=(0, 1.1 * D))
    axes[1].axhline(D, color=plotting.THEORY, ls=":")
    for axis in axes[:2]:
        axis.set(xlabel="width $m$", xscale="log")
        axis.set_xticks(ds.width.values, [str(width) for width in ds.width.values])
        axis.minorticks_off()
        axis.legend()
    _widths(axes[2], ds)
    return figure


def _widths(axis, ds):
    marks = {"Nesterov": (None, "^"), "mean": ("mean", "<"), "initial": ("initial", ">")}
    marks["infinite"] = ("infinite", "v")
    known = (None, *ds.reference.values)
    marks = {label: mark for label, mark in marks.items() if mark[0] in known}
    rows = np.arange(len(ds.set))[::-1].astype(float)
    for label, (reference, mark) in marks.items():
        color = plotting.CYCLE[list(marks).index(label)]
        shift = 0.12 * (1.5 - list(marks).index(label))  # equal widths lie apart
        for row, name in zip(rows, ds.set.values, strict=True):
            width, run_ = _certified(ds, name, reference)
            face = color if run_ else "none"
            named = label if row == rows[0] else None
            axis.plot(width, row + shift, mark, color=color, markerfacecolor=face, label=named)
    for row, name in zip(rows, ds.set.values, strict=True):
        first = _first(ds.narrow.values, ds.met.sel(set=name).values)
        if first is not None:
            named = "bound holds" if row == rows[0] else None
            axis.plot(first, row, "o", color=plotting.THEORY, label=named)
        named = "argument" if row == rows[0] else None
        axis.plot(ds.asked.sel(set=name), row, "s", color=plotting.THEORY, label=named)
    axis.set(title="which width?", xlabel="width $m$", xscale="log")
    axis.set_yticks(rows, ds.set.values)
    axis.set_xlim(1, 100 * float(ds.asked.max()))
    axis.set_ylim(-0.7, len(rows) + 1.3)
    axis.legend(ncols=2, fontsize="small", loc="upper left")

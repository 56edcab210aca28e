"""Per unit of work: square-root kappa is what momentum buys, and which method gets most of it

One step of every method costs one gradient. To the same accuracy gradient descent needs steps in
proportion to the condition number kappa, momentum in proportion to sqrt(kappa): the heavy ball
log(1/eps) sqrt(kappa)/2, triple momentum and NAG-SC sqrt(kappa), each with its best parameters.
Nesterov's k/(k + d) needs no parameter of the kernel; restarts give it the linear rate as well. The
low-resolution equation is the same for heavy ball and NAG-SC (friction 2 sqrt(mu)); the
high-resolution equations of Shi, Du, Jordan and Su tell them apart, and NAG-SC's follows its
iterates to second order.
"""

from dataclasses import dataclass

import jax
import numpy as np
import xarray

import ntk_momentum as nm
from ntk_momentum.judge.steps import steps_to
from ntk_momentum.study import plotting

ORDER = 113
CAPTION = """Left: gradient evaluations until the loss has fallen by the target factor on a kernel
with evenly spaced log eigenvalues, against its condition number; lines: log(target)/(2 log rate)
from each method's best rate; crosses: networks on digits, at their own kappa. Right: NAG-SC and the
heavy ball with the same parameters (points), the equation they share (dotted) and their
high-resolution equations (lines)."""


@dataclass(frozen=True)
class Config:
    eigenvalues: int = 32  # of each test problem
    kappas: tuple[float, ...] = (10.0, 100.0, 1000.0, 10000.0)  # condition numbers, each in turn
    target: float = 1e-8
    d: float = 3.0
    width: int = 2048
    digits: tuple[int, ...] = (10,)  # numbers of digits, as real problems
    flow_kappa: float = 100.0  # condition number where flows are drawn
    flow_steps: int = 80  # steps of that drawing


SIZES = {
    "smoke": Config(eigenvalues=16, kappas=(10.0, 100.0), width=128, digits=()),
    "default": Config(),
    "full": Config(
        eigenvalues=128,
        kappas=tuple(10.0**k for k in range(1, 7)),
        width=16384,
        digits=(6, 20, 60, 200),
    ),
}
LABELS = {
    "gradient_descent": "gradient descent",
    "heavy_ball": "heavy ball",
    "nesterov": "Nesterov $k/(k+d)$",
    "restarted": "the same, restarted",
    "nesterov_strongly_convex": "NAG-SC",
    "triple_momentum": "triple momentum",
}


def optimizer(name, low, high, d):
    """The method with its best parameters for eigenvalues in [low, high]."""
    free = {"nesterov": nm.nesterov, "restarted": nm.restarted_nesterov}
    return (
        free[name](1 / high, d) if name in free else nm.best_parameters(name, low, high).optimizer
    )


def trained_steps(net, data, method, expected, target):
    """Steps until the loss of a network is `target` of its start, NaN when not within twice the
    expected."""
    loss = np.asarray(nm.train(net, data, method, int(2 * expected), readouts=("loss",)).loss)
    below = np.flatnonzero(loss <= target * loss[0])
    return float(below[0]) if below.size else np.nan


def run(config, progress):
    work, at = (
        np.empty((len(LABELS), len(config.kappas))),
        np.empty((len(LABELS), len(config.digits))),
    )
    kappas, total = np.empty(len(config.digits)), work.size + at.size
    for j, kappa in enumerate(config.kappas):
        lam = np.geomspace(1 / kappa, 1, config.eigenvalues)
        for i, name in enumerate(LABELS):
            work[i, j] = steps_to(
                optimizer(name, lam[0], lam[-1], config.d),
                lam,
                np.ones(config.eigenvalues),
                config.target,
            )
            progress(j * len(LABELS) + i + 1, total)
    for j, n in enumerate(config.digits):
        data = nm.load_digits(n, key=jax.random.key(0))
        net = nm.init_two_layer(
            config.width, data.input_size, key=jax.random.key(0), antisymmetric=True
        )
        lam, vectors = np.linalg.eigh(np.asarray(nm.empirical_ntk(net, data.X)))
        kappas[j] = lam[-1] / lam[0]
        for i, name in enumerate(LABELS):
            method = optimizer(name, lam[0], lam[-1], config.d)
            at[i, j] = trained_steps(
                net,
                data,
                method,
                steps_to(method, lam, vectors.T @ data.y, config.target),
                config.target,
            )
            progress(work.size + j * len(LABELS) + i + 1, total)
    mu, counts = 1 / config.flow_kappa, np.arange(config.flow_steps + 1)
    lam = np.geomspace(mu, 1, config.eigenvalues)
    nag = nm.nesterov_strongly_convex(1.0, mu)
    pair = {"nesterov_strongly_convex": nag, "heavy_ball": nm.heavy_ball(1.0, nag.beta)}
    equations = [nm.high_resolution_nesterov(1.0, mu), nm.high_resolution_heavy_ball(1.0, mu)]
    loss = lambda method, ts: np.asarray(
        nm.predict(np.diag(lam), np.ones(config.eigenvalues), method, ts).loss
    )
    curves = [
        [
            loss(method, counts),
            loss(equation, counts + 0.5),
            loss(nm.HeavyBall(2 * mu**0.5), counts + 0.5),
        ]
        for method, equation in zip(pair.values(), equations, strict=True)
    ]
    coords = {
        "algorithm": list(LABELS),
        "kappa": list(config.kappas),
        "pair": list(pair),
        "kind": ["iterates", "high", "low"],
        "step": counts,
    }
    variables = {
        "work": (("algorithm", "kappa"), work),
        "network": (("algorithm", "set"), at),
        "network_kappa": ("set", kappas),
        "curve": (("pair", "kind", "step"), curves),
    }
    return xarray.Dataset(
        variables, coords=coords, attrs={"target": config.target, "flow_kappa": config.flow_kappa}
    )


def powers(ds):
    """The fitted power of kappa in the work, from kappa = 100 on."""
    return {
        name: plotting.power_law(ds.kappa[1:], ds.work.sel(algorithm=name)[1:])[0]
        for name in LABELS
        if ds.sizes["kappa"] > 2
    }


def headline(ds):
    top = ds.work.isel(kappa=-1)
    counts = ", ".join(f"{LABELS[name]} {float(top.sel(algorithm=name)):.0f}" for name in LABELS)
    lines = {f"gradients to {ds.attrs['target']:g} at kappa = {float(top.kappa):g}": counts}
    gaps = abs(np.log(ds.curve / ds.curve.sel(kind="iterates"))).max("step")
    for name in ds.pair.values:
        both = ", ".join(
            f"{kind} resolution {float(np.exp(gaps.sel(pair=name, kind=kind))):.3g}"
            for kind in ("high", "low")
        )
        lines[f"largest factor between iterates and equation, {LABELS[name]}"] = both
    return lines | {
        f"power of kappa, {LABELS[name]}": f"{power:.2f}" for name, power in powers(ds).items()
    }


def expected(name, kappa, target):
    """Steps at the best rate; None for methods without one."""
    if name in ("nesterov", "restarted"):
        return None
    return [np.log(target) / (2 * np.log(nm.best_parameters(name, 1 / k, 1.0).rate)) for k in kappa]


@plotting.house_style
def plot(ds):
    figure, (left, right) = plotting.panels(1, 2, height=3.8, width=8.2)
    tones = (
        *(plotting.COLORS[flow] for flow in ("gradient_flow", "heavy_ball", "nesterov")),
        *plotting.CYCLE[3:],
    )
    tone = dict(zip(LABELS, tones, strict=True))
    for name, label in LABELS.items():
        left.plot(
            ds.kappa,
            ds.work.sel(algorithm=name),
            color=tone[name],
            marker="o",
            linestyle="none",
            label=label,
        )
        left.plot(
            ds.network_kappa,
            ds.network.sel(algorithm=name),
            color=tone[name],
            marker="x",
            linestyle="none",
        )
        theory = expected(name, ds.kappa.values, ds.attrs["target"])
        if theory:
            left.plot(ds.kappa, theory, color=tone[name], linewidth=1)
    left.set(
        xscale="log",
        yscale="log",
        xlabel=r"condition number $\kappa$",
        ylabel="gradient evaluations",
    )
    left.set_title(rf"work to $10^{{{np.log10(ds.attrs['target']):.3g}}}$ of the loss")
    left.legend(loc="upper left")
    left.set_ylim(top=10 * left.get_ylim()[1])
    for name in ds.pair.values:
        one = ds.curve.sel(pair=name)
        right.plot(
            one.step,
            one.sel(kind="iterates"),
            color=tone[name],
            marker="o",
            markersize=2.5,
            linestyle="none",
            label=LABELS[name],
        )
        right.plot(
            one.step,
            one.sel(kind="high"),
            color=tone[name],
            linewidth=1,
            label="its high-resolution equation",
        )
    right.plot(
        one.step,
        one.sel(kind="low"),
        color=plotting.THEORY,
        linestyle=":",
        label="the equation of both",
    )
    right.set(
        yscale="log",
        xlabel="step",
        ylabel="loss",
        title=rf"$\kappa = {ds.attrs['flow_kappa']:g}$, step $1/\lambda_{{\max}}$",
    )
    right.legend()
    return figure

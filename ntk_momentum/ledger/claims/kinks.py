"""What the kinks do at finite width: (3.5) and the chain of appendix A up to (A.4), and the jumps
of H."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from ...theory import bounds
from ...theory.crossings import Crossings, heavy_ball_crossings
from ..check import Check, Forms, attained, claim, every, identity, typed
from ..drawing import Drawing, against, drawing, line, panel, theory
from .fits import APART, agrees, slope
from .setting import Setting

ONE_CROSSING = (
    "one neuron, one sample: m = n = 1, x = a = 1, w(0) = 1, y = -1, b = 1; f = relu(w) "
    "falls to 0, where w' jumps out of f"
)


@functools.cache
def one_crossing() -> Crossings:
    """w'' + w' + (w + 1) = 0 from w = 1 at rest until w = 0, where Delta' jumps from w' to 0; free
    flight afterwards."""
    return heavy_ball_crossings(np.ones((1, 1)), np.ones(1), np.ones((1, 1)), -np.ones(1), 1.0, 3.0)


def _evidence(setting: Setting) -> tuple[Check, Check, Check, Drawing]:
    """(3.5) and the appendix up to (A.4): the integrated identity without and with its impulses,
    and their sizes. One measurement, which four statements share."""
    hand = one_crossing()
    runs = [run for group in setting.crossings.values() for run in group]
    without = max(run.identity_error(False) for run in runs)
    closed = max(run.identity_error(True) for run in [*runs, hand])
    closure = max(run.closure for run in [*runs, hand])
    printed = identity(
        r"$\ddot\Delta + \sqrt{2 \lambda_0} \dot\Delta + H(t) \Delta = 0$, integrated over $[0, "
        "t]$",
        ONE_CROSSING,
        hand.identity_error(False),
        1e-9,
        impulse=float(hand.impulse[0]),
        moment=float(hand.moment[0]),
        networks=without,
    )
    corrected = identity(
        r"$\ddot\Delta + b \dot\Delta + H \Delta = \sum_j m^{-1/2} a_r |\dot w_r\cdot x_i| e_i "
        r"\delta(t - t_j)$, over the crossings $(r, i)$",
        setting.on_crossings,
        max(closed, closure),
        1e-9,
        integrated_identity=closed,
        against_the_network=closure,
        crossings=sum(run.moment.size for run in runs),
    )
    widths, total = setting.along_widths(lambda run: run.largest_total)
    _, summed = setting.along_widths(lambda run: run.summed)
    _, largest = setting.along_widths(lambda run: np.abs(run.impulse).max())
    found = {
        "sup of the running sum": (total, -0.5),
        "sum of sizes": (summed, -0.5),
        "largest impulse": (largest, -1.0),
    }
    slopes = {name: (slope(widths, values), expected) for name, (values, expected) in found.items()}
    sharp = every(
        "each impulse is $O(1/m)$, their sum $O(m^{-1/2})$",
        setting.on_crossings,
        {k: agrees(fit, e) for k, (fit, e) in slopes.items()},
        APART,
        slopes={
            k: {"slope": s, "95% half width": h, "expected": e} for k, ((s, h), e) in slopes.items()
        },
    )
    run = setting.crossings[setting.wide][0]
    figure = drawing(
        "Left: the hand example, whose velocity jumps at the kink. Middle: what the integrated "
        f"identity misses on a network, m = {run.width}. Right: impulses against the width.",
        panel(
            "t",
            "Delta'",
            line(hand.times, hand.velocity[:, 0]),
            theory([hand.moment[0]] * 2, [-hand.impulse[0], 0.0], "impulse"),
        ),
        panel(
            "t",
            "missing",
            line(run.times, run.defect(False), "without impulses"),
            line(run.times, run.defect(True), "with impulses"),
        ),
        against(
            "width m",
            "impulses",
            {name: (widths, values, expected) for name, (values, expected) in found.items()},
        ),
    )
    return printed, corrected, sharp, figure


def _shared(setting: Setting, statement: str) -> Forms:
    """The evidence of (3.5) for another of its readings: f'' = Delta'', since y is constant, and
    sum_r (df/dw_r) w_r'' = -b f' - H Delta along (3.2)."""
    printed, corrected, *_ = setting.once("impulses", lambda: _evidence(setting))
    return dataclasses.replace(printed, statement=statement), corrected


@claim(
    "eq-3.5",
    section="3",
    kind="identity",
    fault="proof gap",
    under="network",
    theorem="(1)",
    note=r"""At a crossing $w_r\cdot x_i = 0$ the gradient $\partial f_i/\partial w_r$ jumps, so
    $\dot\Delta_i$ jumps by $a_r m^{-1/2} |\dot w_r\cdot x_i|$: crossings have probability one,
    they are not a null set of times that may be dropped. By hand: $\ddot w + \dot w + w + 1 = 0$
    from $w = 1$ at rest reaches $w = 0$ with $\dot w < 0$; before, $\dot\Delta = \dot w$; after,
    $f = 0$ and $\dot\Delta = 0$. Pairs that cross number about $n \sqrt{m}$, each impulse is
    $O(1/m)$, mostly of one sign per sample (against $\dot\Delta_i$: they act as a drag), so the
    sum is $O(m^{-1/2})$ without further cancellation.""",
)
def eq_3_5(setting: Setting) -> Forms:
    return setting.once("impulses", lambda: _evidence(setting))


@claim(
    "eq-a.1",
    section="A",
    kind="identity",
    fault="proof gap",
    under="network",
    shares="eq-3.5",
    note=r"""$\ddot f = \sum_r (\partial f/\partial w_r)\,\ddot w_r + \sum_{rl} (\partial^2
    f/\partial w_r\partial w_l) \dot w_r \dot w_l$: the second sum is zero at almost every $t$
    but a sum of Dirac masses at the crossings, and it is integrated over time. With $\ddot w_r =
    -b\dot w_r - \partial L/\partial w_r$ the left side of (3.5), judged by the same run.""",
)
def eq_a_1(setting: Setting) -> Forms:
    return _shared(setting, "f'' = sum_r (df/dw_r) w_r'', integrated over [0, t]")


@claim(
    "eq-a.2",
    section="A",
    kind="identity",
    fault="proof gap",
    under="network",
    note=r"""The Hessian in $w_r$ in $\mathbb R^p$ is $p \times p$; $x_i^\top x_i$ is a number.
    It should read $m^{-1/2} a_r x_i x_i^\top \delta(w_r\cdot x_i)$. Integrated along $w + s v$
    through the kink it gives $m^{-1/2} a_r x_i \mathrm{sign}(v\cdot x_i)$, the jump of the
    gradient. And $\delta(w_r\cdot x_i)$ is not zero "almost surely" along a path that crosses.""",
)
def eq_a_2(setting: Setting) -> Forms:
    rng, m, p = setting.rng(5), 4, 3
    x, v, w = rng.standard_normal((3, p))
    w = w - x * (w @ x) / (x @ x)  # on the kink
    gradient = lambda u: m**-0.5 * x * (u @ x > 0)
    jump = gradient(w + 1e-9 * v) - gradient(w - 1e-9 * v)
    mass = m**-0.5 * np.outer(x, x) @ v / abs(v @ x)  # int delta(s v.x) ds = 1/|v.x|
    other = gradient(w) * 0.0  # df_i/dw_r does not depend on w_l
    s = np.linspace(-1, 1, 201)
    along = [gradient(w + k * v) @ v for k in s]
    return (
        typed(
            r"$\partial^2 f_i/\partial w_r^2 = m^{-1/2} a_r x_i^\top x_i \delta(w_r\cdot x_i)$",
            "p = 3",
            (p, p),
            np.shape(x @ x),
        ),
        identity(
            r"$\partial^2 f_i/\partial w_r^2 = m^{-1/2} a_r x_i x_i^\top \delta(w_r\cdot x_i)$, "
            r"zero for $l \ne r$",
            "random x, v in R^3, integrated across the kink",
            float(np.abs(jump - mass).max()),
            1e-12,
            cross_derivative=float(np.abs(other).max()),
        ),
        drawing(
            "The gradient along a line through the kink: its jump is the mass of the Dirac "
            r"$\delta$.",
            panel(
                "s",
                "df/dw(w + s v) . v",
                line(s, along),
                theory(s, np.where(s > 0, mass @ v, 0.0) + min(along), "start + mass"),
            ),
        ),
    )


@claim(
    "eq-a.3",
    section="A",
    kind="identity",
    fault="proof gap",
    under="network",
    shares="eq-3.5",
    note=r"""(A.1) with (3.3): the prediction dynamics carries the same impulses as the error
    dynamics, $\dot f$ being $\dot\Delta$.""",
)
def eq_a_3(setting: Setting) -> Forms:
    return _shared(setting, "f'' + sqrt(2 lambda0) f' + H(t)(f - y) = 0, integrated over [0, t]")


@claim(
    "eq-a.4",
    section="A",
    kind="identity",
    fault="proof gap",
    under="network",
    shares="eq-3.5",
    note="""(A.3) with $y$ constant, and (3.5) once more. The width at which the missing
    impulses stop mattering is set by their sum, $O(m^{-1/2})$.""",
)
def eq_a_4(setting: Setting) -> Forms:
    return _shared(
        setting, "Delta'' + sqrt(2 lambda0) Delta' + H(t) Delta = 0, integrated over [0, t]"
    )


def _jump_of_close_inputs(n: int, rng: np.random.Generator) -> float:
    """||H_+ - H_-|| over its bound where one neuron, active on n - 1 inputs within 1e-6 of each
    other, crosses the kink of the n-th: (2.8) on both sides."""
    X = np.eye(3)[0] + 1e-6 * rng.standard_normal((n, 3))
    X[0, 1] -= 1e-5
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    w = np.eye(3)[1] - X[0] * X[0, 1]  # on the kink of the first, active on the others by 1e-5
    kernels = []
    for side in (1e-9, -1e-9):
        S = ((w + side * X[0]) @ X.T >= 0).astype(float)
        kernels.append(X @ X.T * np.outer(S, S))
    return float(np.linalg.norm(kernels[0] - kernels[1], 2) / bounds.kernel_jump(n, 1))


@claim(
    "remark-hdot-zero",
    section="A",
    kind="identity",
    fault="proof gap",
    under="network",
    theorem="Proposition 7",
    note=r"""$H$ is piecewise constant: $\dot H = 0$ at almost every $t$, but $H(t) - H(0)$ is
    the sum of its jumps, not the integral of $\dot H = 0$, and $V$ gains $\Delta\cdot(H_+ - H_-)
    \Delta/2$ at each, which the proof drops with $\dot H$. A crossing of $(r, i)$ changes row
    and column $i$ by $x_i\cdot x_j \mathbb 1\{r \text{ active on } j\}/m$, so each jump is at
    most $(1 + \sqrt{4n - 3})/(2m)$, reached as the inputs come together, and about $n \sqrt{m}$
    of them occur.""",
)
def remark_hdot_zero(setting: Setting) -> Forms:
    runs = [run for group in setting.crossings.values() for run in group]
    n = setting.points.n
    drift = min(float(run.drift.max()) for run in runs)
    dropped = max(abs(run.dropped()) for run in runs)
    ratio = max(float(np.max(run.jump / bounds.kernel_jump(n, run.width))) for run in runs)
    summed = max(float(run.drift.max() / run.jump.sum()) for run in runs)
    widths, jumps = setting.along_widths(lambda run: run.jump.max())
    steepness, half = slope(widths, jumps)
    run = setting.crossings[setting.wide][0]
    nearly = {str(k): _jump_of_close_inputs(k, setting.rng(20)) for k in (2, 6, 40)}
    return (
        identity(
            r"$\dot H = 0$ almost surely, so that $\Delta\cdot \dot H \Delta/2$ may be "
            "dropped from (A.7): integrated over $[0, t]$, over $V(0)$",
            setting.on_crossings,
            dropped,
            1e-9,
            smallest_drift=drift,
        ),
        every(
            r"$H$ is piecewise constant with jumps of norm at most $(1 + \sqrt{4n - "
            r"3})/(2m)$, whose sum bounds $\|H(t) - H(0)\|$",
            setting.on_crossings,
            {
                "size of jumps": ratio <= 1 + 1e-9,
                "drift below sum of jumps": summed <= 1 + 1e-9,
                "slope of the largest jump near -1": agrees((steepness, half), -1.0),
            },
            1e-9,
            largest_jump_over_bound=ratio,
            drift_over_sum=summed,
            slope=steepness,
            half_width=half,
        ),
        attained(
            r"$(1 + \sqrt{4n - 3})/(2m)$ cannot be improved",
            "n = 2, 6, 40 inputs within 1e-6 of each other, one neuron that crosses one kink",
            min(nearly.values()),
            1e-4,
            jump_over_bound=nearly,
        ),
        drawing(
            r"Left: the distance from $H(0)$, which the integral of $\dot H = 0$ would keep "
            "at 0. Right: the largest jump of $H$ falls like $1/m$.",
            panel(
                "t",
                "||H(t) - H(0)||",
                line(run.times, run.drift, f"m = {run.width}"),
                theory(run.times, 0 * run.times, "int H' = 0"),
            ),
            against("width m", "largest jump", {"||H_+ - H_-||": (widths, jumps, -1.0)}),
        ),
    )

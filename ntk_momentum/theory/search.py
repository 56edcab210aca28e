"""A search for Lyapunov functions: the largest rate a quadratic form certifies for the heavy ball,
as a small semidefinite program.

Along x'' + b x' + g = 0, g = grad f(x), with f(0) = min f = 0, the candidates are

    V  = c f(x) + (p11 |x|^2 + 2 p12 x.v + p22 |v|^2) / 2
    V' = c g.v + p11 x.v + p12 |v|^2 - (p12 x + p22 v).(b v + g)

and V' + rate V <= 0 must follow for every f of a class. At a given rate this is linear in c, P and
multipliers; bisection does the rest.

    convex   f is mu-strongly convex: f <= g.x - mu |x|^2/2 and f >= mu |x|^2/2. V' is linear in g,
             which must drop out: c = p22, and the multiplier of the first inequality is p12. Then
             f must drop out, and a 2 x 2 form in (x, v) remains
    frozen   f = x.H x/2, constant H >= mu. On a mode, g = lambda x, the form is affine in lambda:
             it is <= 0 for all lambda >= mu iff it is at mu and its slope is, whose last entry is
             0: c = p22 and rate c <= 2 p12
    moving   H(t) anywhere between mu and ceiling mu, jumps included: c = 0, since V may not see H,
             and the form at both ends

Nesterov's flow x'' + (d/t) x' + g = 0 is autonomous in log t with y = t v, F = t^2 f and G = t^2 g,
so the same programs find the largest power a for which V = t^{a-2} (F + (p11 |x|^2 + 2 p12 x.y +
p22 |y|^2) / 2) falls: `best_power` gives min(2, 2d/3) for convex functions, 2d/3 for strongly
convex ones at late times, the paper's exponent, and d for frozen kernels.

Here x is the error Delta and f the pseudo-loss. With b = 2 sqrt(mu), the paper's form (A.6) gives
sqrt(mu) and the best one (4/3) sqrt(mu) for convex f (Moucer, Taylor, Bach 2022); V# gives nearly 2
sqrt(mu) for frozen kernels; and a moving kernel leaves `bounds.moving_kernel_rate`, positive below
ceiling 9 and the exact exponent of the worst motion.

Needs cvxpy: pip install 'ntk_momentum[lyapunov]'.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from jaxtyping import ArrayLike, Float

from ..errors import InputError, check_positive, require, unknown_name

Class = Literal["convex", "frozen", "moving"]


@dataclasses.dataclass(frozen=True)
class QuadraticForm:
    """V = stiffness f(x) + (p11 |x|^2 + 2 p12 x.v + p22 |v|^2)/2, which decays at `rate` for every
    f of the class it was found for."""

    rate: float
    stiffness: float
    P: np.ndarray

    def energy(self, x: Any, v: Any, value: Any) -> Any:
        """V at positions and velocities (..., n) with f(x) = value (...): the residual, its
        velocity and the pseudo-loss."""
        x, v = np.asarray(x), np.asarray(v)
        (p11, p12), (_, p22) = self.P
        return self.stiffness * value + 0.5 * np.sum(
            p11 * x * x + 2 * p12 * x * v + p22 * v * v, axis=-1
        )


def best_form(
    b: float,
    mu: float,
    over: Class = "convex",
    *,
    ceiling: float | None = None,
    form: Float[ArrayLike, "2 2"] | None = None,
    margin: float = 1e-5,
    tolerance: float = 1e-4,
) -> QuadraticForm | None:
    """The form with the largest rate at friction b, or None when none certifies a rate above
    `tolerance` sqrt(mu).

    ceiling: of a moving kernel, in units of mu. form: P held fixed, e.g. [[mu, sqrt(mu)],
    [sqrt(mu), 1]] of (A.6). margin: V >= (margin/2)(mu |x|^2 + |v|^2) is asked for, so that V
    bounds the loss. tolerance: of the rate, in units of sqrt(mu).
    """
    check_positive("b", b)
    check_positive("mu", mu)
    if over not in ("convex", "frozen", "moving"):
        raise unknown_name("class", str(over), ("convex", "frozen", "moving"))
    if (over == "moving") != (ceiling is not None) or (
        ceiling is not None and not 1 <= ceiling < np.inf
    ):
        raise InputError(
            'a finite ceiling >= 1 (times mu) goes with over="moving" and nothing '
            f"else; got {over!r} and {ceiling}."
        )
    unit = np.diag([np.sqrt(mu), 1.0])
    fixed = (
        None
        if form is None
        else np.linalg.solve(unit, np.asarray(form, np.float64)) @ np.linalg.inv(unit)
    )
    solve = _program(b / np.sqrt(mu), over, ceiling, fixed, margin)
    low, high, best = (
        0.0,
        b / np.sqrt(mu),
        None,
    )  # areas in the plane of a mode shrink like e^{-bt}, so no rate exceeds b
    while high - low > tolerance:
        rate = 0.5 * (low + high)
        found = solve(rate)
        if found is None:
            high = rate
        else:
            low, best = (
                rate,
                QuadraticForm(float(rate * np.sqrt(mu)), found[0], unit @ found[1] @ unit),
            )
    return best


def _program(
    b: float, over: Class, ceiling: float | None, fixed: np.ndarray | None, margin: float
) -> Callable[[float], tuple[float, np.ndarray] | None]:
    """rate -> (c, P) or None, for mu = 1; compiled once."""
    cp = require("cvxpy", "the search for Lyapunov functions")
    rate, slack, P = cp.Parameter(nonneg=True), cp.Variable(), cp.Variable((2, 2), symmetric=True)
    p11, p12, p22 = P[0, 0], P[0, 1], P[1, 1]
    c = 0.0 if over == "moving" else p22

    def form(xx: Any, xv: Any, vv: Any) -> Any:
        return cp.bmat([[xx, xv], [xv, vv]])

    def on_mode(lam: float) -> Any:
        """2 (V' + rate V) at g = lam x, f = lam x^2/2."""
        return form(
            rate * (c * lam + p11) - 2 * p12 * lam,
            p11 + (c - p22) * lam + (rate - b) * p12,
            2 * p12 + (rate - 2 * b) * p22,
        )

    if over == "convex":
        definite, lower = (
            cp.Variable(),
            p12 - rate * c,
        )  # multipliers of f >= |x|^2/2, in V and in V': there f drops out
        falls = [
            form(rate * p11 - p12 - lower, p11 + (rate - b) * p12, 2 * p12 + (rate - 2 * b) * p22)
        ]
        signs = [p12, lower, definite, c - definite]
        rises = P + form(definite, 0, 0)
    elif over == "frozen":
        falls, signs, rises = [on_mode(1.0)], [2 * p12 - rate * c], P + form(c, 0, 0)
    else:
        assert ceiling is not None
        falls, signs, rises = [on_mode(1.0), on_mode(ceiling)], [], P
    conditions = [slack >= -1, rises >> margin * np.eye(2)]
    conditions += [
        *(matrix << slack * np.eye(2) for matrix in falls),
        *(s >= -slack for s in signs),
    ]
    conditions += [p22 == 1] if fixed is None else [fixed == P]
    problem = cp.Problem(cp.Minimize(slack), conditions)

    def solve(value: float) -> tuple[float, np.ndarray] | None:
        rate.value = value
        try:
            problem.solve(solver=cp.CLARABEL)
        except cp.error.SolverError:
            return None
        # the solver's word is not taken: its answer must satisfy every condition strictly
        if (
            P.value is None
            or not all(s.value > 0 for s in signs)
            or not np.linalg.eigvalsh(rises.value)[0] > 0
        ):
            return None
        if max(np.linalg.eigvalsh(matrix.value)[-1] for matrix in falls) >= 0:
            return None
        return 0.0 if over == "moving" else float(p22.value), np.array(P.value)

    return solve


@dataclasses.dataclass(frozen=True)
class PowerForm:
    """V = t^{power-2} (t^2 f(x) + (p11 |x|^2 + 2 p12 t x.v + p22 t^2 |v|^2)/2), which falls along
    Nesterov's flow from time `since` on."""

    power: float
    P: np.ndarray
    since: float

    def energy(self, t: Any, x: Any, v: Any, value: Any) -> Any:
        """V at times (k,), positions and velocities (k, n) with f(x) = value (k,)."""
        t, x, y = np.asarray(t), np.asarray(x), np.asarray(t)[..., None] * np.asarray(v)
        (p11, p12), (_, p22) = self.P
        return t ** (self.power - 2) * (
            t**2 * value + 0.5 * np.sum(p11 * x * x + 2 * p12 * x * y + p22 * y * y, axis=-1)
        )


def best_power(
    d: float,
    over: Literal["convex", "strongly_convex", "frozen"] = "convex",
    mu: float = 1.0,
    *,
    since: float = 100.0,
    tolerance: float = 1e-4,
) -> PowerForm | None:
    """The form with the largest power at Nesterov's constant d, or None when none has a power above
    `tolerance`.

    convex: any convex f with minimum 0 at 0, from t = 0 on. strongly_convex and frozen, with mu:
    from t = since / sqrt(mu) on.
    """
    check_positive("d", d)
    check_positive("mu", mu)
    check_positive("since", since)
    if over not in ("convex", "strongly_convex", "frozen"):
        raise unknown_name("class", str(over), ("convex", "strongly_convex", "frozen"))
    cp = require("cvxpy", "the search for Lyapunov functions")
    late = (
        0.0 if over == "convex" else since**2
    )  # mu t^2 at the start; the forms only improve as it grows
    power, slack, p11, p12 = cp.Parameter(), cp.Variable(), cp.Variable(), cp.Variable()
    # 2 t^{3-a} V', where G drops out iff F enters with p22; f <= g.x - mu |x|^2/2 enters with
    # multiplier p12, or f = g.x/2 on a mode
    at_start = (power - 2 * p12) * late if over == "frozen" else -p12 * late
    falls = [(power - 2) * p11 + at_start, (power - 1 - d) * p12 + p11, power - 2 * d + 2 * p12]
    signs = [(2 * p12 if over == "frozen" else p12) - power]
    rises = cp.bmat([[p11 + late, p12], [p12, 1.0]])
    shape = lambda entries: cp.bmat([[entries[0], entries[1]], [entries[1], entries[2]]])
    falling = shape(falls)
    conditions = [
        slack >= -1,
        falling << slack * np.eye(2),
        rises >> -slack * np.eye(2),
        *(s >= -slack for s in signs),
    ]
    problem = cp.Problem(cp.Minimize(slack), conditions)
    low, high, best = 0.0, float(d) + 1.0, None  # no mode falls faster than t^{-d}
    while high - low > tolerance:
        power.value = 0.5 * (low + high)
        with contextlib.suppress(cp.error.SolverError):
            problem.solve(solver=cp.CLARABEL)
        if slack.value is not None and np.linalg.eigvalsh(falling.value)[-1] < 0 < min(
            np.linalg.eigvalsh(rises.value)[0], signs[0].value
        ):
            low, P = power.value, np.array([[p11.value, p12.value], [p12.value, 1.0]])
            best = PowerForm(float(low), P, float(np.sqrt(late / mu)))
        else:
            high = power.value
    return best

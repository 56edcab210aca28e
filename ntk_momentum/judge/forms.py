"""The forms of a certificate: Lyapunov functions on a fixed reference kernel, chosen for one run,
the rate of each on every interval between saves, and the bound of L that follows.

The mathematics is in the docstring of `certificate`. All that is asked of a saved kernel is one
norm, ||(H - R) S^{-1/2}||_2 with R = H_ref + lift and S = R - shift, one kernel at a time: a run of
1,000 samples holds gigabytes of them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.optimize
import scipy.sparse.linalg

from ..theory.lyapunov import reference_rate

Form = Literal["simple", "relative", "lifted", "spectral", "moving"]
DENSE = 128
"""Up to so many samples the choice of forms has every eigenvalue, beyond them Lanczos steps.
Chosen."""
LOOKED_AT = 12
"""Saves at which forms are compared, with lines in between. Chosen."""
FLOORS = np.append([1e-6, 1e-4, 1e-2], 2.0 ** np.arange(-5, 10))
"""lambda_min(S) of the lifted forms, over lambda_0. Chosen."""
TRIED_FRICTIONS = np.array([0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0])
"""b/2 over sqrt(lambda_0), of which the best is told. Chosen."""


class Motion(NamedTuple):
    """What was observed of a run, and the reference: saved times, kernels, the smallest and the
    largest eigenvalue of each, eigenvalues and eigenvectors of H_ref, |H(t) - H_ref|_2, the norm of
    the path between saves, friction (NaN without a constant one), Delta and Delta' at the saves,
    impulses and their spread from save to save; and the share of H - H_ref that is to count, to
    which norms and impulses have come down already."""

    ts: np.ndarray
    H: np.ndarray
    extremes: np.ndarray
    values: np.ndarray
    vectors: np.ndarray
    distance: np.ndarray
    lengths: np.ndarray
    b: float
    errors: np.ndarray
    speeds: np.ndarray
    kicks: np.ndarray
    spread: np.ndarray
    share: float = 1.0

    @property
    def lam0(self) -> float:
        """The smallest eigenvalue of H_ref."""
        return float(self.values[0])

    @property
    def drift(self) -> float:
        """A bound of sup_t ||H(t) - H_ref||_2."""
        return float(between(self.distance, -self.lengths).max())

    @property
    def top(self) -> float:
        """A bound of sup_t ||H(t)||_2."""
        return float(max(self.extremes[:, 1].max() + self.lengths.max(), self.values[-1]))

    def less(self, share: float) -> Motion:
        """This run, had kernel and impulses moved by a share of what they did."""
        sizes = {
            name: share * getattr(self, name) for name in ("distance", "lengths", "kicks", "spread")
        }
        # lambda_min is concave in the share, lambda_max convex
        ends = (1 - share) * self.values[[0, -1]] + share * self.extremes
        return self._replace(share=share, extremes=ends, **sizes)

    def turned(self, k: int) -> np.ndarray:
        """(H - H_ref) Q at save k, Q the eigenvectors of H_ref."""
        return self.share * (self.H[k] @ self.vectors - self.vectors * self.values)

    def epsilon(self, lift: np.ndarray, shift: np.ndarray) -> np.ndarray:
        """||(H - R) S^{-1/2}||_2 at the two ends of every interval, (2, T - 1), for R = H_ref +
        lift and S = R - shift on each."""
        found = np.zeros((2, len(lift)))
        for k in range(len(self.ts)):
            moved, known = self.turned(k), {}
            for end, i in ((1, k - 1), (0, k)):
                if 0 <= i < len(lift):
                    named = lift[i], shift[i]
                    if named not in known:
                        scale = (self.values + lift[i] - shift[i]) ** -0.5
                        known[named] = operator_norm((moved - lift[i] * self.vectors) * scale)
                    found[end, i] = known[named]
        return found


def operator_norm(A: np.ndarray) -> float:
    """||A||_2, by A^T A: right to all digits, as it is the largest of the singular values."""
    return float(np.sqrt(max(highest(A.T @ A), 0.0)))


def highest(A: np.ndarray) -> float:
    """The largest eigenvalue of a symmetric matrix."""
    # Routines for one eigenvalue are a fifth faster, and fail on some matrices near the identity.
    return float(np.linalg.eigvalsh(A)[-1])


def nonnegative_norm(A: np.ndarray) -> float:
    """A bound of ||A||_2 for a symmetric matrix without a negative entry, at most 0.05 % too large.

    A^2 has none either, and max_i (A^2 x)_i / x_i >= lambda_max(A^2) for every x > 0 (Collatz 1942,
    Wielandt 1950). Power iterations find an x for which little is given away.
    """
    x, bound = np.ones(len(A)), np.inf
    for _ in range(60):
        y = A @ (A @ x)
        bound = min(bound, float(np.max(y / x)))
        if bound <= 1.001 * float(x @ y / (x @ x)):
            return float(np.sqrt(bound))
        x = y / y.max() + 1e-9  # stays positive where a block of A falls behind
    return operator_norm(A)


class Energy(NamedTuple):
    """V of one form: its rate with the reference kernel, and on each interval; the latter if
    nothing happened between saves; sqrt V(0); L <= V / floor; by how much impulses raise sqrt(2 V)
    on each interval; the power of 1/t that the floor alone brings."""

    ideal: float | np.ndarray
    local: np.ndarray
    certain: np.ndarray
    size: float
    floor: float | np.ndarray
    kicks: np.ndarray
    power: float = 0.0

    def bound(self, ts: np.ndarray, share: float) -> tuple[np.ndarray, float]:
        """The bound of L at the saved times and the mean rate, or power of 1/t, if kernel and
        impulses moved by this share of what they did."""
        local, sizes = self.ideal + share * (self.local - self.ideal), [self.size]
        # On each interval, with rho its rate and |iota| its impulses taken where they hurt most,
        #     sqrt V(t_k+1) <= e^{-rho dt/2} sqrt V(t_k) + max(1, e^{-rho dt/2}) |iota| / sqrt 2,
        # and L <= V / floor.
        with np.errstate(over="ignore"):  # a bound may be infinite
            for shrink, kick in zip(
                np.exp(-0.5 * local * np.diff(ts)), share * self.kicks, strict=True
            ):
                sizes.append(shrink * sizes[-1] + max(1.0, shrink) * kick / np.sqrt(2))
            return np.square(sizes) / self.floor, self.exponent(local, ts)

    def exponent(self, local: np.ndarray, ts: np.ndarray) -> float:
        """The mean rate, or the power of 1/t that remains of `power`."""
        lasting = mean(local, ts)
        if not self.power:
            return lasting
        return self.power + lasting * (ts[-1] - ts[0]) / float(np.log(ts[-1] / ts[0]))


def forms_of(run: Motion, exact: bool = True) -> tuple[dict[Form, Energy], np.ndarray]:
    """The forms of this run and eps(t) of the relative one; eps from lines between the saves of
    `_compared` where it need not be exact."""
    if np.isnan(run.b):
        return _gradient_flow(run), run.distance / run.lam0
    return _heavy_ball(run, exact)


def _gradient_flow(run: Motion) -> dict[Form, Energy]:
    """The forms of (2.5).

    V = L: L' = -Delta . H Delta <= -2 lambda_min(H(t)) L is the spectral form, and with lambda_min
    >= lambda_0 - sup ||H - H_ref|| the simple one, which Theorem 1 states as lambda_0 / 2.
    """
    certain = 2 * between(run.extremes[:, 0], 0 * run.lengths)
    kicks = run.kicks + run.spread @ np.array([run.top, run.top**2])
    size = np.linalg.norm(run.errors[0]) / np.sqrt(2)
    least = run.lam0 if run.drift <= run.lam0 / 2 else 2 * (run.lam0 - run.drift)
    return {
        "simple": Energy(2 * run.lam0, np.full_like(certain, least), certain, size, 1.0, kicks),
        "spectral": Energy(2 * run.lam0, certain - run.lengths, certain, size, 1.0, kicks),
    }


def _heavy_ball(run: Motion, exact: bool) -> tuple[dict[Form, Energy], np.ndarray]:
    """The forms of (3.5), and eps(t) of the relative one.

        V = Delta.S Delta/2 + |beta Delta + Delta'|^2/2,   S = H_ref + lift - beta (b - beta),

    so that L <= V / lambda_min(S). This is Lemma 2 on the reference R = H_ref + lift, at rate

        b - sqrt((b - 2 beta)^2 + eps^2),
        eps = ||(H - R) S^{-1/2}|| <= (||H - H_ref|| + |lift|) / sqrt(lambda_min(S)),

    see `reference_rate`: without lift the relative form has the first at each time, the simple one
    the second at its largest. In the lifted form lift and beta change from save to save.
    """
    b, every = run.b, np.ones(len(run.lengths))
    beta = _best_beta(run, lambda shift: run.drift / np.sqrt(run.lam0 - shift))
    floor = np.sqrt(run.lam0 - beta * (b - beta))
    forms: dict[Form, Energy] = {
        "simple": _energy(
            run,
            b,
            0 * every,
            beta * every,
            np.full((2, len(every)), run.distance.max() / floor),
            2 * (run.drift - run.distance.max()) / floor * every,
        )
    }
    roughly = _roughly(run)
    reach = 0.5 * run.lengths.mean()
    beta = _best_beta(run, lambda shift: roughly(0.0, shift) + reach / np.sqrt(run.lam0 - shift))

    def form(lift: np.ndarray, beta: np.ndarray) -> tuple[Energy, np.ndarray]:
        asked = lift, beta * (b - beta)
        epsilon = run.epsilon(*asked) if exact else _drawn(run, roughly, *asked)
        return _energy(run, b, lift, beta, epsilon), epsilon

    forms["relative"], epsilon = form(0 * every, beta * every)
    # beta = b/2, at which eps may be largest, and the relative form beside it
    lifts = np.append(run.lam0 * (FLOORS - 1) + b**2 / 4, 0.0)
    betas = np.append(np.full_like(FLOORS, b / 2), beta)
    forms["lifted"], _ = form(*_scheduled(run, b, lifts, betas, roughly)[:2])
    return forms, np.append(epsilon[0], epsilon[1, -1])


def _energy(
    run: Motion,
    b: float,
    lift: np.ndarray,
    beta: np.ndarray,
    epsilon: np.ndarray | None = None,
    reach: np.ndarray | None = None,
) -> Energy:
    """The form with this lift and this beta on each interval, at friction b."""
    floor = run.lam0 + lift - beta * (b - beta)
    if epsilon is None:
        epsilon = run.epsilon(lift, beta * (b - beta))
    reach = run.lengths / np.sqrt(floor) if reach is None else reach
    # A change comes at the start of an interval.
    change = np.append(
        0.0,
        [
            _change(run, b, lift[k - 1 : k + 1], beta[k - 1 : k + 1])[0, 1]
            for k in range(1, len(lift))
        ],
    ) / np.diff(run.ts)
    # The root in `reference_rate` is convex and 1-Lipschitz in eps: it is eps that is held.
    rest, local, certain = (
        reference_rate(b, beta, eps) - change
        for eps in (
            np.abs(lift) / np.sqrt(floor),
            0.5 * (epsilon.sum(0) + reach),
            0.5 * epsilon.sum(0),
        )
    )
    kicks = run.kicks + np.sum(run.spread * _delays(run, b, lift, beta).T, axis=1)
    size = float(np.sqrt(_start(run, b, lift[:1], beta[:1])[0]))
    return Energy(rest, local, certain, size, np.append(floor[0], floor), kicks)


def _start(run: Motion, b: float, lift: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """V(0) of each form."""
    D, V = run.vectors.T @ run.errors[0], run.vectors.T @ run.speeds[0]
    S = np.add.outer(lift - beta * (b - beta), run.values)
    u = np.multiply.outer(beta, D) + V
    return 0.5 * (S @ D**2 + np.sum(u**2, axis=1))


def _change(run: Motion, b: float, lift: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """log of the most by which V grows where one form (row) gives way to another (column).

    In an eigenvector of H_ref V is the form P = [[S + beta^2, beta], [beta, 1]] of det S, so P^{-1}
    P' has the trace (S + S' + (beta - beta')^2)/S and the determinant S'/S.
    """
    S = np.add.outer(lift - beta * (b - beta), run.values)
    ratio = S[None] / S[:, None]
    half = 0.5 * (1 + ratio + (np.subtract.outer(beta, beta) ** 2)[..., None] / S[:, None])
    return np.log(np.max(half + np.sqrt(np.maximum(half**2 - ratio, 0.0)), axis=-1))


def _scheduled(
    run: Motion,
    b: float,
    lift: np.ndarray,
    beta: np.ndarray,
    roughly: Callable[[float, float], np.ndarray],
    lasting: bool = False,
) -> tuple[np.ndarray, np.ndarray, float]:
    """(lift, beta, value): those on each interval, out of the given pairs, with the least bound of
    L at the end, impulses apart, and minus the logarithm of that; of a lasting one, what V falls by
    alone. Bellman's recursion from save to save."""
    floor, steps = run.lam0 + lift - beta * (b - beta), np.diff(run.ts)
    pairs = zip(lift, beta * (b - beta), strict=True)
    epsilon = np.stack([_line(run, roughly, *pair) for pair in pairs], axis=1)
    epsilon = between(epsilon, -np.divide.outer(run.lengths, np.sqrt(floor)))
    gain = reference_rate(b, beta, epsilon) * steps[:, None]
    change = _change(run, b, lift, beta)
    before = 0.0 if lasting else np.log(_start(run, b, lift, beta))
    value, came = gain[0] - before, []
    for one in gain[1:]:
        options = value[:, None] - change
        came.append(np.argmax(options, axis=0))
        value = np.max(options, axis=0) + one
    value += 0.0 if lasting else np.log(floor)
    path = [int(np.argmax(value))]
    for back in reversed(came):
        path.append(int(back[path[-1]]))
    return lift[path[::-1]], beta[path[::-1]], float(value.max())


def _line(run: Motion, roughly: Callable, lift: float, shift: float) -> np.ndarray:
    return np.interp(run.ts, run.ts[_compared(run)], roughly(lift, shift))


def _drawn(run: Motion, roughly: Callable, lift: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """`Motion.epsilon` by lines."""
    lines = [_line(run, roughly, *pair) for pair in zip(lift, shift, strict=True)]
    return np.array([[line[k + end] for k, line in enumerate(lines)] for end in (0, 1)])


def _compared(run: Motion) -> list[int]:
    """Saves at which forms are compared, half of them where the kernel moves."""
    even = np.linspace(0, len(run.ts) - 1, LOOKED_AT // 2)
    moved = np.append(0.0, np.cumsum(run.lengths))
    often = np.searchsorted(moved, moved[-1] * np.linspace(0, 1, LOOKED_AT // 2, endpoint=False))
    return np.unique(np.append(even.astype(int), often)).tolist()


def _roughly(run: Motion) -> Callable[[float, float], np.ndarray]:
    """(lift, shift) -> eps at the saves of `_compared`, to a thousandth: no bound."""
    moved = [run.vectors.T @ run.turned(k) for k in _compared(run)]
    squared = [one @ one for one in moved]
    first = np.random.default_rng(0).standard_normal(len(run.values))

    def largest(A: np.ndarray) -> float:
        if len(A) > DENSE:
            with suppress(scipy.sparse.linalg.ArpackError):  # as where nothing moves, A = 0
                return float(scipy.sparse.linalg.eigsh(A, 1, which="LA", tol=1e-3, v0=first)[0][0])
        return highest(A)

    @cache
    def epsilon(lift: float, shift: float) -> np.ndarray:
        scale, eye = (run.values + lift - shift) ** -0.5, lift**2 * np.eye(len(run.values))
        values = [
            largest((two - 2 * lift * one + eye) * np.outer(scale, scale))
            for one, two in zip(moved, squared, strict=True)
        ]
        return np.sqrt(np.maximum(values, 0.0))

    return epsilon


def _best_beta(run: Motion, epsilon: Callable[[float], Any]) -> float:
    """The beta in (0, b/2] with beta (b - beta) < lambda0 that bounds the end best without a lift,
    given eps at some times of every shift."""
    b, span, none = run.b, run.ts[-1] - run.ts[0], np.zeros(1)
    most = 0.5 * (b - np.sqrt(max(b**2 - 4 * run.lam0, 0.0)))

    def loss(beta: float) -> float:
        shift = beta * (b - beta)
        size = float(_start(run, b, none, np.array([beta]))[0]) / (run.lam0 - shift)
        return float(np.log(size) / span - np.mean(reference_rate(b, beta, epsilon(shift))))

    ends = (1e-3 * most, most * (1 - 1e-6))
    found = scipy.optimize.minimize_scalar(
        loss, bounds=ends, method="bounded", options={"maxiter": 25}
    ).x
    return float(min((found, ends[1]), key=loss))


def friction_for(run: Motion) -> tuple[float, float]:
    """(b, rate): the one of `TRIED_FRICTIONS` where lifted forms with beta = b/2 have the largest
    mean rate."""
    roughly, floors, found = _roughly(run), run.lam0 * FLOORS[::2], []
    for b in 2 * np.sqrt(run.lam0) * TRIED_FRICTIONS:
        lift, beta = floors - run.lam0 + b**2 / 4, np.full_like(floors, b / 2)
        found.append((*_scheduled(run, b, lift, beta, roughly, lasting=True), b))
    lift, beta, _, b = max(found, key=lambda one: one[2])
    return float(b), _energy(run, b, lift, beta).bound(run.ts, 1.0)[1]


def mean(local: np.ndarray, ts: np.ndarray) -> float:
    """The mean over time of what is given on each interval between saves."""
    return float(local @ np.diff(ts) / (ts[-1] - ts[0]))


def shares_of(run: Motion, forms: dict[Form, Energy], initial: float) -> dict[str, float]:
    """The largest share of each form. One that fails is chosen anew for smaller motions."""
    shares: dict[str, float] = {
        name: largest_share(form, run.ts, initial) for name, form in forms.items()
    }
    for scale in (0.3, 0.1, 0.03, 0.01):
        if min(shares.values()) >= scale:
            break
        for name, form in forms_of(run.less(scale), exact=False)[0].items():
            shares[name] = max(shares[name], scale * largest_share(form, run.ts, initial))
    return shares


def largest_share(form: Energy, ts: np.ndarray, initial: float) -> float:
    """The largest share, 1 at most, whose bound says something, by bisection; 0 if none does.

    Rates are concave in the motion: what they are at a smaller one is bounded by the line from the
    reference to what was seen, at a larger one not.
    """

    def says(share: float) -> bool:
        curve, rate = form.bound(ts, share)
        return bool(rate > 0 and curve[-1] < initial)

    low, high = 1e-4, 1.0
    if says(high):
        return high
    if not says(low):
        return 0.0
    for _ in range(30):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if says(middle) else (low, middle)
    return float(low)


def between(values: np.ndarray, length: np.ndarray) -> np.ndarray:
    """The least (for lengths < 0 the largest) value on each interval of what may change at most by
    |length| in all from save to save."""
    return 0.5 * (values[1:] + values[:-1] - length)


def _delays(run: Motion, b: float, lift: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """Bounds of |A x| and |A A x| over |iota| in the norm sqrt(2 V) of each form, (2, forms), x =
    (0, iota), ||H|| <= top: an impulse s before has become x + s A x + O(s^2/2)."""
    stiff = run.values[-1] + lift - beta * (b - beta)
    return np.array(
        [
            np.sqrt(stiff + (b - beta) ** 2),
            np.hypot(b * np.sqrt(stiff), run.top + np.abs(b * (b - beta))),
        ]
    )

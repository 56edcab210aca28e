"""The forms of a certificate: Lyapunov functions on a fixed reference kernel, chosen for one run,
the rate of each on every interval between saves, and the bound of L that follows.

The mathematics is in the docstring of `certificate`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.linalg
import scipy.optimize

from ..theory.lyapunov import reference_distance, reference_rate

Form = Literal["simple", "relative", "quadratic", "spectral", "moving"]


class Motion(NamedTuple):
    """What was observed of a run, and the reference: saved times, kernels, |H(t) - H_ref|_2, path
    between saves with its norms, friction (NaN without a constant one), Delta and Delta' at the
    saves, impulses and their spread from save to save."""

    ts: np.ndarray
    H: np.ndarray
    H_ref: np.ndarray
    lam0: float
    distance: np.ndarray
    path: np.ndarray
    lengths: np.ndarray
    b: float
    errors: np.ndarray
    speeds: np.ndarray
    kicks: np.ndarray
    spread: np.ndarray

    @property
    def drift(self) -> float:
        """A bound of sup_t ||H(t) - H_ref||_2."""
        return float(between(self.distance, -self.lengths).max())


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
        # On each interval, with rho its rate and |J| its impulses taken where they hurt most,
        #     sqrt V(t_k+1) <= e^{-rho dt/2} sqrt V(t_k) + max(1, e^{-rho dt/2}) |J| / sqrt 2,
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


def forms_of(run: Motion, sharp: bool = True) -> tuple[dict[Form, Energy], np.ndarray]:
    """The forms of this run, the quadratic one where asked for, and eps(t) of the relative one."""
    if np.isnan(run.b):
        return _gradient_flow(run), run.distance / run.lam0
    return _heavy_ball(run, sharp)


def _gradient_flow(run: Motion) -> dict[Form, Energy]:
    """The forms of (2.5).

    V = L: L' = -Delta . H Delta <= -2 lambda_min(H(t)) L is the spectral form, and with lambda_min
    >= lambda_0 - sup ||H - H_ref|| the simple one, which Theorem 1 states as lambda_0 / 2.
    """
    certain = 2 * between(np.linalg.eigvalsh(run.H)[:, 0], 0 * run.lengths)
    top = float(np.linalg.norm(run.H, 2, axis=(1, 2)).max() + run.lengths.max())
    kicks = run.kicks + run.spread @ np.array([top, top**2])
    size = np.linalg.norm(run.errors[0]) / np.sqrt(2)
    least = run.lam0 if run.drift <= run.lam0 / 2 else 2 * (run.lam0 - run.drift)
    return {
        "simple": Energy(2 * run.lam0, np.full_like(certain, least), certain, size, 1.0, kicks),
        "spectral": Energy(2 * run.lam0, certain - run.lengths, certain, size, 1.0, kicks),
    }


def _heavy_ball(run: Motion, sharp: bool) -> tuple[dict[Form, Energy], np.ndarray]:
    """The forms of (3.5), and eps(t) of the relative one.

        V = (Delta, Delta') . P (Delta, Delta') / 2,   P = [[H_ref + c, beta], [beta, 1]],

    so that L <= V / (lambda_0 + c - beta^2). With c = 2 beta^2 - b beta the rate is

        b - sqrt((b - 2 beta)^2 + eps^2),
        eps = ||(H - H_ref) (H_ref - s)^{-1/2}|| <= ||H - H_ref|| / sqrt(lambda_0 - s),

    s = beta (b - beta), see `reference_rate`: the relative form has the first at each time, the
    simple one the second at its largest. The quadratic form has free c and beta and each kernel's
    own rate, `_local_rates`.
    """
    H_ref, lam0, b = run.H_ref, run.lam0, run.b
    top = float(np.linalg.norm(run.H, 2, axis=(1, 2)).max() + run.lengths.max())

    def form(ideal: float, local: np.ndarray, certain: np.ndarray, c: float, beta: float) -> Energy:
        return Energy(
            ideal,
            local,
            certain,
            float(np.sqrt(_start(run, c, beta))),
            lam0 + c - beta**2,
            run.kicks + run.spread @ _delays(H_ref, top, b, c, beta),
        )

    beta = _best_beta(run, lambda shift: run.drift / np.sqrt(lam0 - shift))
    certain = reference_rate(b, beta, run.distance.max() / np.sqrt(lam0 - beta * (b - beta)))
    simple = reference_rate(b, beta, run.drift / np.sqrt(lam0 - beta * (b - beta)))
    every = np.ones(run.ts.size - 1)
    forms: dict[Form, Energy] = {
        "simple": form(
            b - abs(b - 2 * beta), simple * every, certain * every, 2 * beta**2 - b * beta, beta
        )
    }
    some = _some(run)

    def distances(shift: float) -> Any:
        return reference_distance(run.H[some], H_ref, shift) + 0.5 * _mean_reach(run, -shift)

    beta = _best_beta(run, distances)
    c, shift = 2 * beta**2 - b * beta, beta * (b - beta)
    epsilon = reference_distance(run.H, H_ref, shift)
    reach = _reach(run.path, run.lengths, H_ref, -shift)
    forms["relative"] = form(
        b - abs(b - 2 * beta),
        reference_rate(b, beta, between(epsilon, -reach)),
        reference_rate(b, beta, between(epsilon, 0 * reach)),
        c,
        beta,
    )
    if not sharp:
        return forms, epsilon
    c, beta, rho = _best_form(run, some, (c, beta))
    reach = _reach(run.path, run.lengths, H_ref, c - beta**2)
    ideal = float(_local_rates(H_ref, H_ref[None], b, c, beta)[0])
    forms["quadratic"] = form(ideal, between(rho, reach), between(rho, 0 * reach), c, beta)
    return forms, epsilon


def _start(run: Motion, c: float, beta: float) -> float:
    """V(0) of P = [[H_ref + c, beta], [beta, 1]]."""
    D, V = run.errors[0], run.speeds[0]
    return float(0.5 * D @ run.H_ref @ D + 0.5 * c * D @ D + beta * D @ V + 0.5 * V @ V)


def _end(run: Motion, rate: float, c: float, beta: float) -> float:
    """-log of the bound at the run's end, impulses apart, over its duration; -inf without one."""
    floor, size = run.lam0 + c - beta**2, _start(run, c, beta)
    if not (floor > 0 and size > 0 and np.isfinite(rate)):
        return -np.inf
    return rate - float(np.log(size / floor)) / (run.ts[-1] - run.ts[0])


def _some(run: Motion) -> np.ndarray:
    """Six of the saves, on which forms are compared."""
    return np.unique(np.linspace(0, len(run.H) - 1, min(6, len(run.H))).astype(int))


def _mean_reach(run: Motion, shift: float) -> float:
    """The mean of `_reach` over 24 of the intervals, by which forms are compared."""
    some = np.unique(np.linspace(0, len(run.path) - 1, min(24, len(run.path))).astype(int))
    return float(np.mean(_reach(run.path[some], run.lengths[some], run.H_ref, shift)))


def _best_beta(run: Motion, distances: Callable[[float], Any]) -> float:
    """The beta in (0, b/2] with beta (b - beta) < lambda0 that bounds the end best, given eps at
    some times of every shift."""
    b = run.b
    most = 0.5 * (b - np.sqrt(max(b**2 - 4 * run.lam0, 0.0)))

    def loss(beta: float) -> float:
        rate = float(np.mean(reference_rate(b, beta, distances(beta * (b - beta)))))
        return -_end(run, rate, 2 * beta**2 - b * beta, beta)

    ends = (1e-3 * most, most * (1 - 1e-6))
    found = scipy.optimize.minimize_scalar(
        loss, bounds=ends, method="bounded", options={"maxiter": 25}
    ).x
    return float(min((found, ends[1]), key=loss))


def friction_for(run: Motion) -> tuple[float, float]:
    """(b, rate): 2 alpha and the mean of 2 alpha - eps(t), S = H_ref - alpha^2, where it is
    largest."""
    some, root = _some(run), np.sqrt(run.lam0)

    def loss(alpha: float) -> float:
        epsilon = np.mean(reference_distance(run.H[some], run.H_ref, alpha**2))
        epsilon += 0.5 * _mean_reach(run, -(alpha**2))
        return float(epsilon - 2 * alpha)

    alpha = float(
        scipy.optimize.minimize_scalar(
            loss, bounds=(1e-3 * root, root * (1 - 1e-6)), method="bounded", options={"maxiter": 25}
        ).x
    )
    reach = _reach(run.path, run.lengths, run.H_ref, -(alpha**2))
    epsilon = between(reference_distance(run.H, run.H_ref, alpha**2), -reach)
    return 2 * alpha, mean(2 * alpha - epsilon, run.ts)


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
        moves = ("distance", "path", "lengths", "kicks", "spread")
        smaller = run._replace(
            H=run.H_ref + scale * (run.H - run.H_ref),
            **{name: scale * getattr(run, name) for name in moves},
        )
        sharp = shares.get("quadratic", np.inf) < scale
        for name, form in forms_of(smaller, sharp)[0].items():
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


def _reach(path: np.ndarray, lengths: np.ndarray, H_ref: np.ndarray, shift: float) -> np.ndarray:
    """Bounds of ||E (H_ref + shift)^{-1/2}||_2 for every |E| <= path, interval by interval."""
    values, vectors = np.linalg.eigh(H_ref)
    root = np.abs((vectors / np.sqrt(values + shift)) @ vectors.T)
    return np.minimum(
        lengths / np.sqrt(values[0] + shift), np.linalg.norm(path @ root, 2, axis=(1, 2))
    )


def _delays(H_ref: np.ndarray, top: float, b: float, c: float, beta: float) -> np.ndarray:
    """Bounds of |A x|_P and |A A x|_P over |J|, x = (0, J), ||H|| <= top: an impulse s before has
    become x + s A x + O(s^2/2)."""
    stiff = np.linalg.norm(H_ref, 2) + c - beta**2
    return np.array(
        [np.sqrt(stiff + (b - beta) ** 2), np.hypot(b * np.sqrt(stiff), top + abs(b * (b - beta)))]
    )


def _local_rates(H_ref: np.ndarray, H: np.ndarray, b: float, c: float, beta: float) -> np.ndarray:
    """rho(t) of P = [[H_ref + c, beta], [beta, 1]] for each kernel; -inf when P is not positive
    definite."""
    n = len(H_ref)
    eye = np.eye(n)
    P = np.block([[H_ref + c * eye, beta * eye], [beta * eye, eye]])
    try:
        inverse = np.linalg.inv(np.linalg.cholesky(P))
    except np.linalg.LinAlgError:
        return np.full(len(H), -np.inf)
    # rho is the largest number with P A + A^T P <= -rho P, so -lambda_max of R (P A + A^T P) R^T,
    # R the inverse of P's Cholesky factor, where
    # P A + A^T P = [[-2 beta H, H_ref + c - b beta - H], [., 2 beta - 2 b]], since d/dt (Delta,
    # Delta') = (Delta', -H Delta - b Delta')
    S = np.zeros((len(H), 2 * n, 2 * n))
    S[:, :n, :n] = -2 * beta * H
    S[:, :n, n:] = H_ref + (c - b * beta) * eye - H
    S[:, n:, :n] = S[:, :n, n:].transpose(0, 2, 1)
    S[:, n:, n:] = (2 * beta - 2 * b) * eye
    last = [2 * n - 1, 2 * n - 1]
    return -np.array(
        [
            scipy.linalg.eigh(M, eigvals_only=True, subset_by_index=last, check_finite=False)[0]
            for M in inverse @ S @ inverse.T
        ]
    )


def _best_form(
    run: Motion, some: np.ndarray, relative: tuple[float, float]
) -> tuple[float, float, np.ndarray]:
    """(c, beta, rho) of the form that bounds the end best, searched on some of the times from the
    relative form and two others."""
    H_ref, H, b, lam0 = run.H_ref, run.H, run.b, run.lam0

    def value(c: float, beta: float, kernels: np.ndarray) -> tuple[float, np.ndarray]:
        rates = _local_rates(H_ref, kernels, b, c, beta)
        if not np.all(np.isfinite(rates)):
            return -np.inf, rates
        reach = _mean_reach(run, c - beta**2)
        return _end(run, float(np.mean(rates) - 0.5 * reach), c, beta), rates

    def loss(u: Any) -> float:
        found = value(u[0] * lam0, u[1] * np.sqrt(lam0), H[some])[0] / np.sqrt(lam0)
        return -found if np.isfinite(found) else 1e3

    alpha = b / 2 / np.sqrt(lam0)
    near = (relative[0] / lam0, relative[1] / np.sqrt(lam0))
    start = min([near, (0.05, min(alpha, 0.9)), (0.5, 0.5)], key=loss)
    u = scipy.optimize.minimize(
        loss, start, method="Nelder-Mead", options={"maxfev": 60, "xatol": 1e-3, "fatol": 1e-4}
    ).x
    forms = [(float(u[0] * lam0), float(u[1] * np.sqrt(lam0))), relative]
    found = [(*form, *value(*form, H)) for form in forms]
    c, beta, _, rho = max(found, key=lambda one: one[2])
    return c, beta, rho

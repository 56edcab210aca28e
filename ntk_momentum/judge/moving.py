"""The form of a certificate for Nesterov's flow: a Lyapunov function whose reference follows the
kernel.

With u = t^{d/2} Delta, (4.3) with a moving kernel is u'' + (H(t) - q/t^2) u = 0, q = d (d - 2)/4,
which has no friction: an energy cannot pay for what the kernel moves with a rate of its own, as the
heavy ball's does, but its loss t^{-d} falls short only by what is paid in all. On a reference R,

    V = |u'|^2/2 + u.S u/2,   S(t) = R - q/t^2,   L <= t^{-d} V / lambda_min(S),
    V' = u'.(R - H) u + u.S' u/2 <= mu(t) V,   mu = (sigma + sqrt(sigma^2 + 4 eps^2))/2,

with eps = ||(H - R) S^{-1/2}||_2 and sigma = max(0, 2 q/t^3)/lambda_min(S). R is the kernel itself
at every k-th saved time. There V changes from S_- to S_+, at most by lambda_max(S_-^{-1/2} S_+
S_-^{-1/2}): a kernel that falls costs nothing, and one that oscillates and comes to rest a finite
amount. An impulse iota raises sqrt V by t^{d/2} |iota|/sqrt 2.

The form begins at a saved time with t^2 lambda_min(H) > q, with the error and the velocity that the
run has there.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .forms import Energy, Motion, highest, operator_norm

STARTS = (0.0, 1.2, 1.5, 2.0)
"""Where it may begin: t sqrt(lambda_min) in units of sqrt|q|. Chosen; later ones bound the end ever
better, and less and less of the run."""
HELD = (1, 4, 16, 64)
"""For how many intervals a reference may be kept. Chosen."""


def nesterov_form(run: Motion, d: float) -> tuple[Energy, int, np.ndarray] | None:
    """(the form that bounds the end best, the save at which it begins, eps at the saves from there
    on), or None where there is none."""
    size = (
        run.ts**2 * run.extremes[:, 0]
        - np.multiply.outer(np.square(STARTS), abs(d * (d - 2)) / 4)[:, None]
    )
    firsts = sorted({int(np.argmax(row)) for row in size > 0 if row.any()})
    if not firsts:
        return None
    found = []
    for kept in HELD:
        pieces = _pieces(run, d, kept, firsts[0])
        for first in firsts:
            if first < run.ts.size - 1 and np.all(pieces.low[first - firsts[0] :] > 0):
                form = _form(run, d, kept, pieces.since(first - firsts[0]), first)
                found.append((*form, first))
    if not found:
        return None
    energy, epsilon, first = min(found, key=lambda one: one[0].bound(run.ts[one[2] :], 1.0)[0][-1])
    return energy, first, epsilon


class _Pieces(NamedTuple):
    """Interval by interval: lambda_min(S) at its least, eps at both ends (2, T - 1), what H may do
    in between, sigma, and log of what V grows by at its end."""

    low: np.ndarray
    epsilon: np.ndarray
    reach: np.ndarray
    sigma: np.ndarray
    jumps: np.ndarray

    def since(self, first: int) -> _Pieces:
        return _Pieces(*(values[..., first:] for values in self))


def _references(run: Motion, kept: int) -> np.ndarray:
    """Of each interval, the save whose kernel is its reference."""
    return np.arange(run.ts.size - 1) // kept * kept


def _pieces(run: Motion, d: float, kept: int, first: int) -> _Pieces:
    ts, H, at = run.ts[first:], run.H[first:], _references(run, kept)[first:]
    q, top = d * (d - 2) / 4, run.top
    # S over an interval is least at its start, where q > 0, and at its end otherwise.
    shift = q / np.where(q > 0, ts[:-1], ts[1:]) ** 2
    low, jumps, epsilon = -np.ones(at.size), np.zeros(at.size), np.zeros((2, at.size))
    for k, reference in enumerate(at):
        if k == 0 or reference != at[k - 1]:
            values, vectors = np.linalg.eigh(run.H[reference])
        if values[0] - shift[k] <= np.finfo(float).eps * top:  # round-off is not positive
            continue
        low[k] = values[0] - shift[k]
        for end in (0, 1):
            if first + k + end != reference:
                moved = H[k + end] @ vectors - vectors * values
                epsilon[end, k] = operator_norm(moved / np.sqrt(values - shift[k]))
        if k + 1 < at.size and at[k + 1] != reference:
            changes = q / ts[k + 1] ** 2
            if values[0] > changes:
                scale = (values - changes) ** -0.5
                new = vectors.T @ run.H[at[k + 1]] @ vectors - changes * np.eye(values.size)
                jumps[k] = np.log(max(1.0, highest(new * np.outer(scale, scale))))
    reach = run.lengths[first:] / np.sqrt(np.abs(low))
    sigma = np.maximum(2 * q / ts[:-1] ** 3, 0.0) / np.abs(low)
    return _Pieces(low, epsilon, reach, sigma, jumps)


def _form(
    run: Motion, d: float, kept: int, pieces: _Pieces, first: int
) -> tuple[Energy, np.ndarray]:
    ts, (low, epsilon, reach, sigma, jumps) = run.ts[first:], pieces

    def growth(epsilon: np.ndarray) -> np.ndarray:
        return 0.5 * (sigma + np.sqrt(sigma**2 + 4 * epsilon**2))

    lasting = jumps / np.diff(ts)
    local, certain = (
        -growth(eps) - lasting for eps in (0.5 * (epsilon.sum(0) + reach), epsilon.mean(0))
    )
    D, V = run.errors[first], run.speeds[first]
    u, speed = ts[0] ** (d / 2) * D, ts[0] ** (d / 2) * (V + d / (2 * ts[0]) * D)
    reference = run.H[_references(run, kept)[first]]
    start = 0.5 * speed @ speed + 0.5 * u @ reference @ u - d * (d - 2) / 8 / ts[0] ** 2 * u @ u
    floor = np.append(low, low[-1]) * ts**d
    kicks = _kicks(run, d, first)
    energy = Energy(-growth(0 * sigma), local, certain, float(np.sqrt(start)), floor, kicks, d)
    return energy, np.append(epsilon[0], epsilon[1, -1])


def _kicks(run: Motion, d: float, first: int) -> np.ndarray:
    """By how much impulses raise sqrt(2 V) on each interval.

    An impulse iota at t - s makes u' jump by t^{d/2} (1 - s/t)^{d/2} iota and has become, at t,
    (s, 1) of that but for s^2/2 ||S||; the sums over a step are of iota, s iota and s^2 |iota|/2.
    """
    before, after = run.ts[first:-1], run.ts[first + 1 :]
    q, lag = abs(d * (d - 2) / 4), d / (2 * before)
    fast = np.sqrt(run.top + q / before**2)
    second = fast**2 + 2 * lag * fast + lag * abs(d / 2 - 1) / before
    spread = run.spread[first:]
    return after ** (d / 2) * (
        run.kicks[first:] + (fast + lag) * spread[:, 0] + second * spread[:, 1]
    )

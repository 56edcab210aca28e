"""Kernels that switch: lambda_min(H(t)) >= mu with a piecewise-constant H does not imply decay
(counterexamples to Lemmas 6 and 8).

One sample, n = 1: H is `low` while |Delta| grows and `high` while it shrinks. The spring is soft on
the way out and stiff on the way back, so every half cycle pumps energy in, as on a swing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import scipy.integrate


def switched_peaks(
    friction: Callable[[float], float], low: float, high: float, peaks: int, start: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """(times, |Delta|) of the first `peaks` turning points, from Delta = 1 at rest at time `start`;
    events located to round-off.

    friction: b(t) >= 0. Each half cycle is solved afresh from a unit amplitude, so that growth over
    many decades stays exact.
    """
    t, amplitude, times, sizes = start, 1.0, [start], [1.0]
    for _ in range(peaks):
        t, state = _until(friction, high, t, [amplitude and 1.0, 0.0], component=0)
        t, state = _until(friction, low, t, [0.0, state[1]], component=1)
        amplitude *= abs(state[0])
        times.append(t)
        sizes.append(amplitude)
    return np.array(times), np.array(sizes)


def _until(
    friction: Callable[[float], float],
    stiffness: float,
    t: float,
    state: list[float],
    component: int,
) -> tuple[float, list[float]]:
    """Solve Delta'' + b(t) Delta' + stiffness Delta = 0 until the component (0: Delta, 1: Delta')
    vanishes."""

    def event(s: float, u: Sequence[float] | np.ndarray) -> float:
        return u[component]

    vars(event).update(terminal=True, direction=-np.sign(state[component]))
    run = scipy.integrate.solve_ivp(
        lambda s, u: [u[1], -friction(s) * u[1] - stiffness * u[0]],
        (t, t + 1e4),  # longer than any half cycle of a kernel of order one; the event ends it
        state,
        events=event,
        method="DOP853",
        rtol=1e-11,
        atol=1e-13,
    )
    return float(run.t_events[0][0]), run.y_events[0][0].tolist()

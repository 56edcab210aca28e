"""Kernels that move against the flow: lambda_min(H(t)) >= mu does not imply decay (counterexamples
to Lemmas 6 and 8), and no bound on a moving kernel is better than `bounds.moving_kernel_rate`.

One sample, n = 1: H is `low` while |Delta| grows and `high` while it shrinks. The spring is soft on
the way out and stiff on the way back, so every half cycle pumps energy in, as on a swing. At b = 2
sqrt(mu) it wins above high/low = 17.847.

Two samples and more: a reflection that turns with the error, H(t) = center + radius R(t), wins
above 9, where the bound ends. Its eigenvalues never change; only its axes turn.
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


def worst_kernel(
    b: float, center: float, radius: float
) -> tuple[Callable[[float], np.ndarray], np.ndarray, np.ndarray]:
    """A kernel of two samples within `radius` of `center` times the identity on which the heavy
    ball decays no faster than `bounds.moving_kernel_rate`, and the start on which it does not.

    With s^2 = center - alpha^2 and u = alpha Delta + Delta', the proof loses nothing when E Delta =
    -radius |Delta| u/|u| and |u| = s |Delta|. In the plane read as complex numbers this is Delta =
    e^{(z - alpha) t}, u = z Delta, where z^2 - (radius/s) z + s^2 = 0: |z| = s, Re z = radius/(2
    s), and E is the reflection that takes the direction of Delta to that of -u. Where alpha^2 >
    center - radius/2 the worst kernel is the constant center - radius.

    Args:
        b: friction.
        center, radius: H(t) has the eigenvalues center - radius and center + radius.

    Returns:
        t -> H(t) of shape (2, 2), Delta(0) and Delta'(0).
    """
    alpha = b / 2
    if alpha**2 > center - radius / 2:
        slow = -alpha + np.sqrt(alpha**2 - center + radius)
        start = np.array([1.0, 0.0])
        return lambda t: (center - radius) * np.eye(2), start, slow * start
    s = np.sqrt(center - alpha**2)
    z = complex(radius / (2 * s), np.sqrt(s**2 - (radius / (2 * s)) ** 2))
    phase = np.angle(z) + np.pi

    def kernel(t: float) -> np.ndarray:
        angle = 2 * z.imag * t + phase
        cos, sin = np.cos(angle), np.sin(angle)
        return center * np.eye(2) + radius * np.array([[cos, sin], [sin, -cos]])

    return kernel, np.array([1.0, 0.0]), np.array([z.real - alpha, z.imag])


def measured_exponent(
    b: float,
    kernel: Callable[[float], np.ndarray],
    residual: np.ndarray,
    velocity: np.ndarray,
    end: float,
) -> float:
    """-log(L(end)/L(0)) / end of Delta'' + b Delta' + H(t) Delta = 0, solved from this start."""
    n = len(residual)
    run = scipy.integrate.solve_ivp(
        lambda t, x: np.concatenate([x[n:], -b * x[n:] - kernel(t) @ x[:n]]),
        (0.0, end),
        np.concatenate([residual, velocity]),
        method="DOP853",
        rtol=1e-10,
        atol=1e-14,
    )
    return float(-2 * np.log(np.linalg.norm(run.y[:n, -1]) / np.linalg.norm(residual)) / end)


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

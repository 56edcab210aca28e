"""Lyapunov functions of the error dynamics: the paper's (A.6) and (B.1), the sharper V#, and the
one on a fixed reference kernel, which repairs Theorem 2 at the paper's own budget.

Arguments: residual Delta (n,), velocity dDelta/dt (n,), a symmetric kernel (n, n). All are
quadratic forms in (Delta, dDelta/dt).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Array, Float

Vector = Float[Array | np.ndarray, " n"]
Matrix = Float[Array | np.ndarray, "n n"]


def heavy_ball_energy(residual: Vector, velocity: Vector, kernel: Matrix, alpha: float) -> Any:
    """(A.6): V = Delta . H Delta / 2 + |alpha Delta + Delta'|^2 / 2. Constant H >= alpha^2, b = 2
    alpha: V' <= -alpha V."""
    return 0.5 * residual @ (kernel @ residual) + 0.5 * np.sum(
        np.square(alpha * residual + velocity)
    )


def heavy_ball_energy_rate(residual: Vector, velocity: Vector, kernel: Matrix, alpha: float) -> Any:
    """dV/dt of (A.6) along (3.5) with constant H: -alpha (Delta . H Delta + alpha Delta . Delta' +
    |Delta'|^2)."""
    return -alpha * (
        residual @ (kernel @ residual) + alpha * residual @ velocity + velocity @ velocity
    )


def sharp_energy(
    residual: Vector, velocity: Vector, kernel: Matrix, mu: float, slack: float = 0.0
) -> Any:
    """V# = Delta . (H - mu) Delta / 2 + |sqrt(mu) Delta + Delta'|^2 / 2 + slack |Delta|^2 / 2.

    Constant H, b = 2 sqrt(mu): without slack dV#/dt = -2 sqrt(mu) V# exactly, for every symmetric
    H. With 0 < slack <= rate_loss^2 it is definite for H >= mu and certifies the exponent 2
    sqrt(mu) - rate_loss.
    """
    return heavy_ball_energy(residual, velocity, kernel, np.sqrt(mu)) - 0.5 * (mu - slack) * np.sum(
        np.square(residual)
    )


def nesterov_energy(
    t: float, residual: Vector, velocity: Vector, kernel: Matrix, a: float, d: float
) -> Any:
    """(B.1): V = t^a Delta . H Delta / 2 + (2d - a)^2 t^{a-2} |Delta + 2t/(2d - a) Delta'|^2 / 8.
    Not monotone."""
    mixed = residual + 2 * t / (2 * d - a) * velocity
    return t**a * 0.5 * residual @ (kernel @ residual) + (2 * d - a) ** 2 * t ** (
        a - 2
    ) / 8 * np.sum(np.square(mixed))


def reference_energy(
    residual: Vector, velocity: Vector, reference: Matrix, b: float, beta: float
) -> Any:
    """V = Delta.S Delta/2 + |u|^2/2, S = H_ref - beta (b - beta), u = beta Delta + Delta'.

    With E(t) = H(t) - H_ref, along Delta'' + b Delta' + H(t) Delta = 0 and for every motion of H,
    u' = -(b - beta) u + (beta (b - beta) - H) Delta, hence

        V' = -beta Delta.S Delta - (b - beta) |u|^2 - u.E Delta <= -`reference_rate` V,

    and L <= V / lambda_min(S). At beta = b/2 = alpha it is V' = -2 alpha V - u.E Delta. An impulse
    iota raises sqrt V by at most |iota|/sqrt 2.
    """
    shift = beta * (b - beta)
    return sharp_energy(residual, velocity, reference, beta**2, beta**2 - shift)


def reference_rate(b: float, beta: Any, distance: Any) -> Any:
    """b - sqrt((b - 2 beta)^2 + eps^2), eps = `reference_distance`: V' <= -rate V for
    `reference_energy`; 2 alpha - eps at beta = alpha.

    It is -lambda_max of [[-2 beta, eps], [eps, -2 (b - beta)]], the form in (|S^{1/2} Delta|, |u|).
    """
    return b - np.hypot(b - 2 * beta, distance)


def reference_distance(kernel: Any, reference: Matrix, shift: float = 0.0) -> Any:
    """eps = ||(H - H_ref) S^{-1/2}||_2, S = H_ref - shift > 0, of one kernel (n, n) or of many; at
    most ||H - H_ref||_2 / sqrt(lambda_min(S))."""
    values, vectors = np.linalg.eigh(np.asarray(reference))
    root = vectors / np.sqrt(values - shift)
    return np.linalg.norm((np.asarray(kernel) - reference) @ root, 2, axis=(-2, -1))


def jump_factor(before: Matrix, after: Matrix) -> float:
    """rho = max(1, lambda_max(H_-^{-1} H_+)): V of (A.6) grows at most by it when the kernel jumps
    (velocity apart)."""
    import scipy.linalg

    return float(
        max(1.0, scipy.linalg.eigh(np.asarray(after), np.asarray(before), eigvals_only=True)[-1])
    )

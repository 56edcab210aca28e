"""Lyapunov functions of the error dynamics: the paper's (A.6) and (B.1), the sharper V#, and the
one with a fixed reference kernel.

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
    alpha: V' <= -alpha V.

    With a fixed reference in place of H(t) this is V_infinity, which satisfies V' <= -(alpha -
    eps(t)) V, eps = ||(H(t) - H_ref) H_ref^{-1/2}||_2, whenever alpha^2 <= lambda_min(H_ref).
    """
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


def reference_distance(kernel: Matrix, reference: Matrix) -> float:
    """eps = ||(H - H_ref) H_ref^{-1/2}||_2, at most ||H - H_ref||_2 / sqrt(lambda_min(H_ref))."""
    values, vectors = np.linalg.eigh(np.asarray(reference))
    return float(np.linalg.norm((np.asarray(kernel) - reference) @ (vectors / np.sqrt(values)), 2))


def jump_factor(before: Matrix, after: Matrix) -> float:
    """rho = max(1, lambda_max(H_-^{-1} H_+)): V of (A.6) grows at most by it when the kernel jumps
    (velocity apart)."""
    import scipy.linalg

    return float(
        max(1.0, scipy.linalg.eigh(np.asarray(after), np.asarray(before), eigvals_only=True)[-1])
    )

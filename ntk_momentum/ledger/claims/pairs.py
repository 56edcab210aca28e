"""Two unit inputs at an angle that tends to zero, so that lambda0 does: H(0) by its exact law at
any width."""

from __future__ import annotations

import functools

import numpy as np

DELTA = 0.1
ANGLES = (1.0, 1e-1, 1e-2, 1e-3)
FAMILY = (
    "two unit inputs at angle 1, 0.1, 0.01, 0.001 (lambda0 ~ angle/(2 pi)), H(0) drawn "
    "from its exact law; delta = 0.1"
)


@functools.cache
def pair_eigenvalues(theta: float) -> tuple[float, float]:
    """(lambda0, 1 - cos theta) of two unit inputs at angle theta, accurate for tiny angles: lambda0
    -> theta / (2 pi)."""
    gap = 2 * np.sin(theta / 2) ** 2
    return 0.5 * gap + (1 - gap) * theta / (2 * np.pi), gap


def pair_kernels(theta: float, width: float, trials: int, rng: np.random.Generator) -> np.ndarray:
    """Draws (trials, 3) of H_11, H_22 and H_12 / cos theta of H(0) for two inputs at angle theta,
    any width, by their exact law."""
    p = theta / (2 * np.pi)
    both, first, second, _ = rng.multinomial(
        round(width), [0.5 - p, p, p, 0.5 - p], size=trials
    ).T.astype(float)
    return np.stack([both + first, both + second, both], axis=1) / round(width)


def pair_lambda_min(
    theta: float, width: float, trials: int, rng: np.random.Generator
) -> np.ndarray:
    """Smallest eigenvalue of those draws, by det / lambda_max, which does not cancel."""
    gap = pair_eigenvalues(theta)[1]
    cos = 1 - gap
    a, d, both = pair_kernels(theta, width, trials, rng).T
    first, second = a - both, d - both
    determinant = both * (first + second) + first * second + gap * (1 + cos) * both**2
    largest = (a + d) / 2 + np.sqrt(((a - d) / 2) ** 2 + (cos * both) ** 2)
    return determinant / np.where(largest > 0, largest, 1.0)

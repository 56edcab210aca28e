"""A linear model solved in its weights: how far they move under the three flows when the kernel is
frozen."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import scipy.integrate


@functools.cache
def linear_runs() -> dict[str, tuple[np.ndarray, ...]]:
    """A linear model f = J w, n = 3, mp = 20 x 2, solved in its weights for the three flows: w(t) -
    w(0), Delta(t), J, D0."""
    rng = np.random.default_rng(8)
    m, p, n = 20, 2, 3
    J = rng.standard_normal((n, m * p)) / np.sqrt(m)
    D0 = rng.standard_normal(n)
    lam = float(np.linalg.eigvalsh(J @ J.T)[0])
    frictions = {
        "gradient flow": None,
        "heavy ball": lambda t: 2 * np.sqrt(lam),
        "Nesterov, d = 3": lambda t: 3 / t if t > 0 else np.inf,
    }
    runs: dict[str, tuple[np.ndarray, ...]] = {}
    for name, friction in frictions.items():

        def field(t: float, s: np.ndarray, friction: Callable | None = friction) -> np.ndarray:
            u, v = np.split(s, 2)
            force = J.T @ (D0 + J @ u)
            if friction is None:
                return np.concatenate([-force, 0 * v])
            if t == 0.0 and not np.isfinite(
                friction(t)
            ):  # regular start of Nesterov: w''(0) = -force/(1 + d)
                return np.concatenate([v, -force / 4])
            return np.concatenate([v, -friction(t) * v - force])

        end = scipy.integrate.solve_ivp(
            field,
            (0, 12 / np.sqrt(lam)),
            np.zeros(2 * m * p),
            rtol=1e-9,
            atol=1e-12,
            method="DOP853",
            t_eval=np.linspace(0, 12 / np.sqrt(lam), 60),
        )
        moved = end.y[: m * p]
        runs[name] = (moved, D0[:, None] + J @ moved, J, D0)
    return runs


def one_sample(
    friction: Callable[[float], float], until: float, d: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """(times, |w_r(t) - w_r(0)| of the neurons that move) for one unit input and 20 neurons, half
    of them active: H = 1/2, Delta = 1 at rest, solved in the weights, one number a neuron.

    d: of a friction d/t, for its regular start w''(0) = -force/(1 + d).
    """
    J = np.repeat([1.0, -1.0, 0.0], [5, 5, 10]) / np.sqrt(20)

    def field(t: float, s: np.ndarray) -> np.ndarray:
        u, v = np.split(s, 2)
        force = J * (1.0 + J @ u)
        drag = d / (1 + d) * force if t == 0.0 and d else -friction(t) * v
        return np.concatenate([v, drag - force])

    run = scipy.integrate.solve_ivp(
        field,
        (0, until),
        np.zeros(40),
        rtol=1e-9,
        atol=1e-12,
        method="DOP853",
        t_eval=np.linspace(0, until, 2001),
    )
    return run.t, np.abs(run.y[0])


def displacement_identity() -> tuple[float, float]:
    """(error of w(t) - w(0) = J^T H^{-1} (Delta(t) - D0), largest |w_r(t) - w_r(0)| over its bound
    with |J_r| for sqrt(n/m))."""
    error, ratio = 0.0, 0.0
    for moved, residual, J, D0 in linear_runs().values():
        H = J @ J.T
        error = max(
            error, float(np.abs(moved - J.T @ np.linalg.solve(H, residual - D0[:, None])).max())
        )
        rows = np.linalg.norm(moved.reshape(20, 2, -1), axis=1)
        size = np.linalg.norm(J.reshape(3, 20, 2), axis=(0, 2))[:, None]
        ratio = max(
            ratio, float(np.max(rows / (size * 2 * np.linalg.norm(D0) / np.linalg.eigvalsh(H)[0])))
        )
    return error, ratio

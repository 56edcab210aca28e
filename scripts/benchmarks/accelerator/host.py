"""Float64 results by numpy alone, for what the device is judged by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import gamma, jv


def gradient(X: np.ndarray, y: np.ndarray, W: np.ndarray, a: np.ndarray) -> np.ndarray:
    """The gradient of the squared loss in the hidden weights of a two-layer ReLU net, (m, p)."""
    z = X @ W.T
    active, scale = z > 0, len(a) ** -0.5
    residual = scale * ((active * z) @ a) - y
    return scale * a[:, None] * ((active * residual[:, None]).T @ X)


def loss(X: np.ndarray, y: np.ndarray, W: np.ndarray, a: np.ndarray) -> float:
    """The squared loss."""
    f = np.maximum(X @ W.T, 0) @ a / len(a) ** 0.5
    return 0.5 * float(np.sum((f - y) ** 2))


def final_loss(data: Any, net: Any, end: float, friction: Callable | None, steps: int = 8) -> float:
    """The loss at a time that a flow on the weights reaches, by the classical Runge-Kutta method.

    friction: b(t) of a flow with momentum, None for the gradient flow. At t = 0 the velocity is 0,
    and a friction d/t acts there as (1 + d) times the mass.
    """
    X, y, W, a = (np.asarray(x, np.float64) for x in (data.X, data.y, net.hidden, net.output))

    def rate(t, state):
        pull = gradient(X, y, state[0], a)
        if friction is None:
            return (-pull,)
        if t == 0:
            return state[1], -pull / (1 + friction(1.0)) if np.isinf(friction(0.0)) else -pull
        return state[1], -pull - friction(t) * state[1]

    state, h = (W,) if friction is None else (W, np.zeros_like(W)), end / steps
    move = lambda state, rates, h: tuple(x + h * r for x, r in zip(state, rates, strict=True))
    for k in range(steps):
        t = k * h
        k1 = rate(t, state)
        k2 = rate(t + h / 2, move(state, k1, h / 2))
        k3 = rate(t + h / 2, move(state, k2, h / 2))
        k4 = rate(t + h, move(state, k3, h))
        mean = tuple((p + 2 * q + 2 * r + s) / 6 for p, q, r, s in zip(k1, k2, k3, k4, strict=True))
        state = move(state, mean, h)
    return loss(X, y, state[0], a)


def residuals(
    kernel: np.ndarray, start: np.ndarray, name: str, parameter: float, ts: np.ndarray
) -> np.ndarray:
    """The error (time, n) under a constant kernel: (2.5), (3.5) with friction b, (4.3) with d."""
    values, vectors = np.linalg.eigh(kernel)
    values, t = np.maximum(values, 1e-300)[None, :], ts[:, None]
    if name == "gradient flow":
        factor = np.exp(-values * t)
    elif name == "heavy ball":
        root = np.sqrt((parameter / 2) ** 2 - values + 0j)
        decay = np.exp(-parameter * t / 2)
        factor = (decay * (np.cosh(root * t) + parameter / 2 * np.sinh(root * t) / root)).real
    else:
        order, s = (parameter - 1) / 2, np.sqrt(values) * t
        factor = np.where(
            s > 1e-8, gamma(order + 1) * (2 / np.maximum(s, 1e-8)) ** order * jv(order, s), 1.0
        )
    return (factor * (vectors.T @ start)) @ vectors.T


def krylov_exponential(
    basis: np.ndarray, diagonal: np.ndarray, beside: np.ndarray, size: float, time: float
) -> np.ndarray:
    """exp(-time H) v from Lanczos vectors (order, n), started with v of that size."""
    matrix = np.diag(diagonal) + np.diag(beside[:-1], 1) + np.diag(beside[:-1], -1)
    values, vectors = np.linalg.eigh(matrix)
    return size * basis.T @ (vectors @ (np.exp(-time * values) * vectors[0]))

"""Gradient descent (2.1) and its gradient flow (2.2)."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ..errors import check_positive
from .base import AbstractFlow, AbstractOptimizer, FrozenStep, State


class GradientFlow(AbstractFlow):
    """dw/dt = -grad L(w) (2.2); on the error, dDelta/dt = -H Delta (2.5)."""

    name: ClassVar[str] = "gradient_flow"

    def init(self, w: PyTree) -> State:
        return State(w, None)

    def vector_field(self, t, state, gradient):
        return State(jax.tree.map(jnp.negative, gradient), None)

    def mode(self, eigenvalue, t):
        """phi = exp(-lambda t)."""
        phi = jnp.exp(-eigenvalue * t)
        return phi, -eigenvalue * phi

    def discretize(self, h):
        """Gradient descent with eta = h, compared at t = k h: Euler's method, order 1."""
        return GradientDescent(h), 0.0 * h

    def frozen_step(self, eigenvalues, t, h, residual, velocity):
        """Delta decays as exp(-lambda h); its integral is (1 - exp(-lambda h)) / lambda, without
        cancellation."""
        x = eigenvalues * h
        safe = jnp.where(jnp.abs(x) > 1e-30, x, 1.0)
        integral = h * jnp.where(jnp.abs(x) > 1e-30, -jnp.expm1(-safe) / safe, 1.0) * residual
        after, zero, nothing = jnp.exp(-x) * residual, jnp.zeros_like(residual), jnp.zeros_like(h)
        return FrozenStep(after, -eigenvalues * after, integral, zero, nothing, nothing)

    def fastest_rate(self, lambda_max):
        return lambda_max

    def lyapunov(self, t, residual, velocity, kernel):
        """L = |Delta|^2 / 2, of which L' = -Delta . H Delta."""
        return 0.5 * jnp.sum(residual**2)


class GradientDescent(AbstractOptimizer):
    """w_{k+1} = w_k - eta grad L(w_k) (2.1)."""

    eta: Any
    name: ClassVar[str] = "gradient_descent"

    def __check_init__(self):
        check_positive("the step size eta", self.eta)

    def init(self, params: PyTree) -> tuple[()]:
        return ()

    def update(self, updates, state, params=None):
        return jax.tree.map(lambda g: -self.eta * g, updates), state

    def flow(self):
        """Time is t = k eta."""
        return GradientFlow(), self.eta


def gradient_descent(eta: Any) -> GradientDescent:
    """Gradient descent (2.1) with step size eta > 0, as an optax-style transformation."""
    return GradientDescent(eta)

"""Polyak's heavy ball (3.1) and the heavy ball with friction (3.2), tied by a second-order map."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ..errors import check_interval, check_positive
from .base import AbstractMomentumFlow, AbstractOptimizer, State
from .special import damped_oscillator


class HeavyBall(AbstractMomentumFlow):
    """w'' + b w' + grad L(w) = 0 (3.2), w'(0) = 0; on the error, Delta'' + b Delta' + H Delta = 0
    (3.5).

    b: friction, >= 0, in units of 1/time. The paper takes b = sqrt(2 lambda_0); for a constant
    kernel b = 2 sqrt(lambda_min) decays fastest.
    """

    b: Any
    name: ClassVar[str] = "heavy_ball"

    def __check_init__(self):
        check_positive("the friction b", self.b, strict=False)

    def friction(self, t):
        return jnp.asarray(self.b)

    def vector_field(self, t, state, gradient):
        return State(state.v, jax.tree.map(lambda v, g: -self.b * v - g, state.v, gradient))

    def mode(self, eigenvalue, t):
        """phi = exp(-b t / 2) (cos wt + (b / 2w) sin wt), w^2 = lambda - b^2/4, and its other
        regimes."""
        return damped_oscillator(eigenvalue, self.b, t)

    def discretize(self, h):
        """beta = (1 - bh/2)/(1 + bh/2), eta = h^2/(1 + bh/2): the central difference, order 2 with
        a cold start at t = h/2.

        The printed map (eta = h^2, beta = 1 - bh) is of first order only.
        """
        check_positive("the step h", h)
        check_positive(
            "1 - b h / 2",
            1 - self.b * h / 2,
            strict=False,
            hint="Take h <= 2/b, so that beta >= 0.",
        )
        half = self.b * h / 2
        return HeavyBallMethod(h**2 / (1 + half), (1 - half) / (1 + half)), h / 2

    def lyapunov(self, t, residual, velocity, kernel):
        """(A.6): V = Delta . H Delta / 2 + |alpha Delta + Delta'|^2 / 2 with alpha = b/2."""
        return 0.5 * residual @ (kernel @ residual) + 0.5 * jnp.sum(
            (0.5 * self.b * residual + velocity) ** 2
        )


class HeavyBallMethod(AbstractOptimizer):
    """w_{k+1} = w_k - eta grad L(w_k) + beta (w_k - w_{k-1}) (3.1), with w_{-1} = w_0."""

    eta: Any
    beta: Any
    name: ClassVar[str] = "heavy_ball"

    def __check_init__(self):
        check_positive("the step size eta", self.eta)
        check_interval(
            "the momentum beta",
            self.beta,
            0.0,
            1.0,
            "beta = 1 never loses energy (the paper's [0, 1] should be [0, 1)).",
        )

    def init(self, params: PyTree) -> PyTree:
        return jax.tree.map(jnp.zeros_like, params)

    def update(self, updates, state, params=None):
        step = jax.tree.map(lambda g, last: self.beta * last - self.eta * g, updates, state)
        return step, step

    def flow(self):
        """The inverse of `HeavyBall.discretize`: bh/2 = (1 - beta)/(1 + beta), h^2 = eta (1 +
        bh/2)."""
        half = (1 - self.beta) / (1 + self.beta)
        h = (self.eta * (1 + half)) ** 0.5
        return HeavyBall(2 * half / h), h


def heavy_ball(eta: Any, beta: Any) -> HeavyBallMethod:
    """The heavy ball method (3.1) with step size eta > 0 and momentum beta in [0, 1), as an
    optax-style transformation."""
    return HeavyBallMethod(eta, beta)

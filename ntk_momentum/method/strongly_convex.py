"""Nesterov's method for strongly convex functions (NAG-SC), of friction 2 sqrt(mu), and its and the
heavy ball's high-resolution equations (Shi, Du, Jordan and Su 2022)."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ..errors import check_positive
from .base import AbstractMomentumFlow, State
from .hessian_damping import HessianDamped, HessianDampedMethod
from .special import damped_oscillator


class NesterovStronglyConvex(AbstractMomentumFlow):
    """w'' + 2 sqrt(mu) w' + grad L(w) = 0, w'(0) = 0: the limit of NAG-SC, critically damped at the
    eigenvalue mu > 0."""

    mu: Any
    name: ClassVar[str] = "nesterov_strongly_convex"

    def __check_init__(self):
        check_positive("the strong convexity mu", self.mu)

    def friction(self, t):
        return 2 * jnp.asarray(self.mu) ** 0.5

    def vector_field(self, t, state, gradient):
        b = 2 * self.mu**0.5
        return State(state.v, jax.tree.map(lambda v, g: -b * v - g, state.v, gradient))

    def mode(self, eigenvalue, t):
        """The heavy ball's, with b = 2 sqrt(mu): exp(-sqrt(mu) t)(1 + sqrt(mu) t) at lambda =
        mu."""
        return damped_oscillator(eigenvalue, 2 * self.mu**0.5, t)

    def discretize(self, h):
        """NAG-SC with eta = h^2; w_k is compared at t = (k + 3/2) h. Order 1;
        `high_resolution_nesterov` is the limit of order 2."""
        check_positive("the step h", h)
        return nesterov_strongly_convex(h**2, self.mu), 1.5 * h

    def lyapunov(self, t, residual, velocity, kernel):
        """(A.6) with alpha = sqrt(mu)."""
        return 0.5 * residual @ (kernel @ residual) + 0.5 * jnp.sum(
            (self.mu**0.5 * residual + velocity) ** 2
        )


def constant_nesterov(eta: Any, beta: Any) -> HessianDampedMethod:
    """R_{k+1} = w_k - eta grad L(w_k), w_{k+1} = R_{k+1} + beta (R_{k+1} - R_k), R_0 = w_0: (4.1)
    with constant momentum in [0, 1)."""
    return HessianDampedMethod(eta, beta, beta * eta)


def nesterov_strongly_convex(eta: Any, mu: Any) -> HessianDampedMethod:
    """NAG-SC: `constant_nesterov` with beta = (1 - sqrt(mu eta))/(1 + sqrt(mu eta)), for eta <=
    1/mu."""
    check_positive("the step size eta", eta)
    check_positive("the strong convexity mu", mu)
    root = (mu * eta) ** 0.5
    check_positive("1 - sqrt(mu eta)", 1 - root, strict=False, hint="Take eta <= 1/mu.")
    return constant_nesterov(eta, (1 - root) / (1 + root))


def high_resolution_heavy_ball(eta: Any, mu: Any) -> HessianDamped:
    """w'' + 2 sqrt(mu) w' + (1 + sqrt(mu eta)) grad L(w) = 0, w'(0) = 0: the heavy ball with the
    eta and beta of NAG-SC.

    w_k is compared at t = (k + 1/2) sqrt(eta); see `high_resolution_nesterov` for the start.
    """
    return HessianDamped(2 * mu**0.5, 0.0, 1 + (mu * eta) ** 0.5)


def high_resolution_nesterov(eta: Any, mu: Any) -> HessianDamped:
    """w'' + 2 sqrt(mu) w' + sqrt(eta) grad^2 L w' + (1 + sqrt(mu eta)) grad L(w) = 0, w'(0) =
    -sqrt(eta) grad L: NAG-SC.

    w_k is compared at t = (k + 1/2) sqrt(eta), and the order is 2. The published start, w'(0) = -2
    sqrt(eta) grad L/(1 + sqrt(mu eta)) with t = k sqrt(eta), is the first difference quotient and
    of order 1; there w'(0) = -(3/2) sqrt(eta) grad L has order 2.
    """
    return HessianDamped(2 * mu**0.5, eta**0.5, 1 + (mu * eta) ** 0.5)

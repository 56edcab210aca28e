"""Nesterov's method for strongly convex functions (NAG-SC), of friction 2 sqrt(mu), and its and the
heavy ball's high-resolution equations (Shi, Du, Jordan and Su 2022)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..errors import check_interval, check_positive
from .base import AbstractMomentumFlow, Number
from .frozen import FrozenStep, damped
from .hessian_damping import HessianDamped, HessianDampedMethod
from .special import damped_oscillator


class NesterovStronglyConvex(AbstractMomentumFlow):
    """The limit of NAG-SC, critically damped at the eigenvalue mu.

        w'' + 2 sqrt(mu) w' + grad L(w) = 0,  w'(0) = 0

    This is (3.2) with b = 2 sqrt(mu). Source: Shi, Du, Jordan and Su (2022).

    Args:
        mu: Strong convexity, > 0, in 1/time^2: the smallest eigenvalue of a constant kernel.

    Raises:
        InputError: If mu is no number, or not positive and finite.

    Examples:
        >>> float(nm.NesterovStronglyConvex(0.25).friction(0.0))
        1.0
    """

    mu: Number
    name: ClassVar[str] = "nesterov_strongly_convex"

    def __check_init__(self) -> None:
        check_positive("the strong convexity mu", self.mu)

    @property
    def settles(self) -> bool:
        """True."""
        return True

    def friction(self, t: Number) -> Array:
        """2 sqrt(mu)."""
        return 2 * jnp.asarray(self.mu) ** 0.5

    def mode(self, eigenvalue: Number, t: Number) -> tuple[Array, Array]:
        """The heavy ball's, with b = 2 sqrt(mu): exp(-sqrt(mu) t)(1 + sqrt(mu) t) at lambda =
        mu."""
        return damped_oscillator(eigenvalue, 2 * self.mu**0.5, t)

    def _closed_step(self) -> Callable[..., FrozenStep]:
        return partial(damped, self.friction(0.0), 1.0)

    def discretize(self, h: Number) -> tuple[HessianDampedMethod, Number]:
        """NAG-SC with eta = h^2; w_k is compared at t = (k + 3/2) h. Order 1;
        `high_resolution_nesterov` is the limit of order 2."""
        check_positive("the step h", h)
        return nesterov_strongly_convex(h**2, self.mu), 1.5 * h

    def lyapunov(
        self,
        t: Number,
        residual: Float[Array | np.ndarray, " n"],
        velocity: Float[Array | np.ndarray, " n"],
        kernel: Float[Array | np.ndarray, "n n"],
    ) -> Float[Array, ""]:
        """(A.6) with alpha = sqrt(mu)."""
        return jnp.asarray(0.5 * residual @ (kernel @ residual)) + 0.5 * jnp.sum(
            (self.mu**0.5 * residual + velocity) ** 2
        )


def constant_nesterov(eta: Number, beta: Number) -> HessianDampedMethod:
    """Nesterov's method with a constant momentum, as an optax-style transformation.

        R_{k+1} = w_k - eta grad L(w_k),  w_{k+1} = R_{k+1} + beta (R_{k+1} - R_k),  R_0 = w_0

    This is (4.1) with beta in place of k/(k + d): a heavy ball with gradient correction
    delta = beta eta.

    Args:
        eta: Step size, > 0, in units of time squared of the flow.
        beta: Momentum, in [0, 1), dimensionless.

    Returns:
        The method, with optax's `init` and `update`.

    Raises:
        InputError: If a parameter is out of its range.

    Examples:
        >>> method = nm.constant_nesterov(0.1, 0.5)
        >>> step, state = method.update(jnp.ones(2), method.init(jnp.zeros(2)))
        >>> [round(x, 3) for x in step.tolist()]
        [-0.15, -0.15]
    """
    check_positive("the step size eta", eta)
    check_interval("the momentum beta", beta, 0.0, 1.0)
    return HessianDampedMethod(eta, beta, beta * eta)


def nesterov_strongly_convex(eta: Number, mu: Number) -> HessianDampedMethod:
    """NAG-SC, Nesterov's method for strongly convex functions.

        `constant_nesterov` with beta = (1 - sqrt(mu eta))/(1 + sqrt(mu eta))

    Source: Nesterov (2004), scheme 2.2.11; (4.1) is its relative for mu = 0.

    Args:
        eta: Step size, > 0, at most 1/mu; 1/lambda_max is the choice with a proof.
        mu: Strong convexity, > 0: the smallest eigenvalue of a constant kernel.

    Returns:
        The method, with optax's `init` and `update`.

    Raises:
        InputError: If a parameter is no number, or not positive, or eta > 1/mu.

    Examples:
        >>> round(float(nm.nesterov_strongly_convex(0.01, 1.0).beta), 3)
        0.818
    """
    check_positive("the step size eta", eta)
    check_positive("the strong convexity mu", mu)
    root = (mu * eta) ** 0.5
    check_positive("1 - sqrt(mu eta)", 1 - root, strict=False, hint="Take eta <= 1/mu.")
    return constant_nesterov(eta, (1 - root) / (1 + root))


def high_resolution_heavy_ball(eta: Number, mu: Number) -> HessianDamped:
    """The heavy ball with the eta and beta of NAG-SC, to the next order in its step.

        w'' + 2 sqrt(mu) w' + (1 + sqrt(mu eta)) grad L(w) = 0,  w'(0) = 0

    w_k is compared at t = (k + 1/2) sqrt(eta). Source: Shi, Du, Jordan and Su (2022); see
    `high_resolution_nesterov` for the start. (3.2) is its limit for eta = 0.

    Args:
        eta: Step size of the method, >= 0.
        mu: Strong convexity, > 0, in 1/time^2.

    Returns:
        The flow.

    Raises:
        InputError: If a parameter is out of its range.

    Examples:
        >>> flow = nm.high_resolution_heavy_ball(0.01, 1.0)
        >>> flow.b, flow.gamma, flow.pull
        (2.0, 0.0, 1.1)
    """
    _check_high_resolution(eta, mu)
    return HessianDamped(2 * mu**0.5, 0.0, 1 + (mu * eta) ** 0.5)


def high_resolution_nesterov(eta: Number, mu: Number) -> HessianDamped:
    """NAG-SC to the next order in its step: it damps each eigenvalue by sqrt(eta) lambda besides.

        w'' + 2 sqrt(mu) w' + sqrt(eta) grad^2 L w' + (1 + sqrt(mu eta)) grad L(w) = 0
        w'(0) = -sqrt(eta) grad L

    w_k is compared at t = (k + 1/2) sqrt(eta), and the order is 2. The published start, w'(0) = -2
    sqrt(eta) grad L/(1 + sqrt(mu eta)) with t = k sqrt(eta), is the first difference quotient and
    of order 1; there w'(0) = -(3/2) sqrt(eta) grad L has order 2. Source: Shi, Du, Jordan and Su
    (2022).

    Args:
        eta: Step size of the method, >= 0.
        mu: Strong convexity, > 0, in 1/time^2.

    Returns:
        The flow.

    Raises:
        InputError: If a parameter is out of its range.

    Examples:
        >>> flow = nm.high_resolution_nesterov(0.01, 1.0)
        >>> flow.b, flow.gamma, flow.pull
        (2.0, 0.1, 1.1)
    """
    _check_high_resolution(eta, mu)
    return HessianDamped(2 * mu**0.5, eta**0.5, 1 + (mu * eta) ** 0.5)


def _check_high_resolution(eta: Number, mu: Number) -> None:
    check_positive("the step size eta", eta, strict=False, example=0.1)
    check_positive("the strong convexity mu", mu)

"""Nesterov's accelerated gradient (4.1) and its flow (4.2), started exactly at the singular time t
= 0."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from ..errors import check_positive
from .base import AbstractMomentumFlow, AbstractOptimizer, State
from .special import nesterov_oscillator


class Nesterov(AbstractMomentumFlow):
    """w'' + (d/t) w' + grad L(w) = 0 (4.2), w'(0) = 0; on the error (4.3). d > 0, dimensionless; d
    = 3 is standard.

    At t = 0 the friction is infinite and the velocity zero; the solution is regular there with
    w''(0) = -grad L/(1 + d), which is the value the vector field takes.
    """

    d: Any
    name: ClassVar[str] = "nesterov"

    def __check_init__(self):
        check_positive("the Nesterov constant d", self.d)

    def friction(self, t):
        return self.d / t

    def vector_field(self, t, state, gradient):
        started = t > 0
        rate = jnp.where(started, self.d / jnp.where(started, t, 1.0), 0.0)
        pull = jnp.where(started, 1.0, 1.0 / (1.0 + self.d))
        return State(
            state.v,
            jax.tree.map(lambda v, g: (-rate * v - pull * g).astype(v.dtype), state.v, gradient),
        )

    def mode(self, eigenvalue, t):
        """phi = Lambda_d(sqrt(lambda) t) = 0F1(; (d+1)/2; -lambda t^2/4), phi' = -lambda t
        Lambda_{d+2}/(d + 1). d up to 64."""
        return nesterov_oscillator(eigenvalue, self.d, t)

    def discretize(self, h):
        """Nesterov's method with eta = h^2; w_k is compared at t = (k + d/2) h. Order 1 (the h^2
        corrected flow damps by h H)."""
        check_positive("the step h", h)
        return NesterovMethod(h**2, self.d), self.d * h / 2

    def lyapunov(self, t, residual, velocity, kernel):
        """(B.1) with alpha = max(2, 2d/3): V = t^alpha L^ + t^(alpha-2) |(2d - alpha) Delta + 2t
        Delta'|^2 / 8.

        Not monotone in general (Lemma 8 bounds it, no more).
        """
        alpha = jnp.maximum(2.0, 2.0 * self.d / 3.0)
        mixed = (2.0 * self.d - alpha) * residual + 2.0 * t * velocity
        return (
            t**alpha * 0.5 * residual @ (kernel @ residual)
            + t ** (alpha - 2.0) * jnp.sum(mixed**2) / 8.0
        )


class NesterovState(NamedTuple):
    """steps: taken so far, k; ahead: w_k - R_k (the velocity v_k of `NesterovTorch`)."""

    steps: Int[Array, ""]
    ahead: PyTree


class NesterovMethod(AbstractOptimizer):
    """R_{k+1} = w_k - eta grad L(w_k), w_{k+1} = R_{k+1} + k/(k+d) (R_{k+1} - R_k), R_0 = w_0
    (4.1).

    k = 0, 1, ... counts steps taken; the paper's index is t = k + 1, so its momentum (t-1)/(t+d-1)
    is k/(k+d).
    """

    eta: Any
    d: Any
    name: ClassVar[str] = "nesterov"

    def __check_init__(self):
        check_positive("the step size eta", self.eta)
        check_positive("the Nesterov constant d", self.d)

    def init(self, params: PyTree) -> NesterovState:
        return NesterovState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(self, updates, state, params=None):
        advance = jax.tree.map(
            lambda g, ahead: (ahead - self.eta * g).astype(g.dtype), updates, state.ahead
        )  # R_{k+1} - R_k
        momentum = state.steps / (state.steps + self.d)
        ahead = jax.tree.map(lambda r: (momentum * r).astype(r.dtype), advance)
        step = jax.tree.map(lambda g, a: (a - self.eta * g).astype(g.dtype), updates, ahead)
        return step, NesterovState(state.steps + 1, ahead)

    def flow(self):
        """Time is t = (k + d/2) h for w_k with h = sqrt(eta)."""
        return Nesterov(self.d), self.eta**0.5


class NesterovTorch(NesterovMethod):
    """v_{k+1} = beta_k v_k - eta grad L(w_k), w_{k+1} = w_k + beta_k v_{k+1} - eta grad L(w_k), v_0
    = 0, beta_k = k/(k+d).

    PyTorch's form, in which the authors' experiments run: velocity and look-ahead share beta_k,
    where (4.1) has beta_{k-1} in the velocity. A constant beta would make them equal; a growing one
    makes other iterates with the same flow (4.2).
    """

    name: ClassVar[str] = "nesterov_torch"

    def update(self, updates, state, params=None):
        momentum = state.steps / (state.steps + self.d)
        velocity = jax.tree.map(
            lambda g, v: (momentum * v - self.eta * g).astype(g.dtype), updates, state.ahead
        )
        step = jax.tree.map(
            lambda g, v: (momentum * v - self.eta * g).astype(g.dtype), updates, velocity
        )
        return step, NesterovState(state.steps + 1, velocity)


def nesterov(eta: Any, d: Any) -> NesterovMethod:
    """Nesterov's method (4.1) with step size eta > 0 and constant d > 0, as an optax-style
    transformation."""
    return NesterovMethod(eta, d)


def nesterov_torch(eta: Any, d: Any) -> NesterovTorch:
    """Nesterov's method in PyTorch's form with momentum k/(k + d), as an optax-style
    transformation."""
    return NesterovTorch(eta, d)

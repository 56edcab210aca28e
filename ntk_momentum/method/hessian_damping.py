"""Hessian-driven damping without Hessian products, and gradient correction, its discrete form.

The high-resolution limits of momentum methods (Shi, Du, Jordan and Su 2022) damp each mode by gamma
lambda besides the friction. In the variables w' = v - gamma grad L(w) no second derivative appears
(Alvarez, Attouch, Bolte and Redont 2002).
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from ..errors import check_interval, check_positive
from .base import AbstractFlow, AbstractOptimizer, State
from .special import damped_oscillator, nesterov_oscillator


class HessianDamped(AbstractFlow):
    """w'' + (b + gamma grad^2 L) w' + pull grad L(w) = 0, with w'(0) = -gamma grad L(w(0)).

    Written as w' = v - gamma grad L, v' = -b v - (pull - b gamma) grad L from v(0) = 0. b >= 0 in
    1/time, gamma >= 0 in units of time, and pull > 0, the factor 1 + sqrt(mu eta) of the
    high-resolution equations. The methods' first iterates fit this start: see `discretize`.
    """

    b: Any
    gamma: Any
    pull: Any = 1.0
    name: ClassVar[str] = "hessian_damped"

    def __check_init__(self):
        check_positive("the friction b", self.b, strict=False)
        check_positive("the Hessian damping gamma", self.gamma, strict=False)
        check_positive("the factor pull", self.pull)

    def init(self, w: PyTree) -> State:
        return State(w, jax.tree.map(jnp.zeros_like, w))

    def vector_field(self, t, state, gradient):
        pull = self.pull - self.b * self.gamma
        return State(
            jax.tree.map(lambda v, g: v - self.gamma * g, state.v, gradient),
            jax.tree.map(lambda v, g: -self.b * v - pull * g, state.v, gradient),
        )

    def mode(self, eigenvalue, t):
        """x + (gamma/pull) x' of the oscillator x with stiffness pull lambda and friction b + gamma
        lambda, started at rest."""
        stiffness, friction, lead = (
            self.pull * eigenvalue,
            self.b + self.gamma * eigenvalue,
            self.gamma / self.pull,
        )
        x, dx = damped_oscillator(stiffness, friction, t)
        return x + lead * dx, dx - lead * (friction * dx + stiffness * x)

    def discretize(self, h):
        """beta = (1 - a)/(1 + a), eta = pull h^2/(1 + a), delta = gamma h/(1 + a), a = bh/2, with a
        cold start at t = h/2.

        Order 2 for gamma of order h, as in Nesterov's method, where delta = beta eta; order 1 for
        fixed gamma.
        """
        check_positive("the step h", h)
        half = self.b * h / 2
        check_positive(
            "1 - b h / 2", 1 - half, strict=False, hint="Take h <= 2/b, so that beta >= 0."
        )
        return HessianDampedMethod(
            self.pull * h**2 / (1 + half), (1 - half) / (1 + half), self.gamma * h / (1 + half)
        ), h / 2

    def fastest_rate(self, lambda_max):
        return jnp.sqrt(self.pull * lambda_max) + self.gamma * lambda_max

    def _damping_rate(self, t, h):
        return jnp.asarray(self.b)

    def lyapunov(self, t, residual, velocity, kernel):
        """(A.6) with the momentum gamma H Delta added: pull Delta . H Delta/2 + |alpha Delta +
        Delta' + gamma H Delta|^2/2, alpha = b/2.

        Falls along the flow when alpha^2 <= lambda_min, alpha gamma <= 1/2 and pull >= 1.
        """
        pushed = kernel @ residual
        return 0.5 * self.pull * residual @ pushed + 0.5 * jnp.sum(
            (0.5 * self.b * residual + velocity + self.gamma * pushed) ** 2
        )


class CorrectedState(NamedTuple):
    """last: w_k - w_{k-1}; gradient: grad L(w_{k-1}), zero before the first step."""

    last: PyTree
    gradient: PyTree


class HessianDampedMethod(AbstractOptimizer):
    """w_{k+1} = w_k + beta (w_k - w_{k-1}) - eta g_k - delta (g_k - g_{k-1}), g_k = grad L(w_k),
    from w_{-1} = w_0 and g_{-1} = 0.

    The heavy ball is delta = 0, Nesterov's method with constant momentum delta = beta eta; triple
    momentum lies between. An eigenvalue has the roots of z^2 - (1 + beta - (eta + delta) lambda) z
    + beta - delta lambda, stable for lambda < 2 (1 + beta)/(eta + 2 delta).
    """

    eta: Any
    beta: Any
    delta: Any
    name: ClassVar[str] = "hessian_damped"

    def __check_init__(self):
        check_positive("the step size eta", self.eta)
        check_interval("the momentum beta", self.beta, 0.0, 1.0)
        check_positive("the gradient correction delta", self.delta, strict=False)

    def init(self, params: PyTree) -> CorrectedState:
        zero = jax.tree.map(jnp.zeros_like, params)
        return CorrectedState(zero, zero)

    def update(self, updates, state, params=None):
        step = jax.tree.map(
            lambda g, u, past: self.beta * u - self.eta * g - self.delta * (g - past),
            updates,
            *state,
        )
        return step, CorrectedState(step, updates)

    def flow(self):
        """The inverse of `HessianDamped.discretize` at pull = 1: the method's high-resolution
        equation, in some unit of time."""
        half = (1 - self.beta) / (1 + self.beta)
        h = (self.eta * (1 + half)) ** 0.5
        return HessianDamped(2 * half / h, self.delta * (1 + half) / h), h


def hessian_damped(eta: Any, beta: Any, delta: Any) -> HessianDampedMethod:
    """The heavy ball method with gradient correction delta >= 0, as an optax-style
    transformation."""
    return HessianDampedMethod(eta, beta, delta)


class HessianDampedNesterov(AbstractFlow):
    """w'' + (d/t + gamma grad^2 L) w' + (1 + d gamma/(2t)) grad L(w) = 0, with w'(0) = -(gamma/2)
    grad L(w(0)); d, gamma > 0.

    With gamma = h it is the high-resolution equation of Nesterov's method (4.1), correct to h^2.
    Its momentum is v = t/(t + tau) (w' + gamma grad L) with tau = d gamma/2, which starts at zero
    and keeps the equation regular there.
    """

    d: Any
    gamma: Any
    name: ClassVar[str] = "hessian_damped_nesterov"

    def __check_init__(self):
        check_positive("the Nesterov constant d", self.d)
        check_positive(
            "the Hessian damping gamma", self.gamma, hint="Without it, take nm.Nesterov(d)."
        )

    def init(self, w: PyTree) -> State:
        return State(w, jax.tree.map(jnp.zeros_like, w))

    def vector_field(self, t, state, gradient):
        started = t > 0
        safe, tau = jnp.where(started, t, 1.0), self.d * self.gamma / 2
        grow = jnp.where(started, (safe + tau) / safe, 0.0)
        decay = jnp.where(
            started, (self.d * safe + (self.d - 1) * tau) / (safe * (safe + tau)), 0.0
        )
        push = jnp.where(started, (safe - tau) / (safe + tau), -1 / self.d)
        gamma = jnp.where(started, self.gamma, self.gamma / 2)
        return State(
            jax.tree.map(lambda v, g: (grow * v - gamma * g).astype(v.dtype), state.v, gradient),
            jax.tree.map(lambda v, g: (-decay * v - push * g).astype(v.dtype), state.v, gradient),
        )

    def mode(self, eigenvalue, t):
        """exp(-gamma lambda t/2) Lambda_d(w t), w^2 = lambda - gamma^2 lambda^2/4. Assumes gamma^2
        lambda <= 4, NaN beyond."""
        half = self.gamma * eigenvalue / 2
        stiffness = eigenvalue - half * half
        stiffness = jnp.where(stiffness >= 0, stiffness, jnp.nan)
        x, dx = nesterov_oscillator(stiffness, self.d, t)
        envelope = jnp.exp(-half * t)
        return envelope * x, envelope * (dx - half * x)

    def discretize(self, h):
        """w_k is compared at t = (k + d/2) h. At gamma = h the method is Nesterov's (4.1) and the
        order 2; for fixed gamma it is 1."""
        check_positive("the step h", h)
        return HessianDampedNesterovMethod(h**2, self.d, self.gamma), self.d * h / 2

    def fastest_rate(self, lambda_max):
        return jnp.sqrt(lambda_max) + self.gamma * lambda_max

    def _damping_rate(self, t, h):
        return jnp.maximum(self.d, 1.0) / (t + self.d * self.gamma / 2)

    def lyapunov(self, t, residual, velocity, kernel):
        """(B.1) as for `Nesterov`, with alpha = max(2, 2d/3). Not monotone in general."""
        alpha = jnp.maximum(2.0, 2.0 * self.d / 3.0)
        mixed = (2.0 * self.d - alpha) * residual + 2.0 * t * velocity
        return (
            t**alpha * 0.5 * residual @ (kernel @ residual)
            + t ** (alpha - 2.0) * jnp.sum(mixed**2) / 8.0
        )


class CountedState(NamedTuple):
    """steps: taken so far, k; last: w_k - w_{k-1}; gradient: grad L(w_{k-1})."""

    steps: Int[Array, ""]
    last: PyTree
    gradient: PyTree


class HessianDampedNesterovMethod(AbstractOptimizer):
    """w_{k+1} = w_k + k/(k+d) (w_k - w_{k-1} - gamma h (g_k - g_{k-1})) - h ((k + d/2) h + d
    gamma/2)/(k+d) g_k, h = sqrt(eta).

    g_k = grad L(w_k). Nesterov's method (4.1) at gamma = h.
    """

    eta: Any
    d: Any
    gamma: Any
    name: ClassVar[str] = "hessian_damped_nesterov"

    def __check_init__(self):
        check_positive("the step size eta", self.eta)
        check_positive("the Nesterov constant d", self.d)
        check_positive("the Hessian damping gamma", self.gamma, strict=False)

    def init(self, params: PyTree) -> CountedState:
        zero = jax.tree.map(jnp.zeros_like, params)
        return CountedState(jnp.zeros((), jnp.int32), zero, zero)

    def update(self, updates, state, params=None):
        k, d, h = state.steps, self.d, jnp.asarray(self.eta) ** 0.5
        momentum, size = k / (k + d), h * ((k + d / 2) * h + d * self.gamma / 2) / (k + d)
        correction = momentum * self.gamma * h
        step = jax.tree.map(
            lambda g, u, past: (momentum * u - size * g - correction * (g - past)).astype(g.dtype),
            updates,
            state.last,
            state.gradient,
        )
        return step, CountedState(k + 1, step, updates)

    def flow(self):
        """Time is t = (k + d/2) h with h = sqrt(eta)."""
        return HessianDampedNesterov(self.d, self.gamma), self.eta**0.5

"""Hessian-driven damping without Hessian products, and gradient correction, its discrete form.

The high-resolution limits of momentum methods (Shi, Du, Jordan and Su 2022) damp each mode by gamma
lambda besides the friction. In the variables w' = v - gamma grad L(w) no second derivative appears
(Alvarez, Attouch, Bolte and Redont 2002).
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from ..errors import check_interval, check_positive
from .base import AbstractFlow, AbstractOptimizer, Number, State, positive
from .special import damped_oscillator, nesterov_oscillator


class HessianDamped(AbstractFlow):
    """The heavy ball with Hessian-driven damping, which needs no Hessian.

        w'' + (b + gamma grad^2 L) w' + pull grad L(w) = 0,  w'(0) = -gamma grad L(w(0))

    Written as w' = v - gamma grad L, v' = -b v - (pull - b gamma) grad L from v(0) = 0 (Alvarez,
    Attouch, Bolte and Redont 2002). (3.2) is gamma = 0, pull = 1. The methods' first iterates fit
    this start: see `discretize`.

    Args:
        b: Friction, >= 0, in 1/time.
        gamma: Hessian damping, >= 0, in units of time.
        pull: The factor of the gradient, > 0: 1 + sqrt(mu eta) in high-resolution equations.

    Raises:
        InputError: If a parameter is no number or out of its range.

    Examples:
        >>> phi, slope = nm.HessianDamped(1.0, 0.1).mode(2.0, jnp.asarray(0.0))
        >>> float(phi), round(float(slope), 3)
        (1.0, -0.2)
    """

    b: Number
    gamma: Number
    pull: Number = 1.0
    name: ClassVar[str] = "hessian_damped"

    def __check_init__(self) -> None:
        check_positive("the friction b", self.b, strict=False)
        check_positive("the Hessian damping gamma", self.gamma, strict=False)
        check_positive("the factor pull", self.pull)

    @property
    def settles(self) -> bool:
        """With friction or damping."""
        return positive(self.b) or positive(self.gamma)

    def init(self, w: PyTree) -> State:
        """(w, 0); the velocity is then -gamma grad L."""
        return State(w, jax.tree.map(jnp.zeros_like, w))

    def vector_field(self, t: Number, state: State, gradient: PyTree) -> State:
        """(v - gamma grad L, -b v - (pull - b gamma) grad L)."""
        pull = self.pull - self.b * self.gamma
        return State(
            jax.tree.map(lambda v, g: v - self.gamma * g, state.v, gradient),
            jax.tree.map(lambda v, g: -self.b * v - pull * g, state.v, gradient),
        )

    def mode(self, eigenvalue: Number, t: Number) -> tuple[Array, Array]:
        """x + (gamma/pull) x' of the oscillator x with stiffness pull lambda and friction b + gamma
        lambda, started at rest."""
        stiffness, friction, lead = (
            self.pull * eigenvalue,
            self.b + self.gamma * eigenvalue,
            self.gamma / self.pull,
        )
        x, dx = damped_oscillator(stiffness, friction, t)
        return x + lead * dx, dx - lead * (friction * dx + stiffness * x)

    def discretize(self, h: Number) -> tuple[HessianDampedMethod, Number]:
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

    def fastest_rate(self, lambda_max: Number) -> Number:
        """sqrt(pull lambda_max) + gamma lambda_max."""
        return jnp.sqrt(self.pull * lambda_max) + self.gamma * lambda_max

    def _damping_rate(self, t: Number, h: Number) -> Number:
        return jnp.asarray(self.b)

    def lyapunov(
        self,
        t: Number,
        residual: Float[Array | np.ndarray, " n"],
        velocity: Float[Array | np.ndarray, " n"],
        kernel: Float[Array | np.ndarray, "n n"],
    ) -> Float[Array, ""]:
        """(A.6) with the momentum gamma H Delta added: pull Delta . H Delta/2 + |alpha Delta +
        Delta' + gamma H Delta|^2/2, alpha = b/2.

        Falls along the flow when alpha^2 <= lambda_min, alpha gamma <= 1/2 and pull >= 1.
        """
        pushed = kernel @ residual
        return jnp.asarray(0.5 * self.pull) * residual @ pushed + 0.5 * jnp.sum(
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

    eta: Number
    beta: Number
    delta: Number
    name: ClassVar[str] = "hessian_damped"

    def __check_init__(self) -> None:
        check_positive("the step size eta", self.eta)
        check_interval("the momentum beta", self.beta, 0.0, 1.0)
        check_positive("the gradient correction delta", self.delta, strict=False)

    def init(self, params: PyTree) -> CorrectedState:
        """No last step, and no last gradient."""
        zero = jax.tree.map(jnp.zeros_like, params)
        return CorrectedState(zero, zero)

    def update(
        self, updates: PyTree, state: CorrectedState, params: PyTree | None = None
    ) -> tuple[PyTree, CorrectedState]:
        """The step; it and the gradient are remembered."""
        step = jax.tree.map(
            lambda g, u, past: self.beta * u - self.eta * g - self.delta * (g - past),
            updates,
            *state,
        )
        return step, CorrectedState(step, updates)

    def flow(self) -> tuple[HessianDamped, Number]:
        """The inverse of `HessianDamped.discretize` at pull = 1: the method's high-resolution
        equation, in some unit of time."""
        half = (1 - self.beta) / (1 + self.beta)
        h = (self.eta * (1 + half)) ** 0.5
        return HessianDamped(2 * half / h, self.delta * (1 + half) / h), h


def hessian_damped(eta: Number, beta: Number, delta: Number) -> HessianDampedMethod:
    """The heavy ball method with gradient correction, as an optax-style transformation.

        w_{k+1} = w_k + beta (w_k - w_{k-1}) - eta g_k - delta (g_k - g_{k-1}),  g_k = grad L(w_k)

    from w_{-1} = w_0 and g_{-1} = 0. (3.1) is delta = 0; Nesterov's method with constant momentum
    is delta = beta eta (Shi, Du, Jordan and Su 2022).

    Args:
        eta: Step size, > 0, in units of time squared of the flow.
        beta: Momentum, in [0, 1), dimensionless.
        delta: Gradient correction, >= 0, in the units of eta.

    Returns:
        The method, with optax's `init` and `update`.

    Raises:
        InputError: If a parameter is no number or out of its range.

    Examples:
        >>> flow, h = nm.hessian_damped(0.01, 0.8, 0.008).flow()
        >>> round(float(flow.gamma), 3), round(float(h), 3)
        (0.084, 0.105)
    """
    return HessianDampedMethod(eta, beta, delta)


class HessianDampedNesterov(AbstractFlow):
    """Nesterov's flow with Hessian-driven damping: at gamma = h, (4.1) to the next order in its
    step.

        w'' + (d/t + gamma grad^2 L) w' + (1 + d gamma/(2t)) grad L(w) = 0
        w'(0) = -(gamma/2) grad L(w(0))

    With gamma = h it is the high-resolution equation of Nesterov's method (4.1), correct to h^2
    (Shi, Du, Jordan and Su 2022). Its momentum is v = t/(t + tau) (w' + gamma grad L) with tau = d
    gamma/2, which starts at zero and keeps the equation regular there.

    Args:
        d: Nesterov's constant, > 0, dimensionless.
        gamma: Hessian damping, > 0, in units of time.

    Raises:
        InputError: If a parameter is no number, or not positive and finite.

    Examples:
        >>> phi, slope = nm.HessianDampedNesterov(3.0, 0.1).mode(2.0, jnp.asarray(0.0))
        >>> float(phi), round(float(slope), 3)
        (1.0, -0.1)
    """

    d: Number
    gamma: Number
    name: ClassVar[str] = "hessian_damped_nesterov"

    def __check_init__(self) -> None:
        check_positive("the Nesterov constant d", self.d)
        check_positive(
            "the Hessian damping gamma", self.gamma, hint="Without it, take nm.Nesterov(d)."
        )

    @property
    def settles(self) -> bool:
        """True."""
        return True

    def init(self, w: PyTree) -> State:
        """(w, 0); the velocity is then -(gamma/2) grad L."""
        return State(w, jax.tree.map(jnp.zeros_like, w))

    def vector_field(self, t: Number, state: State, gradient: PyTree) -> State:
        """(w', v') for v = t/(t + tau) (w' + gamma grad L); at t = 0 their limits.

        With tau = d gamma/2: w' = (t + tau)/t v - gamma grad L, and inserting it into the equation
        leaves v' = -(d t + (d - 1) tau)/(t (t + tau)) v - (t - tau)/(t + tau) grad L, free of
        second derivatives. Near t = 0, v = -c t grad L; w'(0) = -(gamma/2) grad L asks for c = 1/d.
        """
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

    def mode(self, eigenvalue: Number, t: Number) -> tuple[Array, Array]:
        """exp(-gamma lambda t/2) Lambda_d(w t), w^2 = lambda - gamma^2 lambda^2/4. Assumes gamma^2
        lambda <= 4, NaN beyond."""
        half = self.gamma * eigenvalue / 2
        stiffness = eigenvalue - half * half
        stiffness = jnp.where(stiffness >= 0, stiffness, jnp.nan)
        x, dx = nesterov_oscillator(stiffness, self.d, t)
        envelope = jnp.exp(-half * t)
        return envelope * x, envelope * (dx - half * x)

    def discretize(self, h: Number) -> tuple[HessianDampedNesterovMethod, Number]:
        """w_k is compared at t = (k + d/2) h. At gamma = h the method is Nesterov's (4.1) and the
        order 2; for fixed gamma it is 1."""
        check_positive("the step h", h)
        return HessianDampedNesterovMethod(h**2, self.d, self.gamma), self.d * h / 2

    def fastest_rate(self, lambda_max: Number) -> Number:
        """sqrt(lambda_max) + gamma lambda_max."""
        return jnp.sqrt(lambda_max) + self.gamma * lambda_max

    def _damping_rate(self, t: Number, h: Number) -> Number:
        return jnp.maximum(self.d, 1.0) / (t + self.d * self.gamma / 2)

    def lyapunov(
        self,
        t: Number,
        residual: Float[Array | np.ndarray, " n"],
        velocity: Float[Array | np.ndarray, " n"],
        kernel: Float[Array | np.ndarray, "n n"],
    ) -> Float[Array, ""]:
        """(B.1) as for `Nesterov`, with alpha = max(2, 2d/3). Not monotone in general."""
        t, alpha = jnp.asarray(t), jnp.maximum(2.0, 2.0 * self.d / 3.0)
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

    eta: Number
    d: Number
    gamma: Number
    name: ClassVar[str] = "hessian_damped_nesterov"

    def __check_init__(self) -> None:
        check_positive("the step size eta", self.eta)
        check_positive("the Nesterov constant d", self.d)
        check_positive("the Hessian damping gamma", self.gamma, strict=False)

    def init(self, params: PyTree) -> CountedState:
        """No step taken, no last step, no last gradient."""
        zero = jax.tree.map(jnp.zeros_like, params)
        return CountedState(jnp.zeros((), jnp.int32), zero, zero)

    def update(
        self, updates: PyTree, state: CountedState, params: PyTree | None = None
    ) -> tuple[PyTree, CountedState]:
        """The step; it and the gradient are remembered."""
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

    def flow(self) -> tuple[HessianDampedNesterov, Number]:
        """Time is t = (k + d/2) h with h = sqrt(eta)."""
        return HessianDampedNesterov(self.d, self.gamma), self.eta**0.5

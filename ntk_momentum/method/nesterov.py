"""Nesterov's accelerated gradient (4.1) and its flow (4.2), started exactly at the singular time t
= 0."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from ..errors import check_positive
from .adapted import StepSize, adapted
from .base import AbstractMomentumFlow, AbstractOptimizer, Number, State
from .frozen import FrozenStep, fading, longest_step
from .special import nesterov_oscillator


class AbstractNesterov(AbstractMomentumFlow):
    """The equation of (4.2) and (B.1), shared by Nesterov's flow and its course of given restarts;
    only the response of an eigenvalue is left open."""

    d: Number

    def __check_init__(self) -> None:
        check_positive("the Nesterov constant d", self.d)

    @property
    def settles(self) -> bool:
        """True."""
        return True

    def friction(self, t: Number) -> Array:
        """d/t."""
        return jnp.asarray(self.d) / t

    def vector_field(self, t: Number, state: State, gradient: PyTree) -> State:
        """(4.2) as a system; at t = 0 its limit, dv/dt = -grad L/(1 + d)."""
        started = t > 0
        rate = jnp.where(started, self.d / jnp.where(started, t, 1.0), 0.0)
        pull = jnp.where(started, 1.0, 1.0 / (1.0 + self.d))
        return State(
            state.v,
            jax.tree.map(lambda v, g: (-rate * v - pull * g).astype(v.dtype), state.v, gradient),
        )

    def _damping_rate(self, t: Number, h: Number) -> Number:
        return self.friction(t + h)  # infinite at t = 0

    def discretize(self, h: Number) -> tuple[NesterovMethod, Number]:
        """Nesterov's method with eta = h^2; w_k is compared at t = (k + d/2) h. Order 1 (the h^2
        corrected flow damps by h H)."""
        check_positive("the step h", h)
        return NesterovMethod(h**2, self.d), self.d * h / 2

    def lyapunov(
        self,
        t: Number,
        residual: Float[Array | np.ndarray, " n"],
        velocity: Float[Array | np.ndarray, " n"],
        kernel: Float[Array | np.ndarray, "n n"],
    ) -> Float[Array, ""]:
        """(B.1) with alpha = max(2, 2d/3): V = t^alpha L^ + t^(alpha-2) |(2d - alpha) Delta + 2t
        Delta'|^2 / 8.

        Not monotone in general (Lemma 8 bounds it, no more).
        """
        t, alpha = jnp.asarray(t), jnp.maximum(2.0, 2.0 * self.d / 3.0)
        mixed = (2.0 * self.d - alpha) * residual + 2.0 * t * velocity
        return (
            t**alpha * 0.5 * residual @ (kernel @ residual)
            + t ** (alpha - 2.0) * jnp.sum(mixed**2) / 8.0
        )


class Nesterov(AbstractNesterov):
    """Nesterov's flow, whose friction d/t dies away.

        w'' + (d/t) w' + grad L(w) = 0,  w'(0) = 0                 (4.2)
        Delta'' + (d/t) Delta' + H Delta = 0                       (4.3)

    At t = 0 the friction is infinite and the velocity zero; the solution is regular there with
    w''(0) = -grad L/(1 + d), which is the value the vector field takes.

    Args:
        d: Nesterov's constant, > 0, dimensionless; 3 is standard.

    Raises:
        InputError: If d is no number, or not positive and finite.

    Examples:
        >>> phi, slope = nm.Nesterov(3.0).mode(2.0, jnp.linspace(0.0, 5.0, 6))
        >>> phi.shape, float(phi[0])
        ((6,), 1.0)
    """

    name: ClassVar[str] = "nesterov"

    def mode(self, eigenvalue: Number, t: Number) -> tuple[Array, Array]:
        """phi = Lambda_d(sqrt(lambda) t) = 0F1(; (d+1)/2; -lambda t^2/4), phi' = -lambda t
        Lambda_{d+2}/(d + 1). d up to 64."""
        return nesterov_oscillator(eigenvalue, self.d, t)

    def _closed_step(self) -> Callable[..., FrozenStep]:
        return partial(fading, self.d)

    def _reach(self, t: Number) -> Number:
        return jnp.where(t > 0, longest_step(self.d, t), jnp.inf)


class NesterovState(NamedTuple):
    """steps: taken so far, k; ahead: w_k - R_k (the velocity v_k of `NesterovTorch`)."""

    steps: Int[Array, ""]
    ahead: PyTree


class AbstractNesterovMethod(AbstractOptimizer):
    """What the two forms share: k, a vector of memory, the momentum k/(k + d) and the flow
    (4.2)."""

    eta: Number
    d: Number

    def __check_init__(self) -> None:
        check_positive("the step size eta", self.eta)
        check_positive("the Nesterov constant d", self.d)

    def init(self, params: PyTree) -> NesterovState:
        """No step taken, no momentum."""
        return NesterovState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def flow(self) -> tuple[Nesterov, Number]:
        """Time is t = (k + d/2) h for w_k with h = sqrt(eta)."""
        return Nesterov(self.d), self.eta**0.5


class NesterovMethod(AbstractNesterovMethod):
    """R_{k+1} = w_k - eta grad L(w_k), w_{k+1} = R_{k+1} + k/(k+d) (R_{k+1} - R_k), R_0 = w_0
    (4.1).

    k = 0, 1, ... counts steps taken; the paper's index is t = k + 1, so its momentum (t-1)/(t+d-1)
    is k/(k+d).
    """

    name: ClassVar[str] = "nesterov"

    def update(
        self, updates: PyTree, state: NesterovState, params: PyTree | None = None
    ) -> tuple[PyTree, NesterovState]:
        """(w_{k+1} - w_k, new state) from the gradient at w_k."""
        advance = jax.tree.map(
            lambda g, ahead: (ahead - self.eta * g).astype(g.dtype), updates, state.ahead
        )  # R_{k+1} - R_k
        momentum = state.steps / (state.steps + self.d)
        ahead = jax.tree.map(lambda r: (momentum * r).astype(r.dtype), advance)
        step = jax.tree.map(lambda g, a: (a - self.eta * g).astype(g.dtype), updates, ahead)
        return step, NesterovState(state.steps + 1, ahead)


class NesterovTorch(AbstractNesterovMethod):
    """w_{k+1} = w_k + beta_k v_{k+1} - eta g_k, v_{k+1} = beta_k v_k - eta g_k, beta_k = k/(k+d),
    g_k = grad L(w_k), but v_1 = 0.

    The iterates of torch.optim.SGD(nesterov=True) whose momentum is set to beta_k before step k.
    Velocity and look-ahead share beta_k, where (4.1) has beta_{k-1} in the velocity; and PyTorch
    makes its buffer, -v/eta, in the first step whose momentum is not zero, as a copy of that step's
    gradient. Since beta_0 = 0 this is the second step, and g_0 is never remembered.
    """

    name: ClassVar[str] = "nesterov_torch"

    def update(
        self, updates: PyTree, state: NesterovState, params: PyTree | None = None
    ) -> tuple[PyTree, NesterovState]:
        """(w_{k+1} - w_k, new state) from the gradient at w_k."""
        momentum = state.steps / (state.steps + self.d)
        velocity = jax.tree.map(
            lambda g, v: (momentum * v - self.eta * g).astype(g.dtype), updates, state.ahead
        )
        step = jax.tree.map(
            lambda g, v: (momentum * v - self.eta * g).astype(g.dtype), updates, velocity
        )
        kept = jax.tree.map(lambda v: jnp.where(state.steps > 0, v, jnp.zeros_like(v)), velocity)
        return step, NesterovState(state.steps + 1, kept)


def nesterov(eta: StepSize, d: Number, *, weight_decay: Number = 0.0) -> AbstractOptimizer:
    """Nesterov's method as an optax-style transformation.

        R_{k+1} = w_k - eta grad L(w_k),  w_{k+1} = R_{k+1} + k/(k+d) (R_{k+1} - R_k)      (4.1)

    from R_0 = w_0. The paper counts t = k + 1 and writes the momentum (t-1)/(t+d-1). Its flow is
    `nm.Nesterov(d)` at t = (k + d/2) sqrt(eta).

    Args:
        eta: Step size, > 0, in units of time squared of the flow. Or a schedule: a function of the
            number of steps taken, such as optax's.
        d: Nesterov's constant, > 0, dimensionless; 3 is standard.
        weight_decay: lambda >= 0, in units of the kernel: lambda w is added to the gradient, as
            torch.optim.SGD does (for the same loss, a half-sum here), and not decoupled.

    Returns:
        The method, with optax's `init` and `update`.

    Raises:
        InputError: If a parameter is no number, or not positive and finite.

    Examples:
        >>> method = nm.nesterov(0.1, 3.0)
        >>> step, state = method.update(jnp.ones(2), method.init(jnp.zeros(2)))
        >>> step.tolist()
        [-0.1, -0.1]
    """
    return adapted(lambda eta: NesterovMethod(eta, d), eta, weight_decay)


def nesterov_torch(eta: StepSize, d: Number, *, weight_decay: Number = 0.0) -> AbstractOptimizer:
    """The iterates of PyTorch's SGD(nesterov=True) under a growing momentum, in which the authors'
    experiments run.

        v_{k+1} = beta_k v_k - eta grad L(w_k),  beta_k = k/(k + d),  but v_1 = 0
        w_{k+1} = w_k + beta_k v_{k+1} - eta grad L(w_k)

    They are not those of (4.1), whose velocity has beta_{k-1}, and they forget the first gradient:
    PyTorch makes its momentum buffer only once the momentum is not zero. The flow is the same,
    (4.2). `beta_k` has to be set before every step of `torch.optim.SGD`, as the authors do with
    their (t - 1)/(t + d - 1), t = k + 1.

    Args:
        eta: Step size, > 0: PyTorch's `lr` for the same loss (theirs is the mean, not the
            half-sum). Or a schedule of it, which as in PyTorch multiplies the velocity too.
        d: Nesterov's constant, > 0, dimensionless.
        weight_decay: PyTorch's, for the same loss.

    Returns:
        The method, with optax's `init` and `update`.

    Raises:
        InputError: If a parameter is no number, or not positive and finite.

    Examples:
        >>> method = nm.nesterov_torch(0.1, 3.0)
        >>> step, state = method.update(jnp.ones(2), method.init(jnp.zeros(2)))
        >>> state.ahead.tolist()
        [0.0, 0.0]
    """
    made = lambda eta: NesterovTorch(eta, d)
    return adapted(made, eta, weight_decay, afterwards=True)

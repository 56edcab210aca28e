"""Multi-step ("higher") momentum, the authors' extension of (3.1) by the step before the last, and
its limit: a heavy ball with mass."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ..errors import InputError, check_positive, concrete
from .base import AbstractFlow, AbstractOptimizer, State
from .special import damped_oscillator


class MultiStepMomentum(AbstractFlow):
    """(1 + beta2) w'' + b w' + grad L(w) = 0, w'(0) = 0: the heavy ball (3.2) with mass 1 + beta2.

    b: friction, >= 0, in units of 1/time. beta2 in (-1, 1); negative values make a lighter, faster
    ball.
    """

    b: Any
    beta2: Any
    name: ClassVar[str] = "multi_step_momentum"
    inertial: ClassVar[bool] = True

    def __check_init__(self):
        check_positive("the friction b", self.b, strict=False)
        _check_beta2(self.beta2)

    def init(self, w: PyTree) -> State:
        return State(w, jax.tree.map(jnp.zeros_like, w))

    def vector_field(self, t, state, gradient):
        mass = 1 + self.beta2
        return State(
            state.v, jax.tree.map(lambda v, g: -(self.b * v + g) / mass, state.v, gradient)
        )

    def mode(self, eigenvalue, t):
        """The damped oscillator with stiffness lambda/(1 + beta2) and friction b/(1 + beta2)."""
        mass = 1 + self.beta2
        return damped_oscillator(eigenvalue / mass, self.b / mass, t)

    def discretize(self, h):
        """1 - beta1 - beta2 = bh s, eta = h^2 s, 1/s = 1 + bh (1 - beta2)/(2M^2), M = 1 + beta2;
        cold start at t = (1/2 + beta2/M) h.

        Order 1: a Hessian damping (beta2/M) h H is left, which no eta and beta1 remove. At beta2 =
        0 it is `HeavyBall.discretize`, order 2.
        """
        check_positive("the step h", h)
        shrink = 1 / (1 + self.b * h * _half_step(self.beta2))
        method = MultiStepMomentumMethod(
            h**2 * shrink, 1 - self.beta2 - self.b * h * shrink, self.beta2
        )
        return method, (0.5 + self.beta2 / (1 + self.beta2)) * h

    def fastest_rate(self, lambda_max):
        return jnp.sqrt(lambda_max / (1 + self.beta2))

    def _damping_rate(self, t, h):
        return jnp.asarray(self.b / (1 + self.beta2))

    def lyapunov(self, t, residual, velocity, kernel):
        """(A.6) of the kernel H/(1 + beta2) with alpha = b/(2 (1 + beta2))."""
        mass = 1 + self.beta2
        return 0.5 * residual @ (kernel @ residual) / mass + 0.5 * jnp.sum(
            (0.5 * self.b / mass * residual + velocity) ** 2
        )


class MultiStepState(NamedTuple):
    """last: w_k - w_{k-1}; before: w_{k-1} - w_{k-2}."""

    last: PyTree
    before: PyTree


class MultiStepMomentumMethod(AbstractOptimizer):
    """w_{k+1} - w_k = beta1 (w_k - w_{k-1}) + beta2 (w_{k-1} - w_{k-2}) - eta grad L(w_k), with
    w_{-1} = w_{-2} = w_0.

    An eigenvalue x = eta lambda has the roots of z^3 - (1 + beta1 - x) z^2 + (beta1 - beta2) z +
    beta2: stable for x < 2 (1 + beta1 - beta2), and for beta2 < 0 also x < (1 + beta2)(1 - beta1 -
    beta2)/|beta2|.
    """

    eta: Any
    beta1: Any
    beta2: Any
    name: ClassVar[str] = "multi_step_momentum"

    def __check_init__(self):
        check_positive("the step size eta", self.eta)
        _check_beta2(self.beta2)
        check_positive(
            "1 - beta1 - beta2",
            1 - self.beta1 - self.beta2,
            hint="Momenta that add up to 1 never lose energy.",
        )
        check_positive(
            "1 + beta1 - beta2",
            1 + self.beta1 - self.beta2,
            hint="No step size is stable otherwise.",
        )

    def init(self, params: PyTree) -> MultiStepState:
        zero = jax.tree.map(jnp.zeros_like, params)
        return MultiStepState(zero, zero)

    def update(self, updates, state, params=None):
        step = jax.tree.map(
            lambda g, u, v: self.beta1 * u + self.beta2 * v - self.eta * g, updates, *state
        )
        return step, MultiStepState(step, state.last)

    def flow(self):
        """The inverse of `MultiStepMomentum.discretize`. Raises InputError for beta2 < 0 and
        momenta too small to lie near a flow."""
        lost, half = 1 - self.beta1 - self.beta2, _half_step(self.beta2)
        check_positive(
            "2 (1 + beta2)^2 - (1 - beta2)(1 - beta1 - beta2)",
            1 - lost * half,
            hint="Take beta1 nearer to 1 - beta2.",
        )
        damping = lost / (1 - lost * half)
        h = (self.eta * (1 + damping * half)) ** 0.5
        return MultiStepMomentum(damping / h, self.beta2), h


def _half_step(beta2: Any) -> Any:
    """1/2 for the heavy ball, where it makes the difference central."""
    return (1 - beta2) / (2 * (1 + beta2) ** 2)


def _check_beta2(beta2: Any) -> None:
    value = concrete(beta2)
    if value is not None and not (abs(value) < 1).all():
        raise InputError(f"the second momentum beta2 must lie in (-1, 1), got {beta2}.")


def multi_step_momentum(eta: Any, beta1: Any, beta2: Any) -> MultiStepMomentumMethod:
    """Multi-step momentum with step size eta > 0 and momenta beta1 + beta2 < 1, as an optax-style
    transformation."""
    return MultiStepMomentumMethod(eta, beta1, beta2)

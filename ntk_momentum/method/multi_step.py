"""Multi-step ("higher") momentum, the authors' extension of (3.1) by the step before the last, and
its limit: a heavy ball with mass."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ..errors import InputError, check_number, check_positive
from .base import AbstractFlow, AbstractOptimizer, Number, State, positive
from .frozen import FrozenStep, damped
from .special import damped_oscillator


class MultiStepMomentum(AbstractFlow):
    """The limit of multi-step momentum: the heavy ball (3.2) with mass 1 + beta2.

        (1 + beta2) w'' + b w' + grad L(w) = 0,  w'(0) = 0

    Args:
        b: Friction, >= 0, in 1/time.
        beta2: The second momentum, in (-1, 1); negative values make a lighter, faster ball.

    Raises:
        InputError: If a parameter is no number or out of its range.

    Examples:
        >>> flow = nm.MultiStepMomentum(1.0, -0.5)
        >>> round(float(flow.fastest_rate(2.0)), 3)
        2.0
    """

    b: Number
    beta2: Number
    name: ClassVar[str] = "multi_step_momentum"
    inertial: ClassVar[bool] = True

    def __check_init__(self) -> None:
        check_positive("the friction b", self.b, strict=False)
        _check_beta2(self.beta2)

    @property
    def settles(self) -> bool:
        """With friction."""
        return positive(self.b)

    def init(self, w: PyTree) -> State:
        """(w, 0): at rest."""
        return State(w, jax.tree.map(jnp.zeros_like, w))

    def vector_field(self, t: Number, state: State, gradient: PyTree) -> State:
        """The equation as a system, v = dw/dt."""
        mass = 1 + self.beta2
        return State(
            state.v, jax.tree.map(lambda v, g: -(self.b * v + g) / mass, state.v, gradient)
        )

    def mode(self, eigenvalue: Number, t: Number) -> tuple[Array, Array]:
        """The damped oscillator with stiffness lambda/(1 + beta2) and friction b/(1 + beta2)."""
        mass = 1 + self.beta2
        return damped_oscillator(eigenvalue / mass, self.b / mass, t)

    def _closed_step(self) -> Callable[..., FrozenStep]:
        return partial(damped, self.b / (1 + self.beta2), 1 / (1 + self.beta2))

    def discretize(self, h: Number) -> tuple[MultiStepMomentumMethod, Number]:
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

    def fastest_rate(self, lambda_max: Number) -> Number:
        """sqrt(lambda_max/(1 + beta2))."""
        return jnp.sqrt(lambda_max / (1 + self.beta2))

    def _damping_rate(self, t: Number, h: Number) -> Number:
        return jnp.asarray(self.b / (1 + self.beta2))

    def lyapunov(
        self,
        t: Number,
        residual: Float[Array | np.ndarray, " n"],
        velocity: Float[Array | np.ndarray, " n"],
        kernel: Float[Array | np.ndarray, "n n"],
    ) -> Float[Array, ""]:
        """(A.6) of the kernel H/(1 + beta2) with alpha = b/(2 (1 + beta2))."""
        mass = 1 + self.beta2
        return jnp.asarray(0.5 * residual @ (kernel @ residual)) / mass + 0.5 * jnp.sum(
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

    eta: Number
    beta1: Number
    beta2: Number
    name: ClassVar[str] = "multi_step_momentum"

    def __check_init__(self) -> None:
        check_positive("the step size eta", self.eta, example=0.1)
        check_number("the first momentum beta1", self.beta1, 0.5)
        _check_beta2(self.beta2)
        check_positive(
            "1 - beta1 - beta2",
            1 - self.beta1 - self.beta2,
            hint="Take beta1 + beta2 < 1: momenta that add up to 1 never lose energy.",
        )
        check_positive(
            "1 + beta1 - beta2",
            1 + self.beta1 - self.beta2,
            hint="Take beta2 < 1 + beta1: no step size is stable otherwise.",
        )

    def init(self, params: PyTree) -> MultiStepState:
        """No last step and none before it."""
        zero = jax.tree.map(jnp.zeros_like, params)
        return MultiStepState(zero, zero)

    def update(
        self, updates: PyTree, state: MultiStepState, params: PyTree | None = None
    ) -> tuple[PyTree, MultiStepState]:
        """The step, which becomes the last one."""
        step = jax.tree.map(
            lambda g, u, v: self.beta1 * u + self.beta2 * v - self.eta * g, updates, *state
        )
        return step, MultiStepState(step, state.last)

    def flow(self) -> tuple[MultiStepMomentum, Number]:
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


def _half_step(beta2: Number) -> Number:
    """1/2 for the heavy ball, where it makes the difference central."""
    return (1 - beta2) / (2 * (1 + beta2) ** 2)


def _check_beta2(beta2: Number) -> None:
    value = check_number("the second momentum beta2", beta2)
    if value is not None and not (abs(value) < 1).all():
        raise InputError(f"the second momentum beta2 must lie in (-1, 1), got {beta2}; try 0.1.")


def multi_step_momentum(eta: Number, beta1: Number, beta2: Number) -> MultiStepMomentumMethod:
    """Multi-step ("higher") momentum, the authors' extension of (3.1), as an optax-style
    transformation.

        w_{k+1} - w_k = beta1 (w_k - w_{k-1}) + beta2 (w_{k-1} - w_{k-2}) - eta grad L(w_k)

    from w_{-1} = w_{-2} = w_0.

    Args:
        eta: Step size, > 0, in units of time squared of the flow.
        beta1: Momentum of the last step; beta1 + beta2 < 1.
        beta2: Momentum of the step before, in (-1, 1).

    Returns:
        The method, with optax's `init` and `update`.

    Raises:
        InputError: If a parameter is no number or out of its range.

    Examples:
        >>> flow, h = nm.multi_step_momentum(0.01, 0.5, 0.2).flow()
        >>> type(flow).__name__, round(float(h), 3)
        ('MultiStepMomentum', 0.104)
    """
    return MultiStepMomentumMethod(eta, beta1, beta2)

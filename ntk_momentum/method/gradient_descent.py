"""Gradient descent (2.1) and its gradient flow (2.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ..errors import check_positive
from .adapted import StepSize, adapted
from .base import AbstractFlow, AbstractOptimizer, Number, State
from .frozen import FrozenStep, relaxed


class GradientFlow(AbstractFlow):
    """The gradient flow, the limit of gradient descent for small steps.

        dw/dt = -grad L(w)                  (2.2)
        dDelta/dt = -H Delta                (2.5)

    Examples:
        >>> phi, slope = nm.GradientFlow().mode(2.0, jnp.asarray(1.0))
        >>> round(float(phi), 3), round(float(slope), 3)
        (0.135, -0.271)
    """

    name: ClassVar[str] = "gradient_flow"

    @property
    def settles(self) -> bool:
        """True."""
        return True

    def init(self, w: PyTree) -> State:
        """(w, None): there is no momentum."""
        return State(w, None)

    def vector_field(self, t: Number, state: State, gradient: PyTree) -> State:
        """-grad L."""
        return State(jax.tree.map(jnp.negative, gradient), None)

    def mode(self, eigenvalue: Number, t: Number) -> tuple[Array, Array]:
        """phi = exp(-lambda t)."""
        phi = jnp.exp(-eigenvalue * t)
        return phi, jnp.negative(eigenvalue) * phi

    def discretize(self, h: Number) -> tuple[GradientDescent, Number]:
        """Gradient descent with eta = h, compared at t = k h: Euler's method, order 1."""
        return GradientDescent(h), 0.0 * h

    def _closed_step(self) -> Callable[..., FrozenStep]:
        return relaxed

    def fastest_rate(self, lambda_max: Number) -> Number:
        """lambda_max."""
        return lambda_max

    def lyapunov(
        self,
        t: Number,
        residual: Float[Array | np.ndarray, " n"],
        velocity: Float[Array | np.ndarray, " n"],
        kernel: Float[Array | np.ndarray, "n n"],
    ) -> Float[Array, ""]:
        """L = |Delta|^2 / 2, of which L' = -Delta . H Delta."""
        return 0.5 * jnp.sum(residual**2)


class GradientDescent(AbstractOptimizer):
    """w_{k+1} = w_k - eta grad L(w_k) (2.1)."""

    eta: Number
    name: ClassVar[str] = "gradient_descent"

    def __check_init__(self) -> None:
        check_positive("the step size eta", self.eta)

    def init(self, params: PyTree) -> tuple[()]:
        """Nothing is remembered."""
        return ()

    def update(
        self, updates: PyTree, state: tuple[()], params: PyTree | None = None
    ) -> tuple[PyTree, tuple[()]]:
        """-eta grad L."""
        return jax.tree.map(lambda g: -self.eta * g, updates), state

    def flow(self) -> tuple[GradientFlow, Number]:
        """Time is t = k eta."""
        return GradientFlow(), self.eta


def gradient_descent(eta: StepSize, *, weight_decay: Number = 0.0) -> AbstractOptimizer:
    """Gradient descent as an optax-style transformation.

        w_{k+1} = w_k - eta grad L(w_k)                (2.1)

    Its flow is `nm.GradientFlow()` at t = k eta.

    Args:
        eta: Step size, > 0, in units of time. Stable on a constant kernel for eta < 2/lambda_max.
            Or a schedule: a function of the number of steps taken, such as optax's.
        weight_decay: lambda >= 0, in units of the kernel: lambda w is added to the gradient, as
            torch.optim.SGD does (for the same loss, a half-sum here), and not decoupled.

    Returns:
        The method, with optax's `init` and `update`.

    Raises:
        InputError: If a parameter is no number, or out of its range.

    Examples:
        >>> method = nm.gradient_descent(0.1)
        >>> step, state = method.update(jnp.ones(2), method.init(jnp.zeros(2)))
        >>> step.tolist()
        [-0.1, -0.1]
    """
    return adapted(GradientDescent, eta, weight_decay)

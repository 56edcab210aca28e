"""Polyak's heavy ball (3.1) and the heavy ball with friction (3.2), tied by a second-order map."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ..errors import check_interval, check_positive
from .adapted import StepSize, adapted
from .base import AbstractMomentumFlow, AbstractOptimizer, Number, positive
from .frozen import FrozenStep, damped
from .special import damped_oscillator


class HeavyBall(AbstractMomentumFlow):
    """The heavy ball with friction, the limit of Polyak's method.

        w'' + b w' + grad L(w) = 0,  w'(0) = 0           (3.2)
        Delta'' + b Delta' + H Delta = 0                 (3.5)

    Args:
        b: Friction, >= 0, in 1/time. The paper takes b = sqrt(2 lambda_0) (3.3); on a constant
            kernel b = 2 sqrt(lambda_min) decays fastest.

    Raises:
        InputError: If b is no number, or negative or not finite.

    Examples:
        Critically damped at the eigenvalue 1, where phi = (1 + t) exp(-t):

        >>> phi, slope = nm.HeavyBall(2.0).mode(1.0, jnp.asarray(1.0))
        >>> round(float(phi), 3), round(float(slope), 3)
        (0.736, -0.368)
    """

    b: Number
    name: ClassVar[str] = "heavy_ball"

    def __check_init__(self) -> None:
        check_positive("the friction b", self.b, strict=False)

    @property
    def settles(self) -> bool:
        """With friction."""
        return positive(self.b)

    def friction(self, t: Number) -> Array:
        """b."""
        return jnp.asarray(self.b)

    def mode(self, eigenvalue: Number, t: Number) -> tuple[Array, Array]:
        """phi = exp(-b t / 2) (cos wt + (b / 2w) sin wt), w^2 = lambda - b^2/4, and its other
        regimes."""
        return damped_oscillator(eigenvalue, self.b, t)

    def _closed_step(self) -> Callable[..., FrozenStep]:
        return partial(damped, self.b, 1.0)

    def discretize(self, h: Number) -> tuple[HeavyBallMethod, Number]:
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

    def lyapunov(
        self,
        t: Number,
        residual: Float[Array | np.ndarray, " n"],
        velocity: Float[Array | np.ndarray, " n"],
        kernel: Float[Array | np.ndarray, "n n"],
    ) -> Float[Array, ""]:
        """(A.6): V = Delta . H Delta / 2 + |alpha Delta + Delta'|^2 / 2 with alpha = b/2."""
        return jnp.asarray(0.5 * residual @ (kernel @ residual)) + 0.5 * jnp.sum(
            (0.5 * self.b * residual + velocity) ** 2
        )


class HeavyBallMethod(AbstractOptimizer):
    """w_{k+1} = w_k - eta grad L(w_k) + beta (w_k - w_{k-1}) (3.1), with w_{-1} = w_0."""

    eta: Number
    beta: Number
    name: ClassVar[str] = "heavy_ball"

    def __check_init__(self) -> None:
        check_positive("the step size eta", self.eta)
        check_interval(
            "the momentum beta",
            self.beta,
            0.0,
            1.0,
            "Take beta < 1: beta = 1 never loses energy (the paper's [0, 1] should be [0, 1)).",
        )

    def init(self, params: PyTree) -> PyTree:
        """No last step: w_{-1} = w_0."""
        return jax.tree.map(jnp.zeros_like, params)

    def update(
        self, updates: PyTree, state: PyTree, params: PyTree | None = None
    ) -> tuple[PyTree, PyTree]:
        """The step, which is also what is remembered."""
        step = jax.tree.map(lambda g, last: self.beta * last - self.eta * g, updates, state)
        return step, step

    def flow(self) -> tuple[HeavyBall, Number]:
        """The inverse of `HeavyBall.discretize`: bh/2 = (1 - beta)/(1 + beta), h^2 = eta (1 +
        bh/2)."""
        half = (1 - self.beta) / (1 + self.beta)
        h = (self.eta * (1 + half)) ** 0.5
        return HeavyBall(2 * half / h), h


def heavy_ball(eta: StepSize, beta: Number, *, weight_decay: Number = 0.0) -> AbstractOptimizer:
    """Polyak's heavy ball as an optax-style transformation.

        w_{k+1} = w_k - eta grad L(w_k) + beta (w_k - w_{k-1}),  w_{-1} = w_0           (3.1)

    Its flow is `nm.HeavyBall(b)`: `heavy_ball(eta, beta).flow()` is (flow, h) with iterate k at
    t = (k + 1/2) h.

    Args:
        eta: Step size, > 0, in units of time squared of the flow. Or a schedule eta_k: a function
            of the number of steps taken, such as optax's. The velocity w_k - w_{k-1} keeps the
            step sizes that it was made with; torch.optim.SGD and optax.sgd multiply all of it by
            the present one.
        beta: Momentum, in [0, 1), dimensionless.
        weight_decay: lambda >= 0, in units of the kernel: lambda w is added to the gradient, as
            torch.optim.SGD does (for the same loss, a half-sum here), and not decoupled.

    Returns:
        The method, with optax's `init` and `update`.

    Raises:
        InputError: If a parameter is no number or out of its range.

    Examples:
        >>> flow, h = nm.heavy_ball(0.01, 0.9).flow()
        >>> round(float(flow.b), 3), round(float(h), 3)
        (1.026, 0.103)
    """
    return adapted(lambda eta: HeavyBallMethod(eta, beta), eta, weight_decay)

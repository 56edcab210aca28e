"""What a flow and an optimizer are. A flow knows nothing of networks: it receives a gradient.

The same flow drives the weights, with the gradient of L at w (2.2, 3.2, 4.2), and the error, with the gradient
H Delta of the pseudo-loss (2.5, 3.5, 4.3): the paper's whole argument, expressed as code reuse.
"""

from __future__ import annotations

import abc
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree


class State(NamedTuple):
    """Position w and momentum v of a flow (v is None for first-order flows). Also holds their time derivatives."""

    w: PyTree
    v: PyTree


class AbstractFlow(eqx.Module):
    """An optimization flow, first order in (w, v). Its parameters are leaves, so flows stack and vmap."""

    name: ClassVar[str]

    @abc.abstractmethod
    def init(self, w: PyTree) -> State:
        """The state at t = 0, at rest at w."""

    @abc.abstractmethod
    def vector_field(self, t: Float[Array, ""], state: State, gradient: PyTree) -> State:
        """(dw/dt, dv/dt) at time t >= 0, given the gradient at state.w. Exact at t = 0."""

    @abc.abstractmethod
    def mode(self, eigenvalue: Float[Array, ...], t: Float[Array, ...]) -> tuple[Array, Array]:
        """(phi, dphi/dt) of one kernel eigenvalue: the closed-form solution with phi(0) = 1, started at rest. Broadcasts."""

    @abc.abstractmethod
    def discretize(self, h: float) -> tuple[AbstractOptimizer, Any]:
        """(optimizer, offset): iterate k of the optimizer approximates the flow at t = k h + offset."""

    @abc.abstractmethod
    def lyapunov(
        self, t: Float[Array, ""], residual: Float[Array, " n"], velocity: Float[Array, " n"], kernel: Float[Array, "n n"]
    ) -> Float[Array, ""]:
        """The paper's Lyapunov function of the error Delta and its velocity."""

    @abc.abstractmethod
    def fastest_rate(self, lambda_max: Float[Array, ""]) -> Float[Array, ""]:
        """The largest rate (1/time) at which a kernel with this largest eigenvalue makes the flow move: the scale of a first step."""


class AbstractMomentumFlow(AbstractFlow):
    """w'' + b(t) w' + grad L(w) = 0, written as w' = v, v' = -b(t) v - grad L(w)."""

    @abc.abstractmethod
    def friction(self, t: Float[Array, ""]) -> Float[Array, ""]:
        """b(t)."""

    def init(self, w: PyTree) -> State:
        return State(w, jax.tree.map(jnp.zeros_like, w))

    def fastest_rate(self, lambda_max):
        return jnp.sqrt(lambda_max)


class AbstractOptimizer(eqx.Module):
    """A discrete method with optax's `init` and `update`, usable in `optax.chain`; updates are added to the weights."""

    name: ClassVar[str]

    @abc.abstractmethod
    def init(self, params: PyTree) -> PyTree:
        """The state before the first step (a cold start: no momentum)."""

    @abc.abstractmethod
    def update(self, updates: PyTree, state: PyTree, params: PyTree | None = None) -> tuple[PyTree, PyTree]:
        """(w_{k+1} - w_k, new state) from the gradient at w_k."""

    @abc.abstractmethod
    def flow(self) -> tuple[AbstractFlow, Any]:
        """(flow, h): the flow whose `discretize(h)` is this optimizer."""

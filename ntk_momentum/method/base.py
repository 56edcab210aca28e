"""What a flow and an optimizer are. A flow knows nothing of networks: it receives a gradient.

The same flow drives the weights, with the gradient of L at w (2.2, 3.2, 4.2), and the error, with
the gradient H Delta of the pseudo-loss (2.5, 3.5, 4.3): the paper's whole argument, expressed as
code reuse.
"""

from __future__ import annotations

import abc
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree

Number = int | float | np.number | np.ndarray | Array
"""A number of Python, numpy or jax, also a traced one, or an array of them where flows are stacked
or eigenvalues and times broadcast."""


class State(NamedTuple):
    """Position w and momentum v of a flow (v is None for first-order flows). Also holds their time
    derivatives."""

    w: PyTree
    v: PyTree


class FrozenStep(NamedTuple):
    """A step of length h with the Jacobian J frozen, in the eigenbasis of H = J J^T.

    w(t+h) = w + carry_w v - J^T U impulse_w and v(t+h) = carry_v v - J^T U impulse_v; residual and
    velocity are the exact Delta and J v at t+h, in the eigenbasis, shape (n,).
    """

    residual: Float[Array, " n"]
    velocity: Float[Array, " n"]
    impulse_w: Float[Array, " n"]
    impulse_v: Float[Array, " n"]
    carry_w: Float[Array, ""]
    carry_v: Float[Array, ""]


class AbstractFlow(eqx.Module):
    """An optimization flow, first order in (w, v): the base class of (2.2), (3.2) and (4.2).

    Its parameters are leaves, so flows stack and vmap. A flow of one's own defines `init`,
    `vector_field`, `mode`, `discretize`, `lyapunov` and `fastest_rate`, and `name`. `inertial` says
    whether the momentum is the velocity, v = dw/dt.
    """

    name: ClassVar[str]
    inertial: ClassVar[bool] = False

    @property
    def has_lyapunov(self) -> bool:
        """Whether a Lyapunov function is known."""
        return type(self).lyapunov is not AbstractFlow.lyapunov

    @property
    def linear(self) -> bool:
        """Whether the flow depends linearly on the gradient, so that eigenmodes of a constant
        kernel evolve apart."""
        return True

    def settled(self, eigenvalues: ArrayLike, start: ArrayLike, end: float) -> AbstractFlow:
        """The linear flow that acts until `end` on a constant kernel, from errors `start` along its
        eigenvectors; itself where linear."""
        return self

    @abc.abstractmethod
    def init(self, w: PyTree) -> State:
        """The state at t = 0, at rest at w."""

    @abc.abstractmethod
    def vector_field(self, t: Number, state: State, gradient: PyTree) -> State:
        """(dw/dt, dv/dt) at time t >= 0, given the gradient at state.w. Exact at t = 0."""

    @abc.abstractmethod
    def mode(self, eigenvalue: Number, t: Number) -> tuple[Array, Array]:
        """(phi, dphi/dt) of one kernel eigenvalue: the closed-form solution with phi(0) = 1,
        started at rest. Broadcasts."""

    @abc.abstractmethod
    def discretize(self, h: float) -> tuple[AbstractOptimizer, Number]:
        """(optimizer, offset): iterate k of the optimizer approximates the flow at t = k h +
        offset."""

    @abc.abstractmethod
    def lyapunov(
        self,
        t: Number,
        residual: Float[Array | np.ndarray, " n"],
        velocity: Float[Array | np.ndarray, " n"],
        kernel: Float[Array | np.ndarray, "n n"],
    ) -> Float[Array, ""]:
        """The paper's Lyapunov function of the error Delta and its velocity."""

    def frozen_step(
        self,
        eigenvalues: Float[Array, " n"],
        t: Float[Array, ""],
        h: Float[Array, ""],
        residual: Float[Array, " n"],
        velocity: Float[Array, " n"],
    ) -> FrozenStep:
        """Solve one step of the frozen dynamics mode by mode, for any flow linear in (w, v,
        gradient).

        With the Jacobian J frozen, Delta = Delta_0 + J (w - w_0) closes on itself. What moves the
        weights is a combination of the past forces, w(s) - w_0 = carry_w(s) v_0 - J^T Q(s), and
        likewise v with carry_v and its own sum R. On an eigenvalue lambda of H = J J^T, Q and R are
        numbers that obey the flow itself with the gradient -Delta in place of grad L,

            (Q, R)' = flow(s, (Q, R), -Delta),   Delta = Delta_0 + carry_w J v_0 - lambda Q,

        from 0, and the carries, the same for every eigenvalue, obey it without force from (0, 1).

        Args:
            eigenvalues: (n,), of H, in 1/time (first order) or 1/time^2.
            t: The time at the step's start.
            h: The step's length.
            residual: (n,), Delta at t in the eigenbasis.
            velocity: (n,), J v at t in the eigenbasis.

        Returns:
            What moves the weights, and the exact Delta and J v at t + h.
        """
        # Fourth-order substeps of 1/20 of the fastest scale cost n numbers each, next to nothing
        # beside a network's evaluation. Measured against closed forms of the heavy ball (b = 1,
        # lambda from 0.01 to 10): an error of 5e-8 after h = 1 and of 4e-9 after h = 10.
        fastest = jnp.maximum(self.fastest_rate(jnp.max(eigenvalues)), self._damping_rate(t, h))
        substeps = jnp.ceil(20.0 * h * fastest).astype(jnp.int32) + 1
        dt = h / substeps

        def rate(s: Array, pair: tuple[State, State]) -> tuple[State, State]:
            impulse, carry = pair
            now = residual + carry.w * velocity - eigenvalues * impulse.w
            return self.vector_field(s, impulse, -now), self.vector_field(
                s, carry, jnp.zeros_like(h)
            )

        def add(pair: PyTree, scale: Array, slope: PyTree) -> PyTree:
            return jax.tree.map(lambda a, b: a + scale * b, pair, slope)

        def substep(i: Array, pair: tuple[State, State]) -> tuple[State, State]:
            s = t + i * dt
            k1 = rate(s, pair)
            k2 = rate(s + dt / 2, add(pair, dt / 2, k1))
            k3 = rate(s + dt / 2, add(pair, dt / 2, k2))
            k4 = rate(s + dt, add(pair, dt, k3))
            return jax.tree.map(
                lambda y, a, b, c, d: y + dt / 6 * (a + 2 * b + 2 * c + d), pair, k1, k2, k3, k4
            )

        zero, nothing = jnp.zeros_like(residual), jnp.zeros_like(h)
        impulse, carry = jax.lax.fori_loop(
            0, substeps, substep, (State(zero, zero), State(nothing, nothing + 1))
        )
        return FrozenStep(
            residual + carry.w * velocity - eigenvalues * impulse.w,
            carry.v * velocity - eigenvalues * impulse.v,
            impulse.w,
            impulse.v,
            carry.w,
            carry.v,
        )

    def _damping_rate(self, t: Number, h: Number) -> Number:
        """How fast friction alone acts in the step from t to t + h (1/time)."""
        return jnp.zeros_like(t)

    @abc.abstractmethod
    def fastest_rate(self, lambda_max: Number) -> Number:
        """The largest rate (1/time) at which a kernel with this largest eigenvalue makes the flow
        move: the scale of a first step."""


class AbstractMomentumFlow(AbstractFlow):
    """w'' + b(t) w' + grad L(w) = 0, written as w' = v, v' = -b(t) v - grad L(w): (3.2) and
    (4.2)."""

    inertial: ClassVar[bool] = True

    @abc.abstractmethod
    def friction(self, t: Number) -> Array:
        """b(t)."""

    def init(self, w: PyTree) -> State:
        """(w, 0): at rest."""
        return State(w, jax.tree.map(jnp.zeros_like, w))

    def fastest_rate(self, lambda_max: Number) -> Number:
        """sqrt(lambda_max), the fastest mode's frequency."""
        return jnp.sqrt(lambda_max)

    def _damping_rate(self, t: Number, h: Number) -> Number:
        return self.friction(t + h)


class AbstractOptimizer(eqx.Module):
    """A discrete method with optax's `init` and `update`, usable in `optax.chain`; updates are
    added to the weights."""

    name: ClassVar[str]

    @property
    def linear(self) -> bool:
        """Whether the steps depend linearly on the gradients, so that eigenmodes of a constant
        kernel evolve apart."""
        return True

    @abc.abstractmethod
    def init(self, params: PyTree) -> PyTree:
        """The state before the first step (a cold start: no momentum)."""

    @abc.abstractmethod
    def update(
        self, updates: PyTree, state: PyTree, params: PyTree | None = None
    ) -> tuple[PyTree, PyTree]:
        """(w_{k+1} - w_k, new state) from the gradient at w_k."""

    @abc.abstractmethod
    def flow(self) -> tuple[AbstractFlow, Number]:
        """(flow, h): the flow whose `discretize(h)` is this optimizer."""

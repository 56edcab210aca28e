"""What is read off a run: functions of a `Snapshot` at saved times, and observers that fold over
accepted steps.

A user's own read-out is any function of a snapshot, e.g. `readouts={"norm": lambda s:
jnp.linalg.norm(s.residual)}`.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..errors import InputError, unknown_name
from ..method import AbstractFlow, GradientFlow, State
from ..network.two_layer import TwoLayerNet
from .objective import AbstractProblem, WeightProblem, activation_pattern


class Snapshot:
    """One moment of a run. Everything is computed when first asked for.

    t, state (w and v), problem, flow (None in discrete training), start (the snapshot at t = 0),
    reference (the kernel that H(t) is compared with, or None).
    """

    def __init__(
        self,
        problem: AbstractProblem,
        flow: AbstractFlow | None,
        t: Array,
        state: State,
        start: Snapshot | None,
        reference: Array | None,
    ):
        self.problem, self.flow, self.t, self.state = problem, flow, t, state
        self.start, self.reference = start or self, reference

    @cached_property
    def f(self) -> Float[Array, n * k]:
        """Predictions on the training inputs."""
        return self._weights().f(self.state.w)

    @cached_property
    def model(self) -> Any:
        """The model with its present weights."""
        return self._weights().whole(self.state.w)

    @cached_property
    def residual(self) -> Float[Array, n * k]:
        """Delta = f - y (dL/df for other losses)."""
        return self.problem.residual(self.state.w)

    @cached_property
    def rate(self) -> PyTree:
        """dw/dt."""
        if self.flow is None:
            raise InputError(
                "dw/dt exists for flows only; leave 'velocity' and 'lyapunov' out of "
                "the read-outs of a discrete run."
            )
        return self.flow.vector_field(self.t, self.state, self.problem.gradient(self.state.w)).w

    @cached_property
    def velocity(self) -> Float[Array, n * k]:
        """dDelta/dt = J dw/dt."""
        return self.problem.velocity(self.state.w, self.rate)

    @cached_property
    def kernel(self) -> Float[Array, "nk nk"]:
        """H(t), over samples and outputs flattened together."""
        return self.problem.kernel(self.state.w)

    @cached_property
    def slide(self) -> tuple[Float[Array, "n n"], Array]:
        """(H, pairs held) of a gradient flow that may slide along kinks, see
        `WeightProblem.slide`."""
        if not isinstance(self.flow, GradientFlow):
            raise InputError(
                "neurons slide under the gradient flow only; leave out the read-outs 'sliding...'."
            )
        return self._weights().slide(self.state.w)

    @cached_property
    def eigenvalues(self) -> Float[Array, " nk"]:
        """Of H(t), ascending."""
        return jnp.linalg.eigvalsh(self.kernel)

    def _weights(self) -> WeightProblem:
        if not isinstance(self.problem, WeightProblem):
            raise InputError(
                "the error dynamics has no network; read 'residual' instead of 'f', "
                "and leave out flips and displacement."
            )
        return self.problem


class Observer(eqx.Module):
    """A read-out that needs both ends of every accepted step."""

    def check(self, flow: AbstractFlow) -> None:
        """Raise InputError for a flow that it cannot observe."""

    def bound(self, flow: AbstractFlow | None) -> Observer:
        """The observer of a run of this flow, None in discrete training: itself unless it needs the
        flow's parameters."""
        return self

    @abc.abstractmethod
    def init(self, problem: Any, t: Array, state: State) -> PyTree:
        """What is remembered at t = 0."""

    @abc.abstractmethod
    def update(
        self, problem: Any, memory: PyTree, t0: Array, before: State, t1: Array, after: State
    ) -> PyTree:
        """What is remembered after a step from (t0, before) to (t1, after)."""

    @abc.abstractmethod
    def read(self, memory: PyTree, snapshot: Snapshot) -> Array:
        """The read-out at a saved time."""


class Flips(Observer):
    """Distinct (neuron, sample) pairs whose sign of w_r . x_i has at some accepted step differed
    from the one at t = 0."""

    def init(self, problem, t, state):
        pattern = activation_pattern(problem.model(state.w), problem.X)
        return pattern, jnp.zeros_like(pattern)

    def update(self, problem, memory, t0, before, t1, after):
        pattern, flipped = memory
        return pattern, flipped | (pattern ^ activation_pattern(problem.model(after.w), problem.X))

    def read(self, memory, snapshot):
        return jnp.sum(memory[1])


class Impulses(Observer):
    """The kinks' impulses so far, J_i = m^{-1/2} sum a_r |dw_r/dt . x_i| over the crossings of w_r
    . x_i = 0 (the a.s. zero of (A.1)).

    A crossing is seen when the sign differs at the two ends of a step, and takes the velocity
    interpolated to it. Smaller steps miss fewer double crossings. For ReLU networks and flows whose
    momentum is the velocity, v = dw/dt. Shape (n,).
    """

    def check(self, flow):
        if not flow.inertial:
            raise InputError(
                "impulses need a flow whose momentum is the velocity dw/dt; that of "
                f"{type(flow).__name__} is not."
            )

    def init(self, problem, t, state):
        reason = why_not_counted(problem, state)
        if reason is not None:
            raise InputError(f"impulses are counted {reason}; leave them out of readouts.")
        return jnp.zeros_like(problem.y)

    def update(self, problem, memory, t0, before, t1, after):
        net, X = problem.model(before.w), problem.X.reshape(problem.X.shape[0], -1)
        z0, z1, v0, v1 = (X @ part.hidden.T for part in (before.w, after.w, before.v, after.v))
        crossed = (z0 > 0) != (z1 > 0)
        at = z0 / jnp.where(crossed, z0 - z1, 1.0)
        speed = jnp.where(crossed, jnp.abs(v0 + at * (v1 - v0)), 0.0)
        return memory + net.scale * (speed @ net.output)

    def read(self, memory, snapshot):
        return memory


def why_not_counted(problem: Any, state: State) -> str | None:
    """Where impulses are counted kink by kink, if that is not here; else None."""
    net = problem.model(state.w)
    if not isinstance(net, TwoLayerNet):
        return f"for a TwoLayerNet, not for a {type(net).__name__}"
    if state.v is None:
        return "on velocities, so for flows with momentum only"
    if net.activation is not jax.nn.relu:
        return "for the activation jax.nn.relu alone"
    if len(jax.tree.leaves(state.w)) != 1 or state.w.hidden is None:
        return 'where the hidden layer alone is trained, trainable="hidden"'
    return None


class KernelVariation(Observer):
    """Total variation of log H over accepted steps, the sum of max_i |log lambda_i(H_before^{-1}
    H_after)|: NAG's bound needs it finite."""

    def init(self, problem, t, state):
        return jnp.zeros_like(t)

    def update(self, problem, memory, t0, before, t1, after):
        factor = jnp.linalg.cholesky(problem.kernel(before.w))
        half = jax.scipy.linalg.solve_triangular(factor, problem.kernel(after.w), lower=True)
        ratio = jax.scipy.linalg.solve_triangular(factor, half.T, lower=True)
        return memory + jnp.max(jnp.abs(jnp.log(jnp.linalg.eigvalsh(ratio))))

    def read(self, memory, snapshot):
        return memory


class KernelRises(Observer):
    """Sum over accepted steps of the positive part of Delta . (H_after - H_before) Delta / 2: how
    far jumps of H have lifted V of (A.6)."""

    def init(self, problem, t, state):
        return jnp.zeros_like(t)

    def update(self, problem, memory, t0, before, t1, after):
        residual = problem.residual(after.w).reshape(-1)
        change = problem.kernel(after.w) - problem.kernel(before.w)
        return memory + jnp.maximum(0.5 * residual @ (change @ residual), 0.0)

    def read(self, memory, snapshot):
        return memory


def spectral_norm(matrix: Float[Array, "n n"]) -> Float[Array, ""]:
    """The 2-norm of a symmetric matrix."""
    return jnp.max(jnp.abs(jnp.linalg.eigvalsh(matrix)))


def _loss(s: Snapshot) -> Array:
    return (
        s.problem.value(s.state.w)
        if isinstance(s.problem, WeightProblem)
        else 0.5 * jnp.sum(s.residual**2)
    )


def _pseudo_loss(s: Snapshot) -> Array:
    residual = s.residual.reshape(-1)
    return 0.5 * residual @ (s.kernel @ residual)


def _lyapunov(s: Snapshot) -> Array:
    if s.flow is None:
        raise InputError(
            "Lyapunov functions belong to flows; leave 'lyapunov' out of the read-outs "
            "of a discrete run."
        )
    return s.flow.lyapunov(s.t, s.residual.reshape(-1), s.velocity.reshape(-1), s.kernel)


def _displacement(s: Snapshot) -> Array:
    moved = jax.tree.map(lambda now, then: now - then, s.state.w, s.start.state.w)
    moved = s.problem.orthonormal(moved) if isinstance(s.problem, WeightProblem) else moved
    rows = [
        jnp.linalg.norm(
            leaf.reshape(leaf.shape[0], -1) if leaf.ndim else leaf.reshape(1, 1), axis=1
        )
        for leaf in jax.tree.leaves(moved)
    ]
    return jnp.max(jnp.stack([jnp.max(row) for row in rows]))


def _kernel_distance(s: Snapshot) -> Array:
    if s.reference is None:
        raise InputError(
            "'kernel_distance' needs a kernel to compare with; pass reference= (n, n), "
            "e.g. nm.infinite_ntk(data.X)."
        )
    return spectral_norm(s.kernel - s.reference)


Readout = Callable[[Snapshot], Array] | Observer

READOUTS: dict[str, Readout] = {
    "f": lambda s: s.f,
    "residual": lambda s: s.residual,
    "velocity": lambda s: s.velocity,
    "loss": _loss,
    "pseudo_loss": _pseudo_loss,
    "lambda_min": lambda s: s.eigenvalues[0],
    "lambda_max": lambda s: s.eigenvalues[-1],
    "kernel": lambda s: s.kernel,
    "kernel_drift": lambda s: spectral_norm(s.kernel - s.start.kernel),
    "kernel_distance": _kernel_distance,
    "displacement": _displacement,
    "flips": Flips(),
    "impulses": Impulses(),
    "kernel_variation": KernelVariation(),
    "kernel_rises": KernelRises(),
    "lyapunov": _lyapunov,
    "sliding": lambda s: s.slide[1],
    "sliding_kernel": lambda s: s.slide[0],
    "sliding_lambda_min": lambda s: jnp.linalg.eigvalsh(s.slide[0])[0],
}
"""Every named read-out. kernel_drift = |H(t) - H(0)|_2; kernel_distance = |H(t) - reference|_2 (H
infinity by default); displacement = max_r |w_r(t) - w_r(0)| over the rows of every trained array.
sliding: pairs of neuron and sample that the gradient flow holds on a kink; sliding_kernel,
sliding_lambda_min: H with Filippov's slopes there, which does not flicker as signs of w_r . x_i
do."""

_GENERAL = ("f", "loss", "pseudo_loss", "lambda_min", "lambda_max", "kernel_drift", "displacement")


@functools.singledispatch
def default_readouts(model: Any) -> tuple[str, ...]:
    """The read-outs that make sense for a model, by name."""
    return _GENERAL


@default_readouts.register
def _(model: TwoLayerNet):
    return (*_GENERAL, "flips")


def resolve(
    readouts: Sequence[str] | Mapping[str, Any] | None, default: Sequence[str]
) -> dict[str, Readout]:
    """Names, or a mapping from names to names, functions of a snapshot, or observers."""
    if readouts is None:
        readouts = default
    if isinstance(readouts, str):
        readouts = (readouts,)
    table = dict(readouts) if isinstance(readouts, Mapping) else {name: name for name in readouts}
    chosen: dict[str, Readout] = {}
    for name, readout in table.items():
        if isinstance(readout, str):
            if readout not in READOUTS:
                raise unknown_name("read-out", readout, READOUTS)
            readout = READOUTS[readout]
        elif not callable(readout) and not isinstance(readout, Observer):
            raise InputError(
                f"read-out {name!r} must be a name, a function of a snapshot or an "
                f"Observer, got {readout!r}."
            )
        chosen[name] = readout
    return chosen


class Watch(eqx.Module):
    """All observers among the read-outs, folded together."""

    observers: dict[str, Observer]

    def init(self, problem, t, state):
        return {name: observer.init(problem, t, state) for name, observer in self.observers.items()}

    def update(self, problem, watched, t0, before, t1, after):
        return {
            name: observer.update(problem, watched[name], t0, before, t1, after)
            for name, observer in self.observers.items()
        }


def watch(readouts: dict[str, Readout], flow: AbstractFlow | None = None) -> Watch:
    """The observers of a table of read-outs, for a run of a flow."""
    return Watch(
        {
            name: readout.bound(flow)
            for name, readout in readouts.items()
            if isinstance(readout, Observer)
        }
    )


def read_off(
    readouts: dict[str, Readout], snapshot: Snapshot, watched: PyTree, ok: Array
) -> dict[str, Array]:
    """Every read-out at one moment; NaN where the run has failed."""
    dtype = snapshot.t.dtype
    values = {
        name: readout.read(watched[name], snapshot)
        if isinstance(readout, Observer)
        else readout(snapshot)
        for name, readout in readouts.items()
    }
    return jax.tree.map(lambda value: jnp.where(ok, jnp.asarray(value, dtype), jnp.nan), values)


ERROR_READOUTS = ("residual", "velocity", "loss", "pseudo_loss", "lyapunov")
"""What `simulate_error` reads off by default."""

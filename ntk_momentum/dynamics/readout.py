"""What is read off a run: functions of a `Snapshot` at saved times, and observers that fold over
accepted steps.

A user's own read-out is any function of a snapshot, e.g. `readouts={"norm": lambda s:
jnp.linalg.norm(s.residual)}`.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..errors import InputError, described, unknown_name
from ..method import AbstractFlow, State
from .snapshot import Snapshot


class Observer(eqx.Module):
    """A read-out that needs both ends of every accepted step, as sums and maxima over time do.

    One of one's own defines `init` and `update`, which fold an array, or several, over the steps;
    `read` where the read-out is not that memory itself; `check` and `bound` where it depends on the
    flow.

    Examples:
        The work done against the loss, the integral of -dL/dt = Delta . H Delta (2.5) by the
        trapezoidal rule, is what the loss has lost:

        >>> class Work(nm.Observer):
        ...     def init(self, start):
        ...         return jnp.zeros_like(start.t)
        ...     def update(self, memory, before, after):
        ...         power = sum(s.residual @ (s.kernel @ s.residual) for s in (before, after)) / 2
        ...         return memory + power * (after.t - before.t)
        >>> run = nm.simulate_error(np.eye(1), [1.0], nm.GradientFlow(), [2.0],
        ...                         readouts={"work": Work(), "loss": "loss"})
        >>> bool(jnp.abs(run.work[0] + run.loss[0] - 0.5) < 0.02)
        True
    """

    def check(self, flow: AbstractFlow) -> None:
        """Raise InputError for a flow that it cannot observe."""

    def bound(self, flow: AbstractFlow | None) -> Observer:
        """The observer of a run of this flow, None in discrete training: itself unless it needs the
        flow's parameters."""
        return self

    @abc.abstractmethod
    def init(self, start: Snapshot) -> PyTree:
        """What is remembered at t = 0."""

    @abc.abstractmethod
    def update(self, memory: PyTree, before: Snapshot, after: Snapshot) -> PyTree:
        """What is remembered after a step from `before` to `after`."""

    def read(self, memory: PyTree, snapshot: Snapshot) -> Array:
        """The read-out at a saved time: the memory itself unless overridden."""
        return memory


class Flips(Observer):
    """Distinct (neuron, sample) pairs whose sign of w_r . x_i has at some accepted step differed
    from the one at t = 0."""

    def init(self, start: Snapshot) -> PyTree:
        return start.pattern, jnp.zeros_like(start.pattern)

    def update(self, memory: PyTree, before: Snapshot, after: Snapshot) -> PyTree:
        pattern, flipped = memory
        return pattern, flipped | (pattern ^ after.pattern)

    def read(self, memory: PyTree, snapshot: Snapshot) -> Array:
        return jnp.sum(memory[1])


class Impulses(Observer):
    """The kinks' impulses so far, J_i = m^{-1/2} sum a_r |dw_r/dt . x_i| over the crossings of w_r
    . x_i = 0 (the a.s. zero of (A.1)).

    A crossing is seen when the sign differs at the two ends of a step, and takes the velocity
    interpolated to it. Smaller steps miss fewer double crossings. For ReLU networks and flows whose
    momentum is the velocity, v = dw/dt. Shape (n,).
    """

    def check(self, flow: AbstractFlow) -> None:
        if not flow.inertial:
            raise InputError(
                "impulses need a flow whose momentum is the velocity dw/dt; that of "
                f"{type(flow).__name__} is not."
            )

    def init(self, start: Snapshot) -> PyTree:
        if start.why_not_counted is not None:
            raise InputError(
                f"impulses are counted {start.why_not_counted}; leave them out of readouts."
            )
        return jnp.zeros_like(start.residual)

    def update(self, memory: PyTree, before: Snapshot, after: Snapshot) -> PyTree:
        z0, z1 = before.preactivations, after.preactivations
        v0, v1 = before.preactivation_rates, after.preactivation_rates
        crossed = (z0 > 0) != (z1 > 0)
        at = z0 / jnp.where(crossed, z0 - z1, 1.0)
        speed = jnp.where(crossed, jnp.abs(v0 + at * (v1 - v0)), 0.0)
        return memory + speed @ before.outer


class KernelVariation(Observer):
    """Total variation of log H over accepted steps, the sum of max_i |log lambda_i(H_before^{-1}
    H_after)|: NAG's bound needs it finite."""

    def init(self, start: Snapshot) -> PyTree:
        return jnp.zeros_like(start.t)

    def update(self, memory: PyTree, before: Snapshot, after: Snapshot) -> PyTree:
        factor = jnp.linalg.cholesky(before.kernel)
        half = jax.scipy.linalg.solve_triangular(factor, after.kernel, lower=True)
        ratio = jax.scipy.linalg.solve_triangular(factor, half.T, lower=True)
        return memory + jnp.max(jnp.abs(jnp.log(jnp.linalg.eigvalsh(ratio))))


class KernelRises(Observer):
    """Sum over accepted steps of the positive part of Delta . (H_after - H_before) Delta / 2: how
    far jumps of H have lifted V of (A.6)."""

    def init(self, start: Snapshot) -> PyTree:
        return jnp.zeros_like(start.t)

    def update(self, memory: PyTree, before: Snapshot, after: Snapshot) -> PyTree:
        residual = after.residual.reshape(-1)
        change = after.kernel - before.kernel
        return memory + jnp.maximum(0.5 * residual @ (change @ residual), 0.0)


def spectral_norm(matrix: Float[Array, "n n"]) -> Float[Array, ""]:
    """The 2-norm of a symmetric matrix."""
    return jnp.max(jnp.abs(jnp.linalg.eigvalsh(matrix)))


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
    "loss": lambda s: s.loss,
    "pseudo_loss": _pseudo_loss,
    "lambda_min": lambda s: s.eigenvalues[0],
    "lambda_max": lambda s: s.eigenvalues[-1],
    "kernel": lambda s: s.kernel,
    "kernel_drift": lambda s: spectral_norm(s.kernel - s.start.kernel),
    "kernel_distance": _kernel_distance,
    "displacement": lambda s: s.displacement,
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

RESERVED = (
    *("ts", "readouts", "model", "verdict", "accepted", "rejected", "errors", "state"),
    *("ok", "reason"),
    *("flows", "batch_sizes", "widths", "seeds", "data", "failures"),
)
"""Names that a trajectory or an ensemble has for something else."""


def resolve(
    readouts: Sequence[str] | Mapping[str, Any] | None, default: Sequence[str]
) -> dict[str, Readout]:
    """Names, or a mapping from names to names, functions of a snapshot, or observers."""
    table = as_table(default if readouts is None else readouts)
    chosen: dict[str, Readout] = {}
    for name, readout in table.items():
        if not isinstance(name, str):
            raise InputError(
                f"readouts must have names, got {described(name)}; try readouts={{'loss': 'loss'}}."
            )
        if name in RESERVED:
            raise InputError(
                f"readouts must have names of their own, got {name!r}, which a trajectory has for "
                f"something else (as {', '.join(RESERVED)}); choose another name for it."
            )
        if isinstance(readout, str):
            if readout not in READOUTS:
                raise unknown_name("read-out", readout, READOUTS)
            readout = READOUTS[readout]
        elif not callable(readout) and not isinstance(readout, Observer):
            raise InputError(
                "readouts must be names, functions of a snapshot or Observers, got "
                f"{described(readout)} "
                f"for {name!r}; try lambda s: s.loss."
            )
        chosen[name] = readout
    return chosen


def as_table(readouts: Any) -> dict[Any, Any]:
    """A mapping from names to read-outs, of what may be given for them."""
    if isinstance(readouts, Mapping):
        return dict(readouts)
    if isinstance(readouts, str):
        return {readouts: readouts}
    if not isinstance(readouts, Iterable):
        raise InputError(
            "readouts must be names, or a mapping from names to functions of a snapshot, got "
            f"{described(readouts)}; try readouts=['loss'] or {{'norm': lambda s: "
            "jnp.linalg.norm(s.residual)}}."
        )
    return {name: name for name in readouts}


def may_read_start(readouts: Mapping[str, Readout]) -> bool:
    """Whether a read-out may ask for the kernel at the start: the drift does, and nobody knows of a
    function of one's own."""
    known = {id(r) for name, r in READOUTS.items() if name != "kernel_drift"}
    return any(id(r) not in known for r in readouts.values() if not isinstance(r, Observer))


class Watch(eqx.Module):
    """All observers among the read-outs, folded together: a solver hands it both ends of a step, it
    hands them on as snapshots."""

    observers: dict[str, Observer]
    flow: AbstractFlow | None

    def init(self, problem: Any, t: Array, state: State) -> PyTree:
        start = Snapshot(problem, self.flow, t, state)
        return {name: observer.init(start) for name, observer in self.observers.items()}

    def update(
        self, problem: Any, watched: PyTree, t0: Array, before: State, t1: Array, after: State
    ) -> PyTree:
        ends = Snapshot(problem, self.flow, t0, before), Snapshot(problem, self.flow, t1, after)
        return {
            name: observer.update(watched[name], *ends) for name, observer in self.observers.items()
        }


def watch(readouts: dict[str, Readout], flow: AbstractFlow | None = None) -> Watch:
    """The observers of a table of read-outs, for a run of a flow."""
    observers = {
        name: readout.bound(flow)
        for name, readout in readouts.items()
        if isinstance(readout, Observer)
    }
    return Watch(observers, flow)


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

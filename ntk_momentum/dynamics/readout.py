"""What is read off a run: functions of a `Snapshot` at saved times, and observers that fold over
accepted steps.

A user's own read-out is any function of a snapshot, e.g. `readouts={"norm": lambda s:
jnp.linalg.norm(s.residual)}`. A snapshot offers nothing that depends on the coordinates in which a
run is solved (`coordinates`), so a read-out of one's own costs what the same built-in one costs.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..errors import InputError, described, unknown_name
from ..method import AbstractFlow, GradientFlow, State
from .objective import AbstractProblem


class Snapshot:
    """One moment of a run, as a read-out sees it; a run makes them.

    A read-out of one's own is a function of a snapshot with an array as its value. Everything is
    computed when first asked for, once, in whatever coordinates the run is solved in, so that a
    read-out of one's own costs what the built-in one costs. Symbols are those of section 2: f,
    Delta = f - y, L, H.

    Args:
        problem: What is descended.
        flow: The flow; None in discrete training.
        t: The time, or the number of steps taken in discrete training.
        state: Weights and momentum, in the coordinates of the problem.
        start: The snapshot at t = 0; itself where None.
        reference: The kernel that H(t) is compared with, what computes it, or None.

    Raises:
        InputError: Where a read-out asks for what this run does not have, as dw/dt in discrete
            training.

    Examples:
        The share of the loss in the slowest mode of H(t):

        >>> def slowest(s):
        ...     vectors = jnp.linalg.eigh(s.kernel)[1]
        ...     return 0.5 * (vectors[:, 0] @ s.residual) ** 2 / s.loss
        >>> data = nm.sphere(5, 3, key=jax.random.key(0))
        >>> net = nm.init_two_layer(64, 3, key=jax.random.key(1))
        >>> run = nm.simulate(net, data, nm.GradientFlow(), [1.0, 4.0], readouts={"share": slowest})
        >>> bool(run.share[1] > run.share[0])
        True
    """

    def __init__(
        self,
        problem: AbstractProblem,
        flow: AbstractFlow | None,
        t: Array,
        state: State,
        start: Snapshot | None = None,
        reference: Array | Callable[[], Array] | None = None,
    ):
        self._problem, self._state, self._reference = problem, state, reference
        self.flow, self.t, self.start = flow, t, start or self

    @cached_property
    def f(self) -> Float[Array, n * k]:
        """Predictions on the training inputs."""
        return self._problem.f(self._state.w)

    @cached_property
    def loss(self) -> Float[Array, ""]:
        """L(f, y)."""
        return self._problem.value(self._state.w)

    @cached_property
    def residual(self) -> Float[Array, n * k]:
        """Delta = f - y (dL/df for other losses)."""
        return self._problem.residual(self._state.w)

    @cached_property
    def velocity(self) -> Float[Array, n * k]:
        """dDelta/dt = J dw/dt."""
        return self._problem.velocity(self._state.w, self._rate)

    @cached_property
    def kernel(self) -> Float[Array, "nk nk"]:
        """H(t), over samples and outputs flattened together."""
        return self._problem.kernel(self._state.w)

    @cached_property
    def eigenvalues(self) -> Float[Array, " nk"]:
        """Of H(t), ascending."""
        return jnp.linalg.eigvalsh(self.kernel)

    def apply_kernel(self, u: Float[Array, n * k]) -> Float[Array, n * k]:
        """H(t) u = J (J^T u), without forming H."""
        return self._problem.velocity(self._state.w, self._problem.pull(self._state.w, lambda f: u))

    @cached_property
    def reference(self) -> Float[Array, "nk nk"] | None:
        """The kernel that H(t) is compared with, or None."""
        return self._reference() if callable(self._reference) else self._reference

    @cached_property
    def model(self) -> Any:
        """The model with its present weights."""
        self._network()
        return self._problem.whole(self._state.w)

    @cached_property
    def momentum(self) -> PyTree:
        """v, shaped like the trained weights; None for flows and methods without one."""
        return self._problem.lift_change(self._state.v)

    @cached_property
    def kinetic_energy(self) -> Float[Array, ""]:
        """|v|^2 / 2."""
        return 0.5 * self._problem.inner(self._state.v, self._state.v)

    @cached_property
    def displacement(self) -> Float[Array, ""]:
        """max_r |w_r(t) - w_r(0)| over the rows of every trained array."""
        moved = jax.tree.map(jnp.subtract, self._state.w, self.start._state.w)
        leaves = jax.tree.leaves(self._problem.orthonormal(moved))
        rows = [
            leaf.reshape(leaf.shape[0], -1) if leaf.ndim else leaf.reshape(1, 1) for leaf in leaves
        ]
        return jnp.max(jnp.stack([jnp.max(jnp.linalg.norm(row, axis=1)) for row in rows]))

    @cached_property
    def preactivations(self) -> Float[Array, "n m"]:
        """z_ir = w_r . x_i of a two-layer net."""
        return self._problem.preactivations(self._state.w)

    @cached_property
    def preactivation_rates(self) -> Float[Array, "n m"]:
        """v_r . x_i, which is dz/dt where the momentum is the velocity."""
        return self._problem.preactivations(self._state.v)

    @cached_property
    def pattern(self) -> Bool[Array, "n m"]:
        """Which neurons are active on which samples, w_r . x_i > 0."""
        return self.preactivations > 0

    @cached_property
    def outer(self) -> Float[Array, " m"]:
        """s a_r, with which the neurons of a two-layer net enter f."""
        return self._problem.outer(self._state.w)

    @property
    def gram(self) -> Float[Array, "n n"]:
        """X X^T of the inputs."""
        return self._problem.gram()

    @cached_property
    def slide(self) -> tuple[Float[Array, "n n"], Int[Array, ""]]:
        """(H, pairs held) of a gradient flow that may slide along kinks, see
        `NeuronProblem.slide`."""
        if not isinstance(self.flow, GradientFlow):
            raise InputError(
                "neurons slide under the gradient flow only; leave out the read-outs 'sliding...'."
            )
        self._network()
        return self._problem.slide(self._state.w)

    @property
    def loss_function(self) -> Any:
        """The loss, L(f, y)."""
        return self._problem.loss_function

    @property
    def has_momentum(self) -> bool:
        """Whether there is a v."""
        return self._state.v is not None

    @cached_property
    def pushed(self) -> Float[Array, n * k]:
        """H dL/df = J grad L."""
        return self._problem.velocity(self._state.w, self._problem.gradient(self._state.w))

    @cached_property
    def speed(self) -> Float[Array, n * k]:
        """J v with momentum, -J grad L without: dDelta/dt where the momentum is the velocity."""
        if self._state.v is None:
            return -self.pushed
        return self._problem.velocity(self._state.w, self._state.v)

    @cached_property
    def slides(self) -> bool:
        """Whether neurons may slide here, and how they do is known."""
        return self._state.v is None and self._problem.kinks(self._state.w) is not None

    @cached_property
    def driving_kernel(self) -> Float[Array, "nk nk"]:
        """H with which the error moves: with Filippov's slopes where neurons slide along kinks."""
        return self._problem.slide(self._state.w)[0] if self.slides else self.kernel

    @property
    def why_not_counted(self) -> str | None:
        """Where the kinks' impulses are counted one by one, if that is not here; else None."""
        return self._problem.why_not_counted(self._state)

    @cached_property
    def _rate(self) -> PyTree:
        """dw/dt, in the coordinates of the problem."""
        if self.flow is None:
            raise InputError(
                "dw/dt exists for flows only; leave 'velocity' and 'lyapunov' out of "
                "the read-outs of a discrete run."
            )
        gradient = self._problem.gradient(self._state.w)
        return self.flow.vector_field(self.t, self._state, gradient).w

    def _network(self) -> None:
        """Raise where there is none."""
        if self._problem.whole(self._state.w) is None:
            self._problem.f(self._state.w)


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

"""One run, made ready, started and carried on: what `simulate`, `train`, checkpoints and ensembles
are thin over.

    prepare   model, data, loss, trained part  ->  an objective over weights w, in good coordinates
    start     the solver's progress at t = 0
    proceed   to the next saved times, and the read-outs there
    solve     all of it in one program, which may be jitted, vmapped and mapped

Discrete training is a run as well: its integrator takes the steps of an optimizer, and its time is
the number of steps taken.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .. import memory
from ..data import Dataset
from ..errors import InputError, concrete, no_type_check
from ..loops import collect
from ..method import (
    AbstractFlow,
    AbstractOptimizer,
    RestartedNesterov,
    RestartedNesterovMethod,
    State,
    check_linear,
)
from ..numerics import Numerics, Precision, check_config, in_dtype, placed
from ..products import in_force
from ..progress import OnProgress
from . import peaks
from .coordinates import Decomposition
from .defaults import as_integrator, default_names, default_reference, wants_reference
from .objective import AbstractProblem, WeightProblem
from .preparation import Choices, as_reference, weight_problem, weights_dtype
from .readout import Readout, may_read_start, read_off, resolve, watch
from .snapshot import Snapshot
from .solver import REASONS, AbstractIntegrator, Batches
from .solver.base import NO_START, NOT_FINITE, NOT_REFINED, Progress
from .solver.restarting import restarting
from .trajectory import Trajectory


def _numerics(aux: tuple[int, Precision], leaves: Iterable[Any]) -> Numerics:
    """Without the checks of its constructor: leaves may be anything that a transformation puts
    there."""
    made = object.__new__(Numerics)
    for name, value in zip(("tol", "max_steps", "precision"), (*leaves, *aux), strict=True):
        object.__setattr__(made, name, value)
    return made


jax.tree_util.register_pytree_with_keys(
    Numerics,
    lambda n: (((jax.tree_util.GetAttrKey("tol"), n.tol),), (n.max_steps, n.precision)),
    _numerics,
)


class Run(eqx.Module):
    """Everything about a run but how far it is.

    Attributes:
        problem: what is descended.
        w: the weights at t = 0, in the problem's coordinates.
        method: a flow, or an optimizer.
        integrator: what carries it from one saved time to the next.
        readouts: name -> function of a `Snapshot`, or observer.
        reference: the kernel that H(t) is compared with, or None.
        numerics: tolerance, limits and precision.
    """

    problem: AbstractProblem
    w: PyTree
    method: Any
    integrator: AbstractIntegrator
    readouts: dict[str, Readout]
    reference: Float[Array, "nk nk"] | None
    numerics: Numerics

    @staticmethod
    @no_type_check
    def prepare(
        model: Any,
        data: Dataset,
        method: Any,
        chosen: Choices | None = None,
        plain: Any = None,
        batches: Batches | None = None,
    ) -> Run:
        """A run of a model on a data set, checked, and in the model's precision; in the weights'
        own coordinates until `within`.

        Args:
            model, data: as in `simulate`.
            method: a flow, or an optimizer with optax's init and update.
            chosen: everything else, as in `simulate`.
            plain: the model whose kind decides about the reference, where `model` is a padded copy
                of it.
            batches: the mini-batches of an optimizer, None for the whole data set.
        """
        plain = model if plain is None else plain
        chosen = Choices() if chosen is None else chosen
        check_config(chosen.config)
        check_linear(method)
        trainable, where, config = chosen.trainable, chosen.where, chosen.config
        problem, w = weight_problem(model, data, chosen.loss, trainable, where)
        dtype = weights_dtype(w)
        if isinstance(method, eqx.Module):
            method = jax.tree.map(lambda leaf: placed(leaf, dtype), method)
        reference, default = chosen.reference, None
        if reference is None:
            default = default_reference(plain, data, trainable, where)
        else:
            reference = as_reference(reference, problem.residual_size(w), dtype)
        known = reference if default is None else default
        table = resolve(chosen.readouts, default_names(problem, method, known))
        integrator = as_integrator(chosen.solver, problem, w, method, batches, table)
        if default is not None and wants_reference(problem, w, method, table):
            reference = default()
        return Run(problem, w, method, integrator, table, reference, in_dtype(config, dtype))

    @property
    def flow(self) -> AbstractFlow | None:
        """The flow; None in discrete training."""
        return self.method if isinstance(self.method, AbstractFlow) else None

    @property
    def dtype(self) -> Any:
        """The precision of the run: that of its weights."""
        return weights_dtype(self.w)

    @property
    def pauses(self) -> bool:
        """Whether it may stop between saved times and go on, see the integrator's."""
        return self._integrator().pauses

    def decompose(self) -> Decomposition | None:
        """The decomposition of the inputs that decides the coordinates; None where there are
        none."""
        return self.problem.decompose(self.w) if self._turns() else None

    def within(self, inputs: Decomposition | None = None) -> Run:
        """The run in the coordinates that suit it, by the decomposition of the inputs if it is
        known."""
        if not self._turns():
            return self
        whole = self.integrator.blind_to_coordinates(self.method)
        problem, w = self.problem.within(self.w, inputs, preactivations=whole)
        return eqx.tree_at(
            lambda run: (run.problem, run.w), self, (problem, w), is_leaf=lambda leaf: leaf is None
        )

    def _turns(self) -> bool:
        """Whether the method commutes with rotations of w, which one that scales coordinates one by
        one does not: what is linear does, and restarts do; of others nothing is known."""
        method = self.method
        return isinstance(method, RestartedNesterov | RestartedNesterovMethod) or (
            isinstance(method, AbstractFlow | AbstractOptimizer) and method.linear
        )

    def start(self) -> Progress:
        """Where the run starts: at rest, at t = 0."""
        with in_force(self.numerics.precision, self.dtype):
            progress = self._integrator().start(
                self.problem, self.method, self.state, self._watch(), self.numerics, self.dtype
            )
            sound = all_finite(self.problem.gradient(self.w))
            verdict = jnp.where(sound, progress.verdict, NO_START).astype(jnp.int32)
            return progress._replace(verdict=verdict)

    def proceed(
        self, progress: Progress, ts: Float[Array, " times"]
    ) -> tuple[Progress, dict[str, Array]]:
        """From where the run has come to the next saved times, and the read-outs there.

        A scan, each saved time reached exactly.
        """
        with in_force(self.numerics.precision, self.dtype):
            advance, look = self._parts()

            def segment(progress: Progress, t1: Array) -> tuple[Progress, dict[str, Array]]:
                progress = advance(progress, t1)
                return progress, look(progress, t1)

            return jax.lax.scan(segment, progress, ts)

    def solve(self, ts: Float[Array, " times"]) -> Trajectory:
        """The whole run, traceable: jit, vmap or map it. No checks."""
        end, values = self.proceed(self.start(), ts)
        return self.trajectory(ts, end, values)

    def opening(self) -> tuple[Progress, dict[str, Array]]:
        """Where a run that is counted off starts, and the read-outs there."""
        progress = self.start()
        return progress, self.glance(progress)

    def glance(self, progress: Progress) -> dict[str, Array]:
        """The read-outs where the run has come to."""
        with in_force(self.numerics.precision, self.dtype):
            return self._parts()[1](progress, progress.t)

    def count_off(
        self, progress: Progress, row: dict[str, Array], saves: Array, every: Array, slots: int
    ) -> tuple[Progress, dict[str, Array]]:
        """`saves` times `every` steps on from a progress whose read-outs are `row`; those after
        each `every` lie in rows 1 to `saves` of slots + 1, and `row` in row 0.

        saves and every are arrays, so that one program serves all numbers of steps.
        """
        with in_force(self.numerics.precision, self.dtype):
            advance, look = self._parts()
            rows = jax.tree.map(
                lambda value: jnp.zeros((slots + 1, *value.shape), value.dtype).at[0].set(value),
                row,
            )

            def block(i: Array, now: Progress) -> tuple[Progress, PyTree]:
                t = progress.t + ((i + 1) * every).astype(self.dtype)
                now = advance(now, t)
                return now, look(now, t)

            return collect(saves, block, progress, rows)

    def trajectory(self, ts: Array, end: Progress, values: dict[str, Array]) -> Trajectory:
        """What is handed to the user."""
        model = self.problem.whole(end.state.w)
        return Trajectory(ts, values, model, end.verdict, end.accepted, end.rejected)

    def check_memory(self, times: int) -> None:
        """Raise `InputError` where the run, read off at so many times, cannot fit into memory."""
        entries = self.problem.residual_size(self.w)
        leaves = jax.tree.leaves(self.w)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            return  # whoever traces knows how many runs there are
        numbers = sum(leaf.size for leaf in leaves)
        # What any solver holds, from above; a small run need not wait for its trace.
        bound = 30 * numbers + 10 * entries**2 + times * len(self.readouts) * entries**2
        if 8 * bound <= memory.SMALL and numbers * entries <= memory.SMALL:
            return
        if not isinstance(self.problem, WeightProblem):
            look = lambda run: run._parts()[1](run.start(), jnp.zeros((), run.dtype))
            return memory.check_saved(eqx.filter_eval_shape(look, self), times)
        X, (m, _) = self.problem.X, self.problem.neurons(self.w) or (0, 0)
        wants = peaks.needs_of(lambda run: run, self, times)
        needed = peaks.peak_of(
            wants,
            samples=len(X),
            p=X[0].size,
            m=m,
            dtype=self.dtype,
            devices=max(len(jnp.asarray(leaf).devices()) for leaf in leaves),  # may be numpy's
        )
        free = memory.may_be_taken()
        if free is not None and needed.total > free:
            raise peaks.refuse("this run", needed, free, 1, m > 0)

    def first(self) -> Snapshot:
        """The snapshot at t = 0."""
        zero = jnp.zeros((), self.dtype)
        return Snapshot(self.problem, self.flow, zero, self.state, None, self.reference)

    def _parts(self) -> tuple[Callable, Callable]:
        """advance: (progress, t1) -> progress at t1. look: (progress, t1) -> read-outs there."""
        watcher, integrator = self._watch(), self._integrator()
        for observer in watcher.observers.values():
            if self.flow is not None:
                observer.check(self.flow)
        first = self.first()
        if may_read_start(self.readouts):
            # Here, not inside the loop; removed by the compiler when nothing reads it. What is too
            # large is refused where something does.
            with contextlib.suppress(InputError):
                _ = first.kernel

        def advance(progress: Progress, t1: Array) -> Progress:
            # A run that has failed goes no further: NaN would only make it creep.
            progress = jax.lax.cond(
                progress.verdict == 0,
                lambda p: integrator.advance(
                    self.problem, self.method, p, t1, watcher, self.numerics
                ),
                lambda p: p,
                progress,
            )
            # The loss overflows before the weights do; a run without a loss is no success.
            w = progress.state.w
            finite = all_finite((self.problem.value(w), w))
            lost = (progress.verdict == 0) & ~finite
            verdict = jnp.where(lost, NOT_FINITE, progress.verdict).astype(jnp.int32)
            return progress._replace(verdict=verdict)

        def look(progress: Progress, t1: Array) -> dict[str, Array]:
            now = Snapshot(self.problem, self.flow, t1, progress.state, first, self.reference)
            return read_off(self.readouts, now, progress.watched, progress.verdict == 0)

        return advance, look

    @property
    def state(self) -> State:
        """Weights and momentum at t = 0."""
        return State(self.w, None) if self.flow is None else self.flow.init(self.w)

    def _watch(self) -> Any:
        return watch(self.readouts, self.flow)

    def _integrator(self) -> AbstractIntegrator:
        return self.integrator if self.flow is None else restarting(self.integrator, self.flow)


solve = eqx.filter_jit(Run.solve)
"""`Run.solve`, compiled; runs of one shape share a program."""
begin = eqx.filter_jit(Run.start)
proceed = eqx.filter_jit(Run.proceed)
opening = eqx.filter_jit(Run.opening)
glance = eqx.filter_jit(Run.glance)
count_off = eqx.filter_jit(Run.count_off)


def follow(
    run: Run, ts: Float[Array, " times"], every: int, done: int = 0, state: Progress | None = None
) -> Iterator[tuple[int, Progress, dict[str, np.ndarray]]]:
    """Carry a run on in blocks of `every` saved times, always the same blocks: (saved times done,
    progress, read-outs of the block).

    A solve in blocks differs from one in a single program by round-off; two in the same blocks do
    not.
    """
    state = begin(run) if state is None else state
    while done < ts.size:
        state, values = proceed(run, state, ts[done : done + every])
        done = min(done + every, ts.size)
        yield done, state, jax.device_get(values)


def watched(run: Run, ts: Float[Array, " times"], progress: OnProgress | None) -> Trajectory:
    """The whole run in one program; with `progress` in twenty blocks, after each of which it is
    called as progress(saved times done, saved times)."""
    if progress is None:
        return solve(run, ts)
    blocks = []
    state = begin(run)
    for done, reached, values in follow(run, ts, max(1, -(-ts.size // 20)), 0, state):
        state = reached
        blocks.append(values)
        progress(done, int(ts.size))
    values = jax.tree.map(lambda *parts: jnp.concatenate(parts), *blocks)
    return run.trajectory(ts, state, values)


def warn_of_failure(run: Run, trajectory: Trajectory, stacklevel: int) -> Trajectory:
    """The trajectory, with a warning when its solve has failed; `InputError` where it could not
    start."""
    verdict = concrete(trajectory.verdict)
    if verdict is not None and verdict.ndim == 0 and verdict not in (0, NOT_REFINED):
        refuse_no_start(run, trajectory)
        warnings.warn(
            f"the solve failed and its read-outs are NaN from there on: {REASONS[int(verdict)]}",
            RuntimeWarning,
            stacklevel=stacklevel + 1,
        )
    return trajectory


def refuse_no_start(run: Run, reached: Trajectory | Progress) -> None:
    """Raise `InputError` where a run could not start."""
    verdict = concrete(reached.verdict)
    if verdict is not None and verdict.ndim == 0 and verdict == NO_START:
        raise InputError(why_no_start(run.problem, run.w))


def why_no_start(problem: AbstractProblem, w: PyTree) -> str:
    """Which weights a gradient that is not finite belongs to, at the start of a run."""
    if not bool(all_finite(problem.value(w))):
        return "the loss is not finite at the start; check the model's outputs and the targets."
    leaves = jax.tree_util.tree_leaves_with_path(problem.gradient(w))
    names = [jax.tree_util.keystr(path) for path, leaf in leaves if not bool(all_finite(leaf))]
    return (
        f"the gradient is not finite at the start (leaf {', '.join(names[:3])}), though the loss "
        "is; look for a square root, logarithm, division or norm at zero behind a jnp.where, and "
        "guard its argument, not its value."
    )


def refined(solved: Callable[[Any, Numerics], Any], ts: Any, config: Numerics, refine: Any) -> Any:
    """What was solved, with error bars: its distance from the run before it, read-out by read-out.

    solved(ts, config) is a `Trajectory`, or an ensemble of runs with the times last in ts; refine
    is that of `simulate`. Each run has an eighth of the tolerance and twice the saved times of the
    last, so that every step is at least halved.
    """
    result = solved(ts, config)
    if refine is False:
        return result
    target, ts = None if refine is True else refine, np.asarray(ts)
    first = 0 if ts.flat[0] == 0 else 1  # flows start at 0, saved or not
    ends = np.concatenate([np.zeros((*ts.shape[:-1], first), ts.dtype), ts], axis=-1)
    for level in range(1, 2 if target is None else 7):
        coarse, parts = result, 2**level
        config = Numerics(config.tol / 8, config.max_steps, config.precision)
        within = np.arange(parts, dtype=ends.dtype) / parts
        grid = ends[..., :-1, None] + within * np.diff(ends)[..., None]
        grid = np.concatenate([grid.reshape(*ends.shape[:-1], -1), ends[..., -1:]], axis=-1)
        fine = solved(grid[..., first:], config)
        axis = np.ndim(fine.verdict)  # of the times, in read-outs
        saved = (slice(None),) * axis + (slice(parts - 1 if first else 0, None, parts),)
        values = {name: value[saved] for name, value in fine.readouts.items()}
        errors = {name: jnp.abs(value - coarse.readouts[name]) for name, value in values.items()}
        result = eqx.tree_at(
            lambda r: (r.ts, r.readouts, r.errors),
            fine,
            (coarse.ts, values, errors),
            is_leaf=lambda leaf: leaf is None,
        )
        if target is None:
            return result
        near = jnp.all(errors["loss"] <= target * values["loss"], axis=axis)
        missed = (result.verdict == 0) & ~near
        if not jnp.any(missed):
            return result
    shares = jnp.max(errors["loss"] / values["loss"], axis=axis)
    warnings.warn(
        f"the relative error {target:g} asked for was not reached: the loss is known to "
        f"{float(jnp.max(jnp.where(missed, shares, 0.0))):.2g}, with tol = {float(config.tol):.2g}",
        RuntimeWarning,
        stacklevel=3,
    )
    verdict = jnp.where(missed, NOT_REFINED, result.verdict).astype(jnp.int32)
    return eqx.tree_at(lambda r: r.verdict, result, verdict)


def all_finite(tree: PyTree) -> Array:
    """Whether every number is finite."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))

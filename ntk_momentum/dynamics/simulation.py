"""The flows on networks and on errors: weight dynamics (2.2, 3.2, 4.2) and error dynamics (2.5,
3.5, 4.3)."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ..data import Dataset
from ..errors import InputError, check_positive, concrete
from ..kernel import infinite_ntk
from ..loss import Loss, check_targets, squared
from ..method import AbstractFlow
from ..network.two_layer import TwoLayerNet, outputs, trainable_spec
from ..numerics import Numerics
from .coordinates import in_span
from .objective import AbstractProblem, ErrorProblem, WeightProblem
from .prediction import check_times
from .readout import (
    ERROR_READOUTS,
    READOUTS,
    Readout,
    Snapshot,
    default_readouts,
    read_off,
    resolve,
    watch,
)
from .solver import AbstractIntegrator, LazyExponential, RungeKutta, why_not_lazy
from .solver.base import NOT_REFINED, Progress
from .solver.restarting import restarting
from .trajectory import Trajectory


def simulate(
    model: Any,
    data: Any,
    flow: Any,
    ts: Any,
    *,
    loss: Loss = squared,
    trainable: Any = None,
    where: Callable | None = None,
    solver: Any = None,
    readouts: Sequence[str] | Mapping[str, Any] | None = None,
    reference: Any = None,
    refine: bool | float = False,
    config: Numerics = Numerics(),
) -> Trajectory:
    """Solve a flow on the weights of a model, from rest at t = 0, and read it off at `ts`.

    flow: `GradientFlow` (2.2), `HeavyBall` (3.2) or `Nesterov` (4.2), driven by the gradient of
    L(f(w), y). ts: non-negative, increasing times, in the flow's own unit (k eta for gradient
    descent, k sqrt(eta) for momentum). trainable, where: the trained part, see
    `network.trainable_spec`. solver: a diffrax solver or an integrator; by default
    `LazyExponential` for a two-layer net with a kink at zero, only its hidden layer trained on the
    squared loss, and `RungeKutta` (Tsit5) for everything else. readouts: names, or a mapping to
    names, functions of a `Snapshot`, or observers; by default f, loss, pseudo_loss, lambda_min,
    lambda_max, kernel_drift, displacement, lyapunov and, for the two-layer net, flips and
    kernel_distance. reference: the kernel behind kernel_distance; H infinity for a standard
    two-layer ReLU net. refine: True to run again with steps at most half as long and keep the
    difference as an error bar of every read-out (`trajectory.errors`); a number to go on until that
    is the loss's relative error at every saved time, with a verdict that says so when it cannot be
    had.

    The model's precision is the run's. Raises `InputError`; warns when the solver fails, and leaves
    NaN behind.
    """
    problem, w = weight_problem(model, data, loss, trainable, where)
    reference = (
        default_reference(model, data, trainable, where)
        if reference is None
        else jnp.asarray(reference)
    )
    chosen = chosen_readouts(readouts, model, reference)
    problem, w = in_span(
        problem, w, chosen, preactivations=isinstance(as_integrator(solver, problem, w), RungeKutta)
    )
    if refine is False:
        return _run(problem, w, flow, ts, solver, chosen, reference, config)
    if refine is not True:
        check_positive("refine, the relative error of the loss asked for,", refine)
        chosen = {"loss": READOUTS["loss"], **chosen}
    return _refine(
        lambda t, c: _run(problem, w, flow, t, solver, chosen, reference, c),
        ts,
        config,
        None if refine is True else refine,
    )


def simulate_error(
    kernel: Any,
    residual0: Any,
    flow: Any,
    ts: Any,
    *,
    solver: Any = None,
    readouts: Sequence[str] | Mapping[str, Any] | None = None,
    config: Numerics = Numerics(),
) -> Trajectory:
    """Solve the error dynamics of a constant kernel H, (2.5), (3.5) or (4.3), from Delta(0) =
    residual0 at rest.

    The same flow as in `simulate`, driven by H Delta, the gradient of the pseudo-loss. `predict`
    gives the closed form. Read-outs by default: residual, velocity, loss, pseudo_loss, lyapunov.
    """
    matrix, residual0 = jnp.asarray(kernel), jnp.asarray(residual0)
    if (
        matrix.ndim != 2
        or matrix.shape[0] != matrix.shape[1]
        or residual0.shape != matrix.shape[:1]
    ):
        raise InputError(
            f"kernel must be (n, n) and residual0 (n,), got {matrix.shape} and {residual0.shape}."
        )
    dtype = jnp.result_type(matrix, residual0, jnp.float32)
    problem = ErrorProblem(matrix.astype(dtype))
    return _run(
        problem,
        residual0.astype(dtype),
        flow,
        ts,
        solver,
        resolve(readouts, ERROR_READOUTS),
        None,
        config,
    )


def weight_problem(
    model: Any, data: Any, loss: Loss, trainable: Any, where: Callable | None
) -> tuple[WeightProblem, PyTree]:
    """The loss of a model on a data set as a problem over its trained weights, and those
    weights."""
    if not isinstance(data, Dataset):
        raise InputError(
            f"data must be a Dataset, got {type(data).__name__}; try nm.Dataset(X, y)."
        )
    trained = trainable_spec(model, trainable, where)
    w, frozen = eqx.partition(model, trained)
    dtype = jnp.result_type(*jax.tree.leaves(w))
    X, y = data.X.astype(dtype), data.y.astype(dtype)
    try:
        f = jax.eval_shape(lambda: outputs(model, X))
    except TypeError as error:
        raise InputError(
            f"the model does not take inputs of shape {X.shape[1:]}: {error}"
        ) from error
    check_output(f)
    shape = f.shape
    if not callable(loss):
        raise InputError(f"loss must be a function of (f, y) such as nm.squared, got {loss!r}.")
    if shape != y.shape and loss is squared:
        raise InputError(unequal_shapes(shape, y.shape))
    check_targets(loss, y)
    return WeightProblem(frozen, trained, X, y, loss), w


def check_output(f: Any) -> None:
    """Raise where a model returns something else than one array."""
    if not hasattr(f, "shape"):
        raise InputError(
            f"the model must return one array for one input, got a {type(f).__name__}; "
            "return the prediction alone."
        )


def unequal_shapes(f: tuple[int, ...], y: tuple[int, ...]) -> str:
    """What to say of outputs and targets of different shapes."""
    remedy = ""
    if len(f) == 2 and y == f[:1] and f[1] == 1:
        remedy = '; try out_size="scalar" in eqx.nn.MLP, or targets y[:, None]'
    elif len(y) == 2 and f == y[:1]:
        remedy = "; try targets y.ravel()" if y[1] == 1 else f"; try a model of {y[1]} outputs"
    return (
        f"the model's outputs on the data have shape {f}, the targets {y}; they must agree{remedy}."
    )


def default_reference(
    model: Any, data: Any, trainable: Any, where: Callable | None
) -> Array | None:
    """H infinity, for a two-layer ReLU net in the paper's parametrisation with a named trained
    part."""
    if (
        not isinstance(model, TwoLayerNet)
        or model.activation is not jax.nn.relu
        or where is not None
    ):
        return None
    if trainable is not None and trainable not in ("hidden", "output", "all"):
        return None
    scale = concrete(model.scale)
    if scale is not None and not np.isclose(scale, model.width**-0.5):
        return None
    return infinite_ntk(data.X.reshape(data.n, -1), trainable=trainable).astype(model.hidden.dtype)


def chosen_readouts(readouts: Any, model: Any, reference: Array | None) -> dict[str, Readout]:
    """The read-outs of a flow on a model: those asked for, or the defaults of `simulate`."""
    return resolve(
        readouts,
        (
            *default_readouts(model),
            "lyapunov",
            *(("kernel_distance",) if reference is not None else ()),
        ),
    )


def _run(problem, w, flow, ts, solver, readouts, reference, config) -> Trajectory:
    if not isinstance(flow, AbstractFlow):
        called = isinstance(flow, type) and issubclass(flow, AbstractFlow)
        got = f"the class {flow.__name__}; call it" if called else type(flow).__name__
        raise InputError(f"flow must be a flow such as nm.HeavyBall(b), got {got}.")
    dtype = jnp.result_type(*jax.tree.leaves(w))
    ts = check_times(ts).astype(dtype)
    flow = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), flow)
    trajectory = _solve(
        *tolerance_apart(config, dtype),
        problem,
        w,
        flow,
        ts,
        as_integrator(solver, problem, w),
        readouts,
        reference,
    )
    verdict = concrete(trajectory.verdict)
    if verdict is not None and verdict.ndim == 0 and verdict != 0:
        warnings.warn(
            f"the solve failed and its read-outs are NaN from there on: {trajectory.reason}",
            RuntimeWarning,
            stacklevel=3,
        )
    return trajectory


def as_integrator(solver: Any, problem: AbstractProblem, w: PyTree) -> AbstractIntegrator:
    """The `solver` argument: an integrator, a diffrax solver, or None for the best that fits the
    problem."""
    if solver is None:
        return LazyExponential() if why_not_lazy(problem, w) is None else RungeKutta()
    return solver if isinstance(solver, AbstractIntegrator) else RungeKutta(solver)


def solve(
    problem: AbstractProblem,
    w: PyTree,
    flow: AbstractFlow,
    ts: Float[Array, " times"],
    integrator: AbstractIntegrator,
    readouts: dict[str, Readout],
    reference: Float[Array, "n n"] | None,
    config: Numerics,
) -> Trajectory:
    """The traceable heart of `simulate`: a scan over saved times, each reached exactly. No checks;
    jit, vmap or map it."""
    start = begin(problem, w, flow, integrator, readouts, config, ts.dtype)
    end, values = proceed(start, ts, problem, w, flow, integrator, readouts, reference, config)
    model = problem.whole(end.state.w) if isinstance(problem, WeightProblem) else None
    return Trajectory(ts, values, model, end.verdict, end.accepted, end.rejected)


def begin(
    problem: AbstractProblem,
    w: PyTree,
    flow: AbstractFlow,
    integrator: AbstractIntegrator,
    readouts: dict[str, Readout],
    config: Numerics,
    dtype: Any,
) -> Progress:
    """Where a solve starts: at rest, at t = 0."""
    with jax.default_matmul_precision(config.precision):
        return restarting(integrator, flow).start(
            problem, flow, flow.init(w), watch(readouts, flow), config, dtype
        )


def proceed(
    progress: Progress,
    ts: Float[Array, " times"],
    problem: AbstractProblem,
    w: PyTree,
    flow: AbstractFlow,
    integrator: AbstractIntegrator,
    readouts: dict[str, Readout],
    reference: Float[Array, "n n"] | None,
    config: Numerics,
) -> tuple[Progress, dict[str, Array]]:
    """From where a solve has come to the next saved times `ts`, and the read-outs there. w: the
    weights at t = 0."""
    with jax.default_matmul_precision(config.precision):
        watcher, integrator = watch(readouts, flow), restarting(integrator, flow)
        for observer in watcher.observers.values():
            observer.check(flow)
        first = Snapshot(problem, flow, jnp.zeros_like(ts[0]), flow.init(w), None, reference)
        _ = (
            first.kernel
        )  # evaluated here, not inside the scan; removed by the compiler when nothing reads it

        def segment(progress, t1):
            progress = integrator.advance(problem, flow, progress, t1, watcher, config)
            ok = progress.verdict == 0
            snapshot = Snapshot(problem, flow, t1, progress.state, first, reference)
            return progress, read_off(readouts, snapshot, progress.watched, ok)

        return jax.lax.scan(segment, progress, ts)


@eqx.filter_jit
def _solve(tol, config, problem, w, flow, ts, integrator, readouts, reference) -> Trajectory:
    return solve(
        problem, w, flow, ts, integrator, readouts, reference, dataclasses.replace(config, tol=tol)
    )


def tolerance_apart(config: Numerics, dtype: Any) -> tuple[Array, Numerics]:
    """The tolerance as an array and the rest of the configuration, so that another tolerance needs
    no new compilation."""
    return jnp.asarray(config.tol, dtype), dataclasses.replace(config, tol=1.0)


def _refine(
    run: Callable[[Array, Numerics], Trajectory], ts: Any, config: Numerics, target: float | None
) -> Trajectory:
    """Runs on ever finer schedules, the last with error bars: its distance from the run before it,
    read-out by read-out.

    Each run has an eighth of the tolerance and twice the saved times of the last, so that every
    step is at least halved.
    """
    ts = check_times(ts)
    first = 0 if ts[0] == 0 else 1  # flows start at 0, saved or not
    ends = jnp.concatenate([jnp.zeros(first), ts])
    trajectory = run(ts, config)
    for level in range(1, 2 if target is None else 7):
        coarse, config = trajectory, dataclasses.replace(config, tol=config.tol / 8)
        grid = jnp.interp(
            jnp.arange(2**level * (ends.size - 1) + 1) / 2**level, jnp.arange(ends.size), ends
        )
        fine = run(grid[first:], config)
        saved = jax.tree.map(
            lambda value, step=2**level: value[step - 1 if first else 0 :: step], fine.readouts
        )
        trajectory = dataclasses.replace(fine, ts=coarse.ts, readouts=saved)
        errors = jax.tree.map(lambda a, b: jnp.abs(a - b), coarse.readouts, trajectory.readouts)
        trajectory = dataclasses.replace(trajectory, errors=errors)
        if target is not None and bool(jnp.all(errors["loss"] <= target * trajectory.loss)):
            return trajectory
    if target is None or not trajectory.ok:
        return trajectory
    worst = float(jnp.max(errors["loss"] / trajectory.loss))
    warnings.warn(
        (
            f"the relative error {target:g} asked for was not reached: the loss is known "
            f"to {worst:.2g}, with tol = {config.tol:.2g}"
        ),
        RuntimeWarning,
        stacklevel=3,
    )
    return dataclasses.replace(trajectory, verdict=jnp.asarray(NOT_REFINED, jnp.int32))

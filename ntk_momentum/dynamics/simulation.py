"""The flows on networks and on errors: weight dynamics (2.2, 3.2, 4.2) and error dynamics (2.5,
3.5, 4.3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, PyTree

from ..data import Dataset
from ..errors import InputError, check_real, no_type_check
from ..loss import Loss, squared
from ..method import AbstractFlow, check_method_kind
from ..numerics import Numerics, check_config, in_dtype, placed
from ..progress import OnProgress, check_progress
from .constant_kernel import check_constant_kernel, check_times
from .defaults import as_integrator, default_names
from .objective import AbstractProblem, ErrorProblem
from .preparation import Choices, weights_dtype
from .readout import Readout, resolve
from .run import Run, refined, warn_of_failure, watched
from .trajectory import Trajectory


@no_type_check
def simulate(
    model: Any,
    data: Dataset,
    flow: AbstractFlow,
    ts: ArrayLike | Sequence[float],
    *,
    loss: Loss = squared,
    trainable: Any = None,
    where: Callable | None = None,
    solver: Any = None,
    readouts: Sequence[str] | Mapping[str, Any] | None = None,
    reference: Any = None,
    refine: bool | float = False,
    progress: OnProgress | bool | None = None,
    config: Numerics = Numerics(),
) -> Trajectory:
    """Solve a flow on the weights of a model, from rest at t = 0, and read it off at `ts`.

        w' = -grad L                     (2.2)
        w'' + b w' = -grad L             (3.2)
        w'' + (d/t) w' = -grad L         (4.2)

    or any other flow.

    Args:
        model: An Equinox model of one input. Its precision is the run's.
        data: Inputs X, (n, ...), and targets y, (n,) or (n, k).
        flow: `GradientFlow`, `HeavyBall(b)`, `Nesterov(d)` ..., driven by the gradient of
            L(f(w), y).
        ts: Times, (T,), non-negative and increasing, in the flow's own unit (k eta for gradient
            descent, k sqrt(eta) for momentum).
        loss: L(f, y), a scalar.
        trainable: The trained part, see `network.model.trainable_spec`.
        where: The same as a function of the model that returns the trained leaves or sub-modules.
        solver: A diffrax solver or an integrator; by default `LazyExponential` for a two-layer net
            with a kink at zero, only its hidden layer trained on the squared loss, and `RungeKutta`
            (Tsit5) for everything else.
        readouts: Names, or a mapping to names, functions of a `Snapshot`, or observers; by default
            f, loss, pseudo_loss, lambda_min, lambda_max, kernel_drift, displacement, lyapunov and,
            for the two-layer net, flips and kernel_distance.
        reference: The kernel, (n, n), behind kernel_distance; H infinity for a standard two-layer
            ReLU net.
        refine: True to run again with steps at most half as long and keep the difference as an
            error bar of every read-out (`trajectory.errors`); a number to go on until that is the
            loss's relative error at every saved time, with a verdict that says so when it cannot be
            had.
        progress: Called as progress(saved times done, saved times), or True for a bar; the run is
            then solved in blocks, which changes its numbers by round-off.
        config: Tolerance, limits and precision.

    Returns:
        The read-outs at `ts`, the model at the last time, and the solver's verdict. When the solver
        fails it warns, and leaves NaN behind.

    Raises:
        InputError: If something cannot be run: a model that does not take the inputs, shapes,
            names, times, or what does not fit into memory.

    Examples:
        >>> data = nm.sphere(5, 3, key=jax.random.key(0))
        >>> net = nm.init_two_layer(64, 3, key=jax.random.key(1))
        >>> run = nm.simulate(net, data, nm.HeavyBall(0.5), [0.0, 1.0, 2.0], readouts=["loss"])
        >>> bool(run.loss[0] > run.loss[2])
        True
    """
    check_flow(flow)
    progress = check_progress(progress, "simulate")
    chosen = Choices(loss, trainable, where, solver, readouts, reference, config).refining(refine)
    run = Run.prepare(model, data, flow, chosen).within()
    return follow_times(run, ts, lambda run, ts: watched(run, ts, progress), refine)


@no_type_check
def simulate_error(
    kernel: ArrayLike,
    residual0: ArrayLike,
    flow: AbstractFlow,
    ts: ArrayLike | Sequence[float],
    *,
    solver: Any = None,
    readouts: Sequence[str] | Mapping[str, Any] | None = None,
    progress: OnProgress | bool | None = None,
    config: Numerics = Numerics(),
) -> Trajectory:
    """Solve the error dynamics of a constant kernel from Delta(0) = residual0 at rest.

        Delta' = -H Delta                     (2.5)
        Delta'' + b Delta' = -H Delta         (3.5)
        Delta'' + (d/t) Delta' = -H Delta     (4.3)

    The same flow as in `simulate`, driven by H Delta, the gradient of the pseudo-loss. `predict`
    gives the closed form.

    Args:
        kernel: H, (n, n), symmetric and positive semidefinite.
        residual0: Delta(0), (n,).
        flow: As in `simulate`.
        ts: As in `simulate`.
        solver: A diffrax solver; Tsit5 by default.
        readouts: residual, velocity, loss, pseudo_loss and lyapunov by default.
        progress: As in `simulate`.
        config: Tolerance, limits and precision.

    Returns:
        The read-outs at `ts`, without a model.

    Raises:
        InputError: If shapes do not fit, or the kernel is none.

    Examples:
        >>> run = nm.simulate_error(np.diag([1.0, 2.0]), [1.0, 1.0], nm.GradientFlow(), [0.0, 1.0])
        >>> np.round(run.residual[1], 3).tolist()
        [0.368, 0.135]
    """
    check_config(config)
    check_real("kernel", kernel), check_real("residual0", residual0)
    matrix, start = jnp.asarray(kernel), jnp.asarray(residual0)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or start.shape != matrix.shape[:1]:
        raise InputError(
            f"kernel must be (n, n) and residual0 (n,), got {matrix.shape} and {start.shape}; pass "
            "those of the same inputs."
        )
    dtype = jnp.result_type(matrix, start, jnp.float32)
    check_constant_kernel(matrix, start)
    problem = ErrorProblem(matrix.astype(dtype))
    table = resolve(readouts, default_names(problem, flow))
    progress = check_progress(progress, "simulate_error")
    return solve_problem(problem, start.astype(dtype), flow, ts, solver, table, config, progress)


def solve_problem(
    problem: AbstractProblem,
    w: PyTree,
    flow: AbstractFlow,
    ts: ArrayLike | Sequence[float],
    solver: Any,
    readouts: dict[str, Readout],
    config: Numerics,
    progress: OnProgress | None,
) -> Trajectory:
    """A flow on a problem that is no network."""
    check_flow(flow)
    dtype = weights_dtype(w)
    flow = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), flow)
    config = in_dtype(config, dtype)
    integrator = as_integrator(solver, problem, w, flow)
    run = Run(problem, w, flow, integrator, readouts, None, config)
    return follow_times(run, ts, lambda run, ts: watched(run, ts, progress))


def follow_times(
    run: Run, ts: Any, solved: Callable[[Run, Array], Trajectory], refine: bool | float = False
) -> Trajectory:
    """A run at the times of the user, checked, refined and warned of; solved(run, times) carries it
    there."""
    run.check_memory(
        math.prod(np.shape(ts)) * (1 if refine is False else 2 if refine is True else 64)
    )
    times = check_times(ts).astype(run.dtype)
    at = lambda ts, config: solved(
        eqx.tree_at(lambda r: r.numerics, run, config), placed(ts, run.dtype)
    )
    return warn_of_failure(run, refined(at, times, run.numerics, refine), 3)


def check_flow(flow: Any) -> None:
    """Raise `InputError` for what is no flow."""
    check_method_kind("flow", flow, AbstractFlow)

"""The flows on networks and on errors: weight dynamics (2.2, 3.2, 4.2) and error dynamics (2.5, 3.5, 4.3)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .data import Dataset
from .errors import InputError, concrete
from .kernel import infinite_ntk
from .loss import Loss, squared
from .method import AbstractFlow
from .network import TwoLayerNet, outputs, trainable_spec
from .numerics import Numerics
from .prediction import check_times
from .problem import AbstractProblem, ErrorProblem, WeightProblem
from .readout import ERROR_READOUTS, Readout, Snapshot, default_readouts, read, resolve, watch
from .solver import AbstractIntegrator, LazyExponential, RungeKutta, why_not_lazy
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
    config: Numerics = Numerics(),
) -> Trajectory:
    """Solve a flow on the weights of a model, from rest at t = 0, and read it off at `ts`.

    flow: `GradientFlow` (2.2), `HeavyBall` (3.2) or `Nesterov` (4.2), driven by the gradient of L(f(w), y).
    ts: non-negative, increasing times, in the flow's own unit (k eta for gradient descent, k sqrt(eta) for momentum).
    trainable, where: the trained part, see `network.trainable_spec`. solver: a diffrax solver or an
    integrator; by default `LazyExponential` for a two-layer net with a kink at zero, only its hidden layer trained on the
    squared loss, and `RungeKutta` (Tsit5) for everything else.
    readouts: names, or a mapping to names, functions of a `Snapshot`, or observers; by default f, loss, pseudo_loss,
    lambda_min, lambda_max, kernel_drift, displacement, lyapunov and, for the two-layer net, flips and kernel_distance.
    reference: the kernel behind kernel_distance; H infinity for a standard two-layer ReLU net.

    The model's precision is the run's. Raises `InputError`; warns when the solver fails, and leaves NaN behind.
    """
    problem, w = weight_problem(model, data, loss, trainable, where)
    reference = default_reference(model, data, trainable, where) if reference is None else jnp.asarray(reference)
    names = (*default_readouts(model), "lyapunov", *(("kernel_distance",) if reference is not None else ()))
    return _run(problem, w, flow, ts, solver, resolve(readouts, names), reference, config)


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
    """Solve the error dynamics of a constant kernel H, (2.5), (3.5) or (4.3), from Delta(0) = residual0 at rest.

    The same flow as in `simulate`, driven by H Delta, the gradient of the pseudo-loss. `predict` gives the closed form.
    Read-outs by default: residual, velocity, loss, pseudo_loss, lyapunov.
    """
    matrix, residual0 = jnp.asarray(kernel), jnp.asarray(residual0)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or residual0.shape != matrix.shape[:1]:
        raise InputError(f"kernel must be (n, n) and residual0 (n,), got {matrix.shape} and {residual0.shape}.")
    dtype = jnp.result_type(matrix, residual0, jnp.float32)
    problem = ErrorProblem(matrix.astype(dtype))
    return _run(problem, residual0.astype(dtype), flow, ts, solver, resolve(readouts, ERROR_READOUTS), None, config)


def weight_problem(model: Any, data: Any, loss: Loss, trainable: Any, where: Callable | None) -> tuple[WeightProblem, PyTree]:
    """The loss of a model on a data set as a problem over its trained weights, and those weights."""
    if not isinstance(data, Dataset):
        raise InputError(f"data must be a Dataset, got {type(data).__name__}; try nm.Dataset(X, y).")
    trained = trainable_spec(model, trainable, where)
    w, frozen = eqx.partition(model, trained)
    dtype = jnp.result_type(*jax.tree.leaves(w))
    X, y = data.X.astype(dtype), data.y.astype(dtype)
    try:
        shape = jax.eval_shape(lambda: outputs(model, X)).shape
    except TypeError as error:
        raise InputError(f"the model does not take inputs of shape {X.shape[1:]}: {error}") from error
    if shape != y.shape and loss is squared:
        raise InputError(f"the model's outputs on the data have shape {shape}, the targets {y.shape}; they must agree.")
    return WeightProblem(frozen, trained, X, y, loss), w


def default_reference(model: Any, data: Any, trainable: Any, where: Callable | None) -> Array | None:
    """H infinity, for a two-layer ReLU net in the paper's parametrisation with a named trained part."""
    if not isinstance(model, TwoLayerNet) or model.activation is not jax.nn.relu or where is not None:
        return None
    if trainable is not None and trainable not in ("hidden", "output", "all"):
        return None
    return infinite_ntk(data.X.reshape(data.n, -1), trainable=trainable).astype(model.hidden.dtype)


def _run(problem, w, flow, ts, solver, readouts, reference, config) -> Trajectory:
    if not isinstance(flow, AbstractFlow):
        raise InputError(f"flow must be a flow such as nm.HeavyBall(b), got {type(flow).__name__}.")
    dtype = jnp.result_type(*jax.tree.leaves(w))
    ts = check_times(ts).astype(dtype)
    flow = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), flow)
    trajectory = _solve(problem, w, flow, ts, as_integrator(solver, problem, w), readouts, reference, config)
    verdict = concrete(trajectory.verdict)
    if verdict is not None and verdict.ndim == 0 and verdict != 0:
        warnings.warn(f"the solve failed and its read-outs are NaN from there on: {trajectory.reason}", RuntimeWarning, stacklevel=3)
    return trajectory


def as_integrator(solver: Any, problem: AbstractProblem, w: PyTree) -> AbstractIntegrator:
    """The `solver` argument: an integrator, a diffrax solver, or None for the best that fits the problem."""
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
    """The traceable heart of `simulate`: a scan over saved times, each reached exactly. No checks; jit, vmap or map it."""
    with jax.default_matmul_precision(config.precision):
        state = flow.init(w)
        watcher = watch(readouts)
        first = Snapshot(problem, flow, jnp.zeros_like(ts[0]), state, None, reference)
        _ = first.kernel  # evaluated here, not inside the scan; removed by the compiler when nothing reads it

        def segment(progress, t1):
            progress = integrator.advance(problem, flow, progress, t1, watcher, config)
            ok = progress.verdict == 0
            snapshot = Snapshot(problem, flow, t1, progress.state, first, reference)
            return progress, read(readouts, snapshot, progress.watched, ok)

        start = integrator.start(problem, flow, state, watcher, config, ts.dtype)
        end, values = jax.lax.scan(segment, start, ts)
    model = problem.model(end.state.w) if isinstance(problem, WeightProblem) else None
    return Trajectory(ts, values, model, end.verdict, end.accepted, end.rejected)


_solve = eqx.filter_jit(solve)

"""What a run takes where nothing was chosen: its integrator, its read-outs, the kernel it is
compared with; and what may be given in their place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ..errors import InputError, concrete
from ..kernel import infinite_ntk
from ..method import AbstractFlow, RestartedNesterov, State
from ..network.kinks import smooth
from ..network.model import asked
from .objective import AbstractProblem, WeightProblem
from .preparation import weights_dtype
from .readout import READOUTS, Observer, Readout
from .snapshot import Snapshot
from .solver import (
    AbstractIntegrator,
    Batches,
    Descent,
    KrylovExponential,
    LazyExponential,
    RungeKutta,
)


def as_integrator(
    solver: Any,
    problem: AbstractProblem,
    w: PyTree,
    method: Any,
    batches: Batches | None = None,
    table: Mapping[str, Readout] | None = None,
) -> AbstractIntegrator:
    """The `solver` argument: an integrator, a diffrax solver, or None for the best that fits, also
    the read-outs of `table`.

    Raises `InputError` for one that does not fit.
    """
    flow = method.between if isinstance(method, RestartedNesterov) else method
    fits: AbstractIntegrator
    if not isinstance(method, AbstractFlow):
        if batches is not None and isinstance(problem, WeightProblem):
            batches = batches.on(problem, w)
        fits = Descent(batches)
    elif solver is None:
        observed = any(isinstance(readout, Observer) for readout in (table or {}).values())
        return _default_integrator(problem, flow, w, observed)
    else:
        fits = solver if isinstance(solver, AbstractIntegrator) else RungeKutta(solver)
    reason = fits.why_not(problem, flow, w)
    if reason is None:
        return fits
    if isinstance(fits, Descent):
        raise InputError(f"{reason}.")
    raise InputError(
        f"{type(fits).__name__} cannot be used here: {reason}. Leave solver= out to get a solver "
        "that fits."
    )


def _default_integrator(
    problem: AbstractProblem, flow: AbstractFlow, w: PyTree, observed: bool
) -> Any:
    """The integrator that fits: the lazy one where it can solve the problem; Krylov spaces for
    flows without momentum of models whose program is smooth in the weights; else Runge-Kutta.

    Observers, which see both ends of every step, integrate along it: steps as long as the kernel
    allows would tell them little. With momentum Krylov steps save as much at late times, but their
    error for the same tol is larger while fast modes still turn, so whoever wants them asks. Where
    neurons cross kinks they gain nothing: the kernel jumps within 1/lambda_max.
    """
    lazy, krylov = LazyExponential(), KrylovExponential()
    if lazy.why_not(problem, flow, w) is None:
        return lazy
    inert = flow.init(jnp.zeros(())).v is None
    if inert and not observed and krylov.why_not(problem, flow, w) is None and smooth(problem.f, w):
        return krylov
    return RungeKutta()


def default_reference(
    model: Any, data: Any, trainable: Any, where: Callable | None
) -> Callable[[], Array] | None:
    """What computes H infinity, for a two-layer ReLU net in the paper's parametrisation with a
    named trained part; None for any other."""
    if not asked(model).sums_neurons or model.activation is not jax.nn.relu or where is not None:
        return None
    if trainable is not None and trainable not in ("hidden", "output", "all"):
        return None
    scale = concrete(model.scale)
    if scale is not None and not np.isclose(scale, model.width**-0.5):
        return None
    X = data.X.reshape(data.n, -1)
    return lambda: infinite_ntk(X, trainable=trainable).astype(model.hidden.dtype)


def default_names(problem: AbstractProblem, method: Any, reference: Any = None) -> tuple[str, ...]:
    """The read-outs by default."""
    lyapunov = isinstance(method, AbstractFlow) and method.has_lyapunov
    return (
        *problem.default_readouts,
        *(("lyapunov",) if lyapunov else ()),
        *(("kernel_distance",) if reference is not None else ()),
    )


def wants_reference(
    problem: WeightProblem, w: PyTree, method: Any, table: dict[str, Readout]
) -> bool:
    """Whether a read-out looks at the reference: the built-in one that does, or one of the user's,
    found by tracing it."""
    if any(readout is READOUTS["kernel_distance"] for readout in table.values()):
        return True
    known = list(READOUTS.values())
    own = {
        name: readout
        for name, readout in table.items()
        if not any(readout is one for one in known) and not isinstance(readout, Observer)
    }
    if not own:
        return False
    seen = []

    def look() -> list[Any]:
        flow = method if isinstance(method, AbstractFlow) else None
        state = State(w, None) if flow is None else flow.init(w)
        dtype = weights_dtype(w)
        size = problem.residual_size(w)
        zero = jnp.zeros((), dtype)

        def reference() -> Array:
            seen.append(True)
            return jnp.zeros((size, size), dtype)

        first = Snapshot(problem, flow, zero, state, None, reference)
        return [
            readout(Snapshot(problem, flow, zero, state, first, reference))
            for readout in own.values()
        ]

    jax.eval_shape(look)
    return bool(seen)

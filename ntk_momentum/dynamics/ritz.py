"""A constant kernel's modes from a few products: one Lanczos run from Delta(0) serves every flow,
every time and every hyperparameter.

The modes are those of `kernel.lanczos`, theta_j and v_j. With c_k = -Q psi(T, t) Q^T Delta(0) in
the dual coordinates of `responses`, the error has two approximations, Q phi(T, t) Q^T Delta(0) and
Delta(0) + H c_k, whose difference is outside of the space,

    Delta(0) + H c_k - Q phi Q^T Delta(0) = -q_{k+1} beta_k e_k^T psi(T, t) Q^T Delta(0),

for H Q = Q T + beta_k q_{k+1} e_k^T. Its size is the estimate of the error of Delta, together with
the same for the vector before the last, which it is then an estimate of too: the sum does not pass
zero with the oscillations of one of them. At t = infinity it is |(H + ridge) c_k + Delta(0)|, the
residual of conjugate gradients, and exact; for gradient flow Delta' + H Delta = r with |r| =
beta_k |e_k^T phi(T, t) Q^T Delta(0)| besides, so that int_0^t |r| ds bounds the error. In between
it is an estimate. Measured on 1,500 digits, for gradient flow, heavy balls and Nesterov's: 7 to 10
times the error of Delta at 40 products. The loss, a Gauss rule, is better than Delta: its error is
of second order.

An optimizer's k steps are polynomials of degree k: k products predict them to round-off.
"""

from __future__ import annotations

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..errors import (
    InputError,
    check_array,
    check_positive,
    check_whole,
    concrete,
    no_type_check,
)
from ..kernel import Modes, Spectrum, lanczos
from ..memory import check_fits
from ..method import AbstractFlow, AbstractOptimizer, GradientFlow, check_method_kind
from ..progress import OnProgress, check_progress, with_progress
from .constant_kernel import array, check_times, is_operator, launch_of, shaped, square
from .responses import check_launch, error_of, moved, numbers_of, slots_of

ROOM = 64
"""Products that the first arrays have room for; they double. Chosen: a program is compiled for each
size."""
MOST_PRODUCTS = 512
"""Products at most, unless more are asked for. Chosen: as many vectors are kept."""
CHUNK = 8
"""Products between two looks at the error. Chosen: with fewer than a small kernel's products cost
they are looked at for longer than they take."""
HORIZON = 1e4
"""Without a flow: gradient flow to this many units of 1/lambda_max, by when an accelerated flow has
come as far in its square root."""


def default_tol(dtype: Any) -> float:
    """1e-8 in float64, 1e-5 in float32, where a kernel's own round-off is 1e-7."""
    return 1e-8 if np.finfo(dtype).eps < 1e-10 else 1e-5


@no_type_check
@with_progress
def modes(
    kernel: Any,
    residual0: Any,
    *,
    flow: Any = None,
    ts: Any = None,
    products: int | None = None,
    tol: float | None = None,
    ridge: Any = None,
    velocity0: Any = None,
    progress: OnProgress | bool | None = None,
) -> Modes:
    """The modes of a kernel along an error, from a few products with it.

        phi(H, t) Delta(0) ~ sum_j phi(theta_j, t) c_j v_j

    which (2.5), (3.5) and (4.3) have for phi of their own, by Lanczos steps from Delta(0), fully
    reorthogonalised (Saad 2011, section 6; `kernel.lanczos`): as many as bring the
    estimated error of one flow, at all of its times, below tol |Delta(0)|. The result then takes
    the kernel's place in `nm.predict`, `nm.spectrum` and `nm.advise`, for any flow, times and
    hyperparameters, each prediction with an error of its own; no further product is taken.

    Args:
        kernel: An operator, such as `nm.ntk_operator`'s or `nm.infinite_ntk_operator`'s, on arrays
            like residual0 or, shared by all outputs, (n,); or an array as in `nm.predict`.
        residual0: Delta(0), (n,) or (n, k).
        flow: The flow, or optimizer, whose error decides; gradient flow if None.
        ts: Its times, (T,), or step counts; if None, 10^4/lambda_max, for a flow with momentum the
            root of it, for an optimizer 100 steps.
        products: So many, whatever the error; under `jax.jit` and `jax.grad` they must be given.
        tol: 1e-8 in float64 and 1e-5 in float32 if None.
        ridge: As in `nm.predict`, where it may be another.
        velocity0: As in `nm.predict`.
        progress: Called as progress(products done, products expected) before the first and after
            each; True for a bar.

    Returns:
        The modes. Of a block of k outputs that share a kernel each product takes k vectors.

    Raises:
        InputError: If shapes do not fit, values are not finite, the operator is not symmetric and
            positive semi-definite to round-off, or the vectors do not fit into memory.

    Examples:
        >>> data = nm.sphere(40, 5, key=jax.random.key(0))
        >>> found = nm.modes(nm.infinite_ntk_operator(data.X), -data.y)
        >>> flow = nm.GradientFlow()
        >>> exact = nm.predict(nm.infinite_ntk(data.X), -data.y, flow, [1.0, 10.0])
        >>> near = nm.predict(found, None, flow, [1.0, 10.0])
        >>> bool(jnp.all(jnp.abs(near.residual - exact.residual) < 1e-3))
        True
    """
    if flow is None and velocity0 is not None:
        raise InputError("with velocity0 give the flow too: gradient flow has no velocity.")
    flow = GradientFlow() if flow is None else flow
    check_method_kind("flow", flow, (AbstractFlow, AbstractOptimizer))
    if velocity0 is not None:
        check_launch(flow)
    products = None if products is None else check_whole("products", products, example=100)
    for name, value in (("tol", tol), ("ridge", ridge)):
        if value is not None:
            check_positive(name, value, strict=name != "ridge", example=1e-3)
    operator, start, shape = start_of(kernel, residual0, velocity0)
    size, dtype = start.shape[1], start.dtype
    seen = concrete(start)
    if seen is not None and not np.any(seen):
        raise InputError("residual0 is zero: there is nothing to start from.")
    tol = default_tol(dtype) if tol is None else float(tol)
    traced = any(concrete(x) is None for x in jax.tree.leaves((start, operator)) if eqx.is_array(x))
    if traced:
        if products is None:
            raise InputError("under a trace give products, the number of them.")
        count = min(int(products), size)
        run = lanczos.extend(lanczos.started(start, count), operator, 0, count)
        return lanczos.ritz(run, count, shape, tol, velocity0 is not None)
    if ts is not None:
        check_array("the times ts", ts)
        check_times(ts if np.size(ts) == 0 else np.unique(np.asarray(ts)), limit=True)
        ts = np.sort(np.atleast_1d(np.asarray(ts, float)))
    most = min(MOST_PRODUCTS if products is None else int(products), size)
    watch = None if products is not None else (flow, ts, ridge, tol)
    run, count = _grown(
        operator, start, most, watch, velocity0 is not None, check_progress(progress)
    )
    found = lanczos.ritz(run, count, shape, tol, velocity0 is not None)
    lowest, highest = float(found.values[0]), float(jnp.max(jnp.abs(found.values)))
    if lowest < -(np.finfo(dtype).eps ** 0.5) * highest:
        raise InputError(
            f"kernel must be positive semi-definite, got Ritz values from {lowest:.3g} to "
            f"{float(found.values[-1]):.3g}; try one of nm.ntk_operator or "
            "nm.infinite_ntk_operator."
        )
    return found


def start_of(
    kernel: Any, residual0: Any, velocity0: Any
) -> tuple[Any, Float[Array, "columns N"], tuple[int, ...]]:
    """(operator or matrix, the vectors to start from, the shape of Delta)."""
    residual0 = array("residual0", residual0)
    if is_operator(kernel):
        structure = kernel.in_structure()
        if not isinstance(structure, jax.ShapeDtypeStruct):
            raise InputError(f"the operator must act on one array, got the structure {structure}.")
        if kernel.out_structure().shape != structure.shape:
            raise InputError(
                f"the operator must map an error to its like, got {structure.shape} to "
                f"{kernel.out_structure().shape}; operators of test points are test_kernel."
            )
        residual0 = residual0.astype(structure.dtype)
        n, shape = residual0.shape[0] if residual0.ndim else 0, residual0.shape
        if structure.shape == shape:
            columns = residual0.reshape(-1, 1)
        elif structure.shape == (n,) and residual0.ndim == 2:
            columns = residual0
        else:
            raise InputError(
                f"residual0 must have the shape {structure.shape} the operator acts on, or (n, k) "
                f"where it acts on (n,), got {shape}."
            )
    else:
        kernel = array("kernel", kernel)
        dtype = jnp.result_type(kernel, residual0)
        kernel, columns = square(kernel.astype(dtype), residual0.astype(dtype))
    if velocity0 is not None:
        launch = shaped("velocity0", velocity0, residual0.shape, columns.dtype)
        columns = jnp.concatenate([columns, launch.reshape(columns.shape)], axis=1)
    return kernel, columns.T, residual0.shape


@eqx.filter_jit
def _advance(run: lanczos.Lanczos, operator: Any, first: Array, last: Array) -> lanczos.Lanczos:
    return lanczos.extend(run, operator, first, last)


def _grown(
    operator: Any,
    start: Array,
    most: int,
    watch: tuple | None,
    moving: bool,
    progress: OnProgress | None,
) -> tuple[lanczos.Lanczos, int]:
    """(a basis, its products), as many as are watched for, or most."""
    width, size = start.shape
    room = min(most, ROOM)
    done, expected = 0, most if watch is None else room
    if progress is not None:
        progress(0, expected)
    run = None
    while done < most:
        aim = min(done + (CHUNK if progress is None else 1), most)
        if watch is None and progress is None:
            aim = most
        if run is None or aim > run.capacity:
            room = min(most, max(aim, room if run is None else 2 * run.capacity))
            check_fits(
                3 * width * (room + 1) * size,
                f"{width * (room + 1)} vectors of {size} numbers",
                "ask for fewer products, or a larger tol",
                of=start,
            )
            run = lanczos.started(start, room) if run is None else lanczos.resized(run, room)
        run = _advance(run, operator, jnp.asarray(done), jnp.asarray(aim))
        done = aim
        left = lanczos.exhausted(run, done)
        if left is not None:
            done = left
            break
        if progress is not None and done < most:
            progress(done, max(expected, done + 1))
        if watch is not None and (progress is None or done % CHUNK == 0 or done == most):
            error = _watched(run, done, moving, *watch[:3]) / watch[3]
            if error <= 1:
                break
            whole, fallen = -np.log(watch[3]), -np.log(watch[3]) - np.log(error)
            if fallen > 0:  # as it has fallen so far from 1, in units of tol
                expected = int(min(most, np.ceil(done * whole / fallen)))
    assert run is not None
    if progress is not None:
        progress(done, done)  # which ends it
    return lanczos.resized(run, done), done


def _watched(
    run: lanczos.Lanczos, done: int, moving: bool, flow: Any, ts: Any, ridge: Any
) -> float:
    """The largest error over |Delta(0)|, with arrays padded to the room there is, so that one
    program serves every look."""
    found = lanczos.small(run, done, moving)
    values, start, velocity, tail = found
    dtype = run.basis.dtype
    size = run.basis.shape[0] - run.width
    fill = lambda a, axis: np.pad(
        a, [(0, size - a.shape[i] if i == axis else 0) for i in range(a.ndim)]
    )
    if ts is None:
        ts = _horizon(flow, max(values[-1], 1e-300))
    limit = bool(ts[-1] == np.inf)
    times = ts[:-1] if limit and len(ts) > 1 else np.zeros(1) if limit else ts
    slots = slots_of(times) if isinstance(flow, AbstractOptimizer) else None
    if isinstance(flow, AbstractFlow) and not flow.linear:
        norms = np.linalg.norm(start, axis=1)
        flow = flow.settled(np.maximum(values, 0.0), norms, float(times[-1]))
    parameters, rest = numbers_of(flow)
    values, start, tail = (
        fill(values, 0).astype(dtype),
        fill(start, 0).astype(dtype),
        fill(tail, 1).astype(dtype),
    )
    values[done * run.width :] = values.max()  # no weight, and no range of its own
    velocity = None if velocity is None else fill(velocity, 0).astype(dtype)
    errors = _errors(
        parameters,
        rest,
        limit,
        run.basis.shape[1],
        values,
        (start, velocity),
        tail,
        jnp.asarray(times, dtype),
        slots,
        None if ridge is None else jnp.asarray(ridge, dtype),
    )
    scale = float(np.linalg.norm(found[1]))
    largest = float(np.max(errors))
    if not np.isfinite(largest):
        raise InputError(
            f"{flow} has no finite response to eigenvalues up to {found[0][-1]:.3g}; see the range "
            "of its parameters."
        )
    return largest / (scale if scale > 0 else 1.0)


def _horizon(flow: Any, largest: float) -> np.ndarray:
    """The time that decides where none is given."""
    if isinstance(flow, AbstractOptimizer):
        return np.array([100.0])
    momentum = flow.init(np.zeros(1)).v is not None
    return np.array([HORIZON / largest]) ** (0.5 if momentum else 1.0)


@eqx.filter_jit
def _errors(
    parameters: Any,
    rest: Any,
    limit: bool,
    size: int,
    values: Any,
    columns: tuple[Any, Any],
    tail: Any,
    ts: Array,
    slots: Array | None,
    ridge: Array | None,
) -> Float[Array, " T"]:
    _, _, dual = moved(
        eqx.combine(parameters, rest),
        jnp.maximum(values, 0.0),
        columns,
        ts=ts,
        slots=slots,
        ridge=ridge,
        limit=limit,
        dual=True,
        rough=True,
        size=size,
    )
    return error_of(tail, dual)


def warn_of_error(found: Modes, ts: Any, error: Any) -> None:
    """Warn where a prediction from products is not what was asked for."""
    seen = concrete(error)
    if seen is None or not np.all(np.isfinite(seen)):  # a diverging one says so itself
        return
    times, start = np.asarray(ts, float), float(np.linalg.norm(found.start))
    worst = int(np.argmax(seen))
    if not seen[worst] <= found.tol * start:
        warnings.warn(
            f"{found.products} products leave an error of about {seen[worst] / start:.2g} "
            f"|Delta(0)| at t = {times[worst]:.4g}, and {found.tol:.2g} was asked for: take more, "
            f"nm.modes(kernel, residual0, products={2 * found.products}), or nm.modes(..., "
            "flow=flow, ts=ts), which takes as many as these times need; or raise tol.",
            RuntimeWarning,
            stacklevel=4,
        )


def known(found: Spectrum, residual0: Any, velocity0: Any) -> Modes:
    """An error in known eigenvectors."""
    n = len(found.eigenvectors)
    if found.eigenvectors.shape != (n, n):
        raise InputError(
            "this spectrum holds Ritz values, of the error they were found with; pass the nm.modes."
        )
    residual0 = array("residual0", residual0).astype(found.eigenvalues.dtype)
    if residual0.ndim not in (1, 2) or n not in (len(residual0), residual0.size):
        raise InputError(
            f"residual0 must have shape (n,) or (n, k) for {n} eigenvalues, got {residual0.shape}."
        )
    columns = residual0.reshape(n, -1)
    launch = launch_of(velocity0, residual0.shape, columns.dtype, columns.shape)
    along = lambda x: found.eigenvectors.T @ x
    none = jnp.zeros((0, n), columns.dtype)
    return Modes(
        found.eigenvalues,
        found.eigenvectors,
        along(columns),
        None if launch is None else along(launch),
        none,
        none[:, :0],
        0,
        residual0.shape,
        1.0,
    )


def check_own(found: Modes, residual0: Any, velocity0: Any) -> None:
    """Raise unless modes were found for these."""
    for name, value, start in (
        ("residual0", residual0, found.start),
        ("velocity0", velocity0, found.velocity),
    ):
        if value is None:
            continue
        wrong = InputError(
            f"{name} is not the one these modes were found for; they hold it, so pass None, or run "
            "nm.modes again."
        )
        if start is None or np.shape(value) != found.shape:
            raise wrong
        own = concrete(found.vectors @ start)
        other = concrete(value)
        if own is not None and other is not None:
            gap = np.linalg.norm(own.reshape(-1) - other.reshape(-1))
            if not gap <= np.finfo(own.dtype).eps ** 0.5 * np.linalg.norm(other):
                raise wrong

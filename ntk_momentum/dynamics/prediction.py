"""What a constant kernel predicts, in closed form: (2.5), (3.5) and (4.3) with H frozen, solved
mode by mode.

With H = U Lambda U^T the error is Delta(t) = U phi(Lambda, t) U^T Delta(0), where phi is the
response of one eigenvalue to the flow, or the discrete recursion of one eigenvalue when an
optimizer is given. A point with kernel row k* against the training points moves by f*(t) - f*(0) =
-k* psi(H, t) Delta(0), psi = (1 - phi)/lambda.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree

from ..errors import InputError, concrete, not_an_array
from ..memory import check_fits, in_short, shape_of
from ..method import AbstractFlow, AbstractOptimizer, check_linear

_DIRECT_FROM = 0.2
"""From this 1 - phi on, to first order, psi is the quotient (1 - phi)/lambda, which below it loses
digits to cancellation. Chosen, not measured."""
# Gauss's rule on (0, 1) for the mean of dphi/dlambda: four nodes are exact to degree seven.
_NODES, _WEIGHTS = (
    ((1 + np.polynomial.legendre.leggauss(4)[0]) / 2).tolist(),
    (np.polynomial.legendre.leggauss(4)[1] / 2).tolist(),
)


class Prediction(eqx.Module):
    """A trajectory of the constant-kernel theory, (2.5), (3.5) or (4.3), as `predict` returns it.

        Delta(t) = U phi(Lambda, t) U^T Delta(0),   H = U Lambda U^T

    Args:
        ts: Times, (T,), or step counts for an optimizer.
        residual: Delta = f - y, (T, n) or (T, n, k).
        loss: |Delta|^2 / 2, (T,).
        pseudo_loss: Delta . H Delta / 2, (T,).
        test: Predictions f* at the test points, (T, q) or (T, q, k), or None.
        eigenvectors: U, (N, N), where N is n, or n k for a full kernel.
        slopes: The velocity in the eigenbasis, (T, N, columns), from which `velocity` is computed
            when asked for.

    Raises:
        TypeError: If a field is left out; it is made by `predict`.

    Examples:
        >>> found = nm.predict(np.diag([1.0, 2.0]), [1.0, 1.0], nm.GradientFlow(), [0.0, 1.0])
        >>> type(found).__name__, found.velocity[1].round(3).tolist()
        ('Prediction', [-0.368, -0.271])
    """

    ts: Float[Array, "*batch T"]
    residual: Float[Array, "*batch T n *k"]
    loss: Float[Array, "*batch T"]
    pseudo_loss: Float[Array, "*batch T"]
    test: Float[Array, "*batch T q *k"] | None
    eigenvectors: Float[Array, "*batch N N"]
    slopes: Float[Array, "*batch T N columns"]

    @property
    def velocity(self) -> Float[Array, "*batch T n *k"]:
        """dDelta/dt, or the last step Delta_k - Delta_{k-1} of an optimizer (zero at k = 0): one
        matrix product, not kept."""
        return jnp.einsum("...tjk,...ij->...tik", self.slopes, self.eigenvectors).reshape(
            self.residual.shape
        )


def check_times(ts: Any, *, dtype: Any = None, whole: bool = False) -> Float[Array, " T"]:
    """The times as an array. Raises InputError unless they are finite, non-negative and strictly
    increasing (and whole, if asked)."""
    value = concrete(ts)
    if value is None and not isinstance(ts, jax.Array):
        raise InputError(f"the times ts must be real numbers, got {ts!r}.")
    shape = np.shape(ts)
    if len(shape) != 1 or shape[0] == 0:
        raise InputError(f"the times ts must be a non-empty list, got shape {shape}.")
    if value is not None:
        if value.dtype.kind == "c" or not np.all(np.isfinite(value)):
            raise InputError("the times ts must be real and finite.")
        if value[0] < 0:
            raise InputError(
                f"the times ts must be non-negative, got {value[0]:g} first; flows start at t = 0."
            )
        steps = np.diff(value.astype(float))
        if not np.all(steps > 0):
            at = int(np.argmin(steps > 0))
            raise InputError(
                f"the times ts must increase, got {value[at]:g} then {value[at + 1]:g} "
                f"(at {at}). Try numpy.unique."
            )
        if whole and not np.all(value == np.round(value)):
            raise InputError("for an optimizer the times ts are step counts, so whole numbers.")
    return jnp.asarray(ts, jnp.result_type(jnp.asarray(ts), float) if dtype is None else dtype)


def response(eigenvalues: Any, flow: AbstractFlow, ts: Any) -> Float[Array, "T n"]:
    """What remains at time t of an error along an eigenvector of a constant kernel.

        Delta(t) = phi(lambda, t) Delta(0)   where   H Delta(0) = lambda Delta(0)

    with phi solving (2.5), (3.5) or (4.3) from rest; e^{-lambda t} for the gradient flow.

    Args:
        eigenvalues: lambda, (n,), in 1/time for the gradient flow and 1/time^2 with momentum.
        flow: The flow, linear in the gradient.
        ts: Times, (T,), non-negative and increasing.

    Returns:
        phi, (T, n).

    Raises:
        InputError: If shapes or times do not fit, or the flow restarts adaptively and has no
            response of one eigenvalue.

    Examples:
        >>> nm.response([1.0, 4.0], nm.HeavyBall(2.0), [0.0, 1.0]).round(3).tolist()
        [[1.0, 1.0], [0.736, 0.151]]
    """
    entries = math.prod(shape_of(eigenvalues)) * math.prod(shape_of(ts))
    check_fits(
        3 * entries,
        f"a response at {in_short(math.prod(shape_of(ts)))} times",
        "use fewer times or eigenvalues",
        of=eigenvalues,
    )
    eigenvalues = _array("eigenvalues", eigenvalues)
    if eigenvalues.ndim != 1:
        raise InputError(f"eigenvalues must have shape (n,), got {eigenvalues.shape}.")
    return flow.mode(eigenvalues[None, :], check_times(ts, dtype=eigenvalues.dtype)[:, None])[0]


def predict(
    kernel: Any,
    residual0: Any,
    flow: AbstractFlow | AbstractOptimizer,
    ts: Any,
    *,
    test_kernel: ArrayLike | None = None,
    test0: ArrayLike | None = None,
) -> Prediction:
    """The trajectory of the error under a constant kernel, in closed form, from rest.

        Delta' = -H Delta                     (2.5)
        Delta'' + b Delta' = -H Delta         (3.5)
        Delta'' + (d/t) Delta' = -H Delta     (4.3)

    or any other linear flow, each eigenmode by itself. With an optimizer in place of the flow each
    eigenvalue's recursion is run. Differentiable; in the kernel itself only where its eigenvalues
    are distinct.

    Args:
        kernel: H, (n, n), shared by all outputs, or the full (n, k, n, k) or (nk, nk).
        residual0: Delta(0) = f(0) - y, (n,) or (n, k).
        flow: A flow, or an optimizer.
        ts: Times, (T,), non-negative and increasing, in the flow's own unit; with an optimizer step
            counts (concrete).
        test_kernel: Kernel of q test points against the training points, (q, n), (q, k, n, k) or
            (qk, nk).
        test0: Predictions at the test points at t = 0, (q,) or (q, k); zero if None.

    Returns:
        The errors, losses and, with a test kernel, predictions at all times.

    Raises:
        InputError: If shapes do not fit, values are not finite, the kernel is not symmetric
            positive semi-definite up to round-off, times are wrong, or all that does not fit into
            memory.

    Examples:
        >>> found = nm.predict(np.diag([1.0, 2.0]), [1.0, 1.0], nm.GradientFlow(), [0.0, 1.0])
        >>> found.residual[1].round(3).tolist(), found.loss.round(3).tolist()
        ([0.368, 0.135], [1.0, 0.077])
    """
    if not isinstance(flow, AbstractFlow | AbstractOptimizer):
        raise InputError(
            f"predict needs a flow or an optimizer of ntk_momentum, got {type(flow).__name__}."
        )
    check_linear(flow)
    _check_size(kernel, residual0, flow, ts, test_kernel)
    kernel, residual0 = _array("kernel", kernel), _array("residual0", residual0)
    dtype = jnp.result_type(kernel, residual0)
    kernel, residual0 = kernel.astype(dtype), residual0.astype(dtype)
    matrix, start = _square(kernel, residual0)
    if isinstance(flow, AbstractOptimizer) and not flow.linear:
        raise InputError(
            f"{flow.name} is not linear in the gradients, so modes do not evolve "
            "alone; run nm.train instead."
        )
    counts, ts = (
        concrete(ts),
        check_times(ts, dtype=dtype, whole=isinstance(flow, AbstractOptimizer)),
    )
    rows, at_start = _test_rows(test_kernel, test0, len(matrix), residual0)

    slots = None
    if isinstance(flow, AbstractFlow) and not flow.linear:
        flow = _settled(flow, matrix, start, counts)
    if isinstance(flow, AbstractOptimizer):
        if counts is None:
            raise InputError(
                "for an optimizer the step counts ts must be concrete: close over them "
                "instead of tracing them."
            )
        # Each step is written over the next saved one, so that the last one stays.
        slots = jnp.asarray(np.searchsorted(counts, np.arange(1, int(counts[-1]) + 1)))
    parameters, rest = eqx.partition(
        flow, lambda leaf: isinstance(leaf, float | np.floating | np.ndarray | jax.Array)
    )
    eigenvalues, vectors, residual, slopes, loss, pseudo_loss, test = _solve(
        parameters, rest, matrix, start, ts, slots, rows
    )

    _check_semidefinite(eigenvalues)
    seen = concrete(loss)
    if slots is None and seen is not None and not np.all(np.isfinite(seen)):
        raise InputError(
            f"{flow} has no finite response to eigenvalues up to "
            f"{eigenvalues[-1]:.3g}; see the range of its parameters."
        )
    shape = (ts.shape[0], *residual0.shape)
    if test is not None and at_start is not None:
        test = test.reshape(ts.shape[0], *at_start.shape) + at_start[None]
    return Prediction(ts, residual.reshape(shape), loss, pseudo_loss, test, vectors, slopes)


def _check_size(kernel: Any, residual0: Any, flow: Any, ts: Any, test_kernel: Any) -> None:
    """Raise where the arrays alive at the peak do not fit: six of (T, n k), or twelve with test
    points, five of (N, N), what the test points move by, and an optimizer's list of steps."""
    sizes = [math.prod(shape_of(x)) for x in (kernel, residual0, test_kernel)]
    times = math.prod(shape_of(ts))
    entries = 5 * sizes[0] + times * sizes[1] * (6 if test_kernel is None else 12)
    entries += times * (sizes[1] * sizes[2] // max(sizes[0], 1)) + 4 * times
    check_fits(
        entries,
        f"a prediction at {in_short(times)} times from a kernel of {in_short(sizes[0])} entries",
        "use fewer times, samples or test points",
        of=kernel,
    )
    seen = concrete(ts) if isinstance(flow, AbstractOptimizer) else None
    steps = 0 if seen is None or seen.size == 0 else seen.reshape(-1)[-1].real
    if np.isfinite(steps):
        what = f"the list of {in_short(int(steps))} steps"
        check_fits(2 * int(steps), what, "ask for fewer steps, or use a flow")


def _settled(flow: AbstractFlow, matrix: Array, start: Array, ts: Any) -> AbstractFlow:
    """The linear flow that a non-linear one is on this kernel."""
    if ts is None or concrete(matrix) is None or concrete(start) is None:
        raise InputError(
            f"{flow.name} restarts by concrete numbers: kernel, residual0 and ts may "
            "not be traced; or give a period."
        )
    eigenvalues, vectors = np.linalg.eigh(np.asarray(matrix))
    _check_semidefinite(eigenvalues)
    return flow.settled(
        np.maximum(eigenvalues, 0.0),
        np.linalg.norm(vectors.T @ np.asarray(start), axis=1),
        float(ts[-1]),
    )


@functools.partial(jax.jit, static_argnums=1)
def _solve(
    parameters: Any,
    rest: Any,
    matrix: Array,
    start: Array,
    ts: Array,
    slots: Array | None,
    rows: Array | None,
) -> tuple[Array, Array, Array, Array, Array, Array, Array | None]:
    """(eigenvalues, eigenvectors, residual, velocity in the eigenbasis, losses, what the test
    points moved by); errors (N, columns)."""
    method = eqx.combine(parameters, rest)
    eigenvalues, vectors = jnp.linalg.eigh(matrix, symmetrize_input=False)
    spectrum = jnp.where(
        eigenvalues < 0, 0.0, eigenvalues
    )  # a Gram matrix: below zero is round-off
    start, dual = vectors.T @ start, None
    if slots is not None:
        modes, velocity, dual = _recursion(
            method, spectrum, start, slots, ts.shape[0], rows is not None
        )
    else:
        phi, slope = method.mode(spectrum[None, :], ts[:, None])
        modes, velocity = phi[:, :, None] * start[None], slope[:, :, None] * start[None]
        if rows is not None:
            dual = -_deficit(method, spectrum, ts, phi)[:, :, None] * start[None]
    residual = jnp.swapaxes(
        jnp.einsum("tjk,ij->tki", modes, vectors), 1, 2
    )  # in this order no transpose for one column
    moved = None if rows is None else jnp.einsum("qi,tik->tqk", rows @ vectors, dual)
    # U keeps lengths: |Delta|^2 = sum_k modes_k^2 and Delta . H Delta = sum_k lambda_k modes_k^2.
    losses = (
        0.5 * jnp.sum(modes**2, axis=2) @ jnp.stack([jnp.ones_like(spectrum), spectrum], axis=1)
    )
    return eigenvalues, vectors, residual, velocity, losses[:, 0], losses[:, 1], moved


def _deficit(flow: AbstractFlow, eigenvalues: Array, ts: Array, phi: Array) -> Array:
    """psi = (1 - phi)/lambda, well-conditioned as lambda -> 0: there it is minus the mean of
    dphi/dlambda over (0, lambda)."""
    info = jnp.finfo(eigenvalues.dtype)
    floor = jnp.maximum(
        info.tiny, info.eps**2 * jnp.max(eigenvalues)
    )  # as good as zero, and safe for a mode written in sqrt(lambda)

    # psi(lambda) = -int_0^1 (dphi/dlambda)(theta lambda) dtheta where phi is near 1, as phi(0) = 1.
    lam = jnp.maximum(eigenvalues, floor)[None, :]

    def slope(node: Array) -> Array:
        at = jnp.maximum(node * lam, floor)
        return jax.jvp(lambda lam: flow.mode(lam, ts[:, None])[0], (at,), (jnp.ones_like(at),))[1]

    slopes = jax.lax.map(slope, jnp.array([0.0, *_NODES], lam.dtype))
    near = -slopes[0] * lam < _DIRECT_FROM
    mean = jnp.tensordot(jnp.array(_WEIGHTS, lam.dtype), slopes[1:], axes=1)
    return jnp.where(near, -mean, (1 - phi) / lam)


def _recursion(
    optimizer: AbstractOptimizer,
    eigenvalues: Array,
    start: Array,
    slots: Array,
    saved: int,
    with_dual: bool,
) -> tuple[Array, Array, Array | None]:
    """(modes, last steps, dual variable) at the saved step counts, which `slots` gives for each
    step.

    The dual variable moves with gradient Delta where an eigenmode moves with lambda Delta: the
    prediction at a point with kernel row k* is its sum weighted by k*, and no eigenvalue divides.
    """

    # update is linear in gradients and positions, so one call moves both, which differ in their
    # gradients alone.
    def step(carry: PyTree, slot: Array) -> tuple[PyTree, None]:
        (modes, dual), state, kept = carry
        gradient = eigenvalues[:, None] * modes, (modes if with_dual else None)
        change, state = optimizer.update(gradient, state, (modes, dual))
        modes, dual = jax.tree.map(
            lambda old, by: old + by.astype(old.dtype), (modes, dual), change
        )
        kept = jax.tree.map(lambda all, new: all.at[slot].set(new), kept, (modes, change[0], dual))
        return ((modes, dual), state, kept), None

    rest = jnp.zeros_like(start)
    point = start, rest if with_dual else None
    kept = jax.tree.map(
        lambda new: jnp.broadcast_to(new, (saved, *new.shape)), (start, rest, point[1])
    )
    (_, _, kept), _ = jax.lax.scan(step, (point, optimizer.init(point), kept), slots)
    return kept


def _array(name: str, value: Any) -> Array:
    """A finite real floating array."""
    seen = concrete(value)
    if seen is None and not isinstance(value, jax.Array):
        raise not_an_array(name, value)
    if seen is not None and seen.dtype.kind == "c":
        raise InputError(f"{name} must be real, got complex numbers.")
    if seen is not None and not np.all(np.isfinite(seen)):
        raise InputError(f"{name} must be finite; it holds NaN or infinity.")
    array = jnp.asarray(value)
    return array.astype(jnp.result_type(array, float))


def _square(kernel: Array, residual0: Array) -> tuple[Array, Array]:
    """(symmetric kernel matrix (N, N), Delta(0) as (N, columns))."""
    if residual0.ndim not in (1, 2) or residual0.size == 0:
        raise InputError(f"residual0 must have shape (n,) or (n, k), got {residual0.shape}.")
    n, size = residual0.shape[0], residual0.size
    if kernel.shape == (n, n):
        start = residual0.reshape(n, -1)
    elif kernel.shape in ((size, size), residual0.shape * 2):
        kernel, start = kernel.reshape(size, size), residual0.reshape(size, 1)
    else:
        several = f", {residual0.shape * 2} or {(size, size)}" if residual0.ndim == 2 else ""
        raise InputError(
            f"the kernel must have shape {(n, n)}{several} "
            f"for residual0 of shape {residual0.shape}, got {kernel.shape}."
        )
    kernel, gap, scale = _symmetrise(kernel)
    if not isinstance(gap, jax.core.Tracer) and gap > np.sqrt(np.finfo(kernel.dtype).eps) * scale:
        raise InputError(
            f"the kernel must be symmetric; |K - K^T| reaches {gap:.2g}, |K| "
            f"{scale:.2g}. Did you pass test rows?"
        )
    return kernel, start


@jax.jit
def _symmetrise(kernel: Array) -> tuple[Array, Array, Array]:
    """((K + K^T)/2, the largest |K - K^T|, the largest |K|)."""
    mean = jax.lax.optimization_barrier(
        (kernel + kernel.T) / 2
    )  # one transposed pass over the matrix, not two
    return mean, 2 * jnp.max(jnp.abs(kernel - mean)), jnp.max(jnp.abs(kernel))


def check_constant_kernel(kernel: Array, residual0: Array) -> None:
    """Raise `InputError` where concrete arrays are no symmetric positive semidefinite kernel and
    error."""
    if concrete(kernel) is not None:
        matrix, _ = _square(_array("kernel", kernel), _array("residual0", residual0))
        _check_semidefinite(jnp.linalg.eigvalsh(matrix))


def _check_semidefinite(eigenvalues: Any) -> None:
    seen = concrete(eigenvalues)
    if seen is not None and seen[0] < -np.sqrt(np.finfo(seen.dtype).eps) * np.max(np.abs(seen)):
        raise InputError(
            "the kernel must be positive semi-definite; its eigenvalues run from "
            f"{seen[0]:.3g} to {seen[-1]:.3g}."
        )


def _test_rows(
    test_kernel: Any, test0: Any, size: int, residual0: Array
) -> tuple[Array | None, Array | None]:
    """(kernel rows of the test points (rows, N), their predictions at t = 0)."""
    if test_kernel is None:
        if test0 is not None:
            raise InputError(
                "test0 needs test_kernel, the kernel of the test points against the "
                "training points."
            )
        return None, None
    rows, outputs = _array("test_kernel", test_kernel).astype(residual0.dtype), residual0.shape[1:]
    per_row = 1 if size == len(residual0) else outputs[0]
    if (
        rows.ndim == 4
        and outputs
        and size == residual0.size
        and rows.shape[1:] == (*outputs, *residual0.shape)
    ):
        rows = rows.reshape(-1, size)
    if rows.ndim != 2 or rows.shape[1] != size or len(rows) % per_row:
        raise InputError(
            f"test_kernel of shape {rows.shape} does not match the kernel and "
            f"residual0 of shape {residual0.shape}."
        )
    shape = (len(rows) // per_row, *outputs)
    start = (
        jnp.zeros(shape, residual0.dtype)
        if test0 is None
        else _array("test0", test0).astype(residual0.dtype)
    )
    if start.shape != shape:
        raise InputError(f"test0 must have shape {shape}, got {start.shape}.")
    return rows, start

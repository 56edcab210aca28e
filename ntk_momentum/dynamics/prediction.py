"""What a constant kernel predicts, in closed form: (2.5), (3.5) and (4.3) with H frozen, solved
mode by mode.

With H = U Lambda U^T the error is Delta(t) = U phi(Lambda, t) U^T Delta(0), where phi is the
response of one eigenvalue to the flow, or the discrete recursion of one eigenvalue when an
optimizer is given. A point with kernel row k* against the training points moves by f*(t) - f*(0) =
-k* psi(H, t) Delta(0), psi = (1 - phi)/lambda. Ritz values and vectors in the place of eigenvalues
and -vectors (`ritz`) give the same from products with H alone.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..errors import InputError, check_positive, concrete, no_type_check
from ..kernel import Modes, Spectrum
from ..memory import check_fits, in_short, shape_of
from ..method import (
    AbstractFlow,
    AbstractOptimizer,
    check_linear,
    check_method_kind,
    precise_mode,
    warn_of_precision,
)
from ..progress import OnProgress, with_progress
from . import ritz
from .constant_kernel import (
    array,
    check_semidefinite,
    check_times,
    is_operator,
    launch_of,
    rows_of,
    shaped,
    square,
)
from .responses import Response, check_launch, check_limit, numbers_of, slots_of, solve


class Prediction(eqx.Module):
    """A trajectory of the constant-kernel theory, (2.5), (3.5) or (4.3), as `predict` returns it.

        Delta(t) = U phi(Lambda, t) U^T Delta(0),   H = U Lambda U^T

    Args:
        ts: Times, (T,), or step counts for an optimizer; () where one number was asked for, and no
            field has an axis of times then.
        residual: Delta = f - y, (T, n) or (T, n, k).
        loss: |Delta|^2 / 2, (T,).
        pseudo_loss: Delta . H Delta / 2, (T,).
        test: Predictions f* at the test points, (T, q) or (T, q, k), or None.
        eigenvectors: U, (N, N), where N is n, or n k for a full kernel; Ritz vectors, (N, K), from
            products.
        slopes: The velocity in that basis, (T, K, columns), from which `velocity` is computed
            when asked for.
        error: |Delta - its limit for many products|, estimated at each time, (T,); None where
            nothing but round-off is in error. See `ritz`.
        loss_bounds: For gradient flow from products, what the loss is not below and not above, (2,
            T), by Gauss's and by Gauss and Radau's rule; else None.

    Raises:
        TypeError: If a field is left out; it is made by `predict`.

    Examples:
        >>> found = nm.predict(np.diag([1.0, 2.0]), [1.0, 1.0], nm.GradientFlow(), [0.0, 1.0])
        >>> type(found).__name__, found.velocity[1].round(3).tolist()
        ('Prediction', [-0.368, -0.271])
    """

    ts: Float[Array, "*times"]
    residual: Float[Array, "*batch T n *k"]
    loss: Float[Array, "*times"]
    pseudo_loss: Float[Array, "*times"]
    test: Float[Array, "*batch T q *k"] | None
    eigenvectors: Float[Array, "*batch N K"]
    slopes: Float[Array, "*times K columns"]
    error: Float[Array, "*times"] | None = None
    loss_bounds: Float[Array, "2 ..."] | None = None

    @property
    def velocity(self) -> Float[Array, "*batch T n *k"]:
        """dDelta/dt, or the last step Delta_k - Delta_{k-1} of an optimizer (zero at k = 0): one
        matrix product, not kept."""
        one = self.slopes.ndim == self.eigenvectors.ndim
        slopes = self.slopes[..., None, :, :] if one else self.slopes
        return jnp.einsum("...tjk,...ij->...tik", slopes, self.eigenvectors).reshape(
            self.residual.shape
        )


def response(eigenvalues: Any, flow: AbstractFlow, ts: Any) -> Float[Array, "T n"]:
    """What remains at time t of an error along an eigenvector of a constant kernel.

        Delta(t) = phi(lambda, t) Delta(0)   where   H Delta(0) = lambda Delta(0)

    with phi solving (2.5), (3.5) or (4.3) from rest; e^{-lambda t} for the gradient flow. In
    float32 it is computed in float64 and rounded, since the phase sqrt(lambda) t of a late
    oscillation has no digits in float32.

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
    check_method_kind("flow", flow, AbstractFlow)
    entries = math.prod(shape_of(eigenvalues)) * math.prod(shape_of(ts))
    check_fits(
        3 * entries,
        f"a response at {in_short(math.prod(shape_of(ts)))} times",
        "use fewer times or eigenvalues",
        of=eigenvalues,
    )
    eigenvalues = array("eigenvalues", eigenvalues)
    if eigenvalues.ndim != 1:
        raise InputError(
            f"eigenvalues must have shape (n,), got {eigenvalues.shape}; try eigenvalues.ravel()."
        )
    if not eigenvalues.size:
        raise InputError("eigenvalues must hold at least one, got none; try those of nm.spectrum.")
    lowest = concrete(jnp.min(eigenvalues, initial=0.0))
    if lowest is not None and lowest < -np.sqrt(np.finfo(eigenvalues.dtype).eps) * np.max(
        np.abs(eigenvalues)
    ):
        raise InputError(
            f"eigenvalues must be those of a kernel, >= 0 up to round-off, got {lowest:g}; drop "
            "those below zero."
        )
    times = check_times(ts, dtype=eigenvalues.dtype)
    return precise_mode(flow, eigenvalues[None, :], times[:, None])[0]


@no_type_check
@with_progress
def predict(
    kernel: Any,
    residual0: Any,
    flow: AbstractFlow | AbstractOptimizer,
    ts: Any,
    *,
    test_kernel: Any = None,
    test0: Any = None,
    ridge: Any = None,
    velocity0: Any = None,
    test_velocity0: Any = None,
    products: int | None = None,
    tol: float | None = None,
    progress: OnProgress | bool | None = None,
) -> Prediction:
    """The trajectory of the error under a constant kernel, in closed form, from rest.

        Delta' = -H Delta                     (2.5)
        Delta'' + b Delta' = -H Delta         (3.5)
        Delta'' + (d/t) Delta' = -H Delta     (4.3)

    or any other linear flow, each eigenmode by itself. With an optimizer in place of the flow each
    eigenvalue's recursion is run. Differentiable in both modes by all that is traced, by a kernel
    with repeated eigenvalues too; the eigenvectors then count as constant, see `matrix_function`.

    With a ridge the loss is |f - y|^2/2 + ridge |w - w_0|^2/2 for a model linear in w about w_0, on
    which it acts:

        Delta(t) = Delta(0) + H c(t),  c = -psi(H + ridge, t) Delta(0),  f*(t) = f*(0) + K* c(t)

    and at t = infinity f* is kernel ridge regression, f*(0) + K* (H + ridge)^-1 (y - f(0)).

    From an operator, which is never formed, a few products give what eigenvectors would (`nm.modes`
    says how, and when): as many as bring the estimated error below tol |Delta(0)| at all times.

    Args:
        kernel: H, (n, n), shared by all outputs, or the full (n, k, n, k) or (nk, nk); its
            `nm.spectrum`; an operator, such as `nm.ntk_operator`'s or `nm.infinite_ntk_operator`'s;
            or `nm.modes`.
        residual0: Delta(0) = f(0) - y, (n,) or (n, k); None with `nm.modes`, which hold it.
        flow: A flow, or an optimizer.
        ts: Times, (T,), non-negative and increasing, in the flow's own unit; with an optimizer step
            counts (concrete). One number gives results without an axis of times. The last may be
            infinity: there what the kernel does not see remains.
        test_kernel: Kernel of q test points against the training points, (q, n), (q, k, n, k) or
            (qk, nk), or an operator.
        test0: Predictions at the test points at t = 0, (q,) or (q, k); zero if None.
        ridge: The weight of |w - w_0|^2/2, >= 0, in the kernel's unit.
        velocity0: dDelta/dt at t = 0, shaped like residual0, for a flow with inertia whose friction
            is finite at t = 0; at rest if None.
        test_velocity0: df*/dt at t = 0, which the training points' velocity does not say, (q,) or
            (q, k); needed with a test kernel and velocity0.
        products: With an operator, so many products, whatever their error.
        tol: With an operator, the error asked for, as a share of |Delta(0)|; 1e-8 in float64, 1e-5
            in float32 if None.
        progress: Called as progress(products done, products expected), of an array as
            progress(done, 1); True for a bar.

    Returns:
        The errors, losses and, with a test kernel, predictions at all times; from products an
        estimate of the error of Delta at each, and bounds of the loss for gradient flow.

    Raises:
        InputError: If shapes do not fit, values are not finite, the kernel is not symmetric
            positive semi-definite up to round-off, times are wrong, a method does not settle and is
            asked for t = infinity, or all that does not fit into memory.

    Examples:
        >>> found = nm.predict(np.diag([1.0, 2.0]), [1.0, 1.0], nm.GradientFlow(), [0.0, 1.0])
        >>> found.residual[1].round(3).tolist(), found.loss.round(3).tolist()
        ([0.368, 0.135], [1.0, 0.077])
        >>> end = nm.predict(np.eye(2), [1.0, 1.0], nm.GradientFlow(), np.inf, ridge=1.0)
        >>> end.residual.tolist()
        [0.5, 0.5]
    """
    check_method_kind("flow", flow, (AbstractFlow, AbstractOptimizer))
    check_linear(flow)
    if isinstance(flow, AbstractOptimizer) and not flow.linear:
        raise InputError(
            f"{flow.name} is not linear in the gradients, so modes do not evolve "
            "alone; run nm.train instead."
        )
    given = concrete(ts)
    scalar = False
    if given is not None and given.ndim == 0:
        scalar, ts = True, given[None]
    if ridge is not None:
        check_positive("the ridge", ridge, strict=False)
    if (products, tol) != (None, None) and not is_operator(kernel):
        raise InputError(
            f"products={products!r} and tol={tol!r} must belong to a kernel given as an operator, "
            "got an array; give them to nm.modes, or leave them out."
        )
    if velocity0 is not None:
        check_launch(flow)
    _check_size(kernel, residual0, flow, ts, test_kernel)
    if is_operator(kernel):
        kernel = ritz.modes(
            kernel,
            residual0,
            flow=flow,
            ts=ts,
            products=products,
            tol=tol,
            ridge=ridge,
            velocity0=velocity0,
            progress=progress,
        )
        residual0 = velocity0 = None
    elif isinstance(kernel, Spectrum):
        kernel = ritz.known(kernel, residual0, velocity0)
        residual0 = velocity0 = None
    matrix: Array | Modes
    if isinstance(kernel, Modes):
        if residual0 is not None or velocity0 is not None:
            ritz.check_own(kernel, residual0, velocity0)
        shape, dtype = kernel.shape, kernel.values.dtype
        matrix, columns, size = kernel, None, kernel.vectors.shape[0]
        start, launch = kernel.start, kernel.velocity
    else:
        kernel, residual0 = array("kernel", kernel), array("residual0", residual0)
        shape, dtype = residual0.shape, jnp.result_type(kernel, residual0)
        matrix, start = square(kernel.astype(dtype), residual0.astype(dtype))
        launch = launch_of(velocity0, shape, dtype, start.shape)
        columns, size = (start, launch), matrix.shape[0]
    ts, finite, limit, counts = _times(ts, dtype, flow)
    if launch is not None:
        check_launch(flow)
        if limit:
            raise InputError("velocity0 has no t = infinity here; ask for a large finite time.")
    vectors = matrix.vectors if isinstance(matrix, Modes) else None
    rows, at_start = rows_of(test_kernel, test0, size, shape, dtype, vectors)
    pushed = None
    if at_start is not None and launch is not None:
        if test_velocity0 is None:
            raise InputError(
                "with velocity0 and test_kernel give test_velocity0 too, df*/dt at the test points "
                "at t = 0; zeros, if they start at rest."
            )
        pushed = shaped("test_velocity0", test_velocity0, at_start.shape, dtype)

    slots = None
    if isinstance(flow, AbstractFlow) and not flow.linear:
        flow = _settled(flow, matrix, start, counts)
    if isinstance(flow, AbstractOptimizer):
        slots = slots_of(counts)
    parameters, rest = numbers_of(flow)
    ridge = None if ridge is None else jnp.asarray(ridge, dtype)
    out = solve(
        parameters, rest, limit, matrix, columns, finite, slots, rows, ridge, pushed is not None
    )

    if not isinstance(matrix, Modes) or matrix.products == 0:
        check_semidefinite(out.eigenvalues)
    if limit:
        check_limit(flow, out.eigenvalues if ridge is None else out.eigenvalues + ridge)
    if isinstance(flow, AbstractFlow) and counts is not None:
        largest = concrete(out.eigenvalues)
        if largest is not None:
            warn_of_precision(flow, largest[-1], counts[-1], out.eigenvalues.dtype)
    seen = concrete(out.loss)
    if seen is not None and not np.all(np.isfinite(seen)):
        if slots is None:
            raise InputError(
                f"{flow} has no finite response to eigenvalues up to "
                f"{out.eigenvalues[-1]:.3g}; see the range of its parameters."
            )
        out = _diverged(out, flow, ts)
    # without the time that stands in where infinity is the only one
    keep = lambda x: x if x is None or len(x) == len(ts) else x[-len(ts) :]
    test = out.test
    if test is not None and at_start is not None:
        test = test.reshape(len(test), *at_start.shape) + at_start[None]
        if pushed is not None:
            test = test + out.carry.reshape(-1, *(1 for _ in pushed.shape)) * pushed[None]
    residual = out.residual.reshape(len(out.residual), *shape)
    bounds = None if out.upper is None else jnp.stack([out.loss, out.upper], axis=1)
    found = residual, out.loss, out.pseudo_loss, test, out.error, bounds, out.slopes
    fields = ts, *(keep(x) for x in found)
    if isinstance(matrix, Modes):
        ritz.warn_of_error(matrix, ts, keep(out.error))
    ts, residual, loss, pseudo_loss, test, error, bounds, slopes = (
        jax.tree.map(lambda x: x[0], fields) if scalar else fields
    )
    bounds = None if bounds is None else bounds.T
    return Prediction(ts, residual, loss, pseudo_loss, test, out.vectors, slopes, error, bounds)


def _diverged(out: Response, optimizer: Any, counts: Array) -> Response:
    """Losses beyond the largest number are infinite, whatever the steps made of them since."""
    lost = ~np.isfinite(np.asarray(out.loss))
    warnings.warn(
        f"the loss leaves the numbers of {out.loss.dtype} by step {int(counts[np.argmax(lost)])}: "
        f"{optimizer} is unstable at lambda_max = {out.eigenvalues[-1]:.3g}; lower its step, see "
        "nm.stability_limit.",
        RuntimeWarning,
        stacklevel=3,
    )
    infinite = lambda loss: jnp.where(jnp.isnan(loss), jnp.inf, loss)
    return out._replace(loss=infinite(out.loss), pseudo_loss=infinite(out.pseudo_loss))


def _times(ts: Any, dtype: Any, flow: Any) -> tuple[Array, Array, bool, np.ndarray | None]:
    """(times, those that are solved for, whether infinity follows them, and their numbers where
    these are known: inside jit the array is traced though its numbers are not)."""
    discrete = isinstance(flow, AbstractOptimizer)
    counts = concrete(ts)
    if discrete and counts is None and isinstance(ts, jax.core.Tracer):
        raise InputError(
            "for an optimizer the step counts ts must be concrete: close over them "
            "instead of tracing them."
        )
    ts = check_times(ts, dtype=dtype, whole=discrete, limit=True)
    limit = counts is not None and bool(counts[-1] == np.inf)
    if not limit:
        return ts, ts, False, counts
    if not discrete and not flow.linear:
        raise InputError(f"{flow.name} restarts by itself, up to a finite time; leave inf out.")
    assert counts is not None
    some = len(counts) > 1
    finite = ts[:-1] if some else jnp.zeros(1, dtype)
    return ts, finite, True, counts[:-1] if some else np.zeros(1)


def _check_size(kernel: Any, residual0: Any, flow: Any, ts: Any, test_kernel: Any) -> None:
    """Raise where the arrays alive at the peak do not fit: six of (T, n k), or twelve with test
    points, five of (N, N), what the test points move by, and an optimizer's list of steps."""
    residual0 = np.empty(kernel.shape) if isinstance(kernel, Modes) else residual0
    formed = isinstance(kernel, Modes | Spectrum) or not is_operator(kernel)
    basis = kernel.vectors if isinstance(kernel, Modes) else kernel
    basis = kernel.eigenvectors if isinstance(kernel, Spectrum) else basis
    sizes = [math.prod(shape_of(x)) for x in (basis, residual0, test_kernel)]
    times = math.prod(shape_of(ts))
    entries = 5 * sizes[0] + times * sizes[1] * (6 if test_kernel is None else 12)
    if formed:
        entries += times * (sizes[1] * sizes[2] // max(sizes[0], 1)) + 4 * times
    check_fits(
        entries,
        f"a prediction at {in_short(times)} times from a kernel of {in_short(sizes[0])} entries",
        "use fewer times, samples or test points",
        of=kernel,
    )
    seen = concrete(ts) if isinstance(flow, AbstractOptimizer) else None
    steps = 0 if seen is None or seen.size == 0 else np.max(seen[np.isfinite(seen)], initial=0).real
    if np.isfinite(steps):
        what = f"the list of {in_short(int(steps))} steps"
        check_fits(2 * int(steps), what, "ask for fewer steps, or use a flow")


def _settled(flow: AbstractFlow, matrix: Array | Modes, start: Array, ts: Any) -> AbstractFlow:
    """The linear flow that a non-linear one is on this kernel."""
    if isinstance(matrix, Modes):
        eigenvalues, along = concrete(matrix.values), concrete(matrix.start)
    elif concrete(matrix) is None or concrete(start) is None:
        eigenvalues = along = None
    else:
        eigenvalues, vectors = np.linalg.eigh(np.asarray(matrix))
        check_semidefinite(eigenvalues)
        along = vectors.T @ np.asarray(start)
    if ts is None or eigenvalues is None or along is None:
        raise InputError(
            f"{flow.name} restarts by concrete numbers: kernel, residual0 and ts may "
            "not be traced; or give a period."
        )
    size = np.linalg.norm(along, axis=1)
    return flow.settled(np.maximum(eigenvalues, 0.0), size, float(ts[-1]))

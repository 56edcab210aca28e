"""Training in function space under a constant kernel: any loss, test points, and the law over
initialisations.

With the kernel K frozen the predictions stay in the span of its columns, f(t) = f(0) + K c(t), and
the flows act on the dual variable c with the gradient of the loss with respect to f:

    gradient flow  c' = -grad_f L(f),  momentum  c'' + b(t) c' = -grad_f L(f),     c(0) = c'(0) = 0,

so that f' = -K grad_f L and f'' + b f' = -K grad_f L, which for the squared loss is (2.5), (3.5)
and (4.3). A test point follows by its kernel row, f*(t) = f*(0) + k* c(t).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, Shaped

from ..errors import InputError, unknown_name
from ..kernel import Modes, Spectrum, lanczos
from ..loss import Loss, as_targets, check_targets, is_known, output_gradient, squared
from ..method import AbstractFlow, AbstractOptimizer, State
from ..method.base import Number
from ..numerics import Numerics, check_config
from ..progress import OnProgress, check_progress, with_progress
from . import ritz
from .constant_kernel import (
    array,
    check_constant_kernel,
    check_times,
    is_operator,
    rows_of,
    square,
)
from .objective import AbstractProblem, norm
from .prediction import predict
from .preparation import check_shapes
from .readout import as_table, resolve
from .simulation import solve_problem
from .trajectory import Trajectory


class FunctionProblem(AbstractProblem):
    """The loss L(f(0) + K c, y) as a function of the dual variable c, whose "gradient" here is
    grad_f L.

    matrix: K, (N, N), or an operator, and then largest, its largest eigenvalue; start: f(0), and c,
    as (N, columns); rows, test0: the test points' kernel rows and predictions at t = 0, or None.
    """

    matrix: Any
    start: Float[Array, "N columns"]
    y: Shaped[Array, "n ..."]
    rows: Float[Array, "M N"] | None
    test0: Float[Array, q * k] | None
    loss: Loss = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)
    largest: Float[Array, ""] | None = None

    def times(self, c: Float[Array, "N columns"]) -> Float[Array, "N columns"]:
        """K c."""
        if isinstance(self.matrix, jax.Array):
            return self.matrix @ c
        return lanczos.apply(self.matrix, c.T).T

    def f(self, w: Array) -> Float[Array, n * k]:
        """Predictions on the training points."""
        return (self.start + self.times(w)).reshape(self.shape)

    def test(self, w: Array) -> Float[Array, q * k]:
        """Predictions on the test points."""
        assert self.rows is not None and self.test0 is not None, (
            "the read-out exists only with a test kernel"
        )
        return self.test0 + (self.rows @ w).reshape(self.test0.shape)

    @property
    def loss_function(self) -> Loss:
        return self.loss

    def value(self, w: Array) -> Float[Array, ""]:
        """L(f, y)."""
        return self.loss(self.f(w), self.y)

    def gradient(self, w: PyTree) -> PyTree:
        return self.residual(w).reshape(self.start.shape)

    def residual(self, w: PyTree) -> Float[Array, n * k]:
        return output_gradient(self.loss, self.f(w), self.y)

    def velocity(self, w: PyTree, rate: PyTree) -> Float[Array, n * k]:
        return self.times(rate).reshape(self.shape)

    def kernel(self, w: PyTree) -> Float[Array, "nk nk"]:
        N, matrix = len(self.start), self.matrix
        if not isinstance(matrix, jax.Array):  # formed where it is read
            matrix = self.times(jnp.eye(N, dtype=self.start.dtype))
        copies = self.start.size // N
        return matrix if copies == 1 else jnp.kron(matrix, jnp.eye(copies, dtype=self.start.dtype))

    def lambda_max(self, w: PyTree) -> Float[Array, ""]:
        return jnp.linalg.eigvalsh(self.matrix)[-1] if self.largest is None else self.largest

    def inner(self, v: PyTree, u: PyTree) -> Float[Array, ""]:
        return jnp.sum(v * self.times(u))

    def relative_error(
        self, state: State, error: State, lambda_max: Number, floor: Number
    ) -> Float[Array, ""]:
        # The motion of f = f(0) + K c: |grad_f L| and c' . K c', twice the kinetic energy of the
        # least weights behind it.
        momentum = 0.0 if state.v is None else jnp.sum(state.v * self.times(state.v))
        size = jnp.sqrt(norm(self.residual(state.w)) ** 2 + momentum)
        size = jnp.maximum(size, floor * norm(self.f(state.w)))
        pushed = 0.0 if error.v is None else norm(self.times(error.v)) / jnp.sqrt(lambda_max)
        return (norm(self.times(error.w)) + pushed) / size


_READOUTS: dict[str, Any] = {
    "f": lambda s: s.f,
    "test": lambda s: s._problem.test(s._state.w),
    "loss": lambda s: s.loss,
    "residual": lambda s: s.residual,
    "velocity": lambda s: s.velocity,
    "dual": lambda s: s._state.w.reshape(s._problem.shape),
}


def simulate_function(
    kernel: Any,
    f0: Any,
    y: Any,
    flow: AbstractFlow,
    ts: Any,
    *,
    loss: Loss = squared,
    test_kernel: Any = None,
    test0: Any = None,
    solver: Any = None,
    readouts: Sequence[str] | Mapping[str, Any] | None = None,
    progress: OnProgress | bool | None = None,
    config: Numerics = Numerics(),
) -> Trajectory:
    """Solve a flow of any differentiable loss under a constant kernel, from rest at f0.

        f' = -K grad_f L,   f'' + b(t) f' = -K grad_f L

    which for the squared loss are (2.5), (3.5) and (4.3), where `predict` gives the closed form.

    Args:
        kernel: K, (n, n), shared by all outputs, or the full (n, k, n, k) or (nk, nk); an operator
            on arrays like f0 or, shared, (n,); or its `nm.spectrum`, which says lambda_max.
        f0: Predictions at t = 0, (n,) or (n, k).
        y: Targets, shaped like f0.
        flow: `GradientFlow`, `HeavyBall(b)`, `Nesterov(d)` ...
        ts: Times, (T,), non-negative and increasing, in the flow's own unit.
        loss: L(f, y), a scalar.
        test_kernel: As in `predict`.
        test0: As in `predict`.
        solver: A diffrax solver; Tsit5 by default.
        readouts: f, loss, residual (dL/df), velocity (df/dt), dual (c, with f = f0 + K c) and, with
            a test kernel, test; all of them by default.
        progress: As in `simulate`.
        config: Tolerance, limits and precision.

    Returns:
        The read-outs at `ts`, without a model.

    Raises:
        InputError: If shapes do not fit, values are not finite, or a read-out is unknown.

    Examples:
        >>> run = nm.simulate_function(
        ...     np.eye(2), [0.0, 0.0], [1.0, -1.0], nm.GradientFlow(), [0.0, 1.0], loss=nm.logistic
        ... )
        >>> run.f[1].round(3).tolist()
        [0.443, -0.443]
    """
    check_config(config)
    largest = None
    if isinstance(kernel, Modes):
        raise InputError(
            "modes belong to the squared loss and one error, where predict takes them; pass the "
            "kernel they were found from."
        )
    if isinstance(kernel, Spectrum):
        largest = kernel.lambda_max
        kernel = (kernel.eigenvectors * kernel.eigenvalues[None, :]) @ kernel.eigenvectors.T
    f0, targets = array("f0", f0), array("y", y)
    formed = not is_operator(kernel)
    kernel = array("kernel", kernel) if formed else kernel
    own = kernel if formed else kernel.in_structure().dtype
    dtype = jnp.result_type(own, f0, targets)
    y = as_targets(loss, jnp.asarray(y), dtype)
    if f0.shape != y.shape and is_known(loss):
        raise InputError(
            f"f0 and y must have one shape, got {f0.shape} and {y.shape}; give one target for each "
            "prediction."
        )
    check_shapes(loss, jax.ShapeDtypeStruct(f0.shape, dtype), y)
    check_targets(loss, y)
    if formed:
        matrix, start = square(kernel.astype(dtype), f0.astype(dtype))
        check_constant_kernel(matrix, start)
        size = len(matrix)
    else:
        matrix, columns, _ = ritz.start_of(kernel, f0.astype(dtype), None)
        start, size = columns.T, columns.shape[1]
        # a step size and the unit of an error, to a percent or so: chosen, not measured
        found = ritz.modes(matrix, jax.random.normal(jax.random.key(0), f0.shape), products=12)
        largest = found.values[-1].astype(dtype)
    rows, at_start = rows_of(test_kernel, test0, size, f0.shape, dtype)
    problem = FunctionProblem(matrix, start, y, rows, at_start, loss, f0.shape, largest)
    known = {
        name: readout for name, readout in _READOUTS.items() if rows is not None or name != "test"
    }
    if readouts is None:
        chosen = known
    else:
        table = as_table(readouts)
        for name in table.values():
            if isinstance(name, str) and name not in known:
                raise unknown_name("read-out", name, known)
        chosen = resolve(
            {
                name: known.get(which, which) if isinstance(which, str) else which
                for name, which in table.items()
            },
            (),
        )
    progress = check_progress(progress, "simulate_function")
    return solve_problem(problem, jnp.zeros_like(start), flow, ts, solver, chosen, config, progress)


class Law(eqx.Module):
    """The Gaussian law of f(t) over initialisations at infinite width, as `predict_law` finds it.

    Training points come first, then test points. Outputs are independent.

    Args:
        ts: Times, (T,).
        mean: (T, n + q) or (T, n + q, k).
        covariance: Of each output, (T, n + q, n + q).
    """

    ts: Float[Array, " times"]
    mean: Float[Array, "times N *k"]
    covariance: Float[Array, "times N N"]

    @property
    def std(self) -> Float[Array, "times N"]:
        """Standard deviation at each point."""
        return jnp.sqrt(jnp.maximum(jnp.diagonal(self.covariance, axis1=1, axis2=2), 0.0))


@with_progress
def predict_law(
    ntk: Any,
    nngp: Any,
    y: Any,
    flow: AbstractFlow | AbstractOptimizer,
    ts: Any,
    *,
    progress: OnProgress | bool | None = None,
) -> Law:
    """Mean and covariance of f(t) over initialisations of infinitely wide networks.

    On the squared loss f(t) is affine in f(0) ~ N(0, nngp): with f(0) = B xi, nngp = B B^T, the
    columns of B and the targets go through `predict` together. As t grows the mean at a test point
    becomes (Lee et al., 2019)

        E f*(t) -> K* K^{-1} y

    Args:
        ntk: Kernel over n training and q test points together, (n + q, n + q), training points
            first.
        nngp: Covariance of f(0) over the same points, (n + q, n + q).
        y: Targets, (n,) or (n, k).
        flow: A flow, or an optimizer.
        ts: Times, (T,), or step counts for an optimizer.
        progress: Called as progress(done, 1); True for a bar.

    Returns:
        The law: mean (T, n + q) or (T, n + q, k), covariance (T, n + q, n + q) of each output (they
        are independent), and standard deviations.

    Raises:
        InputError: If shapes do not fit, and where `predict` raises it.

    Examples:
        >>> K = np.array([[1.0, 0.5], [0.5, 1.0]])  # one training point, one test point
        >>> law = nm.predict_law(K, K, [1.0], nm.GradientFlow(), [0.0, 50.0])
        >>> law.mean.round(3).tolist()
        [[0.0, 0.0], [1.0, 0.5]]
    """
    ntk, nngp, y = array("ntk", ntk), array("nngp", nngp), array("y", y)
    n = y.shape[0] if y.ndim in (1, 2) else 0
    if (
        ntk.ndim != 2
        or ntk.shape != nngp.shape
        or ntk.shape[0] != ntk.shape[1]
        or not 1 <= n <= len(ntk)
    ):
        raise InputError(
            "ntk and nngp must be (n + q, n + q), training points first, and y (n,) or (n, k), "
            f"got {ntk.shape}, {nngp.shape} and {y.shape}; give both kernels over all points."
        )
    # f(t) = A(t) f(0) + (I - A(t)) y on the training points: the columns of B give A(t) B, whose
    # square is the covariance; the column -y gives (mean - y) there, from f(0) = 0.
    check_constant_kernel(ntk, jnp.zeros(len(ntk)), "ntk")
    check_constant_kernel(nngp, jnp.zeros(len(nngp)), "nngp")
    values, vectors = jnp.linalg.eigh(nngp)
    factor = vectors * jnp.sqrt(jnp.maximum(values, 0.0))[None, :]
    targets = y.reshape(n, -1)
    start = jnp.concatenate([factor[:n], -targets], axis=1)
    test = None if n == len(ntk) else ntk[n:, :n]
    test0 = (
        None
        if test is None
        else jnp.concatenate(
            [factor[n:], jnp.zeros((len(ntk) - n, targets.shape[1]), y.dtype)], axis=1
        )
    )
    moved = predict(ntk[:n, :n], start, flow, ts, test_kernel=test, test0=test0)
    whole = (
        moved.residual
        if moved.test is None
        else jnp.concatenate([moved.residual, moved.test], axis=1)
    )
    draws, mean = whole[:, :, : len(ntk)], whole[:, :, len(ntk) :]
    mean = mean.at[:, :n].add(jnp.broadcast_to(targets[None], mean[:, :n].shape))
    covariance = jnp.einsum("tir,tjr->tij", draws, draws)
    return Law(
        check_times(ts, dtype=mean.dtype), mean.reshape(mean.shape[:2] + y.shape[1:]), covariance
    )

"""What predictions for a constant kernel are made from, checked: kernel, error, times, test
points."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..errors import InputError, check_array, check_real, concrete
from ..numerics import placed


def check_times(
    ts: Any, *, dtype: Any = None, whole: bool = False, limit: bool = False
) -> Float[Array, " T"]:
    """The times as an array. Raises InputError unless they are finite (but for the last one, if
    `limit`), non-negative and strictly increasing (and whole, if asked)."""
    value = check_array("the times ts", ts)
    shape = np.shape(ts)
    flags = value is not None and value.dtype.kind == "b"
    if len(shape) != 1 or shape[0] == 0 or flags:
        raise InputError(
            "the times ts must be a non-empty list of numbers, got "
            f"{'True or False' if flags else f'shape {shape}'}; try np.linspace(0, 1, 11)."
        )
    if value is not None:
        check_real("the times ts", value[:-1] if limit and value[-1] == np.inf else value)
        if value[0] < 0:
            raise InputError(
                f"the times ts must be non-negative, got {value[0]:g} first; flows start at t = 0, "
                "so drop those before."
            )
        steps = np.diff(value.astype(float))
        if not np.all(steps > 0):
            at = int(np.argmin(steps > 0))
            raise InputError(
                f"the times ts must increase, got {value[at]:g} then {value[at + 1]:g} "
                f"(at {at}). Try numpy.unique."
            )
        if whole and not np.all(value == np.round(value)):
            raise InputError(
                "for an optimizer the times ts must be step counts, whole numbers, got "
                f"{value[value != np.round(value)][0]:g}; try np.arange(11)."
            )
    known = ts if isinstance(ts, jax.Array) else np.asarray(ts)
    return placed(known, jnp.result_type(known, float) if dtype is None else dtype)


def launch_of(velocity0: Any, shape: tuple, dtype: Any, columns: tuple) -> Array | None:
    return (
        None if velocity0 is None else shaped("velocity0", velocity0, shape, dtype).reshape(columns)
    )


def shaped(name: str, value: Any, shape: tuple, dtype: Any) -> Array:
    """A finite array of this shape."""
    value = array(name, value).astype(dtype)
    if value.shape != shape:
        raise InputError(
            f"{name} must have shape {shape}, got {value.shape}; give one number for each point."
        )
    return value


def array(name: str, value: Any) -> Array:
    """A finite real floating array."""
    check_real(name, value)
    array = jnp.asarray(value)
    return array.astype(jnp.result_type(array, float))


def square(kernel: Array, residual0: Array, name: str = "kernel") -> tuple[Array, Array]:
    """(symmetric kernel matrix (N, N), Delta(0) as (N, columns))."""
    if residual0.ndim not in (1, 2) or residual0.size == 0:
        raise InputError(
            f"residual0 must have shape (n,) or (n, k), got {residual0.shape}; try f0 - y."
        )
    n, size = residual0.shape[0], residual0.size
    if kernel.shape == (n, n):
        start = residual0.reshape(n, -1)
    elif kernel.shape in ((size, size), residual0.shape * 2):
        kernel, start = kernel.reshape(size, size), residual0.reshape(size, 1)
    else:
        several = f", {residual0.shape * 2} or {(size, size)}" if residual0.ndim == 2 else ""
        raise InputError(
            f"{name} must have shape {(n, n)}{several} for residual0 of shape {residual0.shape}, "
            f"got {kernel.shape}; pass the kernel and the error of the same inputs."
        )
    kernel, *seen = _symmetrise(kernel)
    gap, scale = (concrete(number) for number in seen)  # NumPy compares without a program
    if gap is not None and gap > np.sqrt(np.finfo(kernel.dtype).eps) * scale:
        raise InputError(
            f"{name} must be symmetric, got |K - K^T| up to {gap:.2g} and |K| up to {scale:.2g}; "
            "pass that of the training points, and test rows as test_kernel=."
        )
    return kernel, start


@jax.jit
def _symmetrise(kernel: Array) -> tuple[Array, Array, Array]:
    """((K + K^T)/2, the largest |K - K^T|, the largest |K|)."""
    mean = jax.lax.optimization_barrier(
        (kernel + kernel.T) / 2
    )  # one transposed pass over the matrix, not two
    return mean, 2 * jnp.max(jnp.abs(kernel - mean)), jnp.max(jnp.abs(kernel))


def check_constant_kernel(kernel: Array, residual0: Array, name: str = "kernel") -> None:
    """Raise `InputError` where concrete arrays are no symmetric positive semidefinite kernel and
    error."""
    if concrete(kernel) is not None:
        matrix, _ = square(array(name, kernel), array("residual0", residual0), name)
        check_semidefinite(jnp.linalg.eigvalsh(matrix), name)


def check_semidefinite(eigenvalues: Any, name: str = "kernel") -> None:
    seen = concrete(eigenvalues)
    if seen is not None and seen[0] < -np.sqrt(np.finfo(seen.dtype).eps) * np.max(np.abs(seen)):
        raise InputError(
            f"{name} must be positive semi-definite, got eigenvalues from {seen[0]:.3g} to "
            f"{seen[-1]:.3g}; try one of nm.empirical_ntk or nm.infinite_ntk."
        )


def is_operator(kernel: Any) -> bool:
    """Whether something is a linear operator, and no array."""
    return hasattr(kernel, "mv") and hasattr(kernel, "in_structure")


def rows_of(
    test_kernel: Any,
    test0: Any,
    size: int,
    outer: tuple[int, ...],
    dtype: Any,
    vectors: Array | None = None,
) -> tuple[Array | None, Array | None]:
    """(kernel rows of the test points (rows, N), or what they are on `vectors`, their predictions
    at t = 0), outer being the shape of the error."""
    if test_kernel is None:
        if test0 is not None:
            raise InputError(
                f"test0 needs test_kernel, got test0 of shape {np.shape(test0)} alone; give the "
                "kernel of the test points against the training points."
            )
        return None, None
    outputs = outer[1:]
    if is_operator(test_kernel):
        before = test_kernel.in_structure().shape
        if before != (outer if size == math.prod(outer) else (size,)):
            raise InputError(
                f"test_kernel maps from {before}, and residual0 has shape {outer}; give its "
                "training points as x2."
            )
        basis = jnp.eye(size, dtype=dtype) if vectors is None else vectors
        rows = _products(test_kernel, basis.T).T
    else:
        rows = array("test_kernel", test_kernel).astype(dtype)
    per_row = 1 if size == outer[0] else outputs[0]
    if (
        rows.ndim == 4
        and outputs
        and size == math.prod(outer)
        and rows.shape[1:] == (*outputs, *outer)
    ):
        rows = rows.reshape(-1, size)
    known = is_operator(test_kernel)
    if not known and (rows.ndim != 2 or rows.shape[1] != size or len(rows) % per_row):
        raise InputError(
            f"test_kernel must have a column for each of {size} training points, got shape "
            f"{rows.shape}; try nm.infinite_ntk(test_X, X)."
        )
    rows = rows if known or vectors is None else rows @ vectors
    shape = (len(rows) // per_row, *outputs)
    return rows, jnp.zeros(shape, dtype) if test0 is None else shaped("test0", test0, shape, dtype)


@eqx.filter_jit
def _products(operator: Any, block: Array) -> Array:
    """Rows times an operator, 64 of them at once: chosen, not measured."""
    shape = operator.in_structure().shape
    one = lambda v: operator.mv(v.reshape(shape)).reshape(-1)
    return jax.lax.map(one, block, batch_size=min(64, len(block)))

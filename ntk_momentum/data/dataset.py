"""Training sets: inputs X, targets y, checked once at the door.

The paper's theorems assume unit inputs, |x_i| = 1, no two of which coincide (Facts 2.1, 2.2;
antipodes are harmless, see `theory` on fact-2.2). `Dataset` checks and never rescales; `normalize`
makes any inputs unit.
"""

from __future__ import annotations

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Real

from ..errors import InputError, check_choice, check_unmasked, described, not_an_array
from ..memory import check_fits
from ..numerics import placed

NAMED = 20  # rows, groups or columns that a message lists, at most


class Dataset(eqx.Module):
    """n inputs and their targets, checked and never rescaled.

    Floating inputs and targets share one dtype. Integers stay integers, for models that take tokens
    (`eqx.nn.Embedding`) and losses that take labels; those of 8 and 16 bits are widened to 32,
    where products of pixels do not overflow. Two identical inputs make the kernel singular
    (lambda_0 = 0, Fact 2.2), and a zero input has a zero row in it (a row of zero tokens has not).

    Args:
        X: Inputs, (n, ...), of any shape behind the first axis, finite and real.
        y: Targets, (n,) or (n, k), finite and real; text goes through `encode_labels` first.
        on_duplicates: What becomes of identical and of zero inputs: "error" names them all,
            "drop" keeps the first of each and warns with the count, "allow" goes on with a singular
            kernel.
        name: What results call it.

    Raises:
        InputError: If shapes are wrong, values are no finite real numbers, or inputs degenerate.

    Examples:
        >>> data = nm.Dataset([[3.0, 4.0], [0.0, 2.0]], [1, -1])
        >>> data.n, data.input_size, data.unit
        (2, 2, False)
    """

    X: Real[Array, "n ..."]
    y: Real[Array, n * k]
    name: str = eqx.field(static=True, default="data")

    def __init__(self, X: Any, y: Any, on_duplicates: str = "error", *, name: str = "data"):
        check_choice("on_duplicates", on_duplicates, ("error", "drop", "allow"))
        if not isinstance(name, str):
            raise InputError(f"name must be text, got {described(name)}; try name='data'.")
        X, y = _real("X", X, 2 if on_duplicates == "allow" else 4), _real("y", y)
        if X.ndim < 2:
            raise InputError(
                f"X must have shape (n, p) or (n, ...), got {X.shape}; give one input per row."
            )
        if y.ndim not in (1, 2):
            raise InputError(
                f"y must have shape (n,) or (n, k), got {y.shape}; try y.reshape(len(X), -1)."
            )
        if X.size == 0:
            raise InputError(
                f"X must hold at least one input, got shape {X.shape}; give one input per row."
            )
        if y.shape[0] != X.shape[0]:
            raise InputError(
                f"X and y must have one row for each sample, got {X.shape[0]} rows of X and "
                f"{y.shape[0]} of y; drop the rows that lack the other."
            )
        if on_duplicates != "allow" and not isinstance(X, jax.core.Tracer):
            keep = _distinct(np.asarray(X), y, on_duplicates == "drop")
            if keep.size < X.shape[0]:
                X, y = X[keep], y[keep]
        if all(jnp.issubdtype(array.dtype, jnp.floating) for array in (X, y)):
            y = y.astype(X.dtype)
        self.X, self.y, self.name = X, y, name

    @property
    def n(self) -> int:
        """Number of samples."""
        return self.X.shape[0]

    @property
    def input_size(self) -> int:
        """Numbers in one input."""
        return int(np.prod(self.X.shape[1:]))

    @property
    def unit(self) -> bool:
        """Whether every input has norm one to round-off, as Theorems 1-3 assume."""
        return _is_unit(_norms(self.X), self.X.dtype)


def _real(name: str, value: Any, copies: int = 2) -> Array:
    if isinstance(value, jax.core.Tracer):
        return value
    array = _finite(name, value, copies)
    if array.dtype.kind in "iu":
        return _integers(name, array)
    dtype = array.dtype if array.dtype.kind == "f" else np.float64
    return placed(array, dtype)


def _finite(name: str, value: Any, copies: int = 3) -> np.ndarray:
    check_unmasked(name, value)
    try:
        array = np.asarray(value)
    except ValueError as error:  # rows of unequal length
        raise not_an_array(name, value) from error
    check_fits(
        copies * array.size,
        f"{copies} copies of {name}, of shape {array.shape},",
        "use fewer samples, or float32",
        itemsize=array.itemsize if array.dtype.kind == "f" else None,
        host=True,
    )
    if array.dtype.kind not in "biuf" and array.dtype != jnp.bfloat16:
        if hasattr(value, "toarray"):
            raise not_an_array(name, value)
        remedy = f"convert it, e.g. np.asarray({name}, float)"
        if name == "y" and array.dtype.kind in "OUT":
            remedy = "text becomes +-1 or one-hot by nm.encode_labels(y), so use that"
        if array.dtype.kind == "O":
            raise (
                not_an_array(name, value)
                if array.ndim == 0
                else InputError(
                    f"{name} must hold real numbers, got objects such as "
                    f"{described(array.flat[0])}; "
                    f"{remedy}."
                )
            )
        raise InputError(f"{name} must hold real numbers, got dtype {array.dtype}; {remedy}.")
    if not np.all(np.isfinite(array)):
        bad = np.unique(np.argwhere(~np.isfinite(array))[:, 0])[:5].tolist() if array.ndim else []
        raise InputError(
            f"{name} must be finite, got NaN or infinite values (first rows: {bad}); drop or "
            "repair those rows."
        )
    return array


def _integers(name: str, array: np.ndarray) -> Array:
    """Signed and of at least 32 bits, so that -y and x . x' are what they seem."""
    wide = np.int32 if array.dtype.itemsize < 4 or array.dtype == np.int32 else np.int64
    dtype = jax.dtypes.canonicalize_dtype(wide)
    info = np.iinfo(dtype)
    if array.size and not info.min <= int(array.min()) <= int(array.max()) <= info.max:
        raise InputError(
            f"{name} holds integers that {dtype} does not; convert it to float, or set "
            'jax.config.update("jax_enable_x64", True).'
        )
    return jnp.asarray(array, dtype)


def _distinct(X: np.ndarray, y: Array, drop: bool) -> np.ndarray:
    """The rows to keep: all, or, asked to drop, the first of those that are identical and none that
    is zero."""
    n = X.shape[0]
    rows = X.reshape(n, -1)
    tokens = X.dtype.kind == "i"  # token 0 has an embedding like any other
    zero = np.zeros(n, bool) if tokens else np.linalg.norm(rows, np.inf, axis=1) == 0
    inverse = np.ravel(np.unique(rows, axis=0, return_inverse=True)[1])
    first = np.full(inverse.max() + 1, n)
    np.minimum.at(first, inverse, np.arange(n))
    twin = (first[inverse] < np.arange(n)) & ~zero
    keep = ~(twin | zero)
    if keep.all():
        return np.flatnonzero(keep)
    if not drop or not keep.any():
        raise InputError(_degenerate(inverse, zero, twin))
    said = []
    if twin.any():
        other = 0
        if not isinstance(y, jax.core.Tracer):
            values = np.asarray(y).reshape(n, -1)
            other = int((values[twin] != values[first[inverse[twin]]]).any(axis=1).sum())
        conflict = f" ({other} of them with another target)" if other else ""
        said.append(f"{twin.sum()} identical to an earlier one{conflict}")
    if zero.any():
        said.append(f"{zero.sum()} zero")
    warnings.warn(
        f"dropped {n - keep.sum()} of {n} inputs: {' and '.join(said)}", UserWarning, stacklevel=5
    )
    return np.flatnonzero(keep)


def _degenerate(inverse: np.ndarray, zero: np.ndarray, twin: np.ndarray) -> str:
    """All inputs that make the kernel singular, by row."""
    said = []
    if zero.any():
        one = zero.sum() == 1
        said.append(
            f"{_listed(zero)} {'is the zero vector' if one else 'are zero vectors'}, so "
            f"{'its kernel row is' if one else 'their kernel rows are'} zero and lambda_0 = 0; "
            f"drop {'it' if one else 'them'} (or append a constant coordinate, which acts as a "
            "bias)."
        )
    if twin.any():
        groups = np.unique(inverse[twin])
        more = f"; and {groups.size - NAMED} more groups" if groups.size > NAMED else ""
        named = "; ".join(_listed(inverse == group) for group in groups[:NAMED])
        said.append(f"{named} are identical{more}, so lambda_0 = 0 (Fact 2.2); keep one of each.")
    return " ".join(said) + (
        ' on_duplicates="drop" (--on-duplicates drop) does so, and "allow" goes on with a singular '
        "kernel."
    )


def _listed(rows: np.ndarray) -> str:
    """ "input 3", "inputs 0, 2 and 5"."""
    where = [str(i) for i in np.flatnonzero(rows)]
    if len(where) == 1:
        return f"input {where[0]}"
    if len(where) > NAMED:
        return f"inputs {', '.join(where[:NAMED])} and {len(where) - NAMED} more"
    return f"inputs {', '.join(where[:-1])} and {where[-1]}"


def _norms(X: Any) -> np.ndarray:
    rows = np.asarray(X, np.float64)
    with np.errstate(over="ignore"):
        return np.linalg.norm(rows.reshape(rows.shape[0], -1), axis=1)


def _is_unit(norms: np.ndarray, dtype: Any) -> bool:
    eps = np.finfo(dtype if jnp.issubdtype(dtype, jnp.floating) else np.float64).eps
    return bool(np.all(np.abs(norms - 1) < 1e3 * eps))


_told: list[str] = []  # what `warn_unless_unit` has warned of in this process


def warn_unless_unit(X: Any, what: str) -> None:
    """Warn, once in a process, where a statement assumes |x_i| = 1 (Theorems 1-3) and it is not so.

    Args:
        X: (n, ...) inputs.
        what: the statement, the beginning of the warning.
    """
    if _told or isinstance(X, jax.core.Tracer):
        return
    norms = _norms(X)
    if not _is_unit(norms, X.dtype):
        _told.append(what)
        warnings.warn(
            f"{what} assumes unit inputs, |x_i| = 1, but these have norms from {norms.min():.3g} "
            f"to {norms.max():.3g}; try nm.normalize(X), or --unit; of a table, whose columns "
            "differ in size, nm.standardize(X) before, or --standardize --unit",
            UserWarning,
            stacklevel=3,
        )


def standardize(X: Any) -> np.ndarray:
    """Columns of mean zero and variance one; constant ones become zero.

        x_ij <- (x_ij - mean_j) / sd_j,  mean_j and sd_j over the samples i

    of inputs that are then scaled to norm one, as Theorems 1-3 assume: rows of a table whose
    columns differ in size are else all but parallel, and the kernel's small eigenvalues are lost.

    Args:
        X: Inputs, (n, ...), one per row.

    Returns:
        A float64 array of the same shape.

    Raises:
        InputError: If X holds something else than finite real numbers, or is no such array.

    Examples:
        >>> nm.standardize([[1.0, 500.0], [3.0, 700.0]]).round(12).tolist()
        [[-1.0, -1.0], [1.0, 1.0]]
    """
    X = _inputs(X)
    largest = np.abs(X).max(axis=0)  # squares of what is near the ends of doubles' range leave it
    X = X / np.where(largest > 0, largest, 1.0)
    X, size = X - X.mean(axis=0), len(X) * np.finfo(np.float64).eps
    spread = X.std(axis=0)
    return np.where(spread > size, X / np.where(spread > size, spread, 1.0), 0.0)


def normalize(X: Any) -> np.ndarray:
    """Inputs scaled to unit norm, x_i / |x_i|: the assumption |x_i| = 1 of Theorems 1-3.

    Args:
        X: Inputs, (n, ...), one per row.

    Returns:
        A float64 array of the same shape.

    Raises:
        InputError: If some inputs are zero and have no direction (all are named), or X holds
            something else than finite real numbers.

    Examples:
        >>> nm.normalize([[3.0, 4.0]]).tolist()
        [[0.6, 0.8]]
    """
    X = _inputs(X)
    along = (-1,) + (1,) * (X.ndim - 1)
    norms = _norms(X)
    zero = ~X.reshape(X.shape[0], -1).any(axis=1)
    if zero.any():
        have = "is the zero vector and has" if zero.sum() == 1 else "are zero vectors and have"
        raise InputError(f"{_listed(zero)} {have} no direction; drop such inputs.")
    extreme = (norms < 1e-150) | ~np.isfinite(norms)  # their squares leave the range of doubles
    if extreme.any():
        largest = np.abs(X).reshape(X.shape[0], -1).max(axis=1)
        X = X / np.where(extreme, largest, 1.0).reshape(along)
        norms = np.where(extreme, _norms(X), norms)
    return X / norms.reshape(along)


def _inputs(X: Any) -> np.ndarray:
    if isinstance(X, jax.core.Tracer | Dataset):
        raise not_an_array("X", X)
    X = _finite("X", X).astype(np.float64)
    if X.ndim < 2 or X.size == 0:
        raise InputError(
            f"X must have shape (n, p) or (n, ...), got {X.shape}; give one input per row."
        )
    return X

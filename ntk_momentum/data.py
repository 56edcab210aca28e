"""Training sets: inputs X, targets y, checked once at the door.

The paper's theorems assume unit inputs, |x_i| = 1, no two of which coincide (Facts 2.1, 2.2;
antipodes are harmless, see `theory` on fact-2.2). `Dataset` checks and never rescales; the loaders
return unit inputs.
"""

from __future__ import annotations

import gzip
import io
import math
import struct
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from .errors import InputError, require, unknown_name
from .memory import check_fits, in_short


class Dataset(eqx.Module):
    """n inputs and their targets.

    X: (n, ...) inputs, of any shape behind the first axis; y: (n,) or (n, k) targets. Both are
    finite and real, in one floating dtype; nothing is rescaled. Two identical inputs make the
    kernel singular (lambda_0 = 0, Fact 2.2) and a zero input has a zero row in it, so both are
    refused unless `on_duplicates="allow"`.

    Raises `InputError`.
    """

    X: Float[Array, "n ..."]
    y: Float[Array, n * k]
    name: str = eqx.field(static=True, default="data")

    def __init__(self, X: Any, y: Any, on_duplicates: str = "error", *, name: str = "data"):
        if on_duplicates not in ("error", "allow"):
            raise unknown_name("on_duplicates", str(on_duplicates), ("error", "allow"))
        self.X = _real("X", X, copies=2 if on_duplicates == "allow" else 4)
        self.y = _real("y", y).astype(self.X.dtype)
        self.name = name
        if self.X.ndim < 2:
            raise InputError(
                f"X must have shape (n, p) or (n, ...), got {self.X.shape}; one input per row."
            )
        if self.y.ndim not in (1, 2):
            raise InputError(f"y must have shape (n,) or (n, k), got {self.y.shape}.")
        if self.X.shape[0] == 0 or self.X.size == 0:
            raise InputError(f"X is empty (shape {self.X.shape}); at least one input is needed.")
        if self.y.shape[0] != self.X.shape[0]:
            raise InputError(
                f"X has {self.X.shape[0]} rows but y has {self.y.shape[0]}; they must agree."
            )
        if on_duplicates == "error" and not isinstance(self.X, jax.core.Tracer):
            _refuse_degenerate(np.asarray(self.X).reshape(self.X.shape[0], -1))

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
        norms = np.linalg.norm(np.asarray(self.X, np.float64).reshape(self.n, -1), axis=1)
        return bool(np.all(np.abs(norms - 1) < 1e3 * np.finfo(self.X.dtype).eps))


def _real(name: str, value: Any, copies: int = 2) -> Array:
    if isinstance(value, jax.core.Tracer):
        return value
    array = np.asarray(value)
    check_fits(
        copies * array.size,
        f"{copies} copies of {name}, of shape {array.shape},",
        "use fewer samples, or float32",
        itemsize=array.itemsize if array.dtype.kind == "f" else None,
        host=True,
    )
    if array.dtype.kind not in "biuf" and array.dtype != jnp.bfloat16:
        raise InputError(
            f"{name} must hold real numbers, got dtype {array.dtype}; convert it, e.g. "
            f"np.asarray({name}, float)."
        )
    if not np.all(np.isfinite(array)):
        bad = np.unique(np.argwhere(~np.isfinite(array))[:, 0])[:5].tolist() if array.ndim else []
        raise InputError(
            f"{name} holds NaN or infinite values (first rows: {bad}); drop or repair those rows."
        )
    dtype = array.dtype if array.dtype.kind == "f" else np.float64
    return jnp.asarray(array, dtype=jax.dtypes.canonicalize_dtype(dtype))


def _refuse_degenerate(rows: np.ndarray) -> None:
    zero = np.flatnonzero(~rows.any(axis=1))
    if zero.size:
        raise InputError(
            f"input {zero[0]} is the zero vector, so its kernel row is zero and "
            "lambda_0 = 0; drop it "
            "(or append a constant coordinate, which acts as a bias)."
        )
    _, index, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    if index.size < rows.shape[0]:
        twin = int(np.setdiff1d(np.arange(rows.shape[0]), index)[0])
        first = int(index[np.ravel(inverse)[twin]])
        raise InputError(
            f"inputs {first} and {twin} are identical, so lambda_0 = 0 (Fact 2.2); drop one, "
            'or in Python pass on_duplicates="allow" to go on with a singular kernel.'
        )


def normalize(X: Any) -> np.ndarray:
    """Inputs scaled to unit norm, row by row (the assumption |x_i| = 1 of Theorem 1). Raises on
    zero rows."""
    X = np.asarray(X, np.float64)
    norms = np.linalg.norm(X.reshape(X.shape[0], -1), axis=1)
    if np.any(norms == 0):
        raise InputError(
            f"input {int(np.argmin(norms))} is the zero vector and has no direction; drop it."
        )
    return X / norms.reshape((-1,) + (1,) * (X.ndim - 1))


def _targets(digits: np.ndarray, target: str) -> np.ndarray:
    if target == "parity":
        return np.where(digits % 2 == 0, 1.0, -1.0)
    if target == "digit":
        return digits.astype(np.float64)
    raise unknown_name("target", str(target), ("parity", "digit"))


def _pick(n: int, available: int, key: Key[Array, ""] | None, what: str) -> np.ndarray:
    if not 1 <= n <= available:
        raise InputError(f"n must lie between 1 and {available} for {what}, got {n}.")
    if key is None:
        return np.arange(n)
    return np.asarray(jax.random.permutation(key, available))[:n]


def load_digits(
    n: int, *, key: Key[Array, ""], target: str = "parity", unit: bool = True
) -> Dataset:
    """n of scikit-learn's 1,797 handwritten digits (8 x 8 pixels, so p = 64), drawn with `key`.

    Inputs have unit norm (or lie in [0, 1] with `unit=False`). Targets: +1 for even and -1 for odd
    digits (`target="parity"`), or the digit 0..9 as a number (`target="digit"`, the published
    experiments).
    """
    raw = require("sklearn.datasets", "load_digits", "scikit-learn").load_digits()
    rows = _pick(n, raw.data.shape[0], key, "scikit-learn's digits")
    X = raw.data[rows] / 16.0
    return Dataset(
        normalize(X) if unit else X, _targets(raw.target[rows], target), name=f"digits{n}"
    )


def sphere(n: int, p: int, *, key: Key[Array, ""]) -> Dataset:
    """n points uniform on the unit sphere of R^p, with independent targets +1 or -1."""
    if n < 1 or p < 1:
        raise InputError(f"sphere needs n >= 1 and p >= 1, got n = {n}, p = {p}.")
    check_fits(
        5 * int(n) * int(p),
        f"{in_short(n)} points of {in_short(p)} coordinates",
        "draw fewer",
        host=True,
    )
    inputs, labels = jax.random.split(key)
    X = normalize(np.asarray(jax.random.normal(inputs, (n, p))))
    return Dataset(
        X, np.asarray(jax.random.rademacher(labels, (n,)), np.float64), name=f"sphere{n}x{p}"
    )


def load_npz(path: str | Path, *, on_duplicates: str = "error") -> Dataset:
    """A data set of your own: an .npz file with arrays X (n, ...) and y (n,) or (n, k). Read
    without pickle, never rescaled."""
    path = Path(path)
    if path.is_dir():
        raise InputError(
            f"{path} is a folder; expected an .npz holding arrays X and y "
            "(np.savez(path, X=X, y=y))."
        )
    if not path.is_file():
        raise InputError(
            f"no file {path}; expected an .npz holding arrays X and y (np.savez(path, X=X, y=y))."
        )
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            missing = {"X", "y"} - set(archive.files)
            if missing:
                raise InputError(
                    f"{path} lacks {sorted(missing)}; it holds {archive.files}. Save "
                    "it with np.savez(path, X=X, y=y)."
                )
            for name in ("X", "y"):
                _check_member(path, archive.zip, name)
            X, y = archive["X"], archive["y"]
    except InputError:
        raise
    except (
        Exception
    ) as error:  # numpy raises zipfile, value, OS, EOF and zlib errors on damaged archives
        raise InputError(
            f"{path} is not a readable .npz of plain numbers; save it again with "
            "np.savez(path, X=X, y=y)."
        ) from error
    return Dataset(X, y, on_duplicates, name=path.stem)


def _check_member(path: Path, archive: Any, name: str) -> None:
    """Refuse an array by its header, which is all that is unpacked: an archive may announce far
    more than its own size."""
    member = f"{name}.npy" if f"{name}.npy" in archive.namelist() else name
    with archive.open(member) as stream:
        start = io.BytesIO(stream.read(2**14))
    version = np.lib.format.read_magic(start)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    shape, _, dtype = read[version](start)
    if dtype.hasobject:
        raise ValueError("pickled objects")
    check_fits(
        math.prod(shape),
        f"{name} in {path}, of shape {shape},",
        "store fewer samples",
        itemsize=dtype.itemsize,
        host=True,
    )


_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}

_DEFLATED = 1032
"""Bytes that one byte of a gzip file stands for, at most."""


def _read_idx(folder: Path, stem: str) -> np.ndarray:
    candidates = [
        folder / name
        for name in (
            stem,
            stem + ".gz",
            stem.replace("-idx", ".idx"),
            stem.replace("-idx", ".idx") + ".gz",
        )
    ]
    path = next((c for c in candidates if c.is_file()), None)
    if path is None:
        raise InputError(
            f"no MNIST file {stem} or {stem}.gz in {folder}; put the four IDX files of MNIST there."
        )
    try:
        packed = path.suffix == ".gz"
        with gzip.open(path) if packed else path.open("rb") as file:
            zero, code, ndim = struct.unpack(">HBB", file.read(4))
            shape = struct.unpack(f">{ndim}I", file.read(4 * ndim))
            kind = np.dtype(_IDX_TYPES[code])
            size = math.prod(shape) * kind.itemsize
            most = path.stat().st_size * (_DEFLATED if packed else 1)
            if zero or size > most:
                raise ValueError(
                    f"header announces shape {shape}, the file holds at most {most} bytes"
                )
            check_fits(
                size, f"{path}, of shape {shape},", "use fewer images", itemsize=1, host=True
            )
            raw = file.read(size + 1)  # one more tells a file that goes on behind its array
        if len(raw) != size:
            raise ValueError(
                f"header announces shape {shape}, the file holds {len(raw) // kind.itemsize} values"
            )
        return np.frombuffer(raw, kind).reshape(shape)
    except InputError:
        raise
    except (
        Exception
    ) as error:  # gzip, zlib, struct, KeyError, ValueError: all mean a damaged or foreign file
        raise InputError(f"{path} is not a complete IDX file ({error}); fetch it again.") from error


def load_mnist(
    folder: str | Path,
    n: int,
    *,
    key: Key[Array, ""] | None = None,
    target: str = "parity",
    unit: bool = True,
) -> Dataset:
    """The first n MNIST training images (or n drawn with `key`) from IDX files in `folder`, gzipped
    or not; p = 784."""
    images = _read_idx(Path(folder), "train-images-idx3-ubyte")
    digits = _read_idx(Path(folder), "train-labels-idx1-ubyte")
    if images.shape[0] != digits.shape[0]:
        raise InputError(
            f"{folder} holds {images.shape[0]} images but {digits.shape[0]} labels; "
            "fetch both files again."
        )
    rows = _pick(n, images.shape[0], key, f"MNIST in {folder}")
    numbers = n * math.prod(images.shape[1:])
    check_fits(3 * numbers, f"{n} images of {numbers // n} pixels", "use fewer", host=True)
    X = images[rows].reshape(n, -1) / 255.0
    return Dataset(normalize(X) if unit else X, _targets(digits[rows], target), name=f"mnist{n}")

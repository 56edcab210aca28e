"""Where data come from: digits that ship with the package, random points, MNIST's files, an .npz;
and `open_data`, which commands call."""

from __future__ import annotations

import gzip
import io
import math
import struct
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key

from ..errors import (
    InputError,
    check_choice,
    check_flag,
    check_key,
    check_path,
    check_whole,
)
from ..memory import check_fits, in_short
from ..words import TABLES, data_word, kind_of
from .dataset import Dataset, normalize
from .labels import TARGETS, encode_labels
from .tables import load_table

DIGITS = Path(__file__).with_name("digits.npz")
"""Optical Recognition of Handwritten Digits, by E. Alpaydin and C. Kaynak (1998), UCI Machine
Learning Repository, https://doi.org/10.24432/C50P49, under CC BY 4.0: the 1,797 images of its test
part, 8 x 8 pixels of 0 to 16, unchanged but for the container."""


def _pick(n: int, available: int, key: Key[Array, ""] | None, what: str) -> np.ndarray:
    n = check_whole("n", n, example=min(10, available))
    if n > available:
        raise InputError(
            f"n must lie between 1 and {available} for {what}, got {n}; try n={available}."
        )
    if key is None:
        return np.arange(n)
    return np.asarray(jax.random.permutation(key, available))[:n]


def load_digits(
    n: int, *, key: Key[Array, ""], target: str = "parity", unit: bool = True
) -> Dataset:
    """n of the 1,797 handwritten digits that ship with the package, with targets as in section 2.

    8 x 8 pixels, so p = 64, in the place of the paper's MNIST where no download is wanted.
    Source: Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine
    Learning Repository, https://doi.org/10.24432/C50P49, CC BY 4.0.

    Args:
        n: How many, at most 1,797.
        key: Of the draw.
        target: "parity" (+1 for even, -1 for odd digits), "digit" (0..9 as a number, the published
            experiments), "class" (one-hot, ten columns) or "index" (0..9 as an integer).
        unit: Inputs of norm one; else in [0, 1].

    Returns:
        The data set.

    Raises:
        InputError: If n is out of range, or the target unknown.

    Examples:
        >>> data = nm.load_digits(10, key=jax.random.key(0))
        >>> data.X.shape, sorted(set(data.y.tolist()))
        ((10, 64), [-1.0, 1.0])
    """
    check_key("key", key)
    check_flag("unit", unit)
    with np.load(DIGITS) as archive:
        images, digits = archive["images"], archive["labels"]
    rows = _pick(n, images.shape[0], key, "the digits")
    X = images[rows] / 16.0
    y = _digit_targets(digits[rows], target, 10)
    return Dataset(normalize(X) if unit else X, y, name=f"digits{n}")


def _digit_targets(digits: np.ndarray, target: str, count: int) -> np.ndarray:
    check_choice("target", target, ("parity", "digit", "class", "index"))
    return encode_labels(digits, target, classes=range(count))


def sphere(n: int, p: int, *, key: Key[Array, ""]) -> Dataset:
    """n points uniform on the unit sphere of R^p, with independent targets +1 or -1.

        x_i = g_i / |g_i|,  g_i ~ N(0, I_p)

    so |x_i| = 1, as Theorems 1-3 assume, and no two of them coincide (Fact 2.2).

    Args:
        n: How many points.
        p: Coordinates of each.
        key: Of the draw.

    Returns:
        The data set, X of shape (n, p).

    Raises:
        InputError: If n or p is below 1, or the points do not fit into memory.

    Examples:
        >>> data = nm.sphere(5, 3, key=jax.random.key(0))
        >>> data.X.shape, data.unit
        ((5, 3), True)
    """
    n, p = check_whole("n", n, example=10), check_whole("p", p, example=10)
    check_key("key", key)
    check_fits(
        5 * n * p,
        f"{in_short(n)} points of {in_short(p)} coordinates",
        "draw fewer",
        host=True,
    )
    inputs, labels = jax.random.split(key)
    X = normalize(np.asarray(jax.random.normal(inputs, (n, p))))
    return Dataset(
        X, np.asarray(jax.random.rademacher(labels, (n,)), np.float64), name=f"sphere{n}x{p}"
    )


def load_npz(
    path: str | Path, *, target: str | None = None, on_duplicates: str = "error"
) -> Dataset:
    """A data set of your own from an .npz file, read without pickle, never rescaled.

    The theorems want |x_i| = 1 and no two inputs alike (Fact 2.2): see `normalize`, `Dataset`.

    Args:
        path: The file, with arrays X (n, ...) and y (n,) or (n, k).
        target: What y means, see `encode_labels`; by default numbers stay what they are.
        on_duplicates: What becomes of identical inputs, see `Dataset`.

    Returns:
        The data set.

    Raises:
        InputError: If there is no such file, it is damaged or lacks X or y, or it does not fit into
            memory.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(folder + "/mine.npz", X=[[0.6, 0.8], [1.0, 0.0]], y=[1, -1])
        ...     data = nm.load_npz(folder + "/mine.npz")
        >>> data.name, data.n
        ('mine', 2)
    """
    path = check_path("path", path)
    check_choice("on_duplicates", on_duplicates, ("error", "drop", "allow"))
    if target is not None:
        check_choice("target", target, TARGETS)
    save = "an .npz holding arrays X and y (np.savez(path, X=X, y=y))"
    if kind_of(path) in TABLES:
        raise InputError(
            f"the path must be that of {save}, got the table {path}; try "
            f"nm.load_table({str(path)!r})."
        )
    if path.is_dir():
        raise InputError(
            f"the path must be that of {save}, got the folder {path}; of a folder with MNIST's "
            "files "
            "try nm.load_mnist."
        )
    if not path.is_file():
        raise InputError(
            f"the path must be that of {save}, got {path}, where no file is; make one, or give its "
            "path."
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
            f"the path must be that of an .npz of plain numbers, got {path}, which cannot be read "
            "as "
            "one; save it again with np.savez(path, X=X, y=y)."
        ) from error
    return Dataset(X, encode_labels(y, target), on_duplicates, name=path.stem)


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
            f"the folder must hold {stem} or {stem}.gz of MNIST, got {folder} without them; put "
            "its four IDX files there. Images in other files are read into an array of one image a "
            "row and saved with their labels by np.savez('mine.npz', X=images, y=labels)."
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
    """The first n training images of MNIST, the paper's data (section 5), from its IDX files.

    Or of any data set in that format. For MNIST p = 784. Nothing is downloaded.

    Args:
        folder: Where train-images-idx3-ubyte and train-labels-idx1-ubyte are, gzipped or not.
        n: How many.
        key: Draw them at random instead.
        target: "parity" (+1 for even, -1 for odd labels), "digit" (the label as a number), "class"
            (one-hot, a column for each of the labels 0..9 and beyond where there are more) or
            "index" (the label as an integer).
        unit: Inputs of norm one; else in [0, 1].

    Returns:
        The data set, its images flattened.

    Raises:
        InputError: If files are missing or damaged, n is out of range, the target is unknown, or an
            image is blank.

    Examples:
        >>> import pathlib, struct, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:  # two images of one by two pixels
        ...     images, labels = (pathlib.Path(folder) / f"train-{name}-ubyte"
        ...                       for name in ("images-idx3", "labels-idx1"))
        ...     _ = images.write_bytes(struct.pack(">4I", 2051, 2, 1, 2) + bytes([3, 4, 0, 5]))
        ...     _ = labels.write_bytes(struct.pack(">2I", 2049, 2) + bytes([7, 2]))
        ...     data = nm.load_mnist(folder, 2)
        >>> data.X.shape, data.y.tolist()
        ((2, 2), [-1.0, 1.0])
    """
    folder = check_path("folder", folder)
    check_whole("n", n, example=10)
    check_flag("unit", unit)
    if key is not None:
        check_key("key", key)
    images = _read_idx(folder, "train-images-idx3-ubyte")
    digits = _read_idx(folder, "train-labels-idx1-ubyte")
    if images.ndim < 2 or digits.ndim != 1 or images.shape[0] != digits.shape[0]:
        raise InputError(
            f"{folder} holds images of shape {images.shape} but labels of shape {digits.shape}; "
            "there must be one label per image. Fetch both files again."
        )
    rows = _pick(n, images.shape[0], key, f"MNIST in {folder}")
    numbers = n * math.prod(images.shape[1:])
    check_fits(3 * numbers, f"{n} images of {numbers // n} pixels", "use fewer", host=True)
    X = images[rows].reshape(n, -1) / (255.0 if images.dtype == np.uint8 else 1.0)
    y = _digit_targets(digits[rows], target, max(10, int(digits.max()) + 1))
    return Dataset(normalize(X) if unit else X, y, name=f"mnist{n}")


def open_data(
    text: str,
    n: int | None = None,
    p: int = 20,
    seed: int = 0,
    target: str | None = None,
    on_duplicates: str = "error",
) -> Dataset:
    """The data set that a command's `--data` names.

    Args:
        text: "digits", "sphere", "mnist:FOLDER" (or a folder of MNIST's IDX files), or the path of
            an .npz, .csv, .tsv or .parquet file. What the targets mean may follow after a colon, as
            in "digits:digit", "mnist:FOLDER:class" or "mine.csv:sign" (see `encode_labels`), and
            before it a table's column of labels, as in "mine.csv:species:class".
        n: Samples; of a table or an .npz so many rows at random, at most. None for 50 drawn ones,
            and files whole.
        p: Input size of the sphere.
        seed: Of the draw.
        target: What the targets mean, where `text` does not say it.
        on_duplicates: What becomes of identical inputs of a file, see `Dataset`.

    Returns:
        The data set.

    Raises:
        InputError: If the name is unknown, and where the loaders raise it.
        MissingPackage: If a table is read and the extra `data` is not installed.

    Examples:
        >>> open_data("digits:class", n=5).y.shape
        (5, 10)
    """
    key, drawn = jax.random.key(seed), 50 if n is None else n
    named = data_word(text, target)
    known: dict[str, Any] = {} if named.target is None else {"target": named.target}
    if named.kind == "mnist":
        return load_mnist(named.path, drawn, key=key, **known)
    if named.kind == "digits":
        return load_digits(drawn, key=key, **known)
    if named.kind == "sphere":
        if known:
            raise InputError(
                f"the sphere's targets are +1 and -1 at random, got {named.target!r}; leave it out."
            )
        return sphere(drawn, p, key=key)
    known["on_duplicates"] = on_duplicates
    if named.kind == "table":
        data = load_table(named.path, named.label, **known)
    else:
        data = load_npz(named.path, **known)
    if n is None or n >= data.n:
        return data
    rows = _pick(n, data.n, key, "the file")
    return Dataset(data.X[rows], data.y[rows], "allow", name=data.name)

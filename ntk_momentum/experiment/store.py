"""The results store: one NetCDF file per run, named by what determines it, whole or absent.

A file is written under a temporary name in its folder, flushed to the disk, read back, and renamed; so a reader sees a
whole file or none, also after a crash. A checksum of the contents travels inside; what does not match is not trusted.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, require

_ENGINE = "h5netcdf"


def fingerprint(value: Any) -> str:
    """A short hash of plain values (dataclasses, mappings, sequences, numbers, strings)."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:12]


def canonical(value: Any) -> str:
    """JSON with sorted keys: equal values, equal text."""

    def plain(item: Any) -> Any:
        if dataclasses.is_dataclass(item) and not isinstance(item, type):
            return {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
        if isinstance(item, np.ndarray):
            return item.tolist()
        return item.item() if isinstance(item, np.generic) else str(item)

    return json.dumps(value, sort_keys=True, default=plain, ensure_ascii=False)


def check_folder(path: str | Path) -> Path:
    """Make the folder and try to write into it, before anything is computed. Raises `InputError`."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InputError(f"cannot write into the folder {path} ({error.strerror or error}); choose another one.") from error
    return path


def atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place. Raises `InputError` when the disk refuses."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
        os.close(handle)
        try:
            write(Path(name))
            with open(name, "rb") as file:
                os.fsync(file.fileno())
            os.chmod(name, 0o666 & ~_umask())
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror or error}); free some space or choose another folder.") from error


def write_text(path: Path, text: str) -> None:
    """The same for a text file."""
    atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write(path: Path, dataset: Any, attributes: dict[str, Any]) -> Any:
    """Store an xarray.Dataset with `attributes` added; returns what a reader will get."""
    require("h5netcdf", "storing results")
    dataset = dataset.assign_attrs({key: _attribute(value) for key, value in {**dataset.attrs, **attributes}.items()})
    dataset = dataset.assign_attrs(checksum=checksum(dataset))
    result = None

    def fill(temporary: Path) -> None:
        nonlocal result
        dataset.to_netcdf(temporary, engine=_ENGINE)
        result = read(temporary)

    atomically(path, fill)
    return result


def read(path: str | Path) -> Any:
    """The stored xarray.Dataset, in memory. Raises `InputError` when the file is missing, truncated, foreign or altered."""
    xarray = require("xarray", "reading results")
    require("h5netcdf", "reading results")
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no result file {path}; run the experiment first.")
    try:
        with xarray.open_dataset(path, engine=_ENGINE) as opened:
            dataset = opened.load()
    except Exception as error:  # HDF5 raises OSError, KeyError, RuntimeError and ValueError on damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} is no readable NetCDF file, truncated or foreign ({reason}); remove it and run again.") from error
    stated = dataset.attrs.get("checksum")
    if stated is None:
        raise InputError(f"{path} was not written by ntk-momentum (it has no checksum); remove it and run again.")
    if stated != checksum(dataset):
        raise InputError(f"{path} does not match its checksum, so it was altered or damaged; remove it and run again.")
    return dataset


def checksum(dataset: Any) -> str:
    """A hash of all names, dimensions, values and attributes."""
    digest = hashlib.sha256()
    for name in sorted(dataset.variables, key=str):
        variable = dataset.variables[name]
        values = np.asarray(variable.values)
        if values.dtype.kind in "OUST":
            content = "\0".join(map(str, values.ravel().tolist())).encode()
        else:
            content = np.ascontiguousarray(values).tobytes()
        digest.update(f"{name}|{variable.dims}|{values.shape}|".encode() + content)
    digest.update(canonical({k: v for k, v in dataset.attrs.items() if k != "checksum"}).encode())
    return digest.hexdigest()


def _attribute(value: Any) -> Any:
    """NetCDF attributes are strings and numbers; the rest goes as JSON."""
    if isinstance(value, (str, int, float, np.integer, np.floating)) and not isinstance(value, bool):
        return value
    return canonical(value)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

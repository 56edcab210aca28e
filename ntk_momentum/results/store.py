"""The results store: one NetCDF file per run, named by what determines it, whole or absent.

A file is written under a temporary name in its folder, flushed to the disk, and renamed; so a
reader sees a whole file or none, also after a crash. Checksums travel inside, one for each variable
and one for the rest; what does not match is not trusted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
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
    """Make the folder and try to write into it, before anything is computed. Raises
    `InputError`."""
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file where a folder is needed; choose another name.")
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InputError(
            f"cannot write into the folder {path} ({error.strerror or error}); choose another one."
        ) from error
    return path


def check_file(path: Path, option: str, example: str) -> None:
    """Whether a file can be written that an option names, before anything is computed. Raises
    `InputError`."""
    check_folder(path.parent)
    if path.is_dir():
        raise InputError(f"{path} is a folder; {option} wants a file, e.g. {path / example}.")


def atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place. Raises
    `InputError` when the disk refuses."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix
        )
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
        raise InputError(
            f"cannot write {path} ({error.strerror or error}); free some space or "
            "choose another folder."
        ) from error


def write_text(path: Path, text: str) -> None:
    """The same for a text file."""
    atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def set_aside(path: Path) -> str:
    """Rename a damaged file so that it is neither read nor lost; what was done, in one line."""
    aside = path.with_name(path.name + ".damaged")
    try:
        os.replace(path, aside)
    except OSError as error:
        raise InputError(
            f"{path} is damaged and cannot be moved ({error.strerror or error}); "
            "remove it and run again."
        ) from error
    return (
        f"{path.name} was truncated, altered or foreign; it was set aside as {aside.name} "
        "and is computed again"
    )


def write_dataset(path: Path, dataset: Any, attributes: dict[str, Any]) -> None:
    """Store an xarray.Dataset with `attributes` added."""
    require("h5netcdf", "storing results")
    dataset = dataset.assign_attrs(
        {key: _attribute(value) for key, value in {**dataset.attrs, **attributes}.items()}
    )
    contents = {
        str(name): _describe(variable.dims, variable.values)
        for name, variable in dataset.variables.items()
    }
    dataset = dataset.assign_attrs(contents=canonical(contents))
    dataset = dataset.assign_attrs(checksum=_seal(dataset.attrs))
    encoded = dataset.to_netcdf(
        engine=_ENGINE
    )  # in memory, so that a full disk is an ordinary error
    atomically(path, lambda temporary: temporary.write_bytes(encoded))


def read_dataset(path: str | Path) -> Any:
    """The stored xarray.Dataset, in memory. Raises `InputError` when the file is missing,
    truncated, foreign or altered."""
    xarray = require("xarray", "reading results")
    require("h5netcdf", "reading results")
    path = _existing(path)
    with _damage_reported(path), xarray.open_dataset(path, engine=_ENGINE) as opened:
        dataset = opened.load()
    contents = _checked(path, dataset.attrs)
    if contents != {
        name: _describe(variable.dims, variable.values)
        for name, variable in dataset.variables.items()
    }:
        raise _altered(path)
    return dataset


@dataclasses.dataclass(frozen=True)
class Stored:
    """A result file whose attributes alone are in memory; its variables are read, and checked, one
    at a time."""

    path: Path
    attributes: dict[str, Any]
    contents: dict[str, Any]

    @staticmethod
    def open(path: str | Path) -> Stored:
        """Raises `InputError` when the file is missing, truncated, foreign or altered in its
        attributes."""
        h5py = require("h5py", "reading results")
        path = _existing(path)
        with _damage_reported(path), h5py.File(path, "r", locking=False) as file:
            attributes = {
                key: _scalar(value) for key, value in file.attrs.items() if not key.startswith("_")
            }
        return Stored(path, attributes, _checked(path, attributes))

    def dims(self, name: str) -> tuple[str, ...]:
        """The dimensions of a variable."""
        return tuple(self.contents[name]["dims"])

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a variable."""
        return tuple(self.contents[name]["shape"])

    def read(self, name: str) -> np.ndarray:
        """The values of a variable. Raises `InputError` when they are not those that were
        written."""
        h5py = require("h5py", "reading results")
        with _damage_reported(self.path), h5py.File(self.path, "r", locking=False) as file:
            variable = file[name]
            values = (
                np.asarray(variable.asstr()[...], "U")
                if variable.dtype.kind == "O"
                else variable[...]
            )
        values = values.reshape(self.shape(name)).astype(self.contents[name]["dtype"], copy=False)
        if self.contents[name] != _describe(self.dims(name), values):
            raise _altered(self.path)
        return values

    def check(self) -> Stored:
        """Read everything once. Raises `InputError` on damage."""
        for name in self.contents:
            self.read(name)
        return self


def _existing(path: str | Path) -> Path:
    if not Path(path).is_file():
        raise InputError(f"no result file {path}; run the experiment first.")
    return Path(path)


@contextlib.contextmanager
def _damage_reported(path: Path) -> Iterator[None]:
    try:
        yield
    except (
        Exception
    ) as error:  # HDF5 raises OSError, KeyError, RuntimeError and ValueError on damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{path} is no readable NetCDF file, truncated or foreign ({reason}); "
            "remove it and run again."
        ) from error


def _describe(dims: Sequence[Any], values: np.ndarray) -> dict[str, Any]:
    """What a variable must be when it is read again."""
    values = np.asarray(values)
    if values.dtype.kind in "OUST":
        values = values.astype("U")
        content = "\0".join(values.ravel().tolist()).encode()
    else:
        content = np.ascontiguousarray(values).tobytes()
    kind = "U" if values.dtype.kind == "U" else values.dtype.str
    return {
        "dims": [str(d) for d in dims],
        "shape": list(values.shape),
        "dtype": kind,
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def _seal(attributes: dict[str, Any]) -> str:
    return hashlib.sha256(
        canonical({k: v for k, v in attributes.items() if k != "checksum"}).encode()
    ).hexdigest()


def _checked(path: Path, attributes: dict[str, Any]) -> dict[str, Any]:
    """The table of contents, when the attributes are those that were written."""
    if not {"checksum", "contents"} <= set(attributes):
        raise InputError(
            f"{path} was not written by ntk-momentum (it has no checksum); remove it and run again."
        )
    if attributes["checksum"] != _seal(attributes):
        raise _altered(path)
    return json.loads(attributes["contents"])


def _altered(path: Path) -> InputError:
    return InputError(
        f"{path} does not match its checksum, so it was altered or damaged; remove it "
        "and run again."
    )


def _scalar(value: Any) -> Any:
    """HDF5 keeps numbers as arrays of one."""
    return (
        value.item() if isinstance(value, (np.ndarray, np.generic)) and value.size == 1 else value
    )


def _attribute(value: Any) -> Any:
    """NetCDF attributes are strings and numbers; the rest goes as JSON."""
    if isinstance(value, (str, int, float, np.integer, np.floating)) and not isinstance(
        value, bool
    ):
        return value
    return canonical(value)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

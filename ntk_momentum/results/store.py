"""The results store: one NetCDF file per run, named by what determines it, whole or absent.

The file begins with our mark (`files`), in a user block of 512 bytes that HDF5 skips; the hash in
it is that of the whole file, checked before HDF5 sees the file. h5py, h5netcdf and
xarray.open_dataset(path, engine="h5netcdf") read it as any other.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from .. import files
from ..errors import InputError, require

KIND = "result"
_BLOCK = 512  # bytes of the user block, the least that HDF5 knows
_ENGINE = "h5netcdf"
_NAMED = re.compile(r".+-([0-9a-f]{16})")  # a name that ends in the identity of the content


def fingerprint(value: Any) -> str:
    """A short hash of plain values (dataclasses, mappings, sequences, numbers, strings)."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:16]


def canonical(value: Any) -> str:
    """JSON with sorted keys: equal values, equal text."""

    def plain(item: Any) -> Any:
        if dataclasses.is_dataclass(item) and not isinstance(item, type):
            return {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
        if isinstance(item, np.ndarray):
            return item.tolist()
        return item.item() if isinstance(item, np.generic) else str(item)

    return json.dumps(value, sort_keys=True, default=plain, ensure_ascii=False)


def write_dataset(path: Path, dataset: Any, attributes: dict[str, Any], identity: str = "") -> None:
    """Store an xarray.Dataset with `attributes` added; identity: of what determines it."""
    require("h5netcdf", "storing results")
    given = {**dataset.attrs, **attributes}
    contents = {str(name): _describe(variable) for name, variable in dataset.variables.items()}
    plain = {key: _attribute(value) for key, value in given.items() if key != "checksum"}
    dataset = dataset.assign_attrs({**plain, "contents": canonical(contents)})
    dataset.attrs.pop("checksum", None)
    encoded = dataset.to_netcdf(engine=_ENGINE)  # in memory: a full disk is an ordinary error

    def fill(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.write(f"{files.mark(KIND, identity):<{_BLOCK - 1}}\n".encode())
            file.write(encoded)

    files.atomically(path, fill)


def read_dataset(path: str | Path) -> Any:
    """The stored xarray.Dataset, in memory.

    Raises:
        InputError: the file is missing, not ours, truncated or altered.
    """
    xarray = require("xarray", "reading results")
    require("h5netcdf", "reading results")
    stored = Stored.open(path)
    with stored.path.open("rb") as file:
        file.seek(_BLOCK)
        content = io.BytesIO(file.read())
    stored.check()
    with xarray.open_dataset(content, engine=_ENGINE) as opened:
        return opened.load().assign_attrs(checksum=stored.attributes["checksum"])


@dataclasses.dataclass(frozen=True)
class Stored:
    """A result file that is whole; its attributes are in memory, variables read one at a time."""

    path: Path
    attributes: dict[str, Any]
    contents: dict[str, Any]
    written: tuple[int, ...]

    @staticmethod
    def open(path: str | Path) -> Stored:
        """Raises `InputError` when the file is missing, not ours, truncated or altered."""
        h5py = require("h5py", "reading results")
        path, written = Path(path), _written(path)
        checksum = _verified(path)
        with h5py.File(path, "r", locking=False) as file:
            kept = {k: _scalar(v) for k, v in file.attrs.items() if not k.startswith("_")}
        return Stored(path, {**kept, "checksum": checksum}, json.loads(kept["contents"]), written)

    def dims(self, name: str) -> tuple[str, ...]:
        """The dimensions of a variable."""
        return tuple(self.contents[name]["dims"])

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a variable."""
        return tuple(self.contents[name]["shape"])

    def read(self, name: str) -> np.ndarray:
        """The values of a variable. Raises `InputError` when the file is not as it was written."""
        h5py = require("h5py", "reading results")
        self.check()
        with h5py.File(self.path, "r", locking=False) as file:
            variable = file[name]
            text = variable.dtype.kind == "O"
            values = np.asarray(variable.asstr()[...], "U") if text else variable[...]
        return values.reshape(self.shape(name)).astype(self.contents[name]["dtype"], copy=False)

    def check(self) -> None:
        """Raise `InputError` when the file was changed since it was opened."""
        if _written(self.path) != self.written and _verified(self.path) != self.checksum:
            raise InputError(f"{self.path} was changed while it was read; run again.")

    @property
    def checksum(self) -> str:
        """The hash of the file, in its mark."""
        return str(self.attributes["checksum"])


def _written(path: str | Path) -> tuple[int, ...]:
    """What tells that a file was written again."""
    if not Path(path).is_file():
        raise InputError(f"no result file {path}; run the experiment first.")
    found = os.stat(path)
    return found.st_ino, found.st_size, found.st_mtime_ns


def _verified(path: Path) -> str:
    """The hash of a result file that is whole, before anything parses it."""
    found, named = files.whole(path.resolve(), KIND), _NAMED.fullmatch(path.stem)
    if found is None:
        raise InputError(
            f"{path} is no result of this version of ntk_momentum, or was truncated or altered: "
            "its first line and checksum do not match; move it away and run again."
        )
    if found.identity and named and named[1] != found.identity:
        raise InputError(
            f"{path} holds the result {found.identity} under the name of another; move it away "
            "and run again."
        )
    return found.checksum


def _describe(variable: Any) -> dict[str, Any]:
    """What a variable must be when it is read again."""
    values = np.asarray(variable.values)
    kind = "U" if values.dtype.kind in "OUST" else values.dtype.str
    dims = [str(dim) for dim in variable.dims]
    return {"dims": dims, "shape": list(values.shape), "dtype": kind}


def _scalar(value: Any) -> Any:
    """HDF5 keeps numbers as arrays of one."""
    single = isinstance(value, (np.ndarray, np.generic)) and value.size == 1
    return value.item() if single else value


def _attribute(value: Any) -> Any:
    """NetCDF attributes are strings and numbers; the rest goes as JSON."""
    known = isinstance(value, (str, int, float, np.integer, np.floating))
    return value if known and not isinstance(value, bool) else canonical(value)

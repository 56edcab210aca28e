"""Tables: CSV and Parquet files, read by pandas, and data frames of any kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, check_flag, check_path, described, require, unknown_name
from ..memory import check_fits
from ..words import TABLES, kind_of
from .dataset import NAMED, Dataset, normalize
from .labels import encode_labels, plain


def load_table(
    table: Any,
    label: str | None = None,
    *,
    target: str | None = None,
    features: Sequence[str] | None = None,
    unit: bool = False,
    on_duplicates: str = "error",
) -> Dataset:
    """A data set from a table: a CSV or Parquet file, or a data frame; one row per sample.

    The theorems want |x_i| = 1 and no two inputs alike (Fact 2.2): see `unit`, `on_duplicates`.

    Args:
        table: A path that ends in .csv, .tsv (also .gz) or .parquet, the first line of text files
            being the columns' names; or a frame of pandas, polars or pyarrow, or a mapping from
            names to columns.
        label: The column of targets; the last one by default.
        target: What they mean, see `encode_labels`; by default numbers stay what they are, two
            words become -1 and +1, more words one-hot rows.
        features: The columns of inputs; all others by default.
        unit: Scale the inputs to norm one, see `normalize`.
        on_duplicates: What becomes of identical inputs, see `Dataset`.

    Returns:
        The data set, its inputs floating.

    Raises:
        InputError: If there is no such file, it is unreadable, columns are unknown, inputs hold
            text or lack values (all such columns are named), or labels do not fit the target.
        MissingPackage: If a file is read and the extra `data` is not installed.

    Examples:
        >>> nm.load_table({"x1": [0.6, 1.0], "x2": [0.8, 0.0], "kind": ["a", "b"]}).y.tolist()
        [-1.0, 1.0]
    """
    name = "table"
    check_flag("unit", unit)
    if isinstance(table, str | Path):
        path = check_path("table", table)
        name, table = path.name.partition(".")[0], _read_table(path)
    columns = list(_column_names(table))
    if len(set(columns)) < len(columns) or len(columns) < 2:
        raise InputError(
            f"a table must have two or more columns of different names, got {_named(columns)}; is "
            "it "
            "separated by something else than commas? Try "
            'nm.load_table(pandas.read_csv(path, sep=";")).'
        )
    wanted = [columns[-1] if label is None else _column(label, columns)]
    inputs = [c for c in columns if c != wanted[0]]
    if features is not None:
        if isinstance(features, str) or not isinstance(features, Iterable) or not [*features]:
            raise InputError(
                f"features must be a list of columns, got {described(features)}; try "
                f"features={inputs[:NAMED]!r}."
            )
        inputs = [_column(feature, columns) for feature in features]
    arrays, faults = [], []
    for column in inputs:
        try:
            values = plain(f"column {column!r}", table[column])
            if values.dtype.kind == "U":
                raise InputError(f"column {column!r} holds text such as {str(values[0])!r}.")
            arrays.append(values.astype(np.float64))
        except InputError as error:
            faults.append(str(error).rstrip("."))
    if faults:
        raise InputError(
            f"inputs must be finite numbers: {'; '.join(faults[:NAMED])}. In pandas, "
            "table.dropna() leaves out rows with gaps, table.drop(columns=[...]) columns, and "
            "pandas.get_dummies(table, columns=[...]) makes 0 and 1 of words; pass the frame to "
            "nm.load_table, or save it by to_csv(path, index=False)."
        )
    X = np.column_stack(arrays)
    y = encode_labels(plain(f"column {wanted[0]!r}", table[wanted[0]]), target)
    return Dataset(normalize(X) if unit else X, y, on_duplicates, name=name)


def _read_table(path: Path) -> Any:
    kind = kind_of(path)
    if kind == ".npz":
        raise InputError(
            f"a table must be read, got {path}, which is none; try nm.load_npz({str(path)!r})."
        )
    if kind not in TABLES:
        raise InputError(
            f"a table's file must end in {', '.join(TABLES)}, got {path}; rename it, or save it as "
            "one of these."
        )
    if not path.is_file():
        raise InputError(
            f"a table must be a file or a data frame, got {path}, where no file is; give its path."
        )
    pandas = require("pandas", "reading tables")
    if kind in (".parquet", ".pq"):
        require("pyarrow", "reading Parquet files")
    else:  # a number takes two characters or more; pandas and the inputs keep it once each
        check_fits(path.stat().st_size, f"the numbers in {path}", "use fewer samples", host=True)
    try:
        if kind in (".parquet", ".pq"):
            return pandas.read_parquet(path)
        table = pandas.read_csv(path, sep="\t" if kind == ".tsv" else ",")
    except Exception as error:  # parser, encoding, OS, zlib and arrow errors: not such a file
        raise InputError(f"{path} is not a readable table ({error}).") from error
    names = [str(column) for column in table.columns]
    if names[0].startswith("Unnamed:"):
        raise InputError(
            f"the first column of {path} has no name, as where a frame was saved with its row "
            "numbers; save it without (to_csv(path, index=False)), or name it."
        )
    if names[:-1] != [str(i) for i in range(len(names) - 1)] and all(map(_number, names[:-1])):
        raise InputError(
            f"the first line of {path} holds numbers where columns should be named; write names "
            "above it, or try nm.load_table(pandas.read_csv(path, header=None))."
        )
    return table


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _column_names(table: Any) -> Any:
    if isinstance(table, Mapping):
        return table.keys()
    names = getattr(table, "column_names", getattr(table, "columns", None))
    if names is None or not hasattr(table, "__getitem__"):
        raise InputError(
            "a table must be a path, a data frame or a mapping from names to columns, got "
            f"{described(table)}; for arrays try nm.Dataset(X, y)."
        )
    return names


def _column(name: Any, columns: list[Any]) -> Any:
    found = [c for c in columns if c == name or str(c) == name]
    if not found:
        raise unknown_name("column", str(name), [str(c) for c in columns])
    return found[0]


def _named(columns: list[Any]) -> str:
    return ", ".join(repr(c) for c in columns[:NAMED]) + ", ..." * (len(columns) > NAMED)

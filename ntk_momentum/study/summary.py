"""The commands `table`, `plot` and `export`: any results folder, of sweeps or of experiments, on
the screen or in other formats."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import files
from ..errors import InputError, require
from ..results import store
from .registry import Experiment, experiments
from .sweep_figure import Look, differing, draw_sweep, places_in


@dataclasses.dataclass(frozen=True)
class Kept:
    """A stored result of an experiment; experiment is None when there is no such experiment any
    more."""

    path: Path
    attributes: dict[str, Any]
    experiment: Experiment | None


def stored_experiments(folder: Path) -> tuple[list[Kept], list[str]]:
    """The results of experiments below a folder, the newest of each name and size, and why some
    could not be read."""
    files.check_results(folder)
    known, damaged = experiments(), []
    newest: dict[Any, Kept] = {}
    for path in files.below(folder, "*-*.nc"):
        if path.name.startswith(("unit-", ".")):
            continue
        try:
            attributes = store.Stored.open(path).attributes
        except InputError as error:
            damaged.append(str(error))
            continue
        name = str(attributes.get("experiment", path.stem))
        place = name, attributes.get("size")
        if place not in newest or str(newest[place].attributes.get("created")) <= str(
            attributes.get("created")
        ):
            newest[place] = Kept(path, attributes, known.get(name))
    return sorted(
        newest.values(),
        key=lambda kept: (kept.experiment.order if kept.experiment else 10**6, kept.path.name),
    ), damaged


def has_units(folder: Path) -> bool:
    """Whether a folder holds units of sweeps that can be read."""
    for path in files.below(folder, "unit-*.nc"):
        with contextlib.suppress(InputError):
            store.Stored.open(path)
            return True
    return False


def _found(folder: Path) -> tuple[list[Kept], bool]:
    """(results of experiments, whether there are sweeps), with a warning for what cannot be read;
    beside sweeps that can be, `open_results` warns of the others."""
    from ..results.reading import damaged

    kept, unread = stored_experiments(folder)
    sweeps = has_units(folder)
    for line in unread if sweeps else [*unread, *damaged(folder)]:
        warnings.warn(f"left out: {line}", RuntimeWarning, stacklevel=3)
    return kept, sweeps


def rows_in(folder: Path, names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """What is in the folder: experiments by their headlines, sweeps by the median over seeds at the
    last time. Raises `InputError` where there is nothing."""
    kept, sweeps = _found(folder)
    found: list[dict[str, Any]] = []
    for one in kept:
        headline = _headline(one)
        about = {"experiment": one.path.name.rsplit("-", 1)[0]} | {
            key: one.attributes.get(key, "") for key in ("size", "seconds")
        }
        found += [
            {**about, "quantity": key, "value": _short(value)} for key, value in headline.items()
        ] or [about]
    told = {"experiments": found, "sweeps": summary(folder, names) if sweeps else []}
    if not any(told.values()):
        raise InputError(
            f"{folder} holds no results; make some with ntk-momentum sweep or "
            f"reproduce, and --out {folder}."
        )
    return told


def table(found: Mapping[str, list[dict[str, Any]]], form: str = "text") -> list[str]:
    """Lines of `rows_in`, a table for each kind. form: a key of `FORMS_OF_ROWS`."""
    lines: list[str] = []
    for part in filter(None, found.values()):
        lines += [""] * bool(lines) + FORMS_OF_ROWS[form](part)
    return lines


class OverSeeds(NamedTuple):
    """A read-out over seeds: "0.98 (0.78 to 1.2)" in print, by names in JSON."""

    median: float
    lowest: float
    highest: float

    def __str__(self) -> str:
        return f"{self.median:.4g} ({self.lowest:.4g} to {self.highest:.4g})"


def summary(folder: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """One row for each data set, flow and width of a folder's sweeps: runs, failures, steps, and
    read-outs at the last time."""
    from ..results.reading import check_readouts, open_results

    dataset = open_results(folder)
    check_readouts(names, dataset)
    there, failed = dataset.verdict.notnull(), dataset.verdict > 0
    values = {name: dataset[name].isel(step=-1).load() for name in names}
    rows = []
    for place in places_in(dataset, ("flow", "width")):
        pick = functools.partial(_pick, place)
        if not pick(there).any():
            continue
        good = pick(there) & ~pick(failed)
        row: dict[str, Any] = {
            dim: dataset[dim].values[at] for dim, at in place.items() if dim in dataset.coords
        }
        row |= (
            {name: dataset[name].values[place["variant"]] for name in differing(dataset)}
            if "variant" in place
            else {}
        )
        row |= {"runs": int(pick(there).sum()), "failed": int(pick(failed).sum())}
        row["steps"] = round(np.median(pick(dataset.accepted)[good])) if good.any() else ""
        for name, array in values.items():
            found = pick(array)[good]
            ends = (np.median(found), found.min(), found.max()) if good.any() else ()
            row[name] = OverSeeds(*map(float, ends)) if ends else ""
        rows.append(row)
    return rows


def plot(folder: Path, names: Sequence[str], to: Path | None, look: Look) -> list[Path]:
    """Draw what is in the folder: the figures of experiments again, and one figure for each
    read-out of its sweeps."""
    from ..results.reading import check_readouts, open_results
    from .outcome import draw

    matplotlib = require("matplotlib", "drawing figures")
    matplotlib.use("agg")
    kept, sweeps = _found(folder)
    made: list[Path] = []
    for one in kept if to is None else ():
        if one.experiment is not None:
            made += list(
                draw(
                    one.experiment, one.experiment.load(), store.read_dataset(one.path), folder
                ).values()
            )
    if sweeps:
        dataset = open_results(folder)
        check_readouts(names, dataset)
        paths = {name: to or folder / "figures" / f"sweep-{name}.svg" for name in names}
        for path in paths.values():
            files.check_figure(path)
        for name, path in paths.items():
            files.write_figure(path, draw_sweep(dataset, name, look))
            made.append(path)
    if not made:
        raise InputError(
            f"{folder} holds nothing to plot; make results with ntk-momentum sweep or "
            f"reproduce, and --out {folder}."
        )
    return made


def export(folder: Path, to: Path) -> int:
    """Write a folder's sweeps as one parquet file, a row for each run and saved time; how many
    rows.

    Read-outs per sample become lists. One flow on one data set is in memory at a time.
    """
    from ..results.reading import open_results

    if to.suffix != ".parquet":
        raise InputError(
            f"the format is parquet, so the file's name must end in .parquet, got {to}."
        )
    dataset = open_results(folder)
    arrow, parquet = (
        require(module, "writing parquet") for module in ("pyarrow", "pyarrow.parquet")
    )
    files.check_file(to, "table", "--to", "sweeps.parquet")
    rows = 0

    def fill(temporary: Path) -> None:
        nonlocal rows
        writer = None
        for place in places_in(dataset, ("flow",)):
            frame = _frame(dataset.isel(place))
            if len(frame):
                schema = writer.schema if writer else None
                cell = arrow.Table.from_pandas(frame, schema=schema, preserve_index=False)
                writer = writer or parquet.ParquetWriter(temporary, cell.schema)
                writer.write_table(cell)
                rows += len(frame)
        if writer:
            writer.add_key_value_metadata({"made_by": files.mark("table")})
            writer.close()

    files.atomically(to, fill)
    return rows


def _frame(part: Any) -> Any:
    """One flow on one data set as a pandas table, without the places where there is no run."""
    order = ("width", "seed", "step")
    plain = [name for name, variable in part.data_vars.items() if set(variable.dims) <= set(order)]
    frame = part[plain].to_dataframe(dim_order=order).reset_index()
    for name in part.data_vars:
        if name not in plain:
            frame[name] = list(part[name].transpose(*order, ...).values.reshape(len(frame), -1))
    return frame[frame["verdict"].notna() & frame["time"].notna()]


def _pick(place: dict[str, int], array: Any) -> np.ndarray:
    return array.isel(place).values


def _headline(kept: Kept) -> dict[str, Any]:
    """What an experiment's result is remembered by; empty when the experiment is gone, or cannot
    read its older result."""
    if kept.experiment is None:
        return {}
    module = kept.experiment.load()
    try:
        return (
            dict(module.headline(store.read_dataset(kept.path)))
            if hasattr(module, "headline")
            else {}
        )
    except (KeyError, AttributeError, ValueError, InputError) as error:
        return {"no headline": f"{type(error).__name__}: {error}"}


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (float, np.floating)) else str(value)


def _aligned(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Rows as lines of columns; text to the left, numbers to the right."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_short(row.get(name, "")) for name in names] for row in rows]
    widths = [max(len(line[i]) for line in [names, *cells]) for i in range(len(names))]
    right = [
        all(isinstance(row.get(name, 0), (int, float, np.number)) for row in rows) for name in names
    ]
    pad = lambda text, width, number: text.rjust(width) if number else text.ljust(width)
    return ["  ".join(map(pad, line, widths, right)).rstrip() for line in [names, *cells]]


def _columns(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """(names, cells) of rows that may lack some of the names."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return names, [[_short(row.get(name, "")) for name in names] for row in rows]


def _markdown(rows: Sequence[dict[str, Any]]) -> list[str]:
    names, cells = _columns(rows)
    bar = lambda line: "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |"
    return [bar(names), "|" + "---|" * len(names), *map(bar, cells)]


def _latex(rows: Sequence[dict[str, Any]]) -> list[str]:
    names, cells = _columns(rows)
    special = re.compile(r"[&%$#_{}]")
    plain = lambda text: special.sub(lambda match: "\\" + match[0], text).replace("±", "$\\pm$")
    line = lambda parts: " & ".join(map(plain, parts)) + r" \\"
    head = [rf"\begin{{tabular}}{{{'l' * len(names)}}}", r"\toprule", line(names), r"\midrule"]
    return [*head, *map(line, cells), r"\bottomrule", r"\end{tabular}"]


def _csv(rows: Sequence[dict[str, Any]]) -> list[str]:
    # a number a column: loss, loss_lowest and loss_highest
    of = lambda name, value: (
        {name: value.median, f"{name}_lowest": value.lowest, f"{name}_highest": value.highest}
        if isinstance(value, OverSeeds)
        else {name: value}
    )
    rows = [{k: v for pair in row.items() for k, v in of(*pair).items()} for row in rows]
    names, _ = _columns(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().splitlines()


FORMS_OF_ROWS: dict[str, Callable[[Sequence[dict[str, Any]]], list[str]]] = {
    "text": _aligned,
    "markdown": _markdown,
    "latex": _latex,
    "csv": _csv,
}
"""How rows become lines."""

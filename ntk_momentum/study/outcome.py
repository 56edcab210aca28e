"""Running one experiment: from its file to a stored data set, a figure and a few numbers, skipping
what is done.

What determines a result is hashed into its file's name and mark: its configuration, the code of
`run` and of all that it imports, versions, device, dtype. A figure's mark has the hash of the data
and of the code that draws it. So what is stored is either current or not looked at, and a second
run computes nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from .. import files
from ..errors import InputError, MissingPackage, check_choice, check_path, no_type_check, require
from ..progress import OnProgress, check_progress
from ..results import store
from ..results.provenance import identity_of, provenance
from . import plotting
from .registry import Experiment, Size, find


@dataclasses.dataclass
class Outcome:
    """What became of an experiment. "kept": found finished; "failed": `message` says why and
    `trace` where."""

    experiment: Experiment
    size: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    status: Literal["computed", "kept", "failed", "absent"] = "absent"
    seconds: float = 0.0
    data: Path | None = None
    figures: dict[str, Path] = dataclasses.field(default_factory=dict)
    caption: str = ""
    headline: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    message: str = ""
    trace: str = ""
    error: Exception | None = None

    @property
    def dataset(self) -> Any:
        """What was computed, an xarray.Dataset; None where there is none."""
        return None if self.data is None else store.read_dataset(self.data)

    def record(self) -> dict[str, Any]:
        """In plain values, for a file or a program that reads them."""
        names = ("size", "status", "seconds", "data", "figures", "headline", "message")
        return {"experiment": self.experiment.name} | {name: getattr(self, name) for name in names}


class Keeper:
    """The callback of an experiment's `run`, progress(done, total); `keep` stores a piece of its
    work, so that a run that was stopped goes on from there."""

    def __init__(self, progress: OnProgress | None, folder: Path, identity: str):
        self._progress, self._folder, self._identity = progress, folder, identity

    def __call__(self, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(done, total)

    def keep(self, name: str, compute: Callable[[], Any]) -> np.ndarray:
        """The numbers that `compute` returns, or those that a run before this one kept under this
        name."""
        path = self._folder / f"{store.fingerprint(name)}.json"
        if files.current(path, "piece", self._identity):
            return np.asarray(json.loads(path.read_text(encoding="utf-8"))["values"])
        values = np.asarray(compute())
        files.check_folder(self._folder)
        files.set_aside(path, "piece", self._identity)
        record = {"name": name, "values": values.tolist()}
        files.write_json(path, "piece", record, self._identity)
        return values

    def clear(self) -> None:
        """Remove the pieces of a run that is whole."""
        for path in self._folder.glob("*.json"):
            if files.current(path, "piece", self._identity):
                path.unlink()
        with contextlib.suppress(OSError):
            self._folder.rmdir()


def recall(experiment: Experiment, size: str, out: Path) -> Outcome:
    """The stored outcome of an experiment, computing nothing; status "absent" when there is
    none."""
    return _outcome(Outcome(experiment, size), out, None, compute=False)


@no_type_check
def run_experiment(
    name: str,
    size: str = "default",
    *,
    out: str | Path = "results",
    progress: OnProgress | bool = True,
    **options: Any,
) -> Outcome:
    """Run one of the experiments with parameters of your choice, unless its result is stored, and
    draw its figure.

        Config of experiments/NAME.py at this size, with the options in place of its fields

    As `ntk-momentum run NAME --option value` does.

    Args:
        name: Of the experiment, such as "three_flows".
        size: What is not chosen is of this size: "smoke", "default" or "full".
        out: Results folder. A run that was stopped goes on from there.
        progress: Called as progress(done, total); True for a bar, False for silence.
        **options: Fields of the experiment's `Config`.

    Returns:
        The outcome: `dataset` (an xarray.Dataset), `headline`, `figures` (paths by format).

    Raises:
        InputError: On an unknown experiment, size or option.

    Examples:
        >>> try:
        ...     nm.run_experiment("three_flows", neurons=100)
        ... except nm.InputError as error:
        ...     print(str(error).partition(".")[0])
        unknown option of three_flows 'neurons'
    """
    experiment = find((name,))[0]
    check_choice("size", size, get_args(Size))
    experiment.check_options(options)
    out = check_path("out", out)
    files.check_folder(out)
    check_places(experiment, out)
    done = complete(experiment, size, Path(out), check_progress(progress, name), options)
    if done.error is not None:
        raise done.error
    return done


def complete(
    experiment: Experiment,
    size: str,
    out: Path,
    progress: OnProgress | None = None,
    options: Mapping[str, Any] | None = None,
) -> Outcome:
    """Compute an experiment unless its result is stored, and draw its figure unless it is drawn.

    Anything that goes wrong inside becomes the outcome "failed"; only a missing package is raised,
    and `files.Refused` where a file that is not ours is in the place of a result or a figure.
    """
    return _outcome(Outcome(experiment, size, options or {}), out, progress, compute=True)


def _outcome(outcome: Outcome, out: Path, progress: OnProgress | None, compute: bool) -> Outcome:
    experiment = outcome.experiment
    start = time.perf_counter()
    try:
        module = experiment.load()
        dataset = _data(outcome, module, out, progress, compute)
        if dataset is not None:
            outcome.caption = " ".join(str(getattr(module, "CAPTION", "")).split())
            outcome.headline = module.headline(dataset) if hasattr(module, "headline") else {}
            outcome.figures = draw(experiment, module, dataset, out)
    except (MissingPackage, files.Refused):
        raise
    except Exception as error:  # one failed experiment must not stop the others
        outcome.status = "failed"
        asked = isinstance(error, InputError)  # its sentence says what to try: no trace
        outcome.message = str(error) if asked else f"{type(error).__name__}: {error}"
        outcome.trace = "" if asked else traceback.format_exc()
        outcome.error = error
    outcome.seconds = time.perf_counter() - start
    return outcome


def _data(
    outcome: Outcome, module: Any, out: Path, progress: OnProgress | None, compute: bool
) -> Any | None:
    experiment, size = outcome.experiment, outcome.size
    config = experiment.config(module, size, outcome.options)
    key = identity_of(experiment.code("run", "SIZES"), {"config": config})
    path = out / "data" / f"{experiment.name}-{key}.nc"
    files.check_target(path, store.KIND)
    dataset = None
    if files.current(path, store.KIND, key):
        dataset = store.read_dataset(path)
        outcome.status = "kept"
    elif compute:
        if note := files.set_aside(path, store.KIND, key):
            outcome.message = f"{note} and was computed again."
        begin = time.perf_counter()
        pieces = Keeper(progress, path.with_suffix(".pieces"), key)
        result = module.run(config, pieces)
        record = {
            "experiment": experiment.name,
            "title": experiment.title,
            "size": ", ".join([size, *(f"{k} = {v}" for k, v in outcome.options.items())]),
            "variant": store.fingerprint(outcome.options)[:6] if outcome.options else "",
            "config": store.canonical(config),
            **provenance(getattr(config, "precision", None)),
            "seconds": round(time.perf_counter() - begin, 3),
        }
        store.write_dataset(path, result, record, key)
        pieces.clear()
        dataset = store.read_dataset(path)
        outcome.status = "computed"
    if dataset is not None:
        outcome.data, outcome.attributes = path, dict(dataset.attrs)
    return dataset


def check_places(experiment: Experiment, out: Path) -> None:
    """Whether an experiment's results and figures can be written, before anything is computed.

    Raises:
        InputError: a folder cannot be written, or what stands there is not ours.
    """
    files.check_folder(out / "data")
    for path in _figures(experiment.name, out).values():
        files.check_file(path, "figure")


def _figures(name: str, out: Path) -> dict[str, Path]:
    ends = {"svg": ".svg", "pdf": ".pdf", "narrow": "-narrow.svg", "column": "-narrow.pdf"}
    return {kind: out / "figures" / f"{name}{end}" for kind, end in ends.items()}


def draw(experiment: Experiment, module: Any, dataset: Any, out: Path) -> dict[str, Path]:
    """figures/NAME.svg and .pdf, and NAME-narrow with its panels one below the other, for narrow
    screens and for a column of a paper; NAME-VARIANT where parameters were chosen. Drawn again only
    when data or drawing code changed."""
    variant = dataset.attrs.get("variant", "")
    paths = _figures(f"{experiment.name}-{variant}" if variant else experiment.name, out)
    for path in paths.values():
        files.check_target(path, "figure")
    matplotlib = require("matplotlib", "drawing figures")
    by = {"data": dataset.attrs["checksum"], "matplotlib": matplotlib.__version__}
    by |= plotting.chosen()
    key = identity_of(experiment.code("plot"), by, computed=False)
    if all(files.current(path, "figure", key) for path in paths.values()):
        return paths
    with matplotlib.rc_context({"svg.hashsalt": experiment.name}):
        figure = module.plot(dataset)
        svg = {"Date": None, "Creator": None, "Title": experiment.title}
        pdf = {"CreationDate": None, "Title": experiment.title}
        files.write_figure(paths["svg"], figure, key, metadata=svg)
        files.write_figure(paths["pdf"], figure, key, metadata=pdf)
        with plotting.stacked():
            figure = module.plot(dataset)
            files.write_figure(paths["narrow"], figure, key, metadata=svg)
            files.write_figure(paths["column"], figure, key, metadata=pdf)
    require("matplotlib.pyplot", "drawing figures").close("all")
    return paths

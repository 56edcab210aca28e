"""Running one experiment: from its file to a stored data set, a figure and a few numbers, skipping
what is done.

What determines a result is hashed into its file's name and mark: its configuration, the code of
`run` and of all that it imports, versions, device, dtype. A figure's mark has the hash of the data
and of the code that draws it. So what is stored is either current or not looked at, and a second
run computes nothing.
"""

from __future__ import annotations

import dataclasses
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from .. import files
from ..errors import MissingPackage, require
from ..results import store
from ..results.provenance import identity_of, provenance
from .registry import Experiment

OnProgress = Callable[[int, int], None]


@dataclasses.dataclass
class Outcome:
    """What became of an experiment. "kept": found finished; "failed": `message` says why and
    `trace` where."""

    experiment: Experiment
    size: str
    status: Literal["computed", "kept", "failed", "absent"] = "absent"
    seconds: float = 0.0
    data: Path | None = None
    figures: dict[str, Path] = dataclasses.field(default_factory=dict)
    caption: str = ""
    headline: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    message: str = ""
    trace: str = ""


def recall(experiment: Experiment, size: str, out: Path) -> Outcome:
    """The stored outcome of an experiment, computing nothing; status "absent" when there is
    none."""
    return _outcome(experiment, size, out, None, compute=False)


def run_experiment(
    experiment: Experiment, size: str, out: Path, progress: OnProgress | None = None
) -> Outcome:
    """Compute an experiment unless its result is stored, and draw its figure unless it is drawn.

    Anything that goes wrong inside becomes the outcome "failed"; only a missing package is raised,
    and `files.Refused` where a file that is not ours is in the place of a result or a figure.
    """
    return _outcome(experiment, size, out, progress, compute=True)


def _outcome(
    experiment: Experiment, size: str, out: Path, progress: OnProgress | None, compute: bool
) -> Outcome:
    outcome = Outcome(experiment, size)
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
        outcome.message = f"{type(error).__name__}: {error}"
        outcome.trace = traceback.format_exc()
    outcome.seconds = time.perf_counter() - start
    return outcome


def _data(
    outcome: Outcome, module: Any, out: Path, progress: OnProgress | None, compute: bool
) -> Any | None:
    experiment, size = outcome.experiment, outcome.size
    config = experiment.config(module, size)
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
        result = module.run(config, progress or (lambda done, total: None))
        record = {
            "experiment": experiment.name,
            "title": experiment.title,
            "size": size,
            "config": store.canonical(config),
            **provenance(getattr(config, "precision", None)),
            "seconds": round(time.perf_counter() - begin, 3),
        }
        store.write_dataset(path, result, record, key)
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
    for path in _figures(experiment, out).values():
        files.check_file(path, "figure")


def _figures(experiment: Experiment, out: Path) -> dict[str, Path]:
    return {kind: out / "figures" / f"{experiment.name}.{kind}" for kind in ("svg", "pdf")}


def draw(experiment: Experiment, module: Any, dataset: Any, out: Path) -> dict[str, Path]:
    """figures/NAME.svg and .pdf, drawn again only when data or drawing code changed."""
    paths = _figures(experiment, out)
    for path in paths.values():
        files.check_target(path, "figure")
    matplotlib = require("matplotlib", "drawing figures")
    by = {"data": dataset.attrs["checksum"], "matplotlib": matplotlib.__version__}
    key = identity_of(experiment.code("plot"), by, computed=False)
    if all(files.current(path, "figure", key) for path in paths.values()):
        return paths
    with matplotlib.rc_context({"svg.hashsalt": experiment.name}):
        figure = module.plot(dataset)
        svg = {"Date": None, "Creator": None, "Title": experiment.title}
        pdf = {"CreationDate": None, "Title": experiment.title}
        files.write_figure(paths["svg"], figure, key, metadata=svg)
        files.write_figure(paths["pdf"], figure, key, metadata=pdf)
    require("matplotlib.pyplot", "drawing figures").close(figure)
    return paths

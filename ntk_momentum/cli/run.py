"""`ntk-momentum run`: one experiment with its figure, with parameters of one's choice."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from .. import files
from ..study.registry import Experiment, Size, experiments, find
from .options import Shared, command, helped
from .start import start


@command
class RunOne:
    """Run one experiment and draw its figure.

    Every parameter of an experiment is an option: `ntk-momentum run NAME --help` lists them.

    Example: ntk-momentum run three_flows --n 100 --widths 256 4096 --data mnist:FOLDER
    """

    name: tyro.conf.Positional[str]
    """Name of the experiment (see `ntk-momentum list`)."""
    size: Size = "default"
    """Of what is not given otherwise."""
    out: Path = Path("results")
    """A run that was stopped goes on from there."""

    own = ""  # the experiment that is named
    given = tuple[str, ...]()  # names of the experiment's own options that were given

    def __call__(self, shared: Shared) -> int:
        options = {name: getattr(self, name) for name in self.given}
        return run_one(self.name, self.size, self.out, shared, options)


def with_options(arguments: Sequence[str]) -> type:
    """`RunOne` with the options of the experiment that is named, if one is. Raises `InputError` on
    a name that is none."""
    rest = list(arguments)[arguments.index("run") + 1 :]
    known = experiments()
    name = next((word for word in rest if word in known), None)
    if name is None:
        if rest and not rest[0].startswith("-"):
            find((rest[0],))
        return RunOne
    options = known[name].options()
    fields = [
        (
            option,
            Annotated[found.kind, tyro.conf.arg(help=helped(option, found.help) or None)],
            dataclasses.field(default=found.usual),
        )
        for option, found in options.items()
    ]
    # an experiment may be called like an option of its own: batch_sizes
    given = (word.partition("=")[0] for word in rest if word.startswith("-"))
    words = {word.lstrip("-").replace("-", "_") for word in given}
    example = f"Example: ntk-momentum run {name} --size smoke"
    doc = f"{known[name].title}.\n\nDefaults are those of --size default.\n\n{example}"
    space = {
        "__doc__": doc,
        "own": name,
        "given": tuple(option for option in options if option in words),
    }
    return dataclasses.make_dataclass(
        "RunOne", fields, bases=(RunOne,), namespace=space, frozen=True
    )


def run_one(
    name: str, size: str, out: Path, shared: Shared, options: Mapping[str, Any] | None = None
) -> int:
    """One experiment with its figure. options: fields of its configuration."""
    experiment: Experiment = find((name,))[0]
    from ..progress import LOG, Bar
    from ..study.outcome import check_places, complete

    files.check_folder(out)
    check_places(experiment, out)
    start(shared, figures=True, brief=size != "full", small=size == "smoke")
    with Bar(1) as bar:
        outcome = complete(experiment, size, out, bar.piece(name), options)
        bar.finish_piece()
    if outcome.message:
        (LOG.error if outcome.status == "failed" else LOG.info)("%s", outcome.message)
    if outcome.trace:
        LOG.error("%s", outcome.trace)
    paths = [path for path in (outcome.data, *outcome.figures.values()) if path is not None]
    lines = [*(f"{quantity}: {value}" for quantity, value in outcome.headline.items())]
    shared.show(outcome.record(), "\n".join([*lines, *map(str, paths)]))
    return int(outcome.status == "failed")

"""`ntk-momentum run`: one experiment with its figure."""

from __future__ import annotations

import sys
from pathlib import Path

import tyro

from .. import files
from ..study.registry import Experiment, Size, find
from .options import command
from .start import start


@command
class RunOne:
    """Run one experiment and draw its figure.

    Example: ntk-momentum run concentration --size smoke
    """

    name: tyro.conf.Positional[str]
    """Name of the experiment (see `ntk-momentum list`)."""
    size: Size = "default"
    """smoke, default or full."""
    out: Path = Path("results")
    """Results folder."""

    def __call__(self, float32: bool) -> int:
        return run_one(self.name, self.size, self.out, float32)


def run_one(name: str, size: str, out: Path, float32: bool) -> int:
    """One experiment with its figure."""
    experiment: Experiment = find((name,))[0]
    from ..progress import Bar
    from ..study.outcome import check_places, run_experiment

    files.check_folder(out)
    check_places(experiment, out)
    start(float32, figures=True, brief=size != "full")
    with Bar(1) as bar:
        outcome = run_experiment(experiment, size, out, bar.piece(name))
        bar.finish_piece()
    if outcome.message:
        print(f"{outcome.status}: {outcome.message}", file=sys.stderr)
    print(outcome.trace, end="", file=sys.stderr)
    for quantity, value in outcome.headline.items():
        print(f"{quantity}: {value}")
    for path in (outcome.data, *outcome.figures.values()):
        if path is not None:
            print(path)
    return int(outcome.status == "failed")

"""`ntk-momentum plot`: what a results folder holds, drawn."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import tyro

from .. import files
from ..errors import InputError
from .options import Shared, command


@command
class Plot:
    """Draw what a results folder holds.

    Experiments' figures again, and for every read-out asked for a figure of the sweeps: a panel for
    each flow and data set, a line with a band over seeds for each width.

    Example: ntk-momentum plot results --readouts loss --overlay --style paper --to loss.pdf
    """

    folder: tyro.conf.Positional[Path]
    """Of `sweep`, `run` or `reproduce`."""
    readouts: tuple[str, ...] = ("loss",)
    """Of sweeps, a figure each."""
    to: Path | None = None
    """One read-out's figure, .svg, .pdf or .png (default: FOLDER/figures/sweep-READOUT.svg, and the
    experiments' figures)."""
    middle: Literal["median", "mean"] = "median"
    """The line through the seeds."""
    band: Literal["range", "quartiles", "interval", "none"] = "range"
    """What is shaded about it: from the smallest to the largest seed, the middle half of them, or
    the 95 % interval of the mean (Student's, with --middle mean)."""
    overlay: bool = False
    """All flows that share a unit of time in one panel, a colour each."""
    inches: tuple[float, float] | None = None
    """Width and height of the figure (default: 7.4 and what the panels need)."""
    style: str | None = None
    """On top of the house style: paper, talk, or a style of matplotlib by name or file."""
    title: str | None = None
    """Above the figure."""

    @files.hashed_once()
    def __call__(self, shared: Shared) -> int:
        files.check_results(self.folder)
        from ..results.reading import damaged
        from ..study.summary import plot
        from ..study.sweep_figure import Look

        if self.to is not None and len(self.readouts) > 1:
            raise InputError(
                f"--to names one file, but {len(self.readouts)} read-outs are asked "
                "for; leave out --to."
            )
        names = [field.name for field in dataclasses.fields(Look)]
        look = Look(**{name: getattr(self, name) for name in names})
        paths = plot(self.folder, self.readouts, self.to, look)
        shared.show({"figures": paths}, "\n".join(map(str, paths)))
        return 1 if damaged(self.folder) else 0

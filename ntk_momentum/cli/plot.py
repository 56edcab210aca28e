"""`ntk-momentum plot`: what a results folder holds, drawn."""

from __future__ import annotations

from pathlib import Path

import tyro

from .. import files
from ..errors import InputError
from .options import command


@command
class Plot:
    """Draw what a results folder holds.

    Experiments' figures again, and for every read-out asked for a figure of the sweeps: a panel for
    each flow and data set, a band over seeds for each width.

    Example: ntk-momentum plot results --readouts loss kernel_drift
    """

    folder: tyro.conf.Positional[Path]
    """Results folder, of `sweep`, `run` or `reproduce`."""
    readouts: tuple[str, ...] = ("loss",)
    """Read-outs of sweeps to draw, a figure each."""
    to: Path | None = None
    """File of one read-out's figure, .svg, .pdf or .png (default: FOLDER/figures/sweep-READOUT.svg,
    and the experiments' figures)."""

    @files.hashed_once()
    def __call__(self, float32: bool) -> int:
        files.check_results(self.folder)
        from ..results.reading import damaged
        from ..study.summary import plot

        if self.to is not None and len(self.readouts) > 1:
            raise InputError(
                f"--to names one file, but {len(self.readouts)} read-outs are asked "
                "for; leave out --to."
            )
        for path in plot(self.folder, self.readouts, self.to):
            print(path)
        return 1 if damaged(self.folder) else 0

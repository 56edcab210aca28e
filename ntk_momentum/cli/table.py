"""`ntk-momentum table`: what a results folder holds, in print."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import tyro

from .. import files
from .options import Shared, command


@command
class Table:
    """Print what a results folder holds.

    Experiments by their headlines; sweeps by data set, flow and width: how many runs and failures,
    the median of the solver's steps, and read-outs at the last time, as median over seeds with the
    range.

    Example: ntk-momentum table results --readouts loss lambda_min
    """

    folder: tyro.conf.Positional[Path]
    """Of `sweep`, `run` or `reproduce`."""
    readouts: tuple[str, ...] = ("loss",)
    """Of sweeps."""
    format: Literal["text", "markdown", "latex", "csv"] = "text"
    """Aligned columns, a Markdown or LaTeX (booktabs) table, or CSV."""

    @files.hashed_once()
    def __call__(self, shared: Shared) -> int:
        files.check_results(self.folder)
        from ..results.reading import damaged
        from ..study.summary import rows_in, table

        found = rows_in(self.folder, self.readouts)
        shared.show(found, lambda: "\n".join(table(found, self.format)))
        return 1 if damaged(self.folder) else 0

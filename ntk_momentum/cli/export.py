"""`ntk-momentum export`: the sweeps of a results folder in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import tyro

from .. import files
from .options import command


@command
class Export:
    """Write the sweeps of a results folder in another format.

    One row for each run and saved time, with data set, flow, hyperparameters, width and seed;
    read-outs per sample become lists. Needs the extra `data`.

    Example: ntk-momentum export results --to runs.parquet
    """

    folder: tyro.conf.Positional[Path]
    """Results folder of `sweep`."""
    format: Literal["parquet"] = "parquet"
    """parquet, which pandas, polars, DuckDB and Spark read."""
    to: Path | None = None
    """File to write (default: FOLDER/sweeps.parquet)."""

    @files.hashed_once()
    def __call__(self, float32: bool) -> int:
        files.check_results(self.folder)
        from ..results.reading import damaged
        from ..study.summary import export

        path = self.to or self.folder / f"sweeps.{self.format}"
        print(f"{path}: {export(self.folder, path)} rows")
        return 1 if damaged(self.folder) else 0

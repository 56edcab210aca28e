"""`ntk-momentum export`: the sweeps of a results folder in another format."""

from __future__ import annotations

from pathlib import Path

import tyro

from .. import files
from .options import Shared, command


@command
class Export:
    """Write the sweeps of a results folder in another format.

    One row for each run and saved time, with data set, flow, hyperparameters, width and seed;
    read-outs per sample become lists. Needs the extra `data`.

    Example: ntk-momentum export results --to runs.parquet
    """

    folder: tyro.conf.Positional[Path]
    """Of `sweep`."""
    to: Path | None = None
    """In the format parquet, which pandas, polars, DuckDB and Spark read (default:
    FOLDER/sweeps.parquet)."""

    @files.hashed_once()
    def __call__(self, shared: Shared) -> int:
        files.check_results(self.folder)
        from ..results.reading import damaged
        from ..study.summary import export

        path = self.to or self.folder / "sweeps.parquet"
        rows = export(self.folder, path)
        shared.show({"file": path, "rows": rows}, f"{path}: {rows} rows")
        return 1 if damaged(self.folder) else 0

"""`ntk-momentum status`: how far a sweep is."""

from __future__ import annotations

from pathlib import Path

import tyro

from .. import files
from .options import Shared, command


@command
class Status:
    """Say how far the sweeps of a results folder are.

    Units done and being computed now, failed runs, and the work that is left: also while the sweep
    runs, from any machine that sees the folder. Exit code 1 while units are missing or runs failed.

    Example: ntk-momentum status results
    """

    folder: tyro.conf.Positional[Path]
    """Of `sweep`."""

    @files.hashed_once()
    def __call__(self, shared: Shared) -> int:
        files.check_results(self.folder)
        from ..results.status import standing

        found = standing(self.folder)
        shared.show({"sweeps": found}, "\n".join(map(str, found)))
        return int(any(one.done < one.units or one.failed for one in found))

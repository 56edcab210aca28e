"""claims.json of a results folder, with its figures beside it: made again only when something that
decides it has changed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

from .. import files


def check_ledger(path: Path) -> None:
    """Raise `InputError` when the file of claims or one of its figures cannot be written there."""
    from ..ledger import ledger

    files.check_file(path, "claims", "--to", "claims.json")
    if os.path.lexists(ledger.figures_folder(path)):
        files.check_folder(ledger.figures_folder(path))
    for id in ledger.entries():
        files.check_target(ledger.figures_folder(path) / f"{id}.svg", "figure")


def write_ledger(
    path: Path, claims: Any, identity: str = "", size: str = "smoke", seed: int = 0
) -> None:
    """The file of claims, and its figures in the folder beside it."""
    from ..ledger import ledger
    from .claim_figures import write_figures

    write_figures(ledger.figures_folder(path), claims)
    ledger.write_claims(path, claims, identity, about(size, seed))


def about(size: str, seed: int) -> dict[str, Any]:
    """What claims.json says of its run: version, commit, size, seed, dtype, JAX and its
    packages."""
    import dataclasses

    from ..ledger.claims.setting import EFFORTS
    from ..results.provenance import provenance

    known = provenance()
    names = ("ntk_momentum", "git_commit", "git_dirty", "versions", "device")
    return {name: known[name] for name in names} | {
        "dtype": "float64",
        "seed": seed,
        "size": size,
        "sizes": dataclasses.asdict(EFFORTS[size]),
    }


class Claims:
    """claims.json of a results folder, run again only when what determines it has changed."""

    def __init__(self, out: Path, size: str):
        self.path = out / "claims.json"
        self.size: Literal["smoke", "full"] = "full" if size == "full" else "smoke"

    def identity(self) -> str:
        """Of all that determines the claims' verdicts."""
        from ..results.provenance import identity_of
        from ..results.sources import code_of

        return identity_of(code_of("ledger.claims"), {"size": self.size})

    def run(self, progress: Any) -> str:
        """Make claims.json current; "computed" or "kept"."""
        if self.records() is not None:
            return "kept"
        from ..ledger import ledger

        verified = ledger.verify(
            size=self.size, progress=lambda id, done, total: progress(done, total)
        )
        write_ledger(self.path, verified, self.identity(), self.size)
        return "computed"

    def records(self) -> list[dict[str, Any]] | None:
        """The records, or None when there are none that are current, with all their figures."""
        if not files.current(self.path, "claims", self.identity()):
            return None
        records = json.loads(self.path.read_text(encoding="utf-8"))["claims"]
        figures = [self.path.parent / one["figure"] for one in records if one["figure"]]
        return records if all(files.whole(path, "figure") for path in figures) else None

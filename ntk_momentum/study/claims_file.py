"""claims.json of a results folder, with its figures beside it: made again only when something that
decides it has changed."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Literal

from .. import files


def check_ledger(path: Path) -> None:
    """Raise `InputError` when the file of claims or one of its figures cannot be written there."""
    from ..ledger import ledger

    files.check_file(path, "claims", "--json", "claims.json")
    if os.path.lexists(ledger.figures_folder(path)):
        files.check_folder(ledger.figures_folder(path))
    for id in ledger.entries():
        files.check_target(ledger.figures_folder(path) / f"{id}.svg", "figure")


def write_ledger(path: Path, claims: Any) -> None:
    """The file of claims, and its figures in the folder beside it."""
    from ..ledger import ledger
    from .claim_figures import write_figures

    write_figures(ledger.figures_folder(path), claims)
    ledger.write_claims(path, claims)


class Claims:
    """claims.json of a results folder, run again only when the code or the size changed or the file
    was touched."""

    def __init__(self, out: Path, size: str):
        self.path = out / "claims.json"
        self.stamp = out / "data" / "claims.stamp.json"
        self.size: Literal["smoke", "full"] = "full" if size == "full" else "smoke"

    def identity(self) -> dict[str, str]:
        """What the file must have been made from to be current."""
        from ..results.provenance import source_digest

        digest = hashlib.sha256(self.path.read_bytes()).hexdigest() if self.path.exists() else ""
        return {"package": source_digest(), "size": self.size, "content": digest}

    def check(self) -> None:
        """Raise `InputError` when one of the files cannot be written."""
        check_ledger(self.path)
        files.check_target(self.stamp, "stamp")

    def current(self) -> bool:
        """Whether claims.json can be kept."""
        try:
            kept = json.loads(self.stamp.read_text(encoding="utf-8"))["of"]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return self.path.exists() and kept == self.identity()

    def run(self, progress: Any) -> str:
        """Make claims.json current; "computed" or "kept"."""
        if self.current():
            return "kept"
        from ..ledger import ledger

        write_ledger(
            self.path,
            ledger.verify(size=self.size, progress=lambda id, done, total: progress(done, total)),
        )
        files.write_json(self.stamp, "stamp", {"of": self.identity()})
        return "computed"

    def records(self) -> list[dict[str, Any]] | None:
        """The records, or None when there are none that are current."""
        if not self.current():
            return None
        return json.loads(self.path.read_text(encoding="utf-8"))["claims"]

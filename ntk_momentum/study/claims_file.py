"""claims.json of a results folder, with its figures beside it: made again only when something that
decides it has changed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal


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

    def current(self) -> bool:
        """Whether claims.json can be kept."""
        try:
            return (
                self.path.exists()
                and json.loads(self.stamp.read_text(encoding="utf-8")) == self.identity()
            )
        except (OSError, ValueError):
            return False

    def run(self, progress: Any) -> str:
        """Make claims.json current; "computed" or "kept"."""
        if self.current():
            return "kept"
        from ..ledger import ledger
        from ..results.store import write_text

        write_ledger(
            self.path,
            ledger.verify(size=self.size, progress=lambda id, done, total: progress(done, total)),
        )
        write_text(self.stamp, json.dumps(self.identity(), indent=1) + "\n")
        return "computed"

    def records(self) -> list[dict[str, Any]] | None:
        """The records, or None when there are none that are current."""
        return json.loads(self.path.read_text(encoding="utf-8")) if self.current() else None

"""`ntk-momentum verify`: the claims ledger as a table of verdicts, and in full in a file."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .. import files
from ..errors import InputError
from ..words import claim_ids, data_word
from .options import Shared, command
from .start import start

if TYPE_CHECKING:
    from ..results.grid import Source


@command
class Verify:
    """Run the claims ledger: every numbered statement of the paper, as printed, corrected and
    sharp.

    Exit code 1 when a corrected or sharp statement is refuted.

    Example: ntk-momentum verify --claims lemma-6 thm-2 --data mine.npz --to claims.json
    """

    to: Path | None = None
    """The full record, and beside it the figures and a page (.html) that shows everything."""
    claims: tuple[str, ...] = ()
    """Or the paper's own "(B.1)" "Theorem 3" (default: all)."""
    size: Literal["smoke", "full"] = "smoke"
    """How many instances are tried, here."""
    data: str | None = None
    """Unit inputs and scalar targets for the claims about data and networks: as for `sweep`
    (default: digits and sphere)."""
    n: int | None = None
    """Default: 50, and files of arrays and tables whole."""
    seed: int = 0

    def __call__(self, shared: Shared) -> int:
        from ..results.grid import Source

        if self.n is not None and self.n < 1:
            raise InputError(f"--n must be at least 1, got {self.n}.")
        claim_ids(self.claims)
        if self.data is not None:
            data_word(self.data)
        return run_claims(
            self.claims,
            self.size,
            self.to,
            shared,
            None if self.data is None else Source(self.data, self.n),
            self.seed,
        )


def run_claims(
    claims: tuple[str, ...],
    size: Literal["smoke", "full"],
    path: Path | None,
    shared: Shared,
    source: Source | None = None,
    seed: int = 0,
) -> int:
    """The ledger as a table of verdicts on stdout, and in full in a file; on the data named, or on
    its own."""
    from ..progress import LOG, Bar
    from ..study.claims_file import check_ledger, write_ledger

    if path is not None:
        check_ledger(path)
        page = path.with_suffix(".html")
        if page == path:
            raise InputError(f"--to wants a file of JSON, got {path}; try {path.stem}.json.")
        files.check_file(page, "report")
    start(shared, brief=True)
    from ..ledger import ledger

    data = None if source is None else source.load()
    with Bar(1) as bar:
        progress = bar.piece("claims")
        verified = ledger.verify(
            claims or None,
            size=size,
            data=data,
            progress=lambda id, done, total: progress(done, total),
            seed=seed,
        )
        bar.finish_piece()
    records = [
        claim.to_json("" if path is None else ledger.figures_folder(path).name)
        for claim in verified
    ]
    if path is not None:
        from ..study.report import write_report

        write_ledger(path, verified, size=size, seed=seed)
        write_report(path.parent, size, [], records, "", ledger.refuted(records), page.name)
    refuted = ledger.refuted(records)
    shared.show(
        {"classes": ledger.by_class(records), "refuted": refuted, "claims": records},
        lambda: verdicts_text(records, bool(claims)),
    )
    if refuted:
        LOG.error("refuted in corrected or sharp form: %s", ", ".join(refuted))
    return int(bool(refuted))


def verdicts_text(records: list[dict[str, Any]], evidence: bool) -> str:
    """The table of verdicts, with the evidence for each if asked."""
    from ..ledger import ledger
    from ..study.notation import shown

    width = max(len(record["id"]) for record in records)
    head = f"{'printed':10}{'corrected':12}{'sharp':10}  {'class':11}  holds for"
    lines = [f"{'':{width}}  {head}"]
    for record in records:
        forms = [in_a_word(record[form]) for form in ("printed", "corrected", "sharp")]
        lines.append(
            f"{record['id']:{width}}  {forms[0]:10}{forms[1]:12}{forms[2]:10}  "
            f"{record['class']:11}  {record['hypothesis']}"
        )
    lines.append(classes_text(records))
    known = ledger.entries()
    for record in records if evidence else ():
        run = inspect.unwrap(known[record["id"]].run)
        where = f"{run.__module__}.{run.__qualname__}, line {inspect.getsourcelines(run)[1]}"
        told = f"{evidence_text(record)}  why: {shown(record['note'])}\n  code: {where}"
        lines.append(told)
    return "\n".join(lines)


def classes_text(records: list[dict[str, Any]]) -> str:
    """The headline: how many statements of each class, shared evidence counted once."""
    from ..ledger.ledger import by_class

    counts = by_class(records)
    shared = len(records) - sum(counts.values())
    words = ", ".join(f"{name} {count}" for name, count in counts.items())
    return f"classes: {words}" + (f" (and {shared} that share evidence)" if shared else "")


def in_a_word(form: dict[str, Any] | None) -> str:
    """A form of a claim in one word."""
    if form is None:
        return "-"
    return {True: "holds", False: "refuted", None: "undecided"}[form["ok"]]


def evidence_text(record: dict[str, Any]) -> str:
    """What was stated, on which instance, and what was measured, as indented text."""
    from ..study.notation import shown

    lines = ["", f"{record['id']} ({record['class']}; holds for: {record['hypothesis']})"]
    if record["theorem"]:
        lines.append(f"  in docs/theorems.md: {record['theorem']}")
    if record["shares"]:
        lines.append(f"  judged by the evidence of {record['shares']}, which counts once")
    for form in ("printed", "corrected", "sharp"):
        if record[form] is not None:
            lines += [
                f"  {form} ({in_a_word(record[form])}): {shown(record[form]['statement'])}",
                f"    on {shown(record[form]['instance'])}"
                + (" (a derivation)" if record[form]["basis"] == "derivation" else ""),
            ]
            lines += [
                f"    {name}: {json.dumps(value, ensure_ascii=False)}"
                for name, value in record[form]["measured"].items()
            ]
            lines += [
                f"    {name}: {shown(str(record[form][name]))}"
                for name in ("tolerance", "reason")
                if record[form].get(name) is not None
            ]
    return "\n".join([*lines, ""])

"""`ntk-momentum reproduce`: experiments, figures, claims and report.

Each piece is skipped when it is finished, and one failure does not stop the rest.
"""

from __future__ import annotations

import time
from pathlib import Path

from .. import files
from ..errors import MissingPackage, require
from ..study.registry import Size, due, find
from .options import Shared, command
from .start import start

LEDGER = "claims"


@command
class Reproduce:
    """Run every experiment, draw its figure, run the claims ledger, and write one report.

    Leaves report.html, claims.json, figures/ and data/ in the results folder; what is finished
    there is not done again.

    Example: ntk-momentum reproduce --size smoke --out results
    """

    size: Size = "default"
    """smoke: a minute, to see that it works. default: minutes, the figures of the report. full: as
    large as the paper's."""
    out: Path = Path("results")
    only: tuple[str, ...] = ()
    """Names of experiments (see `ntk-momentum list`), or "claims" for the ledger. Without it:
    everything, but below full size not the longer experiments (ORDER 100 and more, e.g.
    published_nesterov_epochs), which run when they are named."""

    def __call__(self, shared: Shared) -> int:
        return reproduce(self.size, self.out, self.only, shared)


def reproduce(size: str, out: Path, only: tuple[str, ...], shared: Shared) -> int:
    """Experiments, figures, claims and report into `out`; returns the exit code."""
    named = tuple(name for name in only if name != LEDGER)
    asked = {e.name for e in due(named, size)} if named or not only else set()
    from ..ledger.ledger import refuted as refuted_claims
    from ..progress import LOG, Bar
    from ..study.claims_file import Claims, check_ledger
    from ..study.outcome import check_places, complete, recall
    from ..study.report import write_report

    for package, purpose in (
        ("xarray", "storing results"),
        ("h5netcdf", "storing results"),
        ("jinja2", "the report"),
    ):
        require(package, purpose)
    everything = find()
    ledger = not only or LEDGER in only
    outcomes, claims, problem = [], Claims(out, size), ""
    files.check_file(out / "report.html", "report")
    for experiment in everything:
        check_places(experiment, out)
    if ledger:
        check_ledger(claims.path)
    start(shared, figures=True, brief=size != "full", small=size == "smoke")
    begin = time.perf_counter()
    with Bar(len(asked) + ledger) as bar:
        for experiment in everything:
            if experiment.name not in asked:
                outcomes.append(recall(experiment, size, out))
                continue
            outcome = complete(experiment, size, out, bar.piece(experiment.name))
            outcomes.append(outcome)
            bar.finish_piece()
            said = f"{outcome.status} ({outcome.seconds:.1f} s)"
            said += f". {outcome.message}" if outcome.message else ""
            (LOG.error if outcome.status == "failed" else LOG.info)("%s: %s", experiment.name, said)
        if ledger:
            begun = time.perf_counter()
            try:
                status = claims.run(bar.piece(LEDGER))
            except (MissingPackage, files.Refused):
                raise
            except Exception as error:  # the report is written whatever happens
                status, problem = "failed", f"{type(error).__name__}: {error}"
                LOG.exception("%s", problem)
            bar.finish_piece()
            LOG.info("%s: %s (%.1f s)", LEDGER, status, time.perf_counter() - begun)
    records = claims.records()
    refuted = refuted_claims(records or [])
    report = write_report(out, size, outcomes, records, problem, refuted)
    failed = [o.experiment.name for o in outcomes if o.status == "failed"]
    for outcome in outcomes:
        if outcome.trace:
            LOG.error("%s", outcome.trace)
    if refuted:
        LOG.error("refuted claims: %s", ", ".join(refuted))
    seconds = time.perf_counter() - begin
    record = {
        "report": report,
        "seconds": seconds,
        "experiments": [outcome.record() for outcome in outcomes],
        "refuted": refuted,
        "problem": problem or None,
    }
    shared.show(record, f"{report} ({seconds:.0f} s)")
    return int(bool(failed or problem or (ledger and refuted)))

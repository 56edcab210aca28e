"""`ntk-momentum reproduce`: experiments, figures, claims and report.

Each piece is skipped when it is finished, and one failure does not stop the rest.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from .. import files
from ..errors import MissingPackage, check_whole, require
from ..study.registry import Experiment, Size, due, find
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
    jobs: int | None = None
    """Processes that do pieces side by side. Without it: on CPUs one a core, at most 4; else 1."""

    def __call__(self, shared: Shared) -> int:
        return reproduce(self.size, self.out, self.only, self.jobs, shared)


def reproduce(size: str, out: Path, only: tuple[str, ...], jobs: int | None, shared: Shared) -> int:
    """Experiments, figures, claims and report into `out`; returns the exit code."""
    if jobs is not None:
        check_whole("--jobs", jobs)
    named = tuple(name for name in only if name != LEDGER)
    asked = {e.name for e in due(named, size)} if named or not only else set()
    from ..ledger.ledger import refuted as refuted_claims
    from ..progress import LOG, Bar
    from ..study.claims_file import Claims, check_ledger
    from ..study.outcome import check_places, recall
    from ..study.report import write_report
    from ..study.side_by_side import processes, side_by_side

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
    plain = Shared(**{field.name: getattr(shared, field.name) for field in fields(Shared)})
    begun = functools.partial(
        start, plain, figures=True, brief=size != "full", small=size == "smoke"
    )
    begun()
    begin = time.perf_counter()
    # the longest piece first, so that no process waits for it in the end
    pieces: dict[str, Callable[[Any], Any]] = {}
    if ledger:
        pieces[LEDGER] = functools.partial(_claims, out, size)
    for experiment in everything:
        if experiment.name in asked:
            pieces[experiment.name] = functools.partial(_experiment, experiment, size, out)
    jobs = jobs or processes(len(pieces))
    done = {}
    with Bar(len(pieces)) as bar:
        for name, found in side_by_side(pieces, jobs, bar, begun):
            done[name] = found
            said = f"{found['status']} ({found['seconds']:.1f} s)"
            said += f". {found['message']}" if found["message"] else ""
            (LOG.error if found["status"] == "failed" else LOG.info)("%s: %s", name, said)
    for experiment in everything:
        outcomes.append(recall(experiment, size, out))
        for name, value in done.get(experiment.name, {}).items():
            setattr(outcomes[-1], name, value)
    if LEDGER in done and done[LEDGER]["status"] == "failed":
        problem = done[LEDGER]["message"]
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


def _experiment(experiment: Experiment, size: str, out: Path, progress: Any) -> dict[str, Any]:
    """What is said of an experiment, once it is stored and drawn."""
    from ..study.outcome import complete

    outcome = complete(experiment, size, out, progress)
    return {name: getattr(outcome, name) for name in ("status", "seconds", "message", "trace")}


def _claims(out: Path, size: str, progress: Any) -> dict[str, Any]:
    """The same of the claims."""
    from ..progress import LOG
    from ..study.claims_file import Claims

    begin, message = time.perf_counter(), ""
    try:
        status = Claims(out, size).run(progress)
    except (MissingPackage, files.Refused):
        raise
    except Exception as error:  # the report is written whatever happens
        status, message = "failed", f"{type(error).__name__}: {error}"
        LOG.exception("%s", message)
    return {"status": status, "seconds": time.perf_counter() - begin, "message": message}

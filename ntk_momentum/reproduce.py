"""What the commands do: everything in order, each piece skipped when it is finished, one failure not stopping the rest."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .errors import InputError, MissingPackage, require
from .study.registry import Experiment, due, find

if TYPE_CHECKING:
    from .results.sweep import Grid, Source

LEDGER = "claims"


def start(float32: bool, figures: bool = False, brief: bool = False) -> None:
    """Choose the dtype before any array is made: the command line's default is float64. Figures are drawn without a display.

    brief: on CPUs, compile without XLA's fusion emitters where JAX still has that choice. Compiling takes half the time, running 5% more.
    """
    jax = require("jax", "this command")
    jax.config.update("jax_enable_x64", not float32)
    flags, emitters = os.environ.get("XLA_FLAGS", ""), "--xla_cpu_use_fusion_emitters"
    if brief and jax.__version_info__[:2] == (0, 10) and emitters not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {emitters}=false"  # read when the first device is asked for
    if figures:
        require("matplotlib", "drawing figures").use("agg")
    try:
        jax.devices()
    except RuntimeError as error:
        raise InputError(f"JAX finds no device to compute on ({error}); check JAX_PLATFORMS, or set JAX_PLATFORMS=cpu.") from error


def reproduce(size: str, out: Path, only: tuple[str, ...], float32: bool) -> int:
    """Experiments, figures, claims and report into `out`; returns the exit code."""
    from .ledger.ledger import refuted as refuted_claims
    from .progress import Bar
    from .results.store import check_folder
    from .study.outcome import recall, run
    from .study.report import write_report

    for package, purpose in (("xarray", "storing results"), ("h5netcdf", "storing results"), ("jinja2", "the report")):
        require(package, purpose)
    asked = {e.name for e in due(tuple(name for name in only if name != LEDGER), size)} if set(only) != {LEDGER} else set()
    check_folder(out)
    start(float32, figures=True, brief=size != "full")
    begin = time.perf_counter()
    everything = find()
    ledger = not only or LEDGER in only
    outcomes, claims, problem = [], Claims(out, size), ""
    with Bar(len(asked) + ledger) as bar:
        for experiment in everything:
            if experiment.name not in asked:
                outcomes.append(recall(experiment, size, out))
                continue
            outcome = run(experiment, size, out, bar.piece(experiment.name))
            outcomes.append(outcome)
            bar.finish_piece()
            bar.say(f"{experiment.name}: {outcome.status} ({outcome.seconds:.1f} s){'. ' + outcome.message if outcome.message else ''}")
        if ledger:
            begun = time.perf_counter()
            try:
                status = claims.run(bar.piece(LEDGER))
            except MissingPackage:
                raise
            except Exception as error:  # the report is written whatever happens
                status, problem = "failed", f"{type(error).__name__}: {error}"
                print(traceback.format_exc(), file=sys.stderr)
            bar.finish_piece()
            bar.say(f"{LEDGER}: {status} ({time.perf_counter() - begun:.1f} s){'. ' + problem if problem else ''}")
    records = claims.records()
    refuted = refuted_claims(records or [])
    report = write_report(out, size, outcomes, records, problem, refuted)
    failed = [o.experiment.name for o in outcomes if o.status == "failed"]
    for outcome in outcomes:
        print(outcome.trace, end="", file=sys.stderr)
    if refuted:
        print(f"refuted claims: {', '.join(refuted)}", file=sys.stderr)
    print(f"{report} ({time.perf_counter() - begin:.0f} s)")
    return int(bool(failed or problem or (ledger and refuted)))


def run_one(name: str, size: str, out: Path, float32: bool) -> int:
    """One experiment with its figure."""
    from .progress import Bar
    from .results.store import check_folder
    from .study.outcome import run

    experiment: Experiment = find((name,))[0]
    check_folder(out)
    start(float32, figures=True, brief=size != "full")
    with Bar(1) as bar:
        outcome = run(experiment, size, out, bar.piece(name))
        bar.finish_piece()
    if outcome.message:
        print(f"{outcome.status}: {outcome.message}", file=sys.stderr)
    print(outcome.trace, end="", file=sys.stderr)
    for quantity, value in outcome.headline.items():
        print(f"{quantity}: {value}")
    for path in (outcome.data, *outcome.figures.values()):
        if path is not None:
            print(path)
    return int(outcome.status == "failed")


def verify(claims: tuple[str, ...], size: Literal["smoke", "full"], path: Path | None, float32: bool, source: Source | None = None) -> int:
    """The ledger as a table of verdicts on stdout, and in full in a file; on the data named, or on its own."""
    from .progress import Bar
    from .results.store import check_file

    if path is not None:
        check_file(path, "--json", "claims.json")
    start(float32, brief=True)
    from .ledger import ledger

    data = None if source is None else source.load()
    with Bar(1) as bar:
        progress = bar.piece(LEDGER)
        verified = ledger.verify(claims or None, size=size, data=data, progress=lambda id, done, total: progress(done, total))
        bar.finish_piece()
    records = [claim.to_json("" if path is None else ledger.figures_folder(path).name) for claim in verified]
    if path is not None:
        from .study.report import write_report

        write_ledger(path, verified)
        write_report(path.parent, size, [], records, "", ledger.refuted(records), path.with_suffix(".html").name)
    width = max(len(record["id"]) for record in records)
    print(f"{'':{width}}  {'printed':10}{'corrected':10}  sharp")
    for record in records:
        forms = [verdict(record[form]) for form in ("printed", "corrected", "sharp")]
        print(f"{record['id']:{width}}  {forms[0]:10}{forms[1]:10}  {forms[2]}")
    if claims:
        known = ledger.entries()
        for record in records:
            run = inspect.unwrap(known[record["id"]].run)
            line = inspect.getsourcelines(run)[1]
            print(evidence(record), f"  why: {record['note']}\n  code: {run.__module__}.{run.__qualname__}, line {line}", sep="")
    refuted = ledger.refuted(records)
    if refuted:
        print(f"refuted in corrected or sharp form: {', '.join(refuted)}", file=sys.stderr)
    return int(bool(refuted))


def sweep(grid: Grid, out: Path, float32: bool, float64: bool, job: tuple[str | None, int | None, int | None] | None = None) -> int:
    """The sweep's units, stored one by one; exit code 1 when a run failed or a unit could not be done.

    float64: also on an accelerator, where float32 is the default. job: (coordinator, number of processes, this one's number) of a
    job of several processes that divides the units.
    """
    from .results import sweep as sweeps
    from .results.store import check_folder

    for package in ("xarray", "h5netcdf", "h5py"):
        require(package, "storing results")
    check_folder(out)
    process = (0, 1)
    if float32 and float64:
        raise InputError("--float32 and --float64 exclude each other.")
    if job is not None:
        from .ensembles.devices import initialize

        process = initialize(*job)
    start(float32)
    jax = require("jax", "this command")
    if jax.default_backend() != "cpu" and not float64:
        jax.config.update("jax_enable_x64", False)
    begin = time.perf_counter()
    swept = sweeps.run(grid, out, process)
    for line in swept.failures:
        print(f"failed run: {line}", file=sys.stderr)
    for title, reason in swept.done.broken.items():
        print(f"failed unit: {title}: {reason}", file=sys.stderr)
    if swept.missing:
        print(f"{swept.missing} units are not in {out}: their processes failed, or store elsewhere", file=sys.stderr)
    if process[0] == 0:
        counts = {"computed": len(swept.done.computed), "kept": len(swept.done.kept), "by other processes": len(swept.done.elsewhere)}
        if process[1] > 1:
            counts = {f"by process 0 of {process[1]}": len(swept.done.computed) + len(swept.done.kept)}
        told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        failed = f"{len(swept.failures)} failed" if swept.failures else "none failed"
        print(f"{out}: {swept.units} units ({told or 'none done'}), {swept.runs} runs, {failed} ({time.perf_counter() - begin:.1f} s)")
    return int(not swept.ok)


def verdict(form: dict[str, Any] | None) -> str:
    """A form of a claim in one word."""
    if form is None:
        return "-"
    return {True: "holds", False: "refuted", None: "undecided"}[form["ok"]]


def evidence(record: dict[str, Any]) -> str:
    """What was stated, on which instance, and what was measured, as indented text."""
    lines = ["", record["id"]]
    for form in ("printed", "corrected", "sharp"):
        if record[form] is not None:
            lines += [f"  {form} ({verdict(record[form])}): {record[form]['statement']}", f"    on {record[form]['instance']}"]
            lines += [f"    {name}: {json.dumps(value, ensure_ascii=False)}" for name, value in record[form]["measured"].items()]
            lines += [f"    {name}: {record[form][name]}" for name in ("tolerance", "reason") if record[form].get(name) is not None]
    return "\n".join([*lines, ""])


def write_ledger(path: Path, claims: Any) -> None:
    """The file of claims, and its figures in the folder beside it."""
    from .ledger import ledger
    from .study.claim_figures import write_figures

    write_figures(ledger.figures_folder(path), claims)
    ledger.write_claims(path, claims)


class Claims:
    """claims.json of a results folder, run again only when the code or the size changed or the file was touched."""

    def __init__(self, out: Path, size: str):
        self.path = out / "claims.json"
        self.stamp = out / "data" / "claims.stamp.json"
        self.size: Literal["smoke", "full"] = "full" if size == "full" else "smoke"

    def identity(self) -> dict[str, str]:
        """What the file must have been made from to be current."""
        from .results.provenance import source_digest

        digest = hashlib.sha256(self.path.read_bytes()).hexdigest() if self.path.exists() else ""
        return {"package": source_digest(), "size": self.size, "content": digest}

    def current(self) -> bool:
        """Whether claims.json can be kept."""
        try:
            return self.path.exists() and json.loads(self.stamp.read_text(encoding="utf-8")) == self.identity()
        except (OSError, ValueError):
            return False

    def run(self, progress: Any) -> str:
        """Make claims.json current; "computed" or "kept"."""
        if self.current():
            return "kept"
        from .ledger import ledger
        from .results.store import write_text

        write_ledger(self.path, ledger.verify(size=self.size, progress=lambda id, done, total: progress(done, total)))
        write_text(self.stamp, json.dumps(self.identity(), indent=1) + "\n")
        return "computed"

    def records(self) -> list[dict[str, Any]] | None:
        """The records, or None when there are none that are current."""
        return json.loads(self.path.read_text(encoding="utf-8")) if self.current() else None

"""How far the sweeps of a folder are, from what lies there: computed nowhere, and without jax."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .. import files
from ..errors import InputError
from . import store, work


@dataclasses.dataclass(frozen=True)
class Standing:
    """How far a sweep is on one data set.

    code: of the user's model and optimizers, by name and hash, once a unit is done. units: planned;
    done: there and whole; held: of the others, those that a process of this machine or file system
    is computing now; damaged: there, but not whole. runs, failed: of the units that are done.
    mean_seconds: of a unit; left_seconds: of all that are missing, one after another;
    quiet_seconds: since the last was finished (NaN where none is).
    """

    data: str
    strategy: str
    grid: dict[str, Any]
    code: str
    units: int
    done: int
    held: int
    damaged: int
    runs: int
    failed: int
    mean_seconds: float
    left_seconds: float
    quiet_seconds: float

    @property
    def what(self) -> str:
        """What tells it from the other sweeps of its folder."""
        axes = ("flows", "optimizers", "batch_sizes", "widths")
        sizes = [(len(self.grid[axis]), axis.replace("_", " ")) for axis in axes]
        sizes.append((self.grid["seeds"], "seeds"))
        counted = [f"{n} {name if n > 1 else name[:-1]}" for n, name in sizes if n]
        return ", ".join([self.data, *counted, *([self.code] if self.code else [])])

    def __str__(self) -> str:
        missing = self.units - self.done
        share = self.done / max(self.units, 1)
        line = f"{self.what}: {self.done} of {self.units} units ({share:.0%}), {self.runs} runs"
        line += f", {self.failed} failed" if self.failed else ", none failed"
        if self.damaged:
            line += f"; {self.damaged} damaged, which are computed again"
        if not self.done:
            return f"{line}; {self.held} being computed"
        clock = lambda seconds: str(seconds).split(".")[0]
        ago = clock(_span(self.quiet_seconds))
        if not missing:
            return f"{line}; finished {ago} ago"
        return (
            f"{line}; {self.held} being computed, the last finished {ago} ago, "
            f"{self.mean_seconds:.3g} s each, so {clock(_span(self.left_seconds))} of work left"
        )


def standing(folder: Path) -> list[Standing]:
    """How far each sweep of a results folder is, on each of its data sets.

    Raises:
        InputError: there is no such folder, or no sweep in it.
    """
    files.check_results(folder)
    found = []
    for path in files.below(folder, "sweep-*.json"):
        if files.whole(path, "sweep"):
            record = json.loads(path.read_text(encoding="utf-8"))
            if "files" in record:
                found.append(_standing(path.parent, record))
    if not found:
        raise InputError(
            f"{folder} holds no sweep; make one with: ntk-momentum sweep --out {folder}."
        )
    return found


def _standing(place: Path, record: dict[str, Any]) -> Standing:
    done, damaged, missing = [], 0, []
    runs = failed = 0
    for name in record["files"]:
        path = place / name
        if not path.exists():
            missing.append(name)
            continue
        try:
            stored = store.Stored.open(path)
        except InputError:
            damaged += 1
            continue
        verdict = stored.read("verdict")
        runs, failed = runs + verdict.size, failed + int((verdict > 0).sum())
        done.append(stored.attributes)
    mean = sum(float(one["seconds"]) for one in done) / len(done) if done else float("nan")
    now = datetime.now(UTC)
    since = [(now - datetime.fromisoformat(str(one["created"]))).total_seconds() for one in done]
    return Standing(
        record["data"],
        record["strategy"],
        record["grid"],
        _code(done[0]) if done else "",
        len(record["files"]),
        len(done),
        _held(place, missing),
        damaged,
        runs,
        failed,
        mean,
        mean * (len(missing) + damaged),
        min(since, default=float("nan")),
    )


def _code(attributes: dict[str, Any]) -> str:
    """FILE.py:FUNCTION and hash of what is the user's own."""
    settings = json.loads(attributes["settings"])
    return ", ".join(settings[name] for name in ("model", "optimizers") if settings.get(name))


def _held(place: Path, names: list[str]) -> int:
    """How many of these another process has its lock on."""
    if not names or not (place / ".locks").exists():
        return 0
    count = 0
    with contextlib.suppress(InputError), work.Locks(place) as locks:
        for name in names:
            if locks.take(name):
                locks.release(name)
            else:
                count += 1
    return count


def _span(seconds: float) -> Any:
    from datetime import timedelta

    return timedelta(seconds=seconds)

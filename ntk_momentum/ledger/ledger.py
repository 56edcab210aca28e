"""The claims ledger: every numbered statement of the paper, run; verdicts follow from measurements.

A claim is a function of a `Setting` (data, sizes, shared trajectories) that returns up to three
checks: the statement as printed, its corrected form, and the sharp form where one is known, and
mostly a figure. Each check computes `ok` from what it measured and `ok` means "not refuted on this
instance"; None is kept for statements with an undefined symbol.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .. import files
from ..errors import unknown_name
from .drawing import Drawing

if TYPE_CHECKING:
    from ..data import Dataset
    from .claims.setting import Setting

Kind = Literal["identity", "bound", "rate", "probability", "width", "definition"]

# fmt: off
PAPER_ORDER = (
    "eq-2.1", "eq-2.2", "eq-2.3", "eq-2.4", "eq-2.5", "eq-2.6", "remark-lazy-training",
    "pseudo-loss", "fact-2.1", "thm-1", "eq-2.7", "eq-2.8", "fact-2.2", "width-thm-1",
    "remark-discrete", "eq-3.1", "eq-3.2", "eq-3.3", "remark-friction-choice", "remark-lipschitz",
    "remark-zero-velocity", "footnote-2-fastest", "thm-2", "eq-3.4", "eq-3.5",
    "remark-rate-comparison", "remark-lambda0-half", "remark-oscillation", "eq-4.1", "eq-4.2",
    "eq-4.3", "thm-3", "eq-4.4", "remark-rate-exponents", "remark-only-sublinear",
    "footnote-1-both-layers", "remark-piecewise-linear", "remark-other-losses", "eq-a.1", "eq-a.2",
    "eq-a.3", "eq-a.4", "eq-a.5", "eq-a.6", "eq-a.7", "eq-a.8", "remark-hdot-zero", "lemma-4",
    "lemma-5", "lemma-6", "lemma-7", "width-thm-2", "eq-b.1", "eq-b.2", "eq-b.3", "eq-b.4",
    "lemma-8", "lemma-9", "width-thm-3",
)
# fmt: on


@dataclasses.dataclass(frozen=True)
class Check:
    """One form of a statement, what was measured, on which instance; ok None means it could not be
    decided, for `reason`."""

    statement: str
    ok: bool | None
    measured: Mapping[str, Any]
    instance: str
    tolerance: float | None = None
    reason: str | None = None


Forms = Sequence[Check | Drawing | None]
"""A statement as printed, corrected and sharp, later forms left out where there are none, and
perhaps a drawing."""


def identity(
    statement: str, instance: str, error: float, tolerance: float = 1e-10, **measured: Any
) -> Check:
    """Two sides differ by at most `tolerance`."""
    return Check(
        statement, bool(error <= tolerance), {"error": error, **measured}, instance, tolerance
    )


def bound(
    statement: str, instance: str, ratio: float, tolerance: float = 1e-9, **measured: Any
) -> Check:
    """left <= right, by the largest quotient left / right met."""
    return Check(
        statement,
        bool(ratio <= 1 + tolerance),
        {"largest left/right": ratio, **measured},
        instance,
        tolerance,
    )


def attained(
    statement: str,
    instance: str,
    ratio: float,
    slack: float,
    tolerance: float = 1e-9,
    **measured: Any,
) -> Check:
    """left <= right, and the constant cannot be improved: the largest quotient is within `slack` of
    one."""
    return Check(
        statement,
        bool(1 - slack <= ratio <= 1 + tolerance),
        {"largest left/right": ratio, **measured},
        instance,
        slack,
    )


def within(
    statement: str,
    instance: str,
    value: Any,
    low: float,
    high: float,
    tolerance: float | None = None,
    **measured: Any,
) -> Check:
    """A measured value (a slope, an order, a frequency) lies in [low, high]."""
    numbers = {"value": value, "expected between": [low, high], **measured}
    return Check(statement, bool(low <= value <= high), numbers, instance, tolerance)


def rarely(
    statement: str,
    instance: str,
    failures: Mapping[str, int],
    trials: int | Mapping[str, int],
    delta: float,
    **measured: Any,
) -> Check:
    """An event has probability at most delta: refuted when the exact 95% interval of some failure
    probability lies above delta.

    The interval (Clopper-Pearson) is recorded, so that too few draws are seen.
    """
    import scipy.stats

    counts = {name: trials if isinstance(trials, int) else trials[name] for name in failures}
    intervals = {
        name: scipy.stats.binomtest(int(k), counts[name]).proportion_ci(method="exact")
        for name, k in failures.items()
    }
    numbers = {
        name: {
            "failures": int(k),
            "draws": counts[name],
            "95% interval": [float(intervals[name].low), float(intervals[name].high)],
        }
        for name, k in failures.items()
    }
    holds = all(interval.low <= delta for interval in intervals.values())
    return Check(
        statement, bool(holds), {"failures": numbers, "allowed": delta, **measured}, instance, delta
    )


def every(
    statement: str,
    instance: str,
    conditions: Mapping[str, Any],
    tolerance: float | None = None,
    **measured: Any,
) -> Check:
    """All conditions hold; each is named in what was measured."""
    return Check(
        statement,
        all(bool(v) for v in conditions.values()),
        {**{k: bool(v) for k, v in conditions.items()}, **measured},
        instance,
        tolerance,
    )


def typed(
    statement: str, instance: str, left: Sequence[int], right: Sequence[int], **measured: Any
) -> Check:
    """An equation whose two sides must have the same shape."""
    return Check(
        statement,
        tuple(left) == tuple(right),
        {"left shape": list(left), "right shape": list(right), **measured},
        instance,
    )


def undefined(statement: str, instance: str, reason: str, **measured: Any) -> Check:
    """A statement with a symbol that the paper does not define."""
    return Check(statement, None, measured, instance, reason=reason)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A registered claim: what it is called, where it stands, why it is so, the experiment that
    shows more, and what runs it."""

    id: str
    section: str
    kind: Kind
    note: str
    experiment: str | None
    run: Callable[[Setting], Forms]


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim that has been run."""

    id: str
    section: str
    kind: Kind
    printed: Check
    corrected: Check | None
    sharp: Check | None
    note: str
    drawing: Drawing | None
    seconds: float

    def to_json(self, figures: str = "claims") -> dict[str, Any]:
        """The record of claims.json. figures: the folder beside it that the figures are drawn
        into."""

        def form(check: Check | None, printed: bool) -> dict[str, Any] | None:
            if check is None:
                return None
            record = {
                "statement": check.statement,
                "ok": check.ok,
                "measured": _plain(check.measured),
            }
            record |= {} if printed else {"tolerance": check.tolerance}
            record |= {"instance": check.instance}
            return record if check.reason is None else record | {"reason": check.reason}

        return {
            "id": self.id,
            "section": self.section,
            "kind": self.kind,
            "printed": form(self.printed, True),
            "corrected": form(self.corrected, False),
            "sharp": form(self.sharp, False),
            "note": self.note,
            "figure": None if self.drawing is None else f"{figures}/{self.id}.svg",
            "seconds": round(self.seconds, 3),
        }


_REGISTRY: dict[str, Entry] = {}


def claim(
    id: str, *, section: str, kind: Kind, note: str, experiment: str | None = None
) -> Callable[[Callable[[Setting], Forms]], Callable[[Setting], Forms]]:
    """Register a function Setting -> (printed, corrected, sharp) as the claim `id`; later forms may
    be left out, a `Drawing` may end it."""

    def register(run: Callable[[Setting], Forms]) -> Callable[[Setting], Forms]:
        if id in _REGISTRY:
            raise ValueError(f"claim {id!r} is registered twice")
        _REGISTRY[id] = Entry(id, section, kind, " ".join(note.split()), experiment, run)
        return run

    return register


def entries() -> dict[str, Entry]:
    """All claims in the paper's order."""
    from . import claims as _  # noqa: F401  (registers them)

    return {id: _REGISTRY[id] for id in PAPER_ORDER if id in _REGISTRY}


@functools.cache
def derivations() -> dict[str, tuple[str, ...]]:
    """The derivation of every claim: formulas in TeX, in order."""
    text = (
        Path(__file__).with_name("claims").joinpath("derivations.txt").read_text(encoding="utf-8")
    )
    parts = re.split(r"^# (\S+)\n", text, flags=re.MULTILINE)[1:]
    return {
        id: tuple(body.strip().splitlines())
        for id, body in zip(parts[::2], parts[1::2], strict=True)
    }


def verify(
    claims: str | Iterable[str] | None = None,
    size: Literal["smoke", "full"] = "smoke",
    data: Dataset | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Claim]:
    """Run the numbered statements of the paper, in its order and in float64: verdicts are measured.

        (2.1) ... Theorem 3, Lemmas 4-9: `ntk-momentum list --claims`

    Args:
        claims: Identifiers such as "eq-b.1" and "thm-3", or the paper's own "(B.1)" and "Theorem
            3"; all of them if None.
        size: "smoke" for seconds each, "full" for the sizes of the report.
        data: Unit inputs with scalar targets, on which the claims about data sets and networks run
            instead of their own.
        progress: Called as progress(id, done, total) before each claim.

    Returns:
        What was measured for each statement as printed, corrected and sharp.

    Raises:
        InputError: On unknown names or unsuitable data.

    Examples:
        >>> claim, = nm.verify("(2.1)")
        >>> claim.id, claim.printed.ok
        ('eq-2.1', True)
    """
    import jax

    from .claims.setting import Setting

    known = entries()
    wanted = (
        list(known) if claims is None else [claims] if isinstance(claims, str) else list(claims)
    )
    wanted = [_identifier(name, known) for name in wanted]
    for name in wanted:
        if name not in known:
            raise unknown_name("claim", name, known)
    chosen = [entry for id, entry in known.items() if id in wanted]
    results = []
    with jax.enable_x64(True):
        setting = Setting(size, data)
        for done, entry in enumerate(chosen):
            if progress is not None:
                progress(entry.id, done, len(chosen))
            start = time.perf_counter()
            parts = entry.run(setting)
            drawing = next((part for part in parts if isinstance(part, Drawing)), None)
            printed, corrected, sharp = (
                [part for part in parts if not isinstance(part, Drawing)] + [None, None]
            )[:3]
            assert printed is not None
            seconds = time.perf_counter() - start
            results.append(
                Claim(
                    entry.id,
                    entry.section,
                    entry.kind,
                    printed,
                    corrected,
                    sharp,
                    entry.note,
                    drawing,
                    seconds,
                )
            )
    return results


def _identifier(name: str, known: Container[str]) -> str:
    """The identifier of what the paper calls "(B.1)", "Theorem 3" or "Lemma 7"; other names as they
    are."""
    words = name.lower().strip("() ").replace("theorem", "thm").replace(" ", "-")
    return next((id for id in (words, f"eq-{words}") if id in known), name)


def refuted(claims: Iterable[Claim | Mapping[str, Any]]) -> list[str]:
    """Ids of the claims (or records of claims.json) whose corrected or sharp form fails: these make
    `verify` exit 1."""
    records = [c.to_json() if isinstance(c, Claim) else c for c in claims]
    return [
        r["id"]
        for r in records
        if any(r[form] and r[form]["ok"] is False for form in ("corrected", "sharp"))
    ]


def figures_folder(path: Path) -> Path:
    """Where the figures of a file of claims lie: claims.json -> claims_figures."""
    return path.with_name(f"{path.stem}_figures")


def write_claims(path: str | Path, claims: Iterable[Claim], identity: str = "") -> None:
    """Write claims.json atomically: a reader sees the old file or the whole new one.

    The records are the list "claims"; their figures are named, see `figures_folder`. identity: of
    what determines them, for the file's mark.

    Raises:
        InputError: it cannot be written, or what stands there was not written by this function.
    """
    path = Path(path)
    records = [claim.to_json(figures_folder(path).name) for claim in claims]
    files.write_json(path, "claims", {"claims": records}, identity, allow_nan=False)


def _plain(value: Any) -> Any:
    """JSON values: arrays as lists, numbers to nine digits, infinities and NaN as words."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (str, bool)) or value is None:
        return value
    array = np.asarray(value)
    if array.ndim:
        return [_plain(v) for v in array.tolist()]
    if array.dtype.kind == "b":
        return bool(array)
    if array.dtype.kind in "iu":
        return int(array)
    number = float(array)
    return float(f"{number:.9g}") if np.isfinite(number) else str(number)

"""What a statement of the paper is checked by, and how a claim is declared."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .drawing import Drawing

if TYPE_CHECKING:
    from .claims.setting import Setting


Kind = Literal["identity", "bound", "rate", "probability", "width", "definition"]

Basis = Literal["measured", "derivation"]
"""What a verdict rests on: numbers that could have come out otherwise, or exact arithmetic that
follows the argument line by line (`algebra`), where nothing is left to measure."""

Fault = Literal["none", "notation", "hypothesis", "constant", "proof gap", "false"]
"""What is wrong with a statement as printed, the worst of it: nothing; a sign, index, transpose
or name; a condition that is missing; a constant or power; a step of a proof, where what it is for
may hold; false."""

Under = Literal[
    "as stated",
    "constant kernel",
    "network, impulses apart",
    "network, off the sliding set",
    "network, as certified",
    "network",
]
"""Where the corrected form (the printed one, when nothing is wrong with it) holds. "as certified":
where a run's own certificate (`nm.certify`), impulses included, says so."""


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
    basis: Basis = "measured"


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


def derived(statement: str, instance: str, steps: Mapping[str, Any], **found: Any) -> Check:
    """Every step follows, in exact arithmetic: a derivation, not a measurement."""
    return dataclasses.replace(every(statement, instance, steps, None, **found), basis="derivation")


def typed(
    statement: str, instance: str, left: Sequence[int], right: Sequence[int], **measured: Any
) -> Check:
    """An equation whose two sides must have the same shape: a derivation."""
    return Check(
        statement,
        tuple(left) == tuple(right),
        {"left shape": list(left), "right shape": list(right), **measured},
        instance,
        basis="derivation",
    )


def undefined(statement: str, instance: str, reason: str, **measured: Any) -> Check:
    """A statement with a symbol that the paper does not define."""
    return Check(statement, None, measured, instance, reason=reason)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A registered claim: what it is called, where it stands, why it is so, what is wrong with the
    print, where the corrected form holds, the experiment that shows more, and what runs it.

    theorem: its number in docs/theorems.md. shares: the claim whose evidence it is judged by, which
    counts once.
    """

    id: str
    section: str
    kind: Kind
    note: str
    experiment: str | None
    run: Callable[[Setting], Forms]
    fault: Fault = "none"
    under: Under = "as stated"
    theorem: str | None = None
    shares: str | None = None


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
    fault: Fault = "none"
    under: Under = "as stated"
    theorem: str | None = None
    shares: str | None = None

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
            record |= {"instance": check.instance, "basis": check.basis}
            return record if check.reason is None else record | {"reason": check.reason}

        return {
            "id": self.id,
            "section": self.section,
            "kind": self.kind,
            "class": self.fault,
            "hypothesis": self.under,
            "theorem": self.theorem,
            "shares": self.shares,
            "printed": form(self.printed, True),
            "corrected": form(self.corrected, False),
            "sharp": form(self.sharp, False),
            "note": self.note,
            "figure": None if self.drawing is None else f"{figures}/{self.id}.svg",
            "seconds": round(self.seconds, 3),
        }


REGISTRY: dict[str, Entry] = {}


def claim(
    id: str,
    *,
    section: str,
    kind: Kind,
    note: str,
    fault: Fault = "none",
    under: Under = "as stated",
    theorem: str | None = None,
    shares: str | None = None,
    experiment: str | None = None,
) -> Callable[[Callable[[Setting], Forms]], Callable[[Setting], Forms]]:
    """Register a function Setting -> (printed, corrected, sharp) as the claim `id`; later forms may
    be left out, a `Drawing` may end it. The rest: see `Entry`."""

    def register(run: Callable[[Setting], Forms]) -> Callable[[Setting], Forms]:
        if id in REGISTRY:
            raise ValueError(f"claim {id!r} is registered twice")
        REGISTRY[id] = Entry(
            id,
            section,
            kind,
            " ".join(note.split()),
            experiment,
            run,
            fault,
            under,
            theorem,
            shares,
        )
        return run

    return register


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

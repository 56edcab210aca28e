"""The claims ledger: every numbered statement of the paper, run; verdicts follow from measurements.

A claim is a function of a `Setting` (data, sizes, shared trajectories) that returns up to three
checks: the statement as printed, its corrected form, and the sharp form where one is known, and
mostly a figure. Each check computes `ok` from what it measured and `ok` means "not refuted on this
instance"; None is kept for statements with an undefined symbol.
"""

from __future__ import annotations

import contextlib
import functools
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from .. import files
from ..errors import InputError, check_choice, described
from ..progress import check_progress
from ..words import claim_ids
from .check import REGISTRY, Basis, Claim, Entry, Fault, Kind, Under
from .drawing import Drawing

if TYPE_CHECKING:
    from ..data import Dataset


# fmt: off
PAPER_ORDER = (
    "abstract-global-minimum",
    "eq-2.1", "eq-2.2", "eq-2.3", "eq-2.4", "eq-2.5", "eq-2.6", "remark-lazy-training",
    "pseudo-loss", "fact-2.1", "thm-1", "eq-2.7", "eq-2.8", "fact-2.2", "width-thm-1",
    "remark-discrete", "eq-3.1", "eq-3.2", "eq-3.3", "remark-friction-choice", "remark-lipschitz",
    "remark-zero-velocity", "footnote-2-fastest", "thm-2", "eq-3.4", "eq-3.5",
    "remark-rate-comparison", "remark-lambda0-half", "remark-oscillation", "eq-4.1", "eq-4.2",
    "eq-4.3", "thm-3", "thm-3-network", "eq-4.4", "remark-rate-exponents", "remark-only-sublinear",
    "footnote-1-both-layers", "remark-sgd", "remark-sgd-momentum", "remark-sgd-nesterov",
    "remark-sgd-power-law", "remark-piecewise-linear", "remark-other-losses", "eq-a.1", "eq-a.2",
    "eq-a.3", "eq-a.4", "eq-a.5", "eq-a.6", "remark-total-energy", "eq-a.7", "eq-a.8",
    "remark-hdot-zero", "lemma-4", "lemma-5", "initial-error", "lemma-6", "displacement-chain-a",
    "lemma-7", "width-thm-2", "eq-b.1", "eq-b.2", "eq-b.3", "eq-b.4", "lemma-8",
    "displacement-chain-b", "lemma-9", "width-thm-3",
)
# fmt: on


def entries() -> dict[str, Entry]:
    """All claims in the paper's order."""
    from . import claims as _  # noqa: F401  (registers them)

    return {id: REGISTRY[id] for id in PAPER_ORDER if id in REGISTRY}


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
    progress: Callable[[str, int, int], None] | bool | None = None,
    seed: int = 0,
) -> list[Claim]:
    """Run the numbered statements of the paper, in its order and in float64: verdicts are measured.

        (2.1) ... Theorem 3, Lemmas 4-9: `ntk-momentum list --claims`

    Args:
        claims: Identifiers such as "eq-b.1" and "thm-3", or the paper's own "(B.1)" and "Theorem
            3"; all of them if None.
        size: "smoke" for seconds each, "full" for the sizes of the report.
        data: Unit inputs with scalar targets, on which the claims about data sets and networks run
            instead of their own.
        progress: Called as progress(id, done, total) before each claim; True for a bar.
        seed: Of the networks and of the draws.

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
    check_choice("size", size, ("smoke", "full"))
    told: Any = check_progress(progress, "claims")
    report = (lambda id, done, total: told(done, total)) if progress is True else told
    if claims is not None and not isinstance(claims, Iterable):
        raise InputError(
            f"claims must be identifiers, got {described(claims)}; try claims=['thm-1', 'eq-2.1']."
        )
    wanted = known if claims is None else claim_ids([claims] if isinstance(claims, str) else claims)
    chosen = [entry for id, entry in known.items() if id in wanted]
    results = []
    with jax.enable_x64(True), _compiling_quickly(size == "smoke"):
        setting = Setting(size, data, seed)
        for done, entry in enumerate(chosen):
            if report is not None:
                report(entry.id, done, len(chosen))
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
                    entry.fault,
                    entry.under,
                    entry.theorem,
                    entry.shares,
                )
            )
        if progress is True:
            told(len(chosen), len(chosen))
    return results


@contextlib.contextmanager
def _compiling_quickly(quickly: bool) -> Iterator[None]:
    """Few optimizations for what is compiled meanwhile: a small claim's programs run once, and
    compiling is most of its time, which this halves."""
    import jax

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", before or quickly)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


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


def by_class(claims: Iterable[Claim | Mapping[str, Any]]) -> dict[str, int]:
    """How many claims (or records of claims.json) of each class there are, worst last; those that
    share another's evidence are left out, since one measurement counts once."""
    records = [c.to_json() if isinstance(c, Claim) else c for c in claims]
    found = [r["class"] for r in records if not r["shares"]]
    return {name: found.count(name) for name in get_args(Fault)}


SCHEMA: dict[str, Any] = {
    "version": 2,
    "claims": {
        "id": "as in docs/paper-to-code.md",
        "section": "of the paper",
        "kind": list(get_args(Kind)),
        "class": list(get_args(Fault)),
        "hypothesis": list(get_args(Under)),
        "theorem": "its number in docs/theorems.md, or null",
        "shares": "the claim whose evidence it is judged by, or null",
        "printed, corrected, sharp": {
            "statement": "what was tried",
            "ok": "true: not refuted; false: refuted; null: undecided, for `reason`",
            "measured": "numbers by name",
            "tolerance": "not with printed",
            "instance": "on what",
            "basis": list(get_args(Basis)),
        },
        "note": "why it is so",
        "figure": "a file beside this one, or null",
        "seconds": "it took",
    },
}
"""What stands in claims.json, written into it."""


def write_claims(
    path: str | Path,
    claims: Iterable[Claim],
    identity: str = "",
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write claims.json atomically: a reader sees the old file or the whole new one.

    The records are the list "claims"; their figures are named, see `figures_folder`. Before them
    stand the `SCHEMA`, what `about` says of the run (version, commit, seed, dtype, sizes, JAX) and
    the counts `by_class`. identity: of what determines them, for the file's mark.

    Raises:
        InputError: it cannot be written, or what stands there was not written by this function.
    """
    path = Path(path)
    records = [claim.to_json(figures_folder(path).name) for claim in claims]
    content = {"schema": SCHEMA, **(about or {}), "classes": by_class(records), "claims": records}
    files.write_json(path, "claims", content, identity, allow_nan=False)

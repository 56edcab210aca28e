"""One page of what was run, on what, and what it showed: self-contained HTML with the figures
inline."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .. import files
from ..errors import require
from ..ledger.ledger import by_class, derivations, entries
from ..results.provenance import provenance
from .notation import GREEK, mathml, typeset
from .outcome import Outcome
from .theorems import linked, statements

FORMS = ("printed", "corrected", "sharp")
LEAD = "what_momentum_buys"
"""The experiment that answers the question of the whole; the report opens with it."""


def write_report(
    out: Path,
    size: str,
    outcomes: Sequence[Outcome],
    claims: Sequence[dict[str, Any]] | None,
    problem: str,
    refuted: Sequence[str],
    name: str = "report.html",
) -> Path:
    """Write the report into `out` and return its path.

    claims: the records of claims.json, whose figures lie in `out`; problem: why there are none.
    """
    jinja2 = require("jinja2", "the report")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    markup = jinja2.utils.markupsafe.Markup
    environment.filters["number"] = number
    environment.filters["evidence"] = lambda value: markup(evidence(value))
    environment.filters["measure"] = words
    environment.filters["below"] = stacked_caption
    environment.filters["linked"] = lambda text: markup(linked(text))
    environment.filters["maths"] = lambda text: markup(typeset(str(text)))
    template = environment.from_string(
        Path(__file__).with_name("report.html.jinja").read_text(encoding="utf-8")
    )
    run, shown = provenance(), [o for o in outcomes if o.status != "absent"]
    setting, proved = statements()
    drawn = {c["id"]: c for c in claims or [] if c["figure"] and (out / c["figure"]).is_file()}
    page = template.render(
        size=size,
        run=run,
        software=", ".join(f"{name} {version}" for name, version in run["versions"].items()),
        shown=shown,
        absent=[o.experiment.name for o in outcomes if o.status == "absent"],
        failed=[o.experiment.name for o in outcomes if o.status == "failed"],
        figures={
            o.experiment.name: {
                "wide": inline(o.figures["svg"], o.experiment.name),
                "narrow": inline(o.figures["narrow"], f"{o.experiment.name}-narrow"),
            }
            for o in outcomes
            if "svg" in o.figures
        },
        configs={
            o.experiment.name: json.loads(o.attributes["config"])
            for o in outcomes
            if "config" in o.attributes
        },
        claims=claims,
        derivation={
            c["id"]: [mathml(line, "block") for line in derivations().get(c["id"], ())]
            for c in claims or []
        },
        pictures={id: panels(out / c["figure"], id) for id, c in drawn.items()},
        captions={id: caption(out / c["figure"]) for id, c in drawn.items()},
        more={
            id: entry.experiment
            for id, entry in entries().items()
            if entry.experiment in {o.experiment.name for o in shown}
        },
        counts=tally(claims or []),
        classes=by_class(claims or []),
        setting=setting,
        theorems=proved if claims else (),
        judging={
            one.number: [
                c["id"]
                for c in claims or []
                if f'#theorem-{one.number}"' in linked(c["theorem"] or "")
            ]
            for one in proved
        },
        problem=problem,
        refuted=refuted,
        forms=FORMS,
        verdict=verdict,
        gist=gist,
        lead=next((o for o in shown if o.experiment.name == LEAD and "svg" in o.figures), None),
        met_expectation=met_expectation,
    )
    path = out / name
    files.write_text(path, "report", page)
    return path


def verdict(form: dict[str, Any] | None) -> tuple[str, str]:
    """(class, words) of one form of a claim."""
    if form is None:
        return "none", ""
    return {
        True: ("holds", "✓ holds"),
        False: ("refuted", "✗ refuted"),
        None: ("open", "? undefined"),
    }[form["ok"]]


def gist(form: dict[str, Any]) -> str:
    """What was measured for a form of a claim, in words: its first number, or how many of its
    conditions hold."""
    measured = form["measured"]
    if "left shape" in measured:
        left, right = (number(measured[f"{side} shape"]) or "scalar" for side in ("left", "right"))
        return f"shapes differ: {left} against {right}".replace(", ", " × ")
    if isinstance(measured.get("failures"), dict):
        worst = max(case["failures"] / case["draws"] for case in measured["failures"].values())
        return f"fails in {worst:.0%} of draws, allowed {measured['allowed']:.0%}"
    tried = [value for value in measured.values() if isinstance(value, bool)]
    if tried:
        return f"{sum(tried)} of {len(tried)} conditions hold"
    if "error" in measured:
        return f"the two sides differ by {number(measured['error'])}"
    if "largest left/right" in measured:
        return f"left over right reaches {number(measured['largest left/right'])}"
    if "expected between" in measured:
        low, high = map(number, measured["expected between"])
        return f"measured {number(measured['value'])}, expected {low} to {high}"
    for name, value in measured.items():
        if isinstance(value, (int, float)):
            return f"{words(name)}: {number(value)}"
    return f"{len(measured)} measurements" if measured else ""


def met_expectation(quantity: str, value: Any) -> bool | None:
    """Whether a value is what its quantity says it should be; None where nothing is said.

    An interval, as in "-0.50 ± 0.02", must hold what is "expected"; numbers must all be ">=" a
    bound, or, "once wide", from the first that is on, and still if they fell once more as far as
    from the first to the last; an order must be within a quarter of its "theory", and a "run"
    within a fifth of its "prediction".
    """
    if "does not explain" in str(value):
        return False
    numbers = [float(one) for one in re.findall(r"(?<![\w.])[+-]?\d+\.\d+", str(value))]
    if bounded := re.search(r">= (\d+(?:\.\d+)?)", quantity):
        if not numbers:
            return None
        meets = [one >= float(bounded[1]) for one in numbers]
        if "once wide" not in quantity:
            return all(meets)
        lasting = meets == sorted(meets) and meets[-1]
        return lasting and 2 * numbers[-1] - numbers[0] >= float(bounded[1])
    if (theory := re.search(r"theory: (\d)", quantity)) and numbers:
        return abs(numbers[0] / float(theory[1]) - 1) <= 0.25
    if "run / prediction" in quantity and len(numbers) > 1:
        return abs(numbers[0] - numbers[1]) <= 0.2 * abs(numbers[1])
    wanted = re.search(r"expected ([+-]?\d+(?:\.\d+)?)", quantity)
    found = re.fullmatch(r"([+-]?[\d.]+) ± ([\d.]+)", str(value))
    if wanted is None or found is None:
        return None
    return abs(float(found[1]) - float(wanted[1])) <= float(found[2])


def tally(claims: Sequence[dict[str, Any]]) -> list[tuple[str, int, int, int]]:
    """(form, how many hold, are refuted, are undecided)."""
    table = []
    for form in FORMS:
        verdicts = [claim[form]["ok"] for claim in claims if claim[form]]
        table.append((form, verdicts.count(True), verdicts.count(False), verdicts.count(None)))
    return table


def inline(path: Path, prefix: str) -> str:
    """A matplotlib SVG as part of a page: its ids made unique by `prefix`, greys left to the page's
    colours."""
    text = path.read_text(encoding="utf-8")
    text = text[text.index("<svg") : text.rindex("</svg>") + len("</svg>")]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(
        r'<svg([^>]*?viewBox="\S+ \S+ (\S+) \S+")', r'<svg style="--width: \2pt"\1', text, count=1
    )
    text = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", text)
    text = re.sub(r"#([0-9a-f]{2})\1\1\b", lambda match: grey(int(match[1], 16)), text)
    return re.sub(
        r'(<svg[^>]*?) width="[^"]*"',
        r"\1",
        re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1),
        count=1,
    )


def panels(path: Path, prefix: str) -> list[str]:
    """The panels of a claim's figure, each as an SVG of its own: side by side, or one below the
    other on a narrow screen."""
    svg = re.sub(r"<(title|desc)>.*?</\1>", "", inline(path, prefix), flags=re.DOTALL)
    head, *parts = re.split(r'(?=<g id="[^"]*-axes_\d+">)', svg)
    last, tail = re.fullmatch(r"(.*</g>)(\s*</g>\s*<defs>.*)", parts[-1], flags=re.DOTALL).groups()  # type: ignore[union-attr]
    found = re.search(r'data-panels="([^"]*)"', head)
    places = [float(place) for place in found[1].split()] if found else []
    height = re.search(r'viewBox="\S+ \S+ \S+ (\S+)"', head)
    assert height and len(places) == len(parts) + 1
    made = []
    for k, part in enumerate([*parts[:-1], last]):
        wide = places[k + 1] - places[k]
        start = re.sub(r'viewBox="[^"]*"', f'viewBox="{places[k]:g} 0 {wide:g} {height[1]}"', head)
        panel = re.sub(r"--width: [^p]*pt", f"--width: {wide:g}pt", start) + part + tail
        made.append(
            re.sub(
                rf'(?<=["#]){re.escape(prefix)}-|(?<=\(#){re.escape(prefix)}-',
                f"{prefix}-{k}-",
                panel,
            )
        )
    return made


def caption(path: Path) -> str:
    """The description in an SVG file, its formulas in TeX."""
    found = re.search(r"<desc>(.*?)</desc>", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return html.unescape(found[1]) if found else ""


def grey(level: int) -> str:
    """The page's colour that plays the part of a grey level on white, 0 to 255: ink, quiet ink,
    hairline or paper."""
    return (
        "currentColor"
        if level < 0x50
        else "var(--soft)"
        if level < 0xA0
        else "var(--line)"
        if level < 0xF0
        else "var(--paper)"
    )


def stacked_caption(text: str) -> str:
    """A caption whose panels stand one below the other."""
    places = {"Left": "Top", "left": "top", "Right": "Bottom", "right": "bottom"}
    return re.sub(r"\b([Ll]eft|[Rr]ight)(?=:)", lambda match: places[match[1]], text)


def number(value: Any) -> str:
    """A number to four digits, a list of them with commas, the rest as it is."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, (list, tuple)):
        return ", ".join(number(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def evidence(value: Any) -> str:
    """HTML of what was measured: nested records as tables, long lists folded, nothing left out."""
    if isinstance(value, dict):
        rows = list(value.values())
        if (
            rows
            and all(isinstance(row, dict) for row in rows)
            and all(row.keys() == rows[0].keys() for row in rows)
        ):
            head = "".join(f'<th scope="col">{typeset(words(key))}</th>' for key in ("", *rows[0]))
            return _table(
                (f"<tr>{head}</tr>", *(_row(name, row.values()) for name, row in value.items()))
            )
        if rows and all(isinstance(row, list) and 1 < len(row) <= 4 for row in rows):
            return _table(_row(name, row) for name, row in value.items())
        return _table(_row(name, [row]) for name, row in value.items())
    if isinstance(value, list) and any(isinstance(item, (list, dict)) for item in value):
        return _table(
            _row(str(k), item if isinstance(item, list) else [item]) for k, item in enumerate(value)
        )
    if isinstance(value, list) and len(value) > 12:
        head = f"{len(value)} values, {number(value[0])} to {number(value[-1])}"
        return f"<details><summary>{head}</summary>{typeset(number(value))}</details>"
    return typeset(number(value))


def words(name: str) -> str:
    """A name of a measurement, its underscores opened, but for those of formulas: kernel_drift,
    lambda_min of V0_printed."""

    def opened(match: re.Match[str]) -> str:
        base, script = match[1], match[2]
        formula = base in GREEK or (len(base) == 1 and len(script) < 4)
        return match[0] if formula else f"{base} "

    return re.sub(r"(?<![A-Za-z0-9])([A-Za-z0-9]+)_(?=([A-Za-z0-9]+))", opened, name)


def _table(rows: Iterable[str]) -> str:
    return f'<div class="scroll"><table class="nested">{"".join(rows)}</table></div>'


def _row(name: str, cells: Iterable[Any]) -> str:
    columns = "".join(f"<td>{evidence(cell)}</td>" for cell in cells)
    return f'<tr><th scope="row">{typeset(words(name))}</th>{columns}</tr>'

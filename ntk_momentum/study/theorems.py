"""The theorems in the report: setting and statements of docs/theorems.md, whose text is the only
one; proofs stay there."""

from __future__ import annotations

import functools
import html
import re
from pathlib import Path
from typing import NamedTuple

from .notation import MARKED, mathml, typeset

HEAD = re.compile(r"\*\*((?:Theorem|Lemma|Corollary|Proposition) (\d+))(?: \((.*?)\))?\.\*\*\s+")
_CELLS = re.compile(r"\|(?=(?:[^$]*\$[^$]*\$)*[^$]*$)")  # a bar between dollars is a norm's


class Theorem(NamedTuple):
    """A numbered statement: "Theorem 3", "3", its title or "", and its HTML."""

    name: str
    number: str
    title: str
    statement: str


def page() -> Path:
    """`docs/theorems.md` in a checkout, a copy of it inside the package in a wheel."""
    package = Path(__file__).resolve().parents[1]
    copy = package / "theorems.md"
    return copy if copy.is_file() else package.parent / "docs" / "theorems.md"


@functools.cache
def statements() -> tuple[str, tuple[Theorem, ...]]:
    """(HTML of the setting and its symbols, the statements in order); nothing where the page is
    not at hand."""
    if not page().is_file():
        return "", ()
    setting, found, open_ = "", [], False
    section = ""
    for block in re.split(r"\n\s*\n", page().read_text(encoding="utf-8")):
        if block.startswith("#"):
            section, open_ = block, False
        elif head := HEAD.match(block):
            made = _block(block[head.end() :])
            found.append(Theorem(head[1], head[2], worded(head[3] or ""), made))
            open_ = True
        elif block.startswith(("*Proof", "*Sharp")):
            open_ = False
        elif open_:
            found[-1] = found[-1]._replace(statement=found[-1].statement + _block(block))
        if section.startswith("## 1 ") and not block.startswith("#"):
            setting += _block(block)
    return setting, tuple(found)


def linked(text: str) -> str:
    """HTML of what names theorems, as in "Theorems 3 and 4, Corollary 5", each number a link."""
    numbers = {one.number for one in statements()[1]}
    return re.sub(
        r"(?<![(\w])\d+\b",
        lambda m: f'<a href="#theorem-{m[0]}">{m[0]}</a>' if m[0] in numbers else m[0],
        html.escape(text),
    )


def worded(text: str) -> str:
    """HTML of words of Markdown, formulas as in statements of claims; links keep their words."""
    return "".join(
        typeset(part) if part[:1] in ("$", "`") else _words(part) for part in MARKED.split(text)
    )


def _words(text: str) -> str:
    text = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", html.escape(text, quote=False))
    text = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", text)
    return re.sub(r"\*(.+?)\*", r"<i>\1</i>", text)


def _block(block: str) -> str:
    """HTML of a paragraph, a list, a table or a formula that stands alone."""
    block = block.strip()
    lines = block.split("\n")
    if block.startswith("$$"):
        return f'<div class="scroll">{mathml(block.strip("$").strip(), "block")}</div>'
    if lines[0].startswith("|"):
        rows = [_CELLS.split(line.strip().strip("|")) for line in (lines[0], *lines[2:])]
        made = ("".join(f"<td>{worded(cell.strip())}</td>" for cell in row) for row in rows)
        return f'<table class="nested">{"".join(f"<tr>{row}</tr>" for row in made)}</table>'
    if re.match(r"\d+\. ", block):
        items = (worded(re.sub(r"^\d+\. ", "", line)) for line in lines)
        return f"<ol>{''.join(f'<li>{item}</li>' for item in items)}</ol>"
    return f"<p>{worded(block)}</p>"

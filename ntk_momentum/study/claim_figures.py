"""Draws the figures of the claims: curves in panels, as small SVG whose text stays text."""

from __future__ import annotations

import html
import io
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import files
from ..errors import require
from .notation import shown
from .plotting import CYCLE, STYLE, THEORY

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from ..ledger.check import Claim
    from ..ledger.drawing import Drawing, Panel

MOST = 300
"""Points of a line; more are not seen."""


def write_figures(folder: Path, claims: Iterable[Claim]) -> None:
    """One SVG file for every claim that has a figure, in `folder`, which is made.

    Figures of earlier runs go; whatever else is in the folder stays.
    """
    drawn = {f"{claim.id}.svg": claim.drawing for claim in claims if claim.drawing is not None}
    if drawn:
        folder.mkdir(parents=True, exist_ok=True)
    for name in drawn:
        files.check_target(folder / name, "figure")
    for old in folder.glob("*.svg"):
        if old.name not in drawn and files.whole(old, "figure"):
            old.unlink()
    for name, drawing in drawn.items():
        files.write_text(folder / name, "figure", svg(drawing))


def svg(drawing: Drawing) -> str:
    """The figure as SVG, the same bytes for the same numbers; where its panels begin and end, in
    points, stands in it, for the report, which stacks them on narrow screens."""
    matplotlib = require("matplotlib", "drawing figures")
    figure_module = require("matplotlib.figure", "drawing figures")
    plain = {"axes.formatter.use_mathtext": False, "figure.constrained_layout.use": False}
    changed = plain | {"svg.fonttype": "none", "svg.hashsalt": "claims"}
    with matplotlib.rc_context(STYLE | changed):
        margins = [_margin(panel) for panel in drawing.panels]
        width, height = sum(margins) + (2.9 + 0.25) * len(margins), 2.6
        figure, at, places = figure_module.Figure(figsize=(width, height)), 0.0, [0.0]
        for panel, margin in zip(drawing.panels, margins, strict=True):
            axes = figure.add_axes(
                ((at + margin) / width, 0.5 / height, 2.9 / width, (height - 0.65) / height)
            )
            _panel(axes, panel)
            at += margin + 2.9 + 0.25
            places.append(72 * at)
        stream = io.StringIO()
        figure.savefig(
            stream, format="svg", metadata={"Date": None, "Creator": None}, transparent=True
        )
    text = stream.getvalue()
    head = text.index(">", text.index("<svg"))
    title, about = (
        html.escape(one, quote=False) for one in (shown(drawing.caption), drawing.caption)
    )
    at_points = " ".join(f"{place:g}" for place in places)
    return (
        f'{text[:head]} data-panels="{at_points}">\n <title>{title}</title>\n <desc>{about}</desc>'
        f"{text[head + 1 :]}"
    )


def _named(panel: Panel) -> bool:
    return isinstance(panel.curves[0].x[0], str)


def _margin(panel: Panel) -> float:
    """Inches to the left of the axes: room for the names of cases."""
    return 0.25 + 0.068 * max(map(len, panel.curves[0].x)) if _named(panel) else 0.75


def _ticked(value: float) -> str:
    """A tick of a logarithmic axis: 0.02, 1 000, 10⁻⁸."""
    if 1e-3 <= value < 1e5:
        return f"{value:,.0f}".replace(",", " ") if value >= 10 else f"{value:g}"
    digits, _, power = f"{value:e}".partition("e")
    return ("" if float(digits) == 1 else f"{float(digits):g}·") + shown(f"10^({int(power)})")


def _panel(axes: Any, panel: Panel) -> None:
    colors, dashes = iter(CYCLE * 4), itertools.cycle(("--", ":", "-."))
    for curve in panel.curves:
        x, y, label = curve.x, np.asarray(curve.y, float), shown(curve.label) or None
        if _named(panel):  # cases from top to bottom, their values along x
            mark = (
                {"marker": "|", "color": THEORY, "markersize": 11}
                if curve.kind == "theory"
                else {"marker": "o", "color": next(colors)}
            )
            axes.plot(y, range(len(y)), linestyle="none", label=label, **mark)
            axes.set_yticks(range(len(y)), [shown(name) for name in x])
        elif curve.kind == "points":
            axes.plot(x, y, "o", color=next(colors), label=label, alpha=0.8, markersize=4)
        else:
            keep = np.unique(np.linspace(0, len(y) - 1, min(len(y), MOST)).astype(int))
            style = (
                {"color": THEORY, "linestyle": next(dashes), "linewidth": 1.1}
                if curve.kind == "theory"
                else {"color": next(colors)}
            )
            axes.plot(np.asarray(x, float)[keep], y[keep], label=label, **style)
    axes.set(xlabel=shown(panel.x), ylabel=shown(panel.y))
    if _named(panel):
        axes.set(xlabel=shown(panel.y), ylabel="")
        axes.invert_yaxis()
    for name in panel.log:
        getattr(axes, f"set_{name}scale")("log")
        axis, (low, high) = getattr(axes, f"{name}axis"), getattr(axes, f"get_{name}lim")()
        locator = require("matplotlib.ticker", "drawing figures")
        axis.set_major_locator(
            locator.LogLocator(subs=(1.0, 2.0, 5.0) if high < 50 * low else (1.0,), numticks=6)
        )
        axis.set_minor_locator(locator.NullLocator())
        axis.set_major_formatter(lambda value, _: _ticked(value))
    if any(curve.label for curve in panel.curves):
        axes.legend(
            fontsize=7,
            loc="best" if sum(len(curve.y) for curve in panel.curves) < 4000 else "upper right",
            framealpha=0.6,
        )

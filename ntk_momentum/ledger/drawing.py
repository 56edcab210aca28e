"""A claim's figure as data: curves in panels, kept beside its evidence. Module `sketch` draws them;
the mathematics needs no plotting."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np


@dataclasses.dataclass(frozen=True)
class Curve:
    """y against x: measured as a line or as points, theory as a dark dashed line. x: numbers, or
    names for categories."""

    x: Any
    y: Any
    label: str
    kind: Literal["line", "points", "theory"]


@dataclasses.dataclass(frozen=True)
class Panel:
    """Axes with their labels; log names the logarithmic ones: "", "x", "y" or "xy"."""

    x: str
    y: str
    curves: tuple[Curve, ...]
    log: str = ""


@dataclasses.dataclass(frozen=True)
class Drawing:
    """Panels side by side, and what they show in a sentence."""

    caption: str
    panels: tuple[Panel, ...]


def line(x: Any, y: Any, label: str = "") -> Curve:
    """What was measured, as a line."""
    return Curve(x, y, label, "line")


def points(x: Any, y: Any, label: str = "") -> Curve:
    """What was measured, as points."""
    return Curve(x, y, label, "points")


def theory(x: Any, y: Any, label: str = "") -> Curve:
    """What is predicted or allowed."""
    return Curve(x, y, label, "theory")


def panel(x: str, y: str, *curves: Curve, log: str = "") -> Panel:
    """One pair of axes."""
    return Panel(x, y, curves, log)


def drawing(caption: str, *panels: Panel) -> Drawing:
    """A figure of one panel or more."""
    return Drawing(" ".join(caption.split()), panels)


def by_name(
    y: str,
    measured: Mapping[str, float],
    predicted: Mapping[str, float] | float | None = None,
    *,
    log: str = "",
) -> Panel:
    """Values of named cases, with what is predicted or allowed for each, or for all of them."""
    names = list(measured)
    curves = [points(names, [float(measured[name]) for name in names], "measured")]
    if predicted is not None:
        allowed = [
            float(predicted[name] if isinstance(predicted, Mapping) else predicted)
            for name in names
        ]
        curves.append(
            theory(names, allowed, "predicted" if isinstance(predicted, Mapping) else "limit")
        )
    return Panel("", y, tuple(curves), log)


def against(x: str, y: str, cases: Mapping[str, tuple[Any, Any, float]]) -> Panel:
    """Clouds of points on logarithmic axes, each with a line of its expected slope through its
    middle: name -> (x, y, slope)."""
    curves = []
    for name, (at, values, slope) in cases.items():
        at, values = np.asarray(at, float), np.asarray(values, float)
        ends = np.array([at.min(), at.max()])
        middle = np.exp(np.mean(np.log(values)) - slope * np.mean(np.log(at)))
        curves += [
            points(at, values, name),
            theory(ends, middle * ends**slope, f"slope {slope:.2g}"),
        ]
    return Panel(x, y, tuple(curves), "xy")

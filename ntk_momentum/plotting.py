"""House style of the figures: one colour per flow throughout, theory as lines, data as points or bands over seeds.

Colours are those of Okabe and Ito, told apart by every kind of colour vision and, in their order, in grey.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from .errors import require

COLORS = {"gradient_flow": "#0072b2", "heavy_ball": "#d55e00", "nesterov": "#009e73"}
CYCLE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
THEORY = "#222222"
MUTED = "#7a7a7a"

FLOW_NAMES = {"gradient_flow": "gradient flow", "heavy_ball": "heavy ball", "nesterov": "Nesterov"}
TIME_LABELS = {
    "gradient_flow": r"time $t = k\eta$",
    "heavy_ball": r"time $t = k\sqrt{\eta}$",
    "nesterov": r"time $t = k\sqrt{\eta}$",
}

STYLE = {
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 7,
    "axes.labelsize": 9,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.handlelength": 1.8,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "mathtext.fontset": "cm",
    "axes.formatter.use_mathtext": True,
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
}


def house_style(plot: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator of a function that returns a Figure: it is drawn, and laid out once, under `STYLE`; nothing global changes."""

    @functools.wraps(plot)
    def styled(*args: Any, **kwargs: Any) -> Any:
        with require("matplotlib", "drawing figures").rc_context(STYLE):
            figure = plot(*args, **kwargs)
            figure.draw_without_rendering()  # ticks read the style when they are first drawn
        return figure

    return styled


def panels(rows: int, columns: int, *, height: float = 2.7, width: float = 7.4, **options: Any) -> tuple[Any, Any]:
    """(figure, axes) of one row or more; `height` is that of a row, in inches. No pyplot: nothing to close."""
    figure_module = require("matplotlib.figure", "drawing figures")
    figure = figure_module.Figure(figsize=(width, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def flow_kind(label: str) -> str:
    """The kind of flow behind an ensemble's label, e.g. "heavy_ball" of "heavy_ball b=0.25"."""
    return label.split()[0]


def flow_color(label: str) -> str:
    """The project's colour of a flow or of its discrete twin, by label."""
    return COLORS.get(flow_kind(label).replace("gradient_descent", "gradient_flow"), MUTED)


def flow_handles(labels: Iterable[str]) -> tuple[list[Any], list[str]]:
    """Handles and names for a legend of flows shared by several panels."""
    lines = require("matplotlib.lines", "drawing figures")
    handles = [lines.Line2D([], [], color=flow_color(label), marker="o", linewidth=1) for label in labels]
    return handles, [FLOW_NAMES.get(flow_kind(label), label) for label in labels]


def shades(color: str, count: int) -> list[str]:
    """`count` tones of one colour, from light to full: smaller to larger widths."""
    colors = require("matplotlib.colors", "drawing figures")
    full = np.asarray(colors.to_rgb(color))
    return [colors.to_hex(1 - weight * (1 - full)) for weight in np.linspace(0.35, 1.0, count)] if count > 1 else [color]


def band(axes: Any, x: Any, samples: Any, *, color: str, label: str | None = None, points: bool = False, **options: Any) -> None:
    """Median over seeds with the range from smallest to largest shaded. samples: (seed, x). points: markers for a coarse x."""
    samples = np.asarray(samples, float)
    style = {"marker": "o", "linestyle": "none"} if points else {}
    axes.plot(x, np.median(samples, axis=0), color=color, label=label, **style, **options)
    if samples.shape[0] > 1:
        axes.fill_between(x, samples.min(axis=0), samples.max(axis=0), color=color, alpha=0.22, linewidth=0)


def power_law(x: Any, samples: Any) -> tuple[float, float, float]:
    """(slope, half width of its 95% interval, prefactor) of y = c x^slope, fitted on logarithms. samples: (seed, x).

    One slope per seed, then Student's interval over seeds: runs that share a seed across x may be dependent. NaN for one seed.
    """
    stats = require("scipy.stats", "confidence intervals")
    logs, samples = np.log(np.asarray(x, float)), np.log(np.atleast_2d(np.asarray(samples, float)))
    slopes, offsets = np.polyfit(logs, samples.T, 1)
    count = slopes.size
    half = stats.t.ppf(0.975, count - 1) * slopes.std(ddof=1) / np.sqrt(count) if count > 1 else np.nan
    return float(slopes.mean()), float(half), float(np.exp(offsets.mean()))


def with_interval(value: float, half: float, digits: int = 2) -> str:
    """ "-0.50 ± 0.01", without the interval when there is none."""
    return f"{value:.{digits}f}" + (f" ± {half:.{digits}f}" if np.isfinite(half) else "")


def power_ticks(axis: Any, values: Any) -> None:
    """Label a logarithmic axis at these values only, written out in full."""
    ticker = require("matplotlib.ticker", "drawing figures")
    axis.set_major_locator(ticker.FixedLocator(list(values)))
    axis.set_major_formatter(ticker.FuncFormatter(_in_full))
    axis.set_minor_locator(ticker.NullLocator())


def log_ticks(axis: Any) -> None:
    """Label a logarithmic axis of few decades at 1, 2 and 5 times the powers of ten, written out in full."""
    ticker = require("matplotlib.ticker", "drawing figures")
    axis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(ticker.FuncFormatter(_in_full))
    axis.set_minor_locator(ticker.NullLocator())


def _in_full(value: Any, _: Any) -> str:
    return f"{value:,.0f}".replace(",", "\u2009") if value >= 1 else f"{value:g}"

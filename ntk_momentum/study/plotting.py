"""House style of the figures: one colour per flow throughout, theory as lines, data as points or
bands over seeds.

Colours are those of Okabe and Ito, told apart by every kind of colour vision. Printed in grey, two
of them are alike: each has a marker of its own.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import numpy as np

from ..errors import require

COLORS = {"gradient_flow": "#0072b2", "heavy_ball": "#d55e00", "nesterov": "#009e73"}
CYCLE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKER_OF = dict(zip(CYCLE, "os^DvP", strict=True))
THEORY = "#222222"
MUTED = "#7a7a7a"
ON_MAP = "#fffffe"
"""White upon a map of colours: not a grey, which a dark page would turn round."""

FLOW_NAMES = {"gradient_flow": "gradient flow", "heavy_ball": "heavy ball", "nesterov": "Nesterov"}
TIME_LABELS = {
    "gradient_flow": r"time $t = k\eta$",
    "heavy_ball": r"time $t = k\sqrt{\eta}$",
    "nesterov": r"time $t = k\sqrt{\eta}$",
}
NATURAL_TIME = {
    "gradient_flow": r"$\lambda_0 t$, with $t = k\eta$",
    "heavy_ball": r"$\sqrt{\lambda_0}\,t$, with $t = k\sqrt{\eta}$",
    "nesterov": r"$\sqrt{\lambda_0}\,t$, with $t = k\sqrt{\eta}$",
}
"""Time in the unit in which a flow forgets its start, 1/lambda_0 or 1/sqrt(lambda_0): flows side by
side are compared in it."""

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
    "savefig.format": "svg",
}


def chosen() -> dict[str, Any]:
    """What the user has set in this process, as by `plt.style.use("ntk_momentum.paper")`: it goes
    before the house's style and the figures' own width."""
    matplotlib = require("matplotlib", "drawing figures")
    now, before = matplotlib.rcParams, matplotlib.rcParamsOrig
    return {key: now[key] for key in (*STYLE, "figure.figsize") if now[key] != before[key]}


def house_style(
    plot: Callable[..., Any], more: Mapping[str, Any] | None = None
) -> Callable[..., Any]:
    """Decorator of a function that returns a Figure: it is drawn, and laid out once, under `STYLE`,
    what the user has set and what is `more`; nothing global changes. Panels are stacked where the
    user's figures are less than 5 inches wide."""

    @functools.wraps(plot)
    def styled(*args: Any, **kwargs: Any) -> Any:
        own = chosen()
        narrow = more is None and "figure.figsize" in own and own["figure.figsize"][0] < 5
        context = require("matplotlib", "drawing figures").rc_context
        with context({**STYLE, **own, **(more or {})}), stacked() if narrow else context():
            figure = plot(*args, **kwargs)
            for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
                low, high = axis.get_view_interval()
                if axis.get_scale() == "log" and axis.isDefault_majloc and high < 300 * low:
                    log_ticks(axis)  # else 2 x 10^1, 3 x 10^1 and so on overlap
            _mark(figure)
            # Ticks read the style, and panels their places, when they are first drawn: once, and as
            # for SVG, so that the formulas parsed here are those that are written.
            dpi = figure.dpi
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
            figure.dpi = dpi
        return figure

    return styled


def _mark(figure: Any) -> None:
    """In a panel of several colours of the cycle and of no other, each has its own marker: in place
    of dots, and on solid curves, where these share no point."""
    line = require("matplotlib.lines", "drawing figures").Line2D
    marked: set[str] = set()
    for axes in figure.axes:
        drawn = [one for one in axes.lines if one.get_color() not in (THEORY, MUTED, ON_MAP)]
        tones = list(dict.fromkeys(one.get_color() for one in drawn))
        if len(tones) < 2 or not MARKER_OF.keys() >= set(tones):
            continue
        marked |= set(tones)
        dots = {one.get_color() for one in drawn if one.get_marker() == "o"}
        for one in drawn:
            color = one.get_color()
            if color not in dots and _solid(one) and one.get_linewidth() > 1:
                start = 0.15 * (0.5 + tones.index(color) / len(tones))
                one.set(marker=MARKER_OF[color], markevery=_spaced(axes, one, start, 0.15))
        handles = axes.get_legend().get_lines() if axes.get_legend() else []
        _mark_dots([*drawn, *handles], handles if not dots else [])
    for legend in figure.legends:
        handles = [one for one in legend.findobj(line) if one.get_color() in marked]
        _mark_dots(handles, handles)


def _spaced(axes: Any, one: Any, start: float, apart: float) -> list[int]:
    """Points of a curve at these shares of the axis below, and not of its own length, by which one
    that oscillates is crowded."""
    points, _ = np.asarray(one.get_xydata(), float), axes.get_xlim()  # limits are found when asked
    with np.errstate(all="ignore"):  # what a logarithmic axis cannot show
        across = (axes.transData - axes.transAxes).transform(points)[:, 0]
    wanted = np.arange(start, 1, apart)
    inside = np.flatnonzero(np.isfinite(points).all(axis=1) & (across >= 0) & (across <= 1))
    if not len(inside):
        return []
    near = np.argmin(np.abs(across[inside, None] - wanted), axis=0)
    close = np.abs(across[inside][near] - wanted) < apart / 2  # the curve may end before
    return sorted({int(inside[k]) for k in near[close]})


def _solid(one: Any) -> bool:
    return (one.get_linestyle(), one.get_marker()) == ("-", "None")


def _mark_dots(lines: Iterable[Any], bare: list[Any]) -> None:
    """Markers by colour, in place of dots, and on what is solid among `bare`."""
    for one in lines:
        if one.get_color() in MARKER_OF and (
            one.get_marker() == "o" or (one in bare and _solid(one))
        ):
            one.set_marker(MARKER_OF[one.get_color()])


_STACKED: ContextVar[bool] = ContextVar("_STACKED", default=False)


@contextlib.contextmanager
def stacked() -> Iterator[None]:
    """Within this, `panels` stand one below the other, as wide as a phone: nothing to scroll."""
    token = _STACKED.set(True)
    try:
        yield
    finally:
        _STACKED.reset(token)


def panels(
    rows: int, columns: int, *, height: float = 2.7, width: float | None = None, **options: Any
) -> tuple[Any, Any]:
    """(figure, axes) of one row or more; `height` is that of a row, in inches, `width` that of a
    page (7.4) or what the user has set. No pyplot: nothing to close."""
    figure_module = require("matplotlib.figure", "drawing figures")
    own = chosen().get("figure.figsize", (None,))[0]
    width = width or own or 7.4
    if not _STACKED.get():
        figure = figure_module.Figure(figsize=(width, height * rows), layout="constrained")
        return figure, figure.subplots(rows, columns, **options)
    count, squeeze = rows * columns, options.pop("squeeze", True)
    sharing = {axis: options.get(f"share{axis}", False) for axis in "xy"}
    figure = figure_module.Figure(figsize=(min(own or 3.7, 3.7), 2.8 * count), layout="constrained")
    grid = np.empty((rows, columns), object)
    for place in np.ndindex(rows, columns):
        # of what shares an axis, the first has it; labels stay on all
        first = {"row": (place[0], 0), "col": (0, place[1])}
        others = {
            f"share{axis}": grid[first.get(how, (0, 0))] for axis, how in sharing.items() if how
        }
        at = place[0] * columns + place[1] + 1
        grid[place] = figure.add_subplot(count, 1, at, **others)
    shape = [size for size in grid.shape if size > 1 or not squeeze]
    return figure, grid.reshape(shape) if shape else grid[0, 0]


def labelled(axes: Any) -> list[Any]:
    """Those of a row or column of panels that carry what is said of it: the first; all where panels
    are stacked."""
    return list(axes) if _STACKED.get() else [axes[0]]


def flow_kind(label: str) -> str:
    """The kind of flow behind an ensemble's label, e.g. "heavy_ball" of "heavy_ball b=0.25"."""
    return label.split()[0]


def flow_color(label: str) -> str:
    """The project's colour of a flow or of its discrete twin, by label."""
    return COLORS.get(flow_kind(label).replace("gradient_descent", "gradient_flow"), MUTED)


def flow_handles(labels: Iterable[str]) -> tuple[list[Any], list[str]]:
    """Handles and names for a legend of flows shared by several panels."""
    lines = require("matplotlib.lines", "drawing figures")
    handles = [
        lines.Line2D([], [], color=flow_color(label), marker="o", linewidth=1) for label in labels
    ]
    return handles, [FLOW_NAMES.get(flow_kind(label), label) for label in labels]


def legend_below(figure: Any, entries: tuple[Any, Any], columns: int) -> None:
    """One legend for all panels, below them; two columns where the panels are stacked. entries:
    handles and labels."""
    columns = min(columns, 2) if _STACKED.get() else columns
    figure.legend(*entries, loc="outside lower center", ncols=columns)


def shades(color: str, count: int) -> list[str]:
    """`count` tones of one colour, from light to full: smaller to larger widths."""
    colors = require("matplotlib.colors", "drawing figures")
    full = np.asarray(colors.to_rgb(color))
    return (
        [colors.to_hex(1 - weight * (1 - full)) for weight in np.linspace(0.35, 1.0, count)]
        if count > 1
        else [color]
    )


def band(
    axes: Any,
    x: Any,
    samples: Any,
    *,
    color: str,
    label: str | None = None,
    points: bool = False,
    middle: str = "median",
    spread: str = "range",
    **options: Any,
) -> None:
    """Median (or mean) over seeds, shaded from the smallest to the largest (or between "quartiles",
    over the 95 % "interval" of the mean, or "none"). samples: (seed, x). points: markers for a
    coarse x."""
    samples = np.asarray(samples, float)
    style = {"marker": "o", "linestyle": "none"} if points else {}
    line = np.mean(samples, axis=0) if middle == "mean" else np.median(samples, axis=0)
    axes.plot(x, line, color=color, label=label, **style, **options)
    if samples.shape[0] > 1 and spread != "none":
        axes.fill_between(x, *_edges(samples, spread), color=color, alpha=0.22, linewidth=0)


def _edges(samples: np.ndarray, spread: str) -> tuple[np.ndarray, np.ndarray]:
    """The lower and the upper edge of a band over seeds."""
    if spread == "quartiles":
        low, high = np.quantile(samples, [0.25, 0.75], axis=0)
        return low, high
    if spread == "interval":
        count = len(samples)
        share = require("scipy.stats", "confidence intervals").t.ppf(0.975, count - 1)
        half = share * samples.std(axis=0, ddof=1) / np.sqrt(count)
        return samples.mean(axis=0) - half, samples.mean(axis=0) + half
    return samples.min(axis=0), samples.max(axis=0)


def prediction(axes: Any, x: Any, samples: Any, *, color: str) -> None:
    """The median over seeds of what theory says, dashed; a cross where it ends, having left the
    frame above the limit of stability. samples: (seed, x), NaN from there."""
    middle = np.median(np.asarray(samples, float), axis=0)
    axes.plot(x, middle, color=color, linestyle="--", linewidth=1)
    there = np.flatnonzero(np.isfinite(middle))
    if 0 < there.size < middle.size:
        at = np.asarray(x)[there[-1]], middle[there[-1]]
        axes.plot(*at, color=color, marker="x", linestyle="none", label="_")


def power(slope: float, half: float = np.nan) -> str:
    """A fitted power of m, for a legend; "-" where there is no slope."""
    if np.isnan(slope):
        return "-"
    return f"$m^{{{with_interval(slope, half)}}}$".replace("±", r"\pm")


def frame(axes: Any, runs: Any) -> None:
    """A logarithmic axis that holds what was measured, with half a decade to spare, wherever a
    prediction goes."""
    values = np.asarray(runs, float)
    values = values[np.isfinite(values) & (values > 0)]
    axes.set_yscale("log")
    if values.size:
        axes.set_ylim(values.min() / 3, values.max() * 3)


def power_law(x: Any, samples: Any, least: int = 4) -> tuple[float, float, float]:
    """(slope, half width of its 95% interval, prefactor) of y = c x^slope, fitted on logarithms.
    samples: (seed, x). NaN of fewer than `least` points: three lie on too many curves.

    One slope per seed, then Student's interval over seeds: runs that share a seed across x may be
    dependent. NaN for one seed.
    """
    stats = require("scipy.stats", "confidence intervals")
    logs, samples = np.log(np.asarray(x, float)), np.log(np.atleast_2d(np.asarray(samples, float)))
    if logs.size < least:
        return (np.nan,) * 3
    slopes, offsets = np.polyfit(logs, samples.T, 1)
    count = slopes.size
    half = (
        stats.t.ppf(0.975, count - 1) * slopes.std(ddof=1) / np.sqrt(count) if count > 1 else np.nan
    )
    return float(slopes.mean()), float(half), float(np.exp(offsets.mean()))


def with_interval(value: float, half: float, digits: int = 2) -> str:
    """ "-0.50 ± 0.01", without the interval when there is none; words where there is no slope."""
    if np.isnan(value):
        return "too few points to tell"
    return f"{value:.{digits}f}" + (f" ± {half:.{digits}f}" if np.isfinite(half) else "")


def few(values: np.ndarray) -> np.ndarray:
    """The first, the last and the value nearest to the middle of a logarithmic axis: ticks that do
    not overlap."""
    middle = np.argmin(np.abs(np.log(values) - np.log(values[0] * values[-1]) / 2))
    return np.unique(values[np.array([0, middle, -1])])


def power_ticks(axis: Any, values: Any) -> None:
    """Label a logarithmic axis at these values only, written out in full."""
    ticker = require("matplotlib.ticker", "drawing figures")
    axis.set_major_locator(ticker.FixedLocator(list(values)))
    axis.set_major_formatter(ticker.FuncFormatter(_in_full))
    axis.set_minor_locator(ticker.NullLocator())


def log_ticks(axis: Any) -> None:
    """Label a logarithmic axis at powers of ten, in full; where its data, or the limits set for it,
    span less than two decades, at 3 times these too, less than one, at 2 and 5 times."""
    ticker = require("matplotlib.ticker", "drawing figures")
    chosen = not getattr(axis.axes, f"get_autoscale{axis.axis_name}_on")()
    low, high = axis.get_view_interval() if chosen else axis.get_data_interval()
    wide = high > 10 * low > 0
    between = (1.0,) if high > 100 * low > 0 else (1.0, 3.0) if wide else (1.0, 2.0, 5.0)
    locator = ticker.LogLocator(subs=between)
    axis.set_major_locator(ticker.MaxNLocator(4) if 0 < high < 3 * low else locator)
    axis.set_major_formatter(ticker.FuncFormatter(_in_full))
    axis.set_minor_locator(ticker.NullLocator())


def _in_full(value: Any, _: Any) -> str:
    return f"{value:,.0f}".replace(",", "\u2009") if value >= 100 else f"{value:g}"

"""How the authors' published experiments are drawn: what `_published` returns, in three panels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ntk_momentum.study import notation, plotting


def widths(ds: Any, limits: Iterable[float], colors: Iterable[str], color: str) -> Any:
    """A data set of `against_width` in three panels; limits: of eta lambda_max, one for each
    algorithm, dashed; those of one limit, dash by dash.

    Dotted: the width at which the median eta lambda_max meets that limit. Dash-dotted: the loss
    that the kernel after the first steps foretells. Crosses: eta lambda_max at the end.
    """
    figure, (loss, top, paper) = plotting.panels(1, 3, height=3.2)
    stiffness = ds.stiffness.transpose("seed", "width")
    limits = list(limits)
    for k, (name, limit, tone) in enumerate(zip(ds.algorithm.values, limits, colors, strict=True)):
        equal = [at for at, other in enumerate(limits) if abs(other / limit - 1) < 0.02]
        dashes = (4 * equal.index(k), (4, 4 * len(equal) - 4 or 3))
        plotting.band(
            loss,
            ds.width,
            ds.mse.sel(algorithm=name).transpose("seed", "width"),
            color=tone,
            label=notation.shown(str(name)),
            marker="o",
        )
        later = ds.foretold.sel(algorithm=name).median("seed")
        loss.plot(ds.width, later, color=tone, linestyle=(0, (3, 1, 1, 1)), linewidth=1)
        settled = ds.settled.sel(algorithm=name).median("seed")
        top.plot(ds.width, settled, color=tone, marker="x", linewidth=0.8)
        top.axhline(limit, color=tone, linestyle=dashes, linewidth=1)
        loss.axvline(
            np.interp(limit, stiffness.median("seed"), ds.width, left=np.nan, right=np.nan),
            color=tone,
            linestyle=":",
            linewidth=1,
        )
    plotting.band(top, ds.width, stiffness, color=plotting.THEORY, marker="o")
    plotting.band(
        paper, ds.lazy_width, ds.ratio.transpose("seed", "lazy_width"), color=color, marker="o"
    )
    paper.axhline(1, color=plotting.THEORY, linestyle="--", linewidth=1)
    plotting.frame(loss, ds.mse)
    loss.set(
        title=f"authors' scaling, epoch {ds.attrs['epoch']}",
        ylabel="mean squared error",
    )
    top.set(title="authors' scaling", ylabel=r"$2\eta\lambda_{\max}/n$", yscale="log")
    paper.set(title=r"the paper's scaling, $m^{-1/2}$", ylabel="run / its kernel's prediction")
    for axes in (loss, top, paper):
        axes.set(xscale="log", xlabel="width $m$")
        plotting.power_ticks(axes.xaxis, plotting.few(ds.width.values))
    for axes in (loss, top):
        plotting.log_ticks(axes.yaxis)
    plotting.legend_below(figure, loss.get_legend_handles_labels(), ds.sizes["algorithm"])
    return figure


def epochs(ds: Any, colors: Iterable[str], local: Callable[[Any], tuple[Any, Any]]) -> Any:
    """A data set of `against_epoch` in three panels: the loss in both parametrisations,
    and the local slope in the paper's.

    local: from a curve to (steps, slope). Solid and shaded: runs; dashed: predictions; dash-dotted:
    those of the kernel later. Returns (figure, axes).
    """
    figure, row = plotting.panels(1, 3, height=3.3, width=8.4)
    titles = (
        "authors' parametrisation",
        "the paper's, hidden layer trained",
        "local slope, the paper's",
    )
    for name, color in zip(ds.algorithm.values, colors, strict=True):
        for axes, scaling in zip(row, ds.scaling.values, strict=False):
            one = ds.mse.sel(scaling=scaling, algorithm=name).isel(epoch=slice(1, None))
            plotting.band(
                axes, one.epoch, one.sel(curve="run"), color=color, label=notation.shown(str(name))
            )
            plotting.prediction(axes, one.epoch, one.sel(curve="prediction"), color=color)
            if one.sel(curve="prediction").isnull().any():
                later = one.sel(curve="settled").median("seed")
                axes.plot(one.epoch, later, color=color, linestyle=(0, (3, 1, 1, 1)), linewidth=1)
        for curve, style in (("run", "-"), ("prediction", "--")):
            one = ds.mse.sel(scaling="paper", algorithm=name, curve=curve).median("seed")
            row[2].plot(
                *local(one), color=color, linestyle=style, linewidth=1.4 if style == "-" else 1
            )
    for axes, title in zip(row, titles, strict=True):
        axes.set(title=title, xlabel="epoch (step)")
    row[2].sharex(row[1])
    for axes in plotting.labelled(row[:2]):
        axes.set_ylabel(f"mean squared error\n{ds.attrs['data']}, m = {ds.attrs['width']}")
    for axes, scaling in zip(row, ds.scaling.values, strict=False):
        one = ds.sel(scaling=scaling)
        plotting.frame(axes, one.mse.sel(curve="run"))
        if one.mse.sel(curve="prediction").isnull().any():
            start, ends = float(one.top[..., 0].max()), one.top[..., 1].median("seed")
            told = f"{float(ends.min()):.2g} to {float(ends.max()):.2g} at the end"
            axes.text(
                0.97,
                0.97,
                "predictions of $H(0)$ leave the frame:\n"
                rf"$2\eta\lambda_{{\max}}/n$ = {start:.2g} at the start,"
                f"\n{told}",
                transform=axes.transAxes,
                va="top",
                ha="right",
                fontsize=7,
                color=plotting.MUTED,
            )
    plotting.legend_below(figure, row[0].get_legend_handles_labels(), ds.sizes["algorithm"])
    return figure, row


def decades(
    ds: Any,
    colors: Iterable[str],
    local: Callable[[Any], tuple[Any, Any]],
    limits: Iterable[float],
) -> Any:
    """`epochs` with the slope in decades per 1000 steps; limits: what it tends to for each
    algorithm, dotted."""
    colors, limits = list(colors), list(limits)
    figure, row = epochs(ds, colors, local)
    for limit, color in zip(limits, colors, strict=True):
        row[2].axhline(limit, color=color, linestyle=":", linewidth=1.2)
    row[2].set(ylabel="decades per 1000 steps", ylim=(lowest(row[2], limits), 0))
    return figure


def lowest(axes: Any, limits: list[float]) -> float:
    """The lower end of an axis of slopes: those drawn, but none far below what they tend to."""
    drawn = np.concatenate([line.get_ydata() for line in axes.lines])
    return max(2.5 * min(limits), 1.1 * float(np.nanmin([*drawn, *limits])))

"""Figures of sweeps: a read-out against time, as `ntk-momentum plot` draws it."""

from __future__ import annotations

import dataclasses
import itertools
import textwrap
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import InputError, require, unknown_name
from .plotting import (
    CYCLE,
    FLOW_NAMES,
    TIME_LABELS,
    band,
    flow_color,
    house_style,
    legend_below,
    panels,
    shades,
)

PANEL_INCHES = 2.2
"""Inches of a panel below which a legend of flows and widths inside it would hide the curves."""


@dataclasses.dataclass(frozen=True)
class Look:
    """How sweeps are drawn, as `ntk-momentum plot` has it."""

    middle: str = "median"
    band: str = "range"
    overlay: bool = False
    inches: tuple[float, float] | None = None
    style: str | None = None
    title: str | None = None

    def __post_init__(self) -> None:
        if self.band == "interval" and self.middle != "mean":
            raise InputError("--band interval is that of the mean; give --middle mean with it.")
        if self.inches is not None and not all(0.5 <= side <= 100 for side in self.inches):
            raise InputError(
                f"--inches must be from 0.5 to 100, got {self.inches[0]:g} {self.inches[1]:g}; "
                "try --inches 3.25 2.4."
            )
        self.rc()

    def rc(self) -> dict[str, Any]:
        """Matplotlib's parameters of the style, on top of the house's."""
        style = require("matplotlib.style", "drawing figures")
        matplotlib = require("matplotlib", "drawing figures")
        if self.style is None:
            return {}
        ours = f"ntk_momentum.{self.style}" if self.style in ("paper", "talk") else self.style
        try:
            with matplotlib.rc_context():
                matplotlib.rcdefaults()
                before = dict(matplotlib.rcParams)
                style.use(ours)
                return {k: v for k, v in matplotlib.rcParams.items() if v != before[k]}
        except OSError:
            raise unknown_name("style", self.style, ["paper", "talk", *style.available]) from None


def draw_sweep(dataset: Any, name: str, look: Look) -> Any:
    """A read-out against time: a panel for each data set and flow, a band over seeds for each
    width."""

    flows = [str(flow) for flow in dataset.flow.values]
    plain_colors = [flow_color(str(kind)) for kind in dataset.kind.values]
    twins = look.overlay and len(set(plain_colors)) < len(flows)  # told apart in one panel
    colors = list(itertools.islice(itertools.cycle(CYCLE), len(flows))) if twins else plain_colors

    def curve(axes: Any, place: dict[str, int]) -> None:
        """The runs of a flow on a data set."""
        samples_by_width = dataset[name].isel(place).transpose("width", "seed", "step").values
        time, at = dataset.time.isel(place).values, place["flow"]
        tones = shades(colors[at], len(samples_by_width))
        for width, samples, color in zip(
            dataset.width.values, samples_by_width, tones, strict=True
        ):
            samples = samples[np.isfinite(samples).any(axis=1)]
            if samples.size:
                label = f"{_flow_name(flows[at])}, {width}" if look.overlay else f"width {width}"
                band(
                    axes,
                    time,
                    samples,
                    color=color,
                    label=label,
                    middle=look.middle,
                    spread=look.band,
                )

    def _flow_name(flow: str) -> str:
        kind, _, given = flow.partition(":")
        return FLOW_NAMES.get(kind, kind.replace("_", " ")) + (f" {given}" if given else "")

    def figure() -> Any:
        groups: dict[Any, list[dict[str, int]]] = {}
        for place in places_in(dataset, ("flow",)):
            if np.isfinite(dataset.time.isel(place).values).any():
                unit = TIME_LABELS.get(str(dataset.kind.values[place["flow"]]), "time $t$")
                by = unit if look.overlay else place["flow"]
                rest = tuple((key, at) for key, at in place.items() if key != "flow")
                groups.setdefault((rest, by), []).append(place)
        columns = len({by for _, by in groups})
        columns = min(len(groups), max(2, columns) if columns <= 4 else 3)
        count = -(-len(groups) // columns)
        width, height = look.inches or (7.4, 2.6 * count)
        sheet, grid = panels(
            count, columns, width=width, height=height / count, squeeze=False, sharey="row"
        )
        below = look.overlay and width / columns < PANEL_INCHES
        for axes, cell in itertools.zip_longest(grid.flat, groups.values()):
            if cell is None:
                axes.set_visible(False)
                continue
            for place in cell:
                curve(axes, place)
            place = cell[0]
            where = [
                str(dataset[dim].values[at])
                for dim, at in place.items()
                if dim == "data" and dataset.sizes["data"] > 1
            ]
            where += (
                [f"{key} {dataset[key].values[place['variant']]}" for key in differing(dataset)]
                if "variant" in place
                else []
            )
            kind = str(dataset.kind.values[place["flow"]])
            axes.set(
                title=textwrap.fill(
                    ", ".join(where if look.overlay else [*where, flows[place["flow"]]]),
                    max(12, int(12 * width / columns)),  # letters of 6 points
                ),
                xlabel=TIME_LABELS.get(kind, "time $t$"),
                ylabel=name.replace("_", " "),
            )
            shown = np.concatenate([np.ravel(dataset[name].isel(place).values) for place in cell])
            shown = shown[np.isfinite(shown)]
            axes.set_yscale(
                "log"
                if shown.size and (shown > 0).all() and shown.max() > 10 * shown.min()
                else "linear"
            )
            if not below:
                axes.legend()
        if below:
            entries = [axes.get_legend_handles_labels() for axes in grid.flat]
            told = {label: one for pair in entries for one, label in zip(*pair, strict=True)}
            legend_below(sheet, (list(told.values()), list(told)), 2)
        if look.title is not None:
            sheet.suptitle(look.title)
        return sheet

    return house_style(figure, look.rc())()


def places_in(dataset: Any, dims: tuple[str, ...]) -> Iterator[dict[str, int]]:
    """Every combination of places along variant, data and the named dimensions."""
    names = [dim for dim in ("variant", "data", *dims) if dim in dataset.sizes]
    for place in itertools.product(*(range(dataset.sizes[name]) for name in names)):
        yield dict(zip(names, place, strict=True))


def differing(dataset: Any) -> list[str]:
    """The settings that tell variants apart."""
    return [str(name) for name, values in dataset.coords.items() if values.dims == ("variant",)]

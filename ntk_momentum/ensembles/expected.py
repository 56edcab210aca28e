"""What an ensemble will take, before it starts: short runs of its own plan, timed and scaled."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

from . import program
from .axes import kinds
from .units import Plan, Unit

PART = 10
"""The part of the times, one in so many, that a timed run reaches."""


def expected_seconds(made: Plan, units: Sequence[Unit]) -> float:
    """Seconds that these units of a plan will take on this machine, within a factor of two or so.

    For each kind of flow one run of the narrowest network is solved to a tenth of its time, twice:
    the difference of the two is the time to compile, which each program takes once, and the second
    is scaled to the whole time and with the number of neurons. Steps are assumed to be equally
    long, a run's time to grow with its neurons, and runs to take turns on their device.
    """
    seconds = 0.0
    for members in kinds(made.flows):
        mine = [unit for unit in units if unit.flows[0] in members]
        if not mine:
            continue
        run, compiling, width = _timed(made, mine)
        programs = {(unit.padded, unit.size) for unit in mine}
        seconds += compiling * len(programs)
        for unit in mine:
            devices = made.over.size if unit.layout == "runs" else 1
            seconds += run * -(-unit.size // devices) * unit.padded / width
    return seconds


def _timed(made: Plan, units: Sequence[Unit]) -> tuple[float, float, int]:
    """(seconds of a whole run, seconds of compiling, neurons) of the narrowest network."""
    unit, j = min(
        ((unit, j) for unit in units for j in unit.widths), key=lambda pair: made.widths[pair[1]]
    )
    saved = max(2, -(-made.ts.shape[-1] // PART))
    few = dataclasses.replace(made, ts=made.ts[..., :saved])
    alone = dataclasses.replace(
        unit, flows=unit.flows[:1], widths=(j,), seeds=unit.seeds[:1], padded=made.widths[j], size=1
    )
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        program.run_batch(few.batch(alone), program.How("map", 1, "runs", None))
        seconds.append(time.perf_counter() - start)
    times = made.ts[unit.data, unit.flows[0]]
    return (
        seconds[1] * float(times[-1] / times[saved - 1]),
        max(0.0, seconds[0] - seconds[1]),
        made.widths[j],
    )

"""The programs of a plan, compiled side by side while its units run.

XLA compiles a program mostly on one core and lets Python go on meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from . import program
from .axes import kinds
from .units import Plan, Unit

AT_ONCE = 4
"""Programs on their way at once: compiling one takes some hundred MB."""


def ready(made: Plan) -> Iterator[Unit]:
    """The units of a plan in their order, each when its program is compiled, with those of the next
    ones on their way in other threads; raises what compiling raises.

    Nothing is compiled ahead where all units share one program, where there is one core, where
    several processes share the devices or runs are compacted, window by window; nor off CPUs, where
    compiling tries kernels in the memory that the units of a plan may fill.
    """
    kind = {i: k for k, members in enumerate(kinds(made.flows)) for i in members}
    firsts: dict[Hashable, Unit] = {}
    for unit in made.units:
        firsts.setdefault(_program(made, unit, kind), unit)
    room = min(AT_ONCE, os.cpu_count() or 1, len(firsts))
    ours = made.over.devices.flat[0].platform == "cpu" and not made.over.is_multi_process
    if room == 1 or not ours or made.strategy == "compacted":
        yield from made.units
        return
    coming, on_their_way = iter(firsts.items()), dict[Hashable, Future[Any]]()
    with ThreadPoolExecutor(room, "compile") as pool:
        for unit in made.units:
            mine = _program(made, unit, kind)
            while mine not in on_their_way or _unfinished(on_their_way) < room:
                key, first = next(coming, (None, None))
                if first is None:
                    break
                # traced here, where the caller's settings of JAX hold
                lowered = program.lowered(made.batch(first), made.how(first))
                on_their_way[key] = pool.submit(lowered.compile)
            on_their_way[mine].result()
            yield unit


def _unfinished(futures: dict[Hashable, Future[Any]]) -> int:
    return sum(not future.done() for future in futures.values())


def _program(made: Plan, unit: Unit, kind: dict[int, int]) -> Hashable:
    """What tells the programs of a plan's units apart."""
    X, y = made.data[unit.data].X, made.data[unit.data].y
    flows = kind[unit.flows[0]], len(unit.flows)
    return (X.shape, X.dtype, y.shape, *flows, unit.widths, unit.padded, unit.size, unit.lanes)

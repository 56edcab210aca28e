"""Units of a plan: buckets of widths that share a program, and as many runs together as fit.

Widths are bucketed so that padding to the widest wastes less than a quarter; memory is counted
before anything is compiled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ..data import Dataset
from ..dynamics import peaks
from ..dynamics.readout import as_table
from ..errors import InputError
from . import program
from .axes import flow_values, kinds
from .units import Plan, Unit

WASTE = 0.25
"""Padding is less than this share of a padded network, or adds little (`SPARE`). Off a CPU it is
less than half of one: there networks are padded to powers of two, so that all sweeps share
programs, which take longer to compile, and idle lanes cost less."""

SPARE = 2**19
"""Preactivations of a sample, over all runs of a program, that padding may add: computing on them
took 1.5 to 3 us each in a whole run (sphere(20, 5), 50 digits), and a program of its own takes 2 to
3 s to compile, while others run (`ahead`)."""


def units_of(made: Plan, unit_runs: int, free: int | float, layout: str | None) -> Iterator[Unit]:
    index = 0
    for d, data in enumerate(made.data):
        for members in kinds(made.flows):
            for bucket, cuts in _bucketed(made, d, members, unit_runs, free, layout):
                for flows, seeds, size, shape in cuts:
                    coordinates = {
                        "data": d,
                        "data_name": data.name,
                        "kind": made.flows[flows[0]].name,
                        "flows": [_values(made, i) for i in flows],
                        "widths": [made.widths[j] for j in bucket],
                        "seeds": [made.seeds[k] for k in seeds],
                        "times": made.ts[d, list(flows)].tolist(),
                        "padded": shape["padded"],
                        "layout": shape["layout"],
                    }
                    yield Unit(
                        index, d, flows, bucket, seeds, size=size, coordinates=coordinates, **shape
                    )
                    index += 1


def buckets(
    widths: Sequence[int], spare: float = 0, doubling: bool = False
) -> list[tuple[int, ...]]:
    """Positions of widths that share a program, from the widest down: each padded by less than a
    quarter of the widest, or all together by at most `spare` neurons; doubling: those that the same
    power of two is next to."""
    if doubling:
        powers = sorted({_power(width) for width in widths}, reverse=True)
        return [tuple(j for j, m in enumerate(widths) if _power(m) == top) for top in powers]
    found: list[list[int]] = []
    for j in sorted(range(len(widths)), key=lambda j: -widths[j]):
        widest = widths[found[-1][0]] if found else 0
        padding = sum(widest - widths[i] for i in (*found[-1], j)) if found else 0
        if found and (widths[j] > (1 - WASTE) * widest or padding <= spare):
            found[-1].append(j)
        else:
            found.append([j])
    return [tuple(sorted(bucket)) for bucket in found]


def _doubling() -> bool:
    return jax.default_backend() != "cpu"


def _power(width: int) -> int:
    """The next power of two."""
    return 1 << (width - 1).bit_length()


def _bucketed(made: Plan, d: int, members: tuple[int, ...], *how: Any) -> list[tuple[Any, Any]]:
    """Buckets of widths, each with its cuts; small nets share one only where their runs fit."""
    cut = lambda found: [(bucket, _cut(made, d, members, bucket, *how)) for bucket in found]
    if not _paddable(made.recipe):
        return cut([(j,) for j in range(len(made.widths))])
    if _doubling():
        return cut(buckets(made.widths, doubling=True))
    try:
        spare = SPARE / (made.data[d].n * len(members) * len(made.seeds))
        return cut(buckets(made.widths, spare))
    except InputError:
        return cut(buckets(made.widths))


def _cut(
    made: Plan,
    d: int,
    members: tuple[int, ...],
    bucket: tuple[int, ...],
    unit_runs: int,
    free: int | float,
    layout: str | None,
) -> list[tuple[tuple[int, ...], tuple[int, ...], int, dict[str, Any]]]:
    """(flows, seeds, size, how) of units with equally many runs, as few as fit. Raises `InputError`
    when one run does not."""
    widest = max(made.widths[j] for j in bucket)
    if _doubling() and _paddable(made.recipe):
        widest = _power(widest)
    trial = Unit(
        0, d, members[:1], bucket, (0,), widest, len(bucket), made.strategy, 1, "runs", 0, {}
    )
    wants = program.needs(made.batch(trial))
    # Rows of flows first, then seeds: flows x widths x seeds <= unit_runs, and every unit holds
    # `size` runs so that all run by one program. Read-outs of a unit stay on the device until its
    # end, so where it does not fit half as many runs may; a single row of widths is the least.
    while True:
        rows = _chunks(members, max(1, unit_runs // len(bucket)))
        parts = _chunks(range(len(made.seeds)), max(1, unit_runs // (len(rows[0]) * len(bucket))))
        size = len(rows[0]) * len(bucket) * len(parts[0])
        shape = _fit(made, made.data[d], wants, widest, size, free, layout)
        if isinstance(shape, dict):
            return [(flows, seeds, size, shape) for flows in rows for seeds in parts]
        if unit_runs <= len(bucket):
            raise shape
        unit_runs //= 2


def _fit(
    made: Plan,
    data: Dataset,
    wants: peaks.Needs,
    widest: int,
    size: int,
    free: int | float,
    layout: str | None,
) -> dict[str, Any] | InputError:
    """Strategy, lanes, layout, padded width and bytes with which so many runs fit into `free` bytes
    on every device, or why they do not."""
    # Runs over devices: each keeps the read-outs of its share of runs to the end and, beside them,
    # what is alive in one run (map) or in as many as there is room for (vmap),
    #     bytes = readouts * ceil(size / devices) + lanes * (total - readouts).
    count = made.over.size
    whole = _peak(made, data, wants, widest, 1)
    each = -(-size // count)
    results, alone = whole.readouts * each, whole.total - whole.readouts
    if layout != "neurons" and results + alone <= free:
        lanes = 1 if made.strategy == "map" else max(1, min(each, int((free - results) // alone)))
        return {
            "padded": widest,
            "strategy": made.strategy,
            "lanes": lanes,
            "layout": "runs",
            "bytes": results + lanes * alone,
        }
    # Neurons over devices: one run after another, every device with an equal share of neurons (zero
    # ones fill it up) and the read-outs of all runs.
    padded = -(-widest // count) * count
    split = _peak(made, data, wants, padded, count)
    needed = split.total + split.readouts * (size - 1)
    splits = made.recipe.model is None  # other models have no neurons that we know of
    if layout == "runs" or (count == 1 and layout is None) or needed > free or not splits:
        best = split if splits and count > 1 and layout != "runs" else whole
        return peaks.refuse(
            f"a run of {widest} neurons on {data.n} samples", best, free, size, splits
        )
    return {"padded": padded, "strategy": "map", "lanes": 1, "layout": "neurons", "bytes": needed}


def _peak(made: Plan, data: Dataset, wants: peaks.Needs, m: int, count: int) -> peaks.Peak:
    """The peak of one run of m neurons, where these can be spread over so many devices."""
    return peaks.peak_of(
        wants,
        samples=data.n,
        p=data.input_size,
        m=m,
        dtype=made.recipe.dtype,
        devices=count,
    )


def _values(made: Plan, i: int) -> dict[str, Any]:
    """A flow in plain values, an optimizer also with what it sees in a step."""
    batch = {} if made.batches is None else {"batch_size": made.batches[i]}
    return flow_values(made.flows[i]) | batch


def _chunks(items: Sequence[int], largest: int) -> list[tuple[int, ...]]:
    """Cut into as few parts as possible, of sizes that differ by at most one."""
    count = -(-len(items) // largest)
    size = -(-len(items) // count)
    return [tuple(items[start : start + size]) for start in range(0, len(items), size)]


def _paddable(recipe: program.Recipe) -> bool:
    """Whether zero neurons stay zero and nobody sees them: read-outs by name, and a frozen output
    layer or sigma(0) = 0."""
    if recipe.model is not None or recipe.where is not None:
        return False
    readouts = {} if recipe.readouts is None else as_table(recipe.readouts)
    if not all(isinstance(readout, str) for readout in readouts.values()):
        return False
    return recipe.trainable in (None, "hidden") or (
        recipe.trainable in ("output", "all") and float(recipe.activation(jnp.zeros(()))) == 0
    )

"""Runs in lock-step without waiting for the slowest: windows of steps, lanes packed between them.

Under `vmap` every run steps until the last has arrived at a saved time, and the whole ensemble
until its last run is done. Here a run stops after a window of K steps at most, is read off if it
has arrived, and goes on to its own next saved time, whatever the others do. Once a quarter of the
lanes are at work the rest are dropped, and those packed into the next power of two. A pause changes
nothing: the solver's state is kept, so steps and numbers are those of the run alone. Only a run
that fails for its number of steps takes all of them, and whether it was creeping is told from its
last window.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..dynamics.run import Run
from ..dynamics.solver.base import CREEPING, MAX_STEPS, Progress
from ..numerics import Numerics
from .program import Batch, Solved, prepared, told_apart_by

WINDOW = 64
"""Steps in a window at most: each costs one read-out of every lane. Chosen, not measured."""
SHRINK = 4
"""Lanes are packed when one in so many is at work: each size is another program to compile. Chosen,
not measured."""


class Lane(NamedTuple):
    """A run on its way: the next saved time by position, steps before the last one, read-outs."""

    row: tuple[Array, ...]
    progress: Progress
    at: Int[Array, "*lanes"]
    before: Int[Array, "*lanes"]
    readouts: dict[str, Array]


def run_compacted(batch: Batch, lanes: int) -> Solved:
    """Every run of a batch, so many at once on one device, as arrays on the host."""
    parts = []
    for start in range(0, batch.seed.size, lanes):
        rows = tuple(row[start : start + lanes] for row in told_apart_by(batch))
        stages = list(_stages(batch, rows))
        found = stages[0][1]
        for places, stage in stages[1:]:
            jax.tree.map(lambda whole, part, at=places: whole.__setitem__(at, part), found, stage)
        parts.append(found)
    return jax.tree.map(lambda *each: np.concatenate(each), *parts)


def _stages(batch: Batch, rows: tuple[Any, ...]) -> Iterator[tuple[np.ndarray, Solved]]:
    """(runs by position, what they have come to) whenever lanes are packed, and at the end."""
    places, saved = np.arange(rows[0].size), batch.times.shape[1]
    lanes = first_lanes(batch, rows)
    while True:
        ends = lanes.progress
        solved = Solved(lanes.readouts, ends.verdict, ends.accepted, ends.rejected)
        yield places, jax.tree.map(np.array, jax.device_get(solved))
        (left,) = np.nonzero(np.asarray(lanes.at) < saved)
        if not left.size:
            return
        # empty lanes repeat the last run, which is then written twice, the same
        left = np.pad(left, (0, -left.size % (1 << (left.size - 1).bit_length())), mode="edge")
        places = places[left]
        lanes = packed_lanes(batch, lanes, jnp.asarray(left))


@eqx.filter_jit
def first_lanes(batch: Batch, rows: tuple[Any, ...]) -> Lane:
    """All runs from their start, until few are left."""
    return _together(batch, rows, None)


@eqx.filter_jit
def packed_lanes(batch: Batch, lanes: Lane, left: Int[Array, " fewer"]) -> Lane:
    """Some of the lanes, until few of them are left."""
    lanes = jax.tree.map(lambda leaf: leaf[left], lanes)
    return _together(batch, lanes.row, lanes)


def _together(batch: Batch, rows: tuple[Array, ...], lanes: Lane | None) -> Lane:
    few = rows[0].size // SHRINK

    def one(row: tuple[Array, ...], lane: Lane | None) -> Lane:
        run, ts = prepared(batch, row, None)
        lane = _started(run, row, ts) if lane is None else lane

        def proceeds(lane: Lane) -> Array:
            return jax.lax.psum((lane.at < ts.size).astype(jnp.int32), "lanes") > few

        return jax.lax.while_loop(proceeds, lambda lane: _window(run, lane, ts), lane)

    return jax.vmap(one, axis_name="lanes")(rows, lanes)


def _started(run: Run, row: tuple[Array, ...], ts: Float[Array, " times"]) -> Lane:
    progress, none = run.start(), jnp.zeros((), jnp.int32)
    shapes = jax.eval_shape(run.glance, progress)
    blank = {k: jnp.zeros((ts.size, *v.shape), v.dtype) for k, v in shapes.items()}
    return Lane(row, progress, none, none, blank)


def _window(run: Run, lane: Lane, ts: Float[Array, " times"]) -> Lane:
    """A run K steps on, or to its next saved time."""
    limit = run.numerics.max_steps
    # a divisor of the limit, so that the run stops where it would alone
    steps = max(k for k in range(1, WINDOW + 1) if limit % k == 0) if run.pauses else limit
    short = Numerics(run.numerics.tol, steps, run.numerics.precision)
    short_run = eqx.tree_at(lambda run: run.numerics, run, short)
    t1 = ts[jnp.minimum(lane.at, ts.size - 1)]
    progress, row = short_run.proceed(lane.progress, t1[None])
    taken = progress.accepted + progress.rejected
    stopped = (progress.verdict == MAX_STEPS) | (progress.verdict == CREEPING)
    paused = stopped & (lane.progress.verdict == 0) & (taken - lane.before < limit)
    verdict = jnp.where(paused, 0, progress.verdict)
    arrived = (lane.at < ts.size) & ~paused
    readouts = {
        name: values.at[lane.at].set(jnp.where(arrived, row[name][0], values[lane.at]))
        for name, values in lane.readouts.items()
    }  # of a lane that is done, beyond the end: dropped
    before = jnp.where(arrived, taken, lane.before)
    return Lane(
        lane.row,
        progress._replace(verdict=verdict),
        lane.at + arrived.astype(jnp.int32),
        before,
        readouts,
    )

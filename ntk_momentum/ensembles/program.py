"""Many runs in one compiled program: drawn, padded and solved one after another, in lock-step, or
spread over devices.

A run (width m, seed) is `init_two_layer(m, p, key=jax.random.key(seed))`, padded to M neurons by
zero weights. These add nothing to f, H or any norm and have no gradient, so they never move and a
run's steps are those it takes alone. Or a run is what the user's own `model` makes of m and the
key, unpadded.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, Real

from ..data import Dataset
from ..dynamics.coordinates import Decomposition
from ..dynamics.peaks import Needs, needs_of
from ..dynamics.preparation import Choices
from ..dynamics.run import Run
from ..dynamics.solver import batches_of
from ..method import AbstractFlow, AbstractOptimizer
from ..network.model import cast
from ..network.two_layer import DRAWN, TwoLayerNet, init_two_layer
from ..numerics import in_dtype, on_host
from .devices import AXIS


class Recipe(Choices):
    """What all runs of an ensemble share, as in `simulate` and `init_two_layer`.

    model: makes the model of a run from (width, key=key); None for `init_two_layer`.
    """

    model: Callable | None = eqx.field(static=True, default=None)
    activation: Any = eqx.field(static=True, default=jax.nn.relu)
    antisymmetric: bool = eqx.field(static=True, default=False)
    dtype: Any = eqx.field(static=True, default=None)
    sampling: str = eqx.field(static=True, default="without_replacement")

    def net(self, width: int, p: int, key: Array) -> Any:
        """The network of a run."""
        if self.model is None:
            return init_two_layer(
                width,
                p,
                key=key,
                activation=self.activation,
                antisymmetric=self.antisymmetric,
                dtype=self.dtype,
            )
        return cast(self.model(width, key=key), self.dtype)


class Batch(eqx.Module):
    """Runs on one data set, of flows or optimizers stacked over their parameters, with times (flow,
    time).

    inputs: the decomposition of X, or None where a network has fewer neurons than X has rows or
    columns, or is the user's own. flow, width, scale, seed: those of each run, the flow by
    position. padded: neurons of every network. widths: all that there are, where the program has to
    know them, else none, so that one program serves any. batch: the size of an optimizer's
    mini-batches, by position in batch_sizes; None where all take the whole data set. Numbers stay
    on the host until a program takes them all at once.
    """

    recipe: Recipe
    X: Real[Array, "n ..."]
    y: Real[Array, n * k]
    inputs: Decomposition | None
    flows: AbstractFlow | AbstractOptimizer
    times: Float[Array | np.ndarray, "flow time"]
    flow: Int[Array | np.ndarray, " runs"]
    width: Int[Array | np.ndarray, " runs"]
    scale: Float[Array | np.ndarray, " runs"]
    seed: Int[Array | np.ndarray, " runs"]
    widths: tuple[int, ...] = eqx.field(static=True)
    padded: int = eqx.field(static=True)
    batch: Int[Array | np.ndarray, " flow"] | None = None
    batch_sizes: tuple[int, ...] = eqx.field(static=True, default=())


class How(NamedTuple):
    """How runs share devices: "map" or "vmap" with so many lanes, over a line of devices that
    splits the "runs" or the "neurons"."""

    strategy: str
    lanes: int
    layout: str
    over: Mesh | None


class Solved(NamedTuple):
    """Read-outs and the solver's statistics of every run, with the runs first."""

    readouts: dict[str, Any]
    verdict: Int[Array | np.ndarray, ...]
    accepted: Int[Array | np.ndarray, ...]
    rejected: Int[Array | np.ndarray, ...]


def lowered(batch: Batch, how: How) -> Any:
    """The program of a batch, to be compiled before it is run."""
    return ensemble_program.lower(_placed(batch, how), how)  # type: ignore[attr-defined]


def run_batch(batch: Batch, how: How) -> Solved:
    """Every run of a batch, as arrays on the host. Over devices of several processes, each calls
    this with the same batch."""
    over = how.over
    outcome = ensemble_program(_placed(batch, how), how)
    if over is not None and over.is_multi_process:
        from jax.experimental.multihost_utils import process_allgather

        return process_allgather(outcome, tiled=True)
    return jax.device_get(outcome)


def _placed(batch: Batch, how: How) -> Batch:
    """The batch on all of its devices, which a program for one device takes from the host."""
    over = how.over
    if over is None or over.size == 1:
        return batch
    if how.layout == "runs":
        batch = _fill(batch, -batch.seed.size % over.size)
    place = lambda leaf: jax.device_put(np.asarray(leaf), NamedSharding(over, P()))
    return jax.tree.map(lambda leaf: place(leaf) if eqx.is_array(leaf) else leaf, batch)


def make(
    recipe: Recipe,
    data: Dataset,
    inputs: Decomposition | None,
    flows: Sequence[AbstractFlow | AbstractOptimizer],
    times: Any,
    runs: Any,
    widths: tuple[int, ...],
    padded: int,
    sizes: Sequence[int] | None = None,
) -> Batch:
    """A batch from flows of one kind and runs, rows (flow, width, seed) with the flow as its
    position; sizes: of each optimizer's mini-batches."""
    dtype = recipe.dtype
    recipe = dataclasses.replace(recipe, config=in_dtype(recipe.config, dtype, on_host))
    flow, width, seed = (list(column) for column in zip(*runs, strict=True))
    wide = jax.dtypes.canonicalize_dtype(np.int64) == np.int64
    seeds = (
        np.asarray(seed, np.int64)
        if wide
        else np.asarray([s & 0xFFFFFFFF for s in seed], np.uint32)
    )  # as jax.random.key takes them
    stacked = jax.tree.map(
        lambda *leaves: on_host(np.stack([np.asarray(leaf) for leaf in leaves]), dtype), *flows
    )
    whole = recipe.model is None and _drawn_by_rows(padded, data.input_size)
    several = tuple(sorted(set(sizes or ())))
    batch = None if sizes is None else on_host([several.index(size) for size in sizes], int)
    return Batch(
        recipe,
        data.X,
        data.y,
        inputs,
        stacked,
        on_host(times, dtype),
        np.asarray(flow, np.int32),
        np.asarray(np.minimum(width, 2**31 - 1), np.int32),  # a wider one fits nowhere
        np.asarray([m**-0.5 for m in width], dtype),
        seeds,
        () if whole else widths,
        padded,
        batch,
        several,
    )


def needs(batch: Batch) -> Needs:
    """Found by tracing the start of one run, once for all batches alike in everything but their
    numbers; nothing is computed. Raises `InputError` for what `simulate` would refuse."""
    arrays, rest = eqx.partition(batch, eqx.is_array)
    config: Any = jax.config
    shapes = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(arrays)]
    leaves, structure = jax.tree.flatten(rest)
    key = (jax.tree.structure(arrays), structure, *shapes, *leaves, config.jax_enable_x64)
    try:
        if key in _KNOWN:
            return _KNOWN[key]
    except TypeError:  # what cannot be hashed is traced anew
        return _traced(batch)
    if len(_KNOWN) >= _MOST:
        _KNOWN.clear()
    return _KNOWN.setdefault(key, _traced(batch))


_KNOWN: dict[Any, Needs] = {}
_MOST = 256


def _traced(batch: Batch) -> Needs:
    def first(batch: Batch) -> Run:
        return prepared(batch, tuple(row[0] for row in told_apart_by(batch)), None)[0]

    return needs_of(first, batch, batch.times.shape[1])


@eqx.filter_jit
def ensemble_program(batch: Batch, how: How) -> Solved:
    """Draw, pad and solve every run: one compiled program."""
    over = how.over if how.over is not None and how.over.size > 1 else None
    rows = told_apart_by(batch)
    arrays, static = eqx.partition(batch, eqx.is_array)

    def solve_all(arrays: Any, *rows: Array) -> Solved:
        here = eqx.combine(arrays, static)

        def one(row: tuple[Array, ...]) -> Solved:
            spread = over if how.layout == "neurons" else None
            run, ts = prepared(here, row, spread)
            end = run.solve(ts)
            return Solved(end.readouts, end.verdict, end.accepted, end.rejected)

        if how.strategy == "map":
            return jax.lax.map(one, rows)
        return (
            jax.vmap(one)(rows)
            if how.lanes >= rows[0].size
            else jax.lax.map(one, rows, batch_size=how.lanes)
        )

    if over is None or how.layout == "neurons":
        return solve_all(arrays, *rows)
    specs = (P(), *(P(AXIS) for _ in rows))
    return jax.shard_map(solve_all, mesh=over, in_specs=specs, out_specs=P(AXIS), check_vma=False)(
        arrays, *rows
    )


def told_apart_by(batch: Batch) -> tuple[Any, ...]:
    """What tells the runs apart."""
    return batch.flow, batch.width, batch.scale, batch.seed


def prepared(batch: Batch, row: tuple[Array, ...], over: Mesh | None) -> tuple[Run, Array]:
    """One run ready to be solved, and its times."""
    recipe, (flow, width, scale, seed) = batch.recipe, row
    cast_real = lambda a: a.astype(recipe.dtype) if jnp.issubdtype(a.dtype, jnp.inexact) else a
    data = Dataset(cast_real(batch.X), cast_real(batch.y), "allow")
    key = jax.random.key(seed)
    some = batch.widths[0] if batch.widths else batch.padded
    plain = recipe.net(some, data.input_size, key)
    run = Run.prepare(
        plain if recipe.model is not None else _padded(batch, width, scale, key, over),
        data,
        jax.tree.map(lambda leaf: leaf[flow], batch.flows),
        recipe,
        plain,
        None
        if batch.batch is None
        else batches_of(batch.batch_sizes, data.n, recipe.sampling, key, batch.batch[flow]),
    )
    return run if batch.inputs is None else run.within(batch.inputs), batch.times[flow]


def _padded(batch: Batch, width: Array, scale: Array, key: Array, over: Mesh | None) -> TwoLayerNet:
    """The two-layer net of a run, with zero neurons up to the batch's number."""
    recipe, p = batch.recipe, math.prod(batch.X.shape[1:])
    if batch.widths:

        def padded(m: int, key: Array) -> tuple[Array, Array]:
            net = recipe.net(m, p, key)
            return jnp.pad(net.hidden, ((0, batch.padded - m), (0, 0))), jnp.pad(
                net.output, (0, batch.padded - m)
            )

        # Each width draws exactly the network that it has alone, so the shapes differ: one branch
        # for each, all padded to one shape.
        place = jnp.searchsorted(jnp.asarray(sorted(batch.widths)), width)
        branches = [partial(padded, m) for m in sorted(batch.widths)]
        hidden, output = jax.lax.switch(place, branches, key)
    else:
        hidden, output = _drawn(recipe, batch.padded, p, width, key)
    if over is not None:
        hidden, output = (
            jax.lax.with_sharding_constraint(a, NamedSharding(over, P(AXIS)))
            for a in (hidden, output)
        )
    return TwoLayerNet(hidden, output, recipe.activation, scale=scale)


def _drawn_by_rows(padded: int, p: int) -> bool:
    """Whether the first m neurons of so many are those that a network of m neurons draws: each
    number hashes its place, and all come from one key."""
    config: Any = jax.config  # its attributes are made at run time
    hashed = config.jax_threefry_partitionable and config.jax_default_prng_impl == "threefry2x32"
    return padded * p <= DRAWN and hashed


def _drawn(recipe: Recipe, padded: int, p: int, width: Array, key: Array) -> tuple[Array, Array]:
    """The weights of `init_two_layer` at a width that the program does not know, zero beyond it."""
    net = dataclasses.replace(recipe, antisymmetric=False).net(padded, p, key)
    hidden, output, r = net.hidden, net.output, jnp.arange(padded)
    if recipe.antisymmetric:  # the second half repeats the first with the opposite sign
        first = r < width // 2
        of = jnp.where(first, r, r - width // 2)
        hidden, output = hidden[of], jnp.where(first, 1, -1).astype(output.dtype) * output[of]
    there = r < width
    return jnp.where(there[:, None], hidden, 0), jnp.where(there, output, 0)


def _fill(batch: Batch, missing: int) -> Batch:
    """The batch with its last run repeated, so that every device has equally many."""
    flow, width, scale, seed = (
        jnp.pad(row, (0, missing), mode="edge") for row in told_apart_by(batch)
    )
    return dataclasses.replace(batch, flow=flow, width=width, scale=scale, seed=seed)

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
from jaxtyping import Array, Float, Int

from ..data import Dataset
from ..dynamics.coordinates import Decomposition, in_span
from ..dynamics.readout import Snapshot, read_off, watch
from ..dynamics.simulation import (
    as_integrator,
    chosen_readouts,
    default_reference,
    solve,
    tolerance_apart,
    weight_problem,
)
from ..dynamics.solver import LazyExponential, RungeKutta
from ..kernel import plan_ntk
from ..kernel.plan import written
from ..loss import Loss
from ..method import AbstractFlow
from ..network.two_layer import TwoLayerNet, cast, init_two_layer, trainable_spec
from ..numerics import Numerics
from .devices import AXIS


class Recipe(eqx.Module):
    """What all runs of an ensemble share, as in `simulate` and `init_two_layer`. reference: (n, n)
    or None for the default.

    model: makes the model of a run from (width, key=key); None for `init_two_layer`.
    """

    model: Callable | None = eqx.field(static=True)
    activation: Any = eqx.field(static=True)
    antisymmetric: bool = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)
    loss: Loss = eqx.field(static=True)
    trainable: Any
    where: Callable | None = eqx.field(static=True)
    solver: Any
    readouts: Any
    reference: Any
    config: Numerics

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
    """Runs on one data set, of flows stacked over their parameters, with times (flow, time).

    inputs: the decomposition of X, or None where a network has fewer neurons than X has rows or
    columns, or is the user's own. flow, width, seed: those of each run, the first two by position.
    padded: neurons of every network.
    """

    recipe: Recipe
    X: Float[Array, "n ..."]
    y: Float[Array, n * k]
    inputs: Decomposition | None
    flows: AbstractFlow
    times: Float[Array, "flow time"]
    flow: Int[Array, " runs"]
    width: Int[Array, " runs"]
    seed: Int[Array, " runs"]
    widths: tuple[int, ...] = eqx.field(static=True)
    padded: int = eqx.field(static=True)


class How(NamedTuple):
    """How runs share devices: "map" or "vmap" with so many lanes, over a line of devices that
    splits the "runs" or the "neurons"."""

    strategy: str
    lanes: int
    layout: str
    over: Mesh | None


class Solved(NamedTuple):
    """Read-outs and the solver's statistics of every run, with the runs first."""

    readouts: dict[str, Array]
    verdict: Int[Array, ...]
    accepted: Int[Array, ...]
    rejected: Int[Array, ...]


class Needs(NamedTuple):
    """What decides the memory of one run: its size, integrator, momentum, whether read-outs need H
    or whole preactivations, their shapes.

    columns: of the weights of a two-layer net in the coordinates that are solved for. own: of any
    other model, its sizes as `memory.estimate_own` takes them.
    """

    columns: int
    own: dict[str, Any] | None
    lazy: bool
    momentum: bool
    kernel: bool
    slabs: bool
    readouts: list[tuple[int, ...]]


def run_batch(batch: Batch, how: How) -> Solved:
    """Every run of a batch, as arrays on the host. Over devices of several processes, each calls
    this with the same batch."""
    over = how.over
    if over is not None and over.size > 1:
        if how.layout == "runs":
            batch = _fill(batch, -batch.seed.size % over.size)
        batch = jax.tree.map(
            lambda leaf: (
                jax.device_put(np.asarray(leaf), NamedSharding(over, P()))
                if eqx.is_array(leaf)
                else leaf
            ),
            batch,
        )
    config = batch.recipe.config
    tol, rest = tolerance_apart(config, batch.recipe.dtype)
    outcome = ensemble_program(
        tol, dataclasses.replace(batch, recipe=dataclasses.replace(batch.recipe, config=rest)), how
    )
    if over is not None and over.is_multi_process:
        from jax.experimental.multihost_utils import process_allgather

        return process_allgather(outcome, tiled=True)
    return jax.tree.map(np.asarray, outcome)


def make(
    recipe: Recipe,
    data: Dataset,
    inputs: Decomposition | None,
    flows: Sequence[AbstractFlow],
    times: Any,
    runs: Any,
    widths: tuple[int, ...],
    padded: int,
) -> Batch:
    """A batch from flows of one kind and runs, rows (flow, width, seed) with flow and width as
    positions."""
    dtype = recipe.dtype
    flow, width, seed = (list(column) for column in zip(*runs, strict=True))
    wide = jax.dtypes.canonicalize_dtype(np.int64) == np.int64
    seeds = (
        np.asarray(seed, np.int64)
        if wide
        else np.asarray([s & 0xFFFFFFFF for s in seed], np.uint32)
    )  # as jax.random.key takes them
    stacked = jax.tree.map(
        lambda *leaves: jnp.asarray(np.stack([np.asarray(leaf) for leaf in leaves]), dtype), *flows
    )
    rows = [
        jnp.asarray(value)
        for value in (np.asarray(flow, np.int32), np.asarray(width, np.int32), seeds)
    ]
    return Batch(
        recipe,
        data.X,
        data.y,
        inputs,
        stacked,
        jnp.asarray(times, dtype),
        rows[0],
        rows[1],
        rows[2],
        widths,
        padded,
    )


def needs(batch: Batch) -> Needs:
    """Found by tracing the start of one run; nothing is computed. Raises `InputError` for what
    `simulate` would refuse."""
    found: dict[str, Any] = {}

    def start(batch):
        flow, ts, problem, w, integrator, chosen, reference = _parts(
            batch, batch.flow[0], batch.width[0], batch.seed[0], None
        )
        state = flow.init(w)
        first = Snapshot(problem, flow, ts[0], state, None, reference)
        observers = watch(chosen, flow)
        values = read_off(chosen, first, observers.init(problem, ts[0], state), jnp.array(True))
        kernel = "kernel" in vars(first)  # cached there when a read-out asks for it
        slabs = kernel or bool(observers.observers)
        net, own = problem.model(w), None
        if not isinstance(net, TwoLayerNet):
            making = (
                plan_ntk(net, problem.X, trainable=problem.trained, output="full").bytes
                if kernel
                else 0
            )
            numbers = sum(leaf.size for leaf in jax.tree.leaves(w))
            forward = jax.make_jaxpr(lambda w, x: problem.model(w)(x))(w, problem.X[0])
            own = {"weights": numbers, "activations": written(forward), "kernel": making}
        found.update(columns=0 if own else net.hidden.shape[1], own=own)
        found.update(
            lazy=isinstance(integrator, LazyExponential),
            momentum=state.v is not None,
            kernel=kernel,
            slabs=slabs,
        )
        return values

    shapes = jax.tree.leaves(eqx.filter_eval_shape(start, batch))
    return Needs(**found, readouts=[(batch.times.shape[1], *leaf.shape) for leaf in shapes])


@eqx.filter_jit
def ensemble_program(tol: Array, batch: Batch, how: How) -> Solved:
    """Draw, pad and solve every run: one compiled program."""
    config = dataclasses.replace(batch.recipe.config, tol=tol)
    over = how.over if how.over is not None and how.over.size > 1 else None
    rows = (batch.flow, batch.width, batch.seed)
    arrays, static = eqx.partition(batch, eqx.is_array)

    def solve_all(arrays, tol, *rows):
        here = eqx.combine(arrays, static)
        settings = dataclasses.replace(config, tol=tol)

        def one(row):
            spread = over if how.layout == "neurons" else None
            flow, ts, problem, w, integrator, chosen, reference = _parts(
                here, row[0], row[1], row[2], spread
            )
            end = solve(problem, w, flow, ts, integrator, chosen, reference, settings)
            return Solved(end.readouts, end.verdict, end.accepted, end.rejected)

        if how.strategy == "map":
            return jax.lax.map(one, rows)
        return (
            jax.vmap(one)(rows)
            if how.lanes >= rows[0].size
            else jax.lax.map(one, rows, batch_size=how.lanes)
        )

    if over is None or how.layout == "neurons":
        return solve_all(arrays, tol, *rows)
    specs = (P(), P(), P(AXIS), P(AXIS), P(AXIS))
    return jax.shard_map(solve_all, mesh=over, in_specs=specs, out_specs=P(AXIS), check_vma=False)(
        arrays, tol, *rows
    )


def _parts(
    batch: Batch, flow: Array, width: Array, seed: Array, over: Mesh | None
) -> tuple[Any, ...]:
    """One run ready to be solved: (flow, times, problem, weights, integrator, read-outs,
    reference)."""
    recipe = batch.recipe
    data = Dataset(batch.X.astype(recipe.dtype), batch.y.astype(recipe.dtype), "allow")
    p, key = data.input_size, jax.random.key(seed)
    plain = recipe.net(batch.widths[0], p, key)
    spec = trainable_spec(plain, recipe.trainable, recipe.where)
    reference = (
        default_reference(plain, data, recipe.trainable, recipe.where)
        if recipe.reference is None
        else jnp.asarray(recipe.reference, recipe.dtype)
    )
    net = plain if recipe.model is not None else _padded(batch, width, key, over)
    problem, w = weight_problem(net, data, recipe.loss, spec, None)
    integrator, chosen = (
        as_integrator(recipe.solver, problem, w),
        chosen_readouts(recipe.readouts, plain, reference),
    )
    if batch.inputs is not None:
        problem, w = in_span(
            problem,
            w,
            chosen,
            preactivations=isinstance(integrator, RungeKutta),
            inputs=batch.inputs,
        )
    take = lambda leaf: leaf[flow]
    return (
        jax.tree.map(take, batch.flows),
        take(batch.times),
        problem,
        w,
        integrator,
        chosen,
        reference,
    )


def _padded(batch: Batch, width: Array, key: Array, over: Mesh | None) -> TwoLayerNet:
    """The two-layer net of a run, with zero neurons up to the batch's number."""
    recipe, p = batch.recipe, math.prod(batch.X.shape[1:])

    def padded(m: int, key: Array) -> tuple[Array, Array]:
        net = recipe.net(m, p, key)
        return jnp.pad(net.hidden, ((0, batch.padded - m), (0, 0))), jnp.pad(
            net.output, (0, batch.padded - m)
        )

    hidden, output = jax.lax.switch(width, [partial(padded, m) for m in batch.widths], key)
    if over is not None:
        hidden, output = (
            jax.lax.with_sharding_constraint(a, NamedSharding(over, P(AXIS)))
            for a in (hidden, output)
        )
    scales = jnp.asarray([m**-0.5 for m in batch.widths], recipe.dtype)
    return TwoLayerNet(hidden, output, recipe.activation, scale=scales[width])


def _fill(batch: Batch, missing: int) -> Batch:
    """The batch with its last run repeated, so that every device has equally many."""
    flow, width, seed = (
        jnp.pad(row, (0, missing), mode="edge") for row in (batch.flow, batch.width, batch.seed)
    )
    return dataclasses.replace(batch, flow=flow, width=width, seed=seed)

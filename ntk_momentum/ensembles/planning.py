"""An ensemble cut into units of work before anything is computed: what runs together, how, and how
much memory it takes.

A unit is a chunk of seeds of one bucket of widths, under flows of one kind, on one data set; all
units of a bucket run by one compiled program.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import jax
from jax.sharding import Mesh

from ..errors import InputError, check_choice, check_positive, check_real, check_whole, unknown_name
from ..loss import check_targets
from ..memory import MARGIN, available
from ..method import AbstractFlow
from ..numerics import check_config
from . import UNIT_RUNS, devices, program
from .axes import axes, batch_axis, data_sets, recipe_dtype, time_rows
from .packing import units_of
from .units import Plan

STRATEGIES = {"cpu": "map", "gpu": "vmap"}
"""How runs share a device, where it has been measured (`scripts/bench ensembles`,
`scripts/gpu_check`: on an H100 the lock-step was faster in every case, 1.1 to 11 times, compacted
within a fifth of it either way); elsewhere a plan measures it once."""


def plan(
    data: Any,
    flows: Any,
    widths: Any,
    seeds: Any,
    ts: Any,
    *,
    strategy: str | None = None,
    layout: str | None = None,
    unit_runs: int = UNIT_RUNS,
    memory_limit: int | float | None = None,
    over: Mesh | None = None,
    methods: type = AbstractFlow,
    batch_sizes: Any = None,
    **recipe: Any,
) -> Plan:
    """Cut an ensemble into units of work. Nothing is simulated.

    Args:
        data, flows, widths, seeds, ts: As in `ensemble`.
        strategy: "map", "vmap" or "compacted" (see `lanes`; "vmap" where several devices share the
            runs); by default what was measured to be faster on this kind of device, "measure" to
            try the first two now.
        layout: "runs" or "neurons"; by default runs, and neurons where one run does not fit.
        unit_runs: Runs in a unit, at most.
        memory_limit: Bytes that may be used on each device; by default nine tenths of what is free.
        over: A mesh of `devices.mesh`, by default of this process's devices.
        methods: `AbstractFlow`, or `AbstractOptimizer` for discrete training.
        batch_sizes: Of optimizers: each is taken with each of these, in the place of one flow.
        **recipe: What all runs share, from model to sampling, as in `ensemble` and
            `train_ensemble`.

    Returns:
        The plan, with its units.

    Raises:
        InputError: If something cannot be run, also when a single run does not fit.
    """
    names = {field.name for field in dataclasses.fields(program.Recipe)}
    for name in recipe.keys() - names:
        options = ["strategy", "layout", "unit_runs", "memory_limit", "over", "batch_sizes"]
        raise unknown_name("argument", name, [*names, *options])
    sets, stacked = data_sets(data)
    flows, widths, seeds = axes(flows, widths, seeds, methods)
    # before a `Recipe` holds them: it takes what cannot be a maker of models for static
    network = ("model", "activation", "antisymmetric", "dtype")
    chosen = {"model": None} | {name: recipe[name] for name in network if name in recipe}
    dtype = recipe_dtype(widths=widths, **chosen)
    shared = program.Recipe(**{**recipe, "dtype": dtype})
    batches = None
    if batch_sizes is not None:
        sizes = batch_axis(batch_sizes, sets[0].n, shared.sampling)
        batches = sizes * len(flows)
        flows = tuple(flow for flow in flows for _ in sizes)
    for name, value, known in (
        ("strategy", strategy, ("map", "vmap", "compacted", "measure")),
        ("layout", layout, ("runs", "neurons")),
    ):
        if value is not None:
            check_choice(name, value, known)
    unit_runs = check_whole("unit_runs", unit_runs, example=UNIT_RUNS)
    if memory_limit is not None:
        check_positive("memory_limit", memory_limit, example=2**30)
    shared = program.Recipe(**recipe)
    check_config(shared.config)
    for one in sets:
        check_targets(shared.loss, one.y)
    if shared.reference is not None:
        check_real("reference", shared.reference)
    if layout == "neurons" and shared.model is not None:
        raise InputError(
            "only two-layer nets have neurons to spread over devices; with model= "
            "leave layout= out."
        )
    strategy = strategy or STRATEGIES.get(jax.default_backend(), "measure")
    over = devices.mesh() if over is None else over
    if strategy == "compacted" and over.size > 1:
        strategy = "vmap"
    free = MARGIN * available() if memory_limit is None else memory_limit
    made = Plan(
        sets,
        stacked,
        flows,
        widths,
        seeds,
        time_rows(ts, len(sets), len(flows)),
        shared,
        over,
        strategy,
        batches,
    )
    if strategy == "measure":
        made = dataclasses.replace(made, strategy=measure(made, free))
    return dataclasses.replace(made, units=tuple(units_of(made, unit_runs, free, layout)))


def measure(made: Plan, free: int | float) -> str:
    """The faster of map and vmap, by running a few runs of the plan's narrowest bucket to its
    second saved time, each way, warm."""
    flow = made.flows[:1]
    few = dataclasses.replace(
        made,
        flows=flow,
        widths=(min(made.widths),),
        seeds=tuple(range(16)),
        data=made.data[:1],
        stacked=False,
        ts=made.ts[:1, :1, :2],
        batches=None if made.batches is None else made.batches[:1],
    )
    seconds = {}
    for strategy in ("map", "vmap"):
        (unit,) = units_of(dataclasses.replace(few, strategy=strategy), 16, free, None)
        how = program.How(strategy, unit.lanes, unit.layout, made.over)
        for _ in range(2):
            start = time.perf_counter()
            program.run_batch(few.batch(unit), how)
            seconds[strategy] = time.perf_counter() - start
    return min(seconds, key=seconds.__getitem__)

"""An ensemble cut into units of work before anything is computed: what runs together, how, and how
much memory it takes.

A unit is a chunk of seeds of one bucket of widths, under flows of one kind, on one data set; all
units of a bucket run by one compiled program. Widths are bucketed so that padding to the widest
wastes less than a quarter.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ..data import Dataset
from ..dynamics import peaks
from ..dynamics.coordinates import Decomposition, decompose
from ..dynamics.readout import as_table
from ..errors import InputError, check_choice, check_positive, check_real, check_whole, unknown_name
from ..loss import check_targets
from ..memory import MARGIN, available
from ..method import AbstractFlow, AbstractOptimizer
from ..network.model import asked
from ..numerics import check_config
from . import UNIT_RUNS, devices, program
from .axes import (
    axes,
    batch_axis,
    data_sets,
    flow_values,
    kinds,
    model_by_shape,
    plain_name,
    recipe_dtype,
    time_rows,
)

WASTE = 0.25
"""Padding is less than this share of a padded network, or adds little (`SPARE`). Off a CPU it is
less than half of one: there networks are padded to powers of two, so that all sweeps share
programs, which take longer to compile, and idle lanes cost less."""

SPARE = 2**21
"""Preactivations of a sample, over all runs of a program, that padding may add: computing on them
took 1.5 to 2.5 us each in a whole run (10 sphere(20, 5) time constants), and a program of its own
4 s to compile."""

STRATEGIES = {"cpu": "map", "gpu": "vmap"}
"""How runs share a device, where it has been measured (`scripts/bench ensembles`,
`scripts/gpu_check`: on an H100 the lock-step was faster in every case, 1.1 to 11 times, compacted
within a fifth of it either way); elsewhere a plan measures it once."""


@dataclasses.dataclass(frozen=True)
class Unit:
    """A unit of work. data, flows, widths, seeds: positions on the plan's axes; `coordinates` says
    the same in plain values.

    padded: neurons of each network, padding included. strategy: "map", one run after another, or
    "vmap", `lanes` at once in lock-step, the neurons of all packed into one product X W^T, or
    "compacted", the same in windows of steps. layout:
    whether the "runs" or the "neurons" of each are spread over devices. size: runs the program
    holds, the last ones repeated where seeds do not fill it. bytes: estimated peak on one device.
    """

    index: int
    data: int
    flows: tuple[int, ...]
    widths: tuple[int, ...]
    seeds: tuple[int, ...]
    padded: int
    size: int
    strategy: str
    lanes: int
    layout: str
    bytes: int
    coordinates: dict[str, Any] = dataclasses.field(compare=False)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What an ensemble will compute. ts: (data, flow, time). stacked: whether data sets were given
    as a sequence, so are an axis.

    over: the devices its runs or neurons are spread over. strategy: that of every unit.
    batches: the mini-batches' size under each of the flows, then optimizers; None where all see
    the whole data set.
    """

    data: tuple[Dataset, ...]
    stacked: bool
    flows: tuple[AbstractFlow | AbstractOptimizer, ...]
    widths: tuple[int, ...]
    seeds: tuple[int, ...]
    ts: np.ndarray
    recipe: program.Recipe
    over: Mesh
    strategy: str
    batches: tuple[int, ...] | None = None
    units: tuple[Unit, ...] = ()
    decomposed: dict[int, Decomposition] = dataclasses.field(
        default_factory=dict, compare=False, repr=False
    )

    @property
    def bytes(self) -> int:
        """The largest estimated peak of a unit, on one device."""
        return max(unit.bytes for unit in self.units)

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the numbers beside the data and the coordinates of a unit, in plain
        values."""
        recipe = self.recipe
        readouts = recipe.readouts
        if isinstance(readouts, Mapping):
            readouts = {name: plain_name(readout) for name, readout in readouts.items()}
        elif readouts is not None and not isinstance(readouts, str):
            readouts = list(readouts)
        built_in = {
            "activation": plain_name(recipe.activation),
            "antisymmetric": recipe.antisymmetric,
        }
        return {
            **(built_in if recipe.model is None else {"model": plain_name(recipe.model)}),
            "loss": plain_name(recipe.loss),
            "trainable": plain_name(recipe.trainable),
            **({} if recipe.where is None else {"where": plain_name(recipe.where)}),
            "solver": plain_name(recipe.solver),
            "readouts": readouts,
            "reference": None
            if recipe.reference is None
            else np.asarray(recipe.reference).tolist(),
            "config": {**dataclasses.asdict(recipe.config), "tol": float(recipe.config.tol)},
            "dtype": str(np.dtype(recipe.dtype)),
            **({} if self.batches is None else {"sampling": recipe.sampling}),
            "strategy": self.strategy,
        }

    def batch(self, unit: Unit) -> program.Batch:
        """The arrays of a unit, runs in the order (flow, width, seed)."""
        runs = [
            (i, self.widths[j], self.seeds[k])
            for i in range(len(unit.flows))
            for j in unit.widths
            for k in unit.seeds
        ]
        runs += runs[-1:] * (unit.size - len(runs))
        flows, widths = (
            [self.flows[i] for i in unit.flows],
            tuple(self.widths[j] for j in unit.widths),
        )
        data, times = self.data[unit.data], self.ts[unit.data, list(unit.flows)]
        model = self.recipe.model
        by_neurons = model is None or asked(model_by_shape(model, widths[0])).sums_neurons
        inputs = (
            self.inputs(unit.data)
            if by_neurons and min(data.n, data.input_size) <= min(widths)
            else None
        )
        sizes = None if self.batches is None else [self.batches[i] for i in unit.flows]
        return program.make(
            self.recipe, data, inputs, flows, times, runs, widths, unit.padded, sizes
        )

    def inputs(self, position: int) -> Decomposition:
        """The decomposition of a data set's inputs, made once."""
        if position not in self.decomposed:
            self.decomposed[position] = jax.device_put(decompose(self.data[position].X))
        return self.decomposed[position]


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
    return dataclasses.replace(made, units=tuple(_units(made, unit_runs, free, layout)))


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
        (unit,) = _units(dataclasses.replace(few, strategy=strategy), 16, free, None)
        how = program.How(strategy, unit.lanes, unit.layout, made.over)
        for _ in range(2):
            start = time.perf_counter()
            program.run_batch(few.batch(unit), how)
            seconds[strategy] = time.perf_counter() - start
    return min(seconds, key=seconds.__getitem__)


def _units(made: Plan, unit_runs: int, free: int | float, layout: str | None) -> Iterator[Unit]:
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

"""A sweep over data sets, flows or optimizers with their parameters, widths and seeds: from plain
values to one stored file per unit of work.

A unit's file is named by the hash of all that decides its numbers: data, coordinates, settings,
code, versions, device. So a sweep that was killed goes on where it was, a larger one reuses what a
smaller one left, and several processes share one folder. How runs share a device
(`planning.STRATEGIES`) is decided once and kept beside the results, so that going on gives the same
bits.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import files
from ..errors import InputError
from ..memory import MARGIN, available, check_fits, gib
from ..progress import LOG, Bar
from . import named, store, work
from .grid import Source, Sweep
from .provenance import basis, identity_of, provenance
from .sources import code_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..data import Dataset
    from ..ensembles.units import Plan, Unit


@dataclasses.dataclass(frozen=True)
class Swept:
    """What became of a sweep: how many units there are, what was done, and the failed runs in
    words."""

    units: int
    runs: int
    done: work.Done
    failures: list[str]
    missing: int

    @property
    def ok(self) -> bool:
        """Whether every run is there and succeeded."""
        return not (self.done.broken or self.failures or self.missing)


def carry_out(sweep: Sweep, out: Path, process: tuple[int, int] = (0, 1)) -> Swept:
    """Do the units of a sweep that are not done, in `out`/data. process: (this one, how many) of a
    job that shares the units.

    They are shared by locks, which processes that do not know of each other have as well: each
    takes what is left, from a place of its own, and ends when all units are done, however unequal
    they are. Raises `InputError`.
    """
    folder = out / "data"
    pieces = _pieces(sweep, files.check_folder(folder))
    begin = len(pieces) * process[0] // process[1]
    with Bar(len(pieces), shown=process[0] == 0) as bar:
        done = work.do(pieces[begin:] + pieces[:begin], bar)
    there = [piece for piece in pieces if piece.path.exists()]
    failures, runs = [], 0
    for piece in there:
        stored = store.Stored.open(piece.path)
        runs += math.prod(stored.shape("verdict"))
        failures += failed_runs(stored)
    missing = len(pieces) - len(there) - len(done.broken)
    return Swept(len(pieces), runs, done, failures, missing)


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What a sweep would do: units, those of them that are there already, runs, the largest unit's
    runs and estimated bytes on one device, and the seconds of what is missing."""

    units: int
    kept: int
    runs: int
    unit_runs: int
    bytes: int
    seconds: float


def forecast(sweep: Sweep, out: Path) -> Forecast:
    """A sweep planned and timed by a few short runs, see `expected_seconds`; nothing is written."""
    from ..ensembles.expected import expected_seconds

    pieces = _pieces(sweep, out / "data", write=False)
    jobs = [piece.compute for piece in pieces if isinstance(piece.compute, _Compute)]
    missing = [job for piece, job in zip(pieces, jobs, strict=True) if not piece.path.exists()]
    plans = {id(job.plan): job.plan for job in jobs}
    seconds = sum(
        expected_seconds(made, [job.unit for job in missing if job.plan is made])
        for made in plans.values()
    )
    runs = [len(j.unit.flows) * len(j.unit.widths) * len(j.unit.seeds) for j in jobs]
    largest = max(job.unit.bytes for job in jobs)
    kept = len(jobs) - len(missing)
    return Forecast(len(jobs), kept, sum(runs), max(runs), largest, seconds)


def _pieces(sweep: Sweep, folder: Path, write: bool = True) -> list[work.Piece]:
    """All units of a sweep as pieces of work, in an order that all processes agree on. write: keep
    the strategy that is chosen now in the folder."""
    from ..dynamics.readout import resolve

    resolve(sweep.readouts, ())  # a misspelt name is an error of the whole
    for source in sweep.sources():
        if source.name == "sphere" and sweep.needs_lambda0():  # before so many are drawn
            _check_kernel(source.n or 50, source.n or 50)
    sets = [(source, source.load()) for source in sweep.sources()]
    code, origin = code_of("ensembles.ensemble"), provenance()
    model, settings = sweep.make_model(), {**sweep.settings(), "dtype": origin["dtype"]}
    strategy = None
    pieces = []
    for source, data in sets:
        digest = hashlib.sha256(
            np.asarray(data.X).tobytes() + np.asarray(data.y).tobytes()
        ).hexdigest()
        plan_identity = identity_of(code, {"grid": sweep, "data": digest, **settings})

        def name_of(made: Plan, unit: Unit, digest: str = digest) -> str:
            """The file of a unit, after all that decides its numbers."""
            coordinates = _coordinates(unit)
            decisive = {**settings, "dtype": str(np.dtype(made.recipe.dtype))}
            by = {
                "data": digest,
                "coordinates": coordinates,
                "flows": [sweep.labels()[i] for i in unit.flows],
                "readouts": sweep.readouts,
                "settings": decisive,
                "strategy": made.strategy,
            }
            return f"unit-{identity_of(code, by)}.nc"

        made = _kept_plan(sweep, data, model, folder, plan_identity, strategy, write, name_of)
        strategy = made.strategy
        for unit in made.units:
            coordinates = _coordinates(unit)
            labels = [sweep.labels()[i] for i in unit.flows]
            widths, seeds = coordinates["widths"], coordinates["seeds"]
            decisive = {**settings, "dtype": str(np.dtype(made.recipe.dtype))}
            described = {
                "experiment": "sweep",
                "data": _label(source, data),
                "data_sha256": digest,
                "code": store.fingerprint(basis(code)),
                "flows": labels,
                "parameters": coordinates["flows"],
                "widths": widths,
                "seeds": seeds,
                "settings": {**decisive, **_saved(sweep)},
                "how": {
                    "strategy": unit.strategy,
                    "lanes": unit.lanes,
                    "layout": unit.layout,
                    "padded": unit.padded,
                },
                **origin,
                "precision": sweep.precision,
            }
            title = (
                f"{described['data']}, {_ends(labels)}, width {_brief(widths)}, seed "
                f"{_brief(seeds)}"
            )
            path = folder / name_of(made, unit)
            compute = _Compute(made, unit, labels, described)
            pieces.append(work.Piece(path, title, compute, path.stem.removeprefix("unit-")))
    return pieces


def _coordinates(unit: Unit) -> dict[str, Any]:
    return {k: value for k, value in unit.coordinates.items() if k not in ("data", "data_name")}


def _saved(sweep: Sweep) -> dict[str, Any]:
    """Which times are saved, or which steps."""
    if sweep.optimizers:
        return {"steps": sweep.steps, "save_every": sweep.save_every}
    return {"t_end": sweep.t_end or "default", "times": sweep.times}


@dataclasses.dataclass
class _Compute:
    """Computes a unit: the data set and its attributes."""

    plan: Plan
    unit: Unit
    flows: list[str]
    described: dict[str, Any]

    def __call__(self) -> tuple[Any, dict[str, Any]]:
        from ..ensembles.ensemble import run_unit

        start = time.perf_counter()
        block = run_unit(self.plan, self.unit)
        dataset = block.to_xarray().assign_coords(flow=self.flows)
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        return dataset, {
            **self.described,
            "created": now,
            "seconds": round(time.perf_counter() - start, 3),
        }


def failed_runs(stored: store.Stored) -> list[str]:
    """One line per failed run of a unit: its coordinates and the solver's reason."""
    from ..dynamics.solver import REASONS

    verdict = stored.read("verdict")
    flows, widths, seeds = (
        json.loads(stored.attributes[name]) for name in ("flows", "widths", "seeds")
    )
    return [
        (
            f"{stored.attributes['data']}, {flows[i]}, width {widths[j]}, seed {seeds[k]}: "
            f"{REASONS[int(verdict[i, j, k])]}"
        )
        for i, j, k in np.argwhere(verdict)
    ]


def _check_kernel(samples: int, entries: int) -> None:
    # n differences of p numbers live beside H, and its eigenvectors' workspace
    check_fits(
        3 * entries**2,
        f"the kernel of {samples} samples, which default end times and frictions need,",
        "use fewer samples, or give --t-end and the frictions",
    )


def _lambda0(sweep: Sweep, data: Dataset, model: Callable | None) -> float:
    """The smallest eigenvalue of the kernel behind the defaults: H infinity of a ReLU network, H(0)
    of any other at the first width and seed 0."""
    from ..kernel import empirical_ntk, infinite_ntk

    _check_kernel(data.n, data.y.size)
    if model is None and sweep.activation == "relu":
        kernel = infinite_ntk(data.X.reshape(data.n, -1), trainable=sweep.trainable)
    else:
        net = _example(sweep, data, model, sweep.neurons[0])
        kernel = empirical_ntk(net, data.X, output="full", trainable=sweep.trainable)
    matrix = np.reshape(np.asarray(kernel, np.float64), (data.y.size, data.y.size))
    lambda0 = float(np.linalg.eigvalsh(matrix)[0])
    if lambda0 <= 0:
        raise InputError(
            f"the kernel of {data.name} is singular (lambda_0 = {lambda0:.2e}); "
            "drop near-duplicates or use float64."
        )
    return lambda0


def _example(sweep: Sweep, data: Dataset, model: Callable | None, width: int) -> Any:
    """A network of the sweep, of seed 0: two-layer of this width, or the user's at the first."""
    import jax

    from ..ensembles.axes import recipe_dtype
    from ..network.two_layer import init_two_layer

    key = jax.random.key(0)
    if model is not None:
        recipe_dtype(model, sweep.neurons)  # says what is wrong before it is called
        return model(sweep.neurons[0], key=key)
    return init_two_layer(
        width,
        data.input_size,
        key=key,
        activation=named.build_activation(sweep.activation),
        antisymmetric=sweep.antisymmetric,
    )


def _example_problem(
    sweep: Sweep, data: Dataset, model: Callable | None, built: dict[str, Any]
) -> tuple[Any, Any]:
    """What one run of a sweep descends, and its weights."""
    from ..dynamics.preparation import weight_problem

    example = _example(sweep, data, model, 2)
    return weight_problem(example, data, built["loss"], built["trainable"], None)


def _make_plan(
    sweep: Sweep,
    data: Dataset,
    model: Callable | None,
    lambda0: float,
    strategy: str | None,
    memory: float | None = None,
) -> Plan:
    """The plan of a sweep on one data set: the one place where its options are handed on. memory:
    bytes that it may take."""
    from ..dynamics.training import step_counts
    from ..ensembles import planning
    from ..loss import check_targets
    from ..method import AbstractOptimizer

    built = sweep.built(model)
    check_targets(built["loss"], data.y)  # inside the program they are no longer known
    if model is None and data.y.ndim != 1:
        raise InputError(
            f"the built-in network has one output, but the targets of {data.name} have shape "
            f"{data.y.shape}; give --model FILE.py:FUNCTION."
        )
    if sweep.solver == "lazy":
        problem, w = _example_problem(sweep, data, model, built)
        reason = problem.why_not_linear(w)
        if reason is not None:
            raise InputError(f"--solver lazy cannot be used here: {reason}; leave it out.")
    methods = sweep.named_methods()
    training: dict[str, Any] = {}
    if sweep.optimizers:
        ts = step_counts(sweep.steps // sweep.save_every, sweep.save_every)
        training["methods"] = AbstractOptimizer
        if sweep.batch_sizes:
            training |= {"batch_sizes": sweep.batch_sizes, "sampling": sweep.sampling}
    else:
        ends = [
            sweep.t_end
            or (5 / lambda0 if flow.name == "gradient_flow" else 10 / math.sqrt(lambda0))
            for flow in methods
        ]
        ts = np.stack([np.linspace(0.0, end, sweep.times) for end in ends])
    return planning.plan(
        data,
        [method.build(lambda0) for method in methods],
        sweep.neurons,
        sweep.chosen_seeds(),
        ts,
        strategy=strategy,
        memory_limit=memory,
        **training,
        **{**built, **_compared(sweep, data, model, built)},
    )


def _compared(
    sweep: Sweep, data: Dataset, model: Callable | None, built: dict[str, Any]
) -> dict[str, Any]:
    """The kernel that kernel_distance compares with, or the read-outs without it."""
    if sweep.reference == named.INFINITE:
        return {}
    if sweep.reference != named.NO_REFERENCE:
        reference = named.load_reference(sweep.reference)
        if reference.shape != (data.n, data.n):
            raise InputError(
                f"the kernel in {sweep.reference} is for {reference.shape[0]} samples, but "
                f"{data.name} has {data.n}."
            )
        return {"reference": reference}
    if sweep.readouts:
        return {}
    problem, _ = _example_problem(sweep, data, model, built)
    lyapunov = () if sweep.optimizers else ("lyapunov",)
    return {"readouts": (*problem.default_readouts, *lyapunov)}


def _kept_plan(
    sweep: Sweep,
    data: Dataset,
    model: Callable | None,
    folder: Path,
    plan_identity: str,
    strategy: str | None,
    write: bool,
    name_of: Callable[[Plan, Unit], str],
) -> Plan:
    """The plan of a sweep on one data set, with the strategy and the memory of when the sweep
    began, on which its units depend; a file says what was planned, for `status`."""
    check_fits(
        max(sweep.neurons) * data.input_size if model is None else 0,
        f"{max(sweep.neurons)} neurons of {data.input_size} weights",
        "use smaller --widths",
    )
    times, fewer = sweep.times, "use fewer --times"
    if sweep.optimizers:
        times, fewer = sweep.steps // sweep.save_every + 1, "use a larger --save-every"
    check_fits(
        len(sweep.labels()) * times * max(1, data.y.size),
        f"{times} saved times of {data.n} predictions",
        fewer,
    )
    lambda0 = _lambda0(sweep, data, model) if sweep.needs_lambda0() else math.nan
    path = folder / f"sweep-{plan_identity}.json"
    free = MARGIN * available()

    def planned(kept: dict[str, Any]) -> tuple[Plan, list[str]]:
        """By the memory of when the sweep began where its units fit; else by what is free."""
        chosen = kept.get("strategy") or sweep.strategy or strategy
        made = _make_plan(sweep, data, model, lambda0, chosen, kept.get("memory", free))
        if made.bytes > free:
            made = _make_plan(sweep, data, model, lambda0, chosen, free)
        names = [name_of(made, unit) for unit in made.units]
        if names != kept.get("files", names):
            told = "%s: less memory is free than the %s when the sweep began: units that do not fit"
            LOG.warning(told + " are smaller, and done anew", data.name, gib(kept["memory"]))
        return made, names

    if not write:
        return planned(_chosen(path))[0]
    with work.Locks(folder) as locks:
        locks.take(path.name, wait=True)  # one process chooses
        files.set_aside(path, "sweep", plan_identity)
        kept = _chosen(path)
        made, names = planned(kept)
        if names != kept.get("files"):
            record = {
                "strategy": made.strategy,
                "memory": free,
                "units": len(made.units),
                "files": names,
                "data": data.name,
                "grid": sweep,
                "lambda0": lambda0,
            }
            LOG.debug("%s: %s units, run by %s", data.name, len(made.units), made.strategy)
            files.write_json(path, "sweep", json.loads(store.canonical(record)), plan_identity)
    return made


def _chosen(path: Path) -> dict[str, Any]:
    """What a sweep's file says was planned; nothing where there is none that is whole."""
    if not files.whole(path, "sweep"):
        return {}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _label(source: Source, data: Dataset) -> str:
    """How a data set is called in the results; drawn ones by their seed too."""
    drawn = not Path(source.name.partition(":")[0]).is_file()
    return f"{data.name} seed {source.seed}" if drawn else data.name


def _ends(labels: list[str]) -> str:
    """The first of a unit's flows and the last: there may be hundreds."""
    return labels[0] if len(labels) == 1 else f"{labels[0]} to {labels[-1]}"


def _brief(values: list[int]) -> str:
    return str(values[0]) if len(values) == 1 else f"{min(values)}-{max(values)}"

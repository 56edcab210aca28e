"""A sweep over data sets, flows with their parameters, widths and seeds: from plain values to one
stored file per unit of work.

A unit's file is named by the hash of all that decides its numbers: data, coordinates, settings,
code. So a sweep that was killed goes on where it was, a larger one reuses what a smaller one left,
and several processes share one folder. How runs share a device (`planning.STRATEGIES`) is decided
once and kept beside the results, so that going on gives the same bits.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .. import files
from ..ensembles import UNIT_RUNS
from ..errors import InputError, check_positive, check_seed, unknown_name
from ..network.loading import load_function
from ..numerics import Numerics, Precision
from ..progress import Bar
from . import store, work
from .provenance import JUDGEMENT, provenance, source_digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..data import Dataset
    from ..ensembles.planning import Plan, Unit
    from ..method import AbstractFlow

FLOWS = ("gradient_flow", "heavy_ball", "nesterov")


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set by name: "digits", "sphere", an .npz file with arrays X and y, or a folder with
    MNIST's IDX files."""

    name: str
    n: int = 50
    p: int = 20
    seed: int = 0

    def __post_init__(self):
        for field in ("n", "p"):
            check_positive(field, getattr(self, field))
        check_seed("seed", self.seed)

    def load(self) -> Dataset:
        """The data set."""
        import jax

        from ..data import load_digits, load_mnist, load_npz, sphere
        from ..memory import check_fits

        key = jax.random.key(self.seed)
        if self.name == "sphere":
            check_fits(self.n * self.p, f"{self.n} inputs of size {self.p}", "use fewer samples")
        if self.name == "digits":
            return load_digits(self.n, key=key)
        if self.name == "sphere":
            return sphere(self.n, self.p, key=key)
        path = Path(self.name)
        if path.is_dir():
            return load_mnist(path, self.n, key=key)
        if not path.exists() and not path.suffix:
            near = unknown_name("data", self.name, ("digits", "sphere"))
            raise InputError(f"{near} Or give an .npz file, or a folder with MNIST's IDX files.")
        return load_npz(path)


@dataclasses.dataclass(frozen=True)
class Grid:
    """What is swept. Times: to `t_end`, or by default to 5/lambda_0 (gradient flow) and
    10/sqrt(lambda_0) (momentum).

    data: names as in `Source`, drawn with n, p and data_seed. unit_runs: runs in a unit of work, at
    most. readouts: by name, by default those of `simulate`. tol, precision: see `Numerics`.
    strategy, layout: how runs share devices, by default what `planning.plan` chooses. model:
    FILE.py:FUNCTION, a function of (width, key) that makes the networks; by default they are
    two-layer ReLU networks.
    """

    data: tuple[str, ...]
    n: int
    p: int
    data_seed: int
    flows: tuple[str, ...]
    widths: tuple[int, ...]
    seeds: int
    antisymmetric: bool
    t_end: float | None
    times: int
    unit_runs: int = UNIT_RUNS
    readouts: tuple[str, ...] = ()
    tol: float = 1e-5
    precision: Precision = "highest"
    strategy: Literal["map", "vmap"] | None = None
    layout: Literal["runs", "neurons"] | None = None
    model: str | None = None

    def __post_init__(self):
        for name in ("n", "p", "seeds", "unit_runs"):
            check_positive(name, getattr(self, name))
        if self.seeds > 10**6:
            raise InputError(
                "seeds is how many networks are drawn per width, at most a million, "
                f"got {self.seeds}."
            )
        if self.t_end is not None:
            check_positive("t_end", self.t_end)
        if self.times < 2:
            raise InputError(f"times must be at least 2, got {self.times}.")
        check_positive("widths", self.widths)
        if not self.data or not self.flows or not self.widths:
            raise InputError(
                "a sweep needs data, flows and widths, e.g. --data sphere --flows "
                "gradient_flow --widths 256."
            )
        if self.antisymmetric and self.model:
            raise InputError("antisymmetric is of the built-in network; with --model leave it out.")
        odd = [width for width in self.widths if width % 2]
        if self.antisymmetric and odd:
            raise InputError(
                "antisymmetric networks come in pairs of neurons, so widths must be "
                f"even, got {odd}."
            )
        for name, values in (
            ("data", self.data),
            ("flows", [parse_flow(text) for text in self.flows]),
            ("widths", self.widths),
        ):
            if len(set(values)) < len(values):
                raise InputError(
                    f"{name} holds the same value twice: {' '.join(map(str, getattr(self, name)))}."
                )

        self.numerics()

    def numerics(self) -> Numerics:
        """Tolerance and precision."""
        return Numerics(tol=self.tol, precision=self.precision)

    def sources(self) -> tuple[Source, ...]:
        """The data sets by name."""
        return tuple(Source(name, self.n, self.p, self.data_seed) for name in self.data)


def parse_flow(text: str) -> tuple[str, float | None]:
    """ "heavy_ball:0.25" -> ("heavy_ball", 0.25); the number may be left out (b = sqrt(2 lambda_0);
    d = 3)."""
    name, colon, number = text.partition(":")
    if name not in FLOWS:
        raise unknown_name("flow", name, FLOWS)
    if not colon:
        return name, None
    if name == "gradient_flow":
        raise InputError(f"the gradient flow has no parameter, got {text!r}; write gradient_flow.")
    try:
        value = float(number)
    except ValueError:
        raise InputError(
            f"{text!r} is no flow: after the colon comes a number, e.g. "
            "heavy_ball:0.25 or nesterov:3."
        ) from None
    meaning = "the friction b" if name == "heavy_ball" else "the Nesterov constant d"
    if not math.isfinite(value) or value < 0 or (value == 0 and name == "nesterov"):
        raise InputError(
            f"{meaning} must be finite and "
            f"{'>= 0' if name == 'heavy_ball' else '> 0'}, got {number} in {text!r}."
        )
    return name, value


def spell(text: str) -> str:
    """A flow in one spelling: "heavy_ball:0.250" -> "heavy_ball:0.25"."""
    name, value = parse_flow(text)
    return name if value is None else f"{name}:{value:.12g}"


def build_flow(text: str, lambda0: float) -> AbstractFlow:
    """The flow of a command line; the heavy ball's friction defaults to the paper's sqrt(2
    lambda_0)."""
    from ..method import GradientFlow, HeavyBall, Nesterov

    name, value = parse_flow(text)
    if name == "gradient_flow":
        return GradientFlow()
    if name == "heavy_ball":
        return HeavyBall(math.sqrt(2 * lambda0) if value is None else value)
    return Nesterov(3.0 if value is None else value)


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


def carry_out(grid: Grid, out: Path, process: tuple[int, int] = (0, 1)) -> Swept:
    """Do the units of a sweep that are not done, in `out`/data. process: (this one, how many) of a
    job that divides the units.

    Processes that do not know of each other share the units as well, by locks. Raises `InputError`.
    """
    pieces = _pieces(grid, out / "data")
    mine = pieces[process[0] :: process[1]]
    with Bar(len(mine), shown=process[0] == 0) as bar:
        done = work.do(mine, bar)
    if process[1] > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(
            "sweep"
        )  # the others' units are there when the first process counts them
    there = [piece for piece in (pieces if process[0] == 0 else mine) if piece.path.exists()]
    failures, runs = [], 0
    for piece in there:
        stored = store.Stored.open(piece.path)
        runs += math.prod(stored.shape("verdict"))
        failures += failed_runs(stored)
    missing = len(pieces) - len(there) - len(done.broken) if process[0] == 0 else 0
    return Swept(len(pieces), runs, done, failures, missing)


def _pieces(grid: Grid, folder: Path) -> list[work.Piece]:
    """All units of a sweep as pieces of work, in an order that all processes agree on."""
    from ..dynamics.readout import resolve

    resolve(grid.readouts, ())  # a misspelt name is an error of the whole
    files.check_folder(folder)
    sets = [(source, source.load()) for source in grid.sources()]
    code, origin = source_digest(without=JUDGEMENT), provenance()
    model = load_function(grid.model) if grid.model else None
    own, called = {}, {}
    if grid.model:
        own = {
            "model": hashlib.sha256(Path(grid.model.rpartition(":")[0]).read_bytes()).hexdigest()
        }
        called = {"model": f"{Path(grid.model).name} {own['model'][:8]}"}
    strategy = None
    pieces = []
    for source, data in sets:
        digest = hashlib.sha256(
            np.asarray(data.X).tobytes() + np.asarray(data.y).tobytes()
        ).hexdigest()
        made = _plan(
            grid,
            data,
            model,
            folder,
            {"grid": grid, "data": digest, "code": code, "dtype": origin["dtype"], **own},
            strategy,
        )
        strategy = made.strategy
        texts = [spell(text) for text in grid.flows]
        for unit in made.units:
            coordinates = {
                key: value
                for key, value in unit.coordinates.items()
                if key not in ("data", "data_name")
            }
            labels = [texts[i] for i in unit.flows]
            widths, seeds = coordinates["widths"], coordinates["seeds"]
            identity = {
                "data": digest,
                "coordinates": coordinates,
                "settings": made.settings,
                "code": code,
                **own,
            }
            described = {
                "experiment": "sweep",
                "data": _label(source, data),
                "data_sha256": digest,
                "code": code,
                "flows": labels,
                "parameters": coordinates["flows"],
                "widths": widths,
                "seeds": seeds,
                "settings": {
                    **_settings(made),
                    **called,
                    "t_end": grid.t_end or "default",
                    "times": grid.times,
                },
                "how": {
                    "strategy": unit.strategy,
                    "lanes": unit.lanes,
                    "layout": unit.layout,
                    "padded": unit.padded,
                },
                **origin,
                "precision": grid.precision,
            }
            title = (
                f"{described['data']}, {' '.join(labels)}, width {_brief(widths)}, seed "
                f"{_brief(seeds)}"
            )
            path = folder / f"unit-{store.fingerprint(identity)}.nc"
            pieces.append(work.Piece(path, title, _Compute(made, unit, labels, described)))
    return pieces


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


def _kernel(data: Dataset, model: Callable | None, width: int) -> Any:
    """The kernel behind the defaults: H infinity of the built-in network, H(0) of the user's at one
    width and seed 0."""
    import jax

    from ..kernel import empirical_ntk, infinite_ntk

    if model is None:
        return infinite_ntk(data.X.reshape(data.n, -1))
    kernel = empirical_ntk(model(width, key=jax.random.key(0)), data.X, output="full")
    return np.reshape(kernel, (data.y.size, data.y.size))


def _plan(
    grid: Grid,
    data: Dataset,
    model: Callable | None,
    folder: Path,
    identity: dict[str, Any],
    strategy: str | None,
) -> Plan:
    """The plan of a sweep on one data set, with the strategy that was chosen when the sweep
    began."""
    from ..ensembles import axes, planning

    lambda0 = math.nan
    if grid.t_end is None or "heavy_ball" in grid.flows:
        if model is not None:
            axes.recipe_dtype(model, grid.widths)  # what is wrong with it is said first
        lambda0 = float(
            np.linalg.eigvalsh(np.asarray(_kernel(data, model, grid.widths[0]), np.float64))[0]
        )
        if lambda0 <= 0:
            raise InputError(
                f"the kernel of {data.name} is singular (lambda_0 = {lambda0:.2e}); "
                "drop near-duplicates or use float64."
            )
    flows = [build_flow(text, lambda0) for text in grid.flows]
    ends = [
        grid.t_end or (5 / lambda0 if text.startswith("gradient_flow") else 10 / math.sqrt(lambda0))
        for text in grid.flows
    ]
    ts = np.stack([np.linspace(0.0, end, grid.times) for end in ends])
    path = folder / f"sweep-{store.fingerprint(identity)}.json"

    def make(strategy: str | None) -> Plan:
        return planning.plan(
            data,
            flows,
            grid.widths,
            grid.seeds,
            ts,
            model=model,
            antisymmetric=grid.antisymmetric,
            readouts=grid.readouts or None,
            config=grid.numerics(),
            strategy=strategy,
            layout=grid.layout,
            unit_runs=grid.unit_runs,
        )

    with work.Locks(folder) as locks:
        locks.take(path.name, wait=True)  # one process chooses
        kept = _chosen(path)
        made = make(kept or grid.strategy or strategy)
        if kept is None:
            record = {
                "strategy": made.strategy,
                "units": len(made.units),
                "data": data.name,
                **identity,
                "lambda0": lambda0,
            }
            files.write_json(path, "sweep", json.loads(store.canonical(record)))
    return made


def _chosen(path: Path) -> str | None:
    """The strategy kept in a sweep's configuration file; None, the file set aside, when damaged."""
    files.check_target(path, "sweep")
    if not path.exists():
        return None
    if files.checksum(path, "sweep") is None:
        files.set_aside(path, "sweep")
        return None
    return str(json.loads(path.read_text(encoding="utf-8"))["strategy"])


def _settings(made: Plan) -> dict[str, Any]:
    """What distinguishes runs of the same coordinates, flat: all settings but how they share a
    device and what is read off."""
    settings = {
        key: value
        for key, value in made.settings.items()
        if key not in ("strategy", "readouts", "config")
    }
    return {**settings, **made.settings["config"]}


def _label(source: Source, data: Dataset) -> str:
    """How a data set is called in the results; drawn ones by their seed too."""
    drawn = source.name in ("digits", "sphere") or Path(source.name).is_dir()
    return f"{data.name} seed {source.seed}" if drawn else data.name


def _brief(values: list[int]) -> str:
    return str(values[0]) if len(values) == 1 else f"{min(values)}-{max(values)}"

"""Many runs in one call: flows x hyperparameters x widths x seeds x data sets, every run as if it
were alone.

An ensemble is planned (`plan`), run unit by unit (`run_unit`), and put together (`assemble`);
`ensemble` does all three. Whoever wants to store units, resume, or share them among processes uses
the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Int

from ..dynamics.preparation import Choices
from ..dynamics.run import refined
from ..dynamics.solver import REASONS
from ..dynamics.trajectory import label
from ..errors import InputError, no_type_check, require
from ..loss import Loss, squared
from ..method import AbstractFlow, AbstractOptimizer, innermost
from ..numerics import Numerics, on_host
from ..progress import OnProgress, check_progress
from . import program
from .ahead import ready
from .axes import flow_values as flow_values
from .axes import plain_name
from .lanes import run_compacted
from .planning import plan as plan
from .units import Plan as Plan
from .units import Unit as Unit


class Ensemble(eqx.Module):
    """Read-outs of runs over (flow, width, seed, time, ...), as attributes or items.

    With several data sets everything has the leading dimension `data`.

    Args:
        flows: The flows, or optimizers.
        widths: Hidden neurons.
        seeds: Seeds of the networks.
        ts: Saved times of each flow, (flow, time).
        readouts: Name -> array.
        verdict: 0 for success, (flow, width, seed); see `failures`.
        accepted: Steps that counted, (flow, width, seed).
        rejected: Steps that were tried again, shorter, (flow, width, seed).
        data: Names of the data sets, where a list of them was given.
        errors: Numerical error bars of the read-outs, where the runs were refined.
        batch_sizes: Samples in a step, where several were asked for: one more dimension after that
            of optimizers.
    """

    flows: tuple[AbstractFlow | AbstractOptimizer, ...]
    widths: tuple[int, ...] = eqx.field(static=True)
    seeds: tuple[int, ...] = eqx.field(static=True)
    ts: Float[Array | np.ndarray, "*data flow time"]
    readouts: dict[str, Any]
    verdict: Int[Array | np.ndarray, "*data flow *batch width seed"]
    accepted: Int[Array | np.ndarray, "*data flow *batch width seed"]
    rejected: Int[Array | np.ndarray, "*data flow *batch width seed"]
    data: tuple[str, ...] | None = eqx.field(static=True, default=None)
    errors: dict[str, Array] | None = None
    batch_sizes: tuple[int, ...] | None = eqx.field(static=True, default=None)

    def __getattr__(self, name: str) -> Array:
        readouts = self.__dict__.get("readouts", {})
        if name in readouts:
            return readouts[name]
        raise AttributeError(
            f"this ensemble has no read-out {name!r}; it has: {', '.join(readouts)}."
        )

    def __getitem__(self, name: str) -> Array:
        return getattr(self, name)

    @property
    def ok(self) -> bool:
        """Whether every run succeeded."""
        return not np.any(self.verdict)

    def failures(self) -> list[str]:
        """One line per failed run: its coordinates and the solver's reason."""
        verdict = np.asarray(self.verdict)
        lines = []
        for place in np.argwhere(verdict):
            where = {name: axis[at] for (name, axis), at in zip(self._axes(), place, strict=True)}
            told = [
                one if name == "flow" else f"{name.replace('_', ' ')} {one}"
                for name, one in where.items()
            ]
            lines.append(f"{', '.join(told)}: {REASONS[int(verdict[tuple(place)])]}")
        return lines

    def _axes(self) -> list[tuple[str, Sequence[Any]]]:
        """The dimensions before time, in order, with their labels."""
        axes: list[tuple[str, Sequence[Any] | None]] = [
            ("data", self.data),
            ("flow", [flow_label(flow) for flow in self.flows]),
            ("batch_size", self.batch_sizes),
            ("width", self.widths),
            ("seed", self.seeds),
        ]
        return [(name, labels) for name, labels in axes if labels is not None]

    def to_xarray(self) -> Any:
        """A labelled xarray.Dataset; `time` is a coordinate along (flow, step) since flows may have
        times of their own."""
        xarray = require("xarray", "to_xarray")
        axes = dict(self._axes())
        variables = {
            name: label(name, np.asarray(value), (*axes, "step"))
            for name, value in self.readouts.items()
        }
        for name in ("verdict", "accepted", "rejected"):
            variables[name] = (tuple(axes), np.asarray(getattr(self, name)))
        dims = tuple(name for name in axes if name in ("data", "flow"))
        coords: dict[str, Any] = {name: np.asarray(labels) for name, labels in axes.items()}
        coords["time"] = ((*dims, "step"), np.asarray(self.ts))
        return xarray.Dataset(variables, coords=coords)


def flow_label(flow: AbstractFlow | AbstractOptimizer) -> str:
    """A flow's name with its parameters, e.g. "heavy_ball b=0.25"; words as they are, e.g.
    "restarted_nesterov d=3 scheme=speed"."""

    def told(flow: Any) -> Iterator[str]:
        for key, value in vars(flow).items():
            if isinstance(value, AbstractOptimizer):  # the method whose step or weights are adapted
                yield from told(value)
            elif callable(value):
                yield f"{key}={plain_name(getattr(value, 'function', value))}"
            elif isinstance(value, str):
                yield f"{key}={value}"
            elif not isinstance(value, bool) and value is not None and np.ndim(value) == 0:
                yield f"{key}={float(value):.6g}"

    return " ".join([innermost(flow).name, *told(flow)])


@no_type_check
def ensemble(
    data: Any,
    flows: Any,
    widths: Any,
    seeds: Any,
    ts: Any,
    *,
    model: Callable | None = None,
    activation: Any = jax.nn.relu,
    antisymmetric: bool = False,
    loss: Loss = squared,
    trainable: Any = None,
    where: Callable | None = None,
    solver: Any = None,
    readouts: Sequence[str] | Mapping[str, Any] | None = None,
    reference: Any = None,
    config: Numerics = Numerics(),
    dtype: Any = None,
    refine: bool | float = False,
    progress: OnProgress | bool | None = None,
    **how: Any,
) -> Ensemble:
    """Simulate every flow at every width from every seed on every data set, in one call.

    Every run as if it were alone, (2.2), (3.2), (4.2): its steps and its numbers.

    Args:
        data: A data set, or a list of them with equal shapes.
        flows: One or more, e.g. [HeavyBall(b) for b in frictions].
        widths: Hidden neurons, one number or several.
        seeds: The seeds, or how many (0, 1, ...).
        ts: Saved times shared by all flows, one row per flow, or (data, flow, time).
        model: Makes the model of a run, called as model(width, key=jax.random.key(seed)) inside the
            compiled program, for example lambda width, key: eqx.nn.MLP(4, "scalar", width, 3,
            key=key); one without a width ignores it. Define it once: another function, though of
            the same text, compiles anew. Without it runs are of `init_two_layer`.
        activation: Of `init_two_layer`.
        antisymmetric: Of `init_two_layer`.
        loss: As in `simulate`.
        trainable: As in `simulate`.
        where: As in `simulate`.
        solver: As in `simulate`.
        readouts: As in `simulate`.
        reference: As in `simulate`.
        config: As in `simulate`.
        dtype: Of the runs; by default that of JAX, or the model's own.
        refine: As in `simulate`, for all runs together.
        progress: Called as progress(done, total) after every unit of work; True for a bar.
        **how: strategy, layout, unit_runs, memory_limit and over, see `planning.plan`.

    Returns:
        The read-outs over (flow, width, seed, time). Failed runs keep their place: NaN read-outs
        and a verdict.

    Raises:
        InputError: If something cannot be run, or does not fit into memory.

    Examples:
        >>> data = nm.sphere(5, 3, key=jax.random.key(0))
        >>> flows = [nm.HeavyBall(b) for b in (0.2, 0.4)]
        >>> nm.ensemble(data, flows, [16, 32], 2, [0.0, 1.0], readouts=["loss"]).loss.shape
        (2, 2, 2, 2)
    """
    recipe = {
        "model": model,
        "activation": activation,
        "antisymmetric": antisymmetric,
        "loss": loss,
        "trainable": trainable,
        "where": where,
        "solver": solver,
        "readouts": readouts,
        "reference": reference,
        "config": config,
        "dtype": dtype,
    }
    progress = check_progress(progress, "ensemble")
    if not isinstance(refine, bool):
        recipe["readouts"] = Choices(readouts=readouts).refining(refine).readouts

    def solved(ts: Any, config: Numerics) -> Ensemble:
        planned = plan(data, flows, widths, seeds, ts, **{**recipe, "config": config}, **how)
        return run_plan(planned, progress)

    ts = ts if refine is False else np.asarray(ts, float)
    return refined(solved, ts, config, refine)


def run_plan(made: Plan, progress: OnProgress | None = None) -> Ensemble:
    """Every unit of a plan, put together; progress is called as progress(units done, units)."""
    blocks = []
    for unit in ready(made):
        blocks.append(run_unit(made, unit))
        if progress is not None:
            progress(len(blocks), len(made.units))
    return assemble(made, blocks)


def run_unit(made: Plan, unit: Unit) -> Ensemble:
    """The runs of one unit, with the plan's dimensions restricted to it, on the host. Warns of
    nothing; see its `failures`."""
    batch = made.batch(unit)
    if unit.strategy == "compacted":
        outcome = run_compacted(batch, unit.lanes)
    else:
        outcome = program.run_batch(batch, made.how(unit))
    shape = (len(unit.flows), len(unit.widths), len(unit.seeds))
    several = (1,) if made.stacked else ()

    def arrange(value: np.ndarray) -> np.ndarray:
        return value[: np.prod(shape)].reshape(*several, *shape, *value.shape[1:])

    return Ensemble(
        tuple(made.flows[i] for i in unit.flows),
        tuple(made.widths[j] for j in unit.widths),
        tuple(made.seeds[k] for k in unit.seeds),
        _times(made, [unit.data], unit.flows),
        **jax.tree.map(arrange, outcome)._asdict(),
        data=(made.data[unit.data].name,) if made.stacked else None,
    )


def assemble(made: Plan, blocks: Iterable[Ensemble]) -> Ensemble:
    """The whole ensemble from the blocks of all its units, in their order."""
    blocks = list(blocks)
    if len(blocks) != len(made.units):
        raise InputError(f"the plan has {len(made.units)} units, got {len(blocks)} blocks.")
    several = (len(made.data),) if made.stacked else ()
    shape = (*several, len(made.flows), len(made.widths), len(made.seeds))
    places = [
        np.ix_(*([[u.data]] if made.stacked else []), u.flows, u.widths, u.seeds)
        for u in made.units
    ]

    def join(*parts: Any) -> np.ndarray:
        first = np.asarray(parts[0])
        whole = np.empty((*shape, *first.shape[len(shape) :]), first.dtype)
        for place, part in zip(places, parts, strict=True):
            whole[place] = part
        return whole

    parts = [program.Solved(b.readouts, b.verdict, b.accepted, b.rejected) for b in blocks]
    outcome = jax.device_put(jax.tree.map(join, *parts))
    names = tuple(data.name for data in made.data) if made.stacked else None
    ts = jax.device_put(_times(made, range(len(made.data)), range(len(made.flows))))
    return Ensemble(made.flows, made.widths, made.seeds, ts, **outcome._asdict(), data=names)


def _times(made: Plan, sets: Sequence[int], flows: Sequence[int]) -> np.ndarray:
    rows = made.ts[np.ix_(list(sets), list(flows))]
    return on_host(rows if made.stacked else rows[0], float)

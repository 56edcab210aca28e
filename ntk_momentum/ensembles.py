"""Many runs in one call: flows x widths x seeds on one data set, every run as if it were alone.

A run (width, seed) is `init_two_layer(width, p, key=jax.random.key(seed))`. Flows of one kind are stacked over their
parameters and mapped together with the seeds, one compiled program per kind of flow and width. Runs are mapped one
after another, not vectorised, so each keeps its own step sizes: on a CPU this is also the fastest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .errors import InputError, require
from .loss import Loss, squared
from .method import AbstractFlow
from .network import init_two_layer
from .numerics import Numerics
from .prediction import check_times
from .readout import default_readouts, resolve
from .simulation import as_integrator, default_reference, solve, tolerance_apart, weight_problem
from .solver import REASONS
from .trajectory import label


class Ensemble(eqx.Module):
    """Read-outs of all runs, with the dimensions (flow, width, seed, time, ...), as attributes or items.

    ts: (flow, time), the saved times of each flow; verdict, accepted, rejected: (flow, width, seed).
    """

    flows: tuple[AbstractFlow, ...]
    widths: tuple[int, ...] = eqx.field(static=True)
    seeds: tuple[int, ...] = eqx.field(static=True)
    ts: Float[Array, "flow time"]
    readouts: dict[str, Array]
    verdict: Int[Array, "flow width seed"]
    accepted: Int[Array, "flow width seed"]
    rejected: Int[Array, "flow width seed"]

    def __getattr__(self, name: str) -> Array:
        readouts = self.__dict__.get("readouts", {})
        if name in readouts:
            return readouts[name]
        raise AttributeError(f"this ensemble has no read-out {name!r}; it has: {', '.join(readouts)}.")

    def __getitem__(self, name: str) -> Array:
        return getattr(self, name)

    @property
    def ok(self) -> bool:
        """Whether every run succeeded."""
        return not np.any(self.verdict)

    def failures(self) -> list[str]:
        """One line per failed run: its coordinates and the solver's reason."""
        return [
            f"{flow_label(self.flows[i])}, width {self.widths[j]}, seed {self.seeds[k]}: {REASONS[int(self.verdict[i, j, k])]}"
            for i, j, k in np.argwhere(np.asarray(self.verdict))
        ]

    def to_xarray(self) -> Any:
        """A labelled xarray.Dataset; `time` is a coordinate along (flow, step) since flows may have times of their own."""
        xarray = require("xarray", "to_xarray")
        leading = ("flow", "width", "seed")
        variables = {name: label(name, np.asarray(value), (*leading, "step")) for name, value in self.readouts.items()}
        for name in ("verdict", "accepted", "rejected"):
            variables[name] = (leading, np.asarray(getattr(self, name)))
        coords = {
            "flow": [flow_label(flow) for flow in self.flows],
            "width": np.asarray(self.widths),
            "seed": np.asarray(self.seeds),
            "time": (("flow", "step"), np.asarray(self.ts)),
        }
        return xarray.Dataset(variables, coords=coords)


def flow_label(flow: AbstractFlow) -> str:
    """A flow's name with its parameters, e.g. "heavy_ball b=0.25"."""
    values = [f"{key}={float(value):.6g}" for key, value in vars(flow).items() if np.ndim(value) == 0]
    return " ".join([flow.name, *values])


def ensemble(
    data: Any,
    flows: Any,
    widths: Any,
    seeds: Any,
    ts: Any,
    *,
    activation: Any = jax.nn.relu,
    antisymmetric: bool = False,
    loss: Loss = squared,
    trainable: Any = None,
    solver: Any = None,
    readouts: Sequence[str] | Mapping[str, Any] | None = None,
    reference: Any = None,
    config: Numerics = Numerics(),
    dtype: Any = None,
    progress: Any = None,
) -> Ensemble:
    """Simulate every flow at every width from every seed, in one call.

    seeds: the seeds, or how many (0, 1, ...). ts: saved times shared by all flows, or one row per flow. progress: called
    as progress(done, total), in pairs of a flow and a width, after every unit of work: all seeds of one kind of flow at one width. The rest
    is as in `simulate` and `init_two_layer`. Failed runs keep their place: NaN read-outs and a verdict.

    Raises `InputError`.
    """
    flows, widths, seeds = _axes(flows, widths, seeds)
    rows = _times(ts, len(flows))
    kinds: dict[Any, list[int]] = {}
    for index, flow in enumerate(flows):
        kinds.setdefault(jax.tree.structure(flow), []).append(index)
    cells: dict[tuple[int, int], Any] = {}
    for j, width in enumerate(widths):
        keys = [jax.random.key(seed) for seed in seeds]
        draw = partial(init_two_layer, width, data.input_size, activation=activation, antisymmetric=antisymmetric, dtype=dtype)
        models = [draw(key=key) for key in keys]
        against = (
            default_reference(models[0], data, trainable, None) if reference is None else jnp.asarray(reference, models[0].hidden.dtype)
        )
        names = (*default_readouts(models[0]), "lyapunov", *(("kernel_distance",) if against is not None else ()))
        parts = [weight_problem(model, data, loss, trainable, None) for model in models]
        runs = _stack([problem for problem, _ in parts]), _stack([w for _, w in parts])
        how = as_integrator(solver, *parts[0]), resolve(readouts, names), against
        for members in kinds.values():
            block = _unit(config, runs, [flows[i] for i in members], rows[jnp.asarray(members)], how)
            cells |= {(i, j): jax.tree.map(lambda leaf, row=row: leaf[row], block) for row, i in enumerate(members)}
            if progress is not None:
                jax.block_until_ready(block)
                progress(len(cells), len(flows) * len(widths))
    grid = [cells[i, j] for i in range(len(flows)) for j in range(len(widths))]
    values, verdict, accepted, rejected = jax.tree.map(
        lambda *leaves: jnp.stack(leaves).reshape(len(flows), len(widths), *leaves[0].shape), *grid
    )
    return Ensemble(flows, widths, seeds, rows, values, verdict, accepted, rejected)


def _axes(flows: Any, widths: Any, seeds: Any) -> tuple[tuple[AbstractFlow, ...], tuple[int, ...], tuple[int, ...]]:
    flows = (flows,) if isinstance(flows, AbstractFlow) else tuple(flows)
    widths = (widths,) if isinstance(widths, int) else tuple(int(width) for width in widths)
    seeds = tuple(range(seeds)) if isinstance(seeds, int) else tuple(int(seed) for seed in seeds)
    for name, values in (("flows", flows), ("widths", widths), ("seeds", seeds)):
        if not values:
            raise InputError(f"{name} is empty; an ensemble needs at least one.")
        if name != "flows" and len(set(values)) < len(values):
            raise InputError(f"{name} holds the same value twice: {list(values)}.")
    wrong = [type(flow).__name__ for flow in flows if not isinstance(flow, AbstractFlow)]
    if wrong:
        raise InputError(f"flows must be flows such as nm.GradientFlow(), got {wrong}.")
    return flows, widths, seeds


def _times(ts: Any, flows: int) -> Float[Array, "flow time"]:
    rows = jnp.asarray(ts)
    rows = jnp.broadcast_to(rows, (flows, rows.shape[-1])) if rows.ndim == 1 else rows
    if rows.ndim != 2 or rows.shape[0] != flows:
        raise InputError(f"ts must be (time,) or (flow, time) with {flows} rows, got shape {rows.shape}.")
    return jnp.stack([check_times(row) for row in rows])


def _unit(config: Numerics, runs: tuple[Any, Any], flows: list[AbstractFlow], times: Array, how: tuple[Any, ...]) -> Any:
    """All seeds of one width under flows of one kind, in the precision of the weights."""
    problems, starts = runs
    dtype = jnp.result_type(*jax.tree.leaves(starts))
    stacked = _stack([jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), flow) for flow in flows])
    return _map_runs(*tolerance_apart(config, dtype), problems, starts, stacked, times.astype(dtype), *how)


def _stack(trees: Sequence[Any]) -> Any:
    """Equal trees stacked along a new first axis; leaves that are no arrays must agree and stay as they are."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves) if eqx.is_array(leaves[0]) else leaves[0], *trees)


@eqx.filter_jit
def _map_runs(tol, config, problems, starts, flows, times, integrator, readouts, reference):
    """solve over (flow, seed), one run after another: a tuple of read-outs and statistics with those two leading axes."""
    config = dataclasses.replace(config, tol=tol)
    arrays, static = eqx.partition(problems, eqx.is_array)

    def run(flow, ts, arrays, w):
        trajectory = solve(eqx.combine(arrays, static), w, flow, ts, integrator, readouts, reference, config)
        return trajectory.readouts, trajectory.verdict, trajectory.accepted, trajectory.rejected

    def over_seeds(flow_and_times):
        return jax.lax.map(lambda seed: run(*flow_and_times, *seed), (arrays, starts))

    return jax.lax.map(over_seeds, (flows, times))

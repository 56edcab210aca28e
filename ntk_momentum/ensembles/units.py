"""A unit of work and the plan that holds all of them: what an ensemble will compute."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ..data import Dataset
from ..dynamics.coordinates import Decomposition, decompose
from ..method import AbstractFlow, AbstractOptimizer
from ..network.model import asked
from . import program
from .axes import model_by_shape, plain_name


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

    def how(self, unit: Unit) -> program.How:
        """How the runs of a unit share the plan's devices."""
        return program.How(unit.strategy, unit.lanes, unit.layout, self.over)

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

"""Discrete training over optimizers, widths and seeds: the counterpart of `ensemble.ensemble`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ..data import Dataset
from ..dynamics.training import cast_leaves, check_steps, descend, prepared, slots_for
from ..loss import Loss, squared
from ..method import AbstractOptimizer
from ..numerics import Numerics
from .ensemble import Ensemble
from .planning import axes, kinds, recipe_dtype
from .program import Recipe


def train_ensemble(
    data: Dataset,
    optimizers: Any,
    widths: Any,
    seeds: Any,
    steps: int,
    *,
    save_every: int = 1,
    model: Callable | None = None,
    activation: Any = jax.nn.relu,
    antisymmetric: bool = False,
    loss: Loss = squared,
    trainable: Any = None,
    where: Callable | None = None,
    readouts: Sequence[str] | Mapping[str, Any] | None = None,
    reference: Any = None,
    config: Numerics = Numerics(),
    dtype: Any = None,
) -> Ensemble:
    """Train with every optimizer at every width from every seed: the discrete counterpart of
    `ensemble`, its arguments and its result.

    optimizers: one or more of `ntk_momentum.method`, in the place of flows; those of one kind are
    stacked over their hyperparameters and share a program for each width. Runs follow one another
    inside it.

    Raises `InputError`. A run that diverges keeps its place: NaN read-outs and a verdict.
    """
    check_steps(steps, save_every)
    optimizers, widths, seeds = axes(
        optimizers, widths, seeds, AbstractOptimizer, "optimizers such as nm.heavy_ball(eta, beta)"
    )
    saves = steps // save_every
    counts = jnp.asarray(saves, jnp.int32), jnp.asarray(save_every, jnp.int32)
    runs: dict[tuple[int, int], Any] = {}
    dtype = recipe_dtype(model, widths, activation, antisymmetric, dtype)
    recipe = Recipe(
        model,
        activation,
        antisymmetric,
        dtype,
        loss,
        trainable,
        where,
        None,
        readouts,
        reference,
        config,
    )
    for j, width in enumerate(widths):
        nets = [recipe.net(width, data.input_size, jax.random.key(seed)) for seed in seeds]
        for members in kinds(optimizers):
            parts = [
                prepared(
                    net, data, optimizers[members[0]], loss, trainable, where, readouts, reference
                )
                for net in nets
            ]
            stacked = _stack([cast_leaves(optimizers[i], dtype) for i in members])
            problems, starts = (
                _stack([part[0] for part in parts]),
                _stack([part[1] for part in parts]),
            )
            _, _, _, chosen, against = parts[0]
            values, verdict = _descend_all(
                problems, starts, stacked, *counts, slots_for(saves), chosen, against, config
            )
            runs |= {
                (i, j): jax.tree.map(lambda leaf, row=row: leaf[row], (values, verdict))
                for row, i in enumerate(members)
            }
    grid = [runs[i, j] for i in range(len(optimizers)) for j in range(len(widths))]
    shape = len(optimizers), len(widths)
    values, verdict = jax.tree.map(
        lambda *leaves: jnp.stack(leaves).reshape(*shape, *leaves[0].shape), *grid
    )
    values = jax.tree.map(lambda rows: rows[:, :, :, : saves + 1], values)
    ts = jnp.broadcast_to(
        save_every * jnp.arange(saves + 1, dtype=verdict.dtype), (shape[0], saves + 1)
    ).astype(float)
    return Ensemble(
        optimizers,
        widths,
        seeds,
        ts,
        values,
        verdict,
        jnp.full_like(verdict, steps),
        jnp.zeros_like(verdict),
    )


@eqx.filter_jit
def _descend_all(
    problems, starts, optimizers, saves, save_every, slots, readouts, reference, config
):
    """descend over (optimizer, seed), one run after another: read-outs and verdicts with those two
    leading axes."""
    arrays, static = eqx.partition(problems, eqx.is_array)

    def run(optimizer, seed):
        arrays, w = seed
        return descend(
            eqx.combine(arrays, static),
            w,
            optimizer,
            saves,
            save_every,
            slots,
            readouts,
            reference,
            config,
        )[1:]

    return jax.lax.map(
        lambda optimizer: jax.lax.map(partial(run, optimizer), (arrays, starts)), optimizers
    )


def _stack(trees: Sequence[Any]) -> Any:
    """Equal trees stacked along a new first axis; leaves that are no arrays must agree and stay as
    they are."""
    return jax.tree.map(
        lambda *leaves: jnp.stack(leaves) if eqx.is_array(leaves[0]) else leaves[0], *trees
    )

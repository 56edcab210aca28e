"""Discrete training, full batch: gradient descent (2.1), heavy ball (3.1), Nesterov (4.1), or any
optax transformation."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int, PyTree

from ..errors import InputError
from ..loss import Loss, squared
from ..method import AbstractOptimizer, State
from ..numerics import Numerics
from .coordinates import in_span
from .objective import WeightProblem
from .readout import Readout, Snapshot, default_readouts, read_off, resolve, watch
from .simulation import default_reference, weight_problem
from .solver.base import NOT_FINITE
from .trajectory import Trajectory


def train(
    model: Any,
    data: Any,
    optimizer: Any,
    steps: int,
    *,
    save_every: int = 1,
    loss: Loss = squared,
    trainable: Any = None,
    where: Callable | None = None,
    readouts: Sequence[str] | Mapping[str, Any] | None = None,
    reference: Any = None,
    config: Numerics = Numerics(),
) -> Trajectory:
    """Take `steps` full-batch steps and read the run off at k = 0, save_every, 2 save_every, ...,
    steps.

    optimizer: one of `ntk_momentum.method`, or anything with optax's init and update (and `value=`,
    the loss). The trajectory's `ts` are step counts k. Arguments and read-outs are those of
    `simulate`, without velocity and Lyapunov function.

    Raises `InputError`. A run that diverges has the verdict "left the finite numbers" and NaN
    read-outs.
    """
    check_steps(steps, save_every)
    problem, w, optimizer, chosen, reference = prepared(
        model, data, optimizer, loss, trainable, where, readouts, reference
    )
    saves = steps // save_every
    counts = jnp.asarray(saves, jnp.int32), jnp.asarray(save_every, jnp.int32)
    end, values, verdict = _descend(
        problem, w, optimizer, *counts, slots_for(saves), chosen, reference, config
    )
    ts = save_every * jnp.arange(saves + 1, dtype=jnp.result_type(*jax.tree.leaves(w)))
    values = jax.tree.map(lambda rows: rows[: saves + 1], values)
    return Trajectory(ts, values, end, verdict, counts[0] * counts[1], jnp.zeros_like(verdict))


def descend(
    problem: WeightProblem,
    w: PyTree,
    optimizer: Any,
    saves: Int[Array, ""],
    save_every: Int[Array, ""],
    slots: int,
    readouts: dict[str, Readout],
    reference: Any,
    config: Numerics,
) -> tuple[Any, dict[str, Array], Int[Array, ""]]:
    """The traceable heart of `train`: (model, read-outs, verdict), the read-outs in the first saves
    + 1 of slots + 1 rows.

    The numbers of steps are arrays, so one program serves them all.
    """
    with jax.default_matmul_precision(config.precision):
        watcher = watch(readouts)
        takes_value = isinstance(optimizer, optax.GradientTransformationExtraArgs)
        takes_value = takes_value or "value" in inspect.signature(optimizer.update).parameters
        dtype = jnp.result_type(*jax.tree.leaves(w))
        zero = jnp.zeros((), dtype)
        first = Snapshot(problem, None, zero, State(w, None), None, reference)
        _ = first.kernel

        def step(i, carry):
            w, memory, watched, k = carry
            extra = {"value": problem.value(w)} if takes_value else {}
            updates, memory = optimizer.update(problem.gradient(w), memory, w, **extra)
            after = jax.tree.map(lambda leaf, change: leaf + change.astype(leaf.dtype), w, updates)
            watched = watcher.update(problem, watched, k, State(w, None), k + 1, State(after, None))
            return after, memory, watched, k + 1

        def readings(w, watched, k):
            return read_off(
                readouts,
                Snapshot(problem, None, k, State(w, None), first, reference),
                watched,
                _finite(w),
            )

        def block(i, carry):
            run, rows = carry
            run = jax.lax.fori_loop(0, save_every, step, run)
            now = readings(run[0], run[2], run[3])
            return run, jax.tree.map(lambda row, value: row.at[i + 1].set(value), rows, now)

        watched = watcher.init(problem, zero, State(w, None))
        start = readings(w, watched, zero)
        rows = jax.tree.map(
            lambda value: jnp.zeros((slots + 1, *value.shape), value.dtype).at[0].set(value), start
        )
        (run, rows) = jax.lax.fori_loop(
            0, saves, block, ((w, optimizer.init(w), watched, zero), rows)
        )
    return problem.whole(run[0]), rows, jnp.where(_finite(run[0]), 0, NOT_FINITE).astype(jnp.int32)


_descend = eqx.filter_jit(descend)


def prepared(model, data, optimizer, loss, trainable, where, readouts, reference):
    """(problem, weights, optimizer, read-outs, reference), checked and in one precision."""
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        hint = "nm.heavy_ball(eta, beta), or any of optax's, such as optax.adam(1e-3)"
        raise InputError(
            "optimizer must have optax's init and update, got "
            f"{type(optimizer).__name__}; try {hint}."
        )
    problem, w = weight_problem(model, data, loss, trainable, where)
    reference = (
        default_reference(model, data, trainable, where)
        if reference is None
        else jnp.asarray(reference)
    )
    chosen = resolve(
        readouts,
        (*default_readouts(model), *(("kernel_distance",) if reference is not None else ())),
    )
    if isinstance(optimizer, eqx.Module):
        optimizer = cast_leaves(optimizer, jnp.result_type(*jax.tree.leaves(w)))
    if isinstance(
        optimizer, AbstractOptimizer
    ):  # one of optax's may scale coordinates one by one, which does not commute with rotations
        problem, w = in_span(problem, w, chosen, preactivations=optimizer.linear)
    return problem, w, optimizer, chosen, reference


def check_steps(steps: int, save_every: int) -> None:
    for name, value in (("steps", steps), ("save_every", save_every)):
        if not isinstance(value, int | np.integer):
            raise InputError(
                f"{name} must be a whole number, got {value!r}; try {name}={int(value)}."
            )
    if steps < 1 or save_every < 1 or steps % save_every:
        raise InputError(
            f"steps must be a positive multiple of save_every, got steps={steps}, "
            f"save_every={save_every}."
        )


def slots_for(saves: int) -> int:
    """Rows for read-outs: the next power of two, so that few numbers of saves mean a new
    compilation."""
    return 1 << (saves - 1).bit_length()


def cast_leaves(optimizer: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), optimizer)


def _finite(w: PyTree) -> Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(w)]))

"""Discrete training, full batch: gradient descent (2.1), heavy ball (3.1), Nesterov (4.1), or any optax transformation."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from .errors import InputError
from .loss import Loss, squared
from .method import State
from .numerics import Numerics
from .readout import Snapshot, default_readouts, read, resolve, watch
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
    """Take `steps` full-batch steps and read the run off at k = 0, save_every, 2 save_every, ..., steps.

    optimizer: one of `ntk_momentum.method`, or anything with optax's init and update (and `value=`, the loss). The trajectory's
    `ts` are step counts k. Arguments and read-outs are those of `simulate`, without velocity and Lyapunov function.

    Raises `InputError`. A run that diverges has the verdict "left the finite numbers" and NaN read-outs.
    """
    if int(steps) != steps or steps < 1 or int(save_every) != save_every or save_every < 1 or steps % save_every:
        raise InputError(f"steps must be a positive multiple of save_every, got steps={steps}, save_every={save_every}.")
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise InputError(f"optimizer must have optax's init and update, got {type(optimizer).__name__}; try nm.heavy_ball(eta, beta).")
    problem, w = weight_problem(model, data, loss, trainable, where)
    dtype = jnp.result_type(*jax.tree.leaves(w))
    if isinstance(optimizer, eqx.Module):
        optimizer = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), optimizer)
    reference = default_reference(model, data, trainable, where) if reference is None else jnp.asarray(reference)
    names = (*default_readouts(model), *(("kernel_distance",) if reference is not None else ()))
    return _descend(problem, w, optimizer, steps // save_every, save_every, resolve(readouts, names), reference, config)


def descend(problem, w, optimizer, saves: int, save_every: int, readouts, reference, config: Numerics) -> Trajectory:
    """The traceable heart of `train`: one scan over saves, one over the steps between them."""
    with jax.default_matmul_precision(config.precision):
        watcher = watch(readouts)
        takes_value = isinstance(optimizer, optax.GradientTransformationExtraArgs)
        takes_value = takes_value or "value" in inspect.signature(optimizer.update).parameters
        dtype = jnp.result_type(*jax.tree.leaves(w))
        zero = jnp.zeros((), dtype)
        first = Snapshot(problem, None, zero, State(w, None), None, reference)
        _ = first.kernel
        watched = watcher.init(problem, zero, State(w, None))

        def step(carry, k):
            w, memory, watched = carry
            extra = {"value": problem.value(w)} if takes_value else {}
            updates, memory = optimizer.update(problem.gradient(w), memory, w, **extra)
            after = jax.tree.map(lambda leaf, change: leaf + change.astype(leaf.dtype), w, updates)
            watched = watcher.update(problem, watched, k, State(w, None), k + 1, State(after, None))
            return (after, memory, watched), None

        def readings(w, watched, k):
            finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(w)]))
            return read(readouts, Snapshot(problem, None, k, State(w, None), first, reference), watched, finite)

        def block(carry, start):
            carry, _ = jax.lax.scan(step, carry, start + jnp.arange(save_every, dtype=dtype))
            return carry, readings(carry[0], carry[2], start + save_every)

        starts = save_every * jnp.arange(saves, dtype=dtype)
        (end, _, _), values = jax.lax.scan(block, (w, optimizer.init(w), watched), starts)
        values = jax.tree.map(lambda then, now: jnp.concatenate([then[None], now]), readings(w, watched, zero), values)
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(end)]))
    verdict = jnp.where(finite, 0, NOT_FINITE).astype(jnp.int32)
    count: Array = jnp.asarray(saves * save_every, jnp.int32)
    ts = save_every * jnp.arange(saves + 1, dtype=dtype)
    return Trajectory(ts, values, problem.model(end), verdict, count, jnp.zeros_like(count))


_descend = eqx.filter_jit(descend)

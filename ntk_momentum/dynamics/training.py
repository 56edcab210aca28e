"""Discrete training, full batch: gradient descent (2.1), heavy ball (3.1), Nesterov (4.1), or any
optax transformation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..data import Dataset
from ..errors import InputError, no_type_check
from ..loss import Loss, squared
from ..method import AbstractFlow
from ..numerics import Numerics
from .preparation import Choices
from .run import Run, count_off, refuse_no_start, watched
from .trajectory import Trajectory


@no_type_check
def train(
    model: Any,
    data: Dataset,
    optimizer: Any,
    steps: int,
    *,
    save_every: int = 1,
    loss: Loss = squared,
    trainable: Any = None,
    where: Callable | None = None,
    readouts: Sequence[str] | Mapping[str, Any] | None = None,
    reference: Any = None,
    progress: Callable[[int, int], None] | None = None,
    config: Numerics = Numerics(),
) -> Trajectory:
    """Take `steps` full-batch steps and read the run off at k = 0, save_every, ..., steps.

        w_{k+1} = w_k - eta grad L(w_k)      (2.1)

    or (3.1), (4.1), or any other update. Steps are exact: there is nothing to refine.

    Args:
        model: As in `simulate`.
        data: As in `simulate`.
        optimizer: One of `ntk_momentum.method`, or anything with optax's init and update (and
            `value=`, the loss).
        steps: Steps taken, a multiple of save_every.
        save_every: Steps between two saved ones.
        loss: As in `simulate`.
        trainable: As in `simulate`.
        where: As in `simulate`.
        readouts: As in `simulate`, without velocity and Lyapunov function.
        reference: As in `simulate`.
        progress: Called as progress(saved so far, all to be saved).
        config: Precision; the tolerance is for flows.

    Returns:
        The read-outs at `ts`, which are step counts k, and the model at the end. A run that
        diverges has the verdict "left the finite numbers" and NaN read-outs.

    Raises:
        InputError: If something cannot be trained.

    Examples:
        >>> data = nm.sphere(5, 3, key=jax.random.key(0))
        >>> net = nm.init_two_layer(64, 3, key=jax.random.key(1))
        >>> run = nm.train(net, data, nm.heavy_ball(0.1, 0.9), 20, save_every=10, readouts=["loss"])
        >>> run.ts.tolist()
        [0.0, 10.0, 20.0]
    """
    check_steps(steps, save_every)
    steps_it = hasattr(optimizer, "init") and hasattr(optimizer, "update")
    if isinstance(optimizer, AbstractFlow | type) or not steps_it:
        called = isinstance(optimizer, type)
        got = f"the class {optimizer.__name__} (call it)" if called else type(optimizer).__name__
        hint = "nm.heavy_ball(eta, beta), or any of optax's, such as optax.adam(1e-3)"
        raise InputError(f"optimizer must have optax's init and update, got {got}; try {hint}.")
    chosen = Choices(loss, trainable, where, None, readouts, reference, config)
    run = Run.prepare(model, data, optimizer, chosen).within()
    saves = int(steps) // int(save_every)
    run.check_memory(1 << saves.bit_length())
    if progress is not None:
        counted = jnp.asarray(step_counts(saves, save_every), run.dtype)
        return refuse_no_start(run, watched(run, counted, progress))
    counts = jnp.asarray(saves, jnp.int32), jnp.asarray(save_every, jnp.int32)
    # Rows for read-outs: the next power of two, so that few numbers of saves mean a new
    # compilation. The loop runs to `saves`, an array; rows beyond are cut off below.
    trajectory = refuse_no_start(run, count_off(run, *counts, 1 << (saves - 1).bit_length()))
    rows = jax.tree.map(lambda rows: rows[: saves + 1], trajectory.readouts)
    return Trajectory(
        trajectory.ts[: saves + 1],
        rows,
        trajectory.model,
        trajectory.verdict,
        trajectory.accepted,
        trajectory.rejected,
    )


def step_counts(saves: int, save_every: int) -> np.ndarray:
    """k = 0, save_every, 2 save_every, ..."""
    return save_every * np.arange(saves + 1, dtype=float)


def check_steps(steps: Any, save_every: Any) -> None:
    """Raise `InputError` unless both are positive whole numbers, the one a multiple of the
    other."""
    for name, value in (("steps", steps), ("save_every", save_every)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            hint = f"; try {name}={int(value)}" if isinstance(value, float) else ""
            raise InputError(f"{name} must be a whole number, got {value!r}{hint}.")
    if save_every >= 2**31:
        raise InputError(f"save_every must be below 2^31, got {save_every}; save more often.")
    if steps < 1 or save_every < 1 or steps % save_every:
        raise InputError(
            "steps must be a positive multiple of save_every, got "
            f"steps={steps}, save_every={save_every}."
        )

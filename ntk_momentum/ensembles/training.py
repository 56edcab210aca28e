"""Discrete training over optimizers, widths and seeds: an ensemble whose times are step counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from ..data import Dataset
from ..dynamics.training import check_steps, step_counts
from ..errors import no_type_check
from ..loss import Loss, squared
from ..method import AbstractOptimizer
from ..numerics import Numerics
from .ensemble import Ensemble, run_plan
from .planning import plan


@no_type_check
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
    progress: Callable[[int, int], None] | None = None,
    **how: Any,
) -> Ensemble:
    """Train with every optimizer at every width from every seed: the discrete counterpart of
    `ensemble`, its arguments and its result.

    Args:
        optimizers: one or more of `ntk_momentum.method`, in the place of flows.
        steps, save_every: as in `train`.
        data, widths, seeds, model, activation, antisymmetric, loss, trainable, where, readouts,
            reference, config, dtype, progress, how: as in `ensemble`.

    Returns:
        The read-outs over (optimizer, width, seed, saved step). A run that diverges keeps its
        place: NaN read-outs and a verdict.

    Raises:
        InputError: what cannot be trained, or does not fit into memory.

    Example:
        >>> data = nm.sphere(5, 3, key=jax.random.key(0))
        >>> runs = nm.train_ensemble(data, nm.gradient_descent(0.1), [16, 32], 2, 4, save_every=2)
        >>> runs.loss.shape
        (1, 2, 2, 3)
    """
    check_steps(steps, save_every)
    made = plan(
        data,
        optimizers,
        widths,
        seeds,
        step_counts(int(steps) // int(save_every), int(save_every)),
        model=model,
        activation=activation,
        antisymmetric=antisymmetric,
        loss=loss,
        trainable=trainable,
        where=where,
        readouts=readouts,
        reference=reference,
        config=config,
        dtype=dtype,
        methods=AbstractOptimizer,
        **how,
    )
    return run_plan(made, progress)

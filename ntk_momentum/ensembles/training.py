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
    """Train with every optimizer at every width from every seed: `ensemble` in discrete steps.

    Each run takes the steps (2.1), (3.1) or (4.1) that `train` takes. They are exact: there is
    nothing to refine.

    Args:
        data: As in `ensemble`.
        optimizers: One or more of `ntk_momentum.method`, in the place of flows.
        widths: As in `ensemble`.
        seeds: As in `ensemble`.
        steps: Steps taken, a multiple of save_every.
        save_every: Steps between two saved ones.
        model: As in `ensemble`.
        activation: As in `ensemble`.
        antisymmetric: As in `ensemble`.
        loss: As in `simulate`.
        trainable: As in `simulate`.
        where: As in `simulate`.
        readouts: As in `train`.
        reference: As in `simulate`.
        config: Precision; the tolerance is for flows.
        dtype: As in `ensemble`.
        progress: As in `ensemble`.
        **how: As in `ensemble`.

    Returns:
        The read-outs over (optimizer, width, seed, saved step). A run that diverges keeps its
        place: NaN read-outs and a verdict.

    Raises:
        InputError: If something cannot be trained, or does not fit into memory.

    Examples:
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

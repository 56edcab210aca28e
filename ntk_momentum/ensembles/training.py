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
from ..progress import OnProgress, check_progress
from .ensemble import Ensemble, run_plan
from .planning import plan
from .units import Plan


@no_type_check
def train_ensemble(
    data: Dataset,
    optimizers: Any,
    widths: Any,
    seeds: Any,
    steps: int,
    *,
    batch_sizes: Any = None,
    sampling: str = "without_replacement",
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
    progress: OnProgress | bool | None = None,
    **how: Any,
) -> Ensemble:
    """Train with every optimizer at every width from every seed: `ensemble` in discrete steps.

    Each run takes the steps (2.1), (3.1) or (4.1) that `train` takes: with mini-batches those of
    train(..., key=jax.random.key(seed)), which also is the key of its network. All batch sizes run
    in one program. Steps are exact: there is nothing to refine.

    Args:
        data: As in `ensemble`.
        optimizers: One or more, in the place of flows: of `ntk_momentum.method`, which share a
            program where they differ in numbers alone, or optax's, a program each.
        widths: As in `ensemble`.
        seeds: As in `ensemble`.
        steps: Steps taken, a multiple of save_every.
        batch_sizes: Samples in a step, one number or several, "full" for all; as in `train`, where
            it is batch_size.
        sampling: As in `train`.
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
        The read-outs over (optimizer, width, seed, saved step), with batch_sizes over (optimizer,
        batch size, width, seed, saved step). A run that diverges keeps its place: NaN read-outs and
        a verdict.

    Raises:
        InputError: If something cannot be trained, or does not fit into memory.

    Examples:
        >>> data = nm.sphere(5, 3, key=jax.random.key(0))
        >>> runs = nm.train_ensemble(data, nm.gradient_descent(0.1), [16, 32], 2, 4, save_every=2)
        >>> runs.loss.shape
        (1, 2, 2, 3)
        >>> runs = nm.train_ensemble(
        ...     data, nm.gradient_descent(0.05), 16, 2, 4, batch_sizes=[1, 2, "full"])
        >>> runs.batch_sizes, runs.loss.shape
        ((1, 2, 5), (1, 3, 1, 2, 5))
    """
    check_steps(steps, save_every)
    progress = check_progress(progress, "ensemble of trainings")
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
        batch_sizes=batch_sizes,
        sampling=sampling,
        **how,
    )
    runs = run_plan(made, progress)
    return runs if made.batches is None else _with_batch_axis(runs, made)


def _with_batch_axis(runs: Ensemble, made: Plan) -> Ensemble:
    """Optimizers x batch sizes, which are one axis in a plan, as two."""
    at = int(made.stacked)
    sizes = tuple(dict.fromkeys(made.batches or ()))
    count = len(sizes)

    def split(value: Any) -> Any:
        return value.reshape(*value.shape[:at], -1, count, *value.shape[at + 1 :])

    outcome = {
        name: getattr(runs, name) for name in ("readouts", "verdict", "accepted", "rejected")
    }
    first = (slice(None),) * at + (slice(None, None, count),)
    return Ensemble(
        runs.flows[::count],
        runs.widths,
        runs.seeds,
        runs.ts[first],
        **jax.tree.map(split, outcome),
        data=runs.data,
        batch_sizes=sizes,
    )

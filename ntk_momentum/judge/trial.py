"""Advice tried: a model trained with each recommendation, predicted against actual steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ..dynamics.training import train
from ..numerics import Numerics
from ..progress import OnProgress, check_progress
from .recommendation import Advice

TRIED_STEPS = 20_000
"""Predicted steps up to which `check_advice` tries a method. Chosen, not measured: minutes."""
DRAWS = 16
"""Runs that advice for mini-batches is tried by. Chosen: their mean loss scatters by a quarter
where noise is as large as the loss, and the step at which it stays below a target by less."""


def check_advice(
    advice: Advice,
    model: Any,
    data: Any,
    *,
    trainable: Any = None,
    where: Callable | None = None,
    config: Numerics = Numerics(),
    key: Any = None,
    progress: OnProgress | bool | None = None,
) -> dict[str, tuple[float, float]]:
    """Train a model with each recommendation of up to `TRIED_STEPS` steps: (predicted, actual)
    steps until the loss stays below the target, by method; inf: not within twice the predicted,
    NaN: the loss rose tenfold above its predicted peak, or left the finite numbers. On mini-batches
    it is the mean loss of `DRAWS` runs, as the expected one is foretold. key: of the batches, where
    the advice is for them. progress: called as progress(steps done, all steps); True for a bar."""
    found = {}
    told = check_progress(progress, "check_advice")
    methods = {name: r for name, r in advice.methods.items() if r.steps <= TRIED_STEPS}
    counts = [2 * int(r.steps) + 10 for r in methods.values()]
    drawn: list[dict[str, Any]] = [{}]
    if advice.batch_size is not None:
        keys = jax.random.split(jax.random.key(0) if key is None else key, DRAWS)
        way = {"batch_size": advice.batch_size, "sampling": advice.sampling}
        drawn = [{**way, "key": one} for one in keys]
    before, total = 0, len(drawn) * sum(counts)
    for count, (name, r) in zip(counts, methods.items(), strict=True):
        losses = []
        for draw in drawn:
            run = train(
                model,
                data,
                r.optimizer,
                count,
                trainable=trainable,
                where=where,
                readouts=["loss"],
                config=config,
                progress=None if told is None else _part(told, before, count, total),
                **draw,
            )
            losses.append(np.asarray(run.loss))
            before += count
        loss = np.mean(losses, axis=0)
        stays = int(np.flatnonzero(~(loss <= advice.target * loss[0]))[-1]) + 1
        steady = np.max(loss) <= 10 * r.peak * loss[0]  # false for NaN
        actual = float(stays) if stays < len(loss) else math.inf
        found[name] = (r.steps, actual if steady else math.nan)
    if told is not None:
        told(total, total)
    return found


def _part(told: OnProgress, before: int, own: int, total: int) -> OnProgress:
    """The progress of a part of some work, of which so much was done before it."""
    return lambda done, of: told(before + own * done // of, total)

"""Is it lazy? A short run of a model against the prediction of its own kernel at the start, by the
same optimizer.

The prediction is the linearised model f_lin(w) = f(w_0) + J (w - w_0), whose kernel is constant:
for gradient descent, heavy ball and Nesterov on the squared loss it is `predict` with H(0), and for
any other optimizer or loss it is what a constant kernel would have done.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ..dynamics.objective import WeightProblem
from ..dynamics.preparation import weight_problem, weights_dtype
from ..dynamics.run import why_no_start
from ..dynamics.solver import Sampling
from ..dynamics.training import check_optimizer, train
from ..dynamics.trajectory import Trajectory
from ..errors import InputError, check_whole, no_type_check
from ..loss import Loss, squared
from ..method import AbstractOptimizer, gradient_descent
from ..numerics import Numerics, check_config
from ..products import in_force
from ..progress import OnProgress, check_progress
from ..stochastic import critical_step
from . import drift
from .advice import bearable, spelt
from .finding import Diagnosis
from .linearization import linearize

ENDS = ["low", "top"]
"""The arguments by which a function that makes an optimizer is told from an optimizer's own, such
as `optax.sgd`, that was not called."""
FORMED = 2048
"""Samples times outputs up to which the kernel is formed; beyond, 32 MB and seconds of an
eigendecomposition, it is known by its products."""
PRODUCTS = 100
"""Of each kernel, for its ends."""
LOOKED_AT = 512
"""Samples times outputs up to which a hundred kernels are looked at where the loss bounced: ten
seconds."""
TRIALS = 6
"""Smaller steps tried after one that diverged, each a quarter of the one before."""


@no_type_check
def diagnose(
    model: Any,
    data: Any,
    optimizer: Any = None,
    steps: int = 100,
    *,
    saves: int = 20,
    products: int | None = None,
    loss: Loss = squared,
    trainable: PyTree = None,
    where: Callable | None = None,
    batch_size: int | None = None,
    key: Any = None,
    sampling: Sampling = "without_replacement",
    progress: OnProgress | bool | None = None,
    config: Numerics = Numerics(),
) -> Diagnosis:
    """Train a model briefly, beside its linearisation, and say how lazy it is.

        gap(k) = |f(k) - f_lin(k)| / max_j |f_lin(j) - f(0)|,   drift = |H - H_0| / |H_0|

    Four questions with a number each (Chizat, Oyallon and Bach 2019 for lazy training; it is the
    constancy of H that Theorems 1-3 rest on): does the optimizer bear lambda_max, now and as the
    kernel moves; does the kernel move; does f follow the prediction; does H turn. After a run that
    diverged, smaller steps are tried until one does not. Of n samples and k outputs with n k > 2048
    no kernel is formed: its ends come from Lanczos steps, which see the largest from below and the
    smallest from above, and distances from 64 random signs, to 9 %. Steps are exact: there is
    nothing to refine.

    Args:
        model: Any Equinox model of one input.
        data: A `nm.Dataset`, or a pair (X, y).
        optimizer: Ours or optax's, or a function of `low` and `top`, named so, the smallest and the
            largest eigenvalue of H(0) times the loss's curvature, that returns one; gradient
            descent with eta = 1/lambda_max if None.
        steps: Steps, of the full batch unless there is a batch_size.
        saves: About how many of them are kept.
        products: So many with the kernel at either end in its place; None decides by n k.
        loss: A function of predictions and targets.
        trainable: What is trained, as in `nm.empirical_ntk`.
        where: As in `nm.empirical_ntk`.
        batch_size: B, samples a step, as in `nm.train`. The linearised model then takes the same
            batches, so that the gap is the kernel's motion and not noise; and the largest
            eigenvalue that the step bears is that of `nm.critical_step`, where it is known.
        key: Of the batches, as in `nm.train`.
        sampling: As in `nm.train`.
        progress: As in `train`, over the run and then over its linearisation.
        config: Precision and tolerance.

    Returns:
        Losses, gaps, drifts and the findings; printed as a table.

    Raises:
        InputError: If steps, saves or products is no positive whole number, or another argument
            does not fit.

    Examples:
        >>> data = nm.sphere(4, 3, key=jax.random.key(0))
        >>> net = nm.init_two_layer(32, 3, key=jax.random.key(1))
        >>> nm.diagnose(net, data, steps=4, saves=2).verdict in ("lazy", "between", "rich")
        True
    """
    steps = check_whole("steps", steps, example=100)
    saves = check_whole("saves", saves, example=20)
    if products is not None:
        products = check_whole("products", products, example=PRODUCTS)
    check_config(config)
    told = check_progress(progress, "diagnose")
    made = inspect.isfunction(optimizer) and [*inspect.signature(optimizer).parameters] == ENDS
    if optimizer is not None and not made:
        check_optimizer(optimizer)
    problem, w = weight_problem(model, data, loss, trainable, where)
    with in_force(config.precision, weights_dtype(w)):
        if products is None and problem.residual_size(w) > FORMED:
            products = PRODUCTS
        f0, kernel = drift.outset(problem, w, products is None)
        if not bool(jnp.all(jnp.isfinite(f0 if kernel is None else kernel))):
            raise InputError(why_no_start(problem, w))
        low, top = _ends(problem, w, f0, kernel, products)
    if top == 0:
        raise InputError(
            "the model must have outputs that depend on what is trained, got a kernel of zeros: "
            "the model is dead, as where every ReLU is off on every input; take other initial "
            "weights, smaller biases, or inputs scaled to order one (nm.normalize)."
        )
    if optimizer is None:
        optimizer = gradient_descent(1 / top)
    elif made:
        optimizer = optimizer(low, top)
        check_optimizer(optimizer)
    every = max(1, steps // saves)
    steps = every * (steps // every)
    linear = linearize(model, trainable=trainable, where=where)
    options: dict[str, Any] = {
        "save_every": every,
        "loss": loss,
        "readouts": ["f", "loss"],
        "config": config,
    }
    if batch_size is not None:
        options |= {"batch_size": batch_size, "key": key, "sampling": sampling}
    chosen: dict[str, Any] = {"trainable": trainable, "where": where}

    def trained(model: Any, before: int, **part: Any) -> Trajectory:
        half = None
        if told is not None:
            half = lambda done, total: told(done + before * total, 2 * total)
        return train(model, data, optimizer, steps, progress=half, **part, **options)

    run = trained(model, 0, **chosen)
    predicted = trained(linear, 1)

    rows = lambda f: np.asarray(f).reshape(len(f), -1)
    with np.errstate(all="ignore"):  # of a run or a prediction that leaves the finite numbers
        motion = np.max(np.linalg.norm(rows(predicted.f) - rows(f0[None]), axis=1))
        gap = np.linalg.norm(rows(run.f) - rows(predicted.f), axis=1) / motion
    end = eqx.filter(run.model, problem.trained)
    with in_force(config.precision, weights_dtype(w)):
        f1, later = drift.outset(problem, end, products is None)
        found = drift.drifts(problem, w, end, kernel, later)
        moved, turn, features, weights, growth, before, after = (float(one) for one in found)
        whole = math.isfinite(moved) and bool(jnp.all(jnp.isfinite(f1)))
        last = _ends(problem, end, f1, later, products)[1] if whole else math.nan
    diagnosis = Diagnosis(
        np.asarray(run.ts),
        np.asarray(run.loss),
        np.asarray(predicted.loss),
        gap,
        moved,
        turn,
        features,
        weights,
        (top, last),
        bearable(optimizer)
        if batch_size is None
        else _bearable_on_batches(
            optimizer,
            None if kernel is None else drift.local(kernel, f0, problem)[0],
            top,
            len(problem.X),
            batch_size,
            sampling,
        ),
        low,
        run.reason,
        growth=growth,
        contrast=(before, after),
        trained_by=f"{spelt(optimizer)}, {steps} steps",
    )
    if diagnosis.bounced and loss is squared and kernel is not None and len(kernel) <= LOOKED_AT:
        to = int(run.ts[np.argmax(run.loss)])  # the kernel is looked at on the way there
        fine = {**options, "readouts": ["lambda_max"], "save_every": max(1, to // 100)}
        seen = np.asarray(train(model, data, optimizer, to, **chosen, **fine).lambda_max)
        highest = float(np.max(seen)), int(np.argmax(seen)) * fine["save_every"]
        return dataclasses.replace(diagnosis, highest=highest)
    if not diagnosis.diverged or not isinstance(optimizer, AbstractOptimizer):
        return diagnosis
    for k in range(1, TRIALS + 1):
        eta = getattr(optimizer, "eta", math.nan) / 4**k
        smaller = eqx.tree_at(lambda method: method.eta, optimizer, eta)
        tried = train(model, data, smaller, steps, **chosen, **options).loss
        if np.all(np.isfinite(tried)) and tried[-1] < tried[0]:
            return dataclasses.replace(diagnosis, remedy=float(eta))
    return diagnosis


def _ends(
    problem: WeightProblem, w: PyTree, f: Array, kernel: Array | None, products: int | None
) -> tuple[float, float]:
    """(smallest eigenvalue above round-off, largest) of the kernel times the loss's curvature."""
    if kernel is None:
        return drift.ends_by_products(problem, w, products or PRODUCTS)
    return drift.outermost(drift.local(kernel, f, problem)[0])


def _bearable_on_batches(
    optimizer: Any, kernel: Array | None, top: float, n: int, batch_size: int, sampling: Sampling
) -> float | None:
    """The same where batches make noise, of the kernel scaled as a whole; None too where limits are
    not known, and for reshuffled batches, of which they are those of batches drawn afresh at
    most."""
    linear = isinstance(optimizer, AbstractOptimizer) and optimizer.linear
    if kernel is None or not linear or sampling == "reshuffled" or len(kernel) % n:
        return None
    blocks = kernel.reshape(n, len(kernel) // n, n, len(kernel) // n)
    try:
        limit = critical_step(
            optimizer,
            kernel if len(kernel) == n else blocks,
            batch_size=batch_size,
            sampling=sampling,
        )
    except InputError:  # it restarts
        return None
    return top * limit.eta / float(getattr(optimizer, "eta", math.nan))

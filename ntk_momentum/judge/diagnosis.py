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
import jax
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
from ..kernel.tangent import jvp
from ..loss import Loss, squared
from ..method import (
    AbstractOptimizer,
    HeavyBallMethod,
    best_parameters,
    gradient_descent,
    stability_limit,
)
from ..method.nesterov import AbstractNesterovMethod
from ..method.restart import RestartedNesterovMethod
from ..network.model import AbstractModel, trainable_spec
from ..numerics import Numerics, check_config
from ..products import in_force
from ..progress import OnProgress, check_progress
from ..stochastic import critical_step
from . import drift
from .advice import digits

ENDS = ["low", "top"]
"""The arguments by which a function that makes an optimizer is told from an optimizer's own, such
as `optax.sgd`, that was not called."""
LAZY, RICH = 0.1, 0.5
"""From where on something has moved, and from where on far: conventions. Below a tenth, predictions
by the kernel are good to a digit; above a half, most of the motion is not the kernel's."""
DIVERGED = 10.0
"""A run has diverged when its loss is no number, or ends at so many times its start. One that only
bounces on the way has not: above the limit of stability a network's loss rises until its kernel has
fallen below it."""
FORMED = 2048
"""Samples times outputs up to which the kernel is formed; beyond, 32 MB and seconds of an
eigendecomposition, it is known by its products."""
PRODUCTS = 100
"""Of each kernel, for its ends."""
TRIALS = 6
"""Smaller steps tried after one that diverged, each a quarter of the one before."""


class Linearized(AbstractModel):
    """x -> f(w_0, x) + J(w_0, x) (w - w_0): a model whose kernel is constant. w is its trained
    part."""

    w: PyTree
    start: PyTree
    frozen: Any

    def __call__(self, x: Array) -> Array:
        moved = jax.tree.map(jnp.subtract, self.w, self.start)
        value, change = jvp(lambda w: eqx.combine(w, self.frozen)(x), self.start, moved)
        return value + change

    def default_trainable(self) -> PyTree:
        """w, and neither w_0 nor the frozen rest."""
        nothing = jax.tree.map(lambda _: False, self)
        return eqx.tree_at(lambda m: m.w, nothing, jax.tree.map(lambda _: True, self.w))


@no_type_check
def linearize(
    model: PyTree, *, trainable: PyTree = None, where: Callable | None = None
) -> Linearized:
    """A model linearised in its trained weights at their present values: a model whose kernel is
    constant.

        f_lin(x) = f(w_0, x) + J(w_0, x) (w - w_0)

    It follows (2.5), (3.5) and (4.3) with constant H. Unless told otherwise w alone is trained.

    Args:
        model: Any Equinox model of one input.
        trainable: What is trained, as in `nm.empirical_ntk`.
        where: As in `nm.empirical_ntk`.

    Returns:
        The linearised model, equal to the model at the start.

    Raises:
        InputError: If nothing is trained.

    Examples:
        >>> net = nm.init_two_layer(8, 2, key=jax.random.key(0))
        >>> bool(nm.linearize(net)(jnp.ones(2)) == net(jnp.ones(2)))
        True
    """
    w, frozen = eqx.partition(model, trainable_spec(model, trainable, where))
    return Linearized(w, w, frozen)


@dataclasses.dataclass(frozen=True)
class Finding:
    """One question of a diagnosis: the answer in a word, the number behind it, and what the number
    is and which thresholds it is held against."""

    question: str
    answer: str
    value: float
    meaning: str


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """How far a run is from its own kernel's prediction, by four questions with a number each.

    ts: saved step counts; loss, predicted_loss: of the model and of its linearisation; gap: |f -
    f_lin| over the predictions' largest motion max_k |f_lin(k) - f(0)|, at each saved step.
    kernel_drift, feature_drift, weight_drift: relative Frobenius distances of H, of the tangent
    features J and of the trained weights between the first and the last step; turn: the sine of the
    angle between the two kernels, 0 where H has only grown or shrunk. top: lambda_max of H, times
    the loss's curvature, at the first and the last step, and limit: the largest that the optimizer
    bears (None where none is known). low: the smallest eigenvalue at the start above round-off.
    remedy: after a run that diverged, the largest of a few smaller steps that did not (None: none).
    """

    ts: np.ndarray
    loss: np.ndarray
    predicted_loss: np.ndarray
    gap: np.ndarray
    kernel_drift: float
    turn: float
    feature_drift: float
    weight_drift: float
    top: tuple[float, float]
    limit: float | None
    low: float
    reason: str
    remedy: float | None = None

    @property
    def diverged(self) -> bool:
        """Whether the loss is no number, or ends at ten times its start."""
        last = float(self.loss[-1])
        return not math.isfinite(last) or last > DIVERGED * float(self.loss[0])

    @property
    def stability(self) -> Finding:
        """Whether the optimizer bears the kernel's largest eigenvalue, at the start and as the
        kernel moves."""
        bears = math.nan if self.limit is None else max(self.limit, 1e-300)  # 0: no step is stable
        share = [top / bears for top in self.top]
        start, end = share
        meaning = (
            "no limit is known for this optimizer"
            if self.limit is None
            else f"lambda_max over what the step bears: {start:.3g} at the start, "
            + (f"{end:.3g} at the end" if math.isfinite(end) else "no number at the end")
            + "; a constant kernel is unstable from 1 on"
        )
        most = (1 + LAZY) * max(self.loss[0], float(np.max(self.predicted_loss)))
        bounced = max(share) < 1 and np.max(self.loss) > most
        if bounced:
            at = int(np.argmax(self.loss))
            meaning += (
                f", and so was this one on the way: at step {self.ts[at]:.0f} the loss was "
                f"{self.loss[at] / self.loss[0]:.3g} times its start"
            )
        answer = (
            "diverged"
            if self.diverged
            else "loss is up"  # at the last step, above its start
            if self.loss[-1] > self.loss[0]
            else "unknown"
            if self.limit is None
            else ("bounced" if bounced else "stable" if end < 1 else "became unstable")
            if start < 1
            else ("unstable at first" if end < 1 else "unstable")
        )
        return Finding("is the step stable?", answer, max(share), meaning)

    @property
    def kernel(self) -> Finding:
        """How far the kernel moves."""
        return Finding(
            "does the kernel move?",
            _grade(self.kernel_drift, "stays", "moves", "moves far"),
            self.kernel_drift,
            f"|H - H_0| / |H_0| at the last step; stays below {LAZY}, far from {RICH} on",
        )

    @property
    def function(self) -> Finding:
        """How far the function leaves the prediction."""
        worst = float(np.max(self.gap))
        at = self.ts[int(np.argmax(self.gap))]
        if not np.isfinite(self.predicted_loss).all() or (
            self.predicted_loss[-1] > DIVERGED * self.predicted_loss[0]
        ):
            meaning = "the prediction itself diverges: its kernel stays above the limit"
            return Finding("does f follow the prediction?", "no prediction", math.nan, meaning)
        return Finding(
            "does f follow the prediction?",
            _grade(worst, "follows", "in outline", "leaves it"),
            worst,
            f"largest |f - f_lin| over the predicted motion, at step {at:.0f}; follows below "
            f"{LAZY}, leaves from {RICH} on",
        )

    @property
    def features(self) -> Finding:
        """Whether the kernel turns, which a change of its size alone does not make it do."""
        return Finding(
            "do features change?",
            _grade(self.turn, "stay", "turn", "turn far"),
            self.turn,
            f"sine of the angle between H and H_0 (J itself moved by {self.feature_drift:.3g} "
            f"relative, the weights by {self.weight_drift:.3g}); stay below {LAZY}, far from "
            f"{RICH} on",
        )

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All four."""
        return self.stability, self.kernel, self.function, self.features

    @property
    def verdict(self) -> str:
        """In a word: diverged; else rich where the kernel or its features move by more than a half;
        lazy where they, and the function against its prediction if there is one, stay within a
        tenth; and between.

        The kernel counts too, since on the training points every run that fits the targets ends
        with no gap; and a gap alone makes no run rich, since momentum near its limit of stability
        makes a large one of a small change of the kernel.
        """
        moved = max(self.kernel_drift, self.turn)
        if self.diverged or not math.isfinite(moved):
            return "diverged"
        if moved >= RICH:
            return "rich"
        gap = self.function.value
        return "lazy" if moved < LAZY and (math.isnan(gap) or gap < LAZY) else "between"

    @property
    def momentum(self) -> HeavyBallMethod:
        """The heavy ball that is best in the long run for a constant kernel with the spectrum of
        the start, its largest eigenvalue taken a tenth larger."""
        method: Any = best_parameters("heavy_ball", self.low, 1.1 * self.top[0]).optimizer
        return method

    @property
    def advice(self) -> str:
        """What to do about it."""
        if self.diverged and self.remedy is not None:
            return (
                f"take a smaller step: with eta = {self.remedy:.4g} the same number of steps ends "
                "below the start (tried)"
            )
        if self.diverged:
            return (
                "the loss left the finite numbers, or ended at ten times its start; scale inputs "
                "and targets to order one (nm.normalize), or take a much smaller step"
            )
        if self.verdict != "lazy":
            return (
                "parameters tuned to H(0) hold for as long as the kernel stays; try larger widths, "
                "smaller targets, or `ntk-momentum advise --check`"
            )
        method = self.momentum
        return (
            f"for a constant kernel of this spectrum the best heavy ball is eta = {method.eta:.4g},"
            f" beta = {method.beta:.{digits(float(method.beta))}g}; `ntk-momentum advise` compares "
            "all methods"
        )

    def __str__(self) -> str:
        meaning = {
            "lazy": "the run keeps its kernel; the theory of constant kernels applies",
            "between": "the kernel's prediction holds in outline only",
            "rich": (
                "the run leaves its kernel: features are learnt, and no constant kernel "
                "describes it"
            ),
            "diverged": "this step is too large for this model",
        }
        at = np.unique(np.linspace(0, len(self.ts) - 1, min(6, len(self.ts))).astype(int))
        table = [
            (
                f"{self.ts[i]:8.0f}  {self.loss[i]:12.5g}  {self.predicted_loss[i]:12.5g}  "
                f"{self.gap[i]:10.3g}"
            )
            for i in at
        ]
        asked = [
            f"{one.question:30} {one.answer:18} {one.value:10.3g}  {one.meaning}"
            for one in self.findings
        ]
        return "\n".join(
            [
                f"{self.verdict}: {meaning[self.verdict]}.",
                *asked,
                f"{'step':>8}  {'loss':>12}  {'predicted':>12}  {'gap of f':>10}",
                *table,
                self.advice,
            ]
        )


def _grade(value: float, small: str, middle: str, large: str) -> str:
    if not math.isfinite(value):
        return "no number"
    return small if value < LAZY else middle if value < RICH else large


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
        moved, turn, features, weights = (float(one) for one in found)
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
        _bearable(optimizer)
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
    )
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


def _bearable(optimizer: Any) -> float | None:
    """The largest eigenvalue that an optimizer bears; None where no limit is known."""
    if isinstance(optimizer, AbstractNesterovMethod | RestartedNesterovMethod):
        return 4 / (3 * float(optimizer.eta))  # as its momentum tends to 1
    if not isinstance(optimizer, AbstractOptimizer):
        return None
    try:
        return stability_limit(optimizer)
    except InputError:  # it changes from step to step
        return None


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

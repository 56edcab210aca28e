"""Is it lazy? A short run of a model against the prediction of its own kernel at the start, by the
same optimizer.

The prediction is the linearised model f_lin(w) = f(w_0) + J (w - w_0), whose kernel is constant:
for gradient descent, heavy ball and Nesterov on the squared loss it is `predict` with H(0), and for
any other optimizer or loss it is what a constant kernel would have done.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ..dynamics.objective import WeightProblem, norm
from ..dynamics.preparation import weight_problem
from ..dynamics.training import train
from ..dynamics.trajectory import Trajectory
from ..errors import InputError, no_type_check
from ..kernel.tangent import jvp
from ..loss import Loss, output_gradient, squared
from ..method import gradient_descent
from ..network.model import AbstractModel, trainable_spec
from ..numerics import Numerics
from .advice import Advice, Recommendation, advise

LAZY, RICH = 0.1, 0.5
"""Where a run is called lazy, and from where on rich: conventions. Below a tenth, predictions by
the kernel are good to a digit; above a half, most of the motion is not the kernel's."""


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
class Diagnosis:
    """How far a run is from its own kernel's prediction.

    ts: saved step counts; loss, predicted_loss: of the model and of its linearisation; gap: |f -
    f_lin| over the predictions' largest motion max_k |f_lin(k) - f(0)|, at each saved step.
    kernel_drift, feature_drift, weight_drift: relative Frobenius distances of H, of the tangent
    features J and of the trained weights between the first and the last step. advice: for H(0), of
    the local quadratic model of the loss.
    """

    ts: np.ndarray
    loss: np.ndarray
    predicted_loss: np.ndarray
    gap: np.ndarray
    kernel_drift: float
    feature_drift: float
    weight_drift: float
    advice: Advice
    reason: str

    @property
    def verdict(self) -> str:
        """By the larger of the largest gap and the kernel's drift: lazy below 0.1, between, rich
        above 0.5; or diverged, when the loss rises above ten times its start or out of the finite
        numbers.

        The drift counts too, since on the training points every run that fits the targets ends with
        no gap.
        """
        worst = max(float(np.max(self.gap)), self.kernel_drift)
        if (
            not math.isfinite(float(np.sum(self.gap)) + worst)
            or np.max(self.loss) > 10 * self.loss[0]
        ):
            return "diverged"
        return "lazy" if worst < LAZY else "between" if worst < RICH else "rich"

    @property
    def momentum(self) -> Recommendation:
        """What the spectrum recommends for the heavy ball."""
        return self.advice["heavy_ball"]

    def __str__(self) -> str:
        meaning = {
            "lazy": "the run follows its own kernel; the theory of constant kernels applies",
            "between": "the kernel's prediction holds in outline only",
            "rich": (
                "the run leaves its kernel: features are learnt, and no constant kernel "
                "describes it"
            ),
            "diverged": "the loss rose tenfold, or the run or its prediction left the finite "
            "numbers; take a smaller step, "
            f"such as gradient descent with eta = {1 / self.advice.lambda_max:.4g}, "
            "half of what a kernel that stays allows",
        }
        at = np.unique(np.linspace(0, len(self.ts) - 1, min(6, len(self.ts))).astype(int))
        table = [
            (
                f"{self.ts[i]:8.0f}  {self.loss[i]:12.5g}  {self.predicted_loss[i]:12.5g}  "
                f"{self.gap[i]:10.3g}"
            )
            for i in at
        ]
        return "\n".join(
            [
                f"{self.verdict}: {meaning[self.verdict]}.",
                f"{'step':>8}  {'loss':>12}  {'predicted':>12}  {'gap of f':>10}",
                *table,
                (
                    f"largest gap of f {np.max(self.gap):.3g} of the predicted motion, at "
                    f"step {self.ts[np.argmax(self.gap)]:.0f}"
                ),
                f"moved by the last step, relative: kernel {self.kernel_drift:.3g}, "
                f"features {self.feature_drift:.3g}, "
                f"weights {self.weight_drift:.3g}",
                "momentum for this spectrum: heavy ball with eta = "
                f"{self.momentum.eta:.4g}, beta = {self.momentum.beta:.4g}, "
                f"friction b = {self.momentum.friction:.4g}",
                str(self.advice),
            ]
        )


@no_type_check
def diagnose(
    model: Any,
    data: Any,
    optimizer: Any = None,
    steps: int = 100,
    *,
    saves: int = 20,
    loss: Loss = squared,
    trainable: PyTree = None,
    where: Callable | None = None,
    target: float = 1e-3,
    progress: Callable[[int, int], None] | None = None,
    config: Numerics = Numerics(),
) -> Diagnosis:
    """Train a model briefly, beside its linearisation, and say how lazy it is.

        gap(k) = |f(k) - f_lin(k)| / max_j |f_lin(j) - f(0)|,   drift = |H - H_0| / |H_0|

    The verdict is by the larger of the two (Chizat, Oyallon and Bach 2019 for lazy training; it is
    the constancy of H that Theorems 1-3 rest on). The full kernel, (nk, nk) for n samples and k
    outputs, is formed twice: take a few hundred samples. Steps are exact: there is nothing to
    refine.

    Args:
        model: Any Equinox model of one input.
        data: A `nm.Dataset`, or a pair (X, y).
        optimizer: Ours or optax's, or a function of the `nm.advise` for H(0) that returns one;
            gradient descent with eta = 1/lambda_max if None.
        steps: Full-batch steps.
        saves: About how many of them are kept.
        loss: A function of predictions and targets.
        trainable: What is trained, as in `nm.empirical_ntk`.
        where: As in `nm.empirical_ntk`.
        target: Of the advice, the share of the initial loss.
        progress: As in `train`, over the run and then over its linearisation.
        config: Precision and tolerance.

    Returns:
        Losses, gaps, drifts and the advice for H(0); printed as a table.

    Raises:
        InputError: If steps or saves is no positive whole number, or another argument does not fit.

    Examples:
        >>> data = nm.sphere(4, 3, key=jax.random.key(0))
        >>> net = nm.init_two_layer(32, 3, key=jax.random.key(1))
        >>> nm.diagnose(net, data, steps=4, saves=2).verdict in ("lazy", "between", "rich")
        True
    """
    if not isinstance(steps, int | np.integer) or steps < 1 or saves < 1:
        raise InputError(
            f"steps and saves must be positive whole numbers, got {steps} and {saves}."
        )
    problem, w = weight_problem(model, data, loss, trainable, where)
    f0, kernel, advice = _start(problem, w, target, config)
    if optimizer is None:
        optimizer = gradient_descent(1 / advice.lambda_max)
    elif callable(optimizer) and not hasattr(optimizer, "update"):
        optimizer = optimizer(advice)
    every = max(1, steps // saves)
    steps = every * (steps // every)
    linear = linearize(model, trainable=trainable, where=where)
    options: dict[str, Any] = {
        "save_every": every,
        "loss": loss,
        "readouts": ["f", "loss"],
        "config": config,
    }

    def trained(model: Any, before: int, **part: Any) -> Trajectory:
        half = None
        if progress is not None:
            half = lambda done, total: progress(done + before * total, 2 * total)
        return train(model, data, optimizer, steps, progress=half, **part, **options)

    run = trained(model, 0, trainable=trainable, where=where)
    predicted = trained(linear, 1)

    rows = lambda f: np.asarray(f).reshape(len(f), -1)
    motion = np.max(np.linalg.norm(rows(predicted.f) - rows(f0[None]), axis=1))
    gap = np.linalg.norm(rows(run.f) - rows(predicted.f), axis=1) / motion
    end = eqx.filter(run.model, problem.trained)
    with jax.default_matmul_precision(config.precision):
        drifts = eqx.filter_jit(_drifts)(problem, w, end, kernel)
    losses = np.asarray(run.loss), np.asarray(predicted.loss)
    kernel_moved, features_moved, weights_moved = (float(drift) for drift in drifts)
    return Diagnosis(
        np.asarray(run.ts),
        *losses,
        gap,
        kernel_moved,
        features_moved,
        weights_moved,
        advice,
        run.reason,
    )


def _start(
    problem: WeightProblem, w: PyTree, target: float, config: Numerics
) -> tuple[Array, Array, Advice]:
    with jax.default_matmul_precision(config.precision):
        f0, kernel = _outset(problem, w)
        return f0, kernel, advise(*_local(kernel, f0, problem), target=target)


@eqx.filter_jit
def _outset(problem: WeightProblem, w: PyTree) -> tuple[Array, Array]:
    return problem.f(w), problem.kernel(w)


def _local(kernel: Array, f0: Array, problem: WeightProblem) -> tuple[Array, Array]:
    """(kernel, error) of the quadratic model of L at f(0): C^{1/2} H C^{1/2} and C^{-1/2} grad_f L,
    with C the Hessian of L in f."""
    gradient = output_gradient(problem.loss, f0, problem.y).reshape(-1)
    if problem.loss is squared:
        return kernel, gradient
    C = jax.hessian(lambda f: problem.loss(f.reshape(f0.shape), problem.y))(f0.reshape(-1))
    values, vectors = jnp.linalg.eigh(C)
    seen = values > values.size * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values))
    if not bool(jnp.any(seen)):
        raise InputError(
            "the loss has no positive curvature at f(0), so no step size can be "
            "recommended from its spectrum."
        )
    root = jnp.sqrt(jnp.where(seen, values, 1.0))
    half = vectors * jnp.where(seen, root, 0.0)[None, :]
    H = half.T @ kernel @ half  # in C's eigenbasis
    kept = np.flatnonzero(np.asarray(seen))
    return ((H + H.T) / 2)[np.ix_(kept, kept)], (vectors.T @ gradient / root)[kept]


def _drifts(
    problem: WeightProblem, start: PyTree, end: PyTree, kernel: Array
) -> tuple[Array, Array, Array]:
    """(|H - H_0|/|H_0|, |J - J_0|/|J_0|, |w - w_0|/|w_0|); the features J row by row, by one
    backward pass each."""
    moved = jax.tree.map(jnp.subtract, end, start)
    f0, before = jax.vjp(problem.f, start)
    _, after = jax.vjp(problem.f, end)

    def row(unit: Array) -> Array:
        one, other = before(unit)[0], after(unit)[0]
        return norm(jax.tree.map(jnp.subtract, other, one)) ** 2

    units = jnp.eye(f0.size, dtype=f0.dtype).reshape(f0.size, *f0.shape)
    features = jnp.sqrt(jnp.sum(jax.lax.map(row, units)) / jnp.trace(kernel))
    return norm(problem.kernel(end) - kernel) / norm(kernel), features, norm(moved) / norm(start)

"""What a constant kernel predicts for training on mini-batches: the expected loss, and how far it
scatters."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Key

from ..dynamics import ritz
from ..dynamics.constant_kernel import is_operator
from ..dynamics.prediction import Prediction, predict
from ..dynamics.solver import Sampling, check_batch
from ..errors import (
    InputError,
    check_choice,
    check_key,
    check_whole,
    concrete,
    described,
    no_type_check,
)
from ..kernel import Modes
from ..memory import check_fits
from ..method import AbstractOptimizer
from ..progress import OnProgress, with_progress
from .levels import Levels, every_level, few_levels
from .linear import LinearSteps, check_method, linear_steps
from .moments import SecondMoments, closure_moments, exact_moments
from .paths import Paths, sample_paths
from .reshuffled import Course, feasible, reshuffled_moments
from .sampling import noise_strength

PAIRS_UP_TO = 1000
"""Samples (times outputs of a full kernel) up to which `method="auto"` keeps all pairs of modes:
3 n^3 operations a step, a minute for a thousand steps there."""
_METHODS = ("exact", "closure", "sampled")


class StochasticPrediction(eqx.Module):
    """What `predict_stochastic` returns. T saved steps, n samples, N modes, q test points.

        loss = |E Delta|^2 / 2 + tr cov(Delta) / 2,   E Delta of (2.5), (3.5) or (4.3)

    Args:
        ts: Step counts, (T,).
        loss: E |Delta|^2 / 2, (T,).
        full_batch: |E Delta|^2 / 2, (T,): the loss of the full batch, where batches are drawn
            afresh. The rest is noise.
        loss_std: Standard deviation of |Delta|^2 / 2 over the draws of batches, (T,): of a normal
            Delta with the exact mean and covariance, which is an assumption; of the runs
            themselves where sampled. None for several columns.
        residual: E Delta, (T, n) or (T, n, k).
        second_moments: E (u_q . Delta)^2 along each eigenvector, (T, N), summed over columns.
        eigenvalues: lambda_q, (N,).
        test: E f* at the test points, (T, q) or (T, q, k), or None.
        test_variance: The variance of f*, summed over outputs, (T, q), or None.
        method: "exact", "closure" or "sampled".
        error: An estimate of the relative error of `loss`, (T,): zero where exact, the standard
            error of the mean where sampled, and for the closure see `predict_stochastic`.

    Raises:
        TypeError: If a field is left out; it is made by `predict_stochastic`.

    Examples:
        >>> found = nm.predict_stochastic(
        ...     np.diag([1.0, 2.0]), np.ones(2), nm.gradient_descent(0.1), [0, 5], batch_size=1)
        >>> bool(found.loss[1] > found.full_batch[1]), found.method
        (True, 'exact')
    """

    ts: Float[Array, " T"]
    loss: Float[Array, " T"]
    full_batch: Float[Array, " T"]
    loss_std: Float[Array, " T"] | None
    residual: Float[Array, "T n *k"]
    second_moments: Float[Array, "T N"]
    eigenvalues: Float[Array, " N"]
    test: Float[Array, "T q *k"] | None
    test_variance: Float[Array, "T q"] | None
    method: str = eqx.field(static=True)
    error: Float[Array, " T"]

    def test_error(self, targets: ArrayLike) -> Float[Array, " T"]:
        """E |f* - y*|^2 / 2, summed over the test points as the loss is over the training ones.

        targets: y*, (q,) or (q, k)."""
        if self.test is None or self.test_variance is None:
            raise InputError("test_error needs test points; give predict_stochastic a test_kernel.")
        targets = jnp.asarray(targets, self.test.dtype)
        if targets.shape != self.test.shape[1:]:
            raise InputError(f"targets must have shape {self.test.shape[1:]}, got {targets.shape}.")
        over = lambda x: jnp.sum(x.reshape(len(x), -1), axis=1)
        return (over((self.test - targets[None]) ** 2) + over(self.test_variance)) / 2


@no_type_check
@with_progress
def predict_stochastic(
    kernel: Any,
    residual0: Any,
    optimizer: AbstractOptimizer,
    steps: Any,
    *,
    batch_size: int,
    sampling: Sampling = "without_replacement",
    method: Literal["auto", "exact", "closure", "sampled"] = "auto",
    test_kernel: ArrayLike | None = None,
    test0: ArrayLike | None = None,
    runs: int = 256,
    key: Key[Array, ""] | None = None,
    probe: Modes | None = None,
    progress: OnProgress | bool | None = None,
) -> StochasticPrediction:
    """The expected loss of training on mini-batches under a constant kernel, without a fit.

        Delta_{k+1} - Delta_k = the method's step for the gradient H (Delta_k + xi_k)
        E[xi xi^T] = tau (n diag(Delta Delta^T) - Delta Delta^T)

    with the gradient of a batch scaled by n/B, so that eta means what it does for the full batch,
    and tau = (n - B)/(B (n - 1)) without replacement, 1/B with. E Delta is the full batch's error,
    `nm.predict`'s; the second moments of (Delta, memory) obey a linear recursion.

    exact: all pairs of modes, O(N^3) a step. closure: the variance along each eigenvector only, as
    if those of different ones were uncorrelated, driven by the noise that falls on it,

        n sum_i U_iq^2 d_i,   d = diag(E Delta Delta^T) of the mean and of those variances

    O(N) a step, and O(n N) at a few dozen; its `error` is the largest share so far by which the
    loss differs from that of errors spread evenly over the samples. sampled: `runs`
    runs in function space. For reshuffled batches moments do not close: exact keeps them apart by
    the set of samples seen, which takes few samples (n = 10 or so) and no test points, auto samples
    them elsewhere, and closure is refused. Sources: Bordelon and Pehlevan (2021), Velikanov,
    Kuznedelev and Yarotsky (2022) for the closure, Paquette and Paquette (2021) for momentum;
    docs/mini-batches.md derives all.

    Args:
        kernel: H, (n, n), shared by all outputs, or the full (n, k, n, k) or (nk, nk); an operator
            as in `nm.predict`, or `nm.modes`, for the closure by few products.
        residual0: Delta(0) = f(0) - y, (n,) or (n, k); None with `nm.modes`, which hold it.
        optimizer: Any linear method of ours, from rest.
        steps: Step counts at which to save, increasing; or a number, for 0, 1, ..., steps.
        batch_size: B, samples a step.
        sampling: "without_replacement", a fresh subset each step; "with_replacement"; or
            "reshuffled", each epoch a permutation cut into n // B batches.
        method: "auto" is "exact" up to 1000 modes and "closure" beyond.
        test_kernel: As in `nm.predict`.
        test0: As in `nm.predict`.
        runs: Of method "sampled".
        key: Of method "sampled", and of an operator's random vectors, as from `jax.random.key`; its
            default is key 0.
        probe: With `nm.modes`, the modes of random vectors of the same kernel, which say how many
            eigenvalues there are beside those that the error takes part in.
        progress: Called as progress(steps done, steps); True for a bar.

    Returns:
        Expected losses, their scatter, second moments and test points.

    Raises:
        InputError: If an argument does not fit, the method is not linear, or a sampling is asked
            of a method that does not have it.

    Examples:
        >>> H, start = np.eye(4), np.ones(4)
        >>> found = nm.predict_stochastic(H, start, nm.gradient_descent(0.5), [1], batch_size=2)
        >>> found.loss.round(6).tolist()
        [1.0]
    """
    check_method(optimizer)
    check_choice("method", method, ("auto", *_METHODS))
    runs = check_whole("runs", runs, example=256)
    if key is not None:
        check_key("key", key)
    counts, few, told = _counts(steps), None, progress is not None
    if isinstance(kernel, Modes) or is_operator(kernel):
        if method not in ("auto", "closure") or test_kernel is not None or test0 is not None:
            raise InputError(
                'modes and operators give method="closure" without test points, since the others '
                "need every entry of the kernel; pass the array, or leave out test_kernel."
            )
        method = "closure"
        given = isinstance(kernel, Modes)
        shape = kernel.shape if given else ritz.start_of(kernel, residual0, None)[2]
        check_batch(batch_size, shape[0], sampling)
        few = few_levels(kernel, residual0, probe, key, flow=optimizer, ts=counts)
        kernel, residual0 = few.modes, None
    elif concrete(kernel) is None or probe is not None:
        raise InputError(
            "kernel must be an array, since noise needs every entry of it, an operator or, with a "
            f"probe, nm.modes, got {described(kernel)}; try nm.infinite_ntk(X), without a probe."
        )
    with warnings.catch_warnings():
        # told once, below: the expected loss leaves the numbers first
        warnings.filterwarnings("ignore", "the loss leaves the numbers", RuntimeWarning)
        mean = predict(kernel, residual0, optimizer, counts, test_kernel=test_kernel, test0=test0)
    shape, vectors = mean.residual.shape[1:], mean.eigenvectors
    n, size = shape[0], len(vectors)
    outputs, columns = size // n, math.prod(shape[1:]) // (size // n)
    B = check_batch(batch_size, n, sampling)
    shuffled = sampling == "reshuffled" and n > B
    dtype = vectors.dtype
    # so many rows that few numbers of steps mean a new compilation; the runs stop at the last saved
    moved = linear_steps(optimizer, 1 << int(counts[-1]).bit_length(), dtype)
    countable = shuffled and test_kernel is None and feasible(n, B, moved.size * size)
    if method == "auto":
        exact = countable if shuffled else size <= PAIRS_UP_TO
        method = "exact" if exact else "sampled" if shuffled else "closure"
    if shuffled and method != "sampled" and not (countable and method == "exact"):
        raise InputError(
            "the moments of reshuffled batches do not close, and are exact for few samples without "
            f"test points only, got n = {n}, batch_size = {B} and method={method!r}; take "
            'method="sampled", or sampling="without_replacement", which they approach for small '
            "steps."
        )
    _check_size(method, size, columns, len(counts), runs)
    saved = jnp.asarray(counts, jnp.int32)
    tau = noise_strength(B, n, sampling)
    if few is not None:
        made = _closure(mean, moved, saved, few.levels, tau, outputs, None, told)
        return _finite_or_infinite(made, optimizer, B)
    matrix = jnp.asarray(kernel, dtype).reshape(size, size)
    matrix = (matrix + matrix.T) / 2
    eigenvalues = jnp.maximum(jnp.sum(vectors * (matrix @ vectors), axis=0), 0.0)
    start = jnp.asarray(residual0, dtype).reshape(size, columns)
    rows = None if test_kernel is None else jnp.asarray(test_kernel, dtype).reshape(-1, size)
    if shuffled and method == "exact":
        course = reshuffled_moments(
            moved, counts, np.asarray(matrix), np.asarray(start), B, outputs
        )
        return _finite_or_infinite(_from_course(mean, course, eigenvalues), optimizer, B)
    if method == "sampled":
        key = jax.random.key(0) if key is None else key
        paths = sample_paths(moved, saved, matrix, start, runs, B, sampling, outputs, key, told)
        return _finite_or_infinite(_from_paths(mean, paths, rows, test0, eigenvalues), optimizer, B)
    seen = None if rows is None else rows @ vectors
    if method == "closure":
        levels = every_level(eigenvalues, vectors, start)
        made = _closure(mean, moved, saved, levels, tau, outputs, seen, told)
    else:
        found = exact_moments(
            moved, saved, eigenvalues, vectors, vectors.T @ start, tau, outputs, seen, told
        )
        error = jnp.zeros(len(counts), dtype)
        made = _from_moments(mean, found, eigenvalues, columns, method, error)
    return _finite_or_infinite(made, optimizer, B)


def _closure(
    mean: Prediction, moved: LinearSteps, saved: Array, levels: Levels, tau: float, outputs: int,
    rows: Array | None, told: bool,
) -> StochasticPrediction:  # fmt: skip
    """The closure, and what it moves by when its noise is spread evenly."""
    energy = lambda m: jnp.sum(m.mean**2, axis=(1, 2)) + jnp.sum(m.variance, axis=1)

    def closed(tau: Any, told: bool, vectors: Any = None, shares: Any = None) -> SecondMoments:
        start = levels.eigenvalues, levels.multiplicity, levels.start
        return closure_moments(moved, saved, *start, tau, outputs, rows, vectors, shares, told)

    found = closed(tau, told, levels.vectors, levels.shares)
    # of few levels the sum of their squares, which noise is in proportion to, is an estimate
    ends = (1.0,) if isinstance(levels.doubt, float) else (1 - levels.doubt, 1 + levels.doubt)
    others = [jnp.abs(energy(closed(tau * end, False)) / energy(found) - 1) for end in ends]
    # up to now, since the two may pass each other
    error = jax.lax.cummax(jnp.max(jnp.stack(others), axis=0))
    if mean.error is not None:
        # the loss is of second order in the error of Delta
        error = error + jnp.square(mean.error) / jnp.where(mean.loss > 0, 2 * mean.loss, 1.0)
    columns = levels.start.shape[1]
    return _from_moments(mean, found, levels.eigenvalues, columns, "closure", error)


def _finite_or_infinite(
    found: StochasticPrediction, optimizer: AbstractOptimizer, batch_size: int
) -> StochasticPrediction:
    """Moments beyond the largest number are infinite, whatever the steps made of them since."""
    seen = concrete(found.loss)
    if seen is None or np.all(np.isfinite(seen)):
        return found
    first = int(found.ts[np.argmax(~np.isfinite(seen))])
    warnings.warn(
        f"the expected loss leaves the numbers of {seen.dtype} by step {first}: {optimizer} is "
        f"unstable on batches of {batch_size}; lower its step, see nm.critical_step.",
        RuntimeWarning,
        stacklevel=3,
    )
    infinite = lambda x: None if x is None else jnp.where(jnp.isnan(x), jnp.inf, x)
    names = ("loss", "full_batch", "loss_std", "second_moments", "test_variance", "error")
    changed: dict[str, Any] = {name: infinite(getattr(found, name)) for name in names}
    return dataclasses.replace(found, **changed)


def _counts(steps: Any) -> np.ndarray:
    """The saved step counts."""
    seen = concrete(steps)
    if seen is not None and seen.ndim == 0:
        return np.arange(check_whole("steps", steps, 0, example=100) + 1)
    if seen is None or seen.ndim != 1 or seen.size == 0 or seen.dtype.kind not in "iuf":
        raise InputError(
            f"steps must be a step count or a list of them, got {described(steps)}; try "
            "steps=[0, 10, 100]."
        )
    if np.any(seen != np.round(seen)) or seen[0] < 0 or np.any(np.diff(seen) <= 0):
        raise InputError(
            f"steps must be whole numbers from 0 on that increase, got {seen.tolist()[:9]}; try "
            "steps=[0, 10, 100]."
        )
    return seen


def _check_size(method: str, size: int, columns: int, times: int, runs: int) -> None:
    """Raise where second moments, or sampled runs, do not fit."""
    entries = {
        "exact": 24 * size**2,  # nine blocks of (N, N) for s = 3, before and after; three products
        "closure": 24 * size,
        "sampled": (4 * times + 12) * runs * size * columns,
    }[method]
    check_fits(
        entries + 4 * times * size * columns,
        f'method="{method}" for {size} modes',
        'try method="closure", or fewer runs or saved steps',
    )


def _from_moments(
    mean: Prediction,
    found: SecondMoments,
    eigenvalues: Array,
    columns: int,
    method: str,
    error: Array,
) -> StochasticPrediction:
    second = jnp.sum(found.mean**2, axis=2) + found.variance
    variance = jnp.sum(found.variance, axis=1)
    test_variance = None if found.test_variance is None else _per_point(found.test_variance, mean)
    return StochasticPrediction(
        mean.ts,
        mean.loss + variance / 2,
        mean.loss,
        # Var(|x|^2/2) = tr(C^2)/2 + m.C m for normal x of mean m and covariance C
        jnp.sqrt(found.square / 2 + found.aligned) if columns == 1 else None,
        mean.residual,
        second,
        eigenvalues,
        mean.test,
        test_variance,
        method,
        error,
    )


def _from_course(mean: Prediction, course: Course, eigenvalues: Array) -> StochasticPrediction:
    dtype, columns = eigenvalues.dtype, course.mean.shape[2]
    U = np.asarray(mean.eigenvectors)
    square = np.sum(course.mean**2, axis=(1, 2))
    spread = course.second - course.mean @ course.mean.transpose(0, 2, 1)
    aligned = np.einsum("tic,tij,tjc->t", course.mean, spread, course.mean)
    scatter = np.sqrt(np.sum(spread**2, axis=(1, 2)) / 2 + np.maximum(aligned, 0.0))
    number = lambda x: jnp.asarray(x, dtype)
    return StochasticPrediction(
        mean.ts,
        number(np.trace(course.second, axis1=1, axis2=2) / 2),
        number(square / 2),
        number(scatter) if columns == 1 else None,
        number(course.mean).reshape(mean.residual.shape),
        number(np.einsum("iq,tij,jq->tq", U, course.second, U)),
        eigenvalues,
        None,
        None,
        "exact",
        jnp.zeros(len(square), dtype),
    )


def _per_point(variance: Array, mean: Prediction) -> Array:
    """(T, q) from the rows of the test kernel, a row for each output of a full kernel."""
    assert mean.test is not None
    return jnp.sum(variance.reshape(*mean.test.shape[:2], -1), axis=2)


def _from_paths(
    mean: Prediction, paths: Paths, rows: Array | None, at_start: Any, eigenvalues: Array
) -> StochasticPrediction:
    losses = jnp.sum(paths.residual**2, axis=(2, 3)) / 2
    loss, scatter = jnp.mean(losses, axis=1), jnp.std(losses, axis=1)
    average = jnp.mean(paths.residual, axis=1).reshape(mean.residual.shape)
    modes = jnp.einsum("trnc,nq->trqc", paths.residual, mean.eigenvectors)
    test = test_variance = None
    if rows is not None and mean.test is not None:
        moved = jnp.einsum("mn,trnc->trmc", rows, paths.dual)
        test = jnp.mean(moved, axis=1).reshape(mean.test.shape)
        test = test if at_start is None else test + jnp.asarray(at_start, test.dtype)[None]
        test_variance = _per_point(jnp.sum(jnp.var(moved, axis=1), axis=-1), mean)
    full = jnp.sum(average.reshape(len(loss), -1) ** 2, axis=1) / 2
    return StochasticPrediction(
        mean.ts,
        loss,
        full,
        scatter,
        average,
        jnp.sum(jnp.mean(modes**2, axis=1), axis=-1),
        eigenvalues,
        test,
        test_variance,
        "sampled",
        scatter / jnp.sqrt(losses.shape[1]) / jnp.where(loss > 0, loss, 1.0),
    )

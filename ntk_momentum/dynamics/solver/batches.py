"""Mini-batches: which samples a step of training sees, and its gradient.

    g_k = (n/B) sum over i in batch k of grad l_i(w_k),    E g_k = grad L(w_k),  L = sum_i l_i

Which samples those are depends on the key and on k alone: step k draws with fold_in(key, k),
epoch e shuffles with fold_in(key, e). So neither saving more often, nor stopping and going on,
nor running many at once changes them.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

from ...errors import InputError, brief, check_choice, check_whole
from ...loss import Loss, is_known, output_gradient
from ...method import RestartedNesterovMethod
from ..objective import WeightProblem

Sampling = Literal["without_replacement", "with_replacement", "reshuffled"]
"""How batches are drawn: a fresh subset for every step, B independent samples, or the next part of
a permutation that is drawn anew for every epoch of n // B steps; what is left over, n mod B
samples, is then left out of that epoch."""

ROWS, DRAWN = 64, 2**14
"""Batches drawn at once, and samples in them, at most: a loop over B then costs a 64th for each
step, and the table stays in the cache. Chosen, and measured to cost less than a tenth of a step."""
QUADRATIC = 32
"""A subset is drawn in B^2 comparisons where those are fewer than this many for each sample, and
else by sorting n numbers. Chosen near where both take as long on a core."""
_TAG = 0x62617463
"""Tells the batches' numbers from a network's that was drawn from the same key."""


class Batches(eqx.Module):
    """Batches of one of several `sizes`, chosen by `which`, so that one program serves them all.

    mean: whether the loss is a mean over samples, so that a batch's gradient needs no factor.
    """

    key: Key[Array, ""]
    which: Int[Array, ""]
    sizes: tuple[int, ...] = eqx.field(static=True)
    sampling: str = eqx.field(static=True)
    mean: bool = eqx.field(static=True, default=False)

    def on(self, problem: WeightProblem, w: PyTree) -> Batches:
        """For the loss of a problem. Raises `InputError` where it is no sum over samples."""
        f, y = jax.eval_shape(problem.f, w), problem.y
        return dataclasses.replace(self, mean=is_mean(problem.loss, f, y))

    def whole(self, size: int, n: int) -> bool:
        """Whether a batch of this size is the whole set, in whatever order."""
        return size == n and self.sampling != "with_replacement"

    def table(
        self, size: int, n: int, k: Int[Array, ""]
    ) -> tuple[Int[Array, "rows size"], Int[Array, ""]]:
        """(batches, r): those of steps k, k + 1, ... are rows r, r + 1, ..."""
        key = jax.random.fold_in(self.key, _TAG)
        if self.sampling == "reshuffled":
            epoch, first = jnp.divmod(k, n // size)
            order = jax.random.permutation(jax.random.fold_in(key, epoch), n)
            return order[: n // size * size].reshape(-1, size), first
        rows = min(ROWS, max(1, DRAWN // size))
        draw = jax.vmap(lambda i: jax.random.fold_in(key, k + i))
        keys = draw(jnp.arange(rows, dtype=jnp.int32))
        if self.sampling == "with_replacement":
            table = jax.vmap(lambda key: jax.random.randint(key, (size,), 0, n))(keys)
        elif size**2 <= QUADRATIC * n:
            table = _subsets(keys, size, n)
        else:
            table = jax.lax.map(lambda key: jax.random.permutation(key, n)[:size], keys)
        return table, jnp.zeros((), jnp.int32)

    def part(self, problem: WeightProblem, rows: Int[Array, " batch"]) -> Part:
        """The problem of one batch."""
        scale = 1.0 if self.mean else len(problem.X) / rows.size
        take = lambda array: array.at[rows].get(mode="promise_in_bounds")
        few = dataclasses.replace(problem, X=take(problem.X), y=take(problem.y))
        return Part(few, scale)


class Part(eqx.Module):
    """A batch's estimates of loss and gradient, n/B times those of its samples."""

    problem: WeightProblem
    scale: float = eqx.field(static=True)

    def gradient(self, w: PyTree) -> PyTree:
        """Shaped like w."""
        few = self.problem
        return few.pull(w, lambda f: self.scale * output_gradient(few.loss, f, few.y))

    def value(self, w: PyTree) -> Float[Array, ""]:
        """The loss."""
        return self.scale * self.problem.value(w)


def _subsets(keys: Key[Array, " rows"], size: int, n: int) -> Int[Array, "rows size"]:
    """A uniform subset of {0, ..., n - 1} for each key, by Floyd's algorithm (Bentley and Floyd,
    1987): for j = n - size, ..., n - 1 a number up to j, or j itself where that one is taken."""
    last = jnp.arange(n - size, n, dtype=jnp.int32)
    drawn = jax.vmap(lambda key: jax.random.randint(key, (size,), 0, last + 1, jnp.int32))(keys)

    def pick(i: Array, chosen: Array) -> Array:
        one = drawn[:, i]
        taken = jnp.any(chosen == one[:, None], axis=1)
        return chosen.at[:, i].set(jnp.where(taken, last[i], one))

    return jax.lax.fori_loop(0, size, pick, jnp.full_like(drawn, -1))


def is_mean(loss: Loss, f: Any, y: Any) -> bool:
    """Whether a loss of these outputs and targets, known by shape, is the mean over samples and not
    the sum. Raises `InputError` where it is neither, since a batch then estimates nothing."""
    n = f.shape[0]
    if is_known(loss) or n == 1:
        return False
    few = max(1, n // 3)
    try:
        whole, first, rest = (
            _tried(loss, f, y, part) for part in (slice(n), slice(few), slice(few, n))
        )
    except Exception as error:  # the user's code: anything may be raised
        raise InputError(
            f"mini-batches need a loss that takes any number of samples; of {few} of {n} it gave "
            f"{type(error).__name__}, {brief(error)}."
        ) from error
    close = lambda a, b: np.allclose(a, b, rtol=1e-3, atol=1e-6, equal_nan=True)
    if close(first + rest, whole):
        return False
    if close(few * first + (n - few) * rest, n * whole):
        return True
    raise InputError(
        "mini-batches need a loss that is a sum, or a mean, over samples, so that a batch "
        "estimates it; this one is neither. Leave out batch_size."
    )


def _tried(loss: Loss, f: Any, y: Any, part: slice) -> np.ndarray:
    """The loss of some outputs and targets, at two places: any numbers, and between 0 and 1."""
    draw = np.random.default_rng(0)

    def like(array: Any, low: float) -> Array:
        if not jnp.issubdtype(array.dtype, jnp.inexact):
            return jnp.zeros(array.shape, array.dtype)[part]  # classes
        return jnp.asarray(draw.uniform(low, 0.9, array.shape), array.dtype)[part]

    with jax.core.eval_context():  # also where a caller is being traced
        return np.asarray([float(loss(like(f, low), like(y, low))) for low in (-0.9, 0.1)])


def why_not_in_batches(method: Any, state: Any) -> str | None:
    """Why an optimizer, by itself or its state, needs the whole data set: it compares one step's
    gradient or loss with the last one's, and of different batches these are noise."""
    if isinstance(method, RestartedNesterovMethod) and isinstance(method.scheme, str):
        return (
            f'restarts by "{method.scheme}" compare consecutive steps, whose mini-batches differ; '
            "leave out batch_size, or restart at a fixed period, nm.restarted_nesterov(eta, d, 50)"
        )
    wrong = lambda node: isinstance(node, optax.ScaleByLBFGSState)
    if any(map(wrong, jax.tree.leaves(state, is_leaf=wrong))):
        return (
            "L-BFGS takes the curvature from differences of consecutive gradients, which are noise "
            "where their mini-batches differ; leave out batch_size, or take another optimizer"
        )
    return None


def check_batch(batch_size: Any, n: int, sampling: Any) -> int:
    """The batch size as a whole number. Raises `InputError` unless 1 <= B <= n (any B >= 1 with
    replacement)."""
    check_choice("sampling", sampling, get_args(Sampling))
    size = check_whole("batch_size", batch_size, example=min(n, 32))
    if size > n and sampling != "with_replacement":
        raise InputError(
            f"batch_size must lie between 1 and the number of samples, {n}, got {size}; try "
            f"batch_size={n}."
        )
    return size


def batches_of(
    sizes: tuple[int, ...], n: int, sampling: str, key: Any, which: Any = 0
) -> Batches | None:
    """Batches of one of these sizes; None where each is the whole data set, in whatever order."""
    made = Batches(key, jnp.asarray(which, jnp.int32), sizes, sampling)
    return None if all(made.whole(size, n) for size in sizes) else made

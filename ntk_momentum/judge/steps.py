"""How many steps a method takes under a constant kernel, mode by mode, and how high the loss goes
on the way."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..method import AbstractOptimizer, nesterov
from .batches import HOLD


def count_steps(
    candidates: list[Any], eigenvalues: np.ndarray, size: np.ndarray, target: float, max_steps: int
) -> list[tuple[float, float]]:
    """(steps, peak) of each candidate, see `Recommendation`; those that differ in numbers only run
    side by side, restarts at a fixed period among them, until one has won: of the others it is a
    lower bound."""
    if candidates[0].name == "gradient_descent":
        return [
            (_gradient_steps(c.eta, eigenvalues, size, target, max_steps), 1.0) for c in candidates
        ]
    periods = None
    if hasattr(candidates[0], "d"):
        periods = jnp.asarray([getattr(c, "scheme", max_steps) for c in candidates], jnp.int32)
        candidates = [nesterov(c.eta, c.d) for c in candidates]
    dtype = jnp.result_type(eigenvalues.dtype, float)
    stacked = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves), dtype), *candidates)
    modes, start, goal = (jnp.asarray(x, dtype) for x in (eigenvalues, size, target))
    courses = _until(stacked, periods, modes, start, goal, jnp.asarray(max_steps, jnp.int32))
    return _courses(*courses, max_steps)


def _courses(counts: Array, peaks: Array, max_steps: int) -> list[tuple[float, float]]:
    return [
        (float(n) if n < max_steps else math.inf, float(peak))
        for n, peak in zip(counts, peaks, strict=True)
    ]


def steps_to(
    optimizer: AbstractOptimizer, eigenvalues: Any, size: Any, target: float, max_steps: int = 10**6
) -> float:
    """The first k from which on L(w_k) <= target L(w_0) under a constant kernel, from errors `size`
    (n,) along its eigenvectors; inf if none below max_steps. See `HOLD`."""
    eigenvalues, size = np.asarray(eigenvalues), np.asarray(size)
    scheme = getattr(optimizer, "scheme", None)
    if not isinstance(scheme, str):
        return count_steps([optimizer], eigenvalues, size, target, max_steps)[0][0]
    dtype = jnp.result_type(eigenvalues.dtype, float)
    stacked = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype)[None], optimizer)
    modes, start, goal = (jnp.asarray(x, dtype) for x in (eigenvalues, size, target))
    courses = _until(stacked, None, modes, start, goal, jnp.asarray(max_steps, jnp.int32))
    return _courses(*courses, max_steps)[0][0]


def _gradient_steps(
    eta: float, eigenvalues: np.ndarray, size: np.ndarray, target: float, max_steps: int
) -> float:
    """Gradient descent in closed form: sum size^2 (1 - eta lambda)^(2k) falls with k, so bisection
    finds the step."""
    factor = np.abs(1 - eta * eigenvalues)
    loss = lambda k: float(np.sum((size * factor**k) ** 2))
    goal, low, high = target * loss(0), 0, max_steps
    if factor.max() > 1 or loss(high) > goal:
        return math.inf
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if loss(middle) <= goal else (middle, high)
    return float(high)


@eqx.filter_jit
def _until(
    optimizers: Any,
    periods: Array | None,
    eigenvalues: Array,
    size: Array,
    target: Array,
    max_steps: Array,
) -> tuple[Array, Array]:
    """(steps until the loss stays below the target, largest loss over the first) of each optimizer.

    They run on the weights behind the modes, z = Delta/sqrt(lambda), so that inner products in
    restarts are those of w.

    periods: for Nesterov's method, the steps after which its count goes back to 0.
    """
    root = jnp.sqrt(eigenvalues)
    seen = root > 0
    start = jnp.where(seen, size / jnp.where(seen, root, 1.0), 0.0)
    still = jnp.sum(jnp.where(seen, 0.0, size**2))
    first = jnp.sum(size**2)
    goal = target * first

    def moved(optimizer: AbstractOptimizer, period: Array | None, z: Array, memory: Any) -> tuple:
        if period is not None:
            taken, ahead = memory
            memory = type(memory)(jnp.where(taken >= period, 0, taken), ahead)
        change, memory = optimizer.update(eigenvalues * z, memory, z)
        return z + change, memory, jnp.sum(eigenvalues * (z + change) ** 2) + still

    def going(k: Array, last: Array) -> Array:
        """Which of them are not yet known to stay below."""
        return k < HOLD * (last + 1)

    def more(carry: tuple) -> Array:
        k, last, *_ = carry
        going_on = going(k, last)
        best = jnp.min(jnp.where(going_on, max_steps, last))
        return (k < max_steps) & jnp.any(going_on & (last < best))

    def step(carry: tuple) -> tuple:
        k, last, peak, z, memory = carry
        z, memory, loss = jax.vmap(moved)(optimizers, periods, z, memory)
        counts = going(k, last)
        last = jnp.where(counts & ~(loss <= goal), k + 1, last)  # also where it is NaN
        return k + 1, last, jnp.where(counts, jnp.maximum(peak, loss), peak), z, memory

    zero, count = jnp.zeros((), jnp.int32), len(jax.tree.leaves(optimizers)[0])
    starts = jnp.broadcast_to(start, (count, *start.shape))
    begin = (
        zero,
        jnp.zeros(count, jnp.int32),
        jnp.full(count, first),
        starts,
        jax.vmap(lambda optimizer, z: optimizer.init(z))(optimizers, starts),
    )
    _, last, peak, *_ = jax.lax.while_loop(more, step, begin)
    return last + 1, peak / first

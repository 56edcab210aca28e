"""One step of a linear method, the same for every coordinate: z_{k+1} = P_k z_k + g_k (gradient).

z holds a coordinate and what the method remembers of it: (w) for gradient descent (2.1), (w, last
step) for the heavy ball (3.1), (w, w - R) for Nesterov's method (4.1), and so on. P_k and g_k are
read off the method's own update. On an eigenvalue lambda of a constant kernel, where the gradient
is lambda w, the step is the matrix M_k = P_k + lambda g_k e^T of `nm.amplification` (e picks w out
of z), and noise in the gradient enters along g_k.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..errors import InputError
from ..method import AbstractOptimizer, check_linear

LATE = 2**28
"""Counts k of steps, and 2k, from which `late_step` extrapolates to k -> infinity: what is left is
of order 1/k^2."""


StepMatrix = tuple[np.ndarray, np.ndarray]
"""(P, g) of one step."""


class LinearSteps(NamedTuple):
    """carry: P_k; push: g_k. One row for each step."""

    carry: Float[Array, "T s s"]
    push: Float[Array, "T s"]

    @property
    def size(self) -> int:
        """The numbers that z has for one weight."""
        return self.push.shape[-1]


def check_method(optimizer: Any) -> None:
    """Raise `InputError` for what is no optimizer of ours, or not linear in the gradients."""
    if not isinstance(optimizer, AbstractOptimizer):
        raise InputError(
            f"the optimizer must be one of ntk_momentum, got {type(optimizer).__name__}; try "
            "nm.heavy_ball(eta, beta)."
        )
    check_linear(optimizer)
    if not optimizer.linear:
        raise InputError(
            f"{optimizer.name} is not linear in the gradients, so second moments do not close; "
            "run nm.train instead."
        )


def linear_steps(optimizer: AbstractOptimizer, steps: int, dtype: Any) -> LinearSteps:
    """(P_k, g_k) for k = 0 ... steps - 1."""
    return _linear_steps(optimizer, int(steps), jnp.dtype(dtype))


def one_step(optimizer: AbstractOptimizer, count: int = 0) -> StepMatrix:
    """(P, g) of the step after so many, not compiled: a few dozen numbers."""
    counts, step = probe(optimizer, jnp.result_type(float))
    P, g = step(_after(counts, count))[1]
    return np.asarray(P, float), np.asarray(g, float)


def late_step(optimizer: AbstractOptimizer) -> StepMatrix:
    """(P, g) of a method whose steps are all alike, or its limit for k -> infinity."""
    if not changes(optimizer):
        return one_step(optimizer)
    (P, g), (Q, h) = one_step(optimizer, LATE), one_step(optimizer, 2 * LATE)
    return 2 * Q - P, 2 * h - g


def changes(optimizer: AbstractOptimizer) -> bool:
    """Whether the steps are not all alike: whether the method counts them."""
    return any(
        not jnp.issubdtype(leaf.dtype, jnp.inexact)
        for leaf in jax.tree.leaves(optimizer.init(jnp.zeros(2)))
    )


@eqx.filter_jit
def _linear_steps(optimizer: AbstractOptimizer, steps: int, dtype: Any) -> LinearSteps:
    counts, step = probe(optimizer, dtype)
    return LinearSteps(*jax.lax.scan(lambda counts, _: step(counts), counts, length=steps)[1])


def _after(counts: list[Array], steps: int) -> list[Array]:
    """What a method has counted after so many steps."""
    whole = lambda leaf: jnp.issubdtype(leaf.dtype, jnp.integer)
    return [jnp.full_like(leaf, steps) if whole(leaf) else leaf for leaf in counts]


def probe(optimizer: AbstractOptimizer, dtype: Any) -> tuple[list[Array], Callable]:
    """(what the method counts, a function of it): counts -> (counts after the step, (P, g))."""
    # update acts on each coordinate alike and linearly, so that one call on unit vectors reads off
    # the whole matrix: the coordinates are (w, memory ..., gradient), s + 1 of them.
    marked = jnp.zeros(7, dtype)  # some length that no count or scale has
    moving = [leaf.shape == marked.shape for leaf in jax.tree.leaves(optimizer.init(marked))]
    s = 1 + sum(moving)
    unit = jnp.eye(s + 1, dtype=dtype)
    leaves, tree = jax.tree.flatten(optimizer.init(jnp.zeros(s + 1, dtype)))
    pick = lambda leaves, moves: [a for a, b in zip(leaves, moving, strict=True) if b == moves]

    def step(counts: list[Array]) -> tuple[list[Array], tuple[Array, Array]]:
        memory, rest = iter(unit[1:s]), iter(counts)
        state = jax.tree.unflatten(tree, [next(memory if moves else rest) for moves in moving])
        change, state = optimizer.update(unit[s], state, unit[0])
        after = jax.tree.leaves(state)
        rows = jnp.stack([unit[0] + change, *pick(after, True)]).astype(dtype)
        return pick(after, False), (rows[:, :s], rows[:, s])

    return pick(leaves, False), step

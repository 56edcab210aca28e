"""The control of step sizes that the exponential integrators share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ...loops import while_loop
from ...method import State
from ...numerics import Numerics
from .base import MAX_STEPS, NOT_FINITE, STEP_UNDERFLOW, Progress, Watcher

RESOLUTION = 4.0
"""A step of fewer spacings of time's floating-point numbers is none."""


class Attempt(NamedTuple):
    """What a step from t to t + h would do.

    Attributes:
        error: its estimated error, to be compared with `Numerics.tol`.
        memory: what the integrator remembers once it is accepted.
        finish: accept -> the state after it, the old one where it is not accepted.
        cost: evaluations of the network that it took, in gradients.
    """

    error: Float[Array, ""]
    memory: PyTree
    finish: Callable[[Array], State]
    cost: Any


def adaptive_steps(
    step: Callable[[Array, Array, State, PyTree], Attempt],
    order: int,
    problem: Any,
    progress: Progress,
    t1: Float[Array, ""],
    watcher: Watcher,
    numerics: Numerics,
    reach: Callable[[Array], Any] = lambda t: jnp.inf,
) -> Progress:
    """Progress at t1, by steps as long as their error and `reach`, from t, allow.

    `progress.memory` is (what the integrator remembers, the step it wants next, evaluations so
    far). A saved time is hit exactly, and each accepted step is shown to the watcher.
    """
    limit = progress.accepted + progress.rejected + numerics.max_steps
    resolution = RESOLUTION * jnp.finfo(t1.dtype).eps

    def unfinished(p: Progress) -> Array:
        return (p.t < t1) & (p.verdict == 0)

    def attempt(p: Progress) -> Progress:
        memory, wanted, spent = p.memory
        wanted = jnp.minimum(wanted, jax.lax.stop_gradient(reach(p.t)))
        left = t1 - p.t
        # A saved time is hit exactly: the last step may be 0.1% longer than wanted, and what is
        # left beyond one step is halved, so that no sliver of a step remains.
        last = wanted >= 0.999 * left
        h = jnp.where(last, left, jnp.where(2 * wanted > left, left / 2, wanted))
        t = jnp.where(last, t1, p.t + h)
        error, new, finish, cost = step(p.t, h, p.state, memory)
        # Steps are constants under differentiation: the solution hardly depends on them.
        scaled = jax.lax.stop_gradient(error / numerics.tol)
        accept = scaled < 1
        # A step of order k is wrong by h^(k + 1); 0.8 and the clips are those of most solvers.
        factor = jnp.clip(0.8 * jnp.maximum(scaled, 1e-12) ** (-1 / (order + 1)), 0.2, 2.0)
        proposed = jax.lax.stop_gradient(h) * jnp.where(jnp.isfinite(factor), factor, 0.2)
        # A step that a saved time cut short says little of the step after it.
        wanted = jnp.where(accept & (h < wanted), jnp.maximum(wanted, proposed), proposed)
        state = finish(accept)
        watched = watcher.update(problem, p.watched, p.t, p.state, t, state)

        def keep(old: PyTree, new: PyTree) -> PyTree:
            return jax.tree.map(lambda a, b: jnp.where(accept, b, a), old, new)

        accepted, rejected = p.accepted + accept, p.rejected + ~accept
        verdict = jnp.where(accepted + rejected >= limit, MAX_STEPS, 0)
        verdict = jnp.where(accept & (t >= t1), 0, verdict)
        verdict = jnp.where(
            ~accept & (h <= resolution * t1),
            jnp.where(jnp.isfinite(error), STEP_UNDERFLOW, NOT_FINITE),
            verdict,
        )
        return Progress(
            jnp.where(accept, t, p.t),
            state,
            (keep(memory, new), wanted, spent + cost),
            keep(p.watched, watched),
            accepted,
            rejected,
            verdict.astype(jnp.int32),
        )

    return while_loop(unfinished, attempt, progress)

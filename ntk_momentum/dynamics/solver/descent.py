"""Discrete training as an integrator: the steps of an optimizer, with the step count as the
time."""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ...method import AbstractOptimizer, State
from ...numerics import Numerics
from ..objective import AbstractProblem
from .base import AbstractIntegrator, Progress, Watcher


class Descent(AbstractIntegrator):
    """Full-batch steps of (2.1), (3.1), (4.1), or of any optax transformation."""

    def evaluations(self, flow: Any) -> int:
        return 1

    def blind_to_coordinates(self, method: Any) -> bool:
        return isinstance(method, AbstractOptimizer) and method.linear

    def start(
        self,
        problem: AbstractProblem,
        flow: Any,
        state: State,
        watcher: Watcher,
        numerics: Numerics,
        dtype: Any,
    ) -> Progress:
        t, zero = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
        watched = watcher.init(problem, t, state)
        return Progress(t, state, flow.init(state.w), watched, zero, zero, zero)

    def advance(
        self,
        problem: AbstractProblem,
        flow: Any,
        progress: Progress,
        t1: Float[Array, ""],
        watcher: Watcher,
        numerics: Numerics,
    ) -> Progress:
        takes_value = isinstance(flow, optax.GradientTransformationExtraArgs)
        takes_value = takes_value or "value" in inspect.signature(flow.update).parameters

        def step(_: Array, p: Progress) -> Progress:
            extra = {"value": problem.value(p.state.w)} if takes_value else {}
            updates, memory = flow.update(problem.gradient(p.state.w), p.memory, p.state.w, **extra)
            w = jax.tree.map(
                lambda leaf, change: leaf + change.astype(leaf.dtype), p.state.w, updates
            )
            after = State(w, None)
            watched = watcher.update(problem, p.watched, p.t, p.state, p.t + 1, after)
            return Progress(p.t + 1, after, memory, watched, p.accepted + 1, p.rejected, p.verdict)

        steps = jnp.round(t1 - progress.t).astype(jnp.int32)
        return jax.lax.fori_loop(0, steps, step, progress)

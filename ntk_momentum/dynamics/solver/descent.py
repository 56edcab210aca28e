"""Discrete training as an integrator: the steps of an optimizer, with the step count as the
time."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import optax

from ...method import AbstractOptimizer, State
from .base import AbstractIntegrator, Progress


class Descent(AbstractIntegrator):
    """Full-batch steps of (2.1), (3.1), (4.1), or of any optax transformation."""

    def evaluations(self, flow):
        return 1

    def blind_to_coordinates(self, method):
        return isinstance(method, AbstractOptimizer) and method.linear

    def start(self, problem, flow, state, watcher, numerics, dtype):
        t, zero = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
        watched = watcher.init(problem, t, state)
        return Progress(t, state, flow.init(state.w), watched, zero, zero, zero)

    def advance(self, problem, flow, progress, t1, watcher, numerics):
        takes_value = isinstance(flow, optax.GradientTransformationExtraArgs)
        takes_value = takes_value or "value" in inspect.signature(flow.update).parameters

        def step(_, p):
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

"""Discrete training as an integrator: the steps of an optimizer, with the step count as the
time."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ...errors import InputError, brief
from ...loops import fori_loop, while_loop
from ...method import AbstractOptimizer, State
from ...numerics import Numerics
from ..objective import AbstractProblem, WeightProblem
from .base import AbstractIntegrator, Progress, Watcher
from .batches import Batches, Part, why_not_in_batches


class Descent(AbstractIntegrator):
    """Steps of (2.1), (3.1), (4.1), or of any optax transformation, on the whole data set or on
    mini-batches."""

    batches: Batches | None = None

    def evaluations(self, flow: Any) -> int:
        return 1

    def blind_to_coordinates(self, method: Any) -> bool:
        # preactivations of all samples would be moved for each batch
        return (
            self.batches is None and isinstance(method, AbstractOptimizer) and bool(method.linear)
        )

    def first_memory(
        self, problem: Any, flow: Any, state: State, numerics: Numerics, dtype: Any
    ) -> PyTree:
        return flow.init(state.w)

    def why_not(self, problem: AbstractProblem, method: Any, w: PyTree) -> str | None:
        try:
            # jitted, so that a second run of the same shapes is not traced again: a third of the
            # time that it takes to make a short run ready
            change, memory = jax.eval_shape(lambda w: _first_update(self, problem, method, w), w)
            same = jax.tree.map(lambda leaf, by: leaf.shape == by.shape, w, change)
        except InputError:
            raise
        except Exception as error:  # the user's code: anything may be raised
            return (
                f"the optimizer cannot take a step: {type(error).__name__}, {brief(error)}; it "
                "gets update(gradient, state, weights), and value, grad, value_fn, grad_fn and "
                "obj_fn where its signature has them"
            )
        if not all(jax.tree.leaves(same)):
            return (
                "the optimizer cannot take a step: its updates are not shaped like the weights; it "
                "may want one gradient for each sample, while it gets that of the whole loss"
            )
        return None if self.batches is None else why_not_in_batches(method, memory)

    def _update(
        self, problem: AbstractProblem | Part, method: Any, w: PyTree, memory: PyTree
    ) -> tuple[PyTree, PyTree]:
        """(change of w, memory after it), with what optax's line searches, SAM and the like ask
        for."""
        gradient = problem.gradient(w)
        extra = {"value": problem.value(w), "grad": gradient, "value_fn": problem.value}
        by_name = {"grad_fn": lambda w, *_: problem.gradient(w), "obj_fn": problem.value}
        known = inspect.signature(method.update).parameters
        anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
        # a line search takes any name and refuses those that its value_fn does not know
        told = extra if anything else {}
        told |= {name: one for name, one in (extra | by_name).items() if name in known}
        return method.update(gradient, memory, w, **told)

    def advance(
        self,
        problem: AbstractProblem,
        flow: Any,
        progress: Progress,
        t1: Float[Array, ""],
        watcher: Watcher,
        numerics: Numerics,
    ) -> Progress:
        def step(seen: AbstractProblem | Part, p: Progress) -> Progress:
            updates, memory = self._update(seen, flow, p.state.w, p.memory)
            w = jax.tree.map(
                lambda leaf, change: leaf + change.astype(leaf.dtype), p.state.w, updates
            )
            after = State(w, None)
            watched = watcher.update(problem, p.watched, p.t, p.state, p.t + 1, after)
            return Progress(p.t + 1, after, memory, watched, p.accepted + 1, p.rejected, p.verdict)

        steps = jnp.round(t1 - progress.t).astype(jnp.int32)
        end = progress.accepted + steps
        whole = lambda p: fori_loop(steps, lambda _, p: step(problem, p), p)
        batches = self.batches
        if batches is None or not isinstance(problem, WeightProblem):
            return whole(progress)
        n = len(problem.X)

        def drawn(size: int, p: Progress) -> Progress:
            """Steps on batches of this size, as many at a time as are drawn at once."""

            def some(p: Progress) -> Progress:
                table, first = batches.table(size, n, p.accepted)
                count = jnp.minimum(end - p.accepted, len(table) - first)
                rows = lambda i: jax.lax.dynamic_index_in_dim(table, first + i, keepdims=False)
                one = lambda i, p: step(batches.part(problem, rows(i)), p)
                return fori_loop(count, one, p)

            return while_loop(lambda p: p.accepted < end, some, p)

        ways = [whole if batches.whole(size, n) else partial(drawn, size) for size in batches.sizes]
        return (
            ways[0](progress) if len(ways) == 1 else jax.lax.switch(batches.which, ways, progress)
        )


@eqx.filter_jit
def _first_update(descent: Descent, problem: AbstractProblem, method: Any, w: PyTree) -> Any:
    return descent._update(problem, method, w, method.init(w))

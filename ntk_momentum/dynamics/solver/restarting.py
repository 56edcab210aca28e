"""Flows that are put to rest again and again: any integrator between restarts, whose times it
finds.

Time runs from the last restart, so (4.2) starts at its singular t = 0 each time. A fixed period
ends a step; an adaptive restart is due where `RestartedNesterov.due` changes sign: looked for at
every half of the fastest scale, then bracketed, each trial solved anew.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ...loops import while_loop
from ...method import RestartedNesterov, State
from ...numerics import Numerics
from ..objective import AbstractProblem
from .base import AbstractIntegrator, Progress, Watcher

SCOUT = 0.5
"""Time between looks for a restart, in units of 1/sqrt(lambda_max): a twelfth of the fastest mode's
period, as in `restart_times`. Chosen, not measured."""
_TRIALS = 12
"""Most trials for one restart; a bracket of a millionth of the time between looks is enough.
Chosen, not measured: on a smooth rate the Illinois variant converges with order 1.44."""


class _Clock(NamedTuple):
    """What `Restarting` remembers: the inner solver's progress in its own time, when that began,
    and the time between looks."""

    inner: Progress
    began: Float[Array, ""]
    scout: Float[Array, ""]


class _Since(eqx.Module):
    """A watcher of the whole solve, told of steps in time since `began`."""

    watcher: Any
    began: Any

    def init(self, problem: Any, t: Array, state: State) -> PyTree:
        return self.watcher.init(problem, t + self.began, state)

    def update(
        self, problem: Any, watched: PyTree, t0: Array, before: State, t1: Array, after: State
    ) -> PyTree:
        return self.watcher.update(
            problem, watched, t0 + self.began, before, t1 + self.began, after
        )


class _Kept(eqx.Module):
    """A watcher that starts with what has been watched before."""

    watched: Any

    def init(self, problem: Any, t: Array, state: State) -> PyTree:
        return self.watched

    def update(
        self, problem: Any, watched: PyTree, t0: Array, before: State, t1: Array, after: State
    ) -> PyTree:
        return watched


class Restarting(AbstractIntegrator):
    """`between` solves Nesterov's flow from rest to rest."""

    between: AbstractIntegrator

    def evaluations(self, flow: Any) -> int:
        return self.between.evaluations(flow.between)

    def start(
        self,
        problem: AbstractProblem,
        flow: Any,
        state: State,
        watcher: Watcher,
        numerics: Numerics,
        dtype: Any,
    ) -> Progress:
        inner = self.between.start(problem, flow.between, state, watcher, numerics, dtype)
        scout = (SCOUT / jnp.sqrt(problem.lambda_max(state.w))).astype(dtype)
        return inner._replace(memory=_Clock(inner, jnp.zeros((), dtype), scout))

    def advance(
        self,
        problem: AbstractProblem,
        flow: Any,
        progress: Progress,
        t1: Float[Array, ""],
        watcher: Watcher,
        numerics: Numerics,
    ) -> Progress:
        def reach(clock: _Clock, end: Array) -> Progress:
            """The inner solver's progress at `end`, a time since the last restart."""
            return self.between.advance(
                problem, flow.between, clock.inner, end, _Since(watcher, clock.began), numerics
            )

        def due(inner: Progress) -> Array:
            return flow.due(inner.t, inner.state, problem.gradient(inner.state.w), problem.inner)

        def restarted(clock: _Clock, inner: Progress) -> _Clock:
            # At rest at t = 0 of a clock of its own, so that the friction d/t starts again; what
            # observers have seen and the count of steps go on.
            state = flow.init(inner.state.w)
            fresh = self.between.start(
                problem, flow.between, state, _Kept(inner.watched), numerics, t1.dtype
            )
            fresh = fresh._replace(accepted=inner.accepted, rejected=inner.rejected)
            return clock._replace(inner=fresh, began=clock.began + inner.t)

        def kept(clock: _Clock, inner: Progress) -> _Clock:
            return clock._replace(inner=inner)

        def periodic(clock: _Clock) -> _Clock:
            # The inner solver ends exactly at the restart, or at the saved time if that is first.
            ends = flow.period <= t1 - clock.began
            inner = reach(clock, jnp.where(ends, flow.period, t1 - clock.began))
            return jax.lax.cond(ends & (inner.verdict == 0), restarted, kept, clock, inner)

        def adaptive(clock: _Clock) -> _Clock:
            # Look half a fastest scale on; a rest of less than a thousandth of it is taken along.
            left = t1 - clock.began
            end = jnp.where(
                clock.inner.t + 1.001 * clock.scout >= left, left, clock.inner.t + clock.scout
            )
            inner = reach(clock, end)
            after = due(inner)

            # due > 0 at clock.inner and < 0 at `inner`: the restart lies between. Each trial solves
            # anew from clock.inner, as interpolation across kinks is wrong at any order, by false
            # position in its Illinois variant: the chord's zero, the value at an end that stays
            # halved so that both ends move. Shares are kept 2% off the ends. `past`, the progress
            # at the first known time behind the restart, is where the flow is put to rest.
            def locate(clock: _Clock, inner: Progress) -> _Clock:
                def unsure(bracket: tuple[Any, ...]) -> Array:
                    low, high, _, _, trials, _, _ = bracket
                    enough = jnp.maximum(1e-6 * clock.scout, 4 * jnp.finfo(t1.dtype).eps * high)
                    return (high - low > enough) & (trials < _TRIALS)

                def trial(bracket: tuple[Any, ...]) -> tuple[Any, ...]:
                    low, high, at_low, at_high, trials, past, steps = bracket
                    share = jnp.clip(at_low / (at_low - at_high), 0.02, 0.98)
                    middle = reach(clock, low + share * (high - low))
                    value = due(middle)
                    over = value < 0
                    return (
                        jnp.where(over, low, middle.t),
                        jnp.where(over, middle.t, high),
                        jnp.where(over, at_low / 2, value),
                        jnp.where(over, value, at_high / 2),
                        trials + 1,
                        jax.tree.map(lambda a, b: jnp.where(over, b, a), past, middle),
                        steps + taken(middle),
                    )

                def taken(progress: Progress) -> Array:
                    return (
                        progress.accepted
                        + progress.rejected
                        - clock.inner.accepted
                        - clock.inner.rejected
                    )

                # Right after a restart due is zero to round-off; the chord needs a positive end.
                above = jnp.maximum(due(clock.inner), jnp.finfo(t1.dtype).tiny)
                none = jnp.zeros((), jnp.int32)
                *_, found, steps = while_loop(
                    unsure, trial, (clock.inner.t, inner.t, above, after, none, inner, taken(inner))
                )
                # Steps of trials that were thrown away count as rejected: they are not free.
                return restarted(
                    clock, found._replace(rejected=found.rejected + steps - taken(found))
                )

            crossed = (after < 0) & (inner.verdict == 0)
            return jax.lax.cond(crossed, locate, kept, clock, inner)

        def unfinished(clock: _Clock) -> Array:
            return (clock.inner.t < t1 - clock.began) & (clock.inner.verdict == 0)

        clock = while_loop(unfinished, periodic if flow.linear else adaptive, progress.memory)
        return clock.inner._replace(t=t1, memory=clock)


def restarting(integrator: AbstractIntegrator, flow: Any) -> AbstractIntegrator:
    """The integrator for a flow: `Restarting` around it where the flow restarts."""
    return Restarting(integrator) if isinstance(flow, RestartedNesterov) else integrator

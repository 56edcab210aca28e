"""Any adaptive explicit solver of diffrax in the `solver` slot.

Diffrax's solvers take the steps; the loop over them is here. It folds observers over accepted
steps, measures errors in function space, keeps the step size that was wanted before a saved time
clipped it, and looks ahead whether the saved time is within reach.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ...errors import InputError, described
from ...loops import while_loop
from ...method import State
from ...numerics import Numerics
from ..objective import AbstractProblem, roundoff
from ..passing import passing
from .base import (
    CREEPING,
    MAX_STEPS,
    STEP_UNDERFLOW,
    SUCCESS,
    AbstractIntegrator,
    Progress,
    Watcher,
)

LOOK = 1000
"""Steps between two looks at how many it still takes."""
HOPELESS = 4.0
"""From so many times `max_steps` on that it would take at the pace of the last `LOOK`, a run is
stopped. Chosen: an explicit step is as long as stability allows, so it gets longer only as
lambda_max falls."""


class RungeKutta(AbstractIntegrator):
    """Adaptive steps of an explicit diffrax solver with an embedded error estimate.

    Errors are measured in f and relative to the size of the motion, |Delta| and |dw/dt| together,
    so a neuron's jump across its kink counts for what it changes. ReLU kinks make every solver
    first order, so a tolerance below about 1e-5 costs many steps and gains little. Solves (2.2),
    (3.2), (4.2) and what else a flow says.

    Args:
        method: The diffrax solver; Tsit5 unless given.

    Raises:
        InputError: If the solver is implicit, or has no error estimate.

    Examples:
        >>> nm.RungeKutta().evaluations(nm.GradientFlow())  # a step of Tsit5
        6
    """

    pauses = True

    method: diffrax.AbstractSolver = diffrax.Tsit5()

    def __check_init__(self) -> None:
        if not isinstance(self.method, diffrax.AbstractAdaptiveSolver) or isinstance(
            self.method, diffrax.AbstractImplicitSolver
        ):
            raise InputError(
                "solver must be an explicit diffrax solver with an error estimate, "
                f"got {described(self.method)}; "
                "try diffrax.Tsit5(), diffrax.Dopri8() or diffrax.HalfSolver(diffrax.Euler())."
            )

    def blind_to_coordinates(self, method: Any) -> bool:
        return True

    def evaluations(self, flow: Any) -> int:
        """Stages of the method, less the one that the next step takes over."""
        tableau = getattr(self.method, "tableau", None)
        if tableau is None:
            raise InputError(
                f"the evaluations of {type(self.method).__name__} are not known; take "
                "a diffrax solver with a tableau."
            )
        return tableau.num_stages - tableau.fsal

    def first_memory(
        self, problem: Any, flow: Any, state: State, numerics: Numerics, dtype: Any
    ) -> PyTree:
        scale = jax.lax.stop_gradient(problem.lambda_max(state.w))
        h = _rounded(0.1 / flow.fastest_rate(scale)).astype(dtype)
        first, _, _ = _steps(self.method, problem, flow)
        return scale, _arrays(first(jnp.zeros((), dtype), h, state)), (jnp.ones((), dtype), h)

    def advance(
        self,
        problem: AbstractProblem,
        flow: Any,
        progress: Progress,
        t1: Float[Array, ""],
        watcher: Watcher,
        numerics: Numerics,
    ) -> Progress:
        _, step, order = _steps(self.method, problem, flow)
        scale, begun = progress.memory[0], progress.accepted + progress.rejected
        rate, eps = flow.fastest_rate(scale), jnp.finfo(t1.dtype).eps
        floor = roundoff(numerics.tol, scale.dtype)
        looks = -(-numerics.max_steps // LOOK)
        between = -(-numerics.max_steps // looks)  # steps between two looks

        def attempt(carry: tuple[Progress, Array]) -> tuple[Progress, Array]:
            p, seen = carry
            _, known, (before, wanted) = p.memory
            last = p.t + wanted > t1 - 100 * eps * t1
            t = jnp.where(last, t1, p.t + wanted)
            state, error, after = step(p.t, t, p.state, known)
            state = passing(problem, flow, p.t, p.state, t, state)
            watched = watcher.update(problem, p.watched, p.t, p.state, t, state)
            error = problem.relative_error(state, error, scale, floor) / numerics.tol
            # Steps are constants under differentiation: the solution hardly depends on them.
            error = jax.lax.stop_gradient(jnp.where(jnp.isnan(error), jnp.inf, error))
            accept = error < 1
            # Proportional and integral parts of 0.2 and 0.6, chosen, not measured.
            factor = 0.9 * (1 / error) ** (0.8 / order) * before ** (-0.2 / order)
            factor = jnp.clip(
                factor, jnp.where(accept, 1.0, 0.2), jnp.where(accept, 10.0, 0.9)
            ).astype(t.dtype)
            proposed = (t - p.t) * factor
            underflow = proposed < eps / rate  # only where the run has become NaN
            proposed = _rounded(proposed)
            # As in the lazy solver: a step that a saved time cut short does not shrink the next.
            clipped = accept & (t - p.t < 0.99 * wanted)
            wanted = jnp.where(clipped, jnp.maximum(wanted, proposed), proposed)
            plain = (error == 0) | jnp.isinf(error)
            before = jnp.where(accept, jnp.where(plain, 1.0, 1 / error), before)

            def keep(new: PyTree, old: PyTree) -> PyTree:
                return jax.tree.map(lambda a, b: jnp.where(accept, a, b), new, old)

            t = jnp.where(accept, t, p.t)
            accepted, rejected = p.accepted + accept, p.rejected + ~accept
            taken = accepted + rejected - begun
            verdict, seen = self._look(taken, between, t, seen, t1, rate, numerics)
            verdict = jnp.where(t >= t1, SUCCESS, jnp.where(underflow, STEP_UNDERFLOW, verdict))
            memory = scale, keep(_arrays(after), known), (before.astype(t.dtype), wanted)
            state, watched = keep((state, watched), (p.state, p.watched))
            verdict = verdict.astype(jnp.int32)
            return Progress(t, state, memory, watched, accepted, rejected, verdict), seen

        def unfinished(carry: tuple[Progress, Array]) -> Array:
            return (carry[0].t < t1) & (carry[0].verdict == 0)

        return while_loop(unfinished, attempt, (progress, progress.t))[0]

    @staticmethod
    def _look(
        taken: Array,
        between: int,
        t: Array,
        seen: Array,
        t1: Array,
        rate: Array,
        numerics: Numerics,
    ) -> tuple[Array, Array]:
        """The verdict after so many steps, and the time of the last look, `between` steps apart."""
        look = taken % between == 0
        needed = (t1 - t) / (t - seen) * between
        over = (taken >= numerics.max_steps) | (needed > HOPELESS * numerics.max_steps)
        # Mean step times fastest rate, in MLPs of width 32 and depth 3: 0.8 at tol = 1e-5 and 0.15
        # at 1e-9 where smooth, 0.13 across kinks with momentum, 0.004 at 1e-5 where neurons slide
        # along kinks, which makes a step's error one of first order.
        slow = jnp.minimum(8 * jnp.sqrt(numerics.tol), 0.05)
        cause = jnp.where((t - seen) / between * rate < slow, CREEPING, MAX_STEPS)
        return jnp.where(look & over, cause, SUCCESS), jnp.where(look, t, seen)


def _steps(
    method: Any, problem: Any, flow: Any, plain: bool = False
) -> tuple[Callable, Callable, Any]:
    """What a first step knows, first(t, h, state); a step, step(t0, t1, state, known) -> state at
    t1, its error, what is known there; and the power of its length that its error goes by.

    plain: take diffrax's own steps of any method.
    """
    terms = diffrax.ODETerm(
        lambda t, state, args: flow.vector_field(t, state, problem.gradient(state.w))
    )
    order = method.error_order(terms)
    own = type(method).step is not diffrax.AbstractERK.step  # a user's own way of taking one
    plain = plain or own or not isinstance(method, diffrax.AbstractERK)
    if not plain and method.scan_kind is None and flow.linear:
        explicit = _Explicit(method.tableau, problem, flow)
        return lambda t, h, state: explicit.first(state), explicit.step, order

    def step(t0: Array, t1: Array, state: State, known: PyTree) -> tuple[State, State, PyTree]:
        state, error, _, known, _ = method.step(terms, t0, t1, state, None, known, False)
        return state, error, known

    return lambda t, h, state: method.init(terms, t, t + h, state, None), step, order


def _arrays(tree: Any) -> Any:
    """Diffrax starts some of its state as Python scalars; a loop needs arrays of one dtype
    throughout."""
    return jax.tree.map(jnp.asarray, tree)


def _rounded(step: Any) -> Any:
    """A step size to eight bits, so that runs which differ by round-off take the same steps: kinks
    amplify what differs.

    The thresholds lie off the powers of two and simple fractions at which controllers like to stop.
    """
    mantissa, exponent = jnp.frexp(step)
    return jnp.ldexp(jnp.floor(mantissa * 256 + 0.37) / 256, exponent)


class _Explicit(eqx.Module):
    """An explicit Runge-Kutta method for flows that are linear in (w, v, gradient).

    Every stage, the end and the error are sums of w and v at the start and of the stages'
    gradients, with weights that the flow itself gives, solved for rows of numbers before the first
    gradient is taken. So a stage keeps one array and not two, and writes no momentum; diffrax's own
    stages sum the slopes of both, also those to come, which took longer than the gradients. Written
    out one after another the stages copy nothing; they compile a fifth longer than in a loop.
    """

    tableau: Any
    problem: Any
    flow: Any

    def first(self, y0: State) -> PyTree:
        """The first gradient, which the last one of a step is where the method says so."""
        return self.problem.gradient(y0.w) if self.tableau.fsal else None

    def step(self, t0: Array, t1: Array, y0: State, known: PyTree) -> tuple[State, State, PyTree]:
        """The state at t1, its error, and its gradient where the method has it."""
        gradients = [self.problem.gradient(y0.w) if known is None else known]

        def summed(row: Array, known: int) -> PyTree:
            """The row's sum of so many gradients and of v."""
            weights, parts = [*row[:known]], gradients[:known]
            if y0.v is not None:
                weights, parts = [*weights, row[-1]], [*parts, y0.v]
            along = lambda *k: sum(a.astype(x.dtype) * x for a, x in zip(weights, k, strict=True))
            return jax.tree.map(along, *parts)

        stages, end, error = self._weights(t0, t1 - t0)
        w = y0.w
        for i, row in enumerate(stages.w):
            # where v = dw/dt, w has not felt the last gradient yet
            w = jax.tree.map(jnp.add, y0.w, summed(row, i if self.flow.inertial else i + 1))
            gradients.append(self.problem.gradient(w))
        total = lambda rows: jax.tree.map(lambda row: summed(row, len(gradients)), rows)
        y1 = jax.tree.map(jnp.add, y0, total(end))
        y1 = y1._replace(w=w) if self.tableau.ssal else y1
        last = gradients[-1] if self.tableau.fsal else None
        return y1, total(error), last

    def _weights(self, t0: Array, h: Array) -> tuple[State, State, State]:
        """What each stage after the first, the end and the error add to w and v at the start: rows
        of weights of the gradients, in their order, and of v last.

        With w' = p v + q g and v' = r v + s g the stages' slopes of v are K = r (v + h A K) + s g.
        As one solve and products, into which the compiler fuses nothing, they are not computed
        again for each of the arrays that read them.
        """
        tableau, unit = self.tableau, jnp.eye(len(self.tableau.c) + 2, dtype=h.dtype)
        A = np.zeros((len(unit) - 1,) * 2)
        for i, row in enumerate(tableau.a_lower):
            A[i + 1, : len(row)] = row
        still = self.flow.init(jnp.zeros_like(h))
        force, kick = unit[:-1], jnp.ones_like(unit[:-1, :1]) * unit[-1:]

        def summed(weights: Any, rates: Array) -> Array:
            return h * jnp.matmul(jnp.asarray(weights, h.dtype), rates, precision="highest")

        def slopes(momentum: PyTree, gradient: Any) -> State:
            along = lambda t: self.flow.vector_field(t, still._replace(v=momentum), gradient)
            by = jax.vmap(along)(t0 + h * np.array([0.0, *tableau.c]))
            return jax.tree.map(lambda rate: rate[:, None], by)

        by_force = slopes(still.v, jnp.ones_like(h))
        rates = jax.tree.map(lambda rate: rate * force, by_force)
        if still.v is not None:
            by_v = slopes(jnp.ones_like(h), jnp.zeros_like(h))
            matrix, sides = unit[:-1, :-1] - h * by_v.v * A, rates.v + by_v.v * kick
            v = jax.scipy.linalg.solve_triangular(matrix, sides, lower=True, unit_diagonal=True)
            rates = State(rates.w + by_v.w * (kick + summed(A, v)), v)
        rows = A[1:], tableau.b_sol, tableau.b_error
        stages, end, error = (jax.tree.map(partial(summed, row), rates) for row in rows)
        return stages, end, error

"""Any adaptive explicit solver of diffrax in the `solver` slot.

Two thin wrappers make diffrax fold observers over accepted steps and measure errors in function
space: `_Watched` keeps the observers in the solver's state (which diffrax rolls back on rejected
steps) and turns the error estimate into an error of f; `_Remembering` keeps the step size that was
wanted before a saved time clipped it.
"""

from __future__ import annotations

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ...errors import InputError, described
from ...loops import CHECKPOINTS, both_modes
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

    def start(
        self,
        problem: AbstractProblem,
        flow: Any,
        state: State,
        watcher: Watcher,
        numerics: Numerics,
        dtype: Any,
    ) -> Progress:
        t = jnp.zeros((), dtype)
        scale = jax.lax.stop_gradient(problem.lambda_max(state.w))
        dt = _rounded(0.1 / flow.fastest_rate(scale)).astype(dtype)
        solver, controller = self._tools(problem, watcher, numerics, flow, scale, dt)
        terms = _terms(problem, flow)
        inner = solver.init(terms, t, t + dt, state, None)
        _, memory = controller.wrap(1).init(
            terms, t, t + dt, state, None, None, solver.func, self.method.order(terms)
        )
        zero = jnp.zeros((), jnp.int32)
        return Progress(
            t, state, (scale, _arrays(inner), _arrays(memory)), inner[1], zero, zero, zero
        )

    def advance(
        self,
        problem: AbstractProblem,
        flow: Any,
        progress: Progress,
        t1: Float[Array, ""],
        watcher: Watcher,
        numerics: Numerics,
    ) -> Progress:
        # The adjoint differs, the solution does not: see `loops`.
        args = self, problem, flow, progress, t1, watcher, numerics
        return both_modes(_advance, _advance_reversibly, *args)

    def _carry_on(
        self,
        adjoint: diffrax.AbstractAdjoint,
        max_steps: int,
        problem: AbstractProblem,
        flow: Any,
        progress: Progress,
        t1: Float[Array, ""],
        watcher: Watcher,
        numerics: Numerics,
    ) -> Progress:
        """Towards t1, with so many steps at most."""
        scale, inner, memory = progress.memory
        solver, controller = self._tools(problem, watcher, numerics, flow, scale, memory[1])
        # With the state of solver and controller handed on, so that steps are those of one long
        # solve that hits the saved times.
        solution = diffrax.diffeqsolve(
            _terms(problem, flow),
            solver,
            progress.t,
            t1,
            None,  # which `_Remembering` knows; a number is checked by a callback, never cached
            progress.state,
            saveat=diffrax.SaveAt(t1=True, solver_state=True, controller_state=True),
            stepsize_controller=controller,
            solver_state=inner,
            controller_state=memory,
            max_steps=max_steps,
            adjoint=adjoint,
            throw=False,
        )
        # Mean step times fastest rate, in MLPs of width 32 and depth 3: 0.8 at tol = 1e-5 and 0.15
        # at 1e-9 where smooth, 0.13 across kinks with momentum, 0.004 at 1e-5 where neurons slide
        # along kinks, which makes a step's error one of first order.
        length = (solution.ts[0] - progress.t) / jnp.maximum(solution.stats["num_steps"], 1)
        slow = jnp.minimum(8 * jnp.sqrt(numerics.tol), 0.05)
        creeps = length * flow.fastest_rate(scale) < slow
        verdict = jnp.where(
            solution.result == diffrax.RESULTS.successful,
            SUCCESS,
            jnp.where(
                solution.result == diffrax.RESULTS.max_steps_reached,
                jnp.where(creeps, CREEPING, MAX_STEPS),
                STEP_UNDERFLOW,
            ),
        )
        state = jax.tree.map(lambda leaf: leaf[0], solution.ys)
        return Progress(
            solution.ts[0],
            state,
            (scale, _arrays(solution.solver_state), _arrays(solution.controller_state)),
            solution.solver_state[1],
            progress.accepted + solution.stats["num_accepted_steps"],
            progress.rejected + solution.stats["num_rejected_steps"],
            jnp.maximum(progress.verdict, verdict).astype(jnp.int32),
        )

    def _tools(
        self,
        problem: Any,
        watcher: Watcher,
        numerics: Numerics,
        flow: Any,
        scale: Array,
        first: Array,
    ) -> tuple[_Watched, _Remembering]:
        dtmin = jnp.finfo(scale.dtype).eps / flow.fastest_rate(
            scale
        )  # reached only by a run that has become NaN
        # `_Watched` hands on one number, in units of the tolerance: |error| against 1. The integral
        # and proportional parts are chosen, not measured.
        controller = diffrax.PIDController(
            rtol=0.0, atol=1.0, norm=jnp.abs, pcoeff=0.2, icoeff=0.6, dtmin=dtmin, force_dtmin=False
        )
        method: Any = self.method
        own = type(method).step is not diffrax.AbstractERK.step  # a user's own way of taking one
        plain = isinstance(method, diffrax.AbstractERK) and method.scan_kind is None and not own
        if plain and flow.linear:
            method = _Explicit(method, problem, flow)
        return _Watched(method, problem, flow, watcher, numerics.tol, scale), _Remembering(
            controller, first
        )


def _advance(
    solver: RungeKutta, problem: Any, flow: Any, progress: Progress, t1: Any, *rest: Any
) -> Progress:
    """Progress at t1, or as far as `max_steps` go, or as far as it takes to see that they will not
    do."""
    _, numerics = rest
    looks = -(-numerics.max_steps // LOOK)
    steps = -(-numerics.max_steps // looks)

    def on(pair: tuple[Array, Progress]) -> tuple[Array, Progress]:
        look, before = pair
        # A limit that was reached is none as long as there are more steps.
        before = before._replace(verdict=jnp.zeros_like(before.verdict))
        adjoint = diffrax.ForwardMode()
        after = solver._carry_on(adjoint, steps, problem, flow, before, t1, *rest)
        needed = (t1 - after.t) / (after.t - before.t) * steps
        hopeless = needed > HOPELESS * numerics.max_steps
        return jnp.where(hopeless, looks, look + 1), after

    def unfinished(pair: tuple[Array, Progress]) -> Array:
        look, p = pair
        limited = (p.verdict == MAX_STEPS) | (p.verdict == CREEPING)
        return (look == 0) | (limited & (look < looks))

    end = jax.lax.while_loop(unfinished, on, (jnp.zeros((), jnp.int32), progress))[1]
    return end._replace(verdict=jnp.maximum(progress.verdict, end.verdict))


def _advance_reversibly(solver: RungeKutta, *args: Any) -> Progress:
    """The same, but for the looks ahead."""
    numerics = args[5]
    adjoint = diffrax.RecursiveCheckpointAdjoint(checkpoints=CHECKPOINTS)
    return solver._carry_on(adjoint, numerics.max_steps, *args)


def _arrays(tree: Any) -> Any:
    """Diffrax starts some of its state as Python scalars; a scan needs arrays of one dtype
    throughout."""
    return jax.tree.map(jnp.asarray, tree)


def _rounded(step: Any) -> Any:
    """A step size to eight bits, so that runs which differ by round-off take the same steps: kinks
    amplify what differs.

    The thresholds lie off the powers of two and simple fractions at which controllers like to stop.
    """
    mantissa, exponent = jnp.frexp(step)
    return jnp.ldexp(jnp.floor(mantissa * 256 + 0.37) / 256, exponent)


def _terms(problem: Any, flow: Any) -> diffrax.ODETerm:
    return diffrax.ODETerm(
        lambda t, state, args: flow.vector_field(t, state, problem.gradient(state.w))
    )


class _Explicit(diffrax.AbstractAdaptiveSolver):
    """An explicit Runge-Kutta method for flows that are linear in (w, v, gradient).

    Every stage, the end and the error are sums of w and v at the start and of the stages'
    gradients, with weights that the flow itself gives, solved for rows of numbers before the first
    gradient is taken. So a stage keeps one array and not two, and writes no momentum; diffrax's own
    stages sum the slopes of both, also those to come, which took longer than the gradients. Written
    out one after another the stages copy nothing; they compile a fifth longer than in a loop.
    """

    method: diffrax.AbstractERK
    problem: Any
    flow: Any

    term_structure = diffrax.ODETerm
    interpolation_cls = diffrax.LocalLinearInterpolation

    def order(self, terms: Any) -> int | None:
        return self.method.order(terms)

    def error_order(self, terms: Any) -> Any:
        return self.method.error_order(terms)

    def func(self, terms: Any, t0: Any, y0: Any, args: Any) -> Any:
        return terms.vf(t0, y0, args)

    def init(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> PyTree:
        """The first gradient, which the last one of a step is where the method says so."""
        tableau: Any = self.method.tableau
        return self.problem.gradient(y0.w) if tableau.fsal else None

    def step(
        self,
        terms: Any,
        t0: Any,
        t1: Any,
        y0: Any,
        args: Any,
        solver_state: Any,
        made_jump: Any,
    ) -> tuple[Any, Any, Any, Any, Any]:
        tableau: Any = self.method.tableau
        gradients = [self.problem.gradient(y0.w) if solver_state is None else solver_state]

        def summed(row: Array, known: int) -> PyTree:
            """The row's sum of so many gradients and of v."""
            weights, parts = [*row[:known]], gradients[:known]
            if y0.v is not None:
                weights, parts = [*weights, row[-1]], [*parts, y0.v]
            along = lambda *k: sum(a.astype(x.dtype) * x for a, x in zip(weights, k, strict=True))
            return jax.tree.map(along, *parts)

        stages, end, error = self._weights(t0, terms.contr(t0, t1))
        w = y0.w
        for i, row in enumerate(stages.w):
            # where v = dw/dt, w has not felt the last gradient yet
            w = jax.tree.map(jnp.add, y0.w, summed(row, i if self.flow.inertial else i + 1))
            gradients.append(self.problem.gradient(w))
        total = lambda rows: jax.tree.map(lambda row: summed(row, len(gradients)), rows)
        y1 = jax.tree.map(jnp.add, y0, total(end))
        y1 = y1._replace(w=w) if tableau.ssal else y1
        last = gradients[-1] if tableau.fsal else None
        return y1, total(error), {"y0": y0, "y1": y1}, last, diffrax.RESULTS.successful

    def _weights(self, t0: Array, h: Array) -> tuple[State, State, State]:
        """What each stage after the first, the end and the error add to w and v at the start: rows
        of weights of the gradients, in their order, and of v last."""
        tableau: Any = self.method.tableau
        unit = jnp.eye(len(tableau.c) + 2, dtype=h.dtype)
        still = self.flow.init(jnp.zeros_like(unit[0]))
        changes, slopes = [still], list[State]()

        def summed(weights: Any) -> State:
            along = lambda *k: h * sum(a * x for a, x in zip(weights, k, strict=True))
            return jax.tree.map(along, *slopes)

        for i, c in enumerate([0.0, *tableau.c]):
            if i:
                changes.append(summed(tableau.a_lower[i - 1]))
            at = changes[i] if still.v is None else changes[i]._replace(v=changes[i].v + unit[-1])
            slopes.append(self.flow.vector_field(t0 + c * h, at, unit[i]))
        stages = jax.tree.map(lambda *rows: jnp.stack(rows), *changes[1:])
        return stages, summed(tableau.b_sol), summed(tableau.b_error)


class _Watched(diffrax.AbstractAdaptiveSolver):
    """`solver` with state (its own, the observers'), and one number for the error, in units of the
    tolerance."""

    solver: diffrax.AbstractSolver
    problem: Any
    flow: Any
    watcher: Any
    tol: Any
    lambda_max: Any

    @property
    def term_structure(self) -> Any:
        return self.solver.term_structure

    @property
    def interpolation_cls(self) -> Any:  # type: ignore[override]
        return self.solver.interpolation_cls

    def order(self, terms: Any) -> int | None:
        return self.solver.order(terms)

    def error_order(self, terms: Any) -> Any:
        return self.solver.error_order(terms)

    def func(self, terms: Any, t0: Any, y0: Any, args: Any) -> Any:
        return self.solver.func(terms, t0, y0, args)

    def init(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> tuple[Any, PyTree]:
        return self.solver.init(terms, t0, t1, y0, args), self.watcher.init(self.problem, t0, y0)

    def step(
        self,
        terms: Any,
        t0: Any,
        t1: Any,
        y0: Any,
        args: Any,
        solver_state: Any,
        made_jump: Any,
    ) -> tuple[Any, Any, Any, Any, Any]:
        inner, watched = solver_state
        y1, error, dense_info, inner, result = self.solver.step(
            terms, t0, t1, y0, args, inner, made_jump
        )
        y1 = passing(self.problem, self.flow, t0, y0, t1, y1)
        watched = self.watcher.update(self.problem, watched, t0, y0, t1, y1)
        floor = roundoff(self.tol, self.lambda_max.dtype)
        return (
            y1,
            self.problem.relative_error(y1, error, self.lambda_max, floor) / self.tol,
            dense_info,
            (inner, watched),
            result,
        )


class _Remembering(diffrax.AbstractStepSizeController):
    """`controller` with state (its own, the step it wants next), so that a clipped last step does
    not shrink the next one; `first`: what it wants at the start."""

    controller: diffrax.AbstractStepSizeController
    first: Array

    def wrap(self, direction: Any) -> _Remembering:
        return eqx.tree_at(lambda c: c.controller, self, self.controller.wrap(direction))

    def init(
        self,
        terms: Any,
        t0: Any,
        t1: Any,
        y0: Any,
        dt0: Any,
        args: Any,
        func: Any,
        error_order: Any,
    ) -> tuple[Any, Any]:
        _, state = self.controller.init(terms, t0, t1, y0, self.first, args, func, error_order)
        return t0 + self.first, (state, self.first)

    def adapt_step_size(
        self,
        t0: Any,
        t1: Any,
        y0: Any,
        y1_candidate: Any,
        args: Any,
        y_error: Any,
        error_order: Any,
        controller_state: Any,
    ) -> tuple[Any, Any, Any, Any, Any, Any]:
        state, wanted = controller_state
        keep, next_t0, next_t1, jump, state, result = self.controller.adapt_step_size(
            t0,
            t1,
            jnp.zeros_like(y_error),
            jnp.zeros_like(y_error),
            args,
            y_error,
            error_order,
            state,
        )
        # As in the lazy solver: a step that a saved time cut short does not shrink the next one.
        proposed = _rounded(next_t1 - next_t0)
        clipped = keep & (t1 - t0 < 0.99 * wanted)
        wanted = jnp.where(clipped, jnp.maximum(wanted, proposed), proposed)
        return keep, next_t0, next_t0 + wanted, jump, (state, wanted), result

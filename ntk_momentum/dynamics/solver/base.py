"""What fills the `solver` slot of `simulate`: something that carries a flow from one saved time to
the next."""

from __future__ import annotations

import abc
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from ...errors import InputError
from ...method import AbstractFlow, State
from ...numerics import Numerics
from ..objective import AbstractProblem

SUCCESS, MAX_STEPS, STEP_UNDERFLOW, NOT_FINITE, NOT_REFINED, NO_START, CREEPING = range(7)

REASONS = {
    SUCCESS: "success",
    MAX_STEPS: (
        "the maximum number of steps between two saved times was reached, or would be by far; "
        "raise Numerics.max_steps, or tol, or save more often"
    ),
    STEP_UNDERFLOW: (
        "the step size became smaller than the spacing of time's floating-point numbers; "
        "raise tol or use float64"
    ),
    NOT_FINITE: "the run left the finite numbers; lower the step size or check the model's scale",
    NO_START: "the gradient is not finite at the start; check the model there",
    CREEPING: (
        "the maximum number of steps between two saved times was reached, or would be by far, with "
        "steps far shorter than the right side asks for: neurons slide along kinks, where explicit "
        "steps jitter; loosen Numerics.tol to 1e-3, take a smooth activation, nm.train, or "
        "nm.LazyExponential() for a two-layer net"
    ),
    NOT_REFINED: (
        "the run succeeded, but the error asked for with refine= was not reached; see its errors"
    ),
}


@runtime_checkable
class Watcher(Protocol):
    """Folds over accepted steps, seeing both ends of each."""

    def init(self, problem: Any, t: Array, state: State) -> PyTree: ...

    def update(
        self, problem: Any, watched: PyTree, t0: Array, before: State, t1: Array, after: State
    ) -> PyTree: ...


class Progress(NamedTuple):
    """How far a solve has come. `memory` is the solver's own, `watched` the observers'."""

    t: Float[Array, ""]
    state: State
    memory: PyTree
    watched: PyTree
    accepted: Int[Array, ""]
    rejected: Int[Array, ""]
    verdict: Int[Array, ""]


class AbstractIntegrator(eqx.Module):
    """What carries a flow from one saved time to the next: a solver of one's own for (2.2), (3.2)
    and (4.2).

    It defines `advance`, and `start` where it remembers something. The right side at (t, state) is
    `flow.vector_field(t, state, problem.gradient(state.w))`. Steps end exactly at saved times, each
    accepted one is shown to the watcher, and failure is a verdict, not an exception.

    Examples:
        Euler's method with a fixed number of steps between saved times; `docs/extending.md` has one
        of fourth order.

        >>> class Euler(nm.AbstractIntegrator):
        ...     steps: int
        ...     def advance(self, problem, flow, progress, t1, watcher, numerics):
        ...         h = (t1 - progress.t) / self.steps
        ...         def step(_, p):
        ...             rate = flow.vector_field(p.t, p.state, problem.gradient(p.state.w))
        ...             after = jax.tree.map(lambda y, k: y + h * k, p.state, rate)
        ...             watched = watcher.update(problem, p.watched, p.t, p.state, p.t + h, after)
        ...             return p._replace(
        ...                 t=p.t + h, state=after, watched=watched, accepted=p.accepted + 1)
        ...         return jax.lax.fori_loop(0, self.steps, step, progress)._replace(t=t1)
        >>> run = nm.simulate_error(np.eye(1), [1.0], nm.GradientFlow(), [1.0], solver=Euler(10))
        >>> round(float(run.residual[0, 0]), 6), 0.9**10 > 0.348678
        (0.348678, True)
    """

    forms_kernel: ClassVar[bool] = False
    """Whether every step holds H and its eigenvectors, which counts in memory."""

    pauses: ClassVar[bool] = False
    """Whether `advance`, stopped after `Numerics.max_steps` steps and called again with the verdict
    put back to 0, goes on as though it had not stopped: see `ensembles.lanes`."""

    def blind_to_coordinates(self, method: Any) -> bool:
        """Whether it moves weights along J^T u alone, so that preactivations may stand for them,
        see `coordinates`."""
        return False

    def why_not(self, problem: AbstractProblem, method: Any, w: PyTree) -> str | None:
        """Why it cannot solve this, or None where it can; found before a run starts."""
        return None

    def start(
        self,
        problem: AbstractProblem,
        flow: Any,
        state: State,
        watcher: Watcher,
        numerics: Numerics,
        dtype: Any,
    ) -> Progress:
        """Progress at t = 0."""
        memory = self.first_memory(problem, flow, state, numerics, dtype)
        t, none = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
        return Progress(t, state, memory, watcher.init(problem, t, state), none, none, none)

    def first_memory(
        self, problem: Any, flow: Any, state: State, numerics: Numerics, dtype: Any
    ) -> PyTree:
        """What the solver remembers at t = 0; nothing unless it says so."""
        return ()

    @abc.abstractmethod
    def advance(
        self,
        problem: AbstractProblem,
        flow: AbstractFlow,
        progress: Progress,
        t1: Float[Array, ""],
        watcher: Watcher,
        numerics: Numerics,
    ) -> Progress:
        """Progress at t1 >= progress.t."""

    def evaluations(self, flow: AbstractFlow) -> int:
        """Evaluations of the right side, one X W^T and one transposed product each, per attempted
        step."""
        raise InputError(
            f"the evaluations of {type(self).__name__} are not known; define its evaluations(flow)."
        )

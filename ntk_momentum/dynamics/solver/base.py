"""What fills the `solver` slot of `simulate`: something that carries a flow from one saved time to
the next."""

from __future__ import annotations

import abc
from typing import Any, NamedTuple, Protocol, runtime_checkable

import equinox as eqx
from jaxtyping import Array, Float, Int, PyTree

from ...method import AbstractFlow, State
from ...numerics import Numerics
from ..objective import AbstractProblem

SUCCESS, MAX_STEPS, STEP_UNDERFLOW, NOT_FINITE, NOT_REFINED, NO_START = 0, 1, 2, 3, 4, 5

REASONS = {
    SUCCESS: "success",
    MAX_STEPS: (
        "the maximum number of steps between two saved times was reached; raise "
        "Numerics.max_steps, or tol, or save more often"
    ),
    STEP_UNDERFLOW: (
        "the step size became smaller than the spacing of time's floating-point numbers; "
        "raise tol or use float64"
    ),
    NOT_FINITE: "the run left the finite numbers; lower the step size or check the model's scale",
    NO_START: "the gradient is not finite at the start; check the model there",
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
    """Advances a flow on a problem. Steps end exactly at saved times; failure is a verdict, not an
    exception.

    Subclasses implement `start`, `advance` and `evaluations`.
    """

    def blind_to_coordinates(self, method: Any) -> bool:
        """Whether it moves weights along J^T u alone, so that preactivations may stand for them,
        see `coordinates`."""
        return False

    @abc.abstractmethod
    def start(
        self,
        problem: AbstractProblem,
        flow: AbstractFlow,
        state: State,
        watcher: Watcher,
        numerics: Numerics,
        dtype: Any,
    ) -> Progress:
        """Progress at t = 0."""

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

    @abc.abstractmethod
    def evaluations(self, flow: AbstractFlow) -> int:
        """Evaluations of the right side, one X W^T and one transposed product each, per attempted
        step."""

"""Methods whose step size follows a schedule, whose weights decay, or that another package has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from ..errors import InputError, check_positive, concrete
from .base import AbstractOptimizer, Number
from .friction import as_module

StepSize = Number | Callable[[Array], Any]
"""A step size, or a function of the number of steps taken."""


class ScheduledState(NamedTuple):
    """steps: taken so far, k; inner: of the method."""

    steps: Int[Array, ""]
    inner: PyTree


class Scheduled(AbstractOptimizer):
    """A method of unit step whose gradient is multiplied by eta_k = schedule(k), or, `afterwards`,
    its steps: in (3.1) the velocity then forgets the step sizes that it was made with."""

    method: AbstractOptimizer
    schedule: Callable = eqx.field(converter=as_module)
    afterwards: bool = eqx.field(static=True, default=False)
    name: ClassVar[str] = "scheduled"

    def __check_init__(self) -> None:
        try:
            first = self.schedule(jnp.zeros((), jnp.int32))
        except Exception as error:  # the user's code: anything may be raised
            raise InputError(
                "a schedule must be a function of the number of steps taken, built from jax.numpy: "
                f"schedule(0) gave {type(error).__name__}, {error}."
            ) from error
        check_positive("the step size schedule(0)", first, strict=False)
        if np.shape(first) != ():
            raise InputError(
                f"a schedule must return one number, got one of shape {np.shape(first)}."
            )

    @property
    def linear(self) -> bool:
        """Whether the method's steps are."""
        return self.method.linear

    def init(self, params: PyTree) -> ScheduledState:
        """No step taken."""
        return ScheduledState(jnp.zeros((), jnp.int32), self.method.init(params))

    def update(
        self, updates: PyTree, state: ScheduledState, params: PyTree | None = None
    ) -> tuple[PyTree, ScheduledState]:
        """(w_{k+1} - w_k, new state) from the gradient at w_k."""
        eta = self.schedule(state.steps)
        times = lambda tree: jax.tree.map(lambda leaf: (eta * leaf).astype(leaf.dtype), tree)
        pushed = updates if self.afterwards else times(updates)
        step, inner = self.method.update(pushed, state.inner, params)
        return times(step) if self.afterwards else step, ScheduledState(state.steps + 1, inner)


class Decayed(AbstractOptimizer):
    """A method on the gradient of L + weight_decay |w|^2 / 2."""

    method: AbstractOptimizer
    weight_decay: Number
    name: ClassVar[str] = "decayed"

    def __check_init__(self) -> None:
        check_positive("weight_decay", self.weight_decay, strict=False)

    @property
    def linear(self) -> bool:
        """It uses w."""
        return False

    def init(self, params: PyTree) -> PyTree:
        """The method's."""
        return self.method.init(params)

    def update(
        self, updates: PyTree, state: PyTree, params: PyTree | None = None
    ) -> tuple[PyTree, PyTree]:
        """(w_{k+1} - w_k, new state) from the gradient at w_k."""
        if params is None:
            raise InputError("weight decay needs the weights, update(gradient, state, weights).")
        pushed = jax.tree.map(
            lambda g, w: (g + self.weight_decay * w).astype(g.dtype), updates, params
        )
        return self.method.update(pushed, state, params)


def adapted(
    method: Callable[[Any], AbstractOptimizer],
    eta: StepSize,
    weight_decay: Number,
    *,
    afterwards: bool = False,
) -> AbstractOptimizer:
    """A method of a step size, or of a schedule of it, on weights that decay, or do not."""
    made = Scheduled(method(1.0), eta, afterwards) if callable(eta) else method(eta)
    known = concrete(weight_decay)
    plain = known is not None and known.ndim == 0 and known == 0
    return made if plain else Decayed(made, weight_decay)


class Foreign(AbstractOptimizer):
    """An optimizer of another package, such as an `optax.chain`, under a name. Its numbers lie in
    its functions, so each one is a kind of its own, with a program of its own."""

    begin: Callable = eqx.field(static=True)
    step: Callable = eqx.field(static=True)
    label: str = eqx.field(static=True)

    @property
    def name(self) -> str:  # type: ignore[override]
        """What it is called in results."""
        return self.label

    @property
    def linear(self) -> bool:
        """Nobody says so."""
        return False

    @property
    def init(self) -> Callable:  # type: ignore[override]
        """The other package's."""
        return self.begin

    @property
    def update(self) -> Callable:  # type: ignore[override]
        """The other package's, with a signature that says what else it takes."""
        return self.step


def as_optimizer(method: Any, label: str) -> Any:
    """A transformation of optax's, or of anybody's, as an optimizer of this package; anything else
    as it is."""
    foreign = hasattr(method, "init") and hasattr(method, "update")
    if not foreign or isinstance(method, eqx.Module | type):
        return method
    return Foreign(method.init, method.update, label)


def innermost(method: Any) -> Any:
    """What is adapted, or the method itself."""
    while isinstance(method, Scheduled | Decayed):
        method = method.method
    return method

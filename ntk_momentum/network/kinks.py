"""Whether a function has kinks in its argument, read off its traced program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core
from jaxtyping import PyTree

KINKED = {
    "abs", "sign", "max", "min", "clamp", "floor", "ceil", "round", "rem", "sort", "top_k",
    "reduce_window_max", "reduce_window_min", "select_and_gather_add", "select_and_scatter_add",
    "argmax", "argmin", "reduce_max", "reduce_min", "cummax", "cummin",
}  # fmt: skip
"""Operations that are not differentiable everywhere, by JAX's names. Comparisons are not among
them: what they decide is, see `select_n` and `cond`."""

SMOOTH = {"logaddexp", "softplus"}
"""Functions of JAX with a derivative of their own that are smooth though their programs take
maxima, to keep from overflow."""


def smooth(f: Callable[[PyTree], Any], w: PyTree) -> bool:
    """Whether f is smooth in w, as far as its program tells: no maximum, absolute value or choice
    by a comparison of what depends on w.

    A program that hides a kink (a callback) passes, and one that is smooth by a subtle cancellation
    does not: what follows from the answer must be right either way.
    """
    program = jax.make_jaxpr(f)(w)
    return _smooth(program.jaxpr, [True] * len(program.jaxpr.invars))[0]


def _smooth(jaxpr: Any, moving: list[bool]) -> tuple[bool, list[bool]]:
    """(whether all is smooth, which outputs depend on the inputs that move)."""
    moves = {v for v, m in zip(jaxpr.invars, moving, strict=True) if m}
    counted = _counted(jaxpr)
    for eqn in jaxpr.eqns:
        inputs = [not isinstance(v, core.Literal) and v in moves for v in eqn.invars]
        if not any(inputs) or not counted.intersection(eqn.outvars):
            continue
        name = eqn.primitive.name
        if name in KINKED or (name in ("select_n", "cond", "while") and inputs[0]):
            return False, []
        named = str(eqn.params.get("name", ""))
        if named not in SMOOTH:
            for inner in _programs(eqn):
                seen = (
                    inputs
                    if len(inner.invars) == len(inputs)
                    else [True] * len(inner.invars)  # loops and branches: all of it
                )
                if not _smooth(inner, seen)[0]:
                    return False, []
        moves.update(eqn.outvars)
    return True, [not isinstance(v, core.Literal) and v in moves for v in jaxpr.outvars]


def _counted(jaxpr: Any) -> set[Any]:
    """What reaches the outputs with its derivative: not past a `stop_gradient`, as the maximum in a
    softmax."""
    counted = {v for v in jaxpr.outvars if not isinstance(v, core.Literal)}
    for eqn in reversed(jaxpr.eqns):
        if counted.intersection(eqn.outvars) and eqn.primitive.name != "stop_gradient":
            counted.update(v for v in eqn.invars if not isinstance(v, core.Literal))
    return counted


def _programs(eqn: Any) -> list[Any]:
    """The programs inside an operation."""
    found = []
    for param in eqn.params.values():
        for inner in param if isinstance(param, tuple | list) else (param,):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                found.append(inner)
    return found

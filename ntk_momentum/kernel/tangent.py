"""J v of any model, forward mode or not: a model with a `jax.custom_vjp` inside has a pullback
alone, u -> J^T u, which is linear, so J v is its transpose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..errors import InputError, brief


def linear_maps(
    f: Callable[[PyTree], Array], w: PyTree
) -> tuple[Array, Callable[[PyTree], Array], Callable[[Array], PyTree]]:
    """(f(w), v -> J v, u -> J^T u), f evaluated once."""
    if _has_forward_mode(f, w):
        value, push = jax.linearize(f, w)
        return value, push, lambda u: jax.linear_transpose(push, w)(u)[0]
    value, back = jax.vjp(f, w)
    pull = lambda u: back(u)[0]
    return value, _transpose(pull, value), pull


def jvp(f: Callable[[PyTree], Array], w: PyTree, v: PyTree) -> tuple[Array, Array]:
    """(f(w), J v)."""
    if _has_forward_mode(f, w):
        return jax.jvp(f, (w,), (v,))
    value, push, _ = linear_maps(f, w)
    return value, push(v)


def _has_forward_mode(f: Callable[[PyTree], Array], w: PyTree) -> bool:
    """Whether f's tangents pass no `jax.custom_vjp`. JAX traces such a tangent and refuses it when
    it is compiled, so it is looked for in the traced program."""
    program = jax.make_jaxpr(lambda w: jax.jvp(f, (w,), (w,))[1])(w)
    return all(eqn.primitive.name != "custom_lin" for eqn in _equations(program.jaxpr))


def _equations(jaxpr: Any) -> Iterator[Any]:
    """All operations of a program, those of the programs inside it too."""
    for eqn in jaxpr.eqns:
        yield eqn
        for param in eqn.params.values():
            for inner in param if isinstance(param, tuple | list) else (param,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _equations(inner)


def _transpose(pull: Callable[[Array], PyTree], value: Any) -> Callable[[PyTree], Array]:
    """v -> J v from u -> J^T u."""

    def push(v: PyTree) -> Array:
        try:
            return jax.linear_transpose(pull, jnp.zeros_like(value))(v)[0]
        except Exception as error:  # JAX has many words for what is not linear
            raise InputError(
                "the backward rule of a jax.custom_vjp inside the model is not linear in its "
                f"cotangent ({brief(error)}), so the model has no Jacobian here; give it a rule "
                "that is, or a jax.custom_jvp."
            ) from error

    return push

"""A kernel to be computed: what is asked for, checked, and the model taken apart into what is
trained and what is not."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..errors import InputError, brief, check_choice, check_real, check_whole
from ..memory import check_inputs
from ..network.checks import check_weights
from ..network.model import trainable_spec
from .plan import Method, Output, by_shape


class Problem(NamedTuple):
    """A kernel to be computed: the model taken apart once, since each time costs as much as a small
    kernel, checked inputs, and what is asked for."""

    leaves: tuple[Any, ...]
    tree: Any
    marks: tuple[bool, ...]
    x1: Any
    x2: Any
    output: Output
    scalar: bool
    k: int

    @property
    def trained(self) -> PyTree:
        return _part(self.leaves, self.tree, self.marks, True)

    @property
    def frozen(self) -> PyTree:
        return _part(self.leaves, self.tree, self.marks, False)

    def f(self, trained: PyTree, x: Array) -> Array:
        return flat_outputs(trained, self.frozen, x)


def _part(leaves: Sequence[Any], tree: Any, marks: Sequence[bool], trained: bool) -> PyTree:
    pairs = zip(leaves, marks, strict=True)
    return jax.tree.unflatten(tree, [leaf if mark is trained else None for leaf, mark in pairs])


def flat_outputs(trained: PyTree, frozen: PyTree, x: Array) -> Array:
    return jnp.ravel(eqx.combine(trained, frozen)(x))


def prepare(
    model: Any,
    x1: Any,
    x2: Any,
    trainable: PyTree,
    where: Callable | None,
    method: str,
    block_size: int | None,
    output: str,
    name: str = "x1",
) -> Problem:
    """Check everything and take the model apart. Raises `InputError`."""
    check_choice("method", method, ("auto", *get_args(Method)))
    check_choice("output", output, get_args(Output))
    if block_size is not None:
        check_whole("block_size", block_size, example=64)
    x1 = _inputs(name, x1)
    x2 = None if x2 is None else _inputs("x2", x2)
    if x2 is not None and x1.shape[1:] != x2.shape[1:]:
        raise InputError(
            f"x1 and x2 must hold inputs of one shape, got {x1.shape[1:]} and {x2.shape[1:]}; give "
            "one input per row."
        )
    leaves, tree = jax.tree.flatten(model)
    marks = _marks(model, leaves, tree, trainable, where)
    named = lambda: _part(leaves, tree, marks, True)
    check_weights([leaf for leaf, mark in zip(leaves, marks, strict=True) if mark], named)
    try:
        one = jax.ShapeDtypeStruct(x1.shape[1:], x1.dtype)
        value = by_shape(_value, leaves, tree, one)
    except InputError:
        raise
    except Exception as error:  # the user's code: anything may be raised
        raise InputError(
            f"the model must take one input of shape {x1.shape[1:]} and dtype {x1.dtype}, got "
            f"{type(error).__name__}, {brief(error)}; give inputs (n, ...), one per row, or a "
            "model of that size."
        ) from error
    if not isinstance(value, jax.ShapeDtypeStruct) or not jnp.issubdtype(value.dtype, jnp.floating):
        raise InputError(
            f"the model must return one real array, got {value}; wrap it in a function that does."
        )
    return Problem(
        *(tuple(leaves), tree, marks, x1, x2),
        *(cast(Output, output), value.shape == (), value.size),
    )


class _Alike:
    """A model that equals all of its structure, types and switches: numbers and words, such as
    whether dropout is in inference mode."""

    def __init__(self, model: Any, leaves: list[Any], tree: Any) -> None:
        self.model = model
        self.key = (
            tree,
            tuple((type(leaf), getattr(leaf, "dtype", None)) for leaf in leaves),
            tuple(leaf for leaf in leaves if isinstance(leaf, bool | int | float | str)),
        )

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Alike) and self.key == other.key


def _marks(
    model: Any, leaves: list[Any], tree: Any, trainable: PyTree, where: Callable | None
) -> tuple[bool, ...]:
    """Which leaves are trained; of parts with a name found again for models of one kind."""
    alike = _Alike(model, leaves, tree)
    if where is None and (trainable is None or isinstance(trainable, str)):
        try:
            return _named(alike, trainable)
        except TypeError as error:
            if "unhashable" not in str(error):
                raise
        finally:
            alike.model = None  # what is remembered keeps no weights
    return _spread_over(model, trainable_spec(model, trainable, where))


@functools.lru_cache(maxsize=256)
def _named(alike: _Alike, trainable: str | None) -> tuple[bool, ...]:
    return _spread_over(alike.model, trainable_spec(alike.model, trainable))


def _spread_over(model: Any, spec: PyTree) -> tuple[bool, ...]:
    whole = jax.tree.map(lambda mark, part: jax.tree.map(lambda _: mark, part), spec, model)
    return tuple(map(bool, jax.tree.leaves(whole)))


def _inputs(name: str, x: Any) -> Any:
    if isinstance(x, jax.ShapeDtypeStruct):
        return x
    check_inputs(name, x)
    check_real(name, x)
    x = jnp.asarray(x)
    if x.ndim == 0 or x.shape[0] == 0 or jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise InputError(
            f"{name} must hold n >= 1 real inputs, got shape {x.shape} and dtype {x.dtype}; give "
            "one input per row."
        )
    return x


def _value(leaves: list[Any], tree: Any, x: jax.ShapeDtypeStruct) -> Any:
    """What the model returns for one input, by shape."""
    model = jax.tree.unflatten(tree, leaves)
    return eqx.filter_eval_shape(lambda model, x: model(x), model, x)

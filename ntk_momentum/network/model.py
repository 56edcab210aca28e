"""Any model: what it may say of itself, how it is evaluated, and which of its leaves are trained.

A model is a callable Equinox module of one input. Everything downstream asks it through `asked`,
which has an answer for every model: a better one where the model is an `AbstractModel` that gives
it, the general one elsewhere. Nothing asks for a model's class.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, Real, Shaped

from ..errors import InputError, brief, described, unknown_name
from .checks import check_model, check_weights, why_nothing


class AbstractModel(eqx.Module):
    """A model that knows more of itself than its value at one input.

    The methods here are the answers of any other model: `asked` calls them with it as `self`.
    """

    sums_neurons: ClassVar[bool] = False
    """Whether the model is scale * sum_r output_r activation(hidden_r . x), section 2, with fields
    of these names. Then its kernel is (2.8), J^T u a sum over neurons, `hidden` may be turned with
    the inputs, and kinks lie where hidden_r . x = 0."""

    @abc.abstractmethod
    def __call__(self, x: Any) -> Any:
        """f(x) of one input."""

    def outputs(self, X: Real[Array, "n ..."]) -> Float[Array, n * k]:
        """f(x_i) for every row of X: (n,) for a scalar model, (n, k) for k outputs."""
        return jax.vmap(self)(X)

    def as_inputs(self, X: Shaped[Array, "n ..."], dtype: Any) -> Shaped[Array, "n ..."]:
        """Inputs as the model takes them: whole numbers may be tokens and stay what they are."""
        return X.astype(dtype) if jnp.issubdtype(X.dtype, jnp.inexact) else X

    def default_trainable(self) -> PyTree:
        """What `trainable=None` means: every inexact array of a model that is not its state, such
        as the running statistics of BatchNorm."""
        state = lambda node: isinstance(node, eqx.nn.State | eqx.nn.StateIndex)
        mark = lambda node: (
            jax.tree.map(lambda _: False, node) if state(node) else eqx.is_inexact_array(node)
        )
        return jax.tree.map(mark, self, is_leaf=state)

    def layers(self) -> dict[str, PyTree]:
        """The trained parts that have a name, as filter specs; none in general."""
        return {}


def asked(model: Any) -> type[AbstractModel]:
    """Who answers for a model: its own class, or `AbstractModel` for what is none.

    asked(model).outputs(model, X), and so on.
    """
    return type(model) if isinstance(model, AbstractModel) else AbstractModel


def outputs(model: Any, X: Real[Array, "n ..."]) -> Float[Array, n * k]:
    """f(x_i) for every row of X: (n,) for a scalar model, (n, k) for k outputs."""
    return asked(model).outputs(model, X)


def cast(model: Any, dtype: Any) -> Any:
    """The model with its inexact arrays in one precision. Raises `InputError` for complex ones."""
    real = jax.tree.map(lambda leaf: not jnp.iscomplexobj(leaf), eqx.filter(model, eqx.is_array))
    if not all(jax.tree.leaves(real)):
        check_weights(eqx.filter(model, eqx.is_inexact_array))
    return jax.tree.map(
        lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf, model
    )


def trainable_spec(
    model: PyTree, trainable: PyTree = None, where: Callable | None = None
) -> PyTree:
    """A tree of booleans shaped like `model`: True where a leaf is trained.

    trainable: None (the hidden layer of a `TwoLayerNet`, every weight of another model),
    "hidden", "output" or "all" for the two-layer net, or a filter spec as in `eqx.partition`.
    where: a function of the model that returns the trained leaves or sub-modules, as in
    `eqx.tree_at`; it excludes `trainable`.
    """
    check_model(model)
    if where is not None:
        if trainable is not None:
            raise InputError("give either trainable= or where=, not both.")
        nothing = jax.tree.map(lambda _: False, model)
        try:
            chosen = where(model)
            marks = jax.tree.map(eqx.is_inexact_array, chosen)
            spec = eqx.tree_at(where, nothing, marks, is_leaf=lambda leaf: leaf is None)
        except (AttributeError, TypeError, ValueError, IndexError, KeyError) as error:
            raise InputError(
                "where must be a function that returns leaves or sub-modules of the model, got "
                f"{described(where)} ({brief(error)}); try where=lambda model: model.layers[0]."
            ) from error
    elif trainable is None:
        spec = asked(model).default_trainable(model)
    elif isinstance(trainable, str):
        layers = asked(model).layers(model)
        if not layers:
            raise InputError(
                f"trainable={trainable!r} names layers of a TwoLayerNet, but the model "
                f"is a {type(model).__name__}; "
                "pass a filter spec as in eqx.partition, or where=."
            )
        if trainable not in layers:
            raise unknown_name("trainable", trainable, layers)
        spec = layers[trainable]
    else:
        spec = _spread(trainable, model)
    if not any(jax.tree.leaves(spec)):
        raise InputError(why_nothing(model))
    check_weights(eqx.filter(model, spec))
    return spec


def _spread(filter_spec: Any, model: Any) -> PyTree:
    """A filter spec (a predicate, or a prefix tree of booleans and predicates) spread over the
    inexact arrays of `model`."""

    def mark(
        choice: Any, part: PyTree
    ) -> PyTree:  # tree.map hands whole sub-trees to it where the spec is a prefix
        if not callable(choice) and not isinstance(choice, bool | np.bool_):
            raise InputError(
                f"trainable must be a predicate or a tree of booleans, got {described(choice)}; "
                "try "
                "trainable=eqx.is_inexact_array, or where=."
            )
        chosen = choice if callable(choice) else lambda _: bool(choice)
        return jax.tree.map(lambda leaf: bool(chosen(leaf)) and eqx.is_inexact_array(leaf), part)

    try:
        return jax.tree.map(mark, filter_spec, model)
    except ValueError as error:
        raise InputError(
            "trainable must be a predicate or a tree of booleans shaped like the model, got "
            f"{described(filter_spec)} ({brief(error)}); try trainable=eqx.is_inexact_array, or "
            "where=."
        ) from error


def split(
    model: Any, trainable: Any = None, where: Callable | None = None
) -> tuple[PyTree, PyTree]:
    """(trained, frozen) parts of the model; `eqx.combine` puts them together again."""
    return eqx.partition(model, trainable_spec(model, trainable, where))

"""What a model must be for any of this: weights that can be seen, one real precision, one function
of one input. Every entry that takes a model comes through `trainable_spec`, which asks here."""

from __future__ import annotations

import functools
import types
import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PyTree

from ..errors import InputError, described


def check_model(model: Any) -> None:
    """Raise `InputError` for a model whose outputs on a sample would be random, or depend on the
    other samples: dropout or batch statistics in training mode."""
    if not callable(model):
        raise InputError(
            f"the model must be callable on one input, got {described(model)}; use an Equinox "
            "module, "
            "or "
            "of a tree of params and a function apply(params, x) make one by "
            "jax.tree_util.Partial(apply, params)."
        )
    training = lambda node: (
        getattr(node, "inference", None) is False and getattr(node, "p", None) != 0
    )
    for node in jax.tree.leaves(model, is_leaf=training):
        if training(node):
            raise InputError(
                f"the model must be in inference mode, got a {type(node).__name__} in training "
                "mode; "
                "pass eqx.nn.inference_mode(model)."
            )


def why_nothing(model: Any) -> str:
    """What to say of a model of which no weight is trained."""
    function = (types.FunctionType, types.MethodType, types.BuiltinFunctionType, functools.partial)
    if isinstance(model, type):
        return f"the model must be made, got the class {model.__name__}; call it."
    if isinstance(model, function) or type(model).__module__.startswith(("torch", "flax", "haiku")):
        return (
            f"the model must show its weights, got a {type(model).__name__}, inside which they "
            "cannot "
            "be seen, so nothing is trained; write apply(params, x) for one input and pass "
            "jax.tree_util.Partial(apply, params), "
            "which is also the way from flax, haiku, torch.func."
        )
    return (
        "trainable or where must select an array of floating numbers of the model, got none, so "
        "nothing is trained; leave both out to train all weights."
    )


def check_weights(w: PyTree, named: Callable[[], PyTree] | None = None) -> None:
    """Raise `InputError` unless trained weights are real numbers of one precision; warn where one
    array stands in two places. named: makes of leaves the tree that they stand in."""
    leaves = jax.tree.leaves(w)
    alike = {str(leaf.dtype) for leaf in leaves} in ({"float32"}, {"float64"})
    if alike and len({id(leaf) for leaf in leaves}) == len(leaves):
        return  # before names are made, which takes as long as a small kernel
    w = w if named is None else named()
    places: dict[int, list[str]] = {}
    dtypes: dict[str, str] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(w):
        name = jax.tree_util.keystr(path)
        dtypes.setdefault(str(leaf.dtype), name)
        if eqx.is_array(leaf) and not isinstance(leaf, jax.core.Tracer):
            places.setdefault(id(leaf), []).append(name)
    wrong = [dtype for dtype in dtypes if dtype not in ("float32", "float64")]
    if wrong or len(dtypes) > 1:
        found = ", ".join(f"{dtype} ({name})" for dtype, name in dtypes.items())
        remedy = (
            "keep real and imaginary parts as two arrays"
            if any(dtype.startswith("complex") for dtype in dtypes)
            else "cast the model, jax.tree.map(lambda a: a.astype(jnp.float32) if "
            "eqx.is_inexact_array(a) else a, model)"
        )
        raise InputError(
            "the model's trained weights must be float32 or float64, all alike, got "
            f"{found}; {remedy}."
        )
    for names in places.values():
        if len(names) > 1:
            warnings.warn(
                f"one array stands in {' and '.join(names)} and is trained as {len(names)}; "
                "eqx.nn.Shared ties weights.",
                RuntimeWarning,
                stacklevel=5,
            )

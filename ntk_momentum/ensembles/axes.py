"""The axes of an ensemble: what may be given for data, methods, widths, seeds, times and models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..data import Dataset
from ..dynamics.constant_kernel import check_times
from ..dynamics.solver import check_batch
from ..errors import (
    InputError,
    brief,
    check_flag,
    check_positive,
    check_real,
    check_whole,
    described,
)
from ..memory import check_fits
from ..method import (
    AbstractFlow,
    AbstractOptimizer,
    as_optimizer,
    check_linear,
    check_method_kind,
    innermost,
)
from ..network.checks import check_weights
from ..network.two_layer import check_elementwise, weights_of

FULL = "full"
"""The batch size of all samples, in words."""


def axes(
    methods: Any, widths: Any, seeds: Any, kind: type = AbstractFlow
) -> tuple[tuple[Any, ...], tuple[int, ...], tuple[int, ...]]:
    """The axes of an ensemble of flows, or of optimizers, as tuples. Raises `InputError` for what
    they cannot be."""
    runs, example = (
        ("flows", "nm.GradientFlow()")
        if kind is AbstractFlow
        else ("optimizers", "nm.heavy_ball(eta, beta)")
    )
    several = isinstance(methods, list | tuple) and type(methods) in (list, tuple)
    methods = tuple(methods) if several else (methods,)
    if kind is AbstractOptimizer:
        methods = tuple(as_optimizer(one, f"optimizer_{i}") for i, one in enumerate(methods))
    for method in methods:
        check_method_kind(runs, method, kind)
        check_linear(method)
    widths = _whole_numbers("widths", widths)
    count = np.ndim(seeds) == 0
    seeds = _whole_numbers("seeds", seeds)
    if count:
        check_whole("seeds", seeds[0])
        check_fits(seeds[0], f"{seeds[0]:.3g} seeds", "use fewer seeds", itemsize=64, host=True)
        seeds = tuple(range(seeds[0]))
    for name, values, some in (
        (runs, methods, example),
        ("widths", widths, 256),
        ("seeds", seeds, 0),
    ):
        if not values:
            raise InputError(f"{name} must hold at least one, got none; try [{some}].")
        if name != runs and len(set(values)) < len(values):
            raise InputError(
                f"{name} must be distinct, got the same twice in {list(values)}; try sorted(set("
                f"{name}))."
            )
    if max(widths) >= 2**62:  # beyond numpy's whole numbers
        check_fits(max(widths), f"{max(widths):.3g} neurons", "use fewer neurons")
    check_positive("widths", widths, example=256)
    return methods, widths, seeds


def _whole_numbers(name: str, values: Any) -> tuple[int, ...]:
    """One whole number, or several, as a tuple; numpy's and JAX's are numbers, strings are not."""
    several = isinstance(values, Iterable) and not isinstance(values, str)
    several = several and getattr(values, "ndim", 1) > 0  # an array of no axes is a number
    example = f"{name}=[256, 1024]"
    return tuple(
        check_whole(name, item, -(2**63), example=example)
        for item in (values if several else (values,))
    )


def batch_axis(sizes: Any, n: int, sampling: Any) -> tuple[int, ...]:
    """Batch sizes, one or several, as a tuple; "full" is the number of samples n. Raises
    `InputError`."""
    several = isinstance(sizes, Iterable) and not isinstance(sizes, str)
    items = tuple(sizes) if several else (sizes,)
    whole = lambda item: isinstance(item, str) and item == FULL
    found = tuple(check_batch(n if whole(item) else item, n, sampling) for item in items)
    if not found:
        raise InputError("batch_sizes is empty; an ensemble needs at least one.")
    if len(set(found)) < len(found):
        raise InputError(f"batch_sizes holds the same value twice: {list(items)}.")
    return found


def kinds(flows: Sequence[AbstractFlow | AbstractOptimizer]) -> list[tuple[int, ...]]:
    """Positions of flows, or optimizers, that differ in the values of their parameters only, in
    order of first appearance."""
    found: dict[Any, list[int]] = {}
    for index, flow in enumerate(flows):
        found.setdefault(
            (jax.tree.structure(flow), tuple(np.shape(leaf) for leaf in jax.tree.leaves(flow))), []
        ).append(index)
    return [tuple(members) for members in found.values()]


def flow_values(flow: AbstractFlow | AbstractOptimizer) -> dict[str, Any]:
    """A flow in plain values: its name and its parameters."""
    leaves = jax.tree_util.tree_leaves_with_path(flow)
    return {"name": innermost(flow).name} | {
        jax.tree_util.keystr(path).lstrip(".").replace("method.", ""): np.asarray(leaf).tolist()
        for path, leaf in leaves
    }


def data_sets(data: Any) -> tuple[tuple[Dataset, ...], bool]:
    sets = (
        (data,)
        if isinstance(data, Dataset)
        else tuple(data)
        if isinstance(data, Sequence)
        else (data,)
    )
    for one in sets:
        if not isinstance(one, Dataset):
            raise InputError(
                f"data must be a Dataset or a list of them, got {described(one)}; try "
                "nm.Dataset(X, y)."
            )
    if not sets:
        raise InputError("data must hold at least one data set, got none; try nm.Dataset(X, y).")
    shapes = {(one.X.shape, one.y.shape) for one in sets}
    if len(shapes) != 1:
        raise InputError(
            "data sets of one ensemble must have the same shapes, got "
            f"{sorted(shapes)}; call it once for each shape."
        )
    return sets, not isinstance(data, Dataset)


def time_rows(ts: Any, sets: int, flows: int) -> np.ndarray:
    """(data, flow, time), checked."""
    rows = check_real("ts", ts)
    if rows is None:
        raise InputError(
            f"ts must be numbers known beforehand, got {described(ts)}; close over them instead of "
            "tracing them."
        )
    if rows.dtype.kind == "b" or rows.size == 0:
        check_times(rows.reshape(-1))
    rows = rows.astype(float)
    if rows.ndim not in (1, 2, 3) or rows.shape[:-1] not in ((), (flows,), (sets, flows)):
        raise InputError(
            f"ts must be (time,), (flow, time) with {flows} rows or (data, flow, "
            f"time), got shape {rows.shape}; try np.linspace(0, 1, 11)."
        )
    for row in rows.reshape(-1, rows.shape[-1]):
        check_times(row)
    return np.broadcast_to(rows, (sets, flows, rows.shape[-1]))


def recipe_dtype(
    model: Callable | None,
    widths: Sequence[int],
    activation: Any = jax.nn.relu,
    antisymmetric: bool = False,
    dtype: Any = None,
) -> np.dtype:
    """The precision of an ensemble: as asked for, or that of its networks. Raises `InputError`
    where `model` fails, called by shape."""
    if model is None:
        check_flag("antisymmetric", antisymmetric)
        check_elementwise(activation)
        return weights_of(dtype)
    if activation is not jax.nn.relu or antisymmetric:
        raise InputError(
            "activation= and antisymmetric= describe the built-in two-layer net; with "
            "model= choose them in your function."
        )
    if not callable(model) or isinstance(model, eqx.Module):
        hint = "a function such as lambda width, key: eqx.nn.MLP(4, 'scalar', width, 3, key=key)"
        raise InputError(
            f"model must make a new model for every width and seed, got {described(model)}; try "
            f"{hint}."
        )
    shapes = [
        leaf
        for width in widths
        for leaf in jax.tree.leaves(model_by_shape(model, width))
        if _is_weight(leaf)
    ]
    found = jnp.dtype(jnp.result_type(*shapes)) if dtype is None else weights_of(dtype)
    if found.name not in ("float32", "float64"):
        check_weights(eqx.filter(model_by_shape(model, widths[0]), _is_weight))
    return found


def _is_weight(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct) and bool(jnp.issubdtype(leaf.dtype, jnp.inexact))


def model_by_shape(model: Callable, width: int) -> Any:
    """A model with shapes in the place of its arrays."""
    try:
        made = eqx.filter_eval_shape(
            lambda key: model(width, key=key), jax.eval_shape(lambda: jax.random.key(0))
        )
    except Exception as error:
        hint = "write def make(width, key) that returns an Equinox model, and give model=make"
        raise InputError(
            f"model must be a function called as model(width={width}, key=key), got "
            f"{type(error).__name__}, {brief(error)}; {hint}."
        ) from error
    if not callable(made) or not any(map(_is_weight, jax.tree.leaves(made))):
        raise InputError(
            f"model(width={width}, key=key) must return an Equinox model with weights, got "
            f"{described(made)}; write def make(width, key) that does."
        )
    return made


def plain_name(value: Any) -> Any:
    return (
        value
        if value is None or isinstance(value, str)
        else getattr(value, "__name__", None) or str(value)
    )

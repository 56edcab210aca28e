"""Loops of unknown length through which both modes of differentiation go.

JAX's `while_loop` has forward mode only: reverse mode needs what every step left behind, and nobody
knows how many there will be. Here the same loop is written twice. Forward mode goes through JAX's;
reverse mode runs it once more with a fixed number of checkpoints (Stumm and Walther 2010, as
equinox has it) and recomputes what lies between them. Nobody asks for either: the tangent of a loop
is an operation of its own, linear in the tangents, whose transpose is the second form.

Memory of the reverse mode: `CHECKPOINTS` copies of what the loop carries, however long it is; work:
with c checkpoints every step is taken at most r + 1 times where (c + r)!/(c! r!) >= steps, so three
times up to 2,145 steps and four times up to 47,905.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
from jax.interpreters import ad, batching
from jaxtyping import Array, PyTree

from .errors import InputError

CHECKPOINTS = 64
"""States kept in reverse mode. Chosen: one more pass over the steps is saved only by 380."""

_Carry = TypeVar("_Carry")


def while_loop(
    proceeds: Callable[[_Carry], Array],
    step: Callable[[_Carry], _Carry],
    start: _Carry,
) -> _Carry:
    """`jax.lax.while_loop`, differentiable in both modes, also by what the functions close over."""
    start = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), start)
    parts = [eqx.filter_closure_convert(part, start) for part in (proceeds, step)]

    def again(proceeds: Any, step: Any, start: _Carry) -> _Carry:
        return eqxi.while_loop(proceeds, step, start, kind="checkpointed", checkpoints=CHECKPOINTS)

    return both_modes(_forward, again, *parts, start)


def fori_loop(
    count: Any,
    step: Callable[[Array, _Carry], _Carry],
    start: _Carry,
) -> _Carry:
    """`jax.lax.fori_loop` from 0 to `count`, an array, differentiable in both modes."""
    _, end = while_loop(
        lambda pair: pair[0] < count,
        lambda pair: (pair[0] + 1, step(*pair)),
        (jnp.zeros((), jnp.int32), start),
    )
    return end


def collect(
    count: Any,
    step: Callable[[Array, _Carry], tuple[_Carry, PyTree]],
    start: _Carry,
    rows: PyTree,
) -> tuple[_Carry, PyTree]:
    """`fori_loop` whose step i also returns what becomes row i + 1 of `rows`.

    Rows are written once and never read, so no checkpoint keeps a copy of them.
    """
    count = jnp.asarray(count)
    step = eqx.filter_closure_convert(step, jnp.zeros((), jnp.int32), start)

    def run(loop: Callable, step: Any, start: _Carry, rows: PyTree, count: Array) -> Any:
        def body(carry: tuple[Array, _Carry, PyTree]) -> tuple[Array, _Carry, PyTree]:
            i, now, rows = carry
            now, row = step(i, now)
            return i + 1, now, jax.tree.map(lambda new, all: all.at[i + 1].set(new), row, rows)

        begin = jnp.zeros((), jnp.int32), start, rows
        return loop(lambda carry: carry[0] < count, body, begin)[1:]

    again = functools.partial(
        eqxi.while_loop, kind="checkpointed", checkpoints=CHECKPOINTS, buffers=lambda c: c[2]
    )
    forward, reverse = (functools.partial(run, one) for one in (jax.lax.while_loop, again))
    return both_modes(forward, reverse, step, start, rows, count)


def _forward(proceeds: Any, step: Any, start: _Carry) -> _Carry:
    return jax.lax.while_loop(lambda carry: proceeds(carry), lambda carry: step(carry), start)


def both_modes(forward: Callable, reverse: Callable, *args: Any) -> Any:
    """forward(*args), a tree of arrays. Its tangent is forward's; a cotangent is pulled back
    through `reverse`, which computes the same by operations that have a transpose.

    Neither function may close over arrays that are differentiated by.
    """
    return _primal(args, forward=forward, reverse=reverse)


@eqx.filter_custom_jvp
def _primal(args: PyTree, *, forward: Callable, reverse: Callable) -> PyTree:
    return forward(*args)


@_primal.def_jvp
def _primal_jvp(
    primals: PyTree, tangents: PyTree, *, forward: Callable, reverse: Callable
) -> tuple[PyTree, PyTree]:
    (args,), (rates,) = primals, tangents
    out = _primal(args, forward=forward, reverse=reverse)
    return out, _tangent(forward, reverse, args, rates, out)


def _tangent(forward: Callable, reverse: Callable, args: Any, rates: Any, out: Any) -> PyTree:
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
        eqx.filter(out, eqx.is_inexact_array),
    )
    return eqxi.filter_primitive_bind(_tangent_p, forward, reverse, args, rates, shapes, ())


def _push(
    forward: Callable, reverse: Callable, args: Any, rates: Any, shapes: Any, levels: Any
) -> PyTree:
    """The tangent, by forward mode. levels: of vmap, inside out, how many runs and the axes of
    `args`; everything else has them first."""

    def push(args: Any, rates: Any) -> PyTree:
        still, moved = _split(args, rates)
        inexact = lambda moved: eqx.filter(
            forward(*eqx.combine(moved, still)), eqx.is_inexact_array
        )
        return jax.jvp(inexact, (moved,), (rates,))[1]

    return _mapped(push, levels)(args, rates)


def _mapped(function: Callable, levels: Any) -> Callable:
    """function(args, second) under vmap."""
    for _, axes in levels:
        function = eqx.filter_vmap(function, in_axes=(axes, eqx.if_array(0)))
    return function


def _split(args: Any, rates: Any) -> tuple[Any, Any]:
    """(what does not move, what does)."""
    moves = jax.tree.map(lambda rate: rate is not None, rates, is_leaf=lambda rate: rate is None)
    moved, still = eqx.partition(args, moves)
    return still, moved


def _shape(
    forward: Callable, reverse: Callable, args: Any, rates: Any, shapes: Any, levels: Any
) -> PyTree:
    sizes = tuple(size for size, _ in reversed(levels))
    return jax.tree.map(lambda leaf: jax.core.ShapedArray(sizes + leaf.shape, leaf.dtype), shapes)


def _push_jvp(primals: Any, tangents: Any) -> tuple[PyTree, PyTree]:
    forward, reverse, args, rates, shapes, levels = primals
    out = eqxi.filter_primitive_bind(_tangent_p, *primals)
    # The tangent as a function of point and direction; by the point it has no reverse mode.
    again = lambda args, rates: _push(forward, reverse, args, rates, shapes, levels)
    return out, _tangent(again, _refuse, (args, rates), tangents[2:4], out)


def _pull(inputs: Any, cotangents: Any) -> PyTree:
    """The cotangents of the directions, by reverse mode through `reverse`."""
    _, reverse, args, rates, shapes, levels = inputs
    is_linear = lambda rate: isinstance(rate, ad.UndefinedPrimal)
    wanted = jax.tree.map(is_linear, rates, is_leaf=is_linear)
    wanted = jax.tree.map(lambda _, one: bool(one), args, wanted)

    def pull(args: Any, cotangents: Any) -> PyTree:
        moved, still = eqx.partition(args, wanted)
        return _pull_back(moved, still, cotangents, reverse)

    nothing = [jax.tree.map(lambda _: None, part) for part in (args, shapes, levels)]
    return None, None, nothing[0], _mapped(pull, levels)(args, cotangents), *nothing[1:]


@eqx.filter_custom_jvp
def _pull_back(moved: Any, still: Any, cotangents: Any, reverse: Callable) -> PyTree:
    inexact = lambda moved: eqx.filter(reverse(*eqx.combine(moved, still)), eqx.is_inexact_array)
    return jax.vjp(inexact, moved)[1](cotangents)[0]


@_pull_back.def_jvp
def _pull_back_jvp(primals: Any, tangents: Any) -> Any:
    _refuse()


def _refuse(*_: Any) -> Any:
    raise InputError(
        "second derivatives of a whole run exist in forward mode only; take "
        "jax.jacfwd(jax.jacfwd(...)) in the place of jax.hessian or jax.grad of a derivative."
    )


def _batch(size: int, inputs: Any, axes: Any) -> tuple[PyTree, PyTree]:
    """One more level of vmap. Rates that are the same for all are repeated, so that their
    cotangents are summed."""
    forward, reverse, args, rates, shapes, levels = inputs
    if not any(isinstance(axis, int) for axis in jax.tree.leaves(axes[2:4])):
        out = eqxi.filter_primitive_bind(_tangent_p, *inputs)
        return out, jax.tree.map(lambda _: None, out)

    def first(rate: Array, axis: int | None) -> Array:
        if axis is None:
            return jnp.broadcast_to(rate, (size, *rate.shape))
        return jnp.moveaxis(rate, axis, 0)

    # `axes` has no leaf where there is no axis
    rates = _with_axes(first, rates, axes[3])
    args_axes = _with_axes(lambda _, axis: axis, args, axes[2])
    levels = (*levels, (size, args_axes))
    out = eqxi.filter_primitive_bind(_tangent_p, forward, reverse, args, rates, shapes, levels)
    return out, jax.tree.map(lambda _: 0, out)


def _with_axes(function: Callable, tree: Any, axes: Any) -> Any:
    leaves = jax.tree.leaves(tree)
    structure: Any = jax.tree.structure(tree)
    known = structure.flatten_up_to(axes)
    return jax.tree.unflatten(structure, map(function, leaves, known))


def _transpose(cotangents: Any, *inputs: Any, **params: Any) -> Any:
    # numbers that a program knows come as numpy's, which equinox takes for no arrays
    known = (x if isinstance(x, ad.UndefinedPrimal) else jnp.asarray(x) for x in inputs)
    rule = eqxi.filter_primitive_transpose(materialise_zeros=True)(_pull)
    return rule(cotangents, *known, **params)


_tangent_p = eqxi.create_vprim(
    "ntk_momentum_tangent",
    eqxi.filter_primitive_def(_push),
    eqxi.filter_primitive_def(_shape),
    eqxi.filter_primitive_jvp(_push_jvp),
    _transpose,
)
# equinox's own rule does not sum the cotangent of what is the same for all
batching.axis_primitive_batchers[_tangent_p] = lambda size, name, kind, inputs, axes, **params: (
    eqxi.filter_primitive_batching(functools.partial(_batch, size))(inputs, axes, **params)
)

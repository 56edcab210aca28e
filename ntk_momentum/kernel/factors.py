"""Per-sample Jacobians of any model, kept in factors where the model allows it.

A weight W that enters one product z_t = W h_t has the derivative df_a/dW = sum_t delta_at h_t^T
with delta_at = df_a/dz_t, so its share of the kernel is sum_ts (delta_at . delta'_bs)(h_t . h'_s):
two small inner products instead of one over all of W. The two-layer kernel (2.8) is the case t = 1
with delta_r = s a_r sigma'(w_r . x) and h = x. Such products are found in the model's jaxpr,
through jit; a weight used in any other way, or for which the factors would cost more, keeps its
dense Jacobian.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, Literal
from jaxtyping import Array, PyTree


class Factor(NamedTuple):
    """A leaf's Jacobian at each sample: delta (n, k, t, o) and h (n, t, i); or, dense, delta (n, k,
    1, size) and h None."""

    delta: Array
    h: Array | None


@dataclasses.dataclass(frozen=True)
class Product:
    """A trained weight in a dot_general: which operand it is, the other's contracted axes, the
    product's shape, and (t, o, i)."""

    is_lhs: bool
    contracts: tuple[int, ...]
    shape: tuple[int, ...]
    free: int
    contracted: int
    repeats: int

    def delta(self, cotangent: Array) -> Array:
        """The cotangent of the product, (k, ...), as (k, t, o)."""
        k = cotangent.shape[0]
        if self.is_lhs:
            return jnp.swapaxes(cotangent.reshape(k, self.free, self.repeats), 1, 2)
        return cotangent.reshape(k, self.repeats, self.free)

    def input(self, other: Array) -> Array:
        """The other operand as (t, i)."""
        rest = tuple(axis for axis in range(other.ndim) if axis not in self.contracts)
        return jnp.transpose(other, rest + self.contracts).reshape(self.repeats, self.contracted)


_INLINED = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_closed_call": "call_jaxpr",
}


def _inner(eqn: Any) -> Any | None:
    """The closed jaxpr of a call that is looked into, or None."""
    name = _INLINED.get(eqn.primitive.name)
    return None if name is None else eqn.params[name]


def _product(eqn: Any, operand: int) -> Product | None:
    """The factored form of a dot_general in its given operand, or None when it has batch
    dimensions."""
    contracts, batches = eqn.params["dimension_numbers"]
    if batches[0]:
        return None
    weight, other = eqn.invars[operand].aval, eqn.invars[1 - operand].aval
    theirs = tuple(int(axis) for axis in contracts[1 - operand])
    contracted = int(np.prod([other.shape[axis] for axis in theirs], dtype=int))
    free, repeats = weight.size // max(contracted, 1), other.size // max(contracted, 1)
    return Product(operand == 0, theirs, eqn.outvars[0].aval.shape, free, contracted, repeats)


def products(jaxpr: Jaxpr, leaves: int) -> dict[int, Product]:
    """For each of the first `leaves` inputs of the jaxpr that enters exactly one product and
    nothing else: that product."""
    uses: dict[int, list[Product | None]] = {index: [] for index in range(leaves)}

    def walk(jaxpr: Jaxpr, tags: dict) -> None:
        for eqn in jaxpr.eqns:
            inner = _inner(eqn)
            tagged = [tags.get(var) if not isinstance(var, Literal) else None for var in eqn.invars]
            if inner is not None:
                walk(
                    inner.jaxpr,
                    {
                        var: tag
                        for var, tag in zip(inner.jaxpr.invars, tagged, strict=True)
                        if tag is not None
                    },
                )
                continue
            for operand, tag in enumerate(tagged):
                if tag is not None:
                    uses[tag].append(
                        _product(eqn, operand) if eqn.primitive.name == "dot_general" else None
                    )
        for var in jaxpr.outvars:
            if not isinstance(var, Literal) and var in tags:
                uses[tags[var]].append(None)

    walk(jaxpr, {var: index for index, var in enumerate(jaxpr.invars[:leaves])})
    return {
        index: found[0] for index, found in uses.items() if len(found) == 1 and found[0] is not None
    }


def _evaluate(
    jaxpr: Any,
    consts: Any,
    args: Any,
    tags: dict,
    chosen: dict[int, Product],
    probes: dict[int, Array],
    inputs: dict,
) -> list:
    """Evaluate the jaxpr; each chosen product gets its probe added and leaves its other operand in
    `inputs`."""
    env = dict(zip(jaxpr.constvars, consts, strict=True)) | dict(
        zip(jaxpr.invars, args, strict=True)
    )
    read = lambda var: var.val if isinstance(var, Literal) else env[var]
    for eqn in jaxpr.eqns:
        values = [read(var) for var in eqn.invars]
        tagged = [tags.get(var) if not isinstance(var, Literal) else None for var in eqn.invars]
        inner = _inner(eqn)
        if inner is not None and any(tag in chosen for tag in tagged):
            inner_tags = {
                var: tag
                for var, tag in zip(inner.jaxpr.invars, tagged, strict=True)
                if tag is not None
            }
            results = _evaluate(
                inner.jaxpr, inner.consts, values, inner_tags, chosen, probes, inputs
            )
        else:
            bound = eqn.primitive.get_bind_params(eqn.params)
            functions, params = (
                bound if isinstance(bound, tuple) else ((), bound)
            )  # JAX before and since 0.10
            results = eqn.primitive.bind(*functions, *values, **params)
            results = list(results) if eqn.primitive.multiple_results else [results]
            for operand, tag in enumerate(tagged):
                if tag in chosen:
                    inputs[tag] = values[1 - operand]
                    results[0] = results[0] + probes[tag].astype(results[0].dtype)
        env.update(zip(eqn.outvars, results, strict=True))
    return [read(var) for var in jaxpr.outvars]


def jacobian(
    f: Callable[[PyTree, Array], Array], trained: PyTree, chosen: dict[int, Product]
) -> Callable[[Array], list[Factor]]:
    """The map from a batch of inputs to one `Factor` per trained leaf, for f(trained, x) with
    values (k,).

    chosen: the leaves kept in factors; with none this is the plain Jacobian, by reverse mode.
    """
    leaves, tree = jax.tree.flatten(trained)

    def sample(x: Array) -> list[Factor]:
        def probed(
            probes: dict[int, Array], dense: dict[int, Array]
        ) -> tuple[Array, dict[int, Array]]:
            inputs: dict[int, Array] = {}
            args = [dense.get(index, leaf) for index, leaf in enumerate(leaves)]
            if not chosen:
                return f(jax.tree.unflatten(tree, args), x), inputs
            tags = dict(zip(closed.jaxpr.invars, range(len(leaves)), strict=False))
            (value,) = _evaluate(
                closed.jaxpr, closed.consts, [*args, x], tags, chosen, probes, inputs
            )
            return value, inputs

        closed = trace(f, trained, x)
        probes = {
            index: jnp.zeros(product.shape, leaves[index].dtype)
            for index, product in chosen.items()
        }
        dense = {index: leaf for index, leaf in enumerate(leaves) if index not in chosen}
        value, pullback, inputs = jax.vjp(probed, probes, dense, has_aux=True)
        of_probes, of_dense = jax.vmap(pullback)(jnp.eye(value.size, dtype=value.dtype))
        return [
            Factor(chosen[index].delta(of_probes[index]), chosen[index].input(inputs[index]))
            if index in chosen
            else Factor(of_dense[index].reshape(value.size, 1, -1), None)
            for index in range(len(leaves))
        ]

    return jax.vmap(sample)


def trace(f: Callable[[PyTree, Array], Array], trained: PyTree, x: Any) -> Any:
    """The closed jaxpr of f at one input, as a function of (the leaves of `trained`, then x)."""
    leaves, tree = jax.tree.flatten(trained)
    return jax.make_jaxpr(lambda leaves, x: f(jax.tree.unflatten(tree, leaves), x))(leaves, x)

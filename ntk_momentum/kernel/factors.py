"""Per-sample Jacobians of any model, kept in factors where the model allows it.

A weight W that enters one product z_t = W h_t has the derivative df_a/dW = sum_t delta_at h_t^T
with delta_at = df_a/dz_t, so its share of the kernel is sum_ts (delta_at . delta'_bs)(h_t . h'_s):
two small inner products instead of one over all of W. The two-layer kernel (2.8) is the case t = 1
with delta_r = s a_r sigma'(w_r . x) and h = x. Such products are found in the model's jaxpr,
through jit; a weight used in any other way, or for which the factors would cost more, keeps its
dense Jacobian. A convolution is such a product too, with the patches of its input as h_t, and its
Jacobian sum_t delta_t h_t^T one matrix product for each sample, where reverse mode makes a
convolution with as many groups as there are samples and outputs. So is a product inside a scan, t
running over its steps too, where reverse mode adds up a Jacobian at every step.
"""

from __future__ import annotations

import dataclasses
import math
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
    product's shape, and (t, o, i), t within a step of the scans around it, of which there are
    `steps`; summed: whether its Jacobian is formed, as where factors would cost more."""

    is_lhs: bool
    contracts: tuple[int, ...]
    shape: tuple[int, ...]
    free: int
    contracted: int
    repeats: int
    steps: tuple[int, ...] = ()
    summed: bool = False

    @property
    def times(self) -> int:
        """t over all steps."""
        return self.repeats * math.prod(self.steps)

    def delta(self, cotangent: Array) -> Array:
        """The cotangent of the product, (k, ...), as (k, t, o)."""
        k = cotangent.shape[0]
        if self.is_lhs:
            cotangent = jnp.swapaxes(cotangent.reshape(k, -1, self.free, self.repeats), 2, 3)
        return cotangent.reshape(k, self.times, self.free)

    def input(self, other: Array) -> Array:
        """The other operand as (t, i)."""
        ahead = len(self.steps)
        contracts = tuple(axis + ahead for axis in self.contracts)
        rest = tuple(axis for axis in range(other.ndim) if axis not in contracts)
        return jnp.transpose(other, rest + contracts).reshape(self.times, self.contracted)

    def factor(self, cotangent: Array, other: Array) -> Factor:
        """A sample's factor."""
        delta, h = self.delta(cotangent), self.input(other)
        if not self.summed:
            return Factor(delta, h)
        return Factor(jnp.einsum("ato,ti->aoi", delta, h).reshape(len(delta), 1, -1), None)

    def numbers(self, k: int) -> int:
        """What a sample of k outputs keeps."""
        formed = k * self.free * self.contracted if self.summed else 0
        return formed + self.times * (k * self.free + self.contracted)


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A trained kernel of a conv_general_dilated: its specs of axes and windows, the shape of its
    result, and that of its kernel."""

    specs: tuple[tuple[int, ...], ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilations: tuple[tuple[int, ...], tuple[int, ...]]
    shape: tuple[int, ...]
    kernel: tuple[int, ...]

    def numbers(self, k: int) -> int:
        """What a sample of k outputs keeps: Jacobian, cotangents and patches."""
        size, channels = math.prod(self.kernel), self.kernel[self.specs[1][0]]
        places = math.prod(self.shape) // channels
        return k * size + places * (k * channels + size // channels)

    def patches(self, x: Array) -> Array:
        """(i, t): each entry of the window is a strided slice of the padded input."""
        lhs, rhs, out = self.specs
        x = jnp.transpose(x, (lhs[1], lhs[0], *lhs[2:]))
        edges = [(0, 0, 0), (0, 0, 0)]
        edges += [(*p, d - 1) for p, d in zip(self.padding, self.dilations[0], strict=True)]
        x = jax.lax.pad(x, jnp.zeros((), x.dtype), edges)
        steps = (1, 1, *self.strides)
        spread = [(self.shape[out[2 + i]] - 1) * s + 1 for i, s in enumerate(self.strides)]
        slices = []
        for place in np.ndindex(*(self.kernel[axis] for axis in rhs[2:])):
            at = [i * d for i, d in zip(place, self.dilations[1], strict=True)]
            ends = [a + length for a, length in zip(at, spread, strict=True)]
            slices.append(jax.lax.slice(x, (0, 0, *at), (*x.shape[:2], *ends), steps))
        return jnp.stack(slices).reshape(len(slices) * x.shape[0], -1)

    def factor(self, cotangent: Array, other: Array) -> Factor:
        """A sample's Jacobian: its entries are in another order than the kernel's."""
        out, k = self.specs[2], len(cotangent)
        order = (0, out[1] + 1, out[0] + 1, *(axis + 1 for axis in out[2:]))
        delta = jnp.transpose(cotangent, order).reshape(k * self.shape[out[1]], -1)
        return Factor((delta @ self.patches(other).T).reshape(k, 1, -1), None)


def _convolution(eqn: Any) -> Convolution | None:
    """None where channels or samples come in groups."""
    p = eqn.params
    if p["feature_group_count"] != 1 or p["batch_group_count"] != 1:
        return None
    numbers = p["dimension_numbers"]
    return Convolution(
        tuple(tuple(spec) for spec in (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec)),
        tuple(p["window_strides"]),
        tuple(tuple(pair) for pair in p["padding"]),
        (tuple(p["lhs_dilation"]), tuple(p["rhs_dilation"])),
        eqn.outvars[0].aval.shape,
        eqn.invars[1].aval.shape,
    )


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


def _product(eqn: Any, operand: int, steps: tuple[int, ...]) -> Product | None:
    """The factored form of a dot_general in its given operand, within scans of so many steps, or
    None when it has batch dimensions."""
    contracts, batches = eqn.params["dimension_numbers"]
    if batches[0]:
        return None
    weight, other = eqn.invars[operand].aval, eqn.invars[1 - operand].aval
    theirs = tuple(int(axis) for axis in contracts[1 - operand])
    contracted = int(np.prod([other.shape[axis] for axis in theirs], dtype=int))
    free, repeats = weight.size // max(contracted, 1), other.size // max(contracted, 1)
    shape = (*steps, *eqn.outvars[0].aval.shape)
    return Product(operand == 0, theirs, shape, free, contracted, repeats, steps)


def products(jaxpr: Jaxpr, leaves: int) -> dict[int, Product | Convolution]:
    """For each of the first `leaves` inputs of the jaxpr that enters exactly one product and
    nothing else: that product."""
    uses: dict[int, list[Product | Convolution | None]] = {index: [] for index in range(leaves)}

    def walk(jaxpr: Jaxpr, tags: dict, steps: tuple[int, ...]) -> None:
        for eqn in jaxpr.eqns:
            inner = _inner(eqn)
            tagged = [tags.get(var) if not isinstance(var, Literal) else None for var in eqn.invars]
            if inner is not None:
                walk(inner.jaxpr, _tags(inner, tagged), steps)
                continue
            constants = 0
            if eqn.primitive.name == "scan":
                (constants, _), body = _handed(eqn), eqn.params["jaxpr"]
                walk(body.jaxpr, _tags(body, tagged[:constants]), (*steps, eqn.params["length"]))
            for operand, tag in enumerate(tagged):
                if tag is not None and operand >= constants:
                    if eqn.primitive.name == "dot_general":
                        uses[tag].append(_product(eqn, operand, steps))
                    elif (
                        eqn.primitive.name == "conv_general_dilated" and operand == 1 and not steps
                    ):
                        uses[tag].append(_convolution(eqn))
                    else:
                        uses[tag].append(None)
        for var in jaxpr.outvars:
            if not isinstance(var, Literal) and var in tags:
                uses[tags[var]].append(None)

    walk(jaxpr, {var: index for index, var in enumerate(jaxpr.invars[:leaves])}, ())
    return {
        index: found[0] for index, found in uses.items() if len(found) == 1 and found[0] is not None
    }


def _tags(inner: Any, tagged: list[int | None]) -> dict:
    """The marks of a program's inputs, the first ones of which have these."""
    return {v: t for v, t in zip(inner.jaxpr.invars, tagged, strict=False) if t is not None}


def _handed(scan: Any) -> tuple[int, int]:
    """How many of a scan's inputs are constants, and how many are carried from step to step."""
    if "num_consts" in scan.params:
        return scan.params["num_consts"], scan.params["num_carry"]
    constants, carried, _ = scan.params["ft_in"].unpack()  # from JAX 0.12 on
    return len(constants), len(carried)


def _scanned(
    eqn: Any,
    values: list,
    tags: dict,
    chosen: dict[int, Product | Convolution],
    probes: dict[int, Array],
    inputs: dict,
) -> list:
    """A scan, evaluated as `_evaluate` does its body: probes and inputs have the steps first."""
    p, (constants, moving) = eqn.params, _handed(eqn)
    body, carried = p["jaxpr"], constants + moving
    own = {tag: probes[tag] for tag in tags.values() if tag in chosen}

    def step(carry: list, now: tuple[dict, list]) -> tuple[list, tuple[list, dict]]:
        here, x = now
        seen: dict = {}
        args = [*values[:constants], *carry, *x]
        out = _evaluate(body.jaxpr, body.consts, args, tags, chosen, here, seen)
        return out[:moving], (out[moving:], seen)

    xs = own, values[carried:]
    end, (rows, seen) = jax.lax.scan(
        step, values[constants:carried], xs, p["length"], p["reverse"], p["unroll"]
    )
    inputs.update(seen)
    return [*end, *rows]


def _evaluate(
    jaxpr: Any,
    consts: Any,
    args: Any,
    tags: dict,
    chosen: dict[int, Product | Convolution],
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
        looked_into = any(tag in chosen for tag in tagged)
        if inner is not None and looked_into:
            results = _evaluate(
                inner.jaxpr, inner.consts, values, _tags(inner, tagged), chosen, probes, inputs
            )
        elif eqn.primitive.name == "scan" and looked_into:
            marks = _tags(eqn.params["jaxpr"], tagged[: _handed(eqn)[0]])
            results = _scanned(eqn, values, marks, chosen, probes, inputs)
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
    f: Callable[[PyTree, Array], Array], trained: PyTree, chosen: dict[int, Product | Convolution]
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
            chosen[index].factor(of_probes[index], inputs[index])
            if index in chosen
            else Factor(of_dense[index].reshape(value.size, 1, -1), None)
            for index in range(len(leaves))
        ]

    return jax.vmap(sample)


def trace(f: Callable[[PyTree, Array], Array], trained: PyTree, x: Any) -> Any:
    """The closed jaxpr of f at one input, as a function of (the leaves of `trained`, then x)."""
    leaves, tree = jax.tree.flatten(trained)
    return jax.make_jaxpr(lambda leaves, x: f(jax.tree.unflatten(tree, leaves), x))(leaves, x)

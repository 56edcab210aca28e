"""How a matrix product is taken, by device and by the accuracy asked for.

Three kinds of products make up a step, and what is known of the factors decides:

| product | on a CPU | float32 on NVIDIA's, "highest" | faster than float32's own on an H100 |
|---|---|---|---|
| of real numbers, X W^T | float32 | both in two halves, three products | 2.4 times |
| of two values and real numbers, (S o u)^T X | float32 | u o X in two halves | 4 times |
| of two patterns, counts B B^T | population count | 8-bit integers: the counts | 14 times |

A half, float16, has 11 bits, so two with a sign between them hold 23 of a float32's 24, once a row
is scaled by a power of two to where halves are dense: to 2^13, where the second half of what is
2^-14 of the largest entry is still whole. Products with 0 and 1 are exact; of the four products of
halves the one below float32's round-off is left out; and the sums are rounded, by that device a bit
earlier than float32's own. The halves lie side by side along the axis summed over, the smaller
first, so that one product takes them all. Measured there, 784 terms summed: X W^T errs by 1.0e-6,
float32 by 5e-7, 3xTF32 by 2e-6 at the same speed, JAX's algorithm of six bfloat16 products by 8e-7
at two fifths of it; of a thousand terms the second kind by 1.5e-7, float32 by 4e-7. Where there is
bfloat16 and no half, on a TPU, three bfloat16 terms take the second kind. Counts are exact in any
dtype of the run and whatever the precision asked for. In float64, and with any other precision than
"highest", products of the first two kinds are JAX's own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

AMPERE = 8.0
"""The compute capability from which on NVIDIA's devices multiply in TF32 and bfloat16."""
TERMS = 3
"""Of a float32 in bfloat16: 3 times 8 bits are its 24."""
HALVES = 2
"""Of a float32 in float16: twice 11 bits and a sign between them are 23 of its 24."""
WHOLE = 2**24
"""Whole numbers up to here are floats of float32."""


def in_force(precision: str, dtype: Any) -> AbstractContextManager:
    """The precision of a run's products while it is traced.

    The name of one of JAX's dot algorithms holds where the device has it and the run is in float32;
    everywhere else, so on every CPU, it means "highest": XLA refuses some there and takes float32
    for others, and would round a float64 run to the algorithm's few bits.
    """
    if precision not in ("default", "high", "highest"):
        platform = jax.default_backend()
        has = (platform == "gpu" and recent()) or (
            platform == "tpu" and precision.startswith("BF16")
        )
        precision = precision if has and jnp.dtype(dtype) == jnp.float32 else "highest"
    return jax.default_matmul_precision(precision)


@functools.cache
def recent() -> bool:
    """Whether NVIDIA's devices here, if there are any, multiply in TF32 and bfloat16."""
    said = [getattr(device, "compute_capability", "") for device in jax.local_devices()]
    return all(float(number) >= AMPERE for number in said if number[:1].isdigit())


def splits(dtype: Any) -> bool:
    """Whether products are split where the device gains by it: in float32, at its own accuracy."""
    config: Any = jax.config  # its attributes are made at run time
    return (
        config.jax_default_matmul_precision in ("highest", "float32")
        and jnp.dtype(dtype) == jnp.float32
        and recent()
    )


def product(a: Float[Array, "*b i j"], b: Float[Array, "*b j k"]) -> Float[Array, "*b i k"]:
    """a b of real numbers."""
    if not splits(jnp.result_type(a, b)):
        return a @ b
    return jax.lax.platform_dependent(a, b, cuda=by_halves, default=jnp.matmul)


@jax.custom_jvp
def by_halves(a: Float[Array, "*b i j"], b: Float[Array, "*b j k"]) -> Float[Array, "*b i k"]:
    """a b by three products of their halves: the fourth is below float32's own round-off."""
    (a1, a2, rows), (b1, b2, columns) = two_halves(a, -1), two_halves(b, -2)
    left = jnp.concatenate([a2, a1, a1], axis=-1)
    right = jnp.concatenate([b1, b2, b1], axis=-2)
    # one after the other: the two scales may be too small for a float32 together
    return jnp.matmul(left, right, preferred_element_type=jnp.float32) * rows * columns


@functools.partial(by_halves.defjvp, symbolic_zeros=True)
def _(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (a, b), (da, db) = primals, tangents
    still = jax.custom_derivatives.SymbolicZero  # as inputs are: a product saved
    value, moved = by_halves(a, b), []
    moved += [transposable(da, b)] if not isinstance(da, still) else []
    moved += [transposable(a, db)] if not isinstance(db, still) else []
    return value, sum(moved[1:], moved[0]) if moved else jnp.zeros_like(value)


def transposable(a: Array, b: Array) -> Array:
    """a b for derivatives: halves are no linear function of what they are taken from."""
    six = functools.partial(jnp.matmul, precision="BF16_BF16_F32_X6")
    return jax.lax.platform_dependent(a, b, cuda=six, default=jnp.matmul)


def either(by_terms: Callable, plain: Callable, *args: Array) -> Any:
    """plain(*args), or where the device gains by splitting products by_terms(*args)."""
    if not splits(jnp.result_type(*args)):
        return plain(*args)
    return jax.lax.platform_dependent(*args, cuda=by_terms, tpu=by_terms, default=plain)


def two_halves(x: Array, axis: int) -> tuple[Array, Array, Array]:
    """(high, low, scale): x = scale (high + low) with halves and powers of two, one for all entries
    along the axis that is summed over."""
    largest = jnp.max(jnp.abs(x), axis=axis, keepdims=True)
    power = jnp.clip(jax.lax.reduce_precision(largest, 8, 0), 2.0**-113, 2.0**126)
    x = x * (2.0**13 / power)
    # reduce_precision, since a compiler may take a cast there and back for nothing
    high = jax.lax.reduce_precision(x, 5, 10)
    return high.astype(jnp.float16), (x - high).astype(jnp.float16), power * 2.0**-13


def three_terms(x: Array) -> list[Array]:
    """Three bfloat16 terms whose sum is x, the largest first."""
    terms = []
    for _ in range(TERMS):
        # reduce_precision, since a compiler may take a cast there and back for nothing
        terms.append(jax.lax.reduce_precision(x, 8, 7))
        x = x - terms[-1]
    return [term.astype(jnp.bfloat16) for term in terms]


@jax.custom_jvp
def selected(pattern: Bool[Array, "m n"], x: Float[Array, "n p"]) -> Float[Array, "m p"]:
    """sum_i pattern_ri x_i, in float32: the pattern is exact in few bits, so x alone is split."""
    return jax.lax.platform_dependent(
        pattern, x, cuda=selected_by_halves, default=selected_by_terms
    )


def selected_by_halves(pattern: Array, x: Array) -> Array:
    """`selected` by two products in float16."""
    high, low, columns = two_halves(x, -2)
    left = jnp.concatenate([pattern.T.astype(jnp.float16)] * HALVES)
    right = jnp.concatenate([low, high])
    summed = jax.lax.dot_general(
        left, right, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32
    )
    return columns * summed


def selected_by_terms(pattern: Array, x: Array) -> Array:
    """`selected` by three products in bfloat16."""
    left = jnp.tile(pattern.astype(jnp.bfloat16), (1, TERMS))
    right = jnp.concatenate(three_terms(x)[::-1])
    return jnp.matmul(left, right, preferred_element_type=jnp.float32)


@selected.defjvp
def _(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    pattern, x = primals
    return selected(pattern, x), transposable(pattern.astype(x.dtype), tangents[1])


def of_two_values(
    S: Float[Array, "m n"], values: tuple[float, float], x: Float[Array, "n p"]
) -> Float[Array, "m p"]:
    """S x for an S whose entries take two values, (low, high): low sum_i x_i + (high - low)
    sum_i [S_ri = high] x_i."""
    low, high = values
    pattern = jnp.abs(S - high) < jnp.abs(S - low)
    picked = (high - low) * selected(pattern, x)
    return picked + low * jnp.sum(x, axis=0, keepdims=True) if low else picked


def counts(
    left: Bool[Array, "n1 m"], right: Bool[Array, "n2 m"] | None = None
) -> Int[Array, "n1 n2"]:
    """sum_r left_ir right_jr, whole numbers to the last bit, the way to take off a CPU; right: left
    itself if None."""

    def summed(kind: Any, wide: Any, left: Array, right: Array) -> Array:
        exact = "highest" if kind == jnp.float32 else "default"
        found = jnp.matmul(
            left.astype(kind), right.astype(kind).T, precision=exact, preferred_element_type=wide
        )
        return found.astype(jnp.int32)

    right = left if right is None else right
    integers = functools.partial(summed, jnp.int8, jnp.int32)
    if left.shape[1] > WHOLE:
        return integers(left, right)
    kind = jnp.bfloat16 if recent() else jnp.float32
    floats = functools.partial(summed, kind, jnp.float32)
    if not recent():
        return floats(left, right)
    return jax.lax.platform_dependent(left, right, cuda=integers, default=floats)


@jax.custom_batching.custom_vmap
def agreed(holds: Bool[Array, ""]) -> Bool[Array, ""]:
    """A condition that runs in lock-step decide together, so that `cond` stays a choice for them:
    one of each would compute both sides."""
    return holds


@agreed.def_vmap
def _(size: int, batched: list[bool], holds: Array) -> tuple[Array, bool]:
    return agreed(jnp.all(holds)), False

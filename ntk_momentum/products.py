"""How a matrix product is taken, by device and by the accuracy asked for.

Three kinds of products make up a step, and what is known of the factors decides:

| product | on a CPU | float32 on NVIDIA's, "highest" |
|---|---|---|
| of real numbers, X W^T | float32 | 3xTF32: two terms of 11 bits a factor |
| of two values and real numbers, (S o u)^T X | float32 | u o X in three bfloat16 terms |
| of two patterns, counts B B^T | population count | bfloat16 summed in float32: the integers |

Split products err by no more than float32 ones do: a bfloat16 has 8 bits, so three hold the 24 of a
float32, and their products with 0 and 1 are exact; only the sums are rounded. Counts are exact
below 2^24, in any dtype of the run and whatever the precision asked for. In float64, and with any
other precision than "highest", products of the first two kinds are JAX's own.
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
    by_terms = functools.partial(jnp.matmul, precision="TF32_TF32_F32_X3")
    return jax.lax.platform_dependent(a, b, cuda=by_terms, default=jnp.matmul)


def either(by_terms: Callable, plain: Callable, *args: Array) -> Any:
    """plain(*args), or where the device gains by splitting products by_terms(*args)."""
    if not splits(jnp.result_type(*args)):
        return plain(*args)
    return jax.lax.platform_dependent(*args, cuda=by_terms, tpu=by_terms, default=plain)


def three_terms(x: Float[Array, "n p"]) -> Float[Array, "n 3*p"]:
    """Three bfloat16 terms, side by side, whose sum is x."""
    terms = []
    for _ in range(TERMS):
        # reduce_precision, since a compiler may take a cast there and back for nothing
        terms.append(jax.lax.reduce_precision(x, 8, 7))
        x = x - terms[-1]
    return jnp.concatenate([term.astype(jnp.bfloat16) for term in terms], axis=1)


@jax.custom_jvp
def selected(pattern: Bool[Array, "m n"], x: Float[Array, "n p"]) -> Float[Array, "m p"]:
    """sum_i pattern_ri x_i, in float32: the pattern is exact in bfloat16, so x alone is split."""
    wide = jnp.matmul(
        pattern.astype(jnp.bfloat16), three_terms(x), preferred_element_type=jnp.float32
    ).reshape(pattern.shape[0], TERMS, x.shape[1])
    return wide[:, 0] + (wide[:, 1] + wide[:, 2])


@selected.defjvp
def _(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    pattern, x = primals
    return selected(pattern, x), product(pattern.astype(x.dtype), tangents[1])


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
    right = left if right is None else right
    if left.shape[1] > WHOLE:
        kind, wide = jnp.int8, jnp.int32
    else:
        kind, wide = (jnp.bfloat16 if recent() else jnp.float32), jnp.float32
    exact = "highest" if kind == jnp.float32 else "default"
    found = jnp.matmul(
        left.astype(kind), right.astype(kind).T, precision=exact, preferred_element_type=wide
    )
    return found.astype(jnp.int32)


@jax.custom_batching.custom_vmap
def agreed(holds: Bool[Array, ""]) -> Bool[Array, ""]:
    """A condition that runs in lock-step decide together, so that `cond` stays a choice for them:
    one of each would compute both sides."""
    return holds


@agreed.def_vmap
def _(size: int, batched: list[bool], holds: Array) -> tuple[Array, bool]:
    return agreed(jnp.all(holds)), False

"""What the device reaches at best: a large copy, and a large square product in every precision."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .measure import Bench, Parts, compared, supported, timed

PRODUCTS = {
    # name: (dtype of the operands, precision, dtype of the result, error allowed)
    "float32 highest": ("float32", "highest", "float32", 1e-5),
    "TF32": ("float32", "TF32_TF32_F32", "float32", 3e-3),
    # tensor cores cut sums off, so this errs with the number of terms: 2e-6 for 784 on an H100
    "3xTF32": ("float32", "TF32_TF32_F32_X3", "float32", 3e-5),
    "bf16x6": ("float32", "BF16_BF16_F32_X6", "float32", 1e-5),
    "bf16": ("bfloat16", None, "float32", 2e-2),
    "int8": ("int8", None, "int32", 0.0),
    "float64": ("float64", "highest", "float64", 1e-13),
}
CHECKED = 32
"""Rows of a product that are compared with the host's."""


def ceilings(bench: Bench) -> Parts:
    """A copy, an empty program, square products. No fractions: other rows are divided by these."""
    yield "copy", partial(copy, bench)
    yield "an empty program", partial(launch, bench)
    size = bench.fit(bench.sizes.product, 8 * 6 * bench.sizes.product)
    for name in PRODUCTS:
        yield f"{name} product, {size}³", partial(product, bench, name, size)


def copy(bench: Bench) -> dict[str, Any]:
    """Bytes read and written a second."""
    count = bench.fit(bench.sizes.copied, 4 * 8)
    x = jax.random.normal(jax.random.key(0), (count,))
    timing = timed(lambda x: -x, x)
    moved = 2 * x.nbytes
    bench.ceilings["copy"] = moved / timing.seconds
    error = compared(timing.value[:1000], -np.asarray(x[:1000], np.float64), 0.0)
    return {"bytes": moved, "gb_per_second": moved / timing.seconds / 1e9} | timing.record() | error


def launch(bench: Bench) -> dict[str, Any]:
    """Seconds to launch a program with next to nothing in it."""
    timing = timed(lambda x: x + 1, jnp.zeros(()))
    return timing.record() | compared(timing.value, 1.0, 0.0)


def product(bench: Bench, name: str, size: int) -> dict[str, Any]:
    """Operations a second of one square product of random matrices."""
    dtype, precision, result, allowed = PRODUCTS[name]
    with jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext():
        a, b = (operand(jax.random.key(k), size, dtype) for k in range(2))
        multiply = partial(jnp.matmul, precision=precision, preferred_element_type=result)
        timing = supported(lambda: timed(multiply, a, b))
        flops = 2 * size**3
        bench.ceilings[name] = flops / timing.seconds
        whole = "float32" if dtype == "bfloat16" else dtype  # rounding counts as error
        left = np.asarray(operand(jax.random.key(0), size, whole)[:CHECKED], np.float64)
        right = np.asarray(operand(jax.random.key(1), size, whole), np.float64)
        error = compared(timing.value[:CHECKED], left @ right, allowed)
    return {"tflops": flops / timing.seconds / 1e12} | timing.record() | error


def operand(key: Any, size: int, dtype: str) -> jax.Array:
    """Random entries; bfloat16 gets the float32 ones, rounded."""
    if dtype == "int8":
        return jax.random.randint(key, (size, size), -128, 128, jnp.int8)
    drawn = dtype if dtype == "float64" else "float32"
    return jax.random.normal(key, (size, size), drawn).astype(dtype)

"""The products of a step, each way that it can be taken: X W^T, (S o u)^T X, the pattern Gram."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntk_momentum import products as package

from .measure import Bench, Parts, Timing, compared, network, problem, rated, supported, timed

CHECKED = 64
"""Rows that are compared with the host's."""


def products(bench: Bench) -> Parts:
    """X Wᵀ, (S∘u)ᵀX and the pattern Gram, every width, every way."""
    for width in bench.sizes.widths:
        for way in FORWARD:
            yield f"forward X Wᵀ, m = {width}, {way}", partial(forward, bench, width, way)
        for way in PULL:
            yield f"pull (S∘u)ᵀX, m = {width}, {way}", partial(pull, bench, width, way)
        for way in GRAM:
            yield f"pattern Gram, m = {width}, {way}", partial(gram, bench, width, way)


def operands(bench: Bench, width: int) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """X (n, p), W (m, p), the 0/1 pattern S (n, m) and u (n,)."""
    X = problem(bench.sizes.n, bench.sizes.p)[0].X
    W = network(width, bench.sizes.p).hidden
    S = jnp.matmul(X, W.T, precision="highest") > 0
    return X, W, S, jax.random.normal(jax.random.key(9), (X.shape[0],))


# way: (function of (a, b), ceiling)
FORWARD = {
    "the package's": (package.product, "3xTF32"),
    "float32 highest": (partial(jnp.matmul, precision="highest"), "float32 highest"),
    "bf16x6": (partial(jnp.matmul, precision="BF16_BF16_F32_X6"), "bf16x6"),
    "TF32": (partial(jnp.matmul, precision="TF32_TF32_F32"), "TF32"),
}
"""The package's own ways are what it takes for `Numerics(precision="highest")`."""
ALLOWED = {"TF32": 3e-3, "the package's": 1e-6}


def forward(bench: Bench, width: int, way: str) -> dict[str, Any]:
    """X W^T."""
    X, W, _, _ = operands(bench, width)
    multiply, unit = FORWARD[way]
    timing = taken(lambda X, W: multiply(X, W.T), X, W)
    exact = np.asarray(X[:CHECKED], np.float64) @ np.asarray(W, np.float64).T
    moved = X.nbytes + W.nbytes + timing.value.nbytes
    record = rated(bench, timing, flops=2 * X.shape[0] * W.size, moved=moved, unit=unit)
    return record | compared(timing.value[:CHECKED], exact, ALLOWED.get(way, 3e-6))


def taken(function: Any, *arguments: jax.Array) -> Timing:
    """A product timed, at the accuracy of float32."""
    with jax.default_matmul_precision("highest"):
        return supported(lambda: timed(function, *arguments))


# way: (function of (S, u, X), ceiling, products of that ceiling in the time of one)
PULL = {
    "float32 highest": (
        lambda S, u, X: jnp.matmul((S * u[:, None]).T, X, precision="highest"),
        "float32 highest",
        1,
    ),
    # of a third of bfloat16's, which three terms of 8 bits would take at best
    "the package's": (
        lambda S, u, X: package.of_two_values(S.T.astype(X.dtype), (0.0, 1.0), u[:, None] * X),
        "bf16",
        package.TERMS,
    ),
}


def pull(bench: Bench, width: int, way: str) -> dict[str, Any]:
    """(S o u)^T X."""
    X, _, S, u = operands(bench, width)
    function, unit, times = PULL[way]
    timing = taken(function, S, u, X)
    weighted = np.asarray(u, np.float64)[:, None] * np.asarray(X, np.float64)
    exact = np.asarray(S[:, :CHECKED], np.float64).T @ weighted
    flops = 2 * S.size * X.shape[1]
    moved = X.nbytes + S.nbytes + timing.value.nbytes
    record = rated(bench, timing, flops=flops, moved=moved, unit=unit, executed=times * flops)
    return record | compared(timing.value[:CHECKED], exact, 3e-6)


def counted(dtype: Any, S: jax.Array) -> jax.Array:
    """S S^T by a product in another dtype."""
    wide = jnp.int32 if dtype is jnp.int8 else jnp.float32
    return jnp.matmul(S.astype(dtype), S.astype(dtype).T, preferred_element_type=wide)


# way: (function of S, ceiling)
GRAM = {
    "the package's": (package.counts, "bf16"),
    "float32 highest": (partial(counted, jnp.float32), "float32 highest"),
    "int8": (partial(counted, jnp.int8), "int8"),
}


def gram(bench: Bench, width: int, way: str) -> dict[str, Any]:
    """S S^T, a count that must come out exact."""
    _, _, S, _ = operands(bench, width)
    count, unit = GRAM[way]
    timing = taken(count, S)
    exact = (
        np.asarray(S[:CHECKED], np.float32) @ np.asarray(S, np.float32).T
    )  # whole numbers below 2^24
    moved = S.nbytes + timing.value.nbytes
    record = rated(bench, timing, flops=2 * S.shape[0] * S.size, moved=moved, unit=unit)
    return record | compared(timing.value[:CHECKED], exact, 0.0, "counts on the host")

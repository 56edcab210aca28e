"""The products of a step, each way that it can be taken: X W^T, (S o u)^T X, the pattern Gram."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .measure import Bench, Parts, compared, network, problem, rated, supported, timed

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


# way: (precision, ceiling)
FORWARD = {
    "float32 highest": ("highest", "float32 highest"),
    "3xTF32": ("TF32_TF32_F32_X3", "3xTF32"),
    "bf16x6": ("BF16_BF16_F32_X6", "bf16x6"),
    "TF32": ("TF32_TF32_F32", "TF32"),
}
ALLOWED = {"TF32": 3e-3}


def forward(bench: Bench, width: int, way: str) -> dict[str, Any]:
    """X W^T."""
    X, W, _, _ = operands(bench, width)
    precision, unit = FORWARD[way]
    timing = supported(lambda: timed(lambda X, W: jnp.matmul(X, W.T, precision=precision), X, W))
    exact = np.asarray(X[:CHECKED], np.float64) @ np.asarray(W, np.float64).T
    moved = X.nbytes + W.nbytes + timing.value.nbytes
    record = rated(bench, timing, flops=2 * X.shape[0] * W.size, moved=moved, unit=unit)
    return record | compared(timing.value[:CHECKED], exact, ALLOWED.get(way, 3e-6))


def split(x: jax.Array) -> jax.Array:
    """Three bfloat16 terms, side by side, whose sum is x to float32's precision."""
    terms = []
    for _ in range(3):
        # reduce_precision, since a compiler may take a cast there and back for nothing
        terms.append(jax.lax.reduce_precision(x, 8, 7))
        x = x - terms[-1]
    return jnp.concatenate([term.astype(jnp.bfloat16) for term in terms], axis=1)


def pulled_by_terms(S: jax.Array, u: jax.Array, X: jax.Array) -> jax.Array:
    """S^T (u o X): the pattern is exact in bfloat16, so only the real side is split."""
    terms = split(u[:, None] * X)
    wide = jnp.matmul(S.astype(jnp.bfloat16).T, terms, preferred_element_type=jnp.float32)
    return wide.reshape(S.shape[1], 3, X.shape[1]).sum(axis=1)


# way: (function of (S, u, X), ceiling, products executed for one)
PULL = {
    "float32 highest": (
        lambda S, u, X: jnp.matmul((S * u[:, None]).T, X, precision="highest"),
        "float32 highest",
        1,
    ),
    "three bf16 terms": (pulled_by_terms, "bf16", 3),
}


def pull(bench: Bench, width: int, way: str) -> dict[str, Any]:
    """(S o u)^T X."""
    X, _, S, u = operands(bench, width)
    function, unit, times = PULL[way]
    timing = supported(lambda: timed(function, S, u, X))
    weighted = np.asarray(u, np.float64)[:, None] * np.asarray(X, np.float64)
    exact = np.asarray(S[:, :CHECKED], np.float64).T @ weighted
    flops = 2 * S.size * X.shape[1]
    moved = X.nbytes + S.nbytes + timing.value.nbytes
    record = rated(bench, timing, flops=flops, moved=moved, unit=unit, executed=times * flops)
    return record | compared(timing.value[:CHECKED], exact, 3e-6)


# way: (dtype of the pattern, dtype of the result, ceiling)
GRAM = {
    "float32 highest": (jnp.float32, jnp.float32, "float32 highest"),
    "bf16": (jnp.bfloat16, jnp.float32, "bf16"),
    "int8": (jnp.int8, jnp.int32, "int8"),
}


def gram(bench: Bench, width: int, way: str) -> dict[str, Any]:
    """S S^T, a count that must come out exact."""
    _, _, S, _ = operands(bench, width)
    dtype, result, unit = GRAM[way]

    def count(S):
        S = S.astype(dtype)
        precision = "highest" if dtype is jnp.float32 else None
        return jnp.matmul(S, S.T, precision=precision, preferred_element_type=result)

    timing = supported(lambda: timed(count, S))
    exact = (
        np.asarray(S[:CHECKED], np.float32) @ np.asarray(S, np.float32).T
    )  # whole numbers below 2^24
    moved = S.nbytes + timing.value.nbytes
    record = rated(bench, timing, flops=2 * S.shape[0] * S.size, moved=moved, unit=unit)
    return record | compared(timing.value[:CHECKED], exact, 0.0, "counts on the host")

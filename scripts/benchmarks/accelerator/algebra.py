"""What a step may do with an n x n kernel: eigenvectors, a factorisation, or Lanczos steps."""

from __future__ import annotations

import functools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ntk_momentum as nm

from . import host
from .measure import Bench, Parts, compared, problem, rated, timed

SOLVES = 12
CARRIED = 0.05
"""Share of a solution in the next right side."""
STEPS = 32
RIDGE = 1e-2
"""Added to the kernel, whose trace is n/2, so that a float32 factorisation exists."""


def algebra(bench: Bench) -> Parts:
    """Cholesky with solves, Lanczos steps and eigh of a kernel, alone, then many at once."""
    for lanes in (1, bench.sizes.lanes):
        for n in bench.sizes.orders:
            label = f"n = {n}" + (f" × {lanes}" if lanes > 1 else "")
            yield f"Cholesky and {SOLVES} solves, {label}", partial(cholesky, bench, n, lanes)
            yield f"{STEPS} Lanczos steps, {label}", partial(lanczos, bench, n, lanes, False)
            if lanes == 1 and n == bench.sizes.orders[len(bench.sizes.orders) // 2]:
                name = f"{STEPS} Lanczos steps unrolled, {label}"
                yield name, partial(lanczos, bench, n, lanes, True)
            yield f"eigh, {label}", partial(eigh, bench, n, lanes)


def limit_kernel(n: int, p: int) -> jax.Array:
    """H infinity and a ridge."""
    with jax.default_matmul_precision("highest"):
        return nm.infinite_ntk(problem(n, p)[0].X) + RIDGE * jnp.eye(n)


def kernels(bench: Bench, n: int, lanes: int) -> jax.Array:
    """(lanes, n, n): one kernel times powers of two, which change no digit."""
    return limit_kernel(n, bench.sizes.p)[None] * scales(lanes)[:, None, None]


def scales(lanes: int) -> np.ndarray:
    """One for each lane, the first 1."""
    return np.float32(2.0) ** (np.arange(lanes, dtype=np.int32) % 4)


@functools.cache
def host_eigh(n: int, p: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and vectors in float64 of the kernel of scale 1."""
    return np.linalg.eigh(np.asarray(limit_kernel(n, p), np.float64))


def over_lanes(function: Any, *arguments: Any) -> Any:
    """Times a function of one kernel on the only one, or on all of them at once."""
    if arguments[0].shape[0] == 1:
        timing = timed(function, *(argument[0] for argument in arguments))
        return timing, jax.tree.map(np.asarray, timing.value)
    timing = timed(jax.vmap(function), *arguments)
    return timing, jax.tree.map(lambda leaf: np.asarray(leaf[-1]), timing.value)


def eigh(bench: Bench, n: int, lanes: int) -> dict[str, Any]:
    """Eigenvalues and vectors; nominally 9 n^3 operations. The error is that of V diag(λ) Vᵀ."""
    H = kernels(bench, n, lanes)
    timing, (values, vectors) = over_lanes(jnp.linalg.eigh, H)
    vectors = vectors.astype(np.float64)
    record = rated(bench, timing, flops=9 * n**3 * lanes)
    return record | compared((vectors * values) @ vectors.T, H[-1], 1e-4, "the matrix itself")


def cholesky(bench: Bench, n: int, lanes: int) -> dict[str, Any]:
    """A factorisation and as many solves one after another; the error is the residual's."""
    H = kernels(bench, n, lanes)
    right = jnp.broadcast_to(jax.random.normal(jax.random.key(3), (n, SOLVES)), (lanes, n, SOLVES))

    def solve(H, right):
        with jax.default_matmul_precision("highest"):
            factor = jax.scipy.linalg.cho_factor(H, lower=True)
            columns = [jax.scipy.linalg.cho_solve(factor, right[:, 0])]
            for k in range(1, SOLVES):  # each waits for the one before, as in a step of a flow
                columns.append(
                    jax.scipy.linalg.cho_solve(factor, right[:, k] + CARRIED * columns[-1])
                )
        return jnp.stack(columns, axis=1)

    timing, solution = over_lanes(solve, H, right)
    flops, moved = (n**3 / 3 + 2 * SOLVES * n**2) * lanes, 4 * n**2 * (2 + 2 * SOLVES) * lanes
    solution = solution.astype(np.float64)
    back = np.asarray(H[-1], np.float64) @ solution
    back[:, 1:] -= CARRIED * solution[:, :-1]
    return rated(bench, timing, flops=flops, moved=moved) | compared(back, right[-1], 1e-4)


def lanczos(bench: Bench, n: int, lanes: int, unrolled: bool) -> dict[str, Any]:
    """Steps, fully reorthogonalised; the error is that of exp(-H 10/λmax) v, which they give."""
    H = kernels(bench, n, lanes)
    start = jnp.broadcast_to(jax.random.normal(jax.random.key(4), (n,)), (lanes, n))
    order = min(STEPS, n)
    tridiagonal = partial(lanczos_steps, order=order, unrolled=unrolled)
    timing, (basis, diagonal, beside) = over_lanes(tridiagonal, H, start)
    v = np.asarray(start[-1], np.float64)
    values, vectors = host_eigh(n, bench.sizes.p)
    values = values * float(scales(lanes)[-1])
    time = 10 / values[-1]
    wide = [part.astype(np.float64) for part in (basis, diagonal, beside)]
    found = host.krylov_exponential(*wide, float(np.linalg.norm(v)), time)
    exact = vectors @ (np.exp(-time * values) * (vectors.T @ v))
    work = order * (2 * n**2 + 8 * order * n) * lanes
    moved = 4 * order * n**2 * lanes
    # H of a small n stays in the cache, so this fraction may exceed 1
    return rated(bench, timing, flops=work, moved=moved) | compared(found, exact, 1e-5)


def lanczos_steps(
    H: jax.Array, start: jax.Array, *, order: int, unrolled: bool
) -> tuple[jax.Array, ...]:
    """(basis (order, n), diagonal, entries beside it), each vector twice made orthogonal to all."""
    n = start.shape[0]

    def step(k, carry):
        basis, diagonal, beside = carry
        with jax.default_matmul_precision("highest"):
            w = H @ basis[k]
            diagonal = diagonal.at[k].set(basis[k] @ w)
            for _ in range(2):
                w = w - (basis @ w) @ basis  # rows still zero take nothing away
        length = jnp.linalg.norm(w)
        following = jnp.where(length > 0, w / length, 0.0)
        return basis.at[k + 1].set(following, mode="drop"), diagonal, beside.at[k].set(length)

    first = jnp.zeros((order, n)).at[0].set(start / jnp.linalg.norm(start))
    carry = first, jnp.zeros(order), jnp.zeros(order)
    return jax.lax.fori_loop(0, order, step, carry, unroll=unrolled or 1)

"""The Gram matrix of activation slopes, G_ij = sum_r a_r^2 sigma'(w_r . x_i) sigma'(w_r . x_j), as
a count of activation patterns.

The slope of a piecewise linear activation with one kink at 0 (ReLU, leaky ReLU, absolute value)
takes two values, so with b the 0/1 pattern of the larger one, c the common a_r^2 of M neurons
(others may be zero) and N_i = sum_r b_ri,

    G_ij / c = lo^2 M + lo (hi - lo)(N_i + N_j) + (hi - lo)^2 sum_r b_ri b_rj.

The last sum is a count, so it is exact: of packed bits on a CPU, where that is several times faster
than the dense product, elsewhere by a product of short numbers (`products.counts`). Anything else
(unequal a_r^2, a preactivation at a kink whose derivative is neither slope) takes the dense
product, at run time; so does what is small.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..products import agreed, counts, product
from .tangent import jvp

WORD = 32

FEW = 2**18
"""Terms of the sum over neurons, n1 n2 m, up to which the dense product is taken: below it was the
faster one (20 x 20 samples of 512 neurons, 50 x 50 of 100), and it compiles in a fifth of the
time."""


@functools.lru_cache(maxsize=64)
def kink(activation: Callable, dtype: np.dtype) -> tuple[float, float, float] | None:
    """(slope below 0, slope above 0, derivative by autodiff at 0) of an activation that is 0 at 0
    and linear on each side; else None."""
    # five magnitudes, chosen: what is linear at all of them to 1e-6 is taken to be
    t = np.array([1.0, 1e-3, 0.37, 2.9, 1e3])
    with jax.core.eval_context():  # out of vmap too
        z = np.concatenate([t, -t, [0.0]]).astype(dtype)
        value, slope = (np.asarray(part, float) for part in _probed(activation, z))
    up, down, zero = value[: t.size], value[t.size : -1], value[-1]
    linear = all(np.allclose(side, t * side[0], rtol=1e-6, atol=0) for side in (up, down))
    return (
        (-float(down[0]), float(up[0]), float(slope[-1]))
        if linear and not zero and (up[0] or down[0])
        else None
    )


@functools.partial(jax.jit, static_argnums=0)
def _probed(activation: Callable, z: Any) -> tuple[Array, Array]:
    """Its values and derivatives: one program, since each operation outside of one is another."""
    return jvp(activation, z, jnp.ones_like(z))


def slopes(activation: Callable, X: Array, W: Array) -> Array:
    """sigma'(X W^T), (n, m), by forward mode."""
    z = product(X, W.T)
    return jvp(activation, z, jnp.ones_like(z))[1]


def dense_gram(
    activation: Callable, X1: Array, X2: Array | None, W: Array, a: Array
) -> Float[Array, "n1 n2"]:
    """G by one matrix product."""
    left = slopes(activation, X1, W) * a[None, :]
    right = left if X2 is None else slopes(activation, X2, W) * a[None, :]
    return product(left, right.T)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def slope_gram(
    activation: Callable, X1: Array, X2: Array | None, W: Array, a: Array
) -> Float[Array, "n1 n2"]:
    """G for inputs X1 (n1, p), X2 (n2, p) or None for X1, neurons W (m, p) and a (m,). Derivatives
    are those of `dense_gram`."""
    ends = kink(activation, a.dtype)
    few = X1.shape[0] * (X1 if X2 is None else X2).shape[0] * a.size <= FEW
    if few or ends is None or ends[0] == ends[1]:
        return dense_gram(activation, X1, X2, W, a)
    low, high, at_zero = ends
    squares = jnp.square(a)
    common, alive = jnp.max(squares), squares > 0
    dense = functools.partial(dense_gram, activation)

    # everything n x m is made inside the branches: as operands they would be written out
    def counted(X1: Array, X2: Array | None, W: Array, a: Array) -> Array:
        preactivations = [product(X, W.T) for X in ((X1,) if X2 is None else (X1, X2))]
        bits = [((z >= 0) if at_zero == high else (z > 0)) & alive[None, :] for z in preactivations]
        both = jax.lax.platform_dependent(*bits, cpu=packed_counts, default=counts)
        total = (high - low) ** 2 * both.astype(a.dtype)
        if low != 0:
            each = [jnp.sum(b, axis=1, dtype=jnp.int32).astype(a.dtype) for b in bits]
            total = (
                total
                + low * (high - low) * (each[0][:, None] + each[-1][None, :])
                + low**2 * jnp.sum(alive).astype(a.dtype)
            )
        if at_zero in (low, high):
            return common * total
        kinked = functools.reduce(jnp.logical_or, [jnp.any(z == 0) for z in preactivations])
        return jax.lax.cond(agreed(~kinked), lambda *_: common * total, dense, X1, X2, W, a)

    equal = jnp.all((squares == common) | ~alive)
    return jax.lax.cond(agreed(equal), counted, dense, X1, X2, W, a)


@slope_gram.defjvp
def _(activation: Callable, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    X1, X2, W, a = primals
    if X2 is None:
        moving = lambda X1, W, a: dense_gram(activation, X1, None, W, a)
        return slope_gram(activation, *primals), jax.jvp(
            moving, (X1, W, a), (tangents[0], *tangents[2:])
        )[1]
    return slope_gram(activation, *primals), jax.jvp(
        functools.partial(dense_gram, activation), primals, tangents
    )[1]


def packed_counts(
    left: Bool[Array, "n1 m"], right: Bool[Array, "n2 m"] | None = None
) -> Int[Array, "n1 n2"]:
    """`products.counts` by population counts."""
    words = pack(left)
    return common_bits(words, words if right is None else pack(right))


def common_bits(left: Array, right: Array) -> Array:
    """sum_r left_ir right_jr for patterns packed in words (n1, m/32), (n2, m/32)."""
    columns, n = right.T, left.shape[0]
    # rows counted together: they share each load of the columns. 16 and 64 chosen, not measured.
    size = 16 if n > 64 else 1
    groups = jnp.pad(left, ((0, -n % size), (0, 0))).reshape(-1, size, left.shape[1])

    def group(words: Array) -> Array:
        by_place = words.T
        add = lambda k, total: (
            total
            + jax.lax.population_count(by_place[k][:, None] & columns[k][None, :]).astype(jnp.int32)
        )
        return jax.lax.fori_loop(
            0, columns.shape[0], add, jnp.zeros((size, columns.shape[1]), jnp.int32)
        )

    return jax.lax.map(group, groups).reshape(-1, columns.shape[1])[:n]


def pack(bits: Bool[Array, "n m"]) -> Array:
    """(n, ceil(m/32)) words, the last filled up with zeros."""
    padded = jnp.pad(bits, ((0, 0), (0, -bits.shape[1] % WORD))).reshape(bits.shape[0], -1, WORD)
    place = jnp.left_shift(jnp.uint32(1), jnp.arange(WORD, dtype=jnp.uint32))
    return jnp.sum(jnp.where(padded, place[None, None, :], jnp.uint32(0)), axis=2, dtype=jnp.uint32)

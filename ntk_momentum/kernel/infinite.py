"""The kernel H-infinity of the infinitely wide two-layer ReLU network (Facts 2.1, 2.2), for inputs
of any norm.

With theta the angle between x and x', w ~ N(0, I), a = +-1 and f scaled by m^{-1/2}:

    hidden layer:  H = x . x' (pi - theta) / (2 pi)
    output layer:  K = |x| |x'| (sin theta + (pi - theta) cos theta) / (2 pi)

The second is the arc-cosine kernel of order 1. Both behave like sqrt(1 - cos theta) near theta = 0,
so an angle from arccos of a rounded cosine loses half the digits. Here 1 -+ cos theta come from
differences of unit vectors where they are small, |u -+ v|^2 / 2, from one matrix product elsewhere,
and theta = 2 asin(sqrt((1 - cos theta) / 2)), or likewise pi - theta (Kahan), by a polynomial: the
library's inverse functions are scalar, and took nine tenths of a kernel's time.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..errors import InputError, check_choice, check_real
from ..memory import check_inputs, check_kernel

EDGE = 2.0**-8
"""Below it 1 - |cos theta| is taken from differences, above from a matrix product: round-off eps of
the cosine is eps / sqrt(2 EDGE) = 11 eps of theta, 2 eps of H beside its diagonal."""

FEW = 2**18
"""Numbers in all differences, n1 n2 p, up to which all are taken, and angles up to which the
library's arctan2 is: they cost less than compiling what is faster."""

STRIP = 2**19
"""Pairs of inputs in a strip of rows of a formed kernel: 2 MiB an array in float32."""


class Angles(NamedTuple):
    """Norms of two sets of vectors and, pair by pair, near = 1 - cos theta and far = 1 + cos theta,
    each accurate when small."""

    norm1: Float[Array, " n1"]
    norm2: Float[Array, " n2"]
    near: Float[Array, "n1 n2"]
    far: Float[Array, "n1 n2"]

    @property
    def acute(self) -> Float[Array, "n1 n2"]:
        """The smaller of theta and pi - theta, as accurate near 0 as elsewhere: the one inverse
        function that a layer needs."""
        return _arc(jnp.minimum(self.near, self.far))

    @property
    def theta(self) -> Float[Array, "n1 n2"]:
        """The angle, to absolute accuracy eps; exactly 0 for identical vectors."""
        acute = self.acute
        return jnp.where(self.near <= self.far, acute, jnp.pi - acute)

    @property
    def opening(self) -> Float[Array, "n1 n2"]:
        """pi - theta, as accurate near antipodes as theta near duplicates."""
        acute = self.acute
        return jnp.where(self.near <= self.far, jnp.pi - acute, acute)

    @property
    def cos(self) -> Float[Array, "n1 n2"]:
        """cos theta; exactly 1 for identical vectors."""
        return 0.5 * (self.far - self.near)

    @property
    def sin(self) -> Float[Array, "n1 n2"]:
        """sin theta, accurate at both ends."""
        return safe_sqrt(self.near * self.far)

    @property
    def norms(self) -> Float[Array, "n1 n2"]:
        """|x| |x'|."""
        return self.norm1[:, None] * self.norm2[None, :]


def safe_sqrt(x: Array) -> Array:
    """sqrt with derivative 0 (not infinite) at 0, which keeps gradients finite at duplicates and
    antipodes."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)


def _arc(small: Array) -> Array:
    """2 asin(sqrt(small / 2)) for 0 <= small <= 1."""
    if small.size <= FEW:
        return 2 * jnp.arctan2(safe_sqrt(small), safe_sqrt(2 - small))
    wide = jnp.finfo(small.dtype).eps < 1e-10
    series = jnp.full_like(small, 0)
    for coefficient in reversed(_arc_series(18 if wide else 8)):
        series = series * (2 * small - 1) + coefficient
    return safe_sqrt(2 * small) * series


@functools.cache
def _arc_series(degree: int) -> tuple[float, ...]:
    """asin(sqrt z)/sqrt z in powers of 4 z - 1, by interpolation on Chebyshev's nodes of [0, 1/2].

    It is analytic up to z = 1, so degree d is off by (3 + sqrt 8)^-d. Measured: 0.8 eps of float32
    with 8, 5 eps of float64 with 18.
    """
    nodes = 32
    turn = np.cos(np.pi / (2 * nodes) * np.arange(4 * nodes))  # k j is reduced exactly
    j = 2 * np.arange(nodes) + 1
    root = np.sqrt((1 + turn[j]) / 4)
    values = np.arcsin(root) / root
    series = [2 / nodes * math.fsum(values * turn[k * j % turn.size]) for k in range(degree + 1)]
    series[0] /= 2
    return tuple(float(c) for c in np.polynomial.chebyshev.cheb2poly(series))


def angles(x1: Float[Array, "n1 p"], x2: Float[Array, "n2 p"], at: Any) -> Angles:
    """Angles between all pairs; x1_i is x2_{i + at}, where there is one."""
    (norm1, u), (norm2, v) = directions(x1), directions(x2)
    with jax.default_matmul_precision("highest"):
        cos = u @ v.T
    # where nothing is itself XLA finds another program, four times slower: so `at` is traced
    own = jnp.arange(len(u))[:, None] + at == jnp.arange(len(v))[None, :]
    itself = own & (norm1 > 0)[:, None]

    def differences(u: Array, cos: Array) -> tuple[Array, Array]:
        # |u -+ v|^2 / 2, the sign chosen so that the small one is the accurate one
        sign = jnp.where(cos < 0, -1.0, 1.0).astype(u.dtype)
        small = 0.5 * jnp.sum(jnp.square(u[None, :] - sign[:, None] * v), axis=1)
        return jnp.where(cos < 0, 2 - small, small), jnp.where(cos < 0, small, 2 - small)

    def refined(cos: Array, near: Array, far: Array) -> tuple[Array, Array]:
        # a table whose rows point one way: by a product too, of what differs from their mean,
        # with round-off eps times spread, so of 3 eps in theta while |u - v| > spread / 3
        mean = jnp.mean(v, axis=0, keepdims=True)
        du, dv = u - mean, v - mean
        spread = 0.5 * (jnp.sum(jnp.square(du), 1)[:, None] + jnp.sum(jnp.square(dv), 1)[None, :])
        with jax.default_matmul_precision("highest"):
            small = spread - du @ dv.T
        close = ~itself & (1 - jnp.abs(cos) < EDGE)
        known = (cos > 0) & (spread < 0.5) & (small > jnp.square(spread) / 16)
        near, far = jnp.where(known, small, near), jnp.where(known, 2 - small, far)
        # what is closer still row by row: (n2, p) differences live at once, never (n1, n2, p)
        left = jnp.any(close & ~known, axis=1)
        keep = lambda left, u, cos, *sums: sums
        row = lambda row: jax.lax.cond(
            row[0], lambda _, u, cos, *sums: differences(u, cos), keep, *row
        )
        rows = left, u, cos, near, far
        return jax.lax.cond(jnp.any(left), lambda *rows: jax.lax.map(row, rows), keep, *rows)

    if cos.size * u.shape[1] <= FEW:
        near, far = jax.vmap(differences)(u, cos)
    else:
        near, far = jax.lax.cond(
            jnp.any(~itself & (1 - jnp.abs(cos) < EDGE)),
            refined,
            lambda _, *sums: sums,
            *(cos, 1 - cos, 1 + cos),
        )
    return Angles(norm1, norm2, jnp.where(itself, 0.0, near), jnp.where(itself, 2.0, far))


def by_strips(of: Callable[[Angles], Array], x1: Array, x2: Array | None) -> Array:
    """of(angles), a kernel (n1, n2) of all pairs, formed in strips of rows where they are many."""
    others = x1 if x2 is None else x2
    pairs = len(x1) * len(others)
    none = -len(x1) - len(others)
    if pairs <= FEW:
        return of(angles(x1, others, 0 if x2 is None else none))
    rows = -(-len(x1) // max(2, -(-pairs // STRIP)))  # as even as they come; a loop of one is none
    blocks = blocks_of(x1, rows)
    at = rows * jnp.arange(len(blocks)) + (0 if x2 is None else 2 * none)
    strips = jax.lax.map(lambda strip: of(angles(strip[0], others, strip[1])), (blocks, at))
    return strips.reshape(-1, len(others))[: len(x1)]


@jax.jit
def symmetrised(K: Array) -> Array:
    """(K + K^T)/2. Not in the program of K itself, which may compute an entry again for the
    transpose, one bit different."""
    return 0.5 * (K + jax.lax.optimization_barrier(K.T))


def blocks_of(x: Array, rows: int) -> Float[Array, "blocks rows p"]:
    """Inputs in blocks, padded by zeros."""
    return jnp.pad(x, ((0, -len(x) % rows), (0, 0))).reshape(-1, rows, x.shape[1])


def directions(x: Float[Array, "n p"]) -> tuple[Float[Array, " n"], Float[Array, "n p"]]:
    """Norms, and unit vectors; zero where x is."""
    norm = safe_sqrt(jnp.sum(jnp.square(x), axis=1))
    return norm, x / jnp.where(norm > 0, norm, 1.0)[:, None]


def infinite_ntk(x1: Any, x2: Any = None, *, trainable: str | None = None) -> Float[Array, "n1 n2"]:
    """The kernel of the infinitely wide two-layer ReLU network in closed form, for inputs of any
    norm.

        hidden layer:  H = x . x' (pi - theta) / (2 pi)                               (Fact 2.1)
        output layer:  K = |x| |x'| (sin theta + (pi - theta) cos theta) / (2 pi)

    with theta the angle of x and x'. The diagonal is |x|^2 / 2 (hidden, output) or |x|^2 (all) to
    round-off, the absolute error a few eps times |x| |x'| at every angle. Symmetric to the last bit
    when x2 is None; gradients are finite at duplicates. Source of the second: Cho and Saul (2009).

    Args:
        x1: Inputs, (n1, ...).
        x2: Inputs, (n2, ...); None means x1.
        trainable: None or "hidden" (the paper's), "output" or "all" (their sum).

    Returns:
        (n1, n2).

    Raises:
        InputError: If the inputs are not finite rows of one size, or the layer's name is not known.

    Examples:
        >>> nm.infinite_ntk(jnp.eye(2)).tolist()
        [[0.5, 0.0], [0.0, 0.5]]
    """
    if trainable is not None:
        check_choice("trainable", trainable, ("hidden", "output", "all"))
    check_kernel("the kernel", x1, x2, 3)
    x1 = rows("x1", x1)
    x2 = None if x2 is None else rows("x2", x2)
    if x2 is not None and x1.shape[1] != x2.shape[1]:
        raise InputError(
            f"x1 and x2 must hold inputs of one size, got {x1.shape[1]} and {x2.shape[1]} "
            "numbers; give one input per row."
        )
    K = _infinite_ntk(x1, x2, trainable or "hidden")
    return K if x2 is not None else symmetrised(K)


@functools.partial(jax.jit, static_argnums=2)
def _infinite_ntk(x1: Array, x2: Array | None, layers: str) -> Array:
    return by_strips(lambda pairs: of_pairs(pairs, layers), x1, x2)


def of_pairs(pairs: Angles, layers: str) -> Float[Array, "n1 n2"]:
    """The kernel of hidden, output or all layers between vectors at these angles."""
    K = jnp.zeros_like(pairs.near)
    if layers in ("hidden", "all"):
        K = K + pairs.cos * pairs.opening
    if layers in ("output", "all"):
        K = K + pairs.sin + pairs.opening * pairs.cos
    return pairs.norms * K / (2 * jnp.pi)


def rows(name: str, x: Any) -> Float[Array, "n p"]:
    """Inputs (n, ...) as real rows (n, p), checked."""
    check_inputs(name, x)
    check_real(name, x)
    x = jnp.asarray(x)
    if x.ndim < 2 or x.size == 0:
        raise InputError(
            f"{name} must have shape (n, p) or (n, ...) with n, p >= 1, got {x.shape}; "
            "give one input per row."
        )
    x = jnp.reshape(x, (x.shape[0], -1))
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(float)

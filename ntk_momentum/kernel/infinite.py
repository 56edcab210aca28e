"""The kernel H-infinity of the infinitely wide two-layer ReLU network (Facts 2.1, 2.2), for inputs
of any norm.

With theta the angle between x and x', w ~ N(0, I), a = +-1 and f scaled by m^{-1/2}:

    hidden layer:  H = x . x' (pi - theta) / (2 pi)
    output layer:  K = |x| |x'| (sin theta + (pi - theta) cos theta) / (2 pi)

The second is the arc-cosine kernel of order 1. Both behave like sqrt(1 - cos theta) near theta = 0,
so an angle from arccos of a rounded cosine loses half the digits. Here 1 -+ cos theta come from
differences of unit vectors and theta = 2 atan2(sqrt(1 - cos theta), sqrt(1 + cos theta)) (Kahan).
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..errors import InputError, check_choice, check_real
from ..memory import check_inputs, check_kernel


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
        narrow = self.near <= self.far
        small = jnp.where(narrow, self.near, self.far)
        large = jnp.where(narrow, self.far, self.near)
        return 2 * jnp.arctan2(safe_sqrt(small), safe_sqrt(large))

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


def angles(x1: Float[Array, "n1 p"], x2: Float[Array, "n2 p"]) -> Angles:
    """Angles between all pairs. One pass of differences |u -+ v|^2 / 2, the sign chosen so that the
    small one is the accurate one."""
    (norm1, u), (norm2, v) = directions(x1), directions(x2)
    sign = jnp.where(u @ v.T < 0, -1.0, 1.0).astype(u.dtype)
    # row by row: (n2, p) differences live at once, never (n1, n2, p)
    small = jax.lax.map(
        lambda row: 0.5 * jnp.sum(jnp.square(row[0][None, :] - row[1][:, None] * v), axis=1),
        (u, sign),
    )
    large = 2 - small
    return Angles(
        norm1, norm2, jnp.where(sign > 0, small, large), jnp.where(sign > 0, large, small)
    )


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
    return _infinite_ntk(x1, x2, trainable or "hidden")


@functools.partial(jax.jit, static_argnums=2)
def _infinite_ntk(x1: Array, x2: Array | None, layers: str) -> Array:
    K = of_pairs(angles(x1, x1 if x2 is None else x2), layers)
    return K if x2 is not None else 0.5 * (K + K.T)


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

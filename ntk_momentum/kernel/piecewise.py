"""Moments E[phi(u) phi(v)] and E[phi'(u) phi'(v)] of continuous piecewise-linear activations with
kinks anywhere, (u, v) ~ N(0, Sigma).

With phi(z) = c + s z + sum_k J_k (z - t_k)_+, standardised kinks h_k = t_k/|u|, h'_l = t_l/|v| and
theta the angle of (u, v), Plackett's identity for the orthant probability P(u > t_k, v > t_l) gives

    E[phi' phi'](theta) = E[phi' phi'](0) - (1/2 pi) int_0^theta g,
    g(psi) = sum_kl J_k J_l exp(-(h_k - h'_l)^2 / (2 sin^2 psi) - h_k h'_l / (1 + cos psi)),

and d E[phi phi]/d theta = -|u||v| sin theta E[phi' phi']. So both are one integral of g, and
one-dimensional moments at theta = 0. Beyond pi/2, v is replaced by -v and phi by its mirror image.
(Plackett 1954; Drezner and Wesolowsky 1990.)
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from .infinite import Angles, safe_sqrt

_FAR = 40.0
"""Kinks further out, in standard deviations, are never reached: exp(-40^2/2) = 1e-347 is zero."""
_EDGES = (*range(13), 16, 24, 40)
"""Panels of y in psi = theta exp(-y): g may switch on at any psi near 0, where |u| and |v| almost
agree; what lies beyond exp(-40) = 4e-18 of theta is below round-off."""
_NODES = 10
"""Gauss nodes in a panel. Measured against 60 (hard tanh, norms from 0.1 to 10, near-duplicates):
E[phi' phi'] is off by 2e-8 with 6, 1e-10 with 8, 8e-12 with 10 and 1e-12 with 12."""


Sums = tuple[Array, Array]


class Pieces(NamedTuple):
    """phi(z) = intercept + slope z + sum_k jumps_k (z - kinks_k)_+."""

    intercept: float
    slope: float
    kinks: tuple[float, ...]
    jumps: tuple[float, ...]

    def mirror(self) -> Pieces:
        """z -> phi(-z)."""
        at_zero = self.intercept - sum(j * t for j, t in zip(self.jumps, self.kinks, strict=True))
        return Pieces(
            at_zero, -self.slope - sum(self.jumps), tuple(-t for t in self.kinks), self.jumps
        )


@functools.lru_cache(maxsize=64)
def pieces(activation: Callable, dtype: np.dtype, most: int = 16) -> Pieces | None:
    """The pieces of an activation that is continuous and piecewise linear with at most `most` kinks
    in (-30, 30); None for any other."""
    # cells of 1/64, exact in binary: chosen, not measured; two kinks within three of them are not
    # told apart, and such an activation is then not taken for piecewise linear
    z = np.linspace(-32.0, 32.0, 2**12 + 1)
    with jax.ensure_compile_time_eval():
        value = np.asarray(jax.jit(activation)(z.astype(dtype)), float)
    if value.shape != z.shape or not np.isfinite(value).all():
        return None
    slopes = np.diff(value) / np.diff(z)
    tolerance = 64 * np.finfo(dtype).eps * (1 + np.abs(value).max())
    breaks = np.flatnonzero(np.abs(np.diff(slopes)) > tolerance / np.diff(z)[0])
    if breaks.size > 3 * most:
        return None
    # runs of cells with one slope, without their first and last, which may hold a kink
    ends = zip(np.r_[0, breaks + 1], np.r_[breaks + 1, slopes.size], strict=True)
    runs = [(a + 1, b - 1) for a, b in ends if b - a > 2]
    lines = [((value[b] - value[a]) / (z[b] - z[a]), a) for a, b in runs]
    lines = [(slope, value[a] - slope * z[a]) for slope, a in lines]
    kinks, jumps = [], []
    for (s, c), (t, d) in itertools.pairwise(lines):
        if abs(t - s) <= tolerance:
            return None
        kinks.append((d - c) / (s - t))
        jumps.append(t - s)
    # a round number is what was meant: the crossing of two fitted lines carries their round-off
    kinks = [
        round(t, 4) + 0.0 if abs(t - round(t, 4)) < 256 * np.finfo(dtype).eps else t for t in kinks
    ]
    found = Pieces(
        float(lines[0][1]), float(lines[0][0]), tuple(map(float, kinks)), tuple(map(float, jumps))
    )
    again = (
        found.intercept
        + found.slope * z
        + sum(j * np.maximum(z - t, 0) for j, t in zip(jumps, kinks, strict=True))
    )
    good = kinks and len(kinks) <= most and np.abs(again - value).max() <= tolerance
    return found if good else None


def piecewise_linear(left: Pieces) -> Callable[[Angles], tuple[Angles, Array]]:
    """Maps the law of (u, v) to that of (phi(u), phi(v)) and to E[phi'(u) phi'(v)], by 150
    evaluations of g for each pair."""
    right = left.mirror()

    def dual(law: Angles) -> tuple[Angles, Array]:
        flip = law.far < law.near
        r1, r2 = law.norm1[:, None], law.norm2[None, :]
        angle, small = law.acute, jnp.minimum(law.near, law.far)
        together, mirrored = _aligned(left, left, r1, r2), _aligned(left, right, r1, r2)
        cross, slopes = (jnp.where(flip, b, a) for a, b in zip(together, mirrored, strict=True))
        whole, weighted = _integrals(
            left, r1, r2, jnp.where(flip, -1.0, 1.0).astype(r1.dtype), angle, small
        )
        drop = law.norms * (small * slopes - weighted)
        slopes = slopes - whole

        norm1, norm2 = safe_sqrt(_variance(left, law.norm1)), safe_sqrt(_variance(left, law.norm2))
        product = norm1[:, None] * norm2[None, :]
        # 1 - cos: exactly its own integral where |u| = |v|, so that a diagonal stays one
        apart = jnp.where(flip | (r1 != r2), product - cross, 0.0) + drop
        divisor = jnp.where(product > 0, product, 1)
        near = jnp.where(product > 0, jnp.clip(apart / divisor, 0, 2), 1)
        return Angles(norm1, norm2, near, 2 - near), jnp.where(flip, -slopes, slopes)

    return dual


def _variance(f: Pieces, r: Float[Array, " n"]) -> Float[Array, " n"]:
    return _aligned(f, f, r, r)[0]


def _standard(t: float, r: Array) -> Array:
    return jnp.clip(t / jnp.maximum(r, 1e-30), -_FAR, _FAR)


def _aligned(f: Pieces, g: Pieces, r: Array, q: Array) -> tuple[Array, Array]:
    """(E[f(r z) g(q z)], E[f'(r z) g'(q z)]), z ~ N(0, 1)."""
    tail, density = norm.sf, norm.pdf
    mean = lambda h: density(h) - h * tail(h)  # E (z - h)_+
    H = [(J * r, J, _standard(t, r)) for t, J in zip(f.kinks, f.jumps, strict=True)]
    K = [(J * q, J, _standard(t, q)) for t, J in zip(g.kinks, g.jumps, strict=True)]
    value = f.intercept * g.intercept + f.slope * g.slope * r * q
    slope = jnp.full(jnp.broadcast_shapes(r.shape, q.shape), f.slope * g.slope, r.dtype)
    for a, J, h in H:
        value = value + a * (g.intercept * mean(h) + g.slope * q * tail(h))
        slope = slope + J * g.slope * tail(h)
    for b, J, k in K:
        value = value + b * (f.intercept * mean(k) + f.slope * r * tail(k))
        slope = slope + f.slope * J * tail(k)
    for a, J, h in H:
        for b, I, k in K:
            top = jnp.maximum(h, k)
            value = value + a * b * ((1 + h * k) * tail(top) + density(top) * (top - h - k))
            slope = slope + J * I * tail(top)
    return value, slope


def _integrals(
    f: Pieces, r: Array, q: Array, sign: Array, angle: Array, small: Array
) -> tuple[Array, Array]:
    """(1/2 pi) int_0^angle of g and of g (cos psi - cos angle); small = 1 - cos angle.

    The second gives E[phi phi]: with S(theta) = E[phi' phi'] and S(theta) = S(0) - G(theta), parts
    turn int_0^theta sin psi S(psi) dpsi into (1 - cos theta) S(0) - int_0^theta g (cos psi - cos
    theta)/(2 pi), no difference of nearly equal numbers.

    Where kinks h and k differ, g switches on like exp(-(h - k)^2/(2 psi^2)) at a psi that may be
    anywhere between 0 and theta. In y = log(theta/psi) that front has always the same shape, about
    one panel wide: dpsi = -psi dy turns the integral into one of g psi over [0, 40].
    """
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    low, wide = np.asarray(_EDGES[:-1], float)[:, None], np.diff(_EDGES)[:, None]
    y = (low + wide * (1 + nodes) / 2).ravel()
    share = np.exp(-y)
    weight = (wide / 2 * weights).ravel() * share

    def add(total: Sums, node: Sums) -> tuple[Sums, None]:
        share, weight = node
        # (1 - cos psi)/2, from which 1 + cos psi and sin^2 psi follow without cancellation
        below = jnp.square(jnp.sin(0.5 * angle * share))
        apart = -1 / jnp.maximum(
            8 * below * (1 - below), jnp.finfo(below.dtype).tiny
        )  # -1/(2 sin^2 psi)
        joint = -0.5 / (1 - below)  # -1/(1 + cos psi)
        g = jnp.zeros_like(below)
        for t, J in zip(f.kinks, f.jumps, strict=True):
            h = _standard(t, r)
            for u, I in zip(f.kinks, f.jumps, strict=True):
                k = sign * _standard(u, q)
                g = g + J * I * jnp.exp(jnp.square(h - k) * apart + h * k * joint)
        g = g * weight * angle / (2 * jnp.pi)
        return (total[0] + g, total[1] + g * (small - 2 * below)), None

    zero = jnp.zeros_like(angle)
    return jax.lax.scan(
        add, (zero, zero), (jnp.asarray(share, angle.dtype), jnp.asarray(weight, angle.dtype))
    )[0]

"""One step of a flow with the Jacobian frozen, in closed form for each eigenvalue of H = J J^T.

Let phi be the response of the eigenvalue lambda from rest and psi that to a unit velocity, over the
step from t to t + h, and c_w and c_v what psi and psi' are without force. The step is

    Delta(t+h) = phi Delta + psi J v,                  (J v)(t+h) = phi' Delta + psi' J v,
    Q = (1 - phi)/lambda Delta + (c_w - psi)/lambda J v,
    R = -phi'/lambda Delta + (c_v - psi')/lambda J v

with Q and R the impulses of `FrozenStep`. The quotients are entire functions of lambda, divided
differences between lambda and 0, and are computed without their cancellation.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .special import oscillation

_product = functools.partial(jnp.einsum, precision="highest")
Number = Any  # as in `base`, which imports this file
_One = Float[Array, ""]
_Row = Float[Array, " n"]


class FrozenStep(NamedTuple):
    """A step of length h with the Jacobian J frozen, in the eigenbasis of H = J J^T.

    w(t+h) = w + carry_w v - J^T U impulse_w and v(t+h) = carry_v v - J^T U impulse_v; residual and
    velocity are the exact Delta and J v at t+h, in the eigenbasis, shape (n,).
    """

    residual: Float[Array, " n"]
    velocity: Float[Array, " n"]
    impulse_w: Float[Array, " n"]
    impulse_v: Float[Array, " n"]
    carry_w: Float[Array, ""]
    carry_v: Float[Array, ""]


def mean_decay(r: Array) -> Array:
    """(1 - exp(-r))/r, the mean of exp(-r s) over s in [0, 1]."""
    # below 1/10 the first missing term of the series is 0.1^9/10! = 3e-16
    near = jnp.abs(r) < 0.1
    small, large = jnp.where(near, r, 0.0), jnp.where(near, 1.0, r)
    series = jnp.ones_like(small)
    for k in range(9, 1, -1):
        series = 1 - small / k * series
    return jnp.where(near, series, -jnp.expm1(-large) / large)


def relaxed(lam: _Row, _: _One, h: _One, residual: _Row, velocity: _Row) -> FrozenStep:
    """A step of w' = -grad L, so of Delta' = -lambda Delta."""
    after, nothing = jnp.exp(-lam * h) * residual, jnp.zeros_like(h)
    impulse = h * mean_decay(lam * h) * residual
    return FrozenStep(after, -lam * after, impulse, jnp.zeros_like(velocity), nothing, nothing)


_NEAR = np.array(
    [[[1 / math.factorial(2 * (i + j) + c) for j in range(10)] for i in range(10)] for c in (2, 3)]
)  # the first missing term is 11/22! = 1e-20


def damped(
    b: Number,
    pull: Number,
    lam: _Row,
    _: _One,
    h: _One,
    residual: _Row,
    velocity: _Row,
) -> FrozenStep:
    """A step of w'' + b w' + pull grad L = 0, so of Delta'' + b Delta' + pull lambda Delta = 0, in
    every regime.

    In units of h, with the roots -a +- s of a = b/2 and s^2 = a^2 - x, x = pull lambda, all are
    divided differences of exp: psi at the two roots, (1 - phi)/x also at 0, (c_v - psi')/x also at
    -b, and (c_w - psi)/x at all four. In float64 to 2e-15 of their size at lambda = 0 for x and b
    up to 1, and to round-off of their phase for any.
    """
    a, x = jnp.asarray(b, lam.dtype) * h / 2, pull * lam * h * h
    turn = oscillation(x, 2 * a, jnp.ones_like(h))
    phi, psi = turn.cos + a * turn.sinc, turn.sinc
    carry_w, carry_v = mean_decay(2 * a), jnp.exp(-2 * a)

    # Near: differences of cosh s and sinh(s)/s as functions of s^2, between v = s^2 and u = a^2, by
    # their series sum_ij u^i v^j/(2i + 2j + 2)! and /(2i + 2j + 3)!.
    u, v = a * a, a * a - x
    near = (u <= 1) & (x < 1)
    u, v = jnp.where(u <= 1, u, 0.0), jnp.where(near, v, 0.0)
    powers = jnp.cumprod(jnp.where(jnp.arange(10) == 0, 1.0, u))
    cosh, sinch = _powers(_product("cij,i->cj", jnp.asarray(_NEAR, lam.dtype), powers), v[None])
    envelope = jnp.exp(-a)
    close = envelope * (cosh + a * sinch), envelope * (cosh - a * sinch), envelope * sinch

    # Overdamped: first differences between 0 and the slow, the two, the fast root and -b; the
    # second ones divide by the fast root, the third by b >= 2, and nothing cancels.
    over = turn.real & ~near
    fast = jnp.where(over, turn.fast, 1.0)
    first = mean_decay(jnp.where(over, turn.slow, 1.0))
    high = (first - psi) / fast
    low = (psi - jnp.exp(-fast) * first) / fast
    dpsi = jnp.where(
        over, jnp.exp(-fast) - jnp.where(over, turn.slow, 0.0) * psi, turn.cos - a * turn.sinc
    )
    apart = high, low, (high - low) / jnp.where(a >= 1, 2 * a, 1.0)

    # Underdamped, far from 0: the quotients themselves.
    size = jnp.where(over | near, 1.0, x)
    plain = (1 - phi) / size, (carry_v - dpsi) / size, (carry_w - psi) / size

    rested, kicked, moved = (
        jnp.where(near, one, jnp.where(over, two, three))
        for one, two, three in zip(close, apart, plain, strict=True)
    )
    return FrozenStep(
        phi * residual + h * psi * velocity,
        -pull * lam * h * psi * residual + dpsi * velocity,
        pull * h**2 * (rested * residual + h * moved * velocity),
        pull * h * (psi * residual + h * kicked * velocity),
        h * carry_w,
        carry_v,
    )


class _Tables(NamedTuple):
    """f_k(x) = 0F1(; k + 1/2; -x/4), f_0 = cos X, f_1 = sin X / X at X = sqrt(x), by powers.

    near: (terms + 2, J), f_k = sum_j near_kj (-x/edge)^j, for x < edge;
    far: (2, terms + 2, M), f_k = sum_m (far_0km cos X + far_1km sin X / X) (edge/x)^m beyond.
    """

    edge: float
    near: np.ndarray
    far: np.ndarray


@functools.cache
def _tables(double: bool) -> _Tables:
    # Up to the edge the power series loses I_0(sqrt(edge)) = 1e5 (1e2 in single precision) of
    # round-off to cancellation; beyond it the expansion at infinity, cut where it is best, is wrong
    # by exp(-2 sqrt(lambda) t) at most, and sqrt(lambda) t >= sqrt(edge) where h <= t.
    # h <= 2t asks for eta <= 1/3, and 3^-25 = 1e-12, 3^-19 = 9e-10.
    edge, terms, J, M = (196, 24, 33, 15) if double else (36, 18, 19, 8)
    near, far = np.ones((terms + 2, J)), np.zeros((2, terms + 2, M))
    j = np.arange(J - 1)
    for k in range(terms + 2):
        near[k, 1:] = np.cumprod(edge / 4 / ((j + 1) * (k + 0.5 + j)))
    # f_{k+2} = (f_{k+1} - f_k) (2k + 1)(2k + 3)/x, in exact arithmetic as it cancels
    rows = [[[Fraction(int(k == c))] for c in range(2)] for k in range(2)]
    for k in range(terms):
        factor = Fraction((2 * k + 1) * (2 * k + 3), edge)
        gaps = [
            [a - b for a, b in zip(p + [0] * len(q), q + [0] * len(p), strict=True)]
            for p, q in zip(rows[k + 1], rows[k], strict=True)
        ]
        rows.append([[Fraction(0), *(factor * gap for gap in line)][:M] for line in gaps])
    for k, pair in enumerate(rows):
        for c, line in enumerate(pair):
            far[c, k, : len(line)] = [float(value) for value in line]
    return _Tables(edge, near, far)


def fading(d: Number, lam: _Row, t: _One, h: _One, residual: _Row, velocity: _Row) -> FrozenStep:
    """A step of w'' + (d/t) w' + grad L = 0, so of Delta'' + (d/t) Delta' + lambda Delta = 0.

    With y = t^(d/2) Delta that is y'' + (lambda - mu (mu + 1)/t^2) y = 0, mu = d/2 - 1, whose
    Riemann function is Legendre's P_mu (Euler, Poisson, Darboux): with T = t + h,

        psi = (t/T)^(d/2) int_0^h cos(sqrt(lambda) s) P_mu(1 - 2y) ds,   y = -(h^2 - s^2)/(4 t T),

    and -phi'/lambda is the same integral with mu = d/2. The powers of h^2 - s^2 have the integrals
    of Poisson, h^(2k+1) f_{k+1}(lambda h^2) with f_k = 0F1(; k + 1/2; -x/4) up to a factor, so that

        psi = h sum_k A_k f_{k+1},   A_{k+1}/A_k = 2 eta (mu - k)(mu + 1 + k)/((k + 1)(2k + 3)),

    eta = h^2/(4 t T), A_0 = (t/T)^(d/2), and d/dh (h^(2k+1) f_{k+1}) = (2k + 1) h^(2k) f_k gives
    psi' and phi = (-phi'/lambda)' + (d/T)(-phi'/lambda). At t = 0, phi = 0F1(; (d+1)/2; -x/4).

    Assumes h <= 2t and h <= 6t/d, or t = 0 and x = lambda h^2 below 196, in float32 36; NaN beyond.
    Measured against Bessel functions, in each function's size at lambda = 0, d from 0.3 to 64: to
    2e-12 in float64 and 1e-5 in float32, for x from 0 to 1e8 where h <= t, and below these limits
    for longer steps; beyond them, these are wrong by exp(-2 sqrt(lambda) t) more.
    """
    dtype, d = lam.dtype, jnp.asarray(d, lam.dtype)
    tables = _tables(dtype == jnp.float64)
    edge, x, started = tables.edge, (lam * h * h)[None], t > 0
    # at t = 0 what is not used there is that of no step at all: finite, with its derivatives
    safe, length = jnp.where(started, t, 1.0), jnp.where(started, h, 0.0)
    end = safe + length
    eta, share = length**2 / (4 * safe * end), length / end
    # Running products for all powers at once: A for mu = d/2 and d/2 - 1, the series at t = 0.
    j = jnp.arange(tables.near.shape[1] - 1, dtype=dtype)
    mu, c = jnp.stack([d / 2, d / 2 - 1])[:, None], (d + 1) / 2
    ratios = 2 * eta * (mu - j[None]) * (mu + 1 + j[None]) / ((j + 1) * (2 * j + 3))[None]
    ratios = jnp.concatenate([ratios, (edge / 4 / ((j + 1) * (c + j)))[None]])
    products = jnp.cumprod(jnp.pad(ratios, ((0, 0), (1, 0)), constant_values=1.0), axis=1)
    k = jnp.arange(tables.near.shape[0] - 1, dtype=dtype)
    A = (safe / end) ** (d / 2) * products[:2, : len(k)]
    # Coefficients of the f_k in phi, psi', -phi'/(h lambda) and psi/h.
    after = share * (jnp.stack([d / 2, -d / 2])[:, None] - k[None]) * A
    before = jnp.pad((2 * k + 1)[None] * A, ((0, 0), (0, 1)))
    weights = jnp.concatenate([before, jnp.zeros_like(before)]) + (
        jnp.pad(jnp.concatenate([after, A]), ((0, 0), (1, 0)))
    )
    far = _product("fk,ckm->cfm", weights, jnp.asarray(tables.far, dtype))
    near = _product("fk,kj->fj", weights, jnp.asarray(tables.near, dtype))
    still = jnp.zeros_like(near[0])
    rest, ahead = products[2], products[2] / (2 * c + 2 * jnp.arange(len(still), dtype=dtype))
    near = jnp.where(started, near, jnp.stack([rest, still, ahead, still]))

    small = x < edge
    low, high = jnp.where(small, x, 0.0), jnp.where(small, edge, x)
    at_zero = near[:, :1]
    # (value at lambda = 0 less the value)/x: the series without its first power
    drop = _powers(near[:, 1:], -low / edge) / edge
    cos, sinc = (_powers(part, edge / high) for part in far)
    turned = jnp.cos(jnp.sqrt(high)) * cos + jnp.sin(jnp.sqrt(high)) / jnp.sqrt(high) * sinc
    value = jnp.where(small, at_zero - low * drop, turned)
    rested, kicked, _, moved = jnp.where(small, drop, (at_zero - turned) / high)
    known = jnp.where(started, h <= 1.01 * longest_step(d, t), small)
    phi, dpsi, push, psi = jnp.where(known, value, jnp.nan)
    # c_v = (t/T)^d, and c_w its integral over T
    log = jnp.log1p(length / safe)
    carry_w = jnp.where(started, safe * log * mean_decay((d - 1) * log), 0.0)
    return FrozenStep(
        phi * residual + h * psi * velocity,
        -lam * h * push * residual + dpsi * velocity,
        h**2 * (rested * residual + h * moved * velocity),
        h * (push * residual + h * kicked * velocity),
        carry_w,
        jnp.where(started, jnp.exp(-d * log), 0.0),
    )


def longest_step(d: Number, t: Number) -> Array:
    """The longest step that `fading` takes from t > 0."""
    return t * jnp.minimum(2.0, 6.0 / d)


def _powers(rows: Float[Array, "f J"], x: Float[Array, "1 n"]) -> Float[Array, "f n"]:
    """sum_j rows[:, j] x^j."""
    total = rows[:, -1:] + jnp.zeros_like(x)
    for j in range(rows.shape[1] - 2, -1, -1):
        total = rows[:, j, None] + x * total
    return total

"""Special functions of the constant-kernel theory: the exact response of one kernel eigenvalue to a
flow with momentum.

`damped_oscillator` solves the scalar form of (3.5), `nesterov_oscillator` that of (4.3), both
started at rest at 1 and both analytic in the eigenvalue, so they differentiate through critical
damping and through zero. `kappa` and `decay_constant` are the constants of the sharp t^{-d} law
that stands behind Theorem 3.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.scipy.special import gammaln
from jaxtyping import Array, ArrayLike, Float, Real

from ..errors import InputError, check_positive, concrete

LARGEST_D = 64.0  # the recurrences are sized, and tested, up to here

_LARGEST_SHIFT = math.ceil(LARGEST_D / 2) + 4  # derivatives in s ask for d + 2, d + 4, ...
_HANKEL_FROM = 18.0  # e^{-2s}, what no number of Hankel's terms can better, is 2e-16
_HANKEL_TERMS = 24  # the 25th is 2.4e-16 at s = 18 and nu = 0, its largest
_SEED_RATIO = 1.5  # the seed series sees at most (s/2)^2 / order of this size: no cancellation
_SEED_TERMS = 20  # 1.5^21/21! = 1e-16
_UNROLL = 4  # chosen, not measured: see `_fold`
# pi/2 in parts, all but the last short enough that their products with a count of quarter turns are
# exact (Cody and Waite 1980)
_QUARTER_SINGLE = (1.5703125, 4.837512969970703125e-4, 7.54978995489188216e-8)
_QUARTER_DOUBLE = (1.57079625129699707031, 7.54978941586159635335e-8, 5.39030285815811905290e-15)
_STEPS = math.ceil((_LARGEST_SHIFT + 2.5) ** 2 / 4 / _SEED_RATIO - _LARGEST_SHIFT)


Pair = tuple[Array, Array]
Carry = TypeVar("Carry", bound=tuple[Array, ...])


def _promote(*values: ArrayLike) -> list[Array]:
    dtype = jnp.result_type(*values, float)
    return [jnp.asarray(value, dtype) for value in values]


def damped_oscillator(
    stiffness: Real[ArrayLike, "*#s"], friction: Real[ArrayLike, "*#s"], t: Real[ArrayLike, "*#s"]
) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
    """(phi, dphi/dt) of x'' + b x' + lambda x = 0, x(0) = 1, x'(0) = 0, in every regime;
    broadcasts.

    phi = exp(-at) (C + a t S), dphi/dt = -lambda t exp(-at) S with a = b/2, z = (lambda - a^2) t^2,
    C = cos sqrt z and S = sin(sqrt z)/sqrt z. Assumes b, t >= 0 and lambda >= 0 up to round-off.
    """
    lam, b, t = _promote(stiffness, friction, t)
    rank = max(lam.ndim, b.ndim, t.ndim)
    # never broadcast: what belongs to the eigenvalue is computed once for all times
    lam, b, t = (v.reshape((1,) * (rank - v.ndim) + v.shape) for v in (lam, b, t))
    turn = oscillation(lam, b, t)
    return turn.cos + b / 2 * t * turn.sinc, -lam * t * turn.sinc


class Oscillation(NamedTuple):
    """exp(-at) C and exp(-at) S of `damped_oscillator`; whether the roots -slow, -fast are real,
    and if so they."""

    cos: Array
    sinc: Array
    real: Array
    slow: Array
    fast: Array


@jax.jit
def oscillation(lam: Array, b: Array, t: Array) -> Oscillation:
    """What `damped_oscillator` is made of; lam, b and t of one dtype."""
    a, double = b / 2, b.dtype == jnp.float64
    # lambda - a^2 with an exact square: each product of half-length factors is free of rounding.
    high = jax.lax.stop_gradient(jax.lax.reduce_precision(a, *((11, 25) if double else (8, 11))))
    low = a - high
    discriminant = ((lam - high * high) - 2 * high * low) - low * low
    s = jnp.sqrt(jnp.where(discriminant == 0, 1.0, jnp.abs(discriminant)))
    slow = jnp.where(
        discriminant < 0, lam / (a + s), a
    )  # (a - s) = lambda/(a + s) keeps the slow rate exact

    z = discriminant * t * t
    near, under = jnp.abs(z) < 1, z >= 1
    st = jnp.where(near, 1.0, s * t)
    over = jnp.logical_not(near | under)

    # One series serves |z| < 1 and, after quarter turns, every phase.
    quarters = jax.lax.stop_gradient(jnp.round(st * (2 / jnp.pi)))
    phase = st
    for part in _QUARTER_DOUBLE if double else _QUARTER_SINGLE:
        phase = phase - quarters * part
    phase = jnp.clip(
        phase, -1.0, 1.0
    )  # a phase too large for its dtype carries no digit, but stays bounded
    argument = jnp.where(near, z, phase * phase)
    cos, sinc = jnp.ones_like(argument), jnp.ones_like(argument)
    # for argument < 1 the first missing terms are 1/20! and 1/21!, in single precision 1/12!, 1/13!
    for k in range(9 if double else 5, 0, -1):
        cos = 1 - argument * (1 / ((2 * k - 1) * (2 * k))) * cos
        sinc = 1 - argument * (1 / ((2 * k) * (2 * k + 1))) * sinc
    sin = phase * sinc
    turn = quarters - 4 * jnp.floor(quarters / 4)
    odd, sign = (turn == 1) | (turn == 3), jnp.where(turn >= 2, -1.0, 1.0).astype(a.dtype)
    cos_under, sin_under = sign * jnp.where(odd, -sin, cos), sign * jnp.where(odd, cos, sin)

    # Overdamped, C and S carry exp(-st) with them.
    decay = jnp.exp(-2 * jnp.where(over, st, 1.0))
    cos = jnp.where(near, cos, jnp.where(under, cos_under, (1 + decay) / 2))
    sinc = jnp.where(near, sinc, jnp.where(under, sin_under, (1 - decay) / 2) / st)
    envelope = jnp.exp(-jnp.where(over, slow, a) * t)
    return Oscillation(envelope * cos, envelope * sinc, discriminant < 0, slow, a + s)


def nesterov_mode(d: Real[ArrayLike, "*#s"], s: Real[ArrayLike, "*#s"]) -> Float[Array, "*s"]:
    """Lambda_d(s) = 0F1(; (d+1)/2; -s^2/4) = Gamma(nu+1) (2/s)^nu J_nu(s), nu = (d-1)/2;
    broadcasts. See `nesterov_modes`."""
    return nesterov_modes(d, s)[0]


def nesterov_modes(
    d: Real[ArrayLike, "*#s"], s: Real[ArrayLike, "*#s"]
) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
    """(Lambda_d(s), Lambda_{d+2}(s)) for the price of one: the solution of x'' + (d/s) x' + x = 0,
    and -(d+1) x'/s.

    Real 0 < d <= 64 and s >= 0; the error is of order round-off relative to the decaying envelope
    min(1, C_d s^{-d/2}). Raises InputError outside that range of d; NaN when d is traced.
    """
    d, s = _promote(d, s)
    return _checked_modes(d, s * s)


def nesterov_oscillator(
    stiffness: Real[ArrayLike, "*#s"], d: Real[ArrayLike, "*#s"], t: Real[ArrayLike, "*#s"]
) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
    """(phi, dphi/dt) of x'' + (d/t) x' + lambda x = 0, x(0) = 1, x'(0) = 0 (4.3):
    Lambda_d(sqrt(lambda) t); broadcasts.

    dphi/dt = -lambda t Lambda_{d+2}/(d+1). Analytic in lambda, also at and just below zero. Range
    and errors: `nesterov_modes`.
    """
    lam, d, t = _promote(stiffness, d, t)
    if d.ndim:
        lam, d, t = jnp.broadcast_arrays(lam, d, t)
    else:
        lam, t = jnp.broadcast_arrays(lam, t)
    phi, slope = _checked_modes(d, lam * t * t)
    return phi, -lam * t / (d + 1) * slope


def _checked_modes(d: Array, q: Array) -> tuple[Array, Array]:
    check_positive("the Nesterov constant d", d)
    value = concrete(d)
    if value is not None and value.size and value.max() > LARGEST_D:
        raise InputError(
            f"the Nesterov constant d must be at most {LARGEST_D:g}, got {value.max():g}."
        )
    if d.ndim:
        d, q = jnp.broadcast_arrays(d, q)
    outside = jnp.logical_not((d > 0) & (d <= LARGEST_D))
    first, second = _modes(d, q)
    return jnp.where(outside, jnp.nan, first), jnp.where(outside, jnp.nan, second)


@jax.custom_jvp
def _modes(d: Array, q: Array) -> tuple[Array, Array]:
    return _modes_by_recurrence(d, q)


@functools.partial(_modes.defjvp, symbolic_zeros=True)
def _modes_jvp(
    primals: Pair, tangents: tuple[Array | SymbolicZero, Array | SymbolicZero]
) -> tuple[Pair, Pair]:
    """d Lambda_d/dq = -Lambda_{d+2}/(2(d+1)); in d, the derivative of the recurrences."""
    (d, q), (d_dot, q_dot) = primals, tangents
    if isinstance(d_dot, SymbolicZero):
        out = _modes(d, q)
        out_dot = (jnp.zeros_like(out[0]), jnp.zeros_like(out[1]))
    else:
        out, out_dot = jax.jvp(lambda d: _modes_by_recurrence(d, q), (d,), (d_dot,))
    if not isinstance(q_dot, SymbolicZero):
        slopes = _modes(d + 2, q)
        out_dot = (
            out_dot[0] - slopes[0] / (2 * (d + 1)) * q_dot,
            out_dot[1] - slopes[1] / (2 * (d + 3)) * q_dot,
        )
    return out, out_dot


@jax.jit
def _modes_by_recurrence(d: Array, q: Array) -> tuple[Array, Array]:
    """(Lambda_d, Lambda_{d+2}) at s^2 = q, from F_c = F_{c+1} - x F_{c+2}/(c(c+1)), F_c = 0F1(; c;
    -x), x = q/4, c = nu + 1.

    Small s: down from an order so high that F's power series does not cancel. There F is the
    minimal solution, and the scaled form neither overflows nor needs a normalisation. Large s:
    Hankel's expansion at d - 2 floor(d/2) in [0, 2), and up by the same relation, which is stable
    below the turning point nu = s.
    """
    nu = (d - 1) / 2
    edge = jax.lax.stop_gradient(jnp.maximum(_HANKEL_FROM, nu + 2)) ** 2
    small = q < edge
    x = jnp.where(small, q, 0.0) / 4

    def seed(pair: Pair, m: Array) -> tuple[Pair, None]:
        c = nu + _STEPS + m
        return (1 - x * (1 / (m * c)) * pair[0], 1 - x * (1 / (m * (c + 1))) * pair[1]), None

    def down(pair: Pair, k: Array) -> tuple[Pair, None]:
        low, high = pair
        return (low - x * (1 / ((nu + k) * (nu + k + 1))) * high, low), None

    pair = _fold(seed, (jnp.ones_like(x), jnp.ones_like(x)), range(_SEED_TERMS, 0, -1))
    low, high = _fold(down, pair, range(_STEPS, 0, -1))

    shift = jax.lax.stop_gradient(jnp.floor(d / 2))
    base = d - 2 * shift
    q = jnp.where(small, edge, q)

    def up(pair: Pair, j: Array) -> tuple[Pair, None]:
        first, second = pair
        order = (base + 1) / 2 + j
        third = order * (order + 1) * (4 / q) * (second - first)
        return (jnp.where(j < shift, second, first), jnp.where(j < shift, third, second)), None

    first, second = _fold(up, _hankel(base, jnp.sqrt(q)), range(_LARGEST_SHIFT))
    return jnp.where(small, low, first), jnp.where(small, high, second)


def _hankel(d: Array, s: Array) -> tuple[Array, Array]:
    """(Lambda_d, Lambda_{d+2}) for d in [0, 2), s >= 18, by Hankel's expansion; the phase s - d
    pi/4 is never rounded.

    J_nu(s) = sqrt(2/(pi s)) (P cos chi - Q sin chi), chi = s - (2 nu + 1) pi/4, where P + iQ = 1 +
    i r_1/s (1 + i r_2/s (1 + ...)) and r_k = (4 nu^2 - (2k - 1)^2)/(8k).
    """
    y = 1 / s

    def nest(sums: tuple[Array, ...], k: Array) -> tuple[tuple[Array, ...], None]:
        p, q, p_up, q_up = sums
        odd = (2 * k - 1) ** 2
        r, r_up = ((d - 1) ** 2 - odd) / (8 * k) * y, ((d + 1) ** 2 - odd) / (8 * k) * y
        return (1 - r * q, r * p, 1 - r_up * q_up, r_up * p_up), None

    one, zero = jnp.ones_like(y), jnp.zeros_like(y)
    p, q, p_up, q_up = _fold(nest, (one, zero, one, zero), range(_HANKEL_TERMS, 0, -1))
    cos, sin = jnp.cos(s), jnp.sin(s)
    cos_d, sin_d = jnp.cos(d * (jnp.pi / 4)), jnp.sin(d * (jnp.pi / 4))
    cos, sin = cos * cos_d + sin * sin_d, sin * cos_d - cos * sin_d
    amplitude = jnp.exp(
        gammaln((d + 1) / 2) + d / 2 * (math.log(2.0) - jnp.log(s)) - 0.5 * math.log(math.pi)
    )
    return amplitude * (p * cos - q * sin), amplitude * (d + 1) * y * (p_up * sin + q_up * cos)


def _fold(step: Callable, start: Carry, over: range) -> Carry:
    """A scan over whole numbers; unrolled enough to stay in registers, little enough to compile
    fast."""
    return jax.lax.scan(step, start, jnp.array(over, start[0].dtype), unroll=_UNROLL)[0]


def kappa(d: Real[ArrayLike, "*s"]) -> Float[Array, "*s"]:
    """kappa_d = 2^d Gamma((d+1)/2)^2/pi = limsup s^d Lambda_d(s)^2, the sharp amplitude of L ~
    t^{-d}."""
    check_positive("the Nesterov constant d", d)
    (d,) = _promote(d)
    return jnp.exp(d * math.log(2.0) + 2 * gammaln((d + 1) / 2)) / jnp.pi


def decay_constant(d: Real[ArrayLike, "*s"]) -> Float[Array, "*s"]:
    """K_d = sup_s s^d Lambda_d(s)^2, so that L(t) <= K_d (sqrt(lambda_min) t)^{-d} L(0) for a
    constant kernel.

    s^{1/2} J_nu(s) has extrema that grow for |nu| <= 1/2 (d <= 2), so K_d = kappa_d there, and that
    fall for d > 2, where the first is the largest (Watson, 15.83). Range of d: `nesterov_modes`.
    """
    check_positive("the Nesterov constant d", d)
    (d,) = _promote(d)
    nu = jax.lax.stop_gradient(jnp.maximum((d - 1) / 2, 0.5))
    order = 2 * nu + 1

    def halve(_: Array, ends: Pair) -> Pair:
        low, high = ends
        middle = (low + high) / 2
        value, slope = nesterov_modes(order, middle)
        rising = order * (order + 1) / 2 * value > middle**2 * slope
        return jnp.where(rising, middle, low), jnp.where(rising, high, middle)

    # s^{1/2} J_nu turns concave at sqrt(nu^2 - 1/4) and has its peak before the first zero of J_nu.
    # That zero lies below nu + 1.86 nu^(1/3) + 1.04 nu^(-1/3) (Abramowitz and Stegun 9.5.14,
    # rounded up); sixty halvings leave round-off.
    ends = jnp.sqrt(nu**2 - 0.25), nu + 1.86 * nu ** (1 / 3) + 1.04 * nu ** (-1 / 3)
    peak, _ = jax.lax.fori_loop(0, 60, halve, ends)
    largest = peak**d * nesterov_mode(d, peak) ** 2
    return jnp.where(d <= 2, kappa(d), largest)

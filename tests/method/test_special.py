"""The exact modes against mpmath, their equations, their derivatives, and the constants of the t^-d
law."""

import functools

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from jax.test_util import check_grads

from ntk_momentum.errors import InputError
from ntk_momentum.method.special import (
    damped_oscillator,
    decay_constant,
    kappa,
    nesterov_mode,
    nesterov_modes,
    nesterov_oscillator,
)

ORDERS = (0.01, 0.5, 1.0, 2.0, 2.5, 3.0, 4.0, 6.0, 7.3, 9.0, 12.0, 25.0, 50.0, 64.0)
ARGUMENTS = np.concatenate([np.logspace(-6, 4, 41), np.linspace(16, 40, 13)])


def mp_nesterov(d, s):
    nu = (mp.mpf(d) - 1) / 2
    return mp.gamma(nu + 1) * (2 / mp.mpf(s)) ** nu * mp.besselj(nu, mp.mpf(s))


def nesterov_envelope(d, s):
    nu = (d - 1) / 2
    amplitude = float(2**nu * mp.gamma(nu + 1) * mp.sqrt(2 / mp.pi))
    return np.minimum(1.0, amplitude * np.asarray(s) ** (-d / 2))


@functools.cache
def reference(d):
    with mp.workdps(30):
        return [mp_nesterov(d, s) for s in ARGUMENTS]


def mp_oscillator(lam, b, t):
    """(phi, dphi) and the decaying envelopes of both."""
    with mp.workdps(60):
        lam, a, t = mp.mpf(lam), mp.mpf(b) / 2, mp.mpf(t)
        w = mp.sqrt(mp.mpc(lam - a * a))
        cos, sinc = (mp.mpf(1), t) if w == 0 else (mp.re(mp.cos(w * t)), mp.re(mp.sin(w * t) / w))
        decay = mp.exp(-a * t)
        phi, dphi = decay * (cos + a * sinc), -lam * decay * sinc
        if lam < a * a:
            return phi, dphi, phi, abs(dphi)
        grown = min(t, 1 / abs(w)) if w != 0 else t
        return phi, dphi, decay * (1 + a * grown), decay * lam * grown


def oscillator_grid():
    times = (0.0, 1e-8, 1e-3, 0.1, 1.0, 7.0, 50.0, 300.0, 1e4)
    for b in (1e-3, 0.5, 2.0, 1 / 3, 37.0):
        critical = b * b / 4
        near = [
            critical * (1 + sign * 10.0**-k)
            for k in (1, 2, 4, 6, 8, 10, 12, 13, 14, 15)
            for sign in (1, -1)
        ]
        for lam in (0.0, 1e-12, 1e-4, 0.3, 5.0, 400.0, critical, *near):
            yield from ((lam, b, t) for t in times)
    yield from ((lam, 0.0, t) for lam in (0.0, 1e-10, 0.7, 100.0) for t in times)


def test_damped_oscillator_matches_mpmath_in_every_regime():
    grid = np.array(list(oscillator_grid()))
    phi, dphi = (np.asarray(value) for value in damped_oscillator(*grid.T))
    assert np.all(np.isfinite(phi)) and np.all(np.isfinite(dphi))
    for (lam, b, t), value, slope in zip(grid, phi, dphi, strict=True):
        exact, exact_slope, envelope, slope_envelope = mp_oscillator(lam, b, t)
        loss = 1e-12 * max(1.0, 1e-3 * np.sqrt(lam) * t)
        assert abs(mp.mpf(value) - exact) <= loss * envelope + 1e-300, (lam, b, t)
        assert abs(mp.mpf(slope) - exact_slope) <= loss * slope_envelope + 1e-300, (lam, b, t)


def test_damped_oscillator_limits():
    t = np.array([0.0, 0.3, 2.0])
    np.testing.assert_allclose(damped_oscillator(0.0, 3.0, t)[0], 1.0, rtol=1e-15)
    phi, dphi = damped_oscillator(4.0, 0.0, t)
    np.testing.assert_allclose(phi, np.cos(2 * t), atol=1e-15)
    np.testing.assert_allclose(dphi, -2 * np.sin(2 * t), atol=1e-14)
    np.testing.assert_allclose(damped_oscillator(-1e-17, 0.0, t)[0], 1.0, rtol=1e-15)
    np.testing.assert_allclose(damped_oscillator(-1e-17, 1.0, t)[0], 1.0, rtol=1e-15)
    phi, dphi = damped_oscillator(
        1.0, 1e3, 1e6
    )  # b t = 1e9: the slow mode exp(-lambda t/b) remains
    assert float(phi) == pytest.approx(float(mp_oscillator(1.0, 1e3, 1e6)[0]), rel=1e-12)
    assert np.isfinite(dphi)
    assert damped_oscillator(np.ones((4, 1)), 1, np.ones((1, 3)))[0].shape == (4, 3)


def test_damped_oscillator_in_single_precision():
    grid = np.array([g for g in oscillator_grid() if g[2] < 1e3 and g[0] < 10], np.float32)
    phi, dphi = damped_oscillator(*(jnp.asarray(column) for column in grid.T))
    assert phi.dtype == dphi.dtype == jnp.float32
    exact = [mp_oscillator(*map(float, row)) for row in grid]
    error = np.abs(np.asarray(phi, float) - [float(e[0]) for e in exact])
    assert np.all(
        error
        <= 4e-6 * np.maximum(1, np.sqrt(grid[:, 0]) * grid[:, 2]) * [float(e[2]) for e in exact]
        + 1e-37
    )


@pytest.mark.parametrize("lam", [1.0, 1.0 + 1e-9, 0.999, 0.0, 3.0, 0.2])
def test_damped_oscillator_differentiates_through_critical_damping(lam):
    check_grads(
        jax.jit(damped_oscillator),
        (lam, 2.0, 0.8),
        order=1,
        modes=("fwd", "rev"),
        eps=1e-4,
        rtol=1e-6,
        atol=1e-7,
    )
    for t in (0.0, 0.8, 5.0):
        np.testing.assert_allclose(
            oscillator_slope(t, lam), damped_oscillator(lam, 2.0, t)[1], rtol=1e-12, atol=1e-15
        )
        acceleration = oscillator_acceleration(t, lam)
        phi, dphi = damped_oscillator(lam, 2.0, t)
        np.testing.assert_allclose(acceleration + 2.0 * dphi + lam * phi, 0.0, atol=1e-14)


oscillator_slope = jax.jit(jax.grad(lambda t, lam: damped_oscillator(lam, 2.0, t)[0]))
oscillator_acceleration = jax.jit(jax.grad(lambda t, lam: damped_oscillator(lam, 2.0, t)[1]))


def test_damped_oscillator_slope_in_the_eigenvalue_near_criticality_matches_mpmath():
    slope = jax.jit(jax.grad(lambda lam, t: damped_oscillator(lam, 2.0, t)[0]))
    step = mp.mpf("1e-18")
    for t in (0.5, 4.0, 20.0):
        for lam in (1.0, 1.0 + 1e-12, 1.0 - 1e-6):
            with mp.workdps(60):
                ends = [mp_oscillator(lam + by, 2, t)[0] for by in (step, -step)]
                exact = (ends[0] - ends[1]) / (2 * step)
            assert float(slope(lam, t)) == pytest.approx(float(exact), rel=1e-12)


@pytest.mark.parametrize("d", ORDERS)
def test_nesterov_mode_matches_mpmath_relative_to_its_envelope(d):
    allowed = 1e-13 * nesterov_envelope(d, ARGUMENTS) * np.maximum(1.0, 1e-3 * ARGUMENTS)
    for value in (
        nesterov_mode(d, ARGUMENTS),
        nesterov_mode(np.full_like(ARGUMENTS, d), ARGUMENTS),
    ):
        error = np.array(
            [
                abs(float(mp.mpf(v) - exact))
                for v, exact in zip(np.asarray(value), reference(d), strict=True)
            ]
        )
        assert np.all(error <= allowed), (
            ARGUMENTS[np.argmax(error / allowed)],
            np.max(error / allowed),
        )


def test_nesterov_modes_come_in_pairs():
    for d in (0.5, 3.0, 13.1, 60.0):
        difference = np.abs(nesterov_modes(d, ARGUMENTS)[1] - nesterov_mode(d + 2, ARGUMENTS))
        np.testing.assert_array_less(
            difference,
            1e-13 * nesterov_envelope(d + 2, ARGUMENTS) * np.maximum(1, 1e-3 * ARGUMENTS),
        )


def test_nesterov_mode_has_its_elementary_cases():
    s = np.linspace(0.0, 100.0, 1001)[1:]
    np.testing.assert_allclose(nesterov_mode(2, s), np.sin(s) / s, rtol=0, atol=1e-15)
    np.testing.assert_allclose(
        nesterov_mode(4, s), 3 * (np.sin(s) - s * np.cos(s)) / s**3, rtol=0, atol=1e-8
    )
    np.testing.assert_allclose(nesterov_mode(1e-300, s), np.cos(s), rtol=0, atol=1e-13)
    assert nesterov_mode(3.0, 0.0) == 1.0


def test_nesterov_mode_in_single_precision():
    s = ARGUMENTS.astype(np.float32)
    for d in (0.5, 3.0, 12.0, 25.0):
        value = nesterov_mode(np.float32(d), s)
        assert value.dtype == jnp.float32
        exact = np.array([float(mp_nesterov(d, float(x))) for x in s])
        np.testing.assert_array_less(
            np.abs(value - exact),
            3e-6 * nesterov_envelope(d, s.astype(float)) * np.maximum(1, s) + 1e-37,
        )


def test_nesterov_oscillator_solves_its_equation():
    lam, d = 2.3, 3.7
    first = jax.jit(jax.grad(lambda t: nesterov_oscillator(lam, d, t)[0]))
    second = jax.jit(jax.grad(lambda t: nesterov_oscillator(lam, d, t)[1]))
    for t in (0.01, 1.0, 11.0, 14.0, 60.0):
        value, slope = nesterov_oscillator(lam, d, t)
        np.testing.assert_allclose(first(t), slope, rtol=1e-11, atol=1e-15)
        np.testing.assert_allclose(second(t) + d / t * slope + lam * value, 0.0, atol=2e-13)
    assert second(0.0) == pytest.approx(-lam / (1 + d), rel=1e-14)
    assert first(0.0) == 0.0


def test_nesterov_oscillator_is_analytic_at_and_below_zero():
    d, t = 3.0, 2.0
    phi = lambda lam: nesterov_oscillator(lam, d, t)[0]
    assert phi(0.0) == 1.0
    assert jax.grad(phi)(0.0) == pytest.approx(-(t**2) / (2 * (d + 1)), rel=1e-14)
    assert float(phi(-1e-3)) == pytest.approx(
        float(mp.hyp0f1((d + 1) / 2, 1e-3 * t**2 / 4)), rel=1e-14
    )


@pytest.mark.parametrize(
    ("d", "s"),
    [(0.5, 0.3), (3.0, 0.0), (3.0, 5.0), (3.3, 25.0), (7.0, 17.0), (2.0, 30.0), (50.0, 28.0)],
)
def test_nesterov_mode_differentiates_in_both_arguments(d, s):
    with mp.workdps(30):
        nu = lambda d: (mp.mpf(d) + 1) / 2
        value = lambda d, s: mp.hyp0f1(nu(d), -(mp.mpf(s) ** 2) / 4)
        exact = [float(mp.diff(value, (d, s), order)) for order in ((1, 0), (0, 1), (0, 2))]
    scale = 1e-11 * nesterov_envelope(d, max(s, 1e-3)) * max(1.0, s)
    d, s = jnp.asarray(d), jnp.asarray(s)
    slopes, (_, bend) = reverse_slopes(d, s), forward_bend(d, s)
    np.testing.assert_allclose([*slopes, bend], exact, rtol=1e-11, atol=scale)


reverse_slopes = jax.jit(jax.grad(nesterov_mode, (0, 1)))
forward_bend = jax.jit(
    lambda d, s: jax.jvp(
        lambda s: jax.jvp(lambda s: nesterov_mode(d, s), (s,), (1.0,))[1], (s,), (1.0,)
    )
)


def test_nesterov_mode_batches_and_compiles():
    d, s = jnp.array([0.5, 3.0, 12.0]), jnp.linspace(0.0, 60.0, 7)
    table = jax.jit(jax.vmap(jax.vmap(nesterov_mode, (None, 0)), (0, None)))(d, s)
    np.testing.assert_allclose(table, nesterov_mode(d[:, None], s[None, :]), rtol=0, atol=1e-15)


def test_nesterov_modes_obey_the_wronskian_of_bessel_functions():
    """J_nu J_{1-nu} + J_{-nu} J_{nu-1} = 2 sin(nu pi)/(pi s) with nu = (d-1)/2 in (0, 1/2); all
    four orders exceed -1/2 only so."""
    nu = 0.3
    s = np.linspace(0.5, 200.0, 400)
    bessel = lambda order: (
        nesterov_mode(2 * order + 1, s) * (s / 2) ** order / float(mp.gamma(order + 1))
    )
    # J_{nu-1} = (2 nu/s) J_nu - J_{nu+1}: the order nu - 1 lies outside d > 0
    value = bessel(nu) * bessel(1 - nu) + bessel(-nu) * (2 * nu / s * bessel(nu) - bessel(nu + 1))
    np.testing.assert_allclose(value * s, 2 * np.sin(nu * np.pi) / np.pi, rtol=1e-12)


@pytest.mark.parametrize("d", [0.0, -1.0, np.nan, 65.0])
def test_nesterov_mode_refuses_orders_out_of_range(d):
    with pytest.raises(InputError, match="Nesterov constant d"):
        nesterov_mode(d, 1.0)
    assert np.isnan(jax.jit(nesterov_mode)(d, 1.0))


def test_decay_constant_is_the_supremum():
    d = np.array([0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 9.0, 25.0])
    constants = np.asarray(decay_constant(d))
    ratio = constants / np.asarray(kappa(d))
    np.testing.assert_allclose(ratio[:7], [1, 1, 1, 1.069, 1.130, 1.234, 1.360], atol=6e-4)
    s = np.linspace(1e-3, 200.0, 20_001)
    for one, constant in zip(d, constants, strict=True):
        seen = np.max(s**one * np.asarray(nesterov_mode(one, s)) ** 2)
        assert constant * (1 - 1e-3) < seen <= constant * (1 + 1e-12)


@pytest.mark.slow
def test_decay_constant_differentiates():
    ends = decay_constant(np.array([3 - 1e-5, 3 + 1e-5]))
    assert float(jax.jit(jax.grad(decay_constant))(3.0)) == pytest.approx(
        float(ends[1] - ends[0]) / 2e-5, rel=1e-8
    )


def test_kappa_is_elementary_at_three():
    assert float(kappa(3)) == pytest.approx(8 / np.pi, rel=1e-15)

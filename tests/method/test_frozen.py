"""Closed forms of a step with the Jacobian frozen: against high precision, and against the
Runge-Kutta loop that flows without one take."""

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

import ntk_momentum as nm
from ntk_momentum import method as m

FLOWS = [
    nm.GradientFlow(),
    nm.HeavyBall(0.4),
    nm.HeavyBall(7.0),
    m.NesterovStronglyConvex(0.4),
    m.MultiStepMomentum(0.8, 0.3),
    nm.Nesterov(3.0),
    nm.Nesterov(0.8),
]


@eqx.filter_jit
def step(flow, lams, t, h, residual, velocity):
    return flow.frozen_step(lams, t, h, residual, velocity)


def functions(flow, lams, t, h, dtype):
    """(phi, psi/h, psi', -phi'/(lambda h), (1 - phi)/(lambda h^2), (c_w - psi)/(lambda h^3), (c_v
    - psi')/(lambda h^2)), one row each."""
    flow = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), flow)
    lams, t, h = (jnp.asarray(value, dtype) for value in (lams, t, h))
    one, none = jnp.ones_like(lams), jnp.zeros_like(lams)
    rest, kick = step(flow, lams, t, h, one, none), step(flow, lams, t, h, none, one)
    rows = (rest.residual, kick.residual / h, kick.velocity, rest.impulse_v / h)
    quotients = (rest.impulse_w / h**2, kick.impulse_w / h**3, kick.impulse_v / h**2)
    return np.stack([*rows, *quotients]).astype(float)


def completed(lam, h, phi, psi, dphi, dpsi, c_w, c_v):
    rows = (phi, psi / h, dpsi, -dphi / (lam * h))
    quotients = ((1 - phi) / h**2, (c_w - psi) / h**3, (c_v - dpsi) / h**2)
    return [float(mp.re(row)) for row in (*rows, *(part / lam for part in quotients))]


def oscillator(b, lam, h):
    a, s = mp.mpf(b) / 2, mp.sqrt(mp.mpc(mp.mpf(b) ** 2 / 4 - lam))
    fade, C, S = mp.exp(-a * h), mp.cosh(s * h), mp.sinh(s * h) / s
    c_w, c_v = (1 - mp.exp(-b * h)) / b, mp.exp(-b * h)
    phi, psi, dpsi = fade * (C + a * S), fade * S, fade * (C - a * S)
    return completed(lam, h, phi, psi, -lam * psi, dpsi, c_w, c_v)


def bessel(d, lam, t, h):
    nu, end, w = (mp.mpf(d) - 1) / 2, mp.mpf(t) + mp.mpf(h), mp.sqrt(lam)
    J, Y = (lambda order, s, kind=kind: kind(order, w * s) for kind in (mp.besselj, mp.bessely))
    cross = lambda i, j: mp.pi / 2 * (J(i, t) * Y(j, end) - Y(i, t) * J(j, end))
    ratio, scale = (t / end) ** nu, w * t
    phi, psi = ratio * scale * cross(nu + 1, nu), ratio * t * cross(nu, nu)
    dphi, dpsi = -ratio * scale * w * cross(nu + 1, nu + 1), -ratio * scale * cross(nu, nu + 1)
    c_v = (t / end) ** d
    return completed(lam, h, phi, psi, dphi, dpsi, (t - c_v * end) / (d - 1), c_v)


def misses(found, known, x):
    """The largest error of each function, in its size: at lambda = 0, or what the amplitude has
    faded to, and falling with x."""
    root = np.sqrt(x)
    falls = [1 + 0 * x, 1 + root, 1 + 0 * x, 1 + root, 1 + x, 1 + x, 1 + x]
    size = np.maximum(np.abs(known[:, :1]), np.sqrt(known[2, 0])) / np.array(falls)
    return np.max(np.abs(found - known) / size)


X = np.array([1e-12, 1e-5, 0.3, 0.999, 1.001, 3.0, 4.5, 30.0, 1e3, 1e5, 1e8])


@pytest.mark.parametrize("b", [1e-9, 0.3, 1.99, 2.01, 12.0])
def test_a_damped_step_has_every_digit_in_all_three_regimes(b):
    critical = b * b / 4 * (1 + np.array([-0.1, -1e-9, 1e-14, 1e-6, 0.1]))
    x = np.sort(np.concatenate([X, critical]))
    with mp.workdps(60):
        known = np.array([oscillator(b, mp.mpf(lam), mp.mpf(1)) for lam in x]).T
    assert misses(functions(nm.HeavyBall(b), x, 0.0, 1.0, jnp.float64), known, x) < 2e-12
    some = x < 2e5  # where a phase has digits
    single = functions(nm.HeavyBall(b), x[some], 0.0, 1.0, jnp.float32)
    assert misses(single, known[:, some], x[some]) < 3e-5


@pytest.mark.parametrize(("d", "h"), [(0.3, 1.0), (3.0, 1.0), (3.0, 1e-3), (20.0, 0.3)])
def test_a_step_under_fading_friction_is_bessel_functions(d, h):
    x = np.array([1e-6, 0.3, 5.0, 35.0, 37.0, 190.0, 200.0, 1e4])
    with mp.workdps(40):
        known = np.array([bessel(d, mp.mpf(y) / h**2, mp.mpf(1), mp.mpf(h)) for y in x]).T
    assert misses(functions(nm.Nesterov(d), x / h**2, 1.0, h, jnp.float64), known, x) < 1e-10
    assert misses(functions(nm.Nesterov(d), x / h**2, 1.0, h, jnp.float32), known, x) < 3e-5


@pytest.mark.parametrize(
    "flow",
    [
        flow if i == 1 else pytest.param(flow, marks=pytest.mark.slow)
        for i, flow in enumerate(FLOWS)
    ],
    ids=str,
)
def test_closed_steps_and_their_derivatives_are_those_of_runge_kutta(flow):
    """By eigenvalue, parameters, time and length, in both modes."""
    flow = jax.tree.map(jnp.asarray, flow)
    velocity = jnp.zeros(4) if flow.init(0.0).v is None else jnp.array([0.3, -1.0, 2.0, 0.5])
    point = flow, jnp.array([0.0, 0.01, 1.7, 40.0]), jnp.asarray(1.1), jnp.asarray(0.7)
    closed = lambda flow, *at: flow.frozen_step(*at, jnp.ones(4), velocity)
    plain = lambda flow, *at: flow._frozen(100.0, *at, jnp.ones(4), velocity)
    both = jax.jit(lambda *at: jax.jvp(closed, at, at) + jax.jvp(plain, at, at))
    step, rate, known, known_rate = both(*point)
    for found, other in ((step, known), (rate, known_rate)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-7), found, other)
    ones = jax.tree.map(jnp.ones_like, step)
    pulled = jax.jit(lambda *at: jax.vjp(closed, *at)[1](ones))(*point)
    total = sum(map(jnp.vdot, jax.tree.leaves(pulled), jax.tree.leaves(point)))
    assert total == pytest.approx(float(sum(map(jnp.sum, rate))), rel=1e-10)


@pytest.mark.slow
def test_from_rest_at_time_zero_nesterovs_step_is_its_mode():
    flow, lams, h = nm.Nesterov(3.0), jnp.array([0.0, 1e-9, 0.3, 25.0]), jnp.asarray(2.5)
    none = jnp.zeros(4)
    found = step(flow, lams, jnp.zeros(()), h, none + 1, none)
    phi, slope = flow.mode(lams, h)
    np.testing.assert_allclose(found.residual, phi, atol=1e-13)
    np.testing.assert_allclose(found.velocity, slope, atol=1e-12)
    assert float(found.impulse_w[0]) == pytest.approx(2.5**2 / 8, rel=1e-14)  # h^2/(2(d + 1))
    moved = lambda d, h: jnp.sum(step(nm.Nesterov(d), lams, jnp.zeros(()), h, none + 1, none)[0])
    by = jax.grad(moved, argnums=(0, 1))(jnp.asarray(3.0), h)
    assert by[1] == pytest.approx(float(jnp.sum(slope)), rel=1e-12) and np.isfinite(by[0])


@pytest.mark.slow
def test_steps_beyond_the_reach_of_nesterovs_series_are_no_numbers():
    flow, one = nm.Nesterov(3.0), jnp.ones(1)
    assert not np.isfinite(step(flow, one, jnp.asarray(1.0), jnp.asarray(2.1), one, one).residual)
    assert flow._reach(jnp.asarray(1.0)) == 2.0 and np.isinf(flow._reach(jnp.zeros(())))
    assert not np.isfinite(step(flow, one, jnp.zeros(()), jnp.asarray(15.0), one, one).residual)

"""Every further method in one list: closed form, frozen step, discrete twin, order, inverse map,
decay. A new flow adds one entry."""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from scipy.optimize import minimize

import ntk_momentum as nm
from ntk_momentum import method as m
from ntk_momentum.dynamics.solver import LazyExponential
from ntk_momentum.method import State

LAMS = np.array([0.5, 2.0, 7.0])


class Fading(eqx.Module):
    """b(t) = b0/(1 + t/T)."""

    b0: Any
    T: Any

    def __call__(self, t):
        return self.b0 / (1 + t / self.T)


class Case(NamedTuple):
    """order: of the iterates' convergence to the flow; envelope: log of the amplitude's predicted
    decay, from (lambda, t)."""

    flow: m.AbstractFlow
    order: int
    envelope: Callable


def damped(stiffness, friction):
    """Exponent of the slow root of z^2 + friction z + stiffness, negative."""
    return -friction / 2 + np.sqrt(np.maximum(friction**2 / 4 - stiffness, 0.0))


CASES = [
    Case(m.MultiStepMomentum(0.8, 0.3), 1, lambda lam, t: damped(lam / 1.3, 0.8 / 1.3) * t),
    Case(m.MultiStepMomentum(0.8, -0.3), 1, lambda lam, t: damped(lam / 0.7, 0.8 / 0.7) * t),
    Case(m.MultiStepMomentum(0.8, 0.0), 2, lambda lam, t: damped(lam, 0.8) * t),
    Case(
        m.Friction(Fading(0.4, 5.0)), 2, lambda lam, t: -0.4 * 5.0 / 2 * np.log1p(t / 5.0) + 0 * lam
    ),
    Case(
        m.Friction(lambda t: 0.3 + 0.1 * jnp.cos(t)),
        2,
        lambda lam, t: -(0.3 * t + 0.1 * np.sin(t)) / 2 + 0 * lam,
    ),
    Case(m.NesterovStronglyConvex(0.4), 1, lambda lam, t: -np.sqrt(0.4) * t + 0 * lam),
    Case(m.HessianDamped(0.8, 0.1), 1, lambda lam, t: damped(lam, 0.8 + 0.1 * lam) * t),
    Case(m.HessianDamped(3.0, 0.0, 1.2), 2, lambda lam, t: damped(1.2 * lam, 3.0) * t),
    Case(m.HessianDampedNesterov(3.0, 0.1), 1, lambda lam, t: -0.05 * lam * t - 1.5 * np.log(t)),
    Case(m.HessianDampedNesterov(0.7, 0.1), 1, lambda lam, t: -0.05 * lam * t - 0.35 * np.log(t)),
]
FURTHER = (1, 4, 7, 9)  # more parameters of flows that are in the list already
each = pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.slow) if i in FURTHER else case
        for i, case in enumerate(CASES)
    ],
    ids=lambda case: str(case.flow)[:60],
)


def modes(flow, ts, lams=LAMS):
    """(phi, slope), shape (times, lams); padded to one shape, so that little is compiled twice."""
    shape = len(ts), len(lams)
    ts, lams = (
        np.pad(values, (0, max(size - len(values), 0)), mode="edge")
        for values, size in ((ts, 5), (lams, 3))
    )
    return tuple(
        np.asarray(part)[: shape[0], : shape[1]]
        for part in flow.mode(jnp.asarray(lams)[None, :], jnp.asarray(ts)[:, None])
    )


def iterates(optimizer, steps, lams=LAMS):
    """Iterates on lambda w^2/2 from w_0 = 1, one row per step."""
    path = _iterates(jax.tree.map(jnp.asarray, optimizer), jnp.asarray(lams), steps)
    return np.concatenate([np.ones((1, len(lams))), path])


@eqx.filter_jit
def _iterates(optimizer, lams, steps):
    def step(carry, _):
        w, memory = carry
        change, memory = optimizer.update(lams * w, memory, w)
        return (w + change, memory), w + change

    w = jnp.ones_like(lams)
    return jax.lax.scan(step, (w, optimizer.init(w)), None, length=steps)[1]


def measured_order(pair, T=4.0, steps=(128, 256, 512)):
    """Order in h of the gap between iterates and flow, over five late steps; pair(h) is (optimizer,
    flow, offset)."""
    gaps = []
    for k in steps:
        h, at = T / k, k * np.array([8, 10, 12, 14, 16]) // 16
        optimizer, flow, offset = pair(h)
        gaps.append(
            np.max(np.abs(iterates(optimizer, k)[at] - modes(flow, h * at + float(offset))[0]))
        )
    return np.polyfit(np.log(1 / np.asarray(steps)), np.log(gaps), 1)[0]


@each
def test_modes_solve_the_vector_field(case):
    ts = np.array([0.0, 0.3, 1.0, 4.0, 12.0])
    n = LAMS.size

    @jax.jit
    def field(t, z):
        rate = case.flow.vector_field(t, State(z[:n], z[n:]), LAMS * z[:n])
        return jnp.concatenate([rate.w, rate.v])

    start = np.concatenate([np.ones(n), np.asarray(case.flow.init(jnp.ones(n)).v)])
    z = solve_ivp(
        lambda t, z: np.asarray(field(t, z)),
        (0, ts[-1]),
        start,
        t_eval=ts,
        rtol=1e-12,
        atol=1e-13,
        method="DOP853",
    ).y.T
    phi, slope = modes(case.flow, ts)
    np.testing.assert_allclose(z[:, :n], phi, rtol=0, atol=1e-11)
    np.testing.assert_allclose(
        [field(t, row)[:n] for t, row in zip(ts, z, strict=True)], slope, rtol=0, atol=3e-11
    )


@each
def test_two_frozen_steps_reach_the_mode(case):
    h, lams, zero = jnp.asarray(0.5), jnp.asarray(LAMS), jnp.zeros(LAMS.size)
    step = jax.jit(case.flow.frozen_step)
    first = step(lams, jnp.asarray(0.0), h, jnp.ones(LAMS.size), zero)
    second = step(lams, h, h, first.residual, first.velocity)
    np.testing.assert_allclose(
        second.residual,
        modes(case.flow, [1.0])[0][0],
        atol=1e-5 if "nesterov" in case.flow.name else 2e-7,
    )


@each
def test_iterates_converge_to_the_flow_with_the_stated_order(case):
    assert (
        abs(
            measured_order(
                lambda h: (*case.flow.discretize(h)[:1], case.flow, case.flow.discretize(h)[1])
            )
            - case.order
        )
        < 0.15
    )


@each
def test_the_map_to_the_flow_inverts_the_discretisation(case):
    optimizer, offset = case.flow.discretize(0.05)
    again, _ = optimizer.flow()[0].discretize(optimizer.flow()[1])
    for w, w_again in zip(iterates(optimizer, 9), iterates(again, 9), strict=True):
        np.testing.assert_allclose(w_again, w, rtol=1e-11)
    assert float(offset) >= 0


@each
def test_the_amplitude_decays_as_predicted(case):
    ts = np.array([10.0, 100.0])
    phi, slope = modes(case.flow, ts)
    amplitude = 0.5 * np.log(phi**2 + slope**2 / LAMS)
    t = ts[:, None]
    np.testing.assert_allclose(
        amplitude[1] - amplitude[0], np.diff(case.envelope(LAMS, t), axis=0)[0], rtol=0.06
    )


@pytest.mark.slow
@each
def test_flows_keep_single_precision_and_a_zero_eigenvalue_stays(case):
    single = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), case.flow)
    w, lams = jnp.ones(3, jnp.float32), jnp.asarray([0.0, 0.5, 7.0], jnp.float32)
    rate = single.vector_field(jnp.float32(1), single.init(w), lams * w)
    phi, slope = single.mode(lams, jnp.float32(3))
    assert {leaf.dtype for leaf in (rate.w, rate.v, phi, slope)} == {jnp.dtype("float32")}
    np.testing.assert_allclose((phi[0], slope[0]), (1, 0), rtol=1e-6)
    np.testing.assert_allclose(phi[1:], modes(case.flow, [3.0], [0.5, 7.0])[0][0], atol=2e-5)
    step, _ = single.discretize(jnp.float32(0.05))[0].update(
        w, single.discretize(jnp.float32(0.05))[0].init(w)
    )
    assert step.dtype == jnp.float32
    assert np.isfinite(single.lyapunov(jnp.float32(1), w, w, jnp.eye(3, dtype=jnp.float32)))


@pytest.mark.parametrize(("beta1", "beta2"), [(0.5, 0.3), (0.9, 0.05), (0.9, -0.3)])
def test_multi_step_momentum_is_its_recursion(beta1, beta2):
    w, before, past = np.ones(3), np.ones(3), np.ones(3)
    for row in iterates(m.multi_step_momentum(0.1, beta1, beta2), 20)[1:]:
        w, before, past = (
            w + beta1 * (w - before) + beta2 * (before - past) - 0.1 * LAMS * w,
            w,
            before,
        )
        np.testing.assert_allclose(row, w, rtol=1e-11, atol=1e-13)


def test_what_multi_step_momentum_adds_to_its_limit_is_hessian_damping():
    b, beta2, h = 0.8, 0.3, 0.01
    optimizer, _ = m.MultiStepMomentum(b, beta2).discretize(h)
    gamma = beta2 * h / (1 + beta2)
    plain, corrected = (damped(LAMS / 1.3, b / 1.3 + g * LAMS / 1.3) for g in (0.0, gamma))
    measured = np.log(m.spectral_radius(optimizer, LAMS)) / h
    assert np.all(np.abs(measured - corrected) < 0.02 * np.abs(measured - plain))


def test_constant_friction_is_the_damped_oscillator_and_shifted_friction_a_bessel_function():
    ts = np.array([0.0, 1.0, 30.0, 1000.0])
    for b in (0.0, 0.8, 6.0):
        exact, found = (
            modes(nm.HeavyBall(b), ts),
            modes(m.Friction(Fading(jnp.asarray(b), jnp.asarray(jnp.inf))), ts),
        )
        scale = np.hypot(exact[0], exact[1] / LAMS**0.5) + 1e-200
        np.testing.assert_allclose(found / scale, exact / scale, rtol=0, atol=1e-10)
    # x'' + 2/(t + 1) x' + x = 0: x = (cos t + sin t)/(t + 1)
    flow = m.Friction(lambda t: 2 / (1 + t))
    np.testing.assert_allclose(
        modes(flow, ts, [1.0])[0][:, 0], (np.cos(ts) + np.sin(ts)) / (1 + ts), rtol=0, atol=1e-11
    )


def test_friction_that_jumps_is_a_product_of_exponentials():
    def power(b, t):
        return expm(np.array([[0.0, 1.0], [-2.0, -b]]) * t)

    flow = m.Friction(lambda t: jnp.where(t < 1.3, 0.2, 3.0))
    exact = power(3.0, 1.7) @ power(0.2, 1.3) @ [1.0, 0.0]
    np.testing.assert_allclose(
        np.array(modes(flow, [3.0], [2.0]))[:, 0, 0], exact, rtol=0, atol=1e-8
    )


@pytest.mark.slow
def test_friction_stacks_over_the_parameters_of_its_function():
    flows = m.Friction(Fading(jnp.array([0.3, 2.0]), jnp.array([4.0, 1.0])))
    phi = eqx.filter_vmap(lambda flow: flow.mode(jnp.asarray(2.0), jnp.asarray(3.0))[0])(flows)
    for i, (b0, T) in enumerate([(0.3, 4.0), (2.0, 1.0)]):
        np.testing.assert_allclose(
            phi[i], modes(m.Friction(Fading(b0, T)), [3.0], [2.0])[0][0, 0], rtol=1e-11
        )


@pytest.mark.slow
def test_friction_serves_test_points():
    kernel = np.diag([1e-9, 0.5, 3.0])
    out = nm.predict(
        kernel, np.ones(3), m.Friction(Fading(0.4, 5.0)), [0.0, 2.0, 9.0], test_kernel=kernel
    )
    np.testing.assert_allclose(out.test, np.asarray(out.residual) - 1, atol=1e-11)


@pytest.mark.parametrize("d", [1.0, 3.0])
def test_hessian_damped_nesterov_is_a_confluent_hypergeometric_function(d):
    gamma = 0.3
    flow = m.HessianDampedNesterov(d, gamma)
    for lam, t in [(0.5, 2.0), (2.0, 9.0), (44.0, 1.5)]:
        r = mp.mpc(-gamma * lam / 2, mp.sqrt(lam - (gamma * lam / 2) ** 2))
        exact = (mp.exp(r * t) * mp.hyp1f1(d / 2, d, -2 * mp.mpc(0, r.imag) * t)).real
        np.testing.assert_allclose(modes(flow, [t], [lam])[0], float(exact), rtol=0, atol=1e-13)
    assert np.isnan(modes(flow, [1.0], [4.1 / gamma**2])[0]).all()


def test_hessian_damped_nesterov_at_gamma_h_is_nesterovs_method_and_its_limit_of_order_2():
    h = 0.05
    twin, _ = m.HessianDampedNesterov(3.0, h).discretize(h)
    np.testing.assert_allclose(iterates(twin, 60), iterates(nm.nesterov(h**2, 3.0), 60), atol=1e-14)
    order = measured_order(
        lambda h: (nm.nesterov(h**2, 3.0), m.HessianDampedNesterov(3.0, h), 1.5 * h),
        steps=(256, 512, 1024),
    )
    assert abs(order - 2) < 0.15


def shifted_start(flow, kick, t):
    """The mode with w'(0) = -kick lambda: exp(M t) of the oscillator (HessianDamped only)."""
    rows = []
    for lam in LAMS:
        M = np.array([[0.0, 1.0], [-float(flow.pull) * lam, -float(flow.b + flow.gamma * lam)]])
        rows.append([(expm(M * s) @ [1.0, -kick * lam])[0] for s in t])
    return np.array(rows).T


@pytest.mark.parametrize("name", ["heavy_ball", "nesterov"])
def test_high_resolution_equations_fit_their_methods_to_order_2_and_the_published_start_to_order_1(
    name,
):
    mu = 0.4

    def method(h):
        nag = m.nesterov_strongly_convex(h**2, mu)
        return nag if name == "nesterov" else nm.heavy_ball(h**2, nag.beta)

    equation = m.high_resolution_nesterov if name == "nesterov" else m.high_resolution_heavy_ball
    assert (
        abs(
            measured_order(lambda h: (method(h), equation(h**2, mu), h / 2), steps=(256, 512, 1024))
            - 2
        )
        < 0.15
    )

    def published(h):  # the first difference quotient, of the method's own first step, as w'(0)
        return 2 * h / (1 + h * mu**0.5) if name == "nesterov" else h

    def half_a_step_less(h):
        return published(h) - h / 2

    for kick, order in ((published, 1), (half_a_step_less, 2)):
        gaps = []
        for k in (256, 512, 1024):
            h, at = 4 / k, k * np.array([8, 12, 16]) // 16
            gaps.append(
                np.max(
                    np.abs(
                        iterates(method(h), k)[at]
                        - shifted_start(equation(h**2, mu), kick(h), h * at)
                    )
                )
            )
        assert abs(np.log2(gaps[1] / gaps[2]) - order) < 0.2


def test_hessian_damping_keeps_its_energy_falling():
    flow, kernel = m.HessianDamped(1.2, 0.6, 1.1), jnp.diag(jnp.asarray(LAMS))
    ts = np.linspace(0, 6, 60)
    phi, slope = modes(flow, ts)
    energy = [
        flow.lyapunov(jnp.asarray(0.0), jnp.asarray(D), jnp.asarray(V), kernel)
        for D, V in zip(phi, slope, strict=True)
    ]
    assert np.all(np.diff(energy) < 0)


def test_constant_nesterov_is_4_1_with_constant_momentum():
    w, R, eta, beta = np.ones(3), np.ones(3), 0.1, 0.6
    for row in iterates(m.constant_nesterov(eta, beta), 20)[1:]:
        R_next = w - eta * LAMS * w
        w, R = R_next + beta * (R_next - R), R_next
        np.testing.assert_allclose(row, w, rtol=1e-12, atol=1e-14)


def test_triple_momentum_is_its_recursion_and_its_flow_the_stated_limit():
    mu, L = 0.5, 7.0
    rho = 1 - (mu / L) ** 0.5
    alpha, beta, gamma = (1 + rho) / L, rho**2 / (2 - rho), rho**2 / ((1 + rho) * (2 - rho))
    xi, last = np.ones(3), np.ones(3)
    for row in iterates(m.triple_momentum(mu, L), 20):
        w = (1 + gamma) * xi - gamma * last
        np.testing.assert_allclose(row, w, rtol=1e-12, atol=1e-14)
        xi, last = (1 + beta) * xi - beta * last - alpha * LAMS * w, xi
    flow, h = m.triple_momentum(1.0, 1e8).flow()
    np.testing.assert_allclose(
        (flow.b, flow.gamma * np.sqrt(2e8), h), (3 / 2**0.5, 1.0, 2e-8**0.5), rtol=1e-3
    )


@pytest.mark.parametrize(
    ("optimizer", "limit"),
    [
        (nm.gradient_descent(0.3), 2.0),
        (nm.heavy_ball(0.1, 0.7), 2 * 1.7),
        (m.constant_nesterov(0.1, 0.6), 3.2 / 2.2),
        (m.hessian_damped(0.1, 0.6, 0.03), 3.2 / 1.6),
        (m.multi_step_momentum(0.1, 0.5, 0.3), 2 * 1.2),
        (m.multi_step_momentum(0.1, -0.3, 0.2), 2 * 0.5),
        (m.multi_step_momentum(0.1, 0.9, -0.3), 0.7 * 0.4 / 0.3),
    ],
    ids=str,
)
def test_stability_limits(optimizer, limit):
    found = m.stability_limit(optimizer)
    np.testing.assert_allclose(found * optimizer.eta, limit, rtol=1e-9)
    assert np.all(np.abs(iterates(optimizer, 3000, [0.98 * found])[-1]) < 1)
    assert np.all(np.abs(iterates(optimizer, 3000, [1.02 * found])[-1]) > 1)


def test_amplification_is_the_companion_matrix():
    eta, beta = 0.1, 0.7
    for lam, matrix in zip(LAMS, m.amplification(nm.heavy_ball(eta, beta), LAMS), strict=True):
        np.testing.assert_allclose(np.poly(matrix), [1, -(1 + beta - eta * lam), beta], rtol=1e-12)
    powers = np.linalg.matrix_power(m.amplification(m.constant_nesterov(eta, beta), LAMS), 30)[
        :, 0, 0
    ]
    np.testing.assert_allclose(powers, iterates(m.constant_nesterov(eta, beta), 30)[-1], rtol=1e-10)
    with pytest.raises(nm.InputError, match="changes from step to step"):
        m.amplification(nm.nesterov(eta, 3.0), LAMS)


@pytest.mark.parametrize("kappa", [5.0, 100.0])
@pytest.mark.parametrize(
    "method",
    [
        "gradient_descent",
        "heavy_ball",
        "constant_nesterov",
        "nesterov_strongly_convex",
        "triple_momentum",
    ],
)
def test_best_parameters_reach_their_rate(method, kappa):
    optimizer, rate = m.best_parameters(method, 0.3, 0.3 * kappa)
    np.testing.assert_allclose(m.convergence_rate(optimizer, 0.3, 0.3 * kappa), rate, rtol=1e-6)


@pytest.mark.parametrize("method", ["heavy_ball", "constant_nesterov"])
def test_no_other_momentum_is_faster(method):
    best, rate = m.best_parameters(method, 1.0, 20.0)
    for scale in (0.97, 1.03):
        for parameter in ("eta", "beta"):
            other = eqx.tree_at(
                lambda o, p=parameter: getattr(o, p), best, getattr(best, parameter) * scale
            )
            if method == "constant_nesterov":
                other = m.constant_nesterov(other.eta, other.beta)
            assert m.convergence_rate(other, 1.0, 20.0) > rate


@pytest.mark.slow
def test_a_second_momentum_gains_nothing_on_an_interval():
    best, rate = m.best_parameters("heavy_ball", 1.0, 20.0)

    def worst(p):
        try:
            return m.convergence_rate(m.multi_step_momentum(*p), 1.0, 20.0)
        except nm.InputError:
            return 1.0

    found = minimize(
        worst, [best.eta, best.beta - 0.1, 0.1], method="Nelder-Mead", options={"maxfev": 150}
    )
    assert rate - 1e-6 < found.fun < rate + 0.05


def test_restarts_make_nesterov_linear():
    lams, eta, steps = np.array([1e-3, 0.1, 1.0]), 0.9, 1200
    plain = np.linalg.norm(iterates(nm.nesterov(eta, 3.0), steps, lams)[-1])
    for scheme in ("speed", "gradient", round(m.best_restart_period(1e-3).period / eta**0.5)):
        assert m.restarted_nesterov(eta, 3.0, scheme).linear == (not isinstance(scheme, str))
        path = np.linalg.norm(iterates(m.restarted_nesterov(eta, 3.0, scheme), steps, lams), axis=1)
        assert path[-1] < 1e-2 * plain
        assert path[-1] < 1e-2 * path[steps // 2]


def test_the_function_scheme_is_told_the_loss_and_lets_it_rise_one_step_at_most():
    lams, eta = jnp.array([1e-3, 0.1, 1.0]), 0.9
    optimizer = m.restarted_nesterov(eta, 3.0, "function")

    def step(carry, _):
        w, memory = carry
        value = 0.5 * jnp.sum(lams * w**2)
        change, memory = optimizer.update(lams * w, memory, w, value=value)
        return (w + change, memory), value

    w = jnp.ones(3)
    _, losses = jax.lax.scan(step, (w, optimizer.init(w)), None, length=1200)
    rises = np.asarray(losses[1:] > losses[:-1])
    assert not np.any(rises[1:] & rises[:-1]) and losses[-1] < 1e-8 * losses[0]
    with pytest.raises(nm.InputError, match="value=loss"):
        optimizer.update(w, optimizer.init(w))


@pytest.mark.slow
def test_a_fixed_period_tends_to_the_restarted_flow():
    period, T, gaps = 2.0, 7.0, []
    for k in (560, 1120):
        h = T / k
        path = iterates(m.restarted_nesterov(h**2, 3.0, round(period / h)), k)
        at = k * np.array([10, 13, 16]) // 16
        exact, _ = m.restarted_response(
            jnp.asarray(LAMS)[None, :], 3.0, period, h * jnp.asarray(at)[:, None]
        )
        gaps.append(np.max(np.abs(path[at] - exact)))
    assert np.all(np.log2(np.array(gaps[:-1]) / gaps[1:]) > 0.8)


@pytest.mark.parametrize(("d", "exponent"), [(1.0, None), (3.0, 0.612), (6.0, None)])
def test_the_best_period_is_the_best_on_a_grid(d, exponent):
    best = m.best_restart_period(4.0, d)
    s = np.linspace(0.3, 30, 3000)
    lobe = np.abs(modes(nm.Nesterov(d), [1.0], s**2)[0][0])
    worst = np.maximum.accumulate(lobe[::-1])[::-1]  # of all eigenvalues from s on
    np.testing.assert_allclose(best.exponent, 2 * np.max(-np.log(worst) / s), rtol=0.01)
    np.testing.assert_allclose(2 * best.period, s[np.argmax(-np.log(worst) / s)], rtol=0.01)
    if exponent is not None:
        assert abs(best.exponent / 2 - exponent) < 5e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "tol"),
    [(LazyExponential(), 2e-7), pytest.param(diffrax.Tsit5(), 1e-5, marks=pytest.mark.slow)],
)
def test_further_flows_drive_networks_through_both_integrators(solver, tol):
    data, flow, ts = (
        nm.sphere(6, 4, key=jax.random.key(1)),
        m.HessianDamped(0.6, 0.2, 1.1),
        np.array([0.0, 1.0, 4.0]),
    )
    net = nm.init_two_layer(16, 4, key=jax.random.key(0), activation=lambda z: 1.5 * z)
    run = nm.simulate(
        net,
        data,
        flow,
        ts,
        readouts=["residual", "velocity"],
        solver=solver,
        config=nm.Numerics(tol=1e-7),
    )
    exact = nm.predict(nm.empirical_ntk(net, data.X), run.residual[0], flow, ts)
    np.testing.assert_allclose(run.residual, exact.residual, atol=tol)
    np.testing.assert_allclose(run.velocity, exact.velocity, atol=10 * tol)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: m.MultiStepMomentum(0.5, 1.0), "beta2"),
        (lambda: m.multi_step_momentum(0.1, 0.8, 0.3), "1 - beta1 - beta2"),
        (lambda: m.Friction(0.5), "function of time"),
        (lambda: m.Friction(lambda t: 3 / t), r"Nesterov\(d\)"),
        (lambda: m.HessianDamped(1.0, -0.1), "gamma"),
        (lambda: m.HessianDampedNesterov(3.0, 0.0), r"Nesterov\(d\)"),
        (lambda: m.nesterov_strongly_convex(2.0, 1.0), "eta <= 1/mu"),
        (lambda: m.triple_momentum(2.0, 1.0), "smoothness"),
        (lambda: m.restarted_nesterov(0.1, 3.0, "sped"), "Did you mean 'speed'"),
        (lambda: m.restarted_nesterov(0.1, 3.0, 0), "period"),
        (lambda: m.best_parameters("heavyball", 1.0, 2.0), "Did you mean 'heavy_ball'"),
        (lambda: m.best_parameters("heavy_ball", 2.0, 1.0), "lam_min"),
    ],
)
def test_bad_parameters_are_refused(make, message):
    with pytest.raises(nm.InputError, match=message):
        make()


def sgd(gradient, w, lr, momenta):
    """The iterates of torch.optim.SGD(nesterov=True) with dampening 0, as its documentation and
    `_single_tensor_sgd` have them, its momentum set anew before every step."""
    buffer, path = None, [w]
    for momentum in momenta:
        g = gradient(w)
        if momentum != 0:
            buffer = g.copy() if buffer is None else momentum * buffer + g
            g = g + momentum * buffer
        w = w - lr * g
        path.append(w)
    return np.stack(path)


def test_pytorchs_nesterov_is_the_published_one_and_not_the_printed_one():
    stiffness, eta, d, w = jnp.array([0.5, 3.0]), 0.01, 3.0, np.array([1.0, -2.0])
    momenta = [(t - 1) / (t + d - 1) for t in range(1, 200)]  # as the authors' code has them
    path = sgd(lambda w: np.asarray(stiffness) * w, w, eta, momenta)
    steps = np.arange(200)
    torch = nm.predict(
        jnp.diag(stiffness), jnp.array(path[0]), nm.nesterov_torch(eta, d), steps
    ).residual
    np.testing.assert_allclose(torch, path, rtol=0, atol=1e-13)
    printed = nm.predict(
        jnp.diag(stiffness), jnp.array(path[0]), nm.nesterov(eta, d), steps
    ).residual
    assert np.abs(torch - printed).max() > 1e-3
    data = nm.sphere(5, 3, key=jax.random.key(0))  # and on a network, from the same weights
    net = nm.init_two_layer(8, 3, key=jax.random.key(1))
    slope = jax.jit(
        jax.grad(
            lambda w: (
                0.5 * jnp.sum(jnp.square(net.output @ jax.nn.relu(w @ data.X.T) / 8**0.5 - data.y))
            )
        )
    )
    path = sgd(lambda w: np.asarray(slope(w)), np.asarray(net.hidden), eta, momenta[:40])
    run = nm.train(net, data, nm.nesterov_torch(eta, d), 40, save_every=40, readouts=["f"])
    np.testing.assert_allclose(run.model.hidden, path[-1], rtol=0, atol=1e-13)
    flow, h = nm.nesterov_torch(eta, d).flow()
    assert flow.d == d and h == pytest.approx(0.1)

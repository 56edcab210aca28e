"""Bounds, Lyapunov functions, switching kernels and the kink-to-kink solver against closed forms
and independent solutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from ntk_momentum import HeavyBall, Numerics, infinite_ntk, init_two_layer, simulate, sphere
from ntk_momentum.method import Nesterov
from ntk_momentum.theory import bounds, heavy_ball_crossings, lyapunov
from ntk_momentum.theory.switching import measured_exponent, switched_peaks, worst_kernel


@pytest.fixture(scope="module")
def points():
    return sphere(4, 4, key=jax.random.key(2))


@pytest.fixture(scope="module")
def run(points):
    net = init_two_layer(64, 4, key=jax.random.key(0))
    return net, heavy_ball_crossings(net.hidden, net.output, points.X, points.y, 0.7, 8.0)


def test_the_best_friction_is_critical_and_the_rate_is_continuous():
    lam = 0.3
    grid = np.linspace(0.1, 3, 1001)
    rates = bounds.heavy_ball_rate(grid, lam)
    assert abs(grid[rates.argmax()] - bounds.best_friction(lam)) < 3e-3
    assert bounds.heavy_ball_rate(bounds.best_friction(lam), lam) == pytest.approx(2 * np.sqrt(lam))
    assert bounds.paper_friction(lam) == pytest.approx(2 * np.sqrt(lam / 2))


def test_the_kink_to_kink_solver_matches_a_solver_of_the_weights(run, points):
    net, exact = run
    X, y, a = np.asarray(points.X), np.asarray(points.y), np.asarray(net.output)[:, None]

    def field(t, s):
        W, V = s.reshape(2, 64, 4)
        z = W @ X.T
        residual = (a * np.maximum(z, 0)).sum(0) / 8 - y
        return np.concatenate([V.ravel(), (-0.7 * V - (a * (z > 0) * residual) @ X / 8).ravel()])

    start = np.concatenate([np.asarray(net.hidden).ravel(), np.zeros(256)])
    end = (
        scipy.integrate.solve_ivp(field, (0, 8.0), start, rtol=1e-7, atol=1e-9, max_step=0.01)
        .y[:, -1]
        .reshape(2, 64, 4)[0]
    )
    residual = (a * np.maximum(end @ X.T, 0)).sum(0) / 8 - y
    assert exact.moment.size > 10
    np.testing.assert_allclose(exact.residual[-1], residual, atol=2e-4)
    assert exact.displaced[-1] == pytest.approx(
        np.linalg.norm(end - np.asarray(net.hidden), axis=1).max(), abs=2e-4
    )


def test_the_kink_to_kink_solver_matches_simulate(run, points):
    net, exact = run
    other = simulate(
        net,
        points,
        HeavyBall(0.7),
        jnp.array([0.0, 8.0]),
        readouts=("loss", "lyapunov", "lambda_min"),
        config=Numerics(tol=1e-8),
    )
    assert float(other.loss[-1]) == pytest.approx(exact.loss[-1], rel=0.01)
    assert float(other.lyapunov[0]) == pytest.approx(exact.energy[0], rel=1e-12)
    assert float(other.lambda_min[0]) == pytest.approx(exact.lambda_min[0], rel=1e-9)


def test_the_integrated_identity_closes_with_its_impulses_only(run):
    _, exact = run
    assert exact.closure < 1e-12
    assert exact.identity_error(True) < 1e-12
    assert exact.identity_error(False) == pytest.approx(exact.largest_total, rel=1e-9)
    assert exact.pairs <= exact.moment.size


def test_every_jump_of_the_lyapunov_function_obeys_its_bound(run):
    _, exact = run
    allowed = np.sqrt(exact.factor * exact.energy_before) + np.abs(exact.impulse) / np.sqrt(2)
    assert np.all(np.sqrt(exact.energy_after) <= allowed * (1 + 1e-12))
    assert np.any(exact.energy_after > exact.energy_before)


def test_too_many_crossings_are_an_error(points):
    net = init_two_layer(64, 4, key=jax.random.key(0))
    with pytest.raises(RuntimeError, match="more than 3 crossings"):
        heavy_ball_crossings(net.hidden, net.output, points.X, points.y, 0.7, 8.0, limit=3)


@pytest.mark.parametrize("h", [5.0, 17.0, 25.0])
def test_switching_stiffness_pumps_the_critical_heavy_ball(h):
    _, sizes = switched_peaks(lambda t: 2.0, 1.0, h, 3)
    np.testing.assert_allclose(
        sizes[1:] / sizes[:-1], bounds.heavy_ball_switching_factor(h), rtol=1e-7
    )


def test_switching_stiffness_pumps_nesterov_however_large_d_is():
    times, sizes = switched_peaks(lambda t: 30.0 / t, 1.0, 1.5, 20, start=2000.0)
    assert 2 * np.log(sizes[-1]) / (times[-1] - times[0]) == pytest.approx(
        bounds.nesterov_switching_rate(1.5) - 30 / 2000, rel=0.02
    )


def test_lyapunov_functions_are_those_of_the_flows():
    rng = np.random.default_rng(0)
    H, D, V = rng.standard_normal((3, 3)), rng.standard_normal(3), rng.standard_normal(3)
    H = H @ H.T
    assert float(HeavyBall(0.8).lyapunov(0.0, D, V, H)) == pytest.approx(
        lyapunov.heavy_ball_energy(D, V, H, 0.4)
    )
    assert float(Nesterov(6.0).lyapunov(1.3, D, V, H)) == pytest.approx(
        lyapunov.nesterov_energy(1.3, D, V, H, 4.0, 6.0)
    )


def test_the_reference_distance_is_a_relative_operator_norm():
    rng = np.random.default_rng(1)
    A, B = rng.standard_normal((2, 4, 4))
    reference, kernel = A @ A.T + np.eye(4), B @ B.T
    values, vectors = np.linalg.eigh(reference)
    for shift in (0.0, 0.7 * values[0]):
        root = vectors @ np.diag((values - shift) ** -0.5) @ vectors.T
        distance = lyapunov.reference_distance(kernel, reference, shift)
        assert distance == pytest.approx(np.linalg.norm((kernel - reference) @ root, 2))
        bound = np.linalg.norm(kernel - reference, 2) / np.sqrt(values[0] - shift)
        assert distance <= bound + 1e-12
    assert lyapunov.reference_distance(np.stack([kernel, reference]), reference)[1] == 0.0
    assert lyapunov.jump_factor(reference, 2 * reference) == pytest.approx(2.0)
    assert lyapunov.jump_factor(reference, 0.5 * reference) == 1.0


@pytest.mark.parametrize("beta", [0.35, 0.7, 0.9])
def test_the_derivative_of_the_reference_energy_is_the_one_proved(beta):
    rng, b, step = np.random.default_rng(2), 1.4, 1e-5
    A, E = rng.standard_normal((2, 3, 3))
    reference, E = A @ A.T + np.eye(3), E + E.T
    D, V = rng.standard_normal((2, 3))
    acceleration = -b * V - (reference + E) @ D
    ahead, behind = (
        lyapunov.reference_energy(D + s * V, V + s * acceleration, reference, b, beta)
        for s in (step, -step)
    )
    S, u = reference - beta * (b - beta) * np.eye(3), beta * D + V
    proved = -beta * D @ S @ D - (b - beta) * u @ u - u @ E @ D
    assert (ahead - behind) / (2 * step) == pytest.approx(proved, rel=1e-8)
    energy = lyapunov.reference_energy(D, V, reference, b, beta)
    assert energy == pytest.approx(0.5 * D @ S @ D + 0.5 * u @ u)
    distance = lyapunov.reference_distance(reference + E, reference, beta * (b - beta))
    assert proved <= -lyapunov.reference_rate(b, beta, distance) * energy


@pytest.mark.parametrize("beta", [0.35, 0.7, 0.9])
def test_the_rate_of_the_reference_energy_is_the_worst_of_its_form(beta):
    """V' = -beta p^2 - (b - beta) q^2 + eps p q at most, V = (p^2 + q^2)/2."""
    b, eps = 1.4, 0.3
    form = np.array([[-2 * beta, eps], [eps, -2 * (b - beta)]])
    worst = np.linalg.eigvalsh(form)[-1]
    assert lyapunov.reference_rate(b, beta, eps) == pytest.approx(-worst, rel=1e-12)


@pytest.mark.parametrize("share", [0.1, 0.2071, 0.3, 0.4, 0.5])
def test_theorem_2_at_the_papers_budget_and_below_it_is_attained(share):
    lam0 = 0.5  # sqrt(2 lambda0) = 1: the exponent is 1 - drift/lambda0
    b = bounds.paper_friction(lam0)
    rate = bounds.moving_kernel_rate(b, lam0, share * lam0)
    assert rate == pytest.approx(1 - share) and bounds.allowed_drift(b, lam0) == lam0
    kernel, D, V = worst_kernel(b, lam0, share * lam0)
    for t in (0.0, 1.3):
        assert np.linalg.norm(kernel(t) - lam0 * np.eye(2), 2) == pytest.approx(share * lam0)
    assert measured_exponent(b, kernel, D, V, 20.0) == pytest.approx(rate, abs=1e-8)


@pytest.mark.parametrize(
    ("h", "exponent"),
    [(2, 1.2929), (5, 0.5858), (8.9, 0.0125), (9, 0.0), (9.5, -0.0616), (17, -0.8284)],
)
def test_a_kernel_between_mu_and_h_mu_can_diverge_iff_h_exceeds_nine(h, exponent):
    center, radius = (1 + h) / 2, (h - 1) / 2  # mu = 1, b = 2 sqrt(mu)
    kernel, D, V = worst_kernel(2.0, center, radius)
    np.testing.assert_allclose(np.linalg.eigvalsh(kernel(0.7)), [1.0, h])
    assert bounds.moving_kernel_rate(2.0, center, radius) == pytest.approx(exponent, abs=1e-4)
    assert measured_exponent(2.0, kernel, D, V, 10.0) == pytest.approx(exponent, abs=1e-4)
    assert (bounds.moving_kernel_threshold(center, radius) < 2.0) == (h < 9)


@pytest.mark.parametrize("h", [1.5, 20.0, 400.0])
@pytest.mark.parametrize("factor", [0.8, 1.0, 1.2, 2.0, 5.0])
def test_the_rate_of_a_moving_kernel_is_exact_at_every_friction(h, factor):
    center, radius = (1 + h) / 2, (h - 1) / 2
    b = factor * (h**0.5 - 1)  # sqrt(lambda_max) - sqrt(lambda_min): the threshold
    rate = bounds.moving_kernel_rate(b, center, radius)
    assert np.sign(np.round(rate, 9)) == np.sign(np.round(factor - 1, 9))
    measured = measured_exponent(b, *worst_kernel(b, center, radius), 10.0)
    assert measured == pytest.approx(rate, abs=1e-7)


def test_the_safe_friction_decays_whatever_the_kernel_does_and_the_best_one_no_slower():
    h = np.array([1.01, 2.0, 12.0, 1e4])
    center, radius = (1 + h) / 2, (h - 1) / 2
    safe, best = bounds.safe_friction(1.0, h), bounds.best_moving_friction(center, radius)
    rate = bounds.moving_kernel_rate(safe, center, radius)
    np.testing.assert_allclose(rate, bounds.safe_rate(1.0, h), rtol=1e-9)
    largest = bounds.moving_kernel_rate(best, center, radius)
    grid = np.linspace(0.01, 3, 4001)[:, None] * np.sqrt(center)
    np.testing.assert_allclose(
        largest, bounds.moving_kernel_rate(grid, center, radius).max(0), rtol=1e-3
    )
    assert np.all(largest >= rate * (1 - 1e-12)) and np.all(rate > 0)
    assert bounds.best_moving_friction(3.0, 3.0) == pytest.approx(bounds.safe_friction(0.0, 6.0))
    assert bounds.best_moving_friction(1.0, 0.0) == pytest.approx(bounds.best_friction(1.0))
    assert bounds.moving_kernel_rate(3.0, 1.0, 0.0) == bounds.heavy_ball_rate(3.0, 1.0)


@pytest.mark.parametrize("b", [0.3, 0.7, 1.0])
def test_the_allowed_drift_is_where_the_rate_vanishes(b):
    drift = bounds.allowed_drift(b, 0.5)
    assert bounds.moving_kernel_rate(b, 0.5, drift) == pytest.approx(0.0, abs=1e-12)
    assert bounds.moving_kernel_threshold(0.5, drift) == pytest.approx(b)


def test_two_samples_diverge_below_the_ratio_at_which_one_does():
    assert measured_exponent(2.0, *worst_kernel(2.0, 6.5, 5.5), 10.0) < -0.3  # mu <= H <= 12 mu
    assert bounds.heavy_ball_switching_factor(17.847) == pytest.approx(1.0, abs=1e-4)


def test_widths_meet_where_they_are_defined_to():
    n, delta, lam0, residual = 5, 0.1, 0.2, 3.0
    m = bounds.width_from_displacement(n, delta, lam0, residual)
    assert bounds.displacement_constant(n, m, lam0, residual) == pytest.approx(
        bounds.lemma_5_radius(n, delta, lam0)
    )


def test_two_close_inputs_have_the_smallest_eigenvalue_of_the_exact_law():
    from ntk_momentum.ledger.claims.pairs import pair_eigenvalues, pair_lambda_min

    for theta in (1.0, 1e-2):
        X = jnp.array([[1.0, 0.0], [np.cos(theta), np.sin(theta)]])
        assert pair_eigenvalues(theta)[0] == pytest.approx(
            float(jnp.linalg.eigvalsh(infinite_ntk(X))[0]), rel=1e-6
        )
        draws = pair_lambda_min(theta, 1e9, 50, np.random.default_rng(0))
        np.testing.assert_allclose(draws, pair_eigenvalues(theta)[0], rtol=0.05)


def test_widths_are_those_of_their_proofs():
    """At each the tail bound of its proof is delta, solved here the other way round."""
    n, delta, lam0, gram = 5, 0.1, 0.2, 3.0
    m = bounds.lemma_4_width(n, delta, lam0)
    # Hoeffding, n^2 entries, each off by lambda0/(4n) at most
    assert 2 * n**2 * np.exp(-2 * m * (lam0 / (4 * n)) ** 2) == pytest.approx(delta)
    m = bounds.chernoff_width(n, delta, lam0, gram)
    # P(lambda_min <= (1 - t) lambda0) <= n exp(-t^2 m lambda0/(2 ||X||^2)) at t = 1/4
    assert n * np.exp(-m * lam0 / (4**2 * 2 * gram)) == pytest.approx(delta)
    R = bounds.lemma_5_radius(n, delta, lam0)
    # Markov: E sum_ij |H_ij - H_ij(0)| <= 4 n^2 R/sqrt(2 pi), against delta lambda0/4
    assert 4 * n**2 * R / np.sqrt(2 * np.pi) == pytest.approx(delta * lam0 / 4)


def test_the_total_energy_is_lost_to_friction(run):
    """E = L + |w'|^2/2 falls by b |w'|^2, through the crossings; and starts as L."""
    _, exact = run
    E, power = exact.loss + exact.kinetic, 2 * 0.7 * exact.kinetic
    lost = np.concatenate([[0.0], np.cumsum((power[1:] + power[:-1]) / 2 * np.diff(exact.times))])
    assert E[0] == exact.loss[0] and np.all(np.diff(E) <= 1e-14)
    np.testing.assert_allclose(E + lost, E[0], rtol=1e-3)


def test_a_crossing_hides_the_energy_that_proposition_15_says():
    rng, n, m = np.random.default_rng(3), 4, 7
    X = rng.standard_normal((n, 3))
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    signs, off = rng.choice([-1.0, 1.0], m), rng.random((n, m)) < 0.6
    off[1, 2] = False
    on = off.copy()
    on[1, 2] = True

    def gradient(pattern):
        return (pattern[:, :, None] * signs[:, None] * X[:, None, :]).reshape(n, -1) / np.sqrt(m)

    def hidden(rate, J):
        return 0.5 * (rate @ rate - (J @ rate) @ np.linalg.solve(J @ J.T, J @ rate))

    for before, after in ((gradient(off), gradient(on)), (gradient(on), gradient(off))):
        q, g = rng.standard_normal(n), (after - before)[1]
        seen = after.T @ np.linalg.solve(after @ after.T, after @ g)
        expected = 0.5 * q[1] ** 2 * (g - seen) @ (g - seen)
        assert hidden(before.T @ q, before) < 1e-12
        assert 0 < expected < q[1] ** 2 / (2 * m)
        np.testing.assert_allclose(hidden(before.T @ q, after), expected, rtol=1e-10)

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
from ntk_momentum.theory.switching import switched_peaks


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
    expected = np.linalg.norm((kernel - reference) @ vectors @ np.diag(values**-0.5) @ vectors.T, 2)
    assert lyapunov.reference_distance(kernel, reference) == pytest.approx(expected)
    assert (
        lyapunov.reference_distance(kernel, reference)
        <= np.linalg.norm(kernel - reference, 2) / np.sqrt(values[0]) + 1e-12
    )
    assert lyapunov.jump_factor(reference, 2 * reference) == pytest.approx(2.0)
    assert lyapunov.jump_factor(reference, 0.5 * reference) == 1.0


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

"""The search for Lyapunov functions: known rates come out of the semidefinite program, and what it
finds decays on trajectories."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg

from ntk_momentum import HeavyBall, InputError, Nesterov, predict
from ntk_momentum.theory import best_form, best_power, bounds
from ntk_momentum.theory.switching import switched_peaks

MU = 0.3
ROOT = MU**0.5
PAPER = np.array([[MU, ROOT], [ROOT, 1.0]])  # (A.6), beside the pseudo-loss


@pytest.fixture(autouse=True)
def _solver():
    pytest.importorskip(
        "cvxpy",
        reason="the search for Lyapunov functions needs cvxpy, an optional extra",
        exc_type=ImportError,
    )


def decays(form, t, x, v, value, slack=1e-7):
    energy = form.energy(x, v, value) * np.exp(form.rate * t)
    return bool(np.all(np.diff(energy) <= slack * energy[0]) and energy[0] > 0)


@pytest.mark.parametrize("over", ["convex", "frozen"])
def test_the_paper_s_form_certifies_the_square_root_of_mu(over):
    assert best_form(2 * ROOT, MU, over, form=PAPER).rate == pytest.approx(ROOT, abs=2e-4)


def test_the_best_forms_certify_four_thirds_for_convex_functions_and_two_for_frozen_kernels():
    convex, frozen = best_form(2 * ROOT, MU), best_form(2 * ROOT, MU, "frozen")
    assert convex.rate == pytest.approx(4 / 3 * ROOT, abs=2e-4)
    np.testing.assert_allclose(
        convex.P, [[8 / 9 * MU, 4 / 3 * ROOT], [4 / 3 * ROOT, 1.0]], rtol=1e-3
    )
    np.testing.assert_allclose(
        frozen.P, [[0.0, ROOT], [ROOT, 1.0]], atol=2e-3
    )  # V#: H - mu in front of |Delta|^2
    for margin in (1e-5, 1e-3):  # definite by delta^2 at the price of delta
        assert best_form(2 * ROOT, MU, "frozen", margin=margin).rate == pytest.approx(
            (2 - (2 * margin) ** 0.5) * ROOT, abs=2e-3
        )


@pytest.mark.parametrize("b", [0.7, 1.5, 2.2])
def test_no_form_beats_the_exact_exponent_and_convex_functions_cost_a_third_below_critical_friction(
    b,
):
    frozen, convex = best_form(b, 1.0, "frozen").rate, best_form(b, 1.0).rate
    exact = bounds.heavy_ball_rate(b, 1.0)
    assert exact - 2e-3 < frozen <= exact
    assert convex == pytest.approx(min(2 * b / 3, exact), abs=1e-3)


def test_a_moving_kernel_is_harmless_below_nine_times_mu():
    for ceiling in (1.0, 2.0, 8.0):
        form = best_form(2 * ROOT, MU, "moving", ceiling=ceiling)
        assert form.rate == pytest.approx(
            bounds.moving_kernel_rate(2 * ROOT, (1 + ceiling) * MU / 2, (ceiling - 1) * MU / 2),
            abs=1e-3 if ceiling > 1 else 3e-3,
        )
    assert best_form(2 * ROOT, MU, "moving", ceiling=9.01) is None
    assert bounds.heavy_ball_switching_factor(9.0) < 1 < bounds.heavy_ball_switching_factor(18.0)


def test_the_frozen_form_decays_on_predicted_errors():
    values = MU * np.array([1.0, 1.7, 30.0])
    ts = np.linspace(0.0, 15.0, 400)
    run = predict(jnp.diag(values), jnp.array([1.0, -2.0, 0.5]), HeavyBall(2 * ROOT), ts)
    x, v, value = (np.asarray(a) for a in (run.residual, run.velocity, run.pseudo_loss))
    assert decays(best_form(2 * ROOT, MU, "frozen"), ts, x, v, value)
    assert decays(best_form(2 * ROOT, MU), ts, x, v, value)


def test_the_convex_form_decays_on_a_strongly_convex_function_where_the_frozen_one_does_not():
    value = lambda x: (
        0.5 * MU * x * x + np.sqrt(x * x + 1e-2) - 0.1
    )  # grows like |x|: x.g < 2 f, unlike a quadratic
    slope = lambda x: MU * x + x / np.sqrt(x * x + 1e-2)
    b, ts = 2 * ROOT, np.linspace(0, 12, 400)
    run = scipy.integrate.solve_ivp(
        lambda t, s: [s[1], -b * s[1] - slope(s[0])],
        (0, 12),
        [1.0, -3.0],
        t_eval=ts,
        rtol=1e-9,
        atol=1e-11,
    )
    x, v = run.y[:, :, None]
    assert decays(best_form(b, MU), ts, x, v, value(x[:, 0]))
    assert not decays(best_form(b, MU, "frozen"), ts, x, v, value(x[:, 0]), slack=1e-3)


def test_the_moving_form_decays_on_random_switching_and_bounds_the_pumped_amplitude():
    ceiling, rng = 5.0, np.random.default_rng(0)
    form = best_form(2 * ROOT, MU, "moving", ceiling=ceiling)
    state, t, rows = np.array([1.0, 0.5, 0.0, 0.0]), 0.0, []
    for _ in range(200):
        Q = np.linalg.qr(rng.standard_normal((2, 2)))[0]
        H = Q @ np.diag(rng.choice([MU, ceiling * MU], 2)) @ Q.T  # rotates as it jumps
        A = np.block([[np.zeros((2, 2)), np.eye(2)], [-H, -2 * ROOT * np.eye(2)]])
        rows.append((t, *state))
        step = rng.exponential(0.5)
        state, t = scipy.linalg.expm(step * A) @ state, t + step
    rows = np.array(rows)
    assert decays(form, rows[:, 0], rows[:, 1:3], rows[:, 3:], 0.0)
    times, peaks = switched_peaks(lambda t: 2 * ROOT, MU, ceiling * MU, 6)
    assert np.all(
        peaks**2 <= np.exp(-form.rate * times) * (1 + 1e-9)
    )  # V of a resting point is p11 x^2/2


@pytest.mark.parametrize("d", [1.0, 3.0, 9.0])
def test_nesterov_s_powers_are_those_of_convex_strongly_convex_and_frozen_functions(d):
    assert best_power(d).power == pytest.approx(min(2.0, 2 * d / 3), abs=1e-3)
    assert best_power(d, "strongly_convex", MU).power == pytest.approx(
        2 * d / 3, abs=1e-3
    )  # Theorem 3's exponent
    assert best_power(d, "frozen", MU).power == pytest.approx(d, abs=3e-3)  # the exact one
    if d == 3:
        np.testing.assert_allclose(
            best_power(d).P, [[4.0, 2.0], [2.0, 1.0]], rtol=1e-3
        )  # Su, Boyd, Candes: t^2 f + 2|x + t v/2|^2


def test_nesterov_s_forms_fall_along_trajectories():
    values = MU * np.array([1.0, 1.7, 30.0])
    form = best_power(3.0, "frozen", MU, since=5.0)
    ts = np.linspace(form.since, 200.0, 1500)
    run = predict(jnp.diag(values), jnp.array([1.0, -2.0, 0.5]), Nesterov(3.0), ts)
    energy = form.energy(ts, run.residual, run.velocity, np.asarray(run.pseudo_loss))
    assert 2.7 < form.power < 3 and np.all(np.diff(energy) <= 1e-7 * energy[:-1])
    value, slope = (
        lambda x: np.sqrt(1 + x * x) - 1,
        lambda x: x / np.sqrt(1 + x * x),
    )  # convex, not strongly
    ts = np.linspace(0.02, 60, 1500)
    ball = scipy.integrate.solve_ivp(
        lambda t, s: [s[1], -3 / t * s[1] - slope(s[0])],
        (0.02, 60),
        [3.0, -0.02 * slope(3.0) / 4],
        t_eval=ts,
        rtol=1e-9,
        atol=1e-11,
    )
    x, v = ball.y[:, :, None]
    energy = best_power(3.0).energy(ts, x, v, value(x[:, 0]))
    assert np.all(np.diff(energy) <= 1e-7 * energy[:-1])


def test_bad_arguments_are_refused():
    with pytest.raises(InputError, match="d must be"):
        best_power(-1.0)
    with pytest.raises(InputError, match="ceiling"):
        best_form(1.0, 1.0, "moving")
    with pytest.raises(InputError, match="mu must be"):
        best_form(1.0, -1.0)

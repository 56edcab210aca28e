"""Predictions from a few products with a kernel, against those from its eigenvectors."""

import warnings

import jax
import jax.numpy as jnp
import lineax
import numpy as np
import pytest
from scipy.linalg import expm

import ntk_momentum as nm
from ntk_momentum import InputError

N = 24
TS = np.array([0.0, 1.0, 6.0, 40.0])
FLOWS = (nm.GradientFlow(), nm.HeavyBall(0.4), nm.Nesterov(3.0), nm.nesterov(0.1, 3.0))
name = lambda method: type(method).__name__
slow = lambda *flows: [
    pytest.param(flow, marks=pytest.mark.slow) if any(flow is x for x in flows) else flow
    for flow in FLOWS
]


def kernel():
    """Repeated eigenvalues, a spread of four decades, and a null space of seven dimensions."""
    rng = np.random.default_rng(0)
    values = np.concatenate([np.full(4, 2.0), np.geomspace(1e-3, 8.0, 13), np.zeros(7)])
    U = np.linalg.qr(rng.normal(size=(N, N)))[0]
    H = (U * values) @ U.T
    return (H + H.T) / 2, rng.normal(size=(N, 2)), rng.normal(size=(3, N)) @ H


H, START, ROWS = kernel()


def operator(matrix=H):
    return lineax.MatrixLinearOperator(jnp.asarray(matrix), lineax.symmetric_tag)


@pytest.fixture(scope="module")
def whole():
    return nm.modes(H, START, products=N)


@pytest.fixture(scope="module")
def few():
    return nm.modes(H, START, products=6, tol=10.0)


@pytest.mark.parametrize("flow", slow(FLOWS[0], FLOWS[2]), ids=name)
def test_an_exhausted_space_gives_what_the_eigenvectors_give(whole, flow):
    found = nm.predict(whole, None, flow, TS, test_kernel=ROWS, test0=np.ones((3, 2)))
    exact = nm.predict(H, START, flow, TS, test_kernel=ROWS, test0=np.ones((3, 2)))
    for field in ("residual", "velocity", "loss", "pseudo_loss", "test"):
        np.testing.assert_allclose(getattr(found, field), getattr(exact, field), rtol=0, atol=3e-9)
    assert exact.error is None and found.error.max() < 1e-7
    assert len(whole.values) < N  # of 4 repeated eigenvalues two are along Delta(0), of 7 zeros two


@pytest.mark.parametrize("flow", slow(FLOWS[1], FLOWS[2]), ids=name)
def test_the_estimated_error_is_the_error_in_size(few, flow):
    found = nm.predict(few, None, flow, TS)
    exact = nm.predict(H, START, flow, TS)
    error = np.linalg.norm((found.residual - exact.residual).reshape(len(TS), -1), axis=1)
    seen = error > 1e-11
    assert seen.any()
    assert np.all(found.error[seen] > 0.5 * error[seen])
    assert np.all(found.error[seen] < 1e3 * error[seen])


@pytest.mark.slow
def test_products_are_taken_until_the_error_is_small():
    start = START[:, 0]
    early = nm.predict(operator(), start, FLOWS[1], TS[:2])
    seen = []
    count = lambda *pair: seen.append(pair)
    late = nm.predict(operator(), start, FLOWS[1], TS, progress=count)
    done, expected = np.transpose(seen)
    assert done[-1] == expected[-1] and np.all(done[:-1] < expected[:-1])  # and it ends once
    exact = nm.predict(H, start, FLOWS[1], TS)
    for found in (early, late):
        error = np.linalg.norm(found.residual - exact.residual[: len(found.ts)], axis=1)
        assert error.max() < 1e-8 * np.linalg.norm(start)
    assert early.slopes.shape[1] < late.slopes.shape[1]
    seen.clear()
    with pytest.warns(RuntimeWarning, match="2 products leave an error"):
        nm.predict(operator(), start, FLOWS[1], TS, products=2, progress=count)
    assert seen == [(0, 2), (1, 2), (2, 2)]


@pytest.mark.parametrize("ridge", [None, 0.05])
def test_two_rules_bracket_the_loss_of_gradient_flow(few, ridge):
    ts = [*TS, np.inf]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = nm.predict(few, None, FLOWS[0], ts, ridge=ridge)
    exact = nm.predict(H, START, FLOWS[0], ts, ridge=ridge)
    low, high = found.loss_bounds
    np.testing.assert_array_equal(low, found.loss)
    assert np.all(low <= exact.loss * (1 + 1e-12)) and np.all(exact.loss <= high * (1 + 1e-12))
    assert low[3] < (1 - 1e-5) * exact.loss[3] and exact.loss[3] < (1 - 1e-5) * high[3]
    assert nm.predict(few, None, FLOWS[1], TS).loss_bounds is None


def test_at_infinity_a_ridge_gives_kernel_ridge_regression_and_none_the_null_space(whole):
    inverse = np.linalg.inv(H + 0.3 * np.eye(N))
    null = np.linalg.svd(H)[0][:, 17:]
    for kernel, start in ((H, START), (whole, None)):
        end = nm.predict(kernel, start, FLOWS[1], np.inf, test_kernel=ROWS, ridge=0.3)
        np.testing.assert_allclose(end.test, -ROWS @ inverse @ START, atol=1e-8)
        np.testing.assert_allclose(end.residual, 0.3 * inverse @ START, atol=1e-8)
        assert end.loss.shape == () and end.velocity.shape == (N, 2)
        rest = nm.predict(kernel, start, FLOWS[1], [1.0, np.inf])
        np.testing.assert_allclose(rest.residual[1], null @ null.T @ START, atol=1e-8)
    slow = nm.predict(H, START, nm.gradient_descent(0.1), [2000], ridge=0.3, test_kernel=ROWS)
    np.testing.assert_allclose(slow.test[0], -ROWS @ inverse @ START, atol=1e-8)


def test_a_ridge_is_the_penalty_of_the_weights_of_a_linear_model():
    rng = np.random.default_rng(1)
    J, ridge, steps = rng.normal(size=(6, 4)), 0.2, 15
    start, w = rng.normal(size=6), np.zeros(4)
    ball = np.zeros(4)
    for _ in range(steps):
        ahead = w - 0.05 * (J.T @ (start + J @ w) + ridge * w) + 0.6 * (w - ball)
        w, ball = ahead, w
    found = nm.predict(J @ J.T, start, nm.heavy_ball(0.05, 0.6), steps, ridge=ridge)
    np.testing.assert_allclose(found.residual, start + J @ w, atol=1e-12)


@pytest.mark.slow
def test_a_velocity_at_the_start_moves_training_and_test_points():
    rng = np.random.default_rng(2)
    J, J_test, b, t = rng.normal(size=(5, 7)), rng.normal(size=(2, 7)), 0.5, 3.0
    start, p = rng.normal(size=5), rng.normal(size=7)  # of the weights
    w = np.concatenate([np.zeros(7), p, [1.0]])  # (w, w', 1): w'' = -b w' - J^T (start + J w)
    system = np.zeros((15, 15))
    system[:7, 7:14] = np.eye(7)
    system[7:14, :7], system[7:14, 7:14], system[7:14, 14] = -J.T @ J, -b * np.eye(7), -J.T @ start
    moved = (expm(system * t) @ w)[:7]
    options = {"test_kernel": J_test @ J.T, "velocity0": J @ p, "test_velocity0": J_test @ p}
    found = nm.predict(J @ J.T, start, nm.HeavyBall(b), [0.0, t], **options)
    np.testing.assert_allclose(found.residual[1], start + J @ moved, atol=1e-7)
    np.testing.assert_allclose(found.test[1], J_test @ moved, atol=1e-7)
    np.testing.assert_allclose(found.velocity[0], J @ p, atol=1e-12)
    near = nm.predict(operator(J @ J.T), start, nm.HeavyBall(b), [0.0, t], **options)
    np.testing.assert_allclose(near.residual, found.residual, atol=1e-7)
    np.testing.assert_allclose(near.test, found.test, atol=1e-7)


def test_one_decomposition_serves_predictions_too():
    known = nm.spectrum(H)
    found = nm.predict(known, START, FLOWS[1], TS)
    np.testing.assert_allclose(
        found.residual, nm.predict(H, START, FLOWS[1], TS).residual, atol=1e-12
    )
    assert found.error is None


@pytest.mark.slow
def test_single_precision_stays_single():
    low = nm.modes(H.astype(np.float32), START.astype(np.float32), ts=TS)
    found = nm.predict(low, None, FLOWS[1], TS)
    assert found.residual.dtype == jnp.float32
    exact = nm.predict(H, START, FLOWS[1], TS).residual
    np.testing.assert_allclose(found.residual, exact, atol=3e-4)


@pytest.mark.slow
def test_losses_differentiate_through_the_products():
    bump, push = np.random.default_rng(3).normal(size=(2, N, N))
    bump, push = bump + bump.T, push[:, 0]

    def loss(by):
        found = nm.modes(jnp.asarray(H) + by * bump, START[:, 0] + by * push, products=6, tol=10.0)
        return nm.predict(found, None, FLOWS[0], TS).loss[2]

    slope, forward = jax.grad(loss)(0.0), jax.jvp(loss, (0.0,), (1.0,))[1]
    ends = [loss(jnp.asarray(e)) for e in (1e-6, -1e-6)]
    quotient = float(ends[0] - ends[1]) / 2e-6
    assert float(slope) == pytest.approx(quotient, rel=1e-6)
    assert float(forward) == pytest.approx(quotient, rel=1e-6)


BAD = {
    "no array": (lambda: nm.modes(operator(), "no"), "array of real numbers"),
    "shape": (lambda: nm.modes(operator(), np.ones(5)), "must have the shape"),
    "zero": (lambda: nm.modes(operator(), np.zeros(N)), "nothing to start from"),
    "not symmetric": (
        lambda: nm.modes(operator(np.triu(np.ones((N, N)))), START[:, 0]),
        "must be symmetric",
    ),
    "not finite": (lambda: nm.modes(operator(H * np.nan), START), "NaN or infinite"),
    "negative": (lambda: nm.modes(operator(-H), START), "positive semi-definite"),
    "products": (lambda: nm.modes(operator(), START, products=0), "products must be"),
    "tol": (lambda: nm.modes(operator(), START, tol=-1.0), "tol must be"),
    "flow": (lambda: nm.modes(operator(), START, flow="fast"), "flow must be"),
    "an array's products": (lambda: nm.predict(H, START, FLOWS[0], TS, products=3), "nm.modes"),
    "ridge": (lambda: nm.predict(H, START, FLOWS[0], TS, ridge=-1.0), "ridge must be"),
    "velocity": (lambda: nm.predict(H, START, FLOWS[0], TS, velocity0=START), "flows with inertia"),
    "velocity of Nesterov's": (
        lambda: nm.predict(H, START, FLOWS[2], TS, velocity0=START),
        "starts at rest",
    ),
    "infinity without friction": (
        lambda: nm.predict(H, START, nm.HeavyBall(0.0), np.inf),
        "not known to come to rest",
    ),
    "infinity of a step too large": (
        lambda: nm.predict(H, START, nm.gradient_descent(1.0), [np.inf]),
        "does not converge",
    ),
    "a step between infinities": (
        lambda: nm.predict(H, START, FLOWS[0], [np.inf, 1.0]),
        "must be finite",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    call, message = BAD[case]
    with pytest.raises(InputError, match=message):
        call()


def test_modes_know_what_they_were_found_for(few):
    with pytest.raises(InputError, match="not the one these modes"):
        nm.predict(few, START + 1, FLOWS[0], TS)
    nm.predict(few, START, FLOWS[0], TS)
    test_velocity = {"velocity0": START, "test_kernel": ROWS}
    with pytest.raises(InputError, match="give test_velocity0 too"):
        nm.predict(H, START, FLOWS[1], TS, **test_velocity)

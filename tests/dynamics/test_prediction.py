"""The constant-kernel prediction against matrix exponentials, an ODE solver and recursions written
out in numpy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from ntk_momentum.dynamics.constant_kernel import check_times
from ntk_momentum.dynamics.prediction import predict, response
from ntk_momentum.errors import InputError
from ntk_momentum.method import (
    AbstractOptimizer,
    GradientFlow,
    HeavyBall,
    Nesterov,
    gradient_descent,
    heavy_ball,
    nesterov,
)

N = 5
FLOWS = (GradientFlow(), HeavyBall(0.8), Nesterov(3.0))
OPTIMIZERS = (gradient_descent(0.1), heavy_ball(0.1, 0.7), nesterov(0.1, 3.0))
TS = np.array([0.0, 0.2, 1.0, 3.0, 20.0])
name = lambda method: type(method).__name__


def problem(k=None, rank=N, seed=0):
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(N, rank))
    return factor @ factor.T / rank, rng.normal(size=(N,) if k is None else (N, k))


def reference(flow, kernel, start, t):
    """Delta and its velocity at t, by the exponential of the first-order system."""
    zero, one = np.zeros((N, N)), np.eye(N)
    if isinstance(flow, GradientFlow):
        value = expm(-kernel * t) @ start
        return value, -kernel @ value
    if isinstance(flow, HeavyBall):
        both = expm(np.block([[zero, one], [-kernel, -flow.b * one]]) * t) @ np.concatenate(
            [start, 0 * start]
        )
        return both[:N], both[N:]
    if t == 0.0:
        return start, 0 * start
    early = 1e-3  # two terms of the series, then the solver
    first = (
        start
        - early**2 / (2 * (1 + flow.d)) * kernel @ start
        + early**4 / (8 * (1 + flow.d) * (3 + flow.d)) * kernel @ kernel @ start
    )
    slope = (
        -early / (1 + flow.d) * kernel @ start
        + early**3 / (2 * (1 + flow.d) * (3 + flow.d)) * kernel @ kernel @ start
    )
    field = lambda t, z: np.concatenate([z[N:], -flow.d / t * z[N:] - kernel @ z[:N]])
    z = solve_ivp(
        field, (early, t), np.concatenate([first, slope]), rtol=1e-12, atol=1e-13, method="DOP853"
    ).y[:, -1]
    return z[:N], z[N:]


@pytest.mark.parametrize("flow", FLOWS, ids=name)
def test_prediction_solves_the_error_equation(flow):
    kernel, start = problem()
    out = predict(kernel, start, flow, TS)
    tol = 1e-9 if isinstance(flow, Nesterov) else 1e-12
    for i, t in enumerate(TS):
        residual, velocity = reference(flow, kernel, start, t)
        np.testing.assert_allclose(out.residual[i], residual, rtol=0, atol=tol)
        np.testing.assert_allclose(out.velocity[i], velocity, rtol=0, atol=tol)
        np.testing.assert_allclose(out.loss[i], 0.5 * residual @ residual, rtol=tol, atol=tol)
        np.testing.assert_allclose(
            out.pseudo_loss[i], 0.5 * residual @ kernel @ residual, rtol=tol, atol=tol
        )
    assert out.test is None


@pytest.mark.parametrize("method", (*FLOWS, *OPTIMIZERS), ids=name)
def test_training_points_seen_as_test_points_agree(method):
    kernel, start = problem()
    ts = np.array([0, 1, 2, 7, 40])
    f0 = np.random.default_rng(1).normal(size=start.shape)
    out = predict(kernel, start, method, ts, test_kernel=kernel, test0=f0)
    np.testing.assert_allclose(
        out.test, f0 + (np.asarray(out.residual) - start), rtol=0, atol=2e-13
    )


@pytest.mark.parametrize("method", (*FLOWS, *OPTIMIZERS), ids=name)
def test_a_singular_kernel_leaves_its_null_space_alone(method):
    kernel, start = problem(rank=2)
    ts = np.array([0, 1, 5, 20, 100])
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(N, N)) @ kernel
    out = predict(kernel, start, method, ts, test_kernel=rows)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(out))
    null, residual = np.linalg.svd(kernel)[0][:, 2:], np.asarray(out.residual)
    np.testing.assert_allclose(
        residual @ null, np.broadcast_to(start @ null, (5, 3)), rtol=0, atol=1e-12
    )
    # rows = A K, so f* moves by A (Delta - Delta_0): no inverse needed.
    np.testing.assert_allclose(
        out.test,
        (residual - start) @ np.linalg.solve(kernel + null @ null.T, rows.T),
        rtol=0,
        atol=1e-11,
    )


@pytest.mark.parametrize("flow", FLOWS, ids=name)
def test_the_response_deficit_is_well_conditioned(flow):
    """(1 - phi)/lambda against mpmath, read off as the prediction at a test point with kernel row
    one."""
    eigenvalues = np.concatenate([[0.0], np.logspace(-18, 2, 21)])
    ts = np.array([0.1, 1.0, 30.0])
    exact = np.empty((len(ts), len(eigenvalues)))
    with mp.workdps(60):
        for i, t in enumerate(ts):
            for j, lam in enumerate(eigenvalues):
                lam, t = mp.mpf(lam) + (mp.mpf("1e-25") if lam == 0 else 0), mp.mpf(t)
                if isinstance(flow, GradientFlow):
                    phi = mp.exp(-lam * t)
                elif isinstance(flow, HeavyBall):
                    a = mp.mpf(flow.b) / 2
                    w = mp.sqrt(mp.mpc(lam - a * a))
                    phi = mp.re(mp.exp(-a * t) * (mp.cos(w * t) + a * mp.sin(w * t) / w))
                else:
                    phi = mp.hyp0f1((mp.mpf(flow.d) + 1) / 2, -lam * t * t / 4)
                exact[i, j] = (1 - phi) / lam
    out = predict(
        np.diag(eigenvalues),
        np.ones(len(eigenvalues)),
        flow,
        ts,
        test_kernel=np.eye(len(eigenvalues)),
    )
    np.testing.assert_allclose(-out.test, exact, rtol=5e-13)


def test_a_full_kernel_of_the_outputs_contains_the_shared_one():
    kernel, start = problem(2)
    full = np.einsum("ij,ab->iajb", kernel, np.eye(2))
    rows = np.random.default_rng(3).normal(size=(4, N))
    full_rows = np.einsum("ij,ab->iajb", rows, np.eye(2))
    f0 = np.ones((4, 2))
    shared = predict(kernel, start, FLOWS[1], TS, test_kernel=rows, test0=f0)
    for square, wide in (
        (full, full_rows),
        (full.reshape(2 * N, 2 * N), full_rows.reshape(8, 2 * N)),
    ):
        whole = predict(square, start, FLOWS[1], TS, test_kernel=wide, test0=f0)
        assert whole.residual.shape == (5, N, 2) and whole.test.shape == (5, 4, 2)
        for field in ("residual", "velocity", "loss", "pseudo_loss", "test"):
            np.testing.assert_allclose(
                getattr(shared, field), getattr(whole, field), rtol=0, atol=1e-12
            )
    single = predict(kernel, start[:, 0], FLOWS[1], TS)
    np.testing.assert_allclose(shared.residual[:, :, 0], single.residual, rtol=0, atol=1e-13)


def test_discrete_predictions_match_recursions_in_numpy():
    kernel, start = problem()
    eta, beta, d, steps = 0.1, 0.7, 3.0, 120
    gd, hb, nag = [start], [start], [start]
    ball, ahead = start, start
    for k in range(steps):
        gd.append(gd[-1] - eta * kernel @ gd[-1])
        hb.append(hb[-1] - eta * kernel @ hb[-1] + beta * (hb[-1] - ball))
        ball = hb[-2]
        new = nag[-1] - eta * kernel @ nag[-1]
        nag.append(new + k / (k + d) * (new - ahead))
        ahead = new
    for optimizer, iterates in zip(OPTIMIZERS, (gd, hb, nag), strict=True):
        steps_back = np.diff(iterates, axis=0, prepend=start[None])
        for ts in ([0, 1, 2, 7, 120], [0], range(121)):
            out = predict(kernel, start, optimizer, np.asarray(ts))
            np.testing.assert_allclose(
                out.residual, np.array(iterates)[list(ts)], rtol=0, atol=1e-13
            )
            np.testing.assert_allclose(out.velocity, steps_back[list(ts)], rtol=0, atol=1e-13)


def test_response_is_the_table_of_modes():
    eigenvalues = np.array([0.0, 0.1, 4.0])
    table = response(eigenvalues, FLOWS[0], TS)
    np.testing.assert_allclose(table, np.exp(-np.outer(TS, eigenvalues)), rtol=1e-15)
    for flow in FLOWS:
        assert response(eigenvalues, flow, list(TS)).shape == (5, 3)
        np.testing.assert_array_equal(response(eigenvalues, flow, TS)[0], 1.0)


def test_prediction_compiles_batches_and_differentiates():
    kernel, start = problem()
    kernels = np.stack([kernel, 2 * kernel])

    def loss(kernel, start, b, ts):
        return predict(kernel, start, HeavyBall(b), ts, test_kernel=kernel[:2]).loss

    batch = jax.jit(jax.vmap(loss, (0, None, None, None)))(kernels, start, 0.8, TS)
    np.testing.assert_allclose(batch[1], loss(kernels[1], start, 0.8, TS), rtol=1e-12)
    final = lambda *args: loss(*args, TS)[2]
    slopes = jax.jit(jax.grad(final, (0, 1, 2)))(kernel, start, 0.8)
    rng = np.random.default_rng(5)
    bump, push, eps = rng.normal(size=(N, N)), rng.normal(size=N), 1e-6
    bump = bump + bump.T
    ends = [final(kernel + e * bump, start + e * push, 0.8 + e) for e in (eps, -eps)]
    along = np.sum(slopes[0] * bump) + slopes[1] @ push + slopes[2]
    assert float(along) == pytest.approx(float(ends[0] - ends[1]) / (2 * eps), rel=1e-7)


@pytest.mark.slow
def test_prediction_differentiates_in_the_nesterov_constant():
    kernel, start = problem()
    rate = lambda d: predict(kernel, start, Nesterov(d), TS).loss[2]
    eps = 1e-6
    assert float(jax.jit(jax.grad(rate))(3.0)) == pytest.approx(
        float(rate(3 + eps) - rate(3 - eps)) / (2 * eps), rel=1e-7
    )


@pytest.mark.parametrize("method", (HeavyBall(0.8), Nesterov(3.0), nesterov(0.1, 3.0)), ids=name)
def test_single_precision_stays_single(method):
    kernel, start = problem()
    ts = np.array([0, 1, 3, 9, 20])
    exact = predict(kernel, start, method, ts, test_kernel=kernel)
    low = kernel.astype(np.float32)
    out = predict(low, start.astype(np.float32), method, ts, test_kernel=low)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(eqx.filter(out, eqx.is_array)))
    for field in ("residual", "velocity", "loss", "pseudo_loss", "test"):
        low, high = getattr(out, field), getattr(exact, field)
        np.testing.assert_allclose(low, high, rtol=0, atol=1e-5 * (1 + np.max(np.abs(high))))


def bad(change, start=None, ts=TS, **more):
    kernel, residual = problem()
    return lambda: predict(
        change(kernel), residual if start is None else start, FLOWS[0], ts, **more
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (bad(lambda K: K[:, :3]), "must have shape"),
        (bad(lambda K: K + np.triu(np.ones((N, N)), 1)), "symmetric"),
        (bad(lambda K: -K), "positive semi-definite"),
        (bad(lambda K: K * np.nan), "finite"),
        (bad(lambda K: K * 1j), "real"),
        (bad(lambda K: K, np.full(N, np.inf)), "finite"),
        (bad(lambda K: K, np.ones((N, 1, 1))), "residual0"),
        (bad(lambda K: K, ts=[1.0, 1.0]), "increase"),
        (bad(lambda K: K, ts=[-1.0, 1.0]), "non-negative"),
        (bad(lambda K: K, ts=[0.0, np.nan]), "finite"),
        (bad(lambda K: K, ts=[]), "non-empty"),
        (bad(lambda K: K, ts=[[0.0, 1.0]]), "non-empty list"),
        (bad(lambda K: K, ts="soon"), "real numbers"),
        (bad(lambda K: K, test0=np.ones(2)), "needs test_kernel"),
        (bad(lambda K: K, test_kernel=np.ones((2, 4))), "test_kernel must have a column"),
        (bad(lambda K: K, test_kernel=np.ones((2, N)), test0=np.ones(3)), "test0 must have shape"),
        (lambda: predict(*problem(), gradient_descent(0.1), [0.5]), "whole"),
        (lambda: predict(*problem(), Nesterov(70.0), TS), "no finite response"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_plain_lists_are_arrays():
    assert float(
        predict([[0.5]], [1.0], GradientFlow(), [0.0, 1.0]).residual[1, 0]
    ) == pytest.approx(np.exp(-0.5))


def test_check_times_leaves_tracers_alone():
    assert jax.jit(check_times)(jnp.array([2.0, 1.0])).shape == (2,)
    assert check_times([0, 1]).dtype == jnp.float64


@pytest.mark.parametrize("optimizer", [gradient_descent(1e3), heavy_ball(1e3, 0.9)], ids=repr)
def test_a_diverging_prediction_is_infinite_and_says_so(optimizer: AbstractOptimizer) -> None:
    with pytest.warns(RuntimeWarning, match="by step 400: .* is unstable at lambda_max = 2"):
        found = predict(np.diag([1.0, 2.0]), [1.0, 1.0], optimizer, [0, 1, 400, 900])
    assert np.isfinite(found.loss[:2]).all() and np.isinf(found.loss[2:]).all()
    assert np.isinf(found.pseudo_loss[2:]).all()

"""Function space: the closed form of the squared loss, wide networks for the other losses, and the
law over initialisations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

import ntk_momentum as nm
from ntk_momentum.dynamics.function_space import predict_law, simulate_function
from ntk_momentum.loss import huber, logistic, softmax_cross_entropy, squared

DATA = nm.sphere(8, 5, key=jax.random.key(1))
TEST = nm.sphere(3, 5, key=jax.random.key(2)).X
TIMES = np.array([0.0, 0.7, 2.0, 9.0])
FINE = nm.Numerics(tol=1e-8)


@pytest.fixture(autouse=True, scope="module")
def kernels():
    """Not while tests are collected: every worker would compute them."""
    global K, K_TEST
    K, K_TEST = nm.infinite_ntk(DATA.X), nm.infinite_ntk(TEST, DATA.X)


@pytest.mark.slow
def test_a_wide_network_follows_the_logistic_loss_in_function_space():
    net = nm.init_two_layer(4096, 5, key=jax.random.key(0), antisymmetric=True)
    flow = nm.HeavyBall(0.5)
    network = nm.simulate(
        net, DATA, flow, TIMES, loss=logistic, readouts=["f", "loss"], config=nm.Numerics(tol=1e-4)
    )
    kernel = nm.empirical_ntk(net, DATA.X)
    solved = simulate_function(
        kernel, jnp.zeros(8), DATA.y, flow, TIMES, loss=logistic, config=FINE
    )
    size = float(jnp.max(jnp.abs(solved.f)))
    assert size > 1
    np.testing.assert_allclose(network.f, solved.f, atol=0.05 * size)
    np.testing.assert_allclose(network.loss, solved.loss, rtol=0.1)


def test_the_dual_variable_carries_the_prediction_and_friction_takes_the_energy():
    for b in (0.0, 0.5):
        run = simulate_function(
            K, jnp.zeros(8), DATA.y, nm.HeavyBall(b), TIMES, loss=logistic, config=FINE
        )
        np.testing.assert_allclose(run.f, run.dual @ K, atol=1e-12)
        energy = run.loss + 0.5 * jnp.sum(
            run.velocity * jnp.linalg.solve(K, run.velocity.T).T, axis=1
        )
        if b:
            assert np.all(np.diff(energy) < 0)
        else:
            np.testing.assert_allclose(energy, energy[0], rtol=1e-6)


@pytest.mark.slow
def test_softmax_keeps_the_sum_of_its_outputs_and_two_classes_are_logistic():
    y = jnp.stack([DATA.y > 0, DATA.y < 0], axis=1).astype(float)
    run = simulate_function(
        K, jnp.zeros((8, 2)), y, nm.HeavyBall(0.5), TIMES, loss=softmax_cross_entropy, config=FINE
    )
    np.testing.assert_allclose(jnp.sum(run.f, axis=2), 0.0, atol=1e-9)
    # f_1 - f_2 moves with the logistic loss and twice the kernel
    two = simulate_function(
        2 * K, jnp.zeros(8), DATA.y, nm.HeavyBall(0.5), TIMES, loss=logistic, config=FINE
    )
    np.testing.assert_allclose(run.f[..., 0] - run.f[..., 1], two.f, atol=1e-6)


@pytest.mark.slow
def test_the_full_kernel_of_several_outputs_is_the_shared_one_repeated():
    f0, y = jnp.zeros((3, 2)), jnp.array([[1.0, 2.0], [0.0, -1.0], [3.0, 1.0]])
    full = jnp.einsum("ij,ab->iajb", K[:3, :3], jnp.eye(2))
    a, b = (
        simulate_function(k, f0, y, nm.GradientFlow(), [2.0], readouts=["f"], config=FINE)
        for k in (full, K[:3, :3])
    )
    np.testing.assert_allclose(a.f, b.f, atol=1e-7)


@pytest.mark.slow
def test_huber_pulls_far_targets_at_constant_speed():
    narrow = simulate_function(
        K,
        jnp.zeros(8),
        100 * DATA.y,
        nm.GradientFlow(),
        [1.0],
        loss=huber(0.1),
        readouts=["f"],
        config=FINE,
    )
    np.testing.assert_allclose(narrow.f[0], 0.1 * K @ DATA.y, rtol=1e-7)


def test_huber_is_squared_inside_and_linear_far_outside():
    e = jnp.array([-3.0, -0.2, 0.0, 1.5])
    assert huber(1.0) is huber(1.0)
    np.testing.assert_allclose(jax.grad(huber(1.0))(e, 0 * e), jnp.clip(e, -1, 1))
    np.testing.assert_allclose(huber(1.0)(e, 0 * e), 2.5 + 0.02 + 1.0)


WITH_TEST = jnp.concatenate([DATA.X, TEST])
NTK, NNGP = nm.infinite_ntk(WITH_TEST), nm.infinite_ntk(WITH_TEST, trainable="output")


@pytest.mark.slow
def test_the_law_over_initialisations_goes_from_the_prior_to_kernel_regression():
    law = predict_law(NTK, NNGP, DATA.y, nm.HeavyBall(1.0), [0.0, 1.5, 400.0])
    np.testing.assert_allclose(law.covariance[0], NNGP, atol=1e-12)
    np.testing.assert_allclose(law.mean[0], 0.0, atol=1e-12)
    np.testing.assert_allclose(
        law.mean[2], jnp.concatenate([DATA.y, K_TEST @ jnp.linalg.solve(K, DATA.y)]), atol=1e-5
    )
    np.testing.assert_allclose(law.covariance[2, :8, :8], 0.0, atol=1e-8)
    A = jnp.concatenate(
        [jnp.zeros((8, 8)), -K_TEST @ jnp.linalg.inv(K)]
    )  # f* at the end = f*(0) - K* K^{-1} f(0) + const
    A = jnp.concatenate([A, jnp.concatenate([jnp.zeros((8, 3)), jnp.eye(3)])], axis=1)
    np.testing.assert_allclose(law.covariance[2], A @ NNGP @ A.T, atol=1e-5)


@pytest.mark.slow
def test_the_law_over_initialisations_matches_draws():
    flow = nm.HeavyBall(1.0)
    law = predict_law(NTK, NNGP, DATA.y, flow, [1.5])
    draws = jnp.linalg.cholesky(NNGP + 1e-12 * jnp.eye(11)) @ jax.random.normal(
        jax.random.key(3), (11, 4000)
    )
    runs = nm.predict(
        K, draws[:8] - DATA.y[:, None], flow, [1.5], test_kernel=K_TEST, test0=draws[8:]
    )
    f = jnp.concatenate([runs.residual[0] + DATA.y[:, None], runs.test[0]])
    np.testing.assert_allclose(
        jnp.mean(f, axis=1), law.mean[0], atol=5 * float(jnp.max(law.std)) / 4000**0.5
    )
    np.testing.assert_allclose(
        jnp.cov(f), law.covariance[0], atol=0.1 * float(jnp.max(law.covariance))
    )


def test_wrong_input_is_refused():
    with pytest.raises(nm.InputError, match="must have one shape"):
        simulate_function(K, jnp.zeros(7), DATA.y, nm.GradientFlow(), TIMES)
    with pytest.raises(nm.InputError, match="Did you mean"):
        simulate_function(
            K, jnp.zeros(8), DATA.y, nm.GradientFlow(), TIMES, loss=squared, readouts=["los"]
        )
    with pytest.raises(nm.InputError, match="training points first"):
        predict_law(K, K_TEST, DATA.y, nm.GradientFlow(), TIMES)


TARGETS = {
    "logistic": (logistic, DATA.y),
    "softmax": (softmax_cross_entropy, jnp.stack([DATA.y > 0, DATA.y < 0], axis=1).astype(float)),
    "huber": (huber(0.3), DATA.y),
}


@pytest.mark.parametrize(
    "name",
    ["softmax", *(pytest.param(name, marks=pytest.mark.slow) for name in ("logistic", "huber"))],
)
def test_test_points_follow_the_equation_on_the_joint_kernel(name):
    """Training and test points as one vector, f'' + b f' = -K[:, train] dL/df, by scipy's
    integrator, without the dual variable."""
    loss, y = TARGETS[name]
    b, joint, columns = 0.5, np.asarray(NTK), y.reshape(8, -1).shape[1]
    f0 = 0.1 * jnp.ones_like(y)
    test0 = jnp.stack([0.3 * f0[0], 0 * f0[0], -20 * f0[0]])
    gradient = jax.jit(jax.grad(loss))

    def rate(_, state):
        f, v = state.reshape(2, 11, columns)
        return np.concatenate(
            [
                v,
                -b * v
                - joint[:, :8]
                @ np.asarray(gradient(f[:8].reshape(y.shape), y)).reshape(8, columns),
            ]
        ).ravel()

    start = np.concatenate(
        [f0.reshape(8, -1), test0.reshape(3, -1), np.zeros((11, columns))]
    ).ravel()
    exact = scipy.integrate.solve_ivp(
        rate, (0, 9), start, method="DOP853", t_eval=TIMES, rtol=1e-9, atol=1e-10
    ).y.T
    exact = exact.reshape(len(TIMES), 2, 11, columns)[:, 0]
    run = simulate_function(
        K, f0, y, nm.HeavyBall(b), TIMES, loss=loss, test_kernel=K_TEST, test0=test0, config=FINE
    )
    np.testing.assert_allclose(run.f.reshape(-1, 8, columns), exact[:, :8], atol=2e-6)
    np.testing.assert_allclose(run.test.reshape(-1, 3, columns), exact[:, 8:], atol=2e-6)


@pytest.mark.slow
def test_an_operator_and_a_spectrum_take_the_kernel_s_place():
    plain = simulate_function(K, jnp.zeros(8), DATA.y, nm.GradientFlow(), TIMES, loss=logistic)
    operator = nm.infinite_ntk_operator(DATA.X)
    for kernel, test in (
        (operator, nm.infinite_ntk_operator(TEST, DATA.X)),
        (nm.spectrum(K), K_TEST),
    ):
        found = simulate_function(
            kernel, jnp.zeros(8), DATA.y, nm.GradientFlow(), TIMES, loss=logistic, test_kernel=test
        )
        np.testing.assert_allclose(found.f, plain.f, atol=1e-3)
        np.testing.assert_allclose(found.test, found.dual @ K_TEST.T, atol=1e-10)
    with pytest.raises(nm.InputError, match="squared loss"):
        simulate_function(nm.modes(K, DATA.y), jnp.zeros(8), DATA.y, nm.GradientFlow(), TIMES)

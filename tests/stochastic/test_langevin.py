"""Flows with noise against the ODE of their second moments, and that against the methods."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import ntk_momentum as nm
from ntk_momentum.errors import InputError
from ntk_momentum.stochastic.sampling import noise_strength

H = np.array([[1.0, 0.3, 0.1], [0.3, 0.8, 0.2], [0.1, 0.2, 0.6]])
START = np.array([1.0, -1.0, 0.5])
FRICTION = 0.8


def expected_loss(t, h, B, b=None):
    """E |Delta|^2/2 at time t of the flow with noise, b its friction, by S' = F S + S F^T + h N."""
    n = len(H)
    tau = noise_strength(B, n, "without_replacement")
    if b is None:
        F, place = -H, H
    else:
        F = np.block([[np.zeros((n, n)), np.eye(n)], [-H, -b * np.eye(n)]])
        place = np.concatenate([np.zeros((n, n)), H])
    start = np.concatenate([START, np.zeros(len(F) - n)])

    def rate(_, flat):
        S = flat.reshape(F.shape)
        A = S[:n, :n]
        noise = place @ (h * tau * (n * np.diag(np.diag(A)) - A)) @ place.T
        return (F @ S + S @ F.T + noise).reshape(-1)

    found = solve_ivp(rate, (0, t), np.outer(start, start).reshape(-1), rtol=1e-10, atol=1e-12)
    return np.trace(found.y[:, -1].reshape(F.shape)[:n, :n]) / 2


@pytest.mark.parametrize(
    "inertia",
    [pytest.param(False, marks=pytest.mark.slow), True],
    ids=["descent", "heavy ball"],
)
def test_methods_on_batches_tend_to_the_flow_with_noise(inertia):
    """Weak order 1: the gap of expected losses halves with the step."""
    b = FRICTION if inertia else None
    flow = nm.HeavyBall(FRICTION) if inertia else nm.GradientFlow()
    gaps = []
    for h in (0.04, 0.02, 0.01):
        method, offset = flow.discretize(h)
        k = round(1.5 / h)
        found = nm.predict_stochastic(H, START, method, [k], batch_size=1)
        gaps.append(abs(float(found.loss[0]) - expected_loss(k * h + offset, h, 1, b)))
    orders = np.log2(np.array(gaps[:-1]) / gaps[1:])
    assert np.all(orders > 0.85), orders


def test_bad_input_is_told():
    ask = lambda flow, **kwargs: nm.simulate_stochastic(
        H, START, flow, [1.0],
        **{"h": 0.1, "batch_size": 1, "runs": 2, "key": jax.random.key(0), **kwargs},
    )  # fmt: skip
    with pytest.raises(InputError, match="v = dw/dt"):
        ask(nm.HessianDamped(1.0, 0.1))
    with pytest.raises(InputError, match="reshuffled"):
        ask(nm.HeavyBall(1.0), sampling="reshuffled")
    with pytest.raises(InputError, match="h must be finite"):
        ask(nm.HeavyBall(1.0), h=-1.0)


@pytest.mark.slow
def test_weights_of_a_linear_model_move_as_its_errors_do():
    """Path by path: f = (W . X^T) a is linear in W, with a constant kernel."""
    data = nm.sphere(3, 2, key=jax.random.key(2))
    net = nm.init_two_layer(4, 2, key=jax.random.key(3), activation=lambda z: z)
    found, same = (
        nm.simulate_stochastic(
            *start, nm.HeavyBall(FRICTION), [0.0, 1.0], h=0.2, batch_size=1, runs=3,
            key=jax.random.key(0),
        )
        for start in ((net, data), (nm.empirical_ntk(net, data.X), jax.vmap(net)(data.X) - data.y))
    )  # fmt: skip
    np.testing.assert_allclose(found.residual, same.residual, atol=1e-12)
    np.testing.assert_allclose(found.loss, same.loss, atol=1e-12)
    assert np.ptp(found.loss[1]) > 0.01  # there is noise to be the same


@pytest.mark.slow
def test_networks_trained_on_batches_have_the_loss_of_their_weights_with_noise():
    """A nonlinear network: the mean over every draw of batches of one, against 1,500 paths; the
    order in h is measured where expectations are known, above."""
    data = nm.sphere(2, 2, key=jax.random.key(4))
    net = nm.init_two_layer(3, 2, key=jax.random.key(5), activation=jnp.tanh)
    put = lambda W: nm.TwoLayerNet(W, net.output, jnp.tanh)
    each = lambda W: jnp.square(jax.vmap(put(W))(data.X) - data.y) / 2
    method, offset = nm.HeavyBall(FRICTION).discretize(0.25)
    W, end = net.hidden[None], 8 * 0.25 + offset
    memory = jax.vmap(method.init)(W)
    for _ in range(8):  # 2 branches a step
        slopes = jax.vmap(lambda W: 2 * jax.jacrev(each)(W))(W).reshape(-1, *net.hidden.shape)
        W, memory = (jnp.repeat(x, 2, axis=0) for x in (W, memory))
        change, memory = jax.vmap(method.update)(slopes, memory)
        W = W + change
    expected = float(jnp.mean(jax.vmap(lambda W: each(W).sum())(W)))
    quiet, noisy = (
        nm.simulate_stochastic(
            net, data, nm.HeavyBall(FRICTION), [end], h=0.25, batch_size=B, runs=runs,
            key=jax.random.key(6), dt=0.0625,
        ).loss[0]
        for B, runs in ((2, 1), (1, 1500))
    )  # fmt: skip
    error = float(noisy.std()) / len(noisy) ** 0.5
    assert noisy.mean() - quiet.mean() > 6 * error  # there is noise to be right about
    assert abs(noisy.mean() - expected) < 5 * error


@pytest.mark.slow
@pytest.mark.parametrize("inertia", [False, True], ids=["flow", "heavy ball"])
def test_paths_have_the_moments_of_their_equation(optimized, inertia):
    """1500 paths to five standard errors, and Euler's error of a step of h/15."""
    h, t = 0.3, 2.0
    flow = nm.HeavyBall(FRICTION) if inertia else nm.GradientFlow()
    found = nm.simulate_stochastic(
        H, START, flow, [t], h=h, batch_size=1, runs=1500, key=jax.random.key(1), dt=0.02
    )
    loss = np.asarray(found.loss[0])
    expected = expected_loss(t, h, 1, FRICTION if inertia else None)
    quiet = expected_loss(t, h, 3, FRICTION if inertia else None)
    assert expected > 1.2 * quiet  # there is noise to be right about
    assert abs(loss.mean() - expected) < 5 * loss.std() / np.sqrt(len(loss)) + 0.02 * expected

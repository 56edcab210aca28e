"""Flows with noise against the ODE of their second moments, and that against the methods."""

import jax
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


@pytest.mark.slow
def test_a_flow_without_noise_is_its_prediction():
    ts = [0.0, 0.5, 1.0]
    found = nm.simulate_stochastic(
        H, START, nm.HeavyBall(FRICTION), ts, h=0.1, batch_size=3, runs=1, key=jax.random.key(0),
        dt=0.0005,
    )  # fmt: skip
    plain = nm.predict(H, START, nm.HeavyBall(FRICTION), ts)
    np.testing.assert_allclose(found.residual[:, 0], plain.residual, atol=2e-3)


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

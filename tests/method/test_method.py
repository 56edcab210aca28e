"""Optimizers are the paper's recursions; flows are their limits, to the stated order."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ntk_momentum as nm
from ntk_momentum.method import State

A = np.diag([0.5, 2.0, 7.0])
W0 = np.array([1.0, -2.0, 0.5])


def iterate(optimizer, steps, w=W0, matrix=A):
    """Iterates of an optax-style optimizer on |w|_A^2 / 2, one per step, w_0 included."""
    w = jnp.asarray(w)
    memory, path = optimizer.init(w), [w]
    for _ in range(steps):
        change, memory = optimizer.update(matrix @ w, memory, w)
        w = w + change
        path.append(w)
    return np.stack(path)


def test_gradient_descent_is_2_1():
    w, eta = W0.copy(), 0.1
    for path in iterate(nm.gradient_descent(eta), 20)[1:]:
        w = w - eta * A @ w
        np.testing.assert_allclose(path, w, rtol=1e-13)


def test_heavy_ball_is_3_1():
    last, w, eta, beta = W0.copy(), W0.copy(), 0.1, 0.7
    for path in iterate(nm.heavy_ball(eta, beta), 20)[1:]:
        last, w = w, w - eta * A @ w + beta * (w - last)
        np.testing.assert_allclose(path, w, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("d", [1.0, 3.0, 6.5])
def test_nesterov_is_4_1_with_the_papers_index(d):
    w, R, eta = W0.copy(), W0.copy(), 0.1
    path = iterate(nm.nesterov(eta, d), 20)
    for t in range(1, 21):
        R_next = w - eta * A @ w
        w = R_next + (t - 1) / (t + d - 1) * (R_next - R)
        R = R_next
        np.testing.assert_allclose(path[t], w, rtol=1e-12, atol=1e-14)


def test_optimizers_chain_with_optax():
    chained = optax.chain(optax.clip_by_global_norm(1e9), nm.heavy_ball(0.1, 0.7))
    np.testing.assert_allclose(
        iterate(chained, 10), iterate(nm.heavy_ball(0.1, 0.7), 10), rtol=1e-13
    )
    np.testing.assert_allclose(
        iterate(optax.sgd(0.1, momentum=0.7), 10), iterate(nm.heavy_ball(0.1, 0.7), 10), rtol=1e-12
    )


def test_maps_between_flow_and_optimizer_invert_each_other():
    optimizer, offset = nm.HeavyBall(0.8).discretize(0.05)
    flow, h = optimizer.flow()
    np.testing.assert_allclose((flow.b, h, offset), (0.8, 0.05, 0.025), rtol=1e-12)
    optimizer, offset = nm.Nesterov(3.0).discretize(0.05)
    flow, h = optimizer.flow()
    np.testing.assert_allclose((flow.d, h, offset), (3.0, 0.05, 0.075), rtol=1e-12)
    optimizer, offset = nm.GradientFlow().discretize(0.05)
    assert optimizer.flow()[1] == 0.05 and offset == 0


def test_nesterov_vector_field_starts_at_the_regular_acceleration():
    state = State(jnp.asarray(W0), jnp.zeros(3))
    gradient = jnp.asarray(A @ W0)
    np.testing.assert_allclose(
        nm.Nesterov(3.0).vector_field(jnp.zeros(()), state, gradient).v, -gradient / 4, rtol=1e-15
    )


def test_lyapunov_functions_start_where_the_paper_says():
    H, D = jnp.asarray(A), jnp.asarray(W0)
    pseudo = 0.5 * D @ H @ D
    zero = jnp.zeros(())
    np.testing.assert_allclose(nm.GradientFlow().lyapunov(zero, D, 0 * D, H), 0.5 * D @ D)
    np.testing.assert_allclose(nm.HeavyBall(2.0).lyapunov(zero, D, 0 * D, H), pseudo + 0.5 * D @ D)
    # (B.1) with alpha = 2: (2d - 2)^2 |Delta|^2 / 8 at t = 0
    np.testing.assert_allclose(
        nm.Nesterov(3.0).lyapunov(zero, D, 0 * D, H), (2 * 3 - 2) ** 2 * (D @ D) / 8
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nm.HeavyBall(-1.0), "friction b must be finite and >= 0"),
        (lambda: nm.HeavyBall(float("nan")), "friction b"),
        (lambda: nm.Nesterov(0.0), "constant d must be finite and > 0"),
        (lambda: nm.gradient_descent(0.0), "step size eta"),
        (lambda: nm.heavy_ball(0.1, 1.0), r"\[0, 1\)"),
        (lambda: nm.nesterov(0.1, -3.0), "constant d"),
        (lambda: nm.HeavyBall(10.0).discretize(0.5), "h <= 2/b"),
    ],
)
def test_bad_parameters_are_refused(make, message):
    with pytest.raises(nm.InputError, match=message):
        make()


def test_flows_are_pytrees_that_vmap_over_their_parameters():
    bs = jnp.linspace(0.0, 2.0, 5)
    phi = eqx.filter_vmap(lambda b: nm.HeavyBall(b).mode(jnp.asarray(1.0), jnp.asarray(3.0))[0])(bs)
    for b, value in zip(bs, phi, strict=True):
        np.testing.assert_allclose(
            value, nm.HeavyBall(b).mode(jnp.asarray(1.0), jnp.asarray(3.0))[0], rtol=1e-12
        )
    assert len(jax.tree.leaves(nm.Nesterov(3.0))) == 1

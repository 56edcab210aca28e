"""Flows with noise against the ODE of their second moments, and that against the methods."""

import diffrax
import jax
import jax.flatten_util
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
    "inertia, order", [pytest.param(False, 1, marks=pytest.mark.slow), (True, 2)],
    ids=["descent", "heavy ball"],
)  # fmt: skip
def test_methods_on_batches_tend_to_the_flow_with_noise(inertia, order):
    """The gap of expected losses, and the relative gap of what noise adds to them, which alone sees
    its strength: both halve with the step, or fall by four for the ball, whose time is half a
    step ahead."""
    b = FRICTION if inertia else None
    flow = nm.HeavyBall(FRICTION) if inertia else nm.GradientFlow()
    gaps = []
    for h in (0.04, 0.02, 0.01):
        method, offset = flow.discretize(h)
        k = round(1.5 / h)
        found = nm.predict_stochastic(H, START, method, [k], batch_size=1)
        loss, quiet = (expected_loss(k * h + offset, h, B, b) for B in (1, 3))
        excess = float(found.loss[0] - found.full_batch[0]) / (loss - quiet) - 1
        gaps.append(np.abs([float(found.loss[0]) - loss, excess]))
    orders = np.log2(np.array(gaps[:-1]) / gaps[1:])
    np.testing.assert_allclose(orders[:, 1], order, atol=0.1)
    assert np.all(orders[:, 0] > order - 0.15), orders


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


class Mirrored(diffrax.Euler):
    """Euler's steps with the signs of the noise turned round: the other path of a pair, whose mean
    has no part of odd order in the noise."""

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        dt, dW = terms.contr(t0, t1)
        y1 = jax.tree.map(jnp.add, y0, terms.vf_prod(t0, y0, args, (dt, -dW)))
        return y1, None, {"y0": y0, "y1": y1}, None, diffrax.RESULTS.successful


def excess_over_every_draw(losses, W, method, steps):
    """(E L - L of the full batch, that) of a method on batches of one of two samples."""

    @jax.jit
    def end(weights):  # of the samples, in each step
        def step(carry, q):
            change, memory = method.update(jnp.tensordot(q, jax.jacrev(losses)(carry[0]), 1),
                                           carry[1])  # fmt: skip
            return (carry[0] + change, memory), None

        return losses(jax.lax.scan(step, (W, method.init(W)), weights)[0][0]).sum()

    chosen = np.indices((2,) * steps).reshape(steps, -1).T  # every sequence of batches
    full = float(end(jnp.ones((steps, 2))))
    return float(jnp.mean(jax.vmap(end)(2 * jax.nn.one_hot(chosen, 2)))) - full, full


def excess_of_small_noise(losses, W, flow, end):
    """(lim (E L - L without noise)/h as h falls to 0, L without noise) of dz = F dt + sqrt(h) G dW:
    with m' = F' m + F'':C/2, C' = F' C + C F'^T + G G^T it is L' m + L'':C/2."""
    z0, shaped = jax.flatten_util.ravel_pytree(flow.init(W))
    loss = lambda z: losses(shaped(z).w).sum()
    F = lambda z: jax.flatten_util.ravel_pytree(
        flow.vector_field(0.0, shaped(z), jax.grad(lambda W: losses(W).sum())(shaped(z).w))
    )[0]
    d = z0.size

    @jax.jit
    def rate(y):
        z, m, C = y[:d], y[d : 2 * d], y[2 * d :].reshape(d, d)
        slopes = jax.jacrev(losses)(shaped(z).w).reshape(2, -1)
        G = jnp.sqrt(2.0) * (slopes - slopes.mean(0, keepdims=True))
        G = jnp.pad(G, ((0, 0), (d - G.shape[1], 0)))  # the velocity's, where there is one
        F1, F2 = jax.jacfwd(F)(z), jax.hessian(F)(z)
        drift = F1 @ m + jnp.einsum("abc,bc->a", F2, C) / 2
        return jnp.concatenate([F(z), drift, (F1 @ C + C @ F1.T + G.T @ G).reshape(-1)])

    start = np.concatenate([z0, np.zeros(d + d * d)])
    y = solve_ivp(lambda t, y: np.asarray(rate(y)), (0, end), start, rtol=1e-8, atol=1e-10).y[:, -1]
    z, m, C = jnp.asarray(y[:d]), y[d : 2 * d], y[2 * d :].reshape(d, d)
    return float(jax.grad(loss)(z) @ m + jnp.sum(jax.hessian(loss)(z) * C) / 2), float(loss(z))


@pytest.mark.slow
@pytest.mark.parametrize("flow, order", [(nm.GradientFlow(), 1), (nm.HeavyBall(0.8), 2)])
def test_networks_on_batches_tend_to_the_noise_on_their_weights(flow, order):
    """A nonlinear network, and the mean over every sequence of batches of one. What is left to
    paths is by how much noise of size h exceeds its own limit for h -> 0: a mean over pairs of
    opposite ones, each less its own limit, so that 1,000 tell the weak order to 0.25."""
    data = nm.sphere(2, 2, key=jax.random.key(4))
    net = nm.init_two_layer(3, 2, key=jax.random.key(5), activation=jnp.tanh)
    put = lambda W: nm.TwoLayerNet(W, net.output, jnp.tanh)
    losses = lambda W: jnp.square(jax.vmap(put(W))(data.X) - data.y) / 2
    gaps, errors = [], []
    for h in (0.25, 0.125):
        method, offset = flow.discretize(h)
        steps = round(1.5 / h)
        end = steps * h + offset

        def paths(h, batch_size, solver, end=end):
            found = nm.simulate_stochastic(
                net, data, flow, [end], h=h, batch_size=batch_size, runs=1000, dt=end / 32,
                solver=solver, key=jax.random.key(7),
            )  # fmt: skip
            return np.asarray(found.loss[0])

        still = paths(h, 2, diffrax.Euler())  # no noise
        own, small = ((paths(x, 1, diffrax.Euler()) + paths(x, 1, Mirrored())) / 2 - still
                      for x in (h, 1e-3))  # fmt: skip
        more = own / h - small / 1e-3
        excess, full = excess_over_every_draw(losses, net.hidden, method, steps)
        limit, quiet = excess_of_small_noise(losses, net.hidden, flow, end)
        noise = h * (limit + more.mean())
        scatter = small.std() / 1e-3 / len(small) ** 0.5
        assert abs(small.mean() / 1e-3 - limit) < 4 * scatter < 0.4 * limit
        # noise of another strength would be a gap of any order: its share is looked at by itself
        assert excess > 0.05 * full and abs(excess - noise) < 0.07 * excess
        gaps.append(full + excess - quiet - noise)
        errors.append(h * more.std() / len(more) ** 0.5)
    slope = np.log2(gaps[0] / gaps[1])
    error = np.hypot(*np.divide(errors, gaps)) / np.log(2)
    assert abs(slope - order) < 3 * error < 0.8, (slope, error)


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

"""The restarted flow: closed form on a constant kernel, integrators, networks, ensembles and
discrete twin agree on its restarts."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntk_momentum as nm
from ntk_momentum.dynamics.solver import LazyExponential, RungeKutta
from ntk_momentum.method.restart import restart_times

LAMS, START, TS = (
    np.array([0.01, 0.3, 2.0, 7.0]),
    np.array([1.0, 0.5, -1.0, 2.0]),
    np.linspace(0, 30, 7),
)
slow = pytest.mark.slow


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheme", "tol"),
    [
        ("speed", 1e-5),
        pytest.param("function", 3e-5, marks=slow),
        pytest.param(4.0, 1e-6, marks=slow),
    ],
)
def test_the_solver_finds_the_restarts_of_the_closed_form(scheme, tol):
    flow = nm.RestartedNesterov(3.0, scheme)
    run = nm.simulate_error(np.diag(LAMS), START, flow, TS, config=nm.Numerics(tol=1e-7))
    exact = nm.predict(np.diag(LAMS), START, flow, TS)
    np.testing.assert_allclose(run.residual, exact.residual, atol=tol)
    np.testing.assert_allclose(run.velocity, exact.velocity, atol=10 * tol)
    assert np.all(np.diff(run.readouts["lyapunov"]) < 0)


def test_restarts_come_where_the_speed_is_largest():
    flow = nm.RestartedNesterov(3.0, "speed")
    times = restart_times(LAMS, START, flow, 30.0)
    times = times[np.isfinite(times)]
    assert len(times) == 4

    def speed(t):
        before = np.concatenate([times[times < t[0] - 1e-3], [np.inf]])
        phi = nm.predict(np.diag(LAMS), START, nm.RestartedNesterov(3.0, "speed"), t)
        return np.sum(np.asarray(phi.velocity) ** 2 / LAMS, axis=1), before

    for time in times:
        around, _ = speed(time + np.array([-2e-3, -1e-3, 1e-9]))
        assert around[0] < around[1]  # it rises until the restart
        assert around[2] < 1e-12  # and starts from rest
        slope = (around[1] - around[0]) / 1e-3
        assert slope < 0.05 * np.max(LAMS) ** 0.5 * around[1]  # near its maximum


@slow
@pytest.mark.parametrize("scheme", ["speed", "gradient"])
def test_the_discrete_twin_tends_to_the_restarted_flow(scheme):
    flow, gaps = nm.RestartedNesterov(3.0, scheme), []
    for h in (0.01, 0.0025):
        optimizer, offset = flow.discretize(h)
        again, step = optimizer.flow()
        assert again == flow and abs(step - h) < 1e-12
        w, at = (
            _iterates(optimizer, jnp.asarray(START / np.sqrt(LAMS)), round(30 / h)),
            np.round(np.array([4, 11, 25]) / h).astype(int),
        )
        exact = nm.predict(np.diag(LAMS), START, flow, h * at + offset).residual
        gaps.append(np.max(np.abs(np.sqrt(LAMS)[None, :] * w[at - 1] - exact)))
    assert gaps[1] < 0.01 and gaps[1] < 0.7 * gaps[0]


@eqx.filter_jit
def _iterates(optimizer, w, steps):
    def step(carry, _):
        w, memory = carry
        change, memory = optimizer.update(jnp.asarray(LAMS) * w, memory, w)
        return (w + change, memory), w + change

    return jax.lax.scan(step, (w, optimizer.init(w)), None, length=steps)[1]


@slow
@pytest.mark.parametrize("solver", [LazyExponential(), RungeKutta()])
@pytest.mark.parametrize("scheme", ["speed", 3.0])
def test_a_linear_network_follows_the_closed_form(solver, scheme):
    data, flow = nm.sphere(6, 8, key=jax.random.key(1)), nm.RestartedNesterov(3.0, scheme)
    net = nm.init_two_layer(16, 8, key=jax.random.key(0), activation=lambda z: 1.5 * z)
    run = nm.simulate(
        net,
        data,
        flow,
        TS[:4],
        readouts=["residual", "loss"],
        solver=solver,
        config=nm.Numerics(tol=1e-7),
    )
    exact = nm.predict(nm.empirical_ntk(net, data.X), run.residual[0], flow, TS[:4])
    np.testing.assert_allclose(run.residual, exact.residual, atol=3e-5)


@slow
@pytest.mark.parametrize(
    ("solver", "activation"), [(None, lambda z: 1.5 * z), (RungeKutta(), jnp.tanh)]
)  # a kink amplifies round-off
def test_an_ensemble_of_restarted_flows_takes_the_steps_of_each_alone(solver, activation):
    data, flow = nm.sphere(6, 4, key=jax.random.key(1)), nm.RestartedNesterov(3.0, "speed")
    same = {"readouts": ["loss"], "solver": solver}
    many = nm.ensemble(
        data, [flow], [32, 40], 2, TS[:4], activation=activation, strategy="vmap", **same
    )
    for i, width in enumerate((32, 40)):
        net = nm.init_two_layer(width, 4, key=jax.random.key(1), activation=activation)
        alone = nm.simulate(net, data, flow, TS[:4], **same)
        assert (int(alone.accepted), int(alone.rejected)) == (
            int(many.accepted[0, i, 1]),
            int(many.rejected[0, i, 1]),
        )
        np.testing.assert_allclose(many.loss[0, i, 1], alone.loss, rtol=1e-10)


@slow
def test_function_space_restarts_when_the_weights_do():
    flow = nm.RestartedNesterov(3.0, "speed")
    run = nm.simulate_function(
        np.diag(LAMS), START, np.zeros(4), flow, TS, config=nm.Numerics(tol=1e-7)
    )
    np.testing.assert_allclose(
        run.f, nm.predict(np.diag(LAMS), START, flow, TS).residual, atol=1e-5
    )


def test_adaptive_restarts_refuse_a_mode_of_their_own_and_tracing():
    flow = nm.RestartedNesterov(3.0, "function")
    with pytest.raises(nm.InputError, match="all eigenmodes together"):
        nm.response(LAMS, flow, TS)
    with pytest.raises(nm.InputError, match="traced"):
        jax.jit(lambda r: nm.predict(np.diag(LAMS), r, flow, TS).loss)(START)
    with pytest.raises(nm.InputError, match="Did you mean 'speed'"):
        nm.RestartedNesterov(3.0, "sped")
    with pytest.raises(nm.InputError, match="period"):
        nm.RestartedNesterov(3.0, -1.0)

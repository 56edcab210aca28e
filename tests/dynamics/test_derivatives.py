"""Derivatives of whole runs in both modes, against central difference quotients.

The expected error is that of the quotient, or for flows on networks with kinks that of the steps:
steps count as constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntk_momentum as nm
from ntk_momentum import loops

KEY = jax.random.key(0)
DATA = nm.sphere(4, 3, key=KEY)
NET = nm.init_two_layer(32, 3, key=KEY)
SMOOTH = eqx.nn.MLP(3, "scalar", 4, 1, jnp.tanh, key=KEY)
TIMES = np.array([0.5, 2.0])


def quotient(function: Callable, at: Any, h: Any) -> float:
    return float((function(at + h) - function(at - h)) / (2 * np.max(h)))


def both(function: Callable, at: float) -> tuple[float, float]:
    at = jnp.asarray(at)
    return float(jax.jacfwd(function)(at)), float(jax.grad(function)(at))


def check(function: Callable, at: float, rtol: float, h: float = 1e-5) -> None:
    forward, reverse = both(function, at)
    assert forward == pytest.approx(quotient(function, at, h), rel=rtol)
    assert reverse == pytest.approx(forward, rel=1e-8)


def scaled(net: Any, by: Any) -> Any:
    return eqx.tree_at(lambda net: net.hidden, net, net.hidden * by)


# -- loops


def rolled(count: Any, x: Any, c: Any) -> Any:
    return loops.fori_loop(count, lambda i, x: c * x + jnp.sin(x) / (i + 1), x)


def unrolled(count: int, x: Any, c: Any) -> Any:
    for i in range(count):
        x = c * x + jnp.sin(x) / (i + 1)
    return x


def test_a_loop_has_the_derivatives_of_its_steps_in_both_modes() -> None:
    plain = jax.grad(unrolled, argnums=(1, 2))(5, 1.3, 0.8)
    count = jnp.asarray(5)
    np.testing.assert_allclose(jax.grad(rolled, argnums=(1, 2))(count, 1.3, 0.8), plain, rtol=1e-13)
    np.testing.assert_allclose(
        jax.jacfwd(rolled, argnums=(1, 2))(count, 1.3, 0.8), plain, rtol=1e-13
    )
    # of many runs at once, with what they share and what they do not
    counts, points = jnp.array([5, 2]), jnp.array([1.3, 0.4])
    total = lambda points, c: jnp.sum(jax.vmap(rolled, (0, 0, None))(counts, points, c))
    found = jax.grad(total, argnums=(0, 1))(points, 0.8)
    other = jax.grad(unrolled, argnums=(1, 2))(2, 0.4, 0.8)
    np.testing.assert_allclose(found[0], [plain[0], other[0]], rtol=1e-13)
    np.testing.assert_allclose(found[1], plain[1] + other[1], rtol=1e-13)


def test_second_derivatives_of_a_loop_are_forward_mode_twice() -> None:
    run = lambda x: rolled(jnp.asarray(4), x, 0.8)
    plain = jax.hessian(lambda x: unrolled(4, x, 0.8))(1.3)
    assert jax.jacfwd(jax.jacfwd(run))(1.3) == pytest.approx(float(plain), rel=1e-12)
    for again in (jax.hessian, lambda f: jax.grad(jax.grad(f))):
        with pytest.raises(nm.InputError, match="forward mode only"):
            again(run)(1.3)


def test_reverse_mode_keeps_a_fixed_number_of_states() -> None:
    """The buffers of the compiled gradient do not grow with the number of steps, which it does not
    even know."""
    state = jnp.ones(1000)
    gradient = jax.jit(jax.grad(lambda x, count: jnp.sum(rolled(count, x, 0.9))))
    wanted = gradient.lower(state, jnp.asarray(10)).compile().memory_analysis()
    kept = loops.CHECKPOINTS * state.nbytes
    assert kept <= wanted.temp_size_in_bytes < 1.5 * kept + 50 * state.nbytes


# -- predict

_Q = np.linalg.qr(np.random.RandomState(0).randn(4, 4))[0]
_REPEATED = {
    "the identity": np.eye(4),
    "two equal blocks": np.kron(np.eye(2), [[1.0, 0.3], [0.3, 1.0]]),
    "nearly repeated": _Q @ np.diag([1.0, 1 + 1e-9, 1 + 1e-6, 2.0]) @ _Q.T,
    "distinct": _Q @ np.diag([0.1, 0.5, 1.0, 3.0]) @ _Q.T,
    "rank one": np.ones((4, 4)),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        nm.HeavyBall(0.8),
        pytest.param(nm.GradientFlow(), marks=pytest.mark.slow),
        pytest.param(nm.Nesterov(3.0), marks=pytest.mark.slow),
        pytest.param(nm.heavy_ball(0.1, 0.7), marks=pytest.mark.slow),
    ],
)
def test_predict_has_its_derivative_by_any_kernel(method: Any) -> None:
    draw = np.random.RandomState(1)
    root, start, rows = draw.randn(4, 4), draw.randn(4, 2), draw.randn(3, 4)
    change = jnp.asarray(root @ root.T) / 4  # the kernel has to stay one
    ts = np.array([0.5, 3.0] if isinstance(method, nm.AbstractFlow) else [1.0, 7.0])

    def read(size: Any, matrix: Any) -> Any:
        run = nm.predict(matrix + size * change, start, method, ts, test_kernel=rows)
        waves = jnp.sum(jnp.sin(run.velocity)), jnp.sum(run.test[..., 0] * run.test[..., 1])
        return jnp.stack([run.residual[1, 0, 0], run.loss[1], run.pseudo_loss[1], *waves])

    value, forward, reverse = (jax.jit(f) for f in (read, jax.jacfwd(read), jax.jacrev(read)))
    for name, matrix in _REPEATED.items():
        h = 3e-4  # one-sided, as eigenvalues may be zero; of third order
        values = [value(k * h, matrix) for k in range(4)]
        known = (-11 * values[0] + 18 * values[1] - 9 * values[2] + 2 * values[3]) / (6 * h)
        found = forward(0.0, matrix)
        np.testing.assert_allclose(found, known, atol=1e-6 * np.abs(known).max(), err_msg=name)
        np.testing.assert_allclose(reverse(0.0, matrix), found, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_predict_refuses_second_derivatives_by_a_kernel() -> None:
    loss = lambda size: nm.predict(size * jnp.eye(2), [1.0, 2.0], nm.GradientFlow(), [1.0]).loss[0]
    with pytest.raises(nm.InputError, match="second derivatives by a kernel"):
        jax.jacfwd(jax.jacfwd(loss))(1.0)
    by_friction = lambda b: nm.predict(jnp.eye(2), [1.0, 2.0], nm.HeavyBall(b), [1.0]).loss[0]
    known = (by_friction(1.001) - 2 * by_friction(1.0) + by_friction(0.999)) / 1e-6
    assert jax.jacfwd(jax.jacfwd(by_friction))(1.0) == pytest.approx(float(known), rel=1e-4)


# -- discrete training: the derivative of the iterates


@pytest.mark.slow
def test_train_has_the_derivatives_of_its_iterates() -> None:
    """By the step size, the momentum, the targets and the weights."""

    @jax.jit
    def last(x: Any) -> Any:
        net, data = scaled(NET, x[3]), nm.Dataset(DATA.X, DATA.y * x[2])
        method = nm.heavy_ball(0.1 * x[0], 0.5 * x[1])
        return nm.train(net, data, method, 6, save_every=2, readouts=["loss"]).loss[-1]

    forward, reverse = jax.jacfwd(last)(jnp.ones(4)), jax.grad(last)(jnp.ones(4))
    known = [quotient(last, np.ones(4), h) for h in 1e-7 * np.eye(4)]
    np.testing.assert_allclose(forward, known, rtol=1e-6)
    np.testing.assert_allclose(reverse, forward, rtol=1e-8)


# -- flows


@pytest.mark.slow
def test_error_dynamics_have_their_derivatives() -> None:
    kernel = jnp.diag(jnp.array([0.5, 2.0]))

    def last(b: Any) -> Any:
        flow, config = nm.HeavyBall(b), nm.Numerics(tol=1e-7)
        run = nm.simulate_error(kernel, [1.0, 1.0], flow, TIMES, readouts=["loss"], config=config)
        return run.loss[-1]

    forward, reverse = both(last, 0.5)
    closed = lambda b: nm.predict(kernel, [1.0, 1.0], nm.HeavyBall(b), TIMES).loss[-1]
    assert forward == pytest.approx(float(jax.grad(closed)(0.5)), rel=1e-5)
    assert reverse == pytest.approx(forward, rel=1e-9)


@pytest.mark.slow
def test_function_space_has_its_derivatives() -> None:
    def last(c: Any) -> Any:
        y = c * jnp.array([1.0, -1.0])
        flow, ts = nm.HeavyBall(0.5 * c), TIMES
        run = nm.simulate_function(
            jnp.eye(2), jnp.zeros(2), y, flow, ts, loss=nm.huber(0.7), readouts=["loss"]
        )
        return run.loss[-1]

    check(last, 1.0, 1e-4)


def last_loss(by: str, flow: str, solver: Any, net: Any) -> Callable:
    def last(x: Any) -> Any:
        parameter = x if by == "parameter" else 1.0
        course = {
            "gradient": nm.GradientFlow(),
            "heavy ball": nm.HeavyBall(0.5 * parameter),
            "nesterov": nm.Nesterov(3.0 * parameter),
        }[flow]
        data = nm.Dataset(DATA.X, DATA.y * x) if by == "targets" else DATA
        weights = scaled(net, x) if by == "weights" else net
        config = nm.Numerics(tol=1e-6)
        run = nm.simulate(
            weights, data, course, TIMES, solver=solver, readouts=["loss"], config=config
        )
        return run.loss[-1]

    return last


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flow", "by"),
    [("heavy ball", "parameter"), ("nesterov", "parameter"), ("heavy ball", "targets")],
)
def test_the_lazy_solver_has_its_derivatives(flow: str, by: str) -> None:
    last = last_loss(by, flow, nm.LazyExponential(), NET)
    # Steps count as constants in a derivative and move in a quotient, whose values carry the steps'
    # errors of 1e-6, no smooth function of x: over 2e-5 they make 1e-3 of a quotient (by
    # Nesterov's d, where a derivative at tol = 1e-8 agrees to 6e-5 with this one), over 2e-2
    # nothing, and the third derivative not yet.
    assert float(jax.jacfwd(last)(1.0)) == pytest.approx(quotient(last, 1.0, 1e-2), rel=5e-4)


@pytest.mark.slow
def test_the_lazy_solver_has_reverse_mode() -> None:
    last = last_loss("targets", "gradient", nm.LazyExponential(), NET)
    forward, reverse = both(last, 1.0)
    assert forward == pytest.approx(quotient(last, 1.0, 1e-4), rel=1e-2)
    assert reverse == pytest.approx(forward, rel=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("solver", [diffrax.Tsit5()])
def test_runge_kutta_has_the_derivatives_of_a_smooth_model(solver: Any) -> None:
    def last(x: Any) -> Any:
        data = nm.Dataset(DATA.X, DATA.y * x)
        flow = nm.HeavyBall(0.5 * x)
        return nm.simulate(SMOOTH, data, flow, TIMES, solver=solver, readouts=["loss"]).loss[-1]

    check(last, 1.0, 1e-4)


@pytest.mark.slow
def test_runge_kutta_has_what_passing_kinks_adds() -> None:
    """Against the lazy solver, whose slopes are averaged over the crossing itself."""
    net, config = nm.init_two_layer(128, 3, key=KEY), nm.Numerics(tol=1e-6)

    def slope(solver: Any) -> float:
        last = lambda b: nm.simulate(
            net, DATA, nm.HeavyBall(b), TIMES, solver=solver, readouts=["loss"], config=config
        ).loss[-1]
        return float(jax.jvp(last, (0.5,), (1.0,))[1])

    assert slope(nm.RungeKutta()) == pytest.approx(slope(nm.LazyExponential()), rel=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize("solver", [nm.RungeKutta(), nm.LazyExponential(order=1)])
def test_solvers_that_miss_sliding_refuse_derivatives_by_name(solver: Any) -> None:
    last = last_loss("targets", "gradient", solver, NET)
    with pytest.raises(nm.InputError, match=r"take solver=nm.LazyExponential\(\)"):
        jax.jvp(last, (1.0,), (1.0,))


@pytest.mark.slow
def test_kinks_of_other_models_are_told() -> None:
    net = eqx.nn.MLP(3, "scalar", 4, 1, key=KEY)
    last = lambda b: nm.simulate(net, DATA, nm.HeavyBall(b), TIMES, readouts=["loss"]).loss[-1]
    with pytest.warns(RuntimeWarning, match="leaves out what passing kinks adds"):
        jax.jvp(last, (0.5,), (1.0,))

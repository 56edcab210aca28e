"""The right side by neurons, tile by tile and in the span of the data, is that of plain
autodiff."""

from functools import partial

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntk_momentum as nm
from ntk_momentum.dynamics.objective import norm
from ntk_momentum.dynamics.preparation import weight_problem
from ntk_momentum.method import State
from ntk_momentum.network import neurons
from ntk_momentum.network.model import outputs

ACTIVATIONS = (jax.nn.relu, jax.nn.leaky_relu, jnp.abs, jnp.tanh, jax.nn.gelu)


def vmapped(net, data, w):
    """The network's outputs without anything of ours."""
    return jax.vmap(eqx.combine(w, net))(data.X)


def plain(net, data, loss, w):
    """jax.grad through vmap(net), of the leaves in w."""
    return jax.tree.leaves(jax.grad(lambda w: loss(vmapped(net, data, w), data.y))(w))


@eqx.filter_jit
def gradient(problem, w):
    return problem.gradient(w)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda activation: activation.__name__)
@pytest.mark.parametrize("p", [3, 40], ids=["narrow", "wide"])
def test_the_right_side_by_tiles_is_autodiffs(monkeypatch, p, activation):
    monkeypatch.setattr(neurons, "CACHED", 50)
    data = nm.sphere(5, p, key=jax.random.key(0))
    for width, trainable in (
        ((64, "all"), (61, "hidden"), (61, "output"))
        if activation is jax.nn.relu
        else ((61, "all"),)
    ):
        net = nm.init_two_layer(width, p, key=jax.random.key(1), activation=activation)
        net = eqx.tree_at(lambda n: n.output, net, net.output * jnp.linspace(0.5, 2, width))
        assert neurons.parts_of(data.X, net.hidden) == 4
        problem, w = weight_problem(net, data, nm.logistic, trainable, None)
        for ours, theirs in zip(
            jax.tree.leaves(gradient(problem, w)), plain(net, data, nm.logistic, w), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)
        turn = jax.tree.map(jnp.cos, w)
        f, velocity = jax.jvp(partial(vmapped, net, data), (w,), (turn,))
        np.testing.assert_allclose(problem.f(w), f, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(problem.velocity(w, turn), velocity, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("activation", ACTIVATIONS[:3], ids=lambda activation: activation.__name__)
def test_tiles_keep_autodiffs_slope_at_the_kink(activation):
    X, hidden, output = (
        jnp.eye(3),
        jnp.array([[0.0, 1.0, -1.0]] * 4),
        jnp.array([1.0, -1.0, 2.0, 0.5]),
    )
    rows, _ = neurons.pullback(activation, X, hidden, output, jnp.ones_like)
    expected = jax.grad(lambda W: jnp.sum(activation(X @ W.T) @ output))(hidden)
    np.testing.assert_array_equal(rows, expected)


def test_a_trained_scale_takes_autodiff():
    data = nm.sphere(5, 3, key=jax.random.key(0))
    net = nm.init_two_layer(8, 3, key=jax.random.key(1), scale=jnp.asarray(0.3))
    problem, w = weight_problem(net, data, nm.squared, eqx.is_inexact_array, None)
    for ours, theirs in zip(
        jax.tree.leaves(problem.gradient(w)), plain(net, data, nm.squared, w), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)


def test_lambda_max_is_the_kernels():
    for data in (nm.sphere(6, 4, key=jax.random.key(0)), nm.sphere(130, 2, key=jax.random.key(0))):
        net = nm.init_two_layer(64, data.input_size, key=jax.random.key(1))
        problem, w = weight_problem(net, data, nm.squared, "all", None)
        np.testing.assert_allclose(
            problem.lambda_max(w), np.linalg.eigvalsh(problem.kernel(w))[-1], rtol=1e-3
        )


def low_rank(n=6, p=12, rank=3):
    """Unit inputs of less than full rank."""
    X = jax.random.normal(jax.random.key(2), (n, rank)) @ jax.random.normal(
        jax.random.key(3), (rank, p)
    )
    return nm.Dataset(X / jnp.linalg.norm(X, axis=1, keepdims=True), jnp.sign(X[:, 0]))


DATA = {
    "few": nm.sphere(4, 9, key=jax.random.key(0)),
    "rank": low_rank(),
    "many of low rank": low_rank(20, 8, 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("trainable", ["hidden", "output", "all"])
@pytest.mark.parametrize(
    ("name", "preactivations"), [*((name, False) for name in DATA), ("few", True)]
)
def test_the_problem_in_other_coordinates_has_the_same_numbers(name, preactivations, trainable):
    data = DATA[name]
    net = nm.init_two_layer(24, data.input_size, key=jax.random.key(1))
    problem, w = weight_problem(net, data, nm.squared, trainable, None)
    small, z = problem.within(w, preactivations=preactivations)
    assert small.X.shape[1] == np.linalg.matrix_rank(np.asarray(data.X)) < data.input_size
    assert (small.metric is not None) == preactivations

    @eqx.filter_jit
    def numbers(problem, w):
        """After two steps of heavy ball: all that solvers and read-outs ask a problem for."""
        last = w
        for _ in range(2):
            last, w = (
                w,
                jax.tree.map(
                    lambda x, g, y: x - 0.3 * g + 0.9 * (x - y), w, problem.gradient(w), last
                ),
            )
        v = jax.tree.map(lambda x, y: x - y, w, last)
        error = State(v, problem.gradient(w))
        whole = problem.whole(w)
        size = norm(problem.orthonormal(v))
        return (
            problem.f(w),
            problem.kernel(w),
            problem.lambda_max(w),
            problem.velocity(w, v),
            size,
            *(
                problem.relative_error(State(w, v), error, 1.0, 0.0),
                (whole.hidden, whole.output),
            ),
        )

    for one, two in zip(
        jax.tree.leaves(numbers(problem, w)), jax.tree.leaves(numbers(small, z)), strict=True
    ):
        np.testing.assert_allclose(one, two, rtol=1e-11, atol=1e-12)


def test_what_cannot_be_reduced_is_left_alone():
    few = DATA["few"]
    net = nm.init_two_layer(24, 9, key=jax.random.key(1))
    for model, data in (
        (eqx.nn.MLP(9, "scalar", 4, 1, key=jax.random.key(0)), few),
        (net, nm.sphere(8, 9, key=jax.random.key(0))),
        (nm.init_two_layer(2, 9, key=jax.random.key(1)), few),
    ):
        problem, w = weight_problem(model, data, nm.squared, None, None)
        assert problem.within(w)[0] is problem


@pytest.mark.slow
@pytest.mark.parametrize("solver", [None, diffrax.Tsit5()], ids=["lazy", "tsit5"])
def test_simulations_in_the_span_read_off_the_same(solver):
    """A read-out of the user's keeps the weights whole."""
    data, flow, ts = DATA["few"], nm.HeavyBall(1.0), [0.0, 1.0, 2.0]
    net = nm.init_two_layer(48, 9, key=jax.random.key(1))
    names = (
        "f",
        "loss",
        "lambda_min",
        "displacement",
        "flips",
        "kernel_distance",
        *(() if solver else ("impulses",)),
    )
    run = lambda readouts: nm.simulate(
        net, data, flow, ts, solver=solver, readouts=readouts, config=nm.Numerics(tol=1e-3)
    )
    reduced = run(names)
    whole = run({name: name for name in names} | {"mine": lambda s: s.t})
    for name in names:
        np.testing.assert_allclose(reduced[name], whole[name], rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(reduced.model.hidden, whole.model.hidden, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(outputs(reduced.model, data.X), reduced.f[-1], rtol=1e-11)


def test_a_traced_data_set_of_few_inputs_is_reduced_too():
    data = DATA["few"]
    net = nm.init_two_layer(24, 9, key=jax.random.key(1))

    @jax.jit
    def f(X):
        problem, w = weight_problem(net, nm.Dataset(X, data.y), nm.squared, None, None)
        small, z = problem.within(w)
        assert small.X.shape == (4, 4)
        return small.f(z)

    np.testing.assert_allclose(f(data.X), outputs(net, data.X), rtol=1e-12)

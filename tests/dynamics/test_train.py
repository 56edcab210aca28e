"""Discrete training is the recursion on the network's own gradient."""

import jax
import numpy as np
import optax
import pytest

import ntk_momentum as nm
import ntk_momentum.method
from ntk_momentum.method import AbstractOptimizer
from ntk_momentum.network.model import outputs

KEY = jax.random.key(0)
DATA = nm.sphere(6, 4, key=jax.random.key(1))
NET = nm.init_two_layer(32, 4, key=KEY)


def _gradient(W):
    X, y, a = np.asarray(DATA.X), np.asarray(DATA.y), np.asarray(NET.output)
    active = W @ X.T > 0
    residual = (a[:, None] * active * (W @ X.T)).sum(0) / np.sqrt(32) - y
    return a[:, None] * ((active * residual) @ X) / np.sqrt(32), 0.5 * residual @ residual


def test_training_is_heavy_ball_written_out():
    run = nm.train(NET, DATA, nm.heavy_ball(0.1, 0.8), 30)
    last = W = np.asarray(NET.hidden)
    losses = []
    for _ in range(31):
        gradient, loss = _gradient(W)
        losses.append(loss)
        last, W = W, W - 0.1 * gradient + 0.8 * (W - last)
    np.testing.assert_allclose(run.loss, losses, rtol=1e-10)
    np.testing.assert_array_equal(run.ts, np.arange(31))


def test_saving_less_often_changes_nothing():
    every = nm.train(NET, DATA, nm.nesterov(0.1, 3.0), 40)
    some = nm.train(NET, DATA, nm.nesterov(0.1, 3.0), 40, save_every=10)
    for name in every.readouts:
        np.testing.assert_allclose(every[name][::10], some[name], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(outputs(some.model, DATA.X), some.f[-1], rtol=1e-12)


def test_optax_transformations_train_too():
    ours = nm.train(NET, DATA, nm.heavy_ball(0.05, 0.9), 20)
    theirs = nm.train(NET, DATA, optax.sgd(0.05, momentum=0.9), 20)
    np.testing.assert_allclose(ours.loss, theirs.loss, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(
    "flow",
    [
        nm.HeavyBall(0.6),
        *(
            pytest.param(flow, marks=pytest.mark.slow)
            for flow in (nm.Nesterov(3.0), nm.GradientFlow())
        ),
    ],
    ids=str,
)
def test_training_follows_the_flow_as_the_step_shrinks(flow):
    gaps = []
    for h in (0.1, 0.025):
        optimizer, offset = flow.discretize(h)
        steps = round(4 / h)
        run = nm.train(NET, DATA, optimizer, steps, readouts=["loss"])
        solved = nm.simulate(
            NET,
            DATA,
            flow,
            h * np.arange(1, steps + 1) + offset,
            readouts=["loss"],
            config=nm.Numerics(tol=1e-6),
        )
        gaps.append(np.max(np.abs(run.loss[1:] - solved.loss)))
    assert gaps[1] < 0.5 * gaps[0]


def test_divergence_is_a_verdict():
    run = nm.train(NET, DATA, nm.gradient_descent(1e3), 400, save_every=100)
    assert not run.ok and "finite" in run.reason
    assert np.isnan(run.loss[-1]) and np.isfinite(run.loss[0])


@pytest.mark.parametrize(("steps", "save_every"), [(0, 1), (10, 3), (10, 0)])
def test_bad_step_counts_are_refused(steps, save_every):
    with pytest.raises(nm.InputError, match=r"steps must be|save_every must be"):
        nm.train(NET, DATA, nm.gradient_descent(0.1), steps, save_every=save_every)


def test_what_is_no_optimizer_is_refused():
    with pytest.raises(nm.InputError, match="init and update"):
        nm.train(NET, DATA, nm.GradientFlow, 10)
    with pytest.raises(nm.InputError, match="flows"):
        nm.train(NET, DATA, nm.gradient_descent(0.1), 10, readouts=["lyapunov"])


def test_optimizers_that_ask_for_the_loss_get_it():
    plain = nm.train(NET, DATA, nm.nesterov(0.3, 3.0), 200, save_every=200)
    restarted = nm.train(
        NET, DATA, nm.restarted_nesterov(0.3, 3.0, "function"), 200, save_every=200
    )
    assert restarted.loss[-1] < plain.loss[-1]
    with pytest.raises(nm.InputError, match="not linear"):
        nm.predict(
            nm.empirical_ntk(NET, DATA.X), -DATA.y, nm.restarted_nesterov(0.3, 3.0, "speed"), [1, 2]
        )


def test_other_numbers_of_steps_and_hyperparameters_need_no_new_program():
    from ntk_momentum.dynamics.run import count_off

    nm.train(NET, DATA, nm.heavy_ball(0.1, 0.8), 8, save_every=2, readouts=["loss"])
    compiled = count_off._cached._cache_size()
    longer = nm.train(NET, DATA, nm.heavy_ball(0.05, 0.7), 21, save_every=7, readouts=["loss"])
    assert count_off._cached._cache_size() == compiled
    np.testing.assert_array_equal(longer.ts, [0, 7, 14, 21])


METHODS = (
    nm.gradient_descent(0.1),
    nm.heavy_ball(0.1, 0.7),
    nm.nesterov(0.1, 3.0),
    nm.nesterov_torch(0.1, 3.0),
    nm.multi_step_momentum(0.1, 0.5, 0.2),
    nm.triple_momentum(0.1, 3.0),
    nm.restarted_nesterov(0.1, 3.0, 5),
    nm.Friction(lambda t: 0.3 + 0.1 * t).discretize(0.3)[0],
    nm.HessianDampedNesterov(3.0, 0.1).discretize(0.3)[0],
    nm.nesterov(lambda k: 0.1 / (1 + k), 3.0),
)


def test_every_linear_method_of_the_package_is_listed():
    made = {type(method) for method in METHODS}
    assert made == {
        kind
        for kind in vars(nm.method).values()
        if isinstance(kind, type) and issubclass(kind, AbstractOptimizer)
    } - {AbstractOptimizer, nm.method.Decayed, nm.method.Foreign}  # the last two are not linear


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_the_discrete_prediction_is_the_methods_steps_on_the_error(method):
    """The prediction runs mode by mode; here the whole error takes the method's steps, Delta_{k+1}
    - Delta_k from H Delta_k."""
    kernel = np.asarray(nm.empirical_ntk(NET, DATA.X))
    error = start = -np.asarray(DATA.y)
    memory, errors = method.init(error), [start]
    for _ in range(12):
        change, memory = method.update(kernel @ error, memory, error)
        error = error + np.asarray(change)
        errors.append(error)
    np.testing.assert_allclose(
        nm.predict(kernel, start, method, range(13)).residual, errors, rtol=1e-11, atol=1e-13
    )


def test_an_ensemble_of_trainings_is_each_alone():
    optimizers = [nm.heavy_ball(0.1, 0.8), nm.gradient_descent(0.2), nm.heavy_ball(0.05, 0.5)]
    optimizers.append(optax.chain(optax.clip(0.5), optax.adamw(0.1, weight_decay=0.01)))
    runs = nm.train_ensemble(
        DATA, optimizers, [8, 16], [3, 5], 12, save_every=4, readouts=["loss", "f", "flips"]
    )
    assert runs.ok and runs.loss.shape == (4, 2, 2, 4) and runs.f.shape == (4, 2, 2, 4, 6)
    np.testing.assert_array_equal(runs.ts[0], [0, 4, 8, 12])
    for i, j, k in ((0, 0, 1), (1, 1, 0), (2, 1, 1), (3, 0, 0)):
        net = nm.init_two_layer(runs.widths[j], 4, key=jax.random.key(runs.seeds[k]))
        alone = nm.train(
            net, DATA, optimizers[i], 12, save_every=4, readouts=["loss", "f", "flips"]
        )
        for name in alone.readouts:
            np.testing.assert_allclose(runs[name][i, j, k], alone[name], rtol=1e-10, atol=1e-12)
    with pytest.raises(nm.InputError, match="optimizers must be an optimizer"):
        nm.train_ensemble(DATA, [nm.GradientFlow()], 8, 1, 10)


def test_training_in_the_span_of_few_inputs_ends_at_the_same_weights():
    few = nm.sphere(3, 8, key=jax.random.key(4))
    net = nm.init_two_layer(16, 8, key=KEY)
    reduced = nm.train(net, few, nm.nesterov(0.2, 3.0), 20, trainable="all")
    whole = nm.train(
        net,
        few,
        nm.nesterov(0.2, 3.0),
        20,
        trainable="all",
        readouts={"mine": lambda s: s.residual, "loss": "loss"},
    )
    np.testing.assert_allclose(reduced.loss, whole.loss, rtol=1e-11)
    np.testing.assert_allclose(reduced.model.hidden, whole.model.hidden, rtol=1e-11, atol=1e-13)


def test_optimizers_that_scale_coordinates_keep_theirs():
    few = nm.sphere(3, 8, key=jax.random.key(4))
    net = nm.init_two_layer(16, 8, key=KEY)
    run = nm.train(net, few, optax.adam(0.1), 1, readouts=["loss"])
    gradient = jax.grad(lambda W: nm.squared(outputs(nm.TwoLayerNet(W, net.output), few.X), few.y))(
        net.hidden
    )
    np.testing.assert_allclose(
        run.model.hidden, net.hidden - 0.1 * np.sign(gradient), rtol=1e-5, atol=1e-6
    )

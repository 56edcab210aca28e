"""Mini-batches: the steps are those of a loop by hand on the same samples, whoever draws them."""

import functools
import io
import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ntk_momentum as nm
from ntk_momentum.dynamics.preparation import weight_problem
from ntk_momentum.dynamics.run import count_off
from ntk_momentum.dynamics.solver import Batches

KEY = jax.random.key(7)
DATA = nm.sphere(7, 4, key=jax.random.key(1))
NET = nm.init_two_layer(12, 4, key=jax.random.key(0))
X, Y, A = np.asarray(DATA.X), np.asarray(DATA.y), np.asarray(NET.output)
SAMPLINGS = ("without_replacement", "with_replacement", "reshuffled")
BALL = nm.heavy_ball(0.05, 0.8)
SLOW = functools.partial(pytest.param, marks=pytest.mark.slow)


def batches(size, sampling, key=KEY):
    return Batches(key, jnp.int32(0), (size,), sampling)


def drawn(size, n, sampling, steps, key=KEY):
    """The samples of each step, asked for one step at a time."""
    table = jax.jit(lambda k: batches(size, sampling, key).table(size, n, k))
    return [np.asarray(rows[first]) for rows, first in map(table, jnp.arange(steps))]


def gradient(W, rows):
    active = W @ X[rows].T > 0
    residual = (A[:, None] * active * (W @ X[rows].T)).sum(0) / np.sqrt(12) - Y[rows]
    return len(X) / len(rows) * A[:, None] * ((active * residual) @ X[rows]) / np.sqrt(12)


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [SAMPLINGS[0], *map(SLOW, SAMPLINGS[1:])])
def test_training_on_batches_is_a_loop_by_hand_on_the_same_samples(sampling):
    run = nm.train(NET, DATA, BALL, 15, batch_size=3, key=KEY, sampling=sampling, readouts=["f"])
    last = W = np.asarray(NET.hidden)
    outputs = [np.maximum(W @ X.T, 0).T @ A / np.sqrt(12)]
    for rows in drawn(3, 7, sampling, 15):
        last, W = W, W - 0.05 * gradient(W, rows) + 0.8 * (W - last)
        outputs.append(np.maximum(W @ X.T, 0).T @ A / np.sqrt(12))
    np.testing.assert_allclose(run.f, outputs, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(run.model.hidden, W, rtol=1e-9)


def test_a_batchs_gradient_is_the_whole_one_on_average():
    problem, w = weight_problem(NET, DATA, nm.squared, None, None)
    chosen = batches(3, "without_replacement")
    each = jax.jit(
        jax.vmap(lambda rows: jax.tree.leaves(chosen.part(problem, rows).gradient(w))[0])
    )
    subsets = each(jnp.asarray(list(itertools.combinations(range(7), 3))))
    np.testing.assert_allclose(jnp.mean(subsets, 0), problem.gradient(w).hidden, rtol=1e-12)
    tuples = each(jnp.asarray(list(itertools.product(range(7), repeat=2))))
    np.testing.assert_allclose(jnp.mean(tuples, 0), problem.gradient(w).hidden, rtol=1e-12)


@pytest.mark.parametrize(("size", "n"), [(2, 5), SLOW(36, 37)])
def test_every_subset_is_drawn_equally_often(size, n):
    """By Floyd's algorithm, and by sorting where the batch is most of the data: 20 and 37
    outcomes, each within five standard deviations, twice as many as asked for at once."""
    rows = jax.jit(
        jax.vmap(lambda k: batches(size, "without_replacement").table(size, n, k)[0][0])
    )(jnp.arange(6000))
    rows = np.sort(np.asarray(rows), axis=1)
    assert np.all(np.diff(rows, axis=1) > 0) and rows.min() == 0 and rows.max() == n - 1
    _, counts = np.unique(rows, axis=0, return_counts=True)
    expected = 6000 / math.comb(n, size)
    assert len(counts) == math.comb(n, size)
    assert np.max(np.abs(counts - expected)) < 5 * np.sqrt(expected)


def test_an_epoch_sees_every_sample_once_and_the_next_one_in_another_order():
    steps = np.stack(drawn(2, 7, "reshuffled", 12)).reshape(4, 6)
    assert all(len(set(epoch)) == 6 for epoch in steps)
    assert len({tuple(epoch) for epoch in steps}) == 4
    assert len({(set(range(7)) - set(epoch)).pop() for epoch in steps}) > 1  # not always the last


@pytest.mark.parametrize("sampling", ["without_replacement", "reshuffled"])
def test_a_batch_of_all_samples_is_the_whole_data_set_bit_for_bit(sampling):
    whole = nm.train(NET, DATA, BALL, 8, readouts=["f"])
    batch = nm.train(NET, DATA, BALL, 8, batch_size=7, key=KEY, sampling=sampling, readouts=["f"])
    np.testing.assert_array_equal(whole.f, batch.f)
    np.testing.assert_array_equal(whole.model.hidden, batch.model.hidden)


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [SLOW("without_replacement"), "reshuffled"])
def test_a_run_that_was_stopped_within_an_epoch_goes_on_with_the_same_bits(sampling):
    options = {"batch_size": 2, "key": KEY, "sampling": sampling, "readouts": ["f", "flips"]}
    once = nm.train(NET, DATA, BALL, 11, **options)
    first = nm.train(NET, DATA, BALL, 4, **options)
    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, first.state)
    file.seek(0)
    kept = eqx.tree_deserialise_leaves(file, first.state)
    del options["key"]  # the state has it
    second = nm.train(first.model, DATA, BALL, 7, state=kept, **options)
    np.testing.assert_array_equal(second.ts, range(4, 12))
    for name in ("f", "flips"):
        np.testing.assert_array_equal(second[name], once[name][4:])
    np.testing.assert_array_equal(second.model.hidden, once.model.hidden)
    assert int(second.state.step) == 11 and int(second.accepted) == 11


@pytest.mark.slow
def test_a_full_run_and_any_optimizer_go_on_too():
    options = {"readouts": ["loss"], "save_every": 2, "trainable": "all"}
    once = nm.train(NET, DATA, optax.adam(0.01), 6, **options)
    first = nm.train(NET, DATA, optax.adam(0.01), 4, **options)
    second = nm.train(NET, DATA, optax.adam(0.01), 2, state=first.state, **options)
    np.testing.assert_array_equal(second.loss, once.loss[2:])
    for other, said in (
        ({"optimizer": BALL}, "another optimizer"),
        ({"model": nm.init_two_layer(8, 4, key=KEY)}, "another model"),
        ({"readouts": ["flips"]}, "did not watch flips"),
        ({"state": first}, "run.state"),
        ({"key": 3}, "one key"),
    ):
        asked = {"model": NET, "optimizer": optax.adam(0.01), "state": first.state, **options}
        with pytest.raises(nm.InputError, match=said):
            nm.train(data=DATA, steps=2, **(asked | other))


def test_a_callback_sees_saved_steps_and_ends_the_run():
    options = {"batch_size": 3, "key": KEY, "save_every": 2, "readouts": ["loss"]}
    seen, counted = [], []

    def callback(step, values):
        seen.append((step, float(values["loss"])))
        return step >= 6

    whole = nm.train(NET, DATA, BALL, 12, **options)
    run = nm.train(
        NET,
        DATA,
        BALL,
        12,
        callback=callback,
        progress=lambda *done: counted.append(done),
        **options,
    )
    np.testing.assert_array_equal(run.ts, [0, 2, 4, 6])
    assert [step for step, _ in seen] == [0, 2, 4, 6] and run.ok
    np.testing.assert_array_equal([loss for _, loss in seen], run.loss)
    np.testing.assert_array_equal(run.loss, whole.loss[:4])
    assert counted == [(1, 7), (2, 7), (3, 7), (4, 7)]
    rest = nm.train(NET, DATA, BALL, 6, state=run.state, **options)
    np.testing.assert_array_equal(rest.loss, whole.loss[3:])
    with pytest.raises(nm.InputError, match="on the host"):
        jax.jit(lambda key: nm.train(NET, DATA, BALL, 2, callback=print, batch_size=2, key=key))(
            KEY
        )


@pytest.mark.slow
def test_keys_and_numbers_of_steps_share_a_program_and_lanes_are_runs_alone():
    one = lambda key, steps=4: nm.train(
        NET, DATA, BALL, steps, batch_size=2, key=key, save_every=2, readouts=["loss"]
    )
    first = one(KEY)
    compiled = count_off._cached._cache_size()
    keys = jax.random.split(KEY, 2)
    alone = [one(key).loss for key in keys]
    np.testing.assert_array_equal(one(KEY).loss, first.loss)
    assert count_off._cached._cache_size() == compiled and not np.array_equal(*alone)
    np.testing.assert_allclose(jax.vmap(lambda key: one(key).loss)(keys), alone, rtol=1e-12)


@pytest.mark.slow
def test_a_mean_over_samples_needs_no_factor():
    """The mean's gradient step is the sum's with eta n / 2: of (f - y)^2, not half of it."""
    mean = lambda f, y: jnp.mean((f - y) ** 2)
    options = {"batch_size": 3, "key": KEY, "readouts": ["f"]}
    ours = nm.train(NET, DATA, nm.gradient_descent(0.1 * 2 / 7), 5, **options)
    theirs = nm.train(NET, DATA, nm.gradient_descent(0.1), 5, loss=mean, **options)
    np.testing.assert_allclose(theirs.f, ours.f, rtol=1e-10)
    with pytest.raises(nm.InputError, match="neither"):
        nm.train(NET, DATA, BALL, 2, loss=lambda f, y: jnp.linalg.norm(f - y), **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "asks"),
    [
        (optax.polyak_sgd(0.1), "value"),
        (optax.contrib.sam(optax.sgd(1e-2), optax.sgd(1e-3), opaque_mode=True), "grad_fn"),
    ],
)
def test_what_asks_for_the_loss_gets_that_of_the_batch(optimizer, asks):
    run = nm.train(NET, DATA, optimizer, 3, batch_size=3, key=KEY, readouts=["f"])
    put = lambda W: nm.TwoLayerNet(W, NET.output)
    W, state = NET.hidden, optimizer.init(NET.hidden)
    for rows in drawn(3, 7, "without_replacement", 3):
        few = nm.Dataset(DATA.X[rows], DATA.y[rows])
        loss = lambda W, few=few: 7 / 3 * nm.squared(jax.vmap(put(W))(few.X), few.y)
        told = {"value": loss(W), "grad_fn": lambda W, _, loss=loss: jax.grad(loss)(W)}
        change, state = optimizer.update(jax.grad(loss)(W), state, W, **{asks: told[asks]})
        W = optax.apply_updates(W, change)
    np.testing.assert_allclose(run.f[-1], jax.vmap(put(W))(DATA.X), rtol=1e-9)


@pytest.mark.parametrize("optimizer", [optax.lbfgs(), nm.restarted_nesterov(0.1, 3.0, "speed")])
def test_what_compares_one_step_with_the_next_wants_the_whole_data_set(optimizer):
    with pytest.raises(nm.InputError, match="leave out batch_size"):
        nm.train(NET, DATA, optimizer, 2, batch_size=2, key=KEY)


def test_with_replacement_a_batch_may_be_larger_than_the_data_set():
    few = nm.Dataset(DATA.X[:2], DATA.y[:2])
    run = nm.train(NET, few, BALL, 1, batch_size=5, key=KEY, sampling="with_replacement")
    assert np.isfinite(run.loss).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 0}, "positive whole number, got 0"),
        ({"batch_size": 8}, "between 1 and the number of samples, 7, got 8"),
        ({"batch_size": 2.0}, "whole number, got 2.0 of type float; try 2"),
        ({"batch_size": "2"}, "whole number"),
        ({"batch_size": True}, "whole number"),
        ({"batch_size": (1, 2)}, "whole number"),
        ({"batch_size": 2, "key": None}, "needs a key"),
        ({"batch_size": 2, "key": 0}, r"one key .* try key=jax.random.key\(0\)"),
        ({"batch_size": 2, "key": jax.random.split(KEY)}, "take one of them"),
        ({"batch_size": 2, "key": jnp.zeros(2)}, "one key"),
        ({"batch_size": 2, "sampling": "reshufled"}, "Did you mean 'reshuffled'"),
        ({"batch_size": 2, "sampling": None}, "unknown sampling"),
        ({"callback": 3}, "callback must be a function"),
        ({"progress": 3}, "progress must be"),
        ({"state": {}}, "state must be that of an earlier run"),
    ],
)
def test_wrong_batches_are_refused_in_words(options, said):
    with pytest.raises(nm.InputError, match=said):
        nm.train(NET, DATA, BALL, 2, **({"key": KEY} | options))


def test_numpys_numbers_and_old_keys_are_taken():
    options = {"batch_size": np.int64(2), "key": jax.random.PRNGKey(3), "readouts": ["loss"]}
    old = nm.train(NET, DATA, BALL, np.int64(4), save_every=np.int32(2), **options)
    new = nm.train(
        NET, DATA, BALL, 4, save_every=2, **(options | {"batch_size": 2, "key": jax.random.key(3)})
    )
    np.testing.assert_array_equal(old.loss, new.loss)

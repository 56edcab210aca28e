"""Second moments on mini-batches against every possible draw, closed forms, and runs."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntk_momentum as nm
from ntk_momentum.errors import InputError
from ntk_momentum.stochastic.levels import few_levels
from ntk_momentum.stochastic.sampling import draw_batches, noise_strength

OPTIMIZERS = (
    nm.gradient_descent(0.3),
    nm.heavy_ball(0.2, 0.7),
    nm.nesterov(0.2, 3.0),
    nm.constant_nesterov(0.2, 0.5),
    nm.multi_step_momentum(0.2, 0.4, 0.2),
    nm.restarted_nesterov(0.2, 3.0, 2),
)
name = lambda method: type(method).__name__


def problem(n=3, k=None, seed=0):
    """(kernel, residual0, test kernel) of n samples; with k outputs of the full kernel."""
    rng = np.random.default_rng(seed)
    size = n if k is None else n * k
    factor = rng.normal(size=(size, size + 2))
    return (
        factor @ factor.T / size,
        rng.normal(size=n if k is None else (n, k)),
        rng.normal(size=(2 if k is None else 2 * k, size)),
    )


def draws(n, B, sampling):
    """(probability, q) of each batch that can be drawn."""
    if sampling == "with_replacement":
        found = list(itertools.product(range(n), repeat=B))
    else:
        found = list(itertools.combinations(range(n), B))
    for chosen in found:
        yield 1 / len(found), np.bincount(chosen, minlength=n) * n / B


def expected(kernel, start, optimizer, steps, B, sampling, rows):
    """(E |Delta|^2/2, its standard deviation, E Delta, var of test points) over all draws, by the
    optimizer's own update."""
    n, outputs = len(start), len(kernel) // len(start)
    flat = jnp.asarray(start).reshape(-1)
    update = jax.jit(optimizer.update)
    branches = [(1.0, flat, jnp.zeros_like(flat), optimizer.init((flat, flat)))]
    for _ in range(steps):
        after = []
        for p, delta, c, memory in branches:
            for weight, q in draws(n, B, sampling):
                noisy = jnp.repeat(jnp.asarray(q), outputs) * delta
                change, kept = update((jnp.asarray(kernel) @ noisy, noisy), memory)
                after.append((p * weight, delta + change[0], c + change[1], kept))
        branches = after
    p = np.array([b[0] for b in branches])
    delta, c = (np.stack([np.asarray(b[i]) for b in branches]) for i in (1, 2))
    loss = np.sum(delta**2, axis=1) / 2
    moved = c @ rows.T
    mean = p @ moved
    return p @ loss, math.sqrt(p @ (loss - p @ loss) ** 2), p @ delta, p @ (moved - mean) ** 2


@pytest.mark.parametrize(
    "optimizer",
    [
        *OPTIMIZERS[1:3],
        *(pytest.param(o, marks=pytest.mark.slow) for o in (OPTIMIZERS[0], *OPTIMIZERS[3:])),
    ],
    ids=name,
)
def test_exact_moments_are_means_over_every_draw(optimizer):
    kernel, start, rows = problem()
    found = nm.predict_stochastic(kernel, start, optimizer, [0, 3], batch_size=1, test_kernel=rows)
    loss, _, mean, variance = expected(kernel, start, optimizer, 3, 1, "without_replacement", rows)
    np.testing.assert_allclose(found.loss[1], loss, rtol=1e-12)
    np.testing.assert_allclose(found.residual[1], mean, rtol=1e-11)
    np.testing.assert_allclose(found.test_variance[1], variance, rtol=1e-11)
    target = np.array([1.0, -1.0])
    error = np.sum((np.asarray(found.test[1]) - target) ** 2 + variance) / 2
    np.testing.assert_allclose(found.test_error(target)[1], error, rtol=1e-12)


@pytest.mark.parametrize("sampling, B", [("with_replacement", 2), ("without_replacement", 2)])
def test_exact_moments_of_either_way_of_drawing(sampling, B):
    kernel, start, rows = problem()
    optimizer = nm.heavy_ball(0.2, 0.7)
    found = nm.predict_stochastic(
        kernel, start, optimizer, [3], batch_size=B, sampling=sampling, test_kernel=rows
    )
    loss, _, _, variance = expected(kernel, start, optimizer, 3, B, sampling, rows)
    np.testing.assert_allclose(found.loss[0], loss, rtol=1e-12)
    np.testing.assert_allclose(found.test_variance[0], variance, rtol=1e-11)


@pytest.mark.parametrize("outputs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_halves_of_a_large_recursion_are_the_whole(outputs):
    """S <- M S M^T + eta^2 [H; H] N [H; H]^T in the samples' own order, where the moments are kept
    without the block that symmetry gives."""
    eta, beta, B, n = 0.03, 0.7, 3, 66 // outputs
    kernel, start, _ = problem(n, None if outputs == 1 else 2)
    size, tau = len(kernel), noise_strength(B, n, "without_replacement")
    one, H = np.eye(size), np.concatenate([kernel, kernel])
    M = np.block([[one - eta * kernel, beta * one], [-eta * kernel, beta * one]])
    z = np.concatenate([start.reshape(-1), np.zeros(size)])
    S = np.outer(z, z)
    for _ in range(4):
        A = S[:size, :size]
        own = np.kron(np.eye(n), np.ones((outputs, outputs))) * A
        S = M @ S @ M.T + eta**2 * tau * H @ (n * own - A) @ H.T
    found = nm.predict_stochastic(kernel, start, nm.heavy_ball(eta, beta), [4], batch_size=B)
    assert found.loss[0] > 1.1 * found.full_batch[0]
    np.testing.assert_allclose(found.loss[0], np.trace(S[:size, :size]) / 2, rtol=1e-11)


def test_outputs_of_a_sample_are_drawn_together():
    kernel, start, rows = problem(3, 2)
    optimizer = nm.nesterov(0.2, 3.0)
    found = nm.predict_stochastic(kernel, start, optimizer, [3], batch_size=1, test_kernel=rows)
    loss, _, _, variance = expected(kernel, start, optimizer, 3, 1, "without_replacement", rows)
    np.testing.assert_allclose(found.loss[0], loss, rtol=1e-12)
    np.testing.assert_allclose(found.test_variance[0], variance.reshape(2, 2).sum(1), rtol=1e-11)


@pytest.mark.slow
def test_outputs_that_share_a_kernel_are_those_of_its_full_form():
    kernel, _, rows = problem(4)
    start = np.random.default_rng(1).normal(size=(4, 2))
    full, full_rows = (np.kron(m, np.eye(2)) for m in (kernel, rows))
    arguments = {"optimizer": nm.heavy_ball(0.2, 0.7), "steps": [0, 5], "batch_size": 2}
    shared = nm.predict_stochastic(kernel, start, test_kernel=rows, **arguments)
    whole = nm.predict_stochastic(full, start, test_kernel=full_rows, **arguments)
    np.testing.assert_allclose(shared.loss, whole.loss, rtol=1e-12)
    np.testing.assert_allclose(shared.test_variance, whole.test_variance, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("optimizer", [OPTIMIZERS[2]], ids=name)
@pytest.mark.parametrize("method", ["exact", "closure"])
def test_the_full_batch_is_the_prediction_without_noise(optimizer, method):
    kernel, start, rows = problem(4)
    counts = [0, 3]
    found = nm.predict_stochastic(
        kernel, start, optimizer, counts, batch_size=4, method=method, test_kernel=rows
    )
    plain = nm.predict(kernel, start, optimizer, counts, test_kernel=rows)
    np.testing.assert_array_equal(found.loss, plain.loss)
    np.testing.assert_array_equal(found.test_variance, 0.0)
    np.testing.assert_allclose(np.sum(found.second_moments, axis=1) / 2, plain.loss, rtol=1e-12)


@pytest.mark.parametrize("method", ["exact", "closure"])
@pytest.mark.parametrize("sampling", ["without_replacement", "with_replacement"])
def test_isotropic_kernels_shrink_by_hand(method, sampling):
    """H = h I: |Delta|^2 falls by (1 - x)^2 + tau (n - 1) x^2 on the mean."""
    n, B, x = 6, 2, 0.4
    found = nm.predict_stochastic(
        2.0 * np.eye(n), np.ones(n), nm.gradient_descent(x / 2), 5, batch_size=B,
        sampling=sampling, method=method,
    )  # fmt: skip
    tau = {"without_replacement": (n - B) / (B * (n - 1)), "with_replacement": 1 / B}[sampling]
    factor = (1 - x) ** 2 + tau * (n - 1) * x**2
    np.testing.assert_allclose(found.loss, n / 2 * factor ** np.arange(6), rtol=1e-12)


def test_a_single_sample_has_no_noise():
    found = nm.predict_stochastic(
        np.eye(1), np.ones(1), nm.heavy_ball(0.5, 0.5), 4, batch_size=3,
        sampling="with_replacement",
    )  # fmt: skip
    np.testing.assert_allclose(found.loss, found.full_batch, rtol=1e-14)
    assert noise_strength(1, 1, "without_replacement") == 0


@pytest.mark.parametrize("optimizer", [nm.heavy_ball(0.02, 0.9), nm.nesterov(0.02, 8.0)], ids=name)
def test_closure_is_good_to_a_percent_on_digits(optimizer):
    data = nm.load_digits(50, key=jax.random.key(0))
    kernel = nm.infinite_ntk(data.X)
    arguments = (kernel, -data.y, optimizer, [0, 30, 100])
    exact = nm.predict_stochastic(*arguments, batch_size=16)
    closure = nm.predict_stochastic(*arguments, batch_size=16, method="closure")
    assert float(exact.loss[-1] / exact.full_batch[-1]) > 1.02  # there is noise to be right about
    np.testing.assert_allclose(closure.loss, exact.loss, rtol=1e-3)
    assert np.all(np.abs(closure.loss / exact.loss - 1) <= closure.error)
    assert float(jnp.max(closure.error)) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("spread", [True, False])
def test_the_closures_error_is_no_more_than_told(spread, share):
    """At every share of the critical step, and where eigenvectors sit on single samples, where
    noise that is spread evenly is wrong by a tenth and more."""
    if spread:
        data = nm.load_digits(50, key=jax.random.key(0))
        kernel, start = nm.infinite_ntk(data.X), -data.y
    else:
        kernel, start = np.diag(np.linspace(0.1, 1, 40)), np.random.default_rng(0).normal(size=40)
    eta = share * nm.critical_step(nm.heavy_ball(1.0, 0.9), kernel, batch_size=4).eta
    arguments = (kernel, start, nm.heavy_ball(eta, 0.9), [0, 10, 30, 100, 300])
    exact = nm.predict_stochastic(*arguments, batch_size=4)
    closure = nm.predict_stochastic(*arguments, batch_size=4, method="closure")
    error = np.abs(np.asarray(closure.loss / exact.loss) - 1)
    seen = np.asarray(exact.loss > 1e-4 * exact.loss[0])
    assert np.all(error[seen] <= closure.error[seen])
    assert not spread or np.max(error[seen]) < 0.02


def test_few_levels_have_the_sums_of_every_one():
    data = nm.sphere(60, 10, key=jax.random.key(1))
    kernel = nm.infinite_ntk(data.X)
    modes = nm.modes(kernel, -data.y, products=20)
    probe = nm.modes(kernel, jax.random.normal(jax.random.key(0), (60, 2)), products=6)
    few = few_levels(modes, None, probe).levels
    lam, m = few.eigenvalues, few.multiplicity
    np.testing.assert_allclose(jnp.sum(m), 60, rtol=1e-12)
    squares = np.sum(kernel**2)
    assert abs(jnp.sum(m * lam**2) / squares - 1) < 3 * few.doubt < 0.15
    np.testing.assert_allclose(jnp.sum(few.shares, axis=0), 1.0, rtol=1e-12)
    with pytest.raises(InputError, match="need a probe"):
        nm.predict_stochastic(modes, None, nm.heavy_ball(0.01, 0.9), 3, batch_size=2)
    with pytest.raises(InputError, match="every entry of the kernel"):
        nm.predict_stochastic(
            modes, None, nm.heavy_ball(0.01, 0.9), 3, batch_size=2, method="exact", probe=probe
        )


@pytest.mark.slow
def test_few_products_give_the_closure():
    """With a tenth of the vectors; and, an operator's, of its own random ones."""
    n, optimizer = 300, nm.heavy_ball(0.01, 0.9)
    data = nm.sphere(n, 10, key=jax.random.key(1))
    kernel = nm.infinite_ntk(data.X)
    usual = {"optimizer": optimizer, "steps": [0, 10, 100], "batch_size": n // 4}
    dense = nm.predict_stochastic(kernel, -data.y, method="closure", **usual)
    assert float(dense.loss[-1] / dense.full_batch[-1]) > 1.05  # there is noise to be right about
    modes = nm.modes(kernel, -data.y, products=30, tol=1e-3)
    probe = nm.modes(kernel, jax.random.normal(jax.random.key(0), (n, 2)), products=15)
    few = nm.predict_stochastic(modes, None, probe=probe, **usual)
    np.testing.assert_allclose(few.loss, dense.loss, rtol=0.01)
    assert np.all(np.abs(few.loss / dense.loss - 1) <= 3 * few.error + 1e-12)
    whole = nm.predict_stochastic(nm.infinite_ntk_operator(data.X), -data.y, **usual)
    np.testing.assert_allclose(whole.loss, dense.loss, rtol=0.002)


@pytest.mark.parametrize(
    "method", ["exact", *(pytest.param(m, marks=pytest.mark.slow) for m in ("closure", "sampled"))]
)
def test_a_diverging_expected_loss_is_infinite_and_says_so_once(method):
    ask = lambda eta, steps: nm.predict_stochastic(
        np.eye(4, dtype=np.float32), np.ones(4, np.float32), nm.gradient_descent(eta), steps,
        batch_size=1, method=method, runs=8,
    )  # fmt: skip
    told = "expected loss leaves the numbers of float32 by step 200: .* on batches of 1; .*critical"
    with pytest.warns(RuntimeWarning, match=told) as caught:
        found = ask(1e3, [0, 1, 200, 300])  # as the full batch does
    assert len(caught) == 1
    with pytest.warns(RuntimeWarning, match=told):
        noise = ask(1.9, [0, 1, 200, 300])  # as the full batch does not
    for one in (found, noise):
        assert np.isfinite(one.loss[:2]).all() and np.isposinf(one.loss[2:]).all()
        assert not np.isnan(one.second_moments).any() and not np.isnan(one.loss_std).any()
    assert method == "sampled" or np.isfinite(noise.full_batch).all()


@pytest.mark.slow
def test_single_precision_is_good_to_its_digits():
    kernel, start, _ = problem(4)
    optimizer = nm.heavy_ball(0.2, 0.7)
    single = nm.predict_stochastic(
        kernel.astype(np.float32), start.astype(np.float32), optimizer, [9], batch_size=1
    )
    double = nm.predict_stochastic(kernel, start, optimizer, [9], batch_size=1)
    assert single.loss.dtype == jnp.float32
    np.testing.assert_allclose(single.loss, double.loss, rtol=1e-5)


@pytest.mark.slow
def test_an_epoch_draws_every_sample_once():
    chosen = draw_batches(jax.random.key(0), 6, 4, 6, 2, "reshuffled")
    np.testing.assert_array_equal(jnp.sum(chosen[:3], axis=0), 3.0)
    np.testing.assert_array_equal(jnp.sum(chosen[3:], axis=0), 3.0)
    np.testing.assert_array_equal(jnp.sum(chosen, axis=-1), 6.0)
    some = draw_batches(jax.random.key(0), 3, 4, 8, 3, "reshuffled")  # and leaves two out
    np.testing.assert_allclose(jnp.sum(some[:2] > 0, axis=(0, 2)), 6)
    counts = draw_batches(jax.random.key(0), 2, 4, 6, 4, "with_replacement")
    np.testing.assert_allclose(jnp.sum(counts, axis=-1), 6.0)


def test_bad_input_is_told():
    kernel, start, _ = problem(4)
    usual = {"optimizer": nm.heavy_ball(0.2, 0.7), "steps": 3, "batch_size": 2}
    ask = lambda **kwargs: nm.predict_stochastic(kernel, start, **{**usual, **kwargs})
    for match, kwargs in {
        "between 1 and the number of samples, 4": {"batch_size": 5},
        "whole number": {"batch_size": 2.0},
        "Did you mean 'reshuffled'": {"sampling": "reshufled"},
        "Did you mean 'closure'": {"method": "closed"},
        "do not close": {"sampling": "reshuffled", "method": "closure"},
        "not linear": {"optimizer": nm.restarted_nesterov(0.2, 3.0, "speed")},
        "one of ntk_momentum": {"optimizer": nm.HeavyBall(1.0)},
    }.items():
        with pytest.raises(InputError, match=match):
            ask(**kwargs)
    with pytest.raises(InputError, match="test points"):
        ask().test_error(np.zeros(2))


@pytest.mark.slow
@pytest.mark.parametrize("sampling", ["without_replacement", "with_replacement"])
def test_exact_moments_are_means_of_many_runs(optimized, sampling):
    """20,000 runs of the heavy ball and of Nesterov's method, to five standard errors."""
    kernel, start, _ = problem(6, seed=2)
    for optimizer in (nm.heavy_ball(0.1, 0.8), nm.nesterov(0.1, 3.0)):
        arguments = (kernel, start, optimizer, [1, 5, 20])
        drawing = {"batch_size": 2, "sampling": sampling}
        exact = nm.predict_stochastic(*arguments, **drawing)
        many = nm.predict_stochastic(*arguments, **drawing, method="sampled", runs=20_000)
        deviation = np.asarray((many.loss / exact.loss - 1) / many.error)
        assert np.max(np.abs(deviation)) < 5, deviation
        assert np.max(np.asarray(many.error)) < 0.03


@pytest.mark.slow
def test_normal_spread_is_near_that_of_runs(optimized):
    data = nm.load_digits(50, key=jax.random.key(0))
    arguments = (nm.infinite_ntk(data.X), -data.y, nm.heavy_ball(0.005, 0.9), [30, 200])
    exact = nm.predict_stochastic(*arguments, batch_size=4)
    many = nm.predict_stochastic(*arguments, batch_size=4, method="sampled", runs=2000)
    np.testing.assert_allclose(many.loss_std, exact.loss_std, rtol=0.25)


@pytest.mark.parametrize("B", [1, 2])
def test_reshuffled_moments_are_means_over_every_permutation(B):
    """Two epochs of the heavy ball, the second one begun; n = 3, and a sample left out at B = 2."""
    kernel, start, _ = problem(3)
    eta, beta, batches = 0.2, 0.7, 3 // B
    orders = list(itertools.permutations(range(3)))
    runs = []
    for pair in itertools.product(orders, repeat=2):
        rows = [order[j * B : (j + 1) * B] for order in pair for j in range(batches)]
        delta, last, seen = start, 0 * start, [start]
        for row in rows:
            q = np.bincount(row, minlength=3) * 3 / B
            last = beta * last - eta * kernel @ (q * delta)
            delta = delta + last
            seen.append(delta)
        runs.append(seen)
    runs = np.array(runs)
    found = nm.predict_stochastic(
        kernel, start, nm.heavy_ball(eta, beta), range(2 * batches + 1), batch_size=B,
        sampling="reshuffled",
    )  # fmt: skip
    assert found.method == "exact"
    np.testing.assert_allclose(found.loss, np.mean(np.sum(runs**2, 2), 0) / 2, rtol=1e-12)
    np.testing.assert_allclose(found.residual, np.mean(runs, 0), rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(np.sum(found.second_moments, 1) / 2, found.loss, rtol=1e-12)


def test_reshuffling_has_less_noise_than_drawing_afresh():
    """The batches of an epoch sum to the full gradient: for small steps next to no noise is
    left."""
    kernel, start, _ = problem(8, seed=3)
    arguments = (kernel, start, nm.gradient_descent(0.02), [64])
    fresh = nm.predict_stochastic(*arguments, batch_size=2)
    shuffled = nm.predict_stochastic(*arguments, batch_size=2, sampling="reshuffled")
    noise = lambda found: float(found.loss[0] / found.full_batch[0] - 1)
    assert shuffled.method == "exact" and noise(shuffled) < 0.3 * noise(fresh)

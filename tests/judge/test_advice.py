"""Advice: closed forms against brute force, and predicted against actual numbers of steps."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntk_momentum as nm
from ntk_momentum import cli
from ntk_momentum.judge.advice import METHODS, advise, modes_of
from ntk_momentum.judge.steps import count_steps, steps_to
from ntk_momentum.judge.trial import check_advice
from ntk_momentum.method import heavy_ball, nesterov, restarted_nesterov, spectral_radius
from ntk_momentum.theory import switching

DATA = nm.sphere(10, 10, key=jax.random.key(0))
H = nm.infinite_ntk(DATA.X)
HARD = jnp.diag(jnp.geomspace(0.01, 1.0, 12))
EVEN = jnp.ones(12)


def test_predicted_steps_are_those_of_the_constant_kernel():
    advice = advise(HARD, EVEN, target=1e-4)
    for r in advice.methods.values():
        k = int(r.steps)
        loss = _loop(r.optimizer, k)
        assert loss[2] <= 1e-4 * loss[0] < loss[1], r.method


def brute_force(optimizer, eigenvalues, size, target, steps):
    """(first step from which on the loss is below the target, largest loss), step by step."""
    root = np.sqrt(eigenvalues)
    w = jnp.asarray(size / root)
    state, update = optimizer.init(w), jax.jit(optimizer.update)
    losses = [np.sum(size**2)]
    for _ in range(steps):
        change, state = update(root**2 * w, state)
        w = w + change
        losses.append(float(jnp.sum((root * w) ** 2)))
    losses = np.array(losses) / losses[0]
    return int(np.flatnonzero(losses > target)[-1]) + 1, losses.max()


@pytest.mark.slow
@pytest.mark.parametrize("target", [0.3, 1e-4])
@pytest.mark.parametrize(
    "optimizer",
    [
        heavy_ball(1.0, 0.9),
        nesterov(1.0, 3.0),
        nesterov(0.5, 1.0),
        restarted_nesterov(1.0, 3.0, 25),
        nm.triple_momentum(0.05, 1.0),
    ],
    ids=lambda o: o.name,
)
def test_the_steps_are_those_after_which_the_loss_stays_below(optimizer, target):
    rng = np.random.default_rng(0)
    for n in (1, 2, 8):
        eigenvalues, size = np.sort(rng.uniform(0.05, 1.0, n)), rng.standard_normal(n)
        (steps, peak), *_ = count_steps([optimizer], eigenvalues, size, target, 10**5)
        count, highest = brute_force(optimizer, eigenvalues, size, target, 20 * int(steps) + 100)
        assert steps == count
        assert peak == pytest.approx(highest, rel=1e-9)


def test_a_loss_that_dips_below_the_target_has_not_arrived():
    """One mode of a barely damped ball passes zero after a quarter of a period, over and over."""
    one = np.ones(1)
    steps = steps_to(heavy_ball(1e-3, 0.999), one, one, 1e-3)
    assert steps > 100 * np.pi / 2 / 1e-3**0.5
    assert steps == pytest.approx(np.log(1e3) / -np.log(0.999), rel=0.02)


def test_the_peak_of_a_large_step_with_momentum_is_seen():
    """Of the fastest heavy ball the largest eigenvalues rise before they fall."""
    advice = advise(HARD, EVEN, margin=0.0, objective="rate")
    assert advice["gradient_descent"].peak == 1.0 < advice["heavy_ball"].peak
    assert "peak / L(0)" in str(advice)


def _loop(optimizer, k):
    """Losses at 0, k - 1 and k of a method on weights whose kernel is HARD."""
    root = jnp.sqrt(jnp.diag(HARD))
    w, losses = EVEN / root, []
    state, update = optimizer.init(w), jax.jit(optimizer.update)
    for _ in range(k + 1):
        losses.append(0.5 * jnp.sum((root * w) ** 2))
        change, state = update(root**2 * w, state)
        w = w + change
    return losses[0], losses[k - 1], losses[k]


def test_the_best_heavy_ball_is_the_best_of_all():
    r = advise(HARD, EVEN, margin=0.0, objective="rate")["heavy_ball"]
    grid = [(eta, beta) for eta in np.linspace(0.5, 4, 36) for beta in np.linspace(0, 0.95, 39)]
    etas, betas = np.array(grid).T
    lam = np.geomspace(0.01, 1.0, 12)[:, None]
    half = (1 + betas - etas * lam) / 2
    radius = np.max(
        np.abs(
            np.stack([half + np.sqrt(half**2 - betas + 0j), half - np.sqrt(half**2 - betas + 0j)])
        ),
        axis=(0, 1),
    )
    best = int(np.argmin(radius))
    assert r.rate <= radius[best] + 1e-12
    assert abs(r.eta - etas[best]) < 0.2 and abs(r.beta - betas[best]) < 0.1
    assert r.rate == pytest.approx((10 - 1) / (10 + 1))


def test_a_search_that_stops_when_one_has_won_finds_what_each_takes_alone():
    eigenvalues, size = np.geomspace(0.01, 1.0, 12), np.ones(12)
    some = [nm.heavy_ball(3.0, 0.7), nm.heavy_ball(2.0, 0.8), nm.heavy_ball(0.1, 0.1)]
    alone = [count_steps([one], eigenvalues, size, 1e-3, 10**5)[0] for one in some]
    together = count_steps(some, eigenvalues, size, 1e-3, 10**5)
    best = int(np.argmin([steps for steps, _ in alone]))
    assert together[best] == alone[best] and best == int(np.argmin([k for k, _ in together]))


@pytest.mark.parametrize("name", ["heavy_ball", "constant_nesterov", "triple_momentum"])
def test_rates_and_stability_limits_are_those_of_the_companion_matrix(name):
    r = advise(HARD, EVEN, objective="rate")[name]
    lam = np.geomspace(0.01, 1.0, 12)
    assert r.rate == pytest.approx(float(np.max(spectral_radius(r.optimizer, lam))), abs=1e-7)
    edge = r.eta_limit / r.eta  # an eigenvalue this large acts as lambda_max would at the limit
    below, above = spectral_radius(r.optimizer, np.array([0.999, 1.001]) * edge)
    assert below < 1 < above


def test_fewer_steps_are_found_where_small_eigenvalues_do_not_matter():
    few = jnp.where(jnp.arange(12) > 5, 1.0, 1e-4)
    long_run, short_run = (advise(HARD, few, target=1e-3, objective=o) for o in ("rate", "steps"))
    assert all(short_run[name].steps <= r.steps for name, r in long_run.methods.items())
    assert short_run["heavy_ball"].steps < long_run["heavy_ball"].steps


@pytest.mark.slow
def test_a_wide_network_takes_the_predicted_number_of_steps():
    net = nm.init_two_layer(2048, 10, key=jax.random.key(1))
    residual = jax.vmap(net)(DATA.X) - DATA.y
    advice = advise(nm.empirical_ntk(net, DATA.X), residual, target=1e-6)
    advice = type(advice)(
        advice.lambda_min,
        advice.lambda_max,
        1e-6,
        0.1,
        {name: advice[name] for name in ("gradient_descent", "heavy_ball", "nesterov")},
    )
    for name, (predicted, actual) in check_advice(advice, net, DATA).items():
        assert abs(actual - predicted) <= 1 + 0.1 * predicted, name


def test_nothing_is_unstable_within_the_margin():
    advice = advise(HARD, EVEN, margin=0.25)
    assert all(r.eta * 1.25 <= r.eta_limit * (1 + 1e-9) for r in advice.methods.values())
    assert advise(HARD, EVEN, margin=0.0)["gradient_descent"].eta <= 2 / 1.01 + 1e-12


def test_restarts_by_the_gradient_are_counted_in_the_weights_inner_product():
    eigenvalues, size = modes_of(HARD, EVEN)
    counts = [
        steps_to(m, eigenvalues, size, 1e-8)
        for m in (nesterov(1.0, 3.0), restarted_nesterov(1.0, 3.0), heavy_ball(1.0, 0.7))
    ]
    assert counts[1] < counts[0] and all(math.isfinite(c) for c in counts)
    assert steps_to(heavy_ball(1.0, 0.7), eigenvalues, size, 1e-8, max_steps=3) == math.inf


def test_several_outputs_share_their_modes():
    eigenvalues, size = modes_of(H, np.stack([DATA.y, 2 * DATA.y], axis=1))
    np.testing.assert_allclose(size, 5**0.5 * modes_of(H, DATA.y)[1], rtol=1e-10)
    np.testing.assert_allclose(eigenvalues, jnp.linalg.eigvalsh(H), rtol=1e-10)


def test_what_cannot_be_reached_is_said():
    singular = jnp.diag(jnp.array([0.0, 1.0]))
    with pytest.raises(nm.InputError, match="null space"):
        advise(singular, jnp.array([1.0, 1.0]))
    with pytest.raises(nm.InputError, match="residual0 must match"):
        advise(H, jnp.ones(3))
    with pytest.raises(nm.InputError, match="Did you mean 'heavy_ball'"):
        advise(singular, jnp.array([0.0, 1.0]))["heavyball"]
    table = str(advise(HARD, EVEN))
    assert "eta limit" in table and "triple_momentum" in table


def test_the_command_prints_advice_and_fact(capsys):
    assert (
        cli.main(["advise", "--data", "sphere", "--n", "6", "--width", "64", "--objective", "rate"])
        == 0
    )
    assert "heavy_ball" in capsys.readouterr().out
    assert cli.main(["advise", "--data", "sphere", "--n", "0"]) == 2
    assert "n must be finite and > 0" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_takes_a_users_model(tmp_path, capsys):
    file = tmp_path / "mine.py"
    lines = [
        "import equinox as eqx",
        "build = lambda key: eqx.nn.MLP(20, 'scalar', 256, 1, use_bias=False, key=key)",
    ]
    file.write_text("\n".join([*lines, "pair = eqx.nn.Identity"]))
    words = [
        "advise",
        "--data",
        "sphere",
        "--n",
        "4",
        "--target",
        "0.1",
        "--objective",
        "rate",
        "--check",
        "--model",
    ]
    assert cli.main([*words, f"{file}:build"]) == 0
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines() if "actual" in line]
    assert {row[0] for row in rows} == set(METHODS)
    assert all(abs(float(row[2]) - float(row[4])) <= 2 + 0.3 * float(row[2]) for row in rows), (
        printed
    )
    assert cli.main([*words, f"{file}:pair"]) == 2
    assert "must have one shape" in capsys.readouterr().err


def test_the_safe_friction_decays_where_the_kernel_turns_against_the_flow():
    """At the friction that is best for a kernel at rest the same motion grows."""
    advice = nm.advise(jnp.diag(jnp.array([1.0, 20.0])), jnp.ones(2), margin=0.0)
    center, radius = 10.5, 9.5
    exponents = [
        switching.measured_exponent(b, *switching.worst_kernel(b, center, radius), 5.0)
        for b in (advice.safe_friction, 2.0)
    ]
    assert exponents[0] == pytest.approx(advice.safe_rate, rel=1e-6) and exponents[1] < 0
    assert f"friction b = {advice.safe_friction:.4g}" in str(advice).splitlines()[-1]


def test_nesterov_is_stable_below_its_limit_and_not_above():
    """Its momentum tends to 1, where the recursion of one mode is stable iff eta lambda < 4/3."""
    advice = nm.advise(jnp.diag(jnp.array([1.0, 20.0])), jnp.ones(2))
    limit = advice["nesterov"].eta_limit
    for share, stable in ((0.98, True), (1.02, False)):
        z, last, largest = 1.0, 1.0, 0.0
        for k in range(4000):
            ahead = z + k / (k + 3) * (z - last)
            z, last = ahead * (1 - share * limit * 20.0), z
            largest = max(largest, abs(z))
        assert (largest < 10) == stable


def test_the_null_space_s_share_of_the_loss_stays():
    """The number of steps is that of the loop, with what is never learnt in loss and goal."""
    eigenvalues, size = np.array([0.0, 0.5, 1.0]), np.array([0.4, 1.0, 1.0])
    method = heavy_ball(0.5, 0.3)
    total = np.sum(size**2)
    for target in (0.08, 0.2):
        z, last, below = size.copy(), size.copy(), []
        for _ in range(200):
            below.append(np.sum(z**2) <= target * total)
            z, last = z - 0.5 * eigenvalues * z + 0.3 * (z - last), z
        expected = 1 + max(k for k, fine in enumerate(below) if not fine)
        assert steps_to(method, eigenvalues, size, target) == expected


@pytest.mark.slow
def test_a_decomposition_and_products_give_the_advice_of_the_kernel():
    plain = advise(H, -DATA.y)
    for kernel, residual0 in (
        (nm.spectrum(H), -DATA.y),
        (nm.modes(H, -DATA.y), None),
        (nm.infinite_ntk_operator(DATA.X), -DATA.y),
    ):
        found = advise(kernel, residual0)
        for name in METHODS:
            assert found[name].steps == pytest.approx(plain[name].steps, abs=1, rel=0.02)
            assert found[name].eta == pytest.approx(plain[name].eta, rel=0.1)


def test_given_methods_take_what_the_same_ones_do_where_they_are_found():
    tuned = advise(HARD, EVEN)
    given = advise(HARD, EVEN, optimizers={r.method: r.optimizer for r in tuned.methods.values()})
    assert given.methods == tuned.methods
    large = [
        nm.gradient_descent(2.5),
        nm.heavy_ball(5.0, 0.9),
        nm.multi_step_momentum(5.0, 0.5, 0.1),
    ]
    for found in advise(HARD, EVEN, optimizers=large).methods.values():
        assert found.steps == found.peak == math.inf and found.eta > found.eta_limit

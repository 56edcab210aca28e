"""Is it lazy: the linearised model is the constant kernel, wide networks are lazy and scaled-down
ones are not."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ntk_momentum as nm
from ntk_momentum import cli
from ntk_momentum.cli.diagnose import perceptron
from ntk_momentum.dynamics.preparation import weight_problem
from ntk_momentum.judge.diagnosis import diagnose
from ntk_momentum.judge.drift import drifts as drifts_of
from ntk_momentum.judge.drift import ends_by_products, local, outermost
from ntk_momentum.judge.finding import Diagnosis
from ntk_momentum.judge.linearization import linearize
from ntk_momentum.loss import logistic
from ntk_momentum.network.loading import load_model

DATA = nm.sphere(6, 10, key=jax.random.key(0))


def test_the_linearised_model_is_the_prediction_of_its_kernel():
    model = eqx.nn.MLP(10, "scalar", 8, 2, key=jax.random.key(1))
    linear = linearize(model)
    optimizer = nm.heavy_ball(0.05, 0.8)
    run = nm.train(linear, DATA, optimizer, 40, save_every=10, readouts=["f"])
    f0 = jax.vmap(model)(DATA.X)
    exact = nm.predict(
        nm.empirical_ntk(model, DATA.X), f0 - DATA.y, optimizer, np.arange(0, 41, 10)
    )
    np.testing.assert_allclose(run.f - DATA.y[None, :], exact.residual, atol=1e-10)


def test_a_wide_network_is_lazy_and_a_small_scale_does_not():
    verdicts = []
    for scale in (2048**-0.5, 2048**-0.5 / 100):
        net = nm.init_two_layer(
            2048, 10, key=jax.random.key(1), antisymmetric=True, scale=jnp.asarray(scale)
        )
        found = diagnose(net, DATA, steps=24, saves=24)
        verdicts.append(found.verdict)
        assert found.ts[-1] == 24 and len(found.gap) == 25 and found.gap[0] < 1e-12
    assert verdicts[0] == "lazy" and verdicts[1] in ("between", "rich")
    assert found.momentum.beta > 0 and "tuned to H(0)" in str(found)
    assert found.feature_drift > 0.5 and found.weight_drift > 0.5 and found.turn > 0.1
    assert found.stability.value < 1 and 0 < found.low < found.top[0]


PLAIN = Diagnosis(
    ts=np.array([0.0, 1.0, 2.0]),
    loss=np.array([1.0, 0.5, 0.25]),
    predicted_loss=np.array([1.0, 0.5, 0.25]),
    gap=np.array([0.0, 0.01, 0.02]),
    kernel_drift=0.05,
    turn=0.02,
    feature_drift=0.1,
    weight_drift=0.01,
    top=(1.0, 1.0),
    limit=2.0,
    low=0.1,
    reason="",
)
BOUNCE = np.array([1.0, 40.0, 0.25])


@pytest.mark.parametrize(
    ("changed", "verdict", "answers"),
    [
        ({}, "lazy", ("stable", "stays", "follows", "stay")),
        # a loss that bounces and ends below its start has not diverged
        (
            {"loss": BOUNCE, "top": (3.0, 1.5)},
            "lazy",
            ("unstable at first", "stays", "follows", "stay"),
        ),
        # the same where the kernel is below the limit at both ends
        ({"loss": BOUNCE}, "lazy", ("bounced", "stays", "follows", "stay")),
        # nor is what comes back from a million times the start the network that began
        (
            {"loss": np.array([1.0, 1e7, 0.9]), "top": (3.0, 1.5)},
            "diverged",
            ("diverged", "stays", "follows", "stay"),
        ),
        # a gap alone makes no run rich
        ({"gap": np.array([0.0, 0.9, 0.1])}, "between", ("stable", "stays", "leaves it", "stay")),
        # only the prediction explodes, above 2/lambda_max
        (
            {"predicted_loss": np.array([1.0, 1e9, 1e18]), "top": (3.0, 2.9)},
            "unstable",
            ("unstable", "stays", "no prediction", "stay"),
        ),
        # the kernel grows and does not turn
        (
            {"kernel_drift": 0.8, "top": (1.0, 1.8), "growth": 1.8},
            "rescaled",
            ("stable", "moves far", "follows", "stay"),
        ),
        # and turns
        ({"kernel_drift": 0.8, "turn": 0.2}, "rich", ("stable", "moves far", "follows", "turn")),
        # no input is told from another, from the start or in the end
        ({"contrast": (0.0, 0.0)}, "dead", ("stable", "stays", "follows", "stay")),
        ({"contrast": (1.0, 0.0)}, "dead", ("stable", "stays", "follows", "stay")),
        ({"turn": 0.3}, "between", ("stable", "stays", "follows", "turn")),
        (
            {"loss": np.array([1.0, 4.0, 16.0]), "top": (1.0, 5.0)},
            "diverged",
            ("diverged", "stays", "follows", "stay"),
        ),
        ({"limit": None}, "lazy", ("unknown", "stays", "follows", "stay")),
    ],
)
def test_stability_kernel_function_and_features_are_told_apart(changed, verdict, answers):
    found = dataclasses.replace(PLAIN, **changed)
    assert found.verdict == verdict
    assert tuple(one.answer for one in found.findings) == answers
    assert "nan at" not in str(found) and len(str(found).splitlines()) == 10
    assert ("died on the way" in found.advice) == (found.contrast == (1.0, 0.0))


class Shifted(eqx.Module):
    """One hidden ReLU layer, every argument lower by 50: all are off."""

    hidden: eqx.nn.Linear
    out: eqx.nn.Linear

    def __call__(self, x):
        return self.out(jax.nn.relu(self.hidden(x) - 50.0))


@pytest.mark.slow
def test_a_network_whose_neurons_are_all_off_is_dead():
    one, other = jax.random.split(jax.random.key(0))
    hidden = eqx.nn.Linear(10, 8, key=one)
    net, biasless = (
        Shifted(hidden, eqx.nn.Linear(8, "scalar", key=other, use_bias=bias))
        for bias in (True, False)
    )
    found = diagnose(net, DATA, steps=2, saves=1)
    assert found.verdict == "dead" and max(found.contrast) < 1e-9
    assert str(found).splitlines()[1] == f"trained by gradient_descent:eta={1 / 6:.6g}, 2 steps"
    with pytest.raises(nm.InputError, match="every ReLU is off"):
        diagnose(biasless, DATA, steps=2)


@pytest.mark.slow
def test_where_the_loss_bounced_the_kernel_was_above_the_limit_on_the_way():
    net = eqx.nn.MLP(DATA.input_size, "scalar", 64, 2, key=jax.random.key(0))
    found = diagnose(net, DATA, lambda low, top: nm.heavy_ball(2.6 / top, 0.9), steps=60)
    assert found.stability.answer == "bounced" and max(found.top) < found.limit < found.highest[0]
    assert f"at step {found.highest[1]}" in found.stability.meaning


def test_a_step_that_diverged_is_never_recommended():
    model = eqx.nn.MLP(10, "scalar", 32, 2, key=jax.random.key(1))
    far = nm.Dataset(DATA.X, 1e4 * DATA.y)
    for optimizer in (nm.heavy_ball(1.0, 0.5),):
        found = diagnose(model, far, optimizer, steps=20, saves=2)
        assert found.verdict == "diverged"
        told = str(found).splitlines()[-1]
        if found.remedy is None:
            assert "much smaller step" in told
        else:
            assert found.remedy < 1.0 and f"eta = {found.remedy:.4g}" in told


@pytest.mark.slow
def test_any_optax_optimizer_and_several_outputs():
    model = eqx.nn.MLP(10, 2, 16, 1, key=jax.random.key(1))
    data = nm.Dataset(DATA.X, jnp.stack([DATA.y, 0 * DATA.y], axis=1))
    calls: list[tuple[int, int]] = []
    found = diagnose(
        model, data, optax.adam(1e-4), steps=4, saves=2, progress=lambda *at: calls.append(at)
    )
    assert found.verdict == "lazy"
    assert calls == [(done, 6) for done in range(1, 7)]  # the run, then its linearisation
    assert 0 < found.weight_drift < 0.01
    asked = []
    chosen = lambda low, top: asked.append((low, top)) or optax.adam(1e-4)
    by_spectrum = diagnose(model, data, chosen, steps=4, saves=2)
    assert asked == [(found.low, found.top[0])]
    np.testing.assert_array_equal(by_spectrum.loss, found.loss)


@pytest.mark.slow
def test_drifts_are_frobenius_distances():
    model = nm.init_two_layer(5, 10, key=jax.random.key(1), activation=jnp.tanh)
    problem, w = weight_problem(model, DATA, logistic, None, None)
    end = jax.tree.map(lambda leaf: 1.1 * leaf, w)
    kernel = problem.kernel(w)
    later = problem.kernel(end)
    found = drifts_of(problem, w, end, kernel, later)
    np.testing.assert_allclose(drifts_of(problem, w, end, None, None), found, rtol=1e-6)
    norms, turn, features, weights, growth, *contrast = found
    drifts = norms, features, weights
    H0, H1 = np.asarray(kernel), np.asarray(later)
    cosine = np.sum(H0 * H1) / np.linalg.norm(H0) / np.linalg.norm(H1)
    np.testing.assert_allclose(turn, np.sqrt(1 - cosine**2), rtol=1e-6)
    flat = lambda w: np.concatenate(
        [np.asarray(leaf).reshape(6, -1) for leaf in jax.tree.leaves(jax.jacrev(problem.f)(w))],
        axis=1,
    )
    J, later = flat(w), flat(end)
    np.testing.assert_allclose(drifts[1], np.linalg.norm(later - J) / np.linalg.norm(J), rtol=1e-8)
    np.testing.assert_allclose(
        drifts[0], np.linalg.norm(later @ later.T - J @ J.T) / np.linalg.norm(J @ J.T), rtol=1e-8
    )
    np.testing.assert_allclose(drifts[2], 0.1, rtol=1e-8)
    np.testing.assert_allclose(growth, np.linalg.norm(H1) / np.linalg.norm(H0), rtol=1e-8)
    shares = [np.sum((one - one.mean(axis=0)) ** 2) / np.sum(one**2) for one in (J, later)]
    np.testing.assert_allclose(contrast, shares, rtol=1e-8)
    # the quadratic model of the logistic loss at f = 0: curvature 1/4 everywhere
    curved = local(kernel, problem.f(w), problem)[0]
    np.testing.assert_allclose(ends_by_products(problem, w, 9), outermost(curved), rtol=1e-8)
    H, error = local(kernel, 0 * DATA.y, problem)
    np.testing.assert_allclose(np.linalg.eigvalsh(H), np.linalg.eigvalsh(kernel) / 4, rtol=1e-8)
    np.testing.assert_allclose(np.linalg.norm(error), np.linalg.norm(DATA.y / 2) * 2, rtol=1e-8)


@pytest.mark.slow
def test_products_in_the_kernels_place_diagnose_alike():
    net = nm.init_two_layer(16, 10, key=jax.random.key(1))
    one, other = (diagnose(net, DATA, steps=4, saves=2, products=p) for p in (None, 6))
    for name in ("gap", "kernel_drift", "turn", "feature_drift", "top", "low", "limit", "contrast"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-6)


def test_wrong_input_is_refused():
    net = nm.init_two_layer(8, 10, key=jax.random.key(1))
    with pytest.raises(nm.InputError, match="steps"):
        diagnose(net, DATA, steps=0)
    with pytest.raises(nm.InputError, match="the data"):
        diagnose(eqx.nn.MLP(10, 2, 5, 1, key=jax.random.key(1)), DATA)


def test_a_users_model_is_loaded_and_what_is_wrong_with_it_said(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import equinox as eqx\ndef build(key): return eqx.nn.Linear(10, 'scalar', "
        "key=key)\ndef broken(key): return 1 / 0\n"
    )
    assert load_model(f"{file}:build", jax.random.key(0), 5)(jnp.ones(10)).shape == ()
    wrong = {
        "build": "FILE.py:FUNCTION",
        "no.py:build": "no file",
        f"{file}:bild": "defines: build",
        f"{file}:broken": "ZeroDivision",
    }
    for text, said in wrong.items():
        with pytest.raises(nm.InputError, match=said):
            load_model(text, jax.random.key(0), 5)
    assert jax.vmap(perceptron(DATA, 5, 2, jax.random.key(0)))(DATA.X).shape == (6,)


@pytest.mark.slow
def test_the_command_says_how_lazy(capsys):
    assert (
        cli.main(["diagnose", "--data", "sphere", "--n", "6", "--width", "32", "--steps", "10"])
        == 0
    )
    said = capsys.readouterr().out
    assert "does the kernel move?" in said and "ntk-momentum advise" in said


@pytest.mark.slow
def test_on_batches_the_prediction_takes_the_same_ones_and_the_step_is_held_against_their_limit():
    """A linear model leaves its prediction by round-off, whatever the batches."""
    data = nm.sphere(8, 4, key=jax.random.key(0))
    net = nm.init_two_layer(6, 4, key=jax.random.key(1), activation=lambda z: z)
    kernel = nm.empirical_ntk(net, data.X)
    limit = nm.critical_step(nm.heavy_ball(1.0, 0.5), kernel, batch_size=2).eta
    found = nm.diagnose(
        net, data, nm.heavy_ball(0.2 * limit, 0.5), 30, batch_size=2, key=jax.random.key(2)
    )
    assert found.verdict == "lazy" and np.max(found.gap) < 1e-9
    assert found.stability.answer == "stable"
    np.testing.assert_allclose(found.stability.value, 0.2, rtol=1e-6)

"""Is it lazy: the linearised model is the constant kernel, wide networks are lazy and scaled-down
ones are not."""

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
from ntk_momentum.judge.diagnosis import _drifts, _local, diagnose, linearize
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
    assert "heavy ball with eta" in str(found) and found.momentum.beta > 0
    assert found.feature_drift > 0.5 and found.weight_drift > 0.5


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
    chosen = lambda advice: asked.append(advice) or optax.adam(1e-4)
    by_advice = diagnose(model, data, chosen, steps=4, saves=2)
    assert asked == [by_advice.advice]
    np.testing.assert_array_equal(by_advice.loss, found.loss)


@pytest.mark.slow
def test_drifts_are_frobenius_distances():
    model = nm.init_two_layer(5, 10, key=jax.random.key(1), activation=jnp.tanh)
    problem, w = weight_problem(model, DATA, logistic, None, None)
    end = jax.tree.map(lambda leaf: 1.1 * leaf, w)
    kernel = problem.kernel(w)
    drifts = _drifts(problem, w, end, kernel)
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
    # the quadratic model of the logistic loss at f = 0: curvature 1/4 everywhere
    H, error = _local(kernel, 0 * DATA.y, problem)
    np.testing.assert_allclose(np.linalg.eigvalsh(H), np.linalg.eigvalsh(kernel) / 4, rtol=1e-8)
    np.testing.assert_allclose(np.linalg.norm(error), np.linalg.norm(DATA.y / 2) * 2, rtol=1e-8)


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
    assert "largest gap of f" in capsys.readouterr().out

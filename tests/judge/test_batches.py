"""Advice for mini-batches: predicted steps against the exact expectation and against training."""

import dataclasses

import jax
import numpy as np
import pytest

import ntk_momentum as nm
from ntk_momentum import cli
from ntk_momentum.errors import InputError
from ntk_momentum.judge.batches import EXACT_UP_TO, BatchedKernel
from ntk_momentum.judge.trial import check_advice

DATA = nm.sphere(12, 6, key=jax.random.key(0))
H = np.asarray(nm.infinite_ntk(DATA.X))


@pytest.fixture(scope="module")
def advice():
    return nm.advise(H, -DATA.y, target=0.02, batch_size=3)


def test_advice_on_batches_is_that_of_the_expected_loss(advice):
    assert list(advice.methods) == [
        "gradient_descent", "heavy_ball", "constant_nesterov", "nesterov", "triple_momentum",
    ]  # fmt: skip
    for name in ("heavy_ball", "nesterov"):
        r = advice[name]
        k = int(r.steps)
        closure = nm.predict_stochastic(
            H, -DATA.y, r.optimizer, [0, k - 1, k], batch_size=3, method="closure"
        )
        share = closure.loss / closure.loss[0]
        assert share[2] <= 0.02 < share[1]
        assert (r.examples, r.epochs) == (3 * k, k / 4)
        assert r.eta_limit == nm.critical_step(r.optimizer, H, batch_size=3).eta
    assert advice["heavy_ball"].critical_batch == nm.critical_batch(
        advice["heavy_ball"].optimizer, H
    )
    assert "critical batch" in str(advice) and "batches of 3" in str(advice)


@pytest.mark.slow
def test_an_operator_is_advised_by_few_products(advice):
    """With as many products as samples it is the array's closure; limits are the closure's."""
    found = nm.advise(nm.infinite_ntk_operator(DATA.X), -DATA.y, target=0.02, batch_size=3)
    for name in ("gradient_descent", "heavy_ball"):
        few, whole = found[name], advice[name]
        np.testing.assert_allclose(few.steps, whole.steps, rtol=0.05, atol=1)
        limit = nm.critical_step(whole.optimizer, H, batch_size=3).estimate
        np.testing.assert_allclose(few.eta_limit / few.eta, limit / whole.eta, rtol=0.05)
        assert abs(few.critical_batch - whole.critical_batch) <= 1


def test_small_batches_take_small_steps(advice):
    full = nm.advise(H, -DATA.y, target=0.02)
    for name, r in advice.methods.items():
        assert r.eta <= full[name].eta and r.steps >= full[name].steps


def test_given_methods_on_batches_take_their_own_step(advice):
    best = advice["heavy_ball"]
    far = nm.heavy_ball(1.1 * best.eta_limit, best.beta)
    found = nm.advise(
        H, -DATA.y, target=0.02, batch_size=3, optimizers={"mine": best.optimizer, "far": far}
    )
    same = dataclasses.replace(best, method="mine")
    assert repr(found["mine"]) == repr(same) and found["far"].steps == np.inf


def test_the_batch_has_to_fit():
    with pytest.raises(InputError, match="between 1 and the number of samples, 12"):
        nm.advise(H, -DATA.y, batch_size=13)


def test_many_samples_have_no_critical_batch():
    many = BatchedKernel(4, EXACT_UP_TO + 1, 1, "reshuffled", H)
    limit, batch = many.limits(nm.gradient_descent(0.1))
    assert batch is None
    assert limit == nm.critical_step(nm.gradient_descent(0.1), H, batch_size=4).eta


@pytest.mark.slow
def test_the_command_advises_on_batches(capsys):
    asked = ["advise", "--data", "sphere", "--n", "6", "--target", "0.1", "--batch-size", "2"]
    assert cli.main(asked) == 0
    assert "examples  critical batch" in capsys.readouterr().out


@pytest.mark.slow
def test_a_wide_network_takes_about_the_predicted_number_of_steps():
    """On the mean over its draws."""
    advice = nm.advise(H, -DATA.y, target=0.005, batch_size=4)
    net = nm.init_two_layer(2048, 6, key=jax.random.key(1), antisymmetric=True)
    for name, (predicted, actual) in check_advice(advice, net, DATA).items():
        assert 0.8 < actual / predicted < 1.25, (name, predicted, actual)

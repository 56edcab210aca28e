"""Kernels that are never formed against those that are."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntk_momentum as nm
from ntk_momentum import InputError
from ntk_momentum.kernel import infinite

RNG = np.random.default_rng(0)
X, OTHER, V = RNG.normal(size=(11, 4)), RNG.normal(size=(3, 4)), RNG.normal(size=11)
DEEP = nm.fully_connected_ntk(depth=2, weight_std=1.3, bias_std=0.2)
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("trainable", [None, pytest.param("all", marks=pytest.mark.slow)])
def test_tiles_add_up_to_the_kernel(trainable):
    H = nm.infinite_ntk(X, trainable=trainable)
    streamed = nm.infinite_ntk_operator(X, trainable=trainable, tile=4)
    np.testing.assert_allclose(streamed.mv(jnp.asarray(V)), H @ V, atol=1e-13)
    test = nm.infinite_ntk_operator(OTHER, X, trainable=trainable, tile=4)
    rows = nm.infinite_ntk(OTHER, X, trainable=trainable)
    np.testing.assert_allclose(test.mv(jnp.asarray(V)), rows @ V, atol=1e-13)


@pytest.mark.slow
def test_a_deep_network_is_streamed_too():
    streamed = nm.infinite_ntk_operator(X, network=DEEP, tile=6)
    np.testing.assert_allclose(streamed.mv(jnp.asarray(V)), DEEP(X).ntk @ V, atol=1e-12)


@pytest.mark.parametrize("offset", [0.0, 30.0])  # 30: every row of a table points one way
def test_angles_by_a_product_keep_their_digits(monkeypatch, offset):
    near = np.concatenate([X + offset, X + offset + 1e-9, -X - offset])  # duplicates and opposites
    exact = infinite.angles(jnp.asarray(near), jnp.asarray(near), len(near))
    monkeypatch.setattr(infinite, "FEW", 0)
    quick = infinite.angles(jnp.asarray(near), jnp.asarray(near), 0)
    np.testing.assert_allclose(quick.theta, exact.theta, atol=3e-15)
    np.testing.assert_array_equal(jnp.diagonal(quick.near), 0.0)


def test_strips_and_products_change_no_digit_of_a_kernel(monkeypatch):
    whole = nm.infinite_ntk(OTHER, X), *DEEP(X)
    monkeypatch.setattr(infinite, "FEW", 0)
    monkeypatch.setattr(infinite, "STRIP", 40)
    jax.clear_caches()
    strips = nm.infinite_ntk(OTHER, X), *DEEP(X)
    for one, other in zip(whole, strips, strict=True):
        np.testing.assert_allclose(one, other, atol=3e-15)
    np.testing.assert_array_equal(strips[-1], strips[-1].T)


@pytest.mark.slow
def test_predictions_take_operators_for_training_and_test_points():
    start, flow, ts = RNG.normal(size=11), nm.HeavyBall(0.3), [0.0, 2.0]
    exact = nm.predict(nm.infinite_ntk(X), start, flow, ts, test_kernel=nm.infinite_ntk(OTHER, X))
    test = nm.infinite_ntk_operator(OTHER, X, tile=4)
    streamed = nm.predict(nm.infinite_ntk_operator(X, tile=4), start, flow, ts, test_kernel=test)
    formed = nm.predict(nm.infinite_ntk(X), start, flow, ts, test_kernel=test)
    for found in (streamed, formed):
        np.testing.assert_allclose(found.test, exact.test, atol=1e-7)
        np.testing.assert_allclose(found.residual, exact.residual, atol=1e-7)
    with pytest.raises(InputError, match="maps"):
        nm.predict(nm.infinite_ntk(X), start, flow, ts, test_kernel=nm.infinite_ntk_operator(OTHER))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nm.infinite_ntk_operator(X, network=DEEP, trainable="all"), "two-layer network"),
        (lambda: nm.infinite_ntk_operator(X, network=3), "fully_connected_ntk"),
        (lambda: nm.infinite_ntk_operator(X, trainable="both"), "unknown trainable"),
        (lambda: nm.infinite_ntk_operator(X, OTHER[:, :2]), "one size"),
        (lambda: nm.infinite_ntk_operator(X, tile=0), "tile must be"),
        (lambda: nm.infinite_ntk_operator("no"), "x1"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.slow
def test_several_devices_share_the_tiles():
    """Virtual CPU devices, in a process of their own."""
    program = """
import json, jax, numpy as np
jax.config.update("jax_enable_x64", True)
import ntk_momentum as nm
X = np.random.default_rng(0).normal(size=(50, 4))
v = np.random.default_rng(1).normal(size=50)
H = nm.infinite_ntk(X)
found = nm.infinite_ntk_operator(X, tile=8)
one = nm.infinite_ntk_operator(X, tile=8, devices=jax.devices()[:1])
flow, ts = nm.Nesterov(3.0), [0.0, 5.0]
near = nm.predict(found, v, flow, ts)
text = jax.jit(lambda v: found.mv(v)).lower(v).compile().as_text()
print(json.dumps({
    "devices": found.fn.over.size,
    "product": float(np.abs(found.mv(v) - H @ v).max()),
    "one": float(np.abs(found.mv(v) - one.mv(v)).max()),
    "prediction": float(np.abs(near.residual - nm.predict(H, v, flow, ts).residual).max()),
    "sums": text.count(" all-reduce("),
    "gathers": text.count(" all-gather("),
}))
"""
    more = {"JAX_NUM_CPU_DEVICES": "4", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **more},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["devices"] == 4
    assert max(found["product"], found["one"], found["prediction"]) < 1e-7
    assert (found["sums"], found["gathers"]) == (1, 0)

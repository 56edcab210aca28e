"""docs/minimal.py, the headline in a hundred lines of JAX, against the library, and what its page
says it prints."""

import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntk_momentum as nm

DOCS = Path(__file__).resolve().parents[1] / "docs"
M = runpy.run_path(str(DOCS / "minimal.py"))


@pytest.fixture(scope="module")
def drawn():
    X, y, W, a = M["start"](6, 3, 64, jax.random.key(1))
    return nm.Dataset(X, y), nm.TwoLayerNet(W, a), W, a


def test_network_and_kernels_are_those_of_the_library(drawn):
    data, net, W, a = drawn
    f = M["network"](W, a, data.X)
    np.testing.assert_allclose(f, jax.vmap(net)(data.X), rtol=1e-12)
    np.testing.assert_allclose(M["kernel"](W, data.X), nm.empirical_ntk(net, data.X), atol=1e-12)
    np.testing.assert_allclose(M["limit_kernel"](data.X), nm.infinite_ntk(data.X), atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gradient descent", "heavy ball", "Nesterov"])
def test_methods_take_the_steps_of_the_library_on_weights_and_on_the_error(drawn, name):
    data, net, W, a = drawn
    method, given = M["tuned"](0.2, 2.0)[name]
    twin = {
        "gradient descent": lambda: nm.gradient_descent(given["eta"]),
        "heavy ball": lambda: nm.heavy_ball(**given),
        "Nesterov": lambda: nm.nesterov(given["eta"], 3.0),
    }[name]()
    slope = lambda W: jax.grad(M["loss"])(W, a, data.X, data.y)
    found = method(slope, W, 8, lambda W: M["network"](W, a, data.X), **given)
    trained = nm.train(net, data, twin, 8, save_every=1, readouts=["f"])
    np.testing.assert_allclose(found, trained.f[1:], atol=1e-10)
    H, error = M["kernel"](W, data.X), jax.vmap(net)(data.X) - data.y
    found = method(lambda x: H @ x, error, 8, lambda x: x, **given)
    foretold = nm.predict(H, error, twin, jnp.arange(9)).residual
    np.testing.assert_allclose(found, foretold[1:], atol=1e-10)


def test_the_page_shows_the_file_and_what_it_prints():
    page, file = (DOCS / "minimal.md").read_text(), (DOCS / "minimal.py").read_text()
    assert '--8<-- "docs/minimal.py"' in page and file.count("\n") <= 105
    assert "ntk_momentum" not in file.split('"""')[2]


@pytest.mark.slow
def test_the_page_prints_what_the_file_prints(capsys):
    runpy.run_path(str(DOCS / "minimal.py"), run_name="__main__")
    assert capsys.readouterr().out in (DOCS / "minimal.md").read_text()

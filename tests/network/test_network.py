"""The two-layer network and the split into trained and frozen parts."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntk_momentum as nm
from ntk_momentum.network.model import outputs, split, trainable_spec

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (4, 3))


def test_network_is_the_formula_of_section_2():
    net = nm.init_two_layer(5, 3, key=KEY)
    W, a = np.asarray(net.hidden), np.asarray(net.output)
    expected = (np.maximum(np.asarray(X) @ W.T, 0) * a).sum(1) / np.sqrt(5)
    np.testing.assert_allclose(outputs(net, X), expected, rtol=1e-14)
    np.testing.assert_allclose(jax.vmap(net)(X), expected, rtol=1e-14)
    assert set(np.unique(a)) <= {-1.0, 1.0}


def test_antisymmetric_network_starts_at_zero():
    net = nm.init_two_layer(6, 3, key=KEY, antisymmetric=True)
    np.testing.assert_allclose(outputs(net, X), 0, atol=1e-15)
    with pytest.raises(nm.InputError, match="even"):
        nm.init_two_layer(7, 3, key=KEY, antisymmetric=True)


@pytest.mark.parametrize("width", [0, -3, True])
def test_widths_that_are_no_positive_whole_numbers_are_refused(width):
    with pytest.raises(nm.InputError, match="width"):
        nm.init_two_layer(width, 3, key=KEY)


def test_wrong_shapes_are_refused():
    with pytest.raises(nm.InputError, match="hidden must be"):
        nm.TwoLayerNet(np.ones((3, 2)), np.ones(2))


def test_dtype_is_the_one_asked_for():
    assert nm.init_two_layer(3, 2, key=KEY, dtype=jnp.float32).hidden.dtype == jnp.float32
    assert nm.init_two_layer(3, 2, key=KEY).hidden.dtype == jnp.float64


def _sizes(model, **selection):
    return sum(leaf.size for leaf in jax.tree.leaves(split(model, **selection)[0]))


def test_trainable_means_the_hidden_layer_by_default():
    net = nm.init_two_layer(5, 3, key=KEY)
    assert _sizes(net) == _sizes(net, trainable="hidden") == 15
    assert _sizes(net, trainable="output") == _sizes(net, where=lambda n: n.output) == 5
    assert _sizes(net, trainable="all") == _sizes(net, trainable=eqx.is_inexact_array) == 20


def test_trainable_of_any_model_is_a_filter_spec_or_a_where():
    mlp = eqx.nn.MLP(3, 2, 4, 1, key=KEY)
    assert _sizes(mlp) == 4 * 3 + 4 + 2 * 4 + 2
    assert _sizes(mlp, where=lambda m: m.layers[0]) == 16
    assert _sizes(mlp, where=lambda m: (m.layers[0].weight, m.layers[1].bias)) == 14
    spec = eqx.tree_at(lambda m: m.layers[0].weight, jax.tree.map(lambda _: False, mlp), True)
    assert _sizes(mlp, trainable=spec) == 12
    trained, frozen = split(mlp, where=lambda m: m.layers[0])
    np.testing.assert_array_equal(outputs(eqx.combine(trained, frozen), X), jax.vmap(mlp)(X))


def test_bad_selections_are_explained():
    net, mlp = nm.init_two_layer(5, 3, key=KEY), eqx.nn.MLP(3, 1, 4, 1, key=KEY)
    for model, selection, message in (
        (net, {"trainable": "hiden"}, "Did you mean 'hidden'"),
        (mlp, {"trainable": "hidden"}, "TwoLayerNet"),
        (net, {"trainable": "all", "where": lambda n: n.output}, "not both"),
        (net, {"trainable": False}, "nothing is trained"),
        (net, {"where": lambda n: n.nonsense}, "where="),
    ):
        with pytest.raises(nm.InputError, match=message):
            trainable_spec(model, **selection)

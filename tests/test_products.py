"""Products of shorter terms err no more than float32's own, patterns are counted to the last bit,
and the programs for NVIDIA's devices take them so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntk_momentum as nm
from ntk_momentum import products
from ntk_momentum.dynamics.preparation import weight_problem
from ntk_momentum.kernel.patterns import packed_counts, slope_gram

N, P, M = 200, 60, 96
RNG = np.random.default_rng(0)
X, U = RNG.standard_normal((N, P)).astype("float32"), RNG.standard_normal(N).astype("float32")
PATTERN = RNG.random((M, N)) < 0.5


def for_cuda(function, *args):
    """The program that a CUDA device is sent, which no device is needed for."""
    with jax.default_matmul_precision("highest"):
        return jax.jit(function).trace(*args).lower(lowering_platforms=("cuda",)).as_text()


def far(found, exact):
    return np.linalg.norm(np.asarray(found, np.float64) - exact) / np.linalg.norm(exact)


def test_three_terms_hold_a_float32():
    terms = np.stack(
        [np.asarray(part, np.float64) for part in products.three_terms(jnp.asarray(X))]
    )
    assert np.max(np.abs(sum(terms) - X) / np.abs(X)) <= 2.0**-24


@pytest.mark.parametrize("size", [1e-28, 1.0, 1e30, 3e37])
def test_two_halves_hold_23_bits_of_the_largest_entry_at_any_size(size):
    x = (size * X).astype("float32")
    high, low, scale = (
        np.asarray(part, np.float64) for part in products.two_halves(jnp.asarray(x), -1)
    )
    apart = np.abs(scale * (high + low) - x) / np.max(np.abs(x), axis=-1, keepdims=True)
    assert np.max(apart) <= 2.0**-23
    assert np.all(np.log2(scale) == np.round(np.log2(scale)))


def test_a_row_of_zeros_or_without_a_number_stays_one():
    x = jnp.asarray(X[:3]).at[0].set(0.0).at[1, 4].set(jnp.nan)
    found = products.by_halves(x, jnp.asarray(X[:5].T))
    np.testing.assert_array_equal(found[0], 0.0)
    assert np.all(np.isnan(found[1])) and np.all(np.isfinite(found[2]))


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_three_products_of_halves_are_one_of_float32(size):
    W = jnp.asarray(size * RNG.standard_normal((P, M)), jnp.float32)
    exact = np.asarray(X, np.float64) @ np.asarray(W, np.float64)
    assert far(products.by_halves(jnp.asarray(X), W), exact) < 1.5e-7


def test_products_of_halves_are_differentiated_as_those_of_float32():
    W = jnp.asarray(RNG.standard_normal((P, M)), jnp.float32)
    summed = lambda multiply: lambda x, w: jnp.sum(jnp.cos(multiply(x, w)))
    ways = (products.by_halves, products.product, jnp.matmul)
    with jax.default_matmul_precision("highest"):
        for k in range(2):
            *split, plain = (jax.grad(summed(f), k)(jnp.asarray(X), W) for f in ways)
            for found in split:
                assert far(found, np.asarray(plain, np.float64)) < 1e-5


@pytest.mark.parametrize("values", [(0.0, 1.0), (0.01, 1.0), (-1.0, 1.0)])
def test_a_product_with_two_values_errs_less_than_float32s(values):
    x, slopes = U[:, None] * X, np.where(PATTERN, values[1], values[0]).astype("float32")
    exact = np.asarray(slopes, np.float64) @ np.asarray(x, np.float64)
    found = products.of_two_values(jnp.asarray(slopes), values, jnp.asarray(x))
    assert far(found, exact) < 1.5e-7


@pytest.mark.parametrize("selected", [products.selected_by_halves, products.selected_by_terms])
def test_rows_are_summed_by_a_pattern_as_in_float32(selected):
    exact = PATTERN.astype(float) @ X.astype(float)
    assert far(selected(jnp.asarray(PATTERN), jnp.asarray(X)), exact) < 1.5e-7


def test_a_pattern_is_multiplied_and_differentiated_as_a_matrix():
    pattern, x = jnp.asarray(PATTERN), jnp.asarray(X)
    plain = lambda x: jnp.sum(jnp.cos(pattern.astype(x.dtype) @ x))
    split = lambda x: jnp.sum(jnp.cos(products.selected(pattern, x)))
    rate = lambda f: jax.jvp(f, (x,), (jnp.ones_like(x),))[1]
    with jax.default_matmul_precision("highest"):
        for derivative in (lambda f: jax.grad(f)(x), rate):
            assert far(derivative(split), np.asarray(derivative(plain), np.float64)) < 1e-5


def test_patterns_are_counted_to_the_last_bit():
    integers = PATTERN.astype(int) @ PATTERN[:9].astype(int).T
    for count in (products.counts, packed_counts):
        found = count(jnp.asarray(PATTERN), jnp.asarray(PATTERN[:9]))
        assert found.dtype == jnp.int32
        np.testing.assert_array_equal(found, integers)
        np.testing.assert_array_equal(count(jnp.asarray(PATTERN))[:, :9], integers)


def test_what_stands_still_is_not_multiplied():
    W, dW = jnp.asarray(X[:9].T), jnp.asarray(X[9:18].T)
    x = jnp.asarray(X)
    push = lambda W, dW: jax.jvp(lambda W: products.by_halves(x, W), (W,), (dW,))
    assert far(push(W, dW)[1], X.astype(float) @ np.asarray(dW, float)) < 1e-6
    assert for_cuda(push, W, dW).count("dot_general") == 2
    many = jax.vmap(push)(jnp.stack([W, 2 * W]), jnp.stack([dW, dW]))[1]
    assert far(many[1], np.asarray(push(W, dW)[1], float)) < 1e-6


def test_a_choice_of_many_runs_stays_a_choice():
    choose = lambda z: jax.lax.cond(products.agreed(jnp.all(z > 0)), jnp.sin, jnp.cos, z)
    z = jnp.array([[1.0, 2.0], [-1.0, 2.0]])
    assert " select" not in str(jax.make_jaxpr(jax.vmap(choose))(z))
    np.testing.assert_array_equal(jax.vmap(choose)(z), jnp.cos(z))
    np.testing.assert_array_equal(jax.vmap(choose)(z + 2), jnp.sin(z + 2))


def test_a_gradient_on_cuda_splits_its_products():
    data = nm.sphere(4, 3, key=jax.random.key(0))
    net = nm.init_two_layer(8, 3, key=jax.random.key(1), dtype=jnp.float32)
    problem, w = weight_problem(net, data, nm.squared, None, None)
    text = for_cuda(lambda w: problem.gradient(w).hidden, w)
    assert "tensor<8x9xf16>, tensor<9x4xf16>) -> tensor<8x4xf32>" in text  # z
    assert "tensor<8x8xf16>, tensor<8x3xf16>) -> tensor<8x3xf32>" in text  # the pull
    for line in text.splitlines():
        assert "dot_general" not in line or "f16" in line or "tensor<8xf32>" in line, line


def test_a_kernel_on_cuda_counts_in_integers_whatever_the_dtype():
    for dtype in (jnp.float32, jnp.float64):
        W, a, inputs = jnp.ones((128, 3), dtype), jnp.ones(128, dtype), jnp.eye(64, 3, dtype=dtype)
        text = for_cuda(lambda X, W, a: slope_gram(jax.nn.relu, X, None, W, a), inputs, W, a)
        assert "tensor<64x128xi8>, tensor<128x64xi8>) -> tensor<64x64xi32>" in text
        assert ("xf16" in text) == (dtype == jnp.float32)


def test_an_algorithm_that_the_device_lacks_means_the_accuracy_of_the_dtype():
    for precision in ("TF32_TF32_F32_X3", "BF16_BF16_F32", "highest"):
        with products.in_force(nm.Numerics(precision=precision).precision, jnp.float32):
            assert jax.config.jax_default_matmul_precision == "highest"

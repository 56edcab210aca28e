"""Counting activation patterns gives the dense Gram matrix of slopes exactly, whenever it is used
and whenever it is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_momentum.kernel import patterns
from ntk_momentum.kernel.patterns import common_bits, dense_gram, kink, pack, slope_gram


@pytest.fixture(autouse=True)
def no_few(monkeypatch):
    """So few neurons would take the dense product."""
    monkeypatch.setattr(patterns, "FEW", 0)


leaky = lambda z: jnp.where(z >= 0, z, 0.25 * z)
hinge = lambda z: jnp.maximum(z, 0)  # its derivative at 0 is 1/2, neither slope


def problem(m, integers, dtype):
    """Inputs and neurons; small integers put many preactivations exactly on the kink."""
    rng = np.random.default_rng(0)
    draw = (lambda *s: rng.integers(-2, 3, s)) if integers else (lambda *s: rng.standard_normal(s))
    return tuple(jnp.asarray(draw(*shape), dtype) for shape in ((7, 3), (5, 3), (m, 3)))


def test_packed_words_count_common_bits():
    bits = np.random.default_rng(0).integers(0, 2, (6, 75)).astype(bool)
    words = pack(jnp.asarray(bits))
    assert words.shape == (6, 3)
    np.testing.assert_array_equal(
        common_bits(words, words[:4]), bits.astype(int) @ bits[:4].T.astype(int)
    )


CASES = [(jax.nn.relu, True), (leaky, True), (hinge, True), (hinge, False)]
MORE = [
    (jax.nn.relu, False),
    (leaky, False),
    (jnp.abs, True),
    (jnp.abs, False),
    (jnp.tanh, True),
    (lambda z: z, True),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("activation", "integers"),
    [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE)],
)
def test_counting_equals_the_dense_product(activation, integers):
    signs = jnp.asarray(np.random.default_rng(1).integers(-1, 2, 75), float) * 0.5
    count = jax.jit(lambda *args: (slope_gram(activation, *args), dense_gram(activation, *args)))
    for dtype in (np.float64, np.float32):
        X1, X2, W = problem(75, integers, dtype)
        for a in (signs.astype(dtype), jnp.linspace(1, 2, 75, dtype=dtype), jnp.zeros(75, dtype)):
            G, dense = count(X1, X2, W, a)
            assert G.dtype == dtype
            np.testing.assert_allclose(G, dense, rtol=0, atol=75 * np.finfo(dtype).eps)
    G, dense = count(X1, None, W, signs.astype(dtype))
    np.testing.assert_allclose(G, dense, rtol=0, atol=75 * np.finfo(dtype).eps)


def test_counting_vmaps_and_differentiates_like_the_dense_product():
    X1, X2, W = problem(40, False, np.float64)
    a = jnp.asarray(np.random.default_rng(1).choice([-1.0, 1.0], (3, 40)))
    batched = jax.jit(jax.vmap(lambda a: slope_gram(jax.nn.relu, X1, X2, W, a)))(
        a * jnp.array([1.0, 2.0, 3.0])[:, None]
    )
    np.testing.assert_array_equal(batched[2], 9 * dense_gram(jax.nn.relu, X1, X2, W, a[2]))
    loss = lambda gram: jax.jit(
        jax.grad(lambda a, W: jnp.sum(gram(jnp.abs, X1, X2, W, a) ** 2), (0, 1))
    )(a[0], W)
    for fast, slow in zip(loss(slope_gram), loss(dense_gram), strict=True):
        np.testing.assert_allclose(fast, slow, rtol=1e-13)
    own = lambda gram: jax.jit(jax.grad(lambda a: jnp.sum(gram(jax.nn.relu, X1, None, W, a) ** 2)))(
        a[0]
    )
    np.testing.assert_allclose(own(slope_gram), own(dense_gram), rtol=1e-13)


def test_kinks_are_recognised():
    recognise = lambda activation: kink(activation, np.dtype(np.float64))
    assert recognise(jax.nn.relu) == (0, 1, 0)
    assert recognise(leaky) == (0.25, 1, 1)
    assert recognise(jnp.abs) == (-1, 1, 1)
    assert recognise(hinge) == (0, 1, 0.5)
    assert recognise(lambda z: 2 * z) == (2, 2, 2)
    for smooth in (jnp.tanh, jax.nn.relu6, jnp.cos, jax.nn.gelu, lambda z: z + 1, lambda z: 0 * z):
        assert recognise(smooth) is None

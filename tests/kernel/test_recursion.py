"""Infinite-width kernels of deep networks: closed forms, quadrature, and finite networks that
converge to them."""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from ntk_momentum.errors import InputError
from ntk_momentum.kernel import (
    FullyConnected,
    empirical_ntk,
    fully_connected_ntk,
    infinite_ntk,
    monte_carlo_ntk,
)
from ntk_momentum.kernel.infinite import Angles
from ntk_momentum.kernel.piecewise import Pieces, pieces, piecewise_linear
from ntk_momentum.kernel.recursion import dual_of, gauss_hermite

KEY = jax.random.key(0)
X = np.random.default_rng(0).standard_normal((4, 3))
Y = np.random.default_rng(1).standard_normal((3, 3))
leaky = lambda z: jnp.where(z > 0, z, 0.3 * z)


def test_depth_one_is_the_two_layer_kernel():
    network = fully_connected_ntk(depth=1, weight_std=(3**0.5, 1))
    np.testing.assert_allclose(
        network(X, Y).ntk, infinite_ntk(X, Y, trainable="all"), rtol=1e-14, atol=1e-15
    )
    np.testing.assert_allclose(
        network(X).nngp, infinite_ntk(X, trainable="output"), rtol=1e-14, atol=1e-15
    )


def test_the_identity_gives_the_linear_kernel_times_the_number_of_layers():
    kernels = fully_connected_ntk(depth=3, activation=lambda z: z)(X, Y)
    np.testing.assert_allclose(kernels.nngp, X @ Y.T / 3, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(kernels.ntk, 4 * X @ Y.T / 3, rtol=1e-13, atol=1e-15)


def test_relu_of_three_layers_matches_the_textbook_recursion():
    """Cho and Saul's arc-cosine moments (2009) in plain numpy, inputs normalised by nothing but the
    weights' scale."""
    sw, sb, Z = 1.3, 0.4, np.concatenate([X, Y])
    nngp = sw**2 * Z @ Z.T / 3 + sb**2
    ntk = nngp
    for _ in range(3):
        norms = np.sqrt(np.outer(np.diag(nngp), np.diag(nngp)))
        theta = np.arccos(np.clip(nngp / norms, -1, 1))
        nngp = (
            sw**2 * norms * (np.sin(theta) + (np.pi - theta) * np.cos(theta)) / (2 * np.pi) + sb**2
        )
        ntk = nngp + sw**2 * (np.pi - theta) / (2 * np.pi) * ntk
    kernels = fully_connected_ntk(depth=3, weight_std=sw, bias_std=sb)(X, Y)
    np.testing.assert_allclose(kernels.nngp, nngp[:4, 4:], rtol=1e-12)
    np.testing.assert_allclose(kernels.ntk, ntk[:4, 4:], rtol=1e-12)


@pytest.mark.parametrize("depth", [1, 2, pytest.param(5, marks=pytest.mark.slow)])
def test_relu_matches_scikit_ntk(depth):
    """Its kernel has weights of variance 2, inputs not divided by their size, and is divided by
    depth + 1."""
    skntk = pytest.importorskip("skntk")
    theirs = (depth + 1) * skntk.NeuralTangentKernel(depth=depth, bias=0.0)(X, Y)
    ours = fully_connected_ntk(depth=depth, weight_std=(3**0.5, *[2**0.5] * depth))(X, Y).ntk
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def moments(phi, norm1, norm2, cos, kinks=(0.0,)):
    """E[phi phi] by Gauss-Legendre between the kinks of u and those of v, in (u, independent part
    of v)."""
    sin, (nodes, weights) = np.sqrt(1 - cos**2), np.polynomial.legendre.leggauss(120)
    on = lambda low, high: (
        0.5 * (high - low) * nodes + 0.5 * (high + low),
        0.5 * (high - low) * weights,
    )
    between = lambda cuts: itertools.pairwise(np.clip([-9, *sorted(cuts), 9], -9, 9))
    density = lambda z: np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    total = 0.0
    for outer in between(t / norm1 for t in kinks):
        for z, wz in zip(*on(*outer), strict=True):
            for inner in between((t / norm2 - cos * z) / sin for t in kinks):
                y, wy = on(*inner)
                total += (
                    wz
                    * density(z)
                    * phi(norm1 * z)
                    * np.sum(wy * density(y) * phi(norm2 * (cos * z + sin * y)))
                )
    return total


CASES = {
    "relu": (jax.nn.relu, lambda z: np.maximum(z, 0), lambda z: np.where(z > 0, 1.0, 0.0)),
    "leaky": (leaky, lambda z: np.where(z > 0, z, 0.3 * z), lambda z: np.where(z > 0, 1.0, 0.3)),
    "abs": (jnp.abs, np.abs, np.sign),
    "erf": (jax.lax.erf, scipy.special.erf, lambda z: 2 / np.sqrt(np.pi) * np.exp(-(z**2))),
    "sin": (jnp.sin, np.sin, np.cos),
    "cos": (jnp.cos, np.cos, lambda z: -np.sin(z)),
    "tanh": (jnp.tanh, np.tanh, lambda z: np.cosh(z) ** -2),
}


@pytest.mark.parametrize("name", CASES)
def test_moments_match_direct_integration(name):
    activation, phi, slope = CASES[name]
    norm1, norm2, cos = 0.8, 1.1, -0.35
    law = Angles(*map(jnp.asarray, ([norm1], [norm2], [[1 - cos]], [[1 + cos]])))
    after, slopes = dual_of(activation)(law)
    tolerance = 1e-8 if name == "tanh" else 1e-13
    assert float((after.norms * after.cos)[0, 0]) == pytest.approx(
        moments(phi, norm1, norm2, cos), abs=tolerance
    )
    assert float(slopes[0, 0]) == pytest.approx(moments(slope, norm1, norm2, cos), abs=tolerance)


BENT = {
    "hard_tanh": (jax.nn.hard_tanh, (-1, 1)),
    "relu6": (jax.nn.relu6, (0, 6)),
    "shifted": (lambda z: jnp.abs(z - 0.3) + 0.2 * z + 1, (0.3,)),
}


@pytest.mark.parametrize(
    "name",
    ["hard_tanh", *(pytest.param(name, marks=pytest.mark.slow) for name in ("relu6", "shifted"))],
)
def test_kinks_anywhere_match_direct_integration(name):
    activation, kinks = BENT[name]
    found = pieces(activation, np.dtype(np.float64))
    assert found.kinks == pytest.approx(kinks, abs=1e-12)
    assert pieces(activation, np.dtype(np.float32)).kinks == pytest.approx(kinks, abs=1e-4)
    phi = lambda z: np.asarray(activation(z))
    slope = lambda z: (
        found.slope + sum(j * (z > t) for t, j in zip(found.kinks, found.jumps, strict=True))
    )
    for norm1, norm2, cos in ((0.8, 1.1, -0.35), (2.0, 2.01, 0.999)):
        law = Angles(*map(jnp.asarray, ([norm1], [norm2], [[1 - cos]], [[1 + cos]])))
        after, slopes = dual_of(activation)(law)
        assert float((after.norms * after.cos)[0, 0]) == pytest.approx(
            moments(phi, norm1, norm2, cos, kinks), abs=1e-11
        )
        assert float(slopes[0, 0]) == pytest.approx(
            moments(slope, norm1, norm2, cos, kinks), abs=1e-11
        )


@pytest.mark.slow
def test_the_general_piecewise_form_contains_the_one_kink_at_zero():
    slow = FullyConnected(
        (1.0, 1.0, 1.0), (0.2, 0.2, 0.2), piecewise_linear(Pieces(0.0, 0.3, (0.0,), (0.7,)))
    )
    fast = FullyConnected((1.0, 1.0, 1.0), (0.2, 0.2, 0.2), dual_of(leaky))
    x = np.concatenate([X, X[:2] * (1 + 1e-9), -X[:1]])
    for a, b in zip(slow(x), fast(x), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-8)
        np.testing.assert_allclose(jnp.diagonal(a), jnp.diagonal(b), rtol=1e-14)
    assert all(
        pieces(f, np.dtype(float)) is None
        for f in (jnp.tanh, jax.nn.hard_swish, jax.nn.elu, jnp.sign, lambda z: z + 1)
    )


@pytest.mark.parametrize(
    "activation",
    [jax.lax.erf, *(pytest.param(f, marks=pytest.mark.slow) for f in (jnp.sin, jnp.cos))],
)
def test_quadrature_agrees_with_the_closed_form_of_a_smooth_activation(activation):
    network = fully_connected_ntk(depth=2, activation=activation, bias_std=0.3)
    by_quadrature = FullyConnected(network.weight_std, network.bias_std, gauss_hermite(activation))
    for exact, approximate in zip(network(X, Y), by_quadrature(X, Y), strict=True):
        np.testing.assert_allclose(approximate, exact, atol=1e-9)


@pytest.mark.parametrize(
    "activation", [jax.nn.relu, jnp.abs, pytest.param(leaky, marks=pytest.mark.slow)]
)
def test_angles_survive_depth_at_duplicates_and_antipodes(activation):
    """Nearby inputs at angle 1e-7: the NTK of a kinked network falls like the angle, which a
    rounded cosine would lose."""
    angle = np.array([0.0, 1e-7, 1e-6, 1e-5])
    x = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    kernels = fully_connected_ntk(depth=4, activation=activation)(np.concatenate([x, -x]))
    fall = (kernels.ntk[0, 0] - kernels.ntk[0, 1:4]) / angle[1:]
    np.testing.assert_allclose(fall[:2], fall[2], rtol=1e-4)
    np.testing.assert_allclose(np.diagonal(kernels.ntk), kernels.ntk[0, 0], rtol=1e-14)
    if activation is jnp.abs:  # even at its first layer: antipodes become duplicates, exactly
        np.testing.assert_allclose(kernels.nngp[:4, 4:], kernels.nngp[:4, :4], rtol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "activation",
    [jax.nn.relu, *(pytest.param(f, marks=pytest.mark.slow) for f in (jnp.tanh, jax.nn.hard_tanh))],
)
def test_deep_kernels_are_symmetric_and_positive_semidefinite(activation, dtype):
    x = np.random.default_rng(2).standard_normal((60, 5)).astype(dtype)
    x[30:40] = x[:10] * (1 + 1e-3)
    for kernel in map(
        np.asarray,
        fully_connected_ntk(depth=3, activation=activation, weight_std=1.4, bias_std=0.1)(x),
    ):
        assert kernel.dtype == dtype
        assert (kernel == kernel.T).all()
        assert (
            np.linalg.eigvalsh(kernel.astype(float)).min()
            > -60 * np.finfo(dtype).eps * np.abs(kernel).max()
        )


LARGE = [
    (2000, jax.nn.relu, 3, np.float32),
    (1000, jax.nn.relu, 3, np.float64),
    (1000, jax.lax.erf, 3, np.float32),
    (1000, jax.nn.hard_tanh, 1, np.float32),
]


@pytest.mark.slow
@pytest.mark.parametrize(("count", "activation", "depth", "dtype"), LARGE)
def test_kernels_of_thousands_of_inputs_are_positive_semidefinite(
    optimized, count, activation, depth, dtype
):
    """With near duplicates, so that the smallest eigenvalue is of the order of round-off."""
    x = np.random.default_rng(2).standard_normal((count, 5)).astype(dtype)
    x[-count // 4 :] = x[: count // 4] * (1 + 1e-3)
    for kernel in map(
        np.asarray,
        fully_connected_ntk(depth=depth, activation=activation, weight_std=1.4, bias_std=0.1)(x),
    ):
        assert kernel.dtype == dtype
        assert (kernel == kernel.T).all()
        assert (
            np.linalg.eigvalsh(kernel.astype(float)).min()
            > -200 * np.finfo(dtype).eps * np.abs(kernel).max()
        )


class Network(eqx.Module):
    """A fully connected network in the parametrisation of the recursion."""

    weights: list
    biases: list
    activation: object = eqx.field(static=True)

    def __init__(self, sizes, activation, *, key):
        keys = jax.random.split(key, 2 * len(sizes))
        self.weights = [
            jax.random.normal(k, (o, i))
            for k, i, o in zip(keys, sizes[:-1], sizes[1:], strict=False)
        ]
        self.biases = [
            jax.random.normal(k, (o,)) for k, o in zip(keys[len(sizes) :], sizes[1:], strict=False)
        ]
        self.activation = activation

    def __call__(self, x):
        for layer, (W, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = self.activation(x) if layer else x
            x = 1.3 * W.shape[1] ** -0.5 * (W @ x) + 0.4 * b
        return x[0]


@functools.cache
def limit(activation, depth):
    return fully_connected_ntk(depth=depth, activation=activation, weight_std=1.3, bias_std=0.4)(
        X
    ).ntk


def deviation(activation, depth, width, seeds):
    """Mean relative distance in the Frobenius norm between finite kernels and the recursion."""
    exact = limit(activation, depth)

    @jax.jit
    def distances(keys):
        one = lambda key: empirical_ntk(Network([3, *[width] * depth, 1], activation, key=key), X)
        return jax.lax.map(
            lambda key: jnp.linalg.norm(one(key) - exact) / jnp.linalg.norm(exact), keys
        )

    return float(distances(jax.random.split(KEY, seeds)).mean())


@pytest.mark.parametrize(
    ("activation", "depth"), [(jax.nn.relu, 2), pytest.param(jnp.tanh, 3, marks=pytest.mark.slow)]
)
def test_finite_networks_converge_at_the_root_of_the_width(activation, depth):
    narrow, wide = (deviation(activation, depth, width, 40) for width in (16, 256))
    assert np.log(wide / narrow) / np.log(16) == pytest.approx(-0.5, abs=0.1)
    assert wide < 0.2


@pytest.mark.slow
def test_the_mean_over_draws_is_the_kernel_within_its_error():
    make = lambda key: Network([3, 128, 1], jax.nn.hard_tanh, key=key)
    estimate = monte_carlo_ntk(make, X, key=KEY, samples=64)
    exact = fully_connected_ntk(depth=1, activation=jax.nn.hard_tanh, weight_std=1.3, bias_std=0.4)(
        X
    ).ntk
    assert np.all(np.abs(estimate.mean - exact) < 5 * estimate.error)
    assert np.all(estimate.error < 0.05 * jnp.abs(exact).max())
    draws = np.asarray(
        jax.jit(jax.vmap(lambda key: empirical_ntk(make(key), X)))(jax.random.split(KEY, 64))
    )
    np.testing.assert_allclose(estimate.mean, draws.mean(0), rtol=1e-12)
    np.testing.assert_allclose(estimate.error, draws.std(0, ddof=1) / 8, rtol=1e-9)


SMOOTH_AND_BENT = (leaky, jnp.abs, jax.lax.erf, jnp.sin, jnp.cos, jax.nn.gelu, jax.nn.hard_tanh)
# Layers follow each other without knowing how many there are: depths by one activation.
GRID = [*((jax.nn.relu, depth) for depth in (2, 3, 5)), *((f, 3) for f in SMOOTH_AND_BENT)]


@pytest.mark.slow
@pytest.mark.parametrize(("activation", "depth"), GRID)
def test_every_activation_and_depth_converges(activation, depth):
    narrow, wide = (deviation(activation, depth, width, 40) for width in (64, 256))
    assert np.log(wide / narrow) / np.log(4) == pytest.approx(-0.5, abs=0.15)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fully_connected_ntk(depth=0), "depth"),
        (lambda: fully_connected_ntk(depth=2, weight_std=(1, 2)), "one per layer"),
        (lambda: fully_connected_ntk(depth=2, weight_std=0.0), "weight_std"),
        (lambda: fully_connected_ntk(depth=2, bias_std=-1.0), "bias_std"),
        (lambda: fully_connected_ntk(depth=2)(X, X[:, :2]), "one size"),
        (
            lambda: monte_carlo_ntk(
                lambda key: eqx.nn.MLP(3, 1, 4, 1, key=key), X, key=KEY, samples=1
            ),
            "at least 2",
        ),
        (
            lambda: monte_carlo_ntk(
                lambda key: eqx.nn.MLP(3, 1, 4, 1, key=key), X, key=KEY, per_layer=True
            ),
            "per_layer",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()

"""Kernels: every route agrees to round-off, the closed forms agree with mpmath and Monte Carlo, and
symmetries hold."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntk_momentum.data import sphere
from ntk_momentum.errors import InputError
from ntk_momentum.kernel import empirical_ntk, infinite_ntk, plan_ntk, two_layer_ntk
from ntk_momentum.network.model import split
from ntk_momentum.network.two_layer import TwoLayerNet, init_two_layer

KEY = jax.random.key(0)
METHODS = ("jacobian", "ntk-vp", "structured")


def inputs(n, *shape, seed=1):
    return np.random.default_rng(seed).standard_normal((n, *shape))


def dense_kernel(model, x1, x2, **spec):
    """The definition, written out: full Jacobians, one Gram. (n1, k, n2, k)."""
    trained, frozen = split(model, **spec)
    f = lambda t, x: jnp.ravel(eqx.combine(t, frozen)(x))

    @jax.jit
    def flat(x):
        leaves = jax.tree.leaves(jax.vmap(jax.jacrev(f), (None, 0))(trained, x))
        return jnp.concatenate([leaf.reshape(*leaf.shape[:2], -1) for leaf in leaves], axis=2)

    J = flat(np.concatenate([x1, x2]))
    return np.einsum("iap,jbp->iajb", J[: len(x1)], J[len(x1) :])


class Attention(eqx.Module):
    attention: eqx.nn.MultiheadAttention
    head: eqx.nn.Linear

    def __call__(self, x):
        return jnp.mean(jnp.tanh(jax.vmap(self.head)(self.attention(x, x, x))), axis=0)


class Tied(eqx.Module):
    """A weight used twice, one used as x W and inside jit, one that scales, and one that is not
    used."""

    w: jax.Array
    v: jax.Array
    g: jax.Array
    idle: jax.Array

    def __call__(self, x):
        h = jnp.tanh(self.w @ jnp.tanh(self.w @ x)) * self.g
        return jax.jit(lambda v, h: jnp.sin(h @ v))(self.v, h)


class Recurrent(eqx.Module):
    """A cell that reads from the end, and a weight used twice at every step in a scan of its
    own."""

    cell: eqx.nn.GRUCell
    v: jax.Array

    def __call__(self, x):
        again = lambda h, _: (jnp.tanh(h @ self.v), None)

        def step(h, token):
            return jax.lax.scan(again, self.cell(token, h), length=2)[0], None

        return jax.lax.scan(step, jnp.zeros(self.cell.hidden_size), x, reverse=True)[0]


class Tokens(eqx.Module):
    embedding: eqx.nn.Embedding
    head: eqx.nn.Linear

    def __call__(self, x):
        return self.head(jnp.tanh(jax.vmap(self.embedding)(x).ravel()))


def convolutional():
    linear = eqx.nn.Linear(3 * 16, 2, key=KEY)
    return eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(1, 3, 3, key=KEY),
            eqx.nn.Lambda(jax.nn.gelu),
            eqx.nn.Lambda(jnp.ravel),
            linear,
        ]
    )


MODELS = {
    "scalar MLP": lambda: (
        eqx.nn.MLP(4, "scalar", 8, 2, key=KEY),
        inputs(5, 4),
        inputs(3, 4, seed=2),
    ),
    "vector MLP": lambda: (eqx.nn.MLP(4, 3, 8, 1, key=KEY), inputs(5, 4), inputs(3, 4, seed=2)),
    "convolution": lambda: (convolutional(), inputs(5, 1, 6, 6), inputs(3, 1, 6, 6, seed=2)),
    "attention": lambda: (
        Attention(eqx.nn.MultiheadAttention(2, 16, key=KEY), eqx.nn.Linear(16, 3, key=KEY)),
        inputs(5, 2, 16),
        inputs(3, 2, 16, seed=2),
    ),
    "tied": lambda: (
        Tied(*map(jnp.asarray, (inputs(6, 6), inputs(6, 2), inputs(6), inputs(2)))),
        inputs(5, 6),
        inputs(3, 6, seed=2),
    ),
    "recurrent": lambda: (
        Recurrent(eqx.nn.GRUCell(3, 4, key=KEY), jnp.asarray(inputs(4, 4))),
        inputs(5, 6, 3),
        inputs(3, 6, 3, seed=2),
    ),
    "recurrent, in factors": lambda: (
        Recurrent(eqx.nn.GRUCell(3, 4, key=KEY), jnp.asarray(inputs(4, 4))),
        inputs(5, 1, 3),
        inputs(3, 1, 3, seed=2),
    ),
    "tokens": lambda: (
        Tokens(eqx.nn.Embedding(7, 3, key=KEY), eqx.nn.Linear(12, 2, key=KEY)),
        np.arange(20).reshape(5, 4) % 7,
        np.arange(12).reshape(3, 4) % 5,
    ),
}


QUICK = ("vector MLP", "convolution", "tied")


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MODELS],
)
def test_every_method_equals_the_definition(name):
    model, x1, x2 = MODELS[name]()
    reference = dense_kernel(model, x1, x2)
    scale = jnp.abs(reference).max()
    for method in METHODS:
        kernel = empirical_ntk(model, x1, x2, method=method, output="full")
        assert jnp.abs(kernel.reshape(reference.shape) - reference).max() < 1e-13 * scale, method


def test_convolutions_of_every_kind_are_products_of_their_patches():
    """Strided, dilated and padded; transposed; and in groups, which keep reverse mode."""
    model = eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(1, 2, 3, stride=2, padding=2, dilation=2, key=KEY),
            eqx.nn.ConvTranspose2d(2, 2, 2, stride=2, key=KEY),
            eqx.nn.Lambda(jnp.tanh),
            eqx.nn.Conv2d(2, 2, (6, 5), groups=2, key=KEY),
        ]
    )
    x = inputs(4, 1, 6, 6)
    assert len(plan_ntk(model, x, method="structured").products) == 2
    fast, plain = (empirical_ntk(model, x, method=m) for m in ("structured", "jacobian"))
    np.testing.assert_allclose(fast, plain, rtol=1e-12)


def test_products_in_scans_are_found_and_formed_where_that_is_cheaper():
    for name, summed in (("recurrent", True), ("recurrent, in factors", False)):
        model, x, _ = MODELS[name]()
        found = dict(plan_ntk(model, x, output="full", method="structured").products)
        cell, steps = found[0], x.shape[1]
        assert cell.steps == (steps,) and cell.summed == summed
        assert found[len(jax.tree.leaves(model)) - 1].steps == (steps, 2)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_outputs_are_views_of_the_full_kernel(method):
    model, x1, x2 = MODELS["vector MLP"]()
    full = dense_kernel(model, x1, x2)
    diagonal = jnp.einsum("iaja->ija", full)
    take = lambda output: empirical_ntk(model, x1, x2, method=method, output=output, block_size=2)
    np.testing.assert_allclose(take("diagonal"), diagonal, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(take("trace-sum"), diagonal.sum(2), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(take("trace-mean"), diagonal.mean(2), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("method", METHODS)
def test_one_set_of_inputs_gives_a_symmetric_positive_semidefinite_kernel(method):
    model, x, _ = MODELS["vector MLP"]()
    reference = dense_kernel(model, x, x).reshape(15, 15)
    for block_size in (None, 2):
        full = np.asarray(
            empirical_ntk(model, x, method=method, output="full", block_size=block_size)
        ).reshape(15, 15)
        assert (full == full.T).all()
        np.testing.assert_allclose(full, reference, rtol=1e-13, atol=1e-13)
        assert np.linalg.eigvalsh(full).min() > -1e-13 * np.trace(full)


@pytest.mark.parametrize("method", [pytest.param("ntk-vp", marks=pytest.mark.slow), "structured"])
def test_kernels_of_the_layers_sum_to_the_whole(method):
    model, x1, x2 = MODELS["attention"]()
    parts = empirical_ntk(model, x1, x2, method=method, output="full", per_layer=True)
    assert set(parts) == {
        f".attention.{p}_proj.weight" for p in ("query", "key", "value", "output")
    } | {".head.weight", ".head.bias"}
    np.testing.assert_allclose(
        sum(parts.values()), dense_kernel(model, x1, x2), rtol=1e-12, atol=1e-13
    )
    head = empirical_ntk(model, x1, x2, where=lambda m: m.head.weight, output="full")
    np.testing.assert_allclose(parts[".head.weight"], head, rtol=1e-13, atol=1e-14)


def test_a_frozen_layer_leaves_the_kernel():
    model, x1, x2 = MODELS["convolution"]()
    kernel = empirical_ntk(model, x1, x2, where=lambda m: m.layers[-1], output="full")
    features = jax.vmap(eqx.nn.Sequential(model.layers[:-1]))
    inner = features(x1) @ features(x2).T + 1
    np.testing.assert_allclose(
        kernel, jnp.einsum("ij,ab->iajb", inner, jnp.eye(2)), rtol=1e-13, atol=1e-13
    )
    by_spec = empirical_ntk(
        model, x1, x2, trainable=jax.tree.map(lambda _: True, model), output="full"
    )
    np.testing.assert_allclose(by_spec, dense_kernel(model, x1, x2), rtol=1e-13, atol=1e-13)


def test_kernel_times_vector_is_a_finite_difference_along_the_gradient():
    """f(theta + eps J^T v) - f(theta - eps J^T v) = 2 eps K v + O(eps^3)."""
    model, x, _ = MODELS["scalar MLP"]()
    model = eqx.nn.MLP(4, "scalar", 8, 2, activation=jnp.tanh, key=KEY)
    v = inputs(5)
    trained, frozen = split(model)
    f = lambda t: jax.vmap(eqx.combine(t, frozen))(x)
    (gradient,) = jax.vjp(f, trained)[1](v)
    moved = lambda eps: f(jax.tree.map(lambda t, g: t + eps * g, trained, gradient))
    difference = (moved(1e-5) - moved(-1e-5)) / 2e-5
    np.testing.assert_allclose(empirical_ntk(model, x) @ v, difference, rtol=1e-6)


@pytest.mark.parametrize(
    "activation", [jax.nn.relu, pytest.param(jnp.abs, marks=pytest.mark.slow), jnp.cos]
)
def test_the_structured_two_layer_form_equals_autodiff(activation):
    net = init_two_layer(21, 4, key=KEY, activation=activation)
    net = eqx.tree_at(lambda net: net.output, net, net.output * np.linspace(0.5, 2, 21))
    x1, x2 = inputs(5, 4), inputs(3, 4, seed=2)
    layers = {
        name: dense_kernel(net, x1, x2, trainable=name)[:, 0, :, 0] for name in ("hidden", "output")
    }
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-14)
    for name, reference in layers.items():
        close(empirical_ntk(net, x1, x2, trainable=name), reference)
    for method in METHODS:
        parts = empirical_ntk(net, x1, x2, trainable="all", method=method, per_layer=True)
        close(parts[".hidden"], layers["hidden"])
        close(parts[".output"], layers["output"])
    close(empirical_ntk(net, x1, x2, trainable="all"), layers["hidden"] + layers["output"])


@pytest.mark.parametrize("chunk", [1, 8, 100])
def test_chunks_of_neurons_do_not_change_the_kernel(chunk):
    net, x1, x2 = (
        init_two_layer(21, 4, key=KEY, activation=jnp.cos),
        inputs(5, 4),
        inputs(3, 4, seed=2),
    )
    kernel = jax.jit(
        lambda x1, x2, chunk: two_layer_ntk(net, x1, x2, output=True, chunk=chunk), static_argnums=2
    )
    np.testing.assert_allclose(kernel(x1, x2, chunk), kernel(x1, x2, None), rtol=1e-13, atol=1e-14)
    symmetric = kernel(x1, None, chunk)
    assert (symmetric == symmetric.T).all()


def test_relu_at_its_kink_has_the_derivative_of_autodiff():
    net = TwoLayerNet(jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.ones(2))
    x = jnp.array([[0.0, 1.0], [1.0, 0.0]])
    np.testing.assert_array_equal(two_layer_ntk(net, x), dense_kernel(net, x, x)[:, 0, :, 0])


def test_padding_neurons_and_a_traced_scale_leave_the_kernel():
    net, x = init_two_layer(9, 4, key=KEY), inputs(5, 4)
    padded = TwoLayerNet(
        jnp.pad(net.hidden, ((0, 7), (0, 0)), constant_values=0.3),
        jnp.pad(net.output, (0, 7)),
        scale=net.scale,
    )
    kernel = jax.jit(lambda scale: two_layer_ntk(eqx.tree_at(lambda n: n.scale, padded, scale), x))(
        jnp.asarray(net.scale)
    )
    np.testing.assert_allclose(kernel, two_layer_ntk(net, x), rtol=1e-14, atol=1e-15)
    both = jax.vmap(lambda key: empirical_ntk(init_two_layer(9, 4, key=key), x, trainable="all"))(
        jax.random.split(KEY, 2)
    )
    alone = [
        empirical_ntk(init_two_layer(9, 4, key=key), x, trainable="all")
        for key in jax.random.split(KEY, 2)
    ]
    np.testing.assert_allclose(both, jnp.stack(alone), rtol=1e-13)


@functools.cache
def changes(dtype):
    """x, a rotation, an order and a factor -> for both kernels: K, its symmetry, and three ways of
    computing it that must agree."""
    net = init_two_layer(12, 4, key=KEY, dtype=dtype)

    @jax.jit
    def run(x, rotation, order, factor):
        turned = eqx.tree_at(lambda n: n.hidden, net, net.hidden @ rotation)
        return [
            (
                kernel(x),
                kernel_turned(x @ rotation),
                kernel(x[order]),
                kernel(factor * x) / factor**2,
            )
            for kernel, kernel_turned in (
                (infinite_ntk, infinite_ntk),
                (lambda x: two_layer_ntk(net, x), lambda x: two_layer_ntk(turned, x)),
            )
        ]

    return run


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31 - 1), st.floats(0.1, 10), st.sampled_from([np.float32, np.float64]))
def test_the_relu_kernel_is_invariant_under_rotation_and_permutation_and_homogeneous(
    seed, factor, dtype
):
    x = inputs(6, 4, seed=seed).astype(dtype)
    rotation = np.linalg.qr(inputs(4, 4, seed=seed + 1))[0].astype(dtype)
    order = np.random.default_rng(seed).permutation(6)
    for kernels in changes(dtype)(x, rotation, order, dtype(factor)):
        K, turned, permuted, scaled = map(np.asarray, kernels)
        tolerance = 200 * np.finfo(dtype).eps * K.max()
        assert K.dtype == dtype
        assert (K == K.T).all()
        assert np.linalg.eigvalsh(K).min() > -tolerance
        np.testing.assert_allclose(turned, K, rtol=0, atol=tolerance)
        np.testing.assert_allclose(permuted, K[order][:, order], rtol=0, atol=tolerance)
        np.testing.assert_allclose(scaled, K, rtol=0, atol=tolerance)


def reference_infinite(x, y, layers):
    """H-infinity in 50 digits, for the very numbers stored in x and y."""
    with mpmath.workdps(50):
        x, y = ([mpmath.mpf(float(c)) for c in row] for row in (x, y))
        nx, ny = (mpmath.sqrt(mpmath.fdot(v, v)) for v in (x, y))
        minus = mpmath.sqrt(sum((a / nx - b / ny) ** 2 for a, b in zip(x, y, strict=True)))
        plus = mpmath.sqrt(sum((a / nx + b / ny) ** 2 for a, b in zip(x, y, strict=True)))
        theta = 2 * mpmath.atan2(minus, plus)
        hidden = nx * ny * mpmath.cos(theta) * (mpmath.pi - theta) / (2 * mpmath.pi)
        output = (
            nx
            * ny
            * (mpmath.sin(theta) + (mpmath.pi - theta) * mpmath.cos(theta))
            / (2 * mpmath.pi)
        )
        return {"hidden": hidden, "output": output, "all": hidden + output}[layers]


@pytest.mark.parametrize("layers", ["hidden", "output", "all"])
def test_infinite_kernel_is_accurate_at_every_angle(layers):
    """Angles down to 1e-14 from 0 and pi: arccos of the rounded cosine would be wrong by 1e-8
    there."""
    offsets = np.array([0.0, 1e-14, 1e-11, 1e-8, 1e-6, 1e-4, 1e-2, 0.7, np.pi / 2])
    theta = 0.3 + np.concatenate([offsets, np.pi - offsets])
    x = np.array([[np.cos(0.3), np.sin(0.3), 0.0]])
    y = 3 * np.stack([np.cos(theta), np.sin(theta), 0 * theta], axis=1)
    for value, row in zip(infinite_ntk(x, y, trainable=layers)[0], y, strict=True):
        assert abs(float(mpmath.mpf(float(value)) - reference_infinite(x[0], row, layers))) < 3e-15


def test_the_named_sets_have_their_known_smallest_eigenvalue():
    """Fact 2.2 and its sharp form: antipodes are harmless, dependent axes of antipodal pairs and
    duplicates are not."""
    lambda0 = lambda x: float(np.linalg.eigvalsh(infinite_ntk(x))[0])
    eye = np.eye(4)
    hexagon = np.stack([np.cos(np.arange(6) * np.pi / 3), np.sin(np.arange(6) * np.pi / 3)], axis=1)
    assert lambda0(eye) == pytest.approx(0.5, abs=1e-15)
    assert lambda0(np.concatenate([eye, -eye])) == pytest.approx(0.5, abs=1e-15)
    assert lambda0(eye[:1]) == pytest.approx(0.5, abs=1e-15)
    assert lambda0(hexagon) == pytest.approx(0.0, abs=1e-15)
    assert lambda0(np.concatenate([eye, eye[:1]])) == pytest.approx(0.0, abs=1e-15)
    assert 0 < lambda0(hexagon[[0, 1, 3]]) < 0.5
    unit = inputs(8, 5) / np.linalg.norm(inputs(8, 5), axis=1, keepdims=True)
    np.testing.assert_allclose(jnp.diagonal(infinite_ntk(unit)), 0.5, rtol=1e-15)


def test_gradients_of_the_infinite_kernel_are_finite_at_duplicates_and_zero():
    x = jnp.array([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    for layers in ("hidden", "output", "all"):
        gradient = jax.jit(
            jax.grad(lambda x, layers=layers: infinite_ntk(x, trainable=layers).sum())
        )(x)
        assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(infinite_ntk(x)[3], 0.0)


@pytest.mark.parametrize("layers", ["hidden", "output", "all"])
def test_infinite_kernel_is_the_mean_over_neurons(layers):
    """Monte Carlo with 2^18 neurons, on inputs that are not unit; five standard errors."""
    x, m = inputs(4, 3), 2**18
    net = init_two_layer(m, 3, key=KEY)
    kernel = empirical_ntk(net, x, trainable=layers)
    np.testing.assert_allclose(
        kernel, infinite_ntk(x, trainable=layers), atol=5 * 2 * float((x**2).sum(1).max()) * m**-0.5
    )


@pytest.mark.slow
def test_the_kernel_concentrates_like_one_over_the_root_of_the_width():
    """Lemma 4: |H(0) - H-infinity| ~ m^{-1/2}, averaged over 20 seeds."""
    x = inputs(8, 6) / np.linalg.norm(inputs(8, 6), axis=1, keepdims=True)
    H, widths = infinite_ntk(x), (2**7, 2**10, 2**13)

    def distance(m):
        kernels = jax.jit(
            lambda keys: jax.lax.map(
                lambda key: two_layer_ntk(init_two_layer(m, 6, key=key), x), keys
            )
        )
        return np.mean(
            [np.linalg.norm(K - H, ord=2) for K in np.asarray(kernels(jax.random.split(KEY, 20)))]
        )

    slope = np.polyfit(np.log(widths), np.log([distance(m) for m in widths]), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.05)


def test_the_plan_counts_flops_and_respects_the_block_size():
    mlp = eqx.nn.MLP(100, 10, 128, 2, key=KEY)
    plan = lambda **options: plan_ntk(
        mlp, jax.ShapeDtypeStruct((200, 100), jnp.float64), output="full", **options
    )
    jacobian = plan(method="jacobian", block_size=1)
    trained = sum(leaf.size for leaf in jax.tree.leaves(mlp) if eqx.is_array(leaf))
    contraction = 2 * 200 * 201 / 2 * 100 * trained
    assert jacobian.block_size == 1
    assert jacobian.flops == pytest.approx(contraction, rel=0.5)
    assert plan().method == "structured"
    assert jacobian.flops > 10 * plan().flops
    assert plan(block_size=10).bytes < plan().bytes
    assert plan_ntk(init_two_layer(1000, 20, key=KEY), inputs(5, 20)).method == "structured"


def test_a_kernel_larger_than_memory_is_refused_before_it_is_allocated():
    plan = plan_ntk(
        eqx.nn.MLP(4, 10, 8, 1, key=KEY),
        jax.ShapeDtypeStruct((10**6, 4), jnp.float32),
        output="full",
    )
    with pytest.raises(InputError, match="GiB"):
        plan.check_memory()


MLP = eqx.nn.MLP(4, 2, 8, 1, key=KEY)
BAD = {
    "unknown method": (
        lambda: empirical_ntk(MLP, inputs(3, 4), method="jacobain"),
        "Did you mean 'jacobian'",
    ),
    "unknown output": (lambda: empirical_ntk(MLP, inputs(3, 4), output="trace"), "trace-mean"),
    "block size": (lambda: empirical_ntk(MLP, inputs(3, 4), block_size=0), "block_size"),
    "shapes differ": (lambda: empirical_ntk(MLP, inputs(3, 4), inputs(3, 5)), "one shape"),
    "wrong input size": (lambda: empirical_ntk(MLP, inputs(3, 5)), "input of shape"),
    "NaN input": (lambda: empirical_ntk(MLP, inputs(3, 4) * np.nan), "NaN"),
    "NaN weight": (
        lambda: empirical_ntk(
            jax.tree.map(lambda a: a * jnp.nan if eqx.is_array(a) else a, MLP), inputs(3, 4)
        ),
        "weight",
    ),
    "complex input": (lambda: empirical_ntk(MLP, inputs(3, 4) * 1j), "real"),
    "no input": (lambda: empirical_ntk(MLP, jnp.zeros((0, 4))), "n >= 1"),
    "a data set": (lambda: empirical_ntk(MLP, sphere(3, 4, key=KEY)), "data.X"),
    "a data set at infinite width": (lambda: infinite_ntk(sphere(3, 4, key=KEY)), "data.X"),
    "objects": (lambda: empirical_ntk(MLP, np.array([["a"]], object)), "real numbers"),
    "several values": (
        lambda: empirical_ntk(
            eqx.nn.Sequential([MLP, eqx.nn.Lambda(lambda x: (x, x))]), inputs(3, 4)
        ),
        "one real array",
    ),
    "trainable names": (
        lambda: empirical_ntk(MLP, inputs(3, 4), trainable="hidden"),
        "TwoLayerNet",
    ),
    "dropout": (
        lambda: empirical_ntk(eqx.nn.Sequential([MLP, eqx.nn.Dropout()]), inputs(3, 4)),
        "inference_mode",
    ),
    "infinite: layers": (
        lambda: infinite_ntk(inputs(3, 4), trainable="hiden"),
        "Did you mean 'hidden'",
    ),
    "infinite: sizes": (lambda: infinite_ntk(inputs(3, 4), inputs(3, 5)), "one size"),
    "infinite: NaN": (lambda: infinite_ntk(inputs(3, 4) * jnp.nan), "finite"),
    "infinite: empty": (lambda: infinite_ntk(jnp.zeros((0, 4))), "n, p >= 1"),
    "infinite: text": (lambda: infinite_ntk(np.array([["a"]], object)), "numbers"),
    "two layers: nothing": (
        lambda: two_layer_ntk(init_two_layer(3, 4, key=KEY), inputs(3, 4), hidden=False),
        "nothing is trained",
    ),
    "two layers: chunk": (
        lambda: two_layer_ntk(init_two_layer(3, 4, key=KEY), inputs(3, 4), chunk=0),
        "chunk",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_with_its_remedy(case):
    call, message = BAD[case]
    with pytest.raises(InputError, match=message):
        call()


def test_dropout_in_inference_mode_is_welcome():
    model = eqx.nn.inference_mode(eqx.nn.Sequential([MLP, eqx.nn.Dropout()]))
    np.testing.assert_array_equal(
        empirical_ntk(model, inputs(3, 4)), empirical_ntk(MLP, inputs(3, 4))
    )


def test_a_switch_of_a_model_is_no_other_models():
    drop = eqx.nn.Sequential([eqx.nn.Dropout(0.5), eqx.nn.Linear(3, "scalar", key=KEY)])
    X = jnp.eye(3)
    empirical_ntk(eqx.nn.inference_mode(drop), X)
    with pytest.raises(InputError, match="inference mode"):
        empirical_ntk(drop, X)

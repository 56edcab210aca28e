"""Any model, any trained part, any differentiable loss: the same dynamics, f' = -H dL/df, and the
same constant-kernel prediction."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntk_momentum as nm
from ntk_momentum.dynamics.defaults import default_reference
from ntk_momentum.ensembles import program
from ntk_momentum.ensembles.planning import plan
from ntk_momentum.judge.linearization import linearize
from ntk_momentum.network.model import trainable_spec

KEY = jax.random.key(0)
SCALAR = nm.sphere(4, 9, key=KEY)
PAIRS = nm.Dataset(SCALAR.X, jnp.eye(2)[jnp.array([0, 1, 1, 0])])


class Maxout(eqx.Module):
    """x -> m^{-1/2} sum_r a_r max_j w_rj . x: piecewise linear and convex in each unit."""

    pieces: jax.Array
    signs: jax.Array

    def __call__(self, x):
        return jnp.dot(self.signs, jnp.max(self.pieces @ x, axis=1)) / len(self.signs) ** 0.5


class Image(eqx.Module):
    """A convolution, a tanh and a linear read-out on 3 x 3 pixels."""

    convolution: eqx.nn.Conv2d
    out: eqx.nn.Linear

    def __call__(self, x):
        return self.out(jnp.tanh(self.convolution(x.reshape(1, 3, 3))).reshape(-1))


def log_cosh(f, y):
    """A user's loss."""
    return jnp.sum(jnp.log(jnp.cosh(f - y)))


def two_layer(activation=jax.nn.relu, **options):
    return nm.init_two_layer(6, 9, key=KEY, activation=activation, **options)


CASES = {
    "ReLU, antisymmetric, hidden layer, Huber": (
        lambda: two_layer(antisymmetric=True),
        SCALAR,
        nm.huber(0.3),
        {},
    ),
    "leaky ReLU, both layers, squared": (
        lambda: two_layer(jax.nn.leaky_relu),
        SCALAR,
        nm.squared,
        {"trainable": "all"},
    ),
    "GELU, mean field, user's loss": (
        lambda: two_layer(jax.nn.gelu, scale=1 / 6),
        SCALAR,
        log_cosh,
        {},
    ),
    "softplus, standard scale, output layer, logistic": (
        lambda: two_layer(jax.nn.softplus, scale=1.0),
        SCALAR,
        nm.logistic,
        {"trainable": "output"},
    ),
    "maxout, pieces only, squared": (
        lambda: Maxout(jax.random.normal(KEY, (5, 3, 9)), jnp.array([1.0, -1, 1, -1, 1])),
        SCALAR,
        nm.squared,
        {"where": lambda m: m.pieces},
    ),
    "convolution, logistic": (
        lambda: Image(eqx.nn.Conv2d(1, 3, 2, key=KEY), eqx.nn.Linear(12, "scalar", key=KEY)),
        SCALAR,
        nm.logistic,
        {"where": lambda m: m.convolution},
    ),
    "perceptron of depth 3, two outputs, softmax": (
        lambda: eqx.nn.MLP(9, 2, 5, 3, jnp.tanh, key=KEY),
        PAIRS,
        nm.softmax_cross_entropy,
        {},
    ),
}
QUICK = ("maxout, pieces only, squared",)
cases = pytest.mark.parametrize(
    "make, data, loss, part",
    [
        pytest.param(*case, id=name, marks=[] if name in QUICK else pytest.mark.slow)
        for name, case in CASES.items()
    ],
)


@cases
def test_the_output_moves_by_kernel_times_output_gradient_in_simulate_and_train(
    make, data, loss, part
):
    model = make()
    spec = trainable_spec(model, part.get("trainable"), part.get("where"))
    w, frozen = eqx.partition(model, spec)
    f = lambda w: jax.vmap(eqx.combine(w, frozen))(data.X)
    gradient = jax.grad(lambda w: loss(f(w), data.y))(w)

    found = nm.simulate(
        model,
        data,
        nm.GradientFlow(),
        [0.0, 0.05],
        loss=loss,
        readouts=("velocity", "residual", "kernel", "loss"),
        **part,
    )
    assert found.ok and found.loss[1] < found.loss[0]
    pushed = -(found.kernel[0] @ found.residual[0].reshape(-1)).reshape(data.y.shape)
    np.testing.assert_allclose(found.velocity[0], pushed, atol=1e-10)
    np.testing.assert_allclose(
        found.velocity[0], jax.jvp(f, (w,), (jax.tree.map(jnp.negative, gradient),))[1], atol=1e-10
    )

    run = nm.train(model, data, nm.heavy_ball(0.01, 0.9), 1, loss=loss, readouts=("f",), **part)
    after = jax.tree.map(lambda leaf, slope: leaf - 0.01 * slope, w, gradient)
    np.testing.assert_allclose(run.f[1], f(after), atol=1e-12)
    assert eqx.tree_equal(eqx.filter(run.model, spec, inverse=True), frozen)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["GELU, mean field, user's loss", "perceptron of depth 3, two outputs, softmax"]
)
def test_a_linearised_model_follows_function_space_under_momentum(name):
    make, data, loss, part = CASES[name]
    model = make()
    kernel = nm.empirical_ntk(model, data.X, output="full", **part)
    f0, ts, linear = jax.vmap(model)(data.X), [0.5, 1.5], linearize(model, **part)
    flow, tight = nm.HeavyBall(0.7), nm.Numerics(tol=1e-8)
    weights = nm.simulate(
        linear,
        data,
        flow,
        ts,
        loss=loss,
        readouts=("f",),
        config=tight,
    ).f
    outputs = nm.simulate_function(
        kernel, f0, data.y, flow, ts, loss=loss, readouts=("f",), config=tight
    ).f
    np.testing.assert_allclose(weights, outputs, atol=1e-6)


def test_several_outputs_are_predicted_by_the_full_kernel():
    make, data, _, part = CASES["perceptron of depth 3, two outputs, softmax"]
    model = make()
    optimizer, kernel = (
        nm.nesterov(0.05, 3.0),
        nm.empirical_ntk(model, data.X, output="full", **part),
    )
    linear = linearize(model)
    run = nm.train(
        linear,
        data,
        optimizer,
        12,
        save_every=6,
        readouts=("residual",),
    )
    start = jax.vmap(model)(data.X) - data.y
    np.testing.assert_allclose(
        run.residual, nm.predict(kernel, start, optimizer, [0, 6, 12]).residual, atol=1e-10
    )


@pytest.mark.slow
def test_an_ensemble_of_smooth_networks_with_both_layers_under_any_loss():
    options = {"loss": log_cosh, "trainable": "all", "readouts": ("f", "loss")}
    runs = nm.ensemble(
        SCALAR, nm.HeavyBall(1.0), [4], [3], [0.5, 1.0], activation=jnp.tanh, **options
    ).to_xarray()
    net = nm.init_two_layer(4, 9, key=jax.random.key(3), activation=jnp.tanh)
    alone = nm.simulate(net, SCALAR, nm.HeavyBall(1.0), [0.5, 1.0], **options)
    np.testing.assert_allclose(runs.loss.values.reshape(-1), alone.loss, rtol=1e-6)
    np.testing.assert_allclose(runs.f.values.reshape(2, -1), alone.f, rtol=1e-6)


def perceptron(width, key):
    return eqx.nn.MLP(9, "scalar", width, 2, activation=jnp.tanh, key=key)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "widths"),
    [({}, [4, 6]), ({"where": lambda model: model.layers[-1]}, [6])],
    ids=["whole", "last layer"],
)
def test_an_ensemble_takes_any_model_and_every_run_is_the_run_alone(options, widths):
    flows, options = (
        [nm.HeavyBall(0.7), nm.HeavyBall(1.5)],
        {"loss": log_cosh, "readouts": ("f", "kernel_drift"), **options},
    )
    runs = nm.ensemble(SCALAR, flows, widths, 2, [0.5, 1.0], model=perceptron, **options)
    alone = nm.simulate(perceptron(6, jax.random.key(1)), SCALAR, flows[1], [0.5, 1.0], **options)
    assert int(runs.accepted[1, -1, 1]) == int(alone.accepted)
    for name in ("f", "kernel_drift"):
        np.testing.assert_allclose(runs[name][1, -1, 1], alone[name], rtol=1e-10, atol=1e-12)


def test_a_two_layer_net_that_the_user_makes_takes_the_fast_path():
    make = lambda width, key: nm.init_two_layer(width, 9, key=key, scale=1 / width)  # mean field
    flow, options = nm.GradientFlow(), {"readouts": ["f"]}
    made = plan(SCALAR, flow, 16, 2, [0.0, 1.0], model=make, **options)
    (unit,) = made.units
    arrays, rest = eqx.partition(made.batch(unit), eqx.is_array)
    batch = eqx.combine(jax.tree.map(jnp.asarray, arrays), rest)
    run, _ = program.prepared(batch, tuple(row[0] for row in program.told_apart_by(batch)), None)
    assert isinstance(run.integrator, nm.LazyExponential)
    assert run.w.hidden.shape == (16, min(SCALAR.n, 9))
    runs = nm.ensemble(SCALAR, flow, 16, 2, [0.0, 1.0], model=make, **options)
    alone = nm.simulate(make(16, key=jax.random.key(1)), SCALAR, flow, [0.0, 1.0], **options)
    assert int(runs.accepted[0, 0, 1]) == int(alone.accepted)
    np.testing.assert_allclose(runs.f[0, 0, 1], alone.f, rtol=1e-10)
    assert (
        default_reference(make(16, KEY), SCALAR, None, None) is None
    )  # H infinity is another parametrisation's limit


def test_an_ensemble_of_any_model_is_trained_too():
    optimizers = [nm.heavy_ball(0.05, 0.5), nm.heavy_ball(0.05, 0.9)]
    runs = nm.train_ensemble(
        SCALAR, optimizers, [4, 6], 2, 6, save_every=3, model=perceptron, readouts=["f"]
    )
    alone = nm.train(
        perceptron(6, jax.random.key(1)), SCALAR, optimizers[1], 6, save_every=3, readouts=["f"]
    )
    np.testing.assert_allclose(runs.f[1, 1, 1], alone.f, rtol=1e-10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": perceptron(4, jax.random.key(0))}, "must make a new model .* got .*MLP"),
        ({"model": lambda width: None}, "unexpected keyword argument 'key'"),
        (
            {"model": lambda width, key: 3},
            "must return an Equinox model with weights, got 3 of type int",
        ),
        ({"activation": jnp.tanh}, "with model= choose them in your function"),
        ({"layout": "neurons"}, "leave layout= out"),
        ({"trainable": "hidden"}, "or where="),
        (
            {"model": lambda width, key: eqx.nn.MLP(8, "scalar", width, 2, key=key)},
            "must take inputs of shape",
        ),
        ({"memory_limit": 1e3}, "fewer neurons, float32.$"),
    ],
)
def test_a_model_that_cannot_be_swept_is_refused(change, message):
    with pytest.raises(nm.InputError, match=message):
        nm.ensemble(SCALAR, nm.HeavyBall(0.7), [4], 1, [0.5], **{"model": perceptron} | change)


class Pair(eqx.Module):
    """A model that returns more than its prediction."""

    net: eqx.Module

    def __call__(self, x):
        return self.net(x), x


def test_the_commonest_mistakes_are_told_their_remedy():
    data, net = (
        nm.sphere(6, 4, key=jax.random.key(1)),
        nm.init_two_layer(8, 4, key=jax.random.key(0)),
    )
    column = eqx.nn.MLP(4, 1, 8, 1, key=jax.random.key(0), dtype=data.X.dtype)
    for call, remedy in (
        (lambda: nm.train(column, data, nm.gradient_descent(0.1), 2), 'out_size="scalar"'),
        (
            lambda: nm.simulate(
                net, nm.Dataset(data.X, 0.5 * data.y), nm.GradientFlow(), [1.0], loss=nm.logistic
            ),
            r"y\[0\] is",
        ),
        (lambda: nm.simulate(net, data, nm.GradientFlow, [1.0]), "the class GradientFlow; call it"),
        (
            lambda: nm.simulate(Pair(net), data, nm.GradientFlow(), [1.0]),
            "must return one array for one input, got a tuple",
        ),
        (
            lambda: nm.train_ensemble(data, nm.GradientFlow(), 8, 1, 2),
            "must be an optimizer, got GradientFlow",
        ),
    ):
        with pytest.raises(nm.InputError, match=remedy):
            call()

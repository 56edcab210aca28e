"""Every entry that takes a model, on one model of each family: its numbers are those of a loop
written by hand with jax and optax, or it is refused in a sentence."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ntk_momentum as nm

KEY = jax.random.key(0)
N, P = 4, 4
DATA = nm.sphere(N, P, key=jax.random.key(1))
PAIRS = nm.Dataset(DATA.X, jnp.stack([DATA.y, -DATA.y], axis=1))
TOKENS = nm.Dataset(np.array([[0, 1, 2], [2, 1, 0], [1, 1, 0], [2, 2, 1]]), DATA.y)
keys = jax.random.split(KEY, 4)


class Tied(eqx.Module):
    """One matrix, used twice, by eqx.nn.Shared."""

    shared: eqx.nn.Shared

    def __init__(self):
        layers = (
            eqx.nn.Linear(P, P, key=keys[0]),
            eqx.nn.Linear(P, P, key=keys[1]),
        )
        self.shared = eqx.nn.Shared(layers, lambda m: m[1].weight, lambda m: m[0].weight)

    def __call__(self, x):
        first, second = self.shared()
        return jnp.sum(second(jnp.tanh(first(x))))


class Normed(eqx.Module):
    """BatchNorm, whose running statistics the model carries."""

    layer: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    state: eqx.nn.State

    def __call__(self, x):
        z, _ = self.norm(self.layer(x), self.state)
        return jnp.sum(jnp.tanh(z))


def normed():
    norm, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, axis_name="batch", mode="ema")
    layer = eqx.nn.Linear(P, 3, key=keys[0])
    batch = jax.vmap(norm, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    return Normed(layer, norm, batch(jax.vmap(layer)(DATA.X), state)[1])


class Words(eqx.Module):
    """Tokens, their embedding and a read-out."""

    embedding: eqx.nn.Embedding
    out: eqx.nn.Linear

    def __call__(self, tokens):
        return self.out(jnp.tanh(jax.vmap(self.embedding)(tokens)).reshape(-1))


class Recurrent(eqx.Module):
    """A GRU by scan over the coordinates of x."""

    cell: eqx.nn.GRUCell
    out: eqx.nn.Linear

    def __call__(self, x):
        step = lambda h, z: (self.cell(z, h), None)
        return self.out(jax.lax.scan(step, jnp.zeros(2), x[:, None])[0])


class Attentive(eqx.Module):
    """Attention between the coordinates of x."""

    attention: eqx.nn.MultiheadAttention
    out: eqx.nn.Linear

    def __call__(self, x):
        z = jnp.stack([x, x**2], axis=1)
        return self.out(self.attention(z, z, z).reshape(-1))


class Image(eqx.Module):
    """A convolution over 2 x 2 pixels."""

    convolution: eqx.nn.Conv2d
    out: eqx.nn.Linear

    def __call__(self, x):
        return self.out(jnp.tanh(self.convolution(x.reshape(1, 2, 2))).reshape(-1))


class Product(eqx.Module):
    """Re <w, x> with weights of any kind."""

    w: jax.Array

    def __call__(self, x):
        return jnp.real(jnp.sum(self.w * x)).astype(float)


@jax.custom_vjp
def backward_only(z):
    """tanh, with a backward rule alone."""
    return jnp.tanh(z)


backward_only.defvjp(
    lambda z: (jnp.tanh(z), jnp.tanh(z)), lambda t, g: (jnp.asarray(g) * (1 - t**2),)
)


@jax.custom_vjp
def clipped(z):
    """The identity, with a gradient that is cut off: no Jacobian at all."""
    return z


clipped.defvjp(lambda z: (z, None), lambda _, g: (jnp.clip(g, -0.1, 0.1),))


def mlp(activation=jnp.tanh, size="scalar", **options):
    return eqx.nn.MLP(P, size, 3, 1, activation, key=keys[0], **options)


def apply(params, x):
    return jnp.sum(jnp.tanh(params["w"] @ x))


PARAMS = {"w": jax.random.normal(KEY, (2, P))}


def dropping(**options):
    return eqx.nn.Sequential([mlp(size=3), eqx.nn.Dropout(0.5, **options), eqx.nn.Lambda(jnp.sum)])


def mixed():
    return eqx.tree_at(lambda m: m.layers[0].weight, mlp(), replace_fn=lambda a: a.astype("f4"))


def half():
    return jax.tree.map(lambda a: a.astype("bfloat16") if eqx.is_array(a) else a, mlp())


RIGHT = {
    "shared": (Tied, DATA),
    "BatchNorm with state": (lambda: eqx.nn.inference_mode(normed()), DATA),
    "Dropout in inference mode": (lambda: dropping(inference=True), DATA),
    "tokens": (
        lambda: Words(eqx.nn.Embedding(3, 2, key=keys[0]), eqx.nn.Linear(6, "scalar", key=keys[1])),
        TOKENS,
    ),
    "custom_vjp": (lambda: mlp(backward_only), DATA),
    "custom_vjp of a two-layer net": (
        lambda: nm.init_two_layer(3, P, key=KEY, activation=backward_only),
        DATA,
    ),
    "Partial": (lambda: jax.tree_util.Partial(apply, PARAMS), DATA),
    "numpy weights": (lambda: Product(np.ones(4)), DATA),
    "several outputs": (lambda: mlp(size=2), PAIRS),
    "RNN by scan": (
        lambda: Recurrent(
            eqx.nn.GRUCell(1, 2, key=keys[0]), eqx.nn.Linear(2, "scalar", key=keys[1])
        ),
        DATA,
    ),
    "attention": (
        lambda: Attentive(
            eqx.nn.MultiheadAttention(2, 2, key=keys[0]),
            eqx.nn.Linear(8, "scalar", key=keys[1]),
        ),
        DATA,
    ),
    "convolution": (
        lambda: Image(eqx.nn.Conv2d(1, 2, 2, key=keys[0]), eqx.nn.Linear(2, "scalar", key=keys[1])),
        DATA,
    ),
}
REFUSED = {
    "BatchNorm in training mode": (normed, "BatchNorm in training mode; pass eqx.nn.inference"),
    "Dropout in training mode": (dropping, "Dropout in training mode; pass eqx.nn.inference"),
    "complex": (lambda: Product(jnp.arange(4) * 1j), "must be float32 or float64.*real and imag"),
    "bfloat16": (half, r"float32 or float64, all alike, got bfloat16 \(.*cast the model"),
    "mixed": (mixed, r"all alike, got float32 \(.*float64 \(.*cast the model"),
    "function": (lambda: lambda x: apply(PARAMS, x), r"Partial\(apply, params\).*flax, haiku, tor"),
    "partial": (lambda: functools.partial(apply, PARAMS), r"Partial\(apply, params\).*flax, haiku"),
    "method": (lambda: mlp().__call__, r"Partial\(apply, params\).*flax, haiku, torch.func"),
    "a class": (lambda: eqx.nn.MLP, "must be made, got the class MLP; call it"),
    "no model": (lambda: None, "must be callable on one input, got None of type NoneType"),
    "weights alone": (lambda: PARAMS, "must be callable on one input, got .*dict.*Partial"),
    "complex outputs": (
        lambda: jax.tree_util.Partial(lambda w, x: (w @ x) * 1j, jnp.ones(4)),
        "must return .*real",
    ),
}


def families(*quick):
    """A test of every family, of which all but these run with the slow ones: each compiles for
    seconds."""
    marks = lambda name: [] if name in quick else [pytest.mark.slow]
    return pytest.mark.parametrize("name", [pytest.param(n, marks=marks(n)) for n in RIGHT])


def weights(model):
    """The leaves that are weights: no state."""
    if isinstance(model, nm.TwoLayerNet):
        return model.hidden, lambda w: eqx.tree_at(lambda m: m.hidden, model, w)
    if isinstance(model, Normed):
        pick = lambda m: (m.layer, m.norm.weight, m.norm.bias)
        return pick(model), lambda w: eqx.tree_at(pick, model, w)
    w, rest = eqx.partition(model, eqx.is_inexact_array)
    return w, lambda w: eqx.combine(w, rest)


def by_hand(model, data, steps=3, optimizer=None):
    """(f at each step, H as (nk, nk)), by jax.jacrev and a loop."""
    w, put = weights(model)
    f = lambda w: jax.vmap(put(w))(data.X)
    jacobian = [leaf.reshape(data.y.size, -1) for leaf in jax.tree.leaves(jax.jacrev(f)(w))]
    kernel = sum(J @ J.T for J in jacobian)
    optimizer = optax.sgd(0.02) if optimizer is None else optimizer
    state, seen = optimizer.init(w), [f(w)]
    for _ in range(steps):
        gradient = jax.grad(lambda w: jnp.sum((f(w) - data.y) ** 2) / 2)(w)
        change, state = optimizer.update(gradient, state, w)
        w = optax.apply_updates(w, change)
        seen.append(f(w))
    return jnp.stack(seen), kernel


@families("BatchNorm with state", "custom_vjp")
def test_kernels_are_the_jacobians_products(name):
    make, data = RIGHT[name]
    model = make()
    H = by_hand(model, data)[1]
    size, close = data.y.size, functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12)
    for method in ("auto", "jacobian", "structured", "ntk-vp"):
        K = nm.empirical_ntk(model, data.X, method=method, output="full")
        close(K.reshape(size, size), H)
        assert nm.plan_ntk(model, data.X, method=method).flops > 0
    for block in (None, 3):
        operator = nm.ntk_operator(model, data.X, block_size=block)
        close(operator.mv(data.y).reshape(-1), H @ data.y.reshape(-1))
    values = np.linalg.eigvalsh(H)
    ends = nm.extreme_eigenvalues(operator, key=KEY)
    close(ends.lambda_max, values[-1])
    spectrum = nm.spectrum(H, -data.y.reshape(-1))
    close(np.sort(spectrum.eigenvalues), np.sort(values), atol=1e-9)


@pytest.mark.slow
@families("BatchNorm with state", "tokens")
def test_training_is_the_loop_by_hand(name):
    make, data = RIGHT[name]
    model = make()
    for ours, theirs in (
        (nm.gradient_descent(0.02), optax.sgd(0.02)),
        (optax.adam(1e-2), optax.adam(1e-2)),
    ):
        run = nm.train(model, data, ours, 3, readouts=["f"])
        np.testing.assert_allclose(run.f, by_hand(model, data, 3, theirs)[0], rtol=1e-8)
        np.testing.assert_allclose(jax.vmap(run.model)(data.X), run.f[-1], rtol=1e-8)


@families()
def test_flows_are_the_limit_of_small_steps_and_are_certified_or_refused(name, tmp_path):
    """One flow for each family, by turns: what a family asks of the code is the same for both."""
    make, data = RIGHT[name]
    model = make()
    w, put = weights(model)
    f = lambda w: jax.vmap(put(w))(data.X)
    slope = jax.jit(jax.grad(lambda w: jnp.sum((f(w) - data.y) ** 2) / 2))
    add = lambda w, v, h: jax.tree.map(lambda a, b: a + h * b, w, v)

    @functools.partial(jax.jit, static_argnums=0)
    def runge_kutta(b, h, start):  # the flow with friction b; None: the gradient flow
        def rates(w, v):
            g = jax.tree.map(jnp.negative, slope(w))
            return (g, v) if b is None else (v, add(g, v, -b))

        def step(_, at):
            w, v = at
            slopes = [rates(w, v)]
            for part in (h / 2, h / 2, h):
                slopes.append(rates(add(w, slopes[-1][0], part), add(v, slopes[-1][1], part)))
            for (dw, dv), share in zip(slopes, (1, 2, 2, 1), strict=True):
                w = add(w, dw, share * h / 6)
                v = v if b is None else add(v, dv, share * h / 6)
            return w, v

        return jax.lax.fori_loop(0, 400, step, start)

    tight = nm.Numerics(tol=1e-9)
    flow, b = ((nm.GradientFlow(), None), (nm.HeavyBall(0.5), 0.5))[list(RIGHT).index(name) % 2]
    at, v = runge_kutta(b, 0.0005, (w, jax.tree.map(jnp.zeros_like, w)))
    run = nm.simulate(
        model,
        data,
        flow,
        [0.0, 0.1, 0.2],
        readouts=nm.judge.CERTIFICATE_READOUTS | {"f": "f"},
        config=tight,
    )
    assert run.ok
    np.testing.assert_allclose(run.f[-1], f(at), rtol=1e-5, atol=1e-6)
    speed = jax.tree.map(jnp.negative, slope(at)) if b is None else v
    moved = (f(add(at, speed, 1e-6)) - f(add(at, speed, -1e-6))) / 2e-6
    np.testing.assert_allclose(run.velocity[-1], moved, rtol=1e-4, atol=1e-5)
    assert "certified" in str(nm.certify(run, "initial"))
    kept = nm.simulate_checkpointed(
        model, data, flow, [0.0, 0.2], tmp_path / "run", readouts=["f"], config=tight
    )
    np.testing.assert_allclose(kept.f, run.f[::2], rtol=1e-5, atol=1e-8)


@families()
def test_ensembles_are_the_runs_alone(name):
    make, data = RIGHT[name]
    built = lambda width, key: make()
    options = {"model": built, "readouts": ["f"]}
    alone = nm.simulate(make(), data, nm.GradientFlow(), [0.0, 0.2], readouts=["f"])
    runs = nm.ensemble(data, nm.GradientFlow(), [3], 1, [0.0, 0.2], **options)
    np.testing.assert_allclose(runs.f[0, 0, 0], alone.f, rtol=1e-9)
    runs = nm.train_ensemble(data, nm.gradient_descent(0.02), [3], 1, 3, **options)
    np.testing.assert_allclose(runs.f[0, 0, 0], by_hand(make(), data)[0], rtol=1e-8)


@families()
def test_diagnosis_and_linearisation(name):
    make, data = RIGHT[name]
    model = make()
    found, H = by_hand(model, data, 4)
    report = nm.diagnose(model, data, nm.gradient_descent(0.02), 4, saves=4)
    losses = [np.sum((f - data.y) ** 2) / 2 for f in found]
    np.testing.assert_allclose(report.loss, losses, rtol=1e-8)
    residual, predicted = np.asarray(found[0] - data.y).reshape(-1), []
    for _ in range(5):
        predicted.append(residual @ residual / 2)
        residual = residual - 0.02 * H @ residual
    np.testing.assert_allclose(report.predicted_loss, predicted, rtol=1e-8)
    linear = nm.linearize(model)
    K = nm.empirical_ntk(linear, data.X, output="full").reshape(H.shape)
    np.testing.assert_allclose(K, H, rtol=1e-9, atol=1e-12)


ENTRIES = {
    "empirical_ntk": lambda model: nm.empirical_ntk(model, DATA.X),
    "empirical_ntk, ntk-vp": lambda model: nm.empirical_ntk(model, DATA.X, method="ntk-vp"),
    "plan_ntk": lambda model: nm.plan_ntk(model, DATA.X),
    "ntk_operator": lambda model: nm.ntk_operator(model, DATA.X),
    "simulate": lambda model: nm.simulate(model, DATA, nm.GradientFlow(), [1.0]),
    "train": lambda model: nm.train(model, DATA, optax.adam(1e-3), 1),
    "diagnose": lambda model: nm.diagnose(model, DATA),
    "linearize": lambda model: nm.linearize(model),
    "ensemble": lambda model: nm.ensemble(
        DATA, nm.GradientFlow(), [3], 1, [1.0], model=lambda width, key: model
    ),
    "train_ensemble": lambda model: nm.train_ensemble(
        DATA, nm.gradient_descent(0.1), [3], 1, 1, model=lambda width, key: model
    ),
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_model_of_ours_is_refused_in_a_sentence(name, entry):
    make, message = REFUSED[name]
    if entry.endswith("ensemble"):
        message = rf"{message}|must return an Equinox model with weights"
    if (name, entry) == ("complex outputs", "linearize"):
        pytest.skip("outputs are seen with the inputs")
    if name == "mixed" and entry.endswith("ensemble"):
        pytest.skip("an ensemble's runs are in one precision, cast to it")
    with pytest.raises(nm.InputError, match=message) as error:
        ENTRIES[entry](make())
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_gradient_that_is_not_a_number_is_named():
    model = mlp(lambda z: jnp.where(z > 0, jnp.sqrt(z), 0.0))
    for call in (
        lambda: nm.simulate(model, DATA, nm.GradientFlow(), [1.0]),
        lambda: nm.train(model, DATA, nm.gradient_descent(0.1), 1),
        lambda: nm.diagnose(model, DATA),
        lambda: nm.empirical_ntk(model, DATA.X),
    ):
        with pytest.raises(nm.InputError, match=r"not finite|NaN"):
            call()


def test_a_backward_rule_that_is_no_transpose_is_refused():
    model = mlp(clipped)
    with pytest.raises(nm.InputError, match="not linear in its cotangent"):
        nm.ntk_operator(model, DATA.X).mv(DATA.y)


def test_one_array_in_two_places_is_named():
    model = eqx.nn.MLP(P, P, P, 1, jnp.tanh, key=KEY)
    tied = eqx.tree_at(lambda m: m.layers[1].weight, model, model.layers[0].weight)
    with pytest.warns(RuntimeWarning, match=r"layers\[0\].weight and .layers\[1\].weight"):
        nm.empirical_ntk(tied, DATA.X)

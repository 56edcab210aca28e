"""Exponential steps by Krylov spaces, tied to closed forms and to Runge-Kutta."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntk_momentum as nm
from ntk_momentum.dynamics.preparation import Choices
from ntk_momentum.dynamics.run import Run, begin, proceed
from ntk_momentum.judge import CERTIFICATE_READOUTS
from ntk_momentum.network.kinks import smooth

KEY = jax.random.key(0)
DATA = nm.sphere(8, 4, key=KEY)
CLASSES = nm.Dataset(DATA.X, jnp.eye(3)[jnp.arange(8) % 3])
TS = np.array([0.0, 0.3, 2.0, 10.0])
FLOWS = [
    pytest.param(nm.GradientFlow(), id="gradient flow"),
    pytest.param(nm.HeavyBall(0.7), id="heavy ball", marks=pytest.mark.slow),
    pytest.param(nm.Nesterov(3.0), id="Nesterov", marks=pytest.mark.slow),
]


def perceptron(outputs="scalar", activation=jnp.tanh):
    return eqx.nn.MLP(4, outputs, 16, 2, activation=activation, key=jax.random.key(1))


def residuals(model, data, flow, solver, tol, **options):
    run = nm.simulate(
        model, data, flow, TS, solver=solver, readouts=["residual"],
        config=nm.Numerics(tol=tol), **options,
    )  # fmt: skip
    assert run.ok
    return np.asarray(run.residual).reshape(TS.size, -1), run


def apart(a, b):
    """The largest distance in time, in units of the residual at the start."""
    return np.max(np.linalg.norm(a - b, axis=1)) / np.linalg.norm(b[0])


@pytest.mark.parametrize("flow", FLOWS)
def test_a_linear_model_is_solved_in_closed_form(flow):
    class Linear(eqx.Module):
        w: jax.Array

        def __call__(self, x):
            return self.w @ jnp.concatenate([x, x**2])

    model = Linear(jnp.linspace(-1, 1, 8))
    seen, run = residuals(model, DATA, flow, nm.KrylovExponential(), 1e-8)
    kernel = nm.empirical_ntk(model, DATA.X)
    exact = nm.predict(kernel, seen[0], flow, TS).residual
    assert apart(seen, np.asarray(exact)) < 1e-7
    assert run.accepted < 30  # steps grow from a twentieth of the fastest scale


@pytest.mark.slow
@pytest.mark.parametrize("flow", FLOWS)
def test_networks_follow_runge_kutta_ever_closer(flow):
    plain, _ = residuals(perceptron(), DATA, flow, diffrax.Tsit5(), 1e-9)
    rough, fine = (
        apart(residuals(perceptron(), DATA, flow, nm.KrylovExponential(), tol)[0], plain)
        for tol in (1e-3, 1e-6)
    )
    assert rough < 2e-2 and fine < 2e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "data", "outputs"),
    [(nm.logistic, DATA, "scalar"), (nm.huber(0.3), DATA, "scalar"),
     (nm.softmax_cross_entropy, CLASSES, 3), (nm.squared, CLASSES, 3)],
    ids=["logistic", "Huber", "softmax", "three outputs"],
)  # fmt: skip
def test_other_losses_and_outputs_follow_runge_kutta(loss, data, outputs):
    model, flow = perceptron(outputs), nm.GradientFlow()
    plain, _ = residuals(model, data, flow, diffrax.Tsit5(), 1e-8, loss=loss)
    seen, _ = residuals(model, data, flow, nm.KrylovExponential(), 1e-5, loss=loss)
    assert apart(seen, plain) < 1e-3


@pytest.mark.slow
def test_a_space_too_small_shortens_the_steps_and_not_the_truth():
    flow = nm.GradientFlow()
    plain, _ = residuals(perceptron(), DATA, flow, diffrax.Tsit5(), 1e-8)
    seen, small = residuals(perceptron(), DATA, flow, nm.KrylovExponential(size=2), 1e-5)
    _, large = residuals(perceptron(), DATA, flow, nm.KrylovExponential(), 1e-5)
    assert apart(seen, plain) < 1e-3 and small.accepted > large.accepted


def test_it_has_no_derivatives_and_names_the_solver_that_has():
    def last(scale):
        model = jax.tree.map(lambda x: x * scale if eqx.is_inexact_array(x) else x, perceptron())
        run = nm.simulate(model, DATA, nm.GradientFlow(), [0.0, 2.0], readouts=["loss"])
        return run.loss[-1]

    with pytest.raises(nm.InputError, match=r"take solver=nm\.RungeKutta\(\)"):
        jax.jacfwd(last)(1.0)


@pytest.mark.slow
def test_stiff_networks_take_a_twentieth_of_the_gradients_of_runge_kutta(optimized):
    """A tanh perceptron on eight inputs close together to 2,000 / lambda_max, at 1% in the loss."""
    data, model = nm.Dataset(nm.normalize(1 + 0.3 * DATA.X), DATA.y), perceptron()
    fastest = float(np.linalg.eigvalsh(nm.empirical_ntk(model, data.X))[-1])
    ts = jnp.asarray([0, 1e2, 1e3, 2e3]) / fastest

    def solved(solver, tol):
        config = nm.Numerics(tol=tol, max_steps=10**6)
        chosen = Choices(solver=solver, readouts=["loss"], config=config)
        run = Run.prepare(model, data, nm.GradientFlow(), chosen)
        end, values = proceed(run, begin(run), ts)
        assert end.verdict == 0
        return np.asarray(values["loss"]), end

    exact, end = solved(diffrax.Tsit5(), 1e-4)
    assert exact[-1] > 1e-3 * exact[0]
    seen, krylov = solved(nm.KrylovExponential(), 1e-3)
    np.testing.assert_allclose(seen, exact, rtol=1e-2)
    assert 20 * krylov.memory[2] < 6 * (end.accepted + end.rejected)


SMOOTH = {
    "tanh": jnp.tanh, "gelu": jax.nn.gelu, "softplus": jax.nn.softplus, "silu": jax.nn.silu,
}  # fmt: skip
KINKED = {
    "relu": jax.nn.relu, "leaky relu": jax.nn.leaky_relu, "abs": jnp.abs,
    "choice": lambda z: jnp.where(z > 0, z, 0.0),
}  # fmt: skip


@pytest.mark.parametrize("name", [*SMOOTH, *KINKED])
def test_kinks_are_found_in_the_traced_program(name):
    activation = (SMOOTH | KINKED)[name]
    w, rest = eqx.partition(perceptron(activation=activation), eqx.is_inexact_array)
    assert smooth(lambda w: jax.vmap(eqx.combine(w, rest))(DATA.X), w) == (name in SMOOTH)


def test_a_softmax_of_attention_is_smooth():
    w, rest = eqx.partition(eqx.nn.MultiheadAttention(2, 4, key=KEY), eqx.is_inexact_array)
    seen = jnp.tril(jnp.ones((8, 8), bool))
    assert smooth(lambda w: eqx.combine(w, rest)(DATA.X, DATA.X, DATA.X, mask=seen), w)


def test_the_default_is_krylov_for_smooth_models_without_momentum():
    def chosen(model, flow, readouts=("loss",)):
        return type(Run.prepare(model, DATA, flow, Choices(readouts=readouts)).integrator)

    assert chosen(perceptron(), nm.GradientFlow()) is nm.KrylovExponential
    assert chosen(perceptron(), nm.GradientFlow(), CERTIFICATE_READOUTS) is nm.RungeKutta
    assert chosen(perceptron(), nm.HeavyBall(1.0)) is nm.RungeKutta
    assert chosen(perceptron(activation=jax.nn.relu), nm.GradientFlow()) is nm.RungeKutta
    assert chosen(nm.init_two_layer(16, 4, key=KEY), nm.GradientFlow()) is nm.LazyExponential


def test_it_refuses_what_it_cannot_solve():
    with pytest.raises(nm.InputError, match=r"closed form nm\.predict"):
        nm.simulate_error(
            np.eye(2), [1.0, 1.0], nm.GradientFlow(), [1.0], solver=nm.KrylovExponential()
        )
    with pytest.raises(nm.InputError, match="positive whole number"):
        nm.KrylovExponential(size=0)

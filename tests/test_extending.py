"""The page on extending keeps its word: its blocks run, are short, and agree with closed forms."""

import re
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from jax.interpreters import partial_eval

import ntk_momentum as nm
from ntk_momentum.dynamics.preparation import Choices
from ntk_momentum.dynamics.run import Run

PAGE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
OWN: dict = {"__name__": "extending"}
for block in BLOCKS:
    exec(compile(block, str(PAGE), "exec"), OWN)
Fading, Annealed, SignFlow = OWN["Fading"], OWN["Annealed"], OWN["SignFlow"]
power, Path_, Classical, log_cosh = OWN["power"], OWN["Path"], OWN["Classical"], OWN["log_cosh"]

DATA = nm.sphere(6, 4, key=jax.random.key(1))
NET = nm.init_two_layer(32, 4, key=jax.random.key(0))
KERNEL, START = nm.infinite_ntk(DATA.X), -DATA.y
TIMES = np.array([0.0, 0.5, 2.0, 6.0])


def test_each_takes_under_fifteen_lines():
    assert len(BLOCKS) == 8
    assert max(sum(bool(line.strip()) for line in block.splitlines()) for block in BLOCKS) < 15


def test_a_friction_of_ones_own_is_the_built_in_one():
    flow = Fading(1.5, 2.0)
    rows = {"test_kernel": KERNEL[:2]}
    own = nm.predict(KERNEL, START, flow, TIMES, **rows)
    known = nm.predict(KERNEL, START, nm.Friction(lambda t: 1.5 / (1 + t / 2.0)), TIMES, **rows)
    for name in ("residual", "velocity", "test"):
        np.testing.assert_allclose(getattr(own, name), getattr(known, name), atol=1e-8)
    np.testing.assert_allclose(own.residual[0], START, rtol=1e-12)
    assert flow.name == "fading" and flow.inertial and not flow.has_lyapunov


def test_a_vector_field_of_ones_own_is_predicted_and_runs_by_the_exponential_solver():
    own = nm.predict(KERNEL, START, Annealed(), TIMES)
    known = nm.predict(KERNEL, START, nm.GradientFlow(), np.log1p(TIMES))
    np.testing.assert_allclose(own.residual, known.residual, atol=1e-9)
    options = {"readouts": ["f"], "config": nm.Numerics(tol=1e-6)}
    assert isinstance(Run.prepare(NET, DATA, Annealed()).integrator, nm.LazyExponential)
    run = nm.simulate(NET, DATA, Annealed(), TIMES, **options)
    clock = nm.simulate(NET, DATA, nm.GradientFlow(), np.log1p(TIMES), **options)
    np.testing.assert_allclose(run.f, clock.f, atol=2e-4)


@pytest.mark.slow
def test_a_flow_of_ones_own_is_ensembled_and_checkpointed(tmp_path):
    flows = [Fading(0.5, 2.0), Fading(1.5, 2.0)]
    alone = nm.simulate(NET, DATA, flows[1], TIMES)
    assert alone.ok and "lyapunov" not in alone.readouts
    runs = nm.ensemble(DATA, flows, [32], [0], TIMES, readouts=["f"])
    np.testing.assert_allclose(runs.f[1, 0, 0], alone.f, rtol=1e-9, atol=1e-12)
    kept = nm.simulate_checkpointed(NET, DATA, flows[1], TIMES, tmp_path / "run")
    np.testing.assert_allclose(kept.f, alone.f, rtol=1e-9, atol=1e-12)


def test_what_a_flow_or_an_optimizer_lacks_is_said_by_its_name():
    class Still(nm.AbstractOptimizer):
        def init(self, params):
            return ()

        def update(self, updates, state, params=None):
            return jax.tree.map(jnp.zeros_like, updates), state

    for call, what in (
        (lambda: Fading(1.0, 1.0).discretize(0.1), "Fading has no discrete twin"),
        (
            lambda: nm.simulate(NET, DATA, Annealed(), TIMES, readouts=["lyapunov"]),
            "Annealed has no Lyapunov function",
        ),
        (lambda: Still().flow(), "Still has no flow"),
        (lambda: Classical(3).evaluations(Annealed()), "evaluations of Classical"),
    ):
        with pytest.raises(nm.InputError, match=what):
            call()


def test_a_flow_that_is_not_linear_has_to_say_so():
    class Silent(SignFlow):
        linear = True

    class Decaying(nm.AbstractFlow):
        def vector_field(self, t, state, gradient):
            return state._replace(w=jax.tree.map(lambda g, w: -g - 0.1 * w, gradient, state.w))

    class Clipping(nm.HeavyBall):
        def vector_field(self, t, state, gradient):
            clipped = jax.tree.map(lambda g: jnp.clip(g, -10, 10), gradient)
            return super().vector_field(t, state, clipped)

    for flow in (Silent(1.0), Decaying(), Clipping(1.0)):
        for call in (
            lambda flow=flow: nm.predict(KERNEL, START, flow, TIMES),
            lambda flow=flow: nm.simulate(NET, DATA, flow, TIMES),
            lambda flow=flow: nm.ensemble(DATA, flow, [8], [0], TIMES),
        ):
            with pytest.raises(nm.InputError, match="is not linear in the gradient: it depends"):
                call()
    with pytest.raises(nm.InputError, match="do not evolve alone"):
        nm.predict(KERNEL, START, SignFlow(1.0), TIMES)
    with pytest.raises(nm.InputError, match="SignFlow is not"):
        nm.simulate(NET, DATA, SignFlow(1.0), TIMES, solver=nm.LazyExponential())


@pytest.mark.slow
def test_a_flow_that_is_not_linear_runs_in_the_weights_own_coordinates():
    flow, h = SignFlow(0.1), 0.002
    wide = nm.sphere(3, 40, key=jax.random.key(2))  # where linear flows are solved in their span
    net = nm.init_two_layer(16, 40, key=jax.random.key(0), activation=jnp.tanh)
    run = nm.simulate(net, wide, flow, [0.2], readouts=["f"], config=nm.Numerics(tol=1e-7))
    loss = lambda hidden: nm.squared(
        jax.vmap(eqx.tree_at(lambda n: n.hidden, net, hidden))(wide.X), wide.y
    )
    hidden = net.hidden
    for _ in range(100):  # the midpoint rule, by hand
        half = hidden - h / 2 * jnp.tanh(jax.grad(loss)(hidden) / 0.1)
        hidden = hidden - h * jnp.tanh(jax.grad(loss)(half) / 0.1)
    np.testing.assert_allclose(run.model.hidden, hidden, atol=1e-5)


def test_an_optimizer_of_ones_own_trains_and_is_predicted():
    class Plain(nm.AbstractOptimizer):
        eta: float

        def init(self, params):
            return ()

        def update(self, updates, state, params=None):
            return jax.tree.map(lambda g: -self.eta * g, updates), state

    ours, known = (
        nm.train(NET, DATA, method, 20, save_every=10, readouts=["f"])
        for method in (Plain(0.1), nm.gradient_descent(0.1))
    )
    np.testing.assert_allclose(ours.f, known.f, rtol=1e-12)
    ours, known = (
        nm.predict(KERNEL, START, method, [0, 5, 20])
        for method in (Plain(0.1), nm.gradient_descent(0.1))
    )
    np.testing.assert_allclose(ours.residual, known.residual, rtol=1e-12)


def test_readouts_of_ones_own_are_the_built_in_ones():
    run = nm.simulate(
        NET, DATA, nm.GradientFlow(), TIMES, readouts={"power": power, "pseudo_loss": "pseudo_loss"}
    )
    np.testing.assert_allclose(run.power, 2 * run.pseudo_loss, rtol=1e-10)
    # one sample: the error falls straight to zero, and the path is how far it fell
    one = nm.Dataset([[1.0, 0.0]], [2.0])
    net = nm.TwoLayerNet(jnp.array([[1.0, 0.0]]), jnp.ones(1), scale=1.0)
    run = nm.simulate(net, one, nm.GradientFlow(), TIMES, readouts={"path": Path_()})
    np.testing.assert_allclose(run.path, 1 - np.exp(-TIMES), atol=1e-6)


def test_a_solver_of_ones_own_converges_with_its_order():
    for flow in (nm.GradientFlow(), nm.HeavyBall(0.8)):
        exact = nm.predict(KERNEL, START, flow, TIMES).residual
        errors = [
            float(
                jnp.max(
                    jnp.abs(
                        nm.simulate_error(
                            KERNEL, START, flow, TIMES, solver=Classical(steps), readouts="residual"
                        ).residual
                        - exact
                    )
                )
            )
            for steps in (10, 20)
        ]
        assert 3.7 < np.log2(errors[0] / errors[1]) < 4.4


def test_a_loss_of_ones_own_moves_as_its_closed_form():
    run = nm.simulate_function(
        np.array([[0.7]]),
        [2.0],
        [0.5],
        nm.GradientFlow(),
        TIMES,
        loss=log_cosh,
        readouts="f",
        config=nm.Numerics(tol=1e-9),
    )
    exact = 0.5 + np.arcsinh(np.sinh(1.5) * np.exp(-0.7 * TIMES))
    np.testing.assert_allclose(run.f[:, 0], exact, atol=1e-7)


def products(jaxpr):
    """Multiplications in the matrix products of a jaxpr, each loop's body once."""
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            shape = eqn.invars[0].aval.shape
            inner = int(np.prod([shape[axis] for axis in contracted]))
            total += inner * int(np.prod(eqn.outvars[0].aval.shape))
        for inside in jaxprs_in_params(eqn.params):
            total += products(inside)
    return total


@pytest.mark.slow
@pytest.mark.parametrize("solver", [nm.LazyExponential(), nm.RungeKutta()], ids=["lazy", "tsit5"])
@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("residual", lambda s: s.residual),
        ("loss", lambda s: 0.5 * jnp.sum(s.residual**2)),
        ("velocity", lambda s: s.velocity),
        ("kernel", lambda s: s.kernel),
    ],
)
def test_a_readout_of_ones_own_costs_what_the_built_in_one_costs(solver, name, own):
    """Counted, not timed: n = 20, p = 784, where a run is solved in 20 coordinates for each neuron
    and a look at the weights themselves would cost 784."""
    data = nm.sphere(20, 784, key=jax.random.key(3))
    net = nm.init_two_layer(64, 784, key=jax.random.key(4))
    counts = []
    for readout in (name, own):
        chosen = Choices(solver=solver, readouts={name: readout})
        run = Run.prepare(net, data, nm.HeavyBall(1.0), chosen).within()
        dynamic, static = eqx.partition(run, eqx.is_array)
        solve = lambda d, ts, static=static: eqx.combine(d, static).solve(ts).readouts
        closed = jax.make_jaxpr(solve)(dynamic, jnp.array([0.0, 1.0]))
        # a kernel at the start that nothing reads is the compiler's to drop
        jaxpr, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
        counts.append((products(jaxpr), len(str(jaxpr))))
    (built_in, size), (of_ones_own, own_size) = counts
    assert of_ones_own == built_in > 0
    assert abs(own_size - size) < 0.01 * size

"""The lazy exponential integrator is exact while no neuron crosses, and converges when some do."""

import re
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntk_momentum as nm
from ntk_momentum.dynamics.solver import LazyExponential, RungeKutta, lazy, slopes
from ntk_momentum.kernel import sliding
from ntk_momentum.network import neurons
from ntk_momentum.theory.crossings import heavy_ball_crossings

KEY = jax.random.key(0)
DATA = nm.sphere(12, 6, key=jax.random.key(1))
FLOWS = [nm.GradientFlow(), nm.HeavyBall(0.4), nm.Nesterov(3.0)]
MORE = [
    pytest.param(flow, marks=pytest.mark.slow) for flow in (nm.HeavyBall(5.0), nm.Nesterov(0.8))
]
TIMES = np.array([0.0, 0.5, 2.0, 8.0])


@pytest.mark.slow
@pytest.mark.gpu
@pytest.mark.parametrize("flow", [*FLOWS, *MORE], ids=str)
def test_without_kinks_the_closed_form_is_reached_in_a_handful_of_steps(flow):
    net = nm.init_two_layer(32, 6, key=KEY, activation=lambda z: 1.5 * z)
    run = nm.simulate(
        net, DATA, flow, TIMES, readouts=["residual", "velocity"], solver=LazyExponential()
    )
    exact = nm.predict(nm.empirical_ntk(net, DATA.X), run.residual[0], flow, TIMES)
    np.testing.assert_allclose(run.residual, exact.residual, atol=2e-7)
    np.testing.assert_allclose(run.velocity, exact.velocity, atol=2e-6)
    assert int(run.accepted) < 20


@pytest.mark.parametrize(
    "flow", [*FLOWS[:2], pytest.param(FLOWS[2], marks=pytest.mark.slow), *MORE], ids=str
)
@pytest.mark.parametrize("order", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_lazy_and_runge_kutta_agree_on_a_network_with_kinks(flow, order):
    net = nm.init_two_layer(512, 6, key=KEY)
    lazy = nm.simulate(
        net,
        DATA,
        flow,
        TIMES,
        readouts=["f"],
        solver=LazyExponential(order),
        config=nm.Numerics(tol=1e-5),
    )
    dense = nm.simulate(
        net, DATA, flow, TIMES, readouts=["f"], solver=RungeKutta(), config=nm.Numerics(tol=1e-5)
    )
    assert lazy.ok and dense.ok
    np.testing.assert_allclose(
        lazy.f, dense.f, atol=0.01 * float(jnp.linalg.norm(dense.f[0] - DATA.y))
    )


def operations(jaxpr):
    """The names of all operations of a program, those of its parts included."""
    for operation in jaxpr.eqns:
        yield operation.primitive.name
        for part in jax.tree.leaves(
            list(operation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "jaxpr")
        ):
            inner = getattr(part, "jaxpr", part)
            if hasattr(inner, "eqns"):
                yield from operations(inner)


def test_a_step_has_no_loop_of_run_time_length_and_one_eigendecomposition():
    """In the program as it is handed to any device: the loop over steps, and what starts it."""

    def counted(flow):
        net = nm.init_two_layer(32, 6, key=KEY)

        def run(size):
            scaled = eqx.tree_at(lambda net: net.hidden, net, net.hidden * size)
            solver = LazyExponential()
            return nm.simulate(scaled, DATA, flow, [1.0, 2.0], solver=solver, readouts=["loss"])

        traced = jax.jit(lambda size: run(size).loss).trace(1.0)
        lowered = traced.lower(lowering_platforms=("cuda",)).as_text()
        assert set(re.findall(r"custom_call @(\w+)", lowered)) == {"cusolver_syevd_ffi"}
        names = list(operations(traced.jaxpr))
        return names.count("while"), names.count("eigh")

    for flow in FLOWS:
        assert counted(flow) == (1, 2)
    assert counted(nm.Friction(lambda t: 1 / (1 + t)))[0] > 1  # which has no closed form


@pytest.mark.slow
def test_a_saved_time_right_after_the_start_of_nesterovs_flow_costs_a_few_steps():
    net = nm.init_two_layer(32, 6, key=KEY, activation=lambda z: 1.5 * z)
    ts = np.array([0.0, 1e-7, 2.0])
    run = nm.simulate(net, DATA, FLOWS[2], ts, readouts=["residual"], solver=LazyExponential())
    exact = nm.predict(nm.empirical_ntk(net, DATA.X), run.residual[0], FLOWS[2], ts)
    np.testing.assert_allclose(run.residual, exact.residual, atol=2e-7)
    assert int(run.accepted) < 30 and int(run.rejected) == 0


@pytest.mark.slow
@pytest.mark.parametrize("activation", [jax.nn.leaky_relu, jnp.abs], ids=["leaky", "abs"])
def test_other_kinks_at_zero_are_welcome(activation):
    net = nm.init_two_layer(512, 6, key=KEY, activation=activation)
    runs = [
        nm.simulate(
            net, DATA, FLOWS[0], TIMES, readouts=["f"], solver=s, config=nm.Numerics(tol=1e-5)
        )
        for s in (LazyExponential(), RungeKutta())
    ]
    np.testing.assert_allclose(runs[0].f, runs[1].f, atol=0.02)


@pytest.mark.slow
def test_the_error_falls_with_the_tolerance():
    net = nm.init_two_layer(256, 6, key=KEY)
    losses = [
        nm.simulate(
            net,
            DATA,
            FLOWS[0],
            [20.0],
            readouts=["loss"],
            solver=LazyExponential(),
            config=nm.Numerics(tol=tol),
        ).loss[0]
        for tol in (1e-3, 1e-5, 1e-6)
    ]
    assert abs(losses[1] / losses[2] - 1) < 0.5 * abs(losses[0] / losses[2] - 1)


def test_a_sliding_neuron_stays_on_its_kink():
    # one neuron, two inputs: active on x_2 it is pushed down to w_2 = 0 by Delta_2 > 0, below it is
    # pulled up again by x_1
    net = nm.TwoLayerNet(jnp.array([[1.0, 0.02]]), jnp.ones(1), scale=1.0)
    data = nm.Dataset(np.array([[0.8, 0.6], [0.0, 1.0]]), [2.0, -1.0])
    run = nm.simulate(
        net,
        data,
        nm.GradientFlow(),
        np.linspace(0, 0.5, 6),
        readouts={"w": lambda s: s.model.hidden[0]},
        solver=LazyExponential(),
        config=nm.Numerics(tol=1e-4),
    )
    # on the slide w_2 = 0 and only w_1 moves: w_1' = 0.8 (2 - 0.8 w_1)
    np.testing.assert_allclose(run.w[:, 1], 0, atol=0.021)
    exact = 2.5 - (2.5 - 1.0) * np.exp(-0.64 * np.linspace(0, 0.5, 6))
    np.testing.assert_allclose(run.w[:, 0], exact, atol=0.02)
    assert int(run.accepted) < 200


def test_what_is_not_lazy_is_refused_with_the_reason():
    net = nm.init_two_layer(8, 6, key=KEY)
    lazy = LazyExponential()
    for arguments, message in (
        ({"model": nm.init_two_layer(8, 6, key=KEY, activation=jnp.tanh)}, "kink at zero"),
        ({"model": eqx.nn.MLP(6, "scalar", 4, 1, key=KEY)}, "TwoLayerNet"),
        ({"trainable": "all"}, "only that"),
        ({"loss": lambda f, y: jnp.sum((f - y) ** 4)}, "squared loss"),
    ):
        with pytest.raises(nm.InputError, match=message):
            nm.simulate(
                arguments.pop("model", net), DATA, FLOWS[0], TIMES, solver=lazy, **arguments
            )
    with pytest.raises(nm.InputError, match="order"):
        LazyExponential(order=3)


@pytest.mark.slow
def test_ensembles_take_it_in_float32():
    run = nm.ensemble(
        DATA,
        FLOWS[:2],
        [64],
        2,
        TIMES,
        readouts=["loss"],
        solver=LazyExponential(),
        dtype=jnp.float32,
    )
    assert run.ok and run.loss.dtype == jnp.float32
    alone = nm.simulate(
        nm.init_two_layer(64, 6, key=jax.random.key(1), dtype=jnp.float32),
        DATA,
        FLOWS[1],
        TIMES,
        readouts=["loss"],
        solver=LazyExponential(),
    )
    np.testing.assert_allclose(run.loss[1, 0, 1], alone.loss, rtol=2e-3)


@pytest.mark.slow
def test_heavy_ball_follows_the_exact_solution_from_kink_to_kink():
    net = nm.init_two_layer(128, 6, key=KEY)
    exact = heavy_ball_crossings(net.hidden, net.output, DATA.X, DATA.y, 0.4, 8.0)
    assert exact.moment.size > 50
    errors = []
    for tol in (1e-3, 1e-5):
        run = nm.simulate(
            net,
            DATA,
            nm.HeavyBall(0.4),
            [2.0, 8.0],
            readouts=["residual"],
            config=nm.Numerics(tol=tol),
        )
        at = np.searchsorted(exact.times, 8.0 - 1e-12)
        errors.append(
            float(jnp.linalg.norm(run.residual[1] - exact.residual[at]))
            / float(jnp.linalg.norm(DATA.y))
        )
    assert errors[1] < 2e-3 and errors[1] < errors[0] / 5


@pytest.mark.slow
def test_a_coasting_steps_tolerance_is_a_scale_and_no_bound(monkeypatch):
    """The measurement behind `lazy._LEAD`, two of its seeds at one tolerance."""
    data = nm.sphere(20, 15, key=jax.random.key(0))
    b = float(np.sqrt(2 * np.linalg.eigvalsh(nm.infinite_ntk(data.X))[0]))
    nets = [nm.init_two_layer(512, 15, key=jax.random.key(seed)) for seed in (1, 2)]
    exact = [
        heavy_ball_crossings(net.hidden, net.output, data.X, data.y, b, 10 / b) for net in nets
    ]

    def measured(solver, tol):
        errors, steps = [], 0
        for net, path in zip(nets, exact, strict=True):
            at = [
                np.searchsorted(path.times, t * (1 - 1e-12)) for t in 10 / b * np.arange(1, 5) / 4
            ]
            run = nm.simulate(
                net,
                data,
                nm.HeavyBall(b),
                path.times[at],
                solver=solver,
                readouts=["residual"],
                config=nm.Numerics(tol=tol),
            )
            gaps = np.linalg.norm(run.residual - path.residual[at], axis=1)
            errors.append(gaps.max() / np.linalg.norm(path.residual[0]))
            steps += int(run.accepted) + int(run.rejected)
        return np.exp(np.mean(np.log(errors))), steps

    tsit5, lazy_at_30 = measured(nm.RungeKutta(), 1e-4), measured(nm.LazyExponential(), 1e-4)
    assert 2 < lazy_at_30[0] / tsit5[0] < 8 and lazy_at_30[1] < tsit5[1] / 2
    monkeypatch.setattr(lazy, "_LEAD", 2.0)
    jax.clear_caches()
    lazy_at_2 = measured(nm.LazyExponential(), 1e-4)
    assert lazy_at_2[0] < tsit5[0] and lazy_at_2[1] < tsit5[1]
    jax.clear_caches()


def test_samples_that_hold_a_neuron_together_are_solved_together():
    c = 0.6
    gram = jnp.array([[1, c, 0], [c, 1, 0], [0, 0, 1.0]])
    force, before = (
        -jnp.array([1.0, 0.8, -0.3]),
        jnp.array([[0.02], [-0.01], [0.5]]),
    )  # two held, one active and left alone
    slopes = (before > 0).astype(float)
    drift = jnp.array([[0.7], [0.6], [0.0]])  # what the rest of the world does to z
    end = lambda s: before + drift + gram @ (s * force[:, None])
    average = sliding.average(gram, before, end(slopes), slopes, force, jnp.ones(1), 0.0, 1.0)
    assert average[2, 0] == 1 and 0 < average[0, 0] < 1 and 0 < average[1, 0] < 1
    np.testing.assert_allclose(end(average)[:2], 0, atol=2e-4)  # 0.36 a sweep; one by one, 0.1


@pytest.mark.slow
@pytest.mark.parametrize(("width", "seed"), [(16, 1), (64, 2)])
def test_sliding_neurons_follow_the_limit_of_gradient_descent(width, seed):
    net, eta, end = nm.init_two_layer(width, 6, key=jax.random.key(seed)), 0.002, 20.0
    steps = [round(end / eta), round(2 * end / eta)]
    coarse, fine = (
        nm.train(net, DATA, nm.gradient_descent(end / k), k, save_every=k, readouts=["loss"]).loss[
            -1
        ]
        for k in steps
    )
    run = nm.simulate(net, DATA, FLOWS[0], [end], readouts=["loss"], config=nm.Numerics(tol=1e-6))
    np.testing.assert_allclose(run.loss[0], 2 * fine - coarse, rtol=1e-4)
    assert int(run.accepted) < 2000  # tens of thousands when each sample is solved by itself


def test_on_the_slide_the_loss_falls_by_the_kernel_with_filippovs_slopes():
    net, ts = nm.init_two_layer(64, 6, key=jax.random.key(2)), np.linspace(5, 5.2, 21)
    readouts = [
        "loss",
        "residual",
        "kernel",
        "lambda_min",
        "sliding",
        "sliding_kernel",
        "sliding_lambda_min",
    ]
    run = nm.simulate(net, DATA, FLOWS[0], ts, readouts=readouts, config=nm.Numerics(tol=1e-5))
    assert np.all(run.sliding == run.sliding[0]) and run.sliding[0] > 10  # nothing comes or goes
    falls = np.gradient(run.loss, ts)[1:-1]
    error = lambda kernels: np.abs(
        -np.einsum("ti,tij,tj->t", run.residual, kernels, run.residual)[1:-1] / falls - 1
    ).max()
    assert error(run.sliding_kernel) < 2e-3 < 0.05 < error(run.kernel)
    flicker = lambda values: np.abs(np.diff(values)).sum() / values[0]
    assert flicker(run.sliding_lambda_min) < 2e-3 < 1e-2 < flicker(run.lambda_min)


def test_without_sliding_neurons_the_kernel_is_h():
    net = nm.init_two_layer(32, 6, key=jax.random.key(3))
    run = nm.simulate(
        net,
        DATA,
        FLOWS[0],
        [0.0],
        readouts=["sliding", "sliding_kernel", "sliding_lambda_min", "lambda_min"],
    )
    assert run.sliding[0] == 0 and abs(run.sliding_lambda_min[0] - run.lambda_min[0]) < 1e-12
    np.testing.assert_allclose(run.sliding_kernel[0], nm.empirical_ntk(net, DATA.X), atol=1e-12)
    for flow, change, message in (
        (FLOWS[1], net, "gradient flow only"),
        (FLOWS[0], eqx.nn.MLP(6, "scalar", 8, 1, key=KEY), "TwoLayerNet"),
    ):
        with pytest.raises(nm.InputError, match=message):
            nm.simulate(change, DATA, flow, [1.0], readouts=["sliding"])


@pytest.mark.slow
@pytest.mark.parametrize("order", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_neurons_by_tiles_are_all_neurons_at_once(monkeypatch, order):
    net = nm.init_two_layer(
        303, 6, key=KEY
    )  # falls into no 4 to 7 even parts: the last tile is filled up
    # early, before sliding neurons amplify round-off
    solve = lambda: nm.simulate(
        net,
        DATA,
        FLOWS[0],
        TIMES[:2],
        readouts=["f"],
        solver=LazyExponential(order),
        config=nm.Numerics(tol=1e-4),
    )
    whole = solve()
    monkeypatch.setattr(slopes, "TILE", 12 * 75)
    assert neurons.parts_of(DATA.X, net.hidden, slopes.TILE) == 4
    jax.clear_caches()
    tiled = solve()
    assert (int(tiled.accepted), int(tiled.rejected)) == (int(whole.accepted), int(whole.rejected))
    np.testing.assert_allclose(tiled.f, whole.f, rtol=1e-9)


STREAMED = """
import pathlib
import jax, ntk_momentum as nm

def solve(m):
    data = nm.sphere(100, 64, key=jax.random.key(1))
    net = nm.init_two_layer(m, 64, key=jax.random.key(0))
    loose = nm.Numerics(tol=1e-2)
    run = nm.simulate(net, data, nm.GradientFlow(), [0.1], readouts=["loss"], config=loose)
    assert run.ok
    # resource.ru_maxrss would begin with the peak of the parent process
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])

before = solve(40_000)
print((solve(400_000) - before) / (400_000 * 64 * 4))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peaks of memory are read as Linux counts them")
def test_a_wide_gradient_flow_holds_its_weights_a_few_times_and_no_preactivations():
    copies = float(
        subprocess.run(
            [sys.executable, "-c", STREAMED], check=True, capture_output=True, text=True
        ).stdout
    )
    assert 1 < copies < 5  # with preactivations, 8.9

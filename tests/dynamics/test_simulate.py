"""Weight dynamics, error dynamics and their closed form tell one story."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntk_momentum as nm
from ntk_momentum.dynamics.objective import ErrorProblem
from ntk_momentum.dynamics.readout import Observer
from ntk_momentum.dynamics.solver.runge_kutta import _steps
from ntk_momentum.method import State
from ntk_momentum.method.hessian_damping import HessianDamped

KEY = jax.random.key(0)
DATA = nm.sphere(8, 5, key=jax.random.key(1))
H_INF = nm.infinite_ntk(DATA.X)
LAM0 = float(np.linalg.eigvalsh(H_INF)[0])
slow = pytest.mark.slow
FLOWS = [
    nm.GradientFlow(),
    nm.HeavyBall(float(np.sqrt(2 * LAM0))),
    nm.HeavyBall(4.0),
    nm.Nesterov(3.0),
    nm.Nesterov(0.7),
]
TIMES = np.linspace(0, 6, 13)


def test_error_dynamics_converges_with_the_tolerance():
    flow, D0 = nm.Nesterov(3.0), -DATA.y
    exact = nm.predict(H_INF, D0, flow, [6.0]).residual
    errors = [
        float(
            jnp.max(
                jnp.abs(
                    nm.simulate_error(H_INF, D0, flow, [6.0], config=nm.Numerics(tol=tol)).residual
                    - exact
                )
            )
        )
        for tol in (1e-3, 1e-5, 1e-7)
    ]
    assert errors[0] > 20 * errors[1] > 400 * errors[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "flow",
    [FLOWS[1], *(pytest.param(flow, marks=slow) for flow in (FLOWS[0], *FLOWS[2:4]))],
    ids=str,
)
def test_weight_dynamics_approaches_its_frozen_kernel_as_the_width_grows(flow):
    gaps = []
    for width in (64, 4096):
        net = nm.init_two_layer(width, 5, key=KEY, antisymmetric=True)
        run = nm.simulate(net, DATA, flow, TIMES, readouts=["residual"])
        frozen = nm.predict(nm.empirical_ntk(net, DATA.X), -DATA.y, flow, TIMES)
        assert run.ok
        gaps.append(float(jnp.max(jnp.abs(run.residual - frozen.residual))))
    assert gaps[1] < 0.25 * gaps[0]  # the expected factor is 1/8, slope -1/2
    assert gaps[1] < 0.1


def test_a_linear_model_follows_its_kernel_exactly():
    model = eqx.nn.Linear(5, "scalar", use_bias=False, key=KEY)
    flow = nm.HeavyBall(0.5)
    run = nm.simulate(
        model,
        DATA,
        flow,
        TIMES,
        config=nm.Numerics(tol=1e-8),
        readouts=["residual", "lambda_max", "kernel_drift", "lyapunov"],
    )
    kernel = nm.empirical_ntk(model, DATA.X)
    np.testing.assert_allclose(kernel, DATA.X @ DATA.X.T, atol=1e-13)
    np.testing.assert_allclose(
        run.residual, nm.predict(kernel, run.residual[0], flow, TIMES).residual, atol=1e-6
    )
    np.testing.assert_allclose(run.kernel_drift, 0, atol=1e-12)


def test_default_readouts_are_the_papers_and_nothing_else():
    net = nm.init_two_layer(64, 5, key=KEY)
    run = nm.simulate(net, DATA, FLOWS[1], TIMES)
    names = {
        "f",
        "loss",
        "pseudo_loss",
        "lambda_min",
        "lambda_max",
        "kernel_drift",
        "kernel_distance",
        "displacement",
        "flips",
        "lyapunov",
    }
    assert set(run.readouts) == names
    assert run.f.shape == (13, 8) and all(run[name].shape == (13,) for name in names - {"f"})
    H0 = nm.empirical_ntk(net, DATA.X)
    np.testing.assert_allclose(run.loss, 0.5 * np.sum((run.f - DATA.y[None]) ** 2, 1), rtol=1e-12)
    np.testing.assert_allclose(run.lambda_min[0], np.linalg.eigvalsh(H0)[0], rtol=1e-9)
    np.testing.assert_allclose(run.kernel_distance[0], np.linalg.norm(H0 - H_INF, 2), rtol=1e-9)
    np.testing.assert_allclose(
        run.lyapunov[0], run.pseudo_loss[0] + LAM0 / 2 * run.loss[0], rtol=1e-9
    )  # (A.6) at rest: L^ + alpha^2 L
    moved = np.linalg.norm(run.model.hidden - net.hidden, axis=1)
    np.testing.assert_allclose(run.displacement[-1], moved.max(), rtol=1e-9)
    assert run.displacement[0] == run.kernel_drift[0] == run.flips[0] == 0
    now = np.sum(np.sign(DATA.X @ run.model.hidden.T) != np.sign(DATA.X @ net.hidden.T))
    assert now <= run.flips[-1] <= 8 * 64 and np.all(np.diff(run.flips) >= 0)
    np.testing.assert_array_equal(run.model.output, net.output)


def test_readouts_may_be_named_renamed_computed_or_observed():
    class Steps(Observer):
        def init(self, start):
            return jnp.zeros(())

        def update(self, memory, before, after):
            return memory + (after.t - before.t)

    net = nm.init_two_layer(16, 5, key=KEY)
    run = nm.simulate(
        net,
        DATA,
        FLOWS[3],
        TIMES,
        readouts={"L": "loss", "size": lambda s: jnp.linalg.norm(s.residual), "elapsed": Steps()},
    )
    assert set(run.readouts) == {"L", "size", "elapsed"}
    np.testing.assert_allclose(run.L, run.size**2 / 2, rtol=1e-12)
    np.testing.assert_allclose(
        run.elapsed, TIMES, rtol=1e-12, atol=1e-12
    )  # observers see accepted steps only, and all of them
    with pytest.raises(nm.InputError, match="Did you mean 'loss'"):
        nm.simulate(net, DATA, FLOWS[0], TIMES, readouts=["los"])


def test_mechanical_energy_decays_along_the_heavy_ball():
    net = nm.init_two_layer(64, 5, key=KEY)
    energy = lambda s: s.loss + s.kinetic_energy
    run = nm.simulate(
        net,
        DATA,
        nm.HeavyBall(0.3),
        np.linspace(0, 10, 101),
        readouts={"energy": energy},
        solver=diffrax.Tsit5(),
        config=nm.Numerics(tol=1e-6),
    )
    assert np.all(np.diff(run.energy) < 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("trainable", [pytest.param("output", marks=slow), "all"])
def test_other_layers_train_with_their_own_kernels(trainable):
    net = nm.init_two_layer(512, 5, key=KEY)
    run = nm.simulate(net, DATA, nm.GradientFlow(), np.linspace(0, 2, 5), trainable=trainable)
    frozen = nm.predict(
        nm.empirical_ntk(net, DATA.X, trainable=trainable),
        run.f[0] - DATA.y,
        nm.GradientFlow(),
        np.linspace(0, 2, 5),
    )
    np.testing.assert_allclose(run.loss, frozen.loss, rtol=0.05)
    if trainable == "output":  # linear in its weights
        np.testing.assert_allclose(run.loss, frozen.loss, rtol=1e-3)
    assert run.kernel_distance[0] < 0.5


def test_any_equinox_model_with_several_outputs_and_any_loss_runs():
    mlp = eqx.nn.MLP(5, 2, 16, 2, activation=jnp.tanh, key=KEY)
    data = nm.Dataset(DATA.X, np.stack([DATA.y, -DATA.y], 1))
    huber = lambda f, y: jnp.sum(jnp.sqrt(1 + (f - y) ** 2) - 1)
    run = nm.simulate(
        mlp, data, nm.HeavyBall(1.0), np.linspace(0, 5, 6), loss=huber, where=lambda m: m.layers[1]
    )
    assert run.ok and run.loss[-1] < 0.9 * run.loss[0]
    assert run.f.shape == (6, 8, 2) and run.lambda_min.shape == (6,)
    np.testing.assert_array_equal(run.model.layers[0].weight, mlp.layers[0].weight)


def test_a_failed_solve_says_so_and_leaves_no_smooth_line():
    net = nm.init_two_layer(64, 5, key=KEY)
    with pytest.warns(RuntimeWarning, match="maximum number of steps"):
        run = nm.simulate(
            net,
            DATA,
            nm.GradientFlow(),
            TIMES,
            solver=diffrax.Tsit5(),
            config=nm.Numerics(max_steps=2),
        )
    assert not run.ok and "maximum number of steps" in run.reason
    assert np.all(np.isnan(run.loss[-1])) and np.isnan(run.flips[-1])


def test_save_times_do_not_change_the_solution_beyond_tolerance():
    net = nm.init_two_layer(64, 5, key=KEY)
    coarse = nm.simulate(
        net, DATA, FLOWS[1], [6.0], readouts=["loss"], config=nm.Numerics(tol=1e-6)
    )
    fine = nm.simulate(
        net, DATA, FLOWS[1], np.linspace(0, 6, 61), readouts=["loss"], config=nm.Numerics(tol=1e-6)
    )
    np.testing.assert_allclose(coarse.loss[-1], fine.loss[-1], rtol=1e-3)


@pytest.mark.slow
def test_solvers_of_diffrax_fill_the_slot():
    net = nm.init_two_layer(256, 5, key=KEY)
    first = nm.simulate(net, DATA, FLOWS[3], TIMES, readouts=["loss"], solver=diffrax.Tsit5())
    other = nm.simulate(net, DATA, FLOWS[3], TIMES, readouts=["loss"], solver=diffrax.Bosh3())
    np.testing.assert_allclose(first.loss, other.loss, atol=2e-3 * float(first.loss[0]))
    for bad in (diffrax.Euler(), diffrax.Kvaerno3()):
        with pytest.raises(nm.InputError, match="explicit diffrax solver"):
            nm.simulate(net, DATA, FLOWS[3], TIMES, solver=bad)


@slow
def test_simulate_runs_in_the_models_precision():
    nets = [nm.init_two_layer(32, 5, key=KEY, dtype=dtype) for dtype in (jnp.float32, jnp.float64)]
    nets[1] = jax.tree.map(
        lambda leaf: leaf.astype(jnp.float64) if eqx.is_array(leaf) else leaf, nets[0]
    )
    single, double = (nm.simulate(net, DATA, FLOWS[1], TIMES) for net in nets)
    assert single.loss.dtype == single.model.hidden.dtype == jnp.float32
    np.testing.assert_allclose(single.loss, double.loss, rtol=1e-2)


@pytest.mark.slow
def test_a_batch_of_frictions_equals_each_alone():
    net = nm.init_two_layer(32, 5, key=KEY)
    loss = lambda b: nm.simulate(net, DATA, nm.HeavyBall(b), TIMES, readouts=["loss"]).loss
    bs = jnp.array([0.1, 1.0])
    batched = eqx.filter_jit(jax.vmap(loss))(bs)
    np.testing.assert_allclose(batched[1], loss(bs[1]), rtol=1e-9)


@pytest.mark.parametrize(
    ("ts", "message"),
    [
        ([0.0, 1.0, 1.0], "increas"),
        ([-1.0, 1.0], "negative"),
        ([0.0, np.nan], "finite"),
        ([], "empty"),
    ],
    ids=str,
)
def test_bad_times_are_refused(ts, message):
    with pytest.raises(nm.InputError, match=message):
        nm.simulate(nm.init_two_layer(8, 5, key=KEY), DATA, nm.GradientFlow(), np.asarray(ts))


def test_mismatched_model_data_and_flow_are_refused():
    net = nm.init_two_layer(8, 5, key=KEY)
    with pytest.raises(nm.InputError, match="inputs of shape"):
        nm.simulate(net, nm.sphere(4, 3, key=KEY), nm.GradientFlow(), TIMES)
    with pytest.raises(nm.InputError, match="must have one shape"):
        nm.simulate(net, nm.Dataset(DATA.X, np.ones((8, 2))), nm.GradientFlow(), TIMES)
    with pytest.raises(nm.InputError, match="must be a flow"):
        nm.simulate(net, DATA, nm.heavy_ball(0.1, 0.5), TIMES)
    with pytest.raises(nm.InputError, match="Dataset"):
        nm.simulate(net, (DATA.X, DATA.y), nm.GradientFlow(), TIMES)
    with pytest.raises(nm.InputError, match="TwoLayerNet"):
        nm.simulate(
            eqx.nn.MLP(5, "scalar", 4, 1, key=KEY),
            DATA,
            nm.GradientFlow(),
            TIMES,
            readouts=["flips"],
        )


def test_refinement_gives_error_bars_that_bound_the_error():
    net = nm.init_two_layer(128, 5, key=KEY)
    run = nm.simulate(net, DATA, FLOWS[1], TIMES, readouts=["f"], refine=True)
    reference = nm.simulate(
        net, DATA, FLOWS[1], TIMES, readouts=["f"], config=nm.Numerics(tol=1e-7)
    )
    assert run.errors["f"].shape == run.f.shape
    assert float(jnp.max(jnp.abs(run.f - reference.f))) < 2 * float(jnp.max(run.errors["f"])) + 1e-6
    assert "f_error" in run.to_xarray()


@slow
def test_an_error_asked_for_is_reached_or_refused():
    net = nm.init_two_layer(64, 5, key=KEY)
    run = nm.simulate(net, DATA, FLOWS[1], TIMES, readouts=["f"], refine=0.01)
    assert run.ok and np.all(run.errors["loss"] <= 0.01 * run.loss)
    with pytest.warns(RuntimeWarning, match="not reached"):
        run = nm.simulate(net, DATA, FLOWS[1], TIMES, readouts=["f"], refine=1e-13)
    assert not run.ok and "refine" in run.reason


def test_impulses_close_the_velocity_identity_where_the_kernel_is_constant():
    # one sample and one neuron thrown across its kink: before it f = w moves freely under b, behind
    # it f = 0 at once
    net = nm.TwoLayerNet(jnp.array([[0.5]]), jnp.ones(1), scale=1.0)
    data = nm.Dataset(np.ones((1, 1)), [-4.0])
    run = nm.simulate(
        net,
        data,
        nm.HeavyBall(0.2),
        [0.2, 1.0],
        readouts=["impulses", "velocity", "f"],
        config=nm.Numerics(tol=1e-9),
    )
    w = lambda t: nm.HeavyBall(0.2).mode(jnp.asarray(1.0), t)[0] * 4.5 - 4.0
    ts = jnp.linspace(0.2, 1.0, 100001)
    crossing = ts[jnp.argmin(jnp.abs(w(ts)))]
    speed = abs(float(nm.HeavyBall(0.2).mode(jnp.asarray(1.0), crossing)[1] * 4.5))
    np.testing.assert_allclose(run.impulses[:, 0], [0.0, speed], rtol=1e-2)
    assert run.f[1, 0] == 0 and run.velocity[1, 0] == 0


def test_impulses_are_refused_where_the_momentum_is_not_the_velocity():
    net = nm.init_two_layer(8, 5, key=KEY)
    with pytest.raises(nm.InputError, match="HessianDamped"):
        nm.simulate(net, DATA, HessianDamped(0.5, 0.1), TIMES, readouts=["impulses"])


def test_impulses_are_refused_where_no_kink_at_zero_makes_them():
    smooth = nm.init_two_layer(8, 5, key=KEY, activation=jnp.tanh)
    with pytest.raises(nm.InputError, match="relu"):
        nm.simulate(smooth, DATA, FLOWS[1], TIMES, readouts=["impulses"])
    with pytest.raises(nm.InputError, match="hidden layer alone"):
        nm.simulate(
            nm.init_two_layer(8, 5, key=KEY),
            DATA,
            FLOWS[1],
            TIMES,
            readouts=["impulses"],
            trainable="all",
        )


@slow
def test_the_integrated_identity_closes_with_the_impulses_and_not_without():
    """Delta' - Delta'(0) + b (Delta - Delta(0)) + int H Delta = sum of impulses."""
    net, flow = nm.init_two_layer(64, 5, key=KEY), FLOWS[1]
    forced = lambda s: s.kernel @ s.residual
    readouts = {"residual": "residual", "velocity": "velocity", "force": forced, "J": "impulses"}
    run = nm.simulate(net, DATA, flow, np.linspace(0, 6, 301), readouts=readouts)
    work = np.concatenate(
        [
            np.zeros((1, 8)),
            np.cumsum((run.force[1:] + run.force[:-1]) / 2 * (run.ts[1] - run.ts[0]), axis=0),
        ]
    )
    left = run.velocity - run.velocity[:1] + flow.b * (run.residual - run.residual[:1]) + work
    assert float(jnp.max(jnp.abs(left))) > 0.1
    assert float(jnp.max(jnp.abs(left - run.J))) < 0.01 * float(jnp.max(jnp.abs(left)))


@slow
def test_kernel_rises_grow_with_kinks_and_vanish_without():
    runs = [
        nm.simulate(
            nm.init_two_layer(64, 5, key=KEY, activation=a),
            DATA,
            FLOWS[1],
            TIMES,
            readouts=["kernel_rises"],
        ).kernel_rises
        for a in (jax.nn.relu, lambda z: z)
    ]
    assert np.all(np.diff(runs[0]) >= 0) and runs[0][-1] > 1e-3
    np.testing.assert_allclose(runs[1], 0, atol=1e-12)


@slow
def test_total_variation_of_log_h_vanishes_for_linear_models_and_grows_with_kinks():
    runs = [
        nm.simulate(
            nm.init_two_layer(256, 5, key=KEY, activation=activation),
            DATA,
            FLOWS[1],
            TIMES,
            readouts=["kernel_variation"],
        )
        for activation in (jax.nn.relu, jnp.abs)
    ]
    assert all(
        np.all(np.diff(run.kernel_variation) >= 0) and run.kernel_variation[-1] > 0 for run in runs
    )
    small = nm.Dataset(DATA.X[:4], DATA.y[:4])
    run = nm.simulate(
        nm.init_two_layer(256, 5, key=KEY, activation=lambda z: z),
        small,
        FLOWS[1],
        TIMES,
        readouts=["kernel_variation"],
    )
    np.testing.assert_allclose(run.kernel_variation, 0, atol=1e-9)


@pytest.mark.parametrize(
    "solver",
    [None, pytest.param(diffrax.Tsit5(), marks=pytest.mark.slow)],
    ids=["lazy", "tsit5"],
)
@pytest.mark.parametrize("name", ["gradient_flow", "heavy_ball"])
def test_a_run_that_has_converged_stays_so(name, solver):
    data = nm.sphere(4, 6, key=KEY)
    lam0 = float(np.linalg.eigvalsh(nm.infinite_ntk(data.X))[0])
    momentum = name == "heavy_ball"
    flow = nm.HeavyBall(2 * lam0**0.5) if momentum else nm.GradientFlow()
    end = 60 / (lam0**0.5 if momentum else lam0)
    run = nm.simulate(
        nm.init_two_layer(256, 6, key=KEY),
        data,
        flow,
        np.linspace(0, end, 6),
        solver=solver,
        readouts=["loss"],
        config=nm.Numerics(max_steps=20_000),
    )
    assert run.ok and float(run.loss[-1]) < 1e-18


def test_a_solver_with_a_step_of_its_own_takes_it():
    taken = []

    class Mine(diffrax.Tsit5):
        def step(self, *args, **how):
            taken.append(True)
            return super().step(*args, **how)

    run = nm.simulate_error(
        np.eye(1), np.ones(1), nm.GradientFlow(), [0.5], solver=nm.RungeKutta(Mine())
    )
    assert taken and abs(float(run.residual[0, 0]) - np.exp(-0.5)) < 1e-4


def test_a_step_by_sums_of_gradients_is_that_by_sums_of_slopes():
    problem, start = ErrorProblem(H_INF), DATA.y
    cases = [  # Heun's last stage is neither the end nor the start of the next step
        (diffrax.Tsit5(), nm.GradientFlow(), None),
        (diffrax.Tsit5(), HessianDamped(0.5, 0.1), start**2),
        (diffrax.Heun(), nm.Nesterov(3.0), start**2),
    ]

    def taken(first, step, before):
        t, h = jnp.asarray(0.4), jnp.asarray(0.9)
        return jax.tree.leaves(step(t, t + h, before, first(t, h, before))[:2])

    @jax.jit
    def steps(w):
        states = [(method, flow, State(w, v)) for method, flow, v in cases]
        return [
            [taken(*_steps(method, problem, flow, plain)[:2], at) for method, flow, at in states]
            for plain in (False, True)
        ]

    for ours, theirs in zip(*steps(start), strict=True):
        # weights up to 13 lose a digit to round-off
        np.testing.assert_allclose(jnp.stack(ours), jnp.stack(theirs), rtol=0, atol=1e-12)

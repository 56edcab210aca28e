"""A run in an ensemble is the run alone."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ntk_momentum as nm
from ntk_momentum.dynamics.solver import RungeKutta
from ntk_momentum.ensembles import lanes, program
from ntk_momentum.ensembles.ensemble import run_plan
from ntk_momentum.ensembles.packing import buckets
from ntk_momentum.ensembles.planning import plan
from ntk_momentum.network.model import outputs

DATA = nm.sphere(6, 4, key=jax.random.key(1))
FLOWS = [nm.GradientFlow(), nm.HeavyBall(0.3), nm.HeavyBall(1.5)]
TS = np.linspace(0, 4, 5)


@pytest.fixture(scope="module")
def many():
    return nm.ensemble(DATA, FLOWS, [16, 32], 3, TS)


@pytest.mark.slow
@pytest.mark.gpu
def test_every_run_equals_the_same_run_alone(many):
    for i, j, k in ((0, 0, 0), (1, 1, 2), (2, 0, 1)):
        net = nm.init_two_layer([16, 32][j], 4, key=jax.random.key(k))
        alone = nm.simulate(net, DATA, FLOWS[i], TS)
        together = (many.accepted[i, j, k], many.rejected[i, j, k])
        steps = np.array([(alone.accepted, alone.rejected), together])
        if jax.default_backend() != "cpu" and i == 0:
            # Devices batch a product by another program, and where neurons slide a gradient flow
            # answers to round-off: on a CPU weights moved by 1e-15 take 93 to 100 steps.
            np.testing.assert_allclose(steps.sum(axis=1), steps[0].sum(), rtol=0.15)
            np.testing.assert_allclose(many.f[i, j, k], alone.f, rtol=1e-4, atol=1e-5)
            continue
        np.testing.assert_array_equal(*steps)
        for name in alone.readouts:
            np.testing.assert_allclose(many[name][i, j, k], alone[name], rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("refine", [True, 0.02])
def test_error_bars_of_an_ensemble_are_those_of_each_run_alone(refine):
    flow, ts = FLOWS[1], [0.7, 1.5]
    many = nm.ensemble(DATA, flow, [16], 2, ts, readouts=["f"], refine=refine)
    alone = nm.simulate(
        nm.init_two_layer(16, 4, key=jax.random.key(1)), DATA, flow, ts, readouts=["f"], refine=True
    )
    assert many.ok and many.ts.shape == (1, 2)
    if refine is True:
        np.testing.assert_allclose(many.f[0, 0, 1], alone.f, rtol=1e-10)
        np.testing.assert_allclose(many.errors["f"][0, 0, 1], alone.errors["f"], atol=1e-12)
    else:
        assert np.all(many.errors["loss"] <= refine * many.loss)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "shape"), [(None, (48, 5)), (RungeKutta(), (48, 6))], ids=["span", "preactivations"]
)
def test_high_dimensional_inputs_take_the_coordinates_of_a_run_alone(solver, shape):
    data, flow = nm.sphere(6, 40, key=jax.random.key(2)), nm.HeavyBall(0.3)
    if solver is None:
        data = nm.Dataset(
            data.X.at[5].set((data.X[0] + data.X[1]) / jnp.linalg.norm(data.X[0] + data.X[1])),
            data.y,
        )
    made = plan(data, flow, [41, 48], 2, TS, readouts=["loss"], solver=solver)
    (unit,) = made.units
    batch = made.batch(unit)
    rows = tuple(row[0] for row in program.told_apart_by(batch))
    first = lambda batch, row: program.prepared(batch, row, None)[0].w.hidden
    weights = eqx.filter_eval_shape(first, batch, rows)
    assert weights.shape == shape
    many = nm.ensemble(data, flow, [41, 48], 2, TS, readouts=["loss"], solver=solver)
    for j, width in enumerate((41, 48)):
        alone = nm.simulate(
            nm.init_two_layer(width, 40, key=jax.random.key(1)),
            data,
            flow,
            TS,
            readouts=["loss"],
            solver=solver,
        )
        assert (int(alone.accepted), int(alone.rejected)) == (
            int(many.accepted[0, j, 1]),
            int(many.rejected[0, j, 1]),
        )
        np.testing.assert_allclose(many.loss[0, j, 1], alone.loss, rtol=1e-10)


@pytest.mark.slow
def test_padding_changes_neither_the_draw_nor_the_steps_nor_the_numbers():
    run = nm.ensemble(DATA, FLOWS[1], [25, 30, 32], 2, TS)
    (unit,) = plan(DATA, FLOWS[1], [25, 30, 32], 2, TS).units
    assert unit.padded == 32
    for j, width in enumerate((25, 30)):
        alone = nm.simulate(nm.init_two_layer(width, 4, key=jax.random.key(1)), DATA, FLOWS[1], TS)
        assert (int(alone.accepted), int(alone.rejected)) == (
            int(run.accepted[0, j, 1]),
            int(run.rejected[0, j, 1]),
        )
        for name in alone.readouts:
            np.testing.assert_allclose(run[name][0, j, 1], alone[name], rtol=1e-10, atol=1e-12)


def test_lock_step_changes_no_run(many):
    run = nm.ensemble(DATA, FLOWS[1], [16], 3, TS, strategy="vmap", readouts=["loss"])
    np.testing.assert_array_equal(run.accepted[0], many.accepted[1, :1])
    np.testing.assert_allclose(run.loss[0], many.loss[1, :1], rtol=1e-10)


def test_in_lock_step_the_neurons_of_all_runs_are_packed_into_one_product():
    W, X = jnp.ones((3, 16, 4)), DATA.X
    (product,) = [
        e
        for e in jax.make_jaxpr(jax.vmap(lambda w: X @ w.T))(W).eqns
        if e.primitive.name == "dot_general"
    ]
    assert product.params["dimension_numbers"][1] == ((), ())  # no batch dimension


def test_several_data_sets_are_an_axis(many):
    other = nm.sphere(6, 4, key=jax.random.key(5))
    run = nm.ensemble([DATA, other], FLOWS[:1], [16], 2, TS, readouts=["loss", "f"])
    assert dict(run.to_xarray().sizes) == {
        "data": 2,
        "flow": 1,
        "width": 1,
        "seed": 2,
        "step": 5,
        "sample": 6,
    }
    np.testing.assert_allclose(run.loss[0, 0], many.loss[0, :1, :2], rtol=1e-12)
    alone = nm.simulate(
        nm.init_two_layer(16, 4, key=jax.random.key(1)), other, FLOWS[0], TS, readouts=["loss"]
    )
    np.testing.assert_allclose(run.loss[1, 0, 0, 1], alone.loss, rtol=1e-10)
    with pytest.raises(nm.InputError, match="same shapes"):
        nm.ensemble([DATA, nm.sphere(5, 4, key=jax.random.key(5))], FLOWS[:1], [16], 2, TS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "window", "limit"), [(None, 1, 100), (RungeKutta(), 8, 24)], ids=["lazy", "tsit5"]
)
def test_packed_lanes_take_the_steps_of_each_run_alone_and_stop_where_it_does(
    solver, window, limit, monkeypatch
):
    monkeypatch.setattr(lanes, "WINDOW", window)
    sizes, together = [], lanes._together
    monkeypatch.setattr(
        lanes,
        "_together",
        lambda batch, rows, *rest: sizes.append(rows[0].size) or together(batch, rows, *rest),
    )
    how = {"readouts": ["f"], "solver": solver, "config": nm.Numerics(1e-5, limit)}
    runs = [
        nm.ensemble(DATA, FLOWS[2], [16], 5, TS[:4], strategy=strategy, **how)
        for strategy in ("compacted", "map")
    ]
    assert sizes[0] == 5 and sizes[1:] == [1]
    for name in ("accepted", "rejected"):
        np.testing.assert_array_equal(getattr(runs[0], name), getattr(runs[1], name))
    failed = np.asarray(runs[0].verdict) > 0
    np.testing.assert_array_equal(failed, np.asarray(runs[1].verdict) > 0)
    assert (solver is None) == (not failed.any())  # one needs more steps than it may take
    np.testing.assert_allclose(runs[0].f, runs[1].f, rtol=1e-10)


@pytest.mark.slow
def test_small_nets_share_a_program_whatever_their_widths_and_units(caplog):
    with jax.log_compiles(), caplog.at_level("WARNING"):
        run = nm.ensemble(DATA, FLOWS[1:], [11, 12, 24], 3, TS[:3], readouts=["f"], unit_runs=4)
        other = [type(FLOWS[1])(0.7), *FLOWS[2:]]
        nm.ensemble(DATA, other, [10, 12, 24], [7, 8, 9], TS[:3], readouts=["f"], unit_runs=4)
    programs = [
        record
        for record in caplog.messages
        if record.startswith("Finished XLA compilation of jit(ensemble_program)")
    ]
    assert len(programs) == 1 and run.ok


@pytest.mark.slow
def test_programs_are_compiled_ahead_of_their_units_and_once(caplog, monkeypatch):
    made = plan(DATA, FLOWS, [16], 4, TS[:3], readouts=["f"], unit_runs=3)
    assert len(made.units) > 2
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    jax.config.update("jax_log_compiles", True)  # in all threads
    try:
        with caplog.at_level("WARNING"):
            ahead = run_plan(made)
    finally:
        jax.config.update("jax_log_compiles", False)
    begins = "Finished XLA compilation of jit(ensemble_program)"
    assert sum(line.startswith(begins) for line in caplog.messages) == 2  # two kinds of flows
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    np.testing.assert_array_equal(ahead.f, run_plan(made).f)


@pytest.mark.parametrize("antisymmetric", [False, True])
def test_a_program_that_does_not_know_a_width_draws_the_network_of_it(antisymmetric):
    recipe = program.Recipe(antisymmetric=antisymmetric)
    for width in (10, 16):
        net = recipe.net(width, 3, jax.random.key(5))
        drawn = program._drawn(recipe, 16, 3, jnp.asarray(width), jax.random.key(5))
        for ours, theirs in zip(drawn, (net.hidden, net.output), strict=True):
            np.testing.assert_array_equal(ours[:width], theirs)
            assert not ours[width:].any()


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=12, unique=True))
def test_padding_wastes_less_than_a_quarter(widths):
    found = buckets(widths)
    assert sorted(j for bucket in found for j in bucket) == list(range(len(widths)))
    for bucket in found:
        widest = max(widths[j] for j in bucket)
        assert all((widest - widths[j]) / widest < 0.25 for j in bucket)
    spare = max(widths) / 2
    for bucket in buckets(widths, spare):  # unless there is little to waste
        padding = [max(widths[i] for i in bucket) - widths[j] for j in bucket]
        assert sum(padding) <= spare or max(padding) < 0.25 * max(widths[j] for j in bucket)
    powers = buckets(widths, doubling=True)
    assert sorted(j for bucket in powers for j in bucket) == list(range(len(widths)))
    assert len(powers) == len({(width - 1).bit_length() for width in widths})


def test_seeds_beyond_32_bits_draw_the_same_networks():
    seeds = [2**40 + 3, 2**32 - 1]
    run = nm.ensemble(DATA, FLOWS[0], [16], seeds, TS[:1], readouts=["f"])
    for k, seed in enumerate(seeds):
        np.testing.assert_allclose(
            run.f[0, 0, k, 0],
            outputs(nm.init_two_layer(16, 4, key=jax.random.key(seed)), DATA.X),
            rtol=1e-12,
        )


def test_a_unit_says_in_plain_values_what_it_is():
    made = plan(DATA, FLOWS, [16, 32], 3, TS, unit_runs=2)
    assert (
        len({json.dumps(unit.coordinates, sort_keys=True) for unit in made.units})
        == len(made.units)
        == 9
    )
    assert {len(unit.flows) * len(unit.widths) * len(unit.seeds) for unit in made.units} <= {1, 2}
    json.dumps(made.settings)


def test_ensembles_are_labelled(many):
    table = many.to_xarray()
    assert dict(table.sizes) == {"flow": 3, "width": 2, "seed": 3, "step": 5, "sample": 6}
    run = table.sel(flow="heavy_ball b=0.3", width=32, seed=2)
    np.testing.assert_allclose(run.loss, many.loss[1, 1, 2])
    np.testing.assert_allclose(run.time, TS)
    assert many.ok and many.failures() == []


@pytest.mark.slow
def test_each_flow_may_have_times_of_its_own(many):
    rows = np.stack([TS, 2 * TS, 3 * TS])
    run = nm.ensemble(DATA, FLOWS, 16, [1], rows, readouts=["loss"])
    np.testing.assert_allclose(run.loss[0, 0, 0], many.loss[0, 0, 1], rtol=1e-10)
    alone = nm.simulate(
        nm.init_two_layer(16, 4, key=jax.random.key(1)), DATA, FLOWS[2], 3 * TS, readouts=["loss"]
    )
    np.testing.assert_allclose(run.loss[2, 0, 0], alone.loss, rtol=1e-10)


def test_failed_runs_keep_their_place():
    run = nm.ensemble(
        DATA,
        FLOWS[:2],
        [16],
        2,
        TS,
        config=nm.Numerics(max_steps=1),
        readouts=["loss"],
        solver=RungeKutta(),
    )
    assert not run.ok and len(run.failures()) == 4
    assert run.failures()[0].startswith(
        "gradient_flow, width 16, seed 0: the maximum number of steps"
    )


def test_progress_is_reported_per_unit():
    seen = []
    nm.ensemble(
        DATA,
        FLOWS,
        [16],
        1,
        TS,
        readouts=["loss"],
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flows": []}, "flows must hold at least one"),
        ({"widths": []}, "widths must hold at least one"),
        ({"seeds": 0}, "seeds must be a positive"),
        ({"seeds": [1, 1]}, "twice"),
        ({"widths": [0]}, "width"),
        ({"ts": [1.0, 0.5]}, "increas"),
        ({"ts": np.ones((2, 3))}, "rows"),
        ({"flows": ["heavy_ball"]}, "flows must be a flow"),
    ],
    ids=str,
)
def test_bad_ensembles_are_refused(change, message):
    arguments = {"flows": FLOWS, "widths": [16], "seeds": 1, "ts": TS} | change
    with pytest.raises(nm.InputError, match=message):
        nm.ensemble(DATA, **arguments)


@pytest.mark.slow
def test_a_strategy_may_be_measured_and_is_kept_in_the_plan():
    made = plan(DATA, FLOWS[0], [16], 2, TS, readouts=["loss"], strategy="measure")
    assert made.strategy in ("map", "vmap") and {unit.strategy for unit in made.units} == {
        made.strategy
    } == {made.settings["strategy"]}

"""A run in an ensemble is the run alone."""

import jax
import numpy as np
import pytest

import ntk_momentum as nm
from ntk_momentum.solver import RungeKutta

DATA = nm.sphere(6, 4, key=jax.random.key(1))
FLOWS = [nm.GradientFlow(), nm.HeavyBall(0.3), nm.HeavyBall(1.5)]
TS = np.linspace(0, 4, 5)
MANY = nm.ensemble(DATA, FLOWS, [16, 32], 3, TS)


@pytest.mark.gpu
def test_every_run_equals_the_same_run_alone():
    for i, j, k in ((0, 0, 0), (1, 1, 2), (2, 0, 1)):
        net = nm.init_two_layer([16, 32][j], 4, key=jax.random.key(k))
        alone = nm.simulate(net, DATA, FLOWS[i], TS)
        assert (int(alone.accepted), int(alone.rejected)) == (int(MANY.accepted[i, j, k]), int(MANY.rejected[i, j, k]))
        for name in alone.readouts:
            np.testing.assert_allclose(MANY[name][i, j, k], alone[name], rtol=1e-10, atol=1e-12)


def test_ensembles_are_labelled():
    table = MANY.to_xarray()
    assert dict(table.sizes) == {"flow": 3, "width": 2, "seed": 3, "step": 5, "sample": 6}
    run = table.sel(flow="heavy_ball b=0.3", width=32, seed=2)
    np.testing.assert_allclose(run.loss, MANY.loss[1, 1, 2])
    np.testing.assert_allclose(run.time, TS)
    assert MANY.ok and MANY.failures() == []


def test_each_flow_may_have_times_of_its_own():
    rows = np.stack([TS, 2 * TS, 3 * TS])
    run = nm.ensemble(DATA, FLOWS, 16, [1], rows, readouts=["loss"])
    np.testing.assert_allclose(run.loss[0, 0, 0], MANY.loss[0, 0, 1], rtol=1e-10)
    alone = nm.simulate(nm.init_two_layer(16, 4, key=jax.random.key(1)), DATA, FLOWS[2], 3 * TS, readouts=["loss"])
    np.testing.assert_allclose(run.loss[2, 0, 0], alone.loss, rtol=1e-10)


def test_failed_runs_keep_their_place():
    run = nm.ensemble(DATA, FLOWS[:2], [16], 2, TS, config=nm.Numerics(max_steps=1), readouts=["loss"], solver=RungeKutta())
    assert not run.ok and len(run.failures()) == 4
    assert run.failures()[0].startswith("gradient_flow, width 16, seed 0: the maximum number of steps")


def test_progress_is_reported_per_unit():
    seen = []
    nm.ensemble(DATA, FLOWS, [16], 1, TS, readouts=["loss"], progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flows": []}, "flows is empty"),
        ({"widths": []}, "widths is empty"),
        ({"seeds": 0}, "seeds is empty"),
        ({"seeds": [1, 1]}, "twice"),
        ({"widths": [0]}, "width"),
        ({"ts": [1.0, 0.5]}, "increas"),
        ({"ts": np.ones((2, 3))}, "rows"),
        ({"flows": ["heavy_ball"]}, "flows must be flows"),
    ],
    ids=str,
)
def test_bad_ensembles_are_refused(change, message):
    arguments = {"flows": FLOWS, "widths": [16], "seeds": 1, "ts": TS} | change
    with pytest.raises(nm.InputError, match=message):
        nm.ensemble(DATA, **arguments)

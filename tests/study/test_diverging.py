"""Figures whose predictions diverge: above the limit of stability a constant kernel's prediction
grows without bound while the network, whose kernel falls, does not."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import ntk_momentum as nm
from ntk_momentum.study.registry import experiments
from ntk_momentum.study.report import met_expectation

EPOCH = np.arange(0, 1001, 10)
NAMES = {
    "published_heavy_ball_epochs": ["beta = 0", "beta = 0.8"],
    "published_higher_momentum": ["(0, 0)", "(0.2, 0.5)"],
    "published_nesterov_epochs": ["GD", "d = 3"],
}


def against_epoch(published, names):
    """Runs that decay beside predictions that overflow, in one scaling from the start and in the
    other late."""
    decay = 30 * np.exp(-EPOCH / 300) + 1e-3
    with np.errstate(over="ignore"):
        growth = np.stack([30.0 * np.exp(2.0 * EPOCH), decay + np.exp(0.02 * EPOCH - 7)])
    mse = np.empty((2, 3, len(names), 2, EPOCH.size))
    mse[:, 0] = decay
    mse[:, 2] = np.where(EPOCH < 100, np.nan, decay)
    mse[:, 1] = np.stack([published.ended(curve) for curve in growth])[:, None, None]
    return xr.Dataset(
        {
            "mse": (("scaling", "curve", "algorithm", "seed", "epoch"), mse),
            "x": (("scaling", "mode"), np.array([[1e-3, 0.1, 3.8]] * 2)),
            "top": (
                ("scaling", "algorithm", "seed", "moment"),
                np.full((2, len(names), 2, 2), 3.8),
            ),
        },
        {
            "scaling": ["authors", "paper"],
            "curve": ["run", "prediction", "settled"],
            "algorithm": names,
            "epoch": EPOCH,
        },
        {"data": "made up", "width": 3},
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_predictions_that_diverge_leave_the_frame_and_not_the_axis(name):
    module = experiments()[name].load()
    ds = against_epoch(module.published, NAMES[name])
    figure = module.plot(ds)
    for axes, scaling in zip(figure.axes[:2], ds.scaling.values, strict=True):
        low, high = axes.get_ylim()
        runs = ds.mse.sel(scaling=scaling, curve="run").values
        assert runs.min() / 10 < low < runs.min() and runs.max() < high < 10 * runs.max()
        assert any("leave the frame" in text.get_text() for text in axes.texts)
    said = module.headline(ds)
    assert any("diverges" in value for value in said.values())
    assert not any("nan" in str(value) or "inf" in str(value) for value in said.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", [nm.nesterov_torch(1.0, 3.0), nm.multi_step_momentum(1.0, 0.2, 0.5)]
)
def test_from_where_a_kernel_has_settled_its_prediction_is_the_run(method):
    published = experiments()["published_heavy_ball_epochs"].load().published
    data = published.images(10)
    net = published.network(40, data.input_size, key=jax.random.key(0), scheme="paper")
    step = 1 / published.sharpness(net, data, "output")  # trained alone, its kernel never moves
    method = eqx.tree_at(lambda method: method.eta, method, jnp.asarray(step))
    curve, _, later = published.settled(net, data, method, 40, 5, "output", 10)
    assert np.isnan(later[:2]).all() and curve[-1] < 0.5 * curve[2]
    np.testing.assert_allclose(later[2:], curve[2:], rtol=1e-12)


@pytest.mark.slow
def test_a_run_slower_than_its_kernel_has_neurons_held_at_their_kinks():
    published = experiments()["published_heavy_ball_epochs"].load().published
    data = published.images(20)
    net = published.network(100, data.input_size, key=jax.random.key(0), scheme="paper")
    eta = 0.9 / published.sharpness(net, data, "hidden")
    how = {"save_every": 300, "loss": published.mean_squared, "readouts": ("f",)}
    half, end = (nm.train(net, data, nm.gradient_descent(eta), k, **how) for k in (300, 600))
    ts = 2 * eta / data.n * np.array([0, 150, 300])
    flow = nm.simulate(
        half.model,
        data,
        nm.GradientFlow(),
        ts,
        readouts=("f", "sliding", "sliding_kernel", "kernel"),
    )
    error = np.asarray(flow.f) - np.asarray(data.y)
    run = np.sum(np.square(np.asarray(end.f[-1]) - np.asarray(data.y)))
    foretold = {}
    for name in ("kernel", "sliding_kernel"):  # 150 steps before the end
        values, vectors = np.linalg.eigh(getattr(flow, name)[1])
        left = np.exp(-values * float(ts[2] - ts[1])) * (vectors.T @ error[1])
        foretold[name] = left @ left / run
    assert np.sum(error[2] ** 2) == pytest.approx(run, rel=0.02)  # the flow is as slow
    assert flow.sliding[1] > 10 * flow.sliding[0]
    assert foretold["sliding_kernel"] == pytest.approx(1, abs=0.03) and foretold["kernel"] < 0.6


@pytest.mark.parametrize("name", ["published_heavy_ball_width", "published_nesterov_width"])
def test_a_width_figure_says_where_its_prediction_diverges(name):
    module = experiments()[name].load()
    methods = ["beta = 0", "beta = 0.9"] if "heavy" in name else ["d = 2", "d = 10"]
    mse = np.array([[[9.0], [4.0], [5.0]], [[3.0], [np.nan], [np.nan]]])
    ds = xr.Dataset(
        {
            "mse": (("algorithm", "width", "seed"), mse),
            "stiffness": (("width", "seed"), np.array([[2.5], [4.0], [8.0]])),
            "settled": (("algorithm", "width", "seed"), 0.2 * mse),
            "peak": (("algorithm", "width", "seed"), mse),
            "foretold": (("algorithm", "width", "seed"), 1.1 * mse),
            "ratio": (("lazy_width", "seed"), np.array([[np.nan], [1.1]])),
        },
        {"algorithm": methods, "width": [100, 300, 900], "lazy_width": [100, 900]},
        {"epoch": 50, "data": "made up", "after": 8},
    )
    module.plot(ds)
    said = module.headline(ds)
    key = f"best width, {methods[0]}, foretold by its kernel after 8 steps"
    assert said[key] == "300, its losses by +10% to +10%"
    assert not any("nan" in str(value) for value in said.values())
    assert "300" in said[f"best width, {methods[0]} (eta lambda_max meets the limit at)"]
    limit = np.asarray(module.limits(ds))[1]
    moved = ds.assign(
        mse=(("algorithm", "width", "seed"), np.array([[[9.0], [9.0], [3.0]]] * 2)),
        stiffness=(("width", "seed"), limit * np.array([[0.9], [1.1], [5.0]])),
    )  # best at 900, while the limit is met at 200
    key = f"best width, {methods[1]} (eta lambda_max meets the limit at)"
    assert met_expectation(key, module.headline(moved)[key]) is False

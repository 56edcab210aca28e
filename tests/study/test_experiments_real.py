"""The experiments of the checkout: each states its claim, its configurations are plain values, and
the small ones run and draw."""

import dataclasses
import functools
import json

import numpy as np
import pytest

from ntk_momentum.study.registry import experiments
from ntk_momentum.theory import bounds

EXPERIMENTS = experiments()
QUICK = ("lambda_min",)
SMALL = {"n": 20, "widths": (64, 512, 2048), "times": 21}


@functools.cache
def run(name, size="smoke", **changed):
    module = EXPERIMENTS[name].load()
    calls, config = [], dataclasses.replace(module.SIZES[size], **changed)
    return module, module.run(config, lambda done, total: calls.append(done / total)), calls


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_states_its_claim_and_is_sized_by_plain_values(name):
    experiment = EXPERIMENTS[name]
    module = experiment.load()
    assert experiment.title and len(experiment.claim) > 100
    assert set(module.SIZES) == {"smoke", "default", "full"}
    for config in module.SIZES.values():
        with pytest.raises(dataclasses.FrozenInstanceError):
            config.n = 0
        json.dumps(dataclasses.asdict(config))


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in EXPERIMENTS],
)
def test_a_small_experiment_runs_to_the_end_and_its_figure_shows_all_its_text(name):
    module, ds, calls = run(name)
    assert calls == sorted(calls) and calls[-1] == 1
    bounds_of = ("guarantee", "sharp")  # t^(-d) is infinite at 0
    numbers = {name: ds[name] for name in ds.data_vars if name not in bounds_of}
    if "settled" in ds.get("curve", ()):  # begins where the kernel has settled
        assert np.isfinite(ds.mse.isel(epoch=slice(ds.epoch.size // 2, None))).all()
        numbers["mse"] = ds.mse.drop_sel(curve="settled")
    assert all(np.isfinite(values).all() for values in numbers.values())
    figure = module.plot(ds)
    figure.draw_without_rendering()
    page = figure.bbox
    for axes in figure.axes:
        for text in (
            axes.title,
            axes._left_title,
            axes.xaxis.label,
            axes.yaxis.label,
            *axes.get_xticklabels(),
            *axes.get_yticklabels(),
        ):
            box = text.get_window_extent()
            inside = (
                box.x0 >= page.x0 - 1
                and box.x1 <= page.x1 + 1
                and box.y0 >= page.y0 - 1
                and box.y1 <= page.y1 + 1
            )
            assert (
                inside
                or not text.get_text()
                or not text.get_visible()
                or not np.isfinite(box.bounds).all()
                or _off_axis(axes, text)
            )
    assert all(str(value) for value in module.headline(ds).values())


def _off_axis(axes, text):
    """Ticks beyond the limits of an axis exist but are not drawn."""
    (x0, x1), (y0, y1) = sorted(axes.get_xlim()), sorted(axes.get_ylim())
    x, y = text.get_position()
    return not (x0 <= x <= x1) if text in axes.get_xticklabels() else not (y0 <= y <= y1)


@pytest.mark.slow
def test_the_discrete_methods_have_the_orders_of_their_maps():
    module, ds, _ = run("discrete_vs_flow", "default", n=20, width=256, tol=1e-4)
    expected = {
        "gradient_flow, (2.1)": 1,
        "heavy_ball, (3.1) as printed": 1,
        "heavy_ball, second-order map": 2,
    }
    for name, order in expected.items():
        assert module.order(ds.gap.sel(dynamics="frozen kernel", algorithm=name)) == pytest.approx(
            order, abs=0.25
        )


@pytest.mark.slow
def test_wider_networks_come_closer_to_the_closed_form():
    _, ds, _ = run("three_flows", "default", **SMALL)
    gap = np.abs(np.log(ds.loss / ds.predicted)).max("step").median("seed")
    assert (np.diff(gap.transpose("width", "flow").values, axis=0) < 0).all()


@pytest.mark.slow
def test_a_frozen_wide_network_obeys_theorem_1():
    _, ds, _ = run("three_flows", "default", **SMALL)
    one = ds.isel(flow=0, width=-1)
    share = one.time.copy(data=bounds.theorem_1(one.time.values, ds.attrs["lambda_0"], 1.0))
    assert (one.loss <= share * one.loss.isel(step=0)).all()

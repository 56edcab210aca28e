"""Sweeps of optimizers and batch sizes: one more axis of the same declaration."""

import jax
import numpy as np
import pytest

import ntk_momentum as nm
from ntk_momentum.errors import InputError
from ntk_momentum.results import store, sweep
from ntk_momentum.results.grid import Source, Sweep
from ntk_momentum.results.named import KINDS, named_methods


def grid(**changes) -> Sweep:
    small = {"data": ("sphere",), "n": 4, "p": 3, "seeds": 2, "widths": (8,)}
    steps = {"optimizers": ("heavy_ball:0.1,0.2,beta=0.5",), "steps": 4, "save_every": 2}
    return Sweep(**{**small, **steps, "readouts": ("loss",), **changes})


def test_every_optimizer_of_the_package_has_a_name():
    known = set(KINDS["optimizer"]())
    assert {"gradient_descent", "heavy_ball", "nesterov", "nesterov_torch"} <= known
    assert known <= set(nm.__all__)
    (one,) = named_methods("nesterov:eta=0.1,weight_decay=0.2", "optimizer")
    assert one.label == "nesterov:eta=0.1,weight_decay=0.2" and one.customary == {"d"}
    built = one.build(1.0)
    assert isinstance(built, nm.method.Decayed) and built.method.d == 3.0


def test_batch_sizes_are_one_more_parameter_of_an_optimizer():
    assert grid(batch_sizes=("1..4x4", "full"), optimizers=("gradient_descent:0.1",)).labels() == (
        "gradient_descent:0.1,batch_size=1",
        "gradient_descent:0.1,batch_size=4",
        "gradient_descent:0.1,batch_size=full",
    )
    assert grid().labels() == ("heavy_ball:eta=0.1,beta=0.5", "heavy_ball:eta=0.2,beta=0.5")


@pytest.mark.slow
def test_units_of_batches_are_found_again_and_told_apart(tmp_path, pretended):
    one = {"optimizers": ("gradient_descent:0.1",), "unit_runs": 1, "seeds": 1}
    small = grid(batch_sizes=(1, "full"), **one)
    assert sweep.carry_out(small, tmp_path).ok and len(pretended) == 2
    assert len(sweep.carry_out(grid(batch_sizes=(1, 2, "full"), **one), tmp_path).done.kept) == 2
    assert len(pretended) == 3
    for changes in (
        {"sampling": "reshuffled", "batch_sizes": (1,)},
        {},
    ):
        assert not sweep.carry_out(grid(**one, **changes), tmp_path).done.kept
    found = nm.open_results(tmp_path)
    assert set(np.unique(found.batch_size)[:3]) == {1.0, 2.0, 4.0}


@pytest.mark.slow
def test_a_sweep_of_optimizers_holds_what_train_ensemble_does(tmp_path):
    asked = grid(batch_sizes=("1..2", "full"), sampling="reshuffled")
    assert sweep.carry_out(asked, tmp_path).ok
    data = Source("sphere", 4, 3, 0).load()
    runs = nm.train_ensemble(
        data,
        [nm.heavy_ball(eta, 0.5) for eta in (0.1, 0.2)],
        8,
        2,
        4,
        save_every=2,
        batch_sizes=[1, 2, "full"],
        sampling="reshuffled",
        readouts=["loss"],
    )
    (path,) = tmp_path.glob("data/unit-*.nc")
    stored = store.read_dataset(path)
    np.testing.assert_array_equal(stored["loss"], np.reshape(runs.loss, (6, *runs.loss.shape[2:])))
    found = nm.open_results(tmp_path)
    assert sorted(found.batch_size.values.ravel()) == [1, 1, 2, 2, 4, 4]
    one = nm.train(
        nm.init_two_layer(8, 3, key=jax.random.key(1)),
        data,
        nm.heavy_ball(0.2, 0.5),
        4,
        save_every=2,
        batch_size=2,
        key=jax.random.key(1),
        sampling="reshuffled",
        readouts=["loss"],
    )
    stored = found.loss.sel(flow="heavy_ball:eta=0.2,beta=0.5,batch_size=2", width=8, seed=1)
    np.testing.assert_allclose(stored.squeeze(), one.loss, rtol=1e-10)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optimizers": ("heavy_ball:0.1",)}, "heavy_ball needs beta"),
        ({"optimizers": ("gradient_flow",)}, "unknown optimizer 'gradient_flow'"),
        ({"optimizers": ("gradient_descent:0.1", "gradient_descent:eta=0.10")}, "same value twice"),
        ({"flows": ("heavy_ball:0.5",)}, "flows is of flows"),
        ({"t_end": 1.0}, "t_end is of flows"),
        ({"solver": "tsit5"}, "solver is of flows"),
        ({"steps": 5}, "multiple of save_every"),
        ({"batch_sizes": (0,)}, "whole numbers from 1 on"),
        ({"batch_sizes": ("1.5",)}, "whole numbers from 1 on"),
        ({"batch_sizes": ("half",)}, "a number or a range"),
        ({"batch_sizes": (2, 2)}, "same value twice"),
        (
            {"optimizers": (), "steps": 1000, "save_every": 10, "batch_sizes": (2,)},
            "is of training",
        ),
    ],
)
def test_what_is_no_training_is_refused(changes, said):
    with pytest.raises(InputError, match=said):
        grid(**changes)


@pytest.mark.slow
def test_batches_larger_than_a_data_set_are_refused(tmp_path):
    with pytest.raises(InputError, match="between 1 and the number of samples, 4, got 5"):
        sweep.carry_out(grid(batch_sizes=(5,)), tmp_path)

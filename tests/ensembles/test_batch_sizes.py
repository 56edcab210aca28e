"""Mini-batches in ensembles: every run is the one that trains alone."""

import jax
import numpy as np
import pytest

import ntk_momentum as nm
from ntk_momentum.ensembles import program

DATA = nm.sphere(7, 4, key=jax.random.key(1))
BALLS = [nm.heavy_ball(0.05, 0.8), nm.heavy_ball(0.02, 0.5)]
READOUTS = ["loss", "f"]


def alone(optimizer, size, width, seed, **options):
    key = jax.random.key(seed)
    net = nm.init_two_layer(width, 4, key=key)
    return nm.train(net, DATA, optimizer, 6, batch_size=size, key=key, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "sampling"),
    [
        ("map", "without_replacement"),
        pytest.param("vmap", "reshuffled", marks=pytest.mark.slow),
        pytest.param("vmap", "with_replacement", marks=pytest.mark.slow),
    ],
)
def test_an_ensemble_over_batch_sizes_is_each_run_alone_in_one_program(strategy, sampling):
    options = {"sampling": sampling, "save_every": 3, "readouts": READOUTS}
    before = program.ensemble_program._cached._cache_size()
    runs = nm.train_ensemble(
        DATA, BALLS, 8, [3, 5], 6, batch_sizes=[1, 4, "full"], strategy=strategy, **options
    )
    assert program.ensemble_program._cached._cache_size() == before + 1
    assert runs.batch_sizes == (1, 4, 7) and runs.loss.shape == (2, 3, 1, 2, 3) and runs.ok
    assert runs.ts.shape == (2, 3)
    for i, j, k in ((0, 0, 1), (1, 1, 0)):
        one = alone(BALLS[i], runs.batch_sizes[j], 8, runs.seeds[k], **options)
        for name in READOUTS:
            np.testing.assert_allclose(runs[name][i, j, 0, k], one[name], rtol=1e-11, atol=1e-13)


@pytest.mark.slow
def test_a_failed_run_is_told_by_its_batch_size():
    optimizers = [nm.gradient_descent(0.05), nm.gradient_descent(1e9)]
    runs = nm.train_ensemble(
        DATA, optimizers, 8, 1, 60, batch_sizes=2, save_every=30, readouts=["loss"]
    )
    assert runs.loss.shape == (2, 1, 1, 1, 3)
    (line,) = runs.failures()
    assert "gradient_descent eta=1e+09, batch size 2, width 8, seed 0" in line
    table = runs.to_xarray()
    assert table.loss.dims == ("flow", "batch_size", "width", "seed", "step")
    assert table.batch_size.values.tolist() == [2] and table.time.dims == ("flow", "step")


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ([], "empty"),
        ([2, 2], "twice"),
        (["full", 7], "twice"),
        ([0], "positive whole number"),
        (8, "between 1"),
        ("x", "whole number"),
        ([1.5], "whole number"),
    ],
)
def test_wrong_batch_sizes_are_refused_in_words(sizes, said):
    with pytest.raises(nm.InputError, match=said):
        nm.train_ensemble(DATA, BALLS, 8, 1, 6, batch_sizes=sizes)

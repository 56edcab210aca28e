"""Memory is known before anything is compiled: chunked when too large, refused with numbers when impossible."""

import jax
import numpy as np
import pytest

import ntk_momentum as nm
from ntk_momentum import batches, memory
from ntk_momentum.solver import RungeKutta
from ntk_momentum.units import plan

DATA = nm.sphere(20, 4, key=jax.random.key(1))
TS = np.linspace(0, 1, 3)


@pytest.mark.slow
@pytest.mark.parametrize("solver", [None, RungeKutta()], ids=["lazy", "tsit5"])
@pytest.mark.parametrize(("n", "m", "p"), [(8, 20_000, 64), (128, 10_000, 4), (300, 64, 4)])
def test_the_estimate_holds_what_the_compiler_reserves(n, m, p, solver):
    data = nm.sphere(n, p, key=jax.random.key(1))
    made = plan(data, nm.HeavyBall(0.3), m, 1, TS, readouts=["loss", "kernel_drift", "flips"], solver=solver, strategy="map")
    (unit,) = made.units
    how = batches.How(unit.strategy, unit.lanes, unit.layout, made.over)
    reserved = batches.ensemble_program.lower(jax.numpy.asarray(1e-5), made.batch(unit), how).compile().compiled.memory_analysis()
    actual = reserved.temp_size_in_bytes + reserved.output_size_in_bytes + reserved.argument_size_in_bytes
    assert 0.9 * actual < unit.bytes < 4 * actual


def test_lanes_are_as_many_as_fit():
    whole = plan(DATA, nm.GradientFlow(), 512, 16, TS, readouts=["loss"], strategy="vmap", memory_limit=1e9).units[0]
    tight = plan(DATA, nm.GradientFlow(), 512, 16, TS, readouts=["loss"], strategy="vmap", memory_limit=whole.bytes / 2).units[0]
    assert whole.lanes == 16 and 1 < tight.lanes <= 8 and tight.bytes <= whole.bytes / 2


def test_units_shrink_when_their_read_outs_do_not_fit():
    limit = 2e6
    made = plan(DATA, nm.GradientFlow(), 64, 32, np.linspace(0, 1, 20), readouts=["kernel"], memory_limit=limit)
    assert len(made.units) > 1 and made.bytes <= limit
    assert sum(len(unit.seeds) for unit in made.units) == 32


@pytest.mark.parametrize(
    ("width", "readouts", "remedy"), [(10**9, ["loss"], "fewer neurons"), (8, ["kernel"], "save fewer times")], ids=["width", "read-outs"]
)
def test_what_cannot_fit_is_refused_with_numbers_and_a_remedy(width, readouts, remedy):
    with pytest.raises(nm.InputError, match=rf"neurons on 20 samples needs about .* (KiB|MiB|GiB|TiB).* may be used .*{remedy}"):
        plan(DATA, nm.HeavyBall(0.3), width, 1, np.linspace(0, 1, 2000), readouts=readouts, memory_limit=1e6)


def test_neurons_are_spread_when_only_that_fits():
    one = {"n": 100, "p": 64, "columns": 64, "itemsize": 4, "momentum": True, "lazy": True}
    alone, spread = (memory.estimate(m=10**7, devices=count, **one) for count in (1, 8))
    assert spread.state == alone.state // 8 and spread.kernel == alone.kernel


def test_free_memory_is_some_of_this_machine():
    assert 2**20 < memory.available() < 2**50
    assert [memory.gib(size) for size in (512, 2**21, 3 * 2**40)] == ["512 B", "2 MiB", "3 TiB"]

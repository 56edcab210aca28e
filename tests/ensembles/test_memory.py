"""Memory is known before anything is compiled: chunked when too large, refused with numbers when
impossible."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntk_momentum as nm
from ntk_momentum import memory
from ntk_momentum.dynamics import coordinates, peaks
from ntk_momentum.dynamics.solver import RungeKutta
from ntk_momentum.ensembles import program
from ntk_momentum.ensembles.planning import plan

DATA = nm.sphere(20, 4, key=jax.random.key(1))
TS = np.linspace(0, 1, 3)


def reserved(made, unit):
    """Bytes that the compiler reserves for a unit."""
    how = made.how(unit)
    found = (
        program.ensemble_program.lower(made.batch(unit), how).compile().compiled.memory_analysis()
    )
    return found.temp_size_in_bytes + found.output_size_in_bytes + found.argument_size_in_bytes


@pytest.mark.slow
@pytest.mark.parametrize("solver", [None, RungeKutta()], ids=["lazy", "tsit5"])
@pytest.mark.parametrize(("n", "m", "p"), [(8, 20_000, 64), (128, 10_000, 4), (300, 64, 4)])
def test_the_estimate_holds_what_the_compiler_reserves(n, m, p, solver):
    data = nm.sphere(n, p, key=jax.random.key(1))
    made = plan(
        data,
        nm.HeavyBall(0.3),
        m,
        1,
        TS,
        readouts=["loss", "kernel_drift", "flips"],
        solver=solver,
        strategy="map",
    )
    (unit,) = made.units
    assert 0.9 * reserved(made, unit) < unit.bytes < 4 * reserved(made, unit)


class Convolutional(eqx.Module):
    layers: list

    def __init__(self, width, key):
        first, second, third = jax.random.split(key, 3)
        sizes = ((1, first), (width, second))
        self.layers = [
            eqx.nn.Conv2d(channels, width, 3, padding=1, key=key) for channels, key in sizes
        ]
        self.layers.append(eqx.nn.Linear(width, "scalar", key=third))

    def __call__(self, x):
        x = x.reshape(1, 8, 8)
        for layer in self.layers[:2]:
            x = jnp.tanh(layer(x))
        return self.layers[2](x.mean((1, 2)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "readouts", [["loss"], ["loss", "kernel_drift"]], ids=["no kernel", "kernel"]
)
@pytest.mark.parametrize("model", ["convolutional", "perceptron"])
def test_the_estimate_holds_for_models_of_the_users(model, readouts):
    make = {
        "convolutional": lambda width, key: Convolutional(width, key),
        "perceptron": lambda width, key: eqx.nn.MLP(64, "scalar", 8 * width, 3, key=key),
    }[model]
    made = plan(
        nm.sphere(40, 64, key=jax.random.key(1)),
        nm.HeavyBall(0.3),
        16,
        1,
        TS,
        model=make,
        readouts=readouts,
        strategy="map",
    )
    (unit,) = made.units
    assert 0.9 * reserved(made, unit) < unit.bytes < 4 * reserved(made, unit)


def test_lanes_are_as_many_as_fit():
    whole = plan(
        DATA, nm.GradientFlow(), 512, 16, TS, readouts=["loss"], strategy="vmap", memory_limit=1e9
    ).units[0]
    tight = plan(
        DATA,
        nm.GradientFlow(),
        512,
        16,
        TS,
        readouts=["loss"],
        strategy="vmap",
        memory_limit=whole.bytes / 2,
    ).units[0]
    assert whole.lanes == 16 and 1 < tight.lanes <= 8 and tight.bytes <= whole.bytes / 2


def test_units_shrink_when_their_read_outs_do_not_fit():
    limit = 2e6
    made = plan(
        DATA,
        nm.GradientFlow(),
        64,
        32,
        np.linspace(0, 1, 20),
        readouts=["kernel"],
        memory_limit=limit,
    )
    assert len(made.units) > 1 and made.bytes <= limit
    assert sum(len(unit.seeds) for unit in made.units) == 32


@pytest.mark.parametrize(
    ("width", "readouts", "remedy"),
    [(10**9, ["loss"], "fewer neurons"), (8, ["kernel"], "save fewer times")],
    ids=["width", "read-outs"],
)
def test_what_cannot_fit_is_refused_with_numbers_and_a_remedy(width, readouts, remedy):
    with pytest.raises(
        nm.InputError,
        match=rf"neurons on 20 samples would take about .* [KMGT]iB.* may be used .*{remedy}",
    ):
        plan(
            DATA,
            nm.HeavyBall(0.3),
            width,
            1,
            np.linspace(0, 1, 2000),
            readouts=readouts,
            memory_limit=1e6,
        )


def test_neurons_are_spread_when_only_that_fits():
    one = {"n": 100, "p": 64, "columns": 64, "itemsize": 4, "momentum": True, "lazy": True}
    alone, spread = (peaks.estimate(m=10**7, devices=count, **one) for count in (1, 8))
    assert spread.state == alone.state // 8 and spread.kernel == alone.kernel


def test_free_memory_is_some_of_this_machine():
    assert 2**20 < memory.available() < 2**50
    assert [memory.gib(size) for size in (512, 2**21, 3 * 2**40)] == ["512 B", "2 MiB", "3 TiB"]


def test_plans_alike_in_all_but_their_numbers_trace_one_start(monkeypatch):
    starts, found = [], program._traced
    monkeypatch.setattr(program, "_traced", lambda batch: starts.append(batch) or found(batch))
    program._KNOWN.clear()
    sizes = [
        plan(DATA, nm.HeavyBall(b), m, seeds, TS * b).units[0].size
        for b, m, seeds in [(0.5, 16, 2), (0.7, 16, 3)]
    ]
    assert sizes == [2, 3] and len(starts) == 1
    plan(DATA, nm.Nesterov(3.0), 16, 2, TS)
    plan(DATA, nm.Nesterov(3.0), 16, 2, TS, readouts=["loss", "kernel_drift"])
    assert len(starts) == 3


def test_the_same_inputs_are_decomposed_once_as_long_as_there_is_room(monkeypatch):
    calls = []
    svd = np.linalg.svd
    monkeypatch.setattr(coordinates, "_KNOWN", {})
    monkeypatch.setattr(np.linalg, "svd", lambda X, **how: calls.append(X) or svd(X, **how))
    first, other = (nm.sphere(5, 9, key=jax.random.key(k)).X for k in (1, 2))
    for X in (first, np.array(first), first.reshape(5, 3, 3), other, first):
        found = coordinates.decompose(jnp.asarray(X))
        again = found.left * found.sizes @ found.rows
        np.testing.assert_allclose(again, np.asarray(X).reshape(5, 9), atol=1e-12)
    assert len(calls) == 2
    monkeypatch.setattr(coordinates, "KEPT", 0)
    coordinates.decompose(first + other)
    assert len(calls) == 3 and not coordinates._KNOWN

"""The wait for a first call is the compiling of its programs, each some 10 ms at least: how many
there are is held here, and grows by no line of set-up that computes with JAX."""

import logging

import jax
import jax.numpy as jnp
import pytest

import ntk_momentum as nm
from ntk_momentum.kernel.patterns import kink

DATA = nm.sphere(8, 3, key=jax.random.key(0))
NET = nm.init_two_layer(16, 3, key=jax.random.key(1))
H, FLOW, TS = nm.infinite_ntk(DATA.X), nm.GradientFlow(), [0.0, 1.0]

FIRST = {
    "infinite_ntk": (lambda: nm.infinite_ntk(DATA.X), ["_infinite_ntk", "symmetrised"]),
    "empirical_ntk": (lambda: nm.empirical_ntk(NET, DATA.X), ["_probed", "_two_layer"]),
    "predict": (
        lambda: nm.predict(H, DATA.y, FLOW, TS),
        ["reshape", "_symmetrise", "solve", "reshape"],  # to one column, and back
    ),
    "simulate": (
        lambda: nm.simulate(NET, DATA, FLOW, TS, readouts=["loss"]),
        ["_probed", "solve"],
    ),
    "train": (
        lambda: nm.train(NET, DATA, nm.heavy_ball(0.1, 0.5), 3, readouts=["loss"]),
        ["_probed", "opening", "count_off", "dynamic_slice", "add"],
    ),
    "ensemble": (  # of two widths: a program serves both
        lambda: nm.ensemble(DATA, FLOW, [10, 16], 2, TS, readouts=["loss"]),
        ["_probed", "ensemble_program"],
    ),
}


@pytest.mark.parametrize("call", FIRST)
def test_a_first_call_compiles_so_many_programs(call, caplog):
    jax.clear_caches()
    kink.cache_clear()
    first, programs = FIRST[call]
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        first()
    begins = "Finished XLA compilation of jit("
    lines = (line for line in caplog.messages if line.startswith(begins))
    assert [line.removeprefix(begins).split(")")[0] for line in lines] == programs


def test_a_program_of_runge_kutta_steps_is_kept_on_disk():
    """JAX keeps none that calls Python, as a check of diffrax's would."""

    def run(size):
        start, solver = size * jnp.ones(2), nm.RungeKutta()
        return nm.simulate_error(jnp.eye(2), start, nm.HeavyBall(1.0), [1.0], solver=solver).loss

    assert "callback" not in jax.jit(run).trace(1.0).lower().as_text()

"""Runs that stop at the limit of steps, and why."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntk_momentum as nm
from ntk_momentum.dynamics.solver import runge_kutta


@pytest.mark.slow
@pytest.mark.parametrize(
    ("activation", "steps", "cause"),
    [(jax.nn.relu, 3000, "neurons slide along kinks"), (jnp.tanh, 100, "raise Numerics.max_steps")],
    ids=["kinks", "smooth"],
)
def test_a_sliding_deep_net_is_told_from_a_limit_that_is_too_low(
    activation: Callable, steps: int, cause: str
) -> None:
    key = jax.random.key(0)
    net = eqx.nn.MLP(5, "scalar", 32, 3, activation, key=key)
    config = nm.Numerics(max_steps=steps)
    with pytest.warns(RuntimeWarning, match=cause):
        nm.simulate(
            net, nm.sphere(8, 5, key=key), nm.GradientFlow(), [100.0], readouts=[], config=config
        )


def _error(end: float, **limits: int) -> nm.Trajectory:
    kernel, config = np.diag([1.0, 1000.0]), nm.Numerics(tol=1e-3, **limits)
    return nm.simulate_error(
        kernel, [1.0, 1.0], nm.GradientFlow(), [end], solver=nm.RungeKutta(), config=config
    )


def test_a_run_out_of_reach_is_told_after_a_thousand_steps() -> None:
    with pytest.warns(RuntimeWarning, match="or would be by far"):
        run = _error(1e6)  # some 3e8 steps of stability's length
    assert int(run.accepted + run.rejected) == runge_kutta.LOOK


def test_looks_ahead_leave_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = _error(6.0)
    assert int(looked.accepted) > 1500
    monkeypatch.setattr(runge_kutta, "LOOK", 10**6)
    unseen = _error(6.0, max_steps=99_999)  # another program
    assert int(looked.accepted) == int(unseen.accepted)
    np.testing.assert_array_equal(looked.residual, unseen.residual)

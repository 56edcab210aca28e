"""Runs that stop at the limit of steps, and why."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import ntk_momentum as nm


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

"""The cost of one gradient and of one training step, against plain autodiff."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .. import init_two_layer, sphere, train
from ..loss import squared
from ..method import gradient_descent
from ..simulation import weight_problem
from . import median_seconds


def right_side(n: int, width: int, p: int) -> dict:
    """One gradient in float32: the package's, one step of `train`, and jax.grad through vmap(net)."""
    data = sphere(n, p, key=jax.random.key(0))
    net = init_two_layer(width, p, key=jax.random.key(1), dtype=jnp.float32)
    problem, w = weight_problem(net, data, squared, None, None)
    X, y = problem.X, problem.y

    @jax.jit
    def plain(net):
        return jax.grad(lambda net: squared(jax.vmap(net)(X), y), allow_int=True)(net).hidden

    ours = jax.jit(lambda w: problem.gradient(w))
    steps = 20
    baseline = median_seconds(lambda: plain(net))
    mine = median_seconds(lambda: ours(w))
    whole = median_seconds(lambda: train(net, data, gradient_descent(1e-3), steps, save_every=steps, readouts=["loss"]).loss)
    return {
        "case": f"right side, n = {n}, m = {width}, p = {p}, float32",
        "seconds": mine,
        "gflops": 4 * n * width * p / mine / 1e9,
        "vmap_grad_seconds": baseline,
        "ratio": baseline / mine,
        "train_step_over_right_side": whole / steps / mine,
    }

"""The cost of one gradient and of one training step, against plain autodiff and against the core's
largest product."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ntk_momentum import init_two_layer, sphere
from ntk_momentum.dynamics.preparation import Choices, weight_problem
from ntk_momentum.dynamics.run import Run, count_off, opening
from ntk_momentum.loss import squared
from ntk_momentum.method import gradient_descent
from ntk_momentum.network.two_layer import TwoLayerNet

STEPS = 8
"""A training step is the difference of two runs, of STEPS and 2 STEPS steps."""


def right_side(n: int, width: int, p: int, repeats: int = 9) -> dict:
    """One gradient in float32: jax.grad through vmap(net), the package's, that in the span of the
    data, and a step of `train`.

    All are called in turn, with the square of a 1024 x 1024 matrix for the core's peak; the ratios
    are of medians.
    """
    data = sphere(n, p, key=jax.random.key(0))
    net = init_two_layer(width, p, key=jax.random.key(1), dtype=jnp.float32)
    whole = weight_problem(net, data, squared, None, None)
    small = whole[0].within(whole[1], preactivations=True)
    square = jax.random.normal(jax.random.key(2), (1024, 1024), jnp.float32)
    optimizer = gradient_descent(jnp.float32(1e-3))
    run = Run.prepare(net, data, optimizer, Choices(readouts=["loss"])).within()
    start = opening(run)

    def steps(count):
        return count_off(run, *start, jnp.int32(1), jnp.int32(count), 1)

    seconds = in_turn(
        {
            "plain": _compiled(_plain, net, whole[0].X, whole[0].y),
            "whole": _compiled(_gradient, *whole),
            "ours": _compiled(_gradient, *small),
            "short": partial(steps, STEPS),
            "long": partial(steps, 2 * STEPS),
            "product": partial(_product, square),
        },
        repeats,
    )
    k = small[0].X.shape[1]
    gflops = (4 if small[0].metric is None else 2) * n * width * k / seconds["ours"] / 1e9
    peak = 2 * 1024**3 / seconds["product"] / 1e9
    return {
        "case": f"right side, n = {n}, m = {width}, p = {p}, float32",
        "seconds": seconds["ours"],
        "columns": k,
        "gflops": gflops,
        "peak_gflops": peak,
        "of_peak": gflops / peak,
        "vmap_grad_seconds": seconds["plain"],
        "ratio": seconds["plain"] / seconds["ours"],
        "ratio_all_columns": seconds["plain"] / seconds["whole"],
        "train_step_over_right_side": (seconds["long"] - seconds["short"])
        / STEPS
        / seconds["ours"],
    }


def in_turn(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median processor seconds of calls made in turn, each right after an untimed one of the same,
    as in a solve.

    On one core they are the wall time less what other processes took of it.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            jax.block_until_ready(call())
            start = time.process_time()
            jax.block_until_ready(call())
            times[name].append(time.process_time() - start)
    return {name: statistics.median(kept) for name, kept in times.items()}


def _compiled(f: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    """f(*args) as a call of a jitted function of plain arrays, since taking modules apart costs as
    much as a small right side."""
    arrays, static = eqx.partition(args, eqx.is_array)
    leaves, structure = jax.tree.flatten(arrays)
    program = jax.jit(
        lambda *leaves: f(*eqx.combine(jax.tree.unflatten(structure, leaves), static))
    )
    return partial(program, *leaves)


def _plain(net: TwoLayerNet, X: Any, y: Any) -> Any:
    return jax.grad(
        lambda hidden: squared(jax.vmap(eqx.tree_at(lambda net: net.hidden, net, hidden))(X), y)
    )(net.hidden)


def _gradient(problem: Any, w: Any) -> Any:
    return problem.gradient(w).hidden


@jax.jit
def _product(square: Any) -> Any:
    return square @ square

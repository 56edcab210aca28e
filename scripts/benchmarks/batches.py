"""Mini-batch training against a hand-written scan with the same optimizer, at a fixed batch
size."""

from __future__ import annotations

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from timing import compare, median_seconds

from ntk_momentum import heavy_ball, init_two_layer, sphere, train

STEPS, SECONDS = 5000, 0.3
"""Steps taken at least, and as many times more as make so long a run: what a call costs before its
first step, 10 to 20 milliseconds, is subtracted, and its scatter is then less than a percent."""
ETA, BETA = 1e-3, 0.9


def minibatches(n: int, width: int, p: int, size: int, depth: int = 1, repeats: int = 9) -> dict:
    """Steps per second of `nm.train` over those of a jitted scan by hand, which draws a subset by
    `jax.random.choice` for every step (`speed`), or has all subsets drawn beforehand, outside the
    time (`speed_undrawn`). What a call costs before its first step, checks on the host, is apart.

    depth: of an Equinox MLP in the place of the two-layer net, where above 1.
    """
    data = sphere(n, p, key=jax.random.key(0))
    key = jax.random.key(1)
    model: Any = (
        init_two_layer(width, p, key=key)
        if depth == 1
        else eqx.nn.MLP(p, "scalar", width, depth, key=key)
    )
    trained = model.hidden if depth == 1 else model
    arrays, static = eqx.partition(trained, eqx.is_inexact_array)
    put = (
        (lambda W: eqx.tree_at(lambda net: net.hidden, model, W))
        if depth == 1
        else partial(eqx.combine, static)
    )
    optimizer = heavy_ball(ETA, BETA)

    def loss(w: Any, rows: Any) -> Any:
        f = jax.vmap(put(w))(data.X[rows])
        return n / size * jnp.sum((f - data.y[rows]) ** 2) / 2

    def step(carry: Any, rows: Any) -> Any:
        w, memory = carry
        change, memory = optimizer.update(jax.grad(loss)(w, rows), memory, w)
        return (optax.apply_updates(w, change), memory), None

    def draw(key: Any) -> Any:
        return jax.random.choice(key, n, (size,), replace=False)

    @jax.jit
    def by_hand(w: Any, keys: Any) -> Any:
        one = lambda carry, key: step(carry, draw(key))
        return jax.lax.scan(one, (w, optimizer.init(w)), keys)[0]

    @jax.jit
    def undrawn(w: Any, table: Any) -> Any:
        return jax.lax.scan(step, (w, optimizer.init(w)), table)[0]

    table = jax.jit(jax.vmap(draw))(jax.random.split(key, STEPS))
    times = max(1, round(SECONDS / median_seconds(partial(undrawn, arrays, table), 3)))
    steps, table = times * STEPS, jnp.tile(table, (times, 1))
    keys = jax.random.split(key, steps)

    def ours(steps: int = steps) -> Any:
        run = train(
            model,
            data,
            optimizer,
            steps,
            batch_size=size,
            key=key,
            save_every=steps,
            readouts=["loss"],
        )
        return run.loss, run.state.progress.state.w

    begin = median_seconds(partial(ours, 1), repeats)
    mine, theirs = compare(ours, partial(by_hand, arrays, keys), repeats)
    again, fewer = compare(ours, partial(undrawn, arrays, table), repeats)
    net = f"m = {width}" if depth == 1 else f"MLP {width} x {depth}"
    return {
        "case": f"mini-batches: n = {n}, p = {p}, {net}, B = {size}",
        "dtype": str(data.X.dtype),
        "milliseconds_to_begin": 1e3 * begin,
        "microseconds_a_step": 1e6 * (mine - begin) / steps,
        "speed": theirs / (mine - begin),
        "speed_undrawn": fewer / (again - begin),
    }

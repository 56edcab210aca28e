"""Kernels of models that are no two-layer nets: whole, and as an operator that is never formed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import ntk_momentum as nm

from .measure import Bench, Parts, called, compared, rated, timed

CLASSES = 10
CHECKED = 4
"""Samples whose kernel is computed again on the host."""


def multilayer(hidden: int) -> tuple[Any, tuple[int, ...]]:
    """A multilayer perceptron of two hidden layers, and the shape of an input."""
    key = jax.random.key(0)
    return eqx.nn.MLP(784, CLASSES, hidden, 2, key=key, dtype=jnp.float32), (784,)


def convolutional(hidden: int) -> tuple[Any, tuple[int, ...]]:
    """Two convolutions and a linear layer."""
    keys = jax.random.split(jax.random.key(1), 3)
    channels = max(4, hidden // 16)
    layers = [
        eqx.nn.Conv2d(1, channels, 3, stride=2, key=keys[0], dtype=jnp.float32),
        eqx.nn.Lambda(jax.nn.relu),
        eqx.nn.Conv2d(channels, channels, 3, stride=2, key=keys[1], dtype=jnp.float32),
        eqx.nn.Lambda(jax.nn.relu),
        eqx.nn.Lambda(jnp.ravel),
        eqx.nn.Linear(36 * channels, CLASSES, key=keys[2], dtype=jnp.float32),
    ]
    return eqx.nn.Sequential(layers), (1, 28, 28)


MODELS = {"MLP": multilayer, "convolutional net": convolutional}


def kernels(bench: Bench) -> Parts:
    """Kernels of a multilayer perceptron and a convolutional net of ten outputs."""
    for name in MODELS:
        label = f"kernel of the {name}, n = {bench.sizes.samples}, {CLASSES} outputs"
        yield label, partial(kernel, bench, name)


def operator(bench: Bench) -> Parts:
    """Products with kernels that are never formed, and the modes they find."""
    label = f"operator of the MLP, n = {bench.sizes.operator_samples}, {CLASSES} outputs"
    yield label, partial(operator_product, bench)
    for tile in bench.sizes.tiles:
        label = f"H infinity of {3 * bench.sizes.operator_samples} inputs of 784, tiles of {tile}"
        yield f"{label}: a product", partial(streamed_product, bench, tile)
    yield f"{label}: 40 products, all modes", partial(streamed_modes, bench, tile)


def inputs(shape: tuple[int, ...], n: int) -> jax.Array:
    """Random unit inputs."""
    x = jax.random.normal(jax.random.key(2), (n, *shape))
    return x / jnp.linalg.norm(x.reshape(n, -1), axis=1).reshape(n, *(1,) * len(shape))


def highest(function: Callable) -> Callable:
    """The function with products in the full precision of the dtype."""

    def computed(*arguments):
        with jax.default_matmul_precision("highest"):
            return function(*arguments)

    return computed


def kernel(bench: Bench, name: str) -> dict[str, Any]:
    """Operations are those that `plan_ntk` counts."""
    model, shape = MODELS[name](bench.sizes.hidden)
    x = inputs(shape, bench.sizes.samples)
    arrays, rest = eqx.partition(model, eqx.is_array)
    plan = nm.plan_ntk(model, x)
    timing = timed(
        highest(lambda arrays, x: nm.empirical_ntk(eqx.combine(arrays, rest), x)), arrays, x
    )
    exact = on_host(
        lambda model, x: nm.empirical_ntk(model, x, method="jacobian"), model, x[:CHECKED]
    )
    record = {"method": plan.method, "block_size": plan.block_size}
    return (
        record
        | rated(bench, timing, flops=plan.flops)
        | compared(
            timing.value[:CHECKED, :CHECKED], exact, 1e-5, "float64 on the host, by Jacobians"
        )
    )


def operator_product(bench: Bench) -> dict[str, Any]:
    """v -> H v, by one linearisation, a pull and a push: ten operations a weight and sample."""
    model, shape = multilayer(bench.sizes.hidden)
    x = inputs(shape, bench.sizes.operator_samples)
    v = jax.random.normal(jax.random.key(6), (x.shape[0], CLASSES))
    arrays, rest = eqx.partition(model, eqx.is_array)

    def product(arrays, x, v):
        return nm.ntk_operator(eqx.combine(arrays, rest), x).mv(v)

    timing = timed(highest(product), arrays, x, v)
    block = min(2000, x.shape[0])
    exact = on_host(
        lambda model, x, v: nm.ntk_operator(model, x, block_size=block).mv(v), model, x, v
    )
    weights = sum(leaf.size for leaf in jax.tree.leaves(arrays))
    return rated(bench, timing, flops=10.0 * weights * x.shape[0]) | compared(
        timing.value, exact, 1e-5
    )


def streamed(bench: Bench, tile: int) -> tuple[Any, jax.Array, jax.Array]:
    """The operator, its inputs and a vector."""
    x = inputs((784,), 3 * bench.sizes.operator_samples)
    v = jax.random.normal(jax.random.key(7), (x.shape[0],))
    return nm.infinite_ntk_operator(x, tile=min(tile, x.shape[0])), x, v


def streamed_product(bench: Bench, tile: int) -> dict[str, Any]:
    """v -> H v by tiles; against some of its rows on the host, Fact 2.1."""
    operator, x, v = streamed(bench, tile)
    product = eqx.filter_jit(lambda operator, v: operator.mv(v))
    timing = called(bench, lambda: product(operator, v))
    wide = np.asarray(x, np.float64)
    cosines = np.clip(wide[:CHECKED] @ wide.T, -1.0, 1.0)
    np.fill_diagonal(cosines, 1.0)
    exact = cosines * (np.pi - np.arccos(cosines)) / (2 * np.pi) @ np.asarray(v, np.float64)
    # of a symmetric kernel half of the tiles are computed
    record = rated(bench, timing, flops=float(x.shape[0]) ** 2 * x.shape[1])
    return record | compared(timing.value[:CHECKED], exact, 1e-4)


def streamed_modes(bench: Bench, tile: int) -> dict[str, Any]:
    """`nm.modes` from one vector."""
    operator, x, v = streamed(bench, tile)
    timing = called(bench, lambda: nm.modes(operator, v, products=40).values)
    found = float(timing.value[-1])
    record = timing.record() | {"lambda_max": found}
    return record | {"ok": bool(np.isfinite(found)) and 0 < found <= x.shape[0]}


def on_host(function: Callable, model: Any, *arguments: Any) -> np.ndarray:
    """The same function in float64 on the host's processor, whatever the default device is."""
    cpu = jax.local_devices(backend="cpu")[0]
    with jax.enable_x64(True), jax.default_device(cpu):
        wide = lambda leaf: (
            jnp.asarray(np.asarray(leaf, np.float64)) if eqx.is_array(leaf) else leaf
        )
        arrays, rest = eqx.partition(jax.tree.map(wide, model), eqx.is_array)
        computed = jax.jit(functools.partial(lambda a, *x: function(eqx.combine(a, rest), *x)))
        return np.asarray(computed(arrays, *map(wide, arguments)))

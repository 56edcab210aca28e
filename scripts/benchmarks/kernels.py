"""Kernels against their obvious rivals: the dense structured Gram, contracted Jacobians, and the
eigendecomposition behind `predict`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from timing import clock, compare, median_seconds

from ntk_momentum import (
    GradientFlow,
    HeavyBall,
    Nesterov,
    TwoLayerNet,
    empirical_ntk,
    extreme_eigenvalues,
    fully_connected_ntk,
    infinite_ntk,
    init_two_layer,
    ntk_operator,
    plan_ntk,
    predict,
    sphere,
)

WIDE = [(50, 10_000, 100), (500, 10_000, 100), (2000, 10_000, 100)]
TWO_LAYER = {
    "smoke": [(50, 1000, 10), (200, 2000, 20)],
    "default": [*((n, 1000, p) for n in (50, 100, 500) for p in (10, 100)), (200, 1000, 10), *WIDE],
    "full": [
        *((n, m, p) for n in (50, 100, 200, 500, 2000) for m in (1000, 10_000) for p in (10, 100)),
        (500, 100_000, 100),
    ],
}
CONTRACTION = {"smoke": (20, 200, 10), "default": (500, 10_000, 100), "full": (500, 10_000, 100)}
GENERAL = {
    "smoke": (20, 32, 3, 20, 3),
    "default": (200, 512, 3, 100, 10),
    "full": (200, 512, 3, 100, 10),
}
LAYERED = {"smoke": (20, 32), "default": (200, 512), "full": (200, 512)}
STRUCTURED = {"smoke": (8, 2), "default": (100, 10), "full": (100, 10)}
BLOCK = {"smoke": (4, 2), "default": (32, 10), "full": (32, 10)}
INFINITE = {"smoke": (300, 20), "default": (2000, 100), "full": (2000, 784)}
PREDICT = {"smoke": (100, 100), "default": (1000, 1000), "full": (1000, 1000)}
LANCZOS = {"smoke": (500, 256, 20), "default": (2000, 1024, 50), "full": (20_000, 1024, 50)}


def rows(size: str) -> Iterator[dict]:
    """All rows, one at a time, in float32."""
    for shape in TWO_LAYER[size]:
        yield two_layer(*shape)
    yield contraction(*CONTRACTION[size])
    yield general(*GENERAL[size])
    yield layered(*LAYERED[size])
    for outputs in (1, STRUCTURED[size][1]):
        yield convolutional(STRUCTURED[size][0], outputs)
        yield recurrent(STRUCTURED[size][0], outputs)
    yield convolutional(STRUCTURED[size][0], 1, by_hand=True)
    for outputs in (1, BLOCK[size][1]):
        yield attentive(BLOCK[size][0], outputs)
    yield infinite(*INFINITE[size])
    for flow in (GradientFlow(), HeavyBall(0.1), Nesterov(3.0)):
        yield prediction(flow, *PREDICT[size])
    yield ends(*LANCZOS[size])


def setting(n: int, m: int, p: int) -> tuple[TwoLayerNet, jax.Array]:
    """A two-layer net and unit inputs in float32."""
    return init_two_layer(m, p, key=jax.random.key(1), dtype=jnp.float32), sphere(
        n, p, key=jax.random.key(0)
    ).X.astype(jnp.float32)


@jax.jit
def dense(hidden, output, X):
    """The structured form (2.8) as one writes it down: one Gram of 0/1 patterns, one of inputs."""
    pattern = (X @ hidden.T > 0).astype(X.dtype) * output[None, :]
    return (X @ X.T) * (pattern @ pattern.T) / hidden.shape[0]


def two_layer(n: int, m: int, p: int) -> dict:
    """The package's two-layer kernel against `dense`. TFLOP/s count the dense form's flops,
    whichever way they are saved."""
    net, X = setting(n, m, p)
    ours = jax.jit(lambda net, X: empirical_ntk(net, X))
    flops = 2.0 * n * m * p + 2.0 * n * n * m
    repeats = int(np.clip(1e11 / flops, 5, 301))  # the small ones are noisy, and cheap
    mine, baseline = compare(
        lambda: ours(net, X), lambda: dense(net.hidden, net.output, X), repeats
    )
    gap = float(jnp.max(jnp.abs(ours(net, X) - dense(net.hidden, net.output, X))))
    return {
        "case": f"two-layer kernel against the dense Gram, n = {n}, m = {m}, p = {p}, float32",
        "seconds": mine,
        "baseline_seconds": baseline,
        "ratio": baseline / mine,
        "gap": gap,
        "tflops": flops / mine / 1e12,
        **peak(mine, flops),
    }


def peak(seconds: float, flops: float) -> dict:
    """The share of the device's measured float32 matrix product rate; measured once, left out on a
    CPU, where bits are counted instead."""
    return (
        {}
        if jax.default_backend() == "cpu"
        else {"share_of_matmul_peak": flops / seconds / matmul_rate()}
    )


@functools.cache
def matmul_rate(size: int = 8192) -> float:
    """Flops per second of one square float32 matrix product at jax's default precision."""
    a = jax.random.normal(jax.random.key(0), (size, size), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    return 2 * size**3 / median_seconds(lambda: product(a))


def contracted_jacobian(model: Any, X: jax.Array) -> Callable[[], jax.Array]:
    """vmap of grad for one trained array, then one contraction over all its entries."""

    @jax.jit
    def kernel(hidden, X):
        gradient = jax.grad(lambda hidden, x: eqx.tree_at(lambda net: net.hidden, model, hidden)(x))
        J = jax.vmap(gradient, (None, 0))(hidden, X).reshape(X.shape[0], -1)
        return J @ J.T

    return lambda: kernel(model.hidden, X)


def contraction(n: int, m: int, p: int) -> dict:
    """The two-layer kernel against the vmap-of-grad Jacobian and its contraction."""
    net, X = setting(n, m, p)
    ours = jax.jit(lambda net, X: empirical_ntk(net, X))
    rival = contracted_jacobian(net, X)
    mine = median_seconds(
        lambda: ours(net, X), 15
    )  # not in turn: gigabytes given back between calls would slow the small one
    baseline = median_seconds(rival, 3)
    return {
        "case": (
            f"two-layer kernel against the contracted Jacobian, n = {n}, m = {m}, p = {p}, float32"
        ),
        "seconds": mine,
        "baseline_seconds": baseline,
        "ratio": baseline / mine,
        "gap": float(jnp.max(jnp.abs(ours(net, X) - rival()))),
        "baseline_bytes": 4 * n * m * p,
    }


def general(n: int, width: int, depth: int, p: int, k: int) -> dict:
    """An Equinox MLP with the full kernel of its outputs: `auto` against the Jacobian contraction,
    in seconds and compiled bytes."""
    model = eqx.nn.MLP(p, k, width, depth, key=jax.random.key(1), dtype=jnp.float32)
    X = sphere(n, p, key=jax.random.key(0)).X.astype(jnp.float32)
    arrays, static = eqx.partition(model, eqx.is_array)

    def jacobian(arrays, X):
        J = jax.vmap(lambda x: jax.jacrev(lambda arrays: eqx.combine(arrays, static)(x))(arrays))(X)
        flat = jnp.concatenate([leaf.reshape(n * k, -1) for leaf in jax.tree.leaves(J)], axis=1)
        return (flat @ flat.T).reshape(n, k, n, k)

    def auto(arrays, X):
        return empirical_ntk(eqx.combine(arrays, static), X, output="full")

    programs = [jax.jit(f).lower(arrays, X).compile() for f in (auto, jacobian)]
    mine = median_seconds(lambda: programs[0](arrays, X))
    begin = clock()
    second = np.asarray(
        programs[1](arrays, X)
    )  # once: it is compiled, and every call fills its gigabytes anew
    baseline = clock() - begin
    memory = [p.memory_analysis() for p in programs]
    used = [
        int(m.temp_size_in_bytes + m.output_size_in_bytes) if m is not None else -1 for m in memory
    ]
    plan = plan_ntk(model, X, output="full")
    first = np.asarray(programs[0](arrays, X))
    return {
        "case": (
            f"MLP {depth} x {width}, {p} inputs, n = {n}, {k} outputs, full kernel, "
            f"float32, method {plan.method}"
        ),
        "seconds": mine,
        "baseline_seconds": baseline,
        "ratio": baseline / mine,
        "gap": float(np.max(np.abs(first - second)) / np.max(np.abs(second))),
        "bytes": used[0],
        "baseline_bytes": used[1],
        "memory_ratio": used[1] / used[0],
        "planned_bytes": plan.bytes,
    }


def row(case: str, model: Any, X: jax.Array, rival: Callable, repeats: int = 9) -> dict:
    """`empirical_ntk(model, X)` as called against rival(arrays, X), a compiled program."""
    arrays, ours = eqx.filter(model, eqx.is_array), lambda: empirical_ntk(model, X)
    mine, baseline = compare(ours, lambda: rival(arrays, X), repeats)
    gap = jnp.max(jnp.abs(ours() - rival(arrays, X))) / jnp.max(jnp.abs(ours()))
    return {
        "case": f"{case}, float32",
        "seconds": mine,
        "baseline_seconds": baseline,
        "ratio": baseline / mine,
        "gap": float(gap),
    }


@jax.jit
def by_hand(net, X):
    """The kernel of a ReLU MLP layer by layer, as one writes it for that net alone."""
    h, inputs, slopes = X, [], []
    for layer in net.layers[:-1]:
        inputs.append(h)
        z = h @ layer.weight.T + layer.bias[None]
        h, slopes = jnp.maximum(z, 0), [*slopes, z > 0]
    delta, kernel = jnp.ones((len(X), 1), X.dtype), h @ h.T + 1
    for layer, h, slope in zip(net.layers[:0:-1], inputs[::-1], slopes[::-1], strict=True):
        delta = (delta @ layer.weight) * slope
        kernel = kernel + (delta @ delta.T) * (h @ h.T + 1)
    return kernel


def layered(n: int, width: int) -> dict:
    """An MLP of one output against `by_hand`."""
    model = eqx.nn.MLP(100, "scalar", width, 3, key=jax.random.key(1), dtype=jnp.float32)
    X = sphere(n, 100, key=jax.random.key(0)).X.astype(jnp.float32)
    return row(f"MLP 3 x {width} against ten lines for it, n = {n}", model, X, by_hand, 31)


def contraction_of(model: Any, k: int) -> Callable:
    """jax.jacrev for each sample, contracted leaf by leaf."""
    static = eqx.filter(model, eqx.is_array, inverse=True)

    @jax.jit
    def kernel(arrays, X):
        of = lambda x: jax.jacrev(lambda arrays: eqx.combine(arrays, static)(x))(arrays)
        flat = [leaf.reshape(len(X), -1) for leaf in jax.tree.leaves(jax.vmap(of)(X))]
        return sum(leaf @ leaf.T for leaf in flat) / k

    return kernel


class Convolutional(eqx.Module):
    """Two convolutions with pooling on 16 x 16 pixels, and a linear layer."""

    layers: list

    def __init__(self, k: int):
        keys = jax.random.split(jax.random.key(1), 3)
        pool = eqx.nn.Lambda(lambda z: z.reshape(len(z), z.shape[1] // 2, 2, -1, 2).mean((2, 4)))
        relu = eqx.nn.Lambda(jax.nn.relu)
        conv = lambda i, o, key: eqx.nn.Conv2d(i, o, 3, padding=1, key=key, dtype=jnp.float32)
        self.layers = [conv(1, 16, keys[0]), relu, pool, conv(16, 32, keys[1]), relu, pool]
        self.layers += [eqx.nn.Linear(512, k, key=keys[2], dtype=jnp.float32)]

    def __call__(self, x):
        for layer in self.layers[:-1]:
            x = layer(x)
        return self.layers[-1](x.ravel())


@jax.jit
def convolved_by_hand(net, X):
    """The kernel of `Convolutional` with one output layer by layer, as one writes it for that net
    alone: the Jacobian of a convolution is a product with the patches of its input."""
    first, _, _, second, _, _, last = net.layers

    def convolve(x, weight):
        return jax.lax.conv_general_dilated(x, weight, (1, 1), "SAME")

    def pool(h):
        return h.reshape(*h.shape[:2], h.shape[2] // 2, 2, -1, 2).mean((3, 5))

    def unpool(delta):
        return jnp.repeat(jnp.repeat(delta, 2, 2), 2, 3) / 4

    def share(delta, x):
        padded, (h, w) = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), x.shape[2:]
        moved = [padded[:, :, i : i + h, j : j + w] for i in range(3) for j in range(3)]
        J = jnp.einsum("nohw,nsihw->nosi", delta, jnp.stack(moved, 1)).reshape(len(x), -1)
        bias = delta.sum((2, 3))
        return J @ J.T + bias @ bias.T

    one = convolve(X, first.weight) + first.bias[None]
    h = pool(jax.nn.relu(one))
    two = convolve(h, second.weight) + second.bias[None]
    top = pool(jax.nn.relu(two)).reshape(len(X), -1)
    delta = unpool(jnp.broadcast_to(last.weight.reshape(1, 32, 4, 4), (len(X), 32, 4, 4)))
    delta = delta * (two > 0)
    back = convolve(delta, jnp.swapaxes(jnp.flip(second.weight, (2, 3)), 0, 1))
    return top @ top.T + 1 + share(delta, h) + share(unpool(back) * (one > 0), X)


def convolutional(n: int, k: int, by_hand: bool = False) -> dict:
    """A convolutional net against the contraction of its Jacobians, or `convolved_by_hand`."""
    X = jax.random.normal(jax.random.key(0), (n, 1, 16, 16), jnp.float32)
    model = Convolutional(k)
    against = "layers by hand" if by_hand else "contracted Jacobians"
    rival = convolved_by_hand if by_hand else contraction_of(model, k)
    return row(f"convolutions against {against}, n = {n}, {k} outputs", model, X, rival, 21)


class Block(eqx.Module):
    """A transformer block of 64 numbers a token and 4 heads, its tokens averaged."""

    attention: eqx.nn.MultiheadAttention
    norms: list
    layers: list

    def __init__(self, k: int):
        keys = jax.random.split(jax.random.key(1), 4)
        self.attention = eqx.nn.MultiheadAttention(4, 64, key=keys[0], dtype=jnp.float32)
        self.norms = [eqx.nn.LayerNorm(64, dtype=jnp.float32) for _ in range(2)]
        sizes = zip((64, 256, 64), (256, 64, k), keys[1:], strict=True)
        self.layers = [eqx.nn.Linear(i, o, key=key, dtype=jnp.float32) for i, o, key in sizes]

    def __call__(self, x):
        up, down, out = self.layers
        h = jax.vmap(self.norms[0])(x)
        x = x + self.attention(h, h, h)
        x = x + jax.vmap(lambda h: down(jax.nn.gelu(up(self.norms[1](h)))))(x)
        return out(x.mean(0))


def attentive(n: int, k: int) -> dict:
    """A transformer block against the contraction of its Jacobians."""
    X = jax.random.normal(jax.random.key(0), (n, 16, 64), jnp.float32)
    model = Block(k)
    return row(
        f"transformer block against contracted Jacobians, n = {n}, {k} outputs",
        model,
        X,
        contraction_of(model, k),
    )


class Recurrent(eqx.Module):
    """A plain recurrent net of 64 tanh neurons on 28 tokens of 28 numbers."""

    inner: jax.Array
    outer: jax.Array
    bias: jax.Array
    head: eqx.nn.Linear

    def __init__(self, k: int):
        inner, outer, head = jax.random.split(jax.random.key(1), 3)
        self.inner = jax.random.normal(inner, (64, 64), jnp.float32) / 8
        self.outer = jax.random.normal(outer, (64, 28), jnp.float32) / 28**0.5
        self.bias = jnp.zeros(64, jnp.float32)
        self.head = eqx.nn.Linear(64, k, key=head, dtype=jnp.float32)

    def __call__(self, x):
        step = lambda h, x: (jnp.tanh(self.inner @ h + self.outer @ x + self.bias), None)
        return self.head(jax.lax.scan(step, jnp.zeros(64, jnp.float32), x)[0])


@jax.jit
def recurrent_by_hand(net, X):
    """The kernel of `Recurrent` by one scan forward and one back, as one writes it for that net."""

    def forward(h, x):
        after = jnp.tanh(h @ net.inner.T + x @ net.outer.T + net.bias[None])
        return after, (h, after)

    def backward(delta, after):
        delta = delta * (1 - after**2)[:, None]
        return delta @ net.inner, delta

    zero = jnp.zeros((len(X), 64), jnp.float32)
    top, (before, after) = jax.lax.scan(forward, zero, jnp.swapaxes(X, 0, 1))
    start = jnp.broadcast_to(net.head.weight, (len(X), *net.head.weight.shape))
    deltas = jax.lax.scan(backward, start, after, reverse=True)[1]
    flat = [
        jnp.einsum("tnkh,tnj->nkhj", deltas, before).reshape(len(X), -1),
        jnp.einsum("tnkh,ntj->nkhj", deltas, X).reshape(len(X), -1),
        deltas.sum(0).reshape(len(X), -1),
    ]
    return sum(J @ J.T for J in flat) / net.head.weight.shape[0] + top @ top.T + 1


def recurrent(n: int, k: int) -> dict:
    """A recurrent net against `recurrent_by_hand`."""
    X = jax.random.normal(jax.random.key(0), (n, 28, 28), jnp.float32)
    case = f"recurrent net against scans by hand, n = {n}, {k} outputs"
    return row(case, Recurrent(k), X, recurrent_by_hand, 15)


@jax.jit
def recursion(X):
    """The kernel of an infinitely wide ReLU net of depth 3, as one writes it down."""
    S = X @ X.T / X.shape[1]
    ntk = S
    for _ in range(3):
        norm = jnp.sqrt(jnp.diagonal(S))
        norms = norm[:, None] * norm[None, :]
        cos = jnp.clip(S / norms, -1.0, 1.0)
        angle = jnp.arccos(cos)
        S = norms * (jnp.sin(angle) + (jnp.pi - angle) * cos) / (2 * jnp.pi)
        ntk = S + ntk * (jnp.pi - angle) / (2 * jnp.pi)
    return ntk


def infinite(n: int, p: int) -> dict:
    """An infinitely wide net of depth 3 against `recursion`, which loses half the digits near
    duplicates."""
    X = sphere(n, p, key=jax.random.key(0)).X.astype(jnp.float32)
    network = fully_connected_ntk(depth=3)
    mine, baseline = compare(lambda: network(X), lambda: recursion(X), 15)
    return {
        "case": f"infinite width, depth 3, ReLU, n = {n}, p = {p}, float32",
        "seconds": mine,
        "baseline_seconds": baseline,
        "ratio": baseline / mine,
        "gap": float(jnp.max(jnp.abs(network(X).ntk - recursion(X)))),
    }


def prediction(flow: Any, n: int, times: int) -> dict:
    """`predict` at many times against the eigendecomposition that it cannot do without."""
    data = sphere(n, 20, key=jax.random.key(0))
    kernel, start = infinite_ntk(data.X).astype(jnp.float32), -data.y.astype(jnp.float32)
    ts = jnp.linspace(0.0, 100.0, times, dtype=jnp.float32)
    decompose = jax.jit(jnp.linalg.eigh)
    mine, baseline = compare(
        lambda: predict(kernel, start, flow, ts), lambda: decompose(kernel), 15
    )
    return {
        "case": f"predict, {flow.name}, n = {n}, {times} times, {kernel.dtype}",
        "seconds": mine,
        "baseline_seconds": baseline,
        "over_eigendecomposition": mine / baseline,
    }


def ends(n: int, m: int, p: int) -> dict:
    """Both ends of the spectrum by Lanczos, without the matrix, whose bytes are given beside; the
    smallest to a tenth of itself."""
    net, X = setting(n, m, p)
    begin = clock()
    result = extreme_eigenvalues(ntk_operator(net, X), key=jax.random.key(2), order=100, rtol=0.1)
    values = {
        name: float(value)
        for name, value in result._asdict().items()
        if name not in ("steps", "converged")
    }
    seconds = clock() - begin
    return {
        "case": (
            f"extreme eigenvalues, n = {n}, m = {m}, p = {p}, float32, {result.steps} Lanczos steps"
        ),
        "seconds": seconds,
        **values,
        "converged": result.converged,
        "matrix_bytes": 4 * n * n,
    }

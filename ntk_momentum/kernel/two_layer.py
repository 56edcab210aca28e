"""The kernel of the two-layer network in its structured form (2.8), for any elementwise activation.

    hidden layer:  H_ij = s^2 (x_i . x_j) sum_r a_r^2 sigma'(w_r . x_i) sigma'(w_r . x_j)
    output layer:  K_ij = s^2 sum_r sigma(w_r . x_i) sigma(w_r . x_j)

with s = m^{-1/2}. (2.8) is the first with a_r^2 = 1 and ReLU, where sigma' is the 0/1 activation
pattern and the sum a count (`patterns`). Neurons stream through in chunks, so memory is
n^2 + n * chunk, never n * m.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..errors import InputError
from ..network.neurons import equal_parts
from ..network.two_layer import TwoLayerNet
from .patterns import slope_gram

CHUNK_ENTRIES = 2**23
"""Entries of sigma'(X W^T) held at once, over both sets of inputs: 32 MiB in float32."""


def two_layer_ntk(
    net: TwoLayerNet,
    X1: Any,
    X2: Any = None,
    *,
    hidden: bool = True,
    output: bool = False,
    chunk: int | None = None,
) -> Float[Array, "n1 n2"]:
    """The kernel (2.8) of the trained layers, (n1, n2); symmetric to the last bit when X2 is None.

    chunk: neurons held at once. The derivative of the activation is that of its autodiff, so ReLU's
    at 0 is 0. Neurons with a_r = 0 add nothing to the hidden layer's kernel, and those with
    sigma(0) = 0 and w_r = 0 nothing to the output layer's.
    """
    if not (hidden or output):
        raise InputError("nothing is trained: set hidden=True, output=True or both.")
    X1 = _floating(X1)
    Y = X1 if X2 is None else _floating(X2)
    if chunk is None:
        chunk = max(1, CHUNK_ENTRIES // (X1.shape[0] + (0 if X2 is None else Y.shape[0])))
    elif chunk < 1:
        raise InputError(f"chunk must be a positive number of neurons, got {chunk}.")

    def grams(W: Array, a: Array, counted: Array) -> list[Array]:
        """This chunk's share of (sum_r a_r^2 sigma' sigma', sum_r sigma sigma)."""
        parts = []
        if hidden:
            parts.append(slope_gram(net.activation, X1, None if X2 is None else Y, W, a))
        if output:
            value = net.activation(X1 @ W.T) * counted[None, :]
            parts.append(value @ (value if X2 is None else net.activation(Y @ W.T)).T)
        return parts

    sums = _over_chunks(grams, net, min(chunk, net.width))
    scale2 = jnp.square(jnp.asarray(net.scale, sums[0].dtype))
    H = jnp.zeros_like(sums[0])
    if hidden:
        H = H + (X1 @ Y.T) * sums[0]
    if output:
        H = H + sums[-1]
    H = scale2 * H
    return H if X2 is not None else 0.5 * (H + H.T)


def _floating(X: Any) -> Array:
    """Inputs as rows; integers as floats, since x . x' would overflow in theirs."""
    X = jnp.asarray(X).reshape(X.shape[0], -1)
    return X if jnp.issubdtype(X.dtype, jnp.inexact) else X.astype(float)


def _over_chunks(grams: Callable, net: TwoLayerNet, chunk: int) -> list[Array]:
    """The sum of `grams` over chunks of neurons; the last chunk is filled up with neurons that do
    not count."""
    counted = jnp.ones_like(net.output)
    if chunk >= net.width:
        return grams(net.hidden, net.output, counted)
    chunk = -(-net.width // equal_parts(net.width, -(-net.width // chunk)))
    missing = -net.width % chunk
    blocks = [
        jnp.pad(array, ((0, missing),) + ((0, 0),) * (array.ndim - 1)).reshape(
            -1, chunk, *array.shape[1:]
        )
        for array in (net.hidden, net.output, counted)
    ]
    zero = jax.tree.map(
        lambda part: jnp.zeros(part.shape, part.dtype),
        jax.eval_shape(grams, *(block[0] for block in blocks)),
    )
    total, _ = jax.lax.scan(
        lambda carry, block: (jax.tree.map(jnp.add, carry, grams(*block)), None),
        zero,
        tuple(blocks),
    )
    return total

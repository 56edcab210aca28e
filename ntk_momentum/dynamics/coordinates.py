"""The hidden weights of a two-layer net in coordinates of the span of the data: exact, and min(n,
p) columns at most.

f and its gradient see a row w_r through w_r . x_i alone, and every flow here is linear in (w, v,
gradient). So with Q (p, k) an orthonormal basis of the span of the inputs, W Q and X Q obey the
same flow as W and X, and the rest of W never moves. Lengths are kept: residuals, kernels, flips and
displacements are the same numbers. At the end W(t) = W(0) + (W Q(t) - W Q(0)) Q^T.

Where the n <= p inputs are independent, the preactivations Z = W X^T are coordinates too
(`Metric`). An evaluation in them is one product with the Gram matrix, 2 n^2 m flops for 4 n
m k in the span and 4 n m p outside.
"""

from __future__ import annotations

import hashlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, Real

from ..errors import concrete
from ..network.two_layer import TwoLayerNet

WORTH = 0.75
"""Largest k / p that is worth the two products that lead into the span and back."""
CONDITION = 0.01
"""Smallest ratio of the inputs' singular values for which preactivations are used: round-off in w
grows by its inverse."""


KEPT = 2**26
"""Bytes of decompositions that are kept for the next run: one of 1000 inputs with 784 numbers takes
0.3 s on the host, three times what a GPU takes for a batch of runs."""
_KNOWN: dict[Any, Any] = {}


class Span(eqx.Module):
    """The way into reduced coordinates, W -> W into, and back; hidden: W(0) (m, p)."""

    into: Float[Array, "p k"]
    back: Float[Array, "k p"]
    hidden: Float[Array, "m p"]

    def lift(self, net: TwoLayerNet) -> TwoLayerNet:
        """The net on all p coordinates, from the one on k."""
        moved = net.hidden - self.hidden @ self.into
        return eqx.tree_at(lambda net: net.hidden, net, self.hidden + moved @ self.back)

    def lift_change(self, change: PyTree) -> PyTree:
        """A change of the weights, or their velocity, on all p coordinates."""
        if change is None or change.hidden is None:
            return change
        return eqx.tree_at(lambda net: net.hidden, change, change.hidden @ self.back)


class Metric(eqx.Module):
    """What makes preactivations z = W X^T, rows z_r (n,), coordinates of the hidden weights:
    |dw_r|^2 = dz_r . gram^{-1} dz_r.

    gram: X X^T; root: a square root of its inverse, so that dz_r root has the length of dw_r. f
    needs no product, and the gradient of f in z is multiplied by gram.
    """

    gram: Float[Array, "n n"]
    root: Float[Array, "n n"]


class Decomposition(eqx.Module):
    """X = left diag(sizes) rows, of X's rank k to round-off. full: whether X's rows are independent
    and well conditioned.

    left and sizes are None where only an orthonormal basis `rows` of X's row space is known.
    """

    left: Float[Array | np.ndarray, "n k"] | None
    sizes: Float[Array | np.ndarray, " k"] | None
    rows: Float[Array | np.ndarray, "k p"]
    full: bool = eqx.field(static=True)


def decompose(X: Real[Array, "n ..."]) -> Decomposition:
    """By singular values, in float64, once for the same inputs; where X is being traced, its n <= p
    rows are taken to be independent."""
    X = X.reshape(X.shape[0], -1)
    X = X if jnp.issubdtype(X.dtype, jnp.inexact) else X.astype(float)
    known = concrete(X)
    if known is None:
        return Decomposition(None, None, jnp.linalg.qr(X.T)[0].T, False)
    known = np.asarray(known)
    key = (hashlib.blake2b(known.tobytes()).digest(), known.shape, known.dtype)
    if key not in _KNOWN:
        _KNOWN[key] = _decomposed(known)
        while sum(leaf.nbytes for leaf in jax.tree.leaves([*_KNOWN.values()])) > KEPT:
            oldest = _KNOWN.pop(next(iter(_KNOWN)))
            if not _KNOWN:
                return oldest
    return _KNOWN[key]


def _decomposed(X: np.ndarray) -> Decomposition:
    left, sizes, rows = np.linalg.svd(X.astype(np.float64), full_matrices=False)
    rank = int(np.sum(sizes > max(X.shape) * float(jnp.finfo(X.dtype).eps) * sizes[0]))
    full = rank == X.shape[0] and bool(sizes[-1] > CONDITION * sizes[0])
    return Decomposition(left[:, :rank], sizes[:rank], rows[:rank], full)

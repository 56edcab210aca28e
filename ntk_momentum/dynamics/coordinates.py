"""The hidden weights of a two-layer net in coordinates of the span of the data: exact, and min(n,
p) columns at most.

f and its gradient see a row w_r through w_r . x_i alone, and every flow here is linear in (w, v,
gradient). So with Q (p, k) an orthonormal basis of the span of the inputs, W Q and X Q obey the
same flow as W and X, and the rest of W never moves. Lengths are kept: residuals, kernels, flips and
displacements are the same numbers. At the end W(t) = W(0) + (W Q(t) - W Q(0)) Q^T.

Where the n <= p inputs are independent, the preactivations Z = W X^T are coordinates too
(`problem.Metric`). An evaluation in them is one product with the Gram matrix, 2 n^2 m flops for 4 n
m k in the span and 4 n m p outside.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, Real

from ..errors import concrete
from ..network.two_layer import TwoLayerNet
from .objective import Metric, WeightProblem

WORTH = 0.75
"""Largest k / p that is worth the two products that lead into the span and back."""
CONDITION = 0.01
"""Smallest ratio of the inputs' singular values for which preactivations are used: round-off in w
grows by its inverse."""


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
    """By singular values, in float64; where X is being traced, its n <= p rows are taken to be
    independent."""
    X = X.reshape(X.shape[0], -1)
    X = X if jnp.issubdtype(X.dtype, jnp.inexact) else X.astype(float)
    known = concrete(X)
    if known is None:
        return Decomposition(None, None, jnp.linalg.qr(X.T)[0].T, False)
    left, sizes, rows = np.linalg.svd(np.asarray(known, np.float64), full_matrices=False)
    rank = int(np.sum(sizes > max(X.shape) * float(jnp.finfo(X.dtype).eps) * sizes[0]))
    full = rank == X.shape[0] and bool(sizes[-1] > CONDITION * sizes[0])
    return Decomposition(left[:, :rank], sizes[:rank], rows[:rank], full)


def in_span(
    problem: WeightProblem,
    w: PyTree,
    *,
    preactivations: bool = False,
    inputs: Decomposition | None = None,
) -> tuple[WeightProblem, PyTree]:
    """The problem and its weights in the span of its inputs, or as they are where that cannot be
    done or is not worth it.

    For flows, and for optimizers that commute with rotations of w, as all of `method` do and those
    that scale coordinates one by one do not. Read-outs see no coordinates (`readout.Snapshot`), so
    any of them may be read off.

    Args:
        problem: of a two-layer net; any other is left as it is.
        w: its trained weights.
        preactivations: go on to W X^T where the inputs are independent and well conditioned, for
            those who move weights along J^T u alone: Runge-Kutta solvers, and optimizers linear in
            the gradient.
        inputs: the decomposition of the inputs, where it is known; it decides the coordinates to
            the last bit.
    """
    net = problem.model(w)
    if why_not_in_span(problem, net, inputs) is not None:
        return problem, w
    X = problem.X.reshape(problem.X.shape[0], -1)
    inputs = decompose(X) if inputs is None else inputs
    rows, metric = inputs.rows, None
    if preactivations and inputs.full and inputs.left is not None and inputs.sizes is not None:
        # X = left diag(sizes) rows, so z = W X^T has dw_r = dz_r gram^{-1} X, of length |dz_r root|
        root = inputs.left / inputs.sizes[None, :]
        metric = Metric(X @ X.T, jnp.asarray(root, X.dtype))
        span = Span(X.T, jnp.asarray(root @ rows, X.dtype), net.hidden)
        coordinates = jnp.eye(X.shape[0], dtype=X.dtype)
    elif rows.shape[0] <= WORTH * X.shape[1]:
        basis = jnp.asarray(rows, X.dtype).T
        span, coordinates = Span(basis, basis.T, net.hidden), X @ basis
    else:
        return problem, w
    small = eqx.tree_at(lambda net: net.hidden, net, net.hidden @ span.into)
    w, frozen = eqx.partition(small, problem.trained)
    return WeightProblem(
        frozen, problem.trained, coordinates, problem.y, problem.loss, span, metric
    ), w


def why_not_in_span(
    problem: WeightProblem, model: Any, inputs: Decomposition | None = None
) -> str | None:
    """Why the weights stay as they are, or None when they may be reduced."""
    if not isinstance(model, TwoLayerNet):
        return "the model is no TwoLayerNet"
    n, p = problem.X.shape[0], model.hidden.shape[1]
    if inputs is None and concrete(problem.X) is None and n > WORTH * p:
        return "inputs that are being traced have no known rank"
    if min(n, p) <= model.width:
        return None
    return "the decomposition would cost more than many evaluations"

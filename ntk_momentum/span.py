"""The hidden weights of a two-layer net in coordinates of the span of the data: exact, and min(n, p) columns at most.

f and its gradient see a row w_r through w_r . x_i alone, and every flow here is linear in (w, v, gradient). So with Q (p, k) an
orthonormal basis of the span of the inputs, W Q and X Q obey the same flow as W and X, and the rest of W never moves. Lengths are
kept: residuals, kernels, flips and displacements are the same numbers. At the end W(t) = W(0) + (W Q(t) - W Q(0)) Q^T.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .errors import concrete
from .network import TwoLayerNet
from .problem import WeightProblem
from .readout import READOUTS

WORTH = 0.75
"""Largest k / p that is worth the two products that lead into the span and back."""


class Span(eqx.Module):
    """basis: Q (p, k), orthonormal; hidden: W(0) (m, p)."""

    basis: Float[Array, "p k"]
    hidden: Float[Array, "m p"]

    def lift(self, net: TwoLayerNet) -> TwoLayerNet:
        """The net on all p coordinates, from the one on k."""
        moved = net.hidden - self.hidden @ self.basis
        return eqx.tree_at(lambda net: net.hidden, net, self.hidden + moved @ self.basis.T)


def in_span(problem: WeightProblem, w: PyTree, readouts: Mapping[str, Any]) -> tuple[WeightProblem, PyTree]:
    """The problem and its weights in the span of its inputs, or as they are where that cannot be done or is not worth it.

    For flows, and for optimizers that commute with rotations of w, as all of `method` do and those that scale coordinates do not.
    """
    net = problem.model(w)
    if why_not_in_span(problem, net, readouts) is not None:
        return problem, w
    X = problem.X.reshape(problem.X.shape[0], -1)
    basis = _basis(X)
    if basis.shape[1] > WORTH * X.shape[1]:
        return problem, w
    small = eqx.tree_at(lambda net: net.hidden, net, net.hidden @ basis)
    w, frozen = eqx.partition(small, problem.trained)
    return WeightProblem(frozen, problem.trained, X @ basis, problem.y, problem.loss, Span(basis, net.hidden)), w


def why_not_in_span(problem: WeightProblem, model: Any, readouts: Mapping[str, Any]) -> str | None:
    """Why the weights stay as they are, or None when they may be reduced."""
    if not isinstance(model, TwoLayerNet):
        return "the model is no TwoLayerNet"
    if any(all(readout is not known for known in READOUTS.values()) for readout in readouts.values()):
        return "a read-out of the user's may look at the weights"
    n, p = problem.X.shape[0], model.hidden.shape[1]
    if concrete(problem.X) is None and n > WORTH * p:
        return "inputs that are being traced have no known rank"
    return None if min(n, p) <= model.width else "the decomposition would cost more than many evaluations"


def _basis(X: Float[Array, "n p"]) -> Float[Array, "p k"]:
    """Q: k is the rank of X to round-off, or n where X is being traced."""
    known = concrete(X)
    if known is None:
        return jnp.linalg.qr(X.T)[0]
    _, sizes, rows = np.linalg.svd(np.asarray(known, np.float64), full_matrices=False)
    rank = int(np.sum(sizes > max(X.shape) * float(jnp.finfo(X.dtype).eps) * sizes[0]))
    return jnp.asarray(rows[:rank].T, X.dtype)

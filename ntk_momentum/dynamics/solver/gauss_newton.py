"""A model and its loss to second order about some weights: the Jacobian, and Gauss and Newton's
curvature of the loss in its outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ...kernel.tangent import linear_maps
from ...loss import output_gradient, squared


class Linearised(NamedTuple):
    """The Jacobian J and the loss's curvature C = R R^T at some weights.

    push: v -> J v and pull: u -> J^T u, u (N,); root: R, and inverse: R^-1, on (N,) and (N, k).
    """

    push: Callable[[PyTree], Array]
    pull: Callable[[Array], PyTree]
    root: Callable[[Array], Array]
    inverse: Callable[[Array], Array]

    @staticmethod
    def at(problem: Any, w: PyTree) -> Linearised:
        f, push, pull = linear_maps(problem.f, w)
        root, inverse = _curvature(problem.loss_function, f, problem.y)
        return Linearised(
            lambda v: push(v).reshape(-1), lambda u: pull(u.reshape(f.shape)), root, inverse
        )

    def start(self, force: Array, v: PyTree) -> tuple[Array, Array | None]:
        """(u, du/dt) = (R^-1 g, R^T J v): R^T and not R^-1, since g moves by C J v."""
        rate = None if v is None else self.root(self.push(v))
        return self.inverse(force), rate

    def product(self, u: Array) -> Array:
        """R^T J J^T R u, (N,); R is symmetric."""
        return self.root(self.push(self.pull(self.root(u))))


def _curvature(loss: Any, f: Array, y: Array) -> tuple[Callable, Callable]:
    """The symmetric square root of the loss's curvature in f, sample by sample, and its inverse.

    Curvatures are at least a small part of the largest: a force that the loss does not bend at all,
    such as Huber's beyond delta, then stays as it is to that part.
    """
    if loss is squared:
        return (lambda u: u), (lambda u: u)
    outputs = f.shape[1] if f.ndim == 2 else 1

    def column(j: int) -> Array:
        ones = jnp.zeros((f.shape[0], outputs), f.dtype).at[:, j].set(1).reshape(f.shape)
        return jax.jvp(lambda f: output_gradient(loss, f, y), (f,), (ones,))[1]

    blocks = jnp.stack([column(j).reshape(-1, outputs) for j in range(outputs)], axis=2)
    values, vectors = jnp.linalg.eigh((blocks + blocks.swapaxes(1, 2)) / 2)
    least = jnp.sqrt(jnp.finfo(f.dtype).eps)
    values = jnp.maximum(values, least * jnp.maximum(jnp.max(values), least))

    def power(exponent: float) -> Callable[[Array], Array]:
        matrices = jnp.einsum("nij,nj,nkj->nik", vectors, values**exponent, vectors)

        def product(u: Array) -> Array:
            columns = u.reshape(f.shape[0], outputs, -1)
            return jnp.einsum("nij,njc->nic", matrices, columns).reshape(u.shape)

        return product

    return power(0.5), power(-0.5)

"""Functions of a symmetric matrix, and their derivatives by the matrix, also where eigenvalues
repeat.

Eigenvectors have no derivative where eigenvalues meet, functions of the matrix do (Daleckii and
Krein): with H = U Lambda U^T and K = U^T dH U,

    d f(H) = U (D o K) U^T,   D_ij = (f(lambda_i) - f(lambda_j)) / (lambda_i - lambda_j),

f'(lambda) where the two are one. So U counts as a constant, and H in its basis, Lambda + K, is what
moves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..errors import InputError


class Eigenbasis(NamedTuple):
    """The eigenbasis of a symmetric matrix, ascending. `vectors` are constant under
    differentiation; `moved` is zero, and its tangent U^T dH U. Where nobody differentiates, the
    compiler removes it. None where eigenvalues and vectors are given by themselves."""

    eigenvalues: Float[Array, " N"]
    vectors: Float[Array, "N N"]
    moved: Float[Array, "N N"] | None


@jax.custom_jvp
def eigenbasis(matrix: Float[Array, "N N"]) -> Eigenbasis:
    """The eigenbasis of a symmetric matrix."""
    eigenvalues, vectors = jnp.linalg.eigh(matrix, symmetrize_input=False)
    return Eigenbasis(eigenvalues, vectors, jnp.zeros_like(matrix))


@eigenbasis.defjvp
def _basis_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Eigenbasis, Eigenbasis]:
    found = eigenbasis(*primals)
    moved = found.vectors.T @ tangents[0] @ found.vectors
    return found, Eigenbasis(jnp.diagonal(moved), jnp.zeros_like(found.vectors), moved)


def by_matrix(at: Eigenbasis, x: Float[Array, "*T N c"]) -> Float[Array, "*T N c"]:
    """H x in the basis: lambda x."""
    scale = lambda eigenvalues, _, columns: eigenvalues[:, None] * columns
    if x.ndim == 2:
        return function_of(scale, at, (), x)
    return jax.vmap(lambda x: function_of(scale, at, (), x))(x)


@eqx.filter_custom_jvp
def _function_of(function: Callable, at: Eigenbasis, rest: PyTree, columns: PyTree) -> PyTree:
    return function(at.eigenvalues, rest, columns)


def function_of(function: Callable, at: Eigenbasis, rest: PyTree, columns: PyTree) -> PyTree:
    """function(eigenvalues, rest, columns), with the derivative of the matrix function that it is.

    Args:
        function: Acts on each eigenvalue by itself and is linear in the columns.
        at: The basis.
        rest: What else it depends on.
        columns: A tree of arrays (N,) or (N, c), along the eigenvectors.

    Returns:
        A tree of arrays (..., N) or (..., N, c), as the columns are.
    """
    if at.moved is None:
        return function(at.eigenvalues, rest, columns)
    return _function_of(function, at, rest, columns)


@_function_of.def_jvp
def _function_of_jvp(primals: PyTree, tangents: PyTree) -> tuple[PyTree, PyTree]:
    function, at, rest, columns = primals
    _, rate, *others = tangents
    moves = lambda *pair: function(at.eigenvalues, *pair)
    out, out_rate = eqx.filter_jvp(moves, (rest, columns), tuple(others))
    if rate is None or rate.moved is None:
        return out, out_rate
    # What a column of ones along one input becomes: f and f' at the eigenvalues.
    leaves, structure = jax.tree.flatten(columns)
    eigenvalues, moved = at.eigenvalues, _once(at.moved) + rate.moved
    for k, column in enumerate(leaves):
        ones = [jnp.full(x[..., :1].shape if x.ndim > 1 else x.shape, j == k, x.dtype)
                for j, x in enumerate(leaves)]  # fmt: skip
        alone = lambda lam, ones=ones: function(lam, rest, jax.tree.unflatten(structure, ones))
        f, slope = jax.jvp(alone, (eigenvalues,), (jnp.ones_like(eigenvalues),))
        change = lambda f, slope, x=column: _coupled(eigenvalues, f, slope, moved, x)
        out_rate = jax.tree.map(lambda a, b: b if a is None else a + b, out_rate,
                                jax.tree.map(change, f, slope),
                                is_leaf=lambda leaf: leaf is None)  # fmt: skip
    return out, out_rate


def _coupled(eigenvalues: Array, f: Array, slope: Array, moved: Array, x: Array) -> Array:
    """(D o K) x, for each of the functions in the leading axes of f and f'; nothing for a number,
    which does not depend on the eigenvalues."""
    if f.ndim == 0:
        return jnp.zeros_like(f)
    flat = x.ndim == 1
    x = x[:, None] if flat else x
    f, slope = (v if flat else v[..., 0] for v in (f, slope))  # (..., N)
    gap = eigenvalues[:, None] - eigenvalues[None, :]

    @jax.checkpoint
    def one(pair: tuple[Array, Array]) -> Array:
        f, slope = pair
        # The quotient loses eps |f| / gap to cancellation, the mean of f' at the two ends is wrong
        # by gap^2 f'''/12: where the gap is below eps^(1/3) of the scale on which f changes, |f| /
        # |f'|, the second is the smaller.
        near = jnp.abs(gap) * jnp.max(jnp.abs(slope)) <= jnp.finfo(f.dtype).eps ** (1 / 3) * (
            jnp.max(jnp.abs(f))
        )
        near = near | (gap == 0)
        quotient = (f[:, None] - f[None, :]) / jnp.where(near, 1.0, gap)
        return (jnp.where(near, (slope[:, None] + slope[None, :]) / 2, quotient) * moved) @ x

    rows = jax.lax.map(one, (f.reshape(-1, f.shape[-1]), slope.reshape(-1, f.shape[-1])))
    rows = rows.reshape(*f.shape, x.shape[1])
    return rows[..., 0] if flat else rows


@jax.custom_jvp
def _once(moved: Array) -> Array:
    return moved


@_once.defjvp
def _twice(*_: Any) -> Any:
    raise InputError(
        "second derivatives by a kernel, of nm.predict or through nm.LazyExponential, do not "
        "exist; take difference quotients of the first ones, or jax.jacfwd(jax.jacfwd(...)) with "
        "solver=nm.RungeKutta()."
    )

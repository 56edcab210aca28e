"""Functions of a kernel times a few vectors from a few products: block Lanczos with full
reorthogonalisation.

From the orthonormal rows Q_1 of S = W_1^T Q_1, the vectors started from, each product extends a
basis Q of the Krylov space span(S, H S, ..., H^{k-1} S), on which H acts as a small matrix,

    H Q^T = Q^T T + Q_{k+1}^T B E_k^T,   T = Q H Q^T = V diag(theta) V^T,

theta the Ritz values. Then phi(H) S ~ Q^T V phi(theta) V^T E_1 W_1, exact for polynomials of
degree below k. The theory is Paige's and Saad's (Saad 2011, chapters 6 and 10; Golub and Meurant
2010 for the bounds of quadratic forms).

Each new vector is orthogonalised against all before it twice, which keeps them orthogonal to
round-off (Giraud, Langou and Rozloznik 2005), in arrays whose rows beyond the basis are zero. So
are the rows of what a block no longer adds: where the space is exhausted, or the vectors of a block
depend on each other, T has a zero row and column, decoupled from the start, and phi(theta) of them
has no weight.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..errors import InputError, concrete
from ..progress import report

_NOTHING = 4.0
"""What is left of a vector counts as zero below so many times round-off of the largest product.
Chosen: more would drop directions that late times need; less lets round-off in, which is harmless,
since its coupling to the rest is round-off."""


class Lanczos(eqx.Module):
    """A Krylov basis: rows `basis`, (capacity, N), orthonormal or zero; `coefficients`, whose
    column j holds Q H q_j; `weights`, (width, columns), of the start in its first `width` rows;
    `scale`, the largest |H q_j|."""

    basis: Float[Array, "capacity N"]
    coefficients: Float[Array, "capacity capacity"]
    weights: Float[Array, "width columns"]
    scale: Float[Array, ""]

    @property
    def width(self) -> int:
        """Vectors that a product acts on."""
        return self.weights.shape[0]

    @property
    def capacity(self) -> int:
        """Products that there is room for; one more block holds what the last one left over."""
        return self.basis.shape[0] // self.width - 1


def started(start: Float[Array, "columns N"], products: int) -> Lanczos:
    """The basis of the vectors started from, with room for so many products."""
    width, size = start.shape
    rows = width * (products + 1)
    largest = jnp.sqrt(jnp.max(jnp.sum(jnp.square(start), axis=1)))
    basis, weights = orthogonal(
        jnp.zeros((rows, size), start.dtype), start, jnp.asarray(0), largest
    )
    empty = jnp.zeros((rows, rows), start.dtype)
    return Lanczos(basis, empty, weights[:width], jnp.zeros((), start.dtype))


def resized(run: Lanczos, products: int) -> Lanczos:
    """The same basis with room for so many products: more, or what is filled."""
    rows = run.width * (products + 1)
    more = max(0, rows - run.basis.shape[0])
    fit = lambda a, *axes: jnp.pad(a, axes)
    return Lanczos(
        fit(run.basis, (0, more), (0, 0))[:rows],
        fit(run.coefficients, (0, more), (0, more))[:rows, :rows],
        run.weights,
        run.scale,
    )


def extend(
    run: Lanczos,
    operator: Any,
    first: int | Int[Array, ""],
    last: int | Int[Array, ""],
    told: bool = False,
) -> Lanczos:
    """Products number first, ..., last - 1. With Python's numbers differentiable in reverse mode
    too, as whole numbers of jax one program for all of them. told: to whom is watching."""

    def step(k: Array, run: Lanczos) -> Lanczos:
        if told:
            report(k, last)
        width = run.width
        block = jax.lax.dynamic_slice_in_dim(run.basis, k * width, width)
        moved = apply(operator, block)
        size = jnp.sqrt(jnp.max(jnp.sum(jnp.square(moved), axis=1)))
        scale = jnp.maximum(run.scale, jax.lax.stop_gradient(size))
        basis, columns = orthogonal(run.basis, moved, (k + 1) * width, scale)
        filled = jax.lax.dynamic_update_slice_in_dim(run.coefficients, columns, k * width, 1)
        return Lanczos(basis, filled, run.weights, scale)

    with jax.default_matmul_precision("highest"):
        return jax.lax.fori_loop(first, last, step, run)


def apply(operator: Any, block: Float[Array, "width N"]) -> Float[Array, "width M"]:
    """Rows times an operator, or a symmetric matrix, or by a function of one."""
    if isinstance(operator, jax.Array | np.ndarray):
        return block @ operator
    if callable(operator):
        return jax.vmap(operator)(block)
    shape = operator.in_structure().shape
    return jax.vmap(lambda v: operator.mv(v.reshape(shape)).reshape(-1))(block)


def orthogonal(
    basis: Array, block: Array, at: int | Array, scale: Array
) -> tuple[Float[Array, "capacity N"], Float[Array, "capacity width"]]:
    """The basis with what rows add to it, written from row `at` on, and their coefficients in
    it."""
    floor = _NOTHING * jnp.finfo(block.dtype).eps * scale
    within = basis @ block.T
    block = block - within.T @ basis

    # after the pass above one more is enough for a single vector; those of a block, which have
    # lost what they share with each other by then, need two
    def add(carry: tuple, i: Array) -> tuple:
        basis, within = carry
        vector, found = block[i], within[:, i]
        for _ in range(1 if block.shape[0] == 1 else 2):
            again = basis @ vector
            vector, found = vector - again @ basis, found + again
        square = jnp.sum(jnp.square(vector))
        seen = square > floor**2
        norm = jnp.sqrt(jnp.where(seen, square, 1.0))
        vector = jnp.where(seen, vector / norm, 0.0)
        found = found.at[at + i].set(jnp.where(seen, norm, 0.0))
        return (basis.at[at + i].set(vector), within.at[:, i].set(found)), None

    return jax.lax.scan(add, (basis, within), jnp.arange(block.shape[0]))[0]


class Modes(eqx.Module):
    """The modes that a few products with a kernel H find: what `nm.modes` returns, and `predict`,
    `spectrum` and `advise` take in a kernel's place, for every flow, time and hyperparameter.

        Delta(t) ~ sum_j phi(theta_j, t) c_j v_j,   Delta(0) = sum_j c_j v_j

    with theta_j the Ritz values, each a mean of eigenvalues weighted by what Delta(0) has in them,
    and v_j orthonormal Ritz vectors (one of many eigenvectors of a repeated eigenvalue: the one
    along Delta(0)). (2.5), (3.5) and (4.3) move each c_j alone.

    Args:
        values: theta, (K,), ascending; K is the products times the columns of Delta(0), less what
            an exhausted space did not add.
        vectors: v, in columns, (N, K).
        start: c, (K, columns).
        velocity: The same of Delta'(0), or None.
        tail: B E_k^T V, (columns, K): what a product with the last block had outside of the
            space, and the same of the block before it.
        last: B, its size being what H v_j - theta_j v_j is bounded by.
        products: How many products were taken, of `columns` vectors each.
        shape: Of Delta, (n,) or (n, k).
        tol: What `predict` holds its error against, as a share of |Delta(0)|.

    Raises:
        TypeError: If a field is left out; it is made by `modes`.

    Examples:
        >>> found = nm.modes(np.diag([1.0, 2.0, 2.0]), np.ones(3))
        >>> found.values.round(6).tolist(), found.products
        ([1.0, 2.0], 2)
    """

    values: Float[Array, " K"]
    vectors: Float[Array, "N K"]
    start: Float[Array, "K columns"]
    velocity: Float[Array, "K columns"] | None
    tail: Float[Array, "tails K"]
    last: Float[Array, "width width"]
    products: int = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)
    tol: float = eqx.field(static=True)

    @property
    def columns(self) -> int:
        """Vectors that each product acted on."""
        return self.last.shape[0]

    @property
    def errors(self) -> Float[Array, " K"]:
        """|H v_j - theta_j v_j|: within it of theta_j there is an eigenvalue."""
        return jnp.sqrt(jnp.sum(jnp.square(self.tail[: self.columns]), axis=0))


def exhausted(run: Lanczos, done: int) -> int | None:
    """After how many products there was nothing new, if before or at the last one."""
    rows = _filled(run).reshape(-1, run.width)[: done + 1].any(axis=1)
    return None if rows.all() else int(np.argmin(rows))


def _filled(run: Lanczos) -> np.ndarray:
    """Which rows hold a vector."""
    return np.asarray(jnp.any(run.basis != 0, axis=1))


def small(
    run: Lanczos, products: int, moving: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray]:
    """(values, start, velocity, tail) of `ritz`, on the host and without the vectors."""
    values, V, last = _tridiagonal(run, products, np)
    return values, *_ends(run, products, V, last, moving, np)


def ritz(
    run: Lanczos, products: int, shape: tuple[int, ...], tol: float, moving: bool = False
) -> Modes:
    """The modes after so many products. moving: the second half of the columns are velocities."""
    xp = jnp if concrete(run.coefficients) is None else np
    values, V, last = _tridiagonal(run, products, xp)
    start, velocity, tails = _ends(run, products, V, last, moving, xp)
    if xp is np:
        _check(run, products)
    with jax.default_matmul_precision("highest"):
        vectors = run.basis[: products * run.width].T @ jnp.asarray(V)
    values, start, tails, last = (jnp.asarray(x) for x in (values, start, tails, last))
    velocity = None if velocity is None else jnp.asarray(velocity)
    return Modes(values, vectors, start, velocity, tails, last, products, shape, tol)


def _tridiagonal(run: Lanczos, products: int, xp: Any) -> tuple[Any, Any, Any]:
    """(Ritz values, eigenvectors of T, B); of rows that are no vectors nothing, under a trace of
    eigenvalue 0."""
    size = products * run.width
    coefficients = xp.asarray(run.coefficients)
    T, last = coefficients[:size, :size], coefficients[size:, size - run.width : size]
    T, last = (T + T.T) / 2, last[: run.width]
    if xp is jnp:
        return *jnp.linalg.eigh(T, symmetrize_input=False), last
    kept = np.flatnonzero(_filled(run)[:size])
    values, inner = np.linalg.eigh(T[np.ix_(kept, kept)])
    V = np.zeros((size, len(kept)), T.dtype)
    V[kept] = inner
    return values, V, last


def _ends(
    run: Lanczos, products: int, V: Any, last: Any, moving: bool, xp: Any
) -> tuple[Any, Any, Any]:
    """(start, velocity, tail) along the eigenvectors of T."""
    width, size = run.width, products * run.width
    start = V[:width].T @ xp.asarray(run.weights)
    tail = last @ V[size - width :]
    before = V[size - 2 * width : size - width] if products > 1 else 0 * tail
    tails = xp.concatenate([tail, before * xp.sqrt(xp.sum(last**2))])
    half = start.shape[1] // 2
    return (start[:, :half], start[:, half:], tails) if moving else (start, None, tails)


def _check(run: Lanczos, products: int) -> None:
    size, scale = products * run.width, float(run.scale)
    T = np.asarray(run.coefficients)[:size, :size]
    if not np.isfinite(scale) or not np.all(np.isfinite(T)):
        raise InputError("the kernel's products are not finite: it holds NaN or infinite values.")
    gap = np.max(np.abs(np.tril(T, -1) - np.triu(T, 1).T))
    if gap > np.sqrt(np.finfo(T.dtype).eps) * scale:
        raise InputError(
            "the kernel must be symmetric, and its products do not come back alike; their "
            f"difference reaches {gap:.2g}, |H| {scale:.2g}. Did you pass test rows, or a model "
            "that draws random numbers?"
        )

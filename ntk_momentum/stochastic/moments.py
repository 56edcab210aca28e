"""The second moments of a linear method on mini-batches of a constant kernel H = U Lambda U^T.

The step of a mode q is z_q <- P z_q + g lambda_q (Delta_q + xi_q), see `linear` and `sampling`, so
that z = (mean, covariance) obeys

    E z_q    <- M_q E z_q                               the full batch's own recursion
    S_qq'    <- M_q S_qq' M_q'^T + g g^T N_qq',         S_qq' = cov(z_q, z_q')/(lambda_q lambda_q')
    N        =  tau (n U^T diag(U A U^T) U - A),        A = E Delta Delta^T in the eigenbasis

exactly, for batches drawn afresh in each step: E[xi | past] = 0. Divided by the eigenvalues it is
the covariance of what moves the weights, c with Delta = Delta_0 + H c, and test points, whose
kernel rows are K*, have the covariance K* U S U^T K*^T. All columns of outputs that share H share
its recursion; their covariances are summed.

Mode-diagonal closure: in eigenvectors spread over all samples, U^T diag(.) U is near its mean
tr(A)/n, and only the diagonal of S is left,

    N_qq = tau (n sum_i U_iq^2 d_i - A_qq),   d = diag(U A U^T),   near   tau (tr A - A_qq)

s (s + 1)/2 numbers a mode, in place of n^2. d is taken of the whole mean, which is known, and of
the variances along the modes; it changes slowly, and is not formed anew at every step. An
eigenvalue may stand for several, with a multiplicity, as Ritz values do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..progress import report
from .linear import LinearSteps

REFRESHED = 8
"""Where the closure's noise lies is looked at anew after each step k for k/8 more. Chosen: on
digits the errors are those of looking at every step, and 1,000 steps look 47 times."""
Blocks = tuple[tuple[Array, ...], ...]
"""S, s x s blocks of what the modes have, (N, N) or (N,)."""


class SecondMoments(NamedTuple):
    """At each saved step: E Delta in the eigenbasis, what moves the weights on the mean (see
    `nm.predict`), the variance along each eigenvector (summed over columns), that of each test
    point, and |cov Delta|_F^2 and E Delta . cov(Delta) E Delta, of the loss's spread."""

    mean: Float[Array, "T N columns"]
    dual: Float[Array, "T N columns"]
    variance: Float[Array, "T N"]
    test_variance: Float[Array, "T M"] | None
    square: Float[Array, " T"]
    aligned: Float[Array, " T"]


@eqx.filter_jit
def exact_moments(
    steps: LinearSteps,
    saved: Int[Array, " T"],
    eigenvalues: Float[Array, " N"],
    vectors: Float[Array, "N N"],
    start: Float[Array, "N columns"],
    tau: float | Array,
    outputs: int,
    rows: Float[Array, "M N"] | None,
    told: bool = False,
) -> SecondMoments:
    """Moments at the saved step counts. start: in the eigenbasis. vectors: U, a sample's outputs
    in `outputs` rows one after another. rows: K* U."""
    s, size = steps.size, len(eigenvalues)
    parts, noise = _parts(size), _noise(vectors, outputs)
    pairs = [(eigenvalues[rows, None], eigenvalues[None, columns]) for rows, columns in parts]

    def step(k: Array, carry: tuple) -> tuple:
        mean, dual, cov = carry
        P, g = jax.lax.optimization_barrier((steps.carry[k], steps.push[k]))
        A = [
            mean[0][rows] @ mean[0][columns].T + lam * S[0][0] * mu
            for (rows, columns), (lam, mu), S in zip(parts, pairs, cov, strict=True)
        ]
        cov = tuple(
            covariance_step(P, g, lam, mu, S, tau * N)
            for (lam, mu), S, N in zip(pairs, cov, noise(A), strict=True)
        )
        return *_mean_step(P, g, eigenvalues, mean, dual), cov

    def read(mean: Array, dual: Array, cov: tuple[Blocks, ...]) -> SecondMoments:
        top = cov[-1][0][0]
        for above, *_ in cov[-2::-1]:
            h = len(above[0])
            top = jnp.concatenate([above[0], jnp.concatenate([above[0][:, h:].T, top], axis=1)])
        scaled = eigenvalues[:, None] * top * eigenvalues[None, :]
        return SecondMoments(
            mean[0],
            dual[0],
            jnp.diagonal(scaled),
            None if rows is None else jnp.einsum("mq,qr,mr->m", rows, top, rows),
            jnp.sum(scaled**2),
            jnp.einsum("qc,qr,rc->", mean[0], scaled, mean[0]),
        )

    zero = jnp.zeros((s, *start.shape), start.dtype)
    still = tuple(no_covariance(s, (len(lam), mu.size), start.dtype) for lam, mu in pairs)
    return _course(step, read, (zero.at[0].set(start), zero, still), saved, told)


def _parts(size: int) -> list[tuple[slice, slice]]:
    """(rows, columns) of the blocks that a symmetric matrix is kept in: its upper half and the
    corner below, three quarters of it, without the block that is another's transpose. More blocks
    leave out more, and their products are slower. Small matrices are kept whole."""
    h = size // 2 if size >= 64 else size
    return [(slice(0, h), slice(0, size)), (slice(h, size), slice(h, size))][: 1 + (h < size)]


def _noise(vectors: Array, outputs: int) -> Callable[[list[Array]], list[Array]]:
    """A -> n U^T diag(U A U^T) U - A in the blocks of `_parts`, with the blocks of a sample's
    outputs for the diagonal."""
    size = len(vectors)
    n, transposed, parts = size // outputs, vectors.T, _parts(size)
    U = vectors.reshape(n, outputs, size)
    ones, barrier = jnp.ones(size, vectors.dtype), jax.lax.optimization_barrier
    # what lies to the right of a block's own square stands for its transpose too
    times = [jnp.where(jnp.arange(size)[q] < r.stop, 1.0, 2.0).astype(U.dtype) for r, q in parts]

    # On a CPU, XLA writes a product that it fuses with what follows as a plain loop, ten times
    # slower than its library's: hence the barriers, and the sum over a row as a product.
    def noise(A: list[Array]) -> list[Array]:
        D = jnp.zeros((), vectors.dtype)
        for (r, q), block, weight in zip(parts, A, times, strict=True):
            half = barrier(vectors[:, r] @ barrier(block * weight[None, :]))
            if outputs == 1:
                D = D + (half * vectors[:, q]) @ ones[q]
            else:
                D = D + jnp.einsum("iaq,ibq->iab", half.reshape(n, outputs, -1), U[:, :, q])
        if outputs == 1:
            turned = barrier(transposed * D[None, :])
        else:
            D = (D + D.transpose(0, 2, 1)) / 2
            turned = barrier(jnp.einsum("iab,ibq->iaq", D, U).reshape(size, size).T)
        return [
            n * barrier(turned[r] @ vectors[:, q]) - block
            for (r, q), block in zip(parts, A, strict=True)
        ]

    return noise


def _mean_step(
    P: Array, g: Array, eigenvalues: Array, mean: Array, dual: Array
) -> tuple[Array, Array]:
    """The full batch's step of the modes and of the dual variable, (s, N, columns) each."""
    carry = lambda z: jnp.einsum("ab,bnc->anc", P, z)
    push = g[:, None, None] * mean[:1]
    return carry(mean) + eigenvalues[None, :, None] * push, carry(dual) + push


def covariance_step(P: Array, g: Array, lam: Array, mu: Array, cov: Blocks, N: Array) -> Blocks:
    """M_q S M_q'^T + g g^T N for all pairs at once, entry by entry: s is 3 at most. lam, mu:
    the eigenvalues of q and q', to broadcast against each block."""
    every = range(len(g))
    left = [
        [sum(P[a, c] * cov[c][b] for c in every) + g[a] * lam * cov[0][b] for b in every]
        for a in every
    ]
    return tuple(
        tuple(
            sum(P[b, c] * left[a][c] for c in every) + g[b] * mu * left[a][0] + g[a] * g[b] * N
            for b in every
        )
        for a in every
    )


def no_covariance(s: int, shape: tuple[int, ...], dtype: Any) -> Blocks:
    """The covariance of a start that is known: s x s blocks, apart because XLA does not fuse what
    writes into one array."""
    return tuple(tuple(jnp.zeros(shape, dtype) for _ in range(s)) for _ in range(s))


def _course(step: Callable, read: Callable, begin: tuple, saved: Array, told: bool) -> Any:
    """`read` of the state at each saved step count, from `begin` at 0."""

    def counted(k: Array, state: tuple) -> tuple:
        report(k, saved[-1], k % (1 + saved[-1] // 100) == 0)
        return step(k, state)

    def segment(carry: tuple, end: Array) -> tuple:
        k, state = carry
        state = jax.lax.fori_loop(k, end, counted if told else step, state)
        return (end, state), read(*state)

    return jax.lax.scan(segment, (jnp.zeros_like(saved[0]), begin), saved)[1]


@eqx.filter_jit
def closure_moments(
    steps: LinearSteps,
    saved: Int[Array, " T"],
    eigenvalues: Float[Array, " N"],
    multiplicity: Float[Array, " N"],
    start: Float[Array, "N columns"],
    tau: float | Array,
    outputs: int,
    rows: Float[Array, "M N"] | None,
    vectors: Float[Array, "n p"] | None = None,
    shares: Float[Array, "n N"] | None = None,
    told: bool = False,
) -> SecondMoments:
    """The mode-diagonal closure. multiplicity: of each eigenvalue; one that carries the error and
    stands for none of its own has 0. vectors: of the first ones, which carry the error; shares: of
    the variance along each, in each number of the error; without them errors are taken to be spread
    evenly."""
    s = steps.size
    lam2 = eigenvalues**2

    def uneven(mean: Array, cov: Array) -> Array:
        """N sum_i U_iq^2 d_i over sum_i d_i, d the errors squared."""
        assert vectors is not None and shares is not None
        d = jnp.sum((vectors @ mean[: vectors.shape[1]]) ** 2, axis=1)
        d = d + shares @ (multiplicity * lam2 * cov)
        total = jnp.sum(d)
        return jnp.where(total > 0, len(d) * (d @ shares) / jnp.where(total > 0, total, 1.0), 1.0)

    def step(k: Array, carry: tuple) -> tuple:
        mean, dual, cov, factors, due = carry
        P, g = jax.lax.optimization_barrier((steps.carry[k], steps.push[k]))
        own = jnp.sum(mean[0] ** 2, axis=1) + lam2 * cov[0][0]
        total = jnp.sum(mean[0] ** 2) + jnp.sum(multiplicity * lam2 * cov[0][0])
        if shares is not None:
            factors, due = jax.lax.cond(
                k >= due,
                lambda: (uneven(mean[0], cov[0][0]), k + 1 + k // REFRESHED),
                lambda: (factors, due),
            )
        N = tau * (factors * total / outputs - own)
        cov = covariance_step(P, g, eigenvalues, eigenvalues, cov, N)
        return *_mean_step(P, g, eigenvalues, mean, dual), cov, factors, due

    def read(mean: Array, dual: Array, cov: Blocks, *_: Array) -> SecondMoments:
        spread = multiplicity * lam2 * cov[0][0]
        return SecondMoments(
            mean[0],
            dual[0],
            spread,
            None if rows is None else (rows**2) @ cov[0][0],
            jnp.sum(spread * lam2 * cov[0][0]),
            jnp.sum(mean[0] ** 2 * (lam2 * cov[0][0])[:, None]),
        )

    zero = jnp.zeros((s, *start.shape), start.dtype)
    still = no_covariance(s, eigenvalues.shape, start.dtype)
    begin = zero.at[0].set(start), zero, still, jnp.ones_like(eigenvalues), jnp.zeros((), jnp.int32)
    return _course(step, read, begin, saved, told)

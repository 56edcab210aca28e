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

    N_qq = tau (tr A - A_qq)

s (s + 1)/2 numbers a mode, in place of n^2. An eigenvalue may stand for several, with a
multiplicity, as Ritz values do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .linear import LinearSteps

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
) -> SecondMoments:
    """Moments at the saved step counts. start: in the eigenbasis. vectors: U, a sample's outputs
    in `outputs` rows one after another. rows: K* U."""
    s, size = steps.size, len(eigenvalues)
    noise = _noise(vectors, outputs)

    def step(k: Array, carry: tuple[Array, Array, Blocks]) -> tuple[Array, Array, Blocks]:
        mean, dual, cov = carry
        P, g = jax.lax.optimization_barrier((steps.carry[k], steps.push[k]))
        N = tau * noise(_second(eigenvalues, mean[0], cov[0][0]))
        cov = covariance_step(P, g, eigenvalues[:, None], eigenvalues[None, :], cov, N)
        return *_mean_step(P, g, eigenvalues, mean, dual), cov

    def read(mean: Array, dual: Array, cov: Blocks) -> SecondMoments:
        top = cov[0][0]
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
    begin = zero.at[0].set(start), zero, no_covariance(s, (size, size), start.dtype)
    return _course(step, read, begin, saved)


def _noise(vectors: Array, outputs: int) -> Callable[[Array], Array]:
    """A -> n U^T diag(U A U^T) U - A, with the blocks of a sample's outputs for its diagonal."""
    size = len(vectors)
    n, h, transposed = size // outputs, size // 2, vectors.T
    first, second = vectors[:, :h], vectors[:, h:]
    ones, barrier = jnp.ones(size, vectors.dtype), jax.lax.optimization_barrier
    twice = jnp.where(jnp.arange(size) < h, 1.0, 2.0).astype(vectors.dtype)

    def one(A: Array) -> Array:
        # On a CPU, XLA writes a product that it fuses with what follows as a plain loop, ten times
        # slower than its library's: hence the barriers, and the sum over a row as a product. Both
        # matrices are symmetric: without a block beside the diagonal a quarter of the work goes.
        above, corner = barrier((A[:h] * twice[None, :], A[h:, h:]))
        D = (barrier(first @ above) * vectors) @ ones
        D = D + (barrier(second @ corner) * second) @ ones[h:]
        turned = barrier(transposed * D[None, :])
        above, corner = barrier((turned[:h] @ vectors, turned[h:] @ second))
        below = jnp.concatenate([above[:, h:].T, corner], axis=1)
        return n * jnp.concatenate([above, below]) - A

    def several(A: Array) -> Array:
        U = vectors.reshape(n, outputs, size)
        blocks = jnp.einsum("iaq,ibq->iab", barrier(vectors @ A).reshape(U.shape), U)
        turned = jnp.einsum("iab,ibq->iaq", blocks, U).reshape(size, size)
        return n * barrier(transposed @ barrier(turned)) - A

    return one if outputs == 1 else several


def _second(eigenvalues: Array, mean: Array, cov: Array) -> Array:
    """A = E Delta Delta^T."""
    return mean @ mean.T + eigenvalues[:, None] * cov * eigenvalues[None, :]


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


def _course(step: Callable, read: Callable, begin: tuple, saved: Array) -> Any:
    """`read` of the state at each saved step count, from `begin` at 0."""

    def segment(carry: tuple, end: Array) -> tuple:
        k, state = carry
        state = jax.lax.fori_loop(k, end, step, state)
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
    factors: Float[Array, " T"] | None = None,
) -> SecondMoments:
    """The mode-diagonal closure. multiplicity: of each eigenvalue; one that carries the error and
    stands for none of its own has 0. factors: of the noise, from each saved step to the next."""
    s = steps.size
    lam2 = eigenvalues**2

    def step(k: Array, carry: tuple) -> tuple:
        mean, dual, cov = carry
        P, g = jax.lax.optimization_barrier((steps.carry[k], steps.push[k]))
        own = jnp.sum(mean[0] ** 2, axis=1) + lam2 * cov[0][0]
        total = jnp.sum(mean[0] ** 2) + jnp.sum(multiplicity * lam2 * cov[0][0])
        N = tau * (total / outputs - own)
        if factors is not None:
            N = N * factors[jnp.searchsorted(saved, k, side="right") - 1]
        cov = covariance_step(P, g, eigenvalues, eigenvalues, cov, N)
        return *_mean_step(P, g, eigenvalues, mean, dual), cov

    def read(mean: Array, dual: Array, cov: Blocks) -> SecondMoments:
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
    begin = zero.at[0].set(start), zero, no_covariance(s, eigenvalues.shape, start.dtype)
    return _course(step, read, begin, saved)

"""The levels that the closure runs on: every eigenvalue, or few Ritz values that stand for many.

Noise goes along every eigenvector, also where the error has no part, so that the closure needs the
whole spectrum: sums sum_q f(lambda_q). Few products give it twice over. Ritz values of the error's
own Krylov space that have settled are eigenvalues, one each; what is left of the trace is

    tr f(H (1 - V V^T)) ~ (N - settled)/|z|^2 sum_j (w_j . z)^2 f(theta_j),   z = (1 - V V^T) z_0

with V the settled vectors, z_0 random and (theta, w) Ritz pairs from z_0 (stochastic Lanczos
quadrature: Ubaru, Chen and Saad 2017; with what has settled taken out exactly, as in Meyer, Musco,
Musco and Woodruff 2021). The variance of such a trace is 2 tr f(H)^2 a random vector.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ..dynamics import ritz
from ..dynamics.constant_kernel import is_operator
from ..errors import InputError
from ..kernel import Modes

SETTLED = 0.1
"""A Ritz vector is an eigenvector where what a product leaves of it is this share of the distance
to the next Ritz value. Chosen, not measured."""
PROBES, PROBE_PRODUCTS = 8, 24
"""Random vectors, and products with each, where an operator is given. Chosen: see the tests."""


class Levels(NamedTuple):
    """multiplicity: of each eigenvalue, 0 where it carries the error and others its variance.
    start: the error along each. vectors: U of those that carry it, the first ones. shares: of the
    variance along each, in each number of the error. doubt: the standard error of tr H^2, as a
    share of it."""

    eigenvalues: Float[Array, " K"]
    multiplicity: Float[Array, " K"]
    start: Float[Array, "K columns"]
    vectors: Float[Array, "N p"]
    shares: Float[Array, "N K"]
    doubt: float | Array


def every_level(eigenvalues: Array, vectors: Array, start: Array) -> Levels:
    """Of known eigenvectors, one each. start: in the samples' own order."""
    ones = jnp.ones_like(eigenvalues)
    return Levels(eigenvalues, ones, vectors.T @ start, vectors, vectors**2, 0.0)


class Few(NamedTuple):
    """modes: of the error; probe: of random vectors; levels: of both."""

    modes: Modes
    probe: Modes
    levels: Levels


def few_levels(
    kernel: Any, residual0: Any, probe: Any = None, key: Key[Array, ""] | None = None, **how: Any
) -> Few:
    """From few products with an operator, or from modes. how: until when products are taken, as in
    `nm.modes`."""
    if is_operator(kernel):
        found = ritz.modes(kernel, residual0, **how)
        if probe is None:
            shape = found.shape if found.shape == kernel.in_structure().shape else found.shape[:1]
            probe = random_modes(kernel, shape, key)
    else:
        found = kernel
        if residual0 is not None:
            ritz.check_own(found, residual0, None)
    size = len(found.vectors)
    if not isinstance(probe, Modes) or len(probe.vectors) != size:
        raise InputError(
            "noise goes along eigenvectors that the error has no part in, so that modes need a "
            f"probe, modes of random vectors of the same {size} numbers; try probe=nm.modes("
            f"operator, jax.random.normal(key, ({found.shape[0]}, {PROBES})), products="
            f"{PROBE_PRODUCTS})."
        )
    return Few(found, probe, _levels(found, probe))


def random_modes(operator: Any, shape: tuple[int, ...], key: Key[Array, ""] | None = None) -> Modes:
    """Of random vectors, from few products with an operator on arrays of this shape."""
    # an operator on one output takes several columns, one on all of them a single one
    shape = (*shape, PROBES) if len(shape) == 1 else shape
    dtype = operator.in_structure().dtype
    start = jax.random.normal(jax.random.key(0) if key is None else key, shape, dtype)
    return ritz.modes(operator, start, products=PROBE_PRODUCTS)


def _settled(found: Modes) -> Array:
    """1 for each Ritz vector that is an eigenvector, 0 for others and where eigenvalues repeat."""
    gaps = jnp.diff(found.values, prepend=-jnp.inf, append=jnp.inf)
    settled = found.errors <= SETTLED * jnp.minimum(gaps[:-1], gaps[1:])
    return settled.astype(found.values.dtype)


@jax.jit
def _levels(found: Modes, probe: Modes) -> Levels:
    V, W = found.vectors, probe.vectors
    theta, values = jnp.maximum(found.values, 0.0), jnp.maximum(probe.values, 0.0)
    own = _settled(found)
    # settled ones of the random vectors count too, less what the error's have of them
    apart = _settled(probe) * (1 - jnp.clip(own @ (V.T @ W) ** 2, 0.0, 1.0))
    random = W @ probe.start
    random = random - V @ (own[:, None] * (V.T @ random))
    random = random - W @ (apart[:, None] * (W.T @ random))
    seen = jnp.sum((W.T @ random) ** 2, axis=1)
    share = seen / jnp.maximum(jnp.sum(seen), jnp.finfo(seen.dtype).tiny)
    rest = jnp.maximum(len(V) - jnp.sum(own) - jnp.sum(apart), 0.0) * share
    squares = jnp.sum(own * theta**2) + jnp.sum((apart + rest) * values**2)
    doubt = jnp.sqrt(2 * jnp.sum(rest * values**4) / random.shape[1]) / squares
    still = jnp.zeros((len(values), found.start.shape[1]), theta.dtype)
    join = lambda a, b: jnp.concatenate([a, b])
    # what stands for many eigenvectors is taken to be spread evenly
    even = (apart[None] * W**2 + rest[None] / len(V)) / jnp.maximum(apart + rest, 1e-30)[None]
    shares = jnp.concatenate([V**2, even], axis=1)
    multiplicity, start = join(own, apart + rest), join(found.start, still)
    return Levels(join(theta, values), multiplicity, start, V, shares, doubt)

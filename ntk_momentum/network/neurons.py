"""Sums over the neurons of a two-layer net and their transpose, tile by tile: the right side of
(2.2), (3.2) and (4.2).

    f_i = s sum_r a_r sigma(w_r . x_i),      (J^T u)_r = s a_r sum_i sigma'(w_r . x_i) u_i x_i

On a CPU the preactivations of n inputs and m neurons, written out, cost more than the products that
make them. So neurons are taken in tiles of CACHED entries, which stay in the cache. Cost of one
preactivation: 2 p flops to make, some 64 flops' time to write and read back. Hence narrow inputs (p
< NARROW) make it twice, for f and for J^T u, (n, tile) with the neurons contiguous, since a product
with p columns would leave lanes empty; wide inputs make it once, (tile, n), and keep it. Other
platforms take all neurons at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..products import either, of_two_values, product

CACHED = 2**17
"""Preactivations in one tile: 512 KiB in float32, to fit the second cache of one core (1 to 2 MiB
on servers of these years). Chosen by that, not measured here."""
NARROW = 32
"""Inputs with fewer coordinates are narrow: 2 p = 64 flops, what writing one preactivation and
reading it back takes."""


def values(
    activation: Callable,
    X: Float[Array, "n p"],
    hidden: Float[Array, "m p"],
    output: Float[Array, " m"],
) -> Float[Array, " n"]:
    """sum_r a_r sigma(w_r . x_i); differentiable, forwards and backwards."""

    def tiled(X: Array, hidden: Array, output: Array) -> Array:
        add = lambda total, tile: (total + activation(X @ tile[0].T) @ tile[1], None)
        return jax.lax.scan(
            add, jnp.zeros_like(X, shape=X.shape[:1], dtype=output.dtype), tiles(X, hidden, output)
        )[0]

    whole = lambda X, hidden, output: output @ activation(product(hidden, X.T))
    if parts_of(X, hidden) == 1:
        return whole(X, hidden, output)
    return jax.lax.platform_dependent(X, hidden, output, cpu=tiled, default=whole)


def pullback(
    activation: Callable,
    X: Float[Array, "n p"],
    hidden: Float[Array, "m p"],
    output: Float[Array, " m"],
    cotangent: Callable[[Float[Array, " n"]], Float[Array, " n"]],
    slopes: tuple[float, float] | None = None,
) -> tuple[Float[Array, "m p"], Float[Array, " m"]]:
    """(a_r sum_i sigma'(w_r . x_i) u_i x_i, sum_i sigma(w_r . x_i) u_i) for u = cotangent(f), f =
    values(...).

    sigma' is that of autodiff, so ReLU's at 0 is 0; slopes: the two values that it takes, if it
    does. What is not used of the result is not computed (under jit).
    """

    def narrow(X: Array, hidden: Array, output: Array) -> tuple[Array, Array]:
        pieces = tiles(X, hidden, output)
        u = cotangent(values(activation, X, hidden, output))[:, None]
        columns = X.T

        def pull(_: None, tile: tuple[Array, Array]) -> tuple[None, tuple[Array, Array]]:
            value, back = jax.vjp(activation, X @ tile[0].T)
            slopes = back(jnp.broadcast_to(u, value.shape))[0]
            rows = (columns @ slopes) * tile[1][
                None, :
            ]  # not after transposing, or XLA makes the product that way round: 4x slower
            return None, (rows.T, u[:, 0] @ value)

        return _joined(jax.lax.scan(pull, None, pieces)[1], hidden)

    def wide(X: Array, hidden: Array, output: Array) -> tuple[Array, Array]:
        pieces = tiles(X, hidden, output)

        def push(total: Array, tile: tuple[Array, Array]) -> tuple[Array, Array]:
            z = tile[0] @ X.T
            return total + tile[1] @ activation(z), z

        f, kept = jax.lax.scan(push, jnp.zeros_like(X, shape=X.shape[:1]), pieces)
        u = cotangent(f)
        return _joined(
            jax.lax.map(
                lambda tile: neuron_major(activation, X, tile[0], tile[1], u), (kept, pieces[1])
            ),
            hidden,
        )

    def whole(X: Array, hidden: Array, output: Array) -> tuple[Array, Array]:
        z = product(hidden, X.T)
        return neuron_major(activation, X, z, output, cotangent(output @ activation(z)), slopes)

    if parts_of(X, hidden) == 1:
        return whole(X, hidden, output)
    return jax.lax.platform_dependent(
        X, hidden, output, cpu=narrow if X.shape[1] < NARROW else wide, default=whole
    )


def neuron_major(
    activation: Callable,
    X: Array,
    z: Float[Array, "t n"],
    output: Float[Array, " t"],
    u: Array,
    slopes: tuple[float, float] | None = None,
) -> tuple[Array, Array]:
    """`pullback` from given preactivations z."""
    back = lambda z, cotangent: jax.vjp(activation, z)[1](cotangent)[0]
    plain = lambda X, z, output, u: product(back(z, output[:, None] * u[None, :]), X)

    def by_terms(X: Array, z: Array, output: Array, u: Array) -> Array:
        assert slopes is not None
        return output[:, None] * of_two_values(back(z, jnp.ones_like(z)), slopes, u[:, None] * X)

    rows = either(plain if slopes is None else by_terms, plain, X, z, output, u)
    return rows, activation(z) @ u


def parts_of(X: Array, hidden: Array, tile: int | None = None) -> int:
    """How many tiles of `tile` (CACHED) preactivations: near a power of two. One where several
    devices may hold the neurons between them."""
    wanted = 2 ** max(0, (X.shape[0] * hidden.shape[0] // (tile or CACHED)).bit_length() - 1)
    return 1 if jax.device_count() > 1 else equal_parts(hidden.shape[0], wanted)


def equal_parts(m: int, wanted: int) -> int:
    """The fewest parts, `wanted` at least and not twice as many, that m neurons fall into evenly;
    `wanted` where there are none.

    Uneven parts are filled up, which copies the weights.
    """
    if wanted > m:
        return wanted
    # parts or the neurons of a part, whichever are fewer to try: sqrt(m / 2) at most
    few, many = m // (2 * wanted) + 1, m // wanted
    if many - few < wanted:
        return next((m // part for part in range(many, few - 1, -1) if m % part == 0), wanted)
    return next((parts for parts in range(wanted, 2 * wanted) if m % parts == 0), wanted)


def tiles(
    X: Array, hidden: Array, output: Array, tile: int | None = None
) -> tuple[Float[Array, "tiles t p"], Float[Array, "tiles t"]]:
    """Hidden and output weights by tiles, the last filled up with neurons whose output weight is
    zero."""
    parts = parts_of(X, hidden, tile)
    missing = -hidden.shape[0] % parts
    if missing:
        hidden, output = jnp.pad(hidden, ((0, missing), (0, 0))), jnp.pad(output, (0, missing))
    return hidden.reshape(parts, -1, hidden.shape[1]), output.reshape(parts, -1)


def _joined(parts: tuple[Any, Any], hidden: Array) -> tuple[Array, Array]:
    """Tiles put together again, without the neurons that filled them up."""
    rows, coefficients = parts
    return rows.reshape(-1, hidden.shape[1])[: hidden.shape[0]], coefficients.reshape(-1)[
        : hidden.shape[0]
    ]

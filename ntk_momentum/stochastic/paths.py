"""Runs of a method on mini-batches in function space: what the second moments are the mean of.

    Delta moves by the method's step for the gradient H (q Delta),   q of `sampling`

one product with H a step for all runs together. Needed where moments do not close (reshuffled
batches), and for what second moments do not tell, as the spread of the loss.
"""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from ..progress import report
from .linear import LinearSteps
from .sampling import draw_batches


class Paths(NamedTuple):
    """Errors at the saved steps of each run, and what moves the weights (Delta = Delta_0 + H
    c)."""

    residual: Float[Array, "T runs N columns"]
    dual: Float[Array, "T runs N columns"]


@eqx.filter_jit
def sample_paths(
    steps: LinearSteps,
    saved: Int[Array, " T"],
    matrix: Float[Array, "N N"],
    start: Float[Array, "N columns"],
    runs: int,
    batch_size: int,
    sampling: str,
    outputs: int,
    key: Key[Array, ""],
    told: bool = False,
) -> Paths:
    """Runs from the error `start`, (N, columns) in the samples' own order."""
    n = len(matrix) // outputs
    batches = n // batch_size if sampling == "reshuffled" else 1
    last = saved[-1]
    every = 1 + last // (100 * batches)

    def block(epoch: Array, carry: tuple) -> tuple:
        if told:
            report(epoch * batches, last, epoch % every == 0)
        # the batches of an epoch are drawn together, and those of one step alone
        chosen = draw_batches(
            jax.random.fold_in(key, epoch), batches, runs, n, batch_size, sampling
        )
        chosen = jnp.repeat(chosen.astype(matrix.dtype), outputs, axis=-1)[..., None]

        def step(j: Array, carry: tuple) -> tuple:
            z, dual, kept = carry
            k = epoch * batches + j
            P, g = steps.carry[k], steps.push[k]
            noisy = chosen[j] * z[0]
            carried = lambda z: jnp.einsum("ab,brnc->arnc", P, z)
            push = g[:, None, None, None]
            z = carried(z) + push * jnp.einsum("rnc,nm->rmc", noisy, matrix)[None]
            dual = carried(dual) + push * noisy[None]
            # each step is written over the next saved one, so that the last one stays
            slot = jnp.searchsorted(saved, k + 1)
            kept = Paths(kept[0].at[slot].set(z[0]), kept[1].at[slot].set(dual[0]))
            return z, dual, kept

        count = jnp.minimum(batches, last - epoch * batches)
        return jax.lax.fori_loop(0, count, step, carry)

    z = jnp.zeros((steps.size, runs, *start.shape), matrix.dtype).at[0].set(start)
    kept = Paths(jnp.broadcast_to(start, (len(saved), runs, *start.shape)), jnp.zeros_like(z[0]))
    kept = Paths(kept.residual, jnp.broadcast_to(kept.dual, kept.residual.shape))
    begin = z, jnp.zeros_like(z), kept
    return jax.lax.fori_loop(0, -(-last // batches), block, begin)[2]

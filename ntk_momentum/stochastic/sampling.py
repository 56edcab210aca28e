"""How a mini-batch is drawn, and the covariance of the gradient noise that follows.

A batch S of B of the n samples gives the gradient (n/B) sum_{i in S} J_i^T Delta_i, so the error
moves by H (Delta + xi) with xi_i = (q_i - 1) Delta_i, q_i = (n/B) times how often i was drawn.
E q_i = 1, and both ways of drawing afresh at each step have the same covariance up to one number,

    E[xi xi^T | Delta] = tau (n diag(Delta Delta^T) - Delta Delta^T)

    without replacement     tau = (n - B)/(B (n - 1))
    with replacement        tau = 1/B

since cov(q_i, q_j) = tau (n [i = j] - 1): for the first, var q_i = (n/B)^2 (B/n)(1 - B/n) and
E q_i q_j = (n/B)^2 B(B-1)/(n(n-1)); for the second, of a multinomial count. Several outputs of a
sample are drawn together: diag(.) then keeps the blocks of a sample.

Reshuffled, each epoch a permutation cut into n // B batches, a batch taken alone is one without
replacement, but those of an epoch are anticorrelated, cov(q_i of one, q_j of another) = -(n [i =
j] - 1)/(n - 1), and sum to the full gradient where B divides n: E[xi_k | past] is not 0, and
moments do not close.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def noise_strength(batch_size: int, n: int, sampling: str) -> float:
    """tau in E[xi xi^T] = tau (n diag(Delta Delta^T) - Delta Delta^T), of one step by itself."""
    if sampling == "with_replacement":
        return 1 / batch_size
    return (n - batch_size) / (batch_size * (n - 1)) if n > 1 else 0.0


def draw_batches(
    key: Key[Array, ""], steps: int, runs: int, n: int, batch_size: int, sampling: str
) -> Float[Array, "steps runs n"]:
    """q_i = (n/B) times how often sample i is drawn, in each of the steps (of whole epochs where
    reshuffled) of each run."""
    shape = (steps, runs)
    if sampling == "with_replacement":
        drawn = jax.random.randint(key, (*shape, batch_size), 0, n)
        counts = jax.vmap(jax.vmap(lambda i: jnp.zeros(n).at[i].add(1.0)))(drawn)
        return counts * (n / batch_size)
    batches = n // batch_size if sampling == "reshuffled" else 1
    epochs = -(-steps // batches)
    order = jnp.argsort(jax.random.uniform(key, (epochs, runs, n)), axis=-1)
    # rank r of a sample in its permutation: it is in batch r // B
    owner = order[:, None] // batch_size
    chosen = owner == jnp.arange(batches)[None, :, None, None]
    return (chosen * (n / batch_size)).reshape(epochs * batches, runs, n)[:steps]

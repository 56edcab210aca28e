"""Losses: a function of predictions f and targets y, both (n,) or (n, k), with a scalar value.

The paper's loss is the half-sum L = |f - y|^2 / 2 (not a mean), whose gradient is the residual Delta = f - y. Any other
differentiable loss enters the dynamics through dL/df alone.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Loss = Callable[[Float[Array, "n *k"], Float[Array, "n *k"]], Float[Array, ""]]


def squared(f: Float[Array, n * k], y: Float[Array, n * k]) -> Float[Array, ""]:
    """L = |f - y|^2 / 2, the paper's loss (section 2). Authors' published runs use the mean: L_mean = 2 L / n."""
    return 0.5 * jnp.sum(jnp.square(f - y))


def output_gradient(loss: Loss, f: Float[Array, n * k], y: Float[Array, n * k]) -> Float[Array, n * k]:
    """dL/df; the residual f - y for the squared loss, exactly."""
    return f - y if loss is squared else jax.grad(loss)(f, y)

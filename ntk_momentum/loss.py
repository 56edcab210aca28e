"""Losses: a function of predictions f and targets y, both (n,) or (n, k), with a scalar value.

The paper's loss is the half-sum L = |f - y|^2 / 2 (not a mean), whose gradient is the residual
Delta = f - y. Any other differentiable loss enters the dynamics through dL/df alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .errors import InputError, check_positive, concrete

Loss = Callable[[Float[Array, "n *k"], Float[Array, "n *k"]], Float[Array, ""]]


def squared(f: Float[Array, n * k], y: Float[Array, n * k]) -> Float[Array, ""]:
    """L = |f - y|^2 / 2, the paper's loss (section 2). Authors' published runs use the mean: L_mean
    = 2 L / n."""
    return 0.5 * jnp.sum(jnp.square(f - y))


def output_gradient(
    loss: Loss, f: Float[Array, n * k], y: Float[Array, n * k]
) -> Float[Array, n * k]:
    """dL/df; the residual f - y for the squared loss, exactly."""
    return f - y if loss is squared else jax.grad(loss)(f, y)


def logistic(f: Float[Array, n * k], y: Float[Array, n * k]) -> Float[Array, ""]:
    """L = sum log(1 + exp(-y f)) for targets y = +1 or -1."""
    return jnp.sum(jax.nn.softplus(-y * f))


def softmax_cross_entropy(f: Float[Array, "n k"], y: Float[Array, "n k"]) -> Float[Array, ""]:
    """L = -sum y . log softmax(f) for targets y, one-hot or probabilities, one row per sample."""
    return -jnp.sum(y * jax.nn.log_softmax(f, axis=-1))


def check_targets(loss: Loss, y: Float[Array, n * k]) -> None:
    """Raise for concrete targets that a classification loss does not take, with the first that is
    wrong."""
    known = concrete(y)
    if known is None or loss not in (logistic, softmax_cross_entropy):
        return
    if loss is logistic:
        wrong, wanted = np.abs(known) != 1, "targets +1 and -1, try np.where(y > 0, 1, -1)"
    elif known.ndim != 2:
        raise InputError(
            "softmax takes one row of class probabilities for each sample, (n, k), "
            f"got {known.shape}; try np.eye(k)[labels]."
        )
    else:
        wrong = np.any(known < 0, axis=1) | (np.abs(known.sum(axis=1) - 1) > 1e-3)
        wanted = "rows of probabilities that sum to 1, try np.eye(k)[labels]"
    if np.any(wrong):
        i = int(np.argwhere(wrong)[0][0])
        raise InputError(f"{loss.__name__} takes {wanted}; y[{i}] is {known[i]}.")


def is_known(loss: Loss) -> bool:
    """Whether a loss is one of this file's, whose targets are real numbers shaped like f."""
    return loss in (squared, logistic, softmax_cross_entropy) or hasattr(loss, "delta")


@functools.cache
def huber(delta: float = 1.0) -> Loss:
    """The Huber loss, L = sum e^2/2 where e = |f - y| <= delta and delta (e - delta/2) beyond; one
    function for each delta > 0."""
    check_positive("delta", delta)

    def loss(f: Float[Array, n * k], y: Float[Array, n * k]) -> Float[Array, ""]:
        error = jnp.abs(f - y)
        inside = jnp.minimum(error, delta)
        return jnp.sum(inside * (error - inside / 2))

    loss.delta = delta  # type: ignore[attr-defined]
    return loss

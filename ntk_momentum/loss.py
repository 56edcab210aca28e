"""Losses: a function of predictions f and targets y, both (n,) or (n, k), with a scalar value.

The paper's loss is the half-sum L = |f - y|^2 / 2 (not a mean), whose gradient is the residual
Delta = f - y. Any other differentiable loss enters the dynamics through dL/df alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .errors import InputError, check_positive, concrete, described

Loss = Callable[[Float[Array, "n *k"], Float[Array, "n *k"]], Float[Array, ""]]


def squared(f: Float[Array, n * k], y: Float[Array, n * k]) -> Float[Array, ""]:
    """The paper's loss, a half-sum of squares and not a mean.

        L = |f - y|^2 / 2                    (section 2)

    Its gradient in f is the residual Delta = f - y. The authors' published runs use the mean,
    L_mean = 2 L / n.

    Args:
        f: Predictions, (n,) or (n, k).
        y: Targets, of the same shape.

    Returns:
        The loss, a scalar.

    Raises:
        InputError: If the shapes differ, or something is no array of real numbers.

    Examples:
        >>> float(nm.squared(jnp.array([1.0, 2.0]), jnp.array([0.0, 0.0])))
        2.5
    """
    f, y = _pair(f, y)
    return 0.5 * jnp.sum(jnp.square(f - y))


def _pair(f: Any, y: Any) -> tuple[Array, Array]:
    """Predictions and targets as arrays of real numbers of one shape; what broadcasts is no sum
    over samples."""
    for name, value in (("f", f), ("y", y)):
        if not isinstance(value, jax.Array) and concrete(value) is None:
            raise InputError(
                f"{name} must be an array of real numbers, got {described(value)}; try jnp.asarray."
            )
    f, y = jnp.asarray(f), jnp.asarray(y)
    if f.shape != y.shape:
        raise InputError(
            f"predictions f and targets y must have one shape, got {f.shape} and {y.shape}; try "
            "y.reshape(f.shape), or np.eye(k)[labels] for classes."
        )
    if jnp.iscomplexobj(f) or jnp.iscomplexobj(y):
        raise InputError(
            f"f and y must be real, got {f.dtype} and {y.dtype} (complex); take real and imaginary "
            "parts as two outputs."
        )
    return f, y


def output_gradient(
    loss: Loss, f: Float[Array, n * k], y: Float[Array, n * k]
) -> Float[Array, n * k]:
    """dL/df; the residual f - y for the squared loss, exactly."""
    return f - y if loss is squared else jax.grad(loss)(f, y)


def logistic(f: Float[Array, n * k], y: Float[Array, n * k]) -> Float[Array, ""]:
    """The logistic loss of a binary classifier with targets +1 and -1.

        L = sum log(1 + exp(-y f))

    The paper names other losses as an extension (section 5); they enter through dL/df alone.

    Args:
        f: Predictions, (n,) or (n, k).
        y: Targets +1 or -1, of the same shape.

    Returns:
        The loss, a scalar.

    Raises:
        InputError: If the shapes differ, or something is no array of real numbers.

    Examples:
        >>> round(float(nm.logistic(jnp.array([0.0]), jnp.array([1.0]))), 3)
        0.693
    """
    f, y = _pair(f, y)
    return jnp.sum(jax.nn.softplus(-y * f))


def softmax_cross_entropy(f: Float[Array, "n k"], y: Float[Array, "n k"]) -> Float[Array, ""]:
    """The cross entropy of a classifier with k classes.

        L = -sum y . log softmax(f)

    The paper names other losses as an extension (section 5); they enter through dL/df alone.

    Args:
        f: Predictions, (n, k), before the softmax.
        y: Targets, (n, k): one-hot or probabilities, one row per sample.

    Returns:
        The loss, a scalar.

    Raises:
        InputError: If the shapes differ, or something is no array of real numbers.

    Examples:
        >>> round(float(nm.softmax_cross_entropy(jnp.zeros((1, 4)), jnp.eye(4)[:1])), 3)
        1.386
    """
    f, y = _pair(f, y)
    return -jnp.sum(y * jax.nn.log_softmax(f, axis=-1))


def check_loss(loss: Any) -> None:
    """Raise for what is no loss, and for `huber` itself, which has to be called first."""
    if loss is huber:
        raise InputError(
            "loss must be a function of predictions and targets, got nm.huber, which makes one for "
            "a given delta; call it: loss=nm.huber(1.0)."
        )
    if not callable(loss):
        raise InputError(
            f"loss must be a function of predictions and targets, got {described(loss)}; try "
            "loss=nm.squared."
        )


def check_targets(loss: Loss, y: Float[Array, n * k]) -> None:
    """Raise for concrete targets that a classification loss does not take, with the first that is
    wrong."""
    check_loss(loss)
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
        wrong = np.any(known < 0, axis=1) | (
            np.abs(known.sum(axis=1) - 1) > 1e-3
        )  # rounded by hand
        wanted = "rows of probabilities that sum to 1, try np.eye(k)[labels]"
    if np.any(wrong):
        i = int(np.argwhere(wrong)[0][0])
        raise InputError(f"{loss.__name__} takes {wanted}; y[{i}] is {known[i]}.")


def is_known(loss: Loss) -> bool:
    """Whether a loss is one of this file's, whose targets are real numbers shaped like f."""
    return loss in (squared, logistic, softmax_cross_entropy) or hasattr(loss, "delta")


def as_targets(loss: Loss, y: Array, dtype: Any) -> Array:
    """Targets in the precision of f; whole numbers stay as they are for a loss of the user's, which
    may index by them."""
    check_loss(loss)
    labels = not jnp.issubdtype(y.dtype, jnp.inexact) and not is_known(loss)
    return y if labels else y.astype(dtype)


def huber(delta: float = 1.0) -> Loss:
    """The Huber loss for one delta: squares near the target, straight lines beyond. Call it to get
    a loss.

        L = sum of e^2/2 where e = |f - y| <= delta, and of delta (e - delta/2) beyond

    Source: Huber (1964). One function for each delta, so that programs compiled for it are found
    again.

    Args:
        delta: Where the lines begin, > 0, in the units of y.

    Returns:
        A loss: a function of predictions and targets, both (n,) or (n, k), with a scalar value.

    Raises:
        InputError: If delta is no number, or not positive and finite.

    Examples:
        >>> loss = nm.huber(1.0)
        >>> float(loss(jnp.array([0.5, 3.0]), jnp.zeros(2)))
        2.625
    """
    check_positive("delta", delta)
    return _huber(float(delta))


@functools.cache
def _huber(delta: float) -> Loss:
    def loss(f: Float[Array, n * k], y: Float[Array, n * k]) -> Float[Array, ""]:
        f, y = _pair(f, y)
        error = jnp.abs(f - y)
        inside = jnp.minimum(error, delta)
        return jnp.sum(inside * (error - inside / 2))

    loss.delta = delta  # type: ignore[attr-defined]
    return loss

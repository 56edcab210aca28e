"""Kernels that have no closed form, as means over random initialisations of any Equinox model.

At infinite width the empirical kernel stops depending on the draw; at finite width its mean over
draws has a bias of order 1/width and a standard error of order (width * samples)^{-1/2} (Novak et
al. 2019 for the same idea). Each term is a Gram matrix, so the mean is positive semi-definite.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ..errors import InputError, brief, check_callable, check_key, check_whole, described
from ..memory import check_fits, in_short
from ..progress import OnProgress, report, with_progress
from .empirical import empirical_ntk


class MonteCarlo(NamedTuple):
    """The mean kernel over draws and its standard error, entry by entry."""

    mean: Float[Array, "n1 ..."]
    error: Float[Array, "n1 ..."]


@with_progress
def monte_carlo_ntk(
    make: Callable,
    x1: Any,
    x2: Any = None,
    *,
    key: Key[Array, ""],
    samples: int = 32,
    progress: OnProgress | bool | None = None,
    **options: Any,
) -> MonteCarlo:
    """The mean of `empirical_ntk` over random models: for kernels that have no closed form.

        E_theta <df(x)/dtheta, df(x')/dtheta>, estimated with its standard error

    The models are drawn from keys, compiled once and streamed one at a time. Source of the idea:
    Novak et al. (2019); at infinite width it is the kernel of (2.8).

    Args:
        make: From a key to a model, traceable by jax (an Equinox constructor is).
        x1: Inputs, (n1, ...).
        x2: Inputs, (n2, ...); None means x1.
        key: As from `jax.random.key`.
        samples: Models drawn, at least 2.
        progress: Called as progress(models done, models); True for a bar.
        options: Those of `empirical_ntk`, except per_layer.

    Returns:
        The mean and its standard error, entry by entry, of the shape of `empirical_ntk`.

    Raises:
        InputError: If samples is no whole number of at least 2, or per_layer is given.

    Examples:
        >>> make = lambda key: nm.init_two_layer(16, 2, key=key)
        >>> found = nm.monte_carlo_ntk(make, jnp.eye(2), key=jax.random.key(0), samples=4)
        >>> found.mean.shape, bool(jnp.all(found.error >= 0))
        ((2, 2), True)
    """
    samples = check_whole("samples", samples, 2)  # of one no error can be estimated
    check_key("key", key)
    example = "lambda key: nm.init_two_layer(256, 4, key=key)"
    check_callable("make", make, example)
    if "per_layer" in options:
        raise InputError(
            f"monte_carlo_ntk takes no per_layer=, got {options['per_layer']!r}; pass where= for "
            "the "
            "kernel of one layer."
        )

    check_fits(2 * samples, f"the keys of {in_short(samples)} draws", "take fewer samples")
    try:
        model = eqx.filter_eval_shape(make, key)
    except InputError:
        raise
    except Exception as error:  # the user's code: anything may be raised
        raise InputError(
            f"make must be a function of one key that returns a model, got {described(make)}, "
            "which "
            f"raises {type(error).__name__} ({brief(error)}); try make={example}."
        ) from error
    if not callable(model):
        raise InputError(
            f"make must return a model, got one that returns {described(model)}; try "
            f"make={example}."
        )
    weights = sum(leaf.size for leaf in jax.tree.leaves(model) if hasattr(leaf, "size"))
    check_fits(2 * weights, f"a model of {in_short(weights)} weights", "make a smaller one")

    @eqx.filter_jit
    def run(keys: Array) -> MonteCarlo:
        kernel = lambda key: empirical_ntk(make(key), x1, x2, **options)

        def add(
            carry: tuple[Array, Array], step: tuple[Array, Array]
        ) -> tuple[tuple[Array, Array], None]:
            count, key = step
            mean, spread = carry
            if progress is not None:
                report(count - 1, samples)
            new = kernel(key)
            moved = mean + (new - mean) / count
            return (moved, spread + (new - mean) * (new - moved)), None

        zero = jnp.zeros_like(jax.eval_shape(kernel, keys[0]))
        counts = jnp.arange(1, len(keys) + 1, dtype=zero.dtype)
        (mean, spread), _ = jax.lax.scan(add, (zero, zero), (counts, keys))
        return MonteCarlo(mean, jnp.sqrt(spread / (samples * (samples - 1))))

    return run(jax.random.split(key, samples))

"""Discrete spectra: what one step does to one eigenvalue of a constant kernel, from the methods'
own update rules.

A method with constant coefficients acts on an eigenmode and its memory by a matrix; its spectral
radius is the rate, and where that passes 1 the method turns unstable. On [lam_min, lam_max] each
method has best parameters, known in closed form.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from ..errors import InputError, check_positive, unknown_name
from .base import AbstractOptimizer
from .gradient_descent import gradient_descent
from .heavy_ball import heavy_ball
from .strongly_convex import constant_nesterov, nesterov_strongly_convex
from .triple_momentum import triple_momentum


def amplification(optimizer: AbstractOptimizer, eigenvalues: Any) -> Float[Array, "*n s s"]:
    """The matrix by which one step multiplies (mode, memory), for each eigenvalue. Raises
    InputError unless all steps are alike."""
    eigenvalues = jnp.asarray(eigenvalues, jnp.result_type(eigenvalues, float))
    memory = optimizer.init(jnp.zeros((), eigenvalues.dtype))
    if not all(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree.leaves(memory)):
        raise InputError(
            f"{optimizer.name} changes from step to step, so no one matrix describes "
            "it; run nm.predict instead."
        )
    matrices = _amplification(jax.tree.map(jnp.asarray, optimizer), eigenvalues.reshape(-1))
    return matrices.reshape(*eigenvalues.shape, *matrices.shape[1:])


@eqx.filter_jit
def _amplification(optimizer: AbstractOptimizer, eigenvalues: Array) -> Array:
    zero = jnp.zeros((), eigenvalues.dtype)
    flat, restore = ravel_pytree((zero, optimizer.init(zero)))

    def step(eigenvalue, z):
        mode, memory = restore(z)
        change, memory = optimizer.update(eigenvalue * mode, memory, mode)
        return ravel_pytree((mode + change, memory))[0]

    return jax.vmap(lambda eigenvalue: jax.jacfwd(lambda z: step(eigenvalue, z))(flat))(eigenvalues)


def spectral_radius(optimizer: AbstractOptimizer, eigenvalues: Any) -> np.ndarray:
    """The factor by which the mode of each eigenvalue shrinks (< 1) or grows per step in the long
    run."""
    return np.max(
        np.abs(np.linalg.eigvals(np.asarray(amplification(optimizer, eigenvalues)))), axis=-1
    )


def convergence_rate(optimizer: AbstractOptimizer, lam_min: float, lam_max: float) -> float:
    """The spectral radius of the slowest eigenvalue in [lam_min, lam_max], on a grid that holds
    both ends."""
    check_positive("lam_min", lam_min)
    check_positive("lam_max - lam_min", lam_max - lam_min, strict=False)
    grid = np.concatenate(
        [np.linspace(lam_min, lam_max, 1025), np.geomspace(lam_min, lam_max, 1025)]
    )
    return float(np.max(spectral_radius(optimizer, grid)))


def stability_limit(optimizer: Any) -> float:
    """The largest eigenvalue below which every mode decays, by bisection, for a method with a step
    size eta.

    Times eta it depends on the momenta only: GD 2, HB 2 (1 + beta), Nesterov with constant beta (2
    + 2 beta)/(1 + 2 beta), multi-step 2 (1 + beta1 - beta2) for beta2 >= 0.
    """
    grid = np.geomspace(1e-6, 1e3, 4097) / np.asarray(optimizer.eta)
    unstable = spectral_radius(optimizer, grid) > 1
    if unstable[0]:
        return 0.0
    if not unstable.any():
        return float("inf")
    first = int(np.argmax(unstable))
    low, high = grid[first - 1], grid[first]
    while high - low > 1e-12 * high:
        points = np.linspace(low, high, 33)
        first = int(np.argmax([*(spectral_radius(optimizer, points[1:-1]) > 1), True]))
        low, high = points[first], points[first + 1]
    return float((low + high) / 2)


class Best(NamedTuple):
    """optimizer: with the best parameters; rate: the factor per step in the worst case."""

    optimizer: AbstractOptimizer
    rate: float


def best_parameters(method: str, lam_min: float, lam_max: float) -> Best:
    """The parameters of a method that decay fastest for any kernel with eigenvalues in [lam_min,
    lam_max], kappa = lam_max/lam_min.

    Rates: gradient_descent (kappa - 1)/(kappa + 1); heavy_ball (sqrt kappa - 1)/(sqrt kappa + 1);
    constant_nesterov 1 - 2/sqrt(3 kappa + 1); nesterov_strongly_convex and triple_momentum 1 -
    1/sqrt kappa. Multi-step momentum gains nothing from beta2. Sources: Lessard, Recht, Packard
    (2016); Van Scoy, Freeman, Lynch (2018).
    """
    check_positive("lam_min", lam_min)
    check_positive(
        "lam_max - lam_min",
        lam_max - lam_min,
        strict=False,
        hint="lam_min is the smallest eigenvalue, lam_max the largest.",
    )
    kappa = lam_max / lam_min
    root = kappa**0.5
    if method == "gradient_descent":
        return Best(gradient_descent(2 / (lam_min + lam_max)), (kappa - 1) / (kappa + 1))
    if method == "heavy_ball":
        rate = (root - 1) / (root + 1)
        return Best(heavy_ball(4 / (lam_min**0.5 + lam_max**0.5) ** 2, rate**2), rate)
    if method == "constant_nesterov":
        long = (3 * kappa + 1) ** 0.5
        return Best(
            constant_nesterov(4 / (3 * lam_max + lam_min), (long - 2) / (long + 2)), 1 - 2 / long
        )
    if method == "nesterov_strongly_convex":
        return Best(nesterov_strongly_convex(1 / lam_max, lam_min), 1 - 1 / root)
    if method == "triple_momentum":
        return Best(triple_momentum(lam_min, lam_max), 1 - 1 / root)
    known = (
        "gradient_descent",
        "heavy_ball",
        "constant_nesterov",
        "nesterov_strongly_convex",
        "triple_momentum",
    )
    raise unknown_name("method", method, known)

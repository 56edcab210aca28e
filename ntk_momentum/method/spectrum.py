"""Discrete spectra: what one step does to one eigenvalue of a constant kernel, from the methods'
own update rules.

A method with constant coefficients acts on an eigenmode and its memory by a matrix; its spectral
radius is the rate, and where that passes 1 the method turns unstable. On [lam_min, lam_max] each
method has best parameters, known in closed form.
"""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Float

from ..errors import InputError, check_positive, check_real, unknown_name
from .base import AbstractOptimizer, check_method_kind
from .gradient_descent import gradient_descent
from .heavy_ball import heavy_ball
from .strongly_convex import constant_nesterov, nesterov_strongly_convex
from .triple_momentum import triple_momentum


def amplification(optimizer: AbstractOptimizer, eigenvalues: ArrayLike) -> Float[Array, "*n s s"]:
    """What one step does to one eigenvalue of a constant kernel: the matrix on (mode, memory).

        (w_{k+1}, memory_{k+1}) = A(lambda) (w_k, memory_k),  gradient = lambda w

    Its eigenvalues are the roots of the method's characteristic polynomial: z^2 - (1 + beta - eta
    lambda) z + beta for (3.1).

    Args:
        optimizer: A method whose steps are all alike.
        eigenvalues: (...) numbers >= 0.

    Returns:
        (..., s, s), s - 1 the numbers that the method remembers for one weight.

    Raises:
        InputError: If the steps change with k, as in (4.1), or are not linear in the gradients.

    Examples:
        >>> nm.amplification(nm.heavy_ball(0.1, 0.5), 2.0).shape
        (2, 2)
    """
    check_method_kind("optimizer", optimizer, AbstractOptimizer)
    if not optimizer.linear:
        raise InputError(
            f"{optimizer.name} is not linear in the gradients, so no matrix describes it."
        )
    check_real("eigenvalues", eigenvalues)
    check_positive("eigenvalues", eigenvalues, strict=False)
    eigenvalues = jnp.asarray(eigenvalues)
    eigenvalues = eigenvalues.astype(jnp.result_type(eigenvalues, float))
    memory = optimizer.init(jnp.zeros((), eigenvalues.dtype))
    if not all(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree.leaves(memory)):
        raise InputError(
            f"{optimizer.name} changes from step to step, so no one matrix describes "
            "it; take nm.predict instead."
        )
    matrices = _amplification(jax.tree.map(jnp.asarray, optimizer), eigenvalues.reshape(-1))
    return matrices.reshape(*eigenvalues.shape, *matrices.shape[1:])


@eqx.filter_jit
def _amplification(optimizer: AbstractOptimizer, eigenvalues: Array) -> Array:
    zero = jnp.zeros((), eigenvalues.dtype)
    flat, restore = ravel_pytree((zero, optimizer.init(zero)))

    def step(eigenvalue: Array, z: Array) -> Array:
        mode, memory = restore(z)
        change, memory = optimizer.update(eigenvalue * mode, memory, mode)
        return ravel_pytree((mode + change, memory))[0]

    return jax.vmap(lambda eigenvalue: jax.jacfwd(lambda z: step(eigenvalue, z))(flat))(eigenvalues)


def spectral_radius(optimizer: AbstractOptimizer, eigenvalues: ArrayLike) -> np.ndarray:
    """The factor by which the mode of each eigenvalue shrinks (< 1) or grows per step in the long
    run.

        rho(lambda) = max |z|, z the eigenvalues of `nm.amplification`

    For (2.1) it is |1 - eta lambda|.

    Args:
        optimizer: A method whose steps are all alike.
        eigenvalues: (...) numbers >= 0.

    Returns:
        (...) numbers.

    Raises:
        InputError: If the steps change with k, as in (4.1).

    Examples:
        >>> nm.spectral_radius(nm.gradient_descent(0.1), np.array([1.0, 5.0])).round(3).tolist()
        [0.9, 0.5]
    """
    return np.max(
        np.abs(np.linalg.eigvals(np.asarray(amplification(optimizer, eigenvalues)))), axis=-1
    )


def convergence_rate(optimizer: AbstractOptimizer, lam_min: float, lam_max: float) -> float:
    """The spectral radius of the slowest eigenvalue in [lam_min, lam_max].

        max over lam_min <= lambda <= lam_max of `nm.spectral_radius`

    taken on a grid of 2 x 1025 eigenvalues, evenly and geometrically spaced, that holds both ends.
    For (2.1) with eta = 2/(lam_min + lam_max) it is (kappa - 1)/(kappa + 1).

    Args:
        optimizer: A method whose steps are all alike.
        lam_min: The smallest eigenvalue, > 0.
        lam_max: The largest eigenvalue, >= lam_min.

    Returns:
        The factor per step, in the worst case.

    Raises:
        InputError: If the eigenvalues are out of order, or the steps change with k.

    Examples:
        >>> round(nm.convergence_rate(nm.gradient_descent(0.4), 1.0, 4.0), 3)
        0.6
    """
    check_method_kind("optimizer", optimizer, AbstractOptimizer)
    _check_range(lam_min, lam_max)
    # 1025 chosen, not measured: the ends, where the methods of this package are slowest, are exact
    grid = np.concatenate(
        [np.linspace(lam_min, lam_max, 1025), np.geomspace(lam_min, lam_max, 1025)]
    )
    return float(np.max(spectral_radius(optimizer, grid)))


def stability_limit(optimizer: AbstractOptimizer) -> float:
    """The largest eigenvalue below which every mode decays.

    Times eta it depends on the momenta only:

        gradient descent (2.1)               2
        heavy ball (3.1)                     2 (1 + beta)
        Nesterov with constant beta          (2 + 2 beta)/(1 + 2 beta)
        multi-step, beta2 >= 0               2 (1 + beta1 - beta2)

    Found by bisection of the spectral radius, to 1e-12. The full batch's, and of any kernel; the
    largest step for a given kernel and batch is `nm.critical_step`.

    Args:
        optimizer: A method with a step size eta whose steps are all alike.

    Returns:
        The eigenvalue; 0 where no step is stable, infinity where every one up to 1000/eta is.

    Raises:
        InputError: If the steps change with k, as in (4.1).

    Examples:
        >>> round(nm.stability_limit(nm.heavy_ball(0.1, 0.5)) * 0.1, 3)
        3.0
    """
    check_method_kind("optimizer", optimizer, AbstractOptimizer)
    eta = getattr(optimizer, "eta", None)
    check_positive("the optimizer's step size eta", eta, example=0.1)
    # In units of 1/eta every method here turns unstable near 1. The first grid point beyond is
    # found on a grid of ratio 1.005, chosen, not measured; a band of stability narrower than that
    # between two unstable ones would be missed, and no method here has one.
    grid = np.geomspace(1e-6, 1e3, 4097) / np.asarray(eta)
    unstable = spectral_radius(optimizer, grid) > 1
    if unstable[0]:
        return 0.0
    if not unstable.any():
        return float("inf")
    first = int(np.argmax(unstable))
    low, high = grid[first - 1], grid[first]
    # as near as a double root's spectral radius, good to the square root of round-off, allows sense
    while high - low > 1e-12 * high:
        points = np.linspace(low, high, 33)
        first = int(np.argmax([*(spectral_radius(optimizer, points[1:-1]) > 1), True]))
        low, high = points[first], points[first + 1]
    return float((low + high) / 2)


def _check_range(lam_min: float, lam_max: float) -> None:
    check_positive("lam_min", lam_min)
    check_positive("lam_max", lam_max)
    check_positive(
        "lam_max - lam_min",
        lam_max - lam_min,
        strict=False,
        hint="Give lam_min, the smallest eigenvalue, first, and lam_max, the largest, then.",
    )


class Best(NamedTuple):
    """optimizer: with the best parameters; rate: the factor per step in the worst case."""

    optimizer: AbstractOptimizer
    rate: float


def best_parameters(method: str, lam_min: float, lam_max: float) -> Best:
    """The parameters of a method that decay fastest for any kernel with eigenvalues in an interval.

    With kappa = lam_max/lam_min, the factors per step are

        gradient_descent (2.1)               (kappa - 1)/(kappa + 1)
        heavy_ball (3.1)                     (sqrt kappa - 1)/(sqrt kappa + 1)
        constant_nesterov                    1 - 2/sqrt(3 kappa + 1)
        nesterov_strongly_convex             1 - 1/sqrt kappa
        triple_momentum                      1 - 1/sqrt kappa

    Multi-step momentum gains nothing from beta2. Sources: Lessard, Recht and Packard (2016); Van
    Scoy, Freeman and Lynch (2018).

    Args:
        method: One of the names above.
        lam_min: The smallest eigenvalue, > 0.
        lam_max: The largest eigenvalue, >= lam_min.

    Returns:
        The method with its best parameters, and its factor per step in the worst case.

    Raises:
        InputError: If the name is not known or the eigenvalues are out of order.

    Examples:
        >>> best = nm.best_parameters("heavy_ball", 1.0, 9.0)
        >>> best.optimizer.eta, best.optimizer.beta, best.rate
        (0.25, 0.25, 0.5)
    """
    _check_range(lam_min, lam_max)
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

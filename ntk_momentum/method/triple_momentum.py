"""The triple momentum method (Van Scoy, Freeman and Lynch 2018): the fastest known fixed-step rate
on strongly convex functions."""

from __future__ import annotations

from ..errors import check_positive
from .base import Number
from .hessian_damping import HessianDampedMethod


def triple_momentum(mu: Number, smoothness: Number) -> HessianDampedMethod:
    """The triple momentum method: the fastest known fixed-step rate on mu <= grad^2 L <=
    smoothness.

        xi_{k+1} = (1 + beta) xi_k - beta xi_{k-1} - eta grad L(w_k)
        w_k = (1 + c) xi_k - c xi_{k-1}

    With rho = 1 - sqrt(mu/smoothness), the rate: eta = (1 + rho)/smoothness, beta = rho^2/(2 -
    rho), c = rho^2/((1 + rho)(2 - rho)). The iterates here are w_k, where the gradient is taken: a
    heavy ball (3.1) with gradient correction delta = c eta, cold-started. `.flow()` is its
    high-resolution equation, of friction 3 sqrt(mu/2) and Hessian damping 1/sqrt(2 smoothness) for
    mu << smoothness. Source: Van Scoy, Freeman and Lynch (2018).

    Args:
        mu: The smallest eigenvalue, > 0.
        smoothness: The largest eigenvalue, >= mu.

    Returns:
        The method, with optax's `init` and `update`.

    Raises:
        InputError: If mu is no number or not positive, or smoothness < mu.

    Examples:
        >>> method = nm.triple_momentum(1.0, 4.0)
        >>> round(float(method.eta), 3), round(float(method.beta), 3), round(float(method.delta), 3)
        (0.375, 0.167, 0.042)
    """
    check_positive("the strong convexity mu", mu)
    check_positive("smoothness", smoothness)
    check_positive(
        "smoothness - mu",
        smoothness - mu,
        strict=False,
        hint="Give mu, the smallest eigenvalue, first, and smoothness, the largest, then.",
    )
    rho = 1 - (mu / smoothness) ** 0.5
    eta = (1 + rho) / smoothness
    return HessianDampedMethod(eta, rho**2 / (2 - rho), eta * rho**2 / ((1 + rho) * (2 - rho)))

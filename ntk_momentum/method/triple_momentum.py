"""The triple momentum method (Van Scoy, Freeman and Lynch 2018): the fastest known fixed-step rate
on strongly convex functions."""

from __future__ import annotations

from typing import Any

from ..errors import check_positive
from .hessian_damping import HessianDampedMethod


def triple_momentum(mu: Any, smoothness: Any) -> HessianDampedMethod:
    """xi_{k+1} = (1 + beta) xi_k - beta xi_{k-1} - eta grad L(w_k), w_k = (1 + c) xi_k - c
    xi_{k-1}, for mu <= grad^2 L <= smoothness.

    With rho = 1 - sqrt(mu/smoothness), the rate: eta = (1 + rho)/smoothness, beta = rho^2/(2 -
    rho), c = rho^2/((1 + rho)(2 - rho)). The iterates here are w_k, where the gradient is taken: a
    heavy ball with gradient correction delta = c eta, cold-started. `.flow()` is its
    high-resolution equation, of friction 3 sqrt(mu/2) and Hessian damping 1/sqrt(2 smoothness) for
    mu << smoothness.
    """
    check_positive("the strong convexity mu", mu)
    check_positive(
        "smoothness - mu",
        smoothness - mu,
        strict=False,
        hint="mu is the smallest eigenvalue, smoothness the largest.",
    )
    rho = 1 - (mu / smoothness) ** 0.5
    eta = (1 + rho) / smoothness
    return HessianDampedMethod(eta, rho**2 / (2 - rho), eta * rho**2 / ((1 + rho) * (2 - rho)))

"""Nesterov's flow put to rest at a fixed period: the response of an eigenvalue, and the period that
decays fastest."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..errors import check_positive
from .base import Number
from .special import nesterov_oscillator


def restarted_response(
    eigenvalue: Number, d: Number, period: Number, t: Number
) -> tuple[Array, Array]:
    """The response of one kernel eigenvalue to Nesterov's flow, put to rest at every multiple of a
    period.

        phi(t) = Lambda_d(sqrt(lambda) period)^j Lambda_d(sqrt(lambda) (t - j period))

    with j = floor(t/period): the solution of (4.3) with d/t started anew each time.

    Args:
        eigenvalue: lambda >= 0, in 1/time^2; broadcasts against t.
        d: Nesterov's constant, > 0, up to 64.
        period: The time between restarts, > 0.
        t: Times >= 0.

    Returns:
        (phi, dphi/dt), of the common shape.

    Raises:
        InputError: If d or the period is out of its range.

    Examples:
        >>> phi, slope = nm.restarted_response(1.0, 3.0, 2.0, jnp.asarray([0.0, 2.0, 4.0]))
        >>> bool(jnp.isclose(phi[2], phi[1] ** 2)), float(abs(slope[1]))
        (True, 0.0)
    """
    check_positive("the eigenvalue", eigenvalue, strict=False)
    check_positive("the Nesterov constant d", d, example=3.0)
    check_positive("the period", period)
    check_positive("the times t", t, strict=False)
    turns = jnp.floor(t / period)
    whole = nesterov_oscillator(eigenvalue, d, period)[0]
    phi, slope = nesterov_oscillator(eigenvalue, d, t - turns * period)
    return whole**turns * phi, whole**turns * slope


class RestartPeriod(NamedTuple):
    """period: time between restarts; exponent: the error decays as exp(-exponent t), the loss as
    exp(-2 exponent t)."""

    period: float
    exponent: float


def best_restart_period(lam_min: float, d: float = 3.0) -> RestartPeriod:
    """The fixed restart period that decays fastest for the worst spectrum in [lam_min, infinity).

        P maximises min over lambda >= lam_min of -log |Lambda_d(sqrt(lambda) P)| / P

    Every eigenvalue of (4.3) shrinks by |Lambda_d(sqrt(lambda) P)| per period, at most by the
    height M of the first side lobe or by the main lobe at lam_min. -log Lambda_d(s)/s rises along
    the main lobe, so the best P is where that lobe falls to M. The exponent is 0.612 sqrt(lam_min)
    at d = 3.

    Args:
        lam_min: The smallest eigenvalue, > 0, in 1/time^2.
        d: Nesterov's constant, > 0, dimensionless.

    Returns:
        The period (a time) and the exponent (1/time) of the error's decay.

    Raises:
        InputError: If a parameter is no number, or not positive and finite.

    Examples:
        >>> best = nm.best_restart_period(4.0, 3.0)
        >>> round(best.period, 3), round(best.exponent, 3)
        (1.653, 1.224)
    """
    from scipy import optimize, special

    check_positive("lam_min", lam_min)
    check_positive("the Nesterov constant d", d)
    nu = (d - 1) / 2

    def lobe(s: float) -> float:
        return float(special.gamma(nu + 1) * (2 / s) ** nu * special.jv(nu, s))

    def first_zero(order: float) -> float:
        # j_1 = order + 1.8558 order^(1/3) + 1.0332 order^(-1/3) + ... (Abramowitz and Stegun
        # 9.5.14), so the grid holds it, as the first change of sign
        grid = (
            np.linspace(1e-6, order + 1.86 * max(order, 1.0) ** (1 / 3) + 4.0, 400)
            + max(order, 0.0) * 1e-3
        )
        at = int(np.argmax(special.jv(order, grid) < 0))
        return float(optimize.brentq(lambda s: special.jv(order, s), grid[at - 1], grid[at]))

    height = abs(lobe(first_zero(nu + 1)))
    s = float(optimize.brentq(lambda s: lobe(s) - height, 1e-3, first_zero(nu)))
    return RestartPeriod(s / lam_min**0.5, float(-np.log(height)) / s * lam_min**0.5)

"""Restarted Nesterov: (4.1) from rest again and again, which turns its t^{-d} into an exponential.

Schemes: speed (Su, Boyd and Candes 2016), gradient and function (O'Donoghue and Candes 2015), and a fixed period.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from ..errors import InputError, check_positive, unknown_name
from ..special import nesterov_oscillator
from .base import AbstractOptimizer
from .nesterov import Nesterov

SCHEMES = ("speed", "gradient", "function")


class RestartedState(NamedTuple):
    """steps: since the last restart; ahead: w_k - R_k; measure: the last speed or loss."""

    steps: Int[Array, ""]
    ahead: PyTree
    measure: Float[Array, ""]


class RestartedNesterovMethod(AbstractOptimizer):
    """Nesterov's method (4.1) whose k goes back to 0 when a scheme says so.

    scheme: "speed", when |R_{k+1} - R_k| falls; "gradient", when grad L(w_k) . (R_{k+1} - R_k) > 0; "function", when L(w_k) rises
    (`update` then needs value=L(w_k), as optax hands it on); or a whole number, the fixed period in steps.
    """

    eta: Any
    d: Any
    scheme: str | int = eqx.field(static=True)
    name: ClassVar[str] = "restarted_nesterov"

    def __check_init__(self):
        check_positive("the step size eta", self.eta)
        check_positive("the Nesterov constant d", self.d)
        if isinstance(self.scheme, str):
            if self.scheme not in SCHEMES:
                raise unknown_name("restart scheme", self.scheme, SCHEMES)
        elif int(self.scheme) != self.scheme or self.scheme < 1:
            raise InputError(f"the restart period must be a positive number of steps, got {self.scheme}.")

    @property
    def linear(self) -> bool:
        return not isinstance(self.scheme, str)

    def init(self, params: PyTree) -> RestartedState:
        dtype = jnp.result_type(*jax.tree.leaves(params))
        measure = jnp.asarray(jnp.inf if self.scheme == "function" else 0.0, dtype)
        return RestartedState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params), measure)

    def update(self, updates, state, params=None, *, value=None, **extra):
        advance = jax.tree.map(lambda g, ahead: (ahead - self.eta * g).astype(g.dtype), updates, state.ahead)  # R_{k+1} - R_k
        if self.scheme == "speed":
            measure = _inner(advance, advance)
            restart = measure < state.measure
            measure = jnp.where(restart, 0.0, measure)  # the step after a restart is short by itself
        elif self.scheme == "gradient":
            measure, restart = state.measure, _inner(updates, advance) > 0
        elif self.scheme == "function":
            if value is None:
                raise InputError('the restart scheme "function" needs update(..., value=loss); "speed" and "gradient" do without.')
            measure, restart = value, value > state.measure
        else:
            measure, restart = state.measure, state.steps >= self.scheme
        count = jnp.where(restart, 0, state.steps)
        momentum = count / (count + self.d)
        ahead = jax.tree.map(lambda r: (momentum * r).astype(r.dtype), advance)
        step = jax.tree.map(lambda g, a: (a - self.eta * g).astype(g.dtype), updates, ahead)
        return step, RestartedState(count + 1, ahead, jnp.asarray(measure, state.measure.dtype))

    def flow(self):
        """The flow between restarts; time is t = (k + d/2) h for w_k with h = sqrt(eta)."""
        return Nesterov(self.d), self.eta**0.5


def _inner(a: PyTree, b: PyTree) -> Array:
    return jnp.sum(jnp.stack([jnp.sum(x * y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)]))


def restarted_nesterov(eta: Any, d: Any, scheme: str | int = "gradient") -> RestartedNesterovMethod:
    """Nesterov's method (4.1) with restarts, as an optax-style transformation. Not linear in w, unless the period is fixed."""
    return RestartedNesterovMethod(eta, d, scheme)


def restarted_response(eigenvalue: Any, d: Any, period: Any, t: Any) -> tuple[Array, Array]:
    """(phi, dphi/dt) of the flow (4.3) put to rest at every multiple of `period`: Lambda_d(sqrt(lambda) period)^j times the mode."""
    check_positive("the period", period)
    turns = jnp.floor(t / period)
    whole = nesterov_oscillator(eigenvalue, d, period)[0]
    phi, slope = nesterov_oscillator(eigenvalue, d, t - turns * period)
    return whole**turns * phi, whole**turns * slope


class RestartPeriod(NamedTuple):
    """period: time between restarts; exponent: the error decays as exp(-exponent t), the loss as exp(-2 exponent t)."""

    period: float
    exponent: float


def best_restart_period(lam_min: float, d: float = 3.0) -> RestartPeriod:
    """The fixed period that decays fastest for the worst spectrum in [lam_min, infinity): 0.612 sqrt(lam_min) at d = 3.

    Every eigenvalue shrinks by |Lambda_d(sqrt(lambda) P)| per period, at most by the height M of the first side lobe or by the
    main lobe at lam_min. -log Lambda_d(s)/s rises along the main lobe, so the best P is where that lobe falls to M.
    """
    from scipy import optimize, special

    check_positive("lam_min", lam_min)
    check_positive("the Nesterov constant d", d)
    nu = (d - 1) / 2

    def lobe(s: float) -> float:
        return float(special.gamma(nu + 1) * (2 / s) ** nu * special.jv(nu, s))

    def first_zero(order: float) -> float:
        grid = np.linspace(1e-6, order + 1.86 * max(order, 1.0) ** (1 / 3) + 4.0, 400) + max(order, 0.0) * 1e-3
        at = int(np.argmax(special.jv(order, grid) < 0))
        return float(optimize.brentq(lambda s: special.jv(order, s), grid[at - 1], grid[at]))

    height = abs(lobe(first_zero(nu + 1)))
    s = float(optimize.brentq(lambda s: lobe(s) - height, 1e-3, first_zero(nu)))
    return RestartPeriod(s / lam_min**0.5, float(-np.log(height)) / s * lam_min**0.5)

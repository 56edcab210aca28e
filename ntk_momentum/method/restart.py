"""Restarted Nesterov: (4.1), or its flow (4.2), from rest again and again, which turns its t^{-d}
into an exponential.

Schemes: speed (Su, Boyd and Candes 2016), gradient and function (O'Donoghue and Candes 2015), and a
fixed period.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from ..errors import InputError, check_positive, check_whole, unknown_name
from .base import AbstractFlow, AbstractMomentumFlow, AbstractOptimizer, Number, State
from .nesterov import AbstractNesterov, Nesterov
from .restart_period import restarted_response
from .special import nesterov_oscillator

SCHEMES = ("speed", "gradient", "function")


class RestartedNesterov(AbstractMomentumFlow):
    """Nesterov's flow (4.2), put to rest again and again: at a restart v = 0, and d/t starts anew
    at t = 0.

        w'' + (d/s) w' + grad L(w) = 0,  s the time since the last restart

    With a fixed period the flow is linear: an eigenvalue of a constant kernel shrinks by
    Lambda_d(sqrt(lambda) period) each time. Adaptive restarts couple the eigenmodes through their
    times.

    Args:
        d: Nesterov's constant, > 0, dimensionless.
        scheme: "speed", at a maximum of |dw/dt| (Su, Boyd and Candes 2016); "function" or
            "gradient", the same here, at a minimum of the loss, where grad L . dw/dt = 0
            (O'Donoghue and Candes 2015); or the period between restarts, a time.

    Raises:
        InputError: If d or the period is no positive number, or the scheme is not known.

    Examples:
        >>> nm.RestartedNesterov(3.0).linear, nm.RestartedNesterov(3.0, 2.5).linear
        (False, True)
    """

    d: Number
    scheme: str = eqx.field(static=True)
    period: Number | None
    name: ClassVar[str] = "restarted_nesterov"

    def __init__(self, d: Number, scheme: str | Number = "speed") -> None:
        check_positive("the Nesterov constant d", d)
        if isinstance(scheme, str) and scheme not in SCHEMES:
            raise unknown_name("restart scheme", scheme, SCHEMES)
        if not isinstance(scheme, str):
            check_positive("scheme, the period between restarts,", scheme)
        self.d = d
        self.scheme, self.period = (scheme, None) if isinstance(scheme, str) else ("period", scheme)

    @property
    def linear(self) -> bool:
        """Whether the restarts come at a fixed period."""
        return self.period is not None

    @property
    def settles(self) -> bool:
        """With restarts at a fixed period."""
        return self.linear

    @property
    def between(self) -> Nesterov:
        """The flow between two restarts; its time is that since the last one."""
        return Nesterov(self.d)

    def friction(self, t: Number) -> Array:
        """d/t, t the time since the last restart."""
        return self.between.friction(t)

    def vector_field(self, t: Number, state: State, gradient: PyTree) -> State:
        """That of (4.2), t the time since the last restart."""
        return self.between.vector_field(t, state, gradient)

    def _damping_rate(self, t: Number, h: Number) -> Number:
        return self.between._damping_rate(t, h)

    def due(self, t: Array, state: State, gradient: PyTree, inner: Callable) -> Array:
        """Positive until an adaptive restart is due: half the rate of |v|^2, or minus the loss's.
        inner: of two changes of the weights."""
        if self.scheme == "speed":
            return inner(state.v, self.vector_field(t, state, gradient).v)
        return -inner(state.v, gradient)

    def mode(self, eigenvalue: Number, t: Number) -> tuple[Array, Array]:
        """`restarted_response`, for a fixed period. Raises InputError for adaptive restarts, which
        have no response of one eigenvalue."""
        if not self.linear:
            raise InputError(
                f'restarts by "{self.scheme}" depend on all eigenmodes together; take '
                "nm.predict or a fixed period."
            )
        assert self.period is not None
        return restarted_response(eigenvalue, self.d, self.period, t)

    def settled(self, eigenvalues: ArrayLike, start: ArrayLike, end: float) -> AbstractFlow:
        """The same restarts at times given beforehand, those of `restart_times`."""
        return (
            self
            if self.linear
            else _RestartedAt(self.d, jnp.asarray(restart_times(eigenvalues, start, self, end)))
        )

    def discretize(self, h: Number) -> tuple[RestartedNesterovMethod, Number]:
        """The restarted method with eta = h^2; w_k is compared at t = (k + d/2) h. A period becomes
        the nearest number of steps."""
        check_positive("the step h", h)
        scheme = self.scheme if self.period is None else max(1, round(float(self.period / h)))
        return RestartedNesterovMethod(h**2, self.d, scheme), self.d * h / 2

    def lyapunov(
        self,
        t: Number,
        residual: Float[Array | np.ndarray, " n"],
        velocity: Float[Array | np.ndarray, " n"],
        kernel: Float[Array | np.ndarray, "n n"],
    ) -> Float[Array, ""]:
        """The energy (Delta . H Delta + |dDelta/dt|^2)/2: for a constant kernel it falls along
        (4.3), and at every restart."""
        return jnp.asarray(0.5 * residual @ (kernel @ residual)) + 0.5 * jnp.sum(velocity**2)


class _RestartedAt(AbstractNesterov):
    """Nesterov's flow on a constant kernel, put to rest at given times (R,): positive, ascending,
    filled up with infinity."""

    times: Float[Array, " R"]
    name: ClassVar[str] = "nesterov"

    def mode(self, eigenvalue: Number, t: Number) -> tuple[Array, Array]:
        """The product of Lambda_d(sqrt(lambda) P_j) over the periods that are over at t, times the
        mode since."""
        begins = jnp.concatenate([jnp.zeros(1, self.times.dtype), self.times])

        def turn(amplitude: Array, ends: tuple[Array, Array]) -> tuple[Array, None]:
            whole = nesterov_oscillator(
                eigenvalue, self.d, jnp.where(jnp.isfinite(ends[1]), ends[1] - ends[0], 0.0)
            )[0]
            return jnp.where(ends[1] <= t, amplitude * whole, amplitude), None

        shape, dtype = (
            jnp.broadcast_shapes(jnp.shape(eigenvalue), jnp.shape(t)),
            jnp.result_type(eigenvalue, t),
        )
        amplitude = jax.lax.scan(turn, jnp.ones(shape, dtype), (begins[:-1], begins[1:]))[0]
        phi, slope = nesterov_oscillator(
            eigenvalue, self.d, t - begins[jnp.searchsorted(self.times, t, side="right")]
        )
        return amplitude * phi, amplitude * slope


def restart_times(
    eigenvalues: ArrayLike, start: ArrayLike, flow: RestartedNesterov, end: float
) -> np.ndarray:
    """When `flow` restarts before `end` on a constant kernel with these eigenvalues (n,), from
    errors `start` (n,) along them.

    (R,), filled up with infinity to a power of two. With Delta_j = start_j phi_j the speed is
    |dw/dt|^2 = sum_j (dDelta_j/dt)^2/lambda_j and the loss sum_j Delta_j^2/2. Each time is the
    first zero of a closed form, bracketed on a grid of a twelfth of the fastest period.
    """
    from scipy import optimize

    lam, amplitude = np.asarray(eigenvalues), np.asarray(start)
    moving = lam > np.finfo(lam.dtype).eps * lam[-1]
    lam, amplitude = lam[moving], amplitude[moving]
    cell, found, now = 0.5 / float(lam[-1]) ** 0.5, [], 0.0

    def sign(t: Number) -> np.ndarray:
        return np.asarray(_due(lam, amplitude, flow, np.atleast_1d(t)))

    while True:
        edge, crossed = cell, False
        while not crossed and now + edge < end:
            grid = edge + cell * np.arange(_GRID)
            below = sign(grid) < 0
            crossed = bool(below.any())
            at = int(np.argmax(below)) if crossed else _GRID
            edge += cell * at
        if not crossed:
            break
        # at a restart itself the rate is zero, from where it rises: look just after
        low = max(edge - cell, 1e-3 * cell)
        since = (
            edge
            if sign(low) < 0
            else float(optimize.brentq(lambda t: sign(t)[0], low, edge, xtol=1e-14 * edge + 1e-300))
        )
        if now + since >= end:
            break
        now += since
        found.append(now)
        amplitude = amplitude * np.asarray(nesterov_oscillator(lam, flow.d, since)[0])
    return np.asarray(
        found + [np.inf] * (2 ** int(np.ceil(np.log2(max(len(found), 1)))) - len(found)), lam.dtype
    )


_GRID = 64
"""Grid points at which the search for the next restart looks at a time, five of the fastest
periods. Chosen, not measured."""


@eqx.filter_jit
def _due(
    lam: Array | np.ndarray,
    amplitude: Array | np.ndarray,
    flow: RestartedNesterov,
    ts: Array | np.ndarray,
) -> Array:
    """`RestartedNesterov.due` of the weights behind the modes: Delta_j = sqrt(lambda_j) z_j and
    grad L = sqrt(lambda_j) Delta_j, scaled."""
    root, size = jnp.sqrt(lam), amplitude / jnp.max(jnp.abs(amplitude))

    def at(t: Array) -> Array:
        phi, slope = nesterov_oscillator(lam, flow.d, t)
        return flow.due(
            t, State(size * phi / root, size * slope / root), size * phi * root, jnp.dot
        )

    return jax.vmap(at)(jnp.asarray(ts))


class RestartedState(NamedTuple):
    """steps: since the last restart; ahead: w_k - R_k; measure: the last speed or loss."""

    steps: Int[Array, ""]
    ahead: PyTree
    measure: Float[Array, ""]


class RestartedNesterovMethod(AbstractOptimizer):
    """Nesterov's method (4.1) whose k goes back to 0 when a scheme says so.

    scheme: "speed", when |R_{k+1} - R_k| falls; "gradient", when grad L(w_k) . (R_{k+1} - R_k) > 0;
    "function", when L(w_k) rises (`update` then needs value=L(w_k), as optax hands it on); or a
    whole number, the fixed period in steps.
    """

    eta: Number
    d: Number
    scheme: str | int = eqx.field(static=True)
    name: ClassVar[str] = "restarted_nesterov"

    def __check_init__(self) -> None:
        check_positive("the step size eta", self.eta)
        check_positive("the Nesterov constant d", self.d)
        if isinstance(self.scheme, str):
            if self.scheme not in SCHEMES:
                raise unknown_name("restart scheme", self.scheme, SCHEMES)
        else:
            check_whole("scheme, the restart period in steps,", self.scheme, example=50)

    @property
    def linear(self) -> bool:
        """Whether the restarts come at a fixed period."""
        return not isinstance(self.scheme, str)

    def init(self, params: PyTree) -> RestartedState:
        """No step taken; the first measure restarts nothing."""
        dtype = jnp.result_type(*jax.tree.leaves(params))
        measure = jnp.asarray(jnp.inf if self.scheme == "function" else 0.0, dtype)
        return RestartedState(
            jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params), measure
        )

    def update(
        self,
        updates: PyTree,
        state: RestartedState,
        params: PyTree | None = None,
        *,
        value: Number | None = None,
        **extra: Any,
    ) -> tuple[PyTree, RestartedState]:
        """(w_{k+1} - w_k, new state) from the gradient at w_k and, for "function", value =
        L(w_k)."""
        advance = jax.tree.map(
            lambda g, ahead: (ahead - self.eta * g).astype(g.dtype), updates, state.ahead
        )  # R_{k+1} - R_k
        if self.scheme == "speed":
            measure = _inner(advance, advance)
            restart = measure < state.measure
            measure = jnp.where(
                restart, 0.0, measure
            )  # the step after a restart is short by itself
        elif self.scheme == "gradient":
            measure, restart = state.measure, _inner(updates, advance) > 0
        elif self.scheme == "function":
            if value is None:
                raise InputError(
                    'the restart scheme "function" needs update(..., value=loss); '
                    'use "speed" or "gradient" to do without.'
                )
            measure = jnp.asarray(value, state.measure.dtype)
            restart = jnp.asarray(value) > state.measure
        else:
            measure, restart = state.measure, state.steps >= int(self.scheme)
        count = jnp.where(restart, 0, state.steps)
        momentum = count / (count + self.d)
        ahead = jax.tree.map(lambda r: (momentum * r).astype(r.dtype), advance)
        step = jax.tree.map(lambda g, a: (a - self.eta * g).astype(g.dtype), updates, ahead)
        return step, RestartedState(count + 1, ahead, jnp.asarray(measure, state.measure.dtype))

    def flow(self) -> tuple[RestartedNesterov, Number]:
        """The restarted flow; time is t = (k + d/2) h for w_k with h = sqrt(eta)."""
        h = self.eta**0.5
        return RestartedNesterov(
            self.d, self.scheme if isinstance(self.scheme, str) else self.scheme * h
        ), h


def _inner(a: PyTree, b: PyTree) -> Array:
    return jnp.sum(
        jnp.stack(
            [jnp.sum(x * y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)]
        )
    )


def restarted_nesterov(
    eta: Number, d: Number, scheme: str | int = "gradient"
) -> RestartedNesterovMethod:
    """Nesterov's method (4.1) whose k goes back to 0 when a scheme says so, as an optax-style
    transformation.

        R_{k+1} = w_k - eta grad L(w_k),  w_{k+1} = R_{k+1} + j/(j+d) (R_{k+1} - R_k)

    with j the steps since the last restart. Not linear in w, unless the period is fixed.

    Args:
        eta: Step size, > 0, in units of time squared of the flow.
        d: Nesterov's constant, > 0, dimensionless.
        scheme: "speed", when |R_{k+1} - R_k| falls (Su, Boyd and Candes 2016); "gradient", when
            grad L(w_k) . (R_{k+1} - R_k) > 0, or "function", when L(w_k) rises (O'Donoghue and
            Candes 2015; `update` then needs value=L(w_k), as optax hands it on); or a whole number,
            the fixed period in steps.

    Returns:
        The method, with optax's `init` and `update`.

    Raises:
        InputError: If a parameter is out of its range, or the scheme is not known.

    Examples:
        >>> flow, h = nm.restarted_nesterov(0.01, 3.0, 50).flow()
        >>> round(float(flow.period), 3), round(float(h), 3)
        (5.0, 0.1)
    """
    return RestartedNesterovMethod(eta, d, scheme)

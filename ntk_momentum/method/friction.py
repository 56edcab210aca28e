"""Friction b(t) of any form: (3.2) and (4.2) are b(t) = b and b(t) = d/t. Its modes are solved
numerically, to round-off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from ..errors import InputError, brief, check_positive, described
from ..loops import while_loop
from .base import AbstractMomentumFlow, AbstractOptimizer, Number

Step = tuple[Array, Array, Array]  # the time, the step wanted next, and (x, x')
Traceless = tuple[Array, Array, Array]  # (p, q, r) of [[p, q], [r, -p]], for each eigenvalue


class Friction(AbstractMomentumFlow):
    """A flow with friction b(t) of any form: (3.2) and (4.2) are b(t) = b and b(t) = d/t.

        w'' + b(t) w' + grad L(w) = 0,  w'(0) = 0

    Where b varies slowly against sqrt(lambda), L ~ exp(-int b).

    Args:
        b: A function of an array t (time) with values b(t) >= 0 in 1/time, finite at t = 0 (for d/t
            take `nm.Nesterov`), built from jax.numpy; or an Equinox module, whose parameters then
            stack and vmap.

    Raises:
        InputError: If b is no function, or b(0) is negative or not finite.

    Examples:
        >>> flow = nm.Friction(lambda t: 1 / (1 + t))
        >>> round(float(flow.friction(jnp.asarray(3.0))), 3)
        0.25
    """

    b: Callable = eqx.field(converter=lambda b: as_module(b))
    name: ClassVar[str] = "friction"

    def __check_init__(self) -> None:
        if not callable(self.b):
            raise InputError(
                "the friction b must be a function of time, got "
                f"{described(self.b)}; a constant is nm.HeavyBall(b), so try that."
            )
        try:
            start = self.b(jnp.zeros(()))
        except Exception as error:  # the user's code: anything may be raised
            raise InputError(
                f"the friction b must be a function of one time, got one that raises "
                f"{type(error).__name__} at t = 0 ({brief(error)}); try lambda t: 1 / (1 + t)."
            ) from error
        check_positive(
            "the friction b(0)",
            start,
            strict=False,
            hint="For b = d/t take nm.Nesterov(d).",
        )

    def friction(self, t: Number) -> Array:
        """b(t)."""
        return jnp.asarray(self.b(t))

    def mode(self, eigenvalue: Number, t: Number) -> tuple[Array, Array]:
        """Solved numerically, once for all times and eigenvalues: sixth-order Magnus steps, which
        are exact while b is constant.

        Relative accuracy about 1e-11 in float64, 1e-8 where b jumps. Differentiable in forward
        mode.
        """
        dtype = jnp.result_type(eigenvalue, t, float)
        eigenvalue, t = jnp.asarray(eigenvalue, dtype), jnp.asarray(t, dtype)
        shape = jnp.broadcast_shapes(eigenvalue.shape, t.shape)
        order = jnp.argsort(t.reshape(-1))
        path = _propagate(self.b, eigenvalue.reshape(-1), t.reshape(-1)[order])[jnp.argsort(order)]
        row = jnp.broadcast_to(jnp.arange(t.size).reshape(t.shape), shape)
        column = jnp.broadcast_to(jnp.arange(eigenvalue.size).reshape(eigenvalue.shape), shape)
        return path[row, 0, column], path[row, 1, column]

    def discretize(self, h: Number) -> tuple[FrictionMethod, Number]:
        """The heavy ball's central difference with b at t = (k + 1/2) h, where w_k is compared:
        order 2."""
        check_positive("the step h", h)
        return FrictionMethod(h**2, self.b), h / 2

    def lyapunov(
        self,
        t: Number,
        residual: Float[Array | np.ndarray, " n"],
        velocity: Float[Array | np.ndarray, " n"],
        kernel: Float[Array | np.ndarray, "n n"],
    ) -> Float[Array, ""]:
        """(A.6) with alpha = b(t)/2; its decay is proven for constant b only."""
        return jnp.asarray(0.5 * residual @ (kernel @ residual)) + 0.5 * jnp.sum(
            (0.5 * self.friction(t) * residual + velocity) ** 2
        )


class FrictionState(NamedTuple):
    """steps: taken so far, k; last: w_k - w_{k-1}."""

    steps: Int[Array, ""]
    last: PyTree


class FrictionMethod(AbstractOptimizer):
    """w_{k+1} = w_k + ((1 - a_k)(w_k - w_{k-1}) - eta grad L(w_k))/(1 + a_k), a_k = b((k + 1/2) h)
    h/2, h = sqrt(eta), w_{-1} = w_0."""

    eta: Number
    b: Callable = eqx.field(converter=lambda b: as_module(b))
    name: ClassVar[str] = "friction"

    def __check_init__(self) -> None:
        check_positive("the step size eta", self.eta)

    def init(self, params: PyTree) -> FrictionState:
        """No step taken, no last step."""
        return FrictionState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(
        self, updates: PyTree, state: FrictionState, params: PyTree | None = None
    ) -> tuple[PyTree, FrictionState]:
        """The step, which becomes the last one."""
        h = jnp.asarray(self.eta) ** 0.5
        a = self.b((state.steps + 0.5) * h) * h / 2
        step = jax.tree.map(
            lambda g, u: (((1 - a) * u - self.eta * g) / (1 + a)).astype(g.dtype),
            updates,
            state.last,
        )
        return step, FrictionState(state.steps + 1, step)

    def flow(self) -> tuple[Friction, Number]:
        """Time is t = (k + 1/2) h with h = sqrt(eta)."""
        return Friction(self.b), self.eta**0.5


class _Function(eqx.Module):
    """A plain function as a module without leaves."""

    function: Callable = eqx.field(static=True)

    def __call__(self, t: Number) -> Number:
        return self.function(t)


def as_module(b: Any) -> Any:
    """A function as a leafless module, so that it may be a field of one."""
    if isinstance(b, eqx.Module):
        return b
    return _Function(b) if callable(b) else b


@eqx.filter_jit
def _propagate(
    friction: Callable, lam: Float[Array, " n"], ts: Float[Array, " T"]
) -> Float[Array, "T 2 n"]:
    """(x, x') of x'' + b(t) x' + lambda x = 0, x(0) = 1, x'(0) = 0, at increasing times; steps
    chosen by step doubling."""
    info = jnp.finfo(lam.dtype)
    root = jnp.sqrt(jnp.maximum(jax.lax.stop_gradient(lam), 0.0))
    fastest = jnp.max(root)
    # chosen: near round-off, since these modes stand in for closed forms
    tol = max(1e-12, 8 * float(info.eps))

    steps = jax.vmap(lambda t, h: _magnus(friction, lam, t, h))

    def segment(carry: Step, end: Array) -> tuple[Step, Array]:
        def attempt(carry: Step) -> Step:
            t, wanted, y = carry
            h = jnp.minimum(wanted, end - t)
            one, first, second = steps(jnp.stack([t, t, t + h / 2]), jnp.stack([h, h / 2, h / 2]))
            whole, fine = _apply(one, y), _apply(second, _apply(first, y))
            scale = h / (1 + h * root)
            size, gap = jnp.abs(fine), jnp.abs(fine - whole)
            error = (
                jnp.max((gap[0] + scale * gap[1]) / (size[0] + scale * size[1] + info.tiny))
                + _unseen(friction, t, h) ** 1.5
            )
            scaled = jax.lax.stop_gradient(error) / (
                tol + 16 * info.eps * h * fastest
            )  # a long step's phase is no better than its round-off
            accept = (scaled <= 1) | (h <= 4 * info.eps * end)
            # a step's error is of order h^7; 0.9, 1/5 and 5 are the usual guards of step control
            # (Hairer, Norsett and Wanner, II.4), and 1e-7 keeps the power of 0 finite
            factor = jnp.clip(0.9 * jnp.maximum(scaled, 1e-7) ** (-1 / 7), 0.2, 5.0)
            proposed = jax.lax.stop_gradient(h) * jnp.where(jnp.isfinite(factor), factor, 0.2)
            last = accept & (h >= end - t)
            wanted = jnp.where(last, jnp.maximum(proposed, wanted), proposed)
            # Richardson: halving the step divides an error of order 6 by 2^6, so fine - whole is 63
            # times what is left of it
            y = jnp.where(accept, fine + (fine - whole) / 63, y)
            return jnp.where(last, end, jnp.where(accept, t + h, t)), wanted, y

        carry = while_loop(lambda c: c[0] < end, attempt, carry)
        return carry, carry[2]

    zero = jnp.zeros((), lam.dtype)
    start = jnp.stack([jnp.ones_like(lam), jnp.zeros_like(lam)])
    first = (
        1 / (fastest + jnp.abs(jnp.asarray(friction(zero))) + 1 / jnp.maximum(ts[-1], info.tiny))
    ).astype(lam.dtype)
    return jax.lax.scan(segment, (zero, first, start), ts)[1]


def _apply(matrix: Array, y: Array) -> Array:
    return jnp.stack(
        [matrix[0, 0] * y[0] + matrix[0, 1] * y[1], matrix[1, 0] * y[0] + matrix[1, 1] * y[1]]
    )


def _magnus(friction: Callable, lam: Array, t: Array, h: Array) -> Float[Array, "2 2 n"]:
    """One step of the sixth-order Magnus method (Blanes, Casas, Ros 2000) for y' = [[0, 1],
    [-lambda, -b(t)]] y, at Gauss nodes.

    The trace of the exponent is the integral of -b; its traceless part (p, q; r, -p) is what the
    commutators act on.
    """
    b1, b2, b3 = (
        jnp.asarray(friction(t + h * node), lam.dtype)
        for node in (0.5 - 15**0.5 / 10, 0.5, 0.5 + 15**0.5 / 10)
    )
    slope, curve = 15**0.5 / 3 * h * (b3 - b1), 10 / 3 * h * (b3 - 2 * b2 + b1)
    zero = jnp.zeros_like(lam)
    A1 = zero + h * b2 / 2, zero + h, -h * lam
    A2, A3 = (zero + slope / 2, zero, zero), (zero + curve / 2, zero, zero)
    C1 = _commutator(A1, A2)
    C2 = _scale(-1 / 60, _commutator(A1, _add(_scale(2.0, A3), C1)))
    last = _commutator(_add(_scale(-20.0, A1), _scale(-1.0, A3), C1), _add(A2, C2))
    p, q, r = _add(A1, _scale(1 / 12, A3), _scale(1 / 240, last))
    half = (h * b2 + curve / 12) / 2
    cosh, sinch = _hyperbolic(p * p + q * r, half)
    return jnp.stack(
        [jnp.stack([cosh + sinch * p, sinch * q]), jnp.stack([sinch * r, cosh - sinch * p])]
    )


def _unseen(friction: Callable, t: Array, h: Array) -> Array:
    """h times what the Gauss nodes of the half steps fail to foretell of b at t and t + h: no node
    sees a jump so near an end."""

    def defect(end: Array, sign: float) -> Array:
        before, middle, after = (
            friction(end - sign * h / 2 * (0.5 + node))
            for node in (-(15**0.5) / 10, 0.0, 15**0.5 / 10)
        )
        return (
            friction(end)
            - middle
            - 15**0.5 / 6 * (before - after)
            - 5 / 6 * (before - 2 * middle + after)
        )

    return h * (jnp.abs(defect(t, -1.0)) + jnp.abs(defect(t + h, 1.0)))


def _commutator(X: Traceless, Y: Traceless) -> Traceless:
    (p, q, r), (u, v, w) = X, Y
    return q * w - v * r, 2 * (p * v - u * q), 2 * (r * u - w * p)


def _add(*parts: Traceless) -> Traceless:
    p, q, r = (sum(entries[1:], entries[0]) for entries in zip(*parts, strict=True))
    return p, q, r


def _scale(factor: float, X: Traceless) -> Traceless:
    p, q, r = X
    return factor * p, factor * q, factor * r


def _hyperbolic(square: Array, damping: Array) -> tuple[Array, Array]:
    """exp(-damping) (cosh s, sinh(s)/s) at s^2 = square of either sign, without overflow; analytic
    at 0."""
    # the series' first missing terms, 0.1^8/16! and 0.1^8/17!, are below round-off
    near, over = jnp.abs(square) < 0.1, square > 0
    z = jnp.where(near, square, 0.0)
    cosh, sinch = jnp.ones_like(z), jnp.ones_like(z)
    for k in range(7, 0, -1):
        cosh = 1 + z / ((2 * k - 1) * (2 * k)) * cosh
        sinch = 1 + z / ((2 * k) * (2 * k + 1)) * sinch
    s = jnp.sqrt(jnp.where(near, 1.0, jnp.abs(square)))
    grown = jnp.where(over & ~near, s, 0.0)
    cosh_far = jnp.where(over, (1 + jnp.exp(-2 * grown)) / 2, jnp.cos(s))
    sinch_far = jnp.where(over, -jnp.expm1(-2 * grown) / 2, jnp.sin(s)) / s
    envelope = jnp.exp(grown - damping)
    return envelope * jnp.where(near, cosh, cosh_far), envelope * jnp.where(near, sinch, sinch_far)

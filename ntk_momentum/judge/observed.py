"""What a certificate needs to see of a run: its kernel at saved times, how far that moves between
them, and what else drives the error.

Of a two-layer ReLU net whose hidden layer is trained with momentum, the error obeys (3.5) between
kinks, and the kinks' impulses are counted one by one. Of any other model it obeys (3.5) up to a
force, J' w' and the kinks', whose integral over a step is what is left over,

    d(t0, t1) = Delta'(t1) - Delta'(t0) + b (Delta(t1) - Delta(t0)) + int H Delta dt,

and for the gradient flow Delta(t1) - Delta(t0) + int H Delta dt, zero but for neurons that slide.
The integral is taken by the corrected trapezoidal rule with the kernel frozen at each end, so steps
must resolve the fast modes: pass solver=nm.RungeKutta() where the default is another.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..dynamics.objective import norm
from ..dynamics.readout import Observer
from ..dynamics.snapshot import Snapshot
from ..errors import InputError
from ..loss import squared
from ..method import AbstractFlow, AbstractMomentumFlow, GradientFlow, Nesterov


def _kinks(before: Snapshot, after: Snapshot) -> tuple[Array, ...]:
    """(active at the start, flipped, crossed twice perhaps, when, speed at the kink, |speeds| of
    the third) of one step, (n, m) each.

    A pair whose sign agrees at both ends is taken to have crossed twice where the tangents at the
    two ends meet beyond the kink.
    """
    # z0 + v0 s and z1 - v1 (h - s), the tangents at the two ends, meet at s = (z1 - z0 - v1 h) /
    # (v0 - v1). Where the sign flips the kink is hit at the share z0 / (z0 - z1) of the step, with
    # the speed between v0 and v1 at that share.
    h, z0, z1 = after.t - before.t, before.preactivations, after.preactivations
    v0, v1 = before.preactivation_rates, after.preactivation_rates
    active, flipped = z0 > 0, (z0 > 0) != (z1 > 0)
    side = jnp.where(active, 1.0, -1.0)
    turns = ~flipped & (side * v0 < 0) & (side * v1 > 0)
    meet = jnp.clip((z1 - z0 - v1 * h) / jnp.where(turns, v0 - v1, 1.0), 0.0, h)
    twice = turns & (side * (z0 + v0 * meet) < 0)
    at = z0 / jnp.where(flipped, z0 - z1, 1.0)
    speed = jnp.where(flipped, jnp.abs(v0 + at * (v1 - v0)), 0.0)
    return active, flipped, twice, at, speed, jnp.where(twice, jnp.abs(v0) + jnp.abs(v1), 0.0)


class Force(Observer):
    """Base of what is summed over accepted steps: the force on the error beside those of (3.5),
    kink by kink or as what is left over."""

    flow: Any = None

    def check(self, flow: AbstractFlow) -> None:
        if not (
            isinstance(flow, GradientFlow)
            or (isinstance(flow, AbstractMomentumFlow) and flow.inertial)
        ):
            raise InputError(
                "certificates are for the gradient flow, the heavy ball and Nesterov's flow, not "
                f"for {type(flow).__name__}."
            )

    def bound(self, flow: AbstractFlow | None) -> Force:
        return type(self)(flow)

    def init(self, start: Snapshot) -> PyTree:
        if start.loss_function is not squared:
            name = getattr(start.loss_function, "__name__", start.loss_function)
            raise InputError(f"certificates are for the squared loss, got {name}.")
        if isinstance(self.flow, Nesterov) and start.why_not_counted is not None:
            raise InputError(
                "Nesterov's certificate needs the impulses of kinks, which are counted "
                f"{start.why_not_counted}; try nm.HeavyBall."
            )
        return self.nothing(start.residual.size, start.t.dtype)

    def nothing(self, size: int, dtype: Any) -> Array:
        """The sum of no steps, for so many entries of the error."""
        return jnp.zeros((), dtype)

    def left_over(self, before: Snapshot, after: Snapshot) -> Array:
        """|d(t0, t1)|."""
        if before.slides:
            # Delta' = -H Delta with Filippov's slopes, whatever the step
            return jnp.zeros_like(before.t)
        h = after.t - before.t
        # Corrected trapezoidal rule for int H Delta: both ends, and the slopes H Delta' there.
        whole = h / 2 * (before.pushed + after.pushed) + h**2 / 12 * (
            before.apply_kernel(before.speed) - after.apply_kernel(after.speed)
        )
        change = after.residual - before.residual
        if not before.has_momentum:
            return norm(change + whole)
        return norm(after.speed - before.speed + self.flow.friction(before.t) * change + whole)


class ImpulseBound(Force):
    """Sum over accepted steps of the force's integral: the bound of V needs the path's length, in
    which nothing cancels."""

    def update(self, memory: PyTree, before: Snapshot, after: Snapshot) -> PyTree:
        if before.why_not_counted is not None:
            return memory + self.left_over(before, after)
        *_, speed, twice = _kinks(before, after)
        outer = before.outer
        return memory + jnp.linalg.norm(speed @ outer) + jnp.linalg.norm(twice @ jnp.abs(outer))


class ImpulseSpread(Force):
    """Sums over accepted steps of |sum_j s_j iota_j| and of sum_j s_j^2 |iota_j|/2, s_j from the
    impulse to the step's end.

    Where impulses are not counted, as if what is left over came at the step's start.
    """

    def nothing(self, size: int, dtype: Any) -> Array:
        return jnp.zeros((2,), dtype)

    def update(self, memory: PyTree, before: Snapshot, after: Snapshot) -> PyTree:
        h = after.t - before.t
        if before.why_not_counted is not None:
            return memory + self.left_over(before, after) * jnp.stack([h, 0.5 * h**2])
        *_, at, speed, twice = _kinks(before, after)
        later, outer = h * (1 - at), before.outer
        size = jnp.abs(outer)
        first = jnp.linalg.norm((later * speed) @ outer) + h * jnp.linalg.norm(twice @ size)
        second = 0.5 * jnp.sum((later**2 * speed + h**2 * twice) @ size)
        return memory + jnp.stack([first, second])


class KernelPath(Force):
    """Entrywise length of the kernel's path, (n, n): |H(t) - H(s)| <= path(t) - path(s).

    Where impulses are counted H moves by flips only and these are followed; elsewhere the two ends
    of every step are compared.
    """

    def nothing(self, size: int, dtype: Any) -> Array:
        return jnp.zeros((size, size), dtype)

    def init(self, start: Snapshot) -> PyTree:
        path = super().init(start)
        return path if start.why_not_counted is None else (path, start.driving_kernel)

    def read(self, memory: PyTree, snapshot: Snapshot) -> Array:
        return memory[0] if isinstance(memory, tuple) else memory

    def update(self, memory: PyTree, before: Snapshot, after: Snapshot) -> PyTree:
        if isinstance(memory, tuple):
            path, last = memory
            now = after.driving_kernel
            return path + jnp.abs(now - last), now
        active, flipped, twice, *_ = _kinks(before, after)
        return memory + jnp.abs(before.gram) * path_of(active, flipped | twice, before.outer)


def path_of(active: Array, moved: Array, outer: Array) -> Array:
    """Path of sum_r outer_r^2 1_ri 1_rj in one step, (n, n), by which neurons were active at its
    start and which crossed a kink, (n, m) each."""

    def total(active: Array, moved: Array, outer: Array) -> Array:
        # Of a product of two indicators one flips while the other is on at some time. Pairs that
        # both flip are in half and in its transpose.
        flips = moved.astype(outer.dtype)
        ever, weighted = jnp.where(active, 1.0, flips), flips * jnp.square(outer)[None]
        half = weighted @ ever.T
        return half + half.T - weighted @ flips.T

    def of_few() -> Array:
        # in one step few neurons flip at all, and the others add nothing
        at = jnp.nonzero(moved.any(0), size=some, fill_value=moved.shape[1])[0]
        return total(
            *(jnp.take(x, at, -1, mode="fill", fill_value=0) for x in (active, moved, outer))
        )

    some = max(1, moved.shape[1] // 16)
    few = jnp.sum(moved.any(0)) <= some
    return jax.lax.cond(few, of_few, partial(total, active, moved, outer))


def _friction(s: Snapshot) -> Array:
    if isinstance(s.flow, AbstractMomentumFlow):
        return s.flow.friction(s.t)
    return jnp.full_like(s.t, jnp.nan)


def _reference(s: Snapshot) -> Array:
    return jnp.full_like(s.kernel, jnp.nan) if s.reference is None else s.reference


CERTIFICATE_READOUTS = {
    **{name: name for name in ("loss", "residual", "velocity")},
    "kernel": lambda s: s.driving_kernel,
    "friction": _friction,
    "reference": _reference,
    "impulses": ImpulseBound(),
    "impulse_spread": ImpulseSpread(),
    "kernel_path": KernelPath(),
}
"""What `certify` needs: `simulate(..., HeavyBall(b), ts, readouts=CERTIFICATE_READOUTS)`; add your
own to a copy.

friction: NaN where there is no momentum.
"""

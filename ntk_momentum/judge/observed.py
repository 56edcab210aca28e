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

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from ..dynamics.objective import norm
from ..dynamics.readout import Observer, Snapshot, why_not_counted
from ..errors import InputError
from ..loss import squared
from ..method import AbstractMomentumFlow, GradientFlow


def _kinks(problem: Any, t0: Array, before: Any, t1: Array, after: Any) -> tuple[Array, ...]:
    """(active at the start, flipped, crossed twice perhaps, when, speed at the kink, |speeds| of
    the third) of one step, (n, m) each.

    A pair whose sign agrees at both ends is taken to have crossed twice where the tangents at the
    two ends meet beyond the kink.
    """
    X, h = problem.X.reshape(problem.X.shape[0], -1), t1 - t0
    z0, z1, v0, v1 = (X @ part.hidden.T for part in (before.w, after.w, before.v, after.v))
    active, flipped = z0 > 0, (z0 > 0) != (z1 > 0)
    side = jnp.where(active, 1.0, -1.0)
    turns = ~flipped & (side * v0 < 0) & (side * v1 > 0)
    meet = jnp.clip((z1 - z0 - v1 * h) / jnp.where(turns, v0 - v1, 1.0), 0.0, h)
    twice = turns & (side * (z0 + v0 * meet) < 0)
    at = z0 / jnp.where(flipped, z0 - z1, 1.0)
    speed = jnp.where(flipped, jnp.abs(v0 + at * (v1 - v0)), 0.0)
    return active, flipped, twice, at, speed, jnp.where(twice, jnp.abs(v0) + jnp.abs(v1), 0.0)


def kernel(problem: Any, state: Any) -> Array:
    """H with which the error moves: with Filippov's slopes where the gradient flow of a two-layer
    net slides along kinks."""
    slides = state.v is None and problem.kinks(state.w) is not None
    return problem.slide(state.w)[0] if slides else problem.kernel(state.w)


class Force(Observer):
    """Base of what is summed over accepted steps: the force on the error beside those of (3.5),
    kink by kink or as what is left over."""

    flow: Any = None

    def check(self, flow):
        if not (
            isinstance(flow, GradientFlow)
            or (isinstance(flow, AbstractMomentumFlow) and flow.inertial)
        ):
            raise InputError(
                "certificates are for the gradient flow and the heavy ball, not for "
                f"{type(flow).__name__}."
            )

    def bound(self, flow):
        return type(self)(flow)

    def init(self, problem, t, state):
        if problem.loss is not squared:
            raise InputError(
                "certificates are for the squared loss, got "
                f"{getattr(problem.loss, '__name__', problem.loss)}."
            )
        return self.nothing(problem.y.size, t.dtype)

    def read(self, memory, snapshot):
        return memory

    def nothing(self, size: int, dtype: Any) -> Array:
        """The sum of no steps, for so many entries of the error."""
        return jnp.zeros((), dtype)

    def left_over(self, problem: Any, t0: Array, before: Any, t1: Array, after: Any) -> Array:
        """|d(t0, t1)|."""
        if before.v is None and problem.kinks(before.w) is not None:
            return jnp.zeros_like(t0)  # Delta' = -H Delta with Filippov's slopes, whatever the step
        h = t1 - t0
        ends = [_forces(problem, part) for part in (before, after)]
        (delta0, speed0, force0, change0), (delta1, speed1, force1, change1) = ends
        whole = h / 2 * (force0 + force1) + h**2 / 12 * (change0 - change1)
        if before.v is None:
            return norm(delta1 - delta0 + whole)
        return norm(speed1 - speed0 + self.flow.friction(t0) * (delta1 - delta0) + whole)


def _forces(problem: Any, state: Any) -> tuple[Array, Array, Array, Array]:
    """(Delta, Delta', H Delta, H Delta') at one end of a step."""
    gradient = problem.gradient(state.w)
    delta, force = problem.residual(state.w), problem.velocity(state.w, gradient)
    speed = -force if state.v is None else problem.velocity(state.w, state.v)
    return delta, speed, force, problem.velocity(state.w, problem.pull(state.w, lambda f: speed))


class ImpulseBound(Force):
    """Sum over accepted steps of the force's integral: the bound of V needs the path's length, in
    which nothing cancels."""

    def update(self, problem, memory, t0, before, t1, after):
        if why_not_counted(problem, before) is not None:
            return memory + self.left_over(problem, t0, before, t1, after)
        net = problem.model(before.w)
        *_, speed, twice = _kinks(problem, t0, before, t1, after)
        return memory + net.scale * (
            jnp.linalg.norm(speed @ net.output) + jnp.linalg.norm(twice @ jnp.abs(net.output))
        )


class ImpulseSpread(Force):
    """Sums over accepted steps of |sum_j s_j J_j| and of sum_j s_j^2 |J_j|/2, s_j from the impulse
    to the step's end.

    Where impulses are not counted, as if what is left over came at the step's start.
    """

    def nothing(self, size, dtype):
        return jnp.zeros((2,), dtype)

    def update(self, problem, memory, t0, before, t1, after):
        h = t1 - t0
        if why_not_counted(problem, before) is not None:
            return memory + self.left_over(problem, t0, before, t1, after) * jnp.stack(
                [h, 0.5 * h**2]
            )
        net = problem.model(before.w)
        *_, at, speed, twice = _kinks(problem, t0, before, t1, after)
        later, size = h * (1 - at), jnp.abs(net.output)
        first = jnp.linalg.norm((later * speed) @ net.output) + h * jnp.linalg.norm(twice @ size)
        second = 0.5 * jnp.sum((later**2 * speed + h**2 * twice) @ size)
        return memory + net.scale * jnp.stack([first, second])


class KernelPath(Force):
    """Entrywise length of the kernel's path, (n, n): |H(t) - H(s)| <= path(t) - path(s).

    Where impulses are counted H moves by flips only and these are followed; elsewhere the two ends
    of every step are compared.
    """

    def nothing(self, size, dtype):
        return jnp.zeros((size, size), dtype)

    def init(self, problem, t, state):
        path = super().init(problem, t, state)
        return path if why_not_counted(problem, state) is None else (path, kernel(problem, state))

    def read(self, memory, snapshot):
        return memory[0] if isinstance(memory, tuple) else memory

    def update(self, problem, memory, t0, before, t1, after):
        if isinstance(memory, tuple):
            path, last = memory
            now = kernel(problem, after)
            return path + jnp.abs(now - last), now
        net, X = problem.model(before.w), problem.X.reshape(problem.X.shape[0], -1)
        active, flipped, twice, *_ = _kinks(problem, t0, before, t1, after)
        moved = (flipped | twice).astype(memory.dtype)
        ever = jnp.where(
            active, 1.0, moved
        )  # of a product of two indicators, one flips while the other is on at some time
        weight = jnp.square(net.scale * net.output)[None]
        half = (moved * weight) @ ever.T
        return memory + jnp.abs(X @ X.T) * (half + half.T - (moved * weight) @ moved.T)


def _friction(s: Snapshot) -> Array:
    return (
        s.flow.friction(s.t)
        if isinstance(s.flow, AbstractMomentumFlow)
        else jnp.full_like(s.t, jnp.nan)
    )


def _reference(s: Snapshot) -> Array:
    return jnp.full_like(s.kernel, jnp.nan) if s.reference is None else s.reference


CERTIFICATE_READOUTS = {
    **{name: name for name in ("loss", "residual", "velocity")},
    "kernel": lambda s: kernel(s.problem, s.state),
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

"""The lazy exponential integrator: the paper's own insight as a solver.

While no neuron crosses a kink, f is linear in the hidden weights, the kernel H is constant and the error obeys a linear
ODE that is solved exactly, mode by mode, however large lambda_max is. A step is limited only by how far the activation
pattern moves. Over a step each neuron carries, for every sample, the slope of its activation averaged over the step,

    sbar_ri = s_- + (s_+ - s_-) * (fraction of the step with w_r . x_i > 0),

found from the crossing times that the step itself predicts. A neuron that slides along a kink (a_r Delta_i > 0, where
the right side of (2.2) is discontinuous) solves for the fraction that keeps it there, which is Filippov's.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..errors import InputError
from ..loss import squared
from ..method import State
from ..network import TwoLayerNet
from ..problem import WeightProblem, norm
from .base import MAX_STEPS, NOT_FINITE, STEP_UNDERFLOW, AbstractIntegrator, Progress


class LazyExponential(AbstractIntegrator):
    """Exponential steps with averaged activation slopes, for a two-layer net whose hidden layer alone is trained on the squared loss.

    The activation must be linear on both sides of a single kink at zero: ReLU, leaky ReLU, absolute value, identity.
    Every flow works; `Numerics.tol` bounds, per step, the gap between the residual that the frozen kernel predicts and the
    residual of the network after the step, relative to the size of the motion. That is an indicator; the error itself is
    what `simulate(..., refine=True)` measures.

    order: 2 (slopes averaged over the step, two evaluations) or 1 (slopes frozen at its start, one evaluation).
    """

    order: int = 2

    def __check_init__(self):
        if self.order not in (1, 2):
            raise InputError(f"order must be 1 or 2, got {self.order}.")

    def start(self, problem, flow, state, watcher, numerics, dtype):
        net = _lazy_net(problem, state)
        memory = _Memory.at(net, state.w, state.v)
        h = (0.05 / flow.fastest_rate(jnp.maximum(memory.eigenvalues[-1], jnp.finfo(dtype).tiny))).astype(dtype)
        zero = jnp.zeros((), jnp.int32)
        t = jnp.zeros((), dtype)
        return Progress(t, state, (memory, h), watcher.init(problem, t, state), zero, zero, zero)

    def advance(self, problem, flow, progress, t1, watcher, numerics):
        net = _lazy_net(problem, progress.state)
        limit = progress.accepted + progress.rejected + numerics.max_steps
        resolution = 4 * jnp.finfo(t1.dtype).eps

        def unfinished(p):
            return (p.t < t1) & (p.verdict == 0)

        def attempt(p):
            memory, wanted = p.memory
            left = t1 - p.t
            last = wanted >= 0.999 * left
            h = jnp.where(last, left, jnp.where(2 * wanted > left, left / 2, wanted))
            t = jnp.where(last, t1, p.t + h)
            state, new, error = self._step(net, flow, p.t, h, p.state, memory)
            scaled = error / numerics.tol
            accept = scaled < 1
            factor = jnp.clip(0.9 / jnp.sqrt(jnp.maximum(scaled, 1e-12)), 0.2, 3.0)
            proposed = h * jnp.where(jnp.isfinite(factor), factor, 0.2)
            wanted = jnp.where(accept & (h < wanted), jnp.maximum(wanted, proposed), proposed)
            watched = watcher.update(problem, p.watched, p.t, p.state, t, state)

            def keep(old, new):
                return jax.tree.map(lambda a, b: jnp.where(accept, b, a), old, new)

            accepted, rejected = p.accepted + accept, p.rejected + ~accept
            verdict = jnp.where(accepted + rejected >= limit, MAX_STEPS, 0)
            verdict = jnp.where(accept & (t >= t1), 0, verdict)
            verdict = jnp.where(~accept & (h <= resolution * t1), jnp.where(jnp.isfinite(error), STEP_UNDERFLOW, NOT_FINITE), verdict)
            return Progress(
                jnp.where(accept, t, p.t),
                keep(p.state, state),
                (keep(memory, new), wanted),
                keep(p.watched, watched),
                accepted,
                rejected,
                verdict.astype(jnp.int32),
            )

        return jax.lax.while_loop(unfinished, attempt, progress)

    def _step(self, net: _Lazy, flow: Any, t: Array, h: Array, state: State, memory: _Memory) -> tuple[State, _Memory, Array]:
        """One step: the new state, what is remembered of it, and its error."""
        z, zv = memory.z, memory.zv
        vectors, eigenvalues, velocity = memory.vectors, memory.eigenvalues, memory.velocity
        slopes = net.slopes(z)
        if self.order == 2:
            frozen = flow.frozen_step(eigenvalues, t, h, vectors.T @ memory.residual, vectors.T @ velocity)
            force = vectors @ frozen.impulse_w
            after = z + frozen.carry_w * zv - net.X @ net.pull(slopes, force).T
            slopes = net.average_slopes(z, after, slopes, force)
            vectors, eigenvalues = net.eigh(slopes)
            velocity = net.scale * ((slopes * zv) @ net.output)
        frozen = flow.frozen_step(eigenvalues, t, h, vectors.T @ memory.residual, vectors.T @ velocity)
        w = state.w.hidden - net.pull(slopes, vectors @ frozen.impulse_w)
        v = None
        if state.v is not None:
            w = w + frozen.carry_w * state.v.hidden
            v = frozen.carry_v * state.v.hidden - net.pull(slopes, vectors @ frozen.impulse_v)
        new = net.remember(w, v, vectors, eigenvalues)
        if self.order == 1:
            new = new._replace(**dict(zip(("vectors", "eigenvalues"), net.eigh(net.slopes(new.z)), strict=True)))
        size = jnp.sqrt(norm(memory.residual) ** 2 + norm(None if state.v is None else state.v.hidden) ** 2)
        error = norm(new.residual - vectors @ frozen.residual) / size
        state = State(_with_hidden(state.w, w), None if v is None else _with_hidden(state.v, v))
        return state, new, error


class _Memory(NamedTuple):
    """What a step hands to the next: preactivations of weights and velocities (n, m), Delta and J v (n,), the last eigendecomposition."""

    z: Float[Array, "n m"]
    zv: Float[Array, "n m"]
    residual: Float[Array, " n"]
    velocity: Float[Array, " n"]
    vectors: Float[Array, "n n"]
    eigenvalues: Float[Array, " n"]

    @staticmethod
    def at(net: _Lazy, w: Any, v: Any) -> _Memory:
        blank = net.remember(w.hidden, None if v is None else v.hidden, net.gram, net.y)
        vectors, eigenvalues = net.eigh(net.slopes(blank.z))
        return blank._replace(vectors=vectors, eigenvalues=eigenvalues)


class _Lazy(NamedTuple):
    """The two-layer net as a linear map with slopes: f_i = scale * sum_r a_r s_ri (w_r . x_i)."""

    X: Float[Array, "n p"]
    y: Float[Array, " n"]
    gram: Float[Array, "n n"]
    output: Float[Array, " m"]
    scale: Any
    below: float
    above: float

    def slopes(self, z: Float[Array, "n m"]) -> Float[Array, "n m"]:
        """sigma'(z)."""
        return jnp.where(z > 0, jnp.asarray(self.above, z.dtype), jnp.asarray(self.below, z.dtype))

    def pull(self, slopes: Float[Array, "n m"], u: Float[Array, " n"]) -> Float[Array, "m p"]:
        """J^T u with the given slopes."""
        return self.scale * self.output[:, None] * ((slopes * u[:, None]).T @ self.X)

    def eigh(self, slopes: Float[Array, "n m"]) -> tuple[Array, Array]:
        """Eigenvectors and eigenvalues of H with the given slopes; clipped at zero."""
        kernel = self.scale**2 * self.gram * ((slopes * self.output[None, :] ** 2) @ slopes.T)
        eigenvalues, vectors = jnp.linalg.eigh(kernel)
        return vectors, jnp.maximum(eigenvalues, 0.0)

    def remember(self, w: Array, v: Array | None, vectors: Array, eigenvalues: Array) -> _Memory:
        z = self.X @ w.T
        zv = jnp.zeros((self.X.shape[0], 1), z.dtype) if v is None else self.X @ v.T
        slopes = self.slopes(z)
        f = self.scale * ((slopes * z) @ self.output)
        velocity = jnp.zeros_like(f) if v is None else self.scale * ((slopes * zv) @ self.output)
        return _Memory(z, zv, f - self.y, velocity, vectors, eigenvalues)

    def average_slopes(self, before: Array, after: Array, slopes: Array, force: Array) -> Array:
        """Slopes averaged over a step that was predicted to lead from `before` to `after` with the given slopes.

        Each entry solves for itself: with the fraction g of the step spent on the side where it starts, it ends at
        z_1(g) = `after` plus its own share of the force, and a straight line from z_0 to z_1 leaves that side after the
        fraction g = z_0 / (z_0 - z_1). The quadratic's root is Filippov's fraction when the entry slides.
        """
        share = -(self.scale * jnp.diagonal(self.gram)[:, None]) * force[:, None] * self.output[None, :]  # dz_1 / d slope
        side = jnp.where(before > 0, 1.0, -1.0).astype(before.dtype)
        near = self.slopes(before)
        far = (self.above + self.below) - near
        stay = side * (after + share * (near - slopes))  # signed distance at the end if it never crosses
        leave = side * (after + share * (far - slopes))  # and if it crosses at once
        distance = side * before
        gain = stay - leave
        root = jnp.sqrt(jnp.maximum((distance - leave) ** 2 - 4 * gain * distance, 0.0))
        fraction = 2 * distance / jnp.maximum(distance - leave + root, jnp.finfo(before.dtype).tiny)
        fraction = jnp.where(stay >= 0, 1.0, jnp.clip(fraction, 0.0, 1.0))
        return far + (near - far) * fraction


def _with_hidden(tree: Any, hidden: Array) -> Any:
    """The trained part of a two-layer net, its hidden weights replaced."""
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, [hidden] if len(leaves) == 1 else leaves)


def why_not_lazy(problem: Any, w: Any) -> str | None:
    """Why `LazyExponential` cannot solve this problem, or None when it can."""
    if not isinstance(problem, WeightProblem):
        return "it solves weight dynamics; a constant kernel has the closed form nm.predict"
    net = problem.model(w)
    if not isinstance(net, TwoLayerNet):
        return f"it needs a TwoLayerNet, got a {type(net).__name__}"
    if len(jax.tree.leaves(w)) != 1 or w.hidden is None:
        return "it needs the hidden layer, and only that, to be trained"
    if problem.loss is not squared:
        return "it needs the squared loss"
    below, above = _slopes(net.activation)
    return None if np.isfinite(below + above) else "it needs an activation that is linear on both sides of a kink at zero"


def _slopes(activation: Any) -> tuple[float, float]:
    """Slopes of a positively homogeneous activation below and above zero; NaN for any other."""
    with jax.core.eval_context():  # also out of vmap
        values = np.asarray(activation(jnp.array([-2.0, -1.0, 0.0, 1.0, 2.0])), np.float64)
    homogeneous = np.allclose(values[[0, 2, 4]], [2 * values[1], 0, 2 * values[3]], rtol=1e-5, atol=1e-7)
    return (float(-values[1]), float(values[3])) if homogeneous else (np.nan, np.nan)


def _lazy_net(problem: Any, state: State) -> _Lazy:
    reason = why_not_lazy(problem, state.w)
    if reason is not None:
        raise InputError(f"LazyExponential cannot be used here: {reason}. Leave solver= out to get a solver that fits.")
    net = problem.model(state.w)
    X = problem.X.reshape(problem.X.shape[0], -1)
    return _Lazy(X, problem.y, X @ X.T, net.output, net.scale, *_slopes(net.activation))

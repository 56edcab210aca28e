"""The lazy exponential integrator: the paper's own insight as a solver.

While no neuron crosses a kink, f is linear in the hidden weights, the kernel H is constant and the
error obeys a linear ODE that is solved exactly, mode by mode, however large lambda_max is. A step
is limited only by how far the activation pattern moves. Over a step each neuron carries, for every
sample, the slope of its activation averaged over the step,

    sbar_ri = s_- + (s_+ - s_-) * (fraction of the step with w_r . x_i > 0),

found from the crossing times that the step itself predicts. A neuron that slides along a kink (a_r
Delta_i > 0, where the right side of (2.2) is discontinuous) solves for the fraction that keeps it
there, which is Filippov's. With momentum each neuron feels the oscillating force from crossing to
crossing instead, see `_coast`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ...errors import InputError, described
from ...method import State
from ...numerics import Numerics
from ...products import product
from ..objective import AbstractProblem, norm, roundoff
from ..passing import without_derivative
from .base import AbstractIntegrator, Progress, Watcher
from .frozen_kernel import ENOUGH, frozen_step, largest, remembered, renewed, takes_products
from .slopes import Crossing, LinearNet, Memory
from .stepping import Attempt, adaptive_steps


class LazyExponential(AbstractIntegrator):
    """Exponential steps with averaged slopes, for two-layer nets.

    The hidden layer alone is trained, on the squared loss. With the slopes frozen the error obeys
    (2.5), (3.5) or (4.3) with the kernel of (2.8), solved exactly mode by mode. Over a step the
    slopes are the averages

        sbar_ri = s_- + (s_+ - s_-) * (fraction of the step with w_r . x_i > 0)

    The activation must be linear on both sides of a single kink at zero: ReLU, leaky ReLU, absolute
    value, identity. Every flow works; `Numerics.tol` bounds, per step, the gap between the residual
    that the frozen kernel predicts and the residual of the network after the step, relative to the
    size of the motion. That is an indicator; the error itself is what `simulate(..., refine=True)`
    measures.

    Args:
        order: 2 (slopes averaged over the step, two evaluations) or 1 (slopes frozen at its start,
            one evaluation); momentum costs one more.
        products: Whether a step takes functions of H by products with it, True, or by its
            eigenvectors, False; None: by products from 256 samples on. Same steps, and several
            times faster where there are many samples; derivatives take the eigenvectors.

    Raises:
        InputError: If the order is neither; and, in a run, where the model, its activation or the
            loss are of another kind.

    Examples:
        >>> nm.LazyExponential().evaluations(nm.HeavyBall(1.0))
        3
    """

    forms_kernel = True
    pauses = True

    order: int = 2
    products: bool | None = None

    def __check_init__(self) -> None:
        if isinstance(self.order, bool) or self.order not in (1, 2):
            raise InputError(f"order must be 1 or 2, got {described(self.order)}; try order=2.")

    def why_not(self, problem: AbstractProblem, method: Any, w: PyTree) -> str | None:
        if not method.linear:
            return (
                "it solves flows that are linear in the gradient, and "
                f"{type(method).__name__} is not"
            )
        return problem.why_not_linear(w)

    def evaluations(self, flow: Any) -> int:
        """A step predicts z (order 2), moves w and reads off f; with momentum it moves v too. It
        costs one kernel and its eigenvectors, or a few dozen products with it, besides: compare
        seconds as well."""
        return self.order + (flow.init(jnp.zeros(())).v is not None)

    def first_memory(
        self, problem: Any, flow: Any, state: State, numerics: Numerics, dtype: Any
    ) -> PyTree:
        net = _as_linear(problem, state.w, roundoff(numerics.tol, dtype))
        by_products = takes_products(net.y.shape[0]) if self.products is None else self.products
        memory = Memory.first(net, state.w, state.v, lambda kernel: remembered(kernel, by_products))
        scale = jnp.maximum(largest(memory.at), jnp.finfo(dtype).tiny)
        h = (0.05 / flow.fastest_rate(scale)).astype(dtype)
        return memory, jax.lax.stop_gradient(h), jnp.zeros((), jnp.int32)

    def advance(
        self,
        problem: Any,
        flow: Any,
        progress: Progress,
        t1: Float[Array, ""],
        watcher: Watcher,
        numerics: Numerics,
    ) -> Progress:
        if self.order == 1:
            problem, flow, progress, t1 = without_derivative(
                (problem, flow, progress, t1),
                "LazyExponential(order=1) freezes slopes over a step, so its derivatives lack what "
                "passing kinks adds; take solver=nm.LazyExponential().",
            )
        net = _as_linear(problem, progress.state.w, roundoff(numerics.tol, t1.dtype))
        cost = self.evaluations(flow)

        def step(t: Array, h: Array, state: State, memory: Memory) -> Attempt:
            allowed = ENOUGH * numerics.tol * _size(net, state, memory)
            return Attempt(*self._step(net, flow, t, h, state, memory, allowed), cost)

        return adaptive_steps(
            step, self.order, problem, progress, t1, watcher, numerics, flow._reach
        )

    def _step(
        self,
        net: LinearNet,
        flow: Any,
        t: Array,
        h: Array,
        state: State,
        memory: Memory,
        allowed: Array,
    ) -> tuple[Array, Memory, Callable]:
        """One step: its error, what is remembered after it, and the state after it as a function of
        whether it is accepted."""
        if state.v is None:
            return _glide(net, flow, self.order, t, h, state, memory, allowed)
        if self.order == 2:
            return _coast(net, flow, t, h, state, memory, allowed)
        # Order 1: slopes, so J and H, stay those of the start, and with Delta' = J v
        #     w(t+h) = w + carry_w v - J^T impulse_w,   v(t+h) = carry_v v - J^T impulse_v.
        slopes = net.slopes(memory.z)
        frozen, missed, at = frozen_step(
            flow, memory.at, t, h, memory.residual, memory.velocity, allowed
        )
        w = state.w.hidden + frozen.carry_w * state.v.hidden - net.pull(slopes, frozen.impulse_w)
        v = frozen.carry_v * state.v.hidden - net.pull(slopes, frozen.impulse_v)
        new = net.remember(w, v, renewed(at, net.kernel(net.slopes(product(net.X, w.T)))))
        error = (norm(new.residual - frozen.residual) + missed) / _size(net, state, memory)
        return error, new, partial(_taken, state, w, v)


def _glide(
    net: LinearNet,
    flow: Any,
    order: int,
    t: Array,
    h: Array,
    state: State,
    memory: Memory,
    allowed: Array,
) -> tuple[Array, Memory, Callable]:
    """A step of a flow without momentum. Neurons are taken by tiles: one pass for the averaged
    kernel, one for f at the end, and one that writes the accepted weights over the old ones.
    Nothing of size (n, m) is kept but where one tile holds all neurons.
    """
    whole, still = net.whole(state.w.hidden), jnp.zeros_like(memory.residual)

    # Delta' = -H Delta with H frozen moves every neuron by the force's integral Q over the step,
    #     w_r(t+h) = w_r - s a_r sum_i sbar_ri Q_i x_i,   Q = int Delta dt.
    # First Q by the last step's kernel, which predicts the crossings and with them sbar.
    frozen, missed, at = frozen_step(flow, memory.at, t, h, memory.residual, still, allowed)
    force = frozen.impulse_w

    def slopes(tile: LinearNet, w: Array) -> Array:
        z = memory.z if whole else product(tile.X, w.T)
        near = tile.slopes(z)
        return (
            near
            if order == 1
            else tile.average_slopes(z, z - product(tile.X, tile.pull(near, force).T), near, force)
        )

    average = net.once(slopes, state.w.hidden)
    if order == 2:
        # Then Q anew, by the kernel of the averaged slopes themselves,
        #     Hbar_ij = s^2 (x_i . x_j) sum_r a_r^2 sbar_ri sbar_rj,
        # which also predicts the next step.
        kernel = net.total(lambda tile, w: tile.kernel(average(tile, w)), state.w.hidden)
        frozen, missed, at = frozen_step(
            flow, renewed(at, kernel), t, h, memory.residual, still, allowed
        )
    push = frozen.impulse_w

    # Where tiles are streamed `moved` is computed once to read f off and once more in `finish`, to
    # be written over the old weights: twice the work in the place of a second copy of w.
    moved = net.once(
        lambda tile, w: w - tile.pull(average(tile, w), push, averaged=order == 2), state.w.hidden
    )
    after = net.total(lambda tile, w: tile.outlook(moved(tile, w))[: 3 - order], state.w.hidden)
    z = net.kept(moved(net, state.w.hidden)) if whole else memory.z
    at = renewed(at, after[1]) if order == 1 else at
    new = Memory(z, memory.zv, after[0] - net.y, memory.velocity, at)

    def finish(accept: Array) -> State:
        return State(_with_hidden(state.w, net.rewritten(moved, state.w.hidden, accept)), None)

    gap = norm(new.residual - frozen.residual) + missed
    return gap / _size(net, state, memory), new, finish


_NODES = 4
"""Parts of a step between which the force that is still to come is interpolated, by a polynomial of
this degree. Chosen: each part costs two frozen steps, of n numbers."""
_LEAD = 30.0
"""By how much a coasting step's error is taken to be below its indicator, the gap. Chosen for its
cost, and no bound: the gap itself is 1.5 to 3 times the step's error, so that 2 is what it takes
for `tol` to bound it. Errors of Delta over |Delta(0)| and steps on sphere(20, 15), m = 512, b =
sqrt(2 lambda_0) to t = 10/b, against the exact solution (geometric means over four seeds of the
largest of four times), with tol = 1e-3, 1e-4 and 1e-5:

    30      1.8e-3, 1.5e-3, 2.9e-4   in 11, 14, 21 steps
    2       9.8e-4, 2.1e-4, 3.6e-5   in 15, 24, 50
    Tsit5   8.7e-4, 4.2e-4, 1.5e-4   in 22, 37, 89

At equal cost the errors are the same, so another value is another scale of `tol`. Measured by
tests/dynamics/test_lazy.py, test_a_coasting_steps_tolerance_is_a_scale_and_no_bound."""


def _coast(
    net: LinearNet,
    flow: Any,
    t: Array,
    h: Array,
    state: State,
    memory: Memory,
    allowed: Array,
) -> tuple[Array, Memory, Callable]:
    """A step of a flow with momentum: each entry feels the force Delta_i(s) only while it is
    active.

    Fast modes throw neurons across their kinks and back while Delta oscillates, so a slope averaged
    over time, times the force's own average, would lose their correlation. Here the crossing times
    come from the parabola through z, its velocity and the predicted end, and the force that remains
    after them from the frozen solution at `_NODES` nodes.
    """
    z, zv, near = memory.z, memory.zv, net.slopes(memory.z)
    # Where the step would end with the slopes of its start; `leave` and `back` are then the zeros
    # of the parabola z + sigma h z' + sigma^2 (...) through that end, sigma in [0, 1]. A momentum
    # that is not the velocity gives no z', so the chord is taken.
    frozen, _, at = frozen_step(flow, memory.at, t, h, memory.residual, memory.velocity, allowed)
    after = z + frozen.carry_w * zv - product(net.X, net.pull(near, frozen.impulse_w).T)
    crossing = Crossing.of(z, h * zv if flow.inertial else after - z, after)
    # Beyond the kink the slope is below + above - near. Averaged over the step it gives the kernel
    # and, for Delta' = J v at the start of the frozen solution, J.
    change = (net.above + net.below) - 2 * near
    slopes = near + change * (crossing.back - crossing.leave)
    velocity = net.scale * ((slopes * zv) @ net.output)

    # A force Delta(s) that acts all step moves w and v at its end by the impulses
    #     I_w = int_0^h G_w(h, s) Delta(s) ds,   I_v likewise,
    # G the flow's answer to a kick in v. What acts up to the time theta h is a step of that length,
    # (K_w, K_v), carried on without force to h, so what is still to come from there on is
    #     R_w(theta) = I_w - K_w - carry_w K_v,   R_v(theta) = I_v - carry_v K_v,
    # which at theta = 0 is all and at theta = 1 nothing.
    parts = jnp.arange(1, _NODES + 1, dtype=z.dtype) / _NODES
    passed, missed, at = frozen_step(
        flow, renewed(at, net.kernel(slopes)), t, h * parts, memory.residual, velocity, allowed
    )
    free = jnp.zeros(1, z.dtype)
    carried = jax.vmap(
        lambda part: flow.frozen_step(free, t + h * part, h * (1 - part), free, free)
    )(parts[:-1])
    frozen = jax.tree.map(lambda leaf: leaf[-1], passed)
    kick_w, kick_v = passed.impulse_w[:-1], passed.impulse_v[:-1]
    done = jnp.stack(
        [kick_w + carried.carry_w[:, None] * kick_v, carried.carry_v[:, None] * kick_v]
    )
    whole = jnp.stack([frozen.impulse_w, frozen.impulse_v])
    values = jnp.concatenate(
        [whole[:, None], whole[:, None] - done, jnp.zeros_like(whole)[:, None]], axis=1
    )  # (2, nodes, n)
    # The polynomials of degree `_NODES` through these values, one for each sample.
    coefficients = np.linalg.inv(np.vander(np.arange(_NODES + 1) / _NODES, increasing=True))
    remaining = jnp.einsum("ck,wki->wic", jnp.asarray(coefficients, z.dtype), values)

    # Entry (r, i) feels slope near all the time, and the change between leave and back:
    #     F_ri = near_ri I_i + change_ri (R_i(leave_ri) - R_i(back_ri)).
    pushes = [
        near * total[:, None] + change * crossing.beyond(path)
        for total, path in zip(whole, remaining, strict=True)
    ]
    w = state.w.hidden + frozen.carry_w * state.v.hidden - net.spread(pushes[0])
    v = frozen.carry_v * state.v.hidden - net.spread(pushes[1])
    new = net.remember(w, v, at)
    gap = norm(new.residual - frozen.residual) / _LEAD + missed
    return gap / _size(net, state, memory), new, partial(_taken, state, w, v)


def _size(net: LinearNet, state: State, memory: Memory) -> Array:
    """The size of the motion, the square root of twice the mechanical energy, or of what round-off
    of f leaves of it."""
    size = jnp.sqrt(
        norm(memory.residual) ** 2 + norm(None if state.v is None else state.v.hidden) ** 2
    )
    return jnp.maximum(size, net.floor * norm(memory.residual + net.y))


def _taken(state: State, w: Array, v: Array, accept: Array) -> State:
    """The state with new weights and velocities where they are accepted."""
    pairs = ((state.w, w), (state.v, v))
    return State(
        *(_with_hidden(tree, jnp.where(accept, hidden, tree.hidden)) for tree, hidden in pairs)
    )


def _with_hidden(tree: Any, hidden: Array) -> Any:
    """The trained part of a two-layer net, its hidden weights replaced."""
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, [hidden] if len(leaves) == 1 else leaves)


def _as_linear(problem: Any, w: PyTree, floor: Any) -> LinearNet:
    net, (below, above, _) = problem.model(w), problem.kinks(w)
    X = problem.X.reshape(problem.X.shape[0], -1)
    return LinearNet(X, problem.y, X @ X.T, net.output, net.scale, below, above, floor)

"""The lazy exponential integrator for any smooth model, by products with its Jacobian alone.

While the Jacobian J = df/dw hardly moves, the error obeys a linear ODE with the kernel H = J J^T,
solved exactly however large lambda_max is. A step takes J at its middle and needs functions of H
times one vector (Delta; with momentum J v as well), and these lie in a Krylov space of a few
dozen dimensions: products u -> J (J^T u), no kernel and no Jacobian.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ...errors import check_whole
from ...kernel.lanczos import Lanczos, extend, orthogonal, started
from ...loss import output_gradient
from ...method import State
from ...method.frozen import FrozenStep
from ...numerics import Numerics
from ..objective import AbstractProblem, WeightProblem, norm, roundoff
from ..passing import without_derivative
from .base import AbstractIntegrator, Progress, Watcher
from .gauss_newton import Linearised
from .stepping import Attempt, adaptive_steps


class KrylovExponential(AbstractIntegrator):
    """Exponential steps by Krylov spaces, for models that are smooth in their weights.

    With J frozen, f moves by J dw alone, and for the squared loss the error obeys (2.5), (3.5) or
    (4.3) with the constant kernel H = J J^T. A step from t to t + h takes J at the predicted
    middle, which makes it second order, and solves that ODE in the Krylov space of H from Delta and
    J v: with V the Ritz vectors in it and theta the Ritz values,

        w(t+h) = w + carry_w v - J^T V impulse_w(theta, V^T Delta, V^T J v),   v(t+h) likewise.

    Another loss has the force g = dL/df in the place of Delta, and g moves by its curvature
    C = R R^T, g = g_0 + C df: the same ODE for u = R^-1 g, with R^T H R in the place of H
    (Gauss-Newton). What C leaves out of a loss that mixes samples only shortens the steps.

    `Numerics.tol` bounds, per step, the gap between the force that the frozen ODE predicts and the
    network's own after the step, relative to the size of the motion. Steps are limited by how far
    the kernel moves, not by lambda_max. Where neurons cross kinks (ReLU) the kernel jumps and steps
    become short: take `nm.LazyExponential` for two-layer nets and `nm.RungeKutta` for deep ones.

    A tanh MLP (64, 256, 256, 1) on fifty digits, kappa = 3.7e6, gradient flow to 10^5 / lambda_max
    takes some 2,000 products at tol = 1e-3; explicit methods are held to steps of 3 / lambda_max,
    six gradients each. `scripts/bench dynamics` measures both.

    Source: exponential Rosenbrock methods, Hochbruck and Ostermann (2010), and Krylov spaces for
    them, Hochbruck, Lubich and Selhofer (1998), here with H (n, n) in the place of the Hessian.

    Args:
        size: the largest dimension of a Krylov space; a step that would need more is shortened.

    Raises:
        InputError: If size is not positive; and, in a run, where there is no network or the flow is
            not linear in the gradient.

    Examples:
        >>> import equinox as eqx
        >>> data = nm.load_digits(10, key=jax.random.key(0))
        >>> model = eqx.nn.MLP(64, "scalar", 32, 2, jnp.tanh, key=jax.random.key(1))
        >>> run = nm.simulate(model, data, nm.GradientFlow(), [0.0, 1.0],
        ...                   solver=nm.KrylovExponential(), readouts=["loss"])
        >>> bool(run.ok), bool(run.loss[1] < run.loss[0])
        (True, True)
    """

    pauses = True

    size: int = eqx.field(static=True, default=128)

    def __check_init__(self) -> None:
        check_whole("size", self.size, example=128)

    def why_not(self, problem: AbstractProblem, method: Any, w: PyTree) -> str | None:
        if not isinstance(problem, WeightProblem):
            return "it solves weight dynamics; a constant kernel has the closed form nm.predict"
        if not method.linear:
            name = type(method).__name__
            return f"it solves flows that are linear in the gradient, and {name} is not"
        return None

    def first_memory(
        self, problem: Any, flow: Any, state: State, numerics: Numerics, dtype: Any
    ) -> PyTree:
        scale = jnp.maximum(problem.lambda_max(state.w), jnp.finfo(dtype).tiny)
        h = (0.05 / flow.fastest_rate(scale)).astype(dtype)
        step = _Step(problem, flow, self.size, numerics)
        return step.memory(state), h, jnp.zeros((), jnp.int32) + 0.0

    def advance(
        self,
        problem: AbstractProblem,
        flow: Any,
        progress: Progress,
        t1: Float[Array, ""],
        watcher: Watcher,
        numerics: Numerics,
    ) -> Progress:
        problem, flow, progress, t1 = without_derivative(
            (problem, flow, progress, t1),
            f"{type(self).__name__} has no derivatives, as its Krylov spaces depend on all that is "
            "differentiated by; take solver=nm.RungeKutta(), which has them in both modes.",
        )
        step = _Step(problem, flow, self.size, numerics)
        return adaptive_steps(step, 2, problem, progress, t1, watcher, numerics, flow._reach)


class Memory(NamedTuple):
    """The force at the state reached, (N,), and the last step's Ritz vectors (size, N) and values,
    which predict the middle of the next."""

    force: Float[Array, " N"]
    vectors: Float[Array, "size N"]
    values: Float[Array, " size"]


class _Step(eqx.Module):
    """One step of a problem along a flow."""

    problem: Any
    flow: Any
    size: int = eqx.field(static=True)
    numerics: Numerics

    def memory(self, state: State) -> Memory:
        """What a first step, which is short, starts with: nothing is known of the kernel."""
        force = self.force(state.w)[0]
        s = 1 if state.v is None else 2
        rows = s * _blocks(min(self.size, force.size), s)
        zeros = jnp.zeros((rows, force.size), force.dtype)
        return Memory(force, zeros, zeros[:, 0])

    def force(self, w: PyTree) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
        """dL/df and f at w, over samples and outputs flattened together."""
        f = self.problem.f(w)
        force = output_gradient(self.problem.loss_function, f, self.problem.y)
        return force.reshape(-1), f.reshape(-1)

    def space(
        self, local: Linearised, t: Array, h: Array, start: tuple[Array, Array | None]
    ) -> _Space:
        """The Krylov space in which the step from t to t + h is known to a tenth of the
        tolerance."""
        width = min(self.size, start[0].size)
        scale = jnp.sqrt(sum(norm(part) ** 2 for part in start if part is not None))
        # What the frozen ODE leaves out by staying in the space is a force, like the gap.
        allowed = 0.1 * self.numerics.tol * scale

        def defect(space: _Space) -> Array:
            frozen = self.frozen(space, t, h, start)
            return space.left_out(frozen.impulse_w)

        return krylov(local.product, start, width, defect, allowed)

    def frozen(
        self, space: _Space | Memory, t: Array, h: Array, start: tuple[Array, Array | None]
    ) -> FrozenStep:
        """The step in the space, by its Ritz values."""
        force = space.vectors @ start[0]
        rate = jnp.zeros_like(force) if start[1] is None else space.vectors @ start[1]
        return self.flow.frozen_step(space.values, t, h, force, rate)

    def __call__(self, t: Array, h: Array, state: State, memory: Memory) -> Attempt:
        # The middle, by the last step's Ritz pairs and J of the start: first order is enough.
        w, v = state
        local = Linearised.at(self.problem, w)
        start = local.start(memory.force, v)
        before = _completed(memory, start)
        frozen = self.frozen(before, t, h / 2, start)
        impulse = local.pull(local.root(frozen.impulse_w @ before.vectors))
        middle = _moved(w, frozen.carry_w, v, impulse)

        local = Linearised.at(self.problem, middle)
        start = local.start(memory.force, v)
        space = self.space(local, t, h, start)
        frozen = self.frozen(space, t, h, start)

        def pulled(impulse: Array) -> PyTree:
            return local.pull(local.root(impulse @ space.vectors))

        after = _moved(w, frozen.carry_w, v, pulled(frozen.impulse_w))
        momentum = None if v is None else _scaled(frozen.carry_v, v, pulled(frozen.impulse_v))
        force, f = self.force(after)
        predicted = local.root(frozen.residual @ space.vectors)
        size = jnp.sqrt(norm(memory.force) ** 2 + (0.0 if v is None else norm(v) ** 2))
        size = jnp.maximum(size, roundoff(self.numerics.tol, f.dtype) * norm(f))
        error = (norm(force - predicted) + space.left_out(frozen.impulse_w)) / size
        new = Memory(force, space.vectors, space.values)

        def finish(accept: Array) -> State:
            return jax.tree.map(
                lambda old, new: jnp.where(accept, new, old), state, State(after, momentum)
            )

        # The products; J at the start and at the middle; pulls for w and v; f at the end.
        cost = space.products + (3.0 if v is None else 5.0)
        return Attempt(error, new, finish, cost)


class _Space(NamedTuple):
    """A Krylov space of a symmetric operator: Ritz vectors in rows (size, N), zero beyond its
    dimension, and Ritz values; tail: V c is mapped out of the space to a vector as long as
    tail @ c."""

    vectors: Float[Array, "size N"]
    values: Float[Array, " size"]
    tail: Float[Array, "s size"]
    products: Float[Array, ""]

    def left_out(self, impulse: Array) -> Array:
        """The size of the force that the frozen ODE misses: H V impulse outside the space."""
        return norm(self.tail @ impulse)


def krylov(
    product: Callable[[Array], Array],
    start: tuple[Array, Array | None],
    size: int,
    defect: Callable[[_Space], Array],
    allowed: Array,
) -> _Space:
    """The smallest Krylov space of a symmetric operator from one or two vectors that `defect` finds
    good enough, of at most `size` dimensions. Looked at whenever it has grown by a quarter."""
    given = _rows(start)
    s = given.shape[0]
    most = _blocks(size, s)

    def seen(run: Lanczos, done: Array) -> _Space:
        T = run.coefficients[: s * most, : s * most]
        # What is not filled yet gets values of its own, apart from each other, which no coordinates
        # belong to: an eigenvector does not mix them with what is.
        index = jnp.arange(s * most)
        unfilled = index >= s * done
        apart = norm(T) * (1 + (1 + index) / len(index))
        T = jnp.where(unfilled[:, None] | unfilled[None], jnp.diag(apart), (T + T.T) / 2)
        values, mixing = jnp.linalg.eigh(T)
        zero = jnp.zeros_like(done)
        last = jax.lax.dynamic_slice(run.coefficients, (s * done, s * (done - 1)), (s, s))
        tail = last @ jax.lax.dynamic_slice(mixing, (s * (done - 1), zero), (s, s * most))
        inside = jnp.where(unfilled[:, None], 0, run.basis[: s * most])
        return _Space(mixing.T @ inside, jnp.maximum(values, 0), tail, (s * done).astype(T.dtype))

    def unfinished(carry: tuple[Lanczos, _Space, Array, Array, Array]) -> Array:
        _, _, done, _, good = carry
        return ~good & (done < most)

    def larger(
        carry: tuple[Lanczos, _Space, Array, Array, Array],
    ) -> tuple[Lanczos, _Space, Array, Array, Array]:
        run, _, done, due, _ = carry
        run = extend(run, product, done, due)
        space = seen(run, due)
        # NaN ends it: the step is refused by its own error.
        good = ~(defect(space) > allowed)
        return run, space, due, jnp.minimum(due + 1 + due // 4, most), good

    none, run = jnp.zeros((), jnp.int32), started(given, most)
    nothing = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(seen, run, none)
    )
    first = run, nothing, none, none + min(2, most), jnp.array(False)
    return jax.lax.while_loop(unfinished, larger, first)[1]


def _blocks(size: int, s: int) -> int:
    """Blocks of s vectors that a space of so many dimensions takes."""
    return -(-size // s)


def _rows(start: tuple[Array, Array | None]) -> Float[Array, "s N"]:
    return jnp.stack([part for part in start if part is not None])


def _completed(memory: Memory, start: tuple[Array, Array | None]) -> Memory:
    """The last step's Ritz pairs, and a pair for what of the start lies outside them.

    That is what the step before saw too little of to resolve, or what fast modes have gained since:
    it is taken to be fast.
    """
    given, known = _rows(start), len(memory.values)
    filled = jnp.sum(jnp.square(memory.vectors), axis=1) > 0.5
    fastest = jnp.max(jnp.where(filled, memory.values, 0.0))
    vectors = jnp.pad(memory.vectors, ((0, len(given)), (0, 0)))
    return memory._replace(
        values=jnp.concatenate([memory.values, jnp.full(len(given), fastest)]),
        vectors=orthogonal(vectors, given, known, norm(given))[0],
    )


def _moved(w: PyTree, carry: Array, v: PyTree, impulse: PyTree) -> PyTree:
    """w + carry v - impulse."""
    if v is None:
        return jax.tree.map(lambda w, i: w - i, w, impulse)
    return jax.tree.map(lambda w, v, i: w + carry * v - i, w, v, impulse)


def _scaled(carry: Array, v: PyTree, impulse: PyTree) -> PyTree:
    """carry v - impulse."""
    return jax.tree.map(lambda v, i: carry * v - i, v, impulse)

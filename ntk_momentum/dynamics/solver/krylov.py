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
from jaxtyping import Array, Float, Int, PyTree

from ...errors import check_whole
from ...kernel.tangent import linear_maps
from ...loss import output_gradient, squared
from ...method import State
from ...method.base import FrozenStep
from ...numerics import Numerics
from ..objective import AbstractProblem, WeightProblem, norm, roundoff
from ..passing import without_derivative
from .base import AbstractIntegrator, Progress, Watcher
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

    def start(
        self,
        problem: AbstractProblem,
        flow: Any,
        state: State,
        watcher: Watcher,
        numerics: Numerics,
        dtype: Any,
    ) -> Progress:
        t, none = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
        scale = jnp.maximum(problem.lambda_max(state.w), jnp.finfo(dtype).tiny)
        h = (0.05 / flow.fastest_rate(scale)).astype(dtype)
        step = _Step(problem, flow, self.size, numerics)
        memory = step.memory(state, h)
        progress = (memory, h, none + 0.0)
        return Progress(t, state, progress, watcher.init(problem, t, state), none, none, none)

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
        return adaptive_steps(step, 2, problem, progress, t1, watcher, numerics)


class Memory(NamedTuple):
    """The force at the state reached, (N,), and the last step's Ritz vectors (N, size) and values,
    which predict the middle of the next."""

    force: Float[Array, " N"]
    vectors: Float[Array, "N size"]
    values: Float[Array, " size"]


class _Step(eqx.Module):
    """One step of a problem along a flow."""

    problem: Any
    flow: Any
    size: int = eqx.field(static=True)
    numerics: Numerics

    def memory(self, state: State, h: Array) -> Memory:
        """What a first step starts with."""
        force = self.force(state.w)[0]
        local = _Local.at(self.problem, state.w)
        start = local.start(force, state.v)
        space = self.space(local, jnp.zeros_like(h), h, start)
        return Memory(force, space.vectors, space.values)

    def force(self, w: PyTree) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
        """dL/df and f at w, over samples and outputs flattened together."""
        f = self.problem.f(w)
        force = output_gradient(self.problem.loss_function, f, self.problem.y)
        return force.reshape(-1), f.reshape(-1)

    def space(self, local: _Local, t: Array, h: Array, start: tuple[Array, Array | None]) -> _Space:
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
        force = space.vectors.T @ start[0]
        rate = jnp.zeros_like(force) if start[1] is None else space.vectors.T @ start[1]
        return self.flow.frozen_step(space.values, t, h, force, rate)

    def __call__(self, t: Array, h: Array, state: State, memory: Memory) -> Attempt:
        # The middle, by the last step's Ritz pairs and J of the start: first order is enough.
        w, v = state
        local = _Local.at(self.problem, w)
        start = local.start(memory.force, v)
        before = _completed(memory, start)
        frozen = self.frozen(before, t, h / 2, start)
        impulse = local.pull(local.root(before.vectors @ frozen.impulse_w))
        middle = _moved(w, frozen.carry_w, v, impulse)

        local = _Local.at(self.problem, middle)
        start = local.start(memory.force, v)
        space = self.space(local, t, h, start)
        frozen = self.frozen(space, t, h, start)

        def pulled(impulse: Array) -> PyTree:
            return local.pull(local.root(space.vectors @ impulse))

        after = _moved(w, frozen.carry_w, v, pulled(frozen.impulse_w))
        momentum = None if v is None else _scaled(frozen.carry_v, v, pulled(frozen.impulse_v))
        force, f = self.force(after)
        predicted = local.root(space.vectors @ frozen.residual)
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


class _Local(NamedTuple):
    """The Jacobian J and the loss's curvature C = R R^T at some weights.

    push: v -> J v and pull: u -> J^T u, u (N,); root: R, and inverse: R^-1, on (N,) and (N, k).
    """

    push: Callable[[PyTree], Array]
    pull: Callable[[Array], PyTree]
    root: Callable[[Array], Array]
    inverse: Callable[[Array], Array]

    @staticmethod
    def at(problem: Any, w: PyTree) -> _Local:
        f, push, pull = linear_maps(problem.f, w)
        root, inverse = _curvature(problem.loss_function, f, problem.y)
        return _Local(
            lambda v: push(v).reshape(-1), lambda u: pull(u.reshape(f.shape)), root, inverse
        )

    def start(self, force: Array, v: PyTree) -> tuple[Array, Array | None]:
        """(u, du/dt) = (R^-1 g, R^T J v): R^T and not R^-1, since g moves by C J v."""
        rate = None if v is None else self.root(self.push(v))
        return self.inverse(force), rate

    def product(self, u: Array) -> Array:
        """R^T J J^T R u, (N,); R is symmetric."""
        return self.root(self.push(self.pull(self.root(u))))


def _curvature(loss: Any, f: Array, y: Array) -> tuple[Callable, Callable]:
    """The symmetric square root of the loss's curvature in f, sample by sample, and its inverse.

    Curvatures are at least a small part of the largest: a force that the loss does not bend at all,
    such as Huber's beyond delta, then stays as it is to that part.
    """
    if loss is squared:
        return (lambda u: u), (lambda u: u)
    outputs = f.shape[1] if f.ndim == 2 else 1

    def column(j: int) -> Array:
        ones = jnp.zeros((f.shape[0], outputs), f.dtype).at[:, j].set(1).reshape(f.shape)
        return jax.jvp(lambda f: output_gradient(loss, f, y), (f,), (ones,))[1]

    blocks = jnp.stack([column(j).reshape(-1, outputs) for j in range(outputs)], axis=2)
    values, vectors = jnp.linalg.eigh((blocks + blocks.swapaxes(1, 2)) / 2)
    least = jnp.sqrt(jnp.finfo(f.dtype).eps)
    values = jnp.maximum(values, least * jnp.maximum(jnp.max(values), least))

    def power(exponent: float) -> Callable[[Array], Array]:
        matrices = jnp.einsum("nij,nj,nkj->nik", vectors, values**exponent, vectors)

        def product(u: Array) -> Array:
            columns = u.reshape(f.shape[0], outputs, -1)
            return jnp.einsum("nij,njc->nic", matrices, columns).reshape(u.shape)

        return product

    return power(0.5), power(-0.5)


class _Space(NamedTuple):
    """A Krylov space of a symmetric operator: Ritz vectors (N, size), zero beyond its dimension,
    Ritz values, and what the operator adds to it.

    outside: the part outside the space of the operator's image of the last block, (N, s), and
    mixing: the last block's rows of the Ritz vectors' coefficients, (s, size), so that the image of
    V c leaves the space by outside @ mixing @ c.
    """

    vectors: Float[Array, "N size"]
    values: Float[Array, " size"]
    outside: Float[Array, "N s"]
    mixing: Float[Array, "s size"]
    products: Float[Array, ""]

    def left_out(self, impulse: Array) -> Array:
        """The size of the force that the frozen ODE misses: H V impulse outside the space."""
        return norm(self.outside @ (self.mixing @ impulse))


class _Basis(NamedTuple):
    """A Krylov space under way: orthonormal columns Q, their images H Q, both zero beyond `filled`;
    the next block; the last block's place."""

    columns: Float[Array, "N size"]
    images: Float[Array, "N size"]
    block: Float[Array, "N s"]
    outside: Float[Array, "N s"]
    filled: Int[Array, ""]
    due: Int[Array, ""]


def krylov(
    product: Callable[[Array], Array],
    start: tuple[Array, Array | None],
    size: int,
    defect: Callable[[_Space], Array],
    allowed: Array,
) -> _Space:
    """The smallest Krylov space of a symmetric operator from one or two vectors that `defect` finds
    good enough, of at most `size` dimensions.

    Block Lanczos with every column orthogonalised twice against all before it: at a few dozen
    columns that costs less than one product, and Ritz values appear once. Looked at whenever the
    space has grown by a quarter.
    """
    given = jnp.stack([part for part in start if part is not None], axis=1)
    s = given.shape[1]
    room = -(-size // s) * s  # whole blocks
    none = jnp.zeros((given.shape[0], room), given.dtype)
    zero = jnp.zeros((), jnp.int32)

    def grown(basis: _Basis) -> _Basis:
        image = (
            jax.vmap(product, in_axes=1, out_axes=1)(basis.block)
            if s > 1
            else (product(basis.block[:, 0])[:, None])
        )
        columns = jax.lax.dynamic_update_slice(basis.columns, basis.block, (zero, basis.filled))
        images = jax.lax.dynamic_update_slice(basis.images, image, (zero, basis.filled))
        outside = image
        for _ in range(2):
            outside = outside - columns @ (columns.T @ outside)
        block = _orthonormal(outside, norm(image))
        return _Basis(columns, images, block, outside, basis.filled + s, basis.due)

    def seen(basis: _Basis) -> _Space:
        T = basis.columns.T @ basis.images
        # What is not filled yet gets values of its own, apart from each other: no coordinates lie
        # there, and derivatives of eigh divide by differences.
        index = jnp.arange(room)
        apart = norm(T) * (1 + (1 + index) / room)
        T = (T + T.T) / 2 + jnp.diag(jnp.where(index >= basis.filled, apart, 0.0))
        values, mixing = jnp.linalg.eigh(T)
        last = jax.lax.dynamic_slice(mixing, (basis.filled - s, zero), (s, room))
        return _Space(
            basis.columns @ mixing,
            jnp.maximum(values, 0),
            basis.outside,
            last,
            basis.filled.astype(given.dtype),
        )

    def unfinished(carry: tuple[_Basis, Array]) -> Array:
        basis, good = carry
        return ~good & (basis.filled < room)

    def larger(carry: tuple[_Basis, Array]) -> tuple[_Basis, Array]:
        basis = jax.lax.while_loop(lambda b: b.filled < b.due, grown, carry[0])
        due = jnp.minimum(basis.filled + s * (1 + basis.filled // (4 * s)), room)
        # NaN ends it: the step is refused by its own error.
        good = ~(defect(seen(basis)) > allowed)
        return basis._replace(due=due), good

    first = _Basis(
        none,
        none,
        _orthonormal(given, norm(given)),
        jnp.zeros_like(given),
        zero,
        zero + min(2 * s, room),
    )
    basis, _ = jax.lax.while_loop(unfinished, larger, (first, jnp.array(False)))
    return seen(basis)


def _orthonormal(block: Float[Array, "N s"], scale: Array) -> Float[Array, "N s"]:
    """Orthonormal columns with the span of one or two; zero for what is round-off of `scale`."""
    least = 10 * jnp.finfo(block.dtype).eps * scale
    columns: list[Array] = []
    for j in range(block.shape[1]):
        column = block[:, j]
        for _ in range(2):
            for before in columns:
                column = column - before * (before @ column)
        length = norm(column)
        safe = jnp.where(length > least, length, 1.0)
        columns.append(jnp.where(length > least, column / safe, 0.0))
    return jnp.stack(columns, axis=1)


def _completed(memory: Memory, start: tuple[Array, Array | None]) -> Memory:
    """The last step's Ritz pairs, and a pair for what of the start lies outside them.

    That is what the step before saw too little of to resolve, or what fast modes have gained since:
    it is taken to be fast.
    """
    given = jnp.stack([part for part in start if part is not None], axis=1)
    outside = given
    for _ in range(2):
        outside = outside - memory.vectors @ (memory.vectors.T @ outside)
    extra = _orthonormal(outside, norm(given))
    filled = jnp.sum(jnp.square(memory.vectors), axis=0) > 0.5
    fastest = jnp.max(jnp.where(filled, memory.values, 0.0))
    return memory._replace(
        values=jnp.concatenate([memory.values, jnp.full(extra.shape[1], fastest)]),
        vectors=jnp.concatenate([memory.vectors, extra], axis=1),
    )


def _moved(w: PyTree, carry: Array, v: PyTree, impulse: PyTree) -> PyTree:
    """w + carry v - impulse."""
    if v is None:
        return jax.tree.map(lambda w, i: w - i, w, impulse)
    return jax.tree.map(lambda w, v, i: w + carry * v - i, w, v, impulse)


def _scaled(carry: Array, v: PyTree, impulse: PyTree) -> PyTree:
    """carry v - impulse."""
    return jax.tree.map(lambda v, i: carry * v - i, v, impulse)

"""What a flow and an optimizer are. A flow knows nothing of networks: it receives a gradient.

The same flow drives the weights, with the gradient of L at w (2.2, 3.2, 4.2), and the error, with
the gradient H Delta of the pseudo-loss (2.5, 3.5, 4.3): the paper's whole argument, expressed as
code reuse.
"""

from __future__ import annotations

import abc
import re
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree

from ..errors import InputError, concrete, described
from ..loops import fori_loop
from .frozen import FrozenStep

Number = int | float | np.number | np.ndarray | Array
"""A number of Python, numpy or jax, also a traced one, or an array of them where flows are stacked
or eigenvalues and times broadcast."""


class State(NamedTuple):
    """Position w and momentum v of a flow (v is None for first-order flows). Also holds their time
    derivatives."""

    w: PyTree
    v: PyTree


def positive(value: Number) -> bool:
    """Whether a number, or each of several, is > 0; of a traced one it is taken on trust."""
    seen = concrete(value)
    return seen is None or bool(np.all(seen > 0))


class _Named(eqx.Module):
    """A class with a name: its own in snake case, unless it states one."""

    name: ClassVar[str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in vars(cls) and "name" not in vars(cls).get("__annotations__", {}):
            words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.__name__)
            cls.name = words.lower().strip("_")


class AbstractFlow(_Named):
    """What every optimization flow is: first order in time for the weights w and a momentum v.

        d(w, v)/dt = flow(t, (w, v), grad L(w))            (2.2), (3.2), (4.2)

    A flow of one's own needs `vector_field` and nothing else, and `init` where it has a momentum
    (`nm.AbstractMomentumFlow` has one). Its fields are parameters, so flows stack and vmap. It must
    not use w itself, and must act on every coordinate of the gradient and of v alike and linearly:
    `predict`, the exponential solver and the coordinates of a run rely on it. One that does not, as
    a normalised or clipped gradient, says `linear = False`; it is then solved in the weights' own
    coordinates by Runge-Kutta, and `predict` refuses it.

    What else it may define: `fastest_rate`, where a gain is not near 1; `mode`, a closed form in
    place of the numerical one; `discretize` and `lyapunov`, which nothing stands in for; `inertial
    = True` where v = dw/dt.

    Examples:
        Gradient flow whose rate dies away, so that w sees the time log(1 + t):

        >>> class Annealed(nm.AbstractFlow):
        ...     def vector_field(self, t, state, gradient):
        ...         rate = 1 / (1 + t)
        ...         return state._replace(w=jax.tree.map(lambda g: -rate * g, gradient))
        >>> out = nm.predict(np.eye(2), np.ones(2), Annealed(), [1.0])
        >>> np.round(out.residual[0], 6).tolist(), Annealed.name
        ([0.5, 0.5], 'annealed')
    """

    name: ClassVar[str]
    inertial: ClassVar[bool] = False

    @property
    def has_lyapunov(self) -> bool:
        """Whether a Lyapunov function is known."""
        return type(self).lyapunov is not AbstractFlow.lyapunov

    @property
    def linear(self) -> bool:
        """Whether the flow depends linearly on gradient and momentum, on each of their coordinates
        alike and not on w, so that eigenmodes of a constant kernel evolve apart."""
        return True

    @property
    def settles(self) -> bool:
        """Whether every mode of an eigenvalue > 0 is known to tend to 0, so that `predict` may be
        asked for t = infinity. A flow of one's own says so itself."""
        return False

    def settled(self, eigenvalues: ArrayLike, start: ArrayLike, end: float) -> AbstractFlow:
        """The linear flow that acts until `end` on a constant kernel, from errors `start` along its
        eigenvectors; itself where linear, and else none unless a flow defines it."""
        if not self.linear:
            raise InputError(self._couples())
        return self

    def init(self, w: PyTree) -> State:
        """The state at t = 0, at rest at w: without momentum, unless a flow has one."""
        return State(w, None)

    @abc.abstractmethod
    def vector_field(self, t: Number, state: State, gradient: PyTree) -> State:
        """(dw/dt, dv/dt) at time t >= 0, given the gradient at state.w. Exact at t = 0."""

    def mode(self, eigenvalue: Number, t: Number) -> tuple[Array, Array]:
        """(phi, dphi/dt) of one kernel eigenvalue: the solution with phi(0) = 1, started at rest.
        Broadcasts.

        Where a flow has no closed form of its own: solved numerically, once for all times and
        eigenvalues, in steps of 1/100 of the fastest scale. Measured in float64 against the closed
        forms of gradient flow, heavy ball and Nesterov's flow, lambda from 0 to 10 and up to
        sqrt(lambda) t = 60: phi to 4e-10, to 2e-9 without friction (b = 0). In float32 to 2e-6, and
        1e-4 without friction. Differentiable in forward mode.
        """
        if not self.linear:
            raise InputError(self._couples())
        dtype = jnp.result_type(eigenvalue, t, float)
        eigenvalue, t = jnp.asarray(eigenvalue, dtype), jnp.asarray(t, dtype)
        shape = jnp.broadcast_shapes(eigenvalue.shape, t.shape)
        order = jnp.argsort(t.reshape(-1))
        path = _modes(self, eigenvalue.reshape(-1), t.reshape(-1)[order])[jnp.argsort(order)]
        row = jnp.broadcast_to(jnp.arange(t.size).reshape(t.shape), shape)
        column = jnp.broadcast_to(jnp.arange(eigenvalue.size).reshape(eigenvalue.shape), shape)
        return path[row, 0, column], path[row, 1, column]

    def discretize(self, h: float) -> tuple[AbstractOptimizer, Number]:
        """(optimizer, offset): iterate k of the optimizer approximates the flow at t = k h +
        offset."""
        raise InputError(
            f"{type(self).__name__} has no discrete twin; define its discretize(h), or train with "
            "an optimizer such as nm.heavy_ball(eta, beta)."
        )

    def lyapunov(
        self,
        t: Number,
        residual: Float[Array | np.ndarray, " n"],
        velocity: Float[Array | np.ndarray, " n"],
        kernel: Float[Array | np.ndarray, "n n"],
    ) -> Float[Array, ""]:
        """The paper's Lyapunov function of the error Delta and its velocity."""
        raise InputError(
            f"{type(self).__name__} has no Lyapunov function; define its lyapunov(t, residual, "
            "velocity, kernel), or leave 'lyapunov' out of the read-outs."
        )

    def _couples(self) -> str:
        return (
            f"{type(self).__name__} is not linear in the gradient (linear = False), so the modes "
            "of a constant kernel do not evolve alone; take nm.simulate or nm.simulate_error."
        )

    def frozen_step(
        self,
        eigenvalues: Float[Array, " n"],
        t: Float[Array, ""],
        h: Float[Array, ""],
        residual: Float[Array, " n"],
        velocity: Float[Array, " n"],
    ) -> FrozenStep:
        """Solve one step of the frozen dynamics mode by mode, for any flow linear in (w, v,
        gradient).

        With the Jacobian J frozen, Delta = Delta_0 + J (w - w_0) closes on itself. What moves the
        weights is a combination of the past forces, w(s) - w_0 = carry_w(s) v_0 - J^T Q(s), and
        likewise v with carry_v and its own sum R. On an eigenvalue lambda of H = J J^T, Q and R are
        numbers that obey the flow itself with the gradient -Delta in place of grad L,

            (Q, R)' = flow(s, (Q, R), -Delta),   Delta = Delta_0 + carry_w J v_0 - lambda Q,

        from 0, and the carries, the same for every eigenvalue, obey it without force from (0, 1).

        In closed form for the gradient flow, constant friction (`HeavyBall`,
        `NesterovStronglyConvex`, `MultiStepMomentum`) and `Nesterov`, which takes steps up to 2 t
        and 6 t / d from t > 0 and is NaN beyond; by substeps for every other flow.

        Args:
            eigenvalues: (n,), of H, in 1/time (first order) or 1/time^2.
            t: The time at the step's start.
            h: The step's length.
            residual: (n,), Delta at t in the eigenbasis.
            velocity: (n,), J v at t in the eigenbasis.

        Returns:
            What moves the weights, and the exact Delta and J v at t + h.
        """
        closed = self._closed_step()
        if closed is not None:
            return closed(eigenvalues, t, h, residual, velocity)
        # Fourth-order substeps of 1/20 of the fastest scale, a number known at run time only, for
        # flows without a closed form. Measured against closed forms of the heavy ball (b = 1,
        # lambda from 0.01 to 10): an error of 5e-8 after h = 1 and of 4e-9 after h = 10.
        return self._frozen(20.0, eigenvalues, t, h, residual, velocity)

    def _closed_step(self) -> Callable[..., FrozenStep] | None:
        """`frozen_step` in closed form, where it has one."""
        return None

    def _reach(self, t: Number) -> Number:
        """The longest step that `frozen_step` takes from t."""
        return jnp.inf

    def _frozen(
        self,
        resolution: float,
        eigenvalues: Float[Array, " n"],
        t: Float[Array, ""],
        h: Float[Array, ""],
        residual: Float[Array, " n"],
        velocity: Float[Array, " n"],
    ) -> FrozenStep:
        """`frozen_step` by Runge-Kutta, with so many substeps to the fastest scale."""
        fastest = jnp.maximum(self.fastest_rate(jnp.max(eigenvalues)), self._damping_rate(t, h))
        count = jnp.ceil(resolution * h * jax.lax.stop_gradient(fastest))
        substeps = jax.lax.stop_gradient(count).astype(jnp.int32) + 1
        dt = h / substeps

        def rate(s: Array, pair: tuple[State, State]) -> tuple[State, State]:
            impulse, carry = pair
            now = residual + carry.w * velocity - eigenvalues * impulse.w
            return self.vector_field(s, impulse, -now), self.vector_field(
                s, carry, jnp.zeros_like(h)
            )

        def add(pair: PyTree, scale: Array, slope: PyTree) -> PyTree:
            return jax.tree.map(lambda a, b: a + scale * b, pair, slope)

        def substep(i: Array, pair: tuple[State, State]) -> tuple[State, State]:
            s = t + i * dt
            k1 = rate(s, pair)
            k2 = rate(s + dt / 2, add(pair, dt / 2, k1))
            k3 = rate(s + dt / 2, add(pair, dt / 2, k2))
            k4 = rate(s + dt, add(pair, dt, k3))
            return jax.tree.map(
                lambda y, a, b, c, d: y + dt / 6 * (a + 2 * b + 2 * c + d), pair, k1, k2, k3, k4
            )

        zero, nothing = jnp.zeros_like(residual), jnp.zeros_like(h)
        if self.init(zero).v is None:
            impulse, _ = fori_loop(substeps, substep, (State(zero, None), State(nothing, None)))
            after = residual - eigenvalues * impulse.w
            rate_after = self.vector_field(t + h, State(zero, None), eigenvalues * after).w
            return FrozenStep(after, rate_after, impulse.w, zero, nothing, nothing)
        impulse, carry = fori_loop(
            substeps, substep, (State(zero, zero), State(nothing, nothing + 1))
        )
        return FrozenStep(
            residual + carry.w * velocity - eigenvalues * impulse.w,
            carry.v * velocity - eigenvalues * impulse.v,
            impulse.w,
            impulse.v,
            carry.w,
            carry.v,
        )

    def _damping_rate(self, t: Number, h: Number) -> Number:
        """How fast friction alone acts in the step from t to t + h (1/time)."""
        return jnp.zeros_like(t)

    def fastest_rate(self, lambda_max: Number) -> Number:
        """The largest rate (1/time) at which a kernel with this largest eigenvalue makes the flow
        move: the scale of a first step. lambda_max, that of (2.2), unless a flow says otherwise."""
        return lambda_max


@eqx.filter_jit
def _modes(
    flow: AbstractFlow, lam: Float[Array, " n"], ts: Float[Array, " T"]
) -> Float[Array, "T 2 n"]:
    """(phi, dphi/dt) at increasing times, as the flow's own frozen step moves them."""

    def segment(carry: tuple[Array, Array, Array], end: Array) -> tuple[Any, Array]:
        t, phi, momentum = carry
        step = flow._frozen(100.0, lam, t, end - t, phi, momentum)
        moves = flow.init(step.residual).v is not None
        state = State(jnp.zeros_like(lam), step.velocity if moves else None)
        slope = flow.vector_field(end, state, lam * step.residual).w
        return (end, step.residual, step.velocity), jnp.stack([step.residual, slope])

    start = jnp.zeros((), lam.dtype), jnp.ones_like(lam), jnp.zeros_like(lam)
    return jax.lax.scan(segment, start, ts)[1]


class AbstractMomentumFlow(AbstractFlow):
    """A flow with inertia and a friction of its own; the gradient is the force.

        w'' + b(t) w' + grad L(w) = 0,  w'(0) = 0          (3.2), (4.2)

    as the system w' = v, v' = -b(t) v - grad L(w). A flow of one's own defines its friction b(t),
    >= 0 and finite, also at t = 0, in 1/time, and nothing else; its fields are parameters. See
    `nm.AbstractFlow` for what it may define besides.

    Examples:
        The heavy ball again, whose critically damped mode is (1 + t) exp(-t):

        >>> class Damped(nm.AbstractMomentumFlow):
        ...     b: float
        ...     def friction(self, t):
        ...         return self.b
        >>> phi, slope = Damped(2.0).mode(1.0, jnp.asarray(1.0))
        >>> round(float(phi), 6), round(float(slope), 6)
        (0.735759, -0.367879)
    """

    inertial: ClassVar[bool] = True

    @abc.abstractmethod
    def friction(self, t: Number) -> Array:
        """b(t)."""

    def init(self, w: PyTree) -> State:
        """(w, 0): at rest."""
        return State(w, jax.tree.map(jnp.zeros_like, w))

    def vector_field(self, t: Number, state: State, gradient: PyTree) -> State:
        """The equation as a system, v = dw/dt."""
        b = self.friction(t)
        return State(
            state.v, jax.tree.map(lambda v, g: (-b * v - g).astype(v.dtype), state.v, gradient)
        )

    def fastest_rate(self, lambda_max: Number) -> Number:
        """sqrt(lambda_max), the fastest mode's frequency."""
        return jnp.sqrt(lambda_max)

    def _damping_rate(self, t: Number, h: Number) -> Number:
        return jnp.max(
            jnp.stack([jnp.asarray(self.friction(t + part * h)) for part in (0.0, 0.5, 1.0)])
        )


class AbstractOptimizer(_Named):
    """What every discrete method is: optax's `init` and `update`, also in `optax.chain`.

        w_{k+1} = w_k + update(grad L(w_k))                (2.1), (3.1), (4.1)

    A method of one's own needs these two and nothing else to be trained with and predicted. Its
    updates must be linear in the gradients, the same for every coordinate, and must not use the
    weights; one that does not, as sign descent, says `linear = False`, and is then trained in the
    weights' own coordinates and refused by `predict`. `flow` is its limit for small steps, which
    nothing stands in for.

    Examples:
        Gradient descent with a decaying step, eta/(k + 1), on the eigenvalue 1:

        >>> class Decaying(nm.AbstractOptimizer):
        ...     eta: float
        ...     def init(self, params):
        ...         return jnp.zeros(())
        ...     def update(self, updates, state, params=None):
        ...         return jax.tree.map(lambda g: -self.eta / (state + 1) * g, updates), state + 1
        >>> nm.predict(np.eye(1), np.ones(1), Decaying(0.5), [2]).residual.tolist()
        [[0.375]]
    """

    name: ClassVar[str]

    @property
    def linear(self) -> bool:
        """Whether the steps depend linearly on the gradients, on each coordinate alike and not on
        w, so that eigenmodes of a constant kernel evolve apart."""
        return True

    @abc.abstractmethod
    def init(self, params: PyTree) -> PyTree:
        """The state before the first step (a cold start: no momentum)."""

    @abc.abstractmethod
    def update(
        self, updates: PyTree, state: PyTree, params: PyTree | None = None
    ) -> tuple[PyTree, PyTree]:
        """(w_{k+1} - w_k, new state) from the gradient at w_k."""

    def flow(self) -> tuple[AbstractFlow, Number]:
        """(flow, h): the flow whose `discretize(h)` is this optimizer."""
        raise InputError(
            f"{type(self).__name__} has no flow; define its flow(), or simulate one such as "
            "nm.HeavyBall(b)."
        )


_MIXING = ((0.6, -0.9, 0.3), (0.2, 0.5, 1.1), (-0.8, 0.4, 0.7))
"""Some matrix, neither symmetric nor orthogonal: what acts on all coordinates alike, and linearly,
commutes with it."""


def check_method_kind(name: str, method: Any, kind: type | tuple[type, ...]) -> None:
    """Raise `InputError` for what is no flow, or no optimizer, as `kind` says; for a class or a
    constructor that was not called; and where one of the package has an array of parameters, which
    is many of them."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    known: dict[Any, str] = {AbstractFlow: "a flow", AbstractOptimizer: "an optimizer"}
    example = "nm.HeavyBall(1.0)" if AbstractFlow in kinds else "nm.heavy_ball(0.1, 0.5)"
    if not isinstance(method, kinds):
        words = " or ".join(known[one] for one in kinds)
        call = "call it, as in" if isinstance(method, type) or _makes(method) else "try"
        raise InputError(
            f"{name} must be {words}, got {described(method)}; {call} {example}{_place(method)}."
        )
    for field, value in vars(method).items():
        if type(method).__module__.startswith("ntk_momentum.") and np.shape(value) != ():
            raise InputError(
                f"{name} must have one number for each parameter, got {field} of shape "
                f"{np.shape(value)}; give a list of them to nm.ensemble, or map over them by "
                "jax.vmap."
            )


def _place(method: Any) -> str:
    """Where a method that is not wanted here goes."""
    if isinstance(method, AbstractFlow):
        return ", since flows go to nm.simulate and nm.ensemble"
    if isinstance(method, AbstractOptimizer):
        return ", since optimizers go to nm.train and nm.train_ensemble"
    if not isinstance(method, type) and hasattr(method, "init") and hasattr(method, "update"):
        return (
            ": optax.sgd(eta, beta) is nm.heavy_ball(eta, beta), others of optax go to nm.train "
            "and nm.train_ensemble"
        )
    return ""


def _makes(thing: Any) -> bool:
    """Whether something is one of the package's constructors, as nm.heavy_ball."""
    return callable(thing) and getattr(thing, "__module__", "").startswith("ntk_momentum.method")


def check_linear(method: Any) -> None:
    """Raise `InputError` for a flow or an optimizer of one's own that says `linear`, and is not: it
    must commute with a matrix, at several sizes, and take no notice of w. Traced ones pass."""
    own = isinstance(method, AbstractFlow | AbstractOptimizer) and not type(
        method
    ).__module__.startswith(f"{__package__}.")
    if not own or not method.linear or any(concrete(x) is None for x in jax.tree.leaves(method)):
        return
    with jax.core.eval_context():  # also where a caller is being traced
        if not bool(_commutes(method)):
            raise InputError(
                f"{type(method).__name__} is not linear in the gradient: it depends on w, or "
                "scales, clips or normalises. Say so in the class, linear = False; it is then "
                "solved in the weights' own coordinates, and nm.predict refuses it."
            )


@eqx.filter_jit
def _commutes(method: AbstractFlow | AbstractOptimizer) -> Array:
    first, second = jnp.array([0.3, -1.1, 0.8]), jnp.array([-0.7, 0.4, 1.3])

    def of(w: Array, matrix: Array, t: float) -> list[Array]:
        push, again = matrix @ first, matrix @ second
        if isinstance(method, AbstractFlow):
            v = None if method.init(w).v is None else push
            rate = method.vector_field(jnp.asarray(t), State(w, v), again)
            return [leaf for leaf in rate if leaf is not None]
        step, memory = method.update(push, method.init(w), w)
        return [step, method.update(again, memory, w + step)[0]]

    sound = []
    for t in (0.0, 1.3):
        plain = of(jnp.zeros(3), jnp.eye(3), t)
        for size in (1e-3, 1.0, 1e3):
            matrix = size * jnp.array(_MIXING)
            for whole, part in zip(of(first, matrix, t), plain, strict=True):
                gap = jnp.max(jnp.abs(whole - matrix @ part))
                sound.append(gap <= 1e-4 * size * (jnp.max(jnp.abs(part)) + 1e-12))
    return jnp.all(jnp.stack(sound))

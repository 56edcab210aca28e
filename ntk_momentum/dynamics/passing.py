"""What passing a kink adds to the derivative of a flow that is solved in explicit steps.

The right side jumps where a neuron's z_ri = w_r . x_i changes sign. A tangent moves the moment of
that too: with dz at the crossing, by dt = -dz/z', so the force before the kink acts dt longer and
the force behind it dt shorter (the saltation of non-smooth dynamics). No derivative within a step
sees it, as the slopes of the activation have the derivative zero; each crossing adds 1/m to f, and
there are some sqrt(m) of them. Here it is added step by step, from the signs at the two ends of a
step and the chord between them.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..errors import InputError
from ..method import State
from .objective import WeightProblem

_KINKED = ("relu", "relu6", "leaky_relu", "hard_tanh", "hard_sigmoid", "hard_swish", "maximum")
"""Functions of JAX by whose name in a program a kink is known."""


def passing(problem: Any, flow: Any, t0: Array, before: State, t1: Array, after: State) -> State:
    """`after`, with the derivative by the kinks that were passed since `before`.

    For two-layer nets and flows whose momentum is the velocity. Without one neurons slide along
    their kinks, which explicit steps jitter across: their derivatives are refused. Of other models'
    kinks a derivative warns. Where nobody differentiates this does nothing.
    """
    return (
        _passed(after, before, problem, flow, t0, t1)
        if isinstance(problem, WeightProblem)
        else after
    )


@eqx.filter_custom_jvp
def _passed(after: State, before: State, problem: Any, flow: Any, t0: Array, t1: Array) -> State:
    return after


@_passed.def_jvp
def _passed_jvp(primals: Any, tangents: Any) -> tuple[State, State]:
    after, before, problem, flow, t0, t1 = primals
    rate, earlier = (
        _whole(state, given) for state, given in zip(primals[:2], tangents[:2], strict=True)
    )
    low, high, *_ = problem.kinks(before.w) or (0.0, 0.0)
    if low == high:
        _warn(problem, before)
        return after, rate
    if not (flow.linear and flow.inertial):
        raise InputError(
            f"{type(flow).__name__} has no momentum that is the velocity, so neurons slide along "
            "their kinks, and derivatives through explicit steps are wrong there; take "
            "solver=nm.LazyExponential()."
        )
    # preactivations are linear in the weights
    z1, z0 = problem.preactivations(after.w), problem.preactivations(before.w)
    dz1, dz0 = problem.preactivations(rate.w), problem.preactivations(earlier.w)
    crossed = (z0 > 0) != (z1 > 0)
    chord = jnp.where(crossed, z0 - z1, 1.0)
    share = jnp.where(crossed, z0 / chord, 0.0)  # of the step, up to the kink
    moved = jnp.where(crossed, ((1 - share) * dz0 + share * dz1) / chord, 0.0)
    change = jnp.where(z0 > 0, high - low, low - high)
    force = (t1 - t0) * moved * change * problem.residual(before.w)[:, None]
    still = jax.tree.map(jnp.zeros_like, after)

    def answer(force: Array) -> State:
        # s a_r sum_i F_ir x_i, in the coordinates of the problem
        ways = problem.X.reshape(len(problem.X), -1) if problem.metric is None else problem.gram()
        spread = problem.outer(before.w)[:, None] * (force.T @ ways)
        gradient = jax.tree.unflatten(jax.tree.structure(before.w), [spread])
        return flow.vector_field(t1, still, gradient)

    kick = answer(force)
    late = answer(force * (1 - share) * (t1 - t0))  # what the kick of v has moved since
    kick = State(jax.tree.map(jnp.add, kick.w, late.v), kick.v)
    return after, jax.tree.map(jnp.add, rate, kick)


def _warn(problem: WeightProblem, state: State) -> None:
    """Warn where the model has kinks that nobody follows."""
    program = str(jax.make_jaxpr(problem.f)(state.w))
    if any(f"name={name}\n" in program or f"name={name} " in program for name in _KINKED):
        warnings.warn(
            "the derivative leaves out what passing kinks adds, of relative order m^(-1/2) at "
            "width m; a smooth activation has none, nm.LazyExponential() has it for two-layer "
            "nets, and difference quotients have it for every model.",
            RuntimeWarning,
            stacklevel=2,
        )


def _whole(tree: PyTree, rate: Any) -> PyTree:
    """The tangent of a tree, zero where there is none."""
    leaves = jax.tree.leaves(tree)
    structure: Any = jax.tree.structure(tree)
    known = [None] * len(leaves) if rate is None else structure.flatten_up_to(rate)
    filled = [jnp.zeros_like(x) if r is None else r for x, r in zip(leaves, known, strict=True)]
    return jax.tree.unflatten(structure, filled)


def without_derivative(tree: PyTree, reason: str) -> PyTree:
    """The tree, of arrays and anything else; `InputError` where it is differentiated by."""
    numbers, rest = eqx.partition(tree, eqx.is_inexact_array)
    return eqx.combine(_undifferentiated(numbers, reason), rest)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _undifferentiated(numbers: PyTree, reason: str) -> PyTree:
    return numbers


@_undifferentiated.defjvp
def _refused(reason: str, primals: Any, tangents: Any) -> Any:
    raise InputError(reason)

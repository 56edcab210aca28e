"""Flows with the noise of mini-batches: stochastic differential equations in function space.

The step of a method with eta = h^2 on the gradient H (Delta + xi) moves the velocity by h times it,
so that k = t/h steps add up xi with variance h per unit of time. In the limit of their moments

    dDelta = v dt,   dv = -(b v + H Delta) dt - sqrt(h) H C(Delta)^(1/2) dW        (3.5) with noise
    dDelta = -H Delta dt - sqrt(eta) H C(Delta)^(1/2) dW                           (2.5) with noise

in Ito's sense, with the covariance of a batch, C = tau (n diag(Delta Delta^T) - Delta Delta^T). Its
root is known: C = tau D (n I - 1 1^T) D with D = diag(Delta), and n I - 1 1^T is n times a
projection, so C^(1/2) dW = sqrt(tau n) Delta (dW - mean of dW).
"""

from __future__ import annotations

import math
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
from jaxtyping import Array, Float, Key

from ..dynamics.prediction import check_times, predict
from ..dynamics.solver import Sampling, check_batch
from ..errors import (
    InputError,
    check_key,
    check_positive,
    check_real,
    check_whole,
    concrete,
    described,
    no_type_check,
)
from ..method import AbstractFlow, State, check_linear, check_method_kind
from .sampling import noise_strength


class Diffusion(eqx.Module):
    """Sampled paths of a flow with noise, as `simulate_stochastic` returns them.

        dDelta = v dt,   dv = -(b v + H Delta) dt - noise       (3.5) with noise

    Args:
        ts: Times, (T,).
        residual: Delta, (T, runs, n).
        loss: |Delta|^2 / 2, (T, runs).

    Raises:
        TypeError: If a field is left out; it is made by `simulate_stochastic`.

    Examples:
        >>> found = nm.simulate_stochastic(np.eye(3), np.ones(3), nm.HeavyBall(2.0), [0.0, 1.0],
        ...     h=0.1, batch_size=1, runs=4, key=jax.random.key(0))
        >>> found.loss.shape, bool(jnp.all(found.loss[1] < found.loss[0]))
        ((2, 4), True)
    """

    ts: Float[Array, " T"]
    residual: Float[Array, "T runs n"]
    loss: Float[Array, "T runs"]


@no_type_check
def simulate_stochastic(
    kernel: Any,
    residual0: Any,
    flow: AbstractFlow,
    ts: Any,
    *,
    h: float,
    batch_size: int,
    runs: int,
    key: Key[Array, ""],
    sampling: Sampling = "without_replacement",
    dt: float | None = None,
    solver: diffrax.AbstractItoSolver | None = None,
) -> Diffusion:
    """Paths of a flow with the noise that mini-batches give its discrete twin of step h.

        dDelta = v dt,   dv = -(b(t) v + H Delta) dt - sqrt(h) H C(Delta)^(1/2) dW
        C = tau (n diag(Delta Delta^T) - Delta Delta^T)

    for (3.5) and (4.3); the gradient flow (2.5) has sqrt(h) H C^(1/2) dW in dDelta itself, h its
    step size. Ito's sense; solved by diffrax in steps of dt. The expected loss of the method tends
    to that of the flow in proportion to h (tests measure it). The noise shrinks with Delta: this is
    no Langevin equation at a temperature, and its stationary state is Delta = 0, where it is
    stable.

    Args:
        kernel: H, (n, n).
        residual0: Delta(0) = f(0) - y, (n,).
        flow: The gradient flow, or one with inertia and a friction of its own (`nm.HeavyBall`,
            `nm.Nesterov`, `nm.Friction`).
        ts: Times, (T,), increasing.
        h: The step of the method that the noise is of: eta = h^2, or h for the gradient flow.
        batch_size: B, samples a step.
        runs: Paths, all together.
        key: As from `jax.random.key`.
        sampling: As in `nm.critical_step`.
        dt: The solver's step; h if None.
        solver: Any Ito solver of diffrax; Euler's if None.

    Returns:
        Errors and losses of each path.

    Raises:
        InputError: If an argument does not fit, or noise has no place in the flow.

    Examples:
        >>> found = nm.simulate_stochastic(np.eye(3), np.ones(3), nm.GradientFlow(), [0.0, 1.0],
        ...     h=0.1, batch_size=3, runs=1, key=jax.random.key(0), dt=0.001)
        >>> bool(abs(found.loss[1, 0] / found.loss[0, 0] - np.exp(-2)) < 1e-3)
        True
    """
    check_method_kind("flow", flow, AbstractFlow)
    check_linear(flow)
    check_real("residual0", residual0)
    if concrete(kernel) is None:
        raise InputError(
            "kernel must be an array, since noise needs every entry of it, got "
            f"{described(kernel)}; try nm.infinite_ntk(X) or nm.empirical_ntk(model, X)."
        )
    check_key("key", key)
    runs = check_whole("runs", runs, example=100)
    start = jnp.asarray(residual0, jnp.result_type(jnp.asarray(residual0), float))
    if not isinstance(flow, AbstractFlow) or not (flow.inertial or flow.init(start).v is None):
        raise InputError(
            f"noise of the velocity's own needs nm.GradientFlow, or a flow with v = dw/dt, got "
            f"{type(flow).__name__}; try nm.HeavyBall(b)."
        )
    for name, value in (("h", h), ("dt", h if dt is None else dt)):
        check_positive(name, value, example=0.01)
    if solver is not None and not isinstance(solver, diffrax.AbstractItoSolver):
        raise InputError(
            f"solver must be an Ito solver of diffrax, got {described(solver)}; try "
            "diffrax.Euler()."
        )
    if sampling == "reshuffled":
        raise InputError(
            "reshuffled batches have no noise left to first order in h; take sampling="
            '"without_replacement".'
        )
    if start.ndim != 1:
        raise InputError(
            f"residual0 must have shape (n,), got {start.shape}; try residual0.ravel()."
        )
    times = check_times(ts, dtype=start.dtype)
    predict(kernel, start, flow, [0.0])  # which checks the kernel
    n = len(start)
    tau = noise_strength(check_batch(batch_size, n, sampling), n, sampling)
    size = math.sqrt(h * tau * n)
    return _paths(
        jnp.asarray(kernel, start.dtype), start, flow, times, jnp.asarray(size, start.dtype),
        jnp.asarray(h if dt is None else dt, start.dtype), runs, key,
        diffrax.Euler() if solver is None else solver,
    )  # fmt: skip


@eqx.filter_jit
def _paths(
    H: Array, start: Array, flow: AbstractFlow, ts: Array, size: Array, dt: Array, runs: int,
    key: Any, solver: Any,
) -> Diffusion:  # fmt: skip
    shape = jax.ShapeDtypeStruct(start.shape, start.dtype)

    def drift(t: Any, y: State, _: Any) -> State:
        return flow.vector_field(t, y, H @ y.w)

    def scatter(t: Any, y: State, _: Any) -> lineax.AbstractLinearOperator:
        def push(dW: Array) -> State:
            force = -size * H @ (y.w * (dW - jnp.mean(dW)))
            return State(force, None) if y.v is None else State(jnp.zeros_like(force), force)

        return lineax.FunctionLinearOperator(push, shape)

    def one(key: Any) -> Array:
        # any two of the solver's steps are further apart than the tree's smallest interval
        path = diffrax.VirtualBrownianTree(0.0, ts[-1], dt / 4, shape, key)
        terms: Any = diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(scatter, path))
        return diffrax.diffeqsolve(
            terms, solver, 0.0, ts[-1], dt, flow.init(start),
            saveat=diffrax.SaveAt(ts=ts), max_steps=None, adjoint=diffrax.ForwardMode(),
        ).ys.w  # fmt: skip

    residual = jnp.swapaxes(jax.vmap(one)(jax.random.split(key, runs)), 0, 1)
    return Diffusion(ts, residual, jnp.sum(residual**2, axis=2) / 2)

"""Flows with the noise of mini-batches: stochastic differential equations, of weights and in
function space.

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
from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import lineax
from jaxtyping import Array, Float, Key

from ..data import Dataset
from ..dynamics.objective import AbstractProblem, ErrorProblem, WeightProblem
from ..dynamics.prediction import check_times, predict
from ..dynamics.preparation import weight_problem, weights_dtype
from ..dynamics.solver import Sampling, check_batch
from ..dynamics.solver.batches import is_mean
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
from ..loss import Loss, output_gradient, squared
from ..method import AbstractFlow, GradientFlow, State, check_linear, check_method_kind
from ..progress import OnProgress, report, with_progress
from .sampling import noise_strength


class Diffusion(eqx.Module):
    """Sampled paths of a flow with noise, as `simulate_stochastic` returns them.

        dDelta = v dt,   dv = -(b v + H Delta) dt - noise       (3.5) with noise

    Args:
        ts: Times, (T,).
        residual: Delta, (T, runs, n); of several outputs (T, runs, nk).
        loss: |Delta|^2 / 2, (T, runs), or any other that was asked for.

    Raises:
        TypeError: If a field is left out; it is made by `simulate_stochastic`.

    Examples:
        >>> found = nm.simulate_stochastic(np.eye(3), np.ones(3), nm.HeavyBall(2.0), [0.0, 1.0],
        ...     h=0.1, batch_size=1, runs=4, key=jax.random.key(0))
        >>> found.loss.shape, bool(jnp.all(found.loss[1] < found.loss[0]))
        ((2, 4), True)
    """

    ts: Float[Array, " T"]
    residual: Float[Array, "T runs nk"]
    loss: Float[Array, "T runs"]


@no_type_check
@with_progress
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
    loss: Loss = squared,
    trainable: Any = None,
    where: Callable | None = None,
    progress: OnProgress | bool | None = None,
) -> Diffusion:
    """Paths of a flow with the noise that mini-batches give its discrete twin of step h.

        dDelta = v dt,   dv = -(b(t) v + H Delta) dt - sqrt(h) H C(Delta)^(1/2) dW
        C = tau (n diag(Delta Delta^T) - Delta Delta^T)

    for (3.5) and (4.3); the gradient flow (2.5) has sqrt(h) H C^(1/2) dW in dDelta itself, h its
    step size. Given a model and its data set in the place of H and Delta(0), the weights move:

        dv = -(b(t) v + grad L) dt - sqrt(h tau n) sum_i grad l_i (dW_i - mean of dW)

    which for a linear model is the same, path by path. Ito's sense; solved by diffrax in steps of
    dt. The expected loss of the method, and the share of noise in it, tend to the flow's in
    proportion to h for the gradient flow and to h^2 for the heavy ball, on networks' weights as in
    errors (tests measure it). The noise shrinks with the error: this is no Langevin equation at a
    temperature, and its stationary state is Delta = 0, where it is stable.

    Args:
        kernel: H, (n, n), or any Equinox model of one input.
        residual0: Delta(0) = f(0) - y, (n,), or the model's `nm.Dataset`.
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
        loss: As in `nm.simulate`, a sum over samples; of a model only.
        trainable: As in `nm.simulate`.
        where: As in `nm.simulate`.
        progress: Called as progress(hundredths done, 100); True for a bar.

    Returns:
        Errors and losses of each path.

    Raises:
        InputError: If an argument does not fit, or noise has no place in the flow.

    Examples:
        >>> found = nm.simulate_stochastic(np.eye(3), np.ones(3), nm.GradientFlow(), [0.0, 1.0],
        ...     h=0.1, batch_size=3, runs=1, key=jax.random.key(0), dt=0.001)
        >>> bool(abs(found.loss[1, 0] / found.loss[0, 0] - np.exp(-2)) < 1e-3)
        True

        Of a network's own weights:

        >>> data = nm.sphere(4, 3, key=jax.random.key(0))
        >>> net = nm.init_two_layer(16, 3, key=jax.random.key(1))
        >>> found = nm.simulate_stochastic(net, data, nm.HeavyBall(2.0), [0.0, 1.0], h=0.1,
        ...     batch_size=1, runs=3, key=jax.random.key(2))
        >>> found.residual.shape
        (2, 3, 4)
    """
    check_method_kind("flow", flow, AbstractFlow)
    check_linear(flow)
    check_key("key", key)
    runs = check_whole("runs", runs, example=100)
    if not isinstance(flow, AbstractFlow) or not (
        flow.inertial or flow.init(jnp.zeros(1)).v is None
    ):
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
    problem, start, n = (
        _of_model(kernel, residual0, loss, trainable, where)
        if isinstance(residual0, Dataset) and concrete(kernel) is None
        else _of_kernel(kernel, residual0, (loss, trainable, where))
    )
    dtype = weights_dtype(start)
    tau = noise_strength(check_batch(batch_size, n, sampling), n, sampling)
    size = math.sqrt(h * tau * n)
    return _paths(
        problem, start, flow, check_times(ts, dtype=dtype), jnp.asarray(size, dtype),
        jnp.asarray(h if dt is None else dt, dtype), n, runs, key,
        diffrax.Euler() if solver is None else solver,
        diffrax.NoProgressMeter() if progress is None else _Meter(),
    )  # fmt: skip


def _of_model(
    model: Any, data: Dataset, loss: Loss, trainable: Any, where: Callable | None
) -> tuple[AbstractProblem, Any, int]:
    """(problem, where it starts, samples) of the weights."""
    problem, w = weight_problem(model, data, loss, trainable, where)
    if is_mean(loss, jax.eval_shape(problem.f, w), problem.y):
        raise InputError(
            "the flow's loss is a sum over samples, and this one is a mean; multiply it by their "
            "number, or take nm.squared."
        )
    return problem, w, data.n


def _of_kernel(
    kernel: Any, residual0: Any, of_a_model: tuple
) -> tuple[AbstractProblem, Array, int]:
    """The same of a constant kernel's errors."""
    if concrete(kernel) is None:
        raise InputError(
            "kernel must be an array, since noise needs every entry of it, or a model with its "
            f"nm.Dataset for residual0, got {described(kernel)}; try nm.infinite_ntk(X) or "
            "nm.empirical_ntk(model, X)."
        )
    for name, value, default in zip(
        ("loss", "trainable", "where"), of_a_model, (squared, None, None), strict=True
    ):
        if value is not default:
            raise InputError(
                f"{name} must be left out for a kernel, whose loss is squared, got "
                f"{described(value)}; try a model and its nm.Dataset for kernel and residual0."
            )
    if isinstance(residual0, Dataset):
        raise InputError(
            "residual0 must be f(0) - y, (n,), for a kernel, got a Dataset; try f0 - data.y, or a "
            "model for kernel."
        )
    check_real("residual0", residual0)
    start = jnp.asarray(residual0, jnp.result_type(jnp.asarray(residual0), float))
    if start.ndim != 1:
        raise InputError(
            f"residual0 must have shape (n,), got {start.shape}; try residual0.ravel()."
        )
    predict(kernel, start, GradientFlow(), [0.0])  # which checks the kernel
    return ErrorProblem(jnp.asarray(kernel, start.dtype)), start, len(start)


class _Meter(diffrax.AbstractProgressMeter):
    """Reports hundredths of the time; all paths take the same steps."""

    def init(self) -> Array:
        """Of nothing."""
        return jnp.zeros((), jnp.int32)

    def step(self, state: Array, progress: Any) -> Array:
        """After a step."""
        now = eqxi.unvmap_max(jnp.asarray(100 * progress, jnp.int32))
        report(now, 100, eqxi.unvmap_all(now > state))
        return now

    def close(self, state: Array) -> None:
        """Nothing is left."""


@eqx.filter_jit
def _paths(
    problem: AbstractProblem, start: Any, flow: AbstractFlow, ts: Array, size: Array, dt: Array,
    n: int, runs: int, key: Any, solver: Any, meter: Any,
) -> Diffusion:  # fmt: skip
    shape = jax.ShapeDtypeStruct((n,), ts.dtype)

    def drift(t: Any, y: State, _: Any) -> State:
        return flow.vector_field(t, y, problem.gradient(y.w))

    def scatter(t: Any, y: State, _: Any) -> lineax.AbstractLinearOperator:
        def push(dW: Array) -> State:
            force = _weighted(problem, y.w, -size * (dW - jnp.mean(dW)))
            return State(force, None) if y.v is None else State(_still(force), force)

        return lineax.FunctionLinearOperator(push, shape)

    def look(t: Any, y: State, _: Any) -> tuple[Array, Array]:
        return problem.residual(y.w).reshape(-1), problem.value(y.w)

    def one(key: Any) -> tuple[Array, Array]:
        # any two of the solver's steps are further apart than the tree's smallest interval
        path = diffrax.VirtualBrownianTree(0.0, ts[-1], dt / 4, shape, key)
        terms: Any = diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(scatter, path))
        return diffrax.diffeqsolve(
            terms, solver, 0.0, ts[-1], dt, flow.init(start), max_steps=None,
            saveat=diffrax.SaveAt(ts=ts, fn=look), adjoint=diffrax.ForwardMode(),
            progress_meter=meter,
        ).ys  # fmt: skip

    seen = jax.vmap(one)(jax.random.split(key, runs))
    return Diffusion(ts, *(jnp.swapaxes(part, 0, 1) for part in seen))


def _still(tree: Any) -> Any:
    return jax.tree.map(jnp.zeros_like, tree)


def _weighted(problem: AbstractProblem, w: Any, weights: Float[Array, " n"]) -> Any:
    """sum_i weights_i grad l_i, shaped like w."""
    if not isinstance(problem, WeightProblem):
        return problem.gradient(weights * w)  # H of it, since there the gradient is linear

    def cotangent(f: Array) -> Array:
        gradient = output_gradient(problem.loss, f, problem.y)
        return weights.reshape(-1, *[1] * (f.ndim - 1)) * gradient

    return problem.pull(w, cotangent)

"""Smooth deep nets: gradients to one per cent of the loss at every saved time, Krylov spaces
against Runge-Kutta."""

from __future__ import annotations

import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ntk_momentum import GradientFlow, Numerics, empirical_ntk, load_digits
from ntk_momentum.dynamics.preparation import Choices
from ntk_momentum.dynamics.run import Run, begin, proceed
from ntk_momentum.dynamics.solver import KrylovExponential, RungeKutta

TARGET = 0.01
PARTS = np.array([1e-3, 1e-2, 1e-1, 1.0])  # saved times, of the whole


class Convolutional(eqx.Module):
    """Two convolutions of 8 x 8 pixels and a dense layer, tanh."""

    first: eqx.nn.Conv2d
    second: eqx.nn.Conv2d
    last: eqx.nn.Linear

    def __init__(self, key: jax.Array) -> None:
        a, b, c = jax.random.split(key, 3)
        self.first = eqx.nn.Conv2d(1, 16, 3, key=a)
        self.second = eqx.nn.Conv2d(16, 32, 3, key=b)
        self.last = eqx.nn.Linear(32 * 16, "scalar", key=c)

    def __call__(self, x: jax.Array) -> jax.Array:
        """One prediction."""
        hidden = jnp.tanh(self.second(jnp.tanh(self.first(x.reshape(1, 8, 8)))))
        return self.last(hidden.reshape(-1))


def smooth_net(name: str, n: int, horizon: float, peer: bool) -> dict[str, Any]:
    """Gradient flow of a net on n digits to horizon / lambda_max: the loosest tolerances that reach
    the target. Without the peer, against Krylov steps at a hundredth of the tolerance, and the
    peer's gradients from its stability limit alone, six for each step of 3.3 / lambda_max."""
    key = jax.random.key(1)
    made = {
        "perceptron": lambda: eqx.nn.MLP(64, "scalar", 256, 2, jnp.tanh, key=key),
        "convolutional": lambda: Convolutional(key),
    }
    data, model = load_digits(n, key=jax.random.key(0)), made[name]()
    spectrum = np.linalg.eigvalsh(empirical_ntk(model, data.X))
    ts = jnp.asarray(horizon * PARTS / spectrum[-1])

    def run(solver: Any, tol: float) -> tuple[np.ndarray, float, float]:
        config = Numerics(tol=tol, max_steps=10**7)
        started = time.perf_counter()
        chosen = Choices(solver=solver, readouts=["loss"], config=config)
        made = Run.prepare(model, data, GradientFlow(), chosen)
        end, values = proceed(made, begin(made), ts)
        loss = np.asarray(values["loss"])
        attempts = float(end.accepted + end.rejected)
        plain = isinstance(solver, RungeKutta)
        cost = attempts * solver.evaluations(GradientFlow()) if plain else float(end.memory[2])
        return loss, cost, time.perf_counter() - started

    fine = run(KrylovExponential(), 1e-5)[0]
    change = np.max(np.abs(run(KrylovExponential(), 5e-5)[0] / fine - 1))
    row: dict[str, Any] = {
        "case": f"{name}, {n} digits, to {horizon:g} / lambda_max",
        "dtype": str(fine.dtype),
        "condition": float(spectrum[-1] / spectrum[0]),
        "reference_error": float(change),
    }
    for tol in (1e-2, 3e-3, 1e-3, 3e-4, 1e-4):
        loss, cost, seconds = run(KrylovExponential(), tol)
        error = float(np.max(np.abs(loss / fine - 1)))
        if error <= TARGET:
            break
    row |= {"krylov_tol": tol, "krylov_error": error, "krylov_gradients": cost}
    row |= {"krylov_seconds": seconds}
    if not peer:
        row["stability_ratio"] = 6 * horizon / 3.3 / cost
        return row
    for tol in (1e-1, 1e-2, 1e-3):
        loss, peers, peers_seconds = run(RungeKutta(), tol)
        error = float(np.max(np.abs(loss / fine - 1)))
        if error <= TARGET:
            break
    row |= {"tsit5_tol": tol, "tsit5_error": error, "tsit5_gradients": peers}
    row |= {"tsit5_seconds": peers_seconds, "gradients_ratio": peers / cost}
    row["seconds_ratio"] = peers_seconds / seconds
    return row

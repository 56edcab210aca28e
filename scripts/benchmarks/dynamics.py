"""Solvers and right sides: evaluations and seconds to one per cent of the loss, lazy against
Runge-Kutta; and training on mini-batches."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
from batches import minibatches
from right_side import right_side
from smooth import smooth_net
from timing import median_seconds

from ntk_momentum import Numerics, infinite_ntk, init_two_layer, load_digits, simulate
from ntk_momentum.dynamics.preparation import weight_problem
from ntk_momentum.dynamics.solver import LazyExponential, RungeKutta
from ntk_momentum.loss import squared
from ntk_momentum.method import GradientFlow, HeavyBall, Nesterov

PARTS = np.array([0.01, 0.03, 0.1, 0.3, 1.0])  # saved times, of the whole
LADDER = [a * 10.0**-k for k in range(1, 8) for a in (1.0, 0.3)]  # tolerances, tried in turn
TARGET = 0.01  # relative error of the loss, at every saved time
KNOWN = 0.001  # a tenth of it: what a reference may be wrong by
ORDER = 2 / 3  # lazy steps are of second order, so a loss is wrong by tol to this power


def rows(size: str) -> Iterator[dict]:
    """All rows, one at a time. smoke: seconds; default: 50 digits; full: the issue's 200 and 500
    digits at m = 2048."""
    sizes = {"smoke": [(20, 256)], "default": [(50, 1024)], "full": [(200, 2048), (500, 2048)]}[
        size
    ]
    for n, width in sizes:
        for flow in ("gradient_flow", "heavy_ball", "nesterov"):
            if flow == "gradient_flow" or n <= 200:
                yield solvers(flow, n, width)
    smooth = {
        "smoke": [("convolutional", 10, 1e2, True)],
        "default": [("perceptron", 50, 1e4, True), ("convolutional", 50, 1e4, True)],
        "full": [("perceptron", 50, 1e5, False), ("convolutional", 50, 1e5, False)],
    }
    for case in smooth[size]:
        yield smooth_net(*case)
    shapes = (
        [(100, 4096, 10)]
        if size == "smoke"
        else [(100, 65536, 10), (1000, 65536, 10), (50, 4096, 784)]
    )
    for shape in shapes:
        yield right_side(*shape)
    trained = [
        (200, 64, 20, 1, 2),
        (1000, 1024, 20, 1),
        (1000, 1024, 20, 128),
        (1000, 256, 20, 32, 3),
    ]
    for case in [(1000, 1024, 20, 32), *(trained if size != "smoke" else ())]:
        yield minibatches(*case)


def solvers(name: str, n: int, width: int) -> dict:
    """Loosest tolerance of each solver that reaches the target against a refined reference, with
    its cost."""
    data = load_digits(n, key=jax.random.key(0))
    lam0 = float(np.linalg.eigvalsh(infinite_ntk(data.X))[0])
    b = float(np.sqrt(2 * lam0))
    cases = {
        "gradient_flow": (GradientFlow(), 4 / lam0),
        "heavy_ball": (HeavyBall(b), 10 / b),
        "nesterov": (Nesterov(3.0), 10 / b),
    }
    flow, end = cases[name]
    net = init_two_layer(width, data.input_size, key=jax.random.key(1))
    ts = end * PARTS

    def run(solver, tol):
        return simulate(
            net,
            data,
            flow,
            ts,
            readouts=["loss"],
            solver=solver,
            config=Numerics(tol=tol, max_steps=10**7),
        )

    finest = {"gradient_flow": 5e-6, "heavy_ball": 1e-8, "nesterov": 1e-7}[name]
    reference, coarser = run(LazyExponential(), finest), run(LazyExponential(), 10 * finest)
    change = np.abs(coarser.loss / reference.loss - 1) / (10**ORDER - 1)

    def error(result):
        return float(np.max(np.abs(result.loss / reference.loss - 1)))

    row: dict[str, Any] = {
        "case": f"{name}, {n} digits, m = {width}",
        "dtype": str(net.hidden.dtype),
        "reference_error": float(np.max(change)),
        "reference_known": bool(np.max(change) <= KNOWN),  # else the row proves nothing
    }
    for label, solver, tolerances in (
        ("lazy", LazyExponential(), LADDER[2:]),
        ("tsit5", RungeKutta(), LADDER),
    ):
        for tol in tolerances:
            result = run(solver, tol)
            if error(result) <= TARGET:
                break
        steps = int(result.accepted + result.rejected)
        row[f"{label}_reached"] = (
            error(result) <= TARGET
        )  # where not, the ratios are for the tightest tolerance tried
        row |= {
            f"{label}_tol": tol,
            f"{label}_error": error(result),
            f"{label}_evaluations": solver.evaluations(flow) * steps,
        }
        row[f"{label}_seconds"] = median_seconds(partial(run, solver, tol), 1 if n > 100 else 3)
    row["evaluations_ratio"] = row["tsit5_evaluations"] / row["lazy_evaluations"]
    row["seconds_ratio"] = row["tsit5_seconds"] / row["lazy_seconds"]
    problem, w = weight_problem(net, data, squared, None, None)
    problem, w = problem.within(w, preactivations=True)  # as the solve has it
    gradient = jax.jit(lambda w: problem.gradient(w))
    one = median_seconds(lambda: gradient(w))
    row["tsit5_solve_over_evaluations"] = row["tsit5_seconds"] / (one * row["tsit5_evaluations"])
    return row

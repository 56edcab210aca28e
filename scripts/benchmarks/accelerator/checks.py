"""What must hold on any device: the kernel's limit, closed forms, and the tests marked gpu."""

from __future__ import annotations

import importlib.util
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ntk_momentum as nm

from . import host
from .measure import Bench, NotSupported, Parts, called, compared, finished, network, rated, timed

ROOT = Path(__file__).resolve().parents[3]


def limit(bench: Bench) -> Parts:
    """H of (2.8) approaches its limit."""
    yield "kernel of 65536 neurons, n = 64", partial(kernel_limit, bench)


def kernel_limit(bench: Bench) -> dict[str, Any]:
    """The largest entry of H - H infinity falls like m^(-1/2): times sqrt(m) it is of order one."""
    n, p, width = 64, 32, 65_536
    data, net = nm.sphere(n, p, key=jax.random.key(1)), network(width, p, seed=2)

    def kernel(hidden, output, X):
        with jax.default_matmul_precision("highest"):
            return nm.empirical_ntk(nm.TwoLayerNet(hidden, output), X)

    timing = timed(kernel, net.hidden, net.output, data.X)
    X, W = np.asarray(data.X, np.float64), np.asarray(net.hidden, np.float64)
    active = (X @ W.T > 0).astype(np.float64)
    exact = (X @ X.T) * (active @ active.T) / width
    apart = np.asarray(timing.value) - np.asarray(nm.infinite_ntk(data.X))
    far = float(np.max(np.abs(apart))) * width**0.5
    record = rated(bench, timing, flops=2 * n * width * (p + n), moved=4 * width * p)
    record |= {"scaled_difference_from_limit": far} | compared(timing.value, exact, 1e-4)
    return record | {"ok": record["ok"] and 0.1 < far < 10}


def closed_forms(bench: Bench) -> Parts:
    """The solved error dynamics (2.5), (3.5), (4.3)."""
    flows = {
        "gradient flow": (nm.GradientFlow(), 0.0),
        "heavy ball": (nm.HeavyBall(0.5), 0.5),
        "Nesterov": (nm.Nesterov(3.0), 3.0),
    }
    for name, (flow, parameter) in flows.items():
        yield f"error dynamics, {name}", partial(closed_form, bench, name, flow, parameter)


def closed_form(bench: Bench, name: str, flow: Any, parameter: float) -> dict[str, Any]:
    """simulate_error, and predict, against the closed form on the host."""
    data, ts = nm.sphere(16, 8, key=jax.random.key(3)), jnp.linspace(0.0, 10.0, 11)
    with jax.default_matmul_precision("highest"):
        kernel = nm.infinite_ntk(data.X)
        timing = called(bench, lambda: nm.simulate_error(kernel, data.y, flow, ts)["residual"])
        predicted = nm.predict(kernel, data.y, flow, ts).residual
    wide = (np.asarray(part, np.float64) for part in (kernel, data.y))
    exact = host.residuals(*wide, name, parameter, np.asarray(ts, np.float64))
    known = compared(predicted, exact, 1e-3)
    # too small for a rate to say anything: seconds alone
    record = timing.record() | compared(timing.value, exact, 1e-2)
    record["error_of_predict"] = known["relative_error"]
    return record | {"ok": record["ok"] and known["ok"]}


def tests(bench: Bench) -> Parts:
    """The tests marked gpu, in a process of their own."""
    yield "pytest -m gpu", partial(marked_tests, bench)


def marked_tests(bench: Bench) -> dict[str, Any]:
    """pytest's last line; it must be installed here. On a CPU, whose suite runs them, they are
    found and no more."""
    if importlib.util.find_spec("pytest") is None:
        raise NotSupported("absent: pytest is not installed")
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    marked = [str(path) for path in files if "mark.gpu" in path.read_text(encoding="utf-8")]
    if not marked:
        raise NotSupported("absent: no test is marked gpu")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-o",
        "addopts=",
        "-q",
        "-m",
        "gpu",
        "-p",
        "no:cacheprovider",
        *([] if bench.accelerated else ["--collect-only"]),
    ]
    code, output, errors = finished([*command, *marked], dict(os.environ), bench.left(), cwd=ROOT)
    lines = (output.strip() or errors.strip()).splitlines()
    record = {"summary": lines[-1] if lines else "", "ok": code == 0}
    return record if code == 0 else record | {"output": "\n".join(lines[-15:])}

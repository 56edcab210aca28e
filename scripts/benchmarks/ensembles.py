"""Ensembles: one call against a Python loop of compiled solves, map against vmap, and the cost of
spreading runs or neurons."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from ntk_momentum import Numerics, ensemble, infinite_ntk, init_two_layer, simulate, sphere
from ntk_momentum.dynamics.solver import RungeKutta
from ntk_momentum.method import GradientFlow


def rows(size: str) -> Iterator[dict]:
    """All rows, one at a time. smoke: seconds; default: the 48 runs of widths 2^8 ... 2^13; full:
    more repeats, and 16 devices."""
    few = size == "smoke"
    yield against_loop(
        range(6, 8) if few else range(8, 14),
        2 if few else 8,
        20 if few else 50,
        1 if few else 5 if size == "full" else 3,
    )
    for runs, n, width in [(4, 10, 64)] if few else [(64, 20, 256), (16, 50, 2048)]:
        yield strategies(runs, n, width, "lazy")
        yield strategies(runs, n, width, "tsit5")
    counts = (1, 2) if few else (1, 2, 4, 8, 16) if size == "full" else (1, 2, 4, 8)
    for layout in ("runs", "neurons"):
        yield from weak_scaling(counts, layout, 64 if few else 1024)


def against_loop(exponents: Any, seeds: int, n: int, repeats: int) -> dict:
    """One flow over widths and seeds, warm: the ensemble (drawing its networks) against a loop of
    `simulate` on networks drawn before."""
    data, ts = _case(n)
    widths = [2**k for k in exponents]
    nets = [
        [init_two_layer(width, 20, key=jax.random.key(seed)) for seed in range(seeds)]
        for width in widths
    ]
    call = lambda: ensemble(data, GradientFlow(), widths, seeds, ts, readouts=["loss"])
    loop = lambda: [
        [simulate(net, data, GradientFlow(), ts, readouts=["loss"]) for net in row] for row in nets
    ]
    together, apart = call(), loop()
    losses = np.array([[run.loss for run in row] for row in apart])
    steps = np.array([[int(run.accepted + run.rejected) for run in row] for row in apart])
    seconds = in_turn({"ensemble": call, "loop": loop}, repeats)
    mine, baseline = seconds["ensemble"], seconds["loop"]
    return {
        "case": f"{len(widths) * seeds} runs, widths {widths[0]} to {widths[-1]}, n = {n}, p = 20",
        "seconds": mine,
        "loop_seconds": baseline,
        "ratio": mine / baseline,
        "largest_relative_difference": float(
            np.max(np.abs(np.asarray(together.loss[0]) / losses - 1))
        ),
        "different_step_counts": int(
            np.sum(np.asarray(together.accepted + together.rejected)[0] != steps)
        ),
    }


def strategies(runs: int, n: int, width: int, solver: str) -> dict:
    """Runs of one width: one after another, in lock-step, and the loop of `simulate`."""
    data, ts = _case(n)
    nets = [init_two_layer(width, 20, key=jax.random.key(seed)) for seed in range(runs)]
    how: dict[str, Any] = {
        "readouts": ["loss"],
        "solver": RungeKutta() if solver == "tsit5" else None,
        "config": Numerics(tol=1e-3),
    }
    calls: dict[str, Any] = {
        strategy: lambda given=strategy: (
            ensemble(data, GradientFlow(), width, runs, ts, strategy=given, **how).loss
        )
        for strategy in ("map", "vmap")
    }
    calls["loop"] = lambda: [simulate(net, data, GradientFlow(), ts, **how).loss for net in nets][
        -1
    ]
    seconds = in_turn(calls, 3)
    loop = seconds["loop"]
    return {
        "case": f"{runs} runs, m = {width}, n = {n}, p = 20, {solver}",
        "map_seconds": seconds["map"],
        "vmap_seconds": seconds["vmap"],
        "loop_seconds": loop,
        "vmap_over_map": seconds["vmap"] / seconds["map"],
        "map_over_loop": seconds["map"] / loop,
    }


def weak_scaling(counts: tuple[int, ...], layout: str, width: int) -> Iterator[dict]:
    """Work in proportion to virtual devices on the same cores: efficiency = devices x time per step
    on one / on all of them."""
    first = None
    for count in counts:
        command = [
            sys.executable,
            "-c",
            f"from ensembles import spread; spread({layout!r}, {width})",
        ]
        paths = os.pathsep.join(
            (*sys.path[:2], os.environ.get("PYTHONPATH", ""))
        )  # the benchmarks and the checkout
        environment = {
            **os.environ,
            "JAX_NUM_CPU_DEVICES": str(count),
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": paths,
        }
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        seconds = json.loads(done.stdout.splitlines()[-1])
        first = first or seconds
        yield {
            "case": f"weak scaling, {layout}, {width} neurons a device",
            "devices": count,
            "cores": len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count(),
            "seconds_per_step": seconds,
            "efficiency": count * first / seconds,
        }


def spread(layout: str, width: int) -> None:
    """Seconds per step with as much work as devices, printed: one run on each, or one run of so
    many times the neurons."""
    jax.config.update("jax_enable_x64", True)
    count = len(jax.devices())
    data, ts = _case(50)
    wide, seeds = (width, count) if layout == "runs" else (width * count, 1)
    call = lambda: ensemble(
        data,
        GradientFlow(),
        wide,
        seeds,
        ts,
        readouts=["loss"],
        layout=layout,
        config=Numerics(tol=1e-3),
    )
    outcome = call()
    seconds = in_turn({"all": call}, 5)["all"]
    print(json.dumps(seconds / float(np.mean(outcome.accepted + outcome.rejected))))


def in_turn(calls: dict[str, Any], repeats: int) -> dict[str, float]:
    """Median seconds of several calls made in turn, after one warm-up of each; on a CPU the
    process's own time, whatever else runs."""
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            start = clock()
            jax.block_until_ready(call())
            if turn:
                times[name].append(clock() - start)
    return {name: float(np.median(kept)) for name, kept in times.items()}


def _case(n: int) -> tuple[Any, np.ndarray]:
    data = sphere(n, 20, key=jax.random.key(0))
    return data, np.linspace(0, 1 / float(np.linalg.eigvalsh(infinite_ntk(data.X))[0]), 11)

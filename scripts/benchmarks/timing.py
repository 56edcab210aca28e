"""Benchmarks: one pinned process on one core, medians, always as ratios against a named baseline
measured in the same run."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def pin() -> int:
    """Keep this process on one core, before jax starts its threads; the core's number (-1 where the
    system cannot)."""
    if not hasattr(os, "sched_setaffinity"):
        return -1
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return core


def clock() -> float:
    """Processor seconds of this process on a CPU, which other programs on a busy machine do not
    lengthen; wall seconds elsewhere."""
    import jax

    return time.process_time() if jax.default_backend() == "cpu" else time.perf_counter()


def median_seconds(call: Callable[[], Any], repeats: int = 5) -> float:
    """Median time of a call whose result jax may still be computing, after one warm-up."""
    import jax

    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        start = clock()
        jax.block_until_ready(call())
        times.append(clock() - start)
    return statistics.median(times)


def compare(
    mine: Callable[[], Any], baseline: Callable[[], Any], repeats: int = 5
) -> tuple[float, float]:
    """Median seconds of two calls made in turn, so that a busy machine slows both alike; after one
    warm-up of each."""
    import jax

    times: tuple[list[float], list[float]] = [], []
    for turn in range(repeats + 1):
        for call, kept in zip((mine, baseline), times, strict=True):
            start = clock()
            jax.block_until_ready(call())
            if turn:
                kept.append(clock() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def processor() -> str:
    """The CPU's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()

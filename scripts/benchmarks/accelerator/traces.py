"""Where a call's time goes on a device: its kernels, from JAX's own trace."""

from __future__ import annotations

import collections
import gzip
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from .measure import Bench, NotSupported

SHOWN = 12
"""Kernels that are named."""


def traced(bench: Bench, call: Callable[[], Any]) -> dict[str, Any]:
    """The kernels of one warm call."""
    if not bench.accelerated:
        raise NotSupported("absent: a CPU's trace has no kernels")
    jax.block_until_ready(call())
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, create_perfetto_trace=True):
            jax.block_until_ready(call())
        (path,) = Path(folder).rglob("perfetto_trace.json.gz")
        return kernels(json.loads(gzip.decompress(path.read_bytes()))["traceEvents"])


def kernels(events: list[dict[str, Any]]) -> dict[str, Any]:
    """How many there were, how long the device was busy with them and from the first to the last
    (seconds), and those that took longest."""
    names = {
        (event["pid"], event.get("tid") if event["name"] == "thread_name" else None): event["args"]
        for event in events
        if event.get("ph") == "M" and event["name"] in ("process_name", "thread_name")
    }

    def named(*key: Any) -> str:
        return names.get(key, {}).get("name", "")

    run = [
        event
        for event in events
        if event.get("ph") == "X"
        and "GPU" in named(event["pid"], None)
        and "Stream" in named(event["pid"], event["tid"])
    ]
    spent: collections.Counter[str] = collections.Counter()
    times: collections.Counter[str] = collections.Counter()
    for event in run:
        spent[event["name"]] += event["dur"] / 1e6
        times[event["name"]] += 1
    longest = [
        {"name": name[:80], "seconds": seconds, "times": times[name]}
        for name, seconds in spent.most_common(SHOWN)
    ]
    begin, end = (
        (min(event["ts"] for event in run), max(event["ts"] + event["dur"] for event in run))
        if run
        else (0.0, 0.0)
    )
    return {
        "kernels": len(run),
        "busy_seconds": sum(spent.values()),
        "span_seconds": (end - begin) / 1e6,
        "longest": longest,
    }

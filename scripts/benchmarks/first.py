"""First calls: processor seconds beyond imports and data in a process of its own, without compiled
programs on disk and with them, and of a second call."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import ntk_momentum as nm

SIZES = {  # digits, width
    "smoke": (10, 32),
    "default": (50, 256),
    "full": (50, 256),
}


def calls(n: int, m: int) -> dict[str, Callable[[], Any]]:
    """What is called, by name, on so many digits, with every read-out there is by default."""
    data, net = nm.load_digits(n, key=jax.random.key(0)), nm.init_two_layer(m, 64, key=KEY)
    mlp = {f: eqx.nn.MLP(64, "scalar", 32, 2, f, key=KEY) for f in (jnp.tanh, jax.nn.relu)}
    flows = [nm.GradientFlow(), nm.HeavyBall(0.5), nm.Nesterov(3.0)]
    H, ts, method = np.asarray(data.X @ data.X.T), np.linspace(0, 2, 11), nm.heavy_ball(0.1, 0.5)
    found: dict[str, Callable[[], Any]] = {
        "infinite_ntk": lambda: nm.infinite_ntk(data.X),
        "empirical_ntk, two layers": lambda: nm.empirical_ntk(net, data.X),
        "empirical_ntk, MLP": lambda: nm.empirical_ntk(mlp[jnp.tanh], data.X),
    }
    for flow in flows:
        found[f"predict, {flow.name}"] = partial(nm.predict, H, -data.y, flow, ts)
    for flow in flows:
        found[f"simulate, {flow.name}"] = partial(nm.simulate, net, data, flow, ts)
    return found | {
        "simulate, heavy ball, Tsit5": lambda: nm.simulate(
            net, data, flows[1], ts, solver=nm.RungeKutta()
        ),
        "simulate, gradient flow, tanh MLP": lambda: nm.simulate(mlp[jnp.tanh], data, flows[0], ts),
        "simulate, heavy ball, ReLU MLP": lambda: nm.simulate(mlp[jax.nn.relu], data, flows[1], ts),
        "train": lambda: nm.train(net, data, method, 20),
        "train, MLP": lambda: nm.train(mlp[jnp.tanh], data, method, 20),
        "ensemble of 24 runs": lambda: nm.ensemble(data, flows, [m // 2, m], 4, ts),
    }


KEY = jax.random.key(1)


def rows(size: str) -> Iterator[dict]:
    """All rows, one at a time."""
    for name in calls(*SIZES[size]):
        with tempfile.TemporaryDirectory() as folder:
            cold, warm = measured(name, size, folder), measured(name, size, folder)
        row = {"case": name, "cold": cold["first"], "warm": warm["first"], "again": warm["second"]}
        yield row | {"programs": cold["programs"]}


def measured(name: str, size: str, folder: str) -> dict[str, Any]:
    """One call in a process of its own."""
    wide = str(np.zeros(()).dtype == jax.dtypes.canonicalize_dtype(np.float64))
    said = [sys.executable, __file__, name, size, folder, wide]
    path = os.pathsep.join(part for part in sys.path if part)
    done = subprocess.run(
        said, env=os.environ | {"PYTHONPATH": path}, check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def _alone(name: str, size: str, folder: str, x64: str) -> dict[str, Any]:
    jax.config.update("jax_enable_x64", x64 == "True")
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    programs = []

    def seen(event: str, duration_secs: float, **rest: Any) -> None:
        programs.append(event) if event.endswith("backend_compile_duration") else None

    for public in nm.__all__:  # what a call imports when it is first named
        getattr(nm, public)
    call, seconds = calls(*SIZES[size])[name], []
    jax.monitoring.register_event_duration_secs_listener(seen)
    for _ in range(2):
        begin = time.process_time()
        jax.block_until_ready(eqx.filter(call(), eqx.is_array))
        seconds.append(time.process_time() - begin)
    return {"first": seconds[0], "second": seconds[1], "programs": len(programs)}


if __name__ == "__main__":
    print(json.dumps(_alone(*sys.argv[1:])))

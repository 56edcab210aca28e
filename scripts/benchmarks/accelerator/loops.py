"""What an iteration of small kernels costs in a loop: with command buffers and without.

XLA reads its flags once, so every setting runs in a process of its own, which is this file.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from .measure import Bench, Parts

SIDE = 64
"""Rows of the small square matrices: large enough that no product is fused into the next."""
KERNELS = (0, 10, 60)
FLAG = "--xla_gpu_enable_command_buffer="
SETTINGS = {
    "as JAX has it": None,
    "without command buffers": FLAG,
    "loops in command buffers": FLAG + "+WHILE,+CONDITIONAL",
}


def loops(bench: Bench) -> Parts:
    """Loops of 0, 10 and 60 small kernels, with command buffers and, on a GPU, without."""
    for setting, flag in SETTINGS.items():
        if flag is None or bench.accelerated:
            yield setting, partial(in_process, bench, setting, flag)
    if not bench.accelerated:
        yield "other settings", lambda: {"absent": "the flag concerns GPUs only"}


def in_process(bench: Bench, setting: str, flag: str | None) -> list[dict[str, Any]]:
    """The records of one setting."""
    from .measure import NotSupported, finished  # not in the process that only measures

    environment = dict(os.environ)
    if flag is not None:
        environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {flag}".strip()
    command = [sys.executable, __file__, str(bench.sizes.iterations)]
    code, output, errors = finished(command, environment, bench.left())
    if code and "Illegal value" in errors:
        raise NotSupported(f"not supported here: this XLA does not know {flag}")
    if code:
        raise RuntimeError(f"exit code {code}: {errors.strip()[-300:]}")
    records = json.loads(output.splitlines()[-1])
    return [record | {"case": f"{record['case']}, {setting}"} for record in records]


def chain(x: jax.Array, Q: jax.Array, kernels: int) -> jax.Array:
    """x Q^kernels, one product after another."""
    for _ in range(kernels):
        x = jnp.matmul(x, Q, precision="highest")
    return x


def measure(iterations: int) -> list[dict[str, Any]]:
    """Seconds an iteration, of loops whose length is an argument or compiled in.

    The floor of an iteration is what its kernels take in a straight program.
    """
    Q = np.linalg.qr(np.random.default_rng(0).normal(size=(SIDE, SIDE)))[0].astype(np.float32)
    x = np.random.default_rng(1).normal(size=(SIDE, SIDE)).astype(np.float32)
    longest = max(KERNELS)
    straight = best(lambda x, Q: chain(x, Q, longest), x, Q)[0] / longest
    found = [{"case": f"{longest} small kernels without a loop", "seconds": straight * longest}]

    def unknown(kernels, x, Q, count):
        body = lambda state: (state[0] + 1, chain(state[1], Q, kernels))
        return jax.lax.while_loop(lambda state: state[0] < count, body, (0, x))[1]

    def known(kernels, x, Q, count):
        return jax.lax.fori_loop(0, iterations, lambda _, x: chain(x, Q, kernels), x)

    for kernels in KERNELS:
        power = np.linalg.matrix_power(Q.astype(np.float64), kernels * iterations)
        exact = x.astype(np.float64) @ power
        for name, loop in (("length an argument", unknown), ("length compiled in", known)):
            if kernels == 0 and loop is known:
                continue  # compiled away
            seconds, compiling, value = best(partial(loop, kernels), x, Q, jnp.int32(iterations))
            error = float(np.linalg.norm(value - exact) / np.linalg.norm(exact))
            record = {
                "case": f"loop of {kernels} small kernels, {name}",
                "seconds": seconds / iterations,
                "compile_seconds": compiling,
                "relative_error": error,
                "allowed": 1e-2,
                "against": "float64 on the host",
                "ok": error <= 1e-2,
            }
            if kernels:
                record |= {
                    "kernels_per_second": kernels * iterations / seconds,
                    "ceiling": "the same kernels without a loop",
                    "fraction": kernels * straight * iterations / seconds,
                }
            found.append(record)
    return found


def best(function: Any, *arguments: Any) -> tuple[float, float, np.ndarray]:
    """Median warm seconds, seconds to compile, value."""
    begin = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile()
    compiling = time.perf_counter() - begin
    value = jax.block_until_ready(compiled(*arguments))
    times = []
    for _ in range(7):
        begin = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        times.append(time.perf_counter() - begin)
    return statistics.median(times), compiling, np.asarray(value)


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))

"""What every row measures with: time, rates against ceilings of the same call, errors, memory.

This is the one place that reaches into the package's own modules; the rows use public names.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ntk_momentum as nm
from ntk_momentum.dynamics.preparation import weight_problem
from ntk_momentum.memory import available
from ntk_momentum.results.provenance import provenance as provenance

MARGIN = 0.8
"""Share of the free memory that a row plans to take."""

Part = tuple[str, Callable[[], Any]]
"""A case's name and what measures it: a record, or several."""
Parts = Iterator[Part]


class NotSupported(Exception):
    """What this device, JAX or the package does not offer here; recorded, and no failure."""


class OutOfTime(BaseException):
    """Raised by the runner's alarm; no `except Exception` on the way may swallow it."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large the rows are."""

    product: int
    copied: int
    n: int
    p: int
    widths: tuple[int, ...]
    orders: tuple[int, ...]
    lanes: int
    iterations: int
    lazy_width: int
    few: tuple[int, ...]
    seeds: int
    tsit5: tuple[tuple[int, int], ...]
    small_runs: int
    samples: int
    hidden: int
    operator_samples: int
    tiles: tuple[int, ...]
    headline: tuple[int, ...]


SIZES = {
    "smoke": Sizes(
        product=128,
        copied=2**16,
        n=16,
        p=12,
        widths=(32, 64),
        orders=(8, 24),
        lanes=2,
        iterations=5,
        lazy_width=64,
        few=(8,),
        seeds=2,
        tsit5=((32, 2),),
        small_runs=2,
        samples=5,
        hidden=16,
        operator_samples=40,
        tiles=(40,),
        headline=(32,),
    ),
    "full": Sizes(
        product=8192,
        copied=2**28,
        n=1000,
        p=784,
        widths=(2**16, 2**13, 2**10),
        orders=(250, 500, 1000, 2000),
        lanes=16,
        iterations=200,
        lazy_width=4096,
        few=(64, 128),
        seeds=16,
        tsit5=((256, 64), (4096, 64), (2**16, 8)),
        small_runs=64,
        samples=1000,
        hidden=512,
        operator_samples=20_000,
        tiles=(1024, 6000),
        headline=tuple(2**k for k in (8, 10, 12, 14, 16, 9, 11, 13, 15)),
    ),
}


@dataclasses.dataclass
class Bench:
    """Sizes, the ceilings found so far (operations or bytes a second), when this row must stop."""

    sizes: Sizes
    accelerated: bool
    deadline: float
    ceilings: dict[str, float] = dataclasses.field(default_factory=dict)

    def left(self) -> float:
        """Seconds that this row still has."""
        return self.deadline - time.perf_counter()

    def fit(self, count: int, bytes_each: float) -> int:
        """`count`, halved until so many things of so many bytes fit into the free memory."""
        while count > 1 and count * bytes_each > MARGIN * available():
            count //= 2
        return count


@dataclasses.dataclass(frozen=True)
class Timing:
    """Warm seconds of a call, the median of several and the best; seconds to compile; its value."""

    seconds: float
    best: float
    compile_seconds: float | None
    repeats: int
    value: Any
    first: dict[str, float] = dataclasses.field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """What is kept of it."""
        kept = {"seconds": self.seconds, "best_seconds": self.best, "repeats": self.repeats}
        if self.compile_seconds is None:
            return kept
        return kept | {"compile_seconds": self.compile_seconds} | self.first


def timed(function: Callable, *arguments: Any, spend: float = 0.5) -> Timing:
    """Times a traceable function, compiled here and fed with arrays.

    Calls shorter than the time that Python needs to launch them are launched one behind the
    other and waited for together. spend: seconds for all repeats, roughly.
    """
    begin = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile()
    compiling = time.perf_counter() - begin
    value = jax.block_until_ready(compiled(*arguments))
    begin = time.perf_counter()
    jax.block_until_ready(compiled(*arguments))
    once = time.perf_counter() - begin
    # what is launched ahead of the device holds its results: no more than a tenth of the memory;
    # on a CPU, programs in flight together may wait for each other's threads for ever
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(value))
    most = 1 if jax.default_backend() == "cpu" else max(1, 0.1 * available() // max(size, 1))
    together = int(min(max(1, 0.02 // once), 100, most))
    turns = int(np.clip(spend / (together * once), 3, 15)) if once < 1 else 1
    times = []
    for _ in range(turns):
        begin = time.perf_counter()
        results = [compiled(*arguments) for _ in range(together)]
        jax.block_until_ready(results)
        times.append((time.perf_counter() - begin) / together)
        del results
    return Timing(statistics.median(times), min(times), compiling, turns * together, value)


COMPILING = {
    "/jax/core/compile/jaxpr_trace_duration": "tracing",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lowering",
    "/jax/core/compile/backend_compile_duration": "backend",
}
"""What JAX says of a first call's seconds: Python's, and the backend's, which holds its cache."""
SPENT: dict[str, float] = {}


def _spent(event: str, seconds: float, **_: Any) -> None:
    SPENT[event] = SPENT.get(event, 0.0) + seconds


jax.monitoring.register_event_duration_secs_listener(_spent)


def called(bench: Bench, call: Callable[[], Any]) -> Timing:
    """Times a call that compiles by itself: cold, then warm where the row's time allows."""
    SPENT.clear()
    begin = time.perf_counter()
    value = jax.block_until_ready(call())
    cold = time.perf_counter() - begin
    first = {f"{name}_seconds": SPENT[event] for event, name in COMPILING.items() if event in SPENT}
    if cold > 0.8 * bench.left():
        return Timing(cold, cold, None, 0, value)
    times: list[float] = []
    while len(times) < 3 and (not times or sum(times) + times[-1] < 1):
        begin = time.perf_counter()
        value = jax.block_until_ready(call())
        times.append(time.perf_counter() - begin)
    middle = statistics.median(times)
    return Timing(middle, min(times), max(0.0, cold - middle), len(times), value, first)


def rated(
    bench: Bench,
    timing: Timing,
    *,
    flops: float = 0.0,
    moved: float = 0.0,
    unit: str = "float32 highest",
    executed: float | None = None,
) -> dict[str, Any]:
    """Seconds, rates, and the fraction of what this device reaches.

    The floor is the larger of `executed` operations (by default flops) at the rate of the product
    named `unit` and the bytes that must be moved at the rate of a copy, both measured in this call.
    """
    record = timing.record()
    if timing.repeats == 0:
        record["cold"] = True
    floors = {}
    if flops:
        record["tflops"] = flops / timing.seconds / 1e12
        if unit in bench.ceilings:
            floors[unit] = (flops if executed is None else executed) / bench.ceilings[unit]
    if moved:
        record["gb_per_second"] = moved / timing.seconds / 1e9
        if "copy" in bench.ceilings:
            floors["copy"] = moved / bench.ceilings["copy"]
    if floors:
        ceiling = max(floors, key=lambda name: floors[name])
        record |= {"ceiling": ceiling, "floor_seconds": floors[ceiling]}
        record["fraction"] = floors[ceiling] / timing.seconds
    return record


def compared(
    value: Any, reference: Any, allowed: float, against: str = "float64 on the host"
) -> dict[str, Any]:
    """The Euclidean relative error of a value, and whether it is allowed; NaN never is."""
    value, reference = np.asarray(value, np.float64), np.asarray(reference, np.float64)
    size = np.linalg.norm(reference)
    error = float(np.linalg.norm(value - reference) / (size if size > 0 else 1.0))
    return {"relative_error": error, "allowed": allowed, "against": against, "ok": error <= allowed}


def supported(measure: Callable[[], Any]) -> Any:
    """The value of a call; what the backend refuses to lower or compile becomes `NotSupported`."""
    try:
        return measure()
    except Exception as error:
        if any(
            word in str(error).lower() for word in ("not supported", "unsupported", "unimplemented")
        ):
            raise NotSupported(f"not supported here: {error}".splitlines()[0][:200]) from error
        raise


def halved(runs: int, attempt: Callable[[int], Any]) -> tuple[int, Any]:
    """(runs, attempt(runs)), with half as many runs whenever they do not fit into memory."""
    while True:
        try:
            return runs, attempt(runs)
        except Exception as error:
            full = ("RESOURCE_EXHAUSTED", "out of memory", "may be used on a device")
            if runs == 1 or not any(word.lower() in str(error).lower() for word in full):
                raise
        runs //= 2


def finished(
    command: list[str], environment: dict[str, str], seconds: float, **how: Any
) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a process, which takes the device's memory as it needs it.

    Raises `OutOfTime` when it takes too long.
    """
    environment = {**environment, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=max(1.0, seconds),
            **how,
        )
    except subprocess.TimeoutExpired as error:
        raise OutOfTime from error
    return done.returncode, done.stdout, done.stderr


@functools.cache
def problem(n: int, p: int) -> tuple[Any, float]:
    """A data set on the sphere, and the largest eigenvalue of its limit kernel by the host."""
    data = nm.sphere(n, p, key=jax.random.key(5))
    with jax.default_matmul_precision("highest"):
        kernel = np.asarray(nm.infinite_ntk(data.X), np.float64)
    return data, float(np.linalg.eigvalsh(kernel)[-1])


def network(width: int, p: int, seed: int = 0) -> Any:
    """The float32 network that a run of this width and seed starts from."""
    return nm.init_two_layer(width, p, key=jax.random.key(seed), dtype=jnp.float32)


def gradient_of(net: Any, data: Any) -> Callable:
    """The package's own gradient of the squared loss, as a function of the hidden weights."""
    objective, w = weight_problem(net, data, nm.squared, None, None)

    def gradient(hidden):
        with jax.default_matmul_precision("highest"):
            return objective.gradient(jax.tree.map(lambda _: hidden, w)).hidden

    return gradient

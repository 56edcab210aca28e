"""Peak memory of a solve, from its shapes alone, and what the device has: nothing runs out of memory by surprise.

One run on n samples with a network of m neurons on p inputs holds copies of its weights and velocities (m p each), preactivations and
slopes (n m each), kernels (n^2 each) and what it has read off. The counts of copies are those of the compiled programs, rounded up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .dynamics.solver.slopes import TILE
from .errors import InputError
from .network.two_layer import DRAWN

MARGIN = 0.9
"""Share of the free memory that a solve may be planned to take."""

COPIES = {
    "lazy": (2.0, 3.0, 8.0),
    "lazy momentum": (6.0, 9.0, 8.0),
    "runge_kutta": (14.0, 3.0, 5.0),
    "runge_kutta momentum": (28.0, 3.0, 5.0),
}
"""Arrays alive at the peak of one run, fitted from above to compiled programs: (m, p); (n, m), where something needs the preactivations of
all neurons at once; and (n, n). All but the first hold more to solve than to draw the network."""

DRAWING = 6.0
"""Arrays alive while a part of the hidden layer is drawn."""

KEPT = 1.0
"""(n, m) kept by an explicit solver on a CPU where nothing needs them at once. The lazy one then holds its copies for one tile only."""


JACOBIANS = 6.0
"""Copies of all activations, beside those of a gradient, while the Jacobians behind H are taken of a model that is no two-layer net."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Bytes at the peak of one run on one device, by what takes them."""

    state: int
    slab: int
    kernel: int
    readouts: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.state + self.slab + self.kernel + self.readouts

    def __str__(self) -> str:
        parts = {"weights": self.state, "neurons x samples": self.slab, "kernels": self.kernel, "read-outs": self.readouts}
        return f"{gib(self.total)} ({', '.join(f'{name} {gib(size)}' for name, size in parts.items())})"


def estimate(
    *,
    n: int,
    m: int,
    p: int,
    columns: int,
    itemsize: int,
    momentum: bool,
    lazy: bool,
    slabs: bool = True,
    kernel: bool = True,
    readouts: Iterable[tuple[int, ...]] = (),
    devices: int = 1,
) -> Estimate:
    """Peak of one run whose neurons are spread over `devices`.

    columns: those of the weights in the coordinates that are solved for, see `span`. slabs, kernel: whether a read-out needs whole
    preactivations, or H. readouts: the shape of each, saved times included.
    """
    state, slab, square = COPIES[("lazy" if lazy else "runge_kutta") + (" momentum" if momentum else "")]
    mine = -(-m // devices)
    entries = slab * n * mine
    if not slabs and not lazy:
        entries = KEPT * n * mine
    elif not slabs and not momentum:
        entries = min(entries, slab * 2 * TILE)
    weights = max(state * mine * columns, 2 * mine * p + DRAWING * min(mine * p, DRAWN))
    saved = sum(_product(shape) for shape in readouts)
    return Estimate(
        state=int(weights * itemsize),
        slab=int(entries * itemsize),
        kernel=int(square * n * n * itemsize) if kernel or lazy else 0,
        readouts=2 * saved * itemsize,
    )


def estimate_own(
    *,
    n: int,
    entries: int,
    weights: int,
    activations: int,
    kernel: int,
    itemsize: int,
    momentum: bool,
    readouts: Iterable[tuple[int, ...]] = (),
) -> Estimate:
    """Peak of one run of any model, solved by Runge-Kutta.

    entries: outputs on all n samples. weights: trained numbers. activations: numbers that a forward pass of one sample writes, all of
    which a backward pass keeps. kernel: bytes to make H, see `kernel.plan`, or 0 where no read-out needs it.
    """
    state, slab, square = COPIES["runge_kutta momentum" if momentum else "runge_kutta"]
    return Estimate(
        state=int(state * weights * itemsize),
        slab=int((slab + (JACOBIANS if kernel else 0)) * n * activations * itemsize),
        kernel=int(square * entries * entries * itemsize) + kernel if kernel else 0,
        readouts=2 * sum(_product(shape) for shape in readouts) * itemsize,
    )


def available(device: Any = None) -> int:
    """Bytes that are free on a device: by its own statistics, or on a CPU what the system and the control group leave."""
    import jax

    device = jax.local_devices()[0] if device is None else device
    statistics = device.memory_stats() or {}
    if "bytes_limit" in statistics:
        return int(statistics["bytes_limit"] - statistics.get("bytes_in_use", 0))
    free = [_meminfo(), _control_group()]
    known = [size for size in free if size is not None]
    if not known:
        raise InputError("this system does not say how much memory is free; give memory_limit= in bytes.")
    return min(known) // len([d for d in jax.local_devices() if d.platform == device.platform])


def refuse(what: str, needed: Estimate, free: int | float, runs: int, splits: bool = True) -> InputError:
    """The error for a unit that cannot fit: the numbers, and what to do about the largest.

    splits: whether neurons may be spread.
    """
    more = ", or more devices with layout='neurons'" if splits else ""
    remedies = {
        needed.state: f"use fewer neurons, float32{more}",
        needed.slab: f"use fewer neurons or samples, float32{more}",
        needed.kernel: "use fewer samples or float32",
        needed.readouts * runs: "save fewer times, leave out read-outs such as 'kernel', or give unit_runs= fewer runs",
    }
    remedy = remedies[max(remedies)]
    return InputError(f"{what} needs about {needed}, the read-outs times {runs} runs, but {gib(free)} may be used on a device; {remedy}.")


def check_fits(entries: int, what: str, remedy: str) -> None:
    """Raise when so many numbers of the default precision do not fit into the free memory."""
    import jax
    import jax.numpy as jnp

    size = entries * jax.dtypes.canonicalize_dtype(jnp.float64).itemsize
    if size > MARGIN * available():
        raise InputError(f"{what} need about {gib(size)}, but {gib(MARGIN * available())} may be used on a device; {remedy}.")


def gib(size: int | float) -> str:
    """Bytes in words."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} TiB"


def _product(shape: Iterable[int]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size


def _meminfo() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None


def _control_group() -> int | None:
    """What a scheduler's limit on this job's memory leaves, if there is one."""
    root = Path("/sys/fs/cgroup")
    try:
        own = next(line[3:].strip() for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
        folder = root / own.lstrip("/")
        folder = folder if (folder / "memory.max").exists() else root
        limit = (folder / "memory.max").read_text().strip()
        return None if limit == "max" else max(0, int(limit) - int((folder / "memory.current").read_text()))
    except (OSError, StopIteration, ValueError):
        return None

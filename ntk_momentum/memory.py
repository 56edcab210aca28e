"""What may be taken of a machine's memory: what is free, and the check that is made before anything
large is formed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .errors import InputError

MARGIN = 0.9
"""Share of the free memory that a solve may be planned to take."""


def available(device: Any = None) -> int:
    """Bytes that are free on a device: by its own statistics, or on a CPU what the system and the
    control group leave."""
    import jax

    device = jax.local_devices()[0] if device is None else device
    statistics = device.memory_stats() or {}
    if "bytes_limit" in statistics:
        return int(statistics["bytes_limit"] - statistics.get("bytes_in_use", 0))
    free = [_meminfo(), _control_group()]
    known = [size for size in free if size is not None]
    if not known:
        raise InputError(
            "this system does not say how much memory is free; give memory_limit= in bytes."
        )
    return min(known) // len([d for d in jax.local_devices() if d.platform == device.platform])


def check_fits(entries: int, what: str, remedy: str) -> None:
    """Raise when so many numbers of the default precision do not fit into the free memory."""
    import jax
    import jax.numpy as jnp

    size = entries * jax.dtypes.canonicalize_dtype(jnp.float64).itemsize
    if size > MARGIN * available():
        raise InputError(
            f"{what} need about {gib(size)}, but {gib(MARGIN * available())} may be "
            f"used on a device; {remedy}."
        )


def gib(size: int | float) -> str:
    """Bytes in words."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} TiB"


def _meminfo() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(
            1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")
        )
    except (OSError, StopIteration, ValueError):
        return None


def _control_group() -> int | None:
    """What a scheduler's limit on this job's memory leaves, if there is one."""
    root = Path("/sys/fs/cgroup")
    try:
        own = next(
            line[3:].strip()
            for line in Path("/proc/self/cgroup").read_text().splitlines()
            if line.startswith("0::")
        )
        folder = root / own.lstrip("/")
        folder = folder if (folder / "memory.max").exists() else root
        limit = (folder / "memory.max").read_text().strip()
        return (
            None
            if limit == "max"
            else max(0, int(limit) - int((folder / "memory.current").read_text()))
        )
    except (OSError, StopIteration, ValueError):
        return None

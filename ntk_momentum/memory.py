"""What may be taken of a machine's memory, by one rule, and the question that is asked before
anything large is formed.

An accelerator says itself what is free. On a CPU it is the least of what these leave:

    /proc/meminfo       MemAvailable
    control groups      v2: memory.max - memory.current, v1: memory.limit_in_bytes -
                        memory.usage_in_bytes, each plus the file cache that can be dropped
                        (inactive_file), of the process's own group and of every one above it: a
                        scheduler sets its limit on the job and starts the process further down
    RLIMIT_AS           less the addresses in use (`ulimit -v`)
    SLURM_MEM_PER_NODE  less what is resident; in MB, 0 means the whole node

divided evenly among the CPU devices of the process. `MARGIN` of it may be taken.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import InputError

MARGIN = 0.9
"""Share of the free memory that may be planned to be taken."""

SMALL = 2**24
"""Bytes that are taken without a question, which reads some ten files: a millisecond at most."""

_UNLIMITED = 2**60
"""What cgroup v1 gives where nothing is limited is 2^63 less a page; no machine has this much."""


def available(device: Any = None) -> int:
    """Bytes that are free on a device, by default the first one. Raises `InputError` where nobody
    says."""
    found = _free(device)
    if found is None:
        raise InputError(
            "this system does not say how much memory is free; give memory_limit= in bytes."
        )
    return found


def may_be_taken() -> float | None:
    """Bytes that a run may be planned to take on the first device; None where nobody says."""
    free = _free(None)
    return None if free is None else MARGIN * free


def check_fits(
    entries: int,
    what: str,
    remedy: str,
    *,
    itemsize: int | None = None,
    of: Any = None,
    host: bool = False,
) -> None:
    """Raise when so many numbers do not fit into the free memory. Silent where that is unknown.

    itemsize: bytes of one, by default of the default precision. of: the array that they are
    computed from, over whose devices they spread (a tracer's: all); only its type and place are
    looked at. host: numpy's, so the machine's memory counts, not a device's.
    """
    size = entries * (_itemsize() if itemsize is None else itemsize)
    if size <= SMALL:
        return
    free = host_memory() if host else _free(None)
    if free is not None and size > MARGIN * free * (1 if host else _places(of)):
        place = "of the machine's memory" if host else "on a device"
        raise refusal(what, gib(size), MARGIN * free, remedy, place)


def check_saved(values: Any, times: int, remedy: str = "save fewer times") -> None:
    """Raise when read-outs saved at so many times do not fit, once computed and once stored.

    values: what one time gives, by shape (from `jax.eval_shape`), in any tree.
    """
    import jax

    leaves = jax.tree.leaves(values)
    size = 2 * int(times) * sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
    check_fits(size, f"the read-outs at {in_short(times)} times", remedy, itemsize=1)


def check_kernel(
    name: str, x1: Any, x2: Any, arrays: int, remedy: str = "use fewer inputs"
) -> None:
    """Raise when the kernel of inputs x1 (n1, ...) with x2 (n2, ...), or with themselves, does not
    fit. arrays: of its size alive at once."""
    n1, n2 = (next(iter(shape_of(x)), 0) for x in (x1, x1 if x2 is None else x2))
    what = f"{name} of {in_short(n1)} x {in_short(n2)} inputs"
    check_fits(arrays * n1 * n2, what, remedy, of=x1)


def check_inputs(name: str, x: Any) -> None:
    """Raise when a copy of inputs does not fit: an array may be a view of less."""
    shape = shape_of(x)
    check_fits(math.prod(shape), f"a copy of {name}, of shape {shape},", "use fewer inputs", of=x)


def refusal(
    what: str, needed: str, free: int | float, remedy: str, place: str = "on a device"
) -> InputError:
    """The error for what cannot fit: what was asked, what it takes, what may be used, what to
    try."""
    return InputError(
        f"{what} would take about {needed}, but {gib(free)} may be used {place}; {remedy}."
    )


def shape_of(x: Any) -> tuple[int, ...]:
    """The shape of an array, traced or not; of a list its length; () where there is none to
    know."""
    shape = getattr(x, "shape", (len(x),) if isinstance(x, list | tuple) else ())
    known = isinstance(shape, tuple) and all(isinstance(side, int) for side in shape)
    return shape if known else ()


def gib(size: int | float) -> str:
    """Bytes in words."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size = size / 1024 if size < 2**1000 else int(size) >> 10
    return f"{in_short(size)} TiB"


def in_short(number: int | float) -> str:
    """A number in at most a dozen characters."""
    if isinstance(number, int) and number < 10**9:
        return str(number)
    return f"{number:.3g}" if number < 2**1000 else f"10^{int(math.log10(number))}"


def host_memory(root: Path = Path("/"), environment: Any = os.environ) -> int | None:
    """Bytes that this process may still take of the machine's own memory, by the least of its
    limits; None where none is known. root: the folder that holds proc and sys."""
    bounds = [
        _meminfo(root / "proc/meminfo"),
        *_control_groups(root / "sys/fs/cgroup", _text(root / "proc/self/cgroup") or ""),
        _address_space(root / "proc/self/statm"),
        _slurm(environment.get("SLURM_MEM_PER_NODE", ""), root / "proc/self/statm"),
    ]
    known = [max(0, bound) for bound in bounds if bound is not None]
    return min(known, default=None)


def _free(device: Any) -> int | None:
    import jax

    device = jax.local_devices()[0] if device is None else device
    statistics = device.memory_stats() or {}
    if "bytes_limit" in statistics:
        return int(statistics["bytes_limit"] - statistics.get("bytes_in_use", 0))
    free = host_memory() if device.platform == "cpu" else None
    return None if free is None else free // len(jax.local_devices(backend="cpu"))


def _itemsize() -> int:
    import jax
    import numpy as np

    return int(jax.dtypes.canonicalize_dtype(np.float64).itemsize)


def _places(of: Any) -> int:
    """Devices over which what is computed from an array spreads."""
    import jax

    if isinstance(of, jax.core.Tracer):
        return jax.device_count()
    return len(of.sharding.device_set) if isinstance(of, jax.Array) else 1


def _meminfo(path: Path) -> int | None:
    return _field(path, "MemAvailable:", 1024)


def _control_groups(mount: Path, membership: str) -> Iterator[int]:
    """What each limited group leaves, by the text of /proc/self/cgroup: lines number : controllers
    : path, where v2 has number 0 and no controllers. A mixed system has both."""
    for line in membership.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            top = mount if (mount / "cgroup.controllers").exists() else mount / "unified"
            yield from _groups(top, path, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            yield from _groups(mount / "memory", path, *names)


def _groups(top: Path, path: str, limit: str, usage: str, cache: str) -> Iterator[int]:
    """What is left in a group and in all above it, up to the mount. In a container the path may be
    the host's, of which only the mount itself can be seen."""
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    for depth in range(len(parts), -1, -1):
        folder = top.joinpath(*parts[:depth])
        most, used = _whole(folder / limit), _whole(folder / usage)
        if most is not None and most < _UNLIMITED:
            dropped = _field(folder / "memory.stat", cache) or 0
            yield most - max(0, (used or 0) - dropped)


def _address_space(statm: Path) -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit - _pages(statm, 0)


def _slurm(megabytes: str, statm: Path) -> int | None:
    limit = 2**20 * int(megabytes) if megabytes.isdecimal() else 0
    return limit - _pages(statm, 1) if limit else None


def _pages(statm: Path, column: int) -> int:
    """Bytes of addresses (column 0) or of resident memory (1) of this process."""
    columns = (_text(statm) or "").split()
    return int(columns[column]) * os.sysconf("SC_PAGE_SIZE") if len(columns) > column else 0


def _field(path: Path, name: str, scale: int = 1) -> int | None:
    """The number behind a name at the start of a line."""
    found = (line.split() for line in (_text(path) or "").splitlines())
    numbers = (words[1] for words in found if words[:1] == [name] and words[1:])
    return next((scale * int(number) for number in numbers if number.isdecimal()), None)


def _whole(path: Path) -> int | None:
    text = (_text(path) or "").strip()
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None

"""What the device's float64 costs, measured once and kept, and where a sweep takes it unasked."""

from __future__ import annotations

import contextlib
import json
import re
import time
from typing import Any

from .. import files
from ..errors import InputError
from . import cache

FREE = 2.5
"""Times float32's seconds of a product up to which float64 is taken for free: CPUs have 2, half as
many numbers in a register, and NVIDIA's cards for other purposes 32 or 64. Chosen between them."""
SIZE = 1024
"""Rows and columns of the product: 2e9 operations, long beside a launch where float64 is dear."""


def free(jax: Any) -> bool:
    """Whether a sweep takes float64 unasked: on a CPU; on an accelerator by what was measured first
    and is kept, so that a sweep goes on in its dtype, and never in a job of several processes,
    which would not all measure the same."""
    if jax.default_backend() == "cpu":
        return True
    if jax.process_count() > 1:
        return False
    kind = re.sub(r"[^a-z0-9]+", "-", jax.devices()[0].device_kind.lower())
    folder = cache.programs_folder()
    path = None if folder is None else folder.parent / f"float64-{kind}.json"
    if path is not None and files.whole(path, "cost"):
        return float(json.loads(path.read_text(encoding="utf-8"))["cost"]) <= FREE
    found = cost(jax)
    if path is not None:
        with contextlib.suppress(InputError):  # a folder that cannot be written
            files.write_json(path, "cost", {"cost": found})
    return found <= FREE


def cost(jax: Any) -> float:
    """Seconds of a product in float64 over those in float32, as the package takes it, the shortest
    of three each."""
    from ..products import in_force, product

    def seconds(dtype: str) -> float:
        with jax.enable_x64(True), in_force("highest", dtype):
            a = jax.numpy.ones((SIZE, SIZE), dtype)
            multiply = jax.jit(product)
            taken = []
            for _ in range(4):  # the first compiles
                begin = time.perf_counter()
                jax.block_until_ready(multiply(a, a))
                taken.append(time.perf_counter() - begin)
            return min(taken[1:])

    return seconds("float64") / seconds("float32")

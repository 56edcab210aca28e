"""What every command does first: the dtype, the compiler's flags, a device."""

from __future__ import annotations

import importlib.util
import os

from ..errors import InputError, require
from ..progress import LOG
from . import cache
from .options import Shared


def start(shared: Shared, figures: bool = False, brief: bool = False, small: bool = False) -> None:
    """Choose the dtype before any array is made: the command line's default is float64. Figures are
    drawn without a display.

    brief: see `set_flags`. small: nothing runs for long, so compile with few
    optimizations, in half the time again; wide networks would then run for twice as long.
    """
    jax = require("jax", "this command")
    jax.config.update("jax_enable_x64", not shared.float32)
    if small:
        jax.config.update("jax_disable_most_optimizations", True)
    set_flags(brief)
    if not shared.no_cache:
        cache.use(jax)
    if figures:
        require("matplotlib", "drawing figures").use("agg")
    try:
        devices = jax.devices()
    except RuntimeError as error:
        raise InputError(
            f"JAX finds no device to compute on ({error}); check JAX_PLATFORMS, or set "
            "JAX_PLATFORMS=cpu."
        ) from error
    LOG.debug(
        "JAX %s on %s, in %s", jax.__version__, devices, "float32" if shared.float32 else "float64"
    )
    LOG.debug("compiled programs: %s", jax.config.jax_compilation_cache_dir or "not kept")


def set_flags(brief: bool = False) -> None:
    """The compiler's flags, which are read when the first device is asked for.

    For NVIDIA's devices products are compiled without trying Triton's against the libraries':
    measured on an H100, a float32 product of new shapes takes 0.4 s to compile instead of 10 s, a
    lazy run 4.5 s instead of 12 s, and their speed is the same.

    brief: on CPUs, compile without XLA's fusion emitters where JAX still has that choice. Compiling
    takes half the time, running 5% more.
    """
    jax = require("jax", "this command")
    cuda = any(map(importlib.util.find_spec, ("jax_cuda12_plugin", "jax_cuda13_plugin")))
    unwanted = ["--xla_gpu_enable_triton_gemm"] if cuda else []  # others may not know the flag
    if brief and jax.__version_info__[:2] == (0, 10):
        unwanted.append("--xla_cpu_use_fusion_emitters")
    flags = os.environ.get("XLA_FLAGS", "")
    flags += "".join(f" {flag}=false" for flag in unwanted if flag not in flags)
    os.environ["XLA_FLAGS"] = flags.strip()

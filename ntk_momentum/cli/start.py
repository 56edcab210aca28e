"""What every command does first: the dtype, the compiler's flags, a device."""

from __future__ import annotations

import os

from ..errors import InputError, require
from ..progress import LOG
from . import cache
from .options import Shared


def start(shared: Shared, figures: bool = False, brief: bool = False) -> None:
    """Choose the dtype before any array is made: the command line's default is float64. Figures are
    drawn without a display.

    brief: on CPUs, compile without XLA's fusion emitters where JAX still has that choice. Compiling
    takes half the time, running 5% more.
    """
    jax = require("jax", "this command")
    jax.config.update("jax_enable_x64", not shared.float32)
    flags, emitters = os.environ.get("XLA_FLAGS", ""), "--xla_cpu_use_fusion_emitters"
    if brief and jax.__version_info__[:2] == (0, 10) and emitters not in flags:
        os.environ["XLA_FLAGS"] = (
            f"{flags} {emitters}=false"  # read when the first device is asked for
        )
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

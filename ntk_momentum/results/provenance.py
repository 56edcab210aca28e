"""Where a number comes from: code, versions, device, precision. Saved with every result."""

from __future__ import annotations

import functools
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from .sources import PACKAGE, Code
from .store import fingerprint

RECORDED = (
    "jax",
    "jaxlib",
    "diffrax",
    "optax",
    "equinox",
    "numpy",
    "scipy",
    "scikit-learn",
    "matplotlib",
    "xarray",
    "h5netcdf",
    "jinja2",
)
# Packages whose version decides numbers, where a computation imports them.
DECIDING = ("diffrax", "equinox", "jax", "jaxlib", "lineax", "optax", "optimistix")


def basis(code: Code) -> dict[str, Any]:
    """What a computation's numbers depend on beside its settings: code, versions, device, dtype."""
    used = {*code.packages, *(("jaxlib",) if "jax" in code.packages else ())}
    return {
        "code": code.digest,
        "versions": {name: _version(name) for name in DECIDING if name in used},
        "device": device_kind(),
        "dtype": dtype(),
    }


def identity_of(code: Code, settings: Mapping[str, Any], computed: bool = True) -> str:
    """A hash of all that determines a result; it is in the file's name and in its mark (`files`).

    settings: data and settings, as plain values. computed: whether JAX computes the result; a
    drawing rests on its code alone.
    """
    return fingerprint({**(basis(code) if computed else {"code": code.digest}), **settings})


def device_kind() -> str:
    """The kind of device that computes, whichever host it is in."""
    import jax

    first = jax.devices()[0]
    return f"{first.platform} {first.device_kind}"


def git(*arguments: str) -> str | None:
    """The output of a git command in the checkout, or None outside one."""
    if not (PACKAGE.parent / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(PACKAGE.parent), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def versions() -> dict[str, str]:
    """Python and the packages that matter for numbers; "absent" where one is missing."""
    found = {"python": platform.python_version()}
    return found | {name: _version(name) for name in RECORDED}


@functools.cache
def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"


def dtype() -> str:
    """The floating dtype arrays get now: "float64" or "float32"."""
    import jax.numpy as jnp

    return jnp.zeros(()).dtype.name


def provenance(precision: str | None = None) -> dict[str, Any]:
    """Plain values: commit, whether the tree differed from it, versions, device, dtype, precision
    of matrix products, time."""
    import jax

    from .. import __version__
    from ..numerics import Numerics

    devices = jax.devices()
    status = git("status", "--porcelain")
    return {
        "ntk_momentum": __version__,
        "git_commit": git("rev-parse", "HEAD") or "unknown",
        "git_dirty": "unknown" if status is None else "yes" if status else "no",
        "versions": versions(),
        "device": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
        "host": f"{platform.system()} {platform.machine()}",
        "dtype": dtype(),
        "precision": precision or Numerics().precision,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }

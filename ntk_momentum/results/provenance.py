"""Where a number comes from: code, versions, device, precision. Saved with every result."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1]
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
# Rooms that no number depends on: the way results are kept and shown.
SURFACE = ("cli", "study", "results", "experiments", "files.py", "progress.py", "__main__.py")
# Rooms that no simulation depends on either.
JUDGEMENT = ("judge", "ledger", "theory")


def source_digest(*parts: str, without: tuple[str, ...] = ()) -> str:
    """A hash of the package's sources that decide numbers, or of the named files and folders in
    it."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        if relative.parts[0] in parts if parts else relative.parts[0] not in SURFACE + without:
            digest.update(f"{relative.as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


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
    for name in RECORDED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


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

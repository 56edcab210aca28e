"""Compiled programs kept on disk between commands: JAX's persistent compilation cache, in the
user's cache folder, bounded.

JAX bounds it only where the package filelock is installed, so the bound is kept here: when a
command starts, what was used longest ago goes, until the folder is below `LARGEST`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import sys
import warnings
from pathlib import Path
from typing import Any

from ..memory import gib

VARIABLE = "NTK_MOMENTUM_CACHE"
"""A folder to use instead, or "off"."""
LARGEST = 2**30
"""Bytes kept from one command to the next. All experiments and claims leave some 200 MB; chosen,
not measured."""
SHORTEST = 0.02
"""Seconds of compiling from which on a program is kept: reading one back takes some 10 ms."""


def user_folder() -> Path:
    """Where the platform keeps what can be made again: XDG_CACHE_HOME or ~/.cache, ~/Library/Caches
    on macOS, LOCALAPPDATA on Windows."""
    home = Path.home()
    base = {
        "darwin": home / "Library" / "Caches",
        "win32": Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local"),
    }.get(sys.platform, home / ".cache")
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(xdg) if os.path.isabs(xdg) else base) / "ntk_momentum"


def programs_folder() -> Path | None:
    """The folder of compiled programs; None where it is switched off, or another one is chosen by
    JAX's own variable."""
    said = os.environ.get(VARIABLE, "")
    if said.lower() in ("off", "0", "no", "none") or os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return None
    return (Path(said) if said else user_folder()) / "programs"


def use(jax: Any) -> None:
    """Keep compiled programs, where there is a folder that can be written.

    A subfolder for each kind of processor: home folders are shared between machines, and a program
    compiled for one may not run on another.
    """
    root = programs_folder()
    if root is None or jax.config.jax_compilation_cache_dir is not None:
        return
    place = root / _machine()
    try:
        place.mkdir(parents=True, exist_ok=True)
        trim(root, LARGEST)
    except OSError:
        return
    if os.access(place, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(place))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST)
        # Where another process is writing a program, this one compiles its own.
        warnings.filterwarnings(
            "ignore", "Error (reading|writing) persistent compilation cache entry", UserWarning
        )


def told() -> str:
    """Where compiled programs are kept, and how much of it there is."""
    root = programs_folder()
    if root is None:
        return os.environ.get("JAX_COMPILATION_CACHE_DIR") or "programs are not kept"
    return f"programs in {root}, {gib(trim(root, LARGEST))} of at most {gib(LARGEST)}"


def trim(root: Path, largest: int) -> int:
    """Remove the programs used longest ago until the others take at most so many bytes; how many
    bytes are left."""
    kept = []
    for path in root.rglob("*-cache"):
        with contextlib.suppress(OSError):  # another process may remove it meanwhile
            found = path.stat()
            kept.append((max(found.st_atime, found.st_mtime), found.st_size, path))
    left = sum(size for _, size, _ in kept)
    for _, size, path in sorted(kept):
        if left <= largest:
            break
        with contextlib.suppress(OSError):
            path.unlink()
        left -= size
    return left


def _machine() -> str:
    """The kind of processor, by what the kernel says it can do."""
    said = platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        said += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()}-{hashlib.sha256(said.encode()).hexdigest()[:8]}"

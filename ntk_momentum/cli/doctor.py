"""`ntk-momentum doctor`: what this machine computes with."""

from __future__ import annotations

from . import cache
from .options import command
from .start import start


@command
class Doctor:
    """Say what this machine computes with: devices, versions, dtype, precision of matrix products,
    missing packages.

    Example: ntk-momentum doctor
    """

    def __call__(self, float32: bool) -> int:
        from ..results.provenance import provenance

        start(float32)

        record = provenance()
        versions = record.pop("versions")
        for name, value in {**record, **versions}.items():
            print(f"{name.replace('_', ' '):13} {value}")
        print(f"{'compiled':13} {cache.told()}")
        return 0

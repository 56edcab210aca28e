"""`ntk-momentum doctor`: what this machine computes with."""

from __future__ import annotations

from . import cache
from .options import Shared, command
from .start import start


@command
class Doctor:
    """Say what this machine computes with: devices, versions, dtype, precision of matrix products,
    missing packages.

    Example: ntk-momentum doctor
    """

    def __call__(self, shared: Shared) -> int:
        from ..results.provenance import provenance

        start(shared)

        told = provenance()
        record = {**told, **told.pop("versions"), "compiled": cache.told()}
        lines = [f"{name.replace('_', ' '):13} {value}" for name, value in record.items()]
        shared.show(record, "\n".join(lines))
        return 0

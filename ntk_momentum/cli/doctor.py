"""`ntk-momentum doctor`: what this machine computes with."""

from __future__ import annotations

from ..errors import require
from . import cache, double
from .options import Shared, command
from .start import start


@command
class Doctor:
    """Say what this machine computes with: devices, versions, dtype, precision of matrix products,
    what float64 costs, missing packages.

    Example: ntk-momentum doctor
    """

    def __call__(self, shared: Shared) -> int:
        from ..results.provenance import provenance

        start(shared)

        told = provenance()
        versions = told.pop("versions")
        cost = double.cost(require("jax", "this command"))
        record = {
            **told,
            **versions,
            "float64": f"{cost:.1f} times float32's time of a product",
            "compiled": cache.told(),
        }
        lines = [f"{name.replace('_', ' '):13} {value}" for name, value in record.items()]
        shared.show(record, "\n".join(lines))
        return 0

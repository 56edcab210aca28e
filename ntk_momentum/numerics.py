"""Precision, tolerance and limits in one visible object, saved with every result."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from .errors import check_positive, unknown_name

Precision = Literal["default", "high", "highest"]


@dataclasses.dataclass(frozen=True)
class Numerics:
    """How a run is computed.

    tol: local error allowed in one step, in function space and relative to the current residual
    (dimensionless). max_steps: steps allowed between two saved times. precision: of the matrix
    products (X W^T, read-out, H). On recent GPUs "default" means TF32 for float32 and on TPUs
    bfloat16; "highest" is the full precision of the dtype.
    """

    tol: Any = (
        1e-5  # an array inside a compiled solve, so that another tolerance needs no new compilation
    )
    max_steps: int = 100_000
    precision: Precision = "highest"

    def __post_init__(self):
        check_positive("tol", self.tol)
        check_positive("max_steps", self.max_steps)
        if self.precision not in ("default", "high", "highest"):
            raise unknown_name("precision", str(self.precision), ("default", "high", "highest"))

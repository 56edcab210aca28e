"""The rows of `scripts/gpu_check`, most important first, with the seconds that each may take."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from . import algebra, ceilings, checks, flows, loops, networks, products
from .measure import Bench, Parts


@dataclasses.dataclass(frozen=True)
class Row:
    """A name, what yields its parts, and the seconds it may take."""

    name: str
    parts: Callable[[Bench], Parts]
    seconds: float

    @property
    def title(self) -> str:
        """What it measures, in a line."""
        return (self.parts.__doc__ or "").splitlines()[0]


ROWS = [
    Row("ceilings", ceilings.ceilings, 40),
    Row("products", products.products, 45),
    Row("limit", checks.limit, 10),
    Row("closed_forms", checks.closed_forms, 20),
    Row("lazy", flows.lazy, 80),
    Row("few_samples", flows.few_samples, 40),
    Row("algebra", algebra.algebra, 40),
    Row("loops", loops.loops, 45),
    Row("together", flows.together, 30),
    Row("tsit5", flows.tsit5, 45),
    Row("spread", flows.spread, 20),
    Row("kernels", networks.kernels, 30),
    Row("operator", networks.operator, 30),
    Row("tests", checks.tests, 75),
    Row("headline", flows.headline, 400),
]
"""Together less than eight minutes but for the last, which takes what is left."""

"""What advice says, and how it is printed: methods with parameters, limits, rates and steps."""

from __future__ import annotations

import dataclasses
import math

from ..errors import unknown_name
from ..method import AbstractOptimizer
from ..theory import bounds


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """One method with its best parameters for a kernel.

    eta_limit: the step size at which this momentum turns unstable; rate: the factor of the slowest
    mode per step in the long run (nan where it changes from step to step); steps: predicted until
    the loss stays below the target, inf when more than max_steps; peak: the largest loss on the
    way, in units of the initial one, 1 where it never rises above; friction, time_step: of the flow
    it discretises (d/t for Nesterov's); period: steps between restarts.

    On mini-batches eta_limit is where the expected loss turns to grow for ever, steps those of the
    expected loss, epochs and examples what they draw, and critical_batch the smallest batch whose
    limit is within 10 % of the full batch's.
    """

    method: str
    optimizer: AbstractOptimizer
    eta: float
    eta_limit: float
    rate: float
    steps: float
    peak: float = 1.0
    beta: float | None = None
    d: float | None = None
    friction: float | None = None
    time_step: float | None = None
    period: int | None = None
    epochs: float | None = None
    examples: float | None = None
    critical_batch: int | None = None


@dataclasses.dataclass(frozen=True)
class Advice:
    """Recommendations by method, with the spectrum and the target (relative loss) they are for.
    Printed as a table. batch_size: None for the full batch."""

    lambda_min: float
    lambda_max: float
    target: float
    margin: float
    methods: dict[str, Recommendation]
    batch_size: int | None = None
    sampling: str = "without_replacement"

    def __getitem__(self, name: str) -> Recommendation:
        if name not in self.methods:
            raise unknown_name("method", name, self.methods)
        return self.methods[name]

    @property
    def safe_friction(self) -> float:
        """b = sqrt(lambda_min + (1 + margin) lambda_max): at it the heavy ball's flow decays under
        every motion of the kernel between the two, whatever its drift
        (`nm.theory.bounds.safe_friction`)."""
        return float(bounds.safe_friction(self.lambda_min, (1 + self.margin) * self.lambda_max))

    @property
    def safe_rate(self) -> float:
        """The exponent of L that is certain then: 2 lambda_min/`safe_friction`."""
        return float(bounds.safe_rate(self.lambda_min, (1 + self.margin) * self.lambda_max))

    @property
    def best(self) -> Recommendation:
        """The method with the fewest predicted steps; the first of those that tie."""
        return min(self.methods.values(), key=lambda r: (r.steps, r.rate))

    def __str__(self) -> str:
        head: tuple[str, ...] = (
            "method",
            "eta",
            "eta limit",
            "beta",
            "d",
            "friction b",
            "restart every",
            "rate",
            f"steps to {self.target:g} L(0)",
            "peak / L(0)",
        )
        body = [
            [
                r.method,
                *(_show(x) for x in (r.eta, r.eta_limit)),
                _show(r.beta, digits(r.beta)),
                _show(r.d),
                f"{r.d:.3g}/t" if r.d is not None and r.friction is None else _show(r.friction),
                _show(r.period),
                "" if math.isnan(r.rate) else f"{r.rate:.6f}",
                _show(r.steps),
                f"{r.peak:.4g}",
            ]
            for r in self.methods.values()
        ]
        if self.batch_size is not None:
            head += ("epochs", "examples", "critical batch")
            for row, r in zip(body, self.methods.values(), strict=True):
                row += [_show(x) for x in (r.epochs, r.examples, r.critical_batch)]
        widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (head, *body)
        ]
        kappa = self.lambda_max / self.lambda_min
        first = (
            f"lambda_min = {self.lambda_min:.4g}, lambda_max = {self.lambda_max:.4g}, "
            f"kappa = {kappa:.4g}, margin {self.margin:g}"
        )
        if self.batch_size is not None:
            first += f", batches of {self.batch_size} drawn {self.sampling.replace('_', ' ')}"
        safe = (
            f"heavy ball that decays however the kernel moves between lambda_min and (1 + margin) "
            f"lambda_max: friction b = {self.safe_friction:.4g}, L at least like "
            f"e^(-{self.safe_rate:.3g} t)"
        )
        return "\n".join([first, *lines, safe])


def digits(beta: float | None) -> int:
    """Digits that tell a momentum from 1: two of 1 - beta, four at least."""
    return max(4, 1 - math.floor(math.log10(1 - beta))) if beta is not None and beta < 1 else 4


def _show(value: float | int | None, figures: int = 4) -> str:
    return (
        ""
        if value is None
        else str(int(value))
        if value == int(min(value, 2**53))
        else f"{value:.{figures}g}"
    )

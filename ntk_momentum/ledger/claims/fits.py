"""Reading measurements: slopes with their intervals, growth as lambda0 -> 0, the times at which a
hypothesis has held, the width at which an event becomes rare."""

from __future__ import annotations

from typing import Any

import numpy as np

APART = 0.25
"""Powers of m in this subject are multiples of 1/4: another theory's slope is this far at least."""


def slope(x: Any, y: Any) -> tuple[float, float]:
    """(slope, half width of its 95% interval) of log y against log x, by least squares."""
    import scipy.stats

    fit = scipy.stats.linregress(np.log(x), np.log(y))
    half = scipy.stats.t.ppf(0.975, max(len(x) - 2, 1)) * fit.stderr if len(x) > 2 else 0.0
    return float(fit.slope), float(half)


def agrees(measured: tuple[float, float], expected: float) -> bool:
    """Whether the 95% interval of a slope excludes every power of m but the expected one: it lies
    within `APART` of it."""
    return abs(measured[0] - expected) + measured[1] < APART


def growth(needed: dict[str, float]) -> float:
    """p in needed ~ lambda^{-p}, from the constant needed at each lambda (its name): one constant
    serves lambda -> 0 iff p <= 0."""
    return -slope([float(name) for name in needed], list(needed.values()))[0]


def while_bounded(run: Any, floor: float) -> slice:
    """The saved times of a run up to which lambda_min(H) >= floor has held: where a statement with
    that hypothesis speaks."""
    low = np.flatnonzero(np.asarray(run.lambda_min) < floor)
    return slice(0, int(low[0]) if low.size else None)


def brackets(failures: dict[str, int], trials: int, delta: float) -> bool:
    """Whether the exact 95% intervals of the failure probability lie above delta at "half" of a
    width and below it at "twice" the width: it is right to a factor 2."""
    import scipy.stats

    half, twice = (
        scipy.stats.binomtest(int(failures[name]), trials).proportion_ci(method="exact")
        for name in ("half", "twice")
    )
    return bool(half.low > delta > twice.high)

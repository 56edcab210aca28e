"""Reading measurements: slopes with their intervals, growth as lambda0 -> 0, the times at which a
hypothesis has held."""

from __future__ import annotations

from typing import Any

import numpy as np


def slope(x: Any, y: Any) -> tuple[float, float]:
    """(slope, half width of its 95% interval) of log y against log x, by least squares."""
    import scipy.stats

    fit = scipy.stats.linregress(np.log(x), np.log(y))
    half = scipy.stats.t.ppf(0.975, max(len(x) - 2, 1)) * fit.stderr if len(x) > 2 else 0.0
    return float(fit.slope), float(half)


def agrees(measured: tuple[float, float], expected: float) -> bool:
    """Whether a slope with its half width is compatible with the expected one, up to 0.15 for
    finite widths."""
    return abs(measured[0] - expected) <= 0.15 + measured[1]


def growth(needed: dict[str, float]) -> float:
    """p in needed ~ lambda^{-p}, from the constant needed at each lambda (its name): one constant
    serves lambda -> 0 iff p <= 0."""
    return -slope([float(name) for name in needed], list(needed.values()))[0]


def while_bounded(run: Any, floor: float) -> slice:
    """The saved times of a run up to which lambda_min(H) >= floor has held: where a statement with
    that hypothesis speaks."""
    low = np.flatnonzero(np.asarray(run.lambda_min) < floor)
    return slice(0, int(low[0]) if low.size else None)

"""The outcome of a simulation or a training run: read-outs at the saved times, and the solver's
verdict beside them."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Int

from ..errors import InputError, require, unknown_name


class Trajectory(eqx.Module):
    """Read-outs along a run, as attributes (`trajectory.loss`) or items (`trajectory["loss"]`).

    What `simulate` and `train` make of (2.1) to (4.2). After a failure read-outs are NaN, never a
    smooth-looking line. Flips are counts in floating point, for that reason.

    Args:
        ts: Saved times, (T,), or step counts of a discrete run.
        readouts: Name -> array, with time first.
        model: The model at the last time; None where there is none.
        verdict: 0 for success, see `reason`.
        accepted: Steps of the solver that counted.
        rejected: Steps that were tried again, shorter.
        errors: Numerical error bars of the read-outs, where the run was refined.
        state: Where training has come to, for `train(..., state=)`; None of a simulation.

    Raises:
        TypeError: If a field is left out; it is made by a run.

    Examples:
        >>> run = nm.simulate_error(np.diag([1.0, 2.0]), [1.0, 1.0], nm.GradientFlow(), [0.0, 1.0])
        >>> run.ok, run.reason, run["loss"].round(3).tolist()
        (True, 'success', [1.0, 0.077])
    """

    ts: Float[Array, " times"]
    readouts: dict[str, Array]
    model: Any
    verdict: Int[Array, ""]
    accepted: Int[Array, ""]
    rejected: Int[Array, ""]
    errors: dict[str, Array] | None = None
    state: Any = None

    def __getattr__(self, name: str) -> Array:
        readouts = self.__dict__.get("readouts", {})
        if name in readouts:
            return readouts[name]
        known = ", ".join(readouts)
        raise AttributeError(
            f"this trajectory has no read-out {name!r}; it has: {known}. Ask for more "
            "with readouts=."
        )

    def __getitem__(self, name: str) -> Array:
        if name not in self.readouts:
            raise unknown_name("read-out", name, self.readouts)
        return self.readouts[name]

    @property
    def ok(self) -> bool:
        """Whether the whole run succeeded."""
        return int(self.verdict) == 0

    @property
    def reason(self) -> str:
        """The verdict in words."""
        from .solver import REASONS

        return REASONS[int(self.verdict)]

    def to_xarray(self) -> Any:
        """An xarray.Dataset with the dimension `time` and one variable per read-out."""
        if np.ndim(self.verdict):
            raise InputError(
                "to_xarray is for a single run; a batch of runs comes from "
                "nm.ensemble(...).to_xarray()."
            )
        xarray = require("xarray", "to_xarray")
        variables = {
            name: label(name, np.asarray(value), ("time",)) for name, value in self.readouts.items()
        }
        for name, value in (self.errors or {}).items():
            variables[f"{name}_error"] = label(name, np.asarray(value), ("time",))
        attrs = {
            "verdict": self.reason,
            "accepted": int(self.accepted),
            "rejected": int(self.rejected),
        }
        return xarray.Dataset(variables, coords={"time": np.asarray(self.ts)}, attrs=attrs)


def label(
    name: str, value: np.ndarray, leading: tuple[str, ...]
) -> tuple[tuple[str, ...], np.ndarray]:
    """Dimension names: the leading ones, then `sample` and `output` for read-outs per sample, else
    numbered ones."""
    rest = value.ndim - len(leading)
    per_sample = name in ("f", "residual", "velocity") and rest <= 2
    names = ("sample", "output")[:rest] if per_sample else tuple(f"{name}_{i}" for i in range(rest))
    return (*leading, *names), value

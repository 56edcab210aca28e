"""A sweep over flows, widths and seeds on one data set, from plain values to one stored, labelled data set."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, check_positive, unknown_name
from . import store
from .provenance import dtype, provenance

if TYPE_CHECKING:
    from ..data import Dataset
    from ..method import AbstractFlow

FLOWS = ("gradient_flow", "heavy_ball", "nesterov")


@dataclasses.dataclass(frozen=True)
class Grid:
    """What is swept. Times: to `t_end`, or by default to 5/lambda_0 (gradient flow) and 10/sqrt(lambda_0) (momentum).

    data: "digits", "sphere", an .npz file with arrays X and y, or a folder with MNIST's IDX files.
    """

    data: str
    n: int
    p: int
    data_seed: int
    flows: tuple[str, ...]
    widths: tuple[int, ...]
    seeds: int
    antisymmetric: bool
    t_end: float | None
    times: int

    def __post_init__(self):
        for name in ("n", "p", "seeds"):
            check_positive(name, getattr(self, name))
        if self.t_end is not None:
            check_positive("t_end", self.t_end)
        if self.times < 2:
            raise InputError(f"times must be at least 2, got {self.times}.")
        check_positive("widths", self.widths)
        if not self.flows or not self.widths:
            raise InputError("a sweep needs at least one flow and one width, e.g. --flows gradient_flow --widths 256.")
        odd = [width for width in self.widths if width % 2]
        if self.antisymmetric and odd:
            raise InputError(f"antisymmetric networks come in pairs of neurons, so widths must be even, got {odd}.")
        for text in self.flows:
            parse_flow(text)


def parse_flow(text: str) -> tuple[str, float | None]:
    """"heavy_ball:0.25" -> ("heavy_ball", 0.25); the number may be left out (b = sqrt(2 lambda_0); d = 3)."""
    name, colon, number = text.partition(":")
    if name not in FLOWS:
        raise unknown_name("flow", name, FLOWS)
    if not colon:
        return name, None
    if name == "gradient_flow":
        raise InputError(f"the gradient flow has no parameter, got {text!r}; write gradient_flow.")
    try:
        value = float(number)
    except ValueError:
        raise InputError(f"{text!r} is no flow: after the colon comes a number, e.g. heavy_ball:0.25 or nesterov:3.") from None
    meaning = "the friction b" if name == "heavy_ball" else "the Nesterov constant d"
    if not math.isfinite(value) or value < 0 or (value == 0 and name == "nesterov"):
        raise InputError(f"{meaning} must be finite and {'>= 0' if name == 'heavy_ball' else '> 0'}, got {number} in {text!r}.")
    return name, value


def build_flow(text: str, lambda0: float) -> AbstractFlow:
    """The flow of a command line; the heavy ball's friction defaults to the paper's sqrt(2 lambda_0)."""
    from ..method import GradientFlow, HeavyBall, Nesterov

    name, value = parse_flow(text)
    if name == "gradient_flow":
        return GradientFlow()
    if name == "heavy_ball":
        return HeavyBall(math.sqrt(2 * lambda0) if value is None else value)
    return Nesterov(3.0 if value is None else value)


def load(grid: Grid) -> Dataset:
    """The data set a grid names."""
    import jax

    from ..data import load_digits, load_mnist, load_npz, sphere

    key = jax.random.key(grid.data_seed)
    if grid.data == "digits":
        return load_digits(grid.n, key=key)
    if grid.data == "sphere":
        return sphere(grid.n, grid.p, key=key)
    path = Path(grid.data)
    if path.is_dir():
        return load_mnist(path, grid.n, key=key)
    if not path.exists() and not path.suffix:
        raise InputError(f"unknown data {grid.data!r}; give digits, sphere, an .npz file or a folder with MNIST's IDX files.")
    return load_npz(path)


def run(grid: Grid, out: Path, progress: Any = None) -> tuple[Path, Any, bool]:
    """(file, data set, whether it was computed now). A finished sweep is read, not run again."""
    import numpy as np

    from ..ensembles import ensemble
    from ..kernel import infinite_ntk

    data = load(grid)
    digest = hashlib.sha256(np.asarray(data.X).tobytes() + np.asarray(data.y).tobytes()).hexdigest()
    identity = {"grid": grid, "data": digest, "dtype": dtype()}
    path = out / "data" / f"sweep-{store.fingerprint(identity)}.nc"
    if path.exists():
        return path, store.read(path), False
    lambda0 = float(np.linalg.eigvalsh(np.asarray(infinite_ntk(data.X.reshape(data.n, -1)), np.float64))[0])
    if lambda0 <= 0:
        raise InputError(f"the kernel of this data is singular (lambda_0 = {lambda0:.2e}); drop near-duplicate inputs or use float64.")
    flows = [build_flow(text, lambda0) for text in grid.flows]
    ends = [grid.t_end or (5 / lambda0 if text.startswith("gradient_flow") else 10 / math.sqrt(lambda0)) for text in grid.flows]
    ts = np.stack([np.linspace(0.0, end, grid.times) for end in ends])
    start = time.perf_counter()
    runs = ensemble(data, flows, grid.widths, grid.seeds, ts, antisymmetric=grid.antisymmetric, progress=progress)
    record = {
        "experiment": "sweep",
        "config": store.canonical(grid),
        "data": data.name,
        "lambda0": lambda0,
        "failures": "; ".join(runs.failures()),
        **provenance(),
        "seconds": round(time.perf_counter() - start, 3),
    }
    return path, store.write(path, runs.to_xarray(), record), True

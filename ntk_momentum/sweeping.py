"""The options of the command `sweep`, in plain values; help is made from them without importing jax."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from .numerics import Precision
from .options import command


@command
class Sweep:
    """Simulate flows x widths x seeds on one or more data sets, and store the read-outs, one file for each unit of work.

    Hyperparameters are swept by naming a flow several times with different numbers. The same command goes on where it was stopped or
    killed, computes what is missing and nothing else, and ends with the same bits; started twice at once, the two share
    the work. A larger sweep in the same folder reuses what a smaller one left there. Runs that fail are listed with the
    solver's reason and leave NaN; the others are kept.

    Your own model instead of the two-layer network: --model FILE.py:FUNCTION. Units are found again while that file stays as it is; what it
    imports is not looked at. lambda_0 is then that of the model's own kernel, at the first width and seed 0.

    Read the results with `ntk-momentum table`, `plot` and `export`, or in Python with nm.open_results(folder).

    Several hosts: start this once on each, with --distributed under SLURM (srun), or else with --coordinator, --num-processes
    and --process-id. Units are divided among the processes; the folder should be one that all of them see.

    Example: ntk-momentum sweep --data sphere --n 20 --flows gradient_flow heavy_ball:0.25 heavy_ball:0.5 --widths 256 1024 --out mine
    """

    data: tuple[str, ...] = ("digits",)
    """One or more of: digits (scikit-learn), sphere (random), an .npz file with arrays X and y, a folder with MNIST's IDX files."""
    n: int = 50
    """Number of samples drawn (not for an .npz file, which is taken whole)."""
    p: int = 20
    """Input size of sphere."""
    data_seed: int = 0
    """Seed of that draw."""
    flows: tuple[str, ...] = ("gradient_flow", "heavy_ball", "nesterov:3")
    """gradient_flow, heavy_ball:B (friction B; without a number sqrt(2 lambda_0)), nesterov:D (without a number D = 3)."""
    widths: tuple[int, ...] = (256, 1024)
    """Hidden neurons, one ensemble of seeds for each."""
    model: str | None = None
    """FILE.py:FUNCTION, a function of (width, key) that returns an Equinox model (default: a two-layer ReLU network)."""
    seeds: int = 4
    """Networks drawn per width, from seeds 0, 1, ..."""
    antisymmetric: bool = False
    """Start from networks with output zero."""
    t_end: float | None = None
    """Final time of every flow (default: 5/lambda_0 for gradient flow, 10/sqrt(lambda_0) with momentum)."""
    times: int = 101
    """Saved times, equally spaced from 0."""
    unit_runs: int = 64
    """Runs in one unit of work, at most: what a crash can cost."""
    readouts: tuple[str, ...] = ()
    """What is read off, by name, e.g. loss f lambda_min (default: all that suit a two-layer network; eigenvalues of large n are dear)."""
    tol: float = 1e-5
    """Local error allowed in one step of the solver, relative to the residual."""
    precision: Precision = "highest"
    """Of matrix products; on a GPU "default" means TF32 for float32, on a TPU bfloat16."""
    strategy: Literal["map", "vmap"] | None = None
    """How runs share a device: one after another or in lock-step (default: what is faster on this kind of device, measured once)."""
    layout: Literal["runs", "neurons"] | None = None
    """What is spread over several devices (default: runs, and neurons where one run does not fit)."""
    float64: bool = False
    """On a GPU or TPU: compute in float64, and not in float32 as is the default there."""
    out: Path = Path("results")
    """Results folder."""
    distributed: bool = False
    """This is one of several processes, and the scheduler (SLURM, Open MPI, a TPU pod) says which."""
    coordinator: str | None = None
    """HOST:PORT of process 0, where there is no such scheduler."""
    num_processes: int | None = None
    """How many processes there are, with --coordinator."""
    process_id: int | None = None
    """Which of them this is, from 0, with --coordinator."""

    def __call__(self, float32: bool) -> int:
        from .reproduce import sweep
        from .results.sweep import Grid

        grid = Grid(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Grid)})
        job = (self.coordinator, self.num_processes, self.process_id)
        several = self.distributed or any(part is not None for part in job)
        return sweep(grid, self.out, float32, self.float64, job if several else None)

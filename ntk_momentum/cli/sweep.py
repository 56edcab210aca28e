"""`ntk-momentum sweep`: flows x widths x seeds on data sets, one stored file for each unit of
work."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .. import files
from ..errors import InputError, require
from ..numerics import Precision
from .options import command
from .start import start

if TYPE_CHECKING:
    from ..results.sweep import Grid


@command
class Sweep:
    """Simulate flows x widths x seeds on one or more data sets, and store the read-outs, one file
    for each unit of work.

    Hyperparameters are swept by naming a flow several times with different numbers. The same
    command goes on where it was stopped or killed, computes what is missing and nothing else, and
    ends with the same bits; started twice at once, the two share the work. A larger sweep in the
    same folder reuses what a smaller one left there. Runs that fail are listed with the solver's
    reason and leave NaN; the others are kept.

    Your own model instead of the two-layer network: --model FILE.py:FUNCTION. Units are found again
    while that file stays as it is; what it imports is not looked at. lambda_0 is then that of the
    model's own kernel, at the first width and seed 0.

    Read the results with `ntk-momentum table`, `plot` and `export`, or in Python with
    nm.open_results(folder).

    Several hosts: start this once on each, with --distributed under SLURM (srun), or else with
    --coordinator, --num-processes and --process-id. Units are divided among the processes; the
    folder should be one that all of them see.

    Example: ntk-momentum sweep --data sphere --n 20 --flows gradient_flow heavy_ball:0.25
    heavy_ball:0.5 --widths 256 1024 --out mine
    """

    data: tuple[str, ...] = ("digits",)
    """One or more of: digits (scikit-learn), sphere (random), an .npz file with arrays X and y, a
    folder with MNIST's IDX files."""
    n: int = 50
    """Number of samples drawn (not for an .npz file, which is taken whole)."""
    p: int = 20
    """Input size of sphere."""
    data_seed: int = 0
    """Seed of that draw."""
    flows: tuple[str, ...] = ("gradient_flow", "heavy_ball", "nesterov:3")
    """gradient_flow, heavy_ball:B (friction B; without a number sqrt(2 lambda_0)), nesterov:D
    (without a number D = 3)."""
    widths: tuple[int, ...] = (256, 1024)
    """Hidden neurons, one ensemble of seeds for each."""
    model: str | None = None
    """FILE.py:FUNCTION, a function of (width, key) that returns an Equinox model (default: a
    two-layer ReLU network)."""
    seeds: int = 4
    """Networks drawn per width, from seeds 0, 1, ..."""
    antisymmetric: bool = False
    """Start from networks with output zero."""
    t_end: float | None = None
    """Final time of every flow (default: 5/lambda_0 for gradient flow, 10/sqrt(lambda_0) with
    momentum)."""
    times: int = 101
    """Saved times, equally spaced from 0."""
    unit_runs: int = 64
    """Runs in one unit of work, at most: what a crash can cost."""
    readouts: tuple[str, ...] = ()
    """What is read off, by name, e.g. loss f lambda_min (default: all that suit a two-layer
    network; eigenvalues of large n are dear)."""
    tol: float = 1e-5
    """Local error allowed in one step of the solver, relative to the residual."""
    precision: Precision = "highest"
    """Of matrix products; on a GPU "default" means TF32 for float32, on a TPU bfloat16."""
    strategy: Literal["map", "vmap"] | None = None
    """How runs share a device: one after another or in lock-step (default: what is faster on this
    kind of device, measured once)."""
    layout: Literal["runs", "neurons"] | None = None
    """What is spread over several devices (default: runs, and neurons where one run does not
    fit)."""
    float64: bool = False
    """On a GPU or TPU: compute in float64, and not in float32 as is the default there."""
    out: Path = Path("results")
    """Results folder."""
    distributed: bool = False
    """This is one of several processes, and the scheduler (SLURM, Open MPI, a TPU pod) says
    which."""
    coordinator: str | None = None
    """HOST:PORT of process 0, where there is no such scheduler."""
    num_processes: int | None = None
    """How many processes there are, with --coordinator."""
    process_id: int | None = None
    """Which of them this is, from 0, with --coordinator."""

    def __call__(self, float32: bool) -> int:
        from ..results.sweep import Grid

        grid = Grid(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Grid)})
        job = (self.coordinator, self.num_processes, self.process_id)
        several = self.distributed or any(part is not None for part in job)
        return run_sweep(grid, self.out, float32, self.float64, job if several else None)


def run_sweep(
    grid: Grid,
    out: Path,
    float32: bool,
    float64: bool,
    job: tuple[str | None, int | None, int | None] | None = None,
) -> int:
    """The sweep's units, stored one by one; exit code 1 when a run failed or a unit could not be
    done.

    float64: also on an accelerator, where float32 is the default. job: (coordinator, number of
    processes, this one's number) of a job of several processes that divides the units.
    """
    from ..results import sweep as sweeps

    for package in ("xarray", "h5netcdf", "h5py"):
        require(package, "storing results")
    files.check_folder(out)
    process = (0, 1)
    if float32 and float64:
        raise InputError("--float32 and --float64 exclude each other.")
    if job is not None:
        from ..ensembles.devices import initialize

        process = initialize(*job)
    start(float32)
    jax = require("jax", "this command")
    if jax.default_backend() != "cpu" and not float64:
        jax.config.update("jax_enable_x64", False)
    begin = time.perf_counter()
    swept = sweeps.carry_out(grid, out, process)
    for line in swept.failures:
        print(f"failed run: {line}", file=sys.stderr)
    for title, reason in swept.done.broken.items():
        print(f"failed unit: {title}: {reason}", file=sys.stderr)
    if swept.missing:
        print(
            f"{swept.missing} units are not in {out}: their processes failed, or store elsewhere",
            file=sys.stderr,
        )
    if process[0] == 0:
        counts = {
            "computed": len(swept.done.computed),
            "kept": len(swept.done.kept),
            "by other processes": len(swept.done.elsewhere),
        }
        if process[1] > 1:
            counts = {
                f"by process 0 of {process[1]}": len(swept.done.computed) + len(swept.done.kept)
            }
        told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        failed = f"{len(swept.failures)} failed" if swept.failures else "none failed"
        print(
            f"{out}: {swept.units} units ({told or 'none done'}), {swept.runs} runs, "
            f"{failed} ({time.perf_counter() - begin:.1f} s)"
        )
    return int(not swept.ok)

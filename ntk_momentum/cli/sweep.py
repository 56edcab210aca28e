"""`ntk-momentum sweep`: flows, or optimizers, x widths x seeds on data sets, one stored file for
each unit of work."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from .. import files
from ..errors import InputError, require
from ..memory import gib
from ..progress import LOG
from ..results.grid import Sweep
from . import double
from .options import Shared, as_json, command
from .start import set_flags, start


@command
class SweepCommand(Sweep):
    """Simulate flows x widths x seeds on one or more data sets, and store the read-outs, one file
    for each unit of work; or, with --optimizers, train: optimizers x batch sizes x widths x seeds.

    Hyperparameters are swept by lists and ranges, e.g. heavy_ball:b=0.1..0.5+0.1. --dry-run says
    what a sweep will take before it starts. The same command goes on where it was stopped or
    killed, computes what is missing and nothing else, and ends with the same bits; started twice at
    once, the two share the work. A larger sweep in the same folder reuses what a smaller one left
    there. Runs that fail are listed with the solver's reason and leave NaN; the others are kept.

    Your own model instead of the two-layer network: --model FILE.py:FUNCTION. Units are found again
    while that function, and what it uses of its file, stay as they are, comments apart; what the
    file imports is not looked at. lambda_0 is then that of the
    model's own kernel, at the first width and seed 0.

    Read the results with `ntk-momentum table`, `plot` and `export`, or in Python with
    nm.open_results(folder).

    Several hosts: start this once on each, with --distributed under SLURM (srun), or else with
    --coordinator, --num-processes and --process-id. Units are shared among the processes; the
    folder should be one that all of them see.

    Example: ntk-momentum sweep --data sphere --n 20 --flows gradient_flow heavy_ball:b=0.25,0.5
    nesterov:d=2..4 --widths 256..1024x2 --out mine

    ntk-momentum sweep --data sphere --n 64 --optimizers heavy_ball:eta=0.01,beta=0,0.9
    --batch-sizes 1 4 16 full --steps 2000 --save-every 20 --out mine
    """

    float64: bool = False
    """On a GPU or TPU: compute in float64 where it is dear too, and float32 the default (`doctor`
    says what it costs)."""
    out: Path = Path("results")
    dry_run: bool = False
    """Say how many units and runs there are, how much memory they need and about how long they
    take; compute and write nothing."""
    distributed: bool = False
    """This is one of several processes, and the scheduler (SLURM, Open MPI, a TPU pod) says
    which."""
    coordinator: str | None = None
    """HOST:PORT of process 0, where there is no such scheduler."""
    num_processes: int | None = None
    """How many processes there are, with --coordinator."""
    process_id: int | None = None
    """Which of them this is, from 0, with --coordinator."""

    def __post_init__(self) -> None:
        """Checked when it is carried out, so that what is wrong is said in one line."""

    def __call__(self, shared: Shared) -> int:
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(Sweep)}
        sweep = Sweep(**options)
        if shared.float32 and self.float64:
            raise InputError("--float32 and --float64 exclude each other; leave one out.")
        job = (self.coordinator, self.num_processes, self.process_id)
        several = self.distributed or any(part is not None for part in job)
        if self.dry_run:
            choose_dtype(shared, self.float64)
            return print_forecast(sweep, self.out, shared)
        return run_sweep(sweep, self.out, shared, self.float64, job if several else None)


def choose_dtype(shared: Shared, float64: bool) -> None:
    """Choose the dtype: float64 on an accelerator only where it is asked for or for free."""
    start(shared)
    jax = require("jax", "this command")
    jax.config.update("jax_enable_x64", not shared.float32 and (float64 or double.free(jax)))


def print_forecast(sweep: Sweep, out: Path, shared: Shared) -> int:
    """What a sweep would do and take."""
    from ..results.sweep import forecast

    told = forecast(sweep, out)
    missing = told.units - told.kept
    lines = [
        f"{out}: units: {told.units} ({told.kept} there already), runs: {told.runs}",
        f"memory: {gib(told.bytes)} for the largest unit, of {told.unit_runs} runs, on a device",
        f"time: about {told.seconds:.3g} s for the {missing} units that are missing, "
        f"{told.seconds / max(missing, 1):.3g} s each, from short runs of the narrowest network, "
        "scaled with time and width, and compiling",
        "nothing was written",
    ]
    shared.show({"out": out, **as_json(told)}, "\n".join(lines))
    return 0


def run_sweep(
    sweep: Sweep,
    out: Path,
    shared: Shared,
    float64: bool,
    job: tuple[str | None, int | None, int | None] | None = None,
) -> int:
    """The sweep's units, stored one by one; exit code 1 when a run failed or a unit could not be
    done.

    float64: also on an accelerator where it is dear. job: (coordinator, number of
    processes, this one's number) of a job of several processes that shares the units.
    """
    from ..results.sweep import carry_out

    for package in ("xarray", "h5netcdf", "h5py"):
        require(package, "storing results")
    files.check_folder(out)
    process = (0, 1)
    if job is not None:
        from ..ensembles.devices import initialize

        set_flags()  # joining asks for the devices
        process = initialize(*job)
    choose_dtype(shared, float64)
    started = time.perf_counter()
    swept = carry_out(sweep, out, process)
    for line in swept.failures:
        LOG.warning("failed run: %s", line)
    for title, reason in swept.done.broken.items():
        LOG.error("failed unit: %s: %s", title, reason)
    if swept.missing:
        words = "%s units are not in %s: their processes failed, or store elsewhere"
        LOG.warning(words, swept.missing, out)
    if process[0] == 0:
        counts = {
            "computed": len(swept.done.computed),
            "kept": len(swept.done.kept),
            "by other processes": len(swept.done.elsewhere),
        }
        told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        failed = f"{len(swept.failures)} failed" if swept.failures else "none failed"
        seconds = time.perf_counter() - started
        shared.show(
            {"out": out, "seconds": seconds, **as_json(swept)},
            f"{out}: {swept.units} units ({told or 'none done'}), {swept.runs} runs, "
            f"{failed} ({seconds:.1f} s)",
        )
    return int(not swept.ok)

"""The command line: plain configurations, which help is made from without importing jax, and what each command does.

Exit codes: 0, everything asked for was done; 1, some work failed (an experiment, a run, a refuted claim); 2, bad input or
a missing package; 130, interrupted.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

from .errors import InputError, MissingPackage, unknown_name
from .options import check, command
from .study.registry import Size
from .sweeping import Sweep


@command
class Reproduce:
    """Run every experiment, draw its figure, run the claims ledger, and write one report.

    Leaves report.html, claims.json, figures/ and data/ in the results folder; what is finished there is not done again.

    Example: ntk-momentum reproduce --size smoke --out results
    """

    size: Size = "default"
    """smoke: a minute, to see that it works. default: minutes, the figures of the report. full: as large as the paper's."""
    out: Path = Path("results")
    """Results folder."""
    only: tuple[str, ...] = ()
    """Names of experiments (see `ntk-momentum list`), or "claims" for the ledger. Without it: everything, but below full size
    not the longer experiments (ORDER 100 and more, e.g. published_nesterov_epochs), which run when they are named."""

    def __call__(self, float32: bool) -> int:
        from .reproduce import reproduce

        return reproduce(self.size, self.out, self.only, float32)


@command
class List:
    """Name the experiments and what each one claims, or the statements of the paper that `verify` runs.

    Example: ntk-momentum list --claims
    """

    claims: bool = False
    """The paper's statements: identifier, section, kind, and the function that runs each."""

    def __call__(self, float32: bool) -> int:
        from .study.registry import experiments, folder

        if self.claims:
            from .ledger.ledger import entries

            for entry in entries().values():
                where = f"{entry.run.__module__}.{entry.run.__qualname__}"
                print(f"{entry.id:23} section {entry.section:2} {entry.kind:12} {where}")
            return 0
        found = experiments()
        if not found:
            raise InputError(f"no experiments in {folder()}.")
        width = max(map(len, found))
        for experiment in found.values():
            print(f"{experiment.name:{width}}  {experiment.title}")
        return 0


@command
class Run:
    """Run one experiment and draw its figure.

    Example: ntk-momentum run concentration --size smoke
    """

    name: tyro.conf.Positional[str]
    """Name of the experiment (see `ntk-momentum list`)."""
    size: Size = "default"
    """smoke, default or full."""
    out: Path = Path("results")
    """Results folder."""

    def __call__(self, float32: bool) -> int:
        from .reproduce import run_one

        return run_one(self.name, self.size, self.out, float32)


@command
class Verify:
    """Run the claims ledger: every numbered statement of the paper, as printed, corrected and sharp.

    Exit code 1 when a corrected or sharp statement is refuted.

    Example: ntk-momentum verify --claims lemma-6 thm-2 --data mine.npz --json claims.json
    """

    json: Path | None = None
    """Write the full record to this file, and beside it the figures and a page (.html) that shows everything."""
    claims: tuple[str, ...] = ()
    """Identifiers of claims, e.g. eq-b.1 thm-3, or the paper's own "(B.1)" "Theorem 3" (default: all)."""
    size: Literal["smoke", "full"] = "smoke"
    """How many instances are tried."""
    data: str | None = None
    """Unit inputs and scalar targets for the claims about data and networks: as for `sweep` (default: digits and sphere)."""
    n: int = 50
    """Number of samples drawn (not for an .npz file, which is taken whole)."""

    def __call__(self, float32: bool) -> int:
        from .reproduce import verify
        from .results.sweep import Source

        if self.n < 1:
            raise InputError(f"--n must be at least 1, got {self.n}.")
        return verify(self.claims, self.size, self.json, float32, None if self.data is None else Source(self.data, self.n))


@command
class Table:
    """Print what a results folder holds.

    Experiments by their headlines; sweeps by data set, flow and width: how many runs and failures, the median of the solver's steps, and
    read-outs at the last time, as median over seeds with the range.

    Example: ntk-momentum table results --readouts loss lambda_min
    """

    folder: tyro.conf.Positional[Path]
    """Results folder, of `sweep`, `run` or `reproduce`."""
    readouts: tuple[str, ...] = ("loss",)
    """Read-outs of sweeps to show."""

    def __call__(self, float32: bool) -> int:
        from .results.reading import damaged
        from .study.summary import table

        print("\n".join(table(self.folder, self.readouts)))
        return 1 if damaged(self.folder) else 0


@command
class Plot:
    """Draw what a results folder holds.

    Experiments' figures again, and for every read-out asked for a figure of the sweeps: a panel for each flow and data set, a band over
    seeds for each width.

    Example: ntk-momentum plot results --readouts loss kernel_drift
    """

    folder: tyro.conf.Positional[Path]
    """Results folder, of `sweep`, `run` or `reproduce`."""
    readouts: tuple[str, ...] = ("loss",)
    """Read-outs of sweeps to draw, a figure each."""
    to: Path | None = None
    """File of one read-out's figure, .svg, .pdf or .png (default: FOLDER/figures/sweep-READOUT.svg, and the experiments' figures)."""

    def __call__(self, float32: bool) -> int:
        from .results.reading import damaged
        from .study.summary import plot

        if self.to is not None and len(self.readouts) > 1:
            raise InputError(f"--to names one file, but {len(self.readouts)} read-outs are asked for; leave out --to.")
        for path in plot(self.folder, self.readouts, self.to):
            print(path)
        return 1 if damaged(self.folder) else 0


@command
class Export:
    """Write the sweeps of a results folder in another format.

    One row for each run and saved time, with data set, flow, hyperparameters, width and seed; read-outs per sample become lists. Needs
    the package pyarrow.

    Example: ntk-momentum export results --to runs.parquet
    """

    folder: tyro.conf.Positional[Path]
    """Results folder of `sweep`."""
    format: Literal["parquet"] = "parquet"
    """parquet, which pandas, polars, DuckDB and Spark read."""
    to: Path | None = None
    """File to write (default: FOLDER/sweeps.parquet)."""

    def __call__(self, float32: bool) -> int:
        from .results.reading import damaged
        from .study.summary import export

        path = self.to or self.folder / f"sweeps.{self.format}"
        print(f"{path}: {export(self.folder, path)} rows")
        return 1 if damaged(self.folder) else 0


@command
class Doctor:
    """Say what this machine computes with: devices, versions, dtype, precision of matrix products, missing packages.

    Example: ntk-momentum doctor
    """

    def __call__(self, float32: bool) -> int:
        from .reproduce import start
        from .results.provenance import provenance

        start(float32)

        record = provenance()
        versions = record.pop("versions")
        for name, value in {**record, **versions}.items():
            print(f"{name.replace('_', ' '):13} {value}")
        return 0


@command
class Bench:
    """Time kernels, solvers or ensembles, as ratios against a named baseline.

    Example: ntk-momentum bench kernels --json kernels.json
    """

    name: tyro.conf.Positional[str]
    """dynamics (solvers, right sides), kernels (also predictions and extreme eigenvalues) or ensembles (against loops, on many devices)."""
    size: Size = "default"
    """smoke: seconds. default: minutes, 10 GB of memory for the kernels' rivals. full: an hour."""
    json: Path | None = None
    """Write the rows to this file."""

    def __call__(self, float32: bool) -> int:
        from .bench import bench

        return bench(self.name, self.size, float32, self.json)


@command
class Advise:
    """Recommend step size, momentum, d, friction and restart period for a kernel, with stability limits and predicted steps.

    Example: ntk-momentum advise --data sphere --n 10 --width 2048 --target 1e-3 --check
    """

    data: str = "digits"
    """digits (scikit-learn), sphere (random), an .npz file with arrays X and y, or a folder with MNIST's IDX files."""
    n: int = 50
    """Number of samples drawn (not for an .npz file, which is taken whole)."""
    p: int = 20
    """Input size of --data sphere."""
    seed: int = 0
    """Seed of that draw and of the network."""
    model: str | None = None
    """FILE.py:FUNCTION, where FUNCTION(key) returns an Equinox model of one input: advice from its own kernel."""
    width: int | None = None
    """Hidden neurons of a network whose own kernel is taken (default: the kernel at infinite width, and f(0) = 0)."""
    target: float = 1e-3
    """Share of the initial loss to reach."""
    margin: float = 0.1
    """How much the largest eigenvalue may grow before anything is unstable."""
    objective: Literal["steps", "rate"] = "steps"
    """steps: fewest steps to the target. rate: fastest decay in the long run, whatever the error."""
    check: bool = False
    """Train the model, or the network (of width 2048 without --width), with every recommendation; show predicted against actual steps."""

    def __call__(self, float32: bool) -> int:
        from .experiment.consult import advise
        from .reproduce import start

        start(float32)
        return advise(self)


@command
class Diagnose:
    """Train a model briefly and say how far it runs from its own kernel's prediction: is it lazy?

    What decides is the larger of two numbers, the gap of the predictions relative to their motion and the kernel's relative drift: lazy
    below 0.1, rich above 0.5.

    Example: ntk-momentum diagnose --data mine.npz --model mymodel.py:build --optimizer adam --eta 1e-3
    """

    data: str = "digits"
    """digits (scikit-learn), sphere (random), an .npz file with arrays X and y, or a folder with MNIST's IDX files."""
    n: int = 50
    """Number of samples drawn (not for an .npz file, which is taken whole)."""
    p: int = 20
    """Input size of --data sphere."""
    seed: int = 0
    """Seed of that draw and of the model."""
    model: str | None = None
    """FILE.py:FUNCTION, where FUNCTION(key) returns an Equinox model of one input (default: a ReLU MLP)."""
    width: int = 256
    """Width of that MLP."""
    depth: int = 2
    """Hidden layers of that MLP."""
    optimizer: Literal["gradient_descent", "heavy_ball", "nesterov", "adam"] = "gradient_descent"
    """What trains it, full batch. Momentum recommended for a constant kernel lies near its stability limit, which few networks bear."""
    eta: float | None = None
    """Step size (default: 1/lambda_max of the kernel for gradient_descent, recommended for momentum, 1e-3 for adam)."""
    beta: float | None = None
    """Momentum of heavy_ball (default: recommended, with --eta too)."""
    d: float | None = None
    """Constant of nesterov (default: recommended)."""
    loss: Literal["squared", "logistic", "softmax"] = "squared"
    """What is trained on. logistic takes targets +1 and -1, softmax one row of class probabilities for each sample."""
    steps: int = 100
    """Steps taken."""

    def __call__(self, float32: bool) -> int:
        from .experiment.consult import diagnose
        from .reproduce import start

        start(float32)
        return diagnose(self)


Command = Reproduce | List | Run | Verify | Sweep | Table | Plot | Export | Advise | Diagnose | Bench | Doctor
NAMES = ("reproduce", "list", "run", "verify", "sweep", "table", "plot", "export", "advise", "diagnose", "bench", "doctor")


@command
class Main:
    """Momentum dynamics of wide networks: kernels, flows, optimizers, and every statement of the paper, run.

    Each command has its own help, with an example.

    Example: ntk-momentum run three_flows
    """

    command: Annotated[Command, tyro.conf.arg(name="")]
    float32: bool = False
    """Compute in float32 instead of float64."""


def _overview() -> Any:
    """`Main` with one sentence for each command: what `--help` shows where no command is named."""
    commands = [
        Annotated[command, tyro.conf.subcommand(name, description=(command.__doc__ or "").split("\n\n")[0])]
        for name, command in zip(NAMES, get_args(Command), strict=True)
    ]
    flag = Annotated[bool, tyro.conf.arg(help="Compute in float32 instead of float64.", help_behavior_hint="")]
    fields: list[tuple[str, Any, Any]] = [
        ("command", Annotated[functools.reduce(operator.or_, commands), tyro.conf.arg(name="")], dataclasses.MISSING),
        ("float32", flag, False),
    ]
    return dataclasses.make_dataclass("Main", fields, namespace={"__doc__": Main.__doc__}, frozen=True)


def parse(arguments: Sequence[str]) -> Main:
    """The command asked for. Leaves with code 2 and a clear message when there is none."""
    first = next((word for word in arguments if not word.startswith("-")), None)
    if first is not None and first not in NAMES:
        raise unknown_name("command", first, NAMES)
    if first is not None:
        check(get_args(Command)[NAMES.index(first)], arguments)
    markers = (
        tyro.conf.OmitSubcommandPrefixes,
        tyro.conf.CascadeSubcommandArgs,
        tyro.conf.FlagCreatePairsOff,
        tyro.conf.PositionalMetavarFromFieldName,
    )
    return tyro.cli(Main if first is not None else _overview(), prog="ntk-momentum", args=list(arguments), config=markers)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    try:
        chosen = parse(sys.argv[1:] if arguments is None else arguments)
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
            code = chosen.command(chosen.float32)
            sys.stdout.flush()
            return code
    except (InputError, MissingPackage) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except MemoryError as error:
        print(f"error: out of memory ({error}); use fewer samples, neurons or saved times, or --float32", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept, and the same command goes on from there", file=sys.stderr)
        return 130

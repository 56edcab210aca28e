"""The command line: which command is asked for, and what becomes of errors. Help is made without
importing jax.

Exit codes: 0, everything asked for was done; 1, some work failed (an experiment, a run, a refuted
claim); 2, bad input or a missing package; 130, interrupted.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias, get_args

import tyro

from ..errors import InputError, MissingPackage, unknown_name
from .advise import Advise
from .diagnose import Diagnose
from .doctor import Doctor
from .export import Export
from .list import List
from .options import check, command
from .plot import Plot
from .reproduce import Reproduce
from .run import Run
from .sweep import Sweep
from .table import Table
from .verify import Verify

Command: TypeAlias = (
    Reproduce | List | Run | Verify | Sweep | Table | Plot | Export | Advise | Diagnose | Doctor
)
NAMES = (
    "reproduce",
    "list",
    "run",
    "verify",
    "sweep",
    "table",
    "plot",
    "export",
    "advise",
    "diagnose",
    "doctor",
)


@command
class Main:
    """Momentum dynamics of wide networks: kernels, flows, optimizers, and every statement of the
    paper, run.

    Each command has its own help, with an example.

    Example: ntk-momentum run three_flows
    """

    command: Annotated[Command, tyro.conf.arg(name="")]
    float32: bool = False
    """Compute in float32 instead of float64."""


def _overview() -> Any:
    """`Main` with one sentence for each command: what `--help` shows where no command is named."""
    commands = [
        Annotated[
            command,
            tyro.conf.subcommand(name, description=(command.__doc__ or "").split("\n\n")[0]),
        ]
        for name, command in zip(NAMES, get_args(Command), strict=True)
    ]
    flag = Annotated[
        bool, tyro.conf.arg(help="Compute in float32 instead of float64.", help_behavior_hint="")
    ]
    fields: list[tuple[str, Any, Any]] = [
        (
            "command",
            Annotated[functools.reduce(operator.or_, commands), tyro.conf.arg(name="")],
            dataclasses.MISSING,
        ),
        ("float32", flag, False),
    ]
    return dataclasses.make_dataclass(
        "Main", fields, namespace={"__doc__": Main.__doc__}, frozen=True
    )


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
    return tyro.cli(
        Main if first is not None else _overview(),
        prog="ntk-momentum",
        args=list(arguments),
        config=markers,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    try:
        chosen = parse(sys.argv[1:] if arguments is None else arguments)
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: print(
                f"warning: {message}", file=sys.stderr
            )
            code = chosen.command(chosen.float32)
            sys.stdout.flush()
            return code
    except (InputError, MissingPackage) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except MemoryError as error:
        print(
            (
                f"error: out of memory ({error}); use fewer samples, neurons or saved "
                "times, or --float32"
            ),
            file=sys.stderr,
        )
        return 2
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print(
            "interrupted; what was finished is kept, and the same command goes on from there",
            file=sys.stderr,
        )
        return 130

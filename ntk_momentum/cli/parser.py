"""The command line: which command is asked for, and what becomes of errors. Help is made without
importing jax.

Exit codes: 0, everything asked for was done; 1, some work failed (an experiment, a run, a refuted
claim); 2, bad input or a missing package; 130, interrupted.
"""

from __future__ import annotations

import contextvars
import dataclasses
import functools
import operator
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import tyro

from .. import __version__
from ..errors import InputError, MissingPackage, unknown_name
from .advise import Advise
from .diagnose import Diagnose
from .doctor import Doctor
from .export import Export
from .list import List
from .options import check, command
from .plot import Plot
from .reproduce import Reproduce
from .run import RunOne, with_options
from .start import CACHED
from .sweep import SweepCommand
from .table import Table
from .verify import Verify

COMMANDS = {
    "reproduce": Reproduce,
    "list": List,
    "run": RunOne,
    "verify": Verify,
    "sweep": SweepCommand,
    "table": Table,
    "plot": Plot,
    "export": Export,
    "advise": Advise,
    "diagnose": Diagnose,
    "doctor": Doctor,
}
NAMES = tuple(COMMANDS)


@command
class Main:
    """Momentum dynamics of wide networks: kernels, flows, optimizers, and every statement of the
    paper, run.

    Each command has its own help, with an example.

    Example: ntk-momentum run three_flows
    """

    command: Any
    float32: bool = False
    """Compute in float32 instead of float64."""
    no_cache: bool = False
    """Keep no compiled programs (NTK_MOMENTUM_CACHE=FOLDER or off says where)."""
    version: bool = False
    """Print the version and leave."""


def _offered(known: Mapping[str, type], brief: bool) -> Any:
    """`Main` with its commands, each by its own description, or where brief by one sentence."""
    commands = [
        Annotated[
            chosen,
            tyro.conf.subcommand(
                name, description=(chosen.__doc__ or "").split("\n\n")[0] if brief else None
            ),
        ]
        for name, chosen in known.items()
    ]
    fields: list[tuple[str, Any]] = [
        ("command", Annotated[functools.reduce(operator.or_, commands), tyro.conf.arg(name="")])
    ]
    return dataclasses.make_dataclass(
        "Main", fields, bases=(Main,), namespace={"__doc__": Main.__doc__}, frozen=True
    )


def parse(arguments: Sequence[str]) -> Main:
    """The command asked for. Leaves with code 2 and a clear message when there is none."""
    first = next((word for word in arguments if not word.startswith("-")), None)
    if first is not None and first not in NAMES:
        raise unknown_name("command", first, NAMES)
    known = COMMANDS
    if first is not None:
        known = {**COMMANDS, "run": with_options(arguments)} if first == "run" else COMMANDS
        check(known[first], arguments)
    markers = (
        tyro.conf.OmitSubcommandPrefixes,
        tyro.conf.CascadeSubcommandArgs,
        tyro.conf.FlagCreatePairsOff,
        tyro.conf.PositionalMetavarFromFieldName,
    )
    return tyro.cli(
        _offered(known, brief=first is None),
        prog="ntk-momentum",
        args=list(arguments),
        config=markers,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if "--version" in arguments:
        print(f"ntk-momentum {__version__}")
        return 0
    try:
        chosen = parse(arguments)
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: print(
                f"warning: {message}", file=sys.stderr
            )
            context = contextvars.copy_context()
            context.run(CACHED.set, not chosen.no_cache)
            code = context.run(chosen.command, chosen.float32)
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

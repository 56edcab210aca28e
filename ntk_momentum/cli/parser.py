"""The command line: which command is asked for, and what becomes of errors. Help is made without
importing jax.

Exit codes: 0, everything asked for was done; 1, some work failed (an experiment, a run, a refuted
claim); 2, bad input or a missing package; 130, interrupted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import itertools
import operator
import os
import shutil
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import tyro

from .. import __version__
from ..errors import InputError, MissingPackage, unknown_name
from ..progress import LOG, listen
from .advise import Advise
from .diagnose import Diagnose
from .doctor import Doctor
from .export import Export
from .list import List
from .options import Shared, check, command, in_one_line, tidied, wrapped
from .plot import Plot
from .reproduce import Reproduce
from .run import RunOne, with_options
from .status import Status
from .sweep import SweepCommand
from .table import Table
from .verify import Verify

COMMANDS = {
    "reproduce": Reproduce,
    "list": List,
    "run": RunOne,
    "verify": Verify,
    "sweep": SweepCommand,
    "status": Status,
    "table": Table,
    "plot": Plot,
    "export": Export,
    "advise": Advise,
    "diagnose": Diagnose,
    "doctor": Doctor,
}
NAMES = tuple(COMMANDS)


SHELLS = ("bash", "zsh", "fish", "tcsh")
MARKERS = (
    tyro.conf.OmitSubcommandPrefixes,
    tyro.conf.CascadeSubcommandArgs,
    tyro.conf.FlagCreatePairsOff,
    tyro.conf.PositionalMetavarFromFieldName,
)


@command
class Main(Shared):
    """Momentum dynamics of wide networks: kernels, flows, optimizers, and every statement of the
    paper, run.

    Each command has its own help, with an example.

    Example: ntk-momentum run three_flows
    """

    command: Any = dataclasses.field(kw_only=True)
    version: bool = False
    """Print the version and leave."""
    completion: Literal["bash", "zsh", "fish", "tcsh"] | None = None
    """Print a script for this shell that completes commands and options; e.g. eval "$(ntk-momentum
    --completion bash)"."""


def _offered(known: Mapping[str, type], brief: bool) -> Any:
    """`Main` with its commands, each by its own description, or where brief by one sentence."""

    def described(chosen: type) -> str:
        doc = chosen.__doc__ or ""
        return " ".join(doc.split("\n\n")[0].split()) if brief else wrapped(doc, _width())

    commands = [
        Annotated[chosen, tyro.conf.subcommand(name, description=described(chosen))]
        for name, chosen in known.items()
    ]
    choice: Any = Annotated[functools.reduce(operator.or_, commands), tyro.conf.arg(name="")]
    return dataclasses.make_dataclass(
        "Main",
        [("command", choice, dataclasses.field(kw_only=True))],
        bases=(Main,),
        frozen=True,
    )


def _width() -> int:
    return max(40, shutil.get_terminal_size().columns)


def parse(arguments: Sequence[str]) -> Main:
    """The command asked for. Leaves with code 2 and a clear message when there is none."""
    first = next((word for word in arguments if not word.startswith("-")), None)
    if first is not None and first not in NAMES:
        raise unknown_name("command", first, NAMES)
    known = COMMANDS
    if first is not None:
        known = {**COMMANDS, "run": with_options(arguments)} if first == "run" else COMMANDS
        check(known[first], arguments)
    helps = {"-h", "--help"} & set(arguments)
    said = io.StringIO()
    try:
        with (
            tidied(_width()) if helps else contextlib.nullcontext(),
            contextlib.redirect_stderr(said),
        ):
            return tyro.cli(
                _offered(known, brief=first is None),
                prog="ntk-momentum",
                description=wrapped(Main.__doc__ or "", _width()),
                args=list(arguments),
                config=MARKERS,
            )
    except SystemExit as left:
        if not left.code:
            raise
    classes: list[Any] = [Main] if first is None else [Main, known[first]]
    options = [field.name for cls in classes for field in dataclasses.fields(cls)]
    asked = [word for word in (first, getattr(known.get(first or ""), "own", None)) if word]
    raise InputError(in_one_line(said.getvalue(), arguments, options, " ".join(asked)))


def print_completion(shell: str) -> None:
    """Print what makes a shell complete commands and options."""
    if shell not in SHELLS:
        raise unknown_name("value of --completion", shell, SHELLS)
    tyro.cli(
        _offered(COMMANDS, brief=True),
        prog="ntk-momentum",
        args=["--tyro-print-completion", shell],
        config=MARKERS,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if "--version" in arguments:
        print(f"ntk-momentum {__version__}")
        return 0
    try:
        for word, following in itertools.pairwise([*arguments, ""]):
            if word.partition("=")[0] == "--completion":
                print_completion(word.partition("=")[2] or following)
        chosen = parse(arguments)
        if chosen.quiet and chosen.verbose:
            raise InputError("--quiet and --verbose exclude each other; leave one out.")
        with listen(chosen.quiet, chosen.verbose), warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: LOG.warning("%s", message)
            code = chosen.command(chosen)
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

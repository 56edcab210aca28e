"""What every command's options have in common: those that all commands take, how help reads, what
is checked before they are parsed, and how results are printed."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import difflib
import functools
import inspect
import io
import itertools
import json
import math
import re
import sys
import textwrap
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

import tyro

from ..errors import InputError, unknown_name

C = TypeVar("C", bound=type)
NAMES = {Path: "PATH", str: "TEXT", int: "INT", float: "FLOAT"}

SHARED = {
    "after": "Steps, half of all at most, after which the kernel is asked again.",
    "batch_size": "Samples in a step.",
    "batch_sizes": "Samples in a step.",
    "beta": "Momentum.",
    "betas": "Momenta.",
    "claims": "Identifiers of claims, e.g. eq-b.1 thm-3.",
    "d": "Constant of Nesterov's flow, whose friction is d/t.",
    "data": "Digits, sphere, mnist:FOLDER, or a file of arrays or a table.",
    "ds": "Constants of Nesterov's flow, whose friction is d/t.",
    "epoch": "The epoch (step) that is looked at.",
    "eta": "Step size.",
    "eta_paper": "Step size in the paper's parametrisation.",
    "flows": "Flows by name, see `ntk-momentum list --flows`.",
    "folder": "Results folder.",
    "horizon": "Final time.",
    "loss": "What is trained on.",
    "margin": "How much lambda_max may grow before a step is unstable.",
    "model": "FILE.py:FUNCTION.",
    "n": "Number of samples; of a file of arrays or a table so many rows at random, at most.",
    "on_duplicates": (
        "What becomes of identical and of zero inputs of a file: error refuses them, drop keeps "
        "one of each, allow goes on with a singular kernel."
    ),
    "optimizers": "Optimizers by name, see `ntk-momentum list --optimizers`.",
    "out": "Results folder.",
    "p": "Input size of --data sphere.",
    "readouts": "Read-outs of runs by name.",
    "sampling": "How the samples of a step are drawn.",
    "save_every": "Steps between two saved ones.",
    "seed": "Seed of all that is drawn.",
    "seeds": "Networks drawn per width, from as many seeds in a row.",
    "settle": "Share of the steps after which a prediction starts again, from the kernel there.",
    "size": "How large: smoke, default or full.",
    "standardize": (
        "Scale every column of the inputs to mean zero and variance one, before --unit: of a table "
        "whose columns differ in size."
    ),
    "steps": "Steps taken.",
    "target": "Share of the initial loss to reach.",
    "times": "Saved times, equally spaced from 0.",
    "to": "File to write.",
    "tol": "Local error allowed in one step of the solver, relative to the residual.",
    "unit": "Scale every input to norm one, as the theorems want it.",
    "width": "Hidden neurons.",
    "widths": "Hidden neurons, each in turn.",
}
"""What an option means that more than one command, or experiment, has: its help begins with it."""


@dataclass_transform(frozen_default=True)
def command(cls: C) -> C:
    """A frozen dataclass whose help leaves out defaults that say nothing: None, nothing at all, and
    False."""
    said = docs_of(cls)

    def silent(name: str) -> bool:
        default = getattr(cls, name, dataclasses.MISSING)
        return default is None or default is False or default == ()

    kinds = get_type_hints(cls)
    cls.__annotations__ = {
        name: Annotated[
            hint,
            tyro.conf.arg(
                help=helped(name, said.get(name, "")),
                **(_quiet(kinds[name]) if silent(name) else {}),
            ),
        ]
        for name, hint in get_type_hints(cls, include_extras=True).items()
    }
    made: Any = dataclasses.dataclass(frozen=True)(cls)
    return made


def helped(name: str, said: str) -> str:
    """The help of an option: what it means wherever it stands, and what is said of it here."""
    return " ".join(part for part in (SHARED.get(name, ""), said[:1].upper() + said[1:]) if part)


def docs_of(cls: type) -> dict[str, str]:
    """The strings below the fields of a class and of those it is derived from, without their line
    breaks: the parser keeps these, so that help would wrap twice."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        if "__annotations__" not in base.__dict__ or base.__module__.startswith("typing"):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body  # type: ignore
        for field, doc in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(doc, ast.Expr):
                found[ast.unparse(field.target)] = " ".join(ast.literal_eval(doc.value).split())
    return found


def wrapped(doc: str, width: int) -> str:
    """Paragraphs at a width. The space before each line keeps the parser from joining them."""
    fill = functools.partial(textwrap.fill, break_on_hyphens=False, break_long_words=False)
    texts = [" ".join(text.split()) for text in inspect.cleandoc(doc).split("\n\n")]
    return "\n\n".join(textwrap.indent(fill(text, width), " ") for text in texts)


@contextlib.contextmanager
def tidied(width: int) -> Iterator[None]:
    """Let the parser's help be written without what `wrapped` needs."""
    held = _Held()
    try:
        with contextlib.redirect_stdout(held):
            yield
    finally:
        text = re.sub(r"^ (?=\S)", "", held.getvalue(), flags=re.MULTILINE)
        usage, _, rest = re.sub(r"\n{3,}", "\n\n", text).partition("\n")
        usage = usage.replace("{", "{ ", 1).replace(
            ",", ", "
        )  # where the names of commands may break
        print("\n".join(textwrap.wrap(usage, width, subsequent_indent="  ")))
        sys.stdout.write(rest)


class _Held(io.StringIO):
    """Text that is printed later, on a stdout of the same kind."""

    encoding = property(lambda self: sys.__stdout__.encoding)  # type: ignore

    def isatty(self) -> bool:
        """Colours, or none."""
        return sys.__stdout__ is not None and sys.__stdout__.isatty()


def as_json(value: Any) -> Any:
    """A value as JSON has it: dataclasses and modules by their fields, arrays as lists, no NaN and
    no infinity but None."""
    if isinstance(value, bool | str | int | None):
        return value
    if hasattr(value, "_asdict"):
        return as_json(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): as_json(one) for key, one in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: as_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if hasattr(value, "tolist"):
        return as_json(value.tolist())
    if isinstance(value, Sequence):
        return [as_json(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)


def in_one_line(said: str, arguments: Sequence[str], options: Sequence[str], name: str) -> str:
    """What the parser says in a box of many lines, of a command called `name`: options that are
    not known with those that are near, and what is no value of an option with what would be."""
    framed = said.startswith("╭")
    lines = [line.strip("│ ") for line in said.splitlines()[1 if framed else 2 :]]
    told = " ".join(itertools.takewhile(lambda line: not set(line) <= {"─", "-"}, lines))
    see = f"see ntk-momentum {name + ' ' if name else ''}--help."
    if found := re.match("Unrecognized [a-z ]*: ([^ ,]+)", told):
        word, known = found[1], [option.replace("_", "-") for option in options]
        near = difflib.get_close_matches(word.partition("=")[0].lstrip("-"), known, n=1, cutoff=0.7)
        guess = f". Did you mean --{near[0]}? S" if near else "; s"
        return f"unknown {'option' if word.startswith('-') else 'word'} {word}{guess}{see[1:]}"
    if found := re.match(r"Error parsing (--[\w-]+)", told):
        parts = (part for word in arguments for part in word.split("=", 1))
        value = next((part for part in parts if part == found[1]), None) and next(parts, "")
        (_, *metavar) = next(line for line in lines if line.startswith(f"{found[1]} ")).split()
        kinds = {"INT": "a whole number", "FLOAT": "a number", "FLOAT FLOAT": "two numbers"}
        wanted = kinds.get(" ".join(metavar), " ".join(metavar))
        return f"{found[1]} must be {wanted}, got {value!r}; {see}"
    if found := re.match(r"Missing (?:from [^:]*: |value for argument ')([\w-]+)", told):
        return f"{found[1]} is missing{', or its value' if found[1].startswith('-') else ''}; {see}"
    return f"{told.rstrip('.')}; {see}"


def _quiet(hint: Any) -> dict[str, Any]:
    """How an option looks whose default says nothing."""
    parts = [part for part in _alternatives(hint) if part is not types.NoneType]
    told: dict[str, Any] = {"help_behavior_hint": ""}
    if len(parts) == 1 and len(_alternatives(hint)) == 2:
        inner = get_args(parts[0])
        if get_origin(parts[0]) is Literal:
            told["metavar"] = "{" + ",".join(inner) + "}"
        elif inner:
            many = f"[{NAMES[inner[0]]} ...]"
            told["metavar"] = many if ... in inner else " ".join(NAMES[part] for part in inner)
        else:
            told["metavar"] = NAMES[parts[0]]
    return told


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def check(cls: type, arguments: Sequence[str]) -> None:
    """Raise `InputError` for what no type can tell.

    A word is empty, an option that takes one of a few words is given another, or one that takes
    several values none.
    """
    hints = get_type_hints(cls)
    for argument, following in itertools.pairwise([*arguments, "--"]):
        option, given, value = argument.partition("=")
        hint = hints.get(option[2:].replace("-", "_")) if option.startswith("--") else None
        choices = [
            word
            for part in _alternatives(hint)
            if get_origin(part) is Literal
            for word in get_args(part)
        ]
        value = value if given else following
        if not argument or (option.startswith("--") and not value):
            what = option or "a word of the command"
            raise InputError(f"{what} is empty; name something, e.g. . for the current folder.")
        if get_origin(hint) is tuple and value.startswith("--"):
            raise InputError(
                f"{option} is given without a value; name one or more, or leave it out."
            )
        if choices and value not in choices and not value.startswith("--"):
            raise unknown_name(f"value of {option}", value, choices)


@command
class Shared:
    """What every command takes."""

    json: bool = False
    """Print results as JSON, on stdout; what goes on meanwhile is said on stderr."""
    quiet: bool = False
    """Say nothing of the progress, only warnings, errors and results."""
    verbose: bool = False
    """Say also what is computed where, and what is written."""
    float32: bool = False
    """Compute in float32 instead of float64."""
    no_cache: bool = False
    """Keep no compiled programs (NTK_MOMENTUM_CACHE=FOLDER or off says where)."""

    def show(self, record: Any, text: str | Callable[[], str]) -> None:
        """Print a result: the record as JSON if asked, else the text, or what is called to make
        it."""
        if self.json:
            print(json.dumps(as_json(record), indent=1, ensure_ascii=False, allow_nan=False))
            return
        print(text if isinstance(text, str) else text())

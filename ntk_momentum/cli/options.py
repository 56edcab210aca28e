"""What every command's options have in common: how their help reads, and what is checked before
they are parsed."""

from __future__ import annotations

import dataclasses
import itertools
import types
from collections.abc import Sequence
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


@dataclass_transform(frozen_default=True)
def command(cls: C) -> C:
    """A frozen dataclass whose help leaves out defaults that say nothing: None, nothing at all, and
    False."""

    def silent(name: str) -> bool:
        default = getattr(cls, name, dataclasses.MISSING)
        return default is None or default is False or default == ()

    hints = get_type_hints(cls, include_extras=True)
    cls.__annotations__ = {
        name: _quiet(hint) if silent(name) else hint for name, hint in hints.items()
    }
    made: Any = dataclasses.dataclass(frozen=True)(cls)
    return made


def _quiet(hint: Any) -> Any:
    parts = [part for part in _alternatives(hint) if part is not types.NoneType]
    if types.NoneType not in _alternatives(hint) or len(parts) > 1:
        return Annotated[hint, tyro.conf.arg(help_behavior_hint="")]
    choices = get_args(parts[0]) if get_origin(parts[0]) is Literal else ()
    metavar = "{" + ",".join(choices) + "}" if choices else NAMES[parts[0]]
    return Annotated[hint, tyro.conf.arg(metavar=metavar, help_behavior_hint="")]


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

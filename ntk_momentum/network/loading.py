"""Functions that users name on the command line, as FILE.py:FUNCTION: models and optimizers."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import InputError


def check_function(text: str, option: str = "--model") -> tuple[Path, str]:
    """(file, name) of FILE.py:FUNCTION. Raises `InputError` where it is written otherwise, or there
    is no such file."""
    file, _, name = text.rpartition(":")
    path = Path(file)
    if not file or not name.isidentifier() or path.suffix != ".py":
        raise InputError(f"{option} must be FILE.py:FUNCTION, got {text!r}; try mymodel.py:make.")
    if not path.is_file():
        raise InputError(
            f"no file {path} for {option} {text}; give the path of a Python file, from "
            f"{Path.cwd()}."
        )
    return path, name


def load_function(text: str, option: str = "--model") -> Callable:
    """The function that FILE.py:FUNCTION names. Runs that file. Raises `InputError` unless all goes
    well."""
    path, name = check_function(text, option)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"{option} {text} failed: {type(error).__name__}, {error}.") from error
    finally:
        sys.path.pop(0)
    functions = [
        n for n, value in vars(module).items() if callable(value) and not n.startswith("_")
    ]
    if name not in functions:
        raise InputError(
            f"{path} defines no {name!r}; it defines: {', '.join(functions) or 'nothing callable'}."
        )
    return getattr(module, name)


def load_maker(text: str) -> Callable:
    """make(width, key=key) of FILE.py:FUNCTION, one meaning everywhere: FUNCTION is called by its
    signature, and its width may be left out, as in def build(key)."""
    function = load_function(text)
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # of some built-in callables; then as it is documented
        return function
    wanted = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    by_name = "key" in parameters or any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
    )
    sized = "width" in parameters or len(set(wanted) - {"key"}) > (0 if by_name else 1)

    @functools.wraps(function)
    def make(width: int, key: Any) -> Any:
        named = {"width": width} if "width" in parameters else {}
        sizes = (width,) if sized and not named else ()
        return function(*sizes, **named, key=key) if by_name else function(*sizes, key, **named)

    return make


def load_model(text: str, key: Any, width: int) -> Any:
    """The model that FILE.py:FUNCTION makes, see `load_maker`. Raises `InputError` unless all goes
    well."""
    try:
        model = load_maker(text)(width, key=key)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"--model {text} failed: {type(error).__name__}, {error}. It is called as "
            "FUNCTION(width, key=key), or FUNCTION(key=key), and must return an Equinox model."
        ) from error
    if not callable(model):
        raise InputError(
            f"--model {text} returned a {type(model).__name__}, not a model that can "
            "be called with one input."
        )
    return model

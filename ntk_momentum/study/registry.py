"""The experiments: files of the folder `experiments/`, each of which states a claim and runs it.

Such a file has a docstring (first paragraph: the title; the rest: the claim), a frozen dataclass
`Config` of plain values, `SIZES = {"smoke": Config(...), "default": ..., "full": ...}`,
`run(config, progress) -> xarray.Dataset`, which calls `progress(done, total)`, and `plot(dataset)
-> matplotlib Figure`. Optional: `CAPTION` (what to see in the figure), `headline(dataset) ->
{quantity: value}` (what to remember), `ORDER` (an integer: its place in the report; from 100 on the
experiment has a time budget of its own and runs when it is named, or at full size).
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple, get_args

from ..errors import InputError, require, unknown_name
from ..results.sources import Code, code_in_file

Size = Literal["smoke", "default", "full"]
SIZES: tuple[str, ...] = get_args(Size)
EXTRA = 100  # the ORDER from which an experiment waits to be named


class Option(NamedTuple):
    """A field of an experiment's `Config`, read from its source: type, value at size default (None
    where it is computed), and the comment beside it."""

    kind: Any
    usual: Any
    help: str


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One file of the experiments folder, read but not imported. name: of the file, its results and
    its figure alike."""

    name: str
    title: str
    claim: str
    order: int
    path: Path

    def load(self) -> ModuleType:
        """The module. Raises `InputError` when it lacks a part that every experiment has, and
        `MissingPackage` without xarray, in which every experiment returns its numbers."""
        require("xarray", "an experiment")
        name = f"ntk_momentum.experiments.{self.name}"
        spec = importlib.util.spec_from_file_location(name, self.path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        package = ModuleType(
            "ntk_momentum.experiments"
        )  # what experiments share: files of their folder with an underscore
        package.__path__ = [str(self.path.parent)]
        sys.modules[package.__name__] = package
        sys.modules[name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
        missing = [part for part in ("SIZES", "run", "plot") if not hasattr(module, part)]
        if missing:
            raise InputError(
                f"experiment {self.path} lacks {', '.join(missing)}; see "
                "ntk_momentum.study.registry."
            )
        return module

    def options(self) -> dict[str, Option]:
        """What can be chosen, by name: the fields of `Config`, nothing imported."""
        return _options(self.path)

    def check_options(self, names: Iterable[str]) -> None:
        """Raise `InputError` for what this experiment has not."""
        for name in names:
            if name not in self.options():
                raise unknown_name(f"option of {self.name}", name, self.options())

    def config(
        self, module: ModuleType, size: str, options: Mapping[str, Any] | None = None
    ) -> Any:
        """The configuration of this size, with some of its fields chosen."""
        if not isinstance(size, str) or size not in module.SIZES:
            raise unknown_name(f"size of experiment {self.name}:", size, module.SIZES)
        self.check_options(options or {})
        plain = {k: _tuples(value) for k, value in (options or {}).items()}
        usual = module.SIZES[size]
        return dataclasses.replace(usual, **plain) if plain else usual

    def code(self, *names: str) -> Code:
        """The code behind a few of the file's names, here and in all that it imports: of "run" and
        "SIZES" for the numbers, of "plot" for the figure. So mending a label keeps results."""
        return code_in_file(self.path, names)


def folder() -> Path:
    """`experiments/` beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent / "experiments"
    return (
        checkout
        if (package.parent / "pyproject.toml").is_file() and checkout.is_dir()
        else package / "experiments"
    )


def experiments(where: Path | None = None) -> dict[str, Experiment]:
    """All experiments by name, in the order of the report. Files that begin with an underscore are
    none."""
    found = [
        _read(path) for path in (where or folder()).glob("*.py") if not path.name.startswith("_")
    ]
    return {e.name: e for e in sorted(found, key=lambda e: (e.order, e.name))}


def find(names: tuple[str, ...] = (), where: Path | None = None) -> list[Experiment]:
    """The named experiments (default: all), in the order of the report. Raises `InputError` on
    unknown names."""
    known = experiments(where)
    for name in names:
        if not isinstance(name, str) or name not in known:
            raise unknown_name("experiment", name, known)
    return [e for e in known.values() if not names or e.name in names]


def due(names: tuple[str, ...], size: str, where: Path | None = None) -> list[Experiment]:
    """What `reproduce` runs: the named experiments; without names all, at full size, or all but
    those with a budget of their own."""
    return [e for e in find(names, where) if names or size == "full" or e.order < EXTRA]


def _read(path: Path) -> Experiment:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise InputError(f"experiment {path} is not valid Python ({error}).") from error
    title, _, claim = (ast.get_docstring(tree) or path.stem).partition("\n\n")
    order = next(
        (
            node.value
            for node in tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ORDER"
        ),
        None,
    )
    return Experiment(
        path.stem,
        " ".join(title.split()),
        claim.strip(),
        int(ast.literal_eval(order)) if order else EXTRA - 1,
        path,
    )


def _tuples(value: Any) -> Any:
    """Lists and arrays as tuples, numbers of numpy as Python's, so that equal values are written
    alike."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


@functools.cache
def _options(path: Path) -> dict[str, Option]:
    text = path.read_text(encoding="utf-8")
    tree, lines = ast.parse(text), text.splitlines()
    found: dict[str, Option] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == "Config":
            for base in node.bases:  # of a file with an underscore beside it
                if isinstance(base, ast.Attribute):
                    shared = path.with_name(f"_{ast.unparse(base.value)}.py")
                    found |= _fields(_class(shared, base.attr), shared.read_text().splitlines())
            found |= _fields(node, lines)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SIZES":
            for keyword in _call_of_default(node.value):
                if keyword.arg in found:
                    usual = _literal(keyword.value)
                    found[keyword.arg] = found[keyword.arg]._replace(usual=usual)
    return found


def _class(path: Path, name: str) -> ast.ClassDef:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)


def _fields(node: ast.ClassDef, lines: list[str]) -> dict[str, Option]:
    """The fields of a dataclass. A comment stands behind one, or in the lines above it."""
    found = {}
    for part in node.body:
        if not isinstance(part, ast.AnnAssign) or part.value is None:
            continue
        above: list[str] = []
        at = part.lineno - 2
        while lines[at].lstrip().startswith("#"):
            above, at = [lines[at].strip(" #"), *above], at - 1
        beside = lines[(part.end_lineno or part.lineno) - 1].partition("  # ")[2]
        kind = eval(ast.unparse(part.annotation), {"__builtins__": {}}, _KINDS)
        said = beside or " ".join(above)
        found[ast.unparse(part.target)] = Option(kind, _literal(part.value), said)
    return found


_KINDS = {kind.__name__: kind for kind in (bool, int, float, str, tuple)}


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def _call_of_default(node: ast.expr) -> list[ast.keyword]:
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and key.value == "default":
                return value.keywords if isinstance(value, ast.Call) else []
    return []

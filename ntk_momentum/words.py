"""What can be named on the command line, read from the sources without running them.

Claims, flows, read-outs, solvers and activations are declared where they live. Here their names,
parameters and descriptions are found in the syntax trees, so that lists, and the answer to a
misspelt word, wait for no JAX. tests/test_words.py compares each with what the running code knows.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .errors import InputError, unknown_name

_HERE = Path(__file__).resolve().parent
TABLES = (".csv", ".tsv", ".parquet", ".pq")
"""Endings of tables."""


class ClaimWord(NamedTuple):
    """A numbered statement of the paper: its id, where it stands, what it is, its fault, under what
    its corrected form holds, what runs it, and what is wrong, or right, with it."""

    id: str
    section: str
    kind: str
    fault: str
    under: str
    home: str
    note: str


class FlowWord(NamedTuple):
    """A flow or an optimizer that numbers and words can state: its parameters and its
    description."""

    parameters: Mapping[str, inspect.Parameter]
    doc: str


@functools.cache
def _tree(module: str) -> ast.Module:
    return ast.parse((_HERE / f"{module}.py").read_text(encoding="utf-8"))


@functools.cache
def declared(module: str, name: str) -> Any:
    """The value of a module's plain constant; of a dictionary of anything its names."""
    for node in _tree(module).body:
        target = getattr(node, "target", None) or getattr(node, "targets", [None])[0]
        if getattr(target, "id", None) == name and isinstance(node, ast.Assign | ast.AnnAssign):
            value: Any = node.value
            if isinstance(value, ast.Dict):
                return tuple(ast.literal_eval(key) for key in value.keys if key is not None)
            return ast.literal_eval(value)
    raise LookupError(f"{module}.py defines no constant {name}")


def _plain(node: Any) -> Any:
    """The value of a constant, parsed or not."""
    return ast.literal_eval(node) if isinstance(node, ast.AST) else node


@functools.cache
def claims() -> Mapping[str, ClaimWord]:
    """The paper's numbered statements, in its order."""
    found = {}
    for path in sorted((_HERE / "ledger" / "claims").glob("*.py")):
        module = f"ledger/claims/{path.stem}"
        for node in _tree(module).body:
            for call in getattr(node, "decorator_list", ()):
                if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "claim":
                    id = ast.literal_eval(call.args[0])
                    said = {"fault": "none", "under": "as stated"} | {
                        k.arg: k.value for k in call.keywords
                    }
                    section, kind, fault, under = (
                        _plain(said[part]) for part in ("section", "kind", "fault", "under")
                    )
                    home = f"{_HERE.name}.{module.replace('/', '.')}.{node.name}"  # type: ignore[attr-defined]
                    note = " ".join(_plain(said.get("note", "")).split())
                    found[id] = ClaimWord(id, section, kind, fault, under, home, note)
    return {id: found[id] for id in declared("ledger/ledger", "PAPER_ORDER") if id in found}


def claim_ids(names: Iterable[str]) -> list[str]:
    """The identifiers of claims, also of what the paper calls "(B.1)", "Theorem 3" or "Lemma 7".
    Raises `InputError` on a name that is none."""
    ids = []
    for name in names:
        if not isinstance(name, str):
            raise unknown_name("claim", name, claims())
        plain = name.lower().strip("() ").replace("theorem", "thm").replace(" ", "-")
        id = next((id for id in (plain, f"eq-{plain}") if id in claims()), None)
        if id is None:
            raise unknown_name("claim", name, claims())
        ids.append(id)
    return ids


@functools.cache
def _methods() -> tuple[set[str], Mapping[str, Any], Mapping[str, ast.ClassDef]]:
    """What `method` makes public, all that its files define, and the classes among it."""
    public = {
        alias.asname: node.module or ""
        for node in _tree("method/__init__").body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    }
    trees = [_tree(f"method/{module}") for module in sorted(set(public.values()))]
    defined = {
        node.name: node
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
    }
    classes = {name: node for name, node in defined.items() if isinstance(node, ast.ClassDef)}
    return set(public), defined, classes


def _line(name: str, classes: Mapping[str, ast.ClassDef]) -> list[ast.ClassDef]:
    """A class and those it descends from, oldest first."""
    if name not in classes:
        return []
    bases = [getattr(base, "id", "") for base in classes[name].bases]
    return [*(node for base in bases for node in _line(base, classes)), classes[name]]


@functools.cache
def optimizers() -> Mapping[str, FlowWord]:
    """The discrete methods of `method` by name: its functions that return one."""
    public, defined, classes = _methods()
    kinds = {
        name
        for name in classes
        if "AbstractOptimizer" in [node.name for node in _line(name, classes)]
    }
    return {
        name: FlowWord(_parameters(made.args), ast.get_docstring(made) or "")
        for name, made in sorted(defined.items())
        if name in public
        and isinstance(made, ast.FunctionDef)
        and made.returns is not None
        and ast.unparse(made.returns) in kinds
    }


@functools.cache
def flows() -> Mapping[str, FlowWord]:
    """The flows of `method` by name: its classes, and its functions that return a flow or a method
    whose high-resolution equation is one. Those that take functions are left out."""
    public, defined, classes = _methods()
    line = lambda name: _line(name, classes)
    kinds = {name for name in classes if "AbstractFlow" in [node.name for node in line(name)]}
    found: dict[str, FlowWord] = {}
    for name in sorted(kinds & public):
        word = _class_name(classes[name])
        if word is not None:
            doc = inspect.cleandoc(ast.get_docstring(classes[name]) or "")
            found[word] = FlowWord(_class_parameters(line(name)), doc)
    for name in sorted(public - set(classes)):
        made = defined.get(name)
        if not isinstance(made, ast.FunctionDef) or made.returns is None or name in found:
            continue
        if ast.unparse(made.returns) in kinds | {"HessianDampedMethod"}:
            found[name] = FlowWord(_parameters(made.args), ast.get_docstring(made) or "")
    takes_function = lambda word: any("Callable" in p.annotation for p in word.parameters.values())
    return {name: found[name] for name in sorted(found) if not takes_function(found[name])}


def _class_name(node: ast.ClassDef) -> str | None:
    """The value of `name: ClassVar[str] = "..."`."""
    for part in node.body:
        if isinstance(part, ast.AnnAssign) and getattr(part.target, "id", "") == "name":
            return None if part.value is None else ast.literal_eval(part.value)
    return None


def _class_parameters(line: list[ast.ClassDef]) -> dict[str, inspect.Parameter]:
    """What a class is made from: its __init__, or its fields and those it inherits."""
    found: dict[str, inspect.Parameter] = {}
    for node in line:
        for part in node.body:
            if isinstance(part, ast.AnnAssign) and "ClassVar" not in ast.unparse(part.annotation):
                name = ast.unparse(part.target)
                found[name] = _parameter(name, part.annotation, part.value)
            if isinstance(part, ast.FunctionDef) and part.name == "__init__":
                found = _parameters(part.args)
    return found


def _parameters(arguments: ast.arguments) -> dict[str, inspect.Parameter]:
    positional = [a for a in arguments.args if a.arg != "self"]
    missing: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    values = [*missing, *arguments.defaults]
    named = zip(
        [*positional, *arguments.kwonlyargs], [*values, *arguments.kw_defaults], strict=True
    )
    return {a.arg: _parameter(a.arg, a.annotation, v) for a, v in named}


def _parameter(name: str, hint: ast.expr | None, value: ast.expr | None) -> inspect.Parameter:
    if isinstance(value, ast.Call):  # eqx.field(default=...)
        value = next((k.value for k in value.keywords if k.arg == "default"), None)
    return inspect.Parameter(
        name,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        default=inspect.Parameter.empty if value is None else ast.literal_eval(value),
        annotation="" if hint is None else ast.unparse(hint),
    )


def _outside(module: str) -> Path:
    """The folder of an installed package; its parent packages may be run, JAX itself is not."""
    top, *rest = module.split(".")
    found = importlib.util.find_spec(top)
    if found is None or not found.submodule_search_locations:
        raise InputError(f"the package {top} is not installed.")
    return Path(found.submodule_search_locations[0], *rest)


@functools.cache
def solvers() -> tuple[str, ...]:
    """The solvers that a run can be given: lazy, and the explicit Runge-Kutta ones of diffrax."""
    text = "\n".join(
        path.read_text(encoding="utf-8")
        for path in sorted((_outside("diffrax") / "_solver").glob("*.py"))
    )
    return (
        "default",
        "lazy",
        *map(str.lower, re.findall(r"^class (\w+)\(AbstractERK\b", text, re.M)),
    )


@functools.cache
def activations() -> frozenset[str]:
    """All names of jax.nn and jax.numpy; which of them are functions of one number shows when they
    are called."""
    texts = [
        (_outside(module) / "__init__.py").read_text(encoding="utf-8")
        for module in ("jax.nn", "jax.numpy")
    ]
    return frozenset(name for text in texts for name in re.findall(r"\bas (\w+)", text))


class DataWord(NamedTuple):
    """A data set by name, taken apart: digits, sphere, or a file or folder; the column of labels of
    a table; what the targets mean."""

    kind: str
    path: Path
    label: str | None
    target: str | None


def kind_of(path: Path) -> str:
    """A file's ending, that of what is inside for x.csv.gz."""
    name = path.name.lower().removesuffix(".gz")
    return next((ending for ending in (*TABLES, ".npz") if name.endswith(ending)), path.suffix)


def data_word(text: str, target: str | None = None) -> DataWord:
    """What a command's `--data` names, see `data.open_data`. Raises `InputError` on a name that is
    none."""
    targets = declared("data/labels", "TARGETS")
    kind, colon, rest = text.partition(":")
    mnist = kind == "mnist" and bool(colon) and not Path(text).exists()
    place, label = rest if mnist else text, None
    if not Path(place).exists():  # what stands after its colons is no part of the path
        before, colon, last = place.rpartition(":")
        if colon and last in targets:
            place, target = before, last
        before, colon, last = place.rpartition(":")
        if colon and kind_of(Path(before)) in TABLES and not Path(place).exists():
            place, label = before, last
    path = Path(place)
    if mnist or path.is_dir():
        return DataWord("mnist", path, label, target)
    if place in ("digits", "sphere"):
        return DataWord(place, path, label, target)
    if kind_of(path) in TABLES:
        return DataWord("table", path, label, target)
    if not path.exists() and not path.suffix:
        near = unknown_name("data", text, ("digits", "sphere", "mnist:FOLDER"))
        raise InputError(
            f"{near} Or give an .npz, .csv or .parquet file, or a folder with MNIST's IDX files; "
            f"after a colon what its targets mean ({', '.join(targets)})."
        )
    return DataWord("npz", path, label, target)

"""The code behind a number: all modules of the package that a computation imports, without
comments and docstrings.

Imports are read from the syntax trees, wherever in a file they stand, and followed inside the
package; what only type checkers import is no part of it. A name of the front door, as in
`nm.simulate`, is followed to its home.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

PACKAGE = Path(__file__).resolve().parents[1]
_NAME = "ntk_momentum"


class Code(NamedTuple):
    """digest: of the modules' text; packages: top-level names of what they import from outside."""

    digest: str
    packages: frozenset[str]


def code_of(*modules: str, package: Path = PACKAGE) -> Code:
    """The code of modules, named as inside the package ("dynamics.simulation"), and of all that
    they import."""
    return _followed({}, {f"{_NAME}.{name}" for name in modules}, package, package)


def code_in_file(path: Path, names: Iterable[str], package: Path = PACKAGE) -> Code:
    """The code of a few top-level names of an experiment's file, and of all that they use there and
    import; other files of its folder are modules of `ntk_momentum.experiments`."""
    tree = _reached(_bare(path.read_text(encoding="utf-8")), set(names))
    return _followed({"": ast.unparse(tree)}, _imported(tree, _NAME), package, path.parent)


def _followed(texts: dict[str, str], waiting: set[str], package: Path, experiments: Path) -> Code:
    """texts: of the modules known by now; waiting: dotted names whose modules are to be added, with
    all that these import."""
    packages, homes, seen = set(), _homes(package), set()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        top, *parts = name.split(".")
        if top != _NAME:
            packages.add(top)
            continue
        if parts and parts[0] in homes:
            parts = homes[parts[0]].split(".")
        for end in range(1, len(parts) + 1):  # folders on the way have an __init__ that runs
            module = ".".join(parts[:end])
            path = _file(module, package, experiments)
            if path is not None and module not in texts:
                room = module if path.name == "__init__.py" else module.rpartition(".")[0]
                texts[module], imported = _read(path, f"{_NAME}.{room}".rstrip("."))
                waiting |= imported - seen
    digest = hashlib.sha256("\0".join(f"{m}\0{texts[m]}" for m in sorted(texts)).encode())
    return Code(digest.hexdigest(), frozenset(packages))


def _file(module: str, package: Path, experiments: Path) -> Path | None:
    """The file of a module; None when the name is no module's."""
    room, _, rest = module.partition(".")
    inside = experiments / rest if room == "experiments" else package / module.replace(".", "/")
    return next((p for p in (Path(f"{inside}.py"), inside / "__init__.py") if p.is_file()), None)


@functools.cache
def _read(path: Path, room: str) -> tuple[str, set[str]]:
    """(text, dotted names imported), read once: what runs is the code of the process's start."""
    return _understood(path.read_text(encoding="utf-8"), room)


@functools.cache
def _understood(text: str, room: str) -> tuple[str, set[str]]:
    tree = _bare(text)
    return ast.unparse(tree), _imported(tree, room)


@functools.cache
def _homes(package: Path) -> dict[str, str]:
    """The front door's names with the modules that they live in."""
    for node in ast.parse((package / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOMES":
            homes = ast.literal_eval(node.value)
            return {name: home for home, names in homes.items() for name in names}
    return {}


def _bare(text: str) -> ast.Module:
    """Without docstrings, strings that stand alone, and what only type checkers see."""
    tree = ast.parse(text)
    _strip(tree)
    return tree


def _strip(node: Any) -> None:
    # Statements alone: of expressions there are ten times as many, and none is looked for in them.
    for part in ("body", "orelse", "finalbody", "handlers", "cases"):
        inside = getattr(node, part, None)
        if isinstance(inside, list):
            inside[:] = [statement for statement in inside if not _unseen(statement)]
            for statement in inside:
                _strip(statement)
    if getattr(node, "body", None) == []:
        node.body = [ast.Pass()]


def _unseen(node: ast.AST) -> bool:
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in {getattr(node.test, part, None) for part in ("id", "attr")}
    value = getattr(node, "value", None) if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _imported(tree: ast.Module, room: str) -> set[str]:
    """Dotted names of all that a module imports, and of what it takes from an imported module.

    room: the package that a relative import of one dot means.
    """
    bound: dict[str, str] = {}  # name in the module -> dotted name
    found, chains = set(), list[ast.Attribute]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            chains.append(node)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            for alias in node.names:
                top = alias.name.partition(".")[0]
                bound[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom):
            base = room.split(".")[: len(room.split(".")) + 1 - node.level] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            if source != _NAME:  # the front door leads to what is named, and imports nothing
                found.add(source)
            found |= {f"{source}.{alias.name}" for alias in node.names}
            bound |= {alias.asname or alias.name: f"{source}.{alias.name}" for alias in node.names}
    for chain in chains:
        node: ast.expr = chain
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts, node = [node.attr, *parts], node.value
        if parts and isinstance(node, ast.Name) and node.id in bound:
            found.add(".".join([bound[node.id], *parts]))
    return found - {_NAME}


def _reached(tree: ast.Module, names: set[str]) -> ast.Module:
    """The statements of a file that decide the values of a few of its names."""
    kept: set[ast.stmt] = set()
    while True:
        new = [
            node
            for node in tree.body
            if node not in kept and (not (binds := _bound(node)) or binds & names)
        ]
        if not new:
            break
        kept |= set(new)
        names = names.union(
            *({part.id for part in ast.walk(node) if isinstance(part, ast.Name)} for node in new)
        )
    body = [_trimmed(node, names) for node in tree.body if node in kept]
    return ast.Module(body, [])


def _bound(node: ast.stmt) -> set[str]:
    """The names that a statement defines or changes."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {node.name}
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    targets = [part for part in ast.walk(node) if isinstance(getattr(part, "ctx", None), ast.Store)]
    return {name.id for part in targets for name in ast.walk(part) if isinstance(name, ast.Name)}


def _trimmed(node: ast.stmt, names: set[str]) -> ast.stmt:
    """An import without what is not used."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        node.names = [a for a in node.names if (a.asname or a.name).partition(".")[0] in names]
    return node

"""The shape of the house: imports run one way, nothing heavy loads before it is needed, files stay
short."""

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ntk_momentum"
CORE = {
    "jax",
    "jaxlib",
    "diffrax",
    "optax",
    "equinox",
    "jaxtyping",
    "numpy",
    "scipy",
    "lineax",
    "optimistix",
    "matplotlib",
}


def imports(path: Path) -> Iterator[tuple[ast.Import | ast.ImportFrom, str, bool]]:
    """(node, dotted name, whether at the top level) of every import that runs; those for type
    checkers do not."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    checked = [
        block
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
    ]
    unseen = {id(n) for block in checked for n in ast.walk(block)}
    inner = {
        id(n)
        for f in ast.walk(tree)
        if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef))
        for n in ast.walk(f)
    }
    for node in ast.walk(tree):
        if id(node) in unseen:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name, id(node) not in inner
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node, node.module or "", id(node) not in inner
        elif isinstance(node, ast.ImportFrom):
            parts = path.relative_to(ROOT).parts[: -node.level]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            for name in names:
                yield node, ".".join((*parts, name)), id(node) not in inner


def room(path: Path) -> str:
    """The folder of a file of the package; a file of the root is a room of its own."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0] if len(parts) > 1 else f"{parts[0]}.py"


def files() -> dict[str, Path]:
    """Dotted name -> file, packages by their __init__."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def arrows() -> set[tuple[Path, Path]]:
    """(file, file of the package that it imports); the root's __init__ is the front door and
    imports lazily."""
    known = files()
    front = known.pop("ntk_momentum")
    return {
        (path, known[name])
        for path in known.values()
        if path != front
        for node, target, _ in imports(path)
        for name in (target, *(f"{target}.{alias.name}" for alias in node.names))
        if name in known and known[name] != path
    }


def test_rooms_stand_on_at_most_ten_floors_and_no_import_runs_up_or_round():
    rooms: dict[str, set[str]] = {room(path): set() for path in files().values()}
    for a, b in arrows():
        if room(a) != room(b):
            rooms[room(a)].add(room(b))
    floor: dict[str, int] = {}
    for name in graphlib.TopologicalSorter(rooms).static_order():  # raises where there is a circle
        floor[name] = 1 + max((floor[below] for below in rooms[name]), default=0)
    assert max(floor.values()) <= 10, floor
    assert floor["errors.py"] == 1 and floor["cli"] == max(
        floor[name] for name in rooms if name != "__main__.py"
    )


def test_files_of_one_room_import_each_other_in_no_circle():
    graph: dict[Path, set[Path]] = {}
    for a, b in arrows():
        if a.name != "__init__.py" and b.name != "__init__.py":
            graph.setdefault(a, set()).add(b)
    tuple(graphlib.TopologicalSorter(graph).static_order())


def test_few_files_stand_at_the_front_door():
    assert len(list(PACKAGE.glob("*.py"))) <= 12


def test_no_room_is_called_like_a_public_function():
    """Importing nm.NAME.module would put the room in the function's place."""
    import ntk_momentum as nm

    assert {path.name for path in PACKAGE.iterdir() if path.is_dir()} & set(nm.__all__) == set()


def test_what_is_below_knows_nothing_of_what_is_above():
    seen: dict[str, set[str]] = {}
    for a, b in arrows():
        seen.setdefault(room(a), set()).add(room(b))
    assert seen["method"] <= {"method", "errors.py", "loops.py"}
    assert seen["kernel"].isdisjoint({"method", "dynamics", "data", "loss.py"})
    assert seen["theory"].isdisjoint({"dynamics", "network", "data"})


def test_two_rooms_never_use_one_name_for_two_things():
    where: dict[str, set[str]] = {}
    for path in set(files().values()) - {PACKAGE / "__main__.py"}:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [node.name] if isinstance(node, (ast.FunctionDef, ast.ClassDef)) else []
            if isinstance(node, ast.Assign):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            for name in names:
                if not name.startswith("_"):
                    where.setdefault(name, set()).add(room(path))
    assert {name: rooms for name, rooms in where.items() if len(rooms) > 1} == {}


def test_packages_outside_the_core_are_imported_only_where_they_are_used():
    allowed = CORE | set(sys.stdlib_module_names) | {"ntk_momentum"}
    early = {
        (path.name, name)
        for path in PACKAGE.rglob("*.py")
        for _, name, top in imports(path)
        if top
        and name.split(".")[0] not in allowed
        and not (room(path) == "cli" and name == "tyro")
    }
    assert early == set()


def test_importing_the_package_loads_nothing_and_changes_nothing():
    code = (
        "import sys, ntk_momentum as nm; assert not {'jax', 'numpy'} & "
        "set(sys.modules); import jax; before = dict(jax.config.values);"
        "[getattr(nm, name) for name in nm.__all__]; assert dict(jax.config.values) == before"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_files_stay_short():
    """A few screens at most."""
    lines = {path: path.read_text(encoding="utf-8").count("\n") for path in PACKAGE.rglob("*.py")}
    assert {path.name: n for path, n in lines.items() if n > 550} == {}


def test_every_module_says_what_it_is():
    assert [
        path.name
        for path in PACKAGE.rglob("*.py")
        if not ast.get_docstring(ast.parse(path.read_text()))
    ] == []


def test_the_lock_is_hashed_and_names_no_host():
    lock = (ROOT / "requirements.lock").read_text()
    pins = re.findall(r"^\S+==\S+.*?(?=^\S|\Z)", lock, flags=re.MULTILINE | re.DOTALL)
    assert len(pins) > 40 and all("--hash=sha256:" in pin for pin in pins)
    assert "://" not in lock and "--index" not in lock and "--find-links" not in lock


def test_declared_packages_are_in_the_lock():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *project["optional-dependencies"]["test"],
        *project["optional-dependencies"]["build"],
    ]
    lock = (ROOT / "requirements.lock").read_text()
    for requirement in wanted:
        name = re.split(r"[>=<\[ ;]", requirement)[0]
        assert re.search(rf"^{re.escape(name)}==", lock, flags=re.MULTILINE | re.IGNORECASE), name

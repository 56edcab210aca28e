"""The shape of the house: imports run one way, nothing heavy loads before it is needed, files stay short."""

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ntk_momentum"
SURFACE = {"bench", "experiment", "options", "plotting", "sketch", "report", "reproduce", "results", "show", "sweeping", "cli", "__main__"}
CORE = {"jax", "jaxlib", "diffrax", "optax", "equinox", "jaxtyping", "numpy", "scipy", "lineax", "optimistix", "matplotlib"}


def imports(path: Path) -> Iterator[tuple[ast.stmt, str, bool]]:
    """(node, dotted name, whether at the top level) of every import that runs; those for type checkers do not."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    checked = [block for block in ast.walk(tree) if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)]
    unseen = {id(n) for block in checked for n in ast.walk(block)}
    inner = {id(n) for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef)) for n in ast.walk(f)}
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


def noun(dotted: str) -> str:
    """ntk_momentum.kernel.two_layer -> kernel."""
    return dotted.split(".")[1] if "." in dotted else ""


def graph() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        name = noun(".".join(path.relative_to(ROOT).with_suffix("").parts))
        if name == "__init__":
            continue
        needs = {noun(target) for _, target, _ in imports(path) if target.startswith("ntk_momentum.")}
        found.setdefault(name, set()).update(needs - {name, "__version__"})
    return found


def test_imports_between_modules_have_no_cycle():
    assert next(iter(graphlib.TopologicalSorter(graph()).static_order())) == "errors"


def test_mathematics_never_imports_what_shows_it():
    assert {(name, need) for name, needs in graph().items() if name not in SURFACE for need in needs & SURFACE} == set()


def test_a_flow_knows_nothing_of_networks_and_the_kernel_nothing_of_flows():
    needs = graph()
    assert needs["method"].isdisjoint({"network", "kernel", "simulation", "loss", "data"})
    assert needs["kernel"].isdisjoint({"method", "simulation", "training", "solver", "data"})


def test_packages_outside_the_core_are_imported_only_where_they_are_used():
    allowed = CORE | set(sys.stdlib_module_names) | {"ntk_momentum"}
    early = {
        (path.name, name)
        for path in PACKAGE.rglob("*.py")
        for _, name, top in imports(path)
        if top and name.split(".")[0] not in allowed and (path.name, name) not in {("cli.py", "tyro"), ("options.py", "tyro")}
    }
    assert early == set()


def test_importing_the_package_loads_nothing_and_changes_nothing():
    code = (
        "import sys, ntk_momentum as nm; assert not {'jax', 'numpy'} & set(sys.modules); import jax; before = dict(jax.config.values);"
        "[getattr(nm, name) for name in nm.__all__]; assert dict(jax.config.values) == before"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_files_stay_short():
    """A few screens at most."""
    lines = {path: path.read_text(encoding="utf-8").count("\n") for path in PACKAGE.rglob("*.py")}
    assert {path.name: n for path, n in lines.items() if n > 400} == {}


def test_every_module_says_what_it_is():
    assert [path.name for path in PACKAGE.rglob("*.py") if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_the_lock_is_hashed_and_names_no_host():
    lock = (ROOT / "requirements.lock").read_text()
    pins = re.findall(r"^\S+==\S+.*?(?=^\S|\Z)", lock, flags=re.MULTILINE | re.DOTALL)
    assert len(pins) > 40 and all("--hash=sha256:" in pin for pin in pins)
    assert "://" not in lock and "--index" not in lock and "--find-links" not in lock


def test_declared_packages_are_in_the_lock():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"], *project["optional-dependencies"]["build"]]
    lock = (ROOT / "requirements.lock").read_text()
    for requirement in wanted:
        name = re.split(r"[>=<\[ ;]", requirement)[0]
        assert re.search(rf"^{re.escape(name)}==", lock, flags=re.MULTILINE | re.IGNORECASE), name

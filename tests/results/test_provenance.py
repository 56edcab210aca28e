"""What a result is named by: all that determines its numbers, and nothing else."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ntk_momentum.results import provenance, sources
from ntk_momentum.results.provenance import identity_of
from ntk_momentum.results.sources import PACKAGE, Code, code_in_file, code_of
from ntk_momentum.study import registry

ROOTS = {
    "a simulation": "dynamics.simulation",
    "a unit of a sweep": "ensembles.ensemble",
    "the claims": "ledger.claims",
}
CODE = Code("code", frozenset({"jax", "diffrax", "numpy"}))


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("copy") / "ntk_momentum"
    shutil.copytree(PACKAGE, place, ignore=shutil.ignore_patterns("__pycache__"))
    return place


@pytest.fixture
def edited(copy):
    """edited(file, old, new, root) -> whether that changes the code behind a root."""

    def changes(file: str, old: str, new: str, root: str) -> bool:
        path = copy / file
        before, text = code_of(root, package=copy), path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        sources._read.cache_clear()
        try:
            return code_of(root, package=copy) != before
        finally:
            path.write_text(text, encoding="utf-8")
            sources._read.cache_clear()

    return changes


def reached(root: str) -> set[str]:
    """The modules behind a root."""
    texts: dict[str, str] = {}
    sources._followed(texts, {f"ntk_momentum.{root}"}, PACKAGE, PACKAGE)
    return set(texts)


@pytest.mark.parametrize("root", ROOTS.values(), ids=ROOTS)
def test_comments_docstrings_and_layout_change_nothing(edited, root):
    file = "kernel/spectrum.py"
    assert not edited(file, "\nfrom ", "\n# why\n\n\nfrom ", root)
    assert not edited(file, '"""', '"""Once upon a time. ', root)
    assert not edited("errors.py", "class InputError", '"""Note."""\n\n\nclass InputError', root)
    assert edited(file, "\nfrom ", "\nNUMBER = 1\nfrom ", root)


def test_every_number_in_a_module_that_is_imported_counts(edited):
    path = PACKAGE / "dynamics/solver/lazy.py"
    node = next(
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    )
    old = ast.unparse(node)
    for root in ROOTS.values():
        assert edited("dynamics/solver/lazy.py", old, old + " + 0", root)


def test_modules_that_are_not_imported_do_not_matter(edited):
    for file in ("cli/table.py", "study/report.py", "results/store.py", "theory/bounds.py"):
        assert not edited(file, "\nfrom ", "\nNUMBER = 1\nfrom ", "dynamics.simulation")
        assert not edited(file, "\nfrom ", "\nNUMBER = 1\nfrom ", "ensembles.ensemble")
    assert edited("theory/bounds.py", "\nfrom ", "\nNUMBER = 1\nfrom ", "ledger.claims")


@pytest.mark.slow
def test_what_an_import_really_loads_is_followed():
    """No module of the package that these load is missing from what is followed."""
    imports = ", ".join(f"ntk_momentum.{root}" for root in ROOTS.values())
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, {imports}; print(*sys.modules)"],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
    )
    loaded = {
        name.removeprefix("ntk_momentum.")
        for name in done.stdout.split()
        if name.startswith("ntk_momentum.")
    }
    assert loaded and loaded <= set().union(*map(reached, ROOTS.values())), done.stderr


def test_a_simulation_is_not_named_by_what_judges_or_shows_it():
    rooms = {name.partition(".")[0] for name in reached("ensembles.ensemble")}
    assert rooms.isdisjoint({"judge", "ledger", "theory", "results", "study", "cli", "files"})


def test_an_experiment_is_named_by_what_its_run_uses(tmp_path):
    (tmp_path / "_shared.py").write_text("import ntk_momentum as nm\nRATE = nm.HeavyBall(2.0)\n")
    path = tmp_path / "mine.py"
    text = """'''Mine'''
import ntk_momentum as nm
from ntk_momentum.study import plotting
from ntk_momentum.experiments import _shared as shared
ORDER = 3
SIZES = {"smoke": 1}
SIZES["full"] = 2
COLOR = "red"

def half(x):
    return x / 2

def run(config, progress):
    # a comment
    return half(nm.spectrum), shared.RATE

@plotting.house_style
def plot(dataset):
    return COLOR
"""

    def code(text: str, *names: str) -> Code:
        path.write_text(text)
        return code_in_file(path, names or ("run", "SIZES"))

    before = code(text)
    assert "jax" in before.packages
    for old, new in (
        ("# a comment", "# another"),
        ("'''Mine'''", "'''Yours'''"),
        ("ORDER = 3", "ORDER = 4"),
        ('"red"', '"blue"'),
        ("return COLOR", "return plotting"),
    ):
        assert code(text.replace(old, new)) == before
    for old, new in (("x / 2", "x / 3"), ('["full"] = 2', '["full"] = 3'), ("nm.spec", "nm.simu")):
        assert code(text.replace(old, new)) != before
    assert code(text.replace('"red"', '"blue"'), "plot") != code(text, "plot")
    assert code(text.replace("x / 2", "x / 3"), "plot") == code(text, "plot")
    texts: dict[str, str] = {}
    tree = sources._reached(sources._bare(text), {"run"})
    sources._followed(texts, sources._imported(tree, "ntk_momentum"), PACKAGE, tmp_path)
    assert {"experiments._shared", "kernel.spectrum", "method.heavy_ball"} <= set(texts)
    assert not {name for name in texts if name.startswith("study")}
    (tmp_path / "_shared.py").write_text("import ntk_momentum as nm\nRATE = nm.HeavyBall(3.0)\n")
    sources._read.cache_clear()
    assert code(text) != before


@pytest.mark.slow
def test_every_experiment_has_code_for_its_numbers_and_for_its_figure():
    for experiment in registry.experiments().values():
        numbers = experiment.code("run", "SIZES")
        assert "jax" in numbers.packages and numbers != experiment.code("plot")


def test_versions_devices_and_dtypes_tell_results_apart(monkeypatch):
    import jax

    before = identity_of(CODE, {"n": 1})
    assert len(before) == 16 and before == identity_of(CODE, {"n": 1})
    assert before != identity_of(CODE, {"n": 2})
    assert before != identity_of(CODE._replace(digest="other"), {"n": 1})
    version = provenance._version
    for package, counts in (("jax", 1), ("jaxlib", 1), ("diffrax", 1), ("optax", 0), ("numpy", 0)):
        newer = lambda name, package=package: "99" if name == package else version(name)
        with monkeypatch.context() as patch:
            patch.setattr(provenance, "_version", newer)
            assert (identity_of(CODE, {"n": 1}) != before) == counts, package
    with monkeypatch.context() as patch:
        patch.setattr(provenance, "device_kind", lambda: "gpu NVIDIA H100")
        assert identity_of(CODE, {"n": 1}) != before
    jax.config.update("jax_enable_x64", False)
    try:
        assert identity_of(CODE, {"n": 1}) != before
    finally:
        jax.config.update("jax_enable_x64", True)
    drawn = identity_of(CODE, {"n": 1}, computed=False)
    monkeypatch.setattr(provenance, "device_kind", lambda: "gpu NVIDIA H100")
    assert identity_of(CODE, {"n": 1}, computed=False) == drawn

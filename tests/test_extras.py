"""Command line, results, report and data are extras: the core runs without them, and a missing one
is named by one function, with the extra that brings it."""

import ast
import re
import subprocess
import sys
import tomllib

import pytest
from test_layout import CORE, PACKAGE, ROOT, imports

from ntk_momentum.errors import EXTRAS, MissingPackage, require

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

WITHOUT_EXTRAS = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {{*{sorted(EXTRAS)!r}, "sklearn"}}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
import ntk_momentum as nm
from ntk_momentum.errors import MissingPackage

"""


def run_without_extras(code: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS + code], cwd=ROOT, capture_output=True, text=True
    )


def packages(requirements: list[str]) -> set[str]:
    return {re.split(r"[>=<\[ ;]", requirement)[0] for requirement in requirements}


def test_the_table_of_extras_is_that_of_the_project():
    declared = {
        (package, extra)
        for extra in set(EXTRAS.values())
        for package in packages(PROJECT["optional-dependencies"][extra])
    }
    assert set(EXTRAS.items()) <= declared  # what two extras hold is asked for by one of them
    assert {package for package, _ in declared} == set(EXTRAS)
    (everything,) = PROJECT["optional-dependencies"]["all"]
    named = set(re.findall(r"\w+", everything.partition("[")[2]))
    assert named == set(EXTRAS.values()) - {"lyapunov"}
    assert packages(PROJECT["dependencies"]) == CORE - {"optimistix"}  # which comes with diffrax


@pytest.mark.slow
def test_the_core_computes_on_the_digits_without_any_extra():
    done = run_without_extras(
        """
data = nm.load_digits(6, key=jax.random.key(0))
kernel = nm.infinite_ntk(data.X)
net = nm.init_two_layer(64, data.input_size, key=jax.random.key(1))
empirical = nm.empirical_ntk(net, data.X)
ts = np.linspace(0, 1, 3)
run = nm.simulate(net, data, nm.HeavyBall(0.5), ts)
theory = nm.predict(kernel, run.f[0] - data.y, nm.HeavyBall(0.5), ts)
trained = nm.train(net, data, nm.gradient_descent(0.1), 3)
operator = nm.ntk_operator(net, data.X)
advice = nm.advise(kernel, -data.y)
assert run.ok and trained.ok and theory.loss.shape == (3,) and empirical.shape == (6, 6)
"""
    )
    assert done.returncode == 0, done.stderr


CALLS = {
    "results, from a trajectory": ("results", "run.to_xarray()"),
    "results, opened": ("results", "nm.open_results(folder)"),
    "results, an experiment": ("results", "find(('concentration',))[0].load()"),
    "data, CSV": ("data", "nm.load_table(folder + '/x.csv')"),
    "data, Parquet": ("data", "nm.load_table(folder + '/x.parquet')"),
    "lyapunov": ("lyapunov", "search.best_power(3.0, over='convex')"),
    "cli, the progress bar": ("cli", "Bar(1)"),
    "cli, the parser": ("cli", "__import__('ntk_momentum.cli')"),
    "report": ("report", "write_report(Path(folder), 'smoke', [], [], '', [], 'r.html')"),
}


@pytest.mark.slow
def test_what_needs_an_extra_names_it(tmp_path):
    """One child process for all, since each imports jax."""
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    calls = {name: call for name, (_, call) in CALLS.items()}
    done = run_without_extras(
        f"""
from pathlib import Path
from ntk_momentum.progress import Bar
from ntk_momentum.study.registry import find
from ntk_momentum.study.report import write_report
from ntk_momentum.theory import search
folder = {str(tmp_path)!r}
data = nm.sphere(3, 2, key=jax.random.key(0))
net = nm.init_two_layer(8, 2, key=jax.random.key(1))
run = nm.simulate(net, data, nm.GradientFlow(), [0.0, 0.1], readouts=["loss"])
operator = nm.ntk_operator(net, data.X)
for name, call in {calls!r}.items():
    try:
        eval(call)
        print(name, "| nothing was raised")
    except MissingPackage as error:
        print(name, "|", error)
"""
    )
    assert done.returncode == 0, done.stderr
    said = dict(line.split(" | ") for line in done.stdout.splitlines())
    wrong = {
        name: said.get(name)
        for name, (extra, _) in CALLS.items()
        if f"pip install 'ntk_momentum[{extra}]'" not in said.get(name, "")
    }
    assert wrong == {}


def test_the_command_without_its_parser_says_so_in_one_line():
    done = run_without_extras(
        "from ntk_momentum.__main__ import main\nsys.argv = ['x', 'list']\nsys.exit(main())"
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "'ntk_momentum[cli]'" in done.stderr


def test_a_package_of_the_core_and_a_broken_one_are_told_apart(tmp_path, monkeypatch):
    with pytest.raises(MissingPackage, match=r"'absent_package', which is not.*'ntk_momentum'$"):
        require("absent_package.part", "this test")
    (tmp_path / "broken_package.py").write_text("raise ImportError('libhdf5.so is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingPackage, match=r"cannot be imported \(libhdf5.so is missing\)"):
        require("broken_package", "this test")


def test_every_import_of_an_extra_goes_through_require():
    """Apart from the parser's own files, which the front of the command line guards."""
    plain = {
        (path.relative_to(PACKAGE).as_posix(), name)
        for path in PACKAGE.rglob("*.py")
        for _, name, _ in imports(path)
        if name.partition(".")[0] in {*EXTRAS, "sklearn"}
        and not (path.parent.name == "cli" and name == "tyro")
    }
    assert plain == set()
    required = {
        node.args[0].value.partition(".")[0]
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "require"
        and isinstance(node.args[0], ast.Constant)
    }
    assert required <= {*EXTRAS, *CORE}

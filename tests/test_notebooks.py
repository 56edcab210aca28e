"""Notebooks are scripts that run from top to bottom; beside each lies what it printed and drew."""

import ast
import importlib.util
import io
import json
import re
import runpy
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

ABSOLUTE = re.compile(
    r"(?<![\w:/.<~-])/[A-Za-z][\w.-]*/[\w.-]+"
)  # a path of the machine that ran it; no URL, no fraction
NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("0*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_from_top_to_bottom(path, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    with matplotlib.rc_context({"backend": "Agg"}):
        runpy.run_path(str(path))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_executed_notebook_is_of_this_script_and_of_no_machine(path):
    text = path.with_suffix(".ipynb").read_text(encoding="utf-8")
    cells = json.loads(text)["cells"]
    shown = [
        ast.dump(ast.parse("".join(cell["source"])))
        for cell in cells
        if cell["cell_type"] == "code"
    ]
    blocks = path.read_text(encoding="utf-8").split("\n# %%")[1:]
    assert shown == [
        ast.dump(ast.parse(block)) for block in blocks if not block.startswith(" [markdown]")
    ], "run scripts/notebooks"
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert any("image/svg+xml" in output.get("data", {}) for output in outputs)
    assert not any(
        output["output_type"] == "error" or output.get("name") == "stderr" for output in outputs
    )
    printed = [{key: value for key, value in output.items() if key != "data"} for output in outputs]
    printed += [
        {
            kind: value
            for kind, value in output.get("data", {}).items()
            if not kind.startswith("image/")
        }
        for output in outputs
    ]
    assert "site-packages" not in text and not ABSOLUTE.findall(
        json.dumps([*printed, [cell["source"] for cell in cells]])
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_defines_nothing_longer_than_ten_lines(path):
    definitions = [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    ]
    assert not [node.name for node in definitions if node.end_lineno - node.lineno >= 10]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_interactive_page_runs_and_its_closed_forms_are_quick():
    pytest.importorskip("marimo")
    spec = importlib.util.spec_from_file_location(
        "interactive", NOTEBOOKS[0].with_name("interactive.py")
    )
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    page.app.run()  # compiles
    shown, names = page.app.run()
    assert (
        len([output for output in shown if output is not None]) == 2
    )  # the sliders with the closed forms, and the network
    assert "".join(names["closed"]).count("<path") > 10 and all(
        run.ok for run in names["runs"].values()
    )
    assert names["solved"] < 500  # below 100 on a machine that does nothing else
    stored = io.BytesIO()
    np.savez(stored, H=2 * np.eye(3), y=np.ones(3))
    kernel, start = names["read"](stored.getvalue())  # a kernel of one's own
    assert kernel.tolist() == (2 * np.eye(3)).tolist() and start.tolist() == [-1, -1, -1]

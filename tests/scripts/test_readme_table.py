"""The steps in the README's table are those of the experiment, written by scripts/readme."""

import importlib.machinery
import importlib.util
import os
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "readme"
MNIST = os.environ.get("NTK_MOMENTUM_MNIST")


@pytest.fixture(scope="module")
def readme():
    loader = importlib.machinery.SourceFileLoader("readme", str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("readme", loader))
    loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize(
    "data",
    [
        "digits",
        pytest.param(
            f"mnist:{MNIST}",
            marks=pytest.mark.skipif(MNIST is None, reason="NTK_MOMENTUM_MNIST names no folder"),
            id="mnist",
        ),
    ],
)
def test_the_steps_of_the_readme_are_those_of_the_experiment(readme, tmp_path, data):
    text = readme.README.read_text(encoding="utf-8")
    assert readme.written(text, data.partition(":")[0], *readme.columns(data, tmp_path)) == text


def test_the_table_takes_what_is_found_and_leaves_the_rest(readme):
    text = readme.README.read_text(encoding="utf-8")
    changed = readme.written(text, "mnist", "7", {"1 %": ["1", "2 (0.5)", "3 (0.3)"]})
    (old,) = (line for line in text.split("\n") if line.startswith("| 1 %"))
    (new,) = (line for line in changed.split("\n") if line.startswith("| 1 %"))
    assert new.startswith(old[: old.index("38")]) and new.endswith("| 1 | 2 (0.5) | 3 (0.3) |")
    assert "50 MNIST images, κ = 7:" in changed and "50 digits, κ = 333:" in changed

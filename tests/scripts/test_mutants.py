"""The mutants fit the package: each bug has its place, and tests that exist."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MUTANTS = tomllib.loads((ROOT / "scripts" / "mutants.toml").read_text(encoding="utf-8"))["mutant"]


def test_there_are_sixty_and_no_name_stands_twice():
    assert len({one["name"] for one in MUTANTS}) == len(MUTANTS) >= 60


@pytest.mark.parametrize("file", sorted({one["file"] for one in MUTANTS}))
def test_what_a_mutant_replaces_stands_in_its_file_once_and_the_bug_is_python(file):
    text = (ROOT / "ntk_momentum" / file).read_text(encoding="utf-8")
    for one in MUTANTS:
        if one["file"] == file:
            assert text.count(one["before"]) == 1, one["name"]
            ast.parse(text.replace(one["before"], one["after"]))


def test_the_tests_that_should_catch_them_exist():
    for test in {test for one in MUTANTS for test in one["tests"]}:
        file, _, name = test.partition("::")
        text = (ROOT / file).read_text(encoding="utf-8")
        assert not name or f"def {name.partition('[')[0]}(" in text, test

"""The documentation names what exists, its Python runs, and the built site needs no network."""

import importlib
import os
import re
from pathlib import Path

import numpy as np
import pytest

import ntk_momentum as nm
from ntk_momentum import cli
from ntk_momentum.dynamics.readout import READOUTS
from ntk_momentum.ledger.ledger import PAPER_ORDER

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = sorted(path for path in DOCS.glob("*.md") if not path.is_symlink())
MAP = (DOCS / "paper-to-code.md").read_text(encoding="utf-8")


def resolve(name):
    """ntk_momentum.a.b.c, whose first parts are modules."""
    *modules, last = name.split(".")
    return getattr(importlib.import_module(".".join(["ntk_momentum", *modules])), last)


def test_every_numbered_statement_is_on_the_map():
    statements = MAP.partition("## Beyond")[0]
    assert set(re.findall(r"^\|[^|]*\| `([\w.-]+)` \|", statements, flags=re.MULTILINE)) == set(
        PAPER_ORDER
    )


def test_the_command_line_lists_every_statement_and_where_it_is_run(capsys):
    assert cli.main(["list", "--claims"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == list(PAPER_ORDER)
    assert all(callable(resolve(row[-1].removeprefix("ntk_momentum."))) for row in rows)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_names_in_the_documentation_exist(page):
    text = page.read_text(encoding="utf-8")
    for name in set(re.findall(r"`(?:nm|ntk_momentum)\.([\w.]*\w)", text)):
        resolve(name)
    for names in re.findall(r"read-outs? ((?:`\w+`(?:, )?)+)", text):
        assert set(re.findall(r"\w+", names)) <= set(READOUTS)
    for line in re.findall(r"^ntk-momentum (.*?)(?:\s+#.*)?$", text, flags=re.MULTILINE):
        assert isinstance(cli.parse(line.split()), cli.Main)


def test_imports_of_the_documentation_work():
    """Also in blocks that are too large to be run here."""
    for page in PAGES:
        for block in re.findall(
            r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL
        ):
            for line in re.findall(r"^(?:from|import) .*", block, flags=re.MULTILINE):
                exec(line, {})


def test_every_public_name_is_in_the_reference():
    pages = "\n".join(page.read_text("utf-8") for page in (DOCS / "reference").glob("*.md"))
    entries = re.findall(
        r"^::: ([\w.]+)(?:\n +options: \{members: \[(.*?)\]\})?", pages, re.MULTILINE
    )
    named = {name for _, members in entries for name in members.split(", ")}
    named |= {path.rpartition(".")[2] for path, _ in entries}
    whole = {path for path, members in entries if not members}
    missing = [
        name
        for name in nm.__all__
        if name not in named and getattr(nm, name).__module__ not in whole
    ]
    assert not missing


@pytest.mark.slow
def test_the_conversions_between_tools_hold():
    text = (DOCS / "which-tool.md").read_text(encoding="utf-8")
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(compile(block, "which-tool.md", "exec"), names)
    assert names["hidden"].shape == (20, 20) and np.all(np.linalg.eigvalsh(names["hidden"]) > 0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_site_builds_without_a_warning_and_fetches_nothing(tmp_path, monkeypatch):
    pytest.importorskip("mkdocs_jupyter")
    mkdocs_config, build = (
        importlib.import_module("mkdocs.config"),
        importlib.import_module("mkdocs.commands.build"),
    )
    monkeypatch.chdir(DOCS.parent)
    monkeypatch.setitem(os.environ, "NO_MKDOCS_2_WARNING", "1")
    config = mkdocs_config.load_config("mkdocs.yml", site_dir=str(tmp_path))
    config.plugins.on_startup(command="build", dirty=False)
    build.build(config)
    pages = {
        path.relative_to(tmp_path).as_posix(): path.read_text(encoding="utf-8")
        for path in tmp_path.rglob("*.html")
    }
    assert "index.html" in pages and "reference/kernels.html" in pages and len(pages) > 15
    for name, text in pages.items():
        assert not re.findall(
            r'<(?:script|img|iframe)[^>]+src="?https?:'
            r'|<link[^>]+rel="?(?:stylesheet|preload)[^>]+https?:',
            text,
        ), name
        assert 'class="arithmatex"' not in text, name
    assert (
        "<math" in pages["paper-to-code.html"]
        and "<math" in pages["notebooks/01_the_paper_in_twenty_minutes.html"]
    )

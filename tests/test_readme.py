"""The README's Python runs and shows what it says; its links and commands exist."""

import re
from pathlib import Path

import numpy as np
import pytest

import ntk_momentum as nm
from ntk_momentum import cli
from ntk_momentum.cli.verify import Verify
from ntk_momentum.ledger.ledger import PAPER_ORDER

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    path.stem: path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "docs").glob("*.md"))
    if not path.is_symlink()
}
COMMAND = re.compile(
    r"^(?:python3 -m ntk_momentum|ntk-momentum) (.*?)(?:\s+#.*)?$", flags=re.MULTILINE
)


def test_the_ten_lines_run_and_the_network_follows_the_theory(capsys):
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    names: dict = {}
    exec(compile(block, "README.md", "exec"), names)
    network, theory = names["network"], names["theory"]
    (said,) = re.findall(r"```text\n(.*?)```", TEXT, flags=re.DOTALL)
    numbers = lambda text: np.array([float(x) for x in re.findall(r"\d+\.\d+", text)])
    np.testing.assert_allclose(numbers(capsys.readouterr().out), numbers(said), atol=0.02)
    assert network.ok
    assert np.max(np.abs(network.loss - theory.loss)) < 0.1 * network.loss[0]
    assert network.loss[-1] < 0.05 * network.loss[0]


def test_every_path_and_name_in_the_readme_exists():
    paths = {*re.findall(r"^scripts/\w+", TEXT, flags=re.MULTILINE), "CITATION.cff"}
    assert len(paths) == 3 and not [path for path in paths if not (ROOT / path).exists()]
    assert not [name for name in re.findall(r"\bnm\.(\w+)", TEXT) if name not in nm.__all__]
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if not link.startswith("https://")]
    assert len(links) > 8 and not [link for link in links if not (ROOT / link).exists()]


@pytest.mark.parametrize(
    "line",
    COMMAND.findall(TEXT),
)
def test_commands_in_the_readme_parse(line):
    assert isinstance(cli.parse(line.split()), cli.Main)


@pytest.mark.parametrize(
    "line",
    re.findall(
        r"`((?:verify|run|sweep|list)(?: [^`]*)?)`",
        PAGES["paper-to-code"].partition("## In short")[2],
    ),
)
def test_commands_of_the_map_parse_and_name_claims_that_exist(line):
    if line != "run":
        command = cli.parse(line.split()).command
        assert not isinstance(command, Verify) or set(command.claims) <= set(PAPER_ORDER)


def test_help_names_the_commands_of_the_readme():
    assert {line.split()[0] for line in COMMAND.findall(TEXT) if not line.startswith("-")} <= set(
        cli.NAMES
    )


def test_the_readme_is_two_screens_and_every_page_is_in_the_navigation():
    # a page of GitHub has 45 lines of 115 letters; measured there, text alone: 86 lines
    assert sum(-(-len(line) // 115) for line in TEXT.split("\n")) <= 90
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [name for name in PAGES if f"{name}.md" not in navigation] == []


def test_the_gains_of_the_readme_are_quotients_of_its_steps():
    rows = re.findall(r"^\| ([\d.]+) % \| (\d+) \| (\d+) \(([\d.]+)\)", TEXT, flags=re.MULTILINE)
    assert len(rows) == 3
    for _, plain, momentum, gain in rows:
        assert abs(int(plain) / int(momentum) - float(gain)) < 0.06

"""The page of theorems: numbered without a gap, each with its sharpness and the claim that runs it;
its LaTeX is current, balanced, and compiles where there is LaTeX."""

import re
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

from ntk_momentum.ledger import entries

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "theorems.md").read_text(encoding="utf-8")
TEX = (ROOT / "docs" / "theorems.tex").read_text(encoding="utf-8")
BIB = (ROOT / "docs" / "theorems.bib").read_text(encoding="utf-8")
STATEMENT = re.compile(r"^\*\*(Theorem|Lemma|Corollary|Proposition) (\d+)", re.MULTILINE)


PARTS = [
    part.partition("\n## ")[0]
    for part in re.split(STATEMENT.pattern.replace("(", "(?:"), PAGE, flags=re.MULTILINE)[1:]
]
CLAIMS = r"Claims? ((?:`[\w.-]+`(?: \([^)]*\))?,? ?(?:and on networks |and )?)+)"
NAMED = {
    f"{kind} {number}": set(re.findall(r"`([\w.-]+)`", " ".join(re.findall(CLAIMS, part))))
    for (kind, number), part in zip(STATEMENT.findall(PAGE), PARTS, strict=True)
}
"""The claims that each statement says it is run by."""


def test_statements_are_numbered_in_one_row_and_name_their_proof_sharpness_and_claim():
    assert [int(n) for _, n in STATEMENT.findall(PAGE)] == list(range(1, 17))
    for part, named in zip(PARTS, NAMED.values(), strict=True):
        assert part.count("*Proof.*") == part.count("∎") == 1 and "*Sharp:*" in part
        assert named and named <= set(entries()), part[:80]


def test_a_claim_cites_a_statement_where_that_names_the_claim_and_nowhere_else():
    for entry in entries().values():
        cited = set()
        for kind, numbers in re.findall(r"([A-Z][a-z]+?)s? ([\d, and]+)", entry.theorem or ""):
            cited |= {f"{kind} {number}" for number in re.findall(r"\d+", numbers)}
        assert cited == {name for name, ids in NAMED.items() if entry.id in ids}, entry.id


def test_the_latex_is_what_the_page_gives():
    latex = runpy.run_path(str(ROOT / "scripts" / "theorems"))["latex"]
    assert latex(PAGE) == TEX, "run scripts/theorems"


def test_the_latex_is_balanced_and_cites_what_is_in_its_bibliography():
    open_ = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", TEX):
        if kind == "begin":
            open_.append(name)
        else:
            assert open_.pop() == name
    assert open_ == []
    bare = re.sub(r"\\[\\{}$%&#_]", "", TEX)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    assert all(ord(sign) < 256 for sign in TEX)
    keys = set(re.findall(r"^@\w+\{(\w+),", BIB, flags=re.MULTILINE))
    cited = {
        key for keys in re.findall(r"\\(?:no)?cite\{([\w,]+)\}", TEX) for key in keys.split(",")
    }
    assert cited == keys == set(re.findall(r'<a id="(\w+)">', PAGE))
    assert BIB.count("{") == BIB.count("}")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("pdflatex"), reason="there is no LaTeX here")
def test_the_latex_compiles(tmp_path):
    for name in ("theorems.tex", "theorems.bib", "certified_rate.pdf"):
        shutil.copy(ROOT / "docs" / name, tmp_path)
    pdflatex = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "theorems.tex"]
    for command in (pdflatex, ["bibtex", "theorems"], pdflatex, pdflatex):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "theorems.pdf").stat().st_size > 0
    log = (tmp_path / "theorems.log").read_text(encoding="latin-1")
    assert "Warning" not in log and "Overfull" not in log

"""The report stands alone: nothing is fetched, no id clashes, every figure is in it, and a browser
draws it without complaint."""

import ast
import html
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ntk_momentum.ledger import drawing, ledger
from ntk_momentum.study import claim_figures, notation, outcome, registry, report, theorems

EXAMPLES = Path(__file__).parents[1] / "examples"
MEASURED = {
    "largest left/right": 0.5,
    "by_width": list(range(40)),
    "slopes": {name: {"slope": -0.5, "expected": -0.5} for name in ("impulses", "drift")},
    "pairs": {"a": [1.0, 2.0], "b": [3.0, 4.0]},
}
FORM = {
    "statement": "phi <= 1 & more",
    "ok": True,
    "measured": MEASURED,
    "instance": "sphere",
    "basis": "measured",
}
CLAIMS = [
    {
        "id": f"eq-{i}",
        "section": "2",
        "kind": "bound",
        "class": "none" if ok else "constant",
        "hypothesis": "constant kernel",
        "theorem": "Theorems 3 and 4, (1)",
        "shares": None,
        "printed": {**FORM, "ok": ok},
        "corrected": {**FORM, "tolerance": 1e-9},
        "sharp": None,
        "note": "Because a < b.",
        "figure": "claims_figures/eq-0.svg" if ok else None,
        "seconds": 0.1,
    }
    for i, ok in enumerate((True, False, None))
]


class Page(HTMLParser):
    """Collects ids, links, what would be fetched, and whether tags are balanced."""

    VOID = frozenset(("meta", "input", "br", "link", "img"))

    def __init__(self, text: str):
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "xlink:href"):
                self.links.append(value)
            if name in ("src", "srcset", "data", "action") or (tag == "link" and name == "href"):
                self.fetched.append(value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    examples = folder / "experiments"
    shutil.copytree(EXAMPLES, examples)
    shutil.copy(examples / "decay.py", examples / "twin.py")
    outcomes = [
        outcome.complete(e, "smoke", folder) for e in registry.experiments(examples).values()
    ]
    falling = drawing.panel("t", "L(t)", drawing.line([0, 1, 2], [1, 0.5, 0.2], "L"), log="y")
    figure = drawing.drawing("The line falls, lambda < 1.", falling)
    (folder / "claims_figures").mkdir()
    (folder / "claims_figures" / "eq-0.svg").write_text(claim_figures.svg(figure), encoding="utf-8")
    report.write_report(folder, "smoke", outcomes, CLAIMS, "", ["eq-9"])
    return folder


@pytest.fixture(scope="module")
def page(out) -> Page:
    return Page((out / "report.html").read_text(encoding="utf-8"))


def test_nothing_is_fetched_from_the_network(out, page):
    text = (out / "report.html").read_text()
    assert page.fetched == [] and "@import" not in text and not re.search(r"url\((?!#)", text)
    assert not [link for link in page.links if "://" in link]


def test_tags_balance_and_no_id_occurs_twice(page):
    assert page.open == [] and len(page.ids) == len(set(page.ids)) > 20


def test_every_internal_link_and_file_exists(out, page):
    for link in page.links:
        assert (link[1:] in page.ids) if link.startswith("#") else (out / link).is_file(), link


def test_figures_captions_headlines_failures_and_claims_are_all_there(out, page):
    text = (out / "report.html").read_text()
    assert (
        text.count("<svg") == 5
        and "The line falls, λ &lt; 1." in text
        and text.count("The line falls.") == 4  # wide and narrow
    )
    assert (
        "0.3679" in text
        and "ValueError: no luck" in text
        and "Refuted in corrected or sharp form: eq-9" in text
    )
    assert "φ ≤ 1 &amp; more" in text and "a &lt; b" in text
    assert {f"claim-eq-{i}" for i in range(3)} <= set(page.ids)
    assert report.tally(CLAIMS) == [
        ("printed", 1, 1, 1),
        ("corrected", 3, 0, 0),
        ("sharp", 0, 0, 0),
    ]


def test_evidence_is_shown_in_tables_and_nothing_is_cut(out):
    text = (out / "report.html").read_text()
    assert ", 38, 39</details>" in text and "<summary>40 values, 0 to 39</summary>" in text
    assert (
        '<th scope="row">impulses</th><td>-0.5</td><td>-0.5</td>' in text
        and '<th scope="row">b</th><td>3</td><td>4</td>' in text
    )
    assert "left over right reaches 0.5" in text  # the gist in the row


def test_a_caption_below_stacked_panels_says_top_and_bottom():
    assert report.stacked_caption("Left: a, right: b of the right side.") == (
        "Top: a, bottom: b of the right side."
    )
    assert report.typeset("`nm.advise_x`, H_inf") == ("<code>nm.advise_x</code>, H<sup>∞</sup>")


def test_a_row_says_in_words_what_was_measured():
    said = {
        "the two sides differ by 1e-12": {"error": 1e-12, "slope": 2.0},
        "measured 0.7153, expected 0.6 to 0.8": {"value": 0.71532, "expected between": [0.6, 0.8]},
        "1 of 2 conditions hold": {"first": True, "second": False, "error": 1.0},
        "largest share: 0.25": {"largest_share": 0.25},
    }
    assert [report.gist({"measured": measured}) for measured in said.values()] == list(said)


def test_every_claim_can_be_linked_to_and_found_by_its_class(out, page):
    text = (out / "report.html").read_text()
    for claim in CLAIMS:
        assert f"#claim-{claim['id']}" in page.links and f'data-class="{claim["class"]}"' in text
    assert '<option value="proof gap">' in text


def test_every_claim_has_a_derivation_that_turns_into_mathml():
    assert tuple(ledger.derivations()) == ledger.PAPER_ORDER
    for lines in ledger.derivations().values():
        for line in lines:
            shown = notation.mathml(line, "block")
            assert shown.startswith("<math") and "\\" not in shown, line


def test_figures_of_claims_are_the_same_bytes_and_old_ones_go(tmp_path):
    claims = ledger.verify(["footnote-2-fastest", "remark-lambda0-half"])
    claim_figures.write_figures(tmp_path, claims)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(before) == {f"{c.id}.svg" for c in claims}
    claim_figures.write_figures(tmp_path, claims[:1])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "footnote-2-fastest.svg": before["footnote-2-fastest.svg"]
    }


def test_inline_figures_take_the_colours_of_the_page(out):
    text = report.inline(out / "figures" / "decay.svg", "decay")
    assert (
        text.startswith("<svg")
        and "currentColor" in text
        and "var(--paper)" in text
        and "#ffffff" not in text
        and "#000000" not in text
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "||H(0) - H_inf||_2 <= lambda_0 / 4",
            "‖H(0) - H<sup>∞</sup>‖<sub>2</sub> ≤ λ<sub>0</sub> / 4",
        ),
        (
            "(4/lambda_0) e^(-sqrt(lambda_0/2) t)",
            "(4/λ<sub>0</sub>) e<sup>-√(λ<sub>0</sub>/2) t</sup>",
        ),
        ("theta_{k+1} = m^{-1/2} & eta -> 0", "θ<sub>k+1</sub> = m<sup>-1/2</sup> &amp; η → 0"),
        ("zeta of a smallest_eigenvalue <b>", "zeta of a smallest_eigenvalue &lt;b&gt;"),
    ],
)
def test_formulas_of_docstrings_are_typeset_and_words_left_alone(text, shown):
    assert report.typeset(text) == shown


def test_a_ledger_that_did_not_run_is_said(tmp_path):
    path = report.write_report(tmp_path, "smoke", [], None, "ValueError: no luck", [])
    assert (
        "The ledger failed: ValueError: no luck" in path.read_text()
        and Page(path.read_text()).open == []
    )


def test_the_theorems_are_those_of_the_page_and_beside_the_claims(out, page):
    text = theorems.page().read_text(encoding="utf-8")
    setting, found = theorems.statements()
    assert len(found) == text.count("*Proof.*") and {f"theorem-{i.number}" for i in found} <= set(
        page.ids
    )
    assert "#theorem-3" in page.links
    made = setting + "".join(one.title + one.statement for one in found)
    said = html.unescape(re.sub(r"<[^>]+>", "", made))
    assert "proof" not in said.lower() and not re.search(r"[\\$*`&]", said)
    assert not re.search("<su[bp]>[\u2032\u00af]", made)  # a prime or a bar stands at its letter
    assert {number for e in ledger.entries().values() for number in numbers(e.theorem)} <= {
        one.number for one in found
    }


def numbers(theorem):
    return re.findall(r"(?<![(\w])\d+", theorem or "")


BROWSER = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


@pytest.mark.slow
@pytest.mark.skipif(
    BROWSER is None, reason="no chromium on this machine, so the report is not opened in a browser"
)
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_draws_the_report_without_complaint(out, tmp_path, width):
    probe = (
        "<script>addEventListener('error', e => document.title = 'error ' + "
        "e.message);addEventListener('load', () => {"
        "const box = document.getElementById('filter'); box.value = 'eq-1'; "
        "box.dispatchEvent(new Event('input'));"
        "const sizes = [...document.querySelectorAll('figure:not(.claim *) "
        "svg')].map(s => s.getBoundingClientRect());"
        "const wide = document.documentElement.scrollWidth > innerWidth;"
        "const left = () => [...document.querySelectorAll('.claim')].filter(r => !r.hidden).length;"
        "const rows = left(), kind = document.getElementById('class');"
        "box.value = ''; kind.value = 'constant'; kind.dispatchEvent(new Event('input'));"
        "if (!document.title.startsWith('error')) document.title = `figures "
        "${sizes.filter(s => s.width > 200 && s.height > 80).length}"
        " rows ${rows} of a class ${left()} wide ${wide}`;});</script>"
    )
    tested = tmp_path / "report.html"
    tested.write_text((out / "report.html").read_text().replace("<style>", probe + "<style>", 1))
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path}",
        f"--window-size={width},900",
    ]
    done = subprocess.run(
        [*command, "--dump-dom", tested.as_uri()], capture_output=True, text=True, timeout=120
    )
    assert "<title>figures 2 rows 1 of a class 2 wide false</title>" in done.stdout, re.findall(
        r"<title>.*?</title>", done.stdout
    )


LEFT = re.compile(r"\^|_|\bsqrt|[Ll]ambda|\bDelta|\binfty?\b|\|\||<=|>=|->|\\\\")
NAMES = {"discrete_vs_flow", "both_layers"}  # of experiments


DRAWN = {"panel", "line", "points", "theory", "against", "by_name"}  # what makes claims' figures


def said_in(tree: ast.AST) -> list[str]:
    """The texts with a space in a piece of source, numbers in the place of what is put into them;
    not those that stand alone."""
    parts = {id(part) for f in ast.walk(tree) if isinstance(f, ast.JoinedStr) for part in f.values}
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            found.append(
                "".join(
                    getattr(part, "value", "1") if isinstance(part, ast.Constant) else "1"
                    for part in node.values
                )
            )
        elif isinstance(node, ast.Constant) and id(node) not in parts | alone:
            found.append(node.value if isinstance(node.value, str) else "")
    return [report.words(text) for text in found if " " in text]


def test_no_markup_is_left_in_what_the_report_says():
    """Every statement, note, instance and name of a measurement, and what experiments say of
    themselves, as a reader sees them."""
    said = []
    for path in sorted((Path(ledger.__file__).parent / "claims").glob("*.py")):
        said += said_in(ast.parse(path.read_text(encoding="utf-8")))
    for experiment in registry.experiments().values():
        said += [experiment.title, experiment.claim]
        for node in ast.parse(experiment.path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name == "headline":
                said += said_in(node)
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CAPTION":
                said.append(" ".join(ast.literal_eval(node.value).split()))
    labels = []
    for path in sorted((Path(ledger.__file__).parent / "claims").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in DRAWN:
                given = [a.value for a in node.args if isinstance(a, ast.Constant)]
                labels += [a for a in given if isinstance(a, str)]
    assert [text for text in labels if LEFT.search(notation.shown(text))] == [] and labels
    left = {}
    for text in said:
        page = report.typeset(text)
        assert not re.search(r"\\|\$", page + notation.shown(text)), text  # no TeX, in either
        shown = html.unescape(re.sub(r"<[^>]+>", "", page))
        words = [w for w in shown.split() if LEFT.search(w) and w.strip("`.,;:()") not in NAMES]
        if words:
            left[" ".join(words)] = text[:80]
    assert left == {}


def test_statements_are_tex_and_one_source_makes_html_and_unicode():
    tex = r"$L \le \frac{2}{\lambda_0} e^{-\alpha t}\,\hat L_\infty(0)$ for $J^\top H^{-1}$"
    assert notation.shown(tex) == "L ≤ (2/λ₀)e^(−αt) L̂∞(0) for JᵀH⁻¹"
    assert notation.shown(r"$\tfrac12|\dot\Delta| \in \frac{8}{e\lambda_0}\Gamma(\frac d2)^2$") == (
        "½|Δ′| ∈ (8/(eλ₀))Γ(d/2)²"
    )
    assert notation.shown(r"$\dot V \le -\sqrt{2}\sup_t\|H\|$, H_inf") == "V̇ ≤ −√2supₜ ‖H‖, H∞"
    assert report.typeset("$a < b^{x_0}$, `$b$`") == (
        "a &lt; b<sup>x<sub>0</sub></sup>, <code>$b$</code>"
    )
    claims = ledger.verify(["eq-3.4"])
    assert all("$" in form.statement for form in (claims[0].printed, claims[0].sharp) if form)


def test_a_claims_figure_of_several_panels_comes_apart(out, tmp_path):
    panel = drawing.panel("t", "L(t)", drawing.line([0, 1], [1, 0.5], "L"), log="y")
    path = tmp_path / "two.svg"
    about = drawing.drawing(r"Left: $\hat L$.", panel, panel)
    path.write_text(claim_figures.svg(about), encoding="utf-8")
    left, right = report.panels(path, "two")
    assert "<title>Left: L\u0302.</title>" in path.read_text(encoding="utf-8")
    assert report.caption(path) == r"Left: $\hat L$." and "<desc>" not in left
    pages = Page(f"<div>{left}{right}</div>")
    assert len(pages.ids) == len(set(pages.ids)) and pages.open == []
    assert 'viewBox="0 0 ' in left and 'viewBox="0 0 ' not in right


def test_the_pseudo_loss_is_a_letter_with_a_hat_and_no_power():
    assert report.typeset("L^(0) <= L^_inf(0)") == "L\u0302(0) ≤ L\u0302<sub>∞</sub>(0)"
    assert report.typeset("sqrt lambda_0, sqrt(2 b)") == "√λ<sub>0</sub>, √(2 b)"
    assert report.typeset("||H_+ - H_-||, dDelta/dt") == "‖H<sub>+</sub> - H<sub>-</sub>‖, dΔ/dt"


def test_a_number_that_misses_what_is_expected_says_so():
    met = report.met_expectation
    assert met("slope of drift in m (expected -0.5)", "-0.73 ± 0.11") is False
    assert met("slope (expected -0.5)", "-0.52 ± 0.03") is True
    assert met("run / prediction", "-1.56 / -2.28 / -0.77") is False
    assert met("min of lambda_min (theorems: >= 0.5)", "0.61 at m = 8, 0.49 at m = 16") is False
    for values, wide in {
        "0.29 at m = 8, 0.98 at m = 16": True,
        "1.01 at m = 8, 0.97 at m = 16": True,
        "0.98 at m = 8, 0.51 at m = 16": False,  # on its way down
        "0.20 at m = 8, 0.60 at m = 16, 0.40 at m = 32, 0.60 at m = 64": False,
    }.items():
        assert met("min (theorems: >= 0.5 once wide)", values) is wide
    assert met("order (theory: 2), the map", "2.02") and not met("order (theory: 2)", "1.02")
    assert met("slope (expected -0.5)", "-0.52") is None and met("slope", "1.0 ± 0.1") is None

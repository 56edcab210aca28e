"""The ledger: one entry per statement, the schema of claims.json, verdicts that follow from
measurements."""

import json
import math
import re

import jax
import numpy as np
import pytest

from ntk_momentum import Dataset, InputError, cli, load_digits, sphere
from ntk_momentum.ledger import entries, ledger, refuted, verify, write_claims
from ntk_momentum.ledger.claims import setting as setting_module
from ntk_momentum.study import registry
from ntk_momentum.theory import bounds

IDS = [
    "abstract-global-minimum",
    "eq-2.1", "eq-2.2", "eq-2.3", "eq-2.4", "eq-2.5", "eq-2.6", "remark-lazy-training",
    "pseudo-loss", "fact-2.1", "thm-1", "eq-2.7", "eq-2.8", "fact-2.2", "width-thm-1",
    "remark-discrete", "eq-3.1", "eq-3.2", "eq-3.3", "remark-friction-choice", "remark-lipschitz",
    "remark-zero-velocity", "footnote-2-fastest", "thm-2", "eq-3.4", "eq-3.5",
    "remark-rate-comparison", "remark-lambda0-half", "remark-oscillation", "eq-4.1", "eq-4.2",
    "eq-4.3", "thm-3", "thm-3-network", "eq-4.4", "remark-rate-exponents", "remark-only-sublinear",
    "footnote-1-both-layers", "remark-sgd", "remark-sgd-momentum", "remark-sgd-nesterov",
    "remark-sgd-power-law", "remark-piecewise-linear", "remark-other-losses", "eq-a.1", "eq-a.2",
    "eq-a.3", "eq-a.4", "eq-a.5", "eq-a.6", "remark-total-energy", "eq-a.7",
    "eq-a.8", "remark-hdot-zero", "lemma-4", "lemma-5", "initial-error", "lemma-6",
    "displacement-chain-a", "lemma-7", "width-thm-2", "eq-b.1", "eq-b.2", "eq-b.3", "eq-b.4",
    "lemma-8", "displacement-chain-b", "lemma-9", "width-thm-3",
]  # fmt: skip

# Statements that fail as printed, each on a counterexample.
BROKEN = {
    "eq-2.3", "eq-2.4", "eq-2.5", "pseudo-loss", "thm-1", "width-thm-1", "eq-3.1",
    "remark-friction-choice", "remark-zero-velocity", "footnote-2-fastest", "thm-2", "eq-3.4",
    "eq-3.5", "remark-rate-comparison", "remark-lambda0-half", "eq-4.1", "eq-4.3", "thm-3",
    "eq-4.4", "remark-only-sublinear", "remark-piecewise-linear", "remark-other-losses", "eq-a.1",
    "eq-a.2", "eq-a.3", "eq-a.4", "eq-a.5", "eq-a.6", "eq-a.8", "remark-hdot-zero", "lemma-6",
    "width-thm-2", "eq-b.4", "lemma-8", "lemma-9", "width-thm-3", "lemma-5", "remark-total-energy",
    "displacement-chain-a", "displacement-chain-b", "remark-sgd", "remark-sgd-nesterov",
    "remark-sgd-momentum",
}  # fmt: skip
UNDEFINED = {"eq-3.3", "lemma-7"}
# Statements that hold as printed, and not by the proof that is given.
GAPS = {"abstract-global-minimum", "thm-3-network"}
SMOKE = setting_module.EFFORTS["smoke"]
QUICK = [
    "thm-1", "width-thm-3", "remark-friction-choice", "remark-zero-velocity", "footnote-2-fastest",
    "eq-3.4", "eq-a.8", "eq-4.4", "remark-discrete", "fact-2.2", "remark-lambda0-half", "eq-a.7",
    "displacement-chain-a", "displacement-chain-b", "initial-error",
]  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def small():
    """A ledger small enough for a test."""
    setting_module.EFFORTS["smoke"] = setting_module.Effort(10, 4, (64, 128, 256), 2, 100)
    yield
    setting_module.EFFORTS["smoke"] = SMOKE


@pytest.fixture(scope="module")
def verified(small):
    return {c.id: c for c in verify(QUICK)}


def test_every_statement_has_exactly_one_entry_in_the_paper_s_order():
    assert list(entries()) == IDS == list(ledger.PAPER_ORDER)
    assert all(entry.note for entry in entries().values())
    assert set(ledger.derivations()) == set(IDS)
    assert {entry.experiment for entry in entries().values()} - {None} <= set(
        registry.experiments()
    )


def test_a_class_is_given_to_what_fails_as_printed_and_to_nothing_else():
    """What holds as printed has no fault, or a gap in its proof."""
    for id, entry in entries().items():
        assert (entry.fault != "none") == (id in BROKEN | UNDEFINED | GAPS), id
        assert id not in GAPS or entry.fault == "proof gap"


@pytest.mark.slow
def test_shared_evidence_points_at_a_claim_and_counts_once(small):
    sharing = {id: entry.shares for id, entry in entries().items() if entry.shares}
    assert sharing == dict.fromkeys(("eq-a.1", "eq-a.3", "eq-a.4"), "eq-3.5")
    found = verify(["eq-3.5", "eq-a.1", "eq-a.3", "eq-a.4"])
    assert sum(ledger.by_class(found).values()) == 1
    assert all(c.corrected.measured is found[0].corrected.measured for c in found)


def test_what_follows_from_a_formula_is_a_derivation(verified):
    """Exact arithmetic, with no tolerance to pass by."""
    derived = {
        (id, form)
        for id, c in verified.items()
        for form in ("printed", "corrected", "sharp")
        if (check := getattr(c, form)) and check.basis == "derivation"
    }
    assert {("width-thm-3", "corrected"), ("remark-friction-choice", "corrected")} <= derived
    assert {("eq-a.7", form) for form in ("printed", "corrected", "sharp")} <= derived
    assert not any(id in ("thm-1", "eq-3.4", "eq-4.4") for id, _ in derived)
    assert all(getattr(verified[id], form).tolerance is None for id, form in derived)


def test_what_is_sharp_is_met(verified):
    """Constants that a larger one would not meet, and a smaller one would break."""
    from ntk_momentum.ledger.claims.kinks import _jump_of_close_inputs

    assert verified["eq-3.4"].sharp.ok and verified["displacement-chain-a"].sharp.ok
    assert verified["displacement-chain-a"].corrected.ok
    for n in (2, 9):
        assert _jump_of_close_inputs(n, np.random.default_rng(0)) == pytest.approx(1, abs=1e-4)


def test_the_energy_identities_hold_of_the_program(verified):
    assert refuted([verified["eq-a.7"]]) == []


def test_another_theory_s_slope_is_refused():
    from ntk_momentum.ledger.claims.fits import agrees

    assert agrees((-0.28, 0.04), -0.25) and agrees((-0.41, 0.08), -0.5)
    assert not agrees((-0.28, 0.04), -0.5) and not agrees((-0.45, 0.3), -0.5)


def check_schema(record):
    assert list(record) == [
        "id",
        "section",
        "kind",
        "class",
        "hypothesis",
        "theorem",
        "shares",
        "printed",
        "corrected",
        "sharp",
        "note",
        "figure",
        "seconds",
    ]
    assert record["kind"] in ("identity", "bound", "rate", "probability", "width", "definition")
    assert (
        {"statement", "ok", "measured", "instance", "basis"}
        <= set(record["printed"])
        <= {"statement", "ok", "measured", "instance", "basis", "reason"}
    )
    for form in ("corrected", "sharp"):
        if record[form] is not None:
            assert set(record[form]) == {
                *("statement", "ok", "measured", "tolerance", "instance", "basis")
            }
    for form in filter(None, (record[form] for form in ("printed", "corrected", "sharp"))):
        assert form["ok"] is not None or form["reason"]
        said = [name for name, value in form["measured"].items() if isinstance(value, bool)]
        vague = [name for name in said if re.fullmatch("[a-z]+", name)]
        assert not vague, (record["id"], vague)  # "displacement below R'", not "bound"


def test_counterexamples_break_the_printed_forms_and_the_corrections_hold(verified):
    assert {id for id, c in verified.items() if c.printed.ok is False} == BROKEN & set(QUICK)
    assert refuted(verified.values()) == []


def test_claims_json_has_the_schema_and_is_strict_json(verified, tmp_path):
    write_claims(tmp_path / "new" / "claims.json", verified.values())
    content = json.loads(
        (tmp_path / "new" / "claims.json").read_text(encoding="utf-8"),
        parse_constant=lambda c: pytest.fail(c),
    )
    records = content["claims"]
    assert set(content["schema"]["claims"]) >= set(records[0]) - {"printed", "corrected", "sharp"}
    assert content["classes"] == ledger.by_class(verified.values())
    assert [r["id"] for r in records] == [id for id in IDS if id in QUICK]
    for record in records:
        check_schema(record)
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new" / "claims.json"]


def test_an_unwritable_place_is_refused_and_leaves_nothing(verified, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot write"):
        write_claims(tmp_path / "file" / "claims.json", verified.values())


def test_claims_are_found_by_the_papers_own_names():
    assert [claim.id for claim in verify(["(B.1)", "Lemma 7"])] == ["lemma-7", "eq-b.1"]


def test_unknown_claims_and_unsuitable_data_are_refused():
    with pytest.raises(InputError, match=r"Did you mean 'lemma-6'"):
        verify(["lemma-66"])
    with pytest.raises(InputError, match="unit norm"):
        verify(["thm-1"], data=Dataset([[2.0, 0.0], [0.0, 1.0]], [1.0, -1.0]))


@pytest.mark.parametrize(
    ("function", "id", "factor"),
    [
        ("theorem_2_corrected", "eq-3.4", 0.5),
        ("theorem_2_best", "eq-3.4", 0.99),
        ("theorem_2_best", "eq-3.4", 1.01),
        ("pseudo_loss_corrected", "eq-a.8", 0.7),
        ("gradient_flow_sharp", "thm-1", 0.99),
        pytest.param("lemma_8_corrected", "lemma-8", 0.98, marks=pytest.mark.slow),
        ("heavy_ball_rate", "footnote-2-fastest", 1.1),
        ("displacement_corrected", "displacement-chain-a", 0.999),
        ("displacement_frozen", "displacement-chain-a", 0.999),
        ("displacement_constant", "displacement-chain-a", 0.999),
        ("displacement_constant", "displacement-chain-b", 0.99),
        ("paper_friction", "remark-friction-choice", 1.001),
        pytest.param("kernel_jump", "remark-hdot-zero", 1.001, marks=pytest.mark.slow),
        ("width_corrected", "thm-1", lambda n, delta, lam0: 2.0),
        pytest.param(
            "width_corrected",
            "width-thm-2",
            lambda n, delta, lam0: n**6 / (delta**3 * lam0**3.9),
            marks=pytest.mark.slow,
        ),
        pytest.param("moving_kernel_rate", "thm-2", 1.01, marks=pytest.mark.slow),
        pytest.param("moving_kernel_rate", "lemma-6", 0.99, marks=pytest.mark.slow),
        pytest.param("theorem_2_moving", "lemma-6", 0.6, marks=pytest.mark.slow),
        pytest.param("nesterov_switching_rate", "lemma-8", 1.1, marks=pytest.mark.slow),
    ],
)
def test_a_wrong_constant_is_caught(monkeypatch, function, id, factor):
    right = getattr(bounds, function)
    wrong = factor if callable(factor) else lambda *args, **kwargs: factor * right(*args, **kwargs)
    monkeypatch.setattr(bounds, function, wrong)
    assert refuted(verify([id])) == [id]


def test_the_counterexamples_are_those_of_a_hand_calculation(verified):
    by_id = verified | {c.id: c for c in verify(["eq-3.5", "lemma-6"])}
    ratio = by_id["eq-3.4"].printed.measured["largest_ratio"]["quadratic form"]
    assert ratio == pytest.approx(1.6 * math.exp(-math.asin(0.6) / 2), rel=1e-6)
    # w'' + w' + w + 1 = 0 from 1 at rest: the error starts at 2 and reaches 1 with velocity w' =
    # -impulse
    crossing = by_id["eq-3.5"].printed.measured
    t, omega = crossing["moment"], math.sqrt(0.75)
    assert 2 * math.exp(-t / 2) * (
        math.cos(omega * t) + math.sin(omega * t) / (2 * omega)
    ) == pytest.approx(1.0, abs=1e-9)
    assert 2 * math.exp(-t / 2) * math.sin(omega * t) / omega == pytest.approx(
        crossing["impulse"], abs=1e-9
    )
    assert by_id["lemma-6"].printed.measured["growth_per_half_cycle"] == pytest.approx(
        bounds.heavy_ball_switching_factor(25.0), rel=1e-6
    )


def test_claims_run_on_the_user_s_own_data():
    data = sphere(5, 4, key=jax.random.key(3))
    result = verify(["lemma-4", "thm-1", "eq-a.3"], data=data)
    assert refuted(result) == []
    assert all("sphere5x4" in (c.sharp or c.corrected).instance for c in result)


def test_the_command_line_verifies_a_claim_on_a_file(tmp_path, capsys):
    X = np.eye(3)[:, [0, 1, 2, 0]] * [0.8, 1, 1, 0.6]
    np.savez(tmp_path / "mine.npz", X=X.astype(np.float32), y=np.float32([1, -1, 1]))
    assert (
        cli.main(
            [
                "verify",
                "--claims",
                "lemma-6",
                "--data",
                str(tmp_path / "mine.npz"),
                "--to",
                str(tmp_path / "claims.json"),
            ]
        )
        == 0
    )
    said = capsys.readouterr().out
    assert "lemma-6  refuted   holds       holds" in said and "growth_per_half_cycle: 1.28" in said
    assert (tmp_path / "claims_figures" / "lemma-6.svg").is_file() and "<math" in (
        tmp_path / "claims.html"
    ).read_text(encoding="utf-8")
    assert (
        "mine"
        in json.loads((tmp_path / "claims.json").read_text(encoding="utf-8"))["claims"][0][
            "printed"
        ]["instance"]
    )


@pytest.mark.parametrize(
    ("X", "said"),
    [(2 * np.eye(3), "unit norm"), (np.ones((3, 1)), "identical"), (np.eye(2), "rows")],
)
def test_the_command_line_refuses_unsuitable_files_in_one_line(tmp_path, capsys, X, said):
    np.savez(tmp_path / "mine.npz", X=X, y=np.ones(3))
    assert cli.main(["verify", "--claims", "lemma-6", "--data", str(tmp_path / "mine.npz")]) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("error: ") and error.count("\n") == 1


def test_progress_names_every_claim_before_it_runs():
    seen = []
    verify(
        ["remark-friction-choice", "eq-a.8"],
        progress=lambda id, done, total: seen.append((id, done, total)),
    )
    assert seen == [("remark-friction-choice", 0, 2), ("eq-a.8", 1, 2)]


@pytest.mark.slow
@pytest.mark.parametrize("data", [None, "digits"])
def test_the_whole_ledger_holds(data, monkeypatch):
    monkeypatch.setitem(setting_module.EFFORTS, "smoke", SMOKE)
    result = verify(data=load_digits(12, key=jax.random.key(5)) if data else None)
    assert [c.id for c in result] == IDS
    assert refuted(result) == []
    assert {c.id for c in result if c.printed.ok is None} == UNDEFINED
    if data is None:
        assert {c.id for c in result if c.printed.ok is False} == BROKEN
        widths = [
            s["95% half width"]
            for c in result
            for f in (c.corrected, c.sharp)
            if f
            for s in f.measured.get("slopes", {}).values()
        ]
        assert len(widths) > 6 and max(widths) < 0.2  # narrow enough to tell one half from one
    for c in result:
        check_schema(json.loads(json.dumps(c.to_json(), allow_nan=False)))

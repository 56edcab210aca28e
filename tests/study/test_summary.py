"""Rows of a table in every form that `ntk-momentum table` writes."""

import csv

import numpy as np
import pytest

from ntk_momentum.study.summary import FORMS_OF_ROWS

ROWS = [
    {"flow": "heavy_ball", "steps": np.int64(12), "loss": 0.25, "note": "50 % & more"},
    {"flow": "a|b", "steps": 3, "loss": np.float64(1e-9)},
]


@pytest.mark.parametrize("form", FORMS_OF_ROWS)
def test_a_table_holds_every_row_in_every_form(form):
    lines = FORMS_OF_ROWS[form](ROWS)
    text = "\n".join(lines)
    if form == "csv":
        found = list(csv.DictReader(lines))
        assert [row["flow"] for row in found] == ["heavy_ball", "a|b"] and found[1]["note"] == ""
        assert [float(row["loss"]) for row in found] == [0.25, 1e-9]
    elif form == "latex":
        assert r"heavy\_ball & 12 & 0.25 & 50 \% \& more \\" in text and "toprule" in text
    elif form == "markdown":
        assert lines[1] == "|---|---|---|---|" and "a\\|b" in text
    else:
        assert len(lines) == 3 and lines[1].startswith("heavy_ball")

"""Benchmarks count what they say, beside a baseline that gives the same numbers."""

from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts" / "benchmarks"


@pytest.mark.slow
def test_the_benchmark_of_kernels_counts_what_it_says(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    import kernels

    row = kernels.two_layer(20, 64, 4)
    assert row["gap"] < 1e-6 and row["ratio"] == pytest.approx(
        row["baseline_seconds"] / row["seconds"]
    )
    row = kernels.contraction(6, 32, 4)
    assert row["gap"] < 1e-5 and row["baseline_bytes"] == 4 * 6 * 32 * 4
    for row in (kernels.layered(7, 16), kernels.convolutional(3, 2), kernels.infinite(9, 4)):
        assert row["gap"] < 1e-5

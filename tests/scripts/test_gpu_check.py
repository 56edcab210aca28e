"""The check of an accelerator runs on a CPU too, at a small size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "gpu_check"


@pytest.mark.slow
def test_gpu_check_writes_one_record_with_rates_and_floors(tmp_path):
    path = tmp_path / "check.json"
    command = [
        sys.executable,
        str(SCRIPT),
        str(path),
        "--size",
        "smoke",
        "--skip",
        "kernel",
        "tests",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads(path.read_text())
    assert (
        record["ok"]
        and record["size"] == "smoke"
        and record["provenance"]["device"]
        and record["clocks"]
    )
    assert record["matmul_tflops"]["float32 highest"] > 0
    assert record["batch"]["vmap_largest_difference_in_steps"] <= 2
    (row,) = record["headline"]["evaluations"]
    assert (
        0 < row["fraction_of_peak"] < 1
        and row["floor_seconds"] < row["seconds_per_batched_evaluation"]
    )
    assert record["headline"]["sweep"]["failed"] == 0

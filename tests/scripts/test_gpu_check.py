"""The check of an accelerator runs on a CPU too, keeps what it found, says what it left out."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "gpu_check"


def load(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    loader = SourceFileLoader("gpu_check", str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("gpu_check", loader))
    loader.exec_module(module)
    return module


def started(*arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True
    )


def ran(monkeypatch, path, parts, seconds=60.0, total=60.0):
    """The record of one row of the given parts."""
    module = load(monkeypatch)
    record = {"rows": {"row": {}}}
    writer = module.Writer(record, path)
    bench = SimpleNamespace(deadline=0.0)
    bench.left = lambda: bench.deadline - time.perf_counter()
    row = SimpleNamespace(name="row", parts=lambda bench: iter(parts))
    module.run(row, seconds, bench, writer, time.perf_counter() + total)
    return json.loads(path.read_text())["rows"]["row"] if path.exists() else record["rows"]["row"]


def test_a_part_that_fails_is_recorded_and_the_next_one_runs(monkeypatch, tmp_path):
    def broken():
        raise RuntimeError("no such kernel")

    parts = [("first", broken), ("second", lambda: {"seconds": 1.0, "ok": True})]
    row = ran(monkeypatch, tmp_path / "check.json", parts)
    assert not row["ok"] and row["parts"][0]["error"] == "RuntimeError: no such kernel"
    assert row["parts"][1]["seconds"] == 1.0


def test_a_row_that_fails_between_its_parts_keeps_them(monkeypatch, tmp_path):
    def parts():
        yield "first", lambda: {"seconds": 1.0}
        raise ValueError("no second part")

    row = ran(monkeypatch, tmp_path / "check.json", parts())
    assert not row["ok"] and "no second part" in row["error"] and len(row["parts"]) == 1


def test_a_row_over_its_time_stops_between_parts_and_is_no_failure(monkeypatch, tmp_path):
    parts = [("slow", lambda: time.sleep(0.12) or {"seconds": 0.12}), ("late", dict)]
    row = ran(monkeypatch, tmp_path / "check.json", parts, seconds=0.1)
    assert row["ok"] and row["stopped"] == "out of time before: late" and len(row["parts"]) == 1


def test_a_part_that_does_not_end_is_interrupted(monkeypatch, tmp_path):
    parts = [("quick", dict), ("endless", lambda: time.sleep(60))]
    row = ran(monkeypatch, tmp_path / "check.json", parts, seconds=0.2)
    assert row["ok"] and row["stopped"] == "out of time after: quick" and row["seconds_taken"] < 10


def test_a_row_that_is_reached_too_late_says_so(monkeypatch, tmp_path):
    assert ran(monkeypatch, tmp_path / "check.json", [], total=-1.0)["skipped"] == "no time left"


def test_the_host_foretells_what_it_can_know(monkeypatch):
    """The float64 results that the device is judged by, against each other."""
    load(monkeypatch)
    monkeypatch.syspath_prepend(str(SCRIPT.parent / "benchmarks"))
    from accelerator import host

    kernel, start, t = np.diag([0.5, 2.0]), np.ones(2), np.array([0.0, 0.7])
    flow = host.residuals(kernel, start, "gradient flow", 0.0, t)
    np.testing.assert_allclose(flow[1], np.exp([-0.35, -1.4]))
    free = host.residuals(kernel, start, "heavy ball", 0.0, t)
    np.testing.assert_allclose(free[1], np.cos(0.7 * np.sqrt([0.5, 2.0])))
    # one linear neuron: f = w on the input 1, so the loss follows the error dynamics of H = 1
    data = SimpleNamespace(X=np.ones((1, 1)), y=np.zeros(1))
    net = SimpleNamespace(hidden=np.full((1, 1), 2.0), output=np.ones(1))
    frictions = {
        "gradient flow": (0.0, None),
        "heavy ball": (0.5, lambda t: 0.5),
        "Nesterov": (3.0, lambda t: 3.0 / t if t else np.inf),
    }
    for name, (parameter, friction) in frictions.items():
        found = host.final_loss(data, net, 0.5, friction, steps=200)
        exact = host.residuals(np.eye(1), np.array([2.0]), name, parameter, np.array([0.5]))
        np.testing.assert_allclose(found, 0.5 * exact[0, 0] ** 2, rtol=1e-6)


def test_kernels_of_a_trace_are_counted_on_the_device_alone(monkeypatch):
    load(monkeypatch)
    monkeypatch.syspath_prepend(str(SCRIPT.parent / "benchmarks"))
    from accelerator import traces

    def told(kind, pid, tid, name):
        return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}

    events = [
        told("process_name", 1, 0, "/device:GPU:0"),
        told("thread_name", 1, 7, "Stream #14(Compute)"),
        told("process_name", 2, 0, "/host:CPU"),
        told("thread_name", 2, 7, "python3"),
        *({"ph": "X", "pid": 1, "tid": 7, "name": "gemm", "ts": t, "dur": 2} for t in (10, 20)),
        {"ph": "X", "pid": 1, "tid": 7, "name": "eigh", "ts": 14, "dur": 5},
        {"ph": "X", "pid": 2, "tid": 7, "name": "python", "ts": 0, "dur": 90},
    ]
    found = traces.kernels(events)
    assert found["kernels"] == 3 and found["longest"][0]["name"] == "eigh"
    np.testing.assert_allclose([found["busy_seconds"], found["span_seconds"]], [9e-6, 12e-6])


def test_the_page_on_the_device_shows_what_was_written(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent / "benchmarks"))
    from accelerator.table import table

    page = (SCRIPT.parents[1] / "docs" / "accelerator.md").read_text(encoding="utf-8")
    files = sorted((SCRIPT.parent / "benchmarks" / "results").glob("*.json"))
    measured = {line for path in files for line in table(path).splitlines()}
    shown = {line for line in page.splitlines() if line.startswith("| ") and " | " in line}
    assert shown and shown <= measured


@pytest.mark.slow
def test_chosen_rows_run_after_the_ceilings_and_print_as_a_table(tmp_path):
    path = tmp_path / "check.json"
    done = started(path, "--rows", "limit")
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads(path.read_text())
    assert list(record["rows"]) == ["ceilings", "limit"] and record["ok"]
    assert record["size"] == "smoke" and record["provenance"]["device"] and record["clocks"]
    copy, *products = [part for part in record["rows"]["ceilings"]["parts"] if "seconds" in part]
    assert copy["gb_per_second"] > 0 and all("fraction" not in part for part in (copy, *products))
    (kernel,) = record["rows"]["limit"]["parts"]
    assert kernel["fraction"] > 0 and kernel["relative_error"] < 1e-5 and kernel["ceiling"]
    assert os.listdir(tmp_path) == ["check.json"]  # nothing half-written beside it
    table = started("--table", path).stdout
    assert "**limit**" in table and f"| {kernel['case']} | {kernel['seconds']:.3g} |" in table


def test_an_unknown_row_is_answered_with_those_there_are(monkeypatch):
    module, rows = load(monkeypatch), [SimpleNamespace(name=name) for name in ("ceilings", "lazy")]
    with pytest.raises(SystemExit, match="'lazzy'; there are: ceilings, lazy"):
        module.chosen(["lazzy"], rows)
    assert module.chosen(["lazy"], rows) == rows


@pytest.mark.slow
def test_every_row_runs_on_a_cpu(tmp_path):
    path = tmp_path / "check.json"
    done = started(path, "--size", "smoke", "--seconds", 1200)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(path.read_text())["rows"]
    assert all(row["parts"] and row["ok"] for row in rows.values())
    measured = [part for row in rows.values() for part in row["parts"] if "seconds" in part]
    assert all(part["relative_error"] <= part["allowed"] for part in measured if "allowed" in part)
    apart = [part.get("largest_difference_in_steps", 0) for part in rows["together"]["parts"]]
    assert max(apart) <= 2

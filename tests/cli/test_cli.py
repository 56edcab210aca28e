"""The command line: help at once, exit codes that tell, one clear line for bad input, and no
half-written result."""

import dataclasses
import functools
import json
import logging
import math
import os
import re
import subprocess
import sys
import time
import types
from pathlib import Path

import jax
import numpy as np
import pytest

import ntk_momentum
import ntk_momentum as nm
from ntk_momentum import cli, progress
from ntk_momentum.cli import double
from ntk_momentum.cli.advise import Advise, _why_off
from ntk_momentum.errors import InputError
from ntk_momentum.judge.advice import advise
from ntk_momentum.ledger import check, ledger
from ntk_momentum.study import registry, side_by_side

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A folder of two experiments and a ledger of two quick claims."""
    monkeypatch.setattr(registry, "folder", lambda: ROOT / "tests" / "examples")
    calls = []

    def verify(claims=None, size="smoke", data=None, progress=None, seed=0):
        calls.append(size)
        return [claim("eq-2.5", True), claim("thm-2", False)]

    monkeypatch.setattr(ledger, "verify", verify)
    monkeypatch.setattr(side_by_side, "processes", lambda pieces: 1)  # others know of no patches
    return tmp_path, calls


def claim(id: str, printed: bool, corrected: bool = True) -> ledger.Claim:
    forms = [
        check.Check(f"{id} {ok}", ok, {"error": 1e-12, "nested": {"slope": -0.5}}, "sphere", 1e-10)
        for ok in (printed, corrected)
    ]
    return ledger.Claim(
        id, "2", "identity", forms[0], forms[1], None, "Because <b> & c.", None, 0.1
    )


def run(*words) -> int:
    return cli.main([str(word) for word in words])


def test_help_takes_less_than_a_second_and_imports_neither_jax_nor_numpy():
    for words in (["--help"], ["reproduce", "--help"], ["sweep", "--help"], ["list"]):
        code = (
            f"import sys; sys.argv = ['ntk-momentum', *{words}]\nfrom "
            "ntk_momentum.__main__ import main\n"
            "try: main()\nexcept SystemExit as left: assert not left.code\n"
            "heavy = {'jax', 'numpy', 'xarray', 'matplotlib'} & set(sys.modules); "
            "assert not heavy, heavy"
        )
        times = []
        for _ in range(2):
            before = os.times()
            done = subprocess.run(
                [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
            )
            after = os.times()  # processor time of the child: a busy machine must not fail the test
            times.append(
                after.children_user
                + after.children_system
                - before.children_user
                - before.children_system
            )
            assert done.returncode == 0, done.stderr
        assert min(times) < 1.0, (words, times)


def test_every_command_has_help_with_an_example(capsys):
    for name in cli.NAMES:
        with pytest.raises(SystemExit) as left:
            run(name, "--help")
        assert left.value.code == 0
        text = capsys.readouterr().out
        assert f"ntk-momentum {name}" in text.split("Example:")[1]
        assert "None" not in text and "False" not in text and "(default: )" not in text


ONE_OF_TWO = ("--num-processes", "2", "--process-id", "0")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["reproduc"], "Did you mean 'reproduce'"),
        (["run", "decya"], "Did you mean 'decay'"),
        (["reproduce", "--only", "decya"], "Did you mean 'decay'"),
        (["sweep", "--flows", "heavyball"], "Did you mean 'heavy_ball'"),
        (["sweep", "--flows", "heavy_ball:-1"], "must be finite and >= 0"),
        (["sweep", "--widths", "-4"], "whole numbers from 1 on"),
        (["sweep", "--widths", "many"], "a number or a range"),
        (["sweep", "--widths", "1" + "0" * 15], "takes 7.28e+03 TiB"),
        (["sweep", "--times", "1" + "0" * 9], "times must be at most 1,000,000"),
        (["sweep", "--loss", "hubr"], "Did you mean 'huber'"),
        (["sweep", "--activation", "rellu"], "Did you mean 'relu'"),
        (["sweep", "--solver", "tsit"], "Did you mean 'tsit5'"),
        (["sweep", "--trainable", "hiden"], "Did you mean 'hidden'"),
        (["sweep", "--reference", "initial"], "infinite, none, or"),
        (["sweep", "--reference", "none", "--readouts", "kernel_distance"], "compares with"),
        (["sweep", "--first-seed", "9" * 19], "between -2^63 and 2^63 - 1"),
        (["sweep", "--model", "m.py:build", "--activation", "tanh"], "with --model leave it out"),
        (["sweep", "--data", "sphere", "--n", "200000"], "give --t-end and the frictions"),
        (["sweep", *ONE_OF_TWO, "--coordinator", "a:b"], "HOST:PORT, with a port"),
        (["sweep", *ONE_OF_TWO, "--coordinator", "a"], "HOST:PORT, with a port"),
        (["sweep", *ONE_OF_TWO, "--coordinator", "a:99999"], "HOST:PORT, with a port"),
        (["sweep", "--widths", "3", "--antisymmetric"], "must be even"),
        (["sweep", "--data", "missing.npz"], "got missing.npz, where no file is"),
        (["sweep", "--data", "didgits"], "Did you mean 'digits'"),
        (["sweep", "--n", "0"], "n must be at least 1"),
        (["sweep", "--flows", "nesterov:3", "nesterov:3.0"], "flows holds the same value twice"),
        (["sweep", "--num-processes", "2"], "together, or none"),
        (["sweep", "--readouts", "los"], "Did you mean 'loss'"),
        (["sweep", "--tol", "0"], "tol must be finite and > 0"),
        (["--float32", "sweep", "--float64"], "exclude each other"),
        (["sweep", "--data-seed", "9" * 20], "between -2^63 and 2^63 - 1"),
        (["sweep", "--seeds", "9" * 20], "at most 1,000,000"),
        (["sweep", "--out", ROOT / "README.md"], "must be that of a folder, got the file"),
        (["sweep", "--out", ""], "--out is empty"),
        (["reproduce", "--out="], "--out is empty"),
        (["verify", "--to", "mine.html"], "try mine.json"),
        (["advise", "--data", "sphere", "--n", "9" * 11], "may be used of the machine's memory"),
        (["advise", "--data", "sphere", "--n", "200000"], "use fewer samples"),
        (["advise", "--width", "9" * 11], "use a smaller --width"),
        (["diagnose", "--width", "9" * 11], "use a smaller --width"),
        (["diagnose", "--d", "3"], "--d goes with --optimizer nesterov"),
        (["diagnose", "--loss", "hubr"], "Did you mean 'huber'"),
        (["diagnose", "--loss", "softmax"], "try np.eye(k)[labels]"),
        (["verify", "--n", "-1"], "--n must be at least 1"),
        (["verify", "--claims"], "--claims is given without a value"),
        (["sweep", "--widths", "--n", "3"], "--widths is given without a value"),
        (["run", "decay", "--size=smok"], "Did you mean 'smoke'"),
        (["sweep", "--strategy", "mapp"], "Did you mean 'map'"),
        (["sweep", "--model", "missing.py:build"], "no file missing.py"),
    ],
)
def test_bad_input_is_one_line_and_code_2(house, capsys, monkeypatch, words, said):
    monkeypatch.chdir(house[0])
    assert run(*words) == 2
    captured = capsys.readouterr()
    assert (
        said in captured.err
        and captured.err.startswith("error: ")
        and captured.err.count("\n") == 1
    )
    assert not list(house[0].rglob("*.nc")) and "Traceback" not in captured.err


@pytest.mark.parametrize("words", [[], ["run"], ["sweep", "--n", "many"], ["list", "--what"]])
def test_a_command_line_that_does_not_parse_has_code_2(words):
    assert run(*words) == 2


@pytest.mark.parametrize("words", [["reproduce"], ["run", "decay"], ["sweep"]])
def test_a_folder_that_cannot_be_written_is_refused_before_computing(house, capsys, words):
    (house[0] / "file").write_text("")
    assert run(*words, "--out", house[0] / "file" / "results") == 2
    assert "cannot write into the folder" in capsys.readouterr().err and house[1] == []


@pytest.mark.parametrize(
    "contents", ["nan", "duplicate", "object", "complex", "empty", "truncated", "zero", "shape"]
)
def test_bad_data_files_have_code_2(tmp_path, capsys, contents):
    path = tmp_path / "data.npz"
    X, y = np.eye(3), np.ones(3)
    if contents == "nan":
        X[1, 1] = np.nan
    if contents == "duplicate":
        X[1] = X[0]
    if contents == "zero":
        X[1] = 0
    if contents == "complex":
        X = X + 1j
    if contents == "object":
        X = np.array([[object()]])
    if contents == "empty":
        X, y = np.zeros((0, 3)), np.zeros(0)
    if contents == "shape":
        y = np.ones(2)
    np.savez(path, X=X, y=y)
    if contents == "truncated":
        path.write_bytes(path.read_bytes()[:100])
    assert run("sweep", "--data", path, "--out", tmp_path / "out") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.rglob("*.nc"))


@pytest.mark.slow
def test_reproduce_leaves_everything_and_a_second_run_skips_it(house, capsys):
    out = house[0] / "results"
    assert run("reproduce", "--size", "smoke", "--only", "decay", "claims", "--out", out) == 0
    assert "decay: computed" in capsys.readouterr().err
    made = {
        path.relative_to(out).as_posix(): path.stat().st_mtime_ns
        for path in out.rglob("*")
        if path.is_file()
    }
    assert {"report.html", "claims.json", "figures/decay.svg", "figures/decay.pdf"} <= set(made)
    assert sum(name.endswith(".nc") for name in made) == 1 and not [
        name for name in made if Path(name).name.startswith(".")
    ]
    assert run("reproduce", "--size", "smoke", "--only", "decay", "claims", "--out", out) == 0
    assert "decay: kept" in capsys.readouterr().err and house[1] == ["smoke"]
    again = {
        path.relative_to(out).as_posix(): path.stat().st_mtime_ns
        for path in out.rglob("*")
        if path.is_file()
    }
    assert {name for name in made if made[name] != again[name]} == {"report.html"}


def test_one_failed_experiment_does_not_stop_the_others(house, capsys):
    out = house[0] / "results"
    assert run("reproduce", "--size", "smoke", "--out", out) == 1
    said = capsys.readouterr()
    assert "decay: computed" in said.err and "broken: failed" in said.err and "no luck" in said.err
    assert (
        "no luck" in (out / "report.html").read_text()
        and json.loads((out / "claims.json").read_text())["claims"][0]["id"] == "eq-2.5"
    )


@pytest.mark.slow
def test_processes_side_by_side_leave_what_one_leaves(house, capsys):
    alone, beside = (house[0] / name for name in ("alone", "beside"))
    words = ("reproduce", "--size", "smoke", "--only", "decay", "broken", "--json")
    records = []
    for out, jobs in ((alone, 1), (beside, 2)):
        assert run(*words, "--out", out, "--jobs", jobs) == 1
        said = capsys.readouterr()
        assert "decay: computed" in said.err and "broken: failed" in said.err
        records.append(json.loads(said.out)["experiments"])
    names = ("experiment", "status", "headline", "message")
    one, other = ([{name: each[name] for name in names} for each in all] for all in records)
    assert one == other
    figures = [(out / "figures" / "decay.svg").read_text().splitlines() for out in (alone, beside)]
    assert figures[0][:-1] == figures[1][:-1]  # but for the mark


def test_a_process_that_dies_is_told_of():
    dies = functools.partial(os._exit, 9)
    said = pytest.raises(InputError, match=r"code 9 .* last; .*--jobs 1")
    with progress.Bar(1, shown=False) as bar, said:
        list(side_by_side.side_by_side({"last": print}, 2, bar, dies))


def test_a_touched_claims_file_is_refused_and_a_missing_one_made_again(house, capsys):
    out = house[0] / "results"
    words = ("reproduce", "--size", "smoke", "--only", "claims", "--out", out)
    assert run(*words) == 0
    whole = (out / "claims.json").read_text()
    for touched in ("[]", whole.replace("thm-2", "thm-3")):
        (out / "claims.json").write_text(touched)
        assert run(*words) == 2 and "it is left as it is" in capsys.readouterr().err
        assert (out / "claims.json").read_text() == touched
    (out / "claims.json").unlink()
    assert run(*words) == 0
    assert (
        house[1] == ["smoke", "smoke"]
        and len(json.loads((out / "claims.json").read_text())["claims"]) == 2
    )


def test_verify_fails_when_a_corrected_claim_is_refuted_and_not_when_the_print_is(
    house, capsys, monkeypatch
):
    path = house[0] / "claims.json"
    assert run("verify", "--to", path) == 0
    assert (
        "thm-2   refuted   holds" in capsys.readouterr().out
        and len(json.loads(path.read_text())["claims"]) == 2
    )
    monkeypatch.setattr(ledger, "verify", lambda *args, **kwargs: [claim("eq-2.5", True, False)])
    assert run("verify") == 1
    assert "eq-2.5" in capsys.readouterr().err
    assert ledger.refuted(json.loads(path.read_text())["claims"]) == []


def test_a_json_path_that_is_a_folder_is_refused(house, capsys):
    assert run("verify", "--to", house[0]) == 2 and house[1] == []


def test_a_reader_who_leaves_early_sees_no_traceback():
    command = f"{sys.executable} -m ntk_momentum list --claims | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith("abstract-global-minimum") and done.stderr == ""


def test_interruption_is_said_in_one_line(house, capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(ledger, "verify", interrupted)
    assert run("verify") == 130
    assert capsys.readouterr().err.startswith("interrupted")


def test_a_missing_package_is_named_with_code_2(house, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5netcdf", None)
    assert run("reproduce", "--out", house[0] / "results") == 2
    assert "'h5netcdf'" in capsys.readouterr().err and not (house[0] / "results").exists()


def test_a_missing_parser_is_named_with_code_2():
    code = (
        "import sys; sys.modules['tyro'] = None\nfrom ntk_momentum.__main__ import "
        "main\nsys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "'tyro'" in done.stderr and "Traceback" not in done.stderr


def test_the_version_is_told(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out == f"ntk-momentum {ntk_momentum.__version__}\n"


def test_every_flow_is_listed_with_its_parameters(capsys):
    assert run("list", "--flows") == 0
    said = capsys.readouterr().out
    assert "heavy_ball:b=sqrt(2 lambda_0)" in said and "triple_momentum:mu=...,smooth" in said
    assert "Args:" not in said and run("list", "--flows", "nesterov") == 0
    assert "Args:" in capsys.readouterr().out


def test_one_process_of_one_needs_no_runtime(house, capsys, monkeypatch):
    """The runtime dies of a signal when the coordinator cannot be had."""
    from ntk_momentum.ensembles import devices

    monkeypatch.setattr(devices.jax.distributed, "initialize", lambda *job: 1 / 0)
    assert devices.initialize("localhost:1234", 1, 0) == (0, 1)


SMALL = ("sweep", "--data", "sphere", "--n", 4, "--p", 3, "--widths", "8..16x2", "--seeds", 3)


@pytest.mark.slow
def test_a_dry_run_says_what_a_sweep_takes_and_writes_nothing(house, capsys):
    words = (*SMALL, "--flows", "nesterov:d=2..3", "--times", 3, "--t-end", 1, "--readouts", "loss")
    assert run(*words, "--dry-run", "--out", house[0] / "out") == 0
    said = capsys.readouterr().out
    assert "units: 1 (0 there already), runs: 12" in said and "nothing was written" in said
    assert list(house[0].iterdir()) == []
    assert run(*words, "--out", house[0] / "out") == 0
    assert run(*words, "--dry-run", "--out", house[0] / "out") == 0
    assert "units: 1 (1 there already), runs: 12" in capsys.readouterr().out


@pytest.mark.slow
def test_a_model_is_one_function_for_every_command(house, capsys):
    file = house[0] / "mine.py"
    file.write_text(
        "import equinox as eqx\ndef sized(width, key):\n"
        "    return eqx.nn.MLP(3, 'scalar', width, 1, key=key)\n"
        "def plain(key): return sized(5, key)\n"  # of one size, so of the same programs
    )
    data = ("--data", "sphere", "--n", 4, "--p", 3)
    for name in ("sized", "plain"):
        model = ("--model", f"{file}:{name}")
        assert run("diagnose", *data, *model, "--steps", 2, "--width", 5) == 0
        assert run("advise", *data, *model, "--width", 5) == 0
        assert run(*SMALL, *model, "--dry-run", "--t-end", 1, "--flows", "nesterov") == 0


def test_doctor_names_device_dtype_and_precision(capsys, monkeypatch):
    monkeypatch.setattr(double, "SIZE", 64)
    assert run("doctor") == 0
    said = capsys.readouterr().out
    cost = re.search(r"float64 +([0-9.]+) times float32's", said)
    assert cost is not None and float(cost[1]) > 0
    assert "float64" in said and "highest" in said and "cpu" in said


class Accelerator:
    """As much of JAX as is asked when float64 is chosen."""

    default_backend = staticmethod(lambda: "gpu")
    process_count = staticmethod(lambda: 1)
    devices = staticmethod(lambda: [types.SimpleNamespace(device_kind="Some (GPU)")])


def test_a_sweep_takes_float64_where_it_was_measured_to_be_free(tmp_path, monkeypatch):
    monkeypatch.setenv("NTK_MOMENTUM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    for first, then, free in ((2.0, 40.0, True), (40.0, 2.0, False)):
        for cost in (first, then):  # the second is not measured any more
            monkeypatch.setattr(double, "cost", lambda _, cost=cost: cost)
            assert double.free(Accelerator) == free
        (tmp_path / "cache" / "float64-some-gpu-.json").unlink()
    monkeypatch.setattr(Accelerator, "process_count", lambda: 2)
    assert not double.free(Accelerator)


def test_an_experiment_takes_its_own_parameters_and_says_which_there_are(house, capsys):
    out = house[0] / "results"
    assert run("run", "decay", "--points", 6, "--out", out) == 0
    assert "phi(1)" in capsys.readouterr().out
    assert len(list((out / "figures").glob("decay-??????.svg"))) == 1
    with pytest.raises(SystemExit):
        run("run", "decay", "--help")
    assert "--points INT" in capsys.readouterr().out
    assert run("run", "decay", "--pionts", 6) == 2
    asked = (
        "error: unknown option --pionts. Did you mean --points? See ntk-momentum run decay --help."
    )
    assert capsys.readouterr().err.strip() == asked


def test_results_are_json_on_stdout_and_progress_is_not(house, capsys):
    out = house[0] / "results"
    for words, key in (
        (["list"], "experiments"),
        (["list", "--flows", "heavy_ball", "--optimizers"], "flows"),
        (["list", "--claims", "Theorem 3"], "claims"),
        (["run", "decay", "--size", "smoke", "--out", out], "headline"),
        (["verify"], "classes"),
        (["table", out], "experiments"),
        (["plot", out], "figures"),
        (["reproduce", "--size", "smoke", "--only", "decay", "--out", out], "report"),
        (["doctor"], "device"),
    ):
        assert run(*words, "--json", "--quiet") == 0
        captured = capsys.readouterr()
        assert key in json.loads(captured.out) and captured.err == ""


def test_progress_without_a_terminal_is_lines_with_what_is_left(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with progress.listen(), progress.Bar(4) as bar:
        bar.skip_piece()
        bar.piece("sphere, width 8")(1, 2)
        bar.finish_piece()
    half, end = capsys.readouterr().err.splitlines()
    assert half.startswith("sphere, width 8: 1.5 of 4, 38%, 00:00 elapsed, ") and "50%" in end
    assert "a minute, about 00:0" in half and half.endswith("remaining")
    with progress.listen(quiet=True), progress.Bar(1) as bar:
        bar.finish_piece()
    assert capsys.readouterr().err == "" and not progress.LOG.isEnabledFor(logging.INFO)


def test_a_piece_that_says_nothing_is_told_of_again(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.02)
    monkeypatch.setattr(progress, "SILENT_SECONDS", 0.01)
    with progress.listen(), progress.Bar(1) as bar:
        bar.piece("quiet")
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 1 and set(lines) == {"quiet: 0%, 00:00 elapsed"}


@pytest.mark.slow
def test_a_sweep_is_watched_drawn_and_written(house, capsys):
    out = house[0] / "mine"
    words = ["--data", "sphere", "--n", "4", "--p", "3", "--widths", "8", "16", "--times", "4"]
    flows = ["--flows", "gradient_flow", "heavy_ball:b=0.5,1", "--t-end", "1"]
    assert run("sweep", *words, *flows, "--out", out, "--verbose") == 0
    told = capsys.readouterr().err
    assert "units, run by" in told and "wrote " in told and "JAX " in told
    assert run("status", out) == 0 and "(100%), " in capsys.readouterr().out
    next(out.rglob("unit-*.nc")).unlink()
    assert run("status", out, "--json") == 1
    (sweep,) = json.loads(capsys.readouterr().out)["sweeps"]
    assert (sweep["units"] - sweep["done"], sweep["held"], sweep["failed"]) == (1, 0, 0)
    assert run("sweep", *words, *flows, "--out", out, "--json", "--quiet") == 0
    assert json.loads(capsys.readouterr().out)["failures"] == []
    for look in (
        [],
        ["--overlay", "--band", "interval", "--middle", "mean", "--inches", "3.3", "2"],
        ["--band", "quartiles", "--style", "talk", "--title", "Mine"],
        ["--band", "none", "--style", "ggplot", "--overlay"],
    ):
        assert run("plot", out, *look, "--to", out / "loss.svg") == 0
    assert 'width="237.6pt"' not in (out / "loss.svg").read_text()
    capsys.readouterr()
    assert run("table", out, "--format", "csv") == 0
    assert ",loss,loss_lowest,loss_highest" in capsys.readouterr().out
    assert run("table", out, "--json") == 0
    row = json.loads(capsys.readouterr().out)["sweeps"][0]
    assert row["loss"]["lowest"] <= row["loss"]["median"] <= row["loss"]["highest"]


def test_advice_that_missed_says_whether_the_kernel_is_another_or_moves():
    data = nm.sphere(5, 3, key=jax.random.key(0))
    net = nm.init_two_layer(8, 3, key=jax.random.key(1))
    own = advise(nm.empirical_ntk(net, data.X), jax.vmap(net)(data.X) - data.y)["gradient_descent"]
    other = dataclasses.replace(own, steps=3.0)
    asked, took = Advise(), {"gradient_descent": (other, own.steps)}
    assert f"own kernel they take gradient_descent {own.steps:.0f}; --width 8" in _why_off(
        asked, net, data, took
    )
    told = _why_off(Advise(width=8), net, data, took)
    assert "in the 3 steps of gradient_descent the kernel moves by" in told
    never = _why_off(asked, net, data, {"gradient_descent": (other, math.inf)})
    assert "--width" not in never and "the kernel moves by" in never  # inf - x <= 0.2 inf

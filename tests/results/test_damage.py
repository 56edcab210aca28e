"""Damage of every kind to every kind of stored file: found before anything parses it, named, the
rest readable, and computed again.

The damaged folders are read in a process of their own, one line in, one line out, with a limit of
time for each: what hangs or ends the process fails the test.
"""

import inspect
import json
import random
import select
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from test_sweep import grid, units_of

import ntk_momentum as nm
from ntk_momentum import cli, files
from ntk_momentum.errors import InputError
from ntk_momentum.results import store, sweep
from ntk_momentum.study import registry

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 60.0  # seconds for one damaged folder, on a busy machine

CHILD = """
import contextlib, io, json, random, sys, warnings
from pathlib import Path
import jax
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_disable_most_optimizations", True)
import numpy as np
import ntk_momentum as nm
from ntk_momentum import cli, files
from ntk_momentum.errors import InputError
from ntk_momentum.ledger import check, drawing, ledger
from ntk_momentum.results import grid, reading, sweep
from ntk_momentum.study import outcome, registry
from ntk_momentum.study.claims_file import Claims

registry.folder = lambda: Path("tests/examples")
line = drawing.panel("t", "L", drawing.line([0, 1], [1, 0.5], "L"))
form = check.Check("eq", True, {"error": 1e-12}, "sphere", 1e-10)
figure = drawing.drawing("It falls.", line)
claim = ledger.Claim("eq-2.5", "2", "identity", form, form, None, "Because.", figure, 0.1)
ledger.verify = lambda *args, **kwargs: [claim]
sizes = {"n": 4, "p": 3, "widths": (8,), "seeds": 2, "t_end": 1.0, "times": 3, "unit_runs": 1}
plan = grid.Sweep(data=("sphere",), flows=("gradient_flow", "heavy_ball:0.5"), **sizes)
key = jax.random.key(0)
data, model = nm.sphere(3, 3, key=key), nm.init_two_layer(8, 3, key=key)

def solve(place):
    flow, ts, path = nm.HeavyBall(0.5), [0.0, 0.1, 0.2], place / "run.checkpoint"
    run = nm.simulate_checkpointed(model, data, flow, ts, path, every=1, readouts=["loss"])
    return np.asarray(run.loss).tolist()

def values(place):
    results = nm.open_results(place).load()
    return {name: results[name].values.tolist() for name in ("loss", "f", "accepted")}

def make(place):
    done = outcome.complete(registry.experiments()["decay"], "smoke", place)
    if done.trace:
        raise RuntimeError(done.trace)
    Claims(place, "smoke").run(lambda done, total: None)
    swept = sweep.carry_out(plan, place)
    return {"solved": solve(place), "swept": swept.ok, "headline": dict(done.headline)}

WORK = {"make": make, "open": values, "table": lambda place: cli.main(["table", str(place)]),
        "plot": lambda place: cli.main(["plot", str(place)]), "again": make, "reopen": values}

def answer(what, place):
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("always")
        with contextlib.redirect_stderr(io.StringIO()) as said:
            try:
                value = WORK[what](Path(place))
            except InputError as error:
                return {"refused": str(error)}
        if "Traceback" in said.getvalue():
            raise RuntimeError(said.getvalue())
    return {"value": value, "warned": [str(one.message) for one in caught], "said": said.getvalue()}

# Many in one request, each undone after it was looked at: nothing is computed again, and all that
# is whole is read every tenth time only, since that takes most of the time.
KINDS = ("result", "sweep", "checkpoint", "claims", "figure", "report")

def many(place, seed, number):
    good, chance, wrong = values(place), random.Random(seed), []
    names = sorted(path for path in files.below(place, "*.*") if path.name != ".locks")
    for count in range(number):
        path = chance.choice(names)
        before = path.read_bytes()
        after = damaged(before, chance)
        if after == before:
            continue
        path.write_bytes(after)
        unit = path.name.startswith("unit-")
        named = [line for line in reading.damaged(place) if path.name in line]
        if bool(named) != unit or any(files.whole(path, kind) for kind in KINDS):
            wrong.append([path.name, named])
        if count % 10 == 0:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                there = nm.open_results(place)["loss"].load().values
            said = [one for one in caught if path.name in str(one.message)]
            lost = np.isnan(there)
            rest = np.array_equal(there[~lost], np.array(good["loss"])[~lost])
            if len(said) != unit or not rest or bool(lost.any()) != unit or lost.all():
                wrong.append([path.name, len(said), rest, int(lost.sum())])
            if answer("table", place).get("value") != int(unit):
                wrong.append([path.name, "table"])
        path.write_bytes(before)
    return {"wrong": wrong, "same": values(place) == good}

for request in sys.stdin:
    steps, place, *numbers = request.split()
    if numbers:
        print(json.dumps(many(Path(place), *map(int, numbers))), flush=True)
        continue
    print(json.dumps({what: answer(what, place) for what in steps.split(",")}), flush=True)
"""


class Reader:
    """The process that reads damaged folders."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", inspect.getsource(damaged) + CHILD],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def ask(self, steps: str, place: Path, *numbers: int) -> dict:
        """What came of the steps, or of `numbers` (seed, how many) of damages that are undone.

        Fails when the process ends or takes too long."""
        assert self.process.stdin is not None and self.process.stdout is not None
        words = (steps, place, *numbers)
        self.process.stdin.write(f"{' '.join(map(str, words))}\n".encode())
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], LIMIT)
        assert ready, f"no answer in {LIMIT} seconds"
        line = self.process.stdout.readline()
        assert line, "the process that read it is gone"
        return json.loads(line)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def reader():
    made = Reader()
    yield made
    made.close()


@pytest.fixture(scope="module")
def whole(reader, tmp_path_factory) -> tuple[Path, dict]:
    """A folder with every kind of stored file, and what it says."""
    place = tmp_path_factory.mktemp("damage") / "whole"
    return place, reader.ask("make,open", place)


def damaged(content: bytes, chance: "random.Random") -> bytes:
    """A byte flipped, a stretch zeroed, or the end cut off."""
    kind, at = chance.choice(["flip", "zero", "cut"]), chance.randrange(len(content))
    if kind == "cut":
        return content[:at]
    if kind == "flip":
        return content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]
    end = min(len(content), at + chance.choice([1, 64, 4096]))
    return content[:at] + bytes(end - at) + content[end:]


def survive(reader, whole, tmp_path, number: int, seed: int) -> None:
    kept, good = whole
    chance = random.Random(seed)
    names = sorted(path.relative_to(kept) for path in files.below(kept, "*.*"))
    names = [name for name in names if name.name != ".locks"]
    assert {name.suffix for name in names} >= {".nc", ".json", ".svg", ".pdf", ".checkpoint"}
    for count in range(number):
        name, place = chance.choice(names), tmp_path / str(count)
        shutil.copytree(kept, place)
        before = (place / name).read_bytes()
        after = damaged(before, chance)
        (place / name).write_bytes(after)
        if after == before:
            continue
        got = reader.ask("open,table,plot,again,reopen", place)
        unit, stored = name.name.startswith("unit-"), name.suffix not in (".svg", ".pdf")
        left_out = [line for line in got["open"]["warned"] if str(name) in line]
        assert bool(left_out) == unit, (name, got["open"])
        assert unit or got["open"]["value"] == good["open"]["value"]
        assert "value" in got["table"] and got["table"]["value"] == int(unit)
        if "refused" in got["again"]:  # not known for ours any more: untouched, and named
            assert name.name in got["again"]["refused"], got
            assert (place / name).read_bytes() == after
            assert name.name == "claims.json" or not stored or _unknown(place / name)
        else:
            assert got["again"]["value"] == good["make"]["value"], (name, got)
            assert got["reopen"]["value"] == good["open"]["value"]
            assert not got["reopen"]["warned"]
        shutil.rmtree(place)


def _unknown(path: Path) -> bool:
    """Whether nothing is left of the mark's first words."""
    head = path.read_bytes()[:50]
    return len(head) < 50 or b"\0\0\0\0" in head


@pytest.mark.slow
def test_random_damage_is_found_named_and_mended(reader, whole, tmp_path):
    survive(reader, whole, tmp_path, 30, 1)


@pytest.mark.slow
def test_a_thousand_random_damages_are_found_before_they_are_parsed(reader, whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "damaged")
    for seed in range(10):
        got = reader.ask("many", tmp_path / "damaged", seed, 100)
        assert got["same"] and not got["wrong"], got["wrong"][:3]


@pytest.fixture
def swept(tmp_path, pretended) -> Path:
    out = tmp_path / "results"
    assert sweep.carry_out(grid(unit_runs=1), out).ok
    return out


def test_a_unit_copied_over_another_is_noticed_and_computed_again(swept):
    before = nm.open_results(swept).load()
    first, second, *_ = units_of(swept)
    whole, copied = second.read_bytes(), first.read_bytes()
    second.write_bytes(copied)
    with pytest.warns(RuntimeWarning, match=f"{second.name} holds the result {first.stem[5:]}"):
        results = nm.open_results(swept).load()
    assert int(results.verdict.notnull().sum()) == int(before.verdict.notnull().sum()) - 1
    with pytest.raises(InputError, match="under the name of another"):
        store.Stored.open(second)
    again = sweep.carry_out(grid(unit_runs=1), swept)
    assert again.ok and (len(again.done.computed), len(again.done.kept)) == (1, 3)
    assert "is a copy of another file; it was set aside" in again.done.notes[0]
    assert second.with_name(f"{second.name}.damaged").read_bytes() == copied
    assert nm.open_results(swept).load().equals(before) and len(second.read_bytes()) == len(whole)


def test_a_plan_copied_over_another_is_not_followed(swept):
    (first,) = swept.glob("data/sweep-*.json")
    sweep.carry_out(grid(unit_runs=1, seeds=3), swept)
    (second,) = set(swept.glob("data/sweep-*.json")) - {first}
    second.write_bytes(first.read_bytes())
    sweep.carry_out(grid(unit_runs=1, seeds=3), swept)
    assert json.loads(second.read_text())["grid"]["seeds"] == 3


def test_a_flipped_byte_in_an_attribute_is_found_before_it_is_parsed(swept):
    first, *_ = units_of(swept)
    whole, text = first.read_bytes(), b"sphere4x3"
    at = whole.index(text)
    first.write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])
    with pytest.warns(RuntimeWarning, match=f"{first.name} .* truncated or altered"):
        nm.open_results(swept).load()
    with warnings.catch_warnings(action="default"):
        assert cli.main(["table", str(swept)]) == 1
    assert len(sweep.carry_out(grid(unit_runs=1), swept).done.computed) == 1
    assert cli.main(["table", str(swept)]) == 0


def test_experiments_are_shown_beside_sweeps_of_which_nothing_is_whole(swept, monkeypatch, capsys):
    monkeypatch.setattr(registry, "folder", lambda: ROOT / "tests" / "examples")
    assert cli.main(["run", "decay", "--size", "smoke", "--out", str(swept)]) == 0
    for path in units_of(swept):
        path.write_bytes(path.read_bytes()[:-1])
    capsys.readouterr()
    for command, shown in (("table", "phi(1)"), ("plot", "decay.svg")):
        with warnings.catch_warnings(action="default"):
            assert cli.main([command, str(swept)]) == 1
        said = capsys.readouterr()
        assert shown in said.out and said.err.count("truncated or altered") == 4


def test_the_folder_of_data_may_be_a_link(swept, tmp_path):
    before = nm.open_results(swept).load()
    (swept / "data").rename(tmp_path / "large disk")
    (swept / "data").symlink_to(tmp_path / "large disk")
    (tmp_path / "large disk" / "round").symlink_to(swept)
    assert nm.open_results(swept).load().equals(before)
    assert len(sweep.carry_out(grid(unit_runs=1), swept).done.kept) == 4
    assert cli.main(["table", str(swept)]) == cli.main(["plot", str(swept)]) == 0


def test_a_command_reads_a_file_once_for_its_hash(swept, monkeypatch):
    hashed = []
    digest = files._digest
    monkeypatch.setattr(
        files, "_digest", lambda file, at: hashed.append(file.name) or digest(file, at)
    )
    assert cli.main(["table", str(swept)]) == 0
    assert sorted(map(str, hashed)) == sorted(map(str, units_of(swept)))
    with files.hashed_once():
        first = units_of(swept)[0]
        assert files.whole(first, store.KIND) and files.whole(first, store.KIND)
        first.write_bytes(first.read_bytes()[:-1])
        assert files.whole(first, store.KIND) is None
    assert len(hashed) == len(units_of(swept)) + 2


@pytest.mark.parametrize("kind", ["result", "sweep"])
def test_a_damaged_mark_is_known_for_one_and_other_text_is_not(tmp_path, kind):
    path = tmp_path / "x"
    if kind == "sweep":
        files.write_json(path, kind, {"a": 1})
    else:
        store.write_dataset(path, few_numbers(), {})
    whole = path.read_bytes()
    for at in (0, 3, 20, 25, 40):
        path.write_bytes(whole[:at] + b"#" + whole[at + 1 :])
        files.check_target(path, kind)
    for theirs in (
        b"",
        whole[:10],
        b"a poem\n" * 99,
        whole.replace(kind.encode(), b"verse"),
        b"{}",
    ):
        path.write_bytes(theirs)
        with pytest.raises(files.Refused):
            files.check_target(path, kind)


def few_numbers():
    import xarray as xr

    return xr.Dataset({"x": ("k", np.arange(5.0))})

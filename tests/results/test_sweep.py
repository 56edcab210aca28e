"""Sweeps: one whole file for each unit of work, whatever happens to the processes that make
them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import ntk_momentum as nm
from ntk_momentum import files
from ntk_momentum.ensembles import ensemble as ensembles
from ntk_momentum.errors import InputError
from ntk_momentum.network.loading import load_maker
from ntk_momentum.progress import Bar
from ntk_momentum.results import store, sweep, work
from ntk_momentum.results.grid import Source, Sweep
from ntk_momentum.results.status import standing


def grid(**changes) -> Sweep:
    small = {"data": ("sphere",), "flows": ("gradient_flow", "heavy_ball"), "widths": (16,)}
    sizes = {"n": 4, "p": 3, "seeds": 2, "times": 3, "t_end": 1.0}
    return Sweep(**{**small, **sizes, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"n": 0},
        {"widths": (-2,)},
        {"widths": (3,), "antisymmetric": True},
        {"widths": (4, 4)},
        {"times": 1},
        {"t_end": -1.0},
        {"flows": ()},
        {"flows": ("heavy_ball:0.5", "heavy_ball:0.50")},
        {"data": ()},
        {"data": ("sphere", "sphere")},
        {"unit_runs": 0},
    ],
)
def test_a_grid_is_checked_before_anything_is_computed(changes):
    with pytest.raises(InputError):
        grid(**changes)


def units_of(out: Path) -> list[Path]:
    return sorted(out.glob("data/unit-*.nc"))


def contents(out: Path) -> dict[str, dict]:
    """Every value in every unit, as bytes."""
    units = [store.Stored.open(path) for path in units_of(out)]
    return {
        unit.path.name: {name: unit.read(name).tobytes() for name in unit.contents}
        for unit in units
    }


def test_a_sweep_is_done_once_and_a_larger_one_reuses_it(tmp_path, pretended):
    small = grid(flows=("gradient_flow",), unit_runs=1)
    first = sweep.carry_out(small, tmp_path)
    assert first.ok and (first.units, first.runs, len(first.done.computed)) == (2, 2, 2)
    before = contents(tmp_path)
    again = sweep.carry_out(small, tmp_path)
    assert len(again.done.kept) == 2 and len(pretended) == 2
    larger = sweep.carry_out(grid(flows=("gradient_flow",), unit_runs=1, seeds=3), tmp_path)
    assert (len(larger.done.kept), len(larger.done.computed)) == (2, 1) and len(pretended) == 3
    after = contents(tmp_path)
    assert {name: after[name] for name in before} == before
    stored = store.Stored.open(units_of(tmp_path)[0])
    assert (
        stored.dims("loss") == ("flow", "width", "seed", "step")
        and stored.attributes["data"] == "sphere4x3 seed 0"
    )
    assert json.loads(stored.attributes["settings"])["antisymmetric"] is False


def test_a_sweep_holds_what_an_ensemble_does(tmp_path):
    small = grid(flows=("heavy_ball:0.5",), readouts=("loss", "flips"))
    assert sweep.carry_out(small, tmp_path).ok
    data = Source("sphere", 4, 3, 0).load()
    runs = ensembles.ensemble(
        data, nm.HeavyBall(0.5), (16,), 2, np.linspace(0, 1, 3), readouts=("loss", "flips")
    )
    stored = store.read_dataset(*units_of(tmp_path))
    for name in (*runs.readouts, "accepted", "rejected", "verdict"):
        np.testing.assert_array_equal(stored[name], runs[name])


@pytest.mark.slow
def test_a_sweep_of_a_users_model_is_found_again_while_its_file_stays_as_it_is(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import equinox as eqx, jax\ndef build(width, key): return eqx.nn.MLP(3, "
        "'scalar', width, 1, jax.numpy.tanh, key=key)\n"
    )
    mine = grid(flows=("heavy_ball",), widths=(5,), readouts=("loss",), model=f"{file}:build")
    for computed in (1, 0):
        done = sweep.carry_out(mine, tmp_path / "out")
        assert done.ok and len(done.done.computed) == computed
    data = Source("sphere", 4, 3, 0).load()
    model = load_maker(mine.model)
    kernel = nm.empirical_ntk(model(5, key=jax.random.key(0)), data.X)
    friction = float(jnp.sqrt(2 * jnp.linalg.eigvalsh(kernel)[0]))
    runs = nm.ensemble(
        data, nm.HeavyBall(friction), 5, 2, np.linspace(0, 1, 3), readouts=("loss",), model=model
    )
    (path,) = units_of(tmp_path / "out")
    np.testing.assert_allclose(store.read_dataset(path)["loss"], runs.loss, rtol=1e-8)
    file.write_text(file.read_text().replace("tanh", "sin"))
    assert len(sweep.carry_out(mine, tmp_path / "out").done.computed) == 1
    assert len({one.what for one in standing(tmp_path / "out")}) == 2  # told apart by their code
    with pytest.raises(InputError, match="leave it out"):
        grid(model=mine.model, antisymmetric=True)


def test_several_data_sets_of_different_shapes_are_one_sweep(tmp_path, capsys, pretended):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "mine.npz", X=rng.normal(size=(3, 5)), y=np.ones(3))
    both = sweep.carry_out(
        grid(data=("sphere", str(tmp_path / "mine.npz")), flows=("gradient_flow",)),
        tmp_path / "out",
    )
    assert both.ok and both.units == 2 and capsys.readouterr().err == ""  # no terminal, no bar
    names = {store.Stored.open(path).attributes["data"] for path in units_of(tmp_path / "out")}
    assert names == {"sphere4x3 seed 0", "mine"}


def test_failed_runs_are_named_and_the_others_kept(tmp_path, pretended):
    swept = sweep.carry_out(grid(flows=("gradient_flow",), seeds=4), tmp_path)
    assert not swept.ok and len(swept.failures) == 1 and swept.runs == 4
    assert swept.failures[0].startswith(
        "sphere4x3 seed 0, gradient_flow, width 16, seed 2: the maximum number of steps"
    )


def piece(folder: Path, name: str, value=1.0, calls=None) -> work.Piece:
    def compute():
        if calls is not None:
            calls.append(name)
        if isinstance(value, Exception):
            raise value
        return xr.Dataset({"x": ("k", [value, np.nan])}), {"name": name}

    return work.Piece(folder / f"{name}.nc", name, compute)


def do(*pieces: work.Piece) -> work.Done:
    with Bar(len(pieces)) as bar:
        return work.do(pieces, bar)


@pytest.mark.parametrize("damage", ["truncated", "altered"])
def test_a_damaged_unit_is_set_aside_and_computed_again(tmp_path, caplog, damage):
    do(piece(tmp_path, "a"), piece(tmp_path, "b"))
    path = tmp_path / "a.nc"
    whole = path.read_bytes()
    altered = whole.replace(np.float64(1.0).tobytes(), np.float64(2.0).tobytes())
    path.write_bytes({"truncated": whole[: len(whole) // 2], "altered": altered}[damage])
    done = do(piece(tmp_path, "a"), piece(tmp_path, "b"))
    assert (done.computed, done.kept) == (
        ["a"],
        ["b"],
    ) and "set aside as a.nc.damaged" in caplog.text
    assert store.read_dataset(path).x[0] == 1.0 and (tmp_path / "a.nc.damaged").exists()


def test_a_piece_that_raises_does_not_stop_the_others(tmp_path, caplog):
    done = do(
        piece(tmp_path, "a", RuntimeError("no luck")),
        piece(tmp_path, "b", InputError("too large")),
        piece(tmp_path, "c"),
    )
    assert done.broken == {"a": "RuntimeError: no luck", "b": "too large"} and done.computed == [
        "c"
    ]
    assert "no luck" in caplog.text and "too large" not in caplog.text


def test_what_another_process_holds_is_waited_for_and_taken_over_when_it_dies(
    tmp_path, monkeypatch
):
    code = (
        "import sys, signal, pathlib\nfrom ntk_momentum.results.work import Locks\n"
        "with Locks(pathlib.Path(sys.argv[1])) as locks: print(locks.take('a.nc'), "
        "flush=True); signal.pause()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert child.stdout is not None and child.stdout.readline() == b"True\n"
    child.stdout.close()
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) == 2:
            child.kill()
            child.wait()

    monkeypatch.setattr(work.time, "sleep", sleep)
    calls = []
    done = do(piece(tmp_path, "a", calls=calls), piece(tmp_path, "b", calls=calls))
    assert calls == ["b", "a"] and done.computed == ["b", "a"] and len(looks) == 2


def test_processes_of_a_job_begin_apart_and_do_what_the_others_leave(tmp_path, pretended):
    plan = grid(unit_runs=1)
    assert sweep.carry_out(plan, tmp_path, (1, 2)).ok and pretended == [2, 3, 0, 1]
    swept = sweep.carry_out(plan, tmp_path, (0, 2))
    assert len(swept.done.kept) == 4 and swept.missing == 0 and len(pretended) == 4


def test_a_file_system_without_locks_is_told_once(tmp_path, monkeypatch, caplog):
    import fcntl

    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    assert do(piece(tmp_path, "a"), piece(tmp_path, "b")).computed == ["a", "b"]
    assert caplog.text.count("has no file locks") == 1


def test_a_full_disk_is_one_error_and_leaves_nothing_half_written(tmp_path):
    """A limit on the size of files stands in for the disk's end."""
    import resource
    import signal

    big = work.Piece(
        tmp_path / "big.nc", "big", lambda: (xr.Dataset({"x": ("k", np.zeros(100_000))}), {})
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(InputError, match=r"free some space"):
            do(piece(tmp_path, "a"), big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".locks", "a.nc"]
    assert do(piece(tmp_path, "a"), big).computed == ["big"]


def test_leftovers_of_a_killed_writer_are_removed(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    name = f".ntk_momentum-{{}}-{files._machine()}-abcd_123.nc"
    for left in (
        name.format(gone.pid),
        name.format(os.getpid()),
        f".ntk_momentum-{gone.pid}-elsewhere.nc",
    ):
        (tmp_path / left).write_bytes(b"half")
    do(piece(tmp_path, "a"))
    kept = [".locks", name.format(os.getpid()), f".ntk_momentum-{gone.pid}-elsewhere.nc", "a.nc"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_a_sweep_goes_on_by_the_units_it_began_with_whatever_memory_is_free(
    tmp_path, pretended, monkeypatch, caplog
):
    asked = grid(flows=("gradient_flow",), seeds=8)
    needed = sweep.forecast(asked, tmp_path).bytes / sweep.MARGIN
    free = lambda share: monkeypatch.setattr(sweep, "available", lambda: share * needed)
    free(0.8)
    assert sweep.carry_out(asked, tmp_path).units == 2
    free(2.0)
    more = sweep.carry_out(asked, tmp_path)
    assert len(more.done.kept) == more.units == 2 and not caplog.records
    free(0.62)
    less = sweep.carry_out(asked, tmp_path)
    assert len(less.done.computed) == less.units > 2 and "less memory is free" in caplog.text


def test_a_damaged_configuration_is_set_aside(tmp_path, pretended):
    small = grid(flows=("gradient_flow",))
    sweep.carry_out(small, tmp_path)
    (path,) = tmp_path.glob("data/sweep-*.json")
    path.write_text(path.read_text()[:-20])
    assert (
        len(sweep.carry_out(small, tmp_path).done.kept) == 1
        and json.loads(path.read_text())["strategy"] == "map"
    )


def test_a_misspelt_data_set_gets_a_suggestion():
    with pytest.raises(InputError, match=r"Did you mean 'digits'.*npz"):
        Source("didgits").load()

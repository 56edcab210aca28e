"""Checkpointed solves: the same bits as uninterrupted ones, and never the state of another run."""

import dataclasses

import jax
import numpy as np
import pytest

import ntk_momentum as nm
from ntk_momentum import files
from ntk_momentum.dynamics import two_layer
from ntk_momentum.dynamics.coordinates import decompose
from ntk_momentum.dynamics.solver import RungeKutta
from ntk_momentum.errors import InputError

DATA = nm.sphere(3, 3, key=jax.random.key(0))
MODEL = nm.init_two_layer(8, 3, key=jax.random.key(1))
TS = np.linspace(0.0, 4.0, 6)


class Stop(Exception):
    pass


def solve(path, b=0.5, stop_at=None, model=MODEL, data=DATA, **options):
    def progress(done, total):
        seen.append(done)
        if done == stop_at:
            raise Stop

    seen: list[int] = []
    options = {"every": 2, "readouts": ("loss", "flips"), **options}
    try:
        return nm.simulate_checkpointed(
            model, data, nm.HeavyBall(b), TS, path, progress=progress, **options
        ), seen
    except Stop:
        return None, seen


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one_and_plain_simulate(tmp_path):
    assert solve(tmp_path / "a", stop_at=4) == (None, [2, 4])
    resumed, seen = solve(tmp_path / "a")
    whole, _ = solve(tmp_path / "b")
    assert seen == [6]
    plain = nm.simulate(MODEL, DATA, nm.HeavyBall(0.5), TS, readouts=("loss", "flips"))
    leaves = zip(*(jax.tree.leaves(run) for run in (resumed, whole, plain)), strict=True)
    for a, b, c in leaves:
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a, c, rtol=1e-12, atol=1e-12)
    again, seen = solve(tmp_path / "a")
    assert seen == [] and np.array_equal(again.loss, whole.loss)


@pytest.mark.slow
def test_a_refined_run_resumes_in_files_of_its_own_and_has_simulates_error_bars(tmp_path):
    options = {"readouts": ("loss",), "refine": True}
    assert solve(tmp_path / "a", stop_at=8, **options) == (None, [2, 4, 6, 2, 4, 6, 8])
    refined, seen = solve(tmp_path / "a", **options)
    assert seen == [10, 11] and len(list(tmp_path.iterdir())) == 2
    plain = nm.simulate(MODEL, DATA, nm.HeavyBall(0.5), TS, **options)
    np.testing.assert_allclose(refined.loss, plain.loss, rtol=1e-12)
    np.testing.assert_allclose(refined.errors["loss"], plain.errors["loss"], atol=1e-13)
    (tmp_path / "b.fine1").write_text("mine")
    with pytest.raises(InputError, match="fine1"):
        solve(tmp_path / "b", **options)
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
@pytest.mark.parametrize("solver", [None, RungeKutta()], ids=["span", "preactivations"])
def test_high_dimensional_inputs_resume_in_the_coordinates_that_are_in_the_file(
    tmp_path, monkeypatch, solver
):
    data, net = (
        nm.sphere(3, 20, key=jax.random.key(0)),
        nm.init_two_layer(8, 20, key=jax.random.key(1)),
    )
    options = {"every": 2, "readouts": ("loss", "displacement"), "solver": solver}
    whole, _ = solve(tmp_path / "b", model=net, data=data, **options)
    assert solve(tmp_path / "a", stop_at=4, model=net, data=data, **options) == (None, [2, 4])
    turned = lambda X: dataclasses.replace(
        decompose(X), left=-decompose(X).left, rows=-decompose(X).rows
    )  # another machine may find that
    monkeypatch.setattr(two_layer, "decompose", turned)
    resumed, _ = solve(tmp_path / "a", model=net, data=data, **options)
    for a, b in zip(jax.tree.leaves(resumed), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "change",
    [{"b": 0.25}, {"every": 3}, {"readouts": ("loss",)}, {"config": nm.Numerics(tol=1e-4)}],
)
def test_the_checkpoint_of_another_run_is_refused(tmp_path, change):
    solve(tmp_path / "a", stop_at=2)
    with pytest.raises(InputError, match="checkpoint of another run"):
        solve(tmp_path / "a", **change)


@pytest.mark.parametrize("damage", ["truncated", "altered", "mark"])
def test_a_damaged_checkpoint_is_set_aside_and_the_run_starts_again(tmp_path, damage):
    path = tmp_path / "a"
    solve(path, stop_at=4)
    whole = path.read_bytes()
    altered = whole[:-200] + bytes([whole[-200] ^ 1]) + whole[-199:]
    path.write_bytes({"truncated": whole[:-300], "altered": altered, "mark": whole[:100]}[damage])
    with pytest.warns(RuntimeWarning, match=r"set aside as a\.damaged"):
        _, seen = solve(path)
    assert seen == [2, 4, 6] and (tmp_path / "a.damaged").exists()


def test_a_second_damaged_checkpoint_does_not_replace_the_first(tmp_path):
    path = tmp_path / "a"
    (tmp_path / "a.damaged").write_text("a poem")
    solve(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(RuntimeWarning, match=r"set aside as a\.damaged-2"):
        solve(path)
    assert (tmp_path / "a.damaged").read_text() == "a poem"


def test_a_full_disk_costs_the_checkpoint_and_not_the_run(tmp_path, monkeypatch):
    def full(path, write):
        raise InputError(f"cannot write {path} (No space left on device)")

    monkeypatch.setattr(files, "atomically", full)
    with pytest.warns(RuntimeWarning, match="no checkpoint: cannot write"):
        run, _ = solve(tmp_path / "a")
    assert run.ok


def test_a_folder_that_cannot_be_written_is_refused_before_computing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="must be that of a folder, got the file"):
        solve(tmp_path / "file" / "a")

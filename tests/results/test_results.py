"""Results read back: labelled, lazy, whatever mix of sweeps a folder holds; as a table, a figure,
or parquet."""

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from test_sweep import grid, units_of

import ntk_momentum as nm
from ntk_momentum import cli
from ntk_momentum.errors import InputError
from ntk_momentum.results import sources, store, sweep
from ntk_momentum.study import registry

FLOWS = ("heavy_ball:0.5", "heavy_ball:0.1", "gradient_flow", "nesterov:3")


@pytest.fixture
def folder(tmp_path, pretended):
    """Two sweeps of different extent: widths 16 and 20 with three seeds for all flows, width 64
    with two seeds for one."""
    out = tmp_path / "results"
    sweep.carry_out(grid(flows=FLOWS, widths=(20, 16), seeds=3, times=5), out)
    sweep.carry_out(grid(flows=FLOWS[:1], widths=(64,), seeds=2, times=5), out)
    return out


def run(*words) -> int:
    return cli.main([str(word) for word in words])


def test_units_of_all_sweeps_are_one_labelled_data_set(folder):
    results = nm.open_results(folder)
    assert dict(results.sizes) == {
        "data": 1,
        "flow": 4,
        "width": 3,
        "seed": 3,
        "step": 5,
        "sample": 4,
    }
    assert list(results.flow.values) == [
        "gradient_flow",
        "heavy_ball:0.1",
        "heavy_ball:0.5",
        "nesterov:3",
    ]
    assert list(results.width.values) == [16, 20, 64] and list(results.kind.values[:2]) == [
        "gradient_flow",
        "heavy_ball",
    ]
    np.testing.assert_array_equal(results.b.values[0], [np.nan, 0.1, 0.5, np.nan])
    np.testing.assert_array_equal(results.d.values[0], [np.nan, np.nan, np.nan, 3.0])
    np.testing.assert_array_equal(results.time.values[0], np.tile(np.linspace(0, 1, 5), (4, 1)))
    expected = np.exp(-(1 + np.arange(3))[:, None] * np.linspace(0, 1, 5))
    np.testing.assert_allclose(
        results.loss.sel(flow="nesterov:3", width=20).values[0], expected, rtol=1e-15
    )
    alone = results.loss.sel(width=64).values[0]  # (flow, seed, step)
    np.testing.assert_allclose(alone[2, :2], expected[:2], rtol=1e-15)
    assert np.isnan(alone[[0, 1, 3]]).all() and np.isnan(alone[2, 2]).all()
    assert results.attrs["tol"] == 1e-5 and results.attrs["dtype"] == "float64"


def test_only_the_files_that_a_selection_meets_are_read(folder, monkeypatch):
    results = nm.open_results(folder)
    opened = []
    read = store.Stored.read
    monkeypatch.setattr(
        store.Stored,
        "read",
        lambda self, name: opened.append((self.path, name)) or read(self, name),
    )
    part = results.f.sel(flow="heavy_ball:0.5").isel(
        data=0, step=[4, 1], sample=slice(None, None, -2)
    )
    assert not opened
    wide = part.sel(width=64).transpose("step", ...).values
    assert len(opened) == 1 and wide.shape == (2, 3, 2)
    whole = nm.open_results(folder).load()
    np.testing.assert_array_equal(
        wide,
        whole.f.sel(flow="heavy_ball:0.5", width=64).values[0][:, [4, 1], ::-2].transpose(1, 0, 2),
    )


def test_a_variant_tells_settings_apart_and_data_sets_of_different_sizes_fit(folder, tmp_path):
    np.savez(tmp_path / "mine.npz", X=np.eye(6)[:5], y=np.ones(5))
    sweep.carry_out(grid(flows=FLOWS[:1], antisymmetric=True, times=9), folder)
    sweep.carry_out(
        grid(
            flows=FLOWS[:1],
            data=(str(tmp_path / "mine.npz"),),
            n=None,
            times=5,
            readouts=("loss",),
        ),
        folder,
    )
    results = nm.open_results(folder).load()
    assert dict(results.sizes) == {
        "variant": 2,
        "data": 2,
        "flow": 4,
        "width": 3,
        "seed": 3,
        "step": 9,
        "sample": 5,
    }
    assert sorted(results.antisymmetric.values) == [False, True] and sorted(
        results.times.values
    ) == [5, 9]
    place = {
        "variant": int(np.argmax(results.antisymmetric.values)),
        "data": 1,
        "flow": 2,
        "width": 0,
    }
    assert (
        results.data.values[1] == "sphere4x3 seed 0"
        and np.isfinite(results.loss.isel(place)[:2]).all()
    )
    assert (
        np.isnan(results.loss.isel(place, missing_dims="ignore").isel(seed=2)).all()
        and np.isnan(results.f[..., 4].isel(place)).all()
    )


def test_data_sets_of_one_name_are_told_apart(folder, tmp_path):
    for name, target in (("a", 1.0), ("b", 2.0)):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "mine.npz", X=np.eye(4), y=np.full(4, target))
        sweep.carry_out(
            grid(flows=FLOWS[:1], data=(str(tmp_path / name / "mine.npz"),), times=5), folder
        )
    labels = nm.open_results(folder).data.values
    assert len(labels) == 3 and [label.split(" #")[0] for label in labels] == [
        "mine",
        "mine",
        "sphere4x3 seed 0",
    ]


def test_a_unit_computed_again_counts_the_last_time(folder, pretended, monkeypatch):
    newer = sources.Code("newer", frozenset({"jax"}))
    monkeypatch.setattr(sweep, "code_of", lambda *modules: newer)
    sweep.carry_out(
        grid(flows=FLOWS[:1], widths=(64,), seeds=2, times=5, t_end=1.0, unit_runs=1), folder
    )
    with pytest.warns(RuntimeWarning, match="2 versions of the code"):
        results = nm.open_results(folder)
    assert dict(results.sizes)["width"] == 3 and "variant" not in results.sizes


def test_damaged_units_are_left_out_and_altered_ones_refused(folder, capsys):
    first, *_, last = units_of(folder)
    first.write_bytes(first.read_bytes()[:3000])
    with pytest.warns(RuntimeWarning, match="truncated or altered"):
        nm.open_results(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert cli.main(["table", str(folder)]) == 1
    shown = capsys.readouterr()
    rows = len(shown.out.splitlines()) - 1
    assert "truncated or altered" in shown.err and 0 < rows < 9  # of another unit, not of this one
    first.unlink()
    whole = last.read_bytes()
    value = store.Stored.open(last).read("loss").ravel()[-1].tobytes()
    assert value in whole
    last.write_bytes(whole.replace(value, np.float64(0.5).tobytes()))
    with pytest.warns(RuntimeWarning, match="truncated or altered"):
        nm.open_results(folder).load()


def test_a_unit_that_is_altered_after_it_was_opened_is_refused_when_it_is_read(folder):
    last = units_of(folder)[-1]
    value = store.Stored.open(last).read("loss").ravel()[-1].tobytes()
    results = nm.open_results(folder)
    last.write_bytes(last.read_bytes().replace(value, np.float64(0.5).tobytes()))
    with pytest.raises(InputError, match="do not match"):
        results.load()


def test_an_empty_or_missing_folder_is_refused(tmp_path):
    for place in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError):
            nm.open_results(place)


def test_the_table_shows_medians_over_runs_that_succeeded(folder, capsys):
    assert run("table", folder, "--readouts", "loss") == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0].split() == ["data", "flow", "width", "runs", "failed", "steps", "loss"]
        and len(lines) == 10
    )
    assert "0.2516 (0.1353 to 0.3679)" in lines[1] and lines[1].split()[-8:-4] == [
        "16",
        "3",
        "1",
        "7",
    ]


@pytest.mark.parametrize("words", [("table",), ("plot",)])
def test_a_misspelt_read_out_gets_a_suggestion(folder, capsys, words):
    assert run(*words, folder, "--readouts", "los") == 2
    assert "Did you mean 'loss'" in capsys.readouterr().err


def test_the_plot_has_a_panel_for_every_flow(folder, capsys):
    assert run("plot", folder) == 0
    path = folder / "figures" / "sweep-loss.svg"
    assert capsys.readouterr().out.strip() == str(path) and path.read_text().count('id="axes_') == 4
    assert run("plot", folder, "--to", folder / "loss.doc") == 2
    assert run("plot", folder, "--readouts", "loss", "flips", "--to", folder / "x.svg") == 2


def test_experiments_are_tabled_and_drawn_from_any_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(registry, "folder", lambda: Path(__file__).parents[1] / "examples")
    out = tmp_path / "results"
    assert run("run", "decay", "--out", out, "--size", "smoke") == 0
    shutil.rmtree(out / "figures")
    capsys.readouterr()
    assert run("table", out) == 0
    assert "decay" in (said := capsys.readouterr().out) and "phi(1)" in said and "0.3679" in said
    assert run("plot", out) == 0 and (out / "figures" / "decay.svg").exists()
    assert run("export", out) == 2
    assert "holds the experiments decay" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    for words in (
        ("table", tmp_path / "empty"),
        ("plot", tmp_path / "empty"),
        ("table", tmp_path / "none"),
    ):
        assert run(*words) == 2


def test_parquet_has_a_row_for_each_run_and_time(folder, capsys):
    parquet = pytest.importorskip("pyarrow.parquet")
    assert run("export", folder) == 0
    frame = parquet.read_table(folder / "sweeps.parquet").to_pandas()
    assert len(frame) == (4 * 2 * 3 + 2) * 5 and {
        "data",
        "flow",
        "kind",
        "b",
        "d",
        "width",
        "seed",
        "step",
        "time",
        "loss",
    } <= set(frame)
    one = frame[(frame.flow == "heavy_ball:0.5") & (frame.width == 64) & (frame.seed == 1)]
    np.testing.assert_allclose(one.loss, np.exp(-2 * np.linspace(0, 1, 5)), rtol=1e-15)
    assert len(one.f.iloc[0]) == 4


def test_a_missing_parquet_package_is_named(folder, capsys, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert run("export", folder) == 2 and "ntk_momentum[data]" in capsys.readouterr().err

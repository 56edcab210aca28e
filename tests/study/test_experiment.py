"""Finding experiments, running them, and a store that gives back what was put in or says why
not."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from ntk_momentum import files
from ntk_momentum.errors import InputError
from ntk_momentum.results import store
from ntk_momentum.study import outcome, registry

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "experiments"
    shutil.copytree(EXAMPLES, place)
    (place / "_shared.py").write_text("raise SystemExit")
    return place


def run(folder: Path, name: str = "decay", size: str = "smoke") -> outcome.Outcome:
    return outcome.complete(registry.experiments(folder)[name], size, folder.parent / "out")


def test_experiments_are_named_and_titled_without_being_imported(folder):
    (folder / "explosive.py").write_text('"""Title"""\nraise SystemExit("imported")\n')
    found = registry.experiments(folder)
    assert list(found) == ["decay", "broken", "explosive"]
    assert (found["decay"].title, found["decay"].claim) == (
        "A mode decays",
        "Gradient flow of one eigenvalue (2.5).",
    )


def test_a_misspelt_experiment_gets_a_suggestion(folder):
    with pytest.raises(InputError, match="Did you mean 'decay'"):
        registry.find(("decai",), folder)


def test_a_long_experiment_waits_to_be_named_or_for_full_size(folder):
    (folder / "long.py").write_text('"""Long"""\nORDER = 100\n')
    names = lambda *args: [e.name for e in registry.due(*args, folder)]
    assert names((), "smoke") == names((), "default") == ["decay", "broken"]
    assert names((), "full") == ["decay", "broken", "long"]
    assert names(("long",), "smoke") == ["long"]


def test_the_second_run_computes_nothing_and_draws_nothing(folder):
    first = run(folder)
    figure = first.figures["svg"].stat().st_mtime_ns
    second = run(folder)
    assert (first.status, second.status) == ("computed", "kept")
    assert second.figures["svg"].stat().st_mtime_ns == figure
    assert second.headline == first.headline == {"phi(1)": pytest.approx(np.exp(-1))}
    assert (
        outcome.recall(registry.experiments(folder)["decay"], "full", folder.parent / "out").status
        == "absent"
    )


def test_a_mended_label_keeps_the_numbers_and_redraws_the_figure(folder):
    first = run(folder)
    drawn = first.figures["svg"].read_text()
    text = (folder / "decay.py").read_text()
    (folder / "decay.py").write_text(
        text.replace("phi$", "psi$").replace("The line falls", "It falls")
    )
    second = run(folder)
    assert (
        second.status == "kept"
        and second.caption == "It falls."
        and second.figures["svg"].read_text() != drawn
    )
    (folder / "decay.py").write_text(text.replace("np.exp(-t)", "np.exp(-2 * t)"))
    third = run(folder)
    assert third.status == "computed" and third.data != first.data


def test_figures_are_the_same_bytes_every_time(folder):
    first = {kind: path.read_bytes() for kind, path in run(folder).figures.items()}
    for path in run(folder).figures.values():
        path.unlink()
    assert {kind: path.read_bytes() for kind, path in run(folder).figures.items()} == first


def test_a_failure_is_an_outcome_and_leaves_no_file(folder):
    failed = run(folder, "broken")
    assert (
        failed.status == "failed"
        and failed.message == "ValueError: no luck"
        and "no luck" in failed.trace
    )
    assert not (folder.parent / "out").exists()


def test_a_result_carries_where_it_came_from(folder):
    attributes = run(folder).attributes
    assert (
        attributes["config"] == '{"points": 5}'
        and attributes["dtype"] == "float64"
        and attributes["precision"] == "highest"
    )
    assert {"git_commit", "versions", "device", "created", "seconds", "checksum"} <= set(attributes)


@pytest.mark.parametrize("damage", ["truncated", "altered"])
def test_a_damaged_result_is_reported_and_computed_again(folder, damage):
    path = run(folder).data
    whole = path.read_bytes()
    if damage == "altered":
        value = np.exp(-1.0).tobytes()
        assert value in whole
        path.write_bytes(whole.replace(value, np.float64(0.5).tobytes()))
    else:
        path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"truncated or altered.*run again"):
        store.read_dataset(path)
    again = run(folder)
    assert again.status == "computed" and "computed again" in again.message
    assert store.read_dataset(path).phi[-1] == pytest.approx(np.exp(-1))


def test_the_store_returns_what_it_was_given(tmp_path):
    import xarray as xr

    values = np.array([1.5, np.nan, -np.inf])
    given = xr.Dataset(
        {"x": ("k", values), "ok": ("k", [True, False, True]), "n": ("k", [1, 2, 3])},
        {"k": ["a", "b", "é"]},
    )
    store.write_dataset(
        tmp_path / "x.nc", given, {"nested": {"b": 1, "a": [True, None]}, "text": "λ", "count": 2}
    )
    back, piecemeal = store.read_dataset(tmp_path / "x.nc"), store.Stored.open(tmp_path / "x.nc")
    assert dict(back.attrs) == piecemeal.attributes
    for name in given.variables:
        np.testing.assert_array_equal(back[name], given[name])
        np.testing.assert_array_equal(piecemeal.read(name), given[name].values)
        assert (back[name].dtype, back[name].dims) == (
            piecemeal.read(name).dtype,
            piecemeal.dims(name),
        )
    assert back.ok.dtype == bool and list(back.k.values) == ["a", "b", "é"]
    assert back.attrs["nested"] == '{"a": [true, null], "b": 1}' and back.attrs["text"] == "λ"
    assert [path.name for path in tmp_path.iterdir()] == ["x.nc"]


def test_a_write_that_breaks_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x.html"
    files.write_text(path, "report", "old")
    old = path.read_text()

    def break_off(temporary: Path) -> None:
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.atomically(path, break_off)
    assert path.read_text() == old and os.listdir(tmp_path) == ["x.html"]


def test_other_programs_read_stored_results(tmp_path):
    import h5netcdf
    import h5py
    import xarray as xr

    path = tmp_path / "x.nc"
    store.write_dataset(path, xr.Dataset({"x": ("k", np.arange(5.0))}), {"text": "λ"})
    assert path.read_bytes().startswith(b"ntk_momentum result 1 sha256:")
    with h5py.File(path) as plain, h5netcdf.File(path) as file:
        assert plain["x"][3] == file["x"][3] == 3.0
    with xr.open_dataset(path, engine="h5netcdf") as dataset:
        assert dataset.x[4] == 4.0 and dataset.attrs["text"] == "λ"


def test_fingerprints_depend_on_values_and_not_on_their_order_or_type():
    assert store.fingerprint({"a": 1, "b": (2.0, 3)}) == store.fingerprint(
        {"b": [np.float64(2), np.int64(3)], "a": 1}
    )
    assert store.fingerprint({"a": 1}) != store.fingerprint({"a": 2})


def test_any_parameter_of_an_experiment_can_be_chosen(folder):
    decay = registry.experiments(folder)["decay"]
    assert decay.options()["points"][:2] == (int, 5)
    out = folder.parent / "out"
    plain, chosen = run(folder), outcome.complete(decay, "smoke", out, None, {"points": 7})
    assert chosen.dataset.sizes["time"] == 7 and chosen.attributes["size"] == "smoke, points = 7"
    assert chosen.figures["svg"] != plain.figures["svg"]
    assert outcome.complete(decay, "smoke", out, None, {"points": 7}).status == "kept"
    with pytest.raises(InputError, match="Did you mean 'points'"):
        decay.check_options(["point"])


def test_options_are_read_with_their_types_defaults_and_comments_and_bases():
    known = registry.experiments()
    three = known["three_flows"].options()
    assert three["widths"][:2] == (tuple[int, ...], (128, 1024, 8192))
    assert three["horizon"].help.startswith("in units of 1/lambda_0")
    published = known["published_nesterov_width"].options()
    assert {"data", "eta", "ds"} <= set(published) and "mnist:FOLDER" in published["data"].help
    reserved = {"name", "size", "out", "given", "float32", "no_cache", "version"}
    for experiment in known.values():
        assert not reserved & set(experiment.options())


def test_a_run_that_was_stopped_goes_on_with_the_pieces_it_kept(tmp_path):
    computed = []

    def work(name):
        computed.append(name)
        return [1.0, np.inf, 0.1]

    for name in "aab":
        pieces = outcome.Keeper(None, tmp_path / "x.pieces", "ab")
        kept = pieces.keep(name, lambda name=name: work(name))
        np.testing.assert_array_equal(kept, [1.0, np.inf, 0.1])
    assert computed == ["a", "b"]
    pieces.clear()
    assert not (tmp_path / "x.pieces").exists()

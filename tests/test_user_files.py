"""What belongs to the user stays as it is, whatever stands beside, under or in place of our files.

Every command and function that takes a path is run once in an empty place, which shows what it
writes. Then something of the user's takes the place of each of these files and folders in turn,
with more of it beside and below: after the call all of that is the same, byte for byte, and the
call worked or was refused in one line.
"""

import dataclasses
import json
import os
import shutil
import stat
import sys
import types
import warnings
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import h5py
import jax
import numpy as np
import pytest

import ntk_momentum as nm
from ntk_momentum import cli, files
from ntk_momentum.errors import InputError
from ntk_momentum.ledger import check, drawing, ledger
from ntk_momentum.study import outcome, registry

ROOT = Path(__file__).resolve().parents[1]
_LOADER = SourceFileLoader("benchmarks", str(ROOT / "scripts" / "bench"))
benchmarks = module_from_spec(spec_from_loader("benchmarks", _LOADER))
_LOADER.exec_module(benchmarks)
REPRODUCE = "reproduce --size smoke --only decay claims --jobs 1"
SWEEP = "--data sphere --n 4 --p 3 --flows gradient_flow --widths 8 --seeds 2 --times 3 --t-end 1"


def command(*words: str) -> Callable[[Path], int]:
    """The command with "@" standing for the place; "#" for a folder of results beside it."""

    def call(place: Path) -> int:
        text = [w.replace("@", str(place)).replace("#", str(place.parent / "kept")) for w in words]
        return cli.main(text)

    return call


def solve(place: Path) -> None:
    key = jax.random.key(0)
    data, model = nm.sphere(3, 3, key=key), nm.init_two_layer(8, 3, key=key)
    nm.simulate_checkpointed(model, data, nm.GradientFlow(), [0.0, 0.1], place, readouts=["loss"])


def bench(place: Path) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["bench", "kernels", "--json", str(place)])
        return benchmarks.main()


def experiment(place: Path) -> None:
    done = outcome.complete(registry.experiments()["decay"], "smoke", place)
    if done.status == "failed":  # with `run`, a failure is an outcome
        raise InputError(done.message)


def opened(place: Path) -> None:
    with warnings.catch_warnings(action="ignore"):  # of what is left out
        nm.open_results(place)


def claims() -> list[ledger.Claim]:
    line = drawing.panel("t", "L", drawing.line([0, 1], [1, 0.5], "L"))
    form = check.Check("eq", True, {"error": 1e-12}, "sphere", 1e-10)
    figure = drawing.drawing("It falls.", line)
    return [ledger.Claim("eq-2.5", "2", "identity", form, form, None, "Because.", figure, 0.1)]


CASES: dict[str, Callable[[Path], object]] = {
    "run": command("run", "decay", "--size", "smoke", "--out", "@"),
    "reproduce": command(*REPRODUCE.split(), "--out", "@"),
    "sweep": command("sweep", *SWEEP.split(), "--out", "@"),
    "verify": command("verify", "--to", "@.json"),
    "verify without a suffix": command("verify", "--to", "@"),
    "bench": bench,
    "plot": command("plot", "@"),
    "plot to a file": command("plot", "#", "--to", "@.svg"),
    "plot to a png": command("plot", "#", "--to", "@.png"),
    "export": command("export", "#", "--to", "@.parquet"),
    "table": command("table", "@"),
    "simulate_checkpointed": solve,
    "write_claims": lambda place: ledger.write_claims(place, claims()),
    "open_results": opened,
    "load_npz": nm.load_npz,
    "an experiment": experiment,
}
IN_RESULTS = ("plot", "table", "open_results")  # these look at a folder of results


def folder(path: Path) -> None:
    path.mkdir()
    (path / "thesis.txt").write_text("years of work")


def netcdf(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["loss"] = np.arange(3.0)


def link(path: Path) -> None:
    target = path.with_name("what the link names.txt")
    target.write_text("mine")
    path.symlink_to(target)


def numbers(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, X=np.eye(3), y=np.ones(3))


def private(path: Path) -> None:
    path.write_text("ntk_momentum notes")
    path.chmod(0o600)


def read_only(path: Path) -> None:
    path.write_text("ntk_momentum figure 1 sha256:")
    path.chmod(0o400)


def edited(path: Path) -> None:
    """A figure of ours with a note of the user's."""
    files.write_text(path.with_name("edited.svg"), "figure", "<svg></svg>\n")
    os.rename(path.with_name("edited.svg"), path)
    path.write_text(path.read_text().replace("<svg>", "<svg><!-- a note -->"))


def quoting(path: Path) -> None:
    """A file that tells of a mark in its text."""
    path.write_text(f"<p>{files.mark('report')} {files.mark('result')}</p>")


QUICK = ("folder", "text", "link")
THINGS: dict[str, Callable[[Path], object]] = {
    "folder": folder,
    "text": lambda path: path.write_text("a poem"),
    "npz": numbers,
    "nc": netcdf,
    "svg": lambda path: path.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "html": lambda path: path.write_text("<!doctype html>\n<title>mine</title>\n"),
    "json": lambda path: path.write_text(json.dumps({"made_by": "me", "strategy": "map"})),
    "empty": lambda path: path.touch(),
    "link": link,
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "private": private,
    "read-only": read_only,
    "edited": edited,
    "quoting": quoting,
    "another file of ours": lambda path: files.write_json(path, "other", {"a": 1}),
}
OURS = "report.html claims.json decay.svg sweep-loss.svg unit-0.nc a-0.nc"
BESIDE = [*OURS.split(), "sweep-0.json", "x.damaged", ".notes", ".ntk_momentum-1-notes", "a.npz"]


@pytest.fixture(autouse=True)
def cheap(monkeypatch, pretended):
    """Nothing computes longer than it must; the files are those of real runs."""
    monkeypatch.setattr(registry, "folder", lambda: Path(__file__).with_name("examples"))
    monkeypatch.setattr(ledger, "verify", lambda *args, **kwargs: claims())
    monkeypatch.setattr(benchmarks, "pin", lambda: 0)
    rows = types.SimpleNamespace(rows=lambda size: [{"ratio": 2.0}])
    monkeypatch.setitem(sys.modules, "kernels", rows)


@dataclasses.dataclass
class Place:
    """A folder in which a case is run at `at`, beside results for the commands that read some."""

    root: Path
    name: str

    def prepare(self, results: Path) -> None:
        self.at = self.root / "mine"
        self.root.mkdir()
        shutil.copytree(results, self.root / "kept")
        if self.name in IN_RESULTS:
            shutil.copytree(results, self.at)

    def run(self) -> int:
        """The exit code; 2 for an `InputError`."""
        try:
            result = CASES[self.name](self.at)
        except InputError:
            return 2
        return result if isinstance(result, int) else 0


COMMANDS = [name for name in CASES if name.split()[0] in cli.NAMES]


def look(root: Path) -> dict[str, tuple[object, ...]]:
    """Name, mode and contents of everything below a folder."""
    seen: dict[str, tuple[object, ...]] = {}
    for path in sorted(root.rglob("*")):
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode):
            seen[str(path.relative_to(root))] = ("link", os.readlink(path))
        elif stat.S_ISDIR(mode):
            seen[str(path.relative_to(root))] = ("folder", mode)
        else:
            seen[str(path.relative_to(root))] = (mode, path.read_bytes())
    return seen


@pytest.fixture(scope="module")
def written() -> dict[str, list[Path]]:
    return {}


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> list[Path]:
    """A folder of results, made by the first test."""
    return [tmp_path_factory.mktemp("results") / "kept"]


def targets(name: str, tmp_path: Path, written, kept) -> list[Path]:
    """What a case writes in an empty place, files and folders."""
    (results,) = kept
    if not results.exists():
        assert command("sweep", *SWEEP.split(), "--out", "@")(results) == 0
    if name not in written:
        place = Place(tmp_path / "clean", name)
        place.prepare(results)
        before = look(place.root)
        code = place.run()
        assert code == 0 or name == "load_npz"
        fresh = [Path(path) for path in look(place.root) if path not in before]
        written[name] = [path for path in fresh if path.name != ".locks"] or [Path("mine")]
    return written[name]


@pytest.mark.slow
@pytest.mark.filterwarnings("default:left out:RuntimeWarning")
@pytest.mark.parametrize(
    "thing", [pytest.param(t, marks=[] if t in QUICK else pytest.mark.slow) for t in THINGS]
)
@pytest.mark.parametrize("name", CASES)
def test_what_is_not_ours_stays_as_it_is(name, thing, tmp_path, written, kept, capsys):
    if name == "export":
        pytest.importorskip("pyarrow")
    for number, target in enumerate(targets(name, tmp_path, written, kept)):
        place = Place(tmp_path / str(number), name)
        place.prepare(kept[0])
        at = place.root / target
        at.parent.mkdir(parents=True, exist_ok=True)
        if at.is_dir():
            shutil.rmtree(at)
        THINGS[thing](at)
        for parent in {at if at.is_dir() else at.parent, at.parent, place.root}:
            for theirs in BESIDE:
                if parent / theirs != at and not (parent / theirs).exists():
                    (parent / theirs).write_text(f"my {theirs}")
        before = look(place.root)
        capsys.readouterr()
        code = place.run()
        after, said = look(place.root), capsys.readouterr().err
        assert {path: after.get(path) for path in before} == before, (target, thing)
        assert code in (0, 2) or "left out" in said, (target, said)
        if code == 2 and name in COMMANDS:
            assert said.startswith("error: ") or "\nerror: " in said
            assert said.count("error: ") == 1 and "Traceback" not in said
        if code == 0 and not at.is_dir():
            assert set(after) - set(before) or name in ("table", "load_npz"), "nothing was done"


@pytest.mark.parametrize("name", [name for name in CASES if name != "load_npz"])
def test_our_own_files_are_written_again(name, tmp_path, written, kept):
    if name == "export":
        pytest.importorskip("pyarrow")
    targets(name, tmp_path, written, kept)
    place = Place(tmp_path / "again", name)
    place.prepare(kept[0])
    assert place.run() == place.run() == 0
    kinds = (*files.STORED, "claims", "bench", "figure", "report", "table")
    for path in place.root.rglob("*"):
        if path.is_file() and path.name != ".locks":
            assert any(files.whole(path, kind) for kind in kinds), path


@pytest.mark.parametrize("mask", [0o077, 0o022])
@pytest.mark.parametrize("name", ["reproduce", "verify", "bench", "sweep", "simulate_checkpointed"])
def test_modes_follow_the_mask(name, mask, tmp_path, written, kept):
    targets("sweep", tmp_path, written, kept)
    place = Place(tmp_path / "masked", name)
    place.prepare(kept[0])
    before, old = look(place.root), os.umask(mask)
    try:
        assert place.run() == 0
    finally:
        os.umask(old)
    for path in set(look(place.root)) - set(before):
        mode = stat.S_IMODE(os.lstat(place.root / path).st_mode)
        assert mode == (0o777 if (place.root / path).is_dir() else 0o666) & ~mask, path


def test_a_file_made_private_stays_private(tmp_path):
    path = tmp_path / "claims.json"
    ledger.write_claims(path, claims())
    path.chmod(0o600)
    ledger.write_claims(path, [])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_old_figures_of_claims_go_and_no_others(tmp_path, monkeypatch):
    assert cli.main(["verify", "--to", str(tmp_path / "mine.json")]) == 0
    (tmp_path / "mine_figures" / "notes.svg").write_text("<svg/>")
    monkeypatch.setattr(
        ledger, "verify", lambda *a, **k: [dataclasses.replace(claims()[0], id="eq-2.8")]
    )
    assert cli.main(["verify", "--to", str(tmp_path / "mine.json")]) == 0
    names = {path.name for path in (tmp_path / "mine_figures").iterdir()}
    assert names == {"eq-2.8.svg", "notes.svg"}


@pytest.mark.parametrize("suffix", [".svg", ".pdf", ".png"])
def test_a_marked_figure_is_known_by_its_bytes(tmp_path, suffix):
    from matplotlib.figure import Figure

    path = tmp_path / f"x{suffix}"
    files.write_figure(path, Figure())
    assert files.whole(path, "figure") and not files.whole(path, "report")
    path.write_bytes(path.read_bytes() + b"\n")
    assert files.whole(path, "figure") is None
    with pytest.raises(files.Refused, match="was changed since"):
        files.write_figure(path, Figure())

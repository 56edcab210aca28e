"""Real processes killed at random moments: at most the unit in flight is lost, and what is resumed
equals what was never interrupted."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ntk_momentum.results import store

ROOT = Path(__file__).resolve().parents[2]
KILLS = 10

PREPARE = """
import os, sys
import jax
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
from pathlib import Path
import h5netcdf, xarray  # slow to import, and used by every child
import numpy as np
import ntk_momentum as nm
from ntk_momentum.results import checkpoint, grid, sources, sweep, work
# sources may be edited while tests run
sweep.code_of = checkpoint.code_of = lambda *modules: sources.Code("code", frozenset({"jax"}))
sizes = {"n": 4, "p": 3, "widths": (16,), "seeds": 8, "t_end": 4.0, "times": 5, "unit_runs": 1}
sizes["readouts"] = ("loss", "f")
swept = grid.Sweep(data=("sphere",), flows=("heavy_ball:0.5",), **sizes)


def solve(path):
    data = nm.sphere(4, 3, key=jax.random.key(0))
    model = nm.init_two_layer(16, 3, key=jax.random.key(1))
    flow, ts, readouts = nm.HeavyBall(0.5), np.linspace(0, 20, 200), ("loss", "flips")
    run = nm.simulate_checkpointed(model, data, flow, ts, path, every=5, readouts=readouts)
    np.save(str(path) + ".tmp.npy", np.stack([run.loss, run.flips]))
    os.replace(str(path) + ".tmp.npy", str(path) + ".npy")


"""
# One process imports everything, JAX's backend asleep, and forks a child for each line "WHAT
# FOLDER" that it reads.
NURSERY = (
    PREPARE
    + """
for line in sys.stdin:
    what, where = line.split()
    child = os.fork()
    if child == 0:
        if what == "sweep":
            assert sweep.carry_out(swept, Path(where)).ok
        else:
            solve(Path(where))
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""
)


class Nursery:
    """Children that sweep or solve, and their deaths."""

    def __init__(self, folder: Path):
        self.folder = folder
        command = [sys.executable, "-c", NURSERY, str(folder / "cache")]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, what: str, where: Path, kill_after: float | None = None) -> int:
        """The child's exit status; 9 when it was killed."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(what, where, file=self.process.stdin, flush=True)
        child = int(self.process.stdout.readline())
        if kill_after is not None:
            time.sleep(kill_after)
            with contextlib.suppress(ProcessLookupError):  # it was faster
                os.kill(child, signal.SIGKILL)
        return int(self.process.stdout.readline())

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()  # closes the pipes


@pytest.fixture(scope="module")
def nursery(tmp_path_factory):
    made = Nursery(tmp_path_factory.mktemp("nursery"))
    yield made
    made.close()


def units(out: Path) -> dict[str, dict[str, bytes]]:
    """Every value of every unit. Raises when one is not whole."""
    stored = [store.Stored.open(path) for path in sorted(out.glob("data/unit-*.nc"))]
    return {
        unit.path.name: {name: unit.read(name).tobytes() for name in unit.contents}
        for unit in stored
    }


def killed_until_done(
    nursery: Nursery, what: str, folder: Path, look, seconds: float, seed: int
) -> tuple[int, list[Path]]:
    """Kill children at random moments, in one place until its work is done, then in the next:
    (kills, places), after KILLS kills.

    look: called with the place after every death.
    """
    moments = random.Random(seed)
    kills, places = 0, [folder / "0"]
    while True:
        wanted = moments.uniform(0, seconds) if kills < KILLS else None
        status = nursery.run(what, places[-1], wanted)
        look(places[-1])
        if status == 9:
            kills += 1
        elif kills < KILLS:
            assert status == 0
            places.append(folder / str(len(places)))
        else:
            assert status == 0
            return kills, places


def timed(nursery: Nursery, what: str, folder: Path) -> float:
    """Seconds of an uninterrupted run, compiled before."""
    assert nursery.run(what, folder / "first") == 0
    begin = time.perf_counter()
    assert nursery.run(what, folder / "whole") == 0
    return time.perf_counter() - begin


@pytest.mark.slow
def test_a_sweep_survives_being_killed_ten_times(nursery, tmp_path):
    seconds = timed(nursery, "sweep", tmp_path)
    whole = units(tmp_path / "whole")
    seen: dict[Path, dict[str, int]] = {}

    def look(out: Path) -> None:
        there = units(out)  # raises when a file is not whole
        assert there == {name: whole[name] for name in there}
        written = {name: (out / "data" / name).stat().st_mtime_ns for name in there}
        before = seen.setdefault(out, {})
        assert before == {
            name: written[name] for name in before
        }  # nothing finished is lost, or done again
        seen[out] = written

    kills, places = killed_until_done(nursery, "sweep", tmp_path, look, seconds, seed=6)
    assert kills == KILLS and len(whole) == 8
    for out in places:
        assert units(out) == whole
        assert not [
            path.name for path in (out / "data").iterdir() if path.name.startswith(".ntk")
        ]  # no leftovers


@pytest.mark.slow
def test_a_checkpointed_solve_survives_being_killed_ten_times(nursery, tmp_path):
    seconds = timed(nursery, "solve", tmp_path)
    whole = np.load(tmp_path / "whole.npy")
    kills, places = killed_until_done(
        nursery, "solve", tmp_path, lambda place: None, seconds, seed=7
    )
    assert kills == KILLS and np.isfinite(whole).all()
    for place in places:
        np.testing.assert_array_equal(np.load(f"{place}.npy"), whole)
    assert not list(tmp_path.glob(".ntk*"))  # no leftovers


@pytest.mark.slow
def test_two_processes_share_a_folder_and_one_that_dies_is_replaced(nursery, tmp_path):
    assert nursery.run("sweep", tmp_path / "whole") == 0
    other = Nursery(nursery.folder)
    try:
        assert other.process.stdin is not None and other.process.stdout is not None
        print(
            "sweep", tmp_path / "both", file=other.process.stdin, flush=True
        )  # goes on by itself while ours are killed
        other.process.stdout.readline()
        for moment in (0.3, 0.6, 0.9):
            nursery.run("sweep", tmp_path / "both", moment)
        assert nursery.run("sweep", tmp_path / "both") == 0
        assert other.process.stdout.readline() == "0\n"
    finally:
        other.close()
    assert units(tmp_path / "both") == units(tmp_path / "whole")

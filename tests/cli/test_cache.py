"""Compiled programs are kept in the platform's cache folder, bounded, or not at all where one says
so."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ntk_momentum.cli import cache
from ntk_momentum.cli.options import Shared
from ntk_momentum.cli.start import start

ROOT = Path(__file__).resolve().parents[2]


def test_the_folder_is_the_platforms_and_can_be_named_or_switched_off(monkeypatch, tmp_path):
    assert cache.programs_folder() is None  # in tests
    monkeypatch.setenv("HOME", "/home/reader")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv(cache.VARIABLE)
    where = {"linux": ".cache", "darwin": "Library/Caches", "win32": "AppData/Local"}
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    for system, place in where.items():
        monkeypatch.setattr(sys, "platform", system)
        assert cache.programs_folder() == Path("/home/reader", place, "ntk_momentum", "programs")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.programs_folder() == tmp_path / "ntk_momentum" / "programs"
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "mine"))
    assert cache.programs_folder() == tmp_path / "mine" / "programs"
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))  # JAX's own choice stays
    assert cache.programs_folder() is None


def test_what_was_used_longest_ago_goes_first(tmp_path):
    for age, name in enumerate(("newest", "middle", "oldest")):
        path = tmp_path / f"{name}-cache"
        path.write_bytes(bytes(100))
        os.utime(path, (1e9 - age, 1e9 - age))
    (tmp_path / "something else").write_bytes(bytes(1000))
    assert cache.trim(tmp_path, 250) == 200
    assert {path.name for path in tmp_path.iterdir()} == {
        "newest-cache",
        "middle-cache",
        "something else",
    }


@pytest.mark.slow
@pytest.mark.parametrize(("words", "kept"), [((), True), (("--no-cache",), False)])
def test_a_command_keeps_its_programs_unless_told_not_to(tmp_path, words, kept):
    code = (
        "import sys, jax; from ntk_momentum.cli import cache, main; cache.SHORTEST = 0.0\n"
        f"assert main({[*words, 'doctor']}) == 0\n"
        "jax.jit(lambda x: x + 1)(1.0)"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment | {cache.VARIABLE: str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert bool(list(tmp_path.rglob("*-cache"))) is kept


@pytest.mark.parametrize("plugin", [None, "jax_cuda13_plugin"])
def test_a_flag_for_nvidias_devices_is_set_where_there_may_be_one(monkeypatch, plugin):
    monkeypatch.setenv("XLA_FLAGS", "--mine=1")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == plugin or None)
    start(Shared(no_cache=True))
    said = "--mine=1 --xla_gpu_enable_triton_gemm=false" if plugin else "--mine=1"
    assert os.environ["XLA_FLAGS"] == said

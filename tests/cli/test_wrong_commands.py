"""Wrong commands end with code 2 and words on stderr: what was wrong, what was expected and what to
try; nothing of another library, no traceback, nothing written."""

import re
import shlex
import signal
from pathlib import Path

import numpy as np
import pytest
import wrong_commands
from wrong_commands import OPTIONS, UNPARSED, WHOLE

from ntk_momentum import cli
from ntk_momentum.study import registry

ROOT = Path(__file__).resolve().parents[2]
MODELS = """
import equinox as eqx
def make(width, key):
    return eqx.nn.MLP(3, "scalar", width, 1, key=key)
def fails(width, key):
    raise RuntimeError("no")
def nothing(width, key):
    return 3
"""
HELPS = re.compile(
    r"\b(try|use|give|take|choose|drop|save|leave|make|set|write|name|must|Did you mean|Known|"
    r"It (has|defines)|e\.g\.|such as|at least|at most|run|Expected|see ntk-momentum)",
    re.IGNORECASE,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the files that the commands name."""
    folder = tmp_path_factory.mktemp("place")
    np.savez(folder / "mine.npz", X=np.eye(3), y=np.ones(3))
    np.savez(folder / "two.npz", X=np.eye(3), y=np.ones((3, 2)))
    images = np.arange(1, 4)[:, None, None] * np.ones((3, 2, 2))
    np.savez(folder / "images.npz", X=images, y=np.ones(3))
    (folder / "broken.npz").write_bytes(b"PK broken")
    (folder / "folder.svg").mkdir()
    (folder / "mine.py").write_text(MODELS)
    (folder / "model.txt").write_text("")
    return folder


@pytest.fixture(autouse=True)
def within(place, monkeypatch):
    def stop(*_):
        raise TimeoutError("a wrong command hangs")

    monkeypatch.chdir(place)
    monkeypatch.setattr(registry, "folder", lambda: ROOT / "tests" / "examples")
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def files():
    """What lies in the folder, but for locks, which hold nothing, and Python's own cache."""
    return {
        path
        for path in Path().rglob("*")
        if path.is_file() and path.name != ".locks" and path.suffix != ".pyc"
    }


def trouble(words, capsys, said=None):
    """What is wrong with how a command ends; nothing if it is as it should be."""
    before = files()
    code = cli.main(words)
    err = capsys.readouterr().err
    faults = {
        f"code {code}": code == 2,
        "a traceback": "Traceback" not in err,
        "more or less than a line": re.fullmatch(r"error: .*\n", err),
        "no remedy": HELPS.search(err),
        f"files {files() - before}": files() == before,
        f"not {said}": said is None or re.search(said, err),
    }
    found = [fault for fault, good in faults.items() if not good]
    return f"{shlex.join(words)}: {', '.join(found)}; said {err!r}" if found else None


@pytest.mark.slow
@pytest.mark.parametrize("command", OPTIONS)
def test_a_wrong_word_behind_an_option_is_refused(command, capsys):
    found = [trouble(words, capsys) for words in wrong_commands.wrong_commands(command)]
    assert not any(found), "\n".join(filter(None, found))


def test_commands_that_are_wrong_as_a_whole_are_refused(capsys):
    found = [trouble(shlex.split(text), capsys, said) for text, said in WHOLE.items()]
    assert not any(found), "\n".join(filter(None, found))


def test_what_does_not_parse_is_refused_by_the_parser(capsys):
    found = [trouble(shlex.split(text), capsys) for text in UNPARSED]
    assert not any(found), "\n".join(filter(None, found))


def test_every_command_has_its_wrong_words_and_there_are_enough():
    tried = {shlex.split(text)[0] for text in (*OPTIONS, *WHOLE, *UNPARSED) if text}
    assert set(cli.NAMES) <= tried
    words = [words for command in OPTIONS for words in wrong_commands.wrong_commands(command)]
    assert len(words) + len(WHOLE) + len(UNPARSED) > 330

"""The one rule for every file that is written: it carries our mark, and nothing else is touched.

A mark is a line of text inside the file, `ntk_momentum KIND 1 sha256:HASH of:IDENTITY`. HASH is
that of the whole file with its own 64 digits taken as zeros; IDENTITY, of what is kept to be found
again, is the hash of all that determines the content. The mark is the first thing in a file of
results and in JSON, a comment at the end of pages and figures, metadata of tables. So whose a file
is, whether it is whole and what it holds, whatever its name, is known before anything parses it:

* replaced or removed is only what is whole, hence byte for byte what was written here;
* set aside, as `*.damaged`, is only a stored result that begins with our mark, and is not whole or
  holds something else than its name says;
* everything else (folders, links, files of the user's, files edited since) is refused, untouched.

A file is written under a temporary name in its folder, flushed to the disk, and renamed, so a
reader sees a whole file or none, also after a crash. The temporary's name says which process of
which machine writes it; those of processes that are gone are removed.
"""

from __future__ import annotations

import contextlib
import contextvars
import fnmatch
import functools
import hashlib
import json
import os
import platform
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from .errors import InputError, require
from .progress import LOG

STORED = ("result", "checkpoint", "sweep", "piece")
"""Kinds of files that only programs read: begun with the mark, set aside when they are damaged."""

_MARK = re.compile(rb"ntk_momentum ([a-z]+) 1 sha256:([0-9a-f]{64})(?: of:([0-9a-f]+))?")
_FIRST = re.compile(rb'(?:\{\s*"made_by": ")?' + _MARK.pattern)
_TAIL = 1 << 20  # bytes at a file's end that are searched: the metadata of a parquet file is there
_BLOCK = 1 << 22
_COMMENTS = {".svg": "<!-- {} -->\n", ".html": "<!-- {} -->\n", ".pdf": "% {}\n", ".png": "\n{}\n"}


class Refused(InputError):
    """Something that is not ours stands where a file of ours would be written."""


class Seal(NamedTuple):
    """A mark found in a file. at: where its digits begin; first: whether the file begins so."""

    kind: str
    digits: bytes
    identity: str
    at: int
    first: bool


class Whole(NamedTuple):
    """What the mark of a file says that is as it was written."""

    kind: str
    checksum: str
    identity: str


def mark(kind: str, identity: str = "") -> str:
    """What a writer puts into its file, once; `atomically` fills in the hash."""
    return f"ntk_momentum {kind} 1 sha256:{'0' * 64}{f' of:{identity}' if identity else ''}"


def check_folder(path: str | Path) -> Path:
    """Try to write into a folder, or where it would be made, before anything is computed. The first
    file that is written makes it.

    Raises:
        InputError: it cannot be written, or no name is given.
    """
    if str(path) == "":
        raise InputError("the name of the folder is empty; use . for the current folder.")
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise InputError(f"the path must be that of a folder, got the file {path}; choose another.")
    try:
        there = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"cannot write into the folder {path} ({reason}); choose another one."
        ) from error
    return path


def check_file(path: Path, kind: str, option: str = "", example: str = "") -> None:
    """Whether a file of this kind can be written there, before anything is computed.

    Raises:
        InputError: `path` is a folder, or its folder cannot be written.
        Refused: what stands there is not ours.
    """
    check_folder(path.parent)
    if option and path.is_dir():
        raise Refused(f"{path} is a folder; {option} wants a file, e.g. {path / example}.")
    check_target(path, kind)


def check_target(path: Path, kind: str) -> None:
    """Raise `Refused` unless nothing is at `path`, or a file of this kind that was written here.

    Stored kinds may be damaged: who reads them sets them aside.
    """
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise InputError(f"cannot look at {path} ({error.strerror or error}).") from error
    advice = "it is left as it is; choose another name, or move it away yourself."
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a link" if stat.S_ISLNK(mode) else "no file"
        raise Refused(f"the path must be free for a file, got {path}, which is {what}; {advice}")
    seal = _look(path)
    if kind in STORED and seal is not None and seal.first and seal.kind == kind:
        return
    found = _whole(path)
    if found is not None and found.kind != kind:
        raise Refused(f"{path} holds {found.kind!r} of ntk_momentum and not {kind!r}; {advice}")
    if found is not None or (kind in STORED and _begins_like(path, kind)):
        return
    if seal is None:
        raise Refused(f"{path} was not written by this version of ntk_momentum; {advice}")
    raise Refused(f"{path} was changed since ntk_momentum wrote it; {advice}")


def whole(path: Path, kind: str) -> Whole | None:
    """What a file's mark says; None unless the file is of this kind and as it was written."""
    found = _whole(path)
    return found if found is not None and found.kind == kind else None


def current(path: Path, kind: str, identity: str) -> bool:
    """Whether a whole file of this kind and identity is there already."""
    found = whole(path, kind)
    return found is not None and found.identity == identity


@contextlib.contextmanager
def hashed_once() -> Iterator[None]:
    """Within this, also as a decorator, a file is read for its hash once unless it is changed."""
    token = _HASHED.set({})
    try:
        yield
    finally:
        _HASHED.reset(token)


_HASHED: contextvars.ContextVar[dict[Any, Whole | None] | None] = contextvars.ContextVar(
    "_HASHED", default=None
)


def _whole(path: Path) -> Whole | None:
    known = _HASHED.get()
    try:
        found = os.lstat(path)
        if not stat.S_ISREG(found.st_mode):
            return None
        key = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        if known is not None and key in known:
            return known[key]
        with path.open("rb") as file:
            seal = _find(file)
            good = seal is not None and _digest(file, seal.at) == seal.digits
    except OSError:
        return None
    answer = Whole(seal.kind, seal.digits.decode(), seal.identity) if seal and good else None
    if known is not None:
        known[key] = answer
    return answer


def check_results(folder: Path) -> None:
    """Raise `InputError` unless there is such a folder to read results from."""
    if not folder.is_dir():
        raise InputError(
            f"the folder must be one of results, got {folder}, where none is; make one with: "
            "ntk-momentum reproduce (or sweep) --out "
            f"{folder}."
        )


def below(folder: Path, pattern: str) -> list[Path]:
    """The files below a folder whose names match, in order; folders in it may be links."""
    links = [path for path in folder.iterdir() if path.is_symlink() and path.is_dir()]
    found: dict[str, Path] = {}
    for start in (folder, *links):
        for place, _, names in os.walk(start):
            for name in fnmatch.filter(names, pattern):
                found.setdefault(os.path.realpath(os.path.join(place, name)), Path(place, name))
    return sorted(found.values())


def atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, with a mark in it, then put it in place.

    Raises:
        InputError: the disk refuses.
        Refused: what stands at `path` is not ours.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _tidy(path.parent.resolve())
        prefix = f"{_PREFIX}{os.getpid()}-{_machine()}-"
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=path.suffix)
        os.close(handle)
        try:
            write(Path(name))
            kind = _fill_in(Path(name))
            check_target(path, kind)
            kept = path.exists()
            os.chmod(name, stat.S_IMODE(path.stat().st_mode) if kept else 0o666 & ~_umask())
            os.replace(name, path)
            LOG.debug("wrote %s", path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"cannot write {path} ({reason}); free some space or choose another folder."
        ) from error


def append_mark(path: Path, kind: str, identity: str = "") -> None:
    """End a page or a figure with its mark, as a comment of its format."""
    with path.open("ab") as file:
        file.write(_COMMENTS[path.suffix.lower()].format(mark(kind, identity)).encode())


def write_text(path: Path, kind: str, text: str) -> None:
    """Write a page or a figure."""

    def fill(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")
        append_mark(temporary, kind)

    atomically(path, fill)


def write_json(
    path: Path, kind: str, record: dict[str, Any], identity: str = "", **options: Any
) -> None:
    """Write a record as JSON, its mark under the first key, "made_by"; options: of `json.dumps`."""
    options = {"indent": 1, "ensure_ascii": False, **options}
    text = json.dumps({"made_by": mark(kind, identity), **record}, **options) + "\n"
    atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_figure(path: Path, figure: Any, identity: str = "", **options: Any) -> None:
    """Write a matplotlib figure as .svg, .pdf or .png; options: of its `savefig`."""

    def fill(temporary: Path) -> None:
        figure.savefig(temporary, format=path.suffix[1:].lower(), **options)
        append_mark(temporary, "figure", identity)

    check_figure(path)
    atomically(path, fill)


def check_figure(path: Path) -> None:
    """Raise `InputError` unless a figure can be written there."""
    require("matplotlib", "drawing figures")
    if path.suffix.lower() not in (".svg", ".pdf", ".png"):
        other = path.with_suffix(".svg").name
        raise InputError(f"no figure can be written as {path.name}; try {other}, .pdf or .png.")
    check_file(path, "figure")


def set_aside(path: Path, kind: str, identity: str) -> str:
    """Make room for a file of a stored kind: rename what is damaged, or holds something else.

    So it is neither read nor lost.

    Returns:
        What was done, in one line; nothing when there was nothing to do.

    Raises:
        Refused: what is there does not begin with our mark.
    """
    check_target(path, kind)
    if not os.path.lexists(path) or current(path, kind, identity):
        return ""
    what = "is a copy of another file" if whole(path, kind) else "was truncated or altered"
    aside, number = path.with_name(f"{path.name}.damaged"), 1
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"{path.name}.damaged-{number}")
    try:
        os.rename(path, aside)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"{path} is damaged and cannot be moved ({reason}); remove it and run again."
        ) from error
    return f"{path.name} {what}; it was set aside as {aside.name}"


def _look(path: Path) -> Seal | None:
    try:
        with path.open("rb") as file:
            return _find(file)
    except OSError:
        return None


def _begins_like(path: Path, kind: str) -> bool:
    """Whether a file begins with a mark of this kind that was damaged: a few characters of it are
    others, or the file ends inside it."""
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError:
        return False
    for opening in (b"", b'{\n "made_by": "'):
        text = opening + mark(kind).encode()
        fixed = len(text) - 64
        wrong = sum(a != b for a, b in zip(head[:fixed], text, strict=False))
        if len(head) >= fixed and wrong <= 3:
            return True
    return False


def _find(file: BinaryIO) -> Seal | None:
    """The mark that a file begins with, or else the last one near its end."""
    found = _FIRST.match(file.read(1024))
    if found:
        kind, digits, identity = found.groups(b"")
        return Seal(kind.decode(), digits, identity.decode(), found.start(2), True)
    size = file.seek(0, os.SEEK_END)
    start = file.seek(max(0, size - _TAIL))
    marks = list(_MARK.finditer(file.read(_TAIL)))
    if not marks:
        return None
    kind, digits, identity = marks[-1].groups(b"")
    return Seal(kind.decode(), digits, identity.decode(), start + marks[-1].start(2), False)


def _digest(file: BinaryIO, at: int) -> bytes:
    """The hash of a file with the 64 digits at `at` taken as zeros."""
    digest = hashlib.sha256()
    file.seek(0)
    digest.update(file.read(at) + b"0" * len(file.read(64)))
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest().encode()


def _fill_in(path: Path) -> str:
    """Complete the mark of a file just written; its kind."""
    with path.open("r+b") as file:
        seal = _find(file)
        assert seal is not None, f"a file was written without a mark: {path.name}"
        digest = _digest(file, seal.at)
        file.seek(seal.at)
        file.write(digest)
        file.flush()
        os.fsync(file.fileno())
    return seal.kind


_PREFIX = ".ntk_momentum-"


@functools.cache
def _machine() -> str:
    """Where process numbers mean something: this machine, and the container on it."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return hashlib.sha256(f"{platform.node()}|{space}".encode()).hexdigest()[:12]


@functools.cache
def _tidy(folder: Path) -> None:
    """Remove the temporaries of this machine's processes that are gone; looked for once."""
    if os.name != "posix":  # where asking for a process can end it
        return
    name = re.compile(rf"{re.escape(_PREFIX)}(\d+)-{_machine()}-\w{{8}}(\.\w+)?")
    for path in folder.glob(f"{_PREFIX}*"):
        found = name.fullmatch(path.name)
        if found and not _alive(int(found[1])) and path.is_file() and not path.is_symlink():
            with contextlib.suppress(OSError):  # another process may remove it too
                path.unlink()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

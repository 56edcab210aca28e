"""Work in pieces that survives anything: each piece a file, whole or absent, taken by one process
at a time.

A process that works on a piece holds a lock on one byte of the folder's `.locks` file, at the
offset that the piece's name hashes to. The kernel lets go of it when the process dies, however it
dies, so nothing goes stale. On a file system without locks two processes may do the same piece;
both write it whole, and the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from .. import files
from ..errors import InputError, MissingPackage
from ..progress import LOG, Bar
from . import store

POLL = 0.2  # seconds between looks at the pieces that other processes hold


@dataclasses.dataclass(frozen=True)
class Piece:
    """One file's worth of work. title: for people; compute: makes the xarray.Dataset and the
    attributes stored with it; identity: of what determines them."""

    path: Path
    title: str
    compute: Callable[[], tuple[Any, dict[str, Any]]]
    identity: str = ""


@dataclasses.dataclass
class Done:
    """What became of the pieces, by title. elsewhere: finished by another process meanwhile;
    broken: title -> what was raised."""

    computed: list[str] = dataclasses.field(default_factory=list)
    kept: list[str] = dataclasses.field(default_factory=list)
    elsewhere: list[str] = dataclasses.field(default_factory=list)
    broken: dict[str, str] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)


class Locks:
    """The locks of one folder. A name taken twice by one process is granted twice. work: whether
    the file system has locks."""

    def __init__(self, folder: Path):
        self._path = folder / ".locks"
        self._file: IO[bytes] | None = None
        self.work = True

    def __enter__(self) -> Locks:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab")
        except OSError as error:
            raise InputError(
                f"cannot write into the folder {self._path.parent} ({error.strerror or error})."
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        self._file.close()  # and with it every lock

    def take(self, name: str, wait: bool = False) -> bool:
        """Whether the lock is ours now. True as well where the file system knows no locks."""
        return self._lock(name, lambda fcntl: fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))

    def release(self, name: str) -> None:
        """Let another process have it."""
        self._lock(name, lambda fcntl: fcntl.LOCK_UN)

    def _lock(self, name: str, how: Callable[[Any], int]) -> bool:
        try:
            import fcntl
        except ImportError:  # no such locks on Windows
            return self._absent()
        # One byte of one file for each name, at a place drawn from its hash: no file of locks to
        # clean up, and the kernel releases them when a process dies. 55 bits, so that two of a
        # million names meet with a chance of 1e-5, and then merely wait for each other.
        offset = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big") >> 1
        assert self._file is not None
        try:
            fcntl.lockf(self._file, how(fcntl), 1, offset)
        except (BlockingIOError, PermissionError):
            return False
        except OSError:
            return self._absent()
        return True

    def _absent(self) -> bool:
        if self.work:
            told = "%s has no file locks: processes that share it may do a piece twice"
            LOG.warning(told, self._path.parent)
        self.work = False
        return True


def do(pieces: Sequence[Piece], bar: Bar) -> Done:
    """Do every piece that is not done, and wait for those that another process is doing.

    A piece that raises is reported and left out, the others go on. A file that is damaged, or a
    copy of another piece's, is set aside as `*.damaged` and its piece done again.

    Raises:
        InputError: the disk refuses.
        Refused: a file that is not ours has a piece's name; before anything is computed.
        MissingPackage: a package that the pieces need.
    """
    done, left, first = Done(), list(pieces), True
    if not pieces:
        return done
    files.check_folder(pieces[0].path.parent)
    for piece in pieces:
        files.check_target(piece.path, store.KIND)
    with Locks(pieces[0].path.parent) as locks:
        while left:
            held = [piece for piece in left if not _attempt(piece, locks, done, bar, first)]
            # Wait only where a whole round settled nothing: else there may be pieces to compute.
            if len(held) == len(left):
                bar.piece(f"waiting for {len(held)} that another process is doing")
                time.sleep(POLL)
            left, first = held, False
    return done


def _attempt(piece: Piece, locks: Locks, done: Done, bar: Bar, first: bool) -> bool:
    """Whether the piece is settled now; False while another process holds it."""
    if files.current(piece.path, store.KIND, piece.identity):
        (done.kept if first else done.elsewhere).append(piece.title)
        bar.skip_piece()
        return True
    if not locks.take(piece.path.name):
        return False
    try:
        if files.current(piece.path, store.KIND, piece.identity):  # since we looked
            done.elsewhere.append(piece.title)
            bar.skip_piece()
            return True
        if note := files.set_aside(piece.path, store.KIND, piece.identity):
            done.notes.append(f"{note} and is computed again")
            LOG.warning("%s", done.notes[-1])
        bar.piece(piece.title)
        try:
            dataset, attributes = piece.compute()
        except MissingPackage:
            raise
        except Exception as error:  # one broken piece must not stop the others
            done.broken[piece.title] = (
                f"{type(error).__name__}: {error}"
                if not isinstance(error, InputError)
                else str(error)
            )
            if not isinstance(error, InputError):
                LOG.error("%s", traceback.format_exc())
        else:
            store.write_dataset(piece.path, dataset, attributes, piece.identity)
            done.computed.append(piece.title)
        bar.finish_piece()
        return True
    finally:
        locks.release(piece.path.name)

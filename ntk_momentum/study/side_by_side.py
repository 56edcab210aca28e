"""Pieces of a report, some at once: each in one of a few processes, whose log is the caller's."""

from __future__ import annotations

import logging.handlers
import multiprocessing
import os
import queue
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..errors import InputError
from ..progress import LOG, Bar

WORKERS = 4
"""Processes at once: the largest took 1.5 GB of memory at default size, and the longest piece takes
a quarter of the whole."""
Job = Callable[[Callable[[int, int], None]], Any]


def processes(pieces: int) -> int:
    """How many processes serve so many pieces: one where devices are no CPUs, which processes
    cannot share."""
    import jax

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(WORKERS, pieces, cores or 1) if jax.default_backend() == "cpu" else 1


def side_by_side(
    pieces: Mapping[str, Job], jobs: int, bar: Bar, begin: Callable[[], None]
) -> Iterator[tuple[str, Any]]:
    """(name, what the piece returned), as they end.

    Args:
        pieces: Functions of progress(done, total) by name. Where there are several jobs they, what
            they return or raise, and `begin` are pickled.
        jobs: Processes; with one, this one does everything.
        bar: Where they report to.
        begin: What a process does first.

    Raises:
        InputError: A process was killed.
        Exception: What a piece raises.
    """
    if jobs == 1:
        for name, piece in pieces.items():
            found = piece(bar.piece(name))
            bar.finish_piece(name)
            yield name, found
        return
    context = multiprocessing.get_context("spawn")
    due, told = context.Queue(), context.Queue()
    for item in [*pieces.items(), *[None] * jobs]:
        due.put(item)
    level = LOG.getEffectiveLevel()
    # Daemons end with us, whatever ends us.
    workers = [
        context.Process(target=_work, args=(due, told, begin, level), daemon=True)
        for _ in range(jobs)
    ]
    for worker in workers:
        worker.start()
    left, moves = set(pieces), {}
    try:
        while left:
            try:
                kind, name, value = told.get(timeout=1.0)
            except queue.Empty:
                ended = [worker.exitcode for worker in workers if worker.exitcode is not None]
                if any(ended) or len(ended) == jobs:
                    raise InputError(
                        f"a process ended with code {max(ended, key=abs)} while it did one of "
                        f"{', '.join(sorted(left))}; it may have run out of memory. What was "
                        "finished is kept; the same command goes on from there, with --jobs 1 in "
                        "less memory."
                    ) from None
                continue
            if kind == "log":
                LOG.handle(value)
            elif kind == "begun":
                moves[name] = bar.piece(name, beside=True)
            elif kind == "moved":
                moves[name](*value)
            elif kind == "raised":
                raise value
            else:
                left.remove(name)
                bar.finish_piece(name)
                yield name, value
    finally:
        for worker in workers:
            worker.terminate()


class _ToParent(logging.handlers.QueueHandler):
    def enqueue(self, record: logging.LogRecord) -> None:
        self.queue.put_nowait(("log", "", record))


def _work(due: Any, told: Any, begin: Callable[[], None], level: int) -> None:
    """A process: one piece after another, until none is left."""
    LOG.addHandler(_ToParent(told))
    LOG.setLevel(level)
    warnings.showwarning = lambda message, *_, **__: LOG.warning("%s", message)
    try:
        begin()
        while (item := due.get()) is not None:
            name, piece = item
            told.put(("begun", name, None))
            found = piece(lambda done, total, name=name: told.put(("moved", name, (done, total))))
            told.put(("done", name, found))
    except KeyboardInterrupt:  # the caller heard it too
        pass
    except Exception as error:
        told.put(("raised", "", error))

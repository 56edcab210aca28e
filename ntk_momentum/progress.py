"""What is said while work goes on: the package's log, and how far a piece of work is.

`LOG` is the logger "ntk_momentum", silent until somebody listens: a Python program by the means of
`logging`, the command line by `listen`. On a terminal, work is a bar; elsewhere, as in the file of
a batch job, it is a line of the log now and then, so that nothing is lost or torn.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, TypeVar

from .errors import InputError, described, require

LOG = logging.getLogger("ntk_momentum")
LOG.addHandler(logging.NullHandler())
LINE_SECONDS = 30.0
"""Seconds between two lines where there is no terminal; the first comes after a sixth of that.
Chosen, not measured."""
SILENT_SECONDS = 5.0
"""Seconds after which a piece that says nothing is told of again, where a line is due. Chosen."""

OnProgress = Callable[[int, int], None]
F = TypeVar("F", bound=Callable)


def check_progress(progress: Any, what: str = "working") -> OnProgress | None:
    """A function of (done, total), or None: of True, one that shows a bar, or lines, called `what`.

    Raises:
        InputError: it is neither, nor can it be called.
    """
    if progress is None or progress is False:
        return None
    if progress is True:
        return _own_bar(what)
    if not callable(progress) or isinstance(progress, type):
        raise InputError(
            f"progress must be True, or a function of (done, total), got {described(progress)}; "
            "try progress=True."
        )
    return progress  # type: ignore[no-any-return]


def _own_bar(what: str) -> OnProgress:
    """progress(done, total) as a bar of its own, which closes when all is done."""
    bar = Bar(1, say=LOG.info if LOG.isEnabledFor(logging.INFO) else print_line)
    move = bar.piece(what)

    def progress(done: int, total: int) -> None:
        move(done, total)
        if done >= total:
            bar.close()

    return progress


class _Told:
    """progress(done, total) of one call, remembered, so that it is repeated where nothing moves,
    and ends with all done."""

    heard: ClassVar[list[_Told | None]] = []
    """Those that compiled programs report to: the last, which began last."""

    def __init__(self, progress: OnProgress):
        self.progress, self.last = progress, (0, 1)
        self.error: Exception | None = None
        self.lock, self.over = threading.Lock(), threading.Event()

    def __call__(self, done: int, total: int) -> None:
        with self.lock:
            self.last = done, total
            self.progress(done, total)

    def report(self, done: Any, total: Any) -> None:
        """Called by a program, which an error must not stop half-way."""
        try:
            self(int(done), int(total))
        except Exception as error:
            self.error = error


def _clock(over: threading.Event, tell: Callable[[], Any]) -> threading.Thread:
    """Tell again and again until it is over: a call into a library, or compiling a program, may say
    nothing for minutes."""

    def tick() -> None:
        while not over.wait(SILENT_SECONDS):
            tell()

    clock = threading.Thread(target=tick, daemon=True)
    clock.start()
    return clock


def with_progress(function: F) -> F:
    """Settles the argument `progress` of a public function: one that counts where its work is
    counted (its own calls, or `report` in its programs), and elsewhere tells of begin and end."""

    @functools.wraps(function)
    def call(*args: Any, progress: OnProgress | bool | None = None, **options: Any) -> Any:
        progress = check_progress(progress, function.__name__)
        told = None if progress is None else _Told(progress)
        _Told.heard.append(told)
        try:
            if told is None:
                return function(*args, **options)
            jax = require("jax", "computing")
            clock = _clock(told.over, lambda: told.report(*told.last))
            found = jax.block_until_ready(function(*args, progress=told, **options))
            jax.effects_barrier()
        finally:
            _Told.heard.remove(told)
            if told is not None:
                told.over.set()
        clock.join()  # nothing is said after the end
        if told.error is not None:
            raise told.error
        if told.last[0] < told.last[1]:
            told(told.last[1], told.last[1])
        return found

    return call  # type: ignore[return-value]


def report(done: Any, total: Any, due: Any = True) -> None:
    """Inside a compiled program: to whom it may concern, so much is done, where it is due. A
    program that reports is not kept in the compilation cache."""
    jax = require("jax", "computing")

    def tell(done: Any, total: Any) -> None:
        if _Told.heard and _Told.heard[-1] is not None:
            _Told.heard[-1].report(done, total)

    jax.lax.cond(due, lambda: jax.debug.callback(tell, done, total), lambda: None)


def print_line(line: str) -> None:
    """A line on stderr, for who asked for progress and did not set up `logging`."""
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def listen(quiet: bool = False, verbose: bool = False) -> Iterator[None]:
    """Print the package's log on stderr for a while: how far the work is and what became of it.

    quiet: warnings and errors only. verbose: also what is computed where, and what is written.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    before = LOG.level
    LOG.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
    LOG.addHandler(handler)
    try:
        yield
    finally:
        LOG.removeHandler(handler)
        LOG.setLevel(before)


class _Lines(logging.Formatter):
    """ "warning: ..." and "error: ..."; what is no trouble stands alone."""

    def format(self, record: logging.LogRecord) -> str:
        """A record in words."""
        told = super().format(record)
        return told if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {told}"


class Bar:
    """Counts `total` pieces, with their rate and the time that is left; a piece reports its own
    share through the callback it gets.

    On a terminal a bar, elsewhere lines through `say`, every `LINE_SECONDS`. Neither where the log
    is quieter than INFO, or it is not `shown`, as on all but one of several processes.
    """

    def __init__(self, total: int, shown: bool = True, say: Callable[[str], None] | None = None):
        shown = shown and (say is not None or LOG.isEnabledFor(logging.INFO))
        self._bar: Any = None
        tqdm = require("tqdm", "the progress bar")
        if shown and sys.stderr.isatty():
            layout = (
                "{percentage:3.0f}%|{bar:30}| {n:.4g}/{total_fmt} [{elapsed}<{remaining}, "
                "{rate_fmt}] {desc}"
            )
            self._bar = tqdm.tqdm(total=total, file=sys.stderr, bar_format=layout, unit=" pieces")
        self._say = (say or LOG.info) if shown and self._bar is None else None
        self._total, self._done, self._skipped, self._name = total, 0, 0, ""
        self._parts: dict[str, float] = {}  # of the pieces that are going on
        self._begun, self._at = time.perf_counter(), 0.0
        self._said = self._begun - LINE_SECONDS * 5 / 6
        self._lock, self._over = threading.Lock(), threading.Event()
        self._torn = contextlib.ExitStack()  # lines of the log above the bar, not through it
        if self._bar is not None:
            redirect = require("tqdm.contrib.logging", "the progress bar").logging_redirect_tqdm
            self._torn.enter_context(redirect(loggers=[LOG]))

    def piece(self, name: str, beside: bool = False) -> OnProgress:
        """Begin a piece, in the place of the last or `beside` those that go on: progress(done,
        total) moves the bar within it."""
        LOG.debug("%s: begun", name)
        self._parts = {**self._parts, name: 0.0} if beside else {name: 0.0}
        self._call()

        def progress(done: int, total: int) -> None:
            self._parts[name] = min(1.0, done / max(total, 1))
            self._move(sum(self._parts.values(), float(self._done)))

        return progress

    def finish_piece(self, name: str | None = None) -> None:
        """End a piece, that of this name or all that go on, however far it reported."""
        for ended in [name] if name else list(self._parts):
            self._parts.pop(ended, None)
        self._done += 1
        self._move(sum(self._parts.values(), float(self._done)))
        self._call()

    def _call(self) -> None:
        self._name = ", ".join(self._parts) or self._name
        if self._bar is not None:
            self._bar.set_description_str(self._name)

    def skip_piece(self) -> None:
        """A piece that was done before: it counts for the bar, not for the rate."""
        self._skipped += 1
        if self._bar is not None:
            self._bar.initial += 1
        self._done += 1
        if self._bar is not None:
            self._move(float(self._done))

    def _move(self, done: float | None) -> None:
        with self._lock:
            self._at = done = self._at if done is None else done
            if self._bar is not None:
                self._bar.n = done
                self._bar.refresh()
            now = time.perf_counter()
            if self._say is not None and now - self._said >= LINE_SECONDS:
                self._said = now
                self._say(self._line(done, now - self._begun))

    def _line(self, done: float, elapsed: float) -> str:
        clock = require("tqdm", "the progress bar").tqdm.format_interval
        count = "" if self._total == 1 else f"{done:.3g} of {self._total}, "
        line = f"{self._name}: {count}{done / max(self._total, 1):.0%}, {clock(elapsed)} elapsed"
        rate = (done - self._skipped) / elapsed
        # the first line comes while programs are compiled, and knows no rate
        if rate > 0 and done < self._total and elapsed > LINE_SECONDS / 2:
            left = (self._total - done) / rate
            line += f", {60 * rate:.3g} a minute" if count else ""
            line += f", about {clock(left)} remaining"
        return line

    def close(self) -> None:
        """Take the bar from the terminal's last line."""
        self._over.set()
        self._torn.close()
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Bar:
        if self._bar is not None or self._say is not None:
            _clock(self._over, lambda: self._move(None) if self._name else None)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

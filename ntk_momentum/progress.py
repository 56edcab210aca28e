"""A progress bar over pieces of work, on the terminal only; and lines of text that do not tear
it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from .errors import InputError, described, require


def check_progress(progress: Any) -> None:
    """Raise `InputError` unless `progress` is None or may be called as progress(done, total)."""
    if progress is not None and (not callable(progress) or isinstance(progress, type)):
        raise InputError(
            f"progress must be a function of (done, total), got {described(progress)}; try "
            "progress=print."
        )


class Bar:
    """Counts `total` pieces, with their rate and the time that is left; a piece reports its own
    share through the callback it gets.

    Quiet when stderr is no terminal, or when it is not `shown`, as on all but one of several
    processes.
    """

    def __init__(self, total: int, shown: bool = True):
        tqdm = require("tqdm", "the progress bar").tqdm
        self._write: Callable[..., Any] = tqdm.write
        layout = (
            "{percentage:3.0f}%|{bar:30}| {n:.4g}/{total_fmt} [{elapsed}<{remaining}, "
            "{rate_fmt}] {desc}"
        )
        self._bar = tqdm(
            total=total,
            disable=None if shown else True,
            file=sys.stderr,
            bar_format=layout,
            unit=" pieces",
        )
        self._done = 0

    def piece(self, name: str) -> Callable[[int, int], None]:
        """Begin a piece: progress(done, total) moves the bar within it."""
        self._bar.set_description_str(name)

        def progress(done: int, total: int) -> None:
            self._bar.n = self._done + min(1.0, done / max(total, 1))
            self._bar.refresh()

        return progress

    def finish_piece(self) -> None:
        """End the piece, however far it reported."""
        self._done += 1
        self._bar.n = self._done
        self._bar.refresh()

    def skip_piece(self) -> None:
        """A piece that was done before: it counts for the bar, not for the rate."""
        if not self._bar.disable:
            self._bar.initial += 1
        self.finish_piece()

    def say(self, line: str, error: bool = False) -> None:
        """Print a line, on stdout or stderr."""
        self._write(line, file=sys.stderr if error else sys.stdout)
        sys.stdout.flush()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

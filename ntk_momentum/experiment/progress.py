"""A progress bar over pieces of work, on the terminal only; and lines of text that do not tear it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from ..errors import require


class Bar:
    """Counts `total` pieces; a piece reports its own share through the callback it gets. Quiet when stderr is no terminal."""

    def __init__(self, total: int):
        tqdm = require("tqdm", "the progress bar").tqdm
        self._write: Callable[..., Any] = tqdm.write
        self._bar = tqdm(total=total, disable=None, file=sys.stderr, bar_format="{percentage:3.0f}%|{bar:30}| {elapsed}<{remaining} {desc}")
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

    def say(self, line: str) -> None:
        """Print a line on stdout."""
        self._write(line, file=sys.stdout)
        sys.stdout.flush()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

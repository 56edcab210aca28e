"""Many files as one array: each covers some labels of every axis, and is read when a value of its
is asked for.

xarray's own lazy indexing, so no dask: selecting reads nothing, and loading reads only the files
that the selection meets.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import require
from .store import Stored


@dataclasses.dataclass(frozen=True)
class Tile:
    """One variable of one file. places: for each axis of the whole, the places that the tile's own
    entries take there."""

    stored: Stored
    places: tuple[np.ndarray, ...]


def tiled(name: str, tiles: Sequence[Tile], shape: tuple[int, ...]) -> Any:
    """The variable `name` of all tiles, in an array that xarray reads lazily. Later tiles lie on
    top; NaN where there is none.

    The file's variable may have fewer axes than the whole: leading axes of the whole along which
    the tile has one place.
    """
    indexing = require("xarray", "reading results").core.indexing
    return indexing.LazilyIndexedArray(_array_type()(name, tuple(tiles), shape))


@functools.cache
def _array_type() -> type:
    base: Any = require("xarray.backends", "reading results").BackendArray
    indexing = require("xarray.core.indexing", "reading results")

    class Tiled(base):
        """The array behind `tiled`."""

        def __init__(self, name: str, tiles: tuple[Tile, ...], shape: tuple[int, ...]):
            self.name, self.tiles, self.shape = name, tiles, shape
            kinds = [np.dtype(tile.stored.contents[name]["dtype"]) for tile in tiles]
            self.dtype = np.result_type(*kinds)
            if self.dtype.kind != "f" and not _covers(tiles, shape):
                self.dtype = np.dtype(float)  # integers have no NaN

        def __getitem__(self, key: Any) -> Any:
            return indexing.explicit_indexing_adapter(
                key, self.shape, indexing.IndexingSupport.OUTER, self._select
            )

        def _select(self, key: tuple[Any, ...]) -> np.ndarray:
            wanted = [
                np.atleast_1d(np.arange(size)[part])
                for size, part in zip(self.shape, key, strict=True)
            ]
            # Every tile that meets the wanted block is read, and of each the places that both have
            # are copied; later tiles win, so the last computed counts.
            values = np.full(
                [len(places) for places in wanted],
                np.nan if self.dtype.kind == "f" else 0,
                self.dtype,
            )
            for tile in self.tiles:
                own = [
                    _find(places, there) for places, there in zip(wanted, tile.places, strict=True)
                ]
                if all(np.any(found >= 0) for found in own):
                    block = tile.stored.read(self.name).reshape(
                        [len(places) for places in tile.places]
                    )
                    met = [found >= 0 for found in own]
                    values[np.ix_(*met)] = block[
                        np.ix_(*(found[m] for found, m in zip(own, met, strict=True)))
                    ]
            return values[
                tuple(
                    0 if np.ndim(part) == 0 and not isinstance(part, slice) else slice(None)
                    for part in key
                )
            ]

    return Tiled


def _find(wanted: np.ndarray, places: np.ndarray) -> np.ndarray:
    """For each wanted place the tile's own index of it, or -1."""
    order = np.argsort(places)
    at = np.minimum(np.searchsorted(places, wanted, sorter=order), len(places) - 1)
    return np.where(places[order[at]] == wanted, order[at], -1)


def _covers(tiles: Sequence[Tile], shape: tuple[int, ...]) -> bool:
    seen = np.zeros(shape, bool)
    for tile in tiles:
        seen[np.ix_(*tile.places)] = True
    return bool(seen.all())

"""Kernels at infinite width as linear operators that are never formed: streamed tile by tile.

    (H v)_I = sum_J K(X_I, X_J) v_J

over blocks I, J of inputs. H is symmetric, so a tile serves both of its products, K v_J and K^T
v_I, and half of them are computed. Several devices share the tiles evenly, each with all inputs,
and one sum of n numbers a column is sent.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from ..errors import InputError, check_whole, no_type_check, require, unknown_name
from ..memory import check_fits
from .infinite import angles, blocks_of, of_pairs, rows
from .recursion import FullyConnected, of_layers

if TYPE_CHECKING:
    import lineax

TILE_INPUTS = {"cpu": 1024, "gpu": 6000}
"""Inputs in a block. Measured on one core, float32, p = 784: 17 ms of CPU time a tile, of which 12
are the matrix product; a dozen arrays of 4 MB live at once. A product with 60,000 inputs takes 0.18
s by these tiles on an H200, and 0.09 by the larger ones, whose dozen arrays are of 144 MB."""


class Streamed(eqx.Module):
    """v -> H v for blocks of inputs, (blocks, tile, p), padded by zeros; of: a network, or the
    layers of the two-layer one. Columns None: symmetric."""

    rows: Float[Array, "blocks tile p"]
    columns: Float[Array, "others tile p"] | None
    of: Any
    sizes: tuple[int, int] = eqx.field(static=True)
    over: Mesh | None = eqx.field(static=True)

    def __call__(self, v: Float[Array, " n"]) -> Float[Array, " m"]:
        """The product."""
        tile, symmetric = self.rows.shape[1], self.columns is None
        others = self.rows if self.columns is None else self.columns
        v = jnp.pad(v, (0, others.shape[0] * tile - self.sizes[1])).reshape(-1, tile)
        pairs = _pairs(len(self.rows), len(others), symmetric)
        one = lambda first, second, v, pairs: self._sum(first, second, v, pairs)
        if self.over is None:
            return one(self.rows, others, v, pairs).reshape(-1)[: self.sizes[0]]
        # what pads the list for the devices is a tile that is left out
        pairs = np.pad(pairs, ((0, -len(pairs) % self.over.size), (0, 0)), constant_values=-1)
        spread = jax.shard_map(
            lambda *parts: jax.lax.psum(one(*parts), "tiles"),
            mesh=self.over,
            in_specs=(P(), P(), P(), P("tiles")),
            out_specs=P(),
            check_vma=False,
        )
        return spread(self.rows, others, v, jnp.asarray(pairs)).reshape(-1)[: self.sizes[0]]

    def seconds(self) -> float:
        """What a product will take, one vector or a few, by the time of one tile off the diagonal,
        which is computed twice."""
        others = self.rows if self.columns is None else self.columns
        tiles = len(_pairs(len(self.rows), len(others), self.columns is None))
        once = eqx.filter_jit(lambda s, x1, x2: jnp.sum(s._tile(x1, x2, False)))
        for _ in range(2):
            begun = time.perf_counter()
            once(self, self.rows[0], others[-1]).block_until_ready()
        return tiles * (time.perf_counter() - begun) / (1 if self.over is None else self.over.size)

    def _sum(self, first: Array, second: Array, v: Array, pairs: Any) -> Array:
        """The products of so many tiles."""
        symmetric = self.columns is None
        start = jnp.zeros((len(first), first.shape[1]), v.dtype)

        def add(total: Array, pair: Array) -> tuple[Array, None]:
            here, there = jnp.maximum(pair[0], 0), jnp.maximum(pair[1], 0)
            K = self._tile(first[here], second[there], symmetric & (here == there))
            K = jnp.where(pair[0] < 0, 0.0, K)
            total = total.at[here].add(K @ v[there])
            if symmetric:  # v K: for K.T v XLA copies the transpose, as long as all the rest here
                total = total.at[there].add(jnp.where(here == there, 0.0, v[here] @ K))
            return total, None

        return jax.lax.scan(add, start, jnp.asarray(pairs))[0]

    def _tile(self, x1: Array, x2: Array, same: Any) -> Array:
        root = 1.0 if isinstance(self.of, str) else x1.shape[1] ** -0.5
        pairs = angles(x1 * root, x2 * root, jnp.where(same, 0, len(x1)))
        return (
            of_pairs(pairs, self.of) if isinstance(self.of, str) else of_layers(self.of, pairs).ntk
        )


def _pairs(many: int, others: int, symmetric: bool) -> np.ndarray:
    """The tiles: above the diagonal where symmetric, else all."""
    all = np.indices((many, others)).reshape(2, -1).T.astype(np.int32)
    return all[all[:, 0] <= all[:, 1]] if symmetric else all


@no_type_check
def infinite_ntk_operator(
    x1: Any,
    x2: Any = None,
    *,
    trainable: str | None = None,
    network: FullyConnected | None = None,
    tile: int | None = None,
    devices: Any = None,
) -> lineax.FunctionLinearOperator:
    """The kernel of an infinitely wide network as a linear operator, which never forms it.

        v -> H v,  H = `infinite_ntk(x1, x2)` (Fact 2.1), or `network(x1, x2).ntk`

    by tiles, of which a symmetric kernel has half computed; so 60,000 inputs of 784 numbers take
    0.2 GB in float32. Give it to `nm.modes` and `nm.predict`.

    Args:
        x1: Inputs, (n1, ...).
        x2: Inputs, (n2, ...); None means x1. With test points as x1 and training points as x2 it is
            the test kernel of `nm.predict`.
        trainable: As in `infinite_ntk`.
        network: Of `nm.fully_connected_ntk`, in place of the two-layer one.
        tile: Inputs in a block; 1024, on a GPU 6000.
        devices: Those that share the tiles; all of this process's by default.

    Returns:
        A lineax operator from (n2,) to (n1,); symmetric where x2 is None. Its `fn.seconds()` says
        beforehand what a product will take.

    Raises:
        InputError: If the inputs are not finite rows of one size, or another argument does not fit.

    Examples:
        >>> H = nm.infinite_ntk_operator(jnp.eye(3))
        >>> H.mv(jnp.ones(3)).tolist()
        [0.5, 0.5, 0.5]
    """
    lineax = require("lineax", "infinite_ntk_operator")
    usual = TILE_INPUTS.get(jax.default_backend(), TILE_INPUTS["cpu"])
    tile = usual if tile is None else check_whole("tile", tile, example=usual)
    if network is not None and trainable is not None:
        raise InputError("trainable is of the two-layer network; a network trains all its layers.")
    if network is not None and not isinstance(network, FullyConnected):
        raise InputError(
            "network must come from nm.fully_connected_ntk, got "
            f"{type(network).__name__}; for a finite network take nm.ntk_operator."
        )
    layers = "hidden" if trainable is None else trainable
    if layers not in ("hidden", "output", "all"):
        raise unknown_name("trainable", str(trainable), ("hidden", "output", "all"))
    x1 = rows("x1", x1)
    x2 = None if x2 is None else rows("x2", x2)
    if x2 is not None and x1.shape[1] != x2.shape[1]:
        raise InputError(
            f"x1 and x2 must hold inputs of one size, got {x1.shape[1]} and {x2.shape[1]} "
            "numbers; give one input per row."
        )
    longest = len(x1) if x2 is None else max(len(x1), len(x2))
    tile = -(-longest // -(-longest // tile))  # as even as they come: less is padded
    check_fits(12 * tile**2, f"tiles of {tile} inputs", "use a smaller tile", of=x1)
    local = tuple(jax.local_devices() if devices is None else devices)
    over = (
        jax.make_mesh((len(local),), ("tiles",), axis_types=(AxisType.Auto,), devices=local)
        if len(local) > 1
        else None
    )
    sizes = len(x1), len(x1 if x2 is None else x2)
    product = Streamed(
        blocks_of(x1, tile),
        None if x2 is None else blocks_of(x2, tile),
        layers if network is None else network,
        sizes,
        over,
    )
    return lineax.FunctionLinearOperator(
        product,
        jax.ShapeDtypeStruct((sizes[1],), x1.dtype),
        {lineax.symmetric_tag, lineax.positive_semidefinite_tag} if x2 is None else (),
        closure_convert=False,  # a program serves all inputs of one shape
    )

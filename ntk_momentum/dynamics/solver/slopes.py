"""What the lazy exponential integrator sees of a two-layer net: a linear map with slopes, and the
times at which they change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ...kernel import sliding
from ...network import neurons
from ...products import either, of_two_values, product
from ..matrix_function import Eigenbasis
from .frozen_kernel import Held

TILE = 2**22
"""Preactivations in one tile on a CPU, 16 MiB in float32. Fewer than two tiles are kept from pass
to pass, which is 1.4 times faster."""


def _tile() -> int:
    return TILE if jax.default_backend() == "cpu" else 32 * TILE


class Memory(NamedTuple):
    """What a step hands to the next: preactivations of weights and velocities (n, m), Delta and J v
    (n,), and what steps with the last kernel need of it.

    Without momentum zv is (n, 0), and z too where neurons are taken by tiles.
    """

    z: Float[Array, "n m"]
    zv: Float[Array, "n m"]
    residual: Float[Array, " n"]
    velocity: Float[Array, " n"]
    at: Eigenbasis | Held

    @staticmethod
    def first(net: LinearNet, w: Any, v: Any, hold: Callable) -> Memory:
        """At the start; hold: a kernel -> what is needed of it."""
        if v is None:
            f, kernel = net.total(LinearNet.outlook, w.hidden)
            return Memory(
                net.kept(w.hidden),
                f[:, None][:, :0],
                f - net.y,
                jnp.zeros_like(f),
                hold(kernel),
            )
        z = product(net.X, w.hidden.T)
        return net.remember(w.hidden, v.hidden, hold(net.kernel(net.slopes(z))))


class LinearNet(NamedTuple):
    """The two-layer net as a linear map with slopes: f_i = scale * sum_r a_r s_ri (w_r . x_i)."""

    X: Float[Array, "n p"]
    y: Float[Array, " n"]
    gram: Float[Array, "n n"]
    output: Float[Array, " m"]
    scale: Any
    below: float
    above: float
    floor: Any = 0.0  # of |Delta| as a share of |f|, see `objective.roundoff`

    def slopes(self, z: Float[Array, "n m"]) -> Float[Array, "n m"]:
        """sigma'(z)."""
        return jnp.where(z > 0, jnp.asarray(self.above, z.dtype), jnp.asarray(self.below, z.dtype))

    def pull(
        self, slopes: Float[Array, "n m"], u: Float[Array, " n"], averaged: bool = False
    ) -> Float[Array, "m p"]:
        """J^T u with the given slopes; averaged: which lie between the two."""
        plain = lambda slopes, u, X: product((slopes * u[:, None]).T, X)
        by_terms = lambda slopes, u, X: of_two_values(
            slopes.T, (self.below, self.above), u[:, None] * X
        )
        rows = either(plain if averaged else by_terms, plain, slopes, u, self.X)
        return self.scale * self.output[:, None] * rows

    def spread(self, force: Float[Array, "n m"]) -> Float[Array, "m p"]:
        """scale * a_r sum_i F_ri x_i: `pull` of a force that differs from neuron to neuron."""
        return self.scale * self.output[:, None] * product(force.T, self.X)

    def kernel(self, slopes: Float[Array, "n m"]) -> Float[Array, "n n"]:
        """H with the given slopes."""
        return self.scale**2 * self.gram * product(slopes * self.output[None, :] ** 2, slopes.T)

    def outlook(self, w: Float[Array, "m p"]) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
        """(f, H) at w."""
        z = product(self.X, w.T)
        slopes = self.slopes(z)
        return self.scale * ((slopes * z) @ self.output), self.kernel(slopes)

    def whole(self, w: Float[Array, "m p"]) -> bool:
        """Whether all neurons are taken at once."""
        return neurons.parts_of(self.X, w, _tile()) == 1

    def kept(self, w: Float[Array, "m p"]) -> Array:
        """The preactivations, (n, m), where they are kept from step to step; else (n, 0)."""
        return product(self.X, w.T) if self.whole(w) else jnp.zeros_like(self.X[:, :0])

    def once(self, function: Callable, w: Float[Array, "m p"]) -> Callable:
        """function(net of a tile, its weights), or where all neurons are taken at once its value at
        w, whatever it is given."""
        if not self.whole(w):
            return function
        value = function(self, w)
        return lambda tile, w: value

    def total(self, function: Callable, w: Float[Array, "m p"]) -> Any:
        """The sum over tiles of neurons of function(net of the tile, its weights)."""
        if self.whole(w):
            return function(self, w)
        hidden, output = neurons.tiles(self.X, w, self.output, _tile())
        blank = jax.eval_shape(lambda: function(self._replace(output=output[0]), hidden[0]))

        def add(total: Any, tile: tuple[Array, Array]) -> tuple[Any, None]:
            return jax.tree.map(
                jnp.add, total, function(self._replace(output=tile[1]), tile[0])
            ), None

        return jax.lax.scan(
            add,
            jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), blank),
            (hidden, output),
        )[0]

    def rewritten(
        self, function: Callable, w: Float[Array, "m p"], accept: Bool[Array, ""]
    ) -> Float[Array, "m p"]:
        """w, or where `accept` w with every tile replaced by function(net of the tile, its
        weights). In place, when compiled."""
        if self.whole(w):
            return jnp.where(accept, function(self, w), w)
        hidden, output = neurons.tiles(self.X, w, self.output, _tile())

        def write(i: Array, hidden: Array) -> Array:
            tile = hidden[i]
            return hidden.at[i].set(
                jnp.where(accept, function(self._replace(output=output[i]), tile), tile)
            )

        return jax.lax.fori_loop(0, hidden.shape[0], write, hidden).reshape(-1, w.shape[1])[
            : w.shape[0]
        ]

    def remember(self, w: Array, v: Array, at: Eigenbasis | Held) -> Memory:
        z, zv = product(self.X, w.T), product(self.X, v.T)
        slopes = self.slopes(z)
        f, velocity = (self.scale * ((slopes * part) @ self.output) for part in (z, zv))
        return Memory(z, zv, f - self.y, velocity, at)

    def average_slopes(self, before: Array, after: Array, slopes: Array, force: Array) -> Array:
        """Slopes averaged over a step that was predicted to lead from `before` to `after` with the
        given slopes, see `sliding`."""
        return sliding.average(
            self.gram,
            before,
            after,
            slopes,
            -self.scale * force,
            self.output,
            self.below,
            self.above,
        )


class Crossing(NamedTuple):
    """The part [leave, back] of a step, in units of its length, that each entry spends beyond the
    kink; empty where leave = back."""

    leave: Float[Array, "n m"]
    back: Float[Array, "n m"]

    @staticmethod
    def of(before: Array, rise: Array, after: Array) -> Crossing:
        """From the parabola that starts at `before` with slope `rise` (per step) and ends at
        `after`."""
        # On the side where it starts s + u sigma + c sigma^2, s > 0. Its first zero, written so
        # that nothing cancels as c -> 0, and its second, where c > 0 brings it back, are
        #     2 s / (D - u),   (D - u) / (2 c),   D = sqrt(u^2 - 4 c s).
        side = jnp.where(before > 0, 1.0, -1.0).astype(before.dtype)
        start, slope = side * before, side * rise
        bend = side * after - start - slope
        square = slope**2 - 4 * bend * start
        # not sqrt(0), whose derivative is infinite; a double zero is a touch, no crossing
        meets = square > 0
        root = jnp.sqrt(jnp.where(meets, square, 1.0)) - slope
        leaves = meets & (root > 0)
        leave = jnp.where(leaves, jnp.minimum(2 * start / jnp.where(leaves, root, 1.0), 1.0), 1.0)
        returns = leaves & (bend > 0)
        back = jnp.where(
            returns, jnp.clip(root / jnp.where(returns, 2 * bend, 1.0), leave, 1.0), 1.0
        )
        return Crossing(leave, back)

    def beyond(self, path: Float[Array, "n k"]) -> Float[Array, "n m"]:
        """path(leave) - path(back), for polynomials given by their coefficients, the constant
        first; one for each sample."""
        # Horner's scheme without the constant, which the difference cancels.
        powers = range(path.shape[1] - 1, 0, -1)
        leave, back = jnp.zeros_like(self.leave), jnp.zeros_like(self.back)
        for k in powers:
            leave, back = (
                (leave + path[:, k, None]) * self.leave,
                (back + path[:, k, None]) * self.back,
            )
        return leave - back

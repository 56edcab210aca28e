"""The linearised model f_lin(w) = f(w_0) + J (w - w_0), whose kernel is constant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..errors import no_type_check
from ..kernel.tangent import jvp
from ..network.model import AbstractModel, trainable_spec


class Linearized(AbstractModel):
    """x -> f(w_0, x) + J(w_0, x) (w - w_0): a model whose kernel is constant. w is its trained
    part."""

    w: PyTree
    start: PyTree
    frozen: Any

    def __call__(self, x: Array) -> Array:
        moved = jax.tree.map(jnp.subtract, self.w, self.start)
        value, change = jvp(lambda w: eqx.combine(w, self.frozen)(x), self.start, moved)
        return value + change

    def default_trainable(self) -> PyTree:
        """w, and neither w_0 nor the frozen rest."""
        nothing = jax.tree.map(lambda _: False, self)
        return eqx.tree_at(lambda m: m.w, nothing, jax.tree.map(lambda _: True, self.w))


@no_type_check
def linearize(
    model: PyTree, *, trainable: PyTree = None, where: Callable | None = None
) -> Linearized:
    """A model linearised in its trained weights at their present values: a model whose kernel is
    constant.

        f_lin(x) = f(w_0, x) + J(w_0, x) (w - w_0)

    It follows (2.5), (3.5) and (4.3) with constant H. Unless told otherwise w alone is trained.

    Args:
        model: Any Equinox model of one input.
        trainable: What is trained, as in `nm.empirical_ntk`.
        where: As in `nm.empirical_ntk`.

    Returns:
        The linearised model, equal to the model at the start.

    Raises:
        InputError: If nothing is trained.

    Examples:
        >>> net = nm.init_two_layer(8, 2, key=jax.random.key(0))
        >>> bool(nm.linearize(net)(jnp.ones(2)) == net(jnp.ones(2)))
        True
    """
    w, frozen = eqx.partition(model, trainable_spec(model, trainable, where))
    return Linearized(w, w, frozen)

"""The paper's network, and what it says of itself.

    f(W, a, x) = m^{-1/2} sum_r a_r sigma(w_r . x)                                       (section 2)

with w_r ~ N(0, I), a_r = +-1 and only the hidden layer trained.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Key, PyTree, Real, Shaped

from ..errors import (
    InputError,
    brief,
    check_array,
    check_flag,
    check_key,
    check_positive,
    check_whole,
    described,
)
from ..memory import check_fits, in_short
from .model import AbstractModel
from .neurons import equal_parts, values

DRAWN = 2**24
"""Weights drawn from one key: 64 MiB in float32, of which drawing holds four copies. A convention:
another number would draw other networks."""


class TwoLayerNet(AbstractModel):
    """The paper's network, a plain Equinox module.

        f(W, a, x) = scale * sum_r a_r sigma(w_r . x)            (section 2)

    A bias is a constant coordinate of x. Unless told otherwise only the hidden layer is trained.

    Args:
        hidden: (m, p), the rows w_r.
        output: (m,), the weights a_r.
        activation: sigma, a function of arrays built from jax.numpy.
        scale: m^{-1/2} unless given (1 for the standard parametrisation, 1/m for mean field); never
            trained.

    Raises:
        InputError: If the shapes do not fit, sigma is no function or scale is not positive.

    Examples:
        >>> net = nm.TwoLayerNet(jnp.eye(2), jnp.array([1.0, -1.0]), scale=1.0)
        >>> net.width, float(net(jnp.array([3.0, 1.0])))
        (2, 2.0)
    """

    hidden: Float[Array, "m p"]
    output: Float[Array, " m"]
    activation: Callable = eqx.field(static=True)
    scale: float | Float[Array, ""]

    def __init__(
        self,
        hidden: ArrayLike,
        output: ArrayLike,
        activation: Callable = jax.nn.relu,
        *,
        scale: float | Float[Array, ""] | None = None,
    ) -> None:
        for name, array in (("hidden", hidden), ("output", output)):
            check_array(name, array)
        self.hidden, self.output = jnp.asarray(hidden), jnp.asarray(output)
        self.activation = activation
        check_elementwise(activation)
        if self.hidden.ndim != 2 or self.output.shape != self.hidden.shape[:1]:
            raise InputError(
                f"hidden must be (m, p) and output (m,), got {self.hidden.shape} and "
                f"{self.output.shape}; give a row of hidden and one number of output per neuron."
            )
        self.scale = self.hidden.shape[0] ** -0.5 if scale is None else scale
        check_positive("scale", self.scale)

    def __call__(self, x: Real[Array, "*shape"]) -> Float[Array, ""]:
        """f(x) of one input x of any shape, taken as p numbers."""
        return self.scale * jnp.dot(self.output, self.activation(self.hidden @ x.reshape(-1)))

    sums_neurons = True

    def outputs(self, X: Real[Array, "n ..."]) -> Array:
        return self.scale * values(
            self.activation, X.reshape(X.shape[0], -1), self.hidden, self.output
        )

    def as_inputs(self, X: Shaped[Array, "n ..."], dtype: Any) -> Array:
        return X.astype(dtype)

    def default_trainable(self) -> PyTree:
        return self._spec(hidden=True, output=False)

    def layers(self) -> dict[str, PyTree]:
        return {
            "hidden": self._spec(hidden=True, output=False),
            "output": self._spec(hidden=False, output=True),
            "all": self._spec(hidden=True, output=True),
        }

    def _spec(self, hidden: bool, output: bool) -> PyTree:
        nothing = jax.tree.map(lambda _: False, self)
        return eqx.tree_at(lambda net: (net.hidden, net.output), nothing, (hidden, output))

    @property
    def width(self) -> int:
        """m, the number of hidden neurons."""
        return self.hidden.shape[0]


def init_two_layer(
    width: int,
    input_size: int,
    *,
    key: Key[Array, ""],
    activation: Callable = jax.nn.relu,
    antisymmetric: bool = False,
    dtype: DTypeLike | None = None,
    scale: float | Float[Array, ""] | None = None,
) -> TwoLayerNet:
    """The initialisation of Theorems 1-3: w_r ~ N(0, I_p), a_r uniform on {-1, +1}, independent.

        f(W, a, x) = m^{-1/2} sum_r a_r sigma(w_r . x)           (section 2)

    The hidden layer is `normal(split(key)[0], (m, p))`, up to 2^24 weights; more are drawn in
    parts.

    Args:
        width: m, the number of hidden neurons.
        input_size: p, the number of coordinates of an input.
        key: As from `jax.random.key`.
        activation: sigma, a function of arrays built from jax.numpy.
        antisymmetric: The second half of the neurons repeats the first with the opposite sign of
            a_r, so that f = 0 at the start and the kernel's law is that of m/2 independent neurons;
            the width must then be even.
        dtype: Of the weights; the default float of JAX if None.
        scale: The factor of f, m^{-1/2} if None.

    Returns:
        The network.

    Raises:
        InputError: If a size is no positive whole number, or the width is odd where it must be
            even.

    Examples:
        >>> net = nm.init_two_layer(64, 3, key=jax.random.key(0), antisymmetric=True)
        >>> net.hidden.shape, float(net(jnp.ones(3)))
        ((64, 3), 0.0)
    """
    width = check_whole("width", width, example=256)
    input_size = check_whole("input_size", input_size, example=10)
    check_key("key", key)
    check_elementwise(activation)
    if check_flag("antisymmetric", antisymmetric) and width % 2:
        raise InputError(
            "an antisymmetric network pairs its neurons, so the width must be even, "
            f"got {width}; try {width + 1}."
        )
    dtype = weights_of(dtype)
    entries = width * input_size
    # whoever compiles this knows over how many devices it spreads; no array has 2^60 entries
    if entries >= 2**60 or not isinstance(key, jax.core.Tracer):
        check_fits(
            2 * entries,
            f"{in_short(width)} neurons on {in_short(input_size)} inputs each",
            "use fewer neurons, or float32",
            itemsize=dtype.itemsize,
        )
    drawn = width // 2 if antisymmetric else width
    hidden_key, output_key = jax.random.split(key)
    hidden = _normal(hidden_key, drawn, input_size, dtype)
    output = jax.random.rademacher(output_key, (drawn,), dtype)
    if antisymmetric:
        hidden, output = jnp.concatenate([hidden, hidden]), jnp.concatenate([output, -output])
    return TwoLayerNet(hidden, output, activation, scale=scale)


def weights_of(dtype: Any) -> jnp.dtype:
    """The precision of weights that is asked for, JAX's own if None; checked."""
    if dtype is None:
        return jax.dtypes.canonicalize_dtype(jnp.float64)
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        found = None
    if found is None or found.name not in ("float32", "float64"):
        raise InputError(
            f"dtype must be float32 or float64, got {dtype if found is None else found.name!r}; "
            "try "
            "dtype=jnp.float32."
        )
    return found


def check_elementwise(activation: Any) -> None:
    """Raise `InputError` unless sigma is a function that keeps the shape of an array."""
    if not callable(activation) or isinstance(activation, type):
        raise InputError(
            f"activation must be a function, got {described(activation)}; try jax.nn.relu."
        )
    try:
        value = jax.eval_shape(activation, jax.ShapeDtypeStruct((2, 3), jnp.float32))
        good = getattr(value, "shape", None) == (2, 3)
        got = f"one that makes {getattr(value, 'shape', type(value).__name__)} of shape (2, 3)"
    except Exception as error:  # the user's code: anything may be raised
        good, got = False, f"one that raises {type(error).__name__} on an array ({brief(error)})"
    if not good:
        raise InputError(
            f"activation must be a function of arrays that keeps their shape, got {got}; try "
            "jax.nn.relu."
        )


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _normal(
    key: Key[Array, ""], rows: int, columns: int, dtype: Any
) -> Float[Array, "rows columns"]:
    """Standard normal numbers. More than `DRAWN` are drawn in parts, each with a key of its own: on
    a CPU, drawing holds four copies.

    Where several devices may hold the rows between them, they draw the parts at once: the numbers
    are the same.
    """
    parts = equal_parts(rows, -(-rows * columns // DRAWN))
    if parts == 1:
        return jax.random.normal(key, (rows, columns), dtype)
    draw = lambda key: jax.random.normal(key, (-(-rows // parts), columns), dtype)
    keys = jax.random.split(key, parts)
    drawn = jax.vmap(draw)(keys) if jax.device_count() > 1 else jax.lax.map(draw, keys)
    return drawn.reshape(-1, columns)[:rows]

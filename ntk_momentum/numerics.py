"""Precision, tolerance and limits in one visible object, saved with every result.

A pytree whose one leaf is the tolerance, so that another tolerance needs no new compilation and one
call may map over tolerances. `dynamics.run` registers it with JAX; this file imports no JAX, since
help is made from `Precision`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

from .errors import InputError, check_choice, check_positive, check_whole, described

Precision = Literal[
    "default",
    "high",
    "highest",
    "TF32_TF32_F32",
    "TF32_TF32_F32_X3",
    "BF16_BF16_F32",
    "BF16_BF16_F32_X3",
    "BF16_BF16_F32_X6",
]
"""JAX's BF16_BF16_F32_X9 is not among them: on an H200 (JAX 0.11.2) it is TF32, wrong by 3e-4."""


@dataclasses.dataclass(frozen=True)
class Numerics:
    """How a run is computed: tolerance, limits and precision, saved with every result.

    A pytree whose one leaf is the tolerance, so that another one needs no new compilation.

    Args:
        tol: Local error allowed in one step, in function space and relative to the size of the
            motion (dimensionless).
        max_steps: Steps allowed between two saved times.
        precision: Of the matrix products (X W^T, read-out, H). On recent GPUs "default" means TF32
            for float32 and on TPUs bfloat16; "highest" is the accuracy of the dtype, on NVIDIA's in
            float32 by products of shorter terms, see `products`. Or the name of one of JAX's dot
            algorithms, as in `jax.lax.DotAlgorithmPreset`, for all products in float32; where the
            device has no such algorithm, so on a CPU, and in float64 it means "highest".

    Raises:
        InputError: If a tolerance or a limit is not positive, or the precision is unknown.

    Examples:
        >>> nm.Numerics(tol=1e-7).max_steps
        100000
    """

    tol: Any = 1e-5
    max_steps: int = 100_000
    precision: Precision = "highest"

    def __post_init__(self) -> None:
        check_positive("tol", self.tol, example=1e-5)
        whole = check_whole("max_steps", self.max_steps, example=100_000)
        object.__setattr__(self, "max_steps", whole)  # Python's, which programs are keyed by
        check_choice("precision", self.precision, get_args(Precision))


def check_config(config: Any) -> None:
    """Raise `InputError` for what is no `Numerics`."""
    if not isinstance(config, Numerics):
        example = f"nm.Numerics(tol={config!r})" if isinstance(config, float) else "nm.Numerics()"
        raise InputError(
            f"config must be a Numerics, got {described(config)}; try config={example}."
        )


def in_dtype(
    config: Numerics, dtype: Any, held: Callable[[Any, Any], Any] | None = None
) -> Numerics:
    """The same with its tolerance in the precision of a run, checked; held: `placed`, or
    `on_host`."""
    check_config(config)
    return Numerics((held or placed)(config.tol, dtype), config.max_steps, config.precision)


def on_host(value: Any, dtype: Any) -> Any:
    """np.asarray in JAX's precision: a program takes all such at once, where `placed` is a transfer
    for each."""
    import jax
    import numpy as np

    return np.asarray(value, jax.dtypes.canonicalize_dtype(dtype))


def placed(value: Any, dtype: Any) -> Any:
    """jnp.asarray(value, dtype), without the program that JAX compiles for every shape and dtype
    that NumPy's numbers come in."""
    import jax
    import jax.numpy as jnp

    if isinstance(value, jax.Array):
        return jnp.asarray(value, dtype)
    return jax.device_put(on_host(value, dtype))

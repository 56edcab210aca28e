"""Responses in float32 whose phase float32 cannot hold.

sqrt(lambda) t in float32 is wrong by 6e-8 of itself: from 1e5 on the response of a mode loses its
digits, from 1e7 on it is noise, however well it is computed. Eigenvalue and time are known exactly,
so the closed form is evaluated in float64 and rounded at the end, also where it is traced.
"""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..errors import concrete
from .base import AbstractFlow

UNKNOWN = 0.1
"""From this error of a phase or of an exponent on a prediction warns. Chosen."""


def precise_mode(flow: AbstractFlow, eigenvalue: Array, t: Array) -> tuple[Array, Array]:
    """`flow.mode`, in float64 and rounded where it is asked for in float32."""
    dtype = jnp.result_type(eigenvalue, t)
    if dtype == jnp.float64:
        return flow.mode(eigenvalue, t)
    with jax.enable_x64(True):
        found = jax.tree.map(_wide, flow).mode(_wide(eigenvalue), _wide(t))
        phi, slope = (jax.lax.convert_element_type(value, dtype) for value in found)
    return phi, slope


def _wide(leaf: Any) -> Any:
    floating = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    return jax.lax.convert_element_type(leaf, np.float64) if floating else leaf


def warn_of_precision(flow: AbstractFlow, lambda_max: Any, end: Any, dtype: Any) -> None:
    """Warn where eigenvalues, known to eps lambda_max, do not say where a mode is at the end."""
    seen: list[Any] = [concrete(x) for x in (lambda_max, end, *jax.tree.leaves(flow))]
    if any(one is None for one in seen) or not seen[0] > 0:
        return
    lost = float(jnp.finfo(dtype).eps) * float(flow.fastest_rate(seen[0])) * float(seen[1])
    if lost > UNKNOWN:
        warnings.warn(
            f"eigenvalues in {jnp.dtype(dtype).name} fix the slow modes and the phases of this "
            f"kernel at t = {float(seen[1]):.3g} only to {lost:.1g}; late losses are round-off. "
            'Use float64, jax.config.update("jax_enable_x64", True), or earlier times.',
            RuntimeWarning,
            stacklevel=3,
        )

"""Tests run in float64, with strict rank promotion: slips of shape and dtype are errors."""

import jax

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")

"""Tests run in float64, with strict rank promotion: slips of shape and dtype are errors.

Programs are compiled with few optimizations: each runs once, and compiling is most of the suite's time.
"""

import jax

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_disable_most_optimizations", True)

"""Many runs in one compiled program: planned, packed, spread over devices, and put together
again."""

UNIT_RUNS = 64
"""Runs in a unit of work at most, unless asked for otherwise; here, since help names it and imports
no jax."""

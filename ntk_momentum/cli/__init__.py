"""The command line: one file a command, plain configurations from which help is made without importing jax."""

from .parser import main as main

"""The command line: one file a command; help is made from plain classes, without jax."""

from .parser import NAMES as NAMES
from .parser import Main as Main
from .parser import main as main
from .parser import parse as parse

"""The command line: one file a command; help is made from plain classes, without jax."""

from ..errors import require

require("tyro", "the command line")

from .parser import NAMES as NAMES  # noqa: E402
from .parser import Main as Main  # noqa: E402
from .parser import main as main  # noqa: E402
from .parser import parse as parse  # noqa: E402

"""One function per statement of the paper; importing this package registers them all."""

from . import appendix as appendix
from . import discussion as discussion
from . import heavy_ball as heavy_ball
from . import kinks as kinks
from . import nesterov as nesterov
from . import preliminaries as preliminaries
from . import widths as widths

"""One function per statement of the paper; importing this package registers them all."""

from . import appendix_b as appendix_b
from . import descent as descent
from . import discussion as discussion
from . import displacement as displacement
from . import energy as energy
from . import initialisation as initialisation
from . import kernels as kernels
from . import kinks as kinks
from . import lemma_6 as lemma_6
from . import mini_batches as mini_batches
from . import momentum as momentum
from . import nesterov as nesterov
from . import networks as networks
from . import powers as powers
from . import theorem_1 as theorem_1
from . import theorem_2 as theorem_2
from . import widths as widths

"""Kernels: empirical for any Equinox model, structured for the two-layer net, closed forms at
infinite width.

Importing this does not import lineax; the operators do when they are made.
"""

from .empirical import empirical_ntk as empirical_ntk
from .empirical import plan_ntk as plan_ntk
from .infinite import infinite_ntk as infinite_ntk
from .lanczos import Modes as Modes
from .monte_carlo import monte_carlo_ntk as monte_carlo_ntk
from .operator import Extremes as Extremes
from .operator import extreme_eigenvalues as extreme_eigenvalues
from .operator import ntk_operator as ntk_operator
from .plan import KernelPlan as KernelPlan
from .recursion import FullyConnected as FullyConnected
from .recursion import fully_connected_ntk as fully_connected_ntk
from .spectrum import Spectrum as Spectrum
from .spectrum import spectrum as spectrum
from .streamed import infinite_ntk_operator as infinite_ntk_operator
from .two_layer import two_layer_ntk as two_layer_ntk

"""Kernels: empirical for any Equinox model, structured for the two-layer net, closed forms at infinite width."""

from .empirical import empirical_ntk as empirical_ntk
from .empirical import plan_ntk as plan_ntk
from .infinite import infinite_ntk as infinite_ntk
from .plan import Plan as Plan
from .two_layer import two_layer_ntk as two_layer_ntk

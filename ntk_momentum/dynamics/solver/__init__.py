"""Solvers for the weight and the error dynamics."""

from .base import REASONS as REASONS
from .base import AbstractIntegrator as AbstractIntegrator
from .base import Progress as Progress
from .base import Watcher as Watcher
from .batches import Batches as Batches
from .batches import Sampling as Sampling
from .batches import batches_of as batches_of
from .batches import check_batch as check_batch
from .descent import Descent as Descent
from .krylov import KrylovExponential as KrylovExponential
from .lazy import LazyExponential as LazyExponential
from .runge_kutta import RungeKutta as RungeKutta

"""Training on mini-batches under a constant kernel: second moments, limits of stability, and the
flows with noise that they are the steps of."""

from .langevin import Diffusion as Diffusion
from .langevin import simulate_stochastic as simulate_stochastic
from .limit import CriticalStep as CriticalStep
from .limit import critical_batch as critical_batch
from .limit import critical_step as critical_step
from .prediction import StochasticPrediction as StochasticPrediction
from .prediction import predict_stochastic as predict_stochastic

"""Optimization flows and their discrete twins: one method per file, the rule and its ODE side by side."""

from .base import AbstractFlow as AbstractFlow
from .base import AbstractMomentumFlow as AbstractMomentumFlow
from .base import AbstractOptimizer as AbstractOptimizer
from .base import FrozenStep as FrozenStep
from .base import State as State
from .gradient_descent import GradientDescent as GradientDescent
from .gradient_descent import GradientFlow as GradientFlow
from .gradient_descent import gradient_descent as gradient_descent
from .heavy_ball import HeavyBall as HeavyBall
from .heavy_ball import HeavyBallMethod as HeavyBallMethod
from .heavy_ball import heavy_ball as heavy_ball
from .nesterov import Nesterov as Nesterov
from .nesterov import NesterovMethod as NesterovMethod
from .nesterov import nesterov as nesterov

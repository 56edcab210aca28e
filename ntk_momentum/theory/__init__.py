"""The paper's theory, mathematics alone: bounds, Lyapunov functions, switching laws, exact
kink-to-kink solutions."""

from . import bounds as bounds
from . import lyapunov as lyapunov
from . import switching as switching
from .crossings import Crossings as Crossings
from .crossings import heavy_ball_crossings as heavy_ball_crossings
from .search import PowerForm as PowerForm
from .search import QuadraticForm as QuadraticForm
from .search import best_form as best_form
from .search import best_power as best_power

"""The paper's theory: bounds, Lyapunov functions, exact kink-to-kink solutions, and the ledger of every numbered statement."""

from . import bounds as bounds
from . import lyapunov as lyapunov
from . import switching as switching
from .certificate import Certificate as Certificate
from .certificate import certify as certify
from .crossings import Crossings as Crossings
from .crossings import heavy_ball_crossings as heavy_ball_crossings
from .ledger import Check as Check
from .ledger import Claim as Claim
from .ledger import claim as claim
from .ledger import entries as entries
from .ledger import refuted as refuted
from .ledger import verify as verify
from .ledger import write_claims as write_claims
from .observed import CERTIFICATE_READOUTS as CERTIFICATE_READOUTS
from .search import PowerForm as PowerForm
from .search import QuadraticForm as QuadraticForm
from .search import best_form as best_form
from .search import best_power as best_power

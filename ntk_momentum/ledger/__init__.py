"""Is the paper right? Every numbered statement, run as printed, corrected and sharp, with its
drawing."""

from .check import Check as Check
from .check import Claim as Claim
from .check import claim as claim
from .ledger import entries as entries
from .ledger import refuted as refuted
from .ledger import verify as verify
from .ledger import write_claims as write_claims

"""What theory says about a run: advice before it, a diagnosis of it, a certificate after it."""

from .certificate import Certificate as Certificate
from .certificate import certify as certify
from .observed import CERTIFICATE_READOUTS as CERTIFICATE_READOUTS

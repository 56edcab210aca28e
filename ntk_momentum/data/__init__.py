"""Training sets: checked at one door, and read from wherever people keep them.

The paper assumes unit inputs, |x_i| = 1, no two of which coincide (section 2, Facts 2.1 and 2.2).
"""

from .dataset import Dataset as Dataset
from .dataset import normalize as normalize
from .dataset import standardize as standardize
from .dataset import warn_unless_unit as warn_unless_unit
from .labels import encode_labels as encode_labels
from .loaders import load_digits as load_digits
from .loaders import load_mnist as load_mnist
from .loaders import load_npz as load_npz
from .loaders import open_data as open_data
from .loaders import sphere as sphere
from .tables import load_table as load_table

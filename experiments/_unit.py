"""Data for figures of the theorems, which assume |x_i| = 1."""

import numpy as np

from ntk_momentum.data import Dataset, normalize, open_data, standardize


def unit_data(text: str, n: int) -> Dataset:
    """`open_data`; the columns of a table, which have units of their own, are standardised and its
    rows scaled to norm one. Images are so already."""
    data = open_data(text, n)
    X = np.asarray(data.X)
    if np.allclose(np.linalg.norm(X, axis=1), 1):
        return data
    return Dataset(normalize(standardize(X)), data.y, name=data.name)

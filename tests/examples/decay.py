"""A mode decays

Gradient flow of one eigenvalue (2.5).
"""

import dataclasses

import numpy as np
import xarray as xr

ORDER = 1
CAPTION = "The line falls."


@dataclasses.dataclass(frozen=True)
class Config:
    points: int = 5


SIZES = {"smoke": Config(), "default": Config(9), "full": Config(17)}


def run(config, progress):
    t = np.linspace(0, 1, config.points)
    progress(1, 1)
    return xr.Dataset(
        {
            "phi": ("time", np.exp(-t)),
            "late": ("time", t > 0.5),
            "label": ("time", [f"{x:.1f}" for x in t]),
        },
        {"time": t},
    )


def headline(dataset):
    return {"phi(1)": float(dataset.phi[-1])}


def plot(dataset):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3, 2))
    axes = figure.subplots()
    axes.plot(dataset.time, dataset.phi, label=r"$\phi$")
    axes.legend()
    return figure

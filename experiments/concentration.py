"""The kernel concentrates: H(0) approaches H infinity like m^(-1/2)

Lemma 4 asks for ||H(0) - H_inf||_2 <= lambda_0 / 4, with H(0) from (2.8). Its proof is Hoeffding's
inequality entry by entry, so the distance falls like m^(-1/2), and so it does on images and on
random points alike. The width of Lemma 4, with its constants written out, is sufficient but far
beyond the width at which the distance reaches lambda_0 / 4. lambda_min(H(0)) itself comes close to
lambda_0 much earlier: matrix Chernoff needs neither n^2 nor 1/lambda_0^2.
"""

from dataclasses import dataclass

import jax
import numpy as np
import xarray

import ntk_momentum as nm
from ntk_momentum.study import plotting
from ntk_momentum.theory import bounds

ORDER = 20
CAPTION = """Distance of the kernel at the start from its limit, median and range over seeds, with
the fitted power of the width (95% interval over seeds). Dashed: lambda_0 / 4, what Lemma 4 asks
for. Right: the smallest eigenvalue against that of the limit."""


@dataclass(frozen=True)
class Config:
    n: int = 50
    sphere_size: int = 20  # samples on the sphere
    sphere_dimension: int = 10  # of the inputs there
    widths: tuple[int, ...] = (64, 256, 1024, 4096, 16384, 65536)
    seeds: int = 8
    delta: float = 0.05  # the bounds hold with probability 1 - delta


SIZES = {
    "smoke": Config(n=20, widths=(64, 1024), seeds=4),
    "default": Config(),
    "full": Config(n=200, widths=tuple(4**k for k in range(3, 11)), seeds=20),
}


def run(config, progress):
    key = jax.random.key(0)
    sets = {
        f"digits, n = {config.n}": nm.load_digits(config.n, key=key),
        f"sphere, n = {config.sphere_size}": nm.sphere(
            config.sphere_size, config.sphere_dimension, key=key
        ),
    }
    distance = np.empty((len(sets), len(config.widths), config.seeds))
    smallest, lam0, sufficient = np.empty_like(distance), [], []
    for i, data in enumerate(sets.values()):
        limit = np.asarray(nm.infinite_ntk(data.X))
        lam0.append(np.linalg.eigvalsh(limit)[0])
        sufficient.append(bounds.lemma_4_width(data.n, config.delta, lam0[-1]))
        for j, width in enumerate(config.widths):
            for seed in range(config.seeds):
                kernel = np.asarray(
                    nm.empirical_ntk(
                        nm.init_two_layer(width, data.input_size, key=jax.random.key(seed)), data.X
                    )
                )
                distance[i, j, seed] = np.linalg.norm(kernel - limit, 2)
                smallest[i, j, seed] = np.linalg.eigvalsh(kernel)[0]
            progress(i * len(config.widths) + j + 1, len(sets) * len(config.widths))
    dims = ("data", "width", "seed")
    return xarray.Dataset(
        {
            "distance": (dims, distance),
            "lambda_min": (dims, smallest),
            "lambda_0": ("data", lam0),
            "lemma_4_width": ("data", sufficient),
        },
        coords={"data": list(sets), "width": list(config.widths)},
    )


def headline(ds):
    fits = {
        name: plotting.power_law(ds.width, ds.distance.sel(data=name).T) for name in ds.data.values
    }
    slopes = {
        f"slope of ||H(0) - H_inf|| in m ({name}; expected -0.5)": plotting.with_interval(
            *fit[:2], 3
        )
        for name, fit in fits.items()
    }
    widths = {}
    for name, (slope, _, prefactor) in fits.items():
        lam0, sufficient = float(ds.lambda_0.sel(data=name)), float(ds.lemma_4_width.sel(data=name))
        reached = f"{(lam0 / 4 / prefactor) ** (1 / slope):.2g}; " if slope < 0 else ""
        widths[f"width that reaches lambda_0/4, fitted ({name})"] = (
            f"{reached}sufficient in Lemma 4: {sufficient:.2g}"
        )
    return slopes | widths


@plotting.house_style
def plot(ds):
    figure, (left, right) = plotting.panels(1, 2, height=3.0)
    for name, color in zip(ds.data.values, plotting.CYCLE[3:5], strict=True):
        one, lam0 = ds.sel(data=name), float(ds.lambda_0.sel(data=name))
        slope, half, prefactor = plotting.power_law(ds.width, one.distance.T)
        plotting.band(
            left,
            ds.width,
            one.distance.T,
            color=color,
            points=True,
            label=f"{name}: {plotting.power(slope, half)}",
        )
        left.plot(ds.width, prefactor * ds.width**slope, color=color, linewidth=1)
        left.axhline(lam0 / 4, color=color, linestyle="--", linewidth=1)
        plotting.band(
            right, ds.width, one.lambda_min.T / lam0, color=color, points=True, label=name
        )
    left.annotate(
        r"$\lambda_0/4$ of each",
        (ds.width[0], lam0 / 4),
        xytext=(0, 3),
        textcoords="offset points",
        fontsize=8,
        color=plotting.MUTED,
    )
    left.set(title=r"distance $\|H(0) - H^\infty\|_2$", yscale="log")
    right.axhline(1, color=plotting.THEORY, linewidth=1)
    right.set(title=r"smallest eigenvalue $\lambda_{\min}(H(0))/\lambda_0$", ylim=(0, None))
    for axes in (left, right):
        axes.set(xscale="log", xlabel="width $m$")
        axes.legend()
    return figure

"""Where the kernel regime ends: width and output scale against the drift, with the prediction's
error as the colour

A network of output scale c m^(-1/2) whose step is divided by c^2 has the same kernel dynamics for
every c, but its weights move by 1/c: width and scale are two roads into the regime of a constant
kernel, and the drift goes like c^(-1) m^(-1/2) or faster, by the flips. Small scales (mean field is
c = m^(-1/2)) leave it at any width. The kernel's drift tells beforehand how wrong its prediction
is.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import xarray

import ntk_momentum as nm
from ntk_momentum.errors import require
from ntk_momentum.study import plotting

ORDER = 118
CAPTION = """Left: distance of f from its own kernel's prediction over the motion |f(0) - y|
(colour) against width and output scale, with lines of equal kernel drift; dashed: the mean-field
scale, c = m^(-1/2). Right: the same runs, prediction error against drift."""


@dataclass(frozen=True)
class Config:
    n: int = 12
    p: int = 24
    widths: tuple[int, ...] = (16, 64, 256, 1024, 4096)
    scales: tuple[float, ...] = (
        0.03,
        0.1,
        0.3,
        1.0,
        3.0,
        10.0,
        30.0,
    )  # of the outputs: larger is lazier
    seeds: int = 3
    steps: int = 100


SIZES = {
    "smoke": Config(widths=(16, 128), scales=(0.1, 1.0, 10.0), seeds=1, steps=40),
    "default": Config(),
    "full": Config(n=50, p=100, widths=tuple(4**k for k in range(2, 9)), seeds=10, steps=400),
}


def run(config, progress):
    data = nm.sphere(config.n, config.p, key=jax.random.key(0))
    counts = np.arange(0, config.steps + 1, 5)
    shape = (len(config.widths), len(config.scales), config.seeds)
    drift, error = np.empty(shape), np.empty(shape)
    readouts = {
        "f": "f",
        "drift": lambda s: (
            jnp.linalg.norm(s.kernel - s.start.kernel) / jnp.linalg.norm(s.start.kernel)
        ),
    }
    for i, width in enumerate(config.widths):
        for k in range(config.seeds):
            plain = nm.init_two_layer(width, config.p, key=jax.random.key(k), antisymmetric=True)
            kernel = np.asarray(nm.empirical_ntk(plain, data.X))
            lam = np.linalg.eigvalsh(kernel)
            low = max(lam[0], 0.02 * lam[-1])
            best = nm.best_parameters("heavy_ball", low, 2 * lam[-1]).optimizer
            frozen = nm.predict(kernel, -data.y, best, counts).residual + data.y[None]
            for j, c in enumerate(config.scales):
                net = nm.TwoLayerNet(plain.hidden, plain.output, scale=jnp.asarray(c * width**-0.5))
                optimizer = nm.heavy_ball(best.eta / c**2, best.beta)
                one = nm.train(net, data, optimizer, config.steps, save_every=5, readouts=readouts)
                drift[i, j, k] = one.drift.max()
                error[i, j, k] = np.linalg.norm(one.f - frozen, axis=1).max() / np.linalg.norm(
                    data.y
                )
                progress(j + 1 + len(config.scales) * (k + config.seeds * i), drift.size)
    dims = ("width", "scale", "seed")
    coords = {"width": list(config.widths), "scale": list(config.scales)}
    return xarray.Dataset({"drift": (dims, drift), "error": (dims, error)}, coords=coords)


def headline(ds):
    middle = ds.median("seed")
    both = np.stack([middle.drift.values.ravel(), middle.error.values.ravel()])
    lazy = [
        float(ds.scale[np.argmax(one.values < 0.1)]) if (one < 0.1).any() else np.inf
        for one in middle.error
    ]
    correlation = np.corrcoef(both.argsort(1).argsort(1))[0, 1]
    return {
        "rank correlation of drift and prediction error": f"{correlation:.3f}",
        "smallest scale c with an error below 0.1": ", ".join(
            f"{c:g} at m = {int(m)}" for m, c in zip(ds.width.values, lazy, strict=True)
        ),
    }


@plotting.house_style
def plot(ds):
    colors = require("matplotlib.colors", "drawing figures")
    figure, (field, check) = plotting.panels(
        1, 2, height=3.6, width=8.2, gridspec_kw={"width_ratios": (1.2, 1)}
    )
    middle = ds.median("seed")
    # no yellow, on which the white lines would not be seen
    dark = require("matplotlib", "drawing figures").colormaps["viridis"](np.linspace(0.7, 0, 256))
    norm = colors.LogNorm(1e-3, 1)
    ground = field.pcolormesh(
        ds.width,
        ds.scale,
        middle.error.T,
        shading="nearest",
        norm=norm,
        cmap=colors.ListedColormap(dark),
        rasterized=True,
    )
    if min(middle.drift.shape) > 1:
        # between the runs: straight in logarithms, so that the labels' gaps stay small
        logs = np.log(middle.drift.clip(1e-12)).assign_coords(
            width=np.log(ds.width.values), scale=np.log(ds.scale.values)
        )
        fine = {k: np.linspace(*logs[k].values[[0, -1]], 100) for k in ("width", "scale")}
        lines = field.contour(
            *np.exp([fine["width"], fine["scale"]]),
            np.exp(logs.interp(fine).transpose("scale", "width")),
            levels=(0.01, 0.03, 0.1, 0.3, 1.0),
            colors=plotting.ON_MAP,
            linewidths=1,
        )
        field.clabel(lines, fmt=lambda level: f"drift {level:g}", fontsize=7)
    field.plot(ds.width, ds.width**-0.5, color=plotting.ON_MAP, linestyle="--", linewidth=1)
    field.annotate(
        "mean field",
        (ds.width[1], float(ds.width[1]) ** -0.5),
        xytext=(4, 4),
        textcoords="offset points",
        fontsize=8,
        color=plotting.ON_MAP,
    )
    field.set(
        xscale="log",
        yscale="log",
        xlabel="width $m$",
        ylabel=r"output scale $c$ (times $m^{-1/2}$)",
        title="heavy ball",
    )
    field.set_ylim(float(ds.scale[0]) * 0.6, float(ds.scale[-1]) * 1.7)
    field.grid(False)
    plotting.power_ticks(field.xaxis, ds.width.values)
    figure.colorbar(ground, ax=field, label="error of the kernel's prediction")
    for width, tone in zip(
        ds.width.values,
        plotting.shades(plotting.COLORS["heavy_ball"], ds.sizes["width"]),
        strict=True,
    ):
        one = ds.sel(width=width)
        check.plot(
            one.drift.values.ravel(),
            one.error.values.ravel(),
            color=tone,
            marker="o",
            linestyle="none",
            label=f"$m = {width}$",
        )
    ends = np.array([max(1e-4, float(ds.drift.min())), float(ds.drift.max())])
    check.plot(ends, ends, color=plotting.MUTED, linestyle="--", linewidth=1, label="error = drift")
    check.set(
        xscale="log",
        yscale="log",
        xlabel=r"kernel drift $\max_k \|H_k - H_0\|_F / \|H_0\|_F$",
        ylabel="error of the prediction",
    )
    check.set_title("every run")
    check.set(ylim=(1e-5, 1), xlim=(1e-4, 1))  # runs without a flip have neither drift nor error
    plotting.legend_below(figure, check.get_legend_handles_labels(), 6)
    return figure

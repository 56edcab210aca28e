"""Phase diagram of the heavy ball: the exponent of L over friction and eigenvalue, with networks
and Nesterov on it

Under constant friction b an eigenvalue lambda of the kernel decays with exponent r = b below the
ridge b = 2 sqrt(lambda), where it oscillates, and r = b - sqrt(b^2 - 4 lambda) above, where it
creeps: the ridge is the best friction, 2 sqrt(lambda). Each dot is one eigenmode of a wide
network's own initial kernel, its colour the exponent measured along the weight dynamics (3.2).
Nesterov's friction d/t runs through the same diagram from right to left: creeping first, then
oscillating with the exponent d/t that makes t^(-d).
"""

from dataclasses import dataclass

import jax
import numpy as np
import xarray

import ntk_momentum as nm
from ntk_momentum.study import plotting
from ntk_momentum.theory import bounds

ORDER = 110
CAPTION = """Left: exponent of the loss over friction and eigenvalue (colour: closed form); dots:
eigenmodes of a network, coloured by the exponent measured along its training, so that a good dot
vanishes in its ground. Line: the ridge b = 2 sqrt(lambda). Arrows: Nesterov, d = 3, from t = 1 to t
= 30. Right: measured against predicted exponents, median and range over seeds."""


@dataclass(frozen=True)
class Config:
    n: int = 8
    width: int = 8192
    frictions: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the heavy ball, each in turn
    seeds: int = 3
    times: int = 61
    d: float = 3.0


SIZES = {
    "smoke": Config(width=512, frictions=(0.5, 2.0), seeds=1, times=31),
    "default": Config(),
    "full": Config(n=16, width=65536, seeds=10),
}


def run(config, progress):
    data = nm.sphere(config.n, 2 * config.n, key=jax.random.key(0))
    shape = (len(config.frictions), config.n, config.seeds)
    measured, expected, eigenvalues = np.empty(shape), np.empty(shape), np.empty(shape[1:])
    for k in range(config.seeds):
        net = nm.init_two_layer(
            config.width, data.input_size, key=jax.random.key(k), antisymmetric=True
        )
        eigenvalues[:, k], modes = np.linalg.eigh(np.asarray(nm.empirical_ntk(net, data.X)))
        for i, b in enumerate(config.frictions):
            expected[i, :, k] = bounds.heavy_ball_rate(b, eigenvalues[:, k])
            ts = np.linspace(0, 6 / expected[i, :, k].min(), config.times)
            found = nm.simulate(net, data, nm.HeavyBall(b), ts, readouts=("residual", "velocity"))
            c, rate = np.asarray(found.residual) @ modes, np.asarray(found.velocity) @ modes
            measured[i, :, k] = [
                exponent(ts, *pair)
                for pair in zip(c.T, rate.T, eigenvalues[:, k], np.full(config.n, b), strict=True)
            ]
            progress(k * len(config.frictions) + i + 1, measured[:, 0].size)
    dims = ("friction", "mode", "seed")
    variables = {
        "measured": (dims, measured),
        "expected": (dims, expected),
        "eigenvalue": (dims[1:], eigenvalues),
    }
    return xarray.Dataset(
        variables,
        coords={"friction": list(config.frictions)},
        attrs={"d": config.d, "width": config.width},
    )


def exponent(ts, c, rate, eigenvalue, b):
    """Of |c' - mu c|^2, mu the fast root of mu^2 + b mu + lambda: for a constant kernel exactly
    exponential at the slow rate."""
    slow = rate + (b / 2 + np.emath.sqrt(b**2 / 4 - eigenvalue)) * c
    size = np.log(np.abs(slow) ** 2)
    kept = size > size[0] - 6
    return -np.polyfit(ts[kept], size[kept], 1)[0]


def headline(ds):
    error = abs(ds.measured / ds.expected - 1)
    middle, largest = float(error.median()), float(error.max())
    best = 2 * float(ds.eigenvalue.median("seed")[0]) ** 0.5
    return {
        "exponents measured against predicted, relative error": (
            f"median {middle:.3f}, largest {largest:.3f}"
        ),
        "best friction 2 sqrt(lambda) of the slowest mode": f"{best:.2f}",
    }


@plotting.house_style
def plot(ds):
    figure, (field, check) = plotting.panels(
        1, 2, height=3.6, width=8.0, gridspec_kw={"width_ratios": (1.5, 1)}
    )
    low, high = 0.6 * float(ds.eigenvalue.min()), 1.6 * float(ds.eigenvalue.max())
    b, lam = np.geomspace(0.1, 8, 160), np.geomspace(low, high, 120)
    limits = {"vmin": 0, "vmax": 2 * high**0.5, "cmap": "viridis"}
    ground = field.pcolormesh(
        b,
        lam,
        bounds.heavy_ball_rate(b[None], lam[:, None]),
        shading="gouraud",
        rasterized=True,
        **limits,
    )
    field.plot(2 * lam**0.5, lam, color=plotting.ON_MAP, linewidth=1.4)
    middle = ds.median("seed")
    for friction in ds.friction.values:
        color = middle.measured.sel(friction=friction)
        field.scatter(
            np.full(color.size, friction),
            middle.eigenvalue,
            c=color,
            edgecolors=plotting.ON_MAP,
            linewidths=0.8,
            s=34,
            zorder=3,
            **limits,
        )
    for value in (low * 1.25, high / 1.25):
        start, end = ds.attrs["d"] / 1.0, ds.attrs["d"] / 30.0
        field.annotate(
            "",
            (end, value),
            (start, value),
            arrowprops={"arrowstyle": "->", "color": plotting.COLORS["nesterov"], "lw": 1.8},
        )
    field.annotate(
        "Nesterov",
        (0.5, high / 1.25),
        (0, -11),
        textcoords="offset points",
        color=plotting.ON_MAP,
        fontsize=8,
    )
    field.set(
        xscale="log",
        yscale="log",
        xlim=(0.1, 8),
        ylim=(low, high),
        xlabel="friction $b$",
        ylabel=r"eigenvalue $\lambda$",
    )
    field.set_title(f"exponent of the loss, m = {ds.attrs['width']}")
    field.grid(False)
    plotting.power_ticks(field.xaxis, (0.1, 0.25, 0.5, 1, 2, 4, 8))
    plotting.log_ticks(field.yaxis)
    figure.colorbar(ground, ax=field, label="exponent $r$")
    for name, tone in zip(
        ds.friction.values,
        plotting.shades(plotting.COLORS["heavy_ball"], ds.sizes["friction"]),
        strict=True,
    ):
        one = ds.sel(friction=name)
        x, y = one.expected.median("seed"), one.measured
        spread = abs(y.quantile([0, 1], "seed") - y.median("seed"))
        check.errorbar(
            x,
            y.median("seed"),
            yerr=spread,
            color=tone,
            marker="o",
            linestyle="none",
            elinewidth=0.8,
            label=f"$b = {name:g}$",
        )
    ends = (0.8 * float(ds.expected.min()), 1.25 * float(ds.expected.max()))
    check.plot(ends, ends, color=plotting.THEORY, linewidth=1)
    check.set(
        xscale="log",
        yscale="log",
        xlabel="closed form",
        ylabel="measured along the weights",
        title="exponents",
    )
    plotting.log_ticks(check.xaxis)
    plotting.log_ticks(check.yaxis)
    check.legend()
    return figure

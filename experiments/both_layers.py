"""Both layers trained: the kernels add, and training all weights is faster by the larger smallest
eigenvalue

Section 2 trains the hidden layer only; the discussion asks for both. The kernel of both is the sum
of the two layers' kernels, for unit inputs [sin t + 2 (pi - t) cos t]/(2 pi) with trace n, so
lambda_0 <= 1 where the hidden layer alone has lambda_0 <= 1/2. The extra term in (3.5), 2 m^(-1/2)
sum_r a_r' (w_r' . x) 1, is O(1/m). So the closed form with the sum kernel predicts the run as well
as the paper's.
"""

from dataclasses import dataclass

import jax
import numpy as np
import xarray

import ntk_momentum as nm
from ntk_momentum.study import plotting

ORDER = 115
CAPTION = """Training loss of the heavy ball, b = 2 sqrt(lambda_0) of each kernel, with the hidden
layer, the output layer or both trained: median and range over seeds, fuller in colour for wider
networks; in the colour of the text: closed form of the limit kernel. Last: largest distance of f
from the prediction of the network's own kernel against the width (none with the output layer alone:
the model is linear)."""
BENT = ("hidden", "all")  # with the output layer alone the model is linear, and its kernel exact
PARTS = {"hidden": "hidden layer", "output": "output layer", "all": "both layers"}


@dataclass(frozen=True)
class Config:
    n: int = 12
    p: int = 24
    widths: tuple[int, ...] = (256, 512, 1024, 4096)
    seeds: int = 3
    horizon: float = 8.0  # in units of 1/sqrt(lambda_0) of both layers
    steps: int = 200


SIZES = {
    "smoke": Config(widths=(128, 512), seeds=1, steps=50),
    "default": Config(),
    "full": Config(n=50, p=100, widths=tuple(4**k for k in range(4, 9)), seeds=10, steps=2000),
}


def run(config, progress):
    data = nm.sphere(config.n, config.p, key=jax.random.key(0))
    limits = {part: np.asarray(nm.infinite_ntk(data.X, trainable=part)) for part in PARTS}
    lam0 = {part: float(np.linalg.eigvalsh(limit)[0]) for part, limit in limits.items()}
    h = config.horizon / lam0["all"] ** 0.5 / config.steps
    counts = np.arange(0, config.steps + 1, max(1, config.steps // 50))
    shape = (len(PARTS), len(config.widths), config.seeds)
    loss, limit_loss, gap = (
        np.empty((*shape, counts.size)),
        np.empty((len(PARTS), counts.size)),
        np.empty(shape),
    )
    for i, part in enumerate(PARTS):
        optimizer, offset = nm.HeavyBall(2 * lam0[part] ** 0.5).discretize(h)
        limit_loss[i] = nm.predict(limits[part], -data.y, optimizer, counts).loss
        for j, width in enumerate(config.widths):
            for k in range(config.seeds):
                net = nm.init_two_layer(width, config.p, key=jax.random.key(k), antisymmetric=True)
                every = int(counts[1])
                one = nm.train(
                    net,
                    data,
                    optimizer,
                    config.steps,
                    save_every=every,
                    trainable=part,
                    readouts=("f", "loss"),
                )
                kernel = nm.empirical_ntk(net, data.X, trainable=part)
                frozen = nm.predict(kernel, -data.y, optimizer, counts).residual + data.y[None]
                loss[i, j, k] = one.loss
                gap[i, j, k] = np.linalg.norm(one.f - frozen, axis=1).max() / np.linalg.norm(data.y)
                progress(k + 1 + config.seeds * (j + len(config.widths) * i), gap.size)
    variables = {
        "loss": (("part", "width", "seed", "time"), loss),
        "limit": (("part", "time"), limit_loss),
        "gap": (("part", "width", "seed"), gap),
        "lambda_0": ("part", list(lam0.values())),
    }
    coords = {"part": list(PARTS), "width": list(config.widths), "time": h * counts + float(offset)}
    return xarray.Dataset(variables, coords=coords)


def headline(ds):
    fits = {
        part: plotting.power_law(ds.width, ds.gap.sel(part=part).transpose("seed", "width"))[:2]
        for part in BENT
    }
    lam0 = ", ".join(f"{PARTS[part]} {float(ds.lambda_0.sel(part=part)):.3f}" for part in PARTS)
    return {"lambda_0": lam0} | {
        f"slope of the distance in m, {PARTS[part]}": plotting.with_interval(*fit)
        for part, fit in fits.items()
    }


@plotting.house_style
def plot(ds):
    figure, grid = plotting.panels(2, 2)
    row = grid.ravel()
    for axes, (part, title), color in zip(row, PARTS.items(), plotting.CYCLE[3:], strict=False):
        one = ds.sel(part=part)
        for width, tone in zip(
            ds.width.values, plotting.shades(color, ds.sizes["width"]), strict=True
        ):
            plotting.band(
                axes, ds.time, one.loss.sel(width=width), color=tone, label=f"$m = {width}$"
            )
        axes.plot(
            ds.time,
            one.limit,
            color=plotting.THEORY,
            linestyle="--",
            linewidth=1,
            label="closed form",
        )
        axes.set(
            yscale="log",
            title=rf"{title}, $\lambda_0 = {float(one.lambda_0):.2f}$",
            xlabel=plotting.TIME_LABELS["heavy_ball"],
        )
        axes.set_ylim(0.3 * float(ds.limit.min()), 3 * float(ds.limit.max()))
        axes.legend(loc="lower left")
        if part in BENT:
            plotting.band(
                row[3],
                ds.width,
                one.gap.transpose("seed", "width"),
                color=color,
                marker="o",
                label=title,
            )
    for axes in (*plotting.labelled(row[:2]), row[2]):
        axes.set_ylabel("loss")
    row[3].plot(
        ds.width,
        0.5 * float(ds.gap.sel(part="all").isel(width=0).min()) * (ds.width / ds.width[0]) ** -0.5,
        color=plotting.MUTED,
        linestyle="--",
        label="$m^{-1/2}$",
    )
    row[3].set(xscale="log", yscale="log", xlabel="width $m$", title="distance from own kernel")
    plotting.power_ticks(row[3].xaxis, ds.width.values)
    row[3].legend(loc="upper right")
    row[3].set_ylim(top=0.2)
    return figure

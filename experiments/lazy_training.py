"""Lazy training: wider networks move less, and their kernel stands still

While the loss falls by the same factor at every width, a neuron moves by |w_r(t) - w_r(0)| ~
m^(-1/2) (the displacement in the proofs of Theorems 1-3), and the pairs of neuron and sample that
change sign grow only like m^(1/2), out of m n. Each pair changes H by 1/m, so Lemma 5 lets the
kernel drift by ||H(t) - H(0)|| ~ m^(-1/2). Over finite widths no power is met, and three reasons
say by how much. Among more neurons one is farther. The farthest one moves as far as its kinks: it
leaves samples, or takes others on, and stops short of what the pattern it began with would give,
the more so in a narrow network. And about as many pairs switch on as off: m^(1/2) independent signs
over m add up to m^(-3/4), until the small surplus of one kind restores m^(-1/2). They are not
independent, however, where a neuron switches several pairs at once, similar samples together: 8 to
13 at m = 512 on digits, 2 to 3 at 32768. As these become fewer the drift falls faster still, like
m^(-0.8) over the widths of this figure. So the powers expected are those of neurons that follow
their own kinks, each alone, under the errors Delta(t) of the limit kernel: w_r'' + b w_r' = -a_r
m^(-1/2) sum_i Delta_i(t) x_i 1{w_r.x_i >= 0}, from the networks' own weights, nothing fitted.
Antisymmetric initialisation, f(0) = 0: otherwise f(0) along the top eigenvector, different from
seed to seed, moves more of the heavy ball's neurons than the labels do.
"""

from dataclasses import dataclass

import jax
import numpy as np
from ntk_momentum.experiments._unit import unit_data

import ntk_momentum as nm
from ntk_momentum.study import plotting
from ntk_momentum.theory import bounds

ORDER = 30
CAPTION = """What moved during training, against the width: median and range over seeds, lines with
the fitted powers (95% interval over seeds). Large, open: neurons that follow their own kinks under
the errors of the limit kernel, nothing fitted. Dashed grey: the powers m^(-1/2) and m^(1/2) of wide
networks; dotted, for the drift: the m^(-3/4) of independent flips."""
QUANTITIES = {
    "displacement": ("farthest neuron", r"$\max_r\,|w_r(t) - w_r(0)|$", -0.5),
    "kernel_drift": ("kernel drift", r"$\|H(t) - H(0)\|_2$", -0.5),
    "flips": ("pairs that changed sign", r"neurons $\times$ samples", 0.5),
}
READOUTS = (
    "f",
    "loss",
    "lambda_min",
    "displacement",
    "kernel_drift",
    "flips",
)  # one set in three experiments: programs compile once


@dataclass(frozen=True)
class Config:
    data: str = "digits"
    n: int = 50
    flows: tuple[str, ...] = ("gradient_flow", "heavy_ball", "nesterov")
    widths: tuple[int, ...] = (512, 1024, 2048, 4096, 8192)
    seeds: int = 3
    d: float = 3.0
    horizon: float = 0.5  # in units of 1/lambda_0 for gradient flow, 3/sqrt(lambda_0) for momentum
    times: int = 41
    tol: float = 1e-3


SIZES = {
    "smoke": Config(n=20, flows=("heavy_ball",), widths=(64, 512), seeds=2, times=9),
    "default": Config(),
    "full": Config(n=200, widths=(1024, 4096, 16384, 65536), seeds=10, horizon=2.0, tol=1e-4),
}


def run(config, progress):
    data = unit_data(config.data, config.n)
    lam0 = float(np.linalg.eigvalsh(nm.infinite_ntk(data.X))[0])
    slow = {
        "gradient_flow": 1 / lam0,
        "heavy_ball": 3 / np.sqrt(lam0),
        "nesterov": 3 / np.sqrt(lam0),
    }
    known = {
        flow.name: flow
        for flow in (
            nm.GradientFlow(),
            nm.HeavyBall(float(bounds.paper_friction(lam0))),
            nm.Nesterov(config.d),
        )
    }
    flows = [known[name] for name in config.flows]
    ts = np.stack(
        [config.horizon * slow[name] * np.linspace(0, 1, config.times) for name in config.flows]
    )
    numerics = nm.Numerics(tol=config.tol)
    runs = nm.ensemble(
        data,
        flows,
        config.widths,
        config.seeds,
        ts,
        antisymmetric=True,
        readouts=READOUTS,
        config=numerics,
        progress=progress,
    )
    ds = runs.to_xarray()[[*QUANTITIES, "loss", "verdict", "accepted", "rejected"]]
    alone = np.array(
        [
            [
                [followed(data, flow, t[-1], width, seed) for seed in range(config.seeds)]
                for width in config.widths
            ]
            for flow, t in zip(flows, ts, strict=True)
        ]
    )
    for name, values in zip(QUANTITIES, np.moveaxis(alone, -1, 0), strict=True):
        ds[f"{name}_alone"] = (("flow", "width", "seed"), values)
    return ds.assign_attrs(lambda_0=lam0)


def followed(data, flow, end, width, seed, steps=40):
    """(largest displacement, largest drift of the kernel, pairs that have had another sign than at
    the start) of neurons that follow their own kinks under the errors of the limit kernel. Steps
    are shorter at first, where the gradient flow's errors change most."""
    X, y = np.asarray(data.X, np.float32), np.asarray(data.y)
    ts = end * np.linspace(0, 1, steps + 1) ** (3 if flow.name == "gradient_flow" else 1)
    middles = (ts[1:] + ts[:-1]) / 2
    error = np.asarray(nm.predict(nm.infinite_ntk(data.X), -y, flow, middles).residual, np.float32)
    net = nm.init_two_layer(width, data.input_size, key=jax.random.key(seed), antisymmetric=True)
    start = w = np.asarray(net.hidden, np.float32)
    signs = np.asarray(net.output, np.float32)[:, None] / np.float32(np.sqrt(width))
    v, on, first = np.zeros_like(w), w @ X.T >= 0, w @ X.T >= 0
    farthest, drift, flipped = 0.0, 0.0, np.zeros_like(on)

    def kernel(on):
        active = on.astype(np.float32)
        return (X @ X.T) * (active.T @ active / np.float32(width))

    for k, (t, h) in enumerate(zip(middles, np.diff(ts), strict=True)):
        force = -signs * (on * error[k]) @ X
        if flow.name == "gradient_flow":
            w = w + np.float32(h) * force
        else:
            b = float(flow.friction(t)) * h / 2
            v = (np.float32(1 - b) * v + np.float32(h) * force) / np.float32(1 + b)
            w = w + np.float32(h) * v
        on = w @ X.T >= 0
        flipped |= on != first
        farthest = max(farthest, float(np.linalg.norm(w - start, axis=1).max()))
        drift = max(drift, float(np.linalg.norm(kernel(on) - kernel(first), 2)))
    return farthest, drift, int(flipped.sum())


def fits(ds):
    """(slope, half width, prefactor) of the largest value over time, per quantity and flow."""
    return {
        (name, flow): plotting.power_law(
            ds.width, ds[name].sel(flow=flow).max("step").transpose("seed", "width")
        )
        for name in QUANTITIES
        for flow in ds.flow.values
    }


def headline(ds):
    """Slopes, and the same less those of neurons that follow their own kinks from the same weights,
    seed by seed and over all saved times: one rule for every flow."""
    lines = {}
    for (name, flow), fit in fits(ds).items():
        words = f"slope of {name} in m, {plotting.FLOW_NAMES[plotting.flow_kind(flow)]}"
        lines[words] = plotting.with_interval(*fit[:2])
        # the slope of a ratio is the difference of the slopes
        ratio = ds[name].sel(flow=flow).max("step") / ds[f"{name}_alone"].sel(flow=flow)
        off = plotting.power_law(ds.width, ratio.transpose("seed", "width"))
        lines[f"{words}, less that of neurons that follow their own kinks (expected 0)"] = (
            plotting.with_interval(*off[:2])
        )
    return lines


@plotting.house_style
def plot(ds):
    figure, row = plotting.panels(1, 3, height=3.2)
    fitted = fits(ds)
    for axes, (name, (title, label, ideal)) in zip(row, QUANTITIES.items(), strict=True):
        for flow in ds.flow.values:
            color, (slope, half, prefactor) = plotting.flow_color(flow), fitted[name, flow]
            samples = ds[name].sel(flow=flow).max("step").transpose("seed", "width")
            plotting.band(
                axes,
                ds.width,
                samples,
                color=color,
                points=True,
                label=plotting.power(slope, half),
            )
            axes.plot(ds.width, prefactor * ds.width**slope, color=color, linewidth=1)
            alone = ds[f"{name}_alone"].sel(flow=flow).median("seed")
            axes.plot(ds.width, alone, "o", color=color, markerfacecolor="none", markersize=8)
        below = (
            float(ds[name].max("step").min())
            if ideal > 0
            else float(ds[name].max("step").isel(width=0).min())
        )
        for power, line in ((ideal, "--"), *(((-0.75, ":"),) if name == "kernel_drift" else ())):
            guide = 0.7 * below * (ds.width / ds.width[0]) ** power
            axes.plot(
                ds.width,
                guide,
                color=plotting.MUTED,
                linestyle=line,
                linewidth=1,
                label=f"$m^{{{power}}}$",
            )
        largest = float(ds[name].max())
        limits = (0.3 * below, 1.3 * largest) if ideal > 0 else (None, 3 * largest)
        axes.set(
            xscale="log",
            yscale="log",
            ylim=limits,
            title=title,
            ylabel=label,
            xlabel="width $m$",
            xlim=(0.8 * ds.width[0], 1.25 * ds.width[-1]),
        )
        axes.legend(
            loc="lower right" if ideal > 0 else "upper right",
            handlelength=1.4,
            fontsize=9.5,
            labelspacing=0.25,
        )
        plotting.log_ticks(axes.yaxis)
        plotting.power_ticks(axes.xaxis, ds.width.values)
    plotting.legend_below(figure, plotting.flow_handles(ds.flow.values), 3)
    return figure

"""Discrete against continuous: the algorithms follow their flows, to first order as printed and to
second with the better map

As the step shrinks, gradient descent (2.1), the heavy ball (3.1) and Nesterov (4.1) approach the
flows (2.2), (3.2) and (4.2). For a frozen kernel the largest gap to the closed form falls like h: h
= eta for gradient descent and h = sqrt(eta) for momentum. The heavy ball gains an order with eta =
h^2/(1 + bh/2), beta = (1 - bh/2)/(1 + bh/2) and t = (k + 1/2) h instead of the paper's eta = h^2,
beta = 1 - bh, t = kh; Nesterov gains a smaller constant with t = (k + d/2) h instead of (k + 1) h,
and reaches its order 1 from below. A wide network, against the solved flow, shows the same gaps:
its kinks are too small to take the second order away at these steps.
"""

from dataclasses import dataclass

import jax
import numpy as np
import xarray
from ntk_momentum.experiments._unit import unit_data

import ntk_momentum as nm
from ntk_momentum.study import plotting
from ntk_momentum.theory import bounds

ORDER = 50
CAPTION = """Largest gap between an algorithm and its flow, |f_k - f(t_k)| over |f(0) - y|, against
the step. Left: frozen kernel, against the closed form. Right: the network, against the solved flow.
Filled: the printed maps; open: the second-order map of the heavy ball and the centred time of
Nesterov."""


@dataclass(frozen=True)
class Config:
    data: str = "digits"
    n: int = 50
    flows: tuple[str, ...] = ("gradient_flow", "heavy_ball", "nesterov")
    width: int = 2048
    counts: tuple[int, ...] = (32, 64, 128, 256)  # of steps to the end; h = time / steps
    d: float = 3.0
    gradient_flow_time: float = 1.0  # where it ends
    momentum_time: float = 6.0  # where the other flows end
    tol: float = 1e-5


SIZES = {
    "smoke": Config(n=20, flows=("heavy_ball",), width=256, counts=(32, 64), tol=1e-4),
    "default": Config(),
    "full": Config(n=200, width=16384, counts=(32, 64, 128, 256, 512, 1024, 2048), tol=1e-6),
}


def methods(config, b):
    """name -> (flow, horizon, h -> (optimizer, time offset))."""
    gradient, ball, nesterov = nm.GradientFlow(), nm.HeavyBall(b), nm.Nesterov(config.d)
    early, late = config.gradient_flow_time, config.momentum_time
    table = {
        "gradient_flow, (2.1)": (gradient, early, gradient.discretize),
        "heavy_ball, (3.1) as printed": (
            ball,
            late,
            lambda h: (nm.heavy_ball(h**2, 1 - b * h), 0.0),
        ),
        "heavy_ball, second-order map": (ball, late, ball.discretize),
        "nesterov, (4.1) as printed": (nesterov, late, lambda h: (nm.nesterov(h**2, config.d), h)),
        "nesterov, centred time": (nesterov, late, nesterov.discretize),
    }
    return {name: entry for name, entry in table.items() if name.split(",")[0] in config.flows}


def run(config, progress):
    data = unit_data(config.data, config.n)
    net = nm.init_two_layer(config.width, data.input_size, key=jax.random.key(0))
    kernel, residual0 = nm.empirical_ntk(net, data.X), jax.vmap(net)(data.X) - data.y
    table = methods(
        config, float(bounds.paper_friction(np.linalg.eigvalsh(nm.infinite_ntk(data.X))[0]))
    )
    gaps = np.empty((2, len(table), len(config.counts)))
    numerics = nm.Numerics(tol=config.tol)
    for i, (flow, horizon, twin) in enumerate(table.values()):
        for j, steps in enumerate(config.counts):
            h = horizon / steps
            optimizer, offset = twin(h)
            every = steps // config.counts[0]
            counts = np.arange(0, steps + 1, every)
            ts = counts * h + float(offset)
            frozen = (
                nm.predict(kernel, residual0, optimizer, counts).residual
                - nm.predict(kernel, residual0, flow, ts).residual
            )
            solved = nm.simulate(net, data, flow, ts, readouts=("f",), config=numerics).f
            weights = (
                nm.train(net, data, optimizer, steps, save_every=every, readouts=("f",)).f - solved
            )
            gaps[:, i, j] = [
                np.linalg.norm(gap, axis=1).max() / np.linalg.norm(residual0)
                for gap in (frozen, weights)
            ]
            progress(i * len(config.counts) + j + 1, gaps[0].size)
    coords = {
        "dynamics": ["frozen kernel", "network"],
        "algorithm": list(table),
        "steps": list(config.counts),
    }
    horizon = [horizon for _, horizon, _ in table.values()]
    return xarray.Dataset(
        {"gap": (("dynamics", "algorithm", "steps"), gaps), "horizon": ("algorithm", horizon)},
        coords=coords,
    )


def order(one):
    """The order of convergence, fitted on the three finest steps."""
    return -plotting.power_law(one.steps[-3:], one[-3:], least=2)[0]


def headline(ds):
    return {
        f"order (theory: {2 if 'second' in name else 1}), {name}, {kind}": (
            f"{order(ds.gap.sel(dynamics=kind, algorithm=name)):.2f}"
        )
        for kind in ds.dynamics.values
        for name in ds.algorithm.values
    }


@plotting.house_style
def plot(ds):
    figure, row = plotting.panels(1, 2, height=3.3, sharey=True)
    for axes, kind, reference in zip(
        row, ds.dynamics.values, ("the closed form", "the solved flow"), strict=True
    ):
        for name in ds.algorithm.values:
            flow, which = name.split(", ", 1)
            one, h = (
                ds.gap.sel(dynamics=kind, algorithm=name),
                ds.horizon.sel(algorithm=name) / ds.steps,
            )
            fill = (
                {"markerfacecolor": "white", "linestyle": "--"}
                if "as printed" not in which and flow != "gradient_flow"
                else {}
            )
            label = f"{plotting.FLOW_NAMES[flow]}, {which}: $h^{{{order(one):.2f}}}$"
            axes.plot(
                h, one, color=plotting.COLORS[flow], marker="o", linewidth=1, label=label, **fill
            )
        axes.set(
            xscale="log",
            yscale="log",
            title=f"{kind}, against {reference}",
            xlabel="time step $h$ of the flow",
        )
        plotting.log_ticks(axes.xaxis)
        axes.legend(loc="lower right", fontsize=7)
    for axes in plotting.labelled(row):
        axes.set_ylabel("largest relative gap to the flow")
    row[0].set_ylim(float(ds.gap.min()) / 100, None)  # below it the legend
    return figure

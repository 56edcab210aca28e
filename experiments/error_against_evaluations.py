"""Error against evaluations: an integrator that knows the kernel needs several times fewer, and
kinks level the others

On a stiff kernel an explicit solver spends its steps on stability, and the kinks of the ReLU make a
solver of order 8 no better than one of order 2. The lazy exponential integrator solves the frozen
kernel exactly, and its steps follow the activation pattern. What it saves grows with the condition
number: twenty digits, here by default, are an easy case.
"""

from dataclasses import dataclass

import diffrax
import jax
import numpy as np
import xarray
from ntk_momentum.experiments._unit import unit_data

import ntk_momentum as nm
from ntk_momentum.dynamics.solver import LazyExponential, RungeKutta
from ntk_momentum.study import plotting
from ntk_momentum.theory import bounds

ORDER = 120
CAPTION = """Largest relative error of the loss over the saved times against evaluations of the
right side, one curve for each solver, one point for each tolerance. Grey band: what the reference,
a finer run of the lazy integrator, does not know itself (its change when refined fivefold).
Rejected steps count; eigendecompositions of the lazy steps do not, so compare seconds too:
scripts/bench dynamics."""
SOLVERS = {
    "lazy, order 2": LazyExponential(),
    "lazy, order 1": LazyExponential(order=1),
    "Heun (2)": RungeKutta(diffrax.Heun()),
    "Bosh3": RungeKutta(diffrax.Bosh3()),
    "Tsit5": RungeKutta(diffrax.Tsit5()),
    "Dopri8": RungeKutta(diffrax.Dopri8()),
}


@dataclass(frozen=True)
class Config:
    data: str = "digits"
    n: int = 20
    width: int = 512
    flows: tuple[str, ...] = ("gradient_flow", "heavy_ball", "nesterov")
    solvers: tuple[str, ...] = tuple(SOLVERS)  # integrators by name
    tolerances: tuple[float, ...] = (1e-1, 1e-2, 1e-3, 1e-4)  # each in turn
    finest: float = 1e-6  # tolerance of the run that errors are measured from
    parts: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)  # saved times, of the whole


SIZES = {
    "smoke": Config(
        n=10,
        width=64,
        flows=("gradient_flow",),
        solvers=("lazy, order 2", "Tsit5"),
        tolerances=(1e-2, 1e-3),
        finest=1e-5,
    ),
    "default": Config(),
    "full": Config(n=200, width=2048, tolerances=(1e-1, 1e-2, 1e-3, 1e-4, 1e-5)),
}


def run(config, progress):
    data = unit_data(config.data, config.n)
    net = nm.init_two_layer(config.width, data.input_size, key=jax.random.key(1))
    lambda0 = np.linalg.eigvalsh(nm.infinite_ntk(data.X))[0]
    b = float(bounds.paper_friction(lambda0))
    cases = {
        "gradient_flow": (nm.GradientFlow(), 2 / lambda0),
        "heavy_ball": (nm.HeavyBall(b), 5 / b),
        "nesterov": (nm.Nesterov(3.0), 5 / b),
    }
    shape = len(config.flows), len(config.solvers), len(config.tolerances)
    error, evaluations, unknown = np.empty(shape), np.empty(shape, int), np.empty(shape[0])
    for i, name in enumerate(config.flows):
        flow, end = cases[name]

        def loss(solver, tol, flow=flow, end=end):
            numerics = nm.Numerics(tol=tol, max_steps=10**6)
            return nm.simulate(
                net,
                data,
                flow,
                end * np.array(config.parts),
                readouts=["loss"],
                solver=solver,
                config=numerics,
            )

        reference = loss(LazyExponential(), config.finest).loss
        unknown[i] = np.max(np.abs(loss(LazyExponential(), 5 * config.finest).loss / reference - 1))
        for j, label in enumerate(config.solvers):
            for k, tol in enumerate(config.tolerances):
                result = loss(SOLVERS[label], tol)
                error[i, j, k] = np.max(np.abs(result.loss / reference - 1))
                evaluations[i, j, k] = SOLVERS[label].evaluations(flow) * int(
                    result.accepted + result.rejected
                )
                progress(np.ravel_multi_index((i, j, k), shape) + 1, error.size)
    axes = ("flow", "solver", "tolerance")
    coords = dict(
        zip(axes, (list(config.flows), list(config.solvers), list(config.tolerances)), strict=True)
    )
    return xarray.Dataset(
        {"error": (axes, error), "evaluations": (axes, evaluations), "unknown": ("flow", unknown)},
        coords=coords,
    )


def to_reach(one, target):
    """Fewest evaluations with which a solver reaches the target, NaN when it does not."""
    return float(one.evaluations.where(one.error <= target).min())


def headline(ds):
    target = 0.02
    rows = {}
    for flow in ds.flow.values:
        cost = {
            solver: to_reach(ds.sel(flow=flow, solver=solver), target)
            for solver in ds.solver.values
        }
        reached = ", ".join(
            f"{solver} {count:.0f}" for solver, count in cost.items() if np.isfinite(count)
        )
        rows[f"evaluations to {target:.0%} of the loss, {plotting.FLOW_NAMES[flow]}"] = (
            reached or "reached by none"
        )
    return rows


@plotting.house_style
def plot(ds):
    figure, row = plotting.panels(1, ds.sizes["flow"], height=3.2, sharey=True, squeeze=False)
    for axes, flow in zip(row[0], ds.flow.values, strict=True):
        for solver, tone in zip(ds.solver.values, plotting.CYCLE, strict=False):
            one = ds.sel(flow=flow, solver=solver)
            style = "-" if solver.startswith("lazy") else "--"
            axes.plot(
                one.evaluations, one.error, style, color=tone, marker="o", linewidth=1, label=solver
            )
        axes.axhspan(
            0, float(ds.unknown.sel(flow=flow)), color=plotting.MUTED, alpha=0.25, linewidth=0
        )
        axes.set(
            xscale="log",
            yscale="log",
            title=plotting.FLOW_NAMES[flow],
            xlabel="evaluations of the right side",
        )
    for axes in plotting.labelled(row[0]):
        axes.set_ylabel("largest relative error of the loss")
    plotting.legend_below(figure, row[0, 0].get_legend_handles_labels(), 3)
    return figure

"""Deep networks under their own kernels: perceptrons and a convolutional net on digits, on train
and test points

Nothing in (2.5), (3.5) and (4.3) is about two layers: any model near its initialisation follows the
kernel J J^T of its own Jacobian, whatever made it. Three architectures train on images of digits by
gradient descent, heavy ball and Nesterov in one step size each; their kernel at the start predicts
the loss and, through K(test, train), the outputs on images not trained on, with nothing fitted.
Outputs start at zero (each model minus its copy at the start), as antisymmetric initialisation does
for two layers. Depth costs laziness: at depth 5 the training loss still follows, and the test
points leave first.
"""

from dataclasses import dataclass

import equinox as eqx
import jax
import numpy as np
import xarray

import ntk_momentum as nm
from ntk_momentum.study import plotting

ORDER = 117
CAPTION = """Training loss (top) and mean squared error on images not trained on (bottom) of three
architectures: solid the run, dashed what the network's own initial kernel predicts, without a fit.
Horizontal axis: steps."""
ARCHITECTURES = {"MLP, depth 3": 3, "MLP, depth 5": 5, "convolutional": 0}


@dataclass(frozen=True)
class Config:
    n: int = 24
    test: int = 24  # samples that are not trained on
    width: int = 128
    channels: int = 12  # of the convolutional network
    architectures: tuple[str, ...] = tuple(ARCHITECTURES)  # networks by name
    steps: int = 150
    save_every: int = 5
    beta: float = 0.9
    d: float = 3.0
    scale: float = 100.0  # of the outputs: larger is lazier


SIZES = {
    "smoke": Config(n=12, test=12, width=32, architectures=("MLP, depth 3",), steps=40),
    "default": Config(),
    "full": Config(n=200, test=200, width=2048, channels=256, steps=1000),
}


class Convolutional(eqx.Module):
    """8 x 8 pixels, two 3 x 3 convolutions with ReLU, and a linear read-out of all positions."""

    first: eqx.nn.Conv2d
    second: eqx.nn.Conv2d
    out: eqx.nn.Linear

    def __init__(self, channels, *, key):
        keys = jax.random.split(key, 3)
        self.first = eqx.nn.Conv2d(1, channels, 3, padding=1, key=keys[0])
        self.second = eqx.nn.Conv2d(channels, channels, 3, stride=2, padding=1, key=keys[1])
        self.out = eqx.nn.Linear(16 * channels, "scalar", key=keys[2])

    def __call__(self, x):
        return self.out(
            jax.nn.relu(self.second(jax.nn.relu(self.first(x.reshape(1, 8, 8))))).reshape(-1)
        )


class Centred(eqx.Module):
    """scale (f(w, x) - f(w_0, x)): zero at the start."""

    model: eqx.Module
    start: eqx.Module
    scale: float = eqx.field(static=True)

    def __call__(self, x):
        return self.scale * (self.model(x) - self.start(x))


def build(name, config, key):
    """The centred model of this name."""
    depth = ARCHITECTURES[name]
    model = (
        eqx.nn.MLP(64, "scalar", config.width, depth, key=key)
        if depth
        else Convolutional(config.channels, key=key)
    )
    return Centred(model, model, config.scale)


def centred(data):
    """Pixels of mean 0 and, image by image, variance 1: the kernels' condition numbers fall a
    hundredfold."""
    X = data.X - data.X.mean(axis=0)[None]
    return nm.Dataset(data.X.shape[1] ** 0.5 * nm.data.normalize(X), data.y)


def run(config, progress):
    data = centred(nm.load_digits(config.n + config.test, key=jax.random.key(0)))
    train, test = (
        nm.Dataset(data.X[: config.n], data.y[: config.n]),
        (data.X[config.n :], data.y[config.n :]),
    )
    counts = np.arange(0, config.steps + 1, config.save_every)
    shape = (len(config.architectures), 3, 2, counts.size)
    loss, error, kappa = np.empty(shape), np.empty(shape), np.empty(shape[0])
    for i, name in enumerate(config.architectures):
        model = build(name, config, jax.random.key(1))
        rows = np.asarray(nm.empirical_ntk(model, data.X, train.X, where=lambda m: m.model))
        kernel = (rows[: config.n] + rows[: config.n].T) / 2
        lam = np.linalg.eigvalsh(kernel)
        kappa[i] = lam[-1] / lam[0]
        eta = 0.5 / lam[-1]
        methods = (
            nm.gradient_descent(eta),
            nm.heavy_ball(eta, config.beta),
            nm.nesterov(eta, config.d),
        )
        readouts = {"loss": "loss", "test": lambda s: jax.vmap(s.model)(test[0])}
        for j, optimizer in enumerate(methods):
            one = nm.train(
                model,
                train,
                optimizer,
                config.steps,
                save_every=config.save_every,
                where=lambda m: m.model,
                readouts=readouts,
            )
            frozen = nm.predict(kernel, -train.y, optimizer, counts, test_kernel=rows[config.n :])
            loss[i, j] = np.asarray(one.loss), np.asarray(frozen.loss)
            error[i, j] = [
                np.mean((np.asarray(f) - np.asarray(test[1])[None]) ** 2, axis=1)
                for f in (one.test, frozen.test)
            ]
            progress(i * 3 + j + 1, 3 * len(config.architectures))
    dims = ("architecture", "flow", "curve", "step")
    coords = {
        "architecture": list(config.architectures),
        "flow": list(plotting.COLORS),
        "curve": ["run", "kernel"],
        "step": counts,
    }
    return xarray.Dataset(
        {"loss": (dims, loss), "error": (dims, error), "kappa": ("architecture", kappa)},
        coords=coords,
    )


def headline(ds):
    lines = {}
    for name in ds.architecture.values:
        for flow in ds.flow.values:
            run, kernel = (
                ds.sel(architecture=name, flow=flow)
                .isel(step=-1)
                .transpose("curve", ...)
                .error.values
            )
            factor = float(
                np.exp(abs(np.log(ds.loss.sel(architecture=name, flow=flow)).diff("curve")).max())
            )
            text = f"{factor:.2f}; test error at the end {run:.3f} / {kernel:.3f}"
            lines[f"largest factor between run and kernel, {name}, {plotting.FLOW_NAMES[flow]}"] = (
                text
            )
    return lines


@plotting.house_style
def plot(ds):
    figure, grid = plotting.panels(
        2, ds.sizes["architecture"], height=2.6, width=8.4, sharex=True, squeeze=False
    )
    for column, name in zip(grid.T, ds.architecture.values, strict=True):
        for axes, quantity in zip(column, ("loss", "error"), strict=True):
            for flow in ds.flow.values:
                run, kernel = ds[quantity].sel(architecture=name, flow=flow)
                axes.plot(
                    ds.step,
                    run,
                    color=plotting.COLORS[flow],
                    label=plotting.FLOW_NAMES[flow].replace("flow", "descent"),
                )
                axes.plot(ds.step, kernel, color=plotting.THEORY, linestyle="--", linewidth=0.9)
            axes.set_yscale("log")
        for axes in plotting.labelled(column):
            axes.set_title(rf"{name}, $\kappa = {float(ds.kappa.sel(architecture=name)):.0f}$")
        column[1].set_xlabel("step")
        plotting.log_ticks(column[1].yaxis)
    for row, label in zip(grid, ("training loss", "test error"), strict=True):
        for axes in plotting.labelled(row):
            axes.set_ylabel(label)
    plotting.legend_below(figure, grid[0, 0].get_legend_handles_labels(), 3)
    return figure

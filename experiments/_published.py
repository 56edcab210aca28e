"""The set-up of the authors' published experiments: their network, data and loss, and what its own
kernel predicts for it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ntk_momentum.data import Dataset, load_digits, load_mnist
from ntk_momentum.dynamics.prediction import predict
from ntk_momentum.dynamics.training import train
from ntk_momentum.errors import InputError, require, unknown_name
from ntk_momentum.kernel import empirical_ntk
from ntk_momentum.method import AbstractOptimizer, spectral_radius
from ntk_momentum.network.two_layer import TwoLayerNet
from ntk_momentum.words import data_word


def images(n: int, data: str = "digits") -> Dataset:
    """n images in [0, 1] with a constant coordinate behind them as the bias, the digit 0..9 as
    target; of "mnist:FOLDER" the first n, as the authors take them."""
    word = data_word(data)
    if word.kind == "mnist":
        plain = load_mnist(word.path, n, target="digit", unit=False)
    elif word.kind == "digits":
        plain = load_digits(n, key=jax.random.key(0), target="digit", unit=False)
    else:
        raise InputError(f"the published figures are of digits or mnist:FOLDER, got {data!r}.")
    return Dataset(np.hstack([np.asarray(plain.X), np.ones((n, 1))]), plain.y, name=plain.name)


def network(
    width: int, input_size: int, *, key: Key[Array, ""], scheme: str = "authors"
) -> TwoLayerNet:
    """x -> Linear -> ReLU -> Linear without bias; the last of the `input_size` coordinates carries
    the bias.

    "authors": first layer N(0, 1/m^2), biases U(-p^(-1/2), p^(-1/2)) as PyTorch draws them, output
    U(-1, 1), scale 1. "paper": rows N(0, I), signs a = +-1, scale m^(-1/2) (section 2).
    """
    rows, biases, outputs = jax.random.split(key, 3)
    if scheme == "paper":
        return TwoLayerNet(
            jax.random.normal(rows, (width, input_size)),
            jax.random.rademacher(outputs, (width,), float),
        )
    if scheme != "authors":
        raise unknown_name("scheme", scheme, ("authors", "paper"))
    bound = (input_size - 1) ** -0.5
    weights = jax.random.normal(rows, (width, input_size - 1)) / width
    bias = jax.random.uniform(biases, (width, 1), minval=-bound, maxval=bound)
    return TwoLayerNet(
        jnp.hstack([weights, bias]),
        jax.random.uniform(outputs, (width,), minval=-1.0, maxval=1.0),
        scale=1.0,
    )


def mean_squared(f: Float[Array, " n"], y: Float[Array, " n"]) -> Float[Array, ""]:
    """MSE = |f - y|^2 / n, twice the paper's loss over n: a step eta on it is the paper's step 2
    eta / n."""
    return jnp.mean(jnp.square(f - y))


def measured(
    net: TwoLayerNet,
    data: Dataset,
    optimizer: AbstractOptimizer | Late,
    steps: int,
    every: int,
    trainable: str = "all",
) -> tuple[np.ndarray, float]:
    """(the MSE at steps 0, every, 2 every, ... of full-batch training of all weights, or of those
    named; `sharpness` of the kernel at the end)."""
    stages = [(optimizer, steps)]
    if isinstance(optimizer, Late):
        before = min(optimizer.after, steps)
        stages = [(optimizer.first, before), (optimizer.then, steps - before)]
    curve = np.empty(0)
    for method, count in stages:
        run = train(
            net,
            data,
            method,
            count,
            save_every=every,
            loss=mean_squared,
            trainable=trainable,
            readouts=("loss",),
        )
        net, curve = run.model, np.append(curve[:-1], run.loss)
    return curve, sharpness(net, data, trainable)


class Late(NamedTuple):
    """One method for so many steps, then another, from rest: what the first steps do is told apart
    from what follows."""

    first: AbstractOptimizer
    after: int
    then: AbstractOptimizer


def settled(
    net: TwoLayerNet,
    data: Dataset,
    optimizer: AbstractOptimizer,
    steps: int,
    every: int,
    trainable: str,
    after: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[np.ndarray, float, np.ndarray]:
    """`measured`, and what the kernel after so many steps predicts from there on, NaN before.

    The method remembers what the run's own errors up to there would have left behind under that
    kernel, so no velocity is lost and nothing fitted.
    """
    begin = train(
        net, data, optimizer, after, loss=mean_squared, trainable=trainable, readouts=("f",)
    )
    errors = np.asarray(begin.f) - np.asarray(data.y)
    kernel = empirical_ntk(begin.model, data.X, trainable=trainable)
    rest = train(
        net,
        data,
        optimizer,
        steps - after,
        save_every=every,
        loss=mean_squared,
        trainable=trainable,
        readouts=("loss",),
        state=begin.state,
        progress=progress,
    )
    curve = np.append(np.mean(np.square(errors[:-1:every]), axis=1), rest.loss)
    foretold = _from_there(
        kernel, jnp.asarray(errors), _on_errors(optimizer, data.n), (steps - after) // every, every
    )
    foretold = np.append(np.full(after // every, np.nan), ended(np.asarray(foretold)))
    return curve, sharpness(rest.model, data, trainable), foretold


@eqx.filter_jit
def _from_there(
    kernel: Float[Array, "n n"], errors: Float[Array, "s n"], method: Any, count: int, every: int
) -> Float[Array, " c"]:
    """The mean square of the error at every `every`-th of count * every steps after errors[-1]."""

    def remember(memory: Any, error: Array) -> tuple[Any, None]:
        return method.update(kernel @ error, memory, error)[1], None

    def step(state: tuple[Array, Any], _: None) -> tuple[tuple[Array, Any], None]:
        error, memory = state
        change, memory = method.update(kernel @ error, memory, error)
        return (error + change, memory), None

    def steps(state: tuple[Array, Any], _: None) -> tuple[tuple[Array, Any], Array]:
        state, _ = jax.lax.scan(step, state, None, length=every)
        return state, jnp.mean(jnp.square(state[0]))

    memory, _ = jax.lax.scan(remember, method.init(errors[0]), errors[:-1])
    _, values = jax.lax.scan(steps, (errors[-1], memory), None, length=count)
    return jnp.append(jnp.mean(jnp.square(errors[-1])), values)


def _on_errors(optimizer: Any, n: int) -> Any:
    """The method with the step that a step on the MSE is for the half-sum of squares."""
    return eqx.tree_at(lambda method: method.eta, optimizer, jnp.asarray(2 * optimizer.eta / n))


def predicted(
    net: TwoLayerNet,
    data: Dataset,
    optimizer: Any,
    counts: Any,
    trainable: str = "all",
    kernel: Any = None,
) -> np.ndarray:
    """The MSE that the kernel at initialisation predicts at these step counts; nothing is
    fitted. Above the limit of stability it grows without bound: NaN from where it has left `FRAME`
    times its start, where no figure follows it."""
    kernel = empirical_ntk(net, data.X, trainable=trainable) if kernel is None else kernel
    scaled = _on_errors(optimizer, data.n)
    start = jax.vmap(net)(data.X) - data.y
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the loss leaves the numbers", RuntimeWarning)
        loss = predict(kernel, start, scaled, counts).loss
    return ended(2 / data.n * np.asarray(loss))


FRAME = 100.0


def ended(curve: np.ndarray) -> np.ndarray:
    """A curve, NaN from where it first exceeds `FRAME` times its start or is no number."""
    inside = curve <= FRAME * curve[0]
    return np.where(np.logical_and.accumulate(inside), curve, np.nan)


def sharpness(net: TwoLayerNet, data: Dataset, trainable: str = "all") -> float:
    """2 lambda_max(H(0)) / n, the largest eigenvalue as a step on the MSE meets it: gradient
    descent is stable below 2/eta."""
    kernel = np.asarray(empirical_ntk(net, data.X, trainable=trainable))
    finite = np.isfinite(kernel).all()  # not of a network that has diverged
    return 2 / data.n * float(np.linalg.eigvalsh(kernel)[-1]) if finite else np.nan


@dataclass(frozen=True)
class Epochs:
    """What the figures against the epoch share: 50 digits and 500 neurons for 600 MNIST images and
    3000, at a comparable eta lambda_max."""

    n: int = 50
    width: int = 500
    # in the authors' parametrisation; in the paper's, the step with the same eta lambda_max
    eta: float = 5e-4
    steps: int = 1500
    save_every: int = 5
    settle: float = 0.1
    seeds: int = 2
    data: str = "digits"  # images only: digits, or mnist:FOLDER as the authors have it


EPOCHS: dict[str, dict[str, Any]] = {
    "smoke": {"n": 20, "width": 100, "steps": 200, "seeds": 1},
    "default": {},
    "full": {"n": 600, "width": 3000, "eta": 1e-4, "steps": 5000, "seeds": 3},
}


@dataclass(frozen=True)
class Widths:
    """What the figures against the width share; the step puts the limit of stability among the
    widths."""

    n: int = 50
    widths: tuple[int, ...] = (500, 1000, 1500, 2000, 3000)
    seeds: int = 2
    epoch: int = 100
    eta: float = 4e-4
    after: int = 30
    # of the paper's parametrisation, whose kernel does not grow with m; 0: n / (2 lambda_max)
    eta_paper: float = 0.0
    data: str = "digits"  # images only: digits, or mnist:FOLDER as the authors have it


WIDTHS: dict[str, dict[str, Any]] = {
    "smoke": {"n": 20, "widths": (100, 400), "seeds": 1, "epoch": 20},
    "default": {},
    "full": {"n": 600, "seeds": 10, "epoch": 200, "eta": 5e-5},
}

SCALINGS = {"authors": "all", "paper": "hidden"}  # and what is trained in each


def against_epoch(
    methods: Callable[[float], Mapping[str, Any]], config: Epochs, progress: Any
) -> Any:
    """The loss against the step by scaling, method and seed, run and predictions of the initial
    kernel and of that after `config.settle` of the steps, as an xarray.Dataset.

    methods: from a step on the MSE to optimizers by name. x: eta times the eigenvalues of the first
    seed's initial kernel, as a step on the MSE meets them. top: eta times `sharpness`, of the
    initial kernel and of that at the end.
    """
    data, counts = images(config.n, config.data), np.arange(0, config.steps + 1, config.save_every)
    keep = getattr(progress, "keep", lambda name, compute: compute())
    names = list(methods(config.eta))
    mse = np.empty((len(SCALINGS), 3, len(names), config.seeds, counts.size))
    after = config.save_every * max(1, round(config.settle * config.steps / config.save_every))
    x, level = np.empty((len(SCALINGS), data.n)), 0.0
    top = np.empty((len(SCALINGS), len(names), config.seeds, 2))
    for k in range(config.seeds):
        for i, (scaling, trainable) in enumerate(SCALINGS.items()):
            net = network(config.width, data.input_size, key=jax.random.key(k), scheme=scaling)
            kernel = empirical_ntk(net, data.X, trainable=trainable)
            eigenvalues = 2 / data.n * np.linalg.eigvalsh(np.asarray(kernel))
            if scaling == "authors":
                level = config.eta * eigenvalues[-1]
            eta = level / eigenvalues[-1]
            x[i] = eta * eigenvalues if k == 0 else x[i]
            for j, (name, method) in enumerate(methods(eta).items()):
                before, runs = j + len(names) * (i + len(SCALINGS) * k), mse[:, 0, :, :, 0].size

                def one(net=net, method=method, trainable=trainable, before=before, runs=runs):
                    part = lambda done, total: progress(before * total + done, runs * total)
                    steps = config.steps, config.save_every
                    curve, end, later = settled(net, data, method, *steps, trainable, after, part)
                    return [*curve, end, *later]

                found = keep(f"{scaling} {name} {k}", one)
                mse[i, 0, j, k], mse[i, 2, j, k] = found[: counts.size], found[counts.size + 1 :]
                end = found[counts.size]
                top[i, j, k] = level, eta * end
                mse[i, 1, j, k] = predicted(net, data, method, counts, trainable, kernel)
                progress(before + 1, runs)
    coords = {
        "scaling": list(SCALINGS),
        "curve": ["run", "prediction", "settled"],
        "algorithm": names,
        "epoch": counts,
        "moment": ["start", "end"],
    }
    variables = {
        "mse": (("scaling", "curve", "algorithm", "seed", "epoch"), mse),
        "x": (("scaling", "mode"), x),
        "top": (("scaling", "algorithm", "seed", "moment"), top),
    }
    return require("xarray", "experiments").Dataset(
        variables, coords=coords, attrs={"data": data.name, "width": config.width}
    )


def local_slope(x: Any, y: Any, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """(x, dy/dx) by lines through the points within `reach` of 24 places; oscillations shorter than
    that average out. NaN where the curve has ended."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    places = np.linspace(x[0] + reach, x[-1] - reach, 24)
    near = np.abs(x - places[:, None]) <= reach
    whole = [these.sum() > 2 and np.isfinite(y[these]).all() for these in near]
    return places, np.array(
        [
            np.polyfit(x[these], y[these], 1)[0] if good else np.nan
            for these, good in zip(near, whole, strict=True)
        ]
    )


def said(value: float) -> str:
    """A slope, or that there is none."""
    return f"{value:.2f}" if np.isfinite(value) else "diverges"


def against_limit(ds: Any, limits: Iterable[float]) -> dict[str, str]:
    """The largest eigenvalue of the kernel, in units of the step, at the start and at the end of
    each run, and the limit of stability: above it the initial kernel's prediction diverges."""
    middle, limits, lines = ds.top.median("seed"), list(limits), {}
    for scaling in ds.scaling.values:
        start, ends = middle.sel(scaling=scaling).transpose(..., "algorithm").values
        told = zip(ds.algorithm.values, ends, limits, strict=True)
        lines[f"2 eta lambda_max / n, start; end of each run (its limit), scaling: {scaling}"] = (
            f"{start[0]:.2f}; "
            + ", ".join(f"{name}: {said(float(end))} ({limit:.2f})" for name, end, limit in told)
        )
    return lines


def decades(one: Any) -> tuple[np.ndarray, np.ndarray]:
    """(steps, local slope of a loss in decades per 1000 steps)."""
    places, slope = local_slope(one.epoch, np.log10(one), 0.1 * float(one.epoch[-1]))
    return places, 1000 * slope


def nesterov_limit(k: int, d: float) -> float:
    """2 (1 + beta)/(1 + 2 beta) at the momentum beta = (k - 1)/(k + d - 1) of step k."""
    beta = (k - 1) / (k + d - 1)
    return 2 * (1 + beta) / (1 + 2 * beta)


def companion(ds: Any, scaling: str, methods: Iterable[Any]) -> list[float]:
    """Decades per 1000 steps at the smallest eigenvalue, from the companion matrix of each method
    with eta = 1."""
    x = ds.x.sel(scaling=scaling).values[:1]
    return [2000 * float(np.log10(spectral_radius(method, x)[0])) for method in methods]


def end_slopes(ds: Any, methods: Iterable[Any]) -> dict[str, str]:
    """The headline of a data set of `against_epoch`: slopes at the end, run and prediction, and
    what they tend to."""
    methods, middle, lines = list(methods), ds.mse.median("seed"), {}
    for scaling in ds.scaling.values:
        for name, limit in zip(ds.algorithm.values, companion(ds, scaling, methods), strict=True):
            run, prediction, later = map(_end, middle.sel(scaling=scaling, algorithm=name))
            key = (
                f"decades per 1000 steps at the end, {name}, scaling: {scaling}; run / "
                "prediction / that of the kernel later / companion matrix"
            )
            lines[key] = f"{run} / {prediction} / {later} / {limit:.2f}"
    return lines


def _end(one: Any) -> str:
    """The slope at the end of a curve in words."""
    slope = float(decades(one)[1][-1])
    few = np.isfinite(float(one[-1])) and not np.isfinite(slope)
    return "too few steps saved" if few else said(slope)


def against_width(
    data: Dataset, methods: Mapping[str, Any], plain: Any, config: Any, progress: Any
) -> Any:
    """The loss after `config.epoch` steps by method, width and seed, and what the width does to the
    kernel, as an xarray.Dataset.

    mse: of the authors' network; foretold: by the kernel and the velocity that `config.after` steps
    leave, NaN of a `Late` method. stiffness: eta times `sharpness` of its initial kernel; settled:
    of its last; peak: its largest loss over that at the start. ratio: in the paper's
    parametrisation, hidden layer trained by `plain`, the loss over the prediction of the network's
    own kernel, at every second width. config: a `Widths`.
    """
    widths, seeds = config.widths, range(config.seeds)
    keep = getattr(progress, "keep", lambda name, compute: compute())
    lazy = widths[::-2][::-1]
    mse, last, peak, foretold = np.empty((4, len(methods), len(widths), len(seeds)))
    after = min(config.after, config.epoch // 2)
    stiffness, ratio = np.empty(mse.shape[1:]), np.empty((len(lazy), len(seeds)))
    for j, width in enumerate(widths):
        for k in seeds:
            net = network(width, data.input_size, key=jax.random.key(k))
            stiffness[j, k] = config.eta * sharpness(net, data)
            for i, method in enumerate(methods.values()):

                def one(net=net, method=method):
                    if isinstance(method, Late):
                        curve, end = measured(net, data, method, config.epoch, 1)
                        later = [np.nan]
                    else:
                        curve, end, later = settled(
                            net, data, method, config.epoch, 1, "all", after
                        )
                    return curve[-1], config.eta * end, np.max(curve) / curve[0], later[-1]

                found = keep(f"{list(methods)[i]} {width} {k}", one)
                mse[i, j, k], last[i, j, k], peak[i, j, k], foretold[i, j, k] = found
            if width in lazy:
                wide = network(width, data.input_size, key=jax.random.key(k), scheme="paper")
                slow = config.eta_paper or 1 / sharpness(wide, data, "hidden")
                method = eqx.tree_at(lambda method: method.eta, plain, jnp.asarray(slow))
                run = keep(
                    f"paper {width} {k}",
                    lambda wide=wide, method=method: measured(
                        wide, data, method, config.epoch, config.epoch, "hidden"
                    )[0][-1],
                )
                ends = predicted(wide, data, method, np.array([0, config.epoch]), "hidden")
                ratio[lazy.index(width), k] = run / ends[-1]
            progress(j * len(seeds) + k + 1, stiffness.size)
    runs = ("width", "seed")
    variables = {
        "mse": (("algorithm", *runs), mse),
        "stiffness": (runs, stiffness),
        "settled": (("algorithm", *runs), last),
        "peak": (("algorithm", *runs), peak),
        "foretold": (("algorithm", *runs), foretold),
        "ratio": (("lazy_width", "seed"), ratio),
    }
    coords = {
        "algorithm": list(methods),
        "width": list(widths),
        "lazy_width": list(lazy),
        "seed": list(seeds),
    }
    return require("xarray", "experiments").Dataset(
        variables, coords=coords, attrs={"data": data.name, "epoch": config.epoch, "after": after}
    )


def crossing(widths: Any, stiffness: Any, limit: float) -> float:
    """The width at which eta lambda_max, interpolated, meets the limit of stability; NaN outside
    the widths."""
    return float(np.interp(limit, stiffness, widths, left=np.nan, right=np.nan))


def best_widths(ds: Any, limits: Iterable[float]) -> dict[str, str]:
    """The headline of a data set of `against_width`: where each curve is lowest and where eta
    lambda_max meets its limit; whether that explains the first, to within one width, or what the
    first steps leave does; and what happens at the best width."""
    lines, widths = {}, ds.width.values
    for name, limit in zip(ds.algorithm.values, limits, strict=True):
        one = ds.sel(algorithm=name).median("seed")
        best = int(np.argmin(np.nan_to_num(one.mse.values, nan=np.inf)))
        meet = crossing(widths, ds.stiffness.median("seed"), limit)
        near = widths[max(best - 1, 0)], widths[min(best + 1, widths.size - 1)]
        told = f"{widths[best]} ({meet:.0f})"
        if not np.isfinite(meet):
            below = float(ds.stiffness.median("seed")[0]) < limit
            told = f"{widths[best]} (outside these widths)"
            meet = widths[-1] if below else widths[0]  # the end that it lies beyond
        if not near[0] <= meet <= near[1]:
            told += ", so the limit does not explain it"
        lines[f"best width, {name} (eta lambda_max meets the limit at)"] = told
        off = (one.foretold / one.mse - 1).values
        if np.isfinite(off).any():
            found = widths[int(np.nanargmin(one.foretold.values))]
            key = f"best width, {name}, foretold by its kernel after {ds.attrs['after']} steps"
            lines[key] = f"{found}, its losses by {np.nanmin(off):+.0%} to {np.nanmax(off):+.0%}"
            lines[key] += "" if near[0] <= found <= near[1] else ", so that does not explain it"
        lines[f"there, {name}: eta lambda_max at the start and the end (limit), peak / start"] = (
            f"{float(ds.stiffness.median('seed')[best]):.2f}, {float(one.settled[best]):.2f} "
            f"({limit:.2f}), {float(one.peak[best]):.2f}"
        )
    ends = ds.ratio.median("seed", skipna=False).values[[0, -1]]
    ratio = ", ".join(f"{v:.3f}" if np.isfinite(v) else "prediction diverges" for v in ends)
    return {
        **lines,
        "paper's scaling, run / prediction, narrowest and widest": ratio,
    }

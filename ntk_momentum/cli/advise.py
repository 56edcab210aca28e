"""`ntk-momentum advise`: step sizes, momentum and friction that suit a kernel, tried out if
asked."""

from __future__ import annotations

import math
from typing import Any, Literal

from ..errors import InputError
from ..network.loading import check_function, load_model
from ..results.named import named_methods, read_methods
from ..words import data_word
from .options import Shared, as_json, command
from .start import start


@command
class Advise:
    """Recommend step size, momentum, d, friction and restart period for a kernel, with stability
    limits and predicted steps.

    Example: ntk-momentum advise --data sphere --n 10 --width 2048 --target 1e-3 --check
    """

    data: str = "digits"
    """Digits: the 8 x 8 images that ship with the package; sphere: random; MNIST: IDX files;
    arrays: .npz; tables: .csv, .tsv or .parquet. What the targets mean may follow: digits:digit,
    mnist:FOLDER:class, mine.csv:species:sign."""
    n: int | None = None
    """Default: 50, and files of arrays and tables whole."""
    p: int = 20
    seed: int = 0
    on_duplicates: Literal["error", "drop", "allow"] = "error"
    unit: bool = False
    standardize: bool = False
    model: str | None = None
    """FUNCTION(width, key=key), or FUNCTION(key=key), returns an Equinox model of one input: advice
    from its own kernel."""
    width: int | None = None
    """Of that model (default: 2048), or of a network whose own kernel is taken (default: the kernel
    at infinite width, and f(0) = 0)."""
    target: float = 1e-3
    margin: float = 0.1
    objective: Literal["steps", "rate"] = "steps"
    """steps: fewest steps to the target. rate: fastest decay in the long run, whatever the
    error."""
    optimizers: tuple[str, ...] = ()
    """Written as for `sweep`, e.g. heavy_ball:eta=0.05,beta=0.9: what these take, in the place of
    the best parameters of each method."""
    batch_size: int | None = None
    """Default: all. Gives steps of the expected loss, epochs and examples, and the critical batch
    of each method."""
    sampling: Literal["without_replacement", "with_replacement", "reshuffled"] = (
        "without_replacement"
    )
    check: bool = False
    """Train the model, or the network (of width 2048 without --width), with every recommendation;
    show predicted against actual steps."""

    def __call__(self, shared: Shared) -> int:
        data_word(self.data)
        if self.model:
            check_function(self.model)
        for text in self.optimizers:
            read_methods(text, "optimizer")
        start(shared)
        return print_advice(self, shared)


def print_advice(asked: Advise, shared: Shared) -> int:
    """Print the recommendations for a data set and, if asked, what training with them took."""
    import jax

    from ..data import warn_unless_unit
    from ..dynamics.preparation import check_output, unequal_shapes
    from ..judge.advice import advise
    from ..judge.trial import TRIED_STEPS, check_advice
    from ..kernel import empirical_ntk, infinite_ntk
    from ..memory import check_fits
    from ..network.model import outputs
    from ..network.two_layer import init_two_layer
    from ..progress import Bar
    from ..results.grid import Source

    drawn = asked.data, asked.n, asked.p, asked.seed
    data = Source(*drawn, asked.on_duplicates, asked.unit, asked.standardize).load()
    check_fits(
        5 * data.y.size**2,
        f"the kernel of {data.n} samples and its eigenvectors",
        "use fewer samples",
    )
    named = [one for text in asked.optimizers for one in named_methods(text, "optimizer")]
    given = {one.label: one.build(math.nan) for one in named}
    key = jax.random.key(asked.seed)
    if asked.model:
        net = load_model(asked.model, key, asked.width or 2048)
        f0 = outputs(net, data.X)
        check_output(f0)
        if f0.shape != data.y.shape:
            raise InputError(unequal_shapes(f0.shape, data.y.shape))
        kernel = empirical_ntk(net, data.X, output="trace-sum" if f0.ndim == 1 else "full")
    elif data.y.ndim != 1:
        remedy = (
            "save y.ravel()"
            if data.y.shape[1:] == (1,)
            else "end --data with :index, one number a class, or give --model FILE.py:FUNCTION"
        )
        raise InputError(
            "the built-in network takes one target per sample, y of shape (n,), got "
            f"{data.y.shape}; {remedy}."
        )
    else:
        X, infinite = data.X.reshape(data.n, -1), asked.width is None
        warn_unless_unit(X, "advice for the two-layer network")
        check_fits(
            7 * (asked.width or 0) * X.shape[1], f"{asked.width} neurons", "use a smaller --width"
        )
        net = init_two_layer(
            2048 if asked.width is None else asked.width,
            X.shape[1],
            key=key,
            antisymmetric=infinite,
        )
        kernel, f0 = (
            (infinite_ntk(X), 0 * data.y) if infinite else (empirical_ntk(net, X), outputs(net, X))
        )
    with Bar(1) as bar:
        advice = advise(
            kernel,
            f0 - data.y,
            target=asked.target,
            margin=asked.margin,
            objective=asked.objective,
            optimizers=given or None,
            batch_size=asked.batch_size,
            sampling=asked.sampling,
            progress=bar.piece("looking for the best parameters"),
        )
    record = {**as_json(advice), "best": advice.best.method}
    lines = [str(advice)]
    if asked.check:
        with Bar(1) as bar:
            tell = bar.piece("trying the advice")
            tried = check_advice(advice, net, data, key=key, progress=tell)
        record["check"] = {
            name: {"predicted": predicted, "actual": actual}
            for name, (predicted, actual) in tried.items()
        }
        left_out = [name for name in advice.methods if name not in tried]
        width = asked.model or f"width {net.width}"
        lines += ["", f"steps to {asked.target:g} L(0), trained with {width}:"]
        for name, (predicted, actual) in tried.items():
            took = (
                f"{actual:.0f}"
                if actual < math.inf
                else "diverged"
                if math.isnan(actual)
                else f"not within {2 * predicted:.0f}"
            )
            lines.append(f"{name:20}  predicted {predicted:8.0f}  actual {took:>8}")
        if left_out:
            lines.append(
                f"not tried, unstable or more than {TRIED_STEPS} steps: {', '.join(left_out)}"
            )
        off = [name for name, (told, took) in tried.items() if not abs(took - told) <= 0.2 * told]
        if off:
            record["off"] = why = _why_off(
                asked, net, data, {name: (advice[name], tried[name][1]) for name in off}
            )
            lines.append(f"more than 20 % off, {', '.join(off)}: {why}")
    shared.show(record, "\n".join(lines))
    return 0


def _why_off(asked: Advise, net: Any, data: Any, off: dict[str, tuple[Any, float]]) -> str:
    """Why training took another number of steps than was foretold. off: recommendation and actual
    steps, by method."""
    import numpy as np

    from ..dynamics.training import train
    from ..judge.advice import advise
    from ..kernel import empirical_ntk
    from ..network.model import outputs

    X = data.X if asked.model else data.X.reshape(data.n, -1)
    error = np.asarray(outputs(net, X) - data.y)

    def kernel_of(net: Any) -> np.ndarray:
        kernel = empirical_ntk(net, X, output="trace-sum" if error.ndim == 1 else "full")
        return np.reshape(kernel, (error.size, -1))

    kernel, told = kernel_of(net), ""
    if asked.batch_size is None and asked.model is None and asked.width is None:
        given = {name: one.optimizer for name, (one, _) in off.items()}
        try:
            found = advise(kernel, error, target=asked.target, optimizers=given)
        except InputError as fault:  # less of the error is out of reach at infinite width
            return f"the advice is for infinite width; of this network's own kernel {fault}"
        own = {name: one.steps for name, one in found.methods.items()}
        steps = ", ".join(f"{name} {_count(count)}" for name, count in own.items())
        told = f"the advice is for infinite width; by this network's own kernel they take {steps}; "
        near = lambda name, took: math.isfinite(took) and abs(own[name] - took) <= 0.2 * took
        if all(near(name, took) for name, (_, took) in off.items()):
            return f"{told}--width {net.width} gives advice of its own."
    name, (one, _) = min(off.items(), key=lambda pair: pair[1][0].steps)
    count = int(one.steps)
    run = train(net, data, one.optimizer, count, readouts=["loss"], save_every=count)
    moved = kernel_of(run.model) - kernel
    eigenvalues, vectors = np.linalg.eigh(kernel)
    shares = np.cumsum((vectors.T @ error.reshape(-1)) ** 2) / np.sum(error**2)
    needed = eigenvalues[np.searchsorted(shares, asked.target)]  # below it, less of the error lies
    times = np.linalg.norm(moved, 2) / needed
    wide = (
        "a wider network"
        if asked.model or times < 1
        else f"some {net.width * times**2:.2g} neurons (it falls like the root of the width)"
    )
    return (
        f"{told}in the {count} steps of {name} the kernel moves by "
        f"{100 * np.linalg.norm(moved) / np.linalg.norm(kernel):.2g} % of its norm, which is "
        f"{times:.3g} times the smallest eigenvalue that the target needs ({needed:.3g}). The "
        "actual steps are what this network takes; predicted ones want a movement below once that "
        f"eigenvalue: {wide}, standardised columns of a table, or a target that needs larger ones."
    )


def _count(steps: float) -> str:
    return f"{steps:.0f}" if steps < math.inf else "more than 10^6"

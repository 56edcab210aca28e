"""`ntk-momentum advise`: step sizes, momentum and friction that suit a kernel, tried out if
asked."""

from __future__ import annotations

import math
from typing import Any, Literal

from ..errors import InputError
from ..network.loading import check_function, load_model
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
    n: int = 50
    """Files of arrays and tables are taken whole."""
    p: int = 20
    seed: int = 0
    on_duplicates: Literal["error", "drop", "allow"] = "error"
    unit: bool = False
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
        start(shared)
        return print_advice(self, shared)


def print_advice(asked: Advise, shared: Shared) -> int:
    """Print the recommendations for a data set and, if asked, what training with them took."""
    import jax

    from ..data import warn_unless_unit
    from ..dynamics.preparation import check_output, unequal_shapes
    from ..judge.advice import TRIED_STEPS, advise, check_advice
    from ..kernel import empirical_ntk, infinite_ntk
    from ..memory import check_fits
    from ..network.model import outputs
    from ..network.two_layer import init_two_layer
    from ..progress import Bar
    from ..results.grid import Source

    data = Source(asked.data, asked.n, asked.p, asked.seed, asked.on_duplicates, asked.unit).load()
    check_fits(
        5 * data.y.size**2,
        f"the kernel of {data.n} samples and its eigenvectors",
        "use fewer samples",
    )
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
            lines.append(f"not tried, more than {TRIED_STEPS} steps: {', '.join(left_out)}")
        off = [name for name, (told, took) in tried.items() if not abs(took - told) <= 0.2 * told]
        if off:
            record["off"] = why = _why_off(asked, net, data, advice.lambda_min)
            lines.append(f"more than 20 % off, {', '.join(off)}: {why}")
    shared.show(record, "\n".join(lines))
    return 0


def _why_off(asked: Advise, net: Any, data: Any, lambda_min: float) -> str:
    """Why training took another number of steps than was foretold."""
    import numpy as np

    from ..kernel import empirical_ntk

    if asked.batch_size is None and asked.model is None and asked.width is None:
        kernel = empirical_ntk(net, data.X.reshape(data.n, -1))
        own = float(np.linalg.eigvalsh(np.asarray(kernel))[0])
        if not 0.8 * lambda_min <= own <= 1.25 * lambda_min:
            return (
                f"the advice is for infinite width; this network's own kernel has lambda_min = "
                f"{own:.4g}, not {lambda_min:.4g}. --width {net.width} gives advice of its own."
            )
    return (
        "the kernel moves while it trains; ntk-momentum diagnose says how far, and wider networks "
        "or smaller targets keep it."
    )

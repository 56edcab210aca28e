"""`ntk-momentum diagnose`: how far a model runs from its own kernel's prediction."""

from __future__ import annotations

import math
from typing import Any, Literal

from ..errors import InputError, require, unknown_name
from ..network.loading import check_function, load_model
from ..progress import Bar
from ..results.named import named_methods, read_loss, read_methods
from ..words import data_word
from .options import Shared, as_json, command
from .start import start

BY_NAME = ("gradient_descent", "heavy_ball", "nesterov", "adam")
"""What trains by name alone: what is left open comes from the kernel's spectrum."""


@command
class Diagnose:
    """Train a model briefly beside its own kernel's prediction: is it lazy?

    Four questions with a number each: is the step stable, for the kernel at the start and as it
    moves; does the kernel move; does the function follow the prediction; do features change. Moved
    is from 0.1 on, far from 0.5. The verdict is lazy, between, rich, rescaled (the kernel's size
    moves, not its direction), unstable (only the prediction diverges), diverged or dead.

    Example: ntk-momentum diagnose --data mine.npz --model mymodel.py:make --optimizer adam --eta
    1e-3
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
    """FUNCTION(width, key=key), or FUNCTION(key=key), returns an Equinox model of one input
    (default: a ReLU MLP)."""
    width: int = 256
    """Of that MLP, and of a model that takes a width."""
    depth: int = 2
    """Hidden layers of that MLP."""
    optimizer: str = "gradient_descent"
    """What trains it: gradient_descent, heavy_ball, nesterov or adam, with --eta, --beta and
    --d; or any with its parameters, as for `sweep`, e.g. heavy_ball:eta=0.05,beta=0.9. Momentum
    recommended for a constant kernel lies near its stability limit, which few networks bear."""
    eta: float | None = None
    """Default: 1/lambda_max of the kernel for gradient_descent and nesterov, the best
    for a constant kernel for heavy_ball, 1e-3 for adam."""
    beta: float | None = None
    """Of heavy_ball (default: the best for a constant kernel)."""
    d: float | None = None
    """Of nesterov (default: 3)."""
    loss: str = "squared"
    """Squared, logistic (targets +1 and -1), softmax (rows of class
    probabilities), huber or huber:DELTA."""
    steps: int = 100
    batch_size: int | None = None
    """Default: all. The prediction takes the same ones."""
    sampling: Literal["without_replacement", "with_replacement", "reshuffled"] = (
        "without_replacement"
    )

    def __call__(self, shared: Shared) -> int:
        data_word(self.data)
        if self.model:
            check_function(self.model)
        read_loss(self.loss)
        if ":" not in self.optimizer and self.optimizer not in BY_NAME:
            raise unknown_name("value of --optimizer", self.optimizer, BY_NAME)
        if ":" in self.optimizer and len(read_methods(self.optimizer, "optimizer")) > 1:
            raise InputError(
                f"--optimizer must be one method, got {self.optimizer}; give one number each."
            )
        start(shared)
        return print_diagnosis(self, shared)


def print_diagnosis(asked: Diagnose, shared: Shared) -> int:
    """Print how lazy a model is on a data set."""
    import jax

    from ..data import Dataset
    from ..judge.diagnosis import diagnose
    from ..memory import check_fits
    from ..results.grid import Source
    from ..results.named import build_loss

    needs = {"eta": BY_NAME, "beta": ("heavy_ball",), "d": ("nesterov",)}
    for option, optimizers in needs.items():
        if getattr(asked, option) is not None and asked.optimizer not in optimizers:
            raise InputError(
                f"--{option} goes with --optimizer {' or '.join(optimizers)}, got --optimizer "
                f"{asked.optimizer}; leave it out."
            )
    loss = build_loss(asked.loss)
    drawn = asked.data, asked.n, asked.p, asked.seed
    data = Source(*drawn, asked.on_duplicates, asked.unit, asked.standardize).load()
    check_fits(8 * data.y.size**2, f"the kernels of {data.n} samples", "use fewer samples")
    if not asked.model:
        check_fits(
            8 * asked.width * (asked.width * max(asked.depth - 1, 0) + data.input_size),
            "the MLP's weights",
            "use a smaller --width",
        )
        # the MLP reads images as rows
        data = Dataset(data.X.reshape(data.n, -1), data.y, "allow", name=data.name)
    key = jax.random.key(asked.seed)
    model = (
        load_model(asked.model, key, asked.width)
        if asked.model
        else perceptron(data, asked.width, asked.depth, key)
    )
    # the ends of the spectrum are diagnose's own, so that the kernel is decomposed once
    chosen = lambda low, top: build(asked, low, top)
    with Bar(1) as bar:
        told = diagnose(
            model, data, chosen, asked.steps, loss=loss, progress=bar.piece("training"),
            batch_size=asked.batch_size, key=key, sampling=asked.sampling,
        )  # fmt: skip
    record = {
        **as_json(told),
        "verdict": told.verdict,
        "findings": [*map(as_json, told.findings)],
        "advice": told.advice,
    }
    shared.show(record, str(told))
    return 0


def perceptron(data: Any, width: int, depth: int, key: Any) -> Any:
    """Inputs (n, p), `depth` hidden ReLU layers of one width, and the outputs that the targets
    want."""
    import equinox as eqx
    import jax.numpy as jnp

    if width < 1 or depth < 1:
        raise InputError(f"width and depth must be positive, got {width} and {depth}.")
    size: Any = "scalar" if data.y.ndim == 1 else data.y.shape[1]
    dtype = jnp.result_type(data.X, float)  # also where the inputs are integers
    return eqx.nn.MLP(data.input_size, size, width, depth, key=key, dtype=dtype)


def build(asked: Diagnose, low: float, top: float) -> Any:
    """The optimizer that the options name; what they leave open comes from the ends of the kernel's
    spectrum at the start."""
    from ..method import best_parameters, gradient_descent, heavy_ball, nesterov

    if ":" in asked.optimizer:
        return named_methods(asked.optimizer, "optimizer")[0].build(math.nan)
    if asked.optimizer == "adam":
        return require("optax", "adam").adam(1e-3 if asked.eta is None else asked.eta)
    if asked.optimizer == "gradient_descent":
        return gradient_descent(1 / top if asked.eta is None else asked.eta)
    if asked.optimizer == "nesterov":
        return nesterov(
            1 / top if asked.eta is None else asked.eta, 3.0 if asked.d is None else asked.d
        )
    best: Any = best_parameters("heavy_ball", low, 1.1 * top).optimizer
    eta = float(best.eta) if asked.eta is None else asked.eta
    return heavy_ball(eta, float(best.beta) if asked.beta is None else asked.beta)

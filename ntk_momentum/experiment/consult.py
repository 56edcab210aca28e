"""The commands `advise` and `diagnose`: from names and files on the command line to data, models and optimizers, and printed answers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..errors import InputError, require
from ..network.loading import load_model

if TYPE_CHECKING:
    from ..cli import Advise, Diagnose


def advise(asked: Advise) -> int:
    """Print the recommendations for a data set and, if asked, what training with them took."""
    import jax

    from ..dynamics.simulation import check_output, unequal_shapes
    from ..judge.advice import advise, check_advice
    from ..kernel import empirical_ntk, infinite_ntk
    from ..memory import check_fits
    from ..network.two_layer import init_two_layer, outputs

    data = dataset(asked)
    check_fits(5 * data.y.size**2, f"the kernel of {data.n} samples and its eigenvectors", "use fewer samples")
    key = jax.random.key(asked.seed)
    if asked.model:
        if asked.width is not None:
            raise InputError("--width is of the built-in network; leave it out with --model.")
        net = load_model(asked.model, key)
        f0 = outputs(net, data.X)
        check_output(f0)
        if f0.shape != data.y.shape:
            raise InputError(unequal_shapes(f0.shape, data.y.shape))
        kernel = empirical_ntk(net, data.X, output="trace-sum" if f0.ndim == 1 else "full")
    elif data.y.ndim != 1:
        remedy = "save y.ravel()" if data.y.shape[1:] == (1,) else "give --model FILE.py:FUNCTION"
        raise InputError(f"the built-in network takes one target per sample, y of shape (n,), got {data.y.shape}; {remedy}.")
    else:
        X, infinite = data.X.reshape(data.n, -1), asked.width is None
        check_fits(7 * (asked.width or 0) * X.shape[1], f"{asked.width} neurons", "use a smaller --width")
        net = init_two_layer(2048 if asked.width is None else asked.width, X.shape[1], key=key, antisymmetric=infinite)
        kernel, f0 = (infinite_ntk(X), 0 * data.y) if infinite else (empirical_ntk(net, X), outputs(net, X))
    advice = advise(kernel, f0 - data.y, target=asked.target, margin=asked.margin, objective=asked.objective)
    print(advice)
    if asked.check:
        print(f"\nsteps to {asked.target:g} L(0), trained with {asked.model or f'width {net.width}'}:")
        for name, (predicted, actual) in check_advice(advice, net, data).items():
            took = f"{actual:.0f}" if actual < math.inf else "diverged" if math.isnan(actual) else f"not within {2 * predicted:.0f}"
            print(f"{name:20}  predicted {predicted:8.0f}  actual {took:>8}")
    return 0


def diagnose(asked: Diagnose) -> int:
    """Print how lazy a model is on a data set."""
    import jax

    from ..judge.diagnosis import diagnose, recommend
    from ..loss import logistic, softmax_cross_entropy, squared
    from ..memory import check_fits

    needs = {"beta": "heavy_ball", "d": "nesterov"}
    for option, optimizer in needs.items():
        if getattr(asked, option) is not None and asked.optimizer != optimizer:
            raise InputError(f"--{option} goes with --optimizer {optimizer}, got --optimizer {asked.optimizer}; leave it out.")
    data = dataset(asked)
    check_fits(8 * data.y.size**2, f"the kernels of {data.n} samples", "use fewer samples")
    check_fits(8 * asked.width * (asked.width * max(asked.depth - 1, 0) + data.input_size), "the MLP's weights", "use a smaller --width")
    key = jax.random.key(asked.seed)
    model = load_model(asked.model, key) if asked.model else perceptron(data, asked.width, asked.depth, key)
    loss = {"squared": squared, "logistic": logistic, "softmax": softmax_cross_entropy}[asked.loss]
    optimizer = build(asked, lambda: recommend(model, data, loss=loss))
    print(diagnose(model, data, optimizer, asked.steps, loss=loss))
    return 0


def dataset(asked: Any) -> Any:
    """The data set that --data, --n, --p and --seed name."""
    from ..results.sweep import Source

    return Source(asked.data, asked.n, asked.p, asked.seed).load()


def perceptron(data: Any, width: int, depth: int, key: Any) -> Any:
    """Flattened input, `depth` hidden ReLU layers of one width, and the outputs that the targets want."""
    import equinox as eqx

    if width < 1 or depth < 1:
        raise InputError(f"width and depth must be positive, got {width} and {depth}.")
    if data.X.ndim != 2:
        raise InputError(f"the built-in MLP takes inputs (n, p), got {data.X.shape}; flatten them or give --model FILE.py:FUNCTION.")
    size: Any = "scalar" if data.y.ndim == 1 else data.y.shape[1]
    return eqx.nn.MLP(data.input_size, size, width, depth, key=key, dtype=data.X.dtype)


def build(asked: Diagnose, advice: Any) -> Any:
    """The optimizer that the options name; what they leave open comes from `advice()`, which is asked for only then."""
    from ..method import gradient_descent, heavy_ball, nesterov

    if asked.optimizer == "adam":
        return require("optax", "adam").adam(1e-3 if asked.eta is None else asked.eta)
    if asked.optimizer == "gradient_descent":
        return gradient_descent(1 / advice().lambda_max if asked.eta is None else asked.eta)
    open_ = asked.eta is None or {"heavy_ball": asked.beta, "nesterov": asked.d}.get(asked.optimizer, 0.0) is None
    best: Any = advice()[asked.optimizer] if open_ else None
    eta = best.eta if asked.eta is None else asked.eta
    if asked.optimizer == "heavy_ball":
        return heavy_ball(eta, best.beta if asked.beta is None else asked.beta)
    return nesterov(eta, best.d if asked.d is None else asked.d)

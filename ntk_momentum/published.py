"""The set-up of the authors' published experiments: their network, data and loss, and what its own kernel predicts for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from .data import Dataset, load_digits, load_mnist
from .errors import require, unknown_name
from .kernel import empirical_ntk
from .method import AbstractOptimizer
from .network import TwoLayerNet
from .prediction import predict
from .training import train


def images(n: int, folder: str = "") -> Dataset:
    """n images in [0, 1] with a constant coordinate behind them as the bias, the digit 0..9 as target; MNIST if its folder is given."""
    if folder:
        plain = load_mnist(folder, n, target="digit", unit=False)
    else:
        plain = load_digits(n, key=jax.random.key(0), target="digit", unit=False)
    return Dataset(np.hstack([np.asarray(plain.X), np.ones((n, 1))]), plain.y, name=plain.name)


def network(width: int, input_size: int, *, key: Key[Array, ""], scheme: str = "authors") -> TwoLayerNet:
    """x -> Linear -> ReLU -> Linear without bias; the last of the `input_size` coordinates carries the bias.

    "authors": first layer N(0, 1/m^2), biases U(-p^(-1/2), p^(-1/2)) as PyTorch draws them, output U(-1, 1), scale 1.
    "paper": rows N(0, I), signs a = +-1, scale m^(-1/2) (section 2).
    """
    rows, biases, outputs = jax.random.split(key, 3)
    if scheme == "paper":
        return TwoLayerNet(jax.random.normal(rows, (width, input_size)), jax.random.rademacher(outputs, (width,), float))
    if scheme != "authors":
        raise unknown_name("scheme", scheme, ("authors", "paper"))
    bound = (input_size - 1) ** -0.5
    weights = jax.random.normal(rows, (width, input_size - 1)) / width
    bias = jax.random.uniform(biases, (width, 1), minval=-bound, maxval=bound)
    return TwoLayerNet(jnp.hstack([weights, bias]), jax.random.uniform(outputs, (width,), minval=-1.0, maxval=1.0), scale=1.0)


def mean_squared(f: Float[Array, " n"], y: Float[Array, " n"]) -> Float[Array, ""]:
    """MSE = |f - y|^2 / n, twice the paper's loss over n: a step eta on it is the paper's step 2 eta / n."""
    return jnp.mean(jnp.square(f - y))


def measured(net: TwoLayerNet, data: Dataset, optimizer: AbstractOptimizer, steps: int, every: int, trainable: str = "all") -> np.ndarray:
    """The MSE at steps 0, every, 2 every, ... of full-batch training of all weights (or of those named)."""
    run = train(net, data, optimizer, steps, save_every=every, loss=mean_squared, trainable=trainable, readouts=("loss",))
    return np.asarray(run.loss)


def predicted(net: TwoLayerNet, data: Dataset, optimizer: Any, counts: Any, trainable: str = "all") -> np.ndarray:
    """The MSE that the kernel at initialisation predicts at these step counts; nothing is fitted."""
    kernel, residual0 = empirical_ntk(net, data.X, trainable=trainable), jax.vmap(net)(data.X) - data.y
    scaled = eqx.tree_at(lambda method: method.eta, optimizer, 2 * optimizer.eta / data.n)
    return 2 / data.n * np.asarray(predict(kernel, residual0, scaled, counts).loss)


def sharpness(net: TwoLayerNet, data: Dataset, trainable: str = "all") -> float:
    """2 lambda_max(H(0)) / n, the largest eigenvalue as a step on the MSE meets it: gradient descent is stable below 2/eta."""
    return 2 / data.n * float(np.linalg.eigvalsh(np.asarray(empirical_ntk(net, data.X, trainable=trainable)))[-1])


def against_width(data: Dataset, methods: Mapping[str, Any], plain: Any, config: Any, progress: Any) -> Any:
    """The loss after `config.epoch` steps by method, width and seed, and what the width does to the kernel, as an xarray.Dataset.

    mse: of the authors' network. stiffness: eta times `sharpness` of its initial kernel. ratio: in the paper's parametrisation,
    hidden layer trained by `plain`, the loss over the prediction of the network's own kernel, at every second width.
    config: has widths, seeds, epoch and eta.
    """
    widths, seeds = config.widths, range(config.seeds)
    lazy = widths[::-2][::-1]
    mse = np.empty((len(methods), len(widths), len(seeds)))
    stiffness, ratio = np.empty(mse.shape[1:]), np.empty((len(lazy), len(seeds)))
    for j, width in enumerate(widths):
        for k in seeds:
            net = network(width, data.input_size, key=jax.random.key(k))
            stiffness[j, k] = config.eta * sharpness(net, data)
            for i, method in enumerate(methods.values()):
                mse[i, j, k] = measured(net, data, method, config.epoch, config.epoch)[-1]
            if width in lazy:
                wide = network(width, data.input_size, key=jax.random.key(k), scheme="paper")
                run = measured(wide, data, plain, config.epoch, config.epoch, "hidden")[-1]
                ratio[lazy.index(width), k] = run / predicted(wide, data, plain, np.array([0, config.epoch]), "hidden")[-1]
            progress(j * len(seeds) + k + 1, stiffness.size)
    runs = ("width", "seed")
    variables = {"mse": (("algorithm", *runs), mse), "stiffness": (runs, stiffness), "ratio": (("lazy_width", "seed"), ratio)}
    coords = {"algorithm": list(methods), "width": list(widths), "lazy_width": list(lazy), "seed": list(seeds)}
    return require("xarray", "experiments").Dataset(variables, coords=coords, attrs={"data": data.name, "epoch": config.epoch})


def crossing(widths: Any, stiffness: Any, limit: float) -> float:
    """The width at which eta lambda_max, interpolated, meets the limit of stability; NaN outside the widths."""
    return float(np.interp(limit, stiffness, widths, left=np.nan, right=np.nan))

"""What a run is made of, as the user chose it, and the model, the data set and the loss among it as
a problem over the trained weights, checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ..data import Dataset
from ..errors import InputError, brief, check_positive, check_real, described
from ..loss import Loss, as_targets, check_loss, check_targets, is_known, squared
from ..network.model import asked, outputs, trainable_spec
from ..numerics import Numerics
from .objective import WeightProblem
from .readout import as_table
from .two_layer import NeuronProblem


class Choices(eqx.Module):
    """What may be chosen about a run, or about every run of an ensemble: the arguments that
    `simulate`, `simulate_checkpointed`, `train`, `ensemble` and `train_ensemble` share, documented
    at `simulate`. `Run.prepare` checks them."""

    loss: Loss = eqx.field(static=True, default=squared)
    trainable: Any = None
    where: Callable | None = eqx.field(static=True, default=None)
    solver: Any = None
    readouts: Any = None
    reference: Any = None
    config: Numerics = Numerics()

    def refining(self, refine: Any) -> Choices:
        """The same for `refine=`: with the loss among the read-outs where it is a number, the
        loss's relative error. Raises `InputError` for what it cannot be."""
        if isinstance(refine, bool | np.bool_):
            return self
        check_positive("refine, the relative error of the loss asked for,", refine, example=1e-3)
        table = self.readouts
        if table is None:  # which has the loss
            return self
        if not isinstance(table, Mapping):
            table = as_table(table)
        return dataclasses.replace(self, readouts={"loss": "loss", **table})


def weights_dtype(w: PyTree) -> Any:
    """The precision of trained weights."""
    return jnp.result_type(*jax.tree.leaves(w))


def check_data(data: Any) -> None:
    """Raise `InputError` for what is no data set."""
    if not isinstance(data, Dataset):
        raise InputError(f"data must be a Dataset, got {described(data)}; try nm.Dataset(X, y).")


def weight_problem(
    model: Any, data: Any, loss: Loss, trainable: Any, where: Callable | None
) -> tuple[WeightProblem, PyTree]:
    """The loss of a model on a data set as a problem over its trained weights, and those
    weights."""
    check_data(data)
    trained = trainable_spec(model, trainable, where)
    w, frozen = eqx.partition(model, trained)
    dtype = weights_dtype(w)
    kind = asked(model)
    X = kind.as_inputs(model, data.X, dtype)
    y = as_targets(loss, data.y, dtype)
    try:
        f = jax.eval_shape(lambda: outputs(model, X))
    except InputError:
        raise
    except Exception as error:  # the user's code: anything may be raised
        raise InputError(
            f"the model must take inputs of shape {X.shape[1:]} and dtype {X.dtype}, got "
            f"{type(error).__name__}, {brief(error)}; give a model of that size."
        ) from error
    check_output(f)
    check_targets(loss, y)
    check_shapes(loss, f, y)
    problem = NeuronProblem if kind.sums_neurons else WeightProblem
    return problem(frozen, trained, X, y, loss), w


def as_reference(reference: Any, size: int, dtype: Any) -> Any:
    """The kernel that H(t) is compared with, (nk, nk) over samples and outputs, as an array."""
    check_real("reference", reference)
    kernel = jnp.asarray(reference, dtype)
    if kernel.shape != (size, size):
        raise InputError(
            f"reference must be the kernel of the data, of shape {(size, size)}, got "
            f"{kernel.shape}; try nm.infinite_ntk(data.X)."
        )
    return kernel


def check_shapes(loss: Any, f: Any, y: Any) -> None:
    """Raise `InputError` unless a loss takes outputs and targets of these shapes to a number."""
    check_loss(loss)
    known = "such as nm.squared or nm.huber(1.0)"
    labels = not is_known(loss) and not jnp.issubdtype(y.dtype, jnp.inexact)
    classes = labels and len(f.shape) == 2 and y.shape == f.shape[:1] and f.shape[1] > 1
    if f.shape != y.shape and not classes:
        raise InputError(unequal_shapes(f.shape, y.shape))
    if classes and f.shape[0] in (1, f.shape[1]) and not _takes_classes(loss, f, y):
        raise InputError(
            f"the loss takes outputs {f.shape} and targets {y.shape} only by broadcasting; it must "
            "index the outputs by the class of each sample, or the targets be one-hot, "
            "np.eye(k)[labels]."
        )
    try:
        value = jax.eval_shape(loss, f, y)
    except InputError as error:
        raise InputError(f"loss must be a function of (f, y) {known}: {error}") from error
    except Exception as error:  # the user's code: anything may be raised
        raise InputError(
            f"the loss must be a function of outputs {f.shape} and targets {y.shape}, got "
            f"{type(error).__name__}, {brief(error)}; write one of (f, y) {known}."
        ) from error
    shape = getattr(value, "shape", None)
    if shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
        got = f"shape {shape}" if shape is not None else type(value).__name__
        raise InputError(
            f"the loss must return one real number, got {got}; take a sum or a mean over samples "
            f"{known}."
        )


def _takes_classes(loss: Loss, f: Any, y: Any) -> bool:
    """Whether a loss of (n, k) and (n,) is one for more samples too, which broadcasting is not."""
    more = f.shape[0] + f.shape[1] + 1
    try:
        jax.eval_shape(
            loss,
            jax.ShapeDtypeStruct((more, f.shape[1]), f.dtype),
            jax.ShapeDtypeStruct((more,), y.dtype),
        )
    except Exception:  # the user's code: anything may be raised
        return False
    return True


def check_output(f: Any) -> None:
    """Raise where a model returns something else than one array."""
    if not hasattr(f, "shape"):
        raise InputError(
            "the model must return one array for one input, got a "
            f"{type(f).__name__}; return the prediction alone."
        )
    if not jnp.issubdtype(f.dtype, jnp.floating):
        raise InputError(
            f"the model must return real floating numbers, got {f.dtype}; wrap it in a function "
            "that does."
        )


def unequal_shapes(f: tuple[int, ...], y: tuple[int, ...]) -> str:
    """What to say of outputs and targets of different shapes."""
    remedy = "; give one target for each output"
    if len(f) == 2 and y == f[:1] and f[1] == 1:
        remedy = '; try out_size="scalar" in eqx.nn.MLP, or targets y[:, None]'
    elif len(y) == 2 and f == y[:1]:
        remedy = "; try targets y.ravel()" if y[1] == 1 else f"; try a model of {y[1]} outputs"
    return (
        f"the model's outputs on the data and the targets y must have one shape, got {f} and {y}"
        f"{remedy}."
    )

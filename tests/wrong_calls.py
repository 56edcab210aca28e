"""Wrong calls of every public name, as data: what each argument is, and what is wrong for such an
argument.

`CALLS` names, for each public name, a right call: argument -> (right value, kind). `KINDS` has the
wrong values of each kind. `wrong_calls()` puts every wrong value in its argument's place, one at a
time, and `TOGETHER` adds calls whose arguments are wrong only together.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
import numpy as np
import optax
from scipy import sparse

import ntk_momentum as nm

jax.config.update("jax_enable_x64", True)
nan, inf = float("nan"), float("inf")
key = jax.random.key(0)
eye, ones = np.eye(5), np.ones(5)
data = nm.sphere(5, 4, key=key)
net = nm.init_two_layer(16, 4, key=key)
mlp = eqx.nn.MLP(4, "scalar", 3, 1, key=key)
FOLDER = Path(tempfile.mkdtemp(prefix="wrong_calls-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
np.savez(FOLDER / "mine.npz", X=np.eye(3), y=np.ones(3))
for _name, _array in (("images-idx3", np.eye(5, 4)), ("labels-idx1", np.arange(5))):
    (FOLDER / f"train-{_name}-ubyte").write_bytes(
        struct.pack(f">HBB{_array.ndim}I", 0, 8, _array.ndim, *_array.shape)
        + (_array + 1).astype(np.uint8).tobytes()
    )

NUMBER = {
    "text": "0.5",
    "None": None,
    "True": True,
    "nan": nan,
    "complex": 1j,
    "a list of text": ["a"],
}
KINDS: dict[str, dict[str, Any]] = {
    "positive": NUMBER
    | {"0": 0.0, "-1": -1.0, "inf": inf, "an array with -1": np.array([1.0, -1.0])},
    "not negative": NUMBER | {"-1": -1.0, "inf": inf},
    "momentum": NUMBER | {"-0.1": -0.1, "1": 1.0},
    "share": NUMBER | {"0": 0.0, "1": 1.0, "-1": -1.0},
    "whole": {"text": "3", "None": None, "True": True, "2.5": 2.5, "0": 0, "-1": -1, "nan": nan},
    "key": {
        "0": 0,
        "None": None,
        "text": "key",
        "three numbers": np.ones(3),
        "keys": jax.random.split(key),
    },
    "times": {
        "none": [],
        "text": "x",
        "None": None,
        "a list of text": ["a", "b"],
        "falling": [1.0, 0.0],
        "twice the same": [0.0, 1.0, 1.0],
        "negative": [-1.0, 1.0],
        "nan": [0.0, nan],
        "complex": [0.0, 1j],
        "a matrix": [[0.0, 1.0], [0.0, 2.0]],
        "True": [True, False],
    },
    "data": {
        "None": None,
        "X": np.eye(5),
        "a pair": (np.eye(5), ones),
        "text": "digits",
        "the class": nm.Dataset,
    },
    "model": {
        "None": None,
        "3": 3,
        "text": "mlp",
        "the class": eqx.nn.MLP,
        "a function": lambda x: x.sum(),
        "one of other inputs": eqx.nn.MLP(7, "scalar", 3, 1, key=key),
        "dropout in training": eqx.nn.Sequential(
            [eqx.nn.Linear(4, 1, key=key), eqx.nn.Dropout(0.5)]
        ),
        "complex": eqx.nn.Linear(4, "scalar", dtype=complex, key=key),
        "half": eqx.nn.Linear(4, "scalar", dtype=jnp.bfloat16, key=key),
    },
    "flow": {
        "None": None,
        "0.5": 0.5,
        "the class": nm.HeavyBall,
        "an optimizer": nm.heavy_ball(0.1, 0.5),
        "text": "heavy_ball",
        "several": [nm.HeavyBall(1.0)],
        "stacked": nm.HeavyBall(np.ones(3)),
    },
    "flows": {
        "None": None,
        "0.5": 0.5,
        "the class": nm.HeavyBall,
        "an optimizer": nm.heavy_ball(0.1, 0.5),
        "text": "heavy_ball",
        "none": [],
        "stacked": nm.HeavyBall(np.ones(3)),
    },
    "flow or optimizer": {
        "None": None,
        "0.5": 0.5,
        "the class": nm.HeavyBall,
        "text": "heavy_ball",
        "optax's": optax.sgd(0.1),
        "stacked": nm.HeavyBall(np.ones(3)),
    },
    "optimizer": {
        "None": None,
        "0.1": 0.1,
        "not called": nm.heavy_ball,
        "a flow": nm.HeavyBall(1.0),
        "text": "adam",
        "optax's not called": optax.adam,
    },
    "our optimizer": {
        "None": None,
        "0.1": 0.1,
        "not called": nm.heavy_ball,
        "a flow": nm.HeavyBall(1.0),
        "text": "adam",
        "optax's": optax.sgd(0.1),
    },
    "kernel": {
        "None": None,
        "text": "x",
        "a vector": ones,
        "not square": np.ones((5, 4)),
        "nan": np.full((5, 5), nan),
        "not symmetric": np.triu(np.ones((5, 5))),
        "complex": 1j * eye,
        "a data set": data,
        "rows of unequal length": [[1.0], [1.0, 2.0]],
        "none": np.zeros((0, 0)),
        "masked": np.ma.masked_array(eye, eye),
    },
    "negative kernel": {"negative": -eye},
    "vector": {
        "None": None,
        "text": "x",
        "too short": np.ones(4),
        "nan": np.full(5, nan),
        "complex": 1j * ones,
        "a data set": data,
        "of text": ["a"] * 5,
        "none": [],
        "masked": np.ma.masked_array(ones, eye[0]),
    },
    "values": {
        "None": None,
        "text": "x",
        "too short": np.ones(4),
        "complex": 1j * ones,
        "a data set": data,
        "of text": ["a"] * 5,
    },
    "inputs": {
        "None": None,
        "text": "x",
        "nan": np.full((5, 4), nan),
        "complex": 1j * np.ones((5, 4)),
        "of text": [["a"] * 4] * 5,
        "none": np.zeros((0, 4)),
        "a number": 3.0,
        "a data set": data,
        "rows of unequal length": [[1.0], [1.0, 2.0]],
        "masked": np.ma.masked_array(np.eye(5, 4), np.eye(5, 4)),
        "sparse": sparse.eye_array(5, 4),
    },
    "eigenvalues": {
        "None": None,
        "text": "x",
        "nan": [nan],
        "complex": [1j],
        "negative": [-1.0],
        "none": [],
    },
    "name": {"misspelt": "misspelt", "3": 3, "a list": ["x"]},
    "config": {
        "1e-3": 1e-3,
        "None": None,
        "text": "x",
        "a mapping": {"tol": 1e-3},
        "the class": nm.Numerics,
    },
    "loss": {
        "not called": nm.huber,
        "None": None,
        "text": "squared",
        "3": 3,
        "of one argument": lambda f: f.sum(),
        "a vector": lambda f, y: f - y,
    },
    "trainable": {"3": 3, "misspelt": "hiden", "a list": [True], "nothing": False},
    "where": {"3": 3, "unknown": lambda model: model.nothing, "text": "hidden"},
    "readouts": {
        "misspelt": "los",
        "3": 3,
        "a list misspelt": ["los"],
        "a mapping misspelt": {"a": "los"},
        "a field": {"ok": "loss"},
        "a list of numbers": [3],
        "a mapping of numbers": {"a": 3},
        "a function": lambda s: s.loss,
        "a number's name": {3: "loss"},
    },
    "solver": {
        "text": "tsit5",
        "the class": diffrax.Tsit5,
        "3": 3,
        "implicit": diffrax.ImplicitEuler(),
    },
    "reference": {"of another size": np.eye(3), "text": "x", "nan": np.full((5, 5), nan), "3": 3},
    "progress": {"3": 3, "text": "bar"},
    "optimizers": {"3": 3, "none": [], "a flow": [nm.HeavyBall(1.0)], "text": "heavy_ball"},
    "flag": {"text": "no", "None": None, "2": 2, "an array": np.ones(2)},
    "path": {
        "None": None,
        "3": 3,
        "nothing": "",
        "absent": "no/such/thing",
        "an array": np.ones(2),
    },
    "file to write": {
        "None": None,
        "3": 3,
        "nothing": "",
        "a folder": FOLDER,
    },
    "dtype": {"text": "float33", "half": jnp.float16, "int": int, "3": 3, "complex": complex},
    "activation": {"text": "relu", "None": None, "3": 3, "of another shape": lambda z: z.sum()},
    "duplicates": {"misspelt": "dorp", "3": 3, "True": True},
}


class Call(NamedTuple):
    """A call: `name(**arguments)`, and the argument that is wrong, with its value."""

    name: str
    argument: str
    what: str
    value: Any
    make: Callable[[], Any]

    def __str__(self) -> str:
        return f"{self.name}: {self.argument} is {self.what}"


_model = {"trainable": (None, "trainable"), "where": (None, "where")}
_run = _model | {
    "loss": (nm.squared, "loss"),
    "readouts": (["loss"], "readouts"),
    "reference": (None, "reference"),
    "progress": (None, "progress"),
    "config": (nm.Numerics(), "config"),
}
_ensemble = {
    "data": (data, "data"),
    "widths": (8, "whole"),
    "seeds": (1, "whole"),
    "loss": (nm.squared, "loss"),
    "trainable": (None, "trainable"),
    "where": (None, "where"),
    "readouts": (["loss"], "readouts"),
    "reference": (None, "reference"),
    "progress": (None, "progress"),
    "config": (nm.Numerics(), "config"),
    "activation": (jax.nn.relu, "activation"),
    "antisymmetric": (False, "flag"),
    "dtype": (None, "dtype"),
    "model": (None, {"3": 3, "a model": mlp, "the class": eqx.nn.MLP, "of no width": lambda: mlp}),
    "strategy": (None, "name"),
    "layout": (None, "name"),
    "unit_runs": (32, "whole"),
    "memory_limit": (None, {"text": "4GB", "-1": -1, "nan": nan, "True": True}),
}
_kernel = _model | {
    "method": ("auto", "name"),
    "block_size": (None, {"text": "3", "0": 0, "2.5": 2.5, "True": True, "nan": nan}),
    "output": ("trace-mean", "name"),
}
_either = KINDS["flow or optimizer"]
_spectral = {"lam_min": (1.0, "positive"), "lam_max": (4.0, "positive")}

CALLS: dict[str, dict[str, tuple[Any, Any]]] = {
    "Dataset": {
        "X": (np.eye(5), "inputs"),
        "y": (ones, "vector"),
        "on_duplicates": ("error", "duplicates"),
        "name": ("mine", {"3": 3, "None": None}),
    },
    "encode_labels": {
        "labels": (
            [1, 2, 3],
            {"None": None, "nan": [1.0, nan], "a mix": [1, "a"], "complex": [1j]},
        ),
        "target": (None, "name"),
        "classes": (None, {"3": 3, "others": [7, 8], "text": "ab"}),
    },
    "load_digits": {
        "n": (5, "whole"),
        "key": (key, "key"),
        "target": ("parity", "name"),
        "unit": (True, "flag"),
    },
    "load_mnist": {"folder": (FOLDER, "path"), "n": (5, "whole")},
    "load_npz": {
        "path": (FOLDER / "mine.npz", "path"),
        "target": (None, "name"),
        "on_duplicates": ("error", "duplicates"),
    },
    "load_table": {
        "table": (
            {"a": [1.0, 2.0], "b": [3.0, 4.0]},
            {
                "None": None,
                "3": 3,
                "absent": "no/such/file.csv",
                "X": np.eye(3),
                "nothing": "",
                "one column": {"a": [1.0]},
            },
        ),
        "label": ("b", {"misspelt": "bb", "3": 3}),
        "target": (None, "name"),
        "features": (None, {"text": "a", "3": 3, "none": [], "misspelt": ["aa"], "numbers": [3]}),
        "unit": (False, "flag"),
        "on_duplicates": ("error", "duplicates"),
    },
    "normalize": {"X": (np.eye(5), "inputs")},
    "standardize": {"X": (np.eye(5), "inputs")},
    "sphere": {"n": (5, "whole"), "p": (4, "whole"), "key": (key, "key")},
    "huber": {"delta": (1.0, "positive")},
    "squared": {"f": (ones, "values"), "y": (ones, "values")},
    "logistic": {"f": (ones, "values"), "y": (ones, "values")},
    "softmax_cross_entropy": {"f": (eye, "values"), "y": (eye, "values")},
    "TwoLayerNet": {
        "hidden": (
            np.eye(3),
            {"None": None, "text": "x", "a vector": np.ones(3), "complex": 1j * np.eye(3)},
        ),
        "output": (
            np.ones(3),
            {"None": None, "text": "x", "too short": np.ones(2), "complex": 1j * np.ones(3)},
        ),
        "activation": (jax.nn.relu, "activation"),
        "scale": (
            None,
            {"text": "x", "-1": -1.0, "nan": nan, "True": True, "0": 0.0, "complex": 1j},
        ),
    },
    "init_two_layer": {
        "width": (8, "whole"),
        "input_size": (4, "whole"),
        "key": (key, "key"),
        "activation": (jax.nn.relu, "activation"),
        "antisymmetric": (False, "flag"),
        "dtype": (None, "dtype"),
        "scale": (None, {"text": "x", "-1": -1.0, "nan": nan, "True": True, "0": 0.0}),
    },
    "Numerics": {
        "tol": (1e-5, "positive"),
        "max_steps": (100, "whole"),
        "precision": ("highest", "name"),
    },
    "empirical_ntk": {
        "model": (net, "model"),
        "x1": (data.X, "inputs"),
        "x2": (None, {"text": "x", "others": np.ones((5, 3)), "nan": np.full((5, 4), nan)}),
        **_kernel,
        "per_layer": (False, "flag"),
        "progress": (None, "progress"),
    },
    "plan_ntk": {
        "model": (net, "model"),
        "x1": (data.X, "inputs"),
        "x2": (None, {"text": "x", "others": np.ones((5, 3))}),
        **_kernel,
    },
    "ntk_operator": {
        "model": (net, "model"),
        "x": (data.X, "inputs"),
        **_model,
        "block_size": _kernel["block_size"],
    },
    "extreme_eigenvalues": {
        "operator": (
            lineax.MatrixLinearOperator(jnp.eye(5), lineax.symmetric_tag),
            {
                "None": None,
                "a matrix": eye,
                "a model": net,
                "not square": lineax.MatrixLinearOperator(jnp.ones((5, 4))),
            },
        ),
        "key": (key, "key"),
        "order": (3, "whole"),
        "progress": (None, "progress"),
        "rtol": (None, {"text": "x", "0": 0.0, "nan": nan, "True": True, "complex": 1j}),
        "most": (10, "whole"),
    },
    "fully_connected_ntk": {
        "depth": (2, {"text": "3", "None": None, "True": True, "2.5": 2.5, "-1": -1, "nan": nan}),
        "activation": (jax.nn.relu, {"text": "relu", "None": None, "3": 3}),
        "weight_std": (1.0, NUMBER | {"-1": -1.0, "too many": [1.0] * 7, "inf": inf}),
        "bias_std": (0.0, NUMBER | {"-1": -1.0, "too many": [1.0] * 7, "inf": inf}),
        "order": (10, "whole"),
    },
    "infinite_ntk": {
        "x1": (data.X, "inputs"),
        "x2": (None, {"text": "x", "others": np.ones((5, 3)), "nan": np.full((5, 4), nan)}),
        "trainable": (None, "name"),
    },
    "monte_carlo_ntk": {
        "make": (
            lambda key: net,
            {
                "None": None,
                "a model": mlp,
                "3": 3,
                "of no key": lambda: mlp,
                "nothing": lambda key: None,
            },
        ),
        "x1": (data.X, "inputs"),
        "key": (key, "key"),
        "samples": (2, KINDS["whole"] | {"1": 1}),
        "output": ("trace-mean", "name"),
        "progress": (None, "progress"),
    },
    "spectrum": {
        "kernel": (eye, "kernel"),
        "y": (
            ones,
            {k: v for k, v in KINDS["vector"].items() if k != "None"} | {"zero": np.zeros(5)},
        ),
        "progress": (None, "progress"),
    },
    "Friction": {
        "b": (
            lambda t: 1 / (1 + t),
            {
                "3": 3.0,
                "None": None,
                "text": "x",
                "negative": lambda t: -1.0,
                "infinite": lambda t: 1 / t,
                "of no time": lambda: 1.0,
                "text out": lambda t: "x",
            },
        )
    },
    "HeavyBall": {"b": (1.0, "not negative")},
    "HessianDamped": {
        "b": (1.0, "not negative"),
        "gamma": (0.1, "not negative"),
        "pull": (1.0, "positive"),
    },
    "HessianDampedNesterov": {"d": (3.0, "positive"), "gamma": (0.1, "not negative")},
    "MultiStepMomentum": {
        "b": (1.0, "not negative"),
        "beta2": (0.1, NUMBER | {"1": 1.0, "-1": -1.0}),
    },
    "Nesterov": {"d": (3.0, "positive")},
    "NesterovStronglyConvex": {"mu": (1.0, "positive")},
    "RestartedNesterov": {
        "d": (3.0, "positive"),
        "scheme": ("speed", {"misspelt": "sped", "None": None, "0": 0.0, "-1": -1.0, "True": True}),
    },
    "gradient_descent": {"eta": (0.1, "positive")},
    "heavy_ball": {"eta": (0.1, "positive"), "beta": (0.5, "momentum")},
    "hessian_damped": {
        "eta": (0.1, "positive"),
        "beta": (0.5, "momentum"),
        "delta": (0.1, "not negative"),
    },
    "high_resolution_heavy_ball": {"eta": (0.1, "not negative"), "mu": (1.0, "positive")},
    "high_resolution_nesterov": {"eta": (0.1, "not negative"), "mu": (1.0, "positive")},
    "multi_step_momentum": {
        "eta": (0.1, "positive"),
        "beta1": (0.5, NUMBER | {"1": 1.0}),
        "beta2": (0.1, NUMBER | {"1": 1.0, "-1": -1.0}),
    },
    "nesterov": {"eta": (0.1, "positive"), "d": (3.0, "positive")},
    "nesterov_torch": {"eta": (0.1, "positive"), "d": (3.0, "positive")},
    "nesterov_strongly_convex": {"eta": (0.1, "positive"), "mu": (1.0, "positive")},
    "constant_nesterov": {"eta": (0.1, "positive"), "beta": (0.5, "momentum")},
    "triple_momentum": {"mu": (1.0, "positive"), "smoothness": (4.0, "positive")},
    "restarted_nesterov": {
        "eta": (0.1, "positive"),
        "d": (3.0, "positive"),
        "scheme": (
            "gradient",
            {"misspelt": "gradien", "None": None, "0": 0, "-1": -1, "2.5": 2.5, "True": True},
        ),
    },
    "restarted_response": {
        "eigenvalue": (1.0, NUMBER | {"-1": -1.0}),
        "d": (3.0, "positive"),
        "period": (1.0, "positive"),
        "t": (0.5, NUMBER | {"-1": -1.0}),
    },
    "amplification": {
        "optimizer": (nm.heavy_ball(0.1, 0.5), "our optimizer"),
        "eigenvalues": ([1.0], "eigenvalues"),
    },
    "spectral_radius": {
        "optimizer": (nm.heavy_ball(0.1, 0.5), "our optimizer"),
        "eigenvalues": ([1.0], "eigenvalues"),
    },
    "convergence_rate": {"optimizer": (nm.heavy_ball(0.1, 0.5), "our optimizer"), **_spectral},
    "stability_limit": {"optimizer": (nm.heavy_ball(0.1, 0.5), "our optimizer")},
    "best_parameters": {"method": ("heavy_ball", "name"), **_spectral},
    "best_restart_period": {"lam_min": (1.0, "positive"), "d": (3.0, "positive")},
    "response": {
        "eigenvalues": ([1.0], "eigenvalues"),
        "flow": (nm.HeavyBall(1.0), "flow"),
        "ts": ([0.0, 1.0], "times"),
    },
    "predict": {
        "kernel": (eye, KINDS["kernel"] | KINDS["negative kernel"]),
        "residual0": (ones, "vector"),
        "flow": (nm.HeavyBall(1.0), "flow or optimizer"),
        "ts": ([0.0, 1.0], "times"),
        "test_kernel": (
            None,
            {
                "text": "x",
                "others": np.ones((2, 3)),
                "nan": np.full((2, 5), nan),
                "complex": 1j * np.ones((2, 5)),
            },
        ),
        "test0": (None, {"without a test kernel": ones}),
        "ridge": (None, {"text": "x", "-1": -1.0, "nan": nan, "True": True, "complex": 1j}),
        "velocity0": (None, {k: v for k, v in KINDS["vector"].items() if k != "None"}),
        "progress": (None, "progress"),
    },
    "predict_law": {
        "ntk": (eye, KINDS["kernel"] | KINDS["negative kernel"]),
        "nngp": (eye, KINDS["kernel"] | KINDS["negative kernel"]),
        "y": (
            ones,
            {k: v for k, v in KINDS["vector"].items() if k != "too short"}
            | {"too long": np.ones(6)},
        ),
        "flow": (nm.HeavyBall(1.0), "flow or optimizer"),
        "ts": ([0.0, 1.0], "times"),
        "progress": (None, "progress"),
    },
    "simulate": {
        "model": (net, "model"),
        "data": (data, "data"),
        "flow": (nm.HeavyBall(1.0), "flow"),
        "ts": ([0.0, 1.0], "times"),
        **_run,
        "solver": (None, "solver"),
        "refine": (False, {"text": "x", "None": None, "-1": -1.0, "nan": nan}),
    },
    "simulate_checkpointed": {
        "model": (net, "model"),
        "data": (data, "data"),
        "flow": (nm.HeavyBall(1.0), "flow"),
        "ts": ([0.0, 1.0], "times"),
        "path": (FOLDER / "run.checkpoint", "file to write"),
        "every": (10, "whole"),
        "refine": (False, {"text": "x", "None": None, "-1": -1.0, "nan": nan}),
    },
    "simulate_error": {
        "kernel": (eye, KINDS["kernel"] | KINDS["negative kernel"]),
        "residual0": (ones, "vector"),
        "flow": (nm.HeavyBall(1.0), "flow"),
        "ts": ([0.0, 1.0], "times"),
        "solver": (None, "solver"),
        "readouts": (["loss"], "readouts"),
        "progress": (None, "progress"),
        "config": (nm.Numerics(), "config"),
    },
    "simulate_function": {
        "kernel": (eye, KINDS["kernel"] | KINDS["negative kernel"]),
        "f0": (ones, "vector"),
        "y": (-ones, "vector"),
        "flow": (nm.HeavyBall(1.0), "flow"),
        "ts": ([0.0, 1.0], "times"),
        "loss": (nm.squared, "loss"),
        "solver": (None, "solver"),
        "readouts": (["loss"], "readouts"),
        "progress": (None, "progress"),
        "config": (nm.Numerics(), "config"),
        "test_kernel": (
            None,
            {"text": "x", "others": np.ones((2, 3)), "nan": np.full((2, 5), nan)},
        ),
    },
    "train": {
        "model": (net, "model"),
        "data": (data, "data"),
        "optimizer": (nm.heavy_ball(0.1, 0.5), "optimizer"),
        "steps": (2, "whole"),
        "save_every": (1, "whole"),
        "batch_size": (
            2,
            {k: v for k, v in KINDS["whole"].items() if k != "None"}
            | {"more than there are": 10**6},
        ),
        "key": (key, {k: v for k, v in KINDS["key"].items() if k != "None"}),
        "sampling": ("without_replacement", "name"),
        "callback": (None, {"3": 3, "text": "print"}),
        "state": (None, {"a dictionary": {}, "3": 3}),
        **_run,
    },
    "ensemble": {
        **_ensemble,
        "flows": (nm.HeavyBall(1.0), "flows"),
        "ts": ([0.0, 1.0], {k: v for k, v in KINDS["times"].items() if k != "a matrix"}),
        "solver": (None, "solver"),
        "refine": (False, {"text": "x", "None": None, "-1": -1.0, "nan": nan}),
    },
    "train_ensemble": {
        **_ensemble,
        "optimizers": (nm.heavy_ball(0.1, 0.5), "optimizer"),
        "steps": (2, "whole"),
        "save_every": (1, "whole"),
    },
    "certify": {
        "trajectory": (
            None,
            {"None": None, "a data set": data, "a prediction": nm.predict, "text": "run.nc"},
        ),
    },
    "advise": {
        "kernel": (eye, KINDS["kernel"] | {"negative": -eye, "zero": 0 * eye}),
        "residual0": (ones, KINDS["vector"] | {"zero": 0 * ones}),
        "target": (1e-3, "share"),
        "margin": (0.1, "not negative"),
        "objective": ("steps", "name"),
        "max_steps": (100, "whole"),
        "progress": (None, "progress"),
        "probe": (None, {"an array": eye, "3": 3}),
        "optimizers": (None, "optimizers"),
    },
    "diagnose": {
        "model": (net, "model"),
        "data": (data, "data"),
        "optimizer": (
            nm.heavy_ball(0.1, 0.5),
            {k: v for k, v in KINDS["optimizer"].items() if k != "None"},
        ),
        "steps": (2, "whole"),
        "saves": (1, "whole"),
        "products": (None, KINDS["whole"] | {"None": "all"}),
        "loss": (nm.squared, "loss"),
        **_model,
        "batch_size": (
            2,
            {k: v for k, v in KINDS["whole"].items() if k != "None"}
            | {"more than there are": 10**6},
        ),
        "key": (key, {k: v for k, v in KINDS["key"].items() if k != "None"}),
        "sampling": ("without_replacement", "name"),
        "config": (nm.Numerics(), "config"),
    },
    "linearize": {
        "model": (net, {k: v for k, v in KINDS["model"].items() if k != "one of other inputs"}),
        **_model,
    },
    "open_results": {"folder": (FOLDER, "path")},
    "verify": {
        "claims": ("eq-2.1", {"misspelt": "thm-9", "3": 3, "a list of numbers": [3]}),
        "size": ("smoke", "name"),
        "data": (None, {k: v for k, v in KINDS["data"].items() if k != "None"}),
        "progress": (None, "progress"),
    },
    "LazyExponential": {
        "order": (2, {"0": 0, "3": 3, "text": "2", "None": None, "2.5": 2.5, "True": True})
    },
    "KrylovExponential": {"size": (128, "whole")},
    "infinite_ntk_operator": {
        "x1": (data.X, "inputs"),
        "x2": (None, {"text": "x", "others": np.ones((5, 3)), "nan": np.full((5, 4), nan)}),
        "trainable": (None, "name"),
        "network": (None, {"3": 3, "text": "deep", "a model": mlp}),
        "tile": (1024, {"text": "3", "True": True, "2.5": 2.5, "0": 0, "-1": -1, "nan": nan}),
    },
    "modes": {
        "kernel": (eye, KINDS["kernel"] | KINDS["negative kernel"]),
        "residual0": (ones, "vector"),
        "flow": (nm.HeavyBall(1.0), {k: v for k, v in _either.items() if k != "None"}),
        "ts": (
            [0.0, 1.0],
            {k: KINDS["times"][k] for k in ("none", "text", "negative", "nan", "complex", "True")},
        ),
        "products": (None, KINDS["whole"] | {"None": "all"}),
        "tol": (None, {"text": "x", "0": 0.0, "nan": nan, "True": True, "-1": -1.0}),
        "ridge": (None, {"text": "x", "-1": -1.0, "nan": nan, "True": True, "complex": 1j}),
        "progress": (None, "progress"),
    },
    "critical_batch": {
        "optimizer": (nm.heavy_ball(0.1, 0.5), "our optimizer"),
        "kernel": (eye, KINDS["kernel"] | KINDS["negative kernel"]),
        "share": (0.9, "share"),
        "sampling": ("without_replacement", "name"),
        "progress": (None, "progress"),
    },
    "critical_step": {
        "optimizer": (nm.heavy_ball(0.1, 0.5), "our optimizer"),
        "kernel": (eye, KINDS["kernel"] | KINDS["negative kernel"]),
        "batch_size": (2, KINDS["whole"] | {"6": 6}),
        "sampling": ("without_replacement", "name"),
        "progress": (None, "progress"),
    },
    "predict_stochastic": {
        "kernel": (eye, KINDS["kernel"] | KINDS["negative kernel"]),
        "residual0": (ones, "vector"),
        "optimizer": (nm.heavy_ball(0.1, 0.5), "our optimizer"),
        "steps": ([0, 2], KINDS["times"] | {"halves": [0.5, 1.5]}),
        "batch_size": (2, KINDS["whole"] | {"6": 6}),
        "sampling": ("without_replacement", "name"),
        "method": ("exact", "name"),
        "runs": (4, "whole"),
        "probe": (None, {"an array": eye, "3": 3}),
        "progress": (None, "progress"),
    },
    "simulate_stochastic": {
        "kernel": (eye, KINDS["kernel"] | KINDS["negative kernel"]),
        "residual0": (ones, "vector"),
        "flow": (nm.HeavyBall(1.0), "flow"),
        "ts": ([0.0, 0.1], "times"),
        "h": (0.1, "positive"),
        "batch_size": (2, KINDS["whole"] | {"6": 6}),
        "runs": (2, "whole"),
        "key": (key, "key"),
        "sampling": ("without_replacement", "name"),
        "solver": (None, {"text": "euler", "Runge-Kutta": diffrax.Tsit5(), "3": 3}),
        "loss": (nm.squared, "loss"),
        "trainable": (None, {"of no model": "hidden"}),
        "where": (None, {"of no model": len}),
        "progress": (None, "progress"),
    },
    "run_experiment": {
        "name": ("three_flows", "name"),
        "size": ("smoke", "name"),
        "out": (
            FOLDER / "results",
            {"None": None, "3": 3, "nothing": "", "a file": FOLDER / "mine.npz"},
        ),
    },
    "RungeKutta": {
        "method": (
            diffrax.Tsit5(),
            {
                "text": "tsit5",
                "None": None,
                "the class": diffrax.Tsit5,
                "implicit": diffrax.ImplicitEuler(),
                "no error": diffrax.Euler(),
            },
        )
    },
}
"""Of every public name that is called: argument -> (a right value, what may be wrong with it)."""

TOGETHER: dict[str, str] = {
    "nm.monte_carlo_ntk(MAKE, data.X, key=key, per_layer=True)": "no per_layer=, got True",
    "nm.init_two_layer(7, 4, key=key, antisymmetric=True)": "even, got 7; try 8",
    "nm.best_parameters('heavy_ball', 4.0, 1.0)": "lam_max - lam_min must",
    "nm.convergence_rate(nm.heavy_ball(0.1, 0.5), 4.0, 1.0)": "lam_max - lam_min must",
    "nm.triple_momentum(4.0, 1.0)": "smoothness - mu must",
    "nm.nesterov_strongly_convex(2.0, 1.0)": "1 - sqrt.mu eta. must",
    "nm.multi_step_momentum(0.1, 0.9, 0.5)": "beta1 . beta2 < 1",
    "nm.HeavyBall(10.0).discretize(1.0)": "Take h <= 2/b",
    "nm.HeavyBall(1.0).discretize(0)": "step h must",
    "nm.amplification(nm.nesterov(0.1, 3.0), 1.0)": "changes from step to step",
    "nm.stability_limit(nm.nesterov(0.1, 3.0))": "changes from step to step",
    "nm.restarted_nesterov(0.1, 3.0, 'function').update(ones, STATE)": "needs update",
    "nm.RestartedNesterov(3.0).mode(1.0, 1.0)": "depend on all eigenmodes",
    "nm.train(net, data, nm.heavy_ball(0.1, 0.5), 5, save_every=2)": "try steps=6",
    "nm.train_ensemble(data, nm.heavy_ball(0.1, 0.5), 8, 1, 5, save_every=2)": "try steps=6",
    "nm.ensemble(data, nm.HeavyBall(1.0), [8, 8], 1, [0.0, 1.0])": "widths must be distinct",
    "nm.ensemble(data, nm.HeavyBall(1.0), 8, [1, 1], [0.0, 1.0])": "seeds must be distinct",
    "nm.ensemble(data, nm.HeavyBall(1.0), [], 1, [0.0, 1.0])": "widths must hold at least one",
    "nm.ensemble(data, nm.HeavyBall(1.0), 8, [], [0.0, 1.0])": "seeds must hold at least one",
    "nm.ensemble(data, FLOW, 8, 1, [0.0, 1.0], readout=['loss'])": "unknown argument 'readout'",
    "nm.train_ensemble(data, STEP, 8, 1, 2, unit_run=2)": "Did you mean 'unit_runs'",
    "nm.ensemble([], nm.HeavyBall(1.0), 8, 1, [0.0, 1.0])": "data must hold at least one",
    "nm.ensemble(data, nm.HeavyBall(1.0), 8, 'two', [0.0, 1.0])": "seeds must be a whole number",
    "nm.ensemble(data, nm.HeavyBall(1.0), '128', 1, [0.0, 1.0])": "widths must be a whole number",
    "nm.ensemble(data, nm.HeavyBall(1.0), 7, 1, [0.0, 1.0], antisymmetric=True)": "even, got 7",
    "nm.ensemble(data, nm.HeavyBall(1.0), 8, 1, [[0.0, 1.0], [0.0, 2.0]])": "ts must be",
    "nm.ensemble(data, FLOW, 8, 1, [0.0, 1.0], model=MAKE, layout='neurons')": "leave",
    "nm.ensemble(data, FLOW, 8, 1, [0.0, 1.0], model=MAKE, activation=jnp.tanh)": "model=",
    "nm.ensemble(labelled, FLOW, 8, 1, [0.0, 1.0], loss=nm.logistic)": "logistic takes",
    "nm.train_ensemble(labelled, STEP, 8, 1, 2, loss=nm.logistic)": "logistic takes",
    "nm.simulate(net, labelled, nm.HeavyBall(1.0), [0.0, 1.0], loss=nm.logistic)": "logistic takes",
    "nm.train(net, data, STEP, 2, loss=nm.softmax_cross_entropy)": "softmax takes",
    "nm.simulate(mlp, two, nm.HeavyBall(1.0), [0.0, 1.0])": "must have one shape",
    "nm.simulate(net, data, nm.HeavyBall(1.0), [0.0], trainable='all', where=WHERE)": "both",
    "nm.simulate(mlp, data, nm.HeavyBall(1.0), [0.0], trainable='hidden')": "names layers",
    "nm.simulate(mlp, data, nm.HeavyBall(1.0), [0.0], solver=nm.LazyExponential())": "TwoLayerNet",
    "nm.predict(eye, ones, nm.heavy_ball(0.1, 0.5), [0.5])": "step counts",
    "nm.predict(eye, ones, nm.HeavyBall(1.0), [1.0], test0=ones)": "test_kernel",
    "nm.empirical_ntk(net, ones)": "the model must",
    "nm.Dataset([[1.0], [1.0]], [1, -1])": "identical",
    "nm.Dataset([[0.0], [1.0]], [1, -1])": "zero",
    "nm.normalize([[0.0], [1.0]])": "no direction",
    "nm.encode_labels(['a', 'b', 'c'], 'sign')": "two classes",
    "nm.encode_labels([0.5, 1.5], 'class')": "integers",
    "nm.load_digits(1798, key=key)": "between 1 and 1797",
    "nm.load_npz(FOLDER)": "folder",
    "nm.load_npz('x.csv')": "load_table",
    "nm.load_table('x.npz')": "load_npz",
    "nm.open_results(FOLDER)": "holds no units",
    "nm.certify(RUN)": "lacks the read-outs",
}
"""Calls that are wrong only as a whole, and what their messages hold."""

labelled = nm.Dataset(data.X, np.arange(5.0))
two = nm.Dataset(data.X, np.ones((5, 2)))


def MAKE(width: int, key: Any) -> Any:
    """A model for every width."""
    return eqx.nn.MLP(4, "scalar", width, 1, key=key)


def made_run() -> Any:
    """A run without any read-out of a certificate."""
    whole = jnp.zeros((), int)
    return nm.Trajectory(jnp.zeros(1), {"loss": jnp.zeros(1)}, None, whole, whole, whole)


FLOW, STEP, WHERE = nm.HeavyBall(1.0), nm.heavy_ball(0.1, 0.5), lambda net: net.hidden
RUN, STATE = made_run(), nm.restarted_nesterov(0.1, 3.0).init(ones)
NO_CALLS = {
    "AbstractFlow": "a base class",
    "AbstractIntegrator": "a base class",
    "AbstractMomentumFlow": "a base class",
    "AbstractOptimizer": "a base class",
    "GradientFlow": "it takes nothing",
    "InputError": "an exception",
    "MissingPackage": "an exception",
    "Observer": "a base class",
    "Diffusion": "simulate_stochastic makes it",
    "Modes": "modes makes it",
    "Prediction": "predict makes it",
    "Snapshot": "a run makes it",
    "StochasticPrediction": "predict_stochastic makes it",
    "Trajectory": "a run makes it",
}
"""Public names that nobody calls with arguments of one's own."""


def right(name: str) -> dict[str, Any]:
    """The arguments of a right call."""
    return {argument: value for argument, (value, _) in CALLS[name].items()}


def wrong_calls(name: str) -> Iterator[Call]:
    """Every wrong value in the place of its argument, the others right."""
    for argument, (_, kind) in CALLS[name].items():
        for what, value in (KINDS[kind] if isinstance(kind, str) else kind).items():
            make = functools.partial(getattr(nm, name), **(right(name) | {argument: value}))
            yield Call(name, argument, what, value, make)

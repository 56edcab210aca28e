"""What is swept, declared once: the command's options, the grid of runs and what names the results
are the fields of `Sweep`, in plain values. Nothing heavy is imported before one is made."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..ensembles import UNIT_RUNS
from ..errors import InputError, check_positive, check_seed, unknown_name
from ..memory import gib
from ..network.loading import check_function, load_maker
from ..numerics import Numerics, Precision
from ..words import data_word, declared
from . import named
from .sources import code_in_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..data import Dataset

LARGEST_COUNT = 10**6
"""Seeds, saved times or runs of a unit, at most: a slip of the keyboard is refused at once."""
WIDEST = 2**31 - 1
"""Neurons that an array can number."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set by name, as `data.open_data` takes it."""

    name: str
    n: int | None = None
    p: int = 20
    seed: int = 0
    on_duplicates: str = "error"
    unit: bool = False
    standardize: bool = False

    def __post_init__(self) -> None:
        for field in ("n", "p"):
            if (value := getattr(self, field)) is not None:
                check_positive(field, value, example=50)
        check_seed("seed", self.seed)

    def load(self) -> Dataset:
        """The data set, standardised first."""
        from ..data import Dataset, normalize, open_data, standardize

        data = open_data(self.name, self.n, self.p, self.seed, on_duplicates=self.on_duplicates)
        for asked, scaled in ((self.standardize, standardize), (self.unit, normalize)):
            if asked:
                data = Dataset(scaled(data.X), data.y, "allow", name=data.name)
        return data


def _decides(usual: Any) -> Any:
    """A field that decides the numbers of a run of the same data, flow, width, seed and times."""
    return dataclasses.field(default=usual, metadata={"decides": True})


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Flows x widths x seeds on data sets, in plain values: options, grid and identity in one.

    Once made it is in one spelling, ranges and lists written out: `widths` are whole numbers, each
    of `flows` is one flow. Raises `InputError` for what cannot be swept.
    """

    data: tuple[str, ...] = ("digits",)
    """One or more. Digits: the 8 x 8 images that ship with the package; sphere: random; MNIST: IDX
    files; arrays: .npz; tables: .csv, .tsv or .parquet. What the targets mean may follow:
    digits:digit, mnist:FOLDER:class, mine.csv:species:sign."""
    n: int | None = None
    """Default: 50, and files of arrays and tables whole."""
    p: int = 20
    data_seed: int = 0
    """Seed of that draw."""
    on_duplicates: Literal["error", "drop", "allow"] = "error"
    unit: bool = False
    standardize: bool = False
    flows: tuple[str, ...] = ("gradient_flow", "heavy_ball", "nesterov:3")
    """Written as NAME:PARAMETER=NUMBERS, e.g. heavy_ball:b=0.1,0.2,0.4 nesterov:d=2..8
    hessian_damped:b=0.5,gamma=0.01..0.16x2: one for each combination of values. Numbers are lists
    of numbers and ranges: 2..8 in steps of 1, 0.1..0.5+0.1 in steps of 0.1, 256..4096x2 by
    doubling. heavy_ball:0.25 is short for heavy_ball:b=0.25; without b it is the paper's sqrt(2
    lambda_0), without d it is 3."""
    optimizers: tuple[str, ...] = ()
    """Discrete training in the place of flows, written as these are, e.g.
    gradient_descent:eta=0.05 heavy_ball:eta=0.01..0.04x2,beta=0.9,weight_decay=0. (heavy_ball
    names a flow and an optimizer, of other parameters, so the two have an option each.) Your own:
    FILE.py:FUNCTION, which returns any with optax's init and update, e.g. mine.py:make:eta=0.01,0.1
    of def make(eta): return optax.adamw(eta)."""
    batch_sizes: tuple[int | str, ...] = ()
    """Of optimizers, each with each optimizer: numbers, ranges and full, e.g. 1..64x4 full
    (default: full)."""
    sampling: Literal["without_replacement", "with_replacement", "reshuffled"] = _decides(
        "without_replacement"
    )
    """The key is that of the run's seed."""
    steps: int = 1000
    """Of optimizers."""
    save_every: int = 10
    """Of optimizers."""
    widths: tuple[int | str, ...] = (256, 1024)
    """One ensemble of seeds for each: numbers and ranges, e.g. 256..4096x2."""
    model: str | None = None
    """FUNCTION(width, key=key), or FUNCTION(key=key), returns an Equinox
    model (default: a two-layer ReLU network)."""
    activation: str = _decides("relu")
    """Activation of the two-layer network: a function of one number in jax.nn or jax.numpy, e.g.
    tanh, gelu, softplus."""
    antisymmetric: bool = _decides(False)
    """Start from networks with output zero."""
    trainable: Literal["hidden", "output", "all"] | None = _decides(None)
    """Layers of the two-layer network that are trained (default: hidden; of another model,
    everything)."""
    loss: str = _decides("squared")
    """Squared, logistic (targets +1 and -1), softmax (rows of class
    probabilities), huber or huber:DELTA."""
    seeds: int = 4
    first_seed: int = 0
    """The first of them."""
    t_end: float | None = None
    """Final time of every flow (default: 5/lambda_0 for gradient flow, 10/sqrt(lambda_0) with
    momentum)."""
    times: int = 101
    unit_runs: int = UNIT_RUNS
    """Runs in one unit of work, at most: what a crash can cost."""
    readouts: tuple[str, ...] = ()
    """E.g. loss f lambda_min (default: all that suit a two-layer
    network; eigenvalues of large n are dear)."""
    reference: str = _decides(named.INFINITE)
    """The kernel that kernel_distance compares with: infinite (that of infinite width, for ReLU
    networks), none, or an .npy or .npz file with an (n, n) kernel."""
    solver: str = _decides("default")
    """default (what fits best), lazy, or an explicit solver of diffrax by name, e.g. tsit5,
    dopri8."""
    tol: float = Numerics.tol
    precision: Precision = Numerics.precision
    """Of matrix products; on a GPU "default" means TF32 for float32, on a TPU bfloat16."""
    strategy: Literal["map", "vmap", "compacted"] | None = None
    """How runs share a device: one after another or in lock-step (default: what is faster on this
    kind of device, measured once)."""
    layout: Literal["runs", "neurons"] | None = None
    """What is spread over several devices (default: runs, and neurons where one run does not
    fit)."""

    def __post_init__(self) -> None:
        for option, most in (
            *([] if self.n is None else [("n", None)]),
            ("p", None),
            ("seeds", LARGEST_COUNT),
            ("unit_runs", LARGEST_COUNT),
        ):
            _check_count(option, getattr(self, option), most)
        _check_count("times", self.times, LARGEST_COUNT, least=2)
        if not self.data or not (self.flows or self.optimizers) or not self.widths:
            raise InputError(
                "a sweep needs data, flows (or optimizers) and widths, e.g. --data sphere --flows "
                "gradient_flow --widths 256."
            )
        self._check_training()
        widths = tuple(width for text in self.widths for width in _widths(str(text)))
        self._set("widths", widths)
        for end in (self.first_seed, self.first_seed + self.seeds - 1):
            check_seed("first_seed", end)
        check_seed("data_seed", self.data_seed)
        self._check_network(widths)
        if self.t_end is not None:
            check_positive("t_end", self.t_end)
        for name in self.data:
            data_word(name)
        for name in self.readouts:
            if name not in declared("dynamics/readout", "READOUTS"):
                raise unknown_name("read-out", name, declared("dynamics/readout", "READOUTS"))
        if self.model:
            check_function(self.model)
        named.read_loss(self.loss)
        named.check_solver(self.solver)
        named.check_activation(self.activation)
        kinds = [("flow", self.flows), ("optimizer", self.optimizers)]
        for kind, texts in kinds:
            for text in texts:
                named.read_methods(text, kind)
        named.build_activation(self.activation)  # from here on JAX is wanted
        for kind, texts in kinds:
            made = [method.label for t in texts for method in named.named_methods(t, kind)]
            self._set(f"{kind}s", tuple(made))
        methods = [(str(one.build(1.0)), "b" in one.customary) for one in self.named_methods()]
        axis = "optimizers" if self.optimizers else "flows"
        for option, values in (
            ("data", self.data),
            (axis, methods),
            ("batch_sizes", self.batch_sizes),
            ("widths", widths),
        ):
            if len(set(values)) < len(values):
                raise InputError(
                    f"{option} holds the same value twice: "
                    f"{' '.join(map(str, getattr(self, option)))}; drop one."
                )
        if self.reference not in (named.INFINITE, named.NO_REFERENCE):
            named.load_reference(self.reference)
        elif self.reference == named.NO_REFERENCE and "kernel_distance" in self.readouts:
            raise InputError(
                "kernel_distance compares with a kernel; leave out --reference none, or the "
                "read-out."
            )
        self.numerics()

    def _set(self, option: str, value: Any) -> None:
        """In one spelling, as the sweep is made."""
        object.__setattr__(self, option, value)

    def _check_training(self) -> None:
        """Raise for options that belong to flows, or to optimizers, alone."""
        if not self.optimizers:
            for option in ("batch_sizes", "sampling", "steps", "save_every"):
                if getattr(self, option) != getattr(Sweep, option):
                    raise InputError(
                        f"{option} is of training; give --optimizers, or leave it out."
                    )
            return
        from ..dynamics.training import check_steps

        for option in ("flows", "t_end", "times", "solver", "tol"):
            if getattr(self, option) not in (getattr(Sweep, option), ()):
                raise InputError(
                    f"{option} is of flows; leave it out with --optimizers, or sweep twice."
                )
        check_steps(self.steps, self.save_every)
        _check_count("saved steps", self.steps // self.save_every, LARGEST_COUNT)
        self._set("flows", ())
        sizes = [
            size
            for text in map(str, self.batch_sizes)
            for size in (("full",) if text == "full" else _whole(text, "batch sizes"))
        ]
        self._set("batch_sizes", tuple(sizes))

    def _check_network(self, widths: tuple[int, ...]) -> None:
        """Raise for networks that do not exist."""
        odd = [width for width in widths if width % 2]
        if self.antisymmetric and odd:
            raise InputError(
                "antisymmetric networks come in pairs of neurons, so widths must be "
                f"even, got {odd}."
            )
        if self.model:
            for option, usual in (("antisymmetric", False), ("activation", "relu")):
                if getattr(self, option) != usual:
                    raise InputError(
                        f"{option} is of the built-in network; with --model leave it out."
                    )
        if self.trainable not in (None, "hidden", "output", "all"):
            raise unknown_name("trainable", str(self.trainable), ("hidden", "output", "all"))

    def numerics(self) -> Numerics:
        """Tolerance and precision."""
        return Numerics(tol=self.tol, precision=self.precision)

    def sources(self) -> tuple[Source, ...]:
        """The data sets by name."""
        drawn = self.n, self.p, self.data_seed, self.on_duplicates, self.unit, self.standardize
        return tuple(Source(name, *drawn) for name in self.data)

    def named_methods(self) -> tuple[named.NamedMethod, ...]:
        """The flows, or the optimizers, in plain values."""
        flows = [one for text in self.flows for one in named.named_methods(text)]
        steps = [one for t in self.optimizers for one in named.named_methods(t, "optimizer")]
        return (*flows, *steps)

    def labels(self) -> tuple[str, ...]:
        """The labels of a plan's flows: each optimizer with each batch size, where there are."""
        labels = self.flows or self.optimizers
        if not self.batch_sizes:
            return labels
        return tuple(
            f"{label}{',' if ':' in label.rpartition('.py:')[2] else ':'}batch_size={size}"
            for label in labels
            for size in self.batch_sizes
        )

    def chosen_seeds(self) -> tuple[int, ...]:
        """The seeds of each width."""
        return tuple(range(self.first_seed, self.first_seed + self.seeds))

    @property
    def neurons(self) -> tuple[int, ...]:
        """The widths as numbers."""
        return tuple(map(int, self.widths))

    def needs_lambda0(self) -> bool:
        """Whether an end time or a friction was left to lambda_0."""
        ends = self.t_end is None and not self.optimizers
        return ends or any("b" in one.customary for one in self.named_methods())

    def built(self, model: Callable | None) -> dict[str, Any]:
        """What the words stand for, as `planning.plan` takes them, with the user's model. Apart
        from axes, times and the kernel to compare with."""
        return {
            "model": model,
            "activation": named.build_activation(self.activation),
            "antisymmetric": self.antisymmetric,
            "loss": named.build_loss(self.loss),
            "trainable": self.trainable,
            "solver": named.build_solver(self.solver),
            "readouts": self.readouts or None,
            "config": self.numerics(),
            "layout": self.layout,
            "unit_runs": self.unit_runs,
        }

    def settings(self) -> dict[str, Any]:
        """What decides the numbers of a run beside its data, flow, width, seed and times, in plain
        values; files by their hash, a model by its function's code."""
        values: dict[str, Any] = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if "decides" in field.metadata
        }
        if self.reference not in (named.INFINITE, named.NO_REFERENCE):
            values["reference"] = f"{Path(self.reference).name} {_digest(self.reference)}"
        if self.model:
            values["model"] = _code(self.model)
            del values["activation"], values["antisymmetric"]
        if code := {text for text in map(_function, self.optimizers) if text}:
            values["optimizers"] = ", ".join(sorted(map(_code, code)))
        if not self.batch_sizes:
            del values["sampling"]
        return {**values, **dataclasses.asdict(self.numerics())}

    def make_model(self) -> Callable | None:
        """The user's function (width, key=key); None for the two-layer network."""
        return load_maker(self.model) if self.model else None


def _function(label: str) -> str:
    """FILE.py:FUNCTION of an optimizer's label; nothing of one that is the package's."""
    file, py, rest = label.rpartition(".py:")
    return file + py + rest.partition(":")[0] if py else ""


def _code(text: str) -> str:
    """FILE.py:FUNCTION and the hash of what it runs."""
    file, _, function = text.rpartition(":")
    code = code_in_file(Path(file), {function})
    return f"{Path(file).name}:{function} {code.digest[:16]}"


def _digest(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def _check_count(option: str, value: int, most: int | None, least: int = 1) -> None:
    """Raise unless a whole number lies between two others."""
    if value < least:
        raise InputError(f"{option} must be at least {least}, got {value}.")
    if most is not None and value > most:
        raise InputError(f"{option} must be at most {most:,}, got {value:,}.")


def _whole(text: str, what: str) -> tuple[int, ...]:
    """The whole numbers, from 1 on, of a number or a range."""
    found = named.numbers(text, what)
    if any(number < 1 or not number.is_integer() for number in found):
        raise InputError(f"{what} must be whole numbers from 1 on, got {text}.")
    return tuple(map(int, found))


def _widths(text: str) -> tuple[int, ...]:
    """The widths of a number or a range."""
    found = _whole(text, "widths")
    for width in found:
        if width > WIDEST:
            raise InputError(
                f"widths must be at most {WIDEST:,}, got {text}: one number for each neuron "
                f"takes {gib(8 * width)}."
            )
    return found

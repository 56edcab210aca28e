"""What the words of a sweep stand for: flows with their parameters, losses, activations, solvers
and kernels to compare with. Nothing heavy is imported before a word is looked up.

Numbers are written as a list with commas of single numbers and ranges, both ends included:

    0.1,0.2,0.4        these numbers
    2..8               whole numbers, in steps of 1
    0.1..0.5+0.1       in steps of 0.1
    256..4096x2        each twice the one before

and a flow as NAME, NAME:NUMBERS (of its first parameter) or NAME:PARAMETER=NUMBERS,..., where each
combination of the values is a flow. An optimizer of one's own, optax's among them, is what a
function returns: FILE.py:FUNCTION, with that function's parameters behind it.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import itertools
import math
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import words
from ..errors import InputError, unknown_name
from ..network.loading import load_function

if TYPE_CHECKING:
    import numpy as np

    from ..loss import Loss
    from ..method import AbstractFlow, AbstractOptimizer

MOST_VALUES = 10_000
"""Values that one range may have."""
CUSTOMARY = {"b": "sqrt(2 lambda_0)", "d": "3"}
"""Parameters that may be left out: the paper's friction, and the standard Nesterov constant."""
LOSSES = ("squared", "logistic", "softmax", "huber")
USUAL = "relu, gelu, softplus, silu, elu, leaky_relu, tanh, sin"
"""Activations to suggest."""
NO_REFERENCE, INFINITE = "none", "infinite"

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})(?:([x+])({_NUMBER}))?")


def numbers(text: str, what: str) -> tuple[float, ...]:
    """The numbers of a single one or a range, in decimal arithmetic: 0.1..0.3+0.1 ends at 0.3."""
    if re.fullmatch(_NUMBER, text):
        return (float(text),)
    found = _RANGE.fullmatch(text)
    if found is None:
        raise InputError(
            f"{what} must be a number or a range such as 2..8, 0.1..0.5+0.1 or 256..4096x2, got "
            f"{text!r}."
        )
    first, last, step = Decimal(found[1]), Decimal(found[2]), Decimal(found[4] or 1)
    grows = step > 1 and first > 0 if found[3] == "x" else step > 0
    if not grows or first > last:
        raise InputError(
            f"{what}: the range {text} holds nothing; it runs upwards, by steps +s > 0, or from a "
            "number > 0 by factors xf > 1."
        )
    values = []
    while first <= last:
        values.append(float(first))
        first = first * step if found[3] == "x" else first + step
        if len(values) > MOST_VALUES:
            raise InputError(
                f"{what}: the range {text} holds more than {MOST_VALUES} values; take longer steps."
            )
    return tuple(values)


@functools.cache
def flows_by_name() -> Mapping[str, Callable[..., AbstractFlow]]:
    """What makes each flow that numbers and words can state: the classes of `method` by their name,
    and its functions that return a flow, or a method whose high-resolution equation is one."""
    from .. import method

    found: dict[str, Callable[..., AbstractFlow]] = {}
    members = [vars(method)[name] for name in sorted(vars(method))]
    for made in members:
        flow = isinstance(made, type) and issubclass(made, method.AbstractFlow)
        if flow and not inspect.isabstract(made):
            found[made.name] = made
    for made in members:
        if not inspect.isfunction(made) or made.__name__ in found:
            continue
        returned = typing.get_type_hints(made).get("return")
        if isinstance(returned, type) and issubclass(returned, method.AbstractFlow):
            found[made.__name__] = made
        elif returned is method.HessianDampedMethod:
            found[made.__name__] = _high_resolution(made)
    plain = {name: made for name, made in found.items() if not _takes_functions(made)}
    return dict(sorted(plain.items()))


@functools.cache
def optimizers_by_name() -> Mapping[str, Callable[..., AbstractOptimizer]]:
    """What makes each discrete method: the functions of `method` that return one."""
    from .. import method

    found = {}
    for name, made in sorted(vars(method).items()):
        returned = typing.get_type_hints(made).get("return") if inspect.isfunction(made) else None
        if isinstance(returned, type) and issubclass(returned, method.AbstractOptimizer):
            found[name] = made
    return found


KINDS: Mapping[str, Callable[[], Mapping[str, Callable]]] = {
    "flow": flows_by_name,
    "optimizer": optimizers_by_name,
}
"""What may be named. heavy_ball is a flow of friction b in time t, and an optimizer of step eta and
momentum beta in steps k: the word alone does not tell, so a sweep has an option for each."""
WORDS = {"flow": words.flows, "optimizer": words.optimizers}
"""The same by their words alone, without JAX."""


def word_of(kind: str, name: str) -> words.FlowWord:
    """What a flow or an optimizer takes, and says of itself; of one's own, FILE.py:FUNCTION, its
    function does. Raises `InputError` where there is none."""
    if own(kind, name):
        made = load_function(name, "--optimizers")
        return words.FlowWord(inspect.signature(made).parameters, inspect.getdoc(made) or "")
    known = WORDS[kind]()
    if name not in known:
        raise unknown_name(kind, name, known)
    return known[name]


def own(kind: str, text: str) -> bool:
    """Whether it is FILE.py:FUNCTION, with parameters or without."""
    return kind == "optimizer" and ".py:" in text


def _high_resolution(method: Callable) -> Callable[..., AbstractFlow]:
    """The flow of a method with the method's own parameters."""

    @functools.wraps(method)
    def flow(**parameters: Any) -> AbstractFlow:
        return method(**parameters).flow()[0]

    return flow


def _takes_functions(made: Callable) -> bool:
    return any("Callable" in str(hint) for hint in typing.get_type_hints(made).values())


def method_help(kind: str, names: Sequence[str] = ()) -> dict[str, list[str]]:
    """Every flow, or optimizer, or those named: how it is written, and the lines of its equation
    and of its parameters' meaning and units. Raises `InputError` on an unknown name."""
    known = WORDS[kind]()
    for name in names:
        if name not in known:
            raise unknown_name(kind, name, known)
    found = {}
    for name, flow in known.items():
        if names and name not in names:
            continue
        defaults = {
            key: CUSTOMARY.get(key, "..." if p.default is p.empty else p.default)
            for key, p in flow.parameters.items()
        }
        written = ",".join(f"{key}={default}" for key, default in defaults.items())
        first = f"{name}:{written}" if written else name
        found[name] = [first, *flow.doc.splitlines()]
    return found


@dataclasses.dataclass(frozen=True)
class NamedMethod:
    """A flow or an optimizer in plain values: its name and the parameters that were given, in its
    own order."""

    name: str
    given: tuple[tuple[str, float | str], ...] = ()
    kind: str = "flow"

    @property
    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        return word_of(self.kind, self.name).parameters

    @property
    def label(self) -> str:
        """One spelling: "heavy_ball:0.25", or with the parameters' names where there are more."""
        plain = [
            (key, value if isinstance(value, str) else f"{value:.12g}") for key, value in self.given
        ]
        if not plain:
            return self.name
        first = next(iter(self._parameters))
        if len(plain) == 1 and plain[0][0] == first:
            return f"{self.name}:{plain[0][1]}"
        return f"{self.name}:{','.join(f'{key}={value}' for key, value in plain)}"

    @property
    def customary(self) -> set[str]:
        """The customary parameters that were left out."""
        if own(self.kind, self.name):
            return set()
        return (set(self._parameters) & set(CUSTOMARY)) - {key for key, _ in self.given}

    def build(self, lambda0: float) -> AbstractFlow | AbstractOptimizer:
        """The flow or the optimizer; a friction left out is the paper's sqrt(2 lambda_0), a
        constant d left out 3."""
        if own(self.kind, self.name):
            return self._build_own()
        usual = {"b": math.sqrt(2 * lambda0) if "b" in self.customary else None, "d": 3.0}
        return KINDS[self.kind]()[self.name](
            **dict(self.given) | {key: usual[key] for key in self.customary}
        )

    def _build_own(self) -> AbstractOptimizer:
        """What the user's function returns. Raises `InputError` for what is no optimizer."""
        from ..method import AbstractOptimizer, as_optimizer, check_method_kind

        try:
            made = load_function(self.name, "--optimizers")(**dict(self.given))
        except InputError:
            raise
        except Exception as error:  # the user's code: anything may be raised
            raise InputError(
                f"--optimizers {self.label} failed: {type(error).__name__}, {error}; it must "
                "return an optimizer, such as optax.adam(eta)."
            ) from error
        made = as_optimizer(made, self.label)
        check_method_kind(f"what --optimizers {self.label} returns", made, AbstractOptimizer)
        return made


def named_methods(text: str, kind: str = "flow") -> tuple[NamedMethod, ...]:
    """The flows, or optimizers, that one word of the command line states, one for each combination
    of values."""
    made = read_methods(text, kind)
    for method in made:
        try:
            method.build(1.0)
        except InputError as error:
            raise InputError(f"{error} ({text!r})") from error
    return made


def read_methods(text: str, kind: str = "flow") -> tuple[NamedMethod, ...]:
    """`named_methods`, their names and parameters looked up but not yet their values."""
    file, py, rest = text.partition(".py:") if own(kind, text) else ("", "", text)
    name, colon, rest = rest.partition(":")
    name = file + py + name
    parameters = word_of(kind, name).parameters
    values: dict[str, list[float | str]] = {}
    if colon and not parameters:
        raise InputError(f"{name} has no parameter, got {text!r}; write {name}.")
    key = next(iter(parameters), "")
    for part in rest.split(",") if colon else ():
        option, equals, value = part.rpartition("=")
        if equals:
            key = option.strip()
            if key not in parameters:
                near = difflib.get_close_matches(key, parameters, n=1)
                guess = f" Did you mean {near[0]!r}?" if near else ""
                raise InputError(
                    f"{name} has no parameter {key!r}.{guess} It has: {', '.join(parameters)}."
                )
            if key in values:
                raise InputError(f"{key} is given twice in {text!r}; write {key}=0.1,0.2.")
        worded = isinstance(parameters[key].default, str) and re.fullmatch("[a-z]+", value)
        some = (value,) if worded else numbers(value.strip(), f"{key} of {name}")
        values.setdefault(key, []).extend(some)
    missing = [
        key
        for key, parameter in parameters.items()
        if parameter.default is parameter.empty and key not in CUSTOMARY and key not in values
    ]
    if missing:
        example = ",".join(f"{key}=0.1" for key in parameters if key in values or key in missing)
        raise InputError(f"{name} needs {' and '.join(missing)}, e.g. {name}:{example}.")
    names = [key for key in parameters if key in values]
    return tuple(
        NamedMethod(name, tuple(zip(names, chosen, strict=True)), kind)
        for chosen in itertools.product(*(values[key] for key in names))
    )


def read_loss(text: str) -> tuple[str, float]:
    """(name, delta) of the word for a loss. Raises `InputError` where it is none."""
    name, colon, delta = text.partition(":")
    if name not in LOSSES:
        raise unknown_name("loss", name, LOSSES)
    if colon and name != "huber":
        raise InputError(f"the {name} loss has no parameter, got {text!r}; write {name}.")
    (value, *more) = numbers(delta, "delta of huber") if colon else (1.0,)
    if more:
        raise InputError(f"a sweep has one loss, got {text!r}; sweep once for each.")
    if not 0 < value < math.inf:
        raise InputError(f"delta of huber must be finite and > 0, got {value:g}.")
    return name, value


def build_loss(text: str) -> Loss:
    """The loss of a word: squared, logistic, softmax, huber or huber:DELTA."""
    name, delta = read_loss(text)
    from .. import loss

    if name == "huber":
        return loss.huber(delta)
    named = {"squared": loss.squared, "logistic": loss.logistic}
    return named.get(name, loss.softmax_cross_entropy)


def check_activation(name: str) -> None:
    """Raise `InputError` unless jax.nn or jax.numpy has something of that name."""
    if name not in words.activations():
        near = difflib.get_close_matches(name, words.activations(), n=1)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError(
            f"unknown activation {name!r}.{guess} Known: functions of one number in jax.nn and "
            f"jax.numpy, e.g. {USUAL}."
        )


def build_activation(name: str) -> Callable:
    """The function of one array in jax.nn or jax.numpy of that name. Raises `InputError` unless it
    acts on each entry by itself."""
    check_activation(name)
    import jax
    import jax.numpy as jnp

    found: Any = next((getattr(m, name) for m in (jax.nn, jnp) if hasattr(m, name)), None)
    try:
        good = not isinstance(found, type) and all(
            _shape(found, shape) == shape for shape in ((), (3,), (2, 3))
        )
    except Exception:  # of whatever kind the function raises for what it does not take
        good = False
    if not good:
        raise InputError(f"{name} is no function of one number; take one such as {USUAL}.")
    return found


def _shape(function: Callable, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape that a function gives to real numbers of one shape, by tracing it; None where they
    are no longer real."""
    import jax
    import jax.numpy as jnp

    out = jax.eval_shape(function, jax.ShapeDtypeStruct(shape, jnp.float32))
    return out.shape if jnp.issubdtype(out.dtype, jnp.floating) else None


def check_solver(name: str) -> None:
    """Raise `InputError` unless a word is that of a solver."""
    if name.lower() not in words.solvers():
        raise unknown_name("solver", name, words.solvers())


def build_solver(name: str) -> Any:
    """The solver of a word: default (what fits best), lazy, or an explicit one of diffrax."""
    check_solver(name)
    if name.lower() == "default":
        return None
    import diffrax

    from ..dynamics.solver import LazyExponential

    explicit = {
        found.__name__.lower(): found
        for found in vars(diffrax).values()
        if isinstance(found, type)
        and issubclass(found, diffrax.AbstractERK)
        and found is not diffrax.AbstractERK
    }
    known: dict[str, Callable] = {"lazy": LazyExponential, **explicit}
    return known[name.lower()]()


def load_reference(text: str) -> np.ndarray:
    """The kernel in an .npy file, or in an .npz file as `kernel` or its only array: (n, n)."""
    import numpy as np

    path = Path(text)
    if path.suffix not in (".npy", ".npz"):
        known = f"{INFINITE}, {NO_REFERENCE}, or an .npy or .npz file with an (n, n) kernel"
        raise InputError(f"--reference must be {known}, got {text!r}.")
    try:
        found = np.load(path, allow_pickle=False)
        if path.suffix == ".npz":
            name = "kernel" if "kernel" in found.files or len(found.files) != 1 else found.files[0]
            found = found[name]
    except KeyError:
        raise InputError(
            f"{path} holds several arrays and none is called kernel; save it with np.save."
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot read the kernel in {path} ({error}); give a file of np.save."
        ) from error
    square = found.ndim == 2 and found.shape[0] == found.shape[1]
    if found.dtype.kind not in "fiu" or not square or not np.isfinite(found).all():
        raise InputError(
            f"{path} must hold an (n, n) array of finite numbers, got {found.dtype} of shape "
            f"{found.shape}."
        )
    return found

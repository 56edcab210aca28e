"""Errors at the boundary: what was expected, what came, what to try.

Everything a user can get wrong raises `InputError`; a package that a command needs and the
machine lacks raises `MissingPackage`. The command line turns both into one line and exit code 2.
Checks on values look at concrete numbers only, so that every constructor also works on tracers.
"""

from __future__ import annotations

import difflib
import importlib
import operator
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    F = TypeVar("F", bound=Callable[..., Any])

    def no_type_check(function: F) -> F:
        """For a public entry, which checks its arguments itself and says in words what is wrong:
        checkers at run time (the tests') leave it alone, static ones do not."""
        return function
else:
    from typing import no_type_check as no_type_check


class InputError(ValueError):
    """Bad input, said in one message: what was expected, what came, what to try.

    Everything a user can get wrong raises it. The command line prints the message and exits with 2.

    Examples:
        >>> try:
        ...     nm.HeavyBall(-1.0)
        ... except nm.InputError as error:
        ...     print(error)
        the friction b must be finite and >= 0, got -1.0; try 1.0.
    """


class MissingPackage(ImportError):
    """A package outside the numerical core is needed and not installed; the message says how to get
    it.

    Examples:
        >>> from ntk_momentum.errors import require
        >>> try:
        ...     require("no_such_package", "this example")
        ... except nm.MissingPackage as error:
        ...     print(str(error).partition(";")[0])
        this example needs the package 'no_such_package', which is not installed
    """


EXTRAS = {
    "tyro": "cli",
    "tqdm": "cli",
    "xarray": "results",
    "h5netcdf": "results",
    "h5py": "results",
    "jinja2": "report",
    "latex2mathml": "report",
    "pandas": "data",
    "pyarrow": "data",
    "cvxpy": "lyapunov",
}
"""The extra of pyproject.toml that brings a package; what is not here belongs to the core."""


def require(module: str, purpose: str) -> ModuleType:
    """Import a module where it is used, or say what it is needed for and how to install it.

    Args:
        module: Dotted name; its first part is the package.
        purpose: What needs it, the beginning of the message.

    Returns:
        The module.

    Raises:
        MissingPackage: If it is not installed, or cannot be imported.

    Examples:
        >>> require("scipy.linalg", "the certificate").__name__
        'scipy.linalg'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        extra = EXTRAS.get(package)
        absent = isinstance(error, ModuleNotFoundError)
        raise MissingPackage(
            f"{purpose} needs the package {package!r}, which "
            f"{'is not installed' if absent else f'cannot be imported ({error})'}; "
            f"try: pip install 'ntk_momentum{f'[{extra}]' if extra else ''}'"
        ) from error


def concrete(value: Any) -> Any | None:
    """The value as a numpy array, or None when it is a tracer (inside jit, vmap or grad) or no
    array at all."""
    import jax
    import numpy as np

    if isinstance(value, jax.core.Tracer | jax.ShapeDtypeStruct):
        return None
    try:
        array = np.asarray(value)
    except Exception:
        return None
    return array if array.dtype.kind in "biufc" else None


def _traced(value: Any) -> bool:
    import jax

    return isinstance(value, jax.core.Tracer | jax.ShapeDtypeStruct)


def described(value: Any) -> str:
    """What came, for a message: a short value with its type, an array by shape and dtype."""
    kind = type(value).__name__
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{kind} of shape {tuple(value.shape)} and dtype {value.dtype}"
    if callable(value):
        return f"the {kind} {getattr(value, '__name__', '')}".rstrip()
    text = repr(value)
    return f"{text} of type {kind}" if len(text) <= 60 else f"{kind}"


def not_an_array(name: str, value: Any) -> InputError:
    """The error for something in the place of an array of real numbers."""
    hint = f"try np.asarray({name}, float)"
    if hasattr(value, "X") and hasattr(value, "y"):
        hint = "pass its inputs, data.X"
    if hasattr(value, "toarray"):
        hint = f"it is sparse, try {name}.toarray()"
    if isinstance(value, list | tuple):
        hint = f"give rows of numbers of one length, try np.asarray({name}, float)"
    kind = f" of dtype {value.dtype}" if hasattr(value, "dtype") else ""
    return InputError(
        f"{name} must be an array of real numbers, got {type(value).__name__}{kind}; {hint}."
    )


def check_unmasked(name: str, value: Any) -> None:
    """Raise for a masked array with masked entries, whose numbers mean nothing."""
    import numpy as np

    masked = int(np.ma.count_masked(value)) if isinstance(value, np.ma.MaskedArray) else 0
    if masked:
        raise InputError(
            f"{name} must hold real numbers, got a masked array with {masked} entries masked; "
            "leave out their rows, or fill them."
        )


def check_array(name: str, value: Any) -> Any | None:
    """The value as a numpy array, None for what is traced; raise for what is no array of real
    numbers."""
    check_unmasked(name, value)
    array = concrete(value)
    if array is None:
        import jax

        if not _traced(value) and not isinstance(value, jax.Array):
            raise not_an_array(name, value)
    elif array.dtype.kind == "c":
        raise InputError(
            f"{name} must be real, got complex numbers ({array.dtype}); take real and imaginary "
            "parts as two arrays."
        )
    return array


def check_real(name: str, value: Any) -> Any | None:
    """`check_array` of finite numbers."""
    import numpy as np

    array = check_array(name, value)
    if array is None:
        return None
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"{name} must be finite, got NaN or infinity in it; drop or repair those.")
    return array


def brief(error: Exception) -> str:
    """The first line of another library's message, without what it adds about tracebacks."""
    return str(error).partition("\n")[0]


def check_number(name: str, value: Any, example: object = 1.0) -> Any | None:
    """The value as a numpy array, None for a tracer; raise for what is no real number of Python,
    numpy or jax, nor an array of them. Booleans are none: they say yes or no."""
    array = concrete(value)
    if array is None and _traced(value):
        return None
    if array is None or array.dtype.kind in "bc" or array.size == 0:
        raise InputError(f"{name} must be a number, got {described(value)}; try {example}.")
    return array


def check_positive(
    name: str, value: Any, *, strict: bool = True, hint: str = "", example: object = 1.0
) -> None:
    """Raise unless every concrete entry of `value` is finite and > 0 (>= 0 when not strict)."""
    import numpy as np

    array = check_number(name, value, example)
    if array is None:
        return
    good = np.isfinite(array) & ((array > 0) if strict else (array >= 0))
    if not good.all():
        bound = "> 0" if strict else ">= 0"
        then = f". {hint}" if hint else f"; try {example}."
        raise InputError(f"{name} must be finite and {bound}, got {array[~good][0]}{then}")


def check_interval(name: str, value: Any, low: float, high: float, hint: str = "") -> None:
    """Raise unless every concrete entry of `value` lies in [low, high)."""
    import numpy as np

    example = f"{(low + high) / 2:g}"
    array = check_number(name, value, example)
    if array is None:
        return
    good = (array >= low) & (array < high)
    if not np.all(good):
        then = f". {hint}" if hint else f"; try {example}."
        got = array[~good][0]
        raise InputError(f"{name} must lie in [{low:g}, {high:g}), got {got}{then}")


def check_whole(name: str, value: Any, least: int = 1, *, example: object = None) -> int:
    """A whole number of Python, numpy or jax, at least `least`, as Python's; raise for anything
    else, booleans and floating numbers too."""
    example = least if example is None else example
    try:
        if isinstance(value, bool) or _boolean(value):
            raise TypeError
        found = operator.index(value)
    except TypeError:
        array = concrete(value)
        if array is not None and array.ndim == 0 and array.dtype.kind == "f":
            near = float(array)
            example = round(near) if least <= near < 2**63 else example
        raise InputError(
            f"{name} must be a whole number, got {described(value)}; try {example}."
        ) from None
    if found < least:
        kind = {0: "a whole number >= 0", 1: "a positive whole number"}.get(
            least, f"a whole number of at least {least}"
        )
        raise InputError(f"{name} must be {kind}, got {found}; try {example}.")
    return found


def _boolean(value: Any) -> bool:
    return getattr(getattr(value, "dtype", None), "kind", "") == "b"


def check_flag(name: str, value: Any) -> bool:
    """True or False, of Python or numpy; raise for anything else, numbers and words too."""
    if isinstance(value, bool) or (_boolean(value) and getattr(value, "shape", None) == ()):
        return bool(value)
    raise InputError(f"{name} must be True or False, got {described(value)}; try {name}=True.")


def check_key(name: str, key: Any) -> None:
    """Raise for what is no single key of jax, new (`jax.random.key`) or old
    (`jax.random.PRNGKey`)."""
    import jax
    import jax.numpy as jnp

    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        good = shape == ()
    else:
        size = jax.eval_shape(jax.random.PRNGKey, 0).shape
        good = dtype == jnp.uint32 and shape == size
    if not good:
        number = isinstance(key, int) and not isinstance(key, bool)
        hint = f"try {name}=jax.random.key({key if number else 0})"
        if shape and dtype is not None:
            hint = f"take one of them, {name}[0], or {hint}"
        raise InputError(
            f"{name} must be one key as from jax.random.key, got {described(key)}; {hint}."
        )


def check_callable(name: str, value: Any, example: str) -> None:
    """Raise for what cannot be called, and for a class in the place of what it makes."""
    if not callable(value):
        raise InputError(
            f"{name} must be a function, got {described(value)}; try {name}={example}."
        )


def check_path(name: str, value: Any) -> Path:
    """A path from a string or path that is not empty."""
    if not isinstance(value, str | os.PathLike) or not str(value):
        raise InputError(
            f"{name} must be a path, got {described(value)}; try {name}='results', or '.' for this "
            "folder."
        )
    return Path(value)


def check_choice(name: str, value: Any, known: Sequence[str]) -> None:
    """Raise unless a value is one of the known names."""
    if not isinstance(value, str) or value not in known:
        raise unknown_name(name, value, known)


def check_seed(name: str, seed: int) -> None:
    """Raise unless a seed fits into 63 bits, as jax's keys take it."""
    seed = check_whole(name, seed, least=-(2**63), example=0)
    if seed >= 2**63:
        raise InputError(f"{name} must lie between -2^63 and 2^63 - 1, got {seed}; try {name} = 0.")


def unknown_name(kind: str, name: Any, known: Iterable[str]) -> InputError:
    """The error for a misspelt name, or for what is no name, with the nearest known one."""
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=1)
    guess = f" Did you mean {near[0]!r}?" if near else ""
    return InputError(f"unknown {kind} {name!r}.{guess} Known: {', '.join(known)}.")

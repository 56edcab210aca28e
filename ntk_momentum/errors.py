"""Errors at the boundary: what was expected, what came, what to try.

Everything a user can get wrong raises `InputError`; a package that a command needs and the
machine lacks raises `MissingPackage`. The command line turns both into one line and exit code 2.
Checks on values look at concrete numbers only, so that every constructor also works on tracers.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable
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
        the friction b must be finite and >= 0, got -1.0.
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


def not_an_array(name: str, value: Any) -> InputError:
    """The error for something in the place of an array of real numbers."""
    hint = "; pass its inputs, data.X" if hasattr(value, "X") and hasattr(value, "y") else ""
    kind = f" of dtype {value.dtype}" if hasattr(value, "dtype") else ""
    return InputError(
        f"{name} must be an array of real numbers, got {type(value).__name__}{kind}{hint}."
    )


def brief(error: Exception) -> str:
    """The first line of another library's message, without what it adds about tracebacks."""
    return str(error).partition("\n")[0]


def check_number(name: str, value: Any) -> Any | None:
    """The value as a numpy array, None for a tracer; raise for what is no number of Python, numpy
    or jax, nor an array of them."""
    array = concrete(value)
    if array is None:
        import jax

        if not isinstance(value, jax.core.Tracer | jax.ShapeDtypeStruct):
            raise InputError(
                f"{name} must be a number, got {value!r} of type {type(value).__name__}; "
                "try a float, such as 1.0."
            )
    return array


def check_positive(name: str, value: Any, *, strict: bool = True, hint: str = "") -> None:
    """Raise unless every concrete entry of `value` is finite and > 0 (>= 0 when not strict)."""
    import numpy as np

    array = check_number(name, value)
    if array is None:
        return
    good = np.isfinite(array) & ((array > 0) if strict else (array >= 0))
    if array.dtype.kind == "c" or not np.all(good):
        bound = "> 0" if strict else ">= 0"
        raise InputError(
            f"{name} must be finite and {bound}, got {value}.{' ' + hint if hint else ''}"
        )


def check_interval(name: str, value: Any, low: float, high: float, hint: str = "") -> None:
    """Raise unless every concrete entry of `value` lies in [low, high)."""
    import numpy as np

    array = check_number(name, value)
    if array is not None and not np.all((array >= low) & (array < high)):
        raise InputError(
            f"{name} must lie in [{low:g}, {high:g}), got {value}.{' ' + hint if hint else ''}"
        )


def check_seed(name: str, seed: int) -> None:
    """Raise unless a seed fits into 63 bits, as jax's keys take it."""
    if not -(2**63) <= seed < 2**63:
        raise InputError(f"{name} must lie between -2^63 and 2^63 - 1, got {seed}; try {name} = 0.")


def check_key(key: Any) -> Any:
    """One random key of jax, also in the old form of two numbers. Raises `InputError`."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    shape, dtype = getattr(key, "shape", None), getattr(key, "dtype", None)
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if typed and shape == ():
        return key
    if isinstance(key, jax.Array | np.ndarray) and dtype == np.uint32 and shape == (2,):
        return jax.random.wrap_key_data(jnp.asarray(key))
    hint = f"jax.random.key({key})" if isinstance(key, int) else "jax.random.key(0)"
    several = " of several keys; take one, keys[0]" if shape else ""
    raise InputError(
        f"key must be a random key of jax, {hint} for example, got {type(key).__name__}{several}."
    )


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a misspelt name, with the nearest known one."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    guess = f" Did you mean {near[0]!r}?" if near else ""
    return InputError(f"unknown {kind} {name!r}.{guess} Known: {', '.join(known)}.")

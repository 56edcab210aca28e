"""The kernel as a linear operator: v -> H v = J (J^T v) by one reverse and one forward pass,
without forming H.

Extreme eigenvalues follow by Lanczos iteration, so lambda_min and lambda_max of 20,000 samples need
no 20,000 x 20,000 matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree

from ..errors import (
    InputError,
    check_key,
    check_positive,
    check_whole,
    described,
    no_type_check,
    require,
)
from ..memory import check_fits, in_short
from ..progress import OnProgress, check_progress
from . import lanczos
from .empirical import blocks
from .problem import prepare
from .tangent import jvp, linear_maps

if TYPE_CHECKING:
    import lineax


@no_type_check
def ntk_operator(
    model: Callable,
    x: Any,
    x2: Any = None,
    *,
    trainable: PyTree = None,
    where: Callable | None = None,
    block_size: int | None = None,
) -> lineax.FunctionLinearOperator:
    """The kernel as a linear operator, which never forms it.

        v -> H v = J (J^T v),  H as in (2.6)

    by one reverse and one forward pass. It acts on arrays shaped like the outputs, (n,) or (n, k):
    `output="full"` of `empirical_ntk`. Tagged symmetric and positive semi-definite, so conjugate
    gradients apply.

    Args:
        model: A function of one input, real-valued.
        x: Inputs, (n, ...).
        x2: Inputs that v belongs to, if not x: with test points as x and training points here it is
            the test kernel of `nm.predict`, J(x) J(x2)^T.
        trainable: What is trained, as in `empirical_ntk`.
        where: As in `empirical_ntk`.
        block_size: Samples linearised at once; the model is then evaluated again for every product.
            None linearises all of them once and keeps what that needs.

    Returns:
        A lineax operator, symmetric without x2.

    Raises:
        InputError: If an argument does not fit.
        MissingPackage: Without lineax.

    Examples:
        >>> net = nm.init_two_layer(32, 3, key=jax.random.key(0))
        >>> H = nm.ntk_operator(net, jnp.eye(3))
        >>> bool(jnp.allclose(H.mv(jnp.ones(3)), nm.empirical_ntk(net, jnp.eye(3)).sum(1)))
        True
    """
    lineax = require("lineax", "ntk_operator")
    problem = prepare(model, x, x2, trainable, where, "auto", block_size, "full", "x")
    trained, x = problem.trained, problem.x1
    other = x if x2 is None else problem.x2
    shape = lambda x: (len(x),) if problem.scalar else (len(x), problem.k)
    f = lambda trained, x: jax.vmap(problem.f, (None, 0))(trained, x)

    if block_size is None or block_size >= max(len(x), len(other)):
        _, push, pull = linear_maps(lambda trained: f(trained, x), trained)
        if x2 is not None:
            _, _, pull = linear_maps(lambda trained: f(trained, other), trained)
        product = lambda v: push(pull(v.reshape(len(other), -1))).reshape(shape(x))
    else:
        inputs, others = blocks(x, block_size), blocks(other, block_size)
        # copies of the last input fill the last block: they push no gradient back, and what they
        # receive is cut off
        padded = lambda v: jnp.pad(
            v.reshape(len(other), -1), ((0, others.shape[0] * others.shape[1] - len(other)), (0, 0))
        ).reshape(*others.shape[:2], -1)

        def gather(gradient: PyTree, block: tuple[Array, Array]) -> tuple[PyTree, None]:
            here, v = block
            return jax.tree.map(
                jnp.add, gradient, jax.vjp(lambda trained: f(trained, here), trained)[1](v)[0]
            ), None

        def product(v: Array) -> Array:
            gradient, _ = jax.lax.scan(
                gather, jax.tree.map(jnp.zeros_like, trained), (others, padded(v))
            )
            pushed = jax.lax.map(
                lambda here: jvp(lambda trained: f(trained, here), trained, gradient)[1],
                inputs,
            )
            return pushed.reshape(inputs.shape[0] * inputs.shape[1], -1)[: len(x)].reshape(shape(x))

    structure = jax.eval_shape(lambda v: v.reshape(shape(other)), jax.eval_shape(f, trained, other))
    tags = {lineax.symmetric_tag, lineax.positive_semidefinite_tag} if x2 is None else ()
    return lineax.FunctionLinearOperator(product, structure, tags)


class Extremes(NamedTuple):
    """Ritz values at both ends, which lie inside the spectrum; within `error_*` of each there is an
    eigenvalue.

    So lambda_min is an upper bound of the smallest eigenvalue and lambda_max a lower bound of the
    largest, to round-off. converged: whether error_min <= rtol lambda_min was reached; False also
    where no rtol was asked for. Even then the error does not exclude a smaller eigenvalue that the
    start missed, which a random start does with vanishing probability once the crowd is resolved.
    """

    lambda_min: Float[Array, ""]
    lambda_max: Float[Array, ""]
    error_min: Float[Array, ""]
    error_max: Float[Array, ""]
    steps: int
    converged: bool


@no_type_check
def extreme_eigenvalues(
    operator: Any,
    *,
    key: Key[Array, ""],
    order: int = 100,
    rtol: float | None = None,
    most: int = 1600,
    progress: OnProgress | bool | None = None,
) -> Extremes:
    """The ends of the spectrum of a symmetric operator, by Lanczos steps from a random start.

        |H v - theta v| = error: an eigenvalue lies within error of theta

    The largest eigenvalue of a kernel converges in a few tens of steps; the smallest one, the
    lambda_0 of (2.7), slowly when it sits in a crowd: like exp(-4 order/sqrt(kappa)), kappa without
    the few large eigenvalues (Kaniel 1966, Saad 1980). Fully reorthogonalised. Memory: as many
    vectors as steps.

    Args:
        operator: A symmetric lineax operator on one array, such as `nm.ntk_operator`'s.
        key: Of the start, as from `jax.random.key`.
        order: Lanczos steps, at most the operator's size.
        rtol: Double the order, up to `most`, until error_min <= rtol lambda_min; see `converged` of
            the result.
        most: The largest order.
        progress: Called as progress(products done, products of this order); True for a bar.

    Returns:
        Both ends, their errors, the steps taken and whether rtol was reached. lambda_min is an
        upper bound of the smallest eigenvalue, lambda_max a lower bound of the largest.

    Raises:
        InputError: If order or rtol is not positive, or the operator acts on more than one array or
            is not symmetric.

    Examples:
        >>> import lineax
        >>> matrix = jnp.diag(jnp.array([1.0, 2.0, 5.0]))
        >>> H = lineax.MatrixLinearOperator(matrix, lineax.symmetric_tag)
        >>> ends = nm.extreme_eigenvalues(H, key=jax.random.key(0))
        >>> round(float(ends.lambda_min), 3), round(float(ends.lambda_max), 3)
        (1.0, 5.0)
    """
    order, most = check_whole("order", order, example=100), check_whole("most", most, example=1600)
    check_key("key", key)
    progress = check_progress(progress, "extreme_eigenvalues")
    if rtol is not None:
        check_positive("rtol", rtol, example=1e-3)
    if not hasattr(operator, "in_structure"):
        raise InputError(
            f"operator must be a lineax operator, got {described(operator)}; try nm.ntk_operator("
            "model, x), or lineax.MatrixLinearOperator(matrix, lineax.symmetric_tag)."
        )
    structure = operator.in_structure()
    if not isinstance(structure, jax.ShapeDtypeStruct) or operator.out_structure() != structure:
        raise InputError(
            f"operator must take one array to one of its shape, got one from {structure} to "
            f"{operator.out_structure()}; give a symmetric one."
        )
    size = int(np.prod(structure.shape))
    order = min(order, size)
    # all vectors are kept; those of a doubled order are made while those of the last one go
    check_fits(
        2 * order * size,
        f"{in_short(order)} Lanczos vectors of {in_short(size)} numbers",
        "use a smaller order",
        itemsize=structure.dtype.itemsize,
    )
    start = jax.random.normal(key, (1, size), structure.dtype)
    run, done = lanczos.started(start, order), 0
    while True:
        stops = [order] if progress is None else range(done + 1, order + 1)
        for last in stops:
            run, done = _advance(run, operator, done, last), last
            if progress is not None:
                progress(done, order)
        found = lanczos.ritz(run, lanczos.exhausted(run, order) or order, (size,), 1.0)
        errors = found.errors
        ends = found.values[0], found.values[-1], errors[0], errors[-1]
        converged = rtol is not None and float(ends[2]) <= rtol * float(ends[0])
        if rtol is None or converged or order >= min(most, size):
            return Extremes(*ends, order, converged)
        order = min(2 * order, most, size)
        run = lanczos.resized(run, order)


@eqx.filter_jit
def _advance(run: lanczos.Lanczos, operator: Any, first: int, last: int) -> lanczos.Lanczos:
    return lanczos.extend(run, operator, first, last)

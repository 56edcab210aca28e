"""The empirical neural tangent kernel of any Equinox model over its trained leaves,

    K_ij = <df(x_i)/dtheta, df(x_j)/dtheta>                  (2.6)

Three methods agree to round-off. "jacobian" contracts per-sample Jacobians; "structured" contracts
their factors instead (`factors`; `two_layer` for a sum over neurons); "ntk-vp" pushes each column's
gradient through the model by `tangent.jvp`. All stream through blocks of samples, and a kernel of
one set of inputs is symmetric to the last bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..errors import InputError, check_flag, concrete, no_type_check
from ..memory import check_kernel
from ..network.model import asked
from ..progress import OnProgress, report, with_progress
from .factors import Factor, jacobian
from .plan import KernelPlan, Output, by_shape, plan_kernel
from .problem import Problem, flat_outputs, prepare
from .tangent import jvp
from .two_layer import two_layer_ntk


@no_type_check
@with_progress
def empirical_ntk(
    model: Callable,
    x1: Any,
    x2: Any = None,
    *,
    trainable: PyTree = None,
    where: Callable | None = None,
    method: str = "auto",
    block_size: int | None = None,
    output: str = "trace-mean",
    per_layer: bool = False,
    progress: OnProgress | bool | None = None,
) -> Any:
    """The empirical neural tangent kernel of any Equinox model, over its trained leaves.

        K_ij = <df(x_i)/dtheta, df(x_j)/dtheta>                  (2.6)

    A kernel of one set of inputs is symmetric to the last bit. Dropout and batch statistics must be
    in inference mode.

    Args:
        model: A function of one input, real-valued; k counts its outputs, flattened.
        x1: Inputs, (n1, ...).
        x2: Inputs, (n2, ...); None means x1.
        trainable: What is trained, as everywhere: None, the name of a layer or a filter spec
            (`network.model.trainable_spec`).
        where: A function of the model that returns the trained leaves, instead of `trainable`.
        method: "jacobian", "structured" or "ntk-vp"; "auto" takes the cheapest by the cost model of
            `nm.plan_ntk`.
        block_size: Samples whose Jacobians are held at once; bounds the memory.
        output: Of a model with outputs: the mean over them of the diagonal blocks ("trace-mean"),
            their sum ("trace-sum"), the blocks ("diagonal") or everything ("full").
        per_layer: A dictionary from the path of each trained leaf to its kernel instead; they sum
            to the whole. That of the last linear layer's weight, averaged over outputs, is h h^T of
            what enters it: the empirical NNGP, from the same pass.
        progress: Called as progress(pairs of blocks done, pairs); True for a bar.

    Returns:
        (n1, n2) for a scalar model and for traces; (n1, n2, k) for "diagonal"; (n1, k, n2, k) for
        "full".

    Raises:
        InputError: If an argument does not fit, the kernel would not fit in memory, or it holds
            NaN.

    Examples:
        >>> net = nm.init_two_layer(32, 3, key=jax.random.key(0))
        >>> X = jnp.eye(3)
        >>> K = nm.empirical_ntk(net, X)
        >>> K.shape, bool(jnp.all(K == K.T))
        ((3, 3), True)
    """
    check_flag("per_layer", per_layer)
    problem = prepare(model, x1, x2, trainable, where, method, block_size, output)
    special = _by_neurons(model, problem) if method in ("auto", "structured") else None
    if special is not None:
        check_kernel("the kernel", problem.x1, problem.x2, 3)
        kernels, finite = special(per_layer)
    else:
        how = _plan(problem, method, block_size)
        how.check_memory(of=problem.x1)
        kernels, finite = _stream(problem, how, per_layer, progress is not None)
    sound = concrete(finite)
    if sound is not None and not sound:
        raise InputError(
            "the kernel holds NaN or infinite values: a weight of the model is not finite, or its "
            "gradients overflow."
        )
    return kernels if per_layer else kernels[""]


@no_type_check
def plan_ntk(
    model: Callable,
    x1: Any,
    x2: Any = None,
    *,
    trainable: PyTree = None,
    where: Callable | None = None,
    method: str = "auto",
    block_size: int | None = None,
    output: str = "trace-mean",
) -> KernelPlan:
    """What `empirical_ntk` would do with these arguments: method, block size, flops and bytes.

    The cost model stands in `kernel.plan`. Nothing is computed. The two-layer net's own structured
    form streams neurons too, and needs less memory than stated here.

    Args:
        model: A function of one input, real-valued.
        x1: Inputs, (n1, ...), or a `jax.ShapeDtypeStruct` in their place.
        x2: Inputs, (n2, ...), or a `jax.ShapeDtypeStruct`; None means x1.
        trainable: What is trained, as in `empirical_ntk`.
        where: As in `empirical_ntk`.
        method: As in `empirical_ntk`.
        block_size: As in `empirical_ntk`.
        output: As in `empirical_ntk`.

    Returns:
        The plan, with those of the methods not taken in `others`.

    Raises:
        InputError: If an argument does not fit.

    Examples:
        >>> net = nm.init_two_layer(32, 3, key=jax.random.key(0))
        >>> plan = nm.plan_ntk(net, jax.ShapeDtypeStruct((10, 3), float))
        >>> plan.method, plan.result_bytes
        ('structured', 800)
    """
    problem = prepare(model, x1, x2, trainable, where, method, block_size, output)
    special = _by_neurons(model, problem) if method == "auto" else None
    return _plan(problem, "structured" if special is not None else method, block_size)


def _plan(problem: Problem, method: str, block_size: int | None) -> KernelPlan:
    return by_shape(_planned, problem, method, block_size)


def _planned(problem: Problem, method: str, block_size: int | None) -> KernelPlan:
    arrays, rest = eqx.partition(
        problem.frozen, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct)
    )
    f = lambda trained, arrays, x: flat_outputs(trained, eqx.combine(arrays, rest), x)
    return plan_kernel(
        *(f, problem.trained, arrays, problem.x1, problem.x2), method, block_size, problem.output
    )


Kernels = tuple[dict[str, Array], Array]
"""Kernels by name, and whether all their numbers are finite."""


def _by_neurons(model: Any, problem: Problem) -> Callable[[bool], Kernels] | None:
    """The kernel (2.8) as a function of `per_layer`, of a model that is a sum over neurons; else
    None."""
    if not asked(model).sums_neurons or problem.x1.ndim < 2:
        return None
    trained = problem.trained
    if trained.scale is not None:
        return None
    hidden, output = trained.hidden is not None, trained.output is not None
    layers = [(".hidden", True, False)] * hidden + [(".output", False, True)] * output

    def kernels(per_layer: bool) -> Kernels:
        parts = layers if per_layer else [("", hidden, output)]
        return _two_layer(model, problem.x1, problem.x2, parts)

    return kernels if problem.scalar else None


@eqx.filter_jit
def _two_layer(model: Any, x1: Array, x2: Array | None, parts: list[Any]) -> Kernels:
    kernels = {
        name: two_layer_ntk(model, x1, x2, hidden=hidden, output=output)
        for name, hidden, output in parts
    }
    return kernels, _finite(kernels)


def _finite(kernels: dict[str, Array]) -> Array:
    """Within the program of a kernel, since each operation outside costs a call of its own."""
    return jnp.stack([jnp.isfinite(kernel).all() for kernel in kernels.values()]).all()


def _stream(problem: Problem, how: KernelPlan, per_layer: bool, told: bool) -> Kernels:
    """What `eqx.filter_jit(_streamed)` does, in a fifth of a millisecond less: a small kernel takes
    a few."""
    leaves, tree = jax.tree.flatten(problem)
    arrays = tuple(leaf if eqx.is_array(leaf) else None for leaf in leaves)
    rest = tuple(None if eqx.is_array(leaf) else leaf for leaf in leaves)
    return _compiled(arrays, rest, tree, how, per_layer, told)


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4, 5))
def _compiled(
    arrays: Any, rest: Any, tree: Any, how: KernelPlan, per_layer: bool, told: bool
) -> Kernels:
    leaves = [a if b is None else b for a, b in zip(arrays, rest, strict=True)]
    return _streamed(jax.tree.unflatten(tree, leaves), how, per_layer, told)


def _streamed(problem: Problem, how: KernelPlan, per_layer: bool, told: bool) -> Kernels:
    """Blocks of rows against blocks of columns; with one set of inputs only those on and below the
    diagonal, then mirrored."""
    n1, n2 = problem.x1.shape[0], (problem.x1 if problem.x2 is None else problem.x2).shape[0]
    symmetric = problem.x2 is None
    left, right, pair = (_push_forward if how.method == "ntk-vp" else _contraction)(
        problem, how, per_layer
    )
    blocks1 = blocks(problem.x1, how.block_size)
    blocks2 = blocks1 if symmetric else blocks(problem.x2, how.block_size)

    def row(i: Array, block: Array) -> dict[str, Array]:
        if told:
            pairs = lambda i: i * (i + 1) // 2 if symmetric else i * len(blocks2)
            report(pairs(i), pairs(len(blocks1)))
        of_row = left(block)

        def cell(j: Array, block: Array) -> dict[str, Array]:
            compute = lambda block: pair(of_row, right(block))
            if not symmetric:
                return compute(block)
            shapes = jax.eval_shape(compute, block)
            skip = lambda _: jax.tree.map(lambda tile: jnp.zeros(tile.shape, tile.dtype), shapes)
            return jax.lax.cond(j <= i, compute, skip, block)

        return jax.lax.map(lambda args: cell(*args), (jnp.arange(len(blocks2)), blocks2))

    if len(blocks1) == len(blocks2) == 1:
        of_row = left(blocks1[0])
        kernels = pair(of_row, of_row if symmetric and left is right else right(blocks2[0]))
    else:
        tiles = jax.lax.map(lambda args: row(*args), (jnp.arange(len(blocks1)), blocks1))
        kernels = jax.tree.map(lambda tile: _assemble(tile)[:n1, :n2], tiles)
    finished = {
        name: _finish(_mirror(kernel) if symmetric else kernel, problem)
        for name, kernel in kernels.items()
    }
    return finished, _finite(finished)


def blocks(x: Array, block_size: int) -> Array:
    """(blocks, b, ...), blocks of equal size filled up with copies of the last input."""
    count = -(-x.shape[0] // block_size)
    size = -(-x.shape[0] // count)
    padded = jnp.pad(x, ((0, count * size - x.shape[0]),) + ((0, 0),) * (x.ndim - 1), mode="edge")
    return padded.reshape(count, size, *x.shape[1:])


def _assemble(tiles: Array) -> Array:
    rows, columns, b1, b2 = tiles.shape[:4]
    return jnp.swapaxes(tiles, 1, 2).reshape(rows * b1, columns * b2, *tiles.shape[4:])


def _mirror(kernel: Array) -> Array:
    """The lower triangle of an (n, n, ...) kernel, reflected: K_ij,ab = K_ji,ba to the last bit."""
    other = jnp.swapaxes(kernel, 0, 1)
    other = jnp.swapaxes(other, 2, 3) if kernel.ndim == 4 else other
    index = jnp.arange(kernel.shape[0])
    order = (index[:, None] - index[None, :]).reshape(kernel.shape[:2] + (1,) * (kernel.ndim - 2))
    return jnp.where(order > 0, kernel, jnp.where(order < 0, other, 0.5 * (kernel + other)))


def _finish(kernel: Array, problem: Problem) -> Array:
    """From (n1, n2), (n1, n2, k) or (n1, n2, k, k) to the axes asked for."""
    if problem.output == "trace-mean":
        kernel = kernel / problem.k
    if problem.scalar:
        return kernel.reshape(kernel.shape[:2])
    return jnp.swapaxes(kernel, 1, 2) if kernel.ndim == 4 else kernel


def _names(trained: PyTree, per_layer: bool) -> list[str]:
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(trained)]
    return paths if per_layer else [""] * len(paths)


def _contraction(
    problem: Problem, how: KernelPlan, per_layer: bool
) -> tuple[Callable, Callable, Callable]:
    """Factors of both blocks, and their contraction summed over leaves of one name."""
    features = jacobian(problem.f, problem.trained, dict(how.products))
    names = _names(problem.trained, per_layer)

    def pair(left: list[Factor], right: list[Factor]) -> dict[str, Array]:
        kernels: dict[str, Array] = {}
        for name, u, v in zip(names, left, right, strict=True):
            part = contract(u, v, problem.output)
            kernels[name] = kernels[name] + part if name in kernels else part
        return kernels

    return features, features, pair


def contract(u: Factor, v: Factor, output: Output) -> Array:
    """<df_a(x_i), df_b(x_j)> over one leaf: (n1, n2), (n1, n2, k) or (n1, n2, k, k)."""
    b, kept = {"diagonal": ("a", "ija"), "full": ("b", "ijab")}.get(output, ("a", "ij"))
    if u.delta.shape[2] == 1:
        kernel = (
            _gram(u.delta, v.delta)
            if kept == "ij"
            else jnp.einsum(f"iato,j{b}to->{kept}", u.delta, v.delta)
        )
        if u.h is None or v.h is None:
            return kernel
        inner = _gram(u.h, v.h)
        return kernel * inner.reshape(inner.shape + (1,) * (kernel.ndim - 2))
    deltas = jnp.einsum(f"iato,j{b}so->{kept}ts", u.delta, v.delta)
    return jnp.einsum(f"{kept}ts,ijts->{kept}", deltas, jnp.einsum("itc,jsc->ijts", u.h, v.h))


def _gram(u: Array, v: Array) -> Array:
    """Inner products of rows: one matrix product, which copies nothing to turn it."""
    return u.reshape(len(u), -1) @ v.reshape(len(v), -1).T


def _push_forward(
    problem: Problem, how: KernelPlan, per_layer: bool
) -> tuple[Callable, Callable, Callable]:
    """Gradients of the columns by reverse mode, pushed through the rows by forward mode, leaf by
    leaf when asked."""
    features = jacobian(problem.f, problem.trained, {})
    leaves, tree = jax.tree.flatten(problem.trained)
    groups = (
        {name: [i] for i, name in enumerate(_names(problem.trained, True))}
        if per_layer
        else {"": list(range(len(leaves)))}
    )

    def pair(x: Array, gradients: list[Factor]) -> dict[str, Array]:
        n2, k = gradients[0].delta.shape[:2]

        def kernel(moved: list[int]) -> Array:
            def f(some: tuple[Array, ...]) -> Array:
                here = [
                    some[moved.index(i)] if i in moved else leaf for i, leaf in enumerate(leaves)
                ]
                return jax.vmap(problem.f, in_axes=(None, 0))(jax.tree.unflatten(tree, here), x)

            primals = tuple(leaves[i] for i in moved)
            tangents = tuple(gradients[i].delta.reshape(n2 * k, *leaves[i].shape) for i in moved)
            pushed = jax.vmap(lambda v: jvp(f, primals, v)[1])(tangents).reshape(
                n2, k, x.shape[0], k
            )
            spec = {"diagonal": "jaia->ija", "full": "jbia->ijab"}.get(problem.output, "jaia->ij")
            return jnp.einsum(spec, pushed)

        return {name: kernel(moved) for name, moved in groups.items()}

    return lambda x: x, features, pair

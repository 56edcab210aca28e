"""One step with the kernel frozen, for all samples: by the eigenvectors of H, or by products with
it.

A step is functions of H times Delta and, with momentum, times J v, each entire in H, see
`method.frozen`. The eigenvectors U of H give them, U phi(Lambda) U^T Delta. Of a large H they lie,
to the tolerance of a step, in the Krylov spaces that a few dozen products span, where the
decomposition takes the time of some thousand:

    phi(H) Delta ~ Q^T phi(T) e_1 |Delta|,   T = Q H Q^T,

each vector in a space of its own, so that two small T are decomposed and not one of twice the size.
The space of k products misses beta_k |e_k . phi(T) e_1|, what H leads out of it, a force that is
left out of the frozen equation. Where too much is missed the eigenvectors are computed after all.
Derivatives by H are those of matrix functions, by eigenvectors too, see `matrix_function`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from ...kernel.lanczos import Lanczos, extend, resized, started
from ...method import FrozenStep
from ...products import agreed
from ..matrix_function import Eigenbasis, eigenbasis, function_of
from ..objective import norm

ENOUGH = 0.01
"""Of a step's tolerance may be missed. Chosen: a few products more halve it again."""
FIRST = 12
"""Products before the first look, where no step was taken yet."""


NEARLY_ALL = 32
"""Products of nearly every step: arrays of this size serve while no more are taken."""


def takes_products(n: int) -> bool:
    """Whether products are faster than eigenvectors for n samples.

    Measured: float32 runs of 512 neurons on one core, gradient flow, took 0.5 times as long with
    products at n = 256, 0.33 at 500 and 0.38 at 1000, heavy ball 0.8, 0.44 and 0.42. An H100 takes
    12 ms for the eigenvectors of one kernel of n = 1000, 0.19 s for those of sixteen one after
    the other, and 1 ms for 32 products with each of the sixteen; sixteen runs of 1024 neurons
    took 1.5 times as long with products at n = 64 and 1.2 times at 128.
    """
    return n >= 256


def capacity(n: int) -> int:
    """The largest space: beyond it eigenvectors are no dearer."""
    return min(n, max(32, n // 8), 128)


class Held(NamedTuple):
    """A kernel as it is, and how many products its last step took."""

    matrix: Float[Array, "N N"]
    products: Int[Array, ""]


def remembered(
    matrix: Float[Array, "N N"], by_products: bool = False, products: Int[Array, ""] | int = FIRST
) -> Eigenbasis | Held:
    """What steps with a kernel need of it: the kernel, or its eigenbasis, eigenvalues clipped at
    zero."""
    matrix = (matrix + matrix.T) / 2
    if by_products:
        return Held(matrix, jnp.asarray(products, jnp.int32))
    found = eigenbasis(matrix)
    return found._replace(eigenvalues=jnp.maximum(found.eigenvalues, 0.0))


def renewed(at: Eigenbasis | Held, matrix: Float[Array, "N N"]) -> Eigenbasis | Held:
    """The same of the next kernel."""
    return remembered(matrix, True, at.products) if isinstance(at, Held) else remembered(matrix)


def largest(at: Eigenbasis | Held) -> Float[Array, ""]:
    """lambda_max, to the few digits that a first step needs."""
    if isinstance(at, Eigenbasis):
        return at.eigenvalues[-1]
    matrix = jax.lax.stop_gradient(at.matrix)
    product = lambda u: matrix @ (u / norm(u))
    return norm(jax.lax.fori_loop(0, 20, lambda _, u: product(u), jnp.ones_like(matrix[0])))


def frozen_step(
    flow: Any,
    at: Eigenbasis | Held,
    t: Array,
    h: Array,
    residual: Float[Array, " N"],
    velocity: Float[Array, " N"],
    allowed: Array,
) -> tuple[FrozenStep, Float[Array, ""], Eigenbasis | Held]:
    """(`FrozenStep` of samples, the force it misses, what to remember of the kernel).

    h: the step's length, or several, (parts,), which lead every field. allowed: the force that may
    be missed by the last of them.
    """
    if isinstance(at, Eigenbasis):
        return _by_eigenvectors(flow, at, t, h, residual, velocity), jnp.zeros_like(t), at
    step, missed, products = _by_products(
        flow, at.matrix, at.products, t, h, residual, velocity, allowed
    )
    return step, missed, at._replace(products=products)


def _by_eigenvectors(
    flow: Any, at: Eigenbasis, t: Array, h: Array, residual: Array, velocity: Array
) -> FrozenStep:
    """The step, with the derivative by H of the matrix functions that it is made of."""

    def along(eigenvalues: Array, rest: Any, columns: tuple[Array, Array]) -> FrozenStep:
        flow, t, h = rest
        return flow.frozen_step(eigenvalues, t, h, *columns)

    columns = at.vectors.T @ residual, at.vectors.T @ velocity
    one = lambda h: function_of(along, at, (flow, t, h), columns)
    return _lifted(_each(one, h), lambda x: x @ at.vectors.T)


def _each(one: Any, h: Array) -> FrozenStep:
    return one(h) if h.ndim == 0 else jax.vmap(one)(h)


def _lifted(step: FrozenStep, lift: Any) -> FrozenStep:
    vectors = ("residual", "velocity", "impulse_w", "impulse_v")
    return step._replace(**{name: lift(getattr(step, name)) for name in vectors})


class _Looked(NamedTuple):
    """What a space gives: the step along its Ritz vectors, their coordinates in the basis, the
    force that is missed, and whether that is little enough."""

    step: FrozenStep
    mixing: Float[Array, "s K K"]
    missed: Float[Array, ""]
    good: Array


@eqx.filter_custom_jvp
def _by_products(
    flow: Any,
    matrix: Array,
    due: Array,
    t: Array,
    h: Array,
    residual: Array,
    velocity: Array,
    allowed: Array,
) -> tuple[FrozenStep, Array, Array]:
    moving = flow.init(jnp.zeros(())).v is not None
    start = jnp.stack([residual, velocity] if moving else [residual])
    s, K = start.shape[0], capacity(start.shape[1])
    eps = jnp.finfo(matrix.dtype).eps

    def sized(products: Array, whole: Any, few: Any, *args: Any) -> Any:
        if K <= NEARLY_ALL:
            return whole(*args)
        return jax.lax.cond(agreed(products <= NEARLY_ALL), few, whole, *args)

    def look(runs: Lanczos, done: Array) -> _Looked:
        # Rows that are not filled yet get eigenvalues of their own, which nothing belongs to.
        T, index = runs.coefficients[:, :K, :K], jnp.arange(K)
        unfilled, size = index >= done, norm(T)
        apart = jnp.diag(size * (1 + (1 + index) / K))
        T = jnp.where(unfilled[:, None] | unfilled[None], apart, (T + T.mT) / 2)
        values, mixing = sized(done, _eigenvectors, _eigenvectors_of_few, T)
        values = jnp.maximum(values, 0.0)
        along = mixing[:, 0] * runs.weights[:, 0]
        # Delta moves by the values of its own space, J v by those of the other
        rest, rate = along.at[1:].set(0.0).reshape(-1), along.at[0].set(0.0).reshape(-1)
        step = _each(lambda h: flow.frozen_step(values.reshape(-1), t, h, rest, rate), h)
        impulse = (step.impulse_w if h.ndim == 0 else step.impulse_w[-1]).reshape(s, K)
        tail = runs.coefficients[:, done, done - 1] * jnp.einsum(
            "sk,sk->s", mixing[:, done - 1], impulse
        )
        missed = norm(tail)
        # what round-off leaves of the difference that `tail` is
        floor = eps * size * norm(impulse)
        return _Looked(step, mixing, missed, ~(missed > jnp.maximum(allowed, floor)))

    def unfinished(carry: tuple) -> Array:
        _, done, _, looked = carry
        return ~looked.good & (done < K)

    def larger(carry: tuple) -> tuple:
        runs, done, due, _ = carry
        longer = lambda run: jax.vmap(lambda run: extend(run, matrix, done, due))(run)
        runs = sized(
            due, longer, lambda runs: _with_room(longer(_with_room(runs, NEARLY_ALL)), K), runs
        )
        return runs, due, jnp.minimum(due + 1 + due // 3, K), look(runs, due)

    runs = jax.vmap(lambda row: started(row[None], K))(start)
    none = jnp.zeros((), jnp.int32)
    blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(look, runs, none))
    first = jnp.clip(due - due // 8, 2, K)
    runs, done, _, looked = jax.lax.while_loop(unfinished, larger, (runs, none, first, blank))

    def within(x: Array) -> Array:
        inner = jnp.einsum("...sk,sjk->...sj", x.reshape(*x.shape[:-1], s, K), looked.mixing)
        return jnp.einsum("...sj,sjn->...n", inner, runs.basis[:, :K])

    def dense() -> tuple[FrozenStep, Array]:
        return _decomposed(flow, matrix, t, h, residual, velocity), jnp.zeros_like(looked.missed)

    step, missed = jax.lax.cond(
        agreed(looked.good), lambda: (_lifted(looked.step, within), looked.missed), dense
    )
    return step, missed, done


def _with_room(runs: Lanczos, products: int) -> Lanczos:
    return jax.vmap(lambda run: resized(run, products))(runs)


def _eigenvectors(T: Float[Array, "s K K"]) -> tuple[Array, Array]:
    values, mixing = jnp.linalg.eigh(T, symmetrize_input=False)
    return values, mixing


def _eigenvectors_of_few(T: Float[Array, "s K K"]) -> tuple[Array, Array]:
    """The same of a T that is diagonal beyond its first rows, in no order."""
    values, mixing = _eigenvectors(T[:, :NEARLY_ALL, :NEARLY_ALL])
    rest = jnp.diagonal(T, axis1=1, axis2=2)[:, NEARLY_ALL:]
    whole = jnp.broadcast_to(jnp.eye(T.shape[1], dtype=T.dtype), T.shape)
    return jnp.concatenate([values, rest], axis=1), whole.at[:, :NEARLY_ALL, :NEARLY_ALL].set(
        mixing
    )


def _decomposed(flow: Any, matrix: Array, *rest: Array) -> FrozenStep:
    found = remembered(matrix)
    assert isinstance(found, Eigenbasis)
    return _by_eigenvectors(flow, found, *rest)


@_by_products.def_jvp
def _by_products_jvp(primals: PyTree, tangents: PyTree) -> tuple[PyTree, PyTree]:
    (flow, matrix, due, *rest, _), (dflow, dmatrix, _, *drest, _) = primals, tangents
    step, rate = eqx.filter_jvp(_decomposed, (flow, matrix, *rest), (dflow, dmatrix, *drest))
    return (step, jnp.zeros_like(rest[0]), due), (rate, None, None)

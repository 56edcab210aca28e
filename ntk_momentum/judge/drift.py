"""How far a model's kernel and tangent features have moved, and the ends of its spectrum at each
end: from the kernel itself, or from its products where there are many samples and outputs."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ..dynamics.objective import WeightProblem, norm
from ..dynamics.solver.gauss_newton import Linearised
from ..errors import InputError
from ..kernel import lanczos
from ..kernel.tangent import linear_maps
from ..loss import output_gradient, squared

EXACT = 64
"""Outputs up to which distances from products are taken exactly; for more, from so many random
signs, whose error is below sqrt(2/64) = 18 % of its square, hence 9 %."""


@eqx.filter_jit
def outset(problem: WeightProblem, w: PyTree, formed: bool) -> tuple[Array, Array | None]:
    """(f, H), or None in its place."""
    return problem.f(w), problem.kernel(w) if formed else None


def outermost(kernel: Array) -> tuple[float, float]:
    """(smallest eigenvalue above round-off, largest); zeros of a kernel that is zero."""
    return _visible(np.linalg.eigvalsh(np.asarray(kernel)))


def _visible(values: np.ndarray) -> tuple[float, float]:
    seen = values > values.size * np.finfo(values.dtype).eps * values[-1]
    if not seen.any():
        return 0.0, 0.0
    return float(values[seen][0]), float(values[-1])


def local(kernel: Array, f0: Array, problem: WeightProblem) -> tuple[Array, Array]:
    """(kernel, error) of the quadratic model of L at f(0): C^{1/2} H C^{1/2} and C^{-1/2} grad_f L,
    with C the Hessian of L in f."""
    gradient = output_gradient(problem.loss, f0, problem.y).reshape(-1)
    if problem.loss is squared:
        return kernel, gradient
    C = jax.hessian(lambda f: problem.loss(f.reshape(f0.shape), problem.y))(f0.reshape(-1))
    values, vectors = jnp.linalg.eigh(C)
    seen = values > values.size * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values))
    if not bool(jnp.any(seen)):
        raise InputError(
            "the loss has no positive curvature at f(0), so no step size can be "
            "recommended from its spectrum."
        )
    root = jnp.sqrt(jnp.where(seen, values, 1.0))
    half = vectors * jnp.where(seen, root, 0.0)[None, :]
    H = half.T @ kernel @ half  # in C's eigenbasis
    kept = np.flatnonzero(np.asarray(seen))
    return ((H + H.T) / 2)[np.ix_(kept, kept)], (vectors.T @ gradient / root)[kept]


@eqx.filter_jit
def ritz_values(problem: WeightProblem, w: PyTree, products: int) -> Array:
    """Ritz values of the same kernel, times the loss's curvature, from a random start."""
    curved = Linearised.at(problem, w)
    size = problem.f(w).size
    count = min(products, size)
    start = jax.random.normal(jax.random.key(0), (1, size), problem.f(w).dtype)
    run = lanczos.extend(lanczos.started(start, count), curved.product, 0, count)
    return lanczos.ritz(run, count, (size,), 1.0).values


def ends_by_products(problem: WeightProblem, w: PyTree, products: int) -> tuple[float, float]:
    """`outermost` from so many products: the largest from below, the smallest from above."""
    return _visible(np.asarray(ritz_values(problem, w, products)))


@eqx.filter_jit
def drifts(
    problem: WeightProblem,
    start: PyTree,
    end: PyTree,
    kernel: Array | None,
    later: Array | None,
) -> tuple[Array, ...]:
    """(|H - H_0|/|H_0|, the sine of the angle between H and H_0, |J - J_0|/|J_0|, |w - w_0|/|w_0|,
    |H|/|H_0|, contrast at the start, at the end); without the kernels from products, H e = J J^T e.
    Sums over unit vectors e, or the mean over random signs.

    contrast: |C J|^2/|J|^2, with C taking off the mean over inputs, 0 where J is the same for all
    or zero: no step then changes one output of the model without the others."""
    moved = jax.tree.map(jnp.subtract, end, start)
    f0, push, pull = linear_maps(problem.f, start)
    _, push_later, pull_later = linear_maps(problem.f, end)

    def row(unit: Array) -> Array:
        one, other = pull(unit), pull_later(unit)
        parts = [norm(jax.tree.map(jnp.subtract, other, one)) ** 2, norm(one) ** 2]
        if kernel is None:
            H0, H = push(one), push_later(other)
            apart = unit - jnp.mean(unit, axis=0, keepdims=True)
            pairs = (H - H0) ** 2, H0**2, H**2, H0 * H, apart * H0, unit * H0, apart * H, unit * H
            parts += [jnp.sum(pair) for pair in pairs]
        return jnp.stack(parts)

    if f0.size <= EXACT:
        probes = jnp.eye(f0.size, dtype=f0.dtype)
    else:
        probes = jax.random.rademacher(jax.random.key(0), (EXACT, f0.size), f0.dtype)
    sums = jnp.sum(jax.lax.map(row, probes.reshape(-1, *f0.shape)), axis=0)
    features = jnp.sqrt(sums[0] / sums[1])
    if kernel is None or later is None:
        far, size, size_later = jnp.sqrt(sums[2:5])
        cosine, shares = sums[5] / size / size_later, sums[6:10]
    else:
        far, size, size_later = norm(later - kernel), norm(kernel), norm(later)
        cosine = jnp.sum(kernel / size * (later / size_later))
        shares = jnp.concatenate([_traces(kernel, len(f0)), _traces(later, len(f0))])
    turn = jnp.sqrt(jnp.maximum(1 - cosine**2, 0.0))
    whole = jnp.where(shares[1::2] > 0, shares[1::2], 1.0)
    contrast = jnp.ones(2) if len(f0) == 1 else jnp.maximum(shares[::2], 0.0) / whole
    return far / size, turn, features, norm(moved) / norm(start), size_later / size, *contrast


def _traces(kernel: Array, n: int) -> Array:
    """The traces of C H and of H = J J^T, |C J|^2 and |J|^2, with C taking off the mean over n
    inputs."""
    over = jnp.einsum("icjc->ij", kernel.reshape(n, -1, n, len(kernel) // n))
    return jnp.stack([jnp.trace(over) - jnp.sum(over) / n, jnp.trace(over)])

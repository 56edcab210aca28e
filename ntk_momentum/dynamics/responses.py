"""How the modes of a constant kernel move: from an error, from a velocity, under a ridge, and where
they end.

For the loss |f - y|^2/2 + ridge |w - w_0|^2/2 and f = f(0) + J (w - w_0), write w - w_0 = J^T c. A
flow acts on c with the gradient Delta + ridge c, Delta = Delta(0) + H c, so that along an
eigenvector of H with eigenvalue lambda the gradient g itself obeys the flow with eigenvalue mu =
lambda + ridge from g(0) = Delta(0):

    c = -psi(mu, t) Delta(0),   psi = (1 - phi)/mu
    Delta = (1 - lambda psi) Delta(0) = (ridge + lambda phi(mu, t))/mu Delta(0)

which ends at ridge/(lambda + ridge) Delta(0), kernel ridge regression.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ..errors import InputError, concrete
from ..kernel import Modes
from ..method import (
    AbstractFlow,
    AbstractMomentumFlow,
    AbstractOptimizer,
    GradientFlow,
    spectral_radius,
)
from .matrix_function import Eigenbasis, by_matrix, eigenbasis, function_of

_DIRECT_FROM = 0.2
"""From this 1 - phi on, to first order, psi is the quotient (1 - phi)/lambda, which below it loses
digits to cancellation. Chosen, not measured."""
# Gauss's rule on (0, 1) for the mean of dphi/dlambda: four nodes are exact to degree seven.
_NODES, _WEIGHTS = (
    ((1 + np.polynomial.legendre.leggauss(4)[0]) / 2).tolist(),
    (np.polynomial.legendre.leggauss(4)[1] / 2).tolist(),
)


def slots_of(counts: Any) -> Array:
    """For each step of an optimizer the saved one it is written to: each is written over the next
    saved one, so that the last one stays."""
    return jnp.asarray(np.searchsorted(counts, np.arange(1, int(counts[-1]) + 1)))


def numbers_of(flow: Any) -> tuple[Any, Any]:
    """(numbers, rest) of a method, for a program that serves all numbers."""
    return eqx.partition(
        flow, lambda leaf: isinstance(leaf, float | np.floating | np.ndarray | jax.Array)
    )


class Response(NamedTuple):
    """Eigenvalues, -vectors, errors (T, N, columns), velocity in the eigenbasis, losses, what the
    test points moved by, the response of their velocity, the error, the bound of the loss."""

    eigenvalues: Array
    vectors: Array
    residual: Array
    slopes: Array
    loss: Array
    pseudo_loss: Array
    test: Array | None
    carry: Array | None
    error: Array | None
    upper: Array | None


@functools.partial(jax.jit, static_argnums=(1, 2, 9))
def solve(
    parameters: Any,
    rest: Any,
    limit: bool,
    kernel: Array | Modes,
    columns: tuple[Array, Array | None] | None,
    ts: Array,
    slots: Array | None,
    rows: Array | None,
    ridge: Array | None,
    with_carry: bool,
) -> Response:
    method = eqx.combine(parameters, rest)
    few = kernel if isinstance(kernel, Modes) and kernel.products > 0 else None
    if isinstance(kernel, Modes):
        found = Eigenbasis(kernel.values, kernel.vectors, None)
        start, launch = kernel.start, kernel.velocity
    else:
        found = eigenbasis(kernel)
        assert columns is not None
        start = found.vectors.T @ columns[0]
        launch = None if columns[1] is None else found.vectors.T @ columns[1]
    eigenvalues, vectors = found.eigenvalues, found.vectors
    # a Gram matrix: below zero is round-off
    at = found._replace(eigenvalues=jnp.where(eigenvalues < 0, 0.0, eigenvalues))
    ask = functools.partial(moved, method, ts=ts, slots=slots, ridge=ridge, limit=limit)
    options = {
        "dual": rows is not None or few is not None,
        "rough": rows is None,
        "size": len(vectors),
    }

    def along(eigenvalues: Array, rest: Any, columns: Any) -> tuple[Array, Array, Array | None]:
        method, ts, slots, ridge = rest
        again = {"ts": ts, "slots": slots, "ridge": ridge, "limit": limit, **options}
        return moved(method, eigenvalues, columns, **again)

    modes, velocity, dual = function_of(along, at, (method, ts, slots, ridge), (start, launch))
    residual = jnp.swapaxes(
        jnp.einsum("tjk,ij->tki", modes, vectors), 1, 2
    )  # in this order no transpose for one column
    basis = None if rows is None else rows if isinstance(kernel, Modes) else rows @ vectors
    test = None if basis is None else jnp.einsum("qi,tik->tqk", basis, dual)
    # U keeps lengths: |Delta|^2 = sum_k modes_k^2 and Delta . H Delta = sum_k lambda_k modes_k^2.
    loss = 0.5 * jnp.sum(modes**2, axis=(1, 2))
    pseudo_loss = 0.5 * jnp.sum(modes * by_matrix(at, modes), axis=(1, 2))
    carry = None
    if with_carry:
        carry = launched(method, shifted(jnp.zeros(1, ts.dtype), ridge), ts)[0][:, 0]
    error = upper = None
    if few is not None:
        error = error_of(few.tail, dual)
        if isinstance(method, GradientFlow):
            values, starts = radau(few)
            above, _, _ = ask(values, (starts, None), dual=False, size=len(vectors))
            upper = 0.5 * jnp.sum(above**2, axis=(1, 2))
    return Response(
        eigenvalues,
        vectors,
        residual,
        velocity,
        loss,
        pseudo_loss,
        test,
        carry,
        error,
        upper,
    )


def moved(
    method: AbstractFlow | AbstractOptimizer,
    eigenvalues: Array,
    columns: tuple[Array, Array | None],
    *,
    ts: Array,
    slots: Array | None,
    ridge: Array | None,
    limit: bool,
    dual: bool,
    size: int,
    rough: bool = False,
) -> tuple[Array, Array, Array | None]:
    """(modes, their velocity, or last step of an optimizer, dual variable c), (T, N, columns), at
    the times, and at infinity where `limit`.

    columns: the error and its velocity at t = 0; size: of the kernel, which says what is round-off;
    rough: c of small eigenvalues may lose digits, as an error's estimate may.
    """
    if isinstance(method, AbstractFlow):
        rest = method, ts, ridge
        return closed(eigenvalues, rest, columns, dual=dual, limit=limit, size=size, rough=rough)
    assert slots is not None
    found = _recursion(method, eigenvalues, columns[0], slots, ts.shape[0], dual, ridge)
    if not limit:
        return found
    phi, psi = ends(shifted(eigenvalues, ridge), size)
    share, still = shares(eigenvalues, ridge)
    modes = (phi * share + still)[:, :, None] * columns[0][None]
    join = lambda a, b: jnp.concatenate([a, b])
    dual_end = None if found[2] is None else join(found[2], -psi[:, :, None] * columns[0][None])
    return join(found[0], modes), join(found[1], jnp.zeros_like(modes)), dual_end


def closed(
    eigenvalues: Array,
    rest: tuple[AbstractFlow, Array, Array | None],
    columns: tuple[Array, Array | None],
    *,
    dual: bool,
    limit: bool,
    size: int,
    rough: bool = False,
) -> tuple[Array, Array, Array | None]:
    """`moved` by a flow; rest: flow, times, ridge."""
    (flow, ts, ridge), (start, launch) = rest, columns
    mu = shifted(eigenvalues, ridge)
    phi, slope = flow.mode(mu[None, :], ts[:, None])
    psi = None if not dual else quotient(mu, phi) if rough else deficit(flow, mu, ts, phi)
    if limit:
        end, rest_psi = ends(mu, size)
        phi, slope = jnp.concatenate([phi, end]), jnp.concatenate([slope, 0 * end])
        psi = None if psi is None else jnp.concatenate([psi, rest_psi])
    share, still = shares(eigenvalues, ridge)
    modes, velocity = phi * share + still, slope * share
    along = lambda factor, column: factor[:, :, None] * column[None]
    out = along(modes, start), along(velocity, start), None if psi is None else along(-psi, start)
    if launch is None:
        return out
    chi, rate, impulse = launched(flow, eigenvalues, ts)
    return (
        out[0] + along(chi, launch),
        out[1] + along(rate, launch),
        None if out[2] is None else out[2] - along(impulse, launch),
    )


def shifted(eigenvalues: Array, ridge: Array | None) -> Array:
    """lambda + ridge."""
    return eigenvalues if ridge is None else eigenvalues + ridge


def shares(eigenvalues: Array, ridge: Array | None) -> tuple[Array | float, Array | float]:
    """lambda/mu, what the flow moves of a mode, and ridge/mu, what it leaves."""
    if ridge is None:
        return 1.0, 0.0
    mu = eigenvalues + ridge
    mu = jnp.where(mu > 0, mu, 1.0)[None, :]
    return eigenvalues[None, :] / mu, ridge / mu


def ends(mu: Array, size: int) -> tuple[Float[Array, "1 N"], Float[Array, "1 N"]]:
    """(phi, psi) at t = infinity: 0 and 1/mu, in the null space, to round-off of a kernel of this
    size, 1 and nothing: there a kernel's row has no component either."""
    floor = jax.lax.stop_gradient(size * jnp.finfo(mu.dtype).eps * jnp.max(mu))
    seen = (mu > floor)[None, :]
    return jnp.where(seen, 0.0, 1.0).astype(mu.dtype), jnp.where(
        seen, 1 / jnp.where(seen, mu[None, :], 1.0), 0.0
    )


def _recursion(
    optimizer: AbstractOptimizer,
    eigenvalues: Array,
    start: Array,
    slots: Array,
    saved: int,
    with_dual: bool,
    ridge: Array | None,
) -> tuple[Array, Array, Array | None]:
    """(modes, last steps, dual variable) at the saved step counts, which `slots` gives for each
    step.

    The dual variable moves with gradient Delta where an eigenmode moves with lambda Delta: the
    prediction at a point with kernel row k* is its sum weighted by k*, and no eigenvalue divides. A
    ridge adds ridge c to both.
    """

    # update is linear in gradients and positions, so one call moves both, which differ in their
    # gradients alone.
    def step(carry: PyTree, slot: Array) -> tuple[PyTree, None]:
        (modes, dual), state, kept = carry
        pull = modes if ridge is None else modes + ridge * dual
        gradient = eigenvalues[:, None] * pull, (pull if with_dual else None)
        change, state = optimizer.update(gradient, state, (modes, dual))
        modes, dual = jax.tree.map(
            lambda old, by: old + by.astype(old.dtype), (modes, dual), change
        )
        kept = jax.tree.map(lambda all, new: all.at[slot].set(new), kept, (modes, change[0], dual))
        return ((modes, dual), state, kept), None

    with_dual = with_dual or ridge is not None
    rest = jnp.zeros_like(start)
    point = start, rest if with_dual else None
    kept = jax.tree.map(
        lambda new: jnp.broadcast_to(new, (saved, *new.shape)), (start, rest, point[1])
    )
    (_, _, kept), _ = jax.lax.scan(step, (point, optimizer.init(point), kept), slots)
    return kept


def quotient(mu: Array, phi: Array) -> Array:
    """(1 - phi)/mu, which is nothing where mu is round-off."""
    seen = (mu > jnp.finfo(mu.dtype).eps * jnp.max(mu))[None, :]
    return jnp.where(seen, (1 - phi) / jnp.where(seen, mu[None, :], 1.0), 0.0)


def deficit(flow: AbstractFlow, eigenvalues: Array, ts: Array, phi: Array) -> Array:
    """psi = (1 - phi)/lambda, well-conditioned as lambda -> 0: there it is minus the mean of
    dphi/dlambda over (0, lambda)."""
    info = jnp.finfo(eigenvalues.dtype)
    floor = jnp.maximum(
        info.tiny, info.eps**2 * jnp.max(eigenvalues)
    )  # as good as zero, and safe for a mode written in sqrt(lambda)

    # psi(lambda) = -int_0^1 (dphi/dlambda)(theta lambda) dtheta where phi is near 1, as phi(0) = 1.
    lam = _from(floor, eigenvalues)[None, :]

    def slope(node: Array) -> Array:
        at = _from(floor, node * lam)
        return jax.jvp(lambda lam: flow.mode(lam, ts[:, None])[0], (at,), (jnp.ones_like(at),))[1]

    slopes = jax.lax.map(slope, jnp.array([0.0, *_NODES], lam.dtype))
    near = -slopes[0] * lam < _DIRECT_FROM
    mean = jnp.tensordot(jnp.array(_WEIGHTS, lam.dtype), slopes[1:], axes=1)
    return jnp.where(near, -mean, (1 - phi) / lam)


def _from(floor: Array, value: Array) -> Array:
    """The larger one, with the derivative of `value`."""
    return value + jax.lax.stop_gradient(jnp.maximum(value, floor) - value)


def launched(
    flow: AbstractFlow, eigenvalues: Array, ts: Array
) -> tuple[Float[Array, "T N"], Float[Array, "T N"], Float[Array, "T N"]]:
    """(chi, dchi/dt, what moves the test points) of one eigenvalue from Delta = 0 and Delta' = 1:
    with w' = p at t = 0 and J p = 1, w - w_0 = carry p - J^T impulse. Response numerically, as
    `AbstractFlow.mode` by default: to 4e-10."""
    zero = jnp.zeros_like(eigenvalues)

    def segment(carry: tuple, end: Array) -> tuple[tuple, tuple[Array, Array, Array]]:
        t, chi, rate, moved, pushed = carry
        step = flow._frozen(100.0, eigenvalues, t, end - t, chi, rate)
        moved = moved + step.carry_w * pushed + step.impulse_w
        pushed = step.carry_v * pushed + step.impulse_v
        now = (end, step.residual, step.velocity, moved, pushed)
        return now, (step.residual, step.velocity, moved)

    start = (jnp.zeros((), ts.dtype), zero, zero + 1, zero, zero)
    return jax.lax.scan(segment, start, ts)[1]


def error_of(tail: Array, dual: Array | None) -> Float[Array, " T"]:
    """|Delta(0) + H c - Delta| with the c and the Delta of some Ritz values: see `ritz`."""
    assert dual is not None
    return jnp.sqrt(jnp.sum(jnp.square(jnp.einsum("sj,tjc->tsc", tail, dual)), axis=(1, 2)))


def radau(found: Modes) -> tuple[Float[Array, " K"], Float[Array, "K columns"]]:
    """(nodes, weights along them) of the rule that has 0 among its nodes, as often as there are
    columns: T is bordered by B so that the larger matrix has that eigenvalue (Golub 1973; Golub and
    Meurant 2010, 6.2), [[T, B^T], [B, B T^-1 B^T]]."""
    # as far below zero as round-off may have moved T, so that 0 is still a bound of the spectrum
    floor = jnp.finfo(found.values.dtype).eps * found.values[-1] * len(found.values)
    border = found.tail[: found.columns]
    corner = (border / (found.values + floor)[None, :]) @ border.T - floor * jnp.eye(len(border))
    whole = jnp.block([[jnp.diag(found.values), border.T], [border, corner]])
    values, vectors = jnp.linalg.eigh((whole + whole.T) / 2)
    return jnp.maximum(values, 0.0), vectors[: len(found.values)].T @ found.start


def check_launch(flow: Any) -> None:
    """Raise where no run starts with a velocity of its own: without inertia, or where friction is
    infinite at t = 0, as Nesterov's."""
    if not isinstance(flow, AbstractMomentumFlow) or not flow.linear:
        raise InputError(
            f"velocity0 is of flows with inertia, w'' + b(t) w' = -grad L; {flow.name} has no "
            "velocity of its own. Leave it out, or take nm.HeavyBall or nm.Friction."
        )
    at_start = concrete(flow.friction(jnp.asarray(0.0)))
    if at_start is not None and not np.isfinite(at_start):
        raise InputError(
            f"{flow.name} starts at rest: its friction is infinite at t = 0. Leave velocity0 out."
        )


def check_limit(method: AbstractFlow | AbstractOptimizer, eigenvalues: Any) -> None:
    """Raise unless every mode of an eigenvalue > 0 is known to die out."""
    if isinstance(method, AbstractFlow):
        if not method.settles:
            raise InputError(
                f"{method} is not known to come to rest, so it has no t = infinity; ask for a "
                "large finite time, or say settles = True in a class of your own that does."
            )
        return
    values = concrete(eigenvalues)
    if values is None:
        return
    seen = values[values > len(values) * np.finfo(values.dtype).eps * values.max(initial=0.0)]
    if seen.size and np.max(spectral_radius(method, seen)) >= 1:
        raise InputError(
            f"{method} does not converge on eigenvalues up to {values.max():.3g}, so it has no "
            "t = infinity; take a smaller step."
        )

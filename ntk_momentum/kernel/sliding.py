"""Neurons held on kinks: slopes averaged over a step, solved jointly for the samples that hold a
neuron.

The right side of (2.2) jumps where z_ri = w_r . x_i = 0. Where a_r Delta_i > 0 (and the slope grows
with z) the fields on both sides may point at the kink: the neuron slides along it, and Filippov's
solution takes the convex combination of the two slopes that keeps z_ri = 0. A neuron held by
several samples P has z_P' = 0 in all of them at once. With q_i = |jump of the slope| theta_i |a_r
Delta_i| that is the box-constrained quadratic programme

    min 1/2 q . G_PP q + b . q,   0 <= q_i <= |jump| |a_r Delta_i|,

with b what G makes of the rest of the force, whose optimality conditions say: theta_i = 1 where the
kink is left upwards, 0 where downwards, between them where it is not left. G = X X^T is positive
semidefinite, so z' is unique. Gauss-Seidel sweeps solve it over the few samples of each neuron that
matter most. Solved one by one instead, samples that hold a neuron together leave an error of first
order in the step.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

SLOTS = 6
"""Samples of a neuron that are solved jointly: those with most say. Chosen, not measured; the rest
are solved one by one, which is right where they do not hold the neuron too."""
SWEEPS = 8
"""Gauss-Seidel sweeps. Chosen, not measured; the programme is convex, so each one lowers it."""


def average(
    gram: Float[Array, "n n"],
    before: Float[Array, "n m"],
    after: Float[Array, "n m"],
    slopes: Float[Array, "n m"],
    force: Float[Array, " n"],
    gain: Float[Array, " m"],
    low: float,
    high: float,
) -> Float[Array, "n m"]:
    """Slopes averaged over a step that leads from z_0 = `before` to z_1 = `after` + G ((average -
    slopes) * force gain).

    low, high: the slope below and above zero. Columns are neurons, each by itself. With all other
    samples given, a sample at the distance d from its kink ends at the signed distance `stay` if it
    never crosses and at `leave` if it crosses at once. Both sides' speeds are constant, so where
    stay < 0 it crosses after d / (d - stay) of the step; and if leave > d, so that it is pushed
    back at once, it slides, and is held at z_1 = 0:

        fraction on the near side = x / (x - stay),   x = max(d, leave).
    """
    if low == high:
        return jnp.full_like(before, low)
    weight = jnp.diagonal(gram) * force

    def ways(before: Array, own: Array) -> tuple[Array, ...]:  # own: dz_1 / d slope
        above = before > 0
        near, side = (
            jnp.where(above, high, low).astype(before.dtype),
            jnp.where(above, 1.0, -1.0).astype(before.dtype),
        )
        far = (low + high) - near
        return side, near, far, side * before, side * own * (far - near)

    own = weight[:, None] * gain[None, :]
    side, near, far, distance, jump = ways(before, own)
    stay = side * (after + own * (near - slopes))
    # First every sample by itself, all others given: `stay` and `leave` = stay + jump are where it
    # would end with the near and with the far slope throughout.
    part = _fraction(distance, stay, jump)
    alone = far + (near - far) * part

    # What a joint solution may change: a held sample's force, as far as it is needed to stay, and
    # all of what a crossing sample has left on the far side. Those with the largest say are solved
    # again, together.
    held = jump * jnp.clip(
        1 - stay / (2 * jnp.maximum(jump, jnp.finfo(before.dtype).tiny)), 0.0, 1.0
    )
    say = jnp.maximum(
        held, jnp.abs(jump) * (1 - part)
    )  # how much of its force a sample may take back, being held or crossing
    at = _largest(say, min(SLOTS, before.shape[0]))
    some, z, old, now = jnp.take_along_axis(
        jnp.stack([before, after, slopes, alone]), at[None], axis=1
    )
    push, own = force[at] * gain[None, :], weight[at] * gain[None, :]
    side, near, far, distance, jump = ways(some, own)
    count = at.shape[0]
    # what one unit of slope l adds to z_1 of sample k, and z_1 without what these samples add, but
    # for the near slope of the sample itself
    felt = gram[at[:, None, :], at[None, :, :]] * push[None]
    rest = z + own * near - jnp.sum(felt * old[None], axis=1)

    # One coordinate of the quadratic programme after the other, each as one expression of the
    # newest slopes (Gauss-Seidel): what a device runs in one kernel, `count` of them a sweep.
    def sweep(now: tuple[Array, ...], _: None) -> tuple[tuple[Array, ...], None]:
        for k in range(count):
            others = (felt[k, l] * now[l] for l in range(count) if l != k)
            part = _fraction(distance[k], side[k] * sum(others, rest[k]), jump[k])
            now = (*now[:k], far[k] + (near[k] - far[k]) * part, *now[k + 1 :])
        return now, None

    now, _ = jax.lax.scan(sweep, tuple(now), None, length=SWEEPS)
    return jnp.put_along_axis(alone, at, jnp.stack(now), axis=0, inplace=False)


def held(
    gram: Float[Array, "n n"],
    z: Float[Array, "n m"],
    speed: Float[Array, " n"],
    gain: Float[Array, " m"],
    low: float,
    high: float,
    window: Any,
) -> tuple[Float[Array, "n m"], Bool[Array, "n m"]]:
    """Slopes at one moment, Filippov's where a kink holds a neuron, and which these are.

    speed, gain: z' = G (slopes * speed gain). window: a time in which held samples reach their
    kinks and little else happens.
    """
    slopes = jnp.where(z > 0, high, low).astype(z.dtype)
    step = lambda slopes: gram @ (slopes * (window * speed)[:, None] * gain[None, :])
    averaged = average(gram, z, z + step(slopes), slopes, window * speed, gain, low, high)
    reach = jnp.abs((window * jnp.diagonal(gram) * speed)[:, None] * gain[None, :] * (high - low))
    # held: it ends within a hundredth of what it could have moved (chosen: "not at all", but for
    # what the sweeps left), by a slope that is neither side's
    stays = (
        (jnp.abs(z + step(averaged)) < 0.01 * reach)
        & (averaged > min(low, high))
        & (averaged < max(low, high))
    )
    return jnp.where(stays, averaged, slopes), stays


def _fraction(distance: Array, stay: Array, jump: Array) -> Array:
    """The part of the step on the near side."""
    crosses = stay < 0
    reach = jnp.maximum(distance, stay + jump)
    # what does not cross divides by 1, so that no derivative is infinite
    whole = jnp.where(crosses, jnp.maximum(reach - stay, jnp.finfo(stay.dtype).tiny), 1.0)
    return jnp.where(crosses, reach / whole, 1.0)


def _largest(say: Float[Array, "n m"], count: int) -> Int[Array, "count m"]:
    """Rows of the `count` largest entries of each column, which are not negative; to the digits
    that the row's number leaves in a float32.

    An integer that holds both is reduced by maxima alone, several times faster than argmax or top_k
    on a CPU.
    """
    n = say.shape[0]
    mask = jnp.int32(2 ** (n - 1).bit_length() - 1)
    keys = jax.lax.bitcast_convert_type(say.astype(jnp.float32), jnp.int32)
    keys = (keys & ~mask) | jnp.arange(n, dtype=jnp.int32)[:, None]

    def next_largest(limit: Array, _: None) -> tuple[Array, Array]:
        best = jnp.max(jnp.where(keys < limit[None, :], keys, -1), axis=0)
        return best, best

    return (
        jax.lax.scan(next_largest, jnp.full(say.shape[1:], 2**31 - 1, jnp.int32), None, count)[1]
        & mask
    )

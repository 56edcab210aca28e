"""Exact moments of reshuffled batches, for few samples.

Within an epoch what is still to come depends on which samples have been seen, and on nothing else
of the order. So the moments are kept apart by the set A of samples seen,

    Z_(A + b) += T_b Z_A T_b^T / C(n - |A|, B),   Z_A = E[z z^T; A],   T_b z: a step on the batch b

and at the end of an epoch summed over what is left out. That is the mean over every permutation by
as many matrices as there are sets, in the place of the permutations: 70 for 2,520 at n = 8, B = 2.
It is still exponential in n; nothing exact and smaller is known to us. The same step in samples'
own order: z_i <- P z_i + g (H (q Delta))_i, q_i = n/B for i in b.
"""

from __future__ import annotations

import itertools
import math
from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from .linear import LinearSteps

NUMBERS = 2**23
"""Entries of the matrices of one step, one for each pair of a set and a batch. Chosen: 64 MiB,
held four times."""


class Course(NamedTuple):
    """At each saved step: E Delta, and sum over columns of E Delta Delta^T, in the samples' own
    order."""

    mean: Float[np.ndarray, "T N columns"]
    second: Float[np.ndarray, "T N N"]


def feasible(n: int, batch_size: int, size: int) -> bool:
    """Whether every step of an epoch stays within `NUMBERS`. size: of z, s n times the outputs."""
    seen = range(0, n - batch_size + 1, batch_size)
    most = max(math.comb(n, k) * math.comb(n - k, batch_size) for k in seen)
    return most * size**2 <= NUMBERS


class _Layer(NamedTuple):
    """The steps from sets of one size to the next: chosen: whether a sample is in the batch."""

    source: Int[np.ndarray, " pairs"]
    target: Int[np.ndarray, " pairs"]
    chosen: Float[np.ndarray, "pairs n"]
    targets: int
    ways: int


@cache
def _layers(n: int, batch_size: int) -> tuple[_Layer, ...]:
    found = []
    sets: dict[tuple[int, ...], int] = {(): 0}
    for _ in range(n // batch_size):
        following: dict[tuple[int, ...], int] = {}
        rows = []
        for seen, number in sets.items():
            rest = [i for i in range(n) if i not in seen]
            for batch in itertools.combinations(rest, batch_size):
                after = tuple(sorted(seen + batch))
                rows.append((number, following.setdefault(after, len(following)), batch))
        chosen = np.zeros((len(rows), n))
        for row, (_, _, batch) in zip(chosen, rows, strict=True):
            row[list(batch)] = 1.0
        source, target = (np.array([row[i] for row in rows]) for i in (0, 1))
        found.append(_Layer(source, target, chosen, len(following), len(rows) // len(sets)))
        sets = following
    return tuple(found)


def reshuffled_moments(
    steps: LinearSteps, saved: np.ndarray, matrix: np.ndarray, start: np.ndarray, batch_size: int,
    outputs: int,
) -> Course:  # fmt: skip
    """Moments at the saved step counts. start: (N, columns), a sample's outputs one after
    another."""
    size, n = len(matrix), len(matrix) // outputs
    layers, s = _layers(n, batch_size), steps.size
    carry, push = (np.asarray(part, float) for part in steps)
    first = np.zeros((s * size, start.shape[1]))
    first[:size] = start
    mean, second = first[None], (first @ first.T)[None]
    kept: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for k in range(int(saved[-1]) + 1):
        kept[k] = mean.sum(0)[:size], second.sum(0)[:size, :size]
        if k == saved[-1]:
            break
        if k % len(layers) == 0:  # an epoch begins: what was seen is forgotten
            mean, second = mean.sum(0)[None], second.sum(0)[None]
        layer = layers[k % len(layers)]
        q = np.repeat(layer.chosen, outputs, axis=1) * (n / batch_size)
        T = np.kron(carry[k], np.eye(size)) + np.zeros((len(q), 1, 1))
        force = matrix * q[:, None, :]
        for a in range(s):
            T[:, a * size : (a + 1) * size, :size] += push[k, a] * force
        moved = T @ mean[layer.source], T @ second[layer.source] @ T.transpose(0, 2, 1)
        mean, second = (_summed(part, layer) for part in moved)
    rows = [kept[int(k)] for k in saved]
    return Course(*(np.stack([row[i] for row in rows]) for i in (0, 1)))


def _summed(parts: np.ndarray, layer: _Layer) -> np.ndarray:
    found = np.zeros((layer.targets, *parts.shape[1:]))
    np.add.at(found, layer.target, parts / layer.ways)
    return found

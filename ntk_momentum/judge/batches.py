"""Advice for training on mini-batches: which step and momentum reach a loss in the fewest examples,
and from which batch on momentum helps.

The expected loss of a candidate is that of the mode-diagonal closure of `stochastic.moments`; the
limits of the one that is recommended are exact. A candidate is one of the full batch with its step
brought below the limit that noise sets: momentum is chosen by what is left of it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..dynamics.solver import Sampling, check_batch
from ..errors import InputError, concrete
from ..stochastic import critical_batch, critical_step
from ..stochastic.levels import Few
from ..stochastic.limit import closure_limits
from ..stochastic.linear import changes, late_step, one_step
from ..stochastic.moments import covariance_step, no_covariance
from ..stochastic.sampling import noise_strength

SCALES = (0.1, 0.2, 0.35, 0.5, 0.7, 0.9)
"""Steps tried, as shares of the closure's limit. Chosen, not measured: without momentum and for
small batches half the limit is best, and the loss falls nearly as fast on either side."""
EVERY = 3
"""One in so many of the full batch's candidates is tried."""
HOLD = 3
"""The loss is taken to stay below the target when it does so until this many times the last step
above it. A mode that starts at rest needs at least a quarter of its period to its first zero, and
half a period, at most twice as long, from any zero to the next: what brought the loss below by
passing zero has had its turn by then. Modes that pass zero together later, by a coincidence of
many periods, are not waited for; the tests compare with runs twenty times as long."""
EXACT_UP_TO = 500
"""Samples up to which limits are exact: each takes a second there, and a critical batch some
ten."""


@dataclasses.dataclass(frozen=True)
class BatchedKernel:
    """A kernel of n samples, seen in batches of `size`. kernel: an array, or `nm.modes` of random
    vectors. levels: where eigenvalues stand for several, (values, how many, the error's size)."""

    size: int
    n: int
    outputs: int
    sampling: Sampling
    kernel: Any
    levels: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    @staticmethod
    def of(kernel: Any, batch_size: Any, sampling: Sampling, few: Few | None) -> BatchedKernel:
        """Checked. few: what is known of the kernel where it is no array. Raises InputError where
        the size does not fit."""
        if few is not None:
            found, n = few.levels, few.modes.shape[0]
            start = np.linalg.norm(np.asarray(found.start), axis=1)
            levels = (np.asarray(found.eigenvalues), np.asarray(found.multiplicity), start)
            outputs, kernel = len(few.modes.vectors) // n, few.probe
        elif concrete(kernel) is None:
            raise InputError(
                f"noise needs the kernel's eigenvectors, got {type(kernel).__name__}; pass the "
                "array itself, an operator or nm.modes, or leave out batch_size."
            )
        else:
            shape, levels = np.shape(kernel), None
            n, outputs = shape[0], 1 if len(shape) == 2 else shape[1]
        size = check_batch(batch_size, n, sampling)
        return BatchedKernel(size, n, outputs, sampling, kernel, levels)

    @property
    def tau(self) -> float:
        """The strength of the noise; of reshuffled batches, of each by itself."""
        return noise_strength(self.size, self.n, self.sampling)

    def tried(
        self, candidates: list, margin: float, modes: np.ndarray, size: np.ndarray, target: float,
        max_steps: int, scales: Sequence[float] | None = None,
    ) -> tuple[Any, float, float]:  # fmt: skip
        """(optimizer, steps, peak) of the candidate with the fewest steps until the expected loss
        stays below the target; the first where none arrives. scales: of each step, in the place of
        those that noise and the full batch allow."""
        times = np.ones_like(modes)
        if self.levels is not None:
            modes, times, size = self.levels
        every: list[tuple[Any, tuple]] = []
        for candidate in candidates[::EVERY]:
            P, g, more_P, more_g, d = _matrices(candidate)
            late, values = (P + more_P, g + more_g), modes * (1 + margin)
            limit = closure_limits(late, values, times, self.n, self.outputs).estimate(self.tau)
            # where momentum tends to 1 no step may be stable for ever, and many long enough
            most = 1.0 if changes(candidate) else limit
            shares = {min(1.0, share * most) for share in SCALES} | ({1.0} if most >= 1 else set())
            every += [
                (_scaled(candidate, c), _padded(P, c * g, more_P, c * more_g, d))
                for c in scales or sorted(shares, reverse=True)
                if c > 0
            ]
        dtype = jnp.result_type(modes.dtype, float)
        columns = zip(*(arrays for _, arrays in every), strict=True)
        stacked = [jnp.asarray(np.stack(column), dtype) for column in columns]
        numbers = [
            jnp.asarray(x, dtype) for x in (modes, times, size, target, self.tau, self.outputs)
        ]
        cap = 1000
        while True:
            cap = min(cap, max_steps)
            steps, arrived, peaks = until(*stacked, *numbers, jnp.asarray(cap, jnp.int32))
            if bool(jnp.any(arrived)) or cap == max_steps:
                break
            cap *= 8
        steps = np.where(np.asarray(arrived), np.asarray(steps, float), math.inf)
        best = int(np.argmin(steps))
        return every[best][0], float(steps[best]), float(peaks[best])

    def limits(self, optimizer: Any) -> tuple[float, int | None]:
        """(critical step, critical batch), of the closure from few products; an array's batch is
        None beyond `EXACT_UP_TO`."""
        afresh: Sampling = "without_replacement" if self.sampling == "reshuffled" else self.sampling
        found = critical_step(optimizer, self.kernel, batch_size=self.size, sampling=afresh)
        if self.levels is None and self.n * self.outputs > EXACT_UP_TO:
            return found.eta, None
        return found.eta, critical_batch(optimizer, self.kernel, sampling=afresh)


def _scaled(optimizer: Any, factor: float) -> Any:
    """The method with its step, and a gradient correction, times a factor."""
    changed = {name: getattr(optimizer, name) * factor for name in ("eta", "delta")
               if hasattr(optimizer, name)}  # fmt: skip
    return dataclasses.replace(optimizer, **changed)


def _matrices(optimizer: Any) -> tuple[np.ndarray, ...]:
    """(P, g) of the first step and what they gain as the momentum grows to 1, and d: for (4.1) both
    are affine in the momentum k/(k + d). P does not depend on eta and g is proportional to it."""
    P, g = one_step(optimizer)
    Q, h = late_step(optimizer) if changes(optimizer) else (P, g)
    return P, g, Q - P, h - g, np.asarray(getattr(optimizer, "d", 1.0), float)


def _padded(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """With the memory of the method that has most, so that all share one program."""
    return tuple(np.pad(x, [(0, 3 - len(x))] * x.ndim) if x.ndim else x for x in arrays)


@jax.jit
def until(
    P: Array, g: Array, more_P: Array, more_g: Array, d: Array,
    eigenvalues: Array, multiplicity: Array, size: Array, target: Array, tau: Array, outputs: Array,
    max_steps: Array,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """(steps until the expected loss stays below the target, whether it does, the largest over the
    first) of each method, by the closure. It stays below when it does so for `HOLD` times the
    steps."""
    first = jnp.sum(size**2)
    squares = eigenvalues**2

    def count(P: Array, g: Array, more_P: Array, more_g: Array, d: Array) -> tuple:
        def more(carry: tuple) -> Array:
            k, last, *_ = carry
            return (k < max_steps) & (k < HOLD * (last + 1))

        def step(carry: tuple) -> tuple:
            k, last, peak, mean, cov = carry
            beta = (k / (k + d)).astype(P.dtype)
            now, push = P + beta * more_P, g + beta * more_g
            own = mean[0] ** 2 + squares * cov[0][0]
            total = jnp.sum(mean[0] ** 2) + jnp.sum(multiplicity * squares * cov[0][0])
            noise = tau * (total / outputs - own)
            cov = covariance_step(now, push, eigenvalues, eigenvalues, cov, noise)
            mean = now @ mean + push[:, None] * (eigenvalues * mean[0])[None]
            loss = jnp.sum(mean[0] ** 2) + jnp.sum(multiplicity * squares * cov[0][0])
            last = jnp.where(loss <= target * first, last, k + 1)  # also where it is NaN
            return k + 1, last, jnp.maximum(peak, loss), mean, cov

        zero = jnp.zeros((), jnp.int32)
        mean = jnp.zeros((3, *size.shape), size.dtype).at[0].set(size)
        begin = (zero, zero, first, mean, no_covariance(3, size.shape, size.dtype))
        k, last, peak, *_ = jax.lax.while_loop(more, step, begin)
        return last + 1, k >= HOLD * (last + 1), peak / first

    return jax.vmap(count)(P, g, more_P, more_g, d)

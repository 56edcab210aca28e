"""How large a step mini-batches allow: where the second moments of the error stop shrinking.

The map of `moments` from E zz^T to the next is T = T_0 + N. T_0 acts on each pair of modes alone
and N brings in D = diag(E Delta Delta^T). T keeps positive semidefinite matrices so, hence its
spectral radius is an eigenvalue with a positive semidefinite eigenmatrix (Krein and Rutman), which
power iteration from the identity finds. It passes 1 where T S = S for some S >= 0, that is where

    D = K D,   K_ip = n tau sum_qq' U_iq U_iq' G_qq' U_pq U_pq',   G_qq' = s_qq'/(1 + tau s_qq')
    s_qq' = lambda_q lambda_q' sum_t R_q(t) R_q'(t),   R_q(t) = e^T M_q^t g

has the eigenvalue 1: an n x n matrix in place of an (s n)^2 x (s n)^2 one, applied by two products
and never formed. Spread eigenvectors make it nearly of rank one, so that few iterations do, and the
closure gives sum_q tau s_qq/(1 + tau s_qq) = 1, the cheap estimate.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize

from ..dynamics.constant_kernel import is_operator
from ..dynamics.solver import Sampling, check_batch
from ..errors import InputError, check_interval, check_positive, concrete, described, no_type_check
from ..kernel import Modes, spectrum
from ..method import AbstractOptimizer
from ..progress import OnProgress, with_progress
from .levels import few_levels, random_modes
from .linear import StepMatrix, check_method, late_step
from .sampling import noise_strength


@dataclasses.dataclass(frozen=True)
class CriticalStep:
    """Step sizes from which on E |Delta|^2 grows, at the method's own momenta.

    eta: of the exact recursion, 0 where no step is stable; estimate: of the closure; full_batch:
    without noise. exact: whether eta is; from few products it is the estimate. error: estimate/eta
    - 1.
    """

    eta: float
    estimate: float
    full_batch: float
    exact: bool = True

    @property
    def error(self) -> float:
        """How much too large the estimate is, as a share; nan where no step is stable, or eta is
        the estimate itself."""
        return self.estimate / self.eta - 1 if self.exact and self.eta > 0 else math.nan


@no_type_check
@with_progress
def critical_step(
    optimizer: AbstractOptimizer,
    kernel: Any,
    *,
    batch_size: int,
    sampling: Sampling = "without_replacement",
    progress: OnProgress | bool | None = None,
) -> CriticalStep:
    """The largest step size at which training on mini-batches is stable under a constant kernel.

        E |Delta_k|^2 stays bounded for eta < eta_c,  rho(T(eta_c)) = 1

    with T the recursion of the second moments, momenta held (a gradient correction scales with
    eta). For B = n it is the full batch's, 2 (1 + beta)/lambda_max for the heavy ball (3.1); for
    small B it is the noise's, and then about proportional to (1 - beta) B. A method whose momentum
    changes, as (4.1), is judged at its limit for k -> infinity. The largest eigenvalue for a given
    step, of the full batch and without a kernel, is `nm.stability_limit`.

    Args:
        optimizer: A linear method of ours with a step size eta; only its momenta matter.
        kernel: (n, n), or (n, k, n, k) for several outputs; an operator, or `nm.modes` of a few
            random vectors, for the closure's limit by few products.
        batch_size: B, samples a step.
        sampling: As in `nm.predict_stochastic`; reshuffled batches have no such limit in closed
            form.
        progress: Called as progress(done, 1); True for a bar.

    Returns:
        The exact limit, to 1e-6 (from few products the closure's), the closure's and the full
        batch's.

    Raises:
        InputError: If an argument does not fit, or the method restarts.

    Examples:
        One sample is drawn of n: on an identity kernel SGD is stable below 2 B/n.

        >>> found = nm.critical_step(nm.gradient_descent(1.0), np.eye(8), batch_size=1)
        >>> round(found.eta, 4), round(found.full_batch, 4)
        (0.25, 2.0)
    """
    limits, B = _prepare(optimizer, kernel, batch_size, sampling)
    eta = float(getattr(optimizer, "eta", math.nan))  # which has been checked
    tau = noise_strength(B, limits.n, sampling)
    found = (eta * limits.exact(tau), eta * limits.estimate(tau), eta * limits.edge)
    return CriticalStep(*found, exact=limits.vectors is not None)


@no_type_check
@with_progress
def critical_batch(
    optimizer: AbstractOptimizer,
    kernel: Any,
    *,
    share: float = 0.9,
    sampling: Sampling = "without_replacement",
    progress: OnProgress | bool | None = None,
) -> int:
    """The smallest batch whose critical step is at least a share of the full batch's.

        min B with eta_c(B) >= share eta_c(n),   rho(T(eta_c)) = 1 as in `nm.critical_step`

    Below it a larger batch allows a larger step, in proportion for small B; above it, it does not.
    Momentum raises it: for the heavy ball (3.1) about (1 + beta)/(1 - beta) times that of SGD.

    Args:
        optimizer: A linear method of ours with a step size eta; only its momenta matter.
        kernel: As in `nm.critical_step`; from few products the batch is the closure's.
        share: In (0, 1).
        sampling: As in `nm.critical_step`. With replacement B = n has noise too, and batches larger
            than n are tried.
        progress: Called as progress(done, 1); True for a bar.

    Returns:
        B; n times 2^20 where even that is too small.

    Raises:
        InputError: If an argument does not fit, or the method restarts.

    Examples:
        On an identity kernel eta_c = 2 B/n:

        >>> nm.critical_batch(nm.gradient_descent(1.0), np.eye(20))
        18
    """
    check_interval("share", share, 1e-6, 1.0, "It is that of the full batch's limit; try 0.9.")
    limits, _ = _prepare(optimizer, kernel, 1, sampling)
    n = limits.n

    def enough(B: int, limit: Callable[[float], float]) -> bool:
        return limit(noise_strength(B, n, sampling)) >= share * limits.edge

    # the estimate first, and exact limits from there: each of those costs n^3
    most = n << 20 if sampling == "with_replacement" else n
    guess = _first(lambda B: enough(B, limits.estimate), 1, most)
    return _first(lambda B: enough(B, limits.exact), guess, most)


def _first(good: Callable[[int], bool], guess: int, most: int) -> int:
    """The first B that is good, all larger ones being so, looked for from a guess on."""
    low, high, reach = guess - 1, guess, 1
    while high < most and not good(high):
        low, high, reach = high, min(high + reach, most), 2 * reach
    if low == guess - 1:
        reach = 1
        while low > 0 and good(low):
            high, low, reach = low, max(low - reach, 0), 2 * reach
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if good(middle) else (middle, high)
    return high


class _Limits(NamedTuple):
    """What a method and a kernel of n samples leave to look for: as P does not depend on eta and g
    is proportional to it, c times the kernel is c times eta, and the limits are numbers c.
    multiplicity: of each eigenvalue. edge: the limit of the full batch. vectors: None where they
    are not known."""

    step: StepMatrix
    eigenvalues: np.ndarray
    multiplicity: np.ndarray
    n: int
    outputs: int
    edge: float
    vectors: np.ndarray | None = None

    def exact(self, tau: float) -> float:
        """Where the exact recursion's radius passes 1; the closure's without eigenvectors."""
        if self.vectors is None:
            return self.estimate(tau)
        return _root(lambda c: _radius(self, c, tau), self.edge, tau)

    def estimate(self, tau: float) -> float:
        """Where the closure's does: sum tau s/(1 + tau s) = 1."""

        def share(c: float) -> float:
            gain = tau * _impulses(self.step, c * self.eigenvalues, c * self.eigenvalues)
            return float(np.sum(self.multiplicity * gain / (self.outputs + gain)))

        return _root(share, self.edge, tau)


def closure_limits(
    step: StepMatrix, eigenvalues: Any, multiplicity: Any, n: int, outputs: int = 1
) -> _Limits:
    """The limits over the eta of `step`, without eigenvectors. Eigenvalues in any order, of which
    those that the kernel does not see are left out: they stay as they are, and no noise enters
    them."""
    lam = np.maximum(np.asarray(eigenvalues, float), 0.0)
    order = np.argsort(lam)
    lam, times = lam[order], np.asarray(multiplicity, float)[order]
    seen = lam > 0
    return _Limits(step, lam[seen], times[seen], n, outputs, _edge(step, lam[-1]))


def _prepare(optimizer: Any, kernel: Any, batch_size: Any, sampling: str) -> tuple[_Limits, int]:
    check_method(optimizer)
    check_positive("the optimizer's step size eta", getattr(optimizer, "eta", None))
    if getattr(optimizer, "scheme", None) is not None:
        raise InputError(
            "a method that restarts has no one step to judge; take nm.nesterov, or run "
            "nm.predict_stochastic."
        )
    if sampling == "reshuffled":
        raise InputError(
            "the moments of reshuffled batches do not close; take sampling="
            '"without_replacement", which they approach for small steps.'
        )
    if is_operator(kernel):
        kernel = random_modes(kernel, kernel.in_structure().shape)
    if isinstance(kernel, Modes):
        levels, n = few_levels(kernel, None, kernel).levels, kernel.shape[0]
        outputs = len(kernel.vectors) // n
        parts = (levels.eigenvalues, levels.multiplicity, n, outputs)
        return closure_limits(late_step(optimizer), *parts), check_batch(batch_size, n, sampling)
    if concrete(kernel) is None:
        raise InputError(
            "kernel must be an array, an operator or nm.modes of random vectors, got "
            f"{described(kernel)}; try nm.infinite_ntk(X) or nm.empirical_ntk(model, X)."
        )
    found = spectrum(kernel)
    n = np.shape(kernel)[0]
    B = check_batch(batch_size, n, sampling)
    eigenvalues = np.maximum(np.asarray(found.eigenvalues, float), 0.0)
    # modes that the kernel does not see stay as they are, and no noise enters them
    seen = eigenvalues > len(eigenvalues) * np.finfo(found.eigenvalues.dtype).eps * eigenvalues[-1]
    if not seen.any():
        raise InputError(
            "kernel must have a positive eigenvalue, got none, so every step is stable; give one "
            "of "
            "nm.empirical_ntk or nm.infinite_ntk."
        )
    step, lam = late_step(optimizer), eigenvalues[seen]
    vectors = np.asarray(found.eigenvectors, float)[:, seen]
    outputs = len(vectors) // n
    return _Limits(step, lam, np.ones_like(lam), n, outputs, _edge(step, lam[-1]), vectors), B


def _edge(steps: StepMatrix, largest: float) -> float:
    """The factor of the kernel at which the full batch turns unstable."""
    P, g = steps

    def radius(x: np.ndarray) -> np.ndarray:
        M = P + x[:, None, None] * g[:, None] * (np.arange(len(g)) == 0)
        return np.max(np.abs(np.linalg.eigvals(M)), axis=-1)

    grid = np.geomspace(1e-3, 1e3, 257) / np.max(np.abs(g))
    # a double root on the circle, as of momentum 1 at x = 0, is good to the root of round-off
    unstable = radius(grid) > 1 + 1e-7
    first = int(np.argmax(unstable))
    low, high = grid[max(first - 1, 0)], grid[first]
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if radius(np.array([middle]))[0] > 1 + 1e-12 else (middle, high)
    return float((low + high) / 2 / largest)


def _impulses(steps: StepMatrix, lam: np.ndarray, mu: np.ndarray) -> np.ndarray:
    """s_qq' = lambda mu sum_t R_q(t) R_q'(t), from S = M_q S M_q'^T + g g^T: entry 00 of S."""
    P, g = steps
    s = len(g)
    top = np.arange(s) == 0
    left = P + lam[:, None, None] * g[:, None] * top
    right = P + mu[:, None, None] * g[:, None] * top
    system = np.eye(s * s) - np.einsum("qac,qbd->qabcd", left, right).reshape(-1, s * s, s * s)
    found = np.linalg.solve(system, np.outer(g, g).reshape(-1, 1))[:, 0, 0]
    return lam * mu * found


def _radius(limits: _Limits, c: float, tau: float) -> float:
    """The spectral radius of K by power iteration; it is not formed."""
    assert limits.vectors is not None
    lam, U = c * limits.eigenvalues, limits.vectors
    q, r = np.triu_indices(len(lam))
    gains = np.empty((len(lam), len(lam)))
    gains[q, r] = gains[r, q] = _impulses(limits.step, lam[q], lam[r])
    gains = tau * gains / (1 + tau * gains)
    n, outputs = limits.n, limits.outputs
    rows = U.reshape(n, outputs, -1)
    D = np.broadcast_to(np.eye(outputs), (n, outputs, outputs))
    size, last = 0.0, -1.0
    for _ in range(1000):
        turned = np.einsum("iab,ibq->iaq", D, rows).reshape(U.shape)
        A = gains * (U.T @ turned)
        D = n * np.einsum("iaq,ibq->iab", (U @ A).reshape(rows.shape), rows)
        size, last = float(np.linalg.norm(D)), size
        D = D / size
        if abs(size - last) <= 1e-9 * size:
            break
    return size


def _root(radius: Callable[[float], float], edge: float, tau: float) -> float:
    """Where the radius, which grows from its value at 0 to infinity at the edge, passes 1."""
    if tau == 0:
        return edge
    # With momentum below 1 the radius falls in proportion to c. With momentum 1 it tends to a
    # constant, and no step is stable where that is above 1; nearer to 0 than 1e-3, chosen, not
    # measured, the sums over such slow modes lose their digits.
    low = 1e-3 * edge
    while radius(low) >= 1:
        if low < 1e-12 * edge or radius(low / 10) > 0.5 * radius(low):
            return 0.0
        low /= 10
    # Nearer to the edge than 1e-7, chosen, not measured, gains of the last mode are round-off: what
    # is stable there is stable to the edge.
    high = (1 - 1e-7) * edge
    if radius(high) <= 1:
        return edge
    # in the logarithms the curve is near a straight line for small steps
    at = lambda t: math.log(radius(math.exp(t)))
    return math.exp(optimize.brentq(at, math.log(low), math.log(high), xtol=1e-7))

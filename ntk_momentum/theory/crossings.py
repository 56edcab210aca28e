"""The heavy ball on a two-layer ReLU network, solved exactly from kink to kink (the finite-width
story of section 3 and appendix A).

Between two crossings w_r . x_i = 0 the activation pattern S is constant, so the error obeys Delta''
+ b Delta' + H Delta = 0 with constant H = (X X^T) o (S^T S) / m, in closed form, and the
preactivations z_ri = w_r . x_i follow by

    z(t + s) = z + p(s) z' - (a / sqrt m) (S o q(s)) X X^T,
    p = (1 - e^{-bs}) / b,   H q(s) = Delta + p(s) Delta' - Delta(t + s).

At a crossing of (r, i) the velocity of the error jumps by the impulse a_r |z'_ri| / sqrt m, which
(A.1) drops "almost surely". Double precision, no tolerance but the root finder's. A pair that
crosses twice inside one step of 1/20 radian of the fastest mode is not seen; `closure` would show
it, since it compares with the network's own output.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.optimize
from jaxtyping import ArrayLike, Float

from .lyapunov import heavy_ball_energy, jump_factor


@dataclasses.dataclass(frozen=True)
class Crossings:
    """A heavy-ball run, sampled at every step and on both sides of every crossing.

    times (k,), loss, kinetic (|dW/dt|_F^2/2), energy (V of (A.6)), lambda_min, drift (||H(t) -
    H(0)||_2), displaced (max_r |w_r(t) - w_r(0)|); residual and velocity (k, n); per crossing (e,):
    moment, neuron, sample, switch (+1: the neuron becomes active, -1: inactive), impulse (signed),
    jump (||H_+ - H_-||_2), factor (rho), energy_before, energy_after. total (e, n): the running sum
    of impulses. closure: |tracked - recomputed| of f and df/dt, at the end. lazy (l, 3): time, ||W
    - W_lazy||_F and ||W_lazy - W(0)||_F, W_lazy the same flow of the network linearized at W(0).
    """

    width: int
    friction: float
    times: np.ndarray
    loss: np.ndarray
    kinetic: np.ndarray
    energy: np.ndarray
    lambda_min: np.ndarray
    drift: np.ndarray
    displaced: np.ndarray
    residual: np.ndarray
    velocity: np.ndarray
    work: np.ndarray
    moment: np.ndarray
    neuron: np.ndarray
    sample: np.ndarray
    switch: np.ndarray
    impulse: np.ndarray
    jump: np.ndarray
    factor: np.ndarray
    energy_before: np.ndarray
    energy_after: np.ndarray
    total: np.ndarray
    kernel_start: np.ndarray
    lazy: np.ndarray
    closure: float

    @property
    def pairs(self) -> int:
        """Distinct (neuron, sample) pairs that crossed."""
        return len(set(zip(self.neuron.tolist(), self.sample.tolist(), strict=True)))

    @property
    def largest_total(self) -> float:
        """sup_t of the norm of the sum of impulses up to t."""
        return float(np.linalg.norm(self.total, axis=1).max(initial=0.0))

    @property
    def summed(self) -> float:
        """Sum of the sizes of all impulses."""
        return float(np.abs(self.impulse).sum())

    def defect(self, impulses: bool) -> np.ndarray:
        """|Delta' - Delta'(0) + b (Delta - Delta(0)) + int H Delta - (sum of impulses)| at `times`,
        the last term on request."""
        left = (
            self.velocity
            - self.velocity[:1]
            + self.friction * (self.residual - self.residual[:1])
            + self.work
        )
        if impulses and self.moment.size:
            passed = np.searchsorted(self.moment, self.times, side="right")
            # at a crossing two samples share one time: the first is taken before the impulse
            passed[:-1] -= (self.times[1:] == self.times[:-1]) & np.isin(
                self.times[:-1], self.moment
            )
            left = left - np.concatenate([np.zeros_like(self.total[:1]), self.total])[passed]
        return np.linalg.norm(left, axis=1)

    def identity_error(self, impulses: bool) -> float:
        """sup_t of `defect`."""
        return float(self.defect(impulses).max())

    def twin(self) -> np.ndarray:
        """Delta(t) of the frozen-kernel twin, H(0) in place of H(t), at `times`."""
        values, vectors = np.linalg.eigh(self.kernel_start)
        phi, _ = _modes(values[:, None], self.friction, self.times)
        return (phi * (vectors.T @ self.residual[0])[:, None]).T @ vectors.T

    @property
    def twin_gap(self) -> float:
        """sup_t |Delta - Delta of the twin| / |Delta(0)|."""
        return float(
            np.linalg.norm(self.residual - self.twin(), axis=1).max()
            / np.linalg.norm(self.residual[0])
        )

    @property
    def parting(self) -> float:
        """sup_t ||W - W_lazy||_F / sup_t ||W_lazy - W(0)||_F."""
        return float(self.lazy[:, 1].max() / self.lazy[:, 2].max())

    def dropped(self) -> float:
        """The largest sum, up to some t, of Delta.(H_+ - H_-) Delta/2 over crossings, relative to
        V(0): what H' = 0 leaves out of V."""
        at = np.flatnonzero(np.diff(self.times) == 0)
        alpha_residual = self.friction / 2 * self.residual[at]
        kinetic = [
            0.5 * np.sum((alpha_residual + self.velocity[k]) ** 2, axis=1) for k in (at, at + 1)
        ]
        gains = np.cumsum(self.energy[at + 1] - self.energy[at] - (kinetic[1] - kinetic[0]))
        return float(np.abs(gains).max(initial=0.0) / self.energy[0])


def _modes(values: np.ndarray, b: float, s: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(phi, psi): the responses to a unit displacement and to a unit velocity after a time s."""
    omega = np.sqrt(values - b * b / 4 + 0j)
    # sin(omega s)/omega = s (1 - (omega s)^2/6 ...): s to round-off, at critical damping exactly
    small = np.abs(omega) * s < 1e-6
    safe = np.where(small, 1.0, omega)
    damping = np.exp(-b * s / 2)
    sine = damping * np.where(small, s, np.sin(safe * s) / safe).real
    return damping * np.cos(omega * s).real + b / 2 * sine, sine


_SAMPLED = (
    "times",
    "loss",
    "kinetic",
    "energy",
    "lambda_min",
    "drift",
    "displaced",
    "residual",
    "velocity",
    "work",
)
_PER_CROSSING = (
    "moment",
    "neuron",
    "sample",
    "switch",
    "impulse",
    "jump",
    "factor",
    "energy_before",
    "energy_after",
    "total",
)
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(4)
"""For int H Delta over a step: exact to degree 7, so the error, (1/20)^8/8! relative, is below
round-off."""
STEP = 0.05
"""Longest step, in radians of the fastest mode. Chosen: a pair that crosses twice within it is not
seen, and `closure` shows that none did."""
COMPARED = 8
"""Samples between two comparisons with the linearised network, whose cost is one product of the
neurons' size. Chosen, not measured."""


class _Walk:
    """The state of a run at time t, and what has been seen of it.

    S (m, n) is the activation pattern, z = W X^T and v = z' the preactivations (m, n) and their
    velocity; residual, velocity (n,); kernel (n, n) with its eigenpairs, constant until S changes.
    """

    def __init__(
        self,
        hidden: np.ndarray,
        output: np.ndarray,
        X: np.ndarray,
        y: np.ndarray,
        b: float,
        alpha: float,
    ) -> None:
        m = hidden.shape[0]
        self.width, self.b, self.alpha, self.y = m, b, alpha, y
        self.gram, self.weight = X @ X.T, output[:, None] / np.sqrt(m)
        self.inverse_gram = np.linalg.pinv(self.gram, hermitian=True)
        # Eigenvalues of H below this are round-off of a null vector, which moves no neuron: they
        # are kept from dividing. H <= G/m sum_r 1 = G, so the trace of G bounds its size.
        self.floor = 1e-14 * self.gram.trace()
        self.z, self.v = hidden @ X.T, np.zeros((m, X.shape[0]))
        self.S = self.z > 0
        counts = self.S.T.astype(np.float64) @ self.S
        self.residual = (self.weight * np.where(self.S, self.z, 0.0)).sum(0) - y
        self.velocity = np.zeros_like(y)
        self.kernel = self.gram * counts / m
        self.values, self.vectors = np.linalg.eigh(self.kernel)
        self.work, self.total, self.t = np.zeros_like(y), np.zeros_like(y), 0.0
        self.start = self.z.copy(), self.S.copy(), self.kernel, self.residual
        self.start_modes = self.values, self.vectors
        self.samples: list[tuple] = []
        self.events: list[tuple] = []
        self.lazy: list[tuple] = []

    def advance(
        self, s: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float | np.ndarray]:
        """(residual, velocity, q, q', p) after a time s within the piece.

        Along an eigenvector Delta is the response of a damped oscillator to its displacement and to
        its velocity. From w'' + b w' = -J^T Delta the weights move by p w' - J^T q with p = (1 -
        e^{-bs})/b and q = int_0^s p(s - u) Delta(u) du. So Delta(t + s) = Delta + p Delta' - H q,
        which gives q without a quadrature, and q' = dq/ds likewise.
        """
        values, vectors, b = self.values, self.vectors, self.b
        phi, psi = _modes(values, b, s)
        D, V = vectors.T @ self.residual, vectors.T @ self.velocity
        D1, V1 = phi * D + psi * V, -values * psi * D + (phi - b * psi) * V
        p, decay = -np.expm1(-b * s) / b, np.exp(-b * s)
        stiff = np.maximum(values, self.floor)
        q, dq = (D + p * V - D1) / stiff, (decay * V - V1) / stiff
        return vectors @ D1, vectors @ V1, vectors @ q, vectors @ dq, p

    def reach(self, s: float) -> np.ndarray:
        """z(t + s) within the piece: z + p z' - (a/sqrt m) (S o q) X X^T."""
        _, _, q, _, p = self.advance(s)
        return self.z + p * self.v - self.weight * ((self.S * q) @ self.gram)

    def first_crossing(self, s: float, until: float) -> tuple[float, tuple[int, int] | None]:
        """When the first pair crosses within a time s, and which; (s, None) if none does."""
        crossed = np.argwhere((self.reach(s) > 0) != self.S)
        if not crossed.size:
            return s, None

        def height(s: float, r: int, i: int) -> float:
            _, _, q, _, p = self.advance(s)
            move = self.weight[r, 0] * ((self.S[r] * q) @ self.gram[i])
            return self.z[r, i] + p * self.v[r, i] - move

        # a few units in the last place of the time
        xtol = 1e-15 * (1 + until)
        at, r, i = min(
            (scipy.optimize.brentq(height, 0.0, s, args=(r, i), xtol=xtol), r, i)
            for r, i in crossed.tolist()
        )
        return at, (r, i)

    def move(self, s: float) -> None:
        """Go on to t + s within the piece."""
        D1, V1, _, dq, _ = self.advance(s)
        z = self.reach(s)
        self.v = np.exp(-self.b * s) * self.v - self.weight * ((self.S * dq) @ self.gram)
        self.z = z
        # int H Delta over the piece, mode by mode at Gauss's nodes
        vectors = self.vectors
        phi, psi = _modes(self.values[:, None], self.b, s * (_NODES + 1) / 2)
        displaced, moving = vectors.T @ self.residual, vectors.T @ self.velocity
        paths = phi * displaced[:, None] + psi * moving[:, None]
        self.work = self.work + vectors @ (self.values * (paths @ _WEIGHTS)) * (s / 2)
        self.residual, self.velocity, self.t = D1, V1, self.t + s

    def switch(self, r: int, i: int, before: float) -> None:
        """Let neuron r cross the kink of sample i: the velocity jumps, and row and column i of H.

        Df_i/dt = sum_r a_r S_ri z'_ri/sqrt m changes by +- a_r z'_ri/sqrt m, which is a_r
        |z'_ri|/sqrt m in both directions: z' > 0 where the neuron becomes active.
        """
        sign = -1.0 if self.S[r, i] else 1.0
        self.S[r, i] = not self.S[r, i]
        # on the new side by less than any other number here resolves, so that the same root is not
        # found again
        self.z[r, i] = sign * 1e-14
        impulse = self.weight[r, 0] * abs(self.v[r, i])
        unit = np.eye(len(self.y))[i]
        self.velocity = self.velocity + impulse * unit
        self.total = self.total + impulse * unit
        change = sign * self.gram[i] * self.S[r]
        change[i] = sign * self.gram[i, i]
        old, self.kernel = self.kernel, self.kernel.copy()
        self.kernel[i] += change / self.width
        self.kernel[:, i] = self.kernel[i]
        self.values, self.vectors = np.linalg.eigh(self.kernel)
        jump, factor = np.linalg.norm(self.kernel - old, 2), jump_factor(old, self.kernel)
        after = self.record()
        self.events.append((self.t, r, i, sign, impulse, jump, factor, before, after, self.total))

    def record(self) -> float:
        """Keep what `Crossings` samples; returns the energy."""
        moved = self.z - self.start[0]
        far = np.sqrt(max(((moved @ self.inverse_gram) * moved).sum(1).max(), 0.0))
        energy = heavy_ball_energy(self.residual, self.velocity, self.kernel, self.alpha)
        self.samples.append(
            (
                self.t,
                0.5 * self.residual @ self.residual,
                0.5 * self._norm(self.v) ** 2,
                energy,
                self.values[0],
                np.linalg.norm(self.kernel - self.start[2], 2),
                far,
                self.residual,
                self.velocity,
                self.work,
            )
        )
        return energy

    def compare(self) -> None:
        """Keep the distance to the network linearised at the start, in the norm of the weights.

        With H(0) and S(0) for all times, H q = Delta(0) - Delta(t) from rest.
        """
        (values, vectors), (z, S, _, residual) = self.start_modes, self.start
        lost = (1 - _modes(values, self.b, self.t)[0]) / np.maximum(values, self.floor)
        q = vectors @ (lost * (vectors.T @ residual))
        moved = -self.weight * ((S * q) @ self.gram)
        self.lazy.append((self.t, self._norm(self.z - z - moved), self._norm(moved)))

    def _norm(self, moved: np.ndarray) -> float:
        """|W_1 - W_2|_F from the preactivations: motions lie in the span of the inputs, so it is
        the trace of moved G^+ moved^T."""
        return np.sqrt(max(np.sum((moved @ self.inverse_gram) * moved), 0.0))

    def closure(self) -> float:
        """How far the tracked error and velocity are from those of the network's own output."""
        f = (self.weight * np.maximum(self.z, 0.0)).sum(0)
        df = (self.weight * np.where(self.S, self.v, 0.0)).sum(0)
        gap, slope = np.abs(f - self.y - self.residual).max(), np.abs(df - self.velocity).max()
        return float(max(gap, slope))


def heavy_ball_crossings(
    hidden: Float[ArrayLike, "m p"],
    output: Float[ArrayLike, " m"],
    X: Float[ArrayLike, "n p"],
    y: Float[ArrayLike, " n"],
    b: float,
    until: float,
    mu: float | None = None,
    limit: int = 100_000,
) -> Crossings:
    """Run (3.2) from rest on f(x) = m^{-1/2} sum_r a_r relu(w_r . x), from kink to kink.

    Args:
        hidden: (m, p), the rows w_r.
        output: (m,), a_r = +-1.
        X: (n, p), inputs.
        y: (n,), targets.
        b: Friction, > 0, in 1/time.
        until: The time of the end.
        mu: alpha^2 of the energy (A.6), by default b^2 / 4.
        limit: Crossings allowed.

    Returns:
        The run.

    Raises:
        RuntimeError: After more than `limit` crossings.
    """
    hidden, output, X, y = (np.asarray(v, np.float64) for v in (hidden, output, X, y))
    walk = _Walk(hidden, output, X, y, b, b / 2 if mu is None else np.sqrt(mu))
    walk.record()
    while walk.t < until:
        longest = min(STEP / np.sqrt(max(walk.values[-1], walk.floor)), until - walk.t)
        s, pair = walk.first_crossing(longest, until)
        walk.move(s)
        before = walk.record()
        if len(walk.samples) % COMPARED == 0 or walk.t >= until:
            walk.compare()
        if pair is None:
            continue
        if len(walk.events) >= limit:
            raise RuntimeError(f"more than {limit} crossings before t = {walk.t:g} of {until:g}")
        walk.switch(*pair, before)
    columns = [np.array(column) for column in zip(*walk.samples, strict=True)]
    happened = [np.array(column) for column in zip(*walk.events, strict=True)] or [
        *([np.zeros(0)] * (len(_PER_CROSSING) - 1)),
        np.zeros((0, len(y))),
    ]
    return Crossings(
        width=walk.width,
        friction=b,
        kernel_start=walk.start[2],
        lazy=np.array(walk.lazy),
        closure=walk.closure(),
        **dict(zip(_SAMPLED, columns, strict=True)),
        **dict(zip(_PER_CROSSING, happened, strict=True)),
    )

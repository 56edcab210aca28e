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

    times (k,), loss, energy (V of (A.6)), lambda_min, drift (||H(t) - H(0)||_2), displaced (max_r
    |w_r(t) - w_r(0)|); residual and velocity (k, n); per crossing (e,): moment, neuron, sample,
    switch (+1: the neuron becomes active, -1: inactive), impulse (signed), jump (||H_+ - H_-||_2),
    factor (rho), energy_before, energy_after. total (e, n): the running sum of impulses. closure:
    |tracked - recomputed| of f and df/dt, at the end. lazy (l, 3): time, ||W - W_lazy||_F and
    ||W_lazy - W(0)||_F, W_lazy the same flow of the network linearized at W(0).
    """

    width: int
    friction: float
    times: np.ndarray
    loss: np.ndarray
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
    small = np.abs(omega) * s < 1e-6
    safe = np.where(small, 1.0, omega)
    damping = np.exp(-b * s / 2)
    sine = damping * np.where(small, s, np.sin(safe * s) / safe).real
    return damping * np.cos(omega * s).real + b / 2 * sine, sine


_SAMPLED = (
    "times",
    "loss",
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
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(
    4
)  # error below round-off over a twentieth of a radian


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
    """Run (3.2) from rest to time `until` on f(x) = m^{-1/2} sum_r a_r relu(w_r . x) with a_r =
    +-1, b > 0.

    mu: alpha^2 of the energy (A.6), by default b^2 / 4. limit: crossings allowed before giving up
    with RuntimeError.
    """
    hidden, output, X, y = (np.asarray(v, np.float64) for v in (hidden, output, X, y))
    m, alpha = hidden.shape[0], (b / 2 if mu is None else np.sqrt(mu))
    gram, weight = X @ X.T, output[:, None] / np.sqrt(m)
    z, v = hidden @ X.T, np.zeros((m, X.shape[0]))
    z_start, S = z.copy(), z > 0
    inverse_gram, floor = np.linalg.pinv(gram, hermitian=True), 1e-14 * gram.trace()
    counts = S.T.astype(np.float64) @ S
    residual, velocity = (weight * np.where(S, z, 0.0)).sum(0) - y, np.zeros_like(y)
    start = kernel = gram * counts / m
    values, vectors = np.linalg.eigh(kernel)
    S_start, modes_start, D_start = S.copy(), (values, vectors), residual
    work, total, t = np.zeros_like(y), np.zeros_like(y), 0.0
    samples: list[tuple] = []
    events: list[tuple] = []
    lazy: list[tuple] = []

    def length(moved):
        """Norm over all neurons of a motion within the span of the inputs, from the
        preactivations."""
        return np.sqrt(max(np.sum((moved @ inverse_gram) * moved), 0.0))

    def compare():
        values, vectors = modes_start
        q = vectors @ (
            (1 - _modes(values, b, t)[0]) / np.maximum(values, floor) * (vectors.T @ D_start)
        )
        moved = -weight * ((S_start * q) @ gram)
        lazy.append((t, length(z - z_start - moved), length(moved)))

    def record():
        moved = z - z_start
        far = np.sqrt(max(((moved @ inverse_gram) * moved).sum(1).max(), 0.0))
        energy = heavy_ball_energy(residual, velocity, kernel, alpha)
        samples.append(
            (
                t,
                0.5 * residual @ residual,
                energy,
                values[0],
                np.linalg.norm(kernel - start, 2),
                far,
                residual,
                velocity,
                work,
            )
        )
        return energy

    def advance(s):
        """(residual, velocity, q, q', p) after a time s within the piece."""
        phi, psi = _modes(values, b, s)
        D, V = vectors.T @ residual, vectors.T @ velocity
        D1, V1 = phi * D + psi * V, -values * psi * D + (phi - b * psi) * V
        p, decay = -np.expm1(-b * s) / b, np.exp(-b * s)
        stiff = np.maximum(values, floor)  # a null vector of H moves no neuron
        q, dq = (D + p * V - D1) / stiff, (decay * V - V1) / stiff
        return vectors @ D1, vectors @ V1, vectors @ q, vectors @ dq, p

    record()
    while t < until:
        s = min(0.05 / np.sqrt(max(values[-1], floor)), until - t)
        D1, V1, q, dq, p = advance(s)
        reach = z + p * v - weight * ((S * q) @ gram)
        crossed = np.argwhere((reach > 0) != S)
        event = None
        if crossed.size:

            def height(s, r, i, z=z, v=v):
                _, _, q, _, p = advance(s)
                return z[r, i] + p * v[r, i] - weight[r, 0] * ((S[r] * q) @ gram[i])

            found = [
                (scipy.optimize.brentq(height, 0.0, s, args=(r, i), xtol=1e-15 * (1 + until)), r, i)
                for r, i in crossed
            ]
            s, *event = min(found)
            D1, V1, q, dq, p = advance(s)
            reach = z + p * v - weight * ((S * q) @ gram)
        v = np.exp(-b * s) * v - weight * ((S * dq) @ gram)
        z = reach
        phi, psi = _modes(values[:, None], b, s * (_NODES + 1) / 2)
        paths = phi * (vectors.T @ residual)[:, None] + psi * (vectors.T @ velocity)[:, None]
        work = work + vectors @ (values * (paths @ _WEIGHTS)) * (
            s / 2
        )  # int H Delta over the piece
        residual, velocity, t = D1, V1, t + s
        before = record()
        if len(samples) % 8 == 0 or t >= until:
            compare()
        if event is None:
            continue
        if len(events) >= limit:
            raise RuntimeError(f"more than {limit} crossings before t = {t:g} of {until:g}")
        r, i = event
        sign = -1.0 if S[r, i] else 1.0
        S[r, i] = not S[r, i]
        z[r, i] = sign * 1e-14
        impulse = weight[r, 0] * abs(v[r, i])
        velocity = velocity + impulse * np.eye(len(y))[i]
        total = total + impulse * np.eye(len(y))[i]
        change = sign * gram[i] * S[r]
        change[i] = sign * gram[i, i]
        old, kernel = kernel, kernel.copy()
        kernel[i] += change / m
        kernel[:, i] = kernel[i]
        values, vectors = np.linalg.eigh(kernel)
        jump, factor = np.linalg.norm(kernel - old, 2), jump_factor(old, kernel)
        events.append((t, r, i, sign, impulse, jump, factor, before, record(), total))
    closure = max(
        np.abs((weight * np.maximum(z, 0.0)).sum(0) - y - residual).max(),
        np.abs((weight * np.where(S, v, 0.0)).sum(0) - velocity).max(),
    )
    columns = dict(
        zip(_SAMPLED, (np.array(column) for column in zip(*samples, strict=True)), strict=True)
    )
    empty = [np.zeros(0)] * (len(_PER_CROSSING) - 1) + [np.zeros((0, len(y)))]
    happened = dict(
        zip(
            _PER_CROSSING,
            [np.array(column) for column in zip(*events, strict=True)] if events else empty,
            strict=True,
        )
    )
    return Crossings(
        width=m,
        friction=b,
        kernel_start=start,
        lazy=np.array(lazy),
        closure=float(closure),
        **columns,
        **happened,
    )

"""A certificate for one heavy-ball run: does a repaired Theorem 2 apply to this network, and which rate does it certify?

Along (3.5) with a moving kernel, any quadratic form V = (Delta, Delta') . P (Delta, Delta') / 2 obeys V' <= -rho(t) V with
-rho(t) = lambda_max(P A + A^T P, P), A(t) = [[0, 1], [-H(t), -b]], between impulses, and sqrt V grows by at most |J|/sqrt 2 at an
impulse J. Hence

    sqrt V(t) <= e^{-int rho / 2} sqrt V(0) + sum_j e^{-int_{t_j}^t rho / 2} |J_j| / sqrt 2,      L <= V / lambda_min(P's Schur complement).

Three forms, from weak to sharp, all on a fixed positive definite reference kernel H_ref:

    simple      b = sqrt(2 lambda0), sup ||H(t) - H_ref|| <= (sqrt 2 - 1) lambda0/2: rate alpha = b/2
    relative    P = [[H_ref + alpha^2, alpha], [alpha, 1]] (V_infinity), rho >= alpha - eps(t), eps = ||(H(t) - H_ref) H_ref^{-1/2}||_2
    quadratic   P = [[H_ref + c, beta], [beta, 1]] with the exact rho(t); c and beta chosen for the largest mean rate. Contains
                V_infinity and V#

lambda0 is that of H_ref. Between two saved times the kernel is held by `KernelPath`, which follows every accepted step: |H(t) - H(t_k)|
<= M_k entry by entry, so rho(t) >= (rho_k + rho_{k+1} - reach_k)/2 on the interval, reach_k = |M_k (H_ref + c - beta^2)^{-1/2}|, as the
kernel travels at most reach_k in all from one save to the next; likewise for eps and the drift. Impulses inside one step are summed as
vectors, and what their being apart in time adds, of first and second order in the step, is added. So the bound speaks of all times, up
to the solver's own error; denser saves make reach and steps small.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.optimize
from jaxtyping import Array, ArrayLike, Float

from ..errors import InputError, unknown_name
from ..method import AbstractMomentumFlow
from ..readout import Impulses, Snapshot
from ..trajectory import Trajectory
from . import bounds
from .lyapunov import reference_distance

Form = Literal["simple", "relative", "quadratic"]


def _kinks(problem: Any, t0: Array, before: Any, t1: Array, after: Any) -> tuple[Array, ...]:
    """(active at the start, flipped, crossed twice perhaps, when, speed at the kink, |speeds| of the third) of one step, (n, m) each.

    A pair whose sign agrees at both ends is taken to have crossed twice where the tangents at the two ends meet beyond the kink.
    """
    X, h = problem.X.reshape(problem.X.shape[0], -1), t1 - t0
    z0, z1, v0, v1 = (X @ part.hidden.T for part in (before.w, after.w, before.v, after.v))
    active, flipped = z0 > 0, (z0 > 0) != (z1 > 0)
    side = jnp.where(active, 1.0, -1.0)
    turns = ~flipped & (side * v0 < 0) & (side * v1 > 0)
    meet = jnp.clip((z1 - z0 - v1 * h) / jnp.where(turns, v0 - v1, 1.0), 0.0, h)
    twice = turns & (side * (z0 + v0 * meet) < 0)
    at = z0 / jnp.where(flipped, z0 - z1, 1.0)
    speed = jnp.where(flipped, jnp.abs(v0 + at * (v1 - v0)), 0.0)
    return active, flipped, twice, at, speed, jnp.where(twice, jnp.abs(v0) + jnp.abs(v1), 0.0)


class ImpulseBound(Impulses):
    """Sum over accepted steps of the norm of what `Impulses` adds: the bound of V needs the path's length, in which nothing cancels."""

    def init(self, problem, t, state):
        super().init(problem, t, state)
        return jnp.zeros_like(t)

    def update(self, problem, memory, t0, before, t1, after):
        net = problem.model(before.w)
        *_, speed, twice = _kinks(problem, t0, before, t1, after)
        return memory + net.scale * (jnp.linalg.norm(speed @ net.output) + jnp.linalg.norm(twice @ jnp.abs(net.output)))


class ImpulseSpread(ImpulseBound):
    """Sums over accepted steps of |sum_j s_j J_j| and of sum_j s_j^2 |J_j|/2, s_j from the impulse to the step's end."""

    def init(self, problem, t, state):
        return jnp.zeros((2,), super().init(problem, t, state).dtype)

    def update(self, problem, memory, t0, before, t1, after):
        net = problem.model(before.w)
        *_, at, speed, twice = _kinks(problem, t0, before, t1, after)
        later, size = (t1 - t0) * (1 - at), jnp.abs(net.output)
        first = jnp.linalg.norm((later * speed) @ net.output) + (t1 - t0) * jnp.linalg.norm(twice @ size)
        second = 0.5 * jnp.sum((later**2 * speed + (t1 - t0) ** 2 * twice) @ size)
        return memory + net.scale * jnp.stack([first, second])


class KernelPath(Impulses):
    """Entrywise length of the kernel's path, (n, n): |H(t) - H(s)| <= path(t) - path(s). H moves by flips only."""

    def init(self, problem, t, state):
        return jnp.zeros((super().init(problem, t, state).shape[0],) * 2, t.dtype)

    def update(self, problem, memory, t0, before, t1, after):
        net, X = problem.model(before.w), problem.X.reshape(problem.X.shape[0], -1)
        active, flipped, twice, *_ = _kinks(problem, t0, before, t1, after)
        moved = (flipped | twice).astype(memory.dtype)
        ever = jnp.where(active, 1.0, moved)  # of a product of two indicators, one flips while the other is on at some time
        weight = jnp.square(net.scale * net.output)[None]
        half = (moved * weight) @ ever.T
        return memory + jnp.abs(X @ X.T) * (half + half.T - (moved * weight) @ moved.T)


def _friction(s: Snapshot) -> Array:
    if not isinstance(s.flow, AbstractMomentumFlow):
        raise InputError("certificates are for the heavy ball; this run has no friction.")
    return s.flow.friction(s.t)


def _reference(s: Snapshot) -> Array:
    return jnp.full_like(s.kernel, jnp.nan) if s.reference is None else s.reference


CERTIFICATE_READOUTS = {
    **{name: name for name in ("loss", "residual", "velocity", "kernel")},
    "friction": _friction,
    "reference": _reference,
    "impulses": ImpulseBound(),
    "impulse_spread": ImpulseSpread(),
    "kernel_path": KernelPath(),
}
"""What `certify` needs: `simulate(..., HeavyBall(b), ts, readouts=CERTIFICATE_READOUTS)`; add your own to a copy."""


@dataclasses.dataclass(frozen=True)
class Certificate:
    """Whether a repaired bound applies to a run.

    issued: some form has a positive mean rate and a bound, impulses included, that ends below L(0); form: the one with the
    largest rate. rate: the exponent of L it certifies (mean over the run), or the best that was found. ts, bound: the certified
    curve of L(t), impulses included (inf where no form applies). missing: what stands in the way, in words.
    epsilon: eps(t) of the relative form at the saves. drift: a bound of sup_t ||H(t) - H_ref||_2. lam0: of H_ref. impulses: sum of
    impulse sizes. gap: share of the mean rate lost to not knowing the kernel between saves.
    rates, widths: by form, the exponent found and the width at which that form would be issued, if the kernel's distance from H_ref, its
    path between saves and the impulses all fall like m^{-1/2}.
    """

    issued: bool
    form: Form | None
    rate: float
    ts: np.ndarray
    bound: np.ndarray
    missing: str
    epsilon: np.ndarray
    drift: float
    lam0: float
    impulses: float
    gap: float
    rates: dict[str, float]
    widths: dict[str, float]

    def __str__(self) -> str:
        if self.issued:
            return f"certified ({self.form}): L decays at rate {self.rate:.4g} (lambda0 = {self.lam0:.4g}, impulses {self.impulses:.3g})"
        return f"not certified: {self.missing}"


def certify(
    trajectory: Trajectory, reference: Literal["infinite", "initial", "mean"] | Float[ArrayLike, "n n"] = "infinite"
) -> Certificate:
    """Decide whether a repaired Theorem 2 applies to a heavy-ball run made with `CERTIFICATE_READOUTS`.

    reference: H_infinity, H(0), the mean of H(t) over the run, or any positive definite matrix. Raises `InputError` when the run lacks a
    read-out, failed, or the reference is not positive definite.
    """
    lacking = [name for name in CERTIFICATE_READOUTS if name not in trajectory.readouts]
    if lacking:
        raise InputError(f"this run lacks the read-outs {lacking}; simulate it with readouts=nm.theory.CERTIFICATE_READOUTS.")
    if not trajectory.ok:
        raise InputError(f"a failed run cannot be certified: {trajectory.reason}.")
    ts = np.asarray(trajectory.ts, np.float64)
    H, impulses, friction = (np.asarray(trajectory[name], np.float64) for name in ("kernel", "impulses", "friction"))
    if np.ptp(friction) > 1e-6 * friction[0]:
        raise InputError("certificates are for constant friction (the heavy ball); the friction of this run varies.")
    H_ref = _choose(reference, trajectory, H, ts)
    values = np.linalg.eigvalsh(H_ref)
    if not values[0] > 0:
        raise InputError(f"the reference kernel must be positive definite, its smallest eigenvalue is {values[0]:.3g}.")
    lam0, b = float(values[0]), float(friction[0])
    alpha = b / 2
    D, V = np.asarray(trajectory["residual"], np.float64)[0], np.asarray(trajectory["velocity"], np.float64)[0]
    start, n, width = np.concatenate([D, V]), len(D), trajectory.model.width

    path = np.diff(np.asarray(trajectory["kernel_path"], np.float64), axis=0)
    lengths = np.linalg.norm(path, 2, axis=(1, 2))
    drift = float(_between(np.linalg.norm(H - H_ref, 2, axis=(1, 2)), -lengths).max())
    epsilon = np.array([reference_distance(K, H_ref) for K in H])
    c, beta, rho = _best_form(H_ref, H, b, ts)
    reach = _reach(path, lengths, H_ref, c - beta**2)
    still = float(_local_rates(H_ref, H_ref[None], b, c, beta)[0])
    forms: dict[Form, tuple[float, np.ndarray, float, float]] = {"quadratic": (still, _between(rho, reach), c, beta)}
    widths = {"simple": width * (drift / bounds.repaired_drift(lam0)) ** 2}
    if alpha**2 <= lam0 * (1 + 1e-9):
        relative = alpha - _between(epsilon, -_reach(path, lengths, H_ref, 0.0))
        forms["relative"] = (alpha, relative, alpha**2, alpha)
        if abs(b / bounds.paper_friction(lam0) - 1) < 0.01:
            local = alpha if drift <= bounds.repaired_drift(lam0) else alpha - drift / np.sqrt(lam0)
            forms["simple"] = (alpha, np.full_like(relative, local), alpha**2, alpha)
    rates: dict[str, float] = {name: _mean(local, ts) for name, (_, local, _, _) in forms.items()}
    certain = _mean(_between(rho, 0 * reach), ts)

    kicks, spread = np.diff(impulses), np.diff(np.asarray(trajectory["impulse_spread"], np.float64), axis=0)
    top = float(np.linalg.norm(H, 2, axis=(1, 2)).max() + lengths.max())
    curves = {}
    for name, (ideal, local, c_form, beta_form) in forms.items():
        kinks = kicks + spread @ _delays(H_ref, top, b, c_form, beta_form)

        def curve(share, ideal=ideal, local=local, c=c_form, beta=beta_form, kinks=kinks):
            """The bound if kernel and impulses moved by this share of what they did, and whether it says anything."""
            moved = ideal + share * (local - ideal)
            bound = _curve(moved, c, beta, H_ref, start, n, ts, share * kinks)
            return bound, _mean(moved, ts) > 0 and bound[-1] < 0.5 * D @ D

        curves[name], _ = curve(1.0)
        share = _largest(curve)
        needed = width / share**2 if share else np.inf
        widths[name] = max(needed, widths["simple"]) if name == "simple" else needed
    if drift > bounds.repaired_drift(lam0):
        curves.pop("simple", None)
    useful = [name for name, curve in curves.items() if rates[name] > 0 and curve[-1] < 0.5 * D @ D]
    best = max(useful, key=lambda name: rates[name], default=None)
    return Certificate(
        issued=best is not None,
        form=best,
        rate=max(rates.values()) if best is None else rates[best],
        ts=ts,
        bound=np.full_like(ts, np.inf) if best is None else curves[best],
        missing=_missing(b, lam0, drift, epsilon, rates, widths, width, float(impulses[-1]), certain) if best is None else "",
        epsilon=epsilon,
        drift=drift,
        lam0=lam0,
        impulses=float(impulses[-1]),
        gap=float(_mean(reach, ts) / 2 / abs(certain)) if certain else np.inf,
        rates=rates,
        widths=widths,
    )


def _choose(reference: Any, trajectory: Trajectory, H: np.ndarray, ts: np.ndarray) -> np.ndarray:
    if isinstance(reference, str):
        if reference == "initial":
            return H[0]
        if reference == "mean":
            return np.trapezoid(H, ts, axis=0) / (ts[-1] - ts[0])
        if reference != "infinite":
            raise unknown_name("reference", reference, ("infinite", "initial", "mean"))
        limit = np.asarray(trajectory["reference"], np.float64)[0]
        if np.isnan(limit).any():
            raise InputError('this run has no infinite-width kernel; pass reference="initial" or a matrix.')
        return limit
    matrix = np.asarray(reference, np.float64)
    if matrix.shape != H.shape[1:]:
        raise InputError(f"the reference kernel must have shape {H.shape[1:]}, got {matrix.shape}.")
    return matrix


def _mean(local: np.ndarray, ts: np.ndarray) -> float:
    """The mean over time of what is given on each interval between saves."""
    return float(local @ np.diff(ts) / (ts[-1] - ts[0]))


def _largest(curve: Callable[[float], tuple[np.ndarray, bool]]) -> float:
    """The largest share whose bound says something, by bisection; 0 if none does."""
    low, high = 1e-4, 1e2
    if not curve(low)[1]:
        return 0.0
    for _ in range(30):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if curve(middle)[1] else (low, middle)
    return float(low)


def _between(values: np.ndarray, length: np.ndarray) -> np.ndarray:
    """The least (for lengths < 0 the largest) value on each interval of what may change at most by |length| in all from save to save."""
    return 0.5 * (values[1:] + values[:-1] - length)


def _reach(path: np.ndarray, lengths: np.ndarray, H_ref: np.ndarray, shift: float) -> np.ndarray:
    """Bounds of ||E (H_ref + shift)^{-1/2}||_2 for every |E| <= path, interval by interval."""
    values, vectors = np.linalg.eigh(H_ref)
    root = np.abs((vectors / np.sqrt(values + shift)) @ vectors.T)
    return np.minimum(lengths / np.sqrt(values[0] + shift), np.linalg.norm(path @ root, 2, axis=(1, 2)))


def _delays(H_ref: np.ndarray, top: float, b: float, c: float, beta: float) -> np.ndarray:
    """Bounds of |A x|_P and |A A x|_P over |J|, x = (0, J), ||H|| <= top: an impulse s before has become x + s A x + O(s^2/2)."""
    stiff = np.linalg.norm(H_ref, 2) + c - beta**2
    return np.array([np.sqrt(stiff + (b - beta) ** 2), np.hypot(b * np.sqrt(stiff), top + abs(b * (b - beta)))])


def _local_rates(H_ref: np.ndarray, H: np.ndarray, b: float, c: float, beta: float) -> np.ndarray:
    """rho(t) of P = [[H_ref + c, beta], [beta, 1]] for each kernel; -inf when P is not positive definite."""
    n = len(H_ref)
    eye = np.eye(n)
    P = np.block([[H_ref + c * eye, beta * eye], [beta * eye, eye]])
    try:
        inverse = np.linalg.inv(np.linalg.cholesky(P))
    except np.linalg.LinAlgError:
        return np.full(len(H), -np.inf)
    # P A + A^T P = [[-2 beta H, H_ref + c - b beta - H], [., 2 beta - 2 b]], since d/dt (Delta, Delta') = (Delta', -H Delta - b Delta')
    S = np.zeros((len(H), 2 * n, 2 * n))
    S[:, :n, :n] = -2 * beta * H
    S[:, :n, n:] = H_ref + (c - b * beta) * eye - H
    S[:, n:, :n] = S[:, :n, n:].transpose(0, 2, 1)
    S[:, n:, n:] = (2 * beta - 2 * b) * eye
    last = [2 * n - 1, 2 * n - 1]
    return -np.array(
        [scipy.linalg.eigh(M, eigvals_only=True, subset_by_index=last, check_finite=False)[0] for M in inverse @ S @ inverse.T]
    )


def _best_form(H_ref: np.ndarray, H: np.ndarray, b: float, ts: np.ndarray) -> tuple[float, float, np.ndarray]:
    """(c, beta, rho) of the form with the largest mean rate, searched on six of the times from V_infinity and V#."""
    lam0 = float(np.linalg.eigvalsh(H_ref)[0])
    some = np.unique(np.linspace(0, len(H) - 1, min(6, len(H))).astype(int))

    def loss(u):
        rates = _local_rates(H_ref, H[some], b, u[0] * lam0, u[1] * np.sqrt(lam0))
        return -np.mean(rates) / np.sqrt(lam0) if np.all(np.isfinite(rates)) else 1e3

    alpha = b / 2 / np.sqrt(lam0)
    start = min([(alpha**2, alpha), (0.05, min(alpha, 0.9)), (0.5, 0.5)], key=loss)
    u = scipy.optimize.minimize(loss, start, method="Nelder-Mead", options={"maxfev": 60, "xatol": 1e-3, "fatol": 1e-4}).x
    c, beta = float(u[0] * lam0), float(u[1] * np.sqrt(lam0))
    return c, beta, _local_rates(H_ref, H, b, c, beta)


def _curve(local, c, beta, H_ref, start, n, ts, kicks) -> np.ndarray:
    """The bound of L at the saved times."""
    D, V = start[:n], start[n:]
    sizes = [np.sqrt(0.5 * D @ H_ref @ D + 0.5 * c * D @ D + beta * D @ V + 0.5 * V @ V)]
    for shrink, kick in zip(np.exp(-0.5 * local * np.diff(ts)), kicks, strict=True):
        sizes.append(shrink * sizes[-1] + max(1.0, shrink) * kick / np.sqrt(2))
    return np.square(sizes) / (np.linalg.eigvalsh(H_ref)[0] + c - beta**2)


def _missing(b, lam0, drift, epsilon, rates, widths, width, impulses, certain) -> str:
    parts = [f"sup ||H(t) - H_ref|| = {drift:.3g} against {bounds.repaired_drift(lam0):.3g} allowed"]
    if "relative" in rates:
        parts.append(f"mean eps = {np.mean(epsilon):.3g} against alpha = {b / 2:.3g}")
    else:
        parts.append(f"b = {b:.3g} is above 2 sqrt(lambda0) = {2 * np.sqrt(lam0):.3g}")
    parts.append(f"best mean rate {max(rates.values()):.3g}, impulses {impulses:.3g}")
    if rates["quadratic"] < 0.7 * certain:
        parts.append(f"the rate would be {certain:.3g} if nothing happened between saves: save more densely")
    wanted = ", ".join(f"{name}: {value:.3g}" for name, value in sorted(widths.items(), key=lambda item: item[1]))
    return f"{'; '.join(parts)}. Width {width} now; would take about {wanted}."

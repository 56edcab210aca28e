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

lambda0 is that of H_ref. Everything is evaluated at the saved times (trapezoidal integrals), so save densely.
"""

from __future__ import annotations

import dataclasses
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


class ImpulseBound(Impulses):
    """Sum over accepted steps of the norm of what `Impulses` adds: the bound of V needs the path's length, in which nothing cancels."""

    def init(self, problem, t, state):
        super().init(problem, t, state)
        return jnp.zeros_like(t)

    def update(self, problem, memory, t0, before, t1, after):
        return memory + jnp.linalg.norm(super().update(problem, jnp.zeros_like(problem.y), t0, before, t1, after))


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
}
"""What `certify` needs: `simulate(..., HeavyBall(b), ts, readouts=CERTIFICATE_READOUTS)`; add your own to a copy."""


@dataclasses.dataclass(frozen=True)
class Certificate:
    """Whether a repaired bound applies to a run.

    issued: some form has a positive mean rate and a bound, impulses included, that ends below L(0); form: the one with the
    largest rate. rate: the exponent of L it certifies (mean over the run), or the best that was found. ts, bound: the certified
    curve of L(t), impulses included (inf where no form applies). missing: what stands in the way, in words.
    epsilon: eps(t) of the relative form. drift: sup ||H(t) - H_ref||_2. lam0: of H_ref. impulses: sum of impulse sizes.
    rates, widths: by form, the exponent found and the width at which that form would be issued (this width times the square of the
    excess, as every drift falls like m^{-1/2}).
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

    drift = max(float(np.linalg.norm(K - H_ref, 2)) for K in H)
    epsilon = np.array([reference_distance(K, H_ref) for K in H])
    c, beta, rho = _best_form(H_ref, H, b, ts)
    _, _, still = _best_form(H_ref, H_ref[None], b, ts[:1])
    forms: dict[Form, tuple[np.ndarray, float, float]] = {"quadratic": (rho, c, beta)}
    if alpha**2 <= lam0 * (1 + 1e-9):
        forms["relative"] = (alpha - epsilon, alpha**2, alpha)
        if abs(b / bounds.paper_friction(lam0) - 1) < 0.01:
            forms["simple"] = (
                np.full_like(ts, alpha if drift <= bounds.repaired_drift(lam0) else alpha - drift / np.sqrt(lam0)),
                alpha**2,
                alpha,
            )
    rates: dict[str, float] = {name: _mean(local, ts) for name, (local, _, _) in forms.items()}
    deficit = _mean(float(still[0]) - rho, ts)
    widths = {"quadratic": width * (deficit / float(still[0])) ** 2 if still[0] > 0 else np.inf}
    if "relative" in forms:
        widths["relative"] = width * (_mean(epsilon, ts) / alpha) ** 2
    widths["simple"] = width * (drift / bounds.repaired_drift(lam0)) ** 2

    curves = {name: _curve(local, c, beta, H_ref, start, n, ts, impulses) for name, (local, c, beta) in forms.items() if rates[name] > 0}
    if drift > bounds.repaired_drift(lam0):
        curves.pop("simple", None)
    useful = [name for name, curve in curves.items() if curve[-1] < 0.5 * D @ D]
    best = max(useful, key=lambda name: rates[name], default=None)
    return Certificate(
        issued=best is not None,
        form=best,
        rate=max(rates.values()) if best is None else rates[best],
        ts=ts,
        bound=np.full_like(ts, np.inf) if best is None else curves[best],
        missing=_missing(b, lam0, drift, epsilon, rates, widths, width, float(impulses[-1])) if best is None else "",
        epsilon=epsilon,
        drift=drift,
        lam0=lam0,
        impulses=float(impulses[-1]),
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


def _mean(values: np.ndarray, ts: np.ndarray) -> float:
    return float(np.trapezoid(values, ts) / (ts[-1] - ts[0]) if len(ts) > 1 else values[0])


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
        return -_mean(rates, ts[some]) / np.sqrt(lam0) if np.all(np.isfinite(rates)) else 1e3

    alpha = b / 2 / np.sqrt(lam0)
    start = min([(alpha**2, alpha), (0.05, min(alpha, 0.9)), (0.5, 0.5)], key=loss)
    u = scipy.optimize.minimize(loss, start, method="Nelder-Mead", options={"maxfev": 60, "xatol": 1e-3, "fatol": 1e-4}).x
    c, beta = float(u[0] * lam0), float(u[1] * np.sqrt(lam0))
    return c, beta, _local_rates(H_ref, H, b, c, beta)


def _curve(local, c, beta, H_ref, start, n, ts, impulses) -> np.ndarray:
    """The bound of L at the saved times."""
    D, V = start[:n], start[n:]
    size = np.sqrt(0.5 * D @ H_ref @ D + 0.5 * c * D @ D + beta * D @ V + 0.5 * V @ V)
    steps = np.diff(ts, prepend=0.0)
    mid = np.concatenate([local[:1], 0.5 * (local[1:] + local[:-1])])
    kicks, sizes = np.diff(impulses, prepend=0.0), []
    for shrink, kick in zip(np.exp(-0.5 * mid * steps), kicks, strict=True):
        size = shrink * size + max(1.0, shrink) * kick / np.sqrt(2)
        sizes.append(size)
    return np.square(sizes) / (np.linalg.eigvalsh(H_ref)[0] + c - beta**2)


def _missing(b, lam0, drift, epsilon, rates, widths, width, impulses) -> str:
    parts = [f"sup ||H(t) - H_ref|| = {drift:.3g} against {bounds.repaired_drift(lam0):.3g} allowed"]
    if "relative" in rates:
        parts.append(f"mean eps = {np.mean(epsilon):.3g} against alpha = {b / 2:.3g}")
    else:
        parts.append(f"b = {b:.3g} is above 2 sqrt(lambda0) = {2 * np.sqrt(lam0):.3g}")
    parts.append(f"best mean rate {max(rates.values()):.3g}, impulses {impulses:.3g}")
    wanted = ", ".join(f"{name}: {value:.3g}" for name, value in sorted(widths.items(), key=lambda item: item[1]))
    return f"{'; '.join(parts)}. Width {width} now; would take about {wanted}."

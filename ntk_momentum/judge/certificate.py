"""A certificate for one run: does a repaired Theorem 1 or 2 apply to this network, and which rate
does it certify?

Along (3.5) with a moving kernel, any quadratic form V = (Delta, Delta') . P (Delta, Delta') / 2
obeys V' <= -rho(t) V with -rho(t) = lambda_max(P A + A^T P, P), A(t) = [[0, 1], [-H(t), -b]],
between impulses, and sqrt V grows by at most |J|/sqrt 2 at an impulse J. Hence

    sqrt V(t) <= e^{-int rho / 2} sqrt V(0) + sum_j e^{-int_{t_j}^t rho / 2} |J_j| / sqrt 2,
    L(t) <= V(t) / lambda_min(P's Schur complement).

Three forms, from weak to sharp, all on a fixed positive definite reference kernel H_ref:

    simple     b = sqrt(2 lambda0), sup ||H(t) - H_ref|| <= (sqrt 2 - 1) lambda0/2: rate alpha = b/2
    relative    P = [[H_ref + alpha^2, alpha], [alpha, 1]] (V_infinity), rho >= alpha - eps(t),
                eps = ||(H(t) - H_ref) H_ref^{-1/2}||_2
    quadratic   P = [[H_ref + c, beta], [beta, 1]] with the exact rho(t); c and beta chosen for the
                largest mean rate. Contains V_infinity and V#

Along (2.5), the gradient flow, V = L = |Delta|^2/2 and rho(t) = 2 lambda_min(H(t)):

    simple      sup ||H(t) - H_ref|| <= lambda0/2: rate lambda0, as the paper argues
    spectral    the exact rho(t)

lambda0 is that of H_ref. Between two saved times the kernel is held by `KernelPath`, which follows
every accepted step: |H(t) - H(t_k)| <= M_k entry by entry, so rho(t) >= (rho_k + rho_{k+1} -
reach_k)/2 on the interval, reach_k = |M_k (H_ref + c - beta^2)^{-1/2}|, as the kernel travels at
most reach_k in all from one save to the next; likewise for eps, lambda_min and the drift. Impulses
inside one step are summed as vectors, and what their being apart in time adds, of first and second
order in the step, is added. So the bound speaks of all times, up to the solver's own error; denser
saves make reach and steps small. Of a two-layer ReLU net whose hidden layer is trained, impulses
are counted; for any other model all that drives the error beside (3.5) is, see `observed`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.linalg
import scipy.optimize
from jaxtyping import ArrayLike, Float

from ..dynamics.trajectory import Trajectory
from ..errors import InputError, unknown_name
from ..theory import bounds
from ..theory.lyapunov import reference_distance
from .observed import CERTIFICATE_READOUTS

Form = Literal["simple", "relative", "quadratic", "spectral"]


@dataclasses.dataclass(frozen=True)
class Certificate:
    """Whether a repaired bound of Theorem 1 or 2 applies to a run, as `certify` finds it.

    Args:
        issued: Whether some form has a positive mean rate and a bound, impulses included, that ends
            below L(0).
        form: The one with the largest rate, None where none is issued.
        rate: The exponent of L it certifies (1/time, mean over the run), or the best that was
            found.
        ts: Saved times, (T,).
        bound: The certified curve of L(t), (T,), impulses included; inf where no form applies.
        missing: What stands in the way, in words.
        epsilon: eps(t) of the relative form at the saves, (T,); of a gradient flow
            ||H(t) - H_ref||_2 / lambda0.
        drift: A bound of sup_t ||H(t) - H_ref||_2.
        lam0: The smallest eigenvalue of H_ref.
        impulses: Sum of impulse sizes.
        gap: Share of the mean rate lost to not knowing the kernel between saves.
        rates: By form, the exponent found.
        shares: By form, the largest share of their motion that kernel and impulses could have made
            for it to be issued (1 or more: it is).
        widths: By form, where the model has a width, that at which it would be issued if the
            kernel's distance from H_ref, its path between saves and the impulses all fall like
            m^{-1/2}.
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
    shares: dict[str, float]
    widths: dict[str, float]

    def __str__(self) -> str:
        if self.issued:
            return (
                f"certified ({self.form}): L decays at rate {self.rate:.4g} (lambda0 = "
                f"{self.lam0:.4g}, impulses {self.impulses:.3g})"
            )
        return f"not certified: {self.missing}"


class _Run(NamedTuple):
    """What was observed of a run, and the reference: saved times, kernels, |H(t) - H_ref|_2, path
    between saves with its norms, friction (NaN without momentum), (Delta(0), Delta'(0)), impulses
    and their spread from save to save."""

    ts: np.ndarray
    H: np.ndarray
    H_ref: np.ndarray
    lam0: float
    distance: np.ndarray
    path: np.ndarray
    lengths: np.ndarray
    b: float
    start: tuple[np.ndarray, np.ndarray]
    kicks: np.ndarray
    spread: np.ndarray

    @property
    def drift(self) -> float:
        """A bound of sup_t ||H(t) - H_ref||_2."""
        return float(_between(self.distance, -self.lengths).max())


class _Form(NamedTuple):
    """V of one form: its rate with the reference kernel, and on each interval; the latter if
    nothing happened between saves; sqrt V(0); L <= V / floor; by how much impulses raise sqrt(2 V)
    on each interval."""

    ideal: float
    local: np.ndarray
    certain: np.ndarray
    size: float
    floor: float
    kicks: np.ndarray

    def bound(self, ts: np.ndarray, share: float) -> tuple[np.ndarray, float]:
        """The bound of L at the saved times and the mean rate, if kernel and impulses moved by this
        share of what they did."""
        # Over an interval sqrt V shrinks by e^{-rho dt / 2}; an impulse within it shrinks from when
        # it comes, so by any factor from that to 1, of which the larger is taken.
        local, sizes = self.ideal + share * (self.local - self.ideal), [self.size]
        with np.errstate(over="ignore"):  # a bound may be infinite
            for shrink, kick in zip(
                np.exp(-0.5 * local * np.diff(ts)), share * self.kicks, strict=True
            ):
                sizes.append(shrink * sizes[-1] + max(1.0, shrink) * kick / np.sqrt(2))
            return np.square(sizes) / self.floor, _mean(local, ts)


def certify(
    trajectory: Trajectory,
    reference: Literal["infinite", "initial", "mean"] | Float[ArrayLike, "n n"] = "infinite",
) -> Certificate:
    """Decide whether a repaired Theorem 1 or 2 applies to a run, and which rate it certifies.

        sqrt V(t) <= e^{-int rho / 2} sqrt V(0) + sum_j e^{-int_{t_j}^t rho / 2} |J_j| / sqrt 2

    for a quadratic form V of (Delta, Delta') that bounds L, with the kernel's own path in rho and
    the kinks' impulses J_j, along (2.5) or (3.5). Any model on the squared loss, under the gradient
    flow or the heavy ball. With momentum, all but a two-layer ReLU net whose hidden layer is
    trained take `solver=nm.RungeKutta()` and steps that resolve their fast modes, or what is left
    over of (3.5) is mostly the steps' own error.

    Args:
        trajectory: A run made with readouts=nm.judge.CERTIFICATE_READOUTS.
        reference: The kernel H_ref behind the forms: "infinite" (H infinity), "initial" (H(0)),
            "mean" (that of H(t) over the run), or any positive definite matrix, (n, n).

    Returns:
        The certificate: whether it is issued, by which form, the exponent of L (1/time), the bound
        of L at the saved times, and else what is missing, in words.

    Raises:
        InputError: If the run lacks a read-out or failed, its friction varies, or the reference is
            not positive definite.

    Examples:
        >>> data = nm.sphere(3, 2, key=jax.random.key(0))
        >>> net = nm.init_two_layer(4096, 2, key=jax.random.key(1))
        >>> readouts, ts = nm.judge.CERTIFICATE_READOUTS, np.linspace(0, 5, 21)
        >>> run = nm.simulate(net, data, nm.GradientFlow(), ts, readouts=readouts)
        >>> found = nm.certify(run)
        >>> found.issued, bool(run.loss[-1] < found.bound[-1] < run.loss[0])
        (True, True)
    """
    run = _observed(trajectory, reference)
    forms = _gradient_flow(run) if np.isnan(run.b) else _heavy_ball(run)
    allowed = run.lam0 / 2 if np.isnan(run.b) else bounds.repaired_drift(run.lam0)
    initial = 0.5 * run.start[0] @ run.start[0]
    found = {name: form.bound(run.ts, 1.0) for name, form in forms.items()}
    rates: dict[str, float] = {name: rate for name, (_, rate) in found.items()}
    shares: dict[str, float] = {
        name: _largest(form, run.ts, initial) for name, form in forms.items()
    }
    shares["simple"] = min(
        shares.get("simple", np.inf), allowed / run.drift if run.drift else np.inf
    )
    width = getattr(trajectory.model, "width", 0)
    useful = [name for name, (curve, rate) in found.items() if rate > 0 and curve[-1] < initial]
    useful = [name for name in useful if name != "simple" or run.drift <= allowed]
    best = max(useful, key=lambda name: rates[name], default=None)
    sharp = forms["spectral" if np.isnan(run.b) else "quadratic"]
    certain, kept = _mean(sharp.certain, run.ts), _mean(sharp.local, run.ts)
    epsilon = (
        run.distance / run.lam0
        if np.isnan(run.b)
        else np.array([reference_distance(K, run.H_ref) for K in run.H])
    )
    impulses = float(run.kicks.sum())
    return Certificate(
        issued=best is not None,
        form=best,
        rate=max(rates.values()) if best is None else rates[best],
        ts=run.ts,
        bound=np.full_like(run.ts, np.inf) if best is None else found[best][0],
        missing=""
        if best is not None
        else _missing(run, rates, shares, allowed, certain, epsilon, width),
        epsilon=epsilon,
        drift=run.drift,
        lam0=run.lam0,
        impulses=impulses,
        gap=float((certain - kept) / abs(certain)) if certain else np.inf,
        rates=rates,
        shares=shares,
        widths=_widths(shares, width),
    )


def _observed(trajectory: Trajectory, reference: Any) -> _Run:
    lacking = [name for name in CERTIFICATE_READOUTS if name not in trajectory.readouts]
    if lacking:
        raise InputError(
            f"this run lacks the read-outs {lacking}; simulate it with "
            "readouts=nm.judge.CERTIFICATE_READOUTS."
        )
    if not trajectory.ok:
        raise InputError(f"a failed run cannot be certified: {trajectory.reason}.")
    read = {name: np.asarray(trajectory[name], np.float64) for name in CERTIFICATE_READOUTS}
    ts, H, friction = np.asarray(trajectory.ts, np.float64), read["kernel"], read["friction"]
    if np.isinf(friction[0]) or np.ptp(friction) > 1e-6 * friction[0]:
        raise InputError(
            "certificates are for constant friction (the heavy ball); the friction of "
            "this run varies."
        )
    H_ref = _choose(reference, trajectory, H, ts)
    lam0 = float(np.linalg.eigvalsh(H_ref)[0])
    if not lam0 > 0:
        raise InputError(
            "the reference kernel must be positive definite, its smallest eigenvalue "
            f"is {lam0:.3g}."
        )
    path = np.diff(read["kernel_path"], axis=0)
    return _Run(
        ts,
        H,
        H_ref,
        lam0,
        np.linalg.norm(H - H_ref, 2, axis=(1, 2)),
        path,
        np.linalg.norm(path, 2, axis=(1, 2)),
        float(friction[0]),
        (read["residual"][0].reshape(-1), read["velocity"][0].reshape(-1)),
        np.diff(read["impulses"]),
        np.diff(read["impulse_spread"], axis=0),
    )


def _gradient_flow(run: _Run) -> dict[Form, _Form]:
    """The forms of (2.5)."""
    # V = |Delta|^2/2 falls at rho = 2 lambda_min(H), which a path of length reach from save to save
    # lowers by reach at most, see `_between`. What an impulse J leaves after s is e^{-Hs} J =
    # J - s H J + ..., so its being spread over a step costs |H| and |H|^2 of `impulse_spread`.
    certain = 2 * _between(np.linalg.eigvalsh(run.H)[:, 0], 0 * run.lengths)
    top = float(np.linalg.norm(run.H, 2, axis=(1, 2)).max() + run.lengths.max())
    kicks = run.kicks + run.spread @ np.array([top, top**2])
    size = np.linalg.norm(run.start[0]) / np.sqrt(2)
    least = run.lam0 if run.drift <= run.lam0 / 2 else 2 * (run.lam0 - run.drift)
    return {
        "simple": _Form(2 * run.lam0, np.full_like(certain, least), certain, size, 1.0, kicks),
        "spectral": _Form(2 * run.lam0, certain - run.lengths, certain, size, 1.0, kicks),
    }


def _heavy_ball(run: _Run) -> dict[Form, _Form]:
    """The forms of (3.5) that its friction allows."""
    H_ref, lam0, b, (D, V) = run.H_ref, run.lam0, run.b, run.start
    top = float(np.linalg.norm(run.H, 2, axis=(1, 2)).max() + run.lengths.max())

    # 2 V = Delta . (H_ref + c) Delta + 2 beta Delta . Delta' + |Delta'|^2 at t = 0, and
    # 2 V >= (lambda0 + c - beta^2) |Delta|^2, the Schur complement of P's lower block.
    def form(ideal: float, local: np.ndarray, certain: np.ndarray, c: float, beta: float) -> _Form:
        size = np.sqrt(0.5 * D @ H_ref @ D + 0.5 * c * D @ D + beta * D @ V + 0.5 * V @ V)
        return _Form(
            ideal,
            local,
            certain,
            size,
            lam0 + c - beta**2,
            run.kicks + run.spread @ _delays(H_ref, top, b, c, beta),
        )

    c, beta, rho = _best_form(H_ref, run.H, b, run.ts)
    # With M = H_ref + c - beta^2, u = M^{1/2} Delta and x = Delta' + beta Delta it is 2 V = |u|^2 +
    # |x|^2, and a change E of H changes 2 V' by -2 Delta . E x = -2 u . M^{-1/2} E x, so rho by at
    # most |E M^{-1/2}|_2, as 2 |u| |x| <= |u|^2 + |x|^2.
    reach = _reach(run.path, run.lengths, H_ref, c - beta**2)
    still = float(_local_rates(H_ref, H_ref[None], b, c, beta)[0])
    forms: dict[Form, _Form] = {
        "quadratic": form(still, _between(rho, reach), _between(rho, 0 * reach), c, beta)
    }
    alpha = b / 2
    if alpha**2 <= lam0 * (1 + 1e-9):
        epsilon = np.array([reference_distance(K, H_ref) for K in run.H])
        certain = alpha - _between(epsilon, 0 * run.lengths)
        relative = alpha - _between(epsilon, -_reach(run.path, run.lengths, H_ref, 0.0))
        forms["relative"] = form(alpha, relative, certain, alpha**2, alpha)
        if abs(b / bounds.paper_friction(lam0) - 1) < 0.01:
            local = (
                alpha
                if run.drift <= bounds.repaired_drift(lam0)
                else alpha - run.drift / np.sqrt(lam0)
            )
            forms["simple"] = form(alpha, np.full_like(relative, local), certain, alpha**2, alpha)
    return forms


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
            raise InputError(
                'this run has no infinite-width kernel; pass reference="initial" or a matrix.'
            )
        return limit
    matrix = np.asarray(reference, np.float64)
    if matrix.shape != H.shape[1:]:
        raise InputError(f"the reference kernel must have shape {H.shape[1:]}, got {matrix.shape}.")
    return matrix


def _mean(local: np.ndarray, ts: np.ndarray) -> float:
    """The mean over time of what is given on each interval between saves."""
    return float(local @ np.diff(ts) / (ts[-1] - ts[0]))


def _largest(form: _Form, ts: np.ndarray, initial: float) -> float:
    """The largest share whose bound says something, by bisection; 0 if none does."""

    def says(share: float) -> bool:
        curve, rate = form.bound(ts, share)
        return bool(rate > 0 and curve[-1] < initial)

    # Thirty halvings of six decades: far finer than what a share is good for. Chosen.
    low, high = 1e-4, 1e2
    if not says(low):
        return 0.0
    for _ in range(30):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if says(middle) else (low, middle)
    return float(low)


def _between(values: np.ndarray, length: np.ndarray) -> np.ndarray:
    """The least (for lengths < 0 the largest) value on each interval of what may change at most by
    |length| in all from save to save."""
    # From v0 down to x and up to v1 is a way of v0 + v1 - 2 x <= length.
    return 0.5 * (values[1:] + values[:-1] - length)


def _reach(path: np.ndarray, lengths: np.ndarray, H_ref: np.ndarray, shift: float) -> np.ndarray:
    """Bounds of ||E (H_ref + shift)^{-1/2}||_2 for every |E| <= path, interval by interval."""
    values, vectors = np.linalg.eigh(H_ref)
    # |A|_2 grows with |A| entry by entry, so |E M^{-1/2}|_2 <= | path |M^{-1/2}| |_2; the other
    # bound is |E|_2 / sqrt(lambda_min(M)).
    root = np.abs((vectors / np.sqrt(values + shift)) @ vectors.T)
    return np.minimum(
        lengths / np.sqrt(values[0] + shift), np.linalg.norm(path @ root, 2, axis=(1, 2))
    )


def _delays(H_ref: np.ndarray, top: float, b: float, c: float, beta: float) -> np.ndarray:
    """Bounds of |A x|_P and |A A x|_P over |J|, x = (0, J), ||H|| <= top: an impulse s before has
    become x + s A x + O(s^2/2)."""
    # |(D, V)|_P^2 = D . M D + |V + beta D|^2, M = H_ref + c - beta^2, with
    #     A x = (J, -b J),   A A x = (-b J, b^2 J - H J).
    stiff = np.linalg.norm(H_ref, 2) + c - beta**2
    return np.array(
        [np.sqrt(stiff + (b - beta) ** 2), np.hypot(b * np.sqrt(stiff), top + abs(b * (b - beta)))]
    )


def _local_rates(H_ref: np.ndarray, H: np.ndarray, b: float, c: float, beta: float) -> np.ndarray:
    """rho(t) of P = [[H_ref + c, beta], [beta, 1]] for each kernel; -inf when P is not positive
    definite."""
    n = len(H_ref)
    eye = np.eye(n)
    P = np.block([[H_ref + c * eye, beta * eye], [beta * eye, eye]])
    try:
        inverse = np.linalg.inv(np.linalg.cholesky(P))
    except np.linalg.LinAlgError:
        return np.full(len(H), -np.inf)
    # P A + A^T P = [[-2 beta H, H_ref + c - b beta - H], [., 2 beta - 2 b]], since d/dt (Delta,
    # Delta') = (Delta', -H Delta - b Delta')
    S = np.zeros((len(H), 2 * n, 2 * n))
    S[:, :n, :n] = -2 * beta * H
    S[:, :n, n:] = H_ref + (c - b * beta) * eye - H
    S[:, n:, :n] = S[:, :n, n:].transpose(0, 2, 1)
    S[:, n:, n:] = (2 * beta - 2 * b) * eye
    last = [2 * n - 1, 2 * n - 1]
    return -np.array(
        [
            scipy.linalg.eigh(M, eigvals_only=True, subset_by_index=last, check_finite=False)[0]
            for M in inverse @ S @ inverse.T
        ]
    )


def _best_form(
    H_ref: np.ndarray, H: np.ndarray, b: float, ts: np.ndarray
) -> tuple[float, float, np.ndarray]:
    """(c, beta, rho) of the form with the largest mean rate, searched on six of the times from
    V_infinity and V#."""
    # In units of lambda0. Each evaluation takes an eigendecomposition of 2 n rows for each kernel,
    # hence six kernels and sixty evaluations; any (c, beta) found is a valid form. Chosen.
    lam0 = float(np.linalg.eigvalsh(H_ref)[0])
    some = np.unique(np.linspace(0, len(H) - 1, min(6, len(H))).astype(int))

    def loss(u: Any) -> float:
        rates = _local_rates(H_ref, H[some], b, u[0] * lam0, u[1] * np.sqrt(lam0))
        return -np.mean(rates) / np.sqrt(lam0) if np.all(np.isfinite(rates)) else 1e3

    alpha = b / 2 / np.sqrt(lam0)
    start = min([(alpha**2, alpha), (0.05, min(alpha, 0.9)), (0.5, 0.5)], key=loss)
    u = scipy.optimize.minimize(
        loss, start, method="Nelder-Mead", options={"maxfev": 60, "xatol": 1e-3, "fatol": 1e-4}
    ).x
    c, beta = float(u[0] * lam0), float(u[1] * np.sqrt(lam0))
    return c, beta, _local_rates(H_ref, H, b, c, beta)


def _widths(shares: dict[str, float], width: int) -> dict[str, float]:
    """The width that each form would take, where the model has one."""
    return (
        {name: width / share**2 if share else np.inf for name, share in shares.items()}
        if width
        else {}
    )


def _missing(
    run: _Run,
    rates: dict[str, float],
    shares: dict[str, float],
    allowed: float,
    certain: float,
    epsilon: np.ndarray,
    width: int,
) -> str:
    parts = [f"sup ||H(t) - H_ref|| = {run.drift:.3g} against {allowed:.3g} allowed"]
    if "relative" in rates:
        parts.append(f"mean eps = {np.mean(epsilon):.3g} against alpha = {run.b / 2:.3g}")
    elif not np.isnan(run.b):
        parts.append(f"b = {run.b:.3g} is above 2 sqrt(lambda0) = {2 * np.sqrt(run.lam0):.3g}")
    parts.append(f"best mean rate {max(rates.values()):.3g}, impulses {run.kicks.sum():.3g}")
    if rates["spectral" if np.isnan(run.b) else "quadratic"] < 0.7 * certain:
        parts.append(
            f"the rate would be {certain:.3g} if nothing happened between saves: save more densely"
        )
    if not width:
        wanted = ", ".join(
            f"{name}: {value:.2g}"
            for name, value in sorted(shares.items(), key=lambda item: -item[1])
        )
        return (
            f"{'; '.join(parts)}. Kernel and impulses may move by these shares of what "
            f"they did: {wanted}."
        )
    wanted = ", ".join(
        f"{name}: {value:.3g}"
        for name, value in sorted(_widths(shares, width).items(), key=lambda item: item[1])
    )
    return f"{'; '.join(parts)}. Width {width} now; would take about {wanted}."

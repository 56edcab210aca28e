"""A certificate for one run: does a repaired Theorem 1, 2 or 3 apply to it, and which rate does it
certify?

Along (3.5) with a moving kernel, on any symmetric reference R with S = R - beta (b - beta) > 0,

    V = Delta.S Delta/2 + |beta Delta + Delta'|^2/2,   V' <= -rho(t) V,
    rho(t) = b - sqrt((b - 2 beta)^2 + eps(t)^2),   eps(t) = ||(H(t) - R) S^{-1/2}||_2

between impulses (Lemma 2 of docs/theorems.md), and sqrt V grows by at most |iota|/sqrt 2 at an
impulse iota. Hence

    sqrt V(t) <= e^{-int rho / 2} sqrt V(0) + sum_j e^{-int_{t_j}^t rho / 2} |iota_j| / sqrt 2,
    L(t) <= V(t) / lambda_min(S).

Three forms, from weak to sharp, all by one fixed positive definite reference kernel H_ref:

    simple      R = H_ref, known of H - H_ref its norm only: eps <= sup||H - H_ref||/sqrt
                lambda_min(S), `bounds.moving_kernel_rate` at the best beta. Theorem 2 with the
                paper's own budget: at b = sqrt(2 lambda0) and sup||H - H_ref|| = lambda0/2 it is
                b/2
    relative    R = H_ref with eps(t) itself; at beta = b/2 the rate is b - eps(t)
    lifted      R = H_ref + lift, the lift one of a few numbers that may change at each save: high
                while the kernel moves, low once it rests. Where the lift falls V falls with it,
                elsewhere V grows by the largest eigenvalue of its new form in its old one. Any
                form [[H_ref + c, beta], [beta, 1]] is of this kind, lift = c - 2 beta^2 + b beta
                (Proposition 16)

beta and the lifts are those for which the bound at the run's end, impulses apart, is least.

Along (4.3) no rate is there to pay for a kernel away from a fixed reference; the reference follows
the kernel, and what is paid in all is taken off the power t^{-d}, see `moving`.

lambda0 is that of H_ref. Between two saved times the kernel is held by `KernelPath`, which follows
every accepted step: |H(t) - H(t_k)| + |H(t_{k+1}) - H(t)| <= M_k entry by entry, so
eps(t) <= (eps_k + eps_{k+1} + ||M_k||/sqrt lambda_min(S))/2 on the interval: between the two
vectors for which eps(t) is attained, the two ways add up to M_k. Likewise for lambda_min and the
drift. Impulses inside one step are summed as vectors, and what their being apart in time adds, of
first and second order in the step, is added. So the bound speaks of all times, up to the solver's
own error; saves that are dense where the kernel moves make M_k and steps small. Of a two-layer ReLU
net whose hidden layer is trained, impulses are counted; for any other model all that drives the
error beside (3.5) is, see `observed`.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from jaxtyping import ArrayLike, Float

from ..dynamics.trajectory import Trajectory
from ..errors import InputError, described, no_type_check, unknown_name
from ..progress import OnProgress, check_progress
from ..theory import bounds
from .forms import (
    Form,
    Motion,
    between,
    forms_of,
    friction_for,
    largest_share,
    mean,
    nonnegative_norm,
    shares_of,
)
from .moving import nesterov_form
from .observed import CERTIFICATE_READOUTS

REFERENCES = ("infinite", "initial", "mean")


@dataclasses.dataclass(frozen=True)
class Certificate:
    """Whether a repaired bound of Theorem 1 or 2 applies to a run, as `certify` finds it.

    Args:
        issued: Whether some form has a positive mean rate and a bound, impulses included, that ends
            below L(0); below L at the saved time where the form begins, of Nesterov's flow.
        form: The one with the largest rate, None where none is issued.
        rate: The exponent of L it certifies (1/time, mean over the run), or the best that was
            found; of Nesterov's flow the power p of L's t^{-p}.
        ts: Saved times, (T,).
        bound: The certified curve of L(t), (T,), impulses included; inf where no form applies, as
            at a Nesterov run's saves before its form begins.
        missing: What stands in the way, in words.
        epsilon: eps(t) of the relative form at the saves, (T,); of a gradient flow
            ||H(t) - H_ref||_2 / lambda0.
        drift: A bound of sup_t ||H(t) - H_ref||_2.
        lam0: The smallest eigenvalue of H_ref.
        impulses: Sum of impulse sizes.
        gap: Share of the mean rate lost to not knowing the kernel between saves.
        rates: By form, the exponent found.
        shares: By form, the largest share of their motion that kernel and impulses could have made
            for it to be issued; 1 where it is as it stands. Below 1 judged by a dozen saves.
        widths: By form, where the model has a width, one at which it would be issued if the
            kernel's distance from H_ref, its path between saves and the impulses all fall like
            m^{-1/2}; its own where it is.
        reference: What H_ref is.
        best_friction, best_rate: The friction, of seven between sqrt(lambda0) and 4 sqrt(lambda0),
            and the exponent of L that the lifted form certifies there for a heavy ball whose kernel
            moves as this run's did; NaN of Nesterov's.
        safe_friction, safe_rate: b = sqrt(lambda_min + lambda_max) over the run, with which no
            motion of the kernel between these eigenvalues, however it goes, makes the exponent
            smaller.
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
    reference: str
    best_friction: float
    best_rate: float
    safe_friction: float
    safe_rate: float

    def __str__(self) -> str:
        if self.issued:
            moving = self.form == "moving"
            begin = self.ts[np.argmax(np.isfinite(self.bound))]
            power = f"like t^-{self.rate:.4g} from t = {begin:.4g} on"
            how = power if moving else f"at rate {self.rate:.4g}"
            better = (
                f"; a heavy ball at b = {self.best_friction:.4g} whose kernel moved so would have "
                f"{self.best_rate:.4g}"
            )
            return (
                f"certified ({self.form} form): L decays {how} (lambda0 = {self.lam0:.4g}, impulses"
                f" {self.impulses:.3g}, reference {self.reference})"
                + (better if self.best_rate > self.rate else "")
            )
        return f"not certified: {self.missing}"


@no_type_check
def certify(
    trajectory: Trajectory,
    reference: Literal["best", "infinite", "initial", "mean"] | Float[ArrayLike, "n n"] = "best",
    *,
    progress: OnProgress | bool | None = None,
) -> Certificate:
    """Decide whether a repaired Theorem 1, 2 or 3 applies to a run, and which rate it certifies.

        sqrt V(t) <= e^{-int rho / 2} sqrt V(0) + sum_j e^{-int_{t_j}^t rho / 2} |iota_j| / sqrt 2

    for a quadratic form V of (Delta, Delta') that bounds L, with the kernel's own path in rho and
    the kinks' impulses iota_j, along (2.5) or (3.5). Any model on the squared loss, under the
    gradient flow or the heavy ball. With momentum, all but a two-layer ReLU net whose hidden layer
    is trained take `solver=nm.RungeKutta()` and steps that resolve their fast modes, or what is
    left over of (3.5) is mostly the steps' own error. Nesterov's (4.3), of that net alone, is
    certified by a power of 1/t from an early saved time on. Save densely where the kernel moves,
    which is early: ts = T np.linspace(0, 1, 241) ** 2 does it.

    Args:
        trajectory: A run made with readouts=nm.judge.CERTIFICATE_READOUTS.
        reference: The kernel H_ref behind the forms: "infinite" (H infinity), "initial" (H(0)),
            "mean" (that of H(t) over the run), "best" (the one of these that certifies most), or
            any positive definite matrix, (n, n). Nesterov's follows the kernel: leave it out.
        progress: Called as progress(references done, references tried); True for a bar.

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
    if not isinstance(trajectory, Trajectory):
        raise InputError(
            f"trajectory must be a run of nm.simulate, got {described(trajectory)}; try nm.certify("
            "nm.simulate(..., readouts=nm.judge.CERTIFICATE_READOUTS))."
        )
    told = check_progress(progress, "certify") or (lambda done, total: None)
    given = not (isinstance(reference, str) and reference == "best")
    ways = [partial(_certify, trajectory, name) for name in ([reference] if given else REFERENCES)]
    if not given:
        _check(trajectory)
        if (d := _nesterov(trajectory)) is not None:
            ways = [partial(_following, trajectory, d)]
    found, refused = [], None
    for k, way in enumerate(ways):
        told(k, len(ways))
        try:
            found.append(way())
        except InputError as error:
            refused = error
    told(len(ways), len(ways))
    if not found and refused is not None:
        raise refused
    return max(found, key=lambda one: (one.issued, one.rate if one.issued else _share(one)))


def _share(certificate: Certificate) -> float:
    return max(certificate.shares.values())


def _certify(trajectory: Trajectory, reference: Any) -> Certificate:
    run = _observed(trajectory, reference)
    still = bool(np.isnan(run.b))  # the gradient flow has no momentum
    forms, epsilon = forms_of(run)
    # The simple form's condition on sup ||H(t) - H_ref||: lambda_0 / 2 as in Theorem 1, or
    # b sqrt(lambda_0 - b^2/4), below which `moving_kernel_rate` is positive.
    allowed = run.lam0 / 2 if still else float(bounds.allowed_drift(run.b, run.lam0))
    # A form is of use where its bound falls below L(0) = |Delta(0)|^2 / 2 by the end.
    initial = 0.5 * run.errors[0] @ run.errors[0]
    found = {name: form.bound(run.ts, 1.0) for name, form in forms.items()}
    rates: dict[str, float] = {name: rate for name, (_, rate) in found.items()}
    shares = shares_of(run, forms, initial)
    shares["simple"] = min(shares["simple"], allowed / run.drift if run.drift else np.inf)
    width = getattr(trajectory.model, "width", 0)
    useful = [name for name, (curve, rate) in found.items() if rate > 0 and curve[-1] < initial]
    useful = [name for name in useful if name != "simple" or run.drift <= allowed]
    best = max(useful, key=lambda name: rates[name], default=None)
    sharp = forms["spectral" if still else "lifted"]
    # The mean rates by the saved kernels alone, and with what H may do between two saves.
    certain, kept = mean(sharp.certain, run.ts), mean(sharp.local, run.ts)
    friction, best_rate = friction_for(run)
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
        impulses=float(run.kicks.sum()),
        gap=float((certain - kept) / abs(certain)) if certain else np.inf,
        rates=rates,
        shares=shares,
        widths=_widths(shares, width),
        reference=reference if isinstance(reference, str) else "given",
        best_friction=friction,
        best_rate=best_rate,
        **_safe(run),
    )


def _safe(run: Motion) -> dict[str, float]:
    """By lambda_min and lambda_max over the whole run: by Weyl each moves by at most the kernel's
    path."""
    low = max(float(between(run.extremes[:, 0], run.lengths).min()), 0.0)
    high = float(between(run.extremes[:, 1], -run.lengths).max())
    return {
        "safe_friction": float(bounds.safe_friction(low, high)),
        "safe_rate": float(bounds.safe_rate(low, high)),
    }


def _nesterov(trajectory: Trajectory) -> float | None:
    """d, where the run's friction is d/t."""
    if "friction" not in trajectory.readouts:
        return None
    ts, friction = (np.asarray(x, np.float64) for x in (trajectory.ts, trajectory["friction"]))
    ts, friction = ts[ts > 0], friction[ts > 0]
    times = ts * friction
    falls = times.size > 1 and bool(np.isfinite(times).all()) and np.ptp(friction) > 0
    return float(times[0]) if falls and np.ptp(times) < 1e-6 * abs(times[0]) else None


def _following(trajectory: Trajectory, d: float) -> Certificate:
    run = _seen(trajectory, np.asarray(trajectory["kernel"], np.float64)[0])
    lowest = float(run.extremes[:, 0].min())
    found = nesterov_form(run, d)
    bound, epsilon = np.full(run.ts.shape, np.inf), np.full(run.ts.shape, np.nan)
    issued, rate, share, gap = False, -np.inf, 0.0, np.inf
    missing = (
        f"no saved time but the last has t^2 lambda_min(H) > d (d - 2)/4, and lambda_min(H) is "
        f"{lowest:.3g} at least; save more densely, and to later times"
    )
    if found is not None:
        form, first, epsilon[first:] = found
        ts = run.ts[first:]
        bound[first:], rate = form.bound(ts, 1.0)
        initial = 0.5 * run.errors[first] @ run.errors[first]
        issued = bool(rate > 0 and bound[-1] < initial)
        share = largest_share(form, ts, initial)
        certain = form.exponent(form.certain, ts)
        gap = float((certain - rate) / abs(certain))
        missing = (
            f"from t = {ts[0]:.3g} the power is {rate:.3g} of {d:g}, the bound ends at "
            f"{bound[-1]:.3g} against {initial:.3g} there; it would be {certain:.3g} if nothing "
            "happened between saves, so save more densely; kernel and impulses may move by "
            f"{share:.2g} of what they did"
        )
    width = getattr(trajectory.model, "width", 0)
    return Certificate(
        issued=issued,
        form="moving" if issued else None,
        rate=rate,
        ts=run.ts,
        bound=bound if issued else np.full_like(bound, np.inf),
        missing="" if issued else f"{missing}.",
        epsilon=epsilon,
        drift=run.drift,
        lam0=lowest,
        impulses=float(run.kicks.sum()),
        gap=gap,
        rates={"moving": rate},
        shares={"moving": share},
        widths=_widths({"moving": share}, width),
        reference="moving",
        best_friction=np.nan,
        best_rate=np.nan,
        **_safe(run),
    )


def _check(trajectory: Trajectory) -> None:
    lacking = [name for name in CERTIFICATE_READOUTS if name not in trajectory.readouts]
    if lacking:
        raise InputError(
            f"this run lacks the read-outs {lacking}; make it anew by nm.simulate(..., "
            "readouts=nm.judge.CERTIFICATE_READOUTS)."
        )
    if not trajectory.ok:
        raise InputError(f"a failed run cannot be certified: {trajectory.reason}.")
    if len(trajectory.ts) < 2:
        raise InputError(
            "a certificate needs a run with two saved times or more, between which it bounds the "
            f"loss, got one; save more often, such as at ts = [0, {float(trajectory.ts[0]) or 1}]."
        )


def _observed(trajectory: Trajectory, reference: Any) -> Motion:
    """The run against a fixed reference."""
    _check(trajectory)
    friction = np.asarray(trajectory["friction"], np.float64)
    if np.isinf(friction[0]) or np.ptp(friction) > 1e-6 * friction[0]:
        raise InputError(
            "on a fixed reference certificates are for constant friction (the heavy ball), and the "
            "friction of this run varies; leave reference= out, which follows the kernel of a "
            "Nesterov run."
        )
    H, ts = (np.asarray(x, np.float64) for x in (trajectory["kernel"], trajectory.ts))
    run = _seen(trajectory, _choose(reference, trajectory, H, ts), float(friction[0]))
    if not run.lam0 > 0:
        raise InputError(
            "the reference kernel must be positive definite, its smallest eigenvalue "
            f"is {run.lam0:.3g}."
        )
    return run


def _seen(trajectory: Trajectory, H_ref: np.ndarray, friction: float = np.nan) -> Motion:
    read = {name: np.asarray(trajectory[name], np.float64) for name in CERTIFICATE_READOUTS}
    ts, H = np.asarray(trajectory.ts, np.float64), read["kernel"]
    path = read["kernel_path"]

    def ends(A: np.ndarray) -> np.ndarray:
        return np.linalg.eigvalsh(A)[[0, -1]]

    return Motion(
        ts,
        H,
        np.array([ends(one) for one in H]),
        *np.linalg.eigh(H_ref),
        np.array([np.abs(ends(one - H_ref)).max() for one in H]),
        np.array([nonnegative_norm(after - before) for before, after in pairwise(path)]),
        friction,
        read["residual"].reshape(len(ts), -1),
        read["velocity"].reshape(len(ts), -1),
        np.diff(read["impulses"]),
        np.diff(read["impulse_spread"], axis=0),
    )


def _choose(reference: Any, trajectory: Trajectory, H: np.ndarray, ts: np.ndarray) -> np.ndarray:
    if isinstance(reference, str):
        if reference == "initial":
            return H[0]
        if reference == "mean":
            return np.trapezoid(H, ts, axis=0) / (ts[-1] - ts[0])
        if reference != "infinite":
            raise unknown_name("reference", reference, ("best", *REFERENCES))
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


def _widths(shares: dict[str, float], width: int) -> dict[str, float]:
    """The width that each form would take, where the model has one.

    H's motion and the impulses fall like m^{-1/2}, so a form that holds for a share s of what they
    were at width m takes them s times smaller, which is the width m / s^2.
    """
    return (
        {name: width / share**2 if share else np.inf for name, share in shares.items()}
        if width
        else {}
    )


def _missing(
    run: Motion,
    rates: dict[str, float],
    shares: dict[str, float],
    allowed: float,
    certain: float,
    epsilon: np.ndarray,
    width: int,
) -> str:
    parts = [f"sup ||H(t) - H_ref|| = {run.drift:.3g} against {allowed:.3g} allowed"]
    if "relative" in rates:
        parts.append(f"mean eps = {np.mean(epsilon):.3g} against b = {run.b:.3g}")
    parts.append(f"best mean rate {max(rates.values()):.3g}, impulses {run.kicks.sum():.3g}")
    if rates["spectral" if np.isnan(run.b) else "lifted"] < 0.7 * certain:
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

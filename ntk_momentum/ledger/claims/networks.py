"""The main results on networks: does momentum find the global minimum, and Theorem 3 with a kernel
that moves."""

from __future__ import annotations

import dataclasses

import numpy as np

from ...method import Nesterov
from ...theory.crossings import Crossings
from ...theory.lyapunov import reference_energy, reference_rate
from ..check import Forms, claim, every
from ..drawing import against, drawing, line, panel, points, theory
from .fits import APART, agrees, slope
from .modes import amplitude
from .setting import Setting

FRICTIONS = (0.5, 1.0, 3.0, 6.0)
UNTIL = 60.0
"""End of the Nesterov runs in units of 1/sqrt(lambda0). Chosen: nine turns of the slowest mode."""
COUNTED = 0.25
"""Tails are read from this share of a run on: the crossings are over by then."""


@dataclasses.dataclass(frozen=True)
class Tail:
    """A Nesterov run on a network: exponent of its visible energy L + Delta'.H^{-1} Delta'/2, and
    of the total one, L + |w'|^2/2; the share of the latter that is hidden, at the median; the
    distance of t^d times L + Delta'.H_inf^{-1} Delta'/2, mode by mode, from the frozen kernel's
    limit, relative; ||H(t) - H(0)|| at `COUNTED` and at the end; L(end)/L(0); the latter envelope
    over the limit t^{-d}."""

    exponent: float
    total: float
    hidden: float
    gap: float
    drift: tuple[float, float]
    left: float
    times: np.ndarray
    envelope: np.ndarray


def _power(ts: np.ndarray, energy: np.ndarray) -> float:
    return float(np.polyfit(np.log(ts), np.log(energy), 1)[0])


def _tails(setting: Setting) -> dict[tuple[float, int], list[Tail]]:
    """By friction d and width, a run for every seed."""
    values, vectors = np.linalg.eigh(setting.points_kernel)
    inverse = 1 / values
    until = UNTIL / np.sqrt(setting.points_lam0)
    found: dict[tuple[float, int], list[Tail]] = {}
    for d in FRICTIONS:
        for width in setting.sizes.widths:
            for seed in range(setting.sizes.seeds):
                run = setting.run(Nesterov(d), until, width, seed)
                ts, D, V = (np.asarray(v) for v in (run.ts, run.residual, run.velocity))
                modes = 0.5 * (D @ vectors) ** 2 + 0.5 * (V @ vectors) ** 2 * inverse
                envelope = modes.sum(axis=1)
                late = ts >= COUNTED * until
                kernel = np.asarray(run.kernel)
                pushed = np.linalg.solve(kernel, V[..., None])[..., 0]
                visible = np.asarray(run.loss) + 0.5 * np.sum(V * pushed, axis=1)
                total = np.asarray(run.loss) + np.asarray(run.kinetic)
                frozen = amplitude(d) * 0.5 * (vectors.T @ D[0]) ** 2 * values ** (-d / 2)
                reached = np.median(ts[late, None] ** d * modes[late], axis=0)
                drift = np.linalg.norm(kernel - kernel[0], 2, axis=(1, 2))
                found.setdefault((d, width), []).append(
                    Tail(
                        -_power(ts[late], visible[late]),
                        -_power(ts[late], total[late]),
                        float(np.median(1 - visible[late] / total[late])),
                        float(np.abs(reached - frozen).sum() / frozen.sum()),
                        (float(drift[late][0]), float(drift[-1])),
                        float(run.loss[-1] / run.loss[0]),
                        ts,
                        ts**d * envelope / frozen.sum(),
                    )
                )
    return found


@claim(
    "thm-3-network",
    section="4",
    kind="rate",
    fault="proof gap",
    under="network",
    theorem="Theorems 12 and 14, Proposition 15",
    experiment="three_flows",
    note=r"""Lemma 8 applies a theorem on a fixed convex function to a kernel that moves, and
    $\lambda_{\min}$ alone cannot suffice there (lemma-8). On networks the law holds, with the
    exponent $d$ of a constant kernel, not $2d/3$: the envelope $t^d (L + \dot\Delta\cdot H^{-1}
    \dot\Delta/2)$ tends to a constant, $\kappa_d \sum c_k^2 \lambda_k^{-d/2}/2$ for a frozen
    kernel, from which the network's departs with its kernel, like $m^{-1/2}$. For $d
    > 2$ the speed of the weights, $\sim t^{-d/2}$, has a finite integral, so crossings become
    rare. For $d < 2$ they go on until the amplitude is below the distance of the last kink, and
    each moves energy into motion of the weights that no output sees, which friction takes twice
    as fast: until then the loss falls faster than $t^{-d}$, at most like $t^{-2d}$. No neuron
    slides: its velocity does not jump.""",
)
def thm_3_network(setting: Setting) -> Forms:
    tails = setting.once("tails", lambda: _tails(setting))
    exponents = {
        f"d = {d:g}, m = {width}": (d, runs, [tail.exponent for tail in runs])
        for (d, width), runs in tails.items()
    }
    found = {name: values for name, (_, _, values) in exponents.items()}
    moved = max(
        abs(tail.drift[1] - tail.drift[0]) / tail.drift[0]
        for (d, _), runs in tails.items()
        for tail in runs
        if d > 2
    )

    def along(d: float, quantity: str) -> tuple[np.ndarray, np.ndarray]:
        pairs = [
            (width, getattr(tail, quantity))
            for (e, width), runs in tails.items()
            for tail in runs
            if e == d
        ]
        return np.array([w for w, _ in pairs], float), np.array([v for _, v in pairs])

    gaps = {d: along(d, "gap") for d in FRICTIONS}
    hidden = {d: along(d, "hidden") for d in FRICTIONS if d < 2}
    # one power of m for every d, each with a factor of its own
    level = [gap / np.exp(np.mean(np.log(gap))) for _, gap in gaps.values()]
    common = slope(np.concatenate([at for at, _ in gaps.values()]), np.concatenate(level))
    slopes = {f"hidden energy, d = {d:g}": slope(*share) for d, share in hidden.items()}
    widest = setting.wide
    shown = {width: tails[6.0, width][0] for width in (setting.sizes.widths[0], widest)}
    ds = ", ".join(f"{d:g}" for d in FRICTIONS)
    instance = (
        f"{setting.on_points}; Nesterov's flow, d = {ds}, to t = {UNTIL:g}/sqrt(lambda0), "
        f"widths {setting.sizes.widths[0]}..{widest}, {setting.sizes.seeds} seeds each"
    )
    return (
        every(
            "on a wide network $L(t) = O(t^{-2d/3})$",
            instance,
            {name: min(values) > 2 * d / 3 for name, (d, _, values) in exponents.items()},
            exponents=found,
        ),
        every(
            "the exponent is $d$ for $d > 2$, at every width and seed, and the kernel comes to "
            "rest; for $d < 2$ it lies between $d$ and $2d$ while neurons cross",
            f"{instance}; the last three quarters of each run",
            {
                **{
                    name: all(abs(p - d) < 0.1 for p in values)
                    for name, (d, _, values) in exponents.items()
                    if d > 2
                },
                **{
                    name: all(d - 0.02 < p < 2 * d for p in values)
                    and all(d - 0.02 < tail.total < 2 * d for tail in runs)
                    for name, (d, runs, values) in exponents.items()
                    if d < 2
                },
                "||H(t) - H(0)|| changes by less than a tenth for d > 2": moved < 0.1,
            },
            0.1,
            exponents=found,
            of_the_total_energy={
                name: [tail.total for tail in runs] for name, (_, runs, _) in exponents.items()
            },
            largest_relative_change_of_drift=moved,
        ),
        every(
            "$t^d$ times the envelope of $L$, mode by mode, tends to the frozen kernel's "
            r"$\kappa_d c_k^2 \lambda_k^{-d/2}/2$, from which it is $\sim m^{-1/2}$ away, and for "
            "$d < 2$ the hidden share of the energy to zero",
            f"{instance}; slopes in m, with their 95% intervals",
            {
                "the distance falls like m^{-1/2}": agrees(common, -0.5),
                **{f"it falls, {name}": fall + half < 0 for name, (fall, half) in slopes.items()},
            },
            APART,
            slope_and_half_width_of_the_distance=list(common),
            slope_and_half_width={name: list(fit) for name, fit in slopes.items()},
            distance_at_the_largest_width={
                f"d = {d:g}": [tail.gap for tail in tails[d, widest]] for d in FRICTIONS
            },
        ),
        drawing(
            "Nesterov's flow on networks. Left: $t^d$ times the envelope of the loss over its "
            "limit for the frozen kernel, $d = 6$. Middle: the late distance from that limit, "
            "against the width. Right: the share of the energy in motion that no output sees.",
            panel(
                "t",
                "t^d envelope / frozen limit",
                *(
                    line(tail.times[1:], tail.envelope[1:], f"m = {width}")
                    for width, tail in shown.items()
                ),
                theory([0.0, shown[widest].times[-1]], [1.0, 1.0], "frozen kernel"),
            ),
            against(
                "width m",
                "distance",
                {f"d = {d:g}": (*gap, -0.5) for d, gap in gaps.items() if d > 2},
            ),
            panel(
                "width m",
                "hidden share",
                *(points(*share, f"d = {d:g}") for d, share in hidden.items()),
                log="xy",
            ),
        ),
    )


def _certified(run: Crossings) -> tuple[np.ndarray, float]:
    """(bound of L at the run's times, smallest rate) by Lemma 2 with the reference H(0), beta =
    b/2: ||E S^{-1/2}|| <= ||H(t) - H(0)|| / sqrt(lambda_min(H(0)) - alpha^2), impulses with their
    decay."""
    alpha = run.friction / 2
    gap = float(np.linalg.eigvalsh(run.kernel_start)[0]) - alpha**2
    if gap <= 0:
        return np.full(run.times.shape, np.inf), -np.inf
    rate = reference_rate(run.friction, alpha, run.drift / np.sqrt(gap))
    step = np.diff(run.times)
    jumps = np.zeros(len(step))
    jumps[step == 0] = np.abs(run.impulse) / np.sqrt(2)
    start = reference_energy(
        run.residual[0], run.velocity[0], run.kernel_start, run.friction, alpha
    )
    root = [float(np.sqrt(start))]
    for r, s, j in zip(rate[:-1], step, jumps, strict=True):
        root.append(root[-1] * np.exp(-r * s / 2) + j)
    return np.array(root) ** 2 / gap, float(rate.min())


@claim(
    "abstract-global-minimum",
    section="1",
    kind="bound",
    fault="proof gap",
    under="network, as certified",
    theorem="Lemma 2, Proposition 16",
    experiment="three_flows",
    note=r"""'Both optimizers can provably find the global minimum': they do, on wide networks.
    The paper's proofs do not show it, since $\lambda_{\min}(H(t)) \ge \lambda_0/2$ does not
    imply decay under either flow (lemma-6, lemma-8) and the impulses are left out. For the heavy
    ball Lemma 2 with the reference $H(0)$, its impulses included, proves it of a single run
    whose drift is small enough; for Nesterov's flow Theorem 14 does where the kernel's variation
    is (`nm.certify`).""",
)
def abstract_global_minimum(setting: Setting) -> Forms:
    tails = setting.once("tails", lambda: _tails(setting))
    wide = setting.crossings[setting.wide]
    ball = max(float(run.loss[-1] / run.loss[0]) for run in wide)
    nesterov = max(tail.left for (d, _), runs in tails.items() for tail in runs if d > 2)
    rates, ratios, ends = [], [], []
    for run in wide:
        curve, rate = _certified(run)
        rates.append(rate)
        ratios.append(float(np.max(run.loss / curve)))
        ends.append(float(curve[-1] / run.loss[0]))
    run, (curve, _) = wide[0], _certified(wide[0])
    return (
        every(
            "the heavy ball and Nesterov's flow find the global minimum $L = 0$ on wide networks",
            f"{setting.on_crossings}, and Nesterov's flow of thm-3-network",
            {
                "heavy ball: L falls a hundredfold by t = 8/b": ball < 1e-2,
                "Nesterov: ten thousandfold": nesterov < 1e-4,
            },
            heavy_ball_left=ball,
            nesterov_left=nesterov,
        ),
        every(
            r"provably for the heavy ball where Lemma 2 certifies the run: $\sqrt{V} \le "
            r"e^{-\int\rho/2}\sqrt{V(0)}$ + decayed impulses, $L \le V/\lambda_{\min}(S), \rho > "
            "0$",
            f"{setting.on_points}; the runs at m = {setting.wide}, reference H(0)",
            {
                "L below the certificate": max(ratios) <= 1 + 1e-9,
                "certified rates are positive": min(rates) > 0,
            },
            1e-9,
            certified_rates=rates,
            paper_rate=float(np.sqrt(setting.points_lam0 / 2)),
            largest_loss_over_certificate=max(ratios),
            certificate_at_the_end=ends,
        ),
        drawing(
            "The loss of a network under the heavy ball, and what Lemma 2 certifies of this run.",
            panel(
                "t",
                "L(t)",
                line(run.times, run.loss, f"m = {run.width}"),
                theory(run.times, curve, "certificate"),
                log="y",
            ),
        ),
    )

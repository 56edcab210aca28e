"""The main results on networks: does momentum find the global minimum, and Theorem 3 with a kernel
that moves."""

from __future__ import annotations

import dataclasses

import numpy as np

from ...method import Nesterov
from ...theory.crossings import Crossings
from ...theory.lyapunov import reference_energy, reference_rate
from ..check import Forms, claim, every
from ..drawing import against, drawing, line, panel, theory
from .fits import slope
from .modes import amplitude
from .setting import Setting

FRICTIONS = (3.0, 6.0)
UNTIL = 60.0
"""End of the Nesterov runs in units of 1/sqrt(lambda0). Chosen: nine turns of the slowest mode."""
COUNTED = 0.25
"""Tails are read from this share of a run on: the crossings are over by then."""


@dataclasses.dataclass(frozen=True)
class Tail:
    """A Nesterov run on a network: exponent of its envelope L + Delta'.H_inf^{-1} Delta'/2; the
    distance of t^d times it, mode by mode, from the frozen kernel's limit, relative; ||H(t) -
    H(0)|| at `COUNTED` and at the end; L(end)/L(0); the envelope over the limit t^{-d}."""

    exponent: float
    gap: float
    drift: tuple[float, float]
    left: float
    times: np.ndarray
    envelope: np.ndarray


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
                power = np.polyfit(np.log(ts[late]), np.log(envelope[late]), 1)[0]
                frozen = amplitude(d) * 0.5 * (vectors.T @ D[0]) ** 2 * values ** (-d / 2)
                reached = np.median(ts[late, None] ** d * modes[late], axis=0)
                kernel = np.asarray(run.kernel)
                drift = np.linalg.norm(kernel - kernel[0], 2, axis=(1, 2))
                found.setdefault((d, width), []).append(
                    Tail(
                        -float(power),
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
    theorem="Theorem 12",
    experiment="three_flows",
    note=r"""Lemma 8 applies a theorem on a fixed convex function to a kernel that moves, and
    $\lambda_{\min}$ alone cannot suffice there (lemma-8). On networks the law holds, with the
    exponent $d$ of a constant kernel, not $2d/3$: the envelope $t^d (L + \dot\Delta\cdot H^{-1}
    \dot\Delta/2)$ tends to a constant, $\kappa_d \sum c_k^2 \lambda_k^{-d/2}/2$ for a frozen
    kernel, from which the network's departs with its kernel, less and less as $m$ grows. For $d
    > 2$ the speed of the weights, $\sim t^{-d/2}$, has a finite integral, so crossings become
    rare, and with them what could pump energy. No neuron slides: its velocity does not jump.""",
)
def thm_3_network(setting: Setting) -> Forms:
    tails = setting.once("tails", lambda: _tails(setting))
    exponents = {
        f"d = {d:g}, m = {width}": (d, [tail.exponent for tail in runs])
        for (d, width), runs in tails.items()
    }
    found = {name: values for name, (_, values) in exponents.items()}
    late = [tail.drift for runs in tails.values() for tail in runs]
    moved = max(abs(after - before) / before for before, after in late)
    gaps = {
        d: (
            np.array([w for (e, w), runs in tails.items() if e == d for _ in runs], float),
            np.array([tail.gap for (e, _), runs in tails.items() if e == d for tail in runs]),
        )
        for d in FRICTIONS
    }
    slopes = {f"d = {d:g}": slope(*gap) for d, gap in gaps.items()}
    widest = setting.wide
    shown = {width: tails[6.0, width][0] for width in (setting.sizes.widths[0], widest)}
    instance = (
        f"{setting.on_points}; Nesterov's flow, d = 3 and 6, to t = {UNTIL:g}/sqrt(lambda0), "
        f"widths {setting.sizes.widths[0]}..{widest}, {setting.sizes.seeds} seeds each"
    )
    return (
        every(
            "on a wide network $L(t) = O(t^{-2d/3})$",
            instance,
            {name: min(values) > 2 * d / 3 for name, (d, values) in exponents.items()},
            exponents=found,
        ),
        every(
            "the exponent is $d$, at every width and seed, and the kernel comes to rest",
            f"{instance}; the last three quarters of each run",
            {
                **{
                    name: all(abs(p - d) < 0.2 for p in values)
                    for name, (d, values) in exponents.items()
                },
                "||H(t) - H(0)|| changes by less than a tenth": moved < 0.1,
            },
            0.2,
            exponents=found,
            largest_relative_change_of_drift=moved,
        ),
        every(
            "$t^d$ times the envelope of $L$, mode by mode, tends to the frozen kernel's "
            r"$\kappa_d c_k^2 \lambda_k^{-d/2}/2$ as $m$ grows",
            f"{instance}; slope of the distance in m, with its 95% interval",
            {f"it falls, {name}": fall + half < 0 for name, (fall, half) in slopes.items()},
            0.05,
            slope_and_half_width={name: list(fit) for name, fit in slopes.items()},
            distance_at_the_largest_width={
                f"d = {d:g}": [tail.gap for tail in tails[d, widest]] for d in FRICTIONS
            },
        ),
        drawing(
            "Nesterov's flow on networks. Left: $t^d$ times the envelope of the loss over its "
            "limit for the frozen kernel, $d = 6$. Right: the late distance from that limit, "
            "against the width.",
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
                {f"d = {d:g}": (*gap, -0.5) for d, gap in gaps.items()},
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
    theorem="Theorem 3",
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
    nesterov = max(tail.left for (_, width), runs in tails.items() for tail in runs)
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

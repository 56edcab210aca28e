"""Section 2: lazy training, Theorem 1, and the step from flows to discrete methods."""

from __future__ import annotations

import numpy as np

from ...method import GradientFlow, HeavyBall
from ...theory import bounds
from ..check import Forms, attained, bound, claim, every, rarely, within
from ..drawing import against, by_name, drawing, line, panel, theory
from .fits import APART, agrees, growth, slope, while_bounded
from .modes import frozen, radius
from .pairs import pair_eigenvalues, pair_lambda_min
from .setting import Setting


@claim(
    "remark-lazy-training",
    section="2",
    kind="rate",
    under="network",
    experiment="lazy_training",
    note=r"""The printed chain should begin with $H^\infty$. Each entry of $H(0)$ is a mean of
    $m$ independent terms: $\|H(0) - H^\infty\| \sim m^{-1/2}$. Each neuron feels a force
    $O(m^{-1/2})$: displacement $\sim m^{-1/2}$; so $O(m^{1/2})$ pairs change sign, each moves
    $H$ by $O(1/m)$: $\|H(t) - H(0)\| = O(m^{-1/2})$. Were as many pairs to switch on as off,
    their signs would average to $m^{-3/4}$; but only an active neuron feels its own sample, so
    switching off prevails by a fixed share and $-1/2$ is the limit. With many samples the share
    is small, and moderate widths may show $-3/4$, or faster still where a neuron switches several
    pairs at once, fewer in a wider network (lazy_training). Against the lazy twin, $O(m^{1/2})$
    neurons whose pattern changed part by $O(m^{-1/2})$ each, so $\|W - W_{\rm lazy}\| \sim
    m^{-1/4}$, while $\|W_{\rm lazy} - W(0)\| = O(1)$.""",
)
def remark_lazy_training(setting: Setting) -> Forms:
    widths, moved = setting.along_widths(lambda run: run.displaced.max())
    _, drift = setting.along_widths(lambda run: run.drift.max())
    _, pairs = setting.along_widths(lambda run: run.pairs)
    start_widths, start = setting.initial_distances
    _, left = setting.along_widths(lambda run: run.loss[-1] / run.loss[0])
    slopes = {
        name: slope(widths, values)
        for name, values in (
            ("displacement of neurons", moved),
            ("||H(t)-H(0)||", drift),
            ("pairs that cross", pairs),
        )
    }
    _, off = setting.along_widths(lambda run: -run.switch.sum() / run.switch.size)
    slopes["||H(0)-H_inf||"] = slope(start_widths, start)
    _, gap = setting.along_widths(lambda run: run.twin_gap)
    _, parting = setting.along_widths(lambda run: run.parting)
    slopes |= {
        "Delta against its frozen-kernel twin": slope(widths, gap),
        "||W-W_lazy|| / ||W_lazy-W(0)||": slope(widths, parting),
    }
    narrow, wide = widths == widths.min(), widths == widths.max()
    before, after = (
        start[start_widths == w].mean() for w in (start_widths.min(), start_widths.max())
    )
    expected = {
        "displacement of neurons": -0.5,
        "||H(0)-H_inf||": -0.5,
        "||H(t)-H(0)||": -0.5,
        "pairs that cross": 0.5,
        "Delta against its frozen-kernel twin": -0.5,
        "||W-W_lazy|| / ||W_lazy-W(0)||": -0.25,
    }
    return (
        every(
            r"$W(t)$ stays near $W(0)$ and $H^\infty\sim H(0) \sim H(t)$ while the loss changes "
            "largely",
            setting.on_crossings,
            {
                "displacement falls with m": moved[wide].mean() < moved[narrow].mean(),
                "drift falls with m": drift[wide].mean() < drift[narrow].mean(),
                "||H(0)-H_inf|| falls with m": after < before,
                "loss falls tenfold": left.max() < 0.1,
            },
            largest_final_loss=left.max(),
        ),
        every(
            r"slopes in $m$, in the limit: $-1/2$ for displacement, $\|H(0)-H^\infty\|, "
            r"\|H(t)-H(0)\|$ and $\Delta$ against its frozen-kernel twin, $-1/4$ for "
            r"$\|W-W_{\rm lazy}\|, +1/2$ for the pairs that cross; every "
            "95% interval excludes the powers a quarter away",
            setting.on_crossings,
            {name: agrees(slopes[name], value) for name, value in expected.items()},
            APART,
            slopes={
                name: {"slope": s, "95% half width": h, "expected": expected[name]}
                for name, (s, h) in slopes.items()
            },
            surplus_of_switching_off={
                "share of crossings": float(off.mean()),
                "95% half width": float(1.96 * off.std(ddof=1) / np.sqrt(off.size)),
            },
        ),
        drawing(
            "Against the width, one point a run: distances of the weights, the kernel "
            "and the error from their lazy twins; "
            "pairs that cross.",
            against(
                "width m",
                "distance",
                {
                    "displacement": (widths, moved, -0.5),
                    "Delta, frozen-kernel twin": (widths, gap, -0.5),
                    "W, lazy twin": (widths, parting, -0.25),
                },
            ),
            against(
                "width m",
                "kernels",
                {
                    "||H(0)-H_inf||": (*_thinned(start_widths, start), -0.5),
                    "||H(t)-H(0)||": (widths, drift, -0.5),
                },
            ),
            against("width m", "pairs", {"pairs that cross": (widths, pairs, 0.5)}),
        ),
    )


def _thinned(widths: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One draw in ten: enough points to see."""
    return widths[::10], values[::10]


def _width_needed(
    theta: float, lam0: float, delta: float, trials: int, rng: np.random.Generator
) -> float:
    """The width at which lambda_min(H(0)) <= lambda0/2 has probability delta, two inputs at angle
    theta: bisection in log m, to a thousandth."""
    low, high = 0.0, float(np.log(1e3 / lam0))
    while high - low > 1e-3:
        middle = (low + high) / 2
        failed = np.mean(pair_lambda_min(theta, float(np.exp(middle)), trials, rng) <= lam0 / 2)
        low, high = (middle, high) if failed > delta else (low, middle)
    return float(np.exp(high))


@claim(
    "thm-1",
    section="2",
    kind="probability",
    fault="hypothesis",
    under="network",
    experiment="three_flows",
    note=r"""The width $n^6/\delta^3$ does not see $\lambda_0$, so it cannot keep
    $\lambda_{\min}(H) > \lambda_0/2$ when $\lambda_0 \to 0$. Two inputs at angle $\theta$:
    $\lambda_0 \sim \theta/(2 \pi)$, but with $m \theta/\pi \ll 1$ no neuron tells them apart and
    $\lambda_{\min}(H(0)) \sim \theta^2/4$. About $m \theta/\pi$ neurons tell them apart, so the
    width at which the failure probability is $\delta$ grows like $1/\lambda_0$, no faster and no
    more slowly: some power of $\lambda_0$ is needed, and $n^6/(\lambda_0^4 \delta^3)$ of Du et
    al. is enough. Given $\lambda_{\min}(H(t)) \ge \lambda_0/2, L' = -\Delta\cdot H \Delta\le
    -\lambda_0 L$ gives (2.7).""",
)
def thm_1(setting: Setting) -> Forms:
    rng, delta = setting.rng(2), 0.1
    printed, trials = {}, setting.sizes.trials
    needed: dict[str, float] = {}
    for theta in (1e-1, 1e-3, 1e-6, 1e-9):
        lam0, _ = pair_eigenvalues(theta)
        for k in (1, 1000):
            width = bounds.width_theorem_1_printed(2, delta, k)
            printed[f"angle {theta:g}, constant {k}"] = int(
                np.sum(pair_lambda_min(theta, width, trials, rng) <= lam0 / 2)
            )
    for theta in (0.1, 1e-2, 1e-3, 1e-4):
        lam0, _ = pair_eigenvalues(theta)
        needed[f"{lam0:.6g}"] = _width_needed(theta, lam0, delta, 40 * trials, rng)
    power = growth(needed)
    enough = {
        name: float(m / bounds.width_corrected(2, delta, float(name))) for name, m in needed.items()
    }
    values, c = setting.eigen
    ts = np.linspace(0, 60 / values[0], 512)
    run = frozen(GradientFlow(), values, c, ts)
    ratio = float(np.max(run.loss / bounds.gradient_flow_sharp(ts, values[0], run.loss[0])))
    tail = -float(np.log(run.loss[-1] / run.loss[-65]) / (ts[-1] - ts[-65]))
    share = {f"printed, {k}": v / trials for k, v in printed.items()}
    return (
        rarely(
            r"at $m = \Omega(n^6/\delta^3), \lambda_{\min}(H(t)) > \lambda_0/2$ with "
            r"probability $1 - \delta$ (here $t = 0$)",
            "n = 2 inputs at angles 0.1, 1e-3, 1e-6, 1e-9; delta = 0.1; constants 1 and 1000",
            printed,
            trials,
            delta,
        ),
        every(
            r"the width at which $P(\lambda_{\min}(H(0)) \le \lambda_0/2) = \delta$ grows like "
            r"$\lambda_0^{-1}$: a power of $\lambda_0$ is needed, and $n^6/(\delta^3 "
            r"\lambda_0^4)$ is enough (for the whole path see width-thm-1)",
            f"the same family, angles 0.1 ... 1e-4, {40 * trials} draws, bisection",
            {
                "power of 1/lambda0 is 1": abs(power - 1) < 0.05,
                "enough, with the same power or more": max(enough.values()) <= 1
                and growth(enough) <= 0.05,
            },
            0.05,
            power=power,
            width_needed_by_lambda0=needed,
            over_the_corrected_width=enough,
        ),
        every(
            r"constant $H$: $L(t) \le \exp(-2 \lambda_{\min} t) L(0)$, and no larger exponent",
            setting.on_kernel,
            {
                "L below it": ratio <= 1 + 1e-9,
                "exponent attained": abs(tail / bounds.gradient_flow_rate(values[0]) - 1) < 0.02,
            },
            0.02,
            largest_ratio=ratio,
            tail_exponent=tail,
            expected=bounds.gradient_flow_rate(values[0]),
        ),
        drawing(
            r"Left: how often $\lambda_{\min}(H(0)) \le \lambda_0/2$ at the printed width, "
            r"against $\delta$. Middle: the width that is needed grows like $1/\lambda_0$. Right: "
            "constant $H$, the loss and its sharp bound.",
            by_name("failure frequency", share, delta),
            against(
                "lambda0",
                "width needed",
                {"two inputs": ([float(k) for k in needed], list(needed.values()), -1.0)},
            ),
            panel(
                "lambda_min t",
                "L(t)/L(0)",
                line(values[0] * ts, run.loss / run.loss[0], "L"),
                theory(values[0] * ts, np.exp(-2 * values[0] * ts), "exp(-2 lambda_min t)"),
                log="y",
            ),
        ),
    )


@claim(
    "eq-2.7",
    section="2",
    kind="bound",
    under="network",
    experiment="three_flows",
    note=r"""$\dot L = -\Delta\cdot H \Delta\le -2 \lambda_{\min}(H) L \le -\lambda_0 L$ while
    $\lambda_{\min}(H(t)) \ge \lambda_0/2$. For constant $H$ the exponent is $2 \lambda_{\min}$,
    so for $H = \lambda_0/2$ (2.7) is attained.""",
)
def eq_2_7(setting: Setting) -> Forms:
    run, lam0 = setting.gradient_run, setting.points_lam0
    ts, loss, lam = np.asarray(run.ts), np.asarray(run.loss), np.asarray(run.lambda_min)
    held = while_bounded(run, lam0 / 2)
    ratio = float(np.max((loss / bounds.theorem_1(ts, lam0, loss[0]))[held], initial=0.0))
    worst = frozen(GradientFlow(), [lam0 / 2], [1.0], ts)
    sharp = float(np.max(worst.loss / bounds.theorem_1(ts, lam0, worst.loss[0])))
    return (
        bound(
            r"$L(t) \le \exp(-\lambda_0 t) L(0)$ while $\lambda_{\min}(H(t)) \ge \lambda_0/2$",
            f"{setting.on_points}, gradient flow at m = {setting.wide}",
            ratio,
            smallest_lambda_min_over_lam0=lam.min() / lam0,
            times_checked=len(ts[held]),
            final_loss_over_bound=float(loss[-1] / bounds.theorem_1(ts[-1], lam0, loss[0])),
        ),
        None,
        attained(
            r"the exponent $\lambda_0$ cannot be improved under this hypothesis",
            "one mode with H = lambda0/2",
            sharp,
            1e-9,
        ),
        drawing(
            "The loss of a network under gradient flow, and the bound (2.7).",
            panel(
                "lambda0 t",
                "L(t)/L(0)",
                line(lam0 * ts, loss / loss[0], "network"),
                theory(lam0 * ts, np.exp(-lam0 * ts), "exp(-lambda0 t)"),
                log="y",
            ),
        ),
    )


@claim(
    "remark-discrete",
    section="2",
    kind="rate",
    under="constant kernel",
    experiment="discrete_vs_flow",
    note=r"""Constant kernel, $x = \eta\lambda$. Gradient descent has the root $1 - x$, the heavy
    ball those of $z^2 - (1 + \beta - x) z + \beta$, Nesterov with constant $\beta$ those of $z^2
    - (1 + \beta)(1 - x) z + \beta(1 - x)$. Best rates over $[\mu, \kappa\mu]$: $(\kappa
    -1)/(\kappa +1), (\sqrt{\kappa} - 1)/(\sqrt{\kappa} + 1)$, and $1 - 2/\sqrt{3 \kappa + 1}$.
    At the second-order map of (3.1), $-2 \log|z|/h$ tends to $r(b)$ as $h^2$.""",
)
def remark_discrete(setting: Setting) -> Forms:
    values = setting.eigen[0]
    b, lam = bounds.paper_friction(values[0]), values[0]
    hs = 0.4 / np.sqrt(values[-1]) / 2.0 ** np.arange(5)
    wide_b = 3 * np.sqrt(lam)
    gaps = []
    for h in hs:
        method, _ = HeavyBall(wide_b).discretize(float(h))
        gaps.append(
            abs(
                -2 * np.log(radius([1, -(1 + method.beta - method.eta * lam), method.beta])) / h
                - bounds.heavy_ball_rate(wide_b, lam)
            )
        )
    order, half = slope(hs, gaps)
    kappa = 100.0
    best = {
        "gradient descent": (
            min(max(abs(1 - x), abs(1 - kappa * x)) for x in np.linspace(0.01, 0.03, 2001)),
            (kappa - 1) / (kappa + 1),
        ),
        "heavy ball": (_best_heavy_ball(kappa), (np.sqrt(kappa) - 1) / (np.sqrt(kappa) + 1)),
        "Nesterov, constant beta": (_best_nesterov(kappa), 1 - 2 / np.sqrt(3 * kappa + 1)),
    }
    return (
        within(
            (
                "the results extend to the discrete methods: the rate of the heavy ball "
                "tends to the flow's"
            ),
            f"{setting.on_kernel}, b = 3 sqrt(lambda_min)",
            gaps[-1] / bounds.heavy_ball_rate(wide_b, lam),
            0.0,
            1e-3,
            h=hs,
            b_of_paper=b,
        ),
        within(
            "at the second-order map the gap closes as $h^2$",
            "the same",
            order,
            1.8,
            2.2,
            half_width=half,
            gaps=gaps,
        ),
        every(
            r"best rates $(\kappa -1)/(\kappa +1), (\sqrt{\kappa}-1)/(\sqrt{\kappa}+1), "
            r"1-2/\sqrt{3 \kappa +1}$",
            "spectra with kappa = 100, parameters by search",
            {name: abs(found - formula) < 2e-3 for name, (found, formula) in best.items()},
            2e-3,
            found_and_formula={name: list(pair) for name, pair in best.items()},
        ),
        drawing(
            "The heavy ball's discrete rate tends to the flow's, at the second-order map.",
            against("h", "|-2 log|z|/h - r(b)|", {"gap": (hs, gaps, 2.0)}),
        ),
    )


def _best_heavy_ball(kappa: float) -> float:
    xs = np.geomspace(1, kappa, 40) / kappa

    def worst(beta: float, top: float) -> float:
        return max(radius([1, -(1 + beta - top * x), beta]) for x in (xs[0], xs[20], xs[-1]))

    return min(
        worst(beta, top) for beta in np.linspace(0.6, 0.75, 31) for top in np.linspace(3.0, 3.6, 31)
    )


def _best_nesterov(kappa: float) -> float:
    def worst(beta: float, top: float) -> float:
        return max(
            radius([1, -(1 + beta) * (1 - top * x), beta * (1 - top * x)])
            for x in (1 / kappa, 0.3, 1.0)
        )

    return min(
        worst(beta, top)
        for beta in np.linspace(0.7, 0.85, 31)
        for top in np.linspace(1.2, 1.34, 31)
    )

"""Appendix A: the Lyapunov function of the heavy ball, between kinks and across them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from ...method import HeavyBall
from ...theory import bounds
from ...theory.lyapunov import heavy_ball_energy, heavy_ball_energy_rate, sharp_energy
from ..algebra import dot, plus, scaled, symbols, times
from ..check import Forms, bound, claim, derived, every, identity, within
from ..drawing import drawing, line, panel, points, theory
from .modes import frozen, worst_modes
from .setting import Setting


@claim(
    "eq-a.5",
    section="A",
    kind="identity",
    fault="notation",
    under="constant kernel",
    note=r"""$\partial L/\partial\Delta = \Delta$, whereas (A.4) has $H \Delta = \partial\hat
    L/\partial\Delta$: the hat is missing.""",
)
def eq_a_5(setting: Setting) -> Forms:
    ts = np.linspace(0, 20, 400)
    H, b, step = 0.5, 1.0, 1e-4
    run = frozen(HeavyBall(b), [H], [1.0], ts + 2 * step)
    ahead, behind = (
        frozen(HeavyBall(b), [H], [1.0], ts + 2 * step + s).velocity[:, 0] for s in (step, -step)
    )
    rest = (ahead - behind) / (2 * step) + b * run.velocity[:, 0]
    printed, corrected = (
        float(np.abs(rest + factor * run.residual[:, 0]).max()) for factor in (1.0, H)
    )
    return (
        identity(
            r"$\ddot\Delta + \sqrt{2 \lambda_0} \dot\Delta + \partial L/\partial\Delta = 0$",
            "n = 1, H = lambda0 = 1/2, the closed form of (A.4)",
            printed,
            1e-6,
        ),
        identity(
            r"$\ddot\Delta + \sqrt{2 \lambda_0} \dot\Delta + \partial\hat L/\partial\Delta = 0$",
            "the same",
            corrected,
            1e-6,
        ),
        drawing(
            "What is left of (A.5) on the closed form of (A.4).",
            panel(
                "t",
                "left side",
                line(ts, rest + run.residual[:, 0], "with dL/dDelta"),
                line(ts, rest + H * run.residual[:, 0], "with dL^/dDelta"),
            ),
        ),
    )


@claim(
    "eq-a.6",
    section="A",
    kind="bound",
    fault="false",
    under="network",
    theorem="Lemma 2, Proposition 11",
    note=r"""Between crossings $H$ is constant and $\dot V \le -\alpha V$ if $H \ge \alpha^2$.
    Across a crossing $H$ jumps: $V$ is multiplied by at most $\rho = \max(1,
    \lambda_{\max}(H_-^{-1} H_+))$, and the impulse $\iota$ adds at most $|\iota|/\sqrt{2}$ to
    $\sqrt{V}$. So $V$ is not decreasing along the training dynamics, but $\sqrt{V_+} \le
    \sqrt{\rho} \sqrt{V_-} + |\iota|/\sqrt{2}$ is.""",
)
def eq_a_6(setting: Setting) -> Forms:
    runs = [run for group in setting.crossings.values() for run in group]
    rises = sum(int(np.sum(run.energy_after > run.energy_before * (1 + 1e-12))) for run in runs)
    largest = max(float(np.max(run.energy_after / run.energy_before)) for run in runs)
    jumps, decays = 0.0, 0.0
    for run in runs:
        allowed = np.sqrt(run.factor * run.energy_before) + np.abs(run.impulse) / np.sqrt(2)
        jumps = max(jumps, float(np.max(np.sqrt(run.energy_after) / allowed)))
        alpha = run.friction / 2
        step = np.diff(run.times)
        free = (step > 0) & (run.lambda_min[:-1] >= alpha**2)
        decays = max(
            decays,
            float(np.max((run.energy[1:] / (run.energy[:-1] * np.exp(-alpha * step)))[free])),
        )
    run = setting.crossings[setting.sizes.widths[0]][0]
    alpha, at = run.friction / 2, run.times <= 4 / run.friction
    rise = run.energy_after / run.energy_before - 1
    return (
        every(
            "$V$ always decreases along the training dynamics",
            setting.on_crossings,
            {"V rises at no crossing": rises == 0},
            rises=rises,
            largest_factor=largest,
            crossings=sum(run.moment.size for run in runs),
        ),
        every(
            r"$\dot V \le -\alpha V$ between crossings where $H \ge \alpha^2$; $\sqrt{V_+} "
            r"\le \sqrt{\rho V_-} + |\iota|/\sqrt{2}$ across",
            setting.on_crossings,
            {"between crossings": decays <= 1 + 1e-7, "across each": jumps <= 1 + 1e-9},
            1e-7,
            largest_ratio_between=decays,
            largest_ratio_across=jumps,
        ),
        drawing(
            r"Left: $V$ along a narrow network against $\exp(-\alpha t) V(0)$. Right: the "
            "relative change of $V$ at each crossing; the proof says there is none, and no rise.",
            panel(
                "t",
                "V",
                line(run.times[at], run.energy[at], f"m = {run.width}"),
                theory(
                    run.times[at],
                    run.energy[0] * np.exp(-alpha * run.times[at]),
                    "exp(-alpha t) V(0)",
                ),
                log="y",
            ),
            panel(
                "t of the crossing",
                "V_+/V_- - 1",
                points(run.moment, rise),
                theory(run.times[[0, -1]], [0.0, 0.0]),
            ),
        ),
    )


@claim(
    "eq-a.7",
    section="A",
    kind="identity",
    under="constant kernel",
    theorem="Lemma 2",
    note=r"""The chain rule, with the term of $\dot H$ kept, is right where $H$ is
    differentiable. For constant $H$, completing squares: $\dot V + \alpha V = -(\alpha/2)
    \Delta\cdot(H - \alpha^2) \Delta - (\alpha/2) |\dot\Delta|^2$. Better: $V^\sharp =
    \Delta\cdot(H - \mu) \Delta/2 + |\sqrt{\mu} \Delta + \dot\Delta|^2/2$ has $\dot V^\sharp =
    -2\sqrt\mu\,V^\sharp$ exactly at $b = 2 \sqrt{\mu}$.""",
)
def eq_a_7(setting: Setting) -> Forms:
    # Every monomial of the identities joins at most two samples, so n = 2 decides all n.
    x, y, p, q, h11, h12, h22, g11, g12, g22, s = symbols("x y p q h11 h12 h22 g11 g12 g22 s")
    D, V, H = (x, y), (p, q), ((h11, h12), (h12, h22))
    moving = dict(zip(("h11", "h12", "h22"), (g11, g12, g22), strict=True))  # H' = G
    G = ((g11, g12), (g12, g22))
    acceleration = plus(scaled(-2 * s, V), scaled(-1, times(H, D)))  # alpha = s, b = 2 s
    field = dict(zip("xypq", (*V, *acceleration), strict=True))
    u = plus(scaled(s, D), V)
    half = Fraction(1, 2)
    energy = half * dot(D, times(H, D)) + half * dot(u, u)
    chain = (
        dot(V, times(H, D)) + half * dot(D, times(G, D)) + dot(plus(scaled(s, V), acceleration), u)
    )
    squares = (
        -s * energy - half * s * (dot(D, times(H, D)) - s**2 * dot(D, D)) - half * s * dot(V, V)
    )
    sharp = energy - half * s**2 * dot(D, D)
    rng, n = setting.rng(6), 5
    A = rng.standard_normal((n, n))
    A = A @ A.T + np.eye(n)
    start, speed = rng.standard_normal((2, n))
    mu = float(np.linalg.eigvalsh(A)[0])
    alpha = np.sqrt(mu)
    written = -alpha * heavy_ball_energy(start, speed, A, alpha) - alpha / 2 * (
        start @ (A - mu * np.eye(n)) @ start + speed @ speed
    )
    program = abs(written - heavy_ball_energy_rate(start, speed, A, alpha))
    instance = "two samples, polynomials in Delta, Delta', H, H' and alpha"
    ts = np.linspace(0, 8 / alpha, 200)
    modes = frozen(HeavyBall(2 * alpha), mu * np.array([1.2, 2.0, 9.0]), 1.0, ts)
    K = np.diag(mu * np.array([1.2, 2.0, 9.0]))
    paper = [
        heavy_ball_energy(d, v, K, alpha)
        for d, v in zip(modes.residual, modes.velocity, strict=True)
    ]
    better = np.array(
        [sharp_energy(d, v, K, mu) for d, v in zip(modes.residual, modes.velocity, strict=True)]
    )
    return (
        derived(
            r"$\dot V = \dot\Delta\cdot H \Delta + \Delta\cdot \dot H \Delta/2 + "
            r"\langle\alpha\dot\Delta + \ddot\Delta, \alpha\Delta + \dot\Delta\rangle$",
            instance,
            {"chain rule": energy.along({**field, **moving}) == chain},
        ),
        derived(
            r"constant $H$: $\dot V + \alpha V = -(\alpha/2) \Delta\cdot(H - \alpha^2) \Delta - "
            r"(\alpha/2)|\dot\Delta|^2$",
            instance,
            {"as polynomials": energy.along(field) == squares, "the program's": program < 1e-9},
        ),
        derived(
            r"constant $H, b = 2 \sqrt{\mu}$: $\dot V^\sharp = -2\sqrt\mu\,V^\sharp$",
            instance,
            {
                "as polynomials": sharp.along(field) == -2 * s * sharp,
                "along three modes, by the program": np.ptp(better * np.exp(2 * alpha * ts))
                < 1e-9 * better[0],
            },
        ),
        drawing(
            r"Constant $H, b = 2 \sqrt{\mu}$, three modes: $V$ falls at least like "
            r"$\exp(-\sqrt{\mu} t)$, $V^\sharp$ exactly like $\exp(-2 \sqrt{\mu} t)$.",
            panel(
                "sqrt(mu) t",
                "energy",
                line(alpha * ts, paper, "V"),
                line(alpha * ts, better, "V#"),
                theory(alpha * ts, paper[0] * np.exp(-alpha * ts), "exp(-sqrt(mu) t)"),
                theory(alpha * ts, better[0] * np.exp(-2 * alpha * ts), "exp(-2 sqrt(mu) t)"),
                log="y",
            ),
        ),
    )


@claim(
    "remark-total-energy",
    section="A",
    kind="identity",
    fault="false",
    under="network",
    theorem="Propositions 11 and 15",
    note=r"""The total energy of $\ddot w + b\dot w + \nabla L = 0$ is $E = L + |\dot w|^2/2$,
    with $\dot E = -b|\dot w|^2$. $V$ is another function: it has another unit, and their
    quotient varies along a run. $L, w$ and $\dot w$ are continuous where a neuron crosses its
    kink, so $E$ falls through crossings too, where $V$ may rise (A.6); but $E$ alone gives no
    rate, since $|\dot w|$ vanishes at every turning point.""",
)
def remark_total_energy(setting: Setting) -> Forms:
    runs = [run for group in setting.crossings.values() for run in group]
    spread, rise, balance = np.inf, 0.0, 0.0
    for run in runs:
        E = run.loss + run.kinetic
        early = run.loss > 1e-2 * run.loss[0]
        quotient = (run.energy / E)[early]
        spread = min(spread, float(quotient.max() / quotient.min()))
        rise = max(rise, float(np.max(np.diff(E)) / E[0]))
        power = 2 * run.kinetic
        lost = run.friction * np.sum((power[1:] + power[:-1]) / 2 * np.diff(run.times))
        balance = max(balance, abs(float((E[0] - E[-1] - lost) / E[0])))
    run = setting.crossings[setting.wide][0]
    return (
        within(
            r"$V$ represents the total energy $L + |\dot w|^2/2$: their quotient is constant",
            setting.on_crossings,
            spread,
            1.0,
            1.01,
            quotient_varies_at_least_by=spread,
        ),
        every(
            r"$E = L + |\dot w|^2/2$ has $\dot E = -b|\dot w|^2$, through crossings too",
            setting.on_crossings,
            {"E never rises": rise < 1e-12, "E(0) - E(t) = b int |w'|^2": balance < 1e-3},
            1e-3,
            largest_rise=rise,
            balance=balance,
        ),
        drawing(
            "$V$ of (A.6) and the total energy along a network, each over its start.",
            panel(
                "t",
                "energy / start",
                line(run.times, run.energy / run.energy[0], "V"),
                line(run.times, (run.loss + run.kinetic) / run.loss[0], "L + |w'|^2/2"),
                log="y",
            ),
        ),
    )


@claim(
    "eq-a.8",
    section="A",
    kind="bound",
    fault="constant",
    under="constant kernel",
    theorem="Theorem 1",
    note=r"""$V(0) = \hat L(0) + (\alpha^2/2)|\Delta(0)|^2$ (not $\alpha^2/4$), and
    $\lambda_{\min}(H(0)) \ge \alpha^2$ (not $\alpha$) gives $V(0) \le 2 \hat L(0)$: a factor 2
    is lost in (A.8). With $H = \alpha^2$ the ratio $\hat L(t)/(e^{-\alpha t} \hat L(0))$ is $(1
    + s)^2 e^{-s}, s = \alpha t, 4/e$ at $s = 1$.""",
)
def eq_a_8(setting: Setting) -> Forms:
    alpha = 0.5
    ts = np.linspace(0, 40, 401)  # contains t = 1/alpha
    lams = worst_modes(alpha)
    run = frozen(HeavyBall(2 * alpha), lams, 1.0, ts)
    pseudo, start = 0.5 * lams * run.residual**2, 0.5 * lams
    printed = pseudo / bounds.pseudo_loss_printed(ts, alpha, 1.0)[:, None] / start
    corrected = pseudo / bounds.pseudo_loss_corrected(ts, alpha, 1.0)[:, None] / start
    energy = heavy_ball_energy(np.ones(1), np.zeros(1), np.array([[alpha**2]]), alpha)
    stated = 0.5 * alpha**2 + alpha**2 / 4
    s = alpha * ts[:160]
    return (
        every(
            r"$V(0) = \hat L(0) + (\alpha^2/4)|\Delta(0)|^2$ and $\hat L(t) \le e^{-\alpha t} "
            r"\hat L(0)$",
            "n = 1, H = alpha^2 = 1/4, b = 1, Delta(0) = 1",
            {"V(0)": abs(energy - stated) < 1e-12, "L^ below it": printed[:, 0].max() <= 1 + 1e-9},
            V0=energy,
            V0_printed=stated,
            largest_ratio=printed[:, 0].max(),
            at=ts[printed[:, 0].argmax()],
        ),
        bound(
            r"$V(0) = \hat L(0) + \alpha^2 L(0) \le 2 \hat L(0)$ and $\hat L(t) \le 2 e^{-\alpha "
            r"t} \hat L(0)$",
            "modes lambda >= alpha^2, constant",
            float(corrected.max()),
        ),
        every(
            "the best constant is $4/e$",
            "the same",
            {"largest ratio is 4/e": abs(printed.max() - 4 / np.e) < 1e-6},
            1e-6,
            largest_ratio=printed.max(),
            expected=4 / np.e,
        ),
        drawing(
            r"$H = \alpha^2$: the pseudo-loss over $\exp(-\alpha t) \hat L(0)$ is $(1 + s)^2 "
            r"\exp(-s), 4/e$ at $s = 1$.",
            panel(
                "s = alpha t",
                "L^(t) / (exp(-alpha t) L^(0))",
                line(s, printed[:160, 0], "H = alpha^2"),
                theory(s, (1 + s) ** 2 * np.exp(-s), "(1 + s)^2 exp(-s)"),
                theory(s, np.ones_like(s), "printed bound"),
                line(s, 2 * np.ones_like(s), "corrected bound"),
            ),
        ),
    )

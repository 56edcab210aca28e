"""Appendix A: the Lyapunov function of the heavy ball, between kinks and across them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...method import HeavyBall
from ...theory import bounds
from ...theory.lyapunov import heavy_ball_energy, heavy_ball_energy_rate, sharp_energy
from ..check import Forms, bound, claim, every, identity
from ..drawing import drawing, line, panel, points, theory
from .modes import frozen, worst_modes
from .setting import Setting


@claim(
    "eq-a.5",
    section="A",
    kind="identity",
    note="dL/dDelta = Delta, whereas (A.4) has H Delta = dL^/dDelta: the hat is missing.",
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
            "Delta'' + sqrt(2 lambda0) Delta' + dL/dDelta = 0",
            "n = 1, H = lambda0 = 1/2, the closed form of (A.4)",
            printed,
            1e-6,
        ),
        identity("Delta'' + sqrt(2 lambda0) Delta' + dL^/dDelta = 0", "the same", corrected, 1e-6),
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
    note="""Between crossings H is constant and V' <= -alpha V if H >= alpha^2. Across a crossing H
    jumps: V is multiplied by at most rho = max(1, lambda_max(H_-^{-1} H_+)), and the impulse J adds
    at most |J|/sqrt 2 to sqrt V. So V is not decreasing along the training dynamics, but sqrt V_+
    <= sqrt(rho) sqrt V_- + |J|/sqrt 2 is.""",
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
            "V always decreases along the training dynamics",
            setting.on_crossings,
            {"V rises at no crossing": rises == 0},
            rises=rises,
            largest_factor=largest,
            crossings=sum(run.moment.size for run in runs),
        ),
        every(
            (
                "V' <= -alpha V between crossings where H >= alpha^2; sqrt V_+ <= sqrt(rho "
                "V_-) + |J|/sqrt 2 across"
            ),
            setting.on_crossings,
            {"between": decays <= 1 + 1e-7, "across": jumps <= 1 + 1e-9},
            1e-7,
            largest_ratio_between=decays,
            largest_ratio_across=jumps,
        ),
        drawing(
            "Left: V along a narrow network against exp(-alpha t) V(0). Right: the "
            "relative change of V at each crossing; the "
            "proof says there is none, and no rise.",
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
    note="""The chain rule, with the term of H' kept, is right where H is differentiable. For
    constant H, completing squares: V' + alpha V = -(alpha/2) Delta.(H - alpha^2) Delta - (alpha/2)
    |Delta'|^2. Better: V# = Delta.(H - mu) Delta/2 + |sqrt(mu) Delta + Delta'|^2/2 has V#' = -2
    sqrt(mu) V# exactly at b = 2 sqrt(mu).""",
)
def eq_a_7(setting: Setting) -> Forms:
    rng, n = np.random.default_rng(6), 5
    A, B = rng.standard_normal((2, n, n))
    A, B = A @ A.T + np.eye(n), B + B.T
    D, V = rng.standard_normal((2, n))
    mu = float(np.linalg.eigvalsh(A)[0])
    alpha = np.sqrt(mu)
    acceleration = -2 * alpha * V - A @ D

    def along(
        energy: Callable, s: float
    ) -> float:  # the Taylor path through (D, V), and H(t) = A + s B
        return energy(D + s * V + s**2 / 2 * acceleration, V + s * acceleration, s)

    def derivative(energy: Callable, step: float = 1e-5) -> float:
        return (along(energy, step) - along(energy, -step)) / (2 * step)

    moving = derivative(lambda d, v, s: heavy_ball_energy(d, v, A + s * B, alpha))
    chain = V @ A @ D + 0.5 * D @ B @ D + (alpha * V + acceleration) @ (alpha * D + V)
    still = derivative(lambda d, v, s: heavy_ball_energy(d, v, A, alpha))
    squares = (
        -alpha * heavy_ball_energy(D, V, A, alpha)
        - alpha / 2 * D @ (A - mu * np.eye(n)) @ D
        - alpha / 2 * V @ V
    )
    closed = heavy_ball_energy_rate(D, V, A, alpha)
    sharp = derivative(lambda d, v, s: sharp_energy(d, v, A, mu)) + 2 * alpha * sharp_energy(
        D, V, A, mu
    )
    instance = "random H(t) = A + tB in R^{5x5}, random Delta, Delta', central differences"
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
        identity(
            (
                "V' = Delta'.H Delta + Delta.H' Delta/2 + <alpha Delta' + Delta'', alpha "
                "Delta + Delta'>"
            ),
            instance,
            abs(moving - chain),
            1e-6,
        ),
        identity(
            "constant H: V' + alpha V = -(alpha/2) Delta.(H - alpha^2) Delta - (alpha/2)|Delta'|^2",
            instance,
            max(abs(still - squares), abs(still - closed)),
            1e-6,
        ),
        identity("constant H, b = 2 sqrt(mu): V#' = -2 sqrt(mu) V#", instance, abs(sharp), 1e-6),
        drawing(
            (
                "Constant H, b = 2 sqrt(mu), three modes: V falls at least like "
                "exp(-sqrt(mu) t), V# exactly like exp(-2 sqrt(mu) t)."
            ),
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
    "eq-a.8",
    section="A",
    kind="bound",
    note="""V(0) = L^(0) + (alpha^2/2)|Delta(0)|^2 (not alpha^2/4), and lambda_min(H(0)) >= alpha^2
    (not alpha) gives V(0) <= 2 L^(0): a factor 2 is lost in (A.8). With H = alpha^2 the ratio
    L^(t)/(e^{-alpha t} L^(0)) is (1 + s)^2 e^{-s}, s = alpha t, 4/e at s = 1.""",
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
            "V(0) = L^(0) + (alpha^2/4)|Delta(0)|^2 and L^(t) <= e^{-alpha t} L^(0)",
            "n = 1, H = alpha^2 = 1/4, b = 1, Delta(0) = 1",
            {"V(0)": abs(energy - stated) < 1e-12, "bound": printed[:, 0].max() <= 1 + 1e-9},
            V0=energy,
            V0_printed=stated,
            largest_ratio=printed[:, 0].max(),
            at=ts[printed[:, 0].argmax()],
        ),
        bound(
            "V(0) = L^(0) + alpha^2 L(0) <= 2 L^(0) and L^(t) <= 2 e^{-alpha t} L^(0)",
            "modes lambda >= alpha^2, constant",
            float(corrected.max()),
        ),
        every(
            "the best constant is 4/e",
            "the same",
            {"largest ratio is 4/e": abs(printed.max() - 4 / np.e) < 1e-6},
            1e-6,
            largest_ratio=printed.max(),
            expected=4 / np.e,
        ),
        drawing(
            (
                "H = alpha^2: the pseudo-loss over exp(-alpha t) L^(0) is (1 + s)^2 "
                "exp(-s), 4/e at s = 1."
            ),
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

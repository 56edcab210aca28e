"""Section 5 and footnote 1: both layers, other activations, other losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax.numpy as jnp
import numpy as np
import scipy.integrate

from ...kernel import empirical_ntk, infinite_ntk
from ...theory import bounds
from ..check import Forms, claim, every, within
from ..drawing import against, drawing, line, panel, theory
from .fits import agrees, slope
from .setting import Setting


def momentum_path(
    net_gradient: Callable, hidden: np.ndarray, b: float, until: float, steps: int
) -> Iterator[tuple[float, np.ndarray, np.ndarray]]:
    """Classical Runge-Kutta on w'' + b w' + grad L(w) = 0 from rest; yields (t, w, v) at every
    step."""
    h, w, v = until / steps, np.array(hidden), np.zeros_like(hidden)
    field = lambda w, v: (v, -b * v - net_gradient(w))
    yield 0.0, w, v
    for k in range(steps):
        k1 = field(w, v)
        k2 = field(w + h / 2 * k1[0], v + h / 2 * k1[1])
        k3 = field(w + h / 2 * k2[0], v + h / 2 * k2[1])
        k4 = field(w + h * k3[0], v + h * k3[1])
        w = w + h / 6 * (k1[0] + 2 * k2[0] + 2 * k3[0] + k4[0])
        v = v + h / 6 * (k1[1] + 2 * k2[1] + 2 * k3[1] + k4[1])
        yield (k + 1) * h, w, v


@claim(
    "footnote-1-both-layers",
    section="2",
    kind="identity",
    under="network",
    note=r"""No later section extends the analysis; it does extend. Both layers: $H^\infty$ has
    entries $[\sin\theta + 2 (\pi - \theta) \cos\theta]/(2 \pi)$ for unit inputs, trace $n$,
    hence $\lambda_0 \le 1$. The momentum dynamics gains $2 m^{-1/2} \sum_r a_r' (\dot w_r\cdot
    x_i) \mathbb 1\{w_r\cdot x_i > 0\}$; a sum of $m$ terms of size $m^{-3/2}$ whose signs $a_r$
    cancel to leading order: $O(1/m)$.""",
)
def footnote_1(setting: Setting) -> Forms:
    X, y = np.asarray(setting.points.X).reshape(setting.points.n, -1), np.asarray(setting.points.y)
    cos = np.clip(X @ X.T, -1, 1)
    np.fill_diagonal(cos, 1.0)
    theta = np.arccos(cos)
    formula = (np.sin(theta) + 2 * (np.pi - theta) * cos) / (2 * np.pi)
    limit = np.asarray(infinite_ntk(jnp.asarray(X), trainable="all"))
    wide = np.asarray(
        empirical_ntk(setting.network(20_000, 0, False), setting.points.X, trainable="all")
    )
    b = float(np.sqrt(2 * np.linalg.eigvalsh(limit)[0]))
    widths, terms = [], []
    for width in setting.sizes.widths:
        for seed in range(setting.sizes.seeds):
            net = setting.network(width, seed)
            hidden, output = np.asarray(net.hidden), np.asarray(net.output)

            def gradient(u: np.ndarray) -> np.ndarray:
                W, a = u[:, :-1], u[:, -1]
                z = W @ X.T
                residual = (a[:, None] * np.maximum(z, 0)).sum(0) / np.sqrt(len(a)) - y
                return np.column_stack(
                    [((a[:, None] * (z > 0) * residual) @ X), np.maximum(z, 0) @ residual]
                ) / np.sqrt(len(a))

            worst = 0.0
            for _, u, v in momentum_path(gradient, np.column_stack([hidden, output]), b, 6 / b, 60):
                active = u[:, :-1] @ X.T > 0
                extra = 2 * (v[:, -1:] * (v[:, :-1] @ X.T) * active).sum(0) / np.sqrt(width)
                worst = max(worst, float(np.linalg.norm(extra)))
            widths.append(width)
            terms.append(worst)
    steepness, half = slope(widths, terms)
    run = setting.gradient_run
    left = float(run.loss[-1] / run.loss[0])
    return (
        within(
            "training only the first layer suffices to reach the global minimum of the loss",
            f"{setting.on_points}, gradient flow, m = {setting.wide}, t = 6/lambda0: L(t)/L(0)",
            left,
            0.0,
            1e-3,
        ),
        every(
            r"both layers: $H^\infty = [\sin\theta + 2 (\pi - \theta) \cos\theta]/(2 \pi)$, "
            r"trace $n$, so $\lambda_0 \le 1$",
            f"{setting.on_points}; empirical kernel at m = 20000",
            {
                "closed form": np.abs(formula - limit).max() < 1e-7,
                "trace n": abs(np.trace(limit) - len(y)) < 1e-9,
                "lambda0 <= 1": np.linalg.eigvalsh(limit)[0] <= 1 + 1e-12,
                "the empirical kernel agrees": np.abs(wide - limit).max() < 0.08,
            },
            0.08,
            empirical_error=np.abs(wide - limit).max(),
        ),
        every(
            "the extra term falls like $1/m$",
            f"{setting.on_points}, heavy ball on both layers, to t = 6/b: slope in m",
            {"slope near -1": agrees((steepness, half), -1.0)},
            0.15,
            slope=steepness,
            half_width=half,
            expected=-1.0,
        ),
        drawing(
            "Both layers trained: the extra term of the momentum dynamics against the width.",
            against("width m", "sup |extra term|", {"heavy ball": (widths, terms, -1.0)}),
        ),
    )


@claim(
    "remark-piecewise-linear",
    section="5",
    kind="rate",
    fault="false",
    under="network",
    note=r"""Maxout units are maxima of linear functions, hence convex; the clipped identity
    $\max(-1, \min(1, z))$ is piecewise linear and not convex: at 1 it is 1, above the mean $1/2$
    of its values at 0 and 2. Nor is piecewise linearity needed: for smooth $\sigma$ the term
    left out is $m^{-1/2} \sum_r a_r \sigma''(w_r\cdot x)(\dot w_r\cdot x)^2$, a sum of $m$ terms
    of size $m^{-3/2}$ whose signs $a_r$ cancel to leading order: $O(1/m)$, smaller than the
    impulses $O(m^{-1/2})$ of ReLU.""",
)
def remark_piecewise_linear(setting: Setting) -> Forms:
    clip = lambda z: np.clip(z, -1, 1)
    gap = float(clip(1.0) - 0.5 * (clip(0.0) + clip(2.0)))
    X, y = np.asarray(setting.points.X).reshape(setting.points.n, -1), np.asarray(setting.points.y)
    b = float(np.sqrt(2 * setting.points_lam0))
    widths, terms = [], []
    for width in setting.sizes.widths:
        for seed in range(2 * setting.sizes.seeds):
            rng = np.random.default_rng([setting.seed, seed, width])
            half_hidden = rng.standard_normal((width // 2, X.shape[1]))
            hidden, a = (
                np.concatenate([half_hidden, half_hidden]),
                np.repeat([1.0, -1.0], width // 2)[:, None],
            )

            def gradient(W: np.ndarray, a: np.ndarray = a, width: int = width) -> np.ndarray:
                s = np.tanh(W @ X.T)
                return (
                    (a * (1 - s * s) * ((a * s).sum(0) / np.sqrt(width) - y)) @ X / np.sqrt(width)
                )

            worst = 0.0
            for _, W, V in momentum_path(gradient, hidden, b, 6 / b, 60):
                s = np.tanh(W @ X.T)
                extra = (a * (-2 * s * (1 - s * s)) * (V @ X.T) ** 2).sum(0) / np.sqrt(width)
                worst = max(worst, float(np.linalg.norm(extra)))
            widths.append(width)
            terms.append(worst)
    steepness, half = slope(widths, terms)
    s = np.linspace(-2, 3, 101)
    return (
        every(
            "piecewise linear activations are the maxout ones (maxima of linear functions)",
            "sigma(z) = max(-1, min(1, z)) at 0, 1, 2",
            {"the clipped identity is convex": gap <= 0},
            convexity_gap=gap,
        ),
        every(
            "piecewise linearity is not needed: for tanh the term left out falls like $1/m$",
            f"{setting.on_points}, tanh, antisymmetric start, heavy ball to t = 6/b: slope in m",
            {"slope near -1": agrees((steepness, half), -1.0)},
            0.15,
            slope=steepness,
            half_width=half,
            expected=-1.0,
        ),
        drawing(
            (
                "Left: a piecewise linear activation that is not convex, and a chord below "
                "it. Right: the term left out for tanh."
            ),
            panel(
                "z",
                "sigma(z)",
                line(s, clip(s), "max(-1, min(1, z))"),
                theory([0.0, 2.0], [0.0, 1.0], "chord"),
            ),
            against("width m", "sup |term left out|", {"tanh": (widths, terms, -1.0)}),
        ),
    )


@claim(
    "remark-other-losses",
    section="5",
    kind="rate",
    fault="false",
    under="constant kernel",
    note=r"""For a loss $l(f)$ the frozen-kernel dynamics is that of the function $g(u) =
    l(H^{1/2} u)$. If $l$ is $\mu$-strongly convex, $g$ is $\mu\lambda_{\min}$-strongly convex:
    gradient flow has exponent $2 \mu\lambda_{\min}$, and $V$ of (A.6) certifies
    $\sqrt{\mu\lambda_{\min}}$ for the heavy ball at $b = 2 \sqrt{\mu\lambda_{\min}}$. The
    logistic loss is not strongly convex: $\dot L = -\lambda\sigma(-f)^2$ gives $L \sim
    1/(\lambda t)$, not linear.""",
)
def remark_other_losses(setting: Setting) -> Forms:
    H = 0.5
    logistic = scipy.integrate.solve_ivp(
        lambda t, f: H / (1 + np.exp(f)),
        (0, 4e4),
        [0.0],
        t_eval=[1e4, 2e4, 4e4],
        rtol=1e-10,
        atol=1e-12,
        method="LSODA",
    )
    losses = np.log1p(np.exp(-logistic.y[0]))
    power = float(-np.log(losses[-1] / losses[0]) / np.log(4))
    values = np.linalg.eigvalsh(setting.points_kernel)
    K, D0 = setting.points_kernel, -np.asarray(setting.points.y)
    value = lambda D: np.sum(0.5 * D**2 + 0.25 * D**4)  # 1-strongly convex in f
    slope_of = lambda D: D + D**3
    lam = values[0]
    flow = scipy.integrate.solve_ivp(
        lambda t, D: -K @ slope_of(D), (0, 8 / lam), D0, rtol=1e-10, atol=1e-13, dense_output=True
    )
    b, n = 2 * np.sqrt(lam), len(D0)
    ball = scipy.integrate.solve_ivp(
        lambda t, s: np.concatenate([s[n:], -b * s[n:] - K @ slope_of(s[:n])]),
        (0, 20 / np.sqrt(lam)),
        np.concatenate([D0, 0 * D0]),
        rtol=1e-10,
        atol=1e-13,
        dense_output=True,
    )
    ts = np.linspace(0, 1, 300)
    first = [
        value(flow.sol(8 / lam * t)) / bounds.gradient_flow_sharp(8 / lam * t, lam, value(D0))
        for t in ts
    ]
    # V(0) = g + mu |u|^2/2 <= 2 g with mu = lam, u = H^{-1/2} Delta
    second = [
        value(ball.sol(20 / np.sqrt(lam) * t)[:n])
        / (2 * np.exp(-np.sqrt(lam) * 20 / np.sqrt(lam) * t) * value(D0))
        for t in ts
    ]
    return (
        within(
            (
                "the framework of Theorem 1 extends to other losses, cross entropy among "
                "them (read: its linear rate does)"
            ),
            (
                "n = 1, H = 1/2, logistic loss, gradient flow, t from 1e4 to 4e4: exponent "
                "of 1/t (infinite if linear)"
            ),
            power,
            2.0,
            np.inf,
            losses=losses,
        ),
        every(
            r"to $\mu$-strongly convex losses: exponent $2 \mu\lambda_{\min}$, and "
            r"$\sqrt{\mu\lambda_{\min}}$ for heavy ball at $b = 2 \sqrt{\mu\lambda_{\min}}$",
            f"H_inf of {setting.on_points}, l(f) = sum (f-y)^2/2 + (f-y)^4/4",
            {"gradient flow": max(first) <= 1 + 1e-6, "heavy ball": max(second) <= 1 + 1e-6},
            1e-6,
            largest_ratios=[max(first), max(second)],
        ),
        within(
            r"logistic loss: $L \sim 1/(\lambda t)$",
            "the same",
            float(losses[-1] * H * 4e4),
            0.95,
            1.05,
        ),
        drawing(
            r"Left: the logistic loss falls like $1/(\lambda t)$. Right: a strongly convex "
            "loss over its two bounds.",
            against("t", "L(t)", {"logistic": ([1e4, 2e4, 4e4], losses, -1.0)}),
            panel(
                "t / end",
                "L / bound",
                line(ts, first, "gradient flow"),
                line(ts, second, "heavy ball"),
                theory([0.0, 1.0], [1.0, 1.0], "1"),
                log="y",
            ),
        ),
    )

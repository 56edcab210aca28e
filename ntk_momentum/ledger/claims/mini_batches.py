"""Section 2's "training with SGD": what of the analysis holds for mini-batches, and what of
momentum is left there."""

from __future__ import annotations

import warnings
from typing import Any

import jax.numpy as jnp
import numpy as np

from ...method import AbstractOptimizer, constant_nesterov, gradient_descent, heavy_ball, nesterov
from ...stochastic import critical_step, predict_stochastic
from ...stochastic.linear import linear_steps
from ...stochastic.moments import closure_moments
from ..check import Forms, claim, every, within
from ..drawing import against, drawing, line, panel, theory
from .fits import agrees, slope
from .setting import Setting

BETA = 0.9


def growth(
    kernel: np.ndarray, start: np.ndarray, optimizer: AbstractOptimizer, B: int, far: int
) -> float:
    """The factor per step of the expected loss, after so many steps and over as many again."""
    found = predict_stochastic(kernel, start, optimizer, [far, 2 * far], batch_size=B)
    return float((found.loss[1] / found.loss[0]) ** (1 / far))


def network_path(
    setting: Setting, width: int, seed: int, eta: float, beta: float, draws: np.ndarray
) -> np.ndarray:
    """Errors of a network after each step of (3.1) on batches: draws holds q_i, (steps, n)."""
    X, y = np.asarray(setting.points.X).reshape(setting.points.n, -1), np.asarray(setting.points.y)
    net = setting.network(width, seed)
    W, a = np.array(net.hidden), np.asarray(net.output)[:, None]
    last, errors = np.zeros_like(W), []
    for q in np.concatenate([draws, np.zeros((1, len(y)))]):
        z = W @ X.T
        errors.append((a * np.maximum(z, 0)).sum(0) / np.sqrt(width) - y)
        last = beta * last - eta * (a * (z > 0) * (q * errors[-1])) @ X / np.sqrt(width)
        W = W + last
    return np.array(errors)


def kernel_path(
    H: np.ndarray, start: np.ndarray, eta: float, beta: float, draws: np.ndarray
) -> np.ndarray:
    """The same steps under a constant kernel."""
    errors, last = [start], np.zeros_like(start)
    for q in draws:
        last = beta * last - eta * H @ (q * errors[-1])
        errors.append(errors[-1] + last)
    return np.array(errors)


@claim(
    "remark-sgd",
    section="2",
    kind="rate",
    fault="hypothesis",
    under="constant kernel",
    note=r"""Batches drawn afresh leave $E \Delta$ to the full batch's recursion, so that the
    analysis extends to the mean. The expected loss also has a variance, driven by
    $\tau(n\,\mathrm{diag}(A) - A)$, $A = E \Delta\Delta^T$, and converges (linearly, to zero:
    the kernel interpolates) only below a critical step that shrinks with the batch: a condition
    that the full batch does not have.""",
)
def remark_sgd(setting: Setting) -> Forms:
    H, lam = setting.kernel, setting.eigen[0]
    n = len(H)
    start = -np.asarray(setting.data.y)
    full = 0.95 * 2 / lam[-1]
    at_full = growth(H, start, gradient_descent(full), 1, 100)
    limit = critical_step(gradient_descent(full), H, batch_size=1).eta
    # at these margins the slowest mode has been outgrown after a thousand steps
    below, above = (growth(H, start, gradient_descent(c * limit), 1, 1000) for c in (0.9, 1.1))
    points, D0 = setting.points_kernel, -np.asarray(setting.points.y)
    eta = 0.2 * critical_step(heavy_ball(1.0, 0.5), points, batch_size=2).eta
    rng = np.random.default_rng(0)
    widths, gaps = [], []
    for width in setting.sizes.widths:
        for seed in range(4 * setting.sizes.seeds):  # a run costs little, and scatters much
            chosen = np.array([rng.permutation(len(D0)) < 2 for _ in range(40)])
            draws = chosen * len(D0) / 2
            gap = network_path(setting, width, seed, eta, 0.5, draws) - kernel_path(
                points, D0, eta, 0.5, draws
            )
            widths.append(width)
            gaps.append(float(np.max(np.linalg.norm(gap, axis=1)) / np.linalg.norm(D0)))
    steepness, half = slope(widths, gaps)
    return (
        within(
            "the analysis extends to training with SGD (read: a step that is stable for the full "
            "batch makes the loss converge linearly, on the mean)",
            f"{setting.on_kernel}, gradient descent at 0.95 of the full batch's limit, B = 1: "
            "factor of the expected loss per step",
            at_full,
            0.0,
            1.0,
        ),
        every(
            "the expected loss converges linearly to 0 below the critical step of the second "
            "moments, and grows above it",
            f"{setting.on_kernel}, B = 1, at 0.9 and 1.1 of that step; n = {n}",
            {"falls below": below < 1, "grows above": above > 1},
            factors=[below, above],
            critical_step_times_lambda_max=limit * lam[-1],
        ),
        every(
            "finite networks follow the same batches under the constant kernel up to order "
            "$m^{-1/2}$",
            f"{setting.on_points}, heavy ball, B = 2, 40 steps, {4 * setting.sizes.seeds} seeds of "
            "each width: sup |Delta - Delta_lin|/|Delta(0)|",
            {"slope near -1/2": agrees((steepness, half), -0.5)},
            0.15,
            slope=steepness,
            half_width=half,
            expected=-0.5,
        ),
        drawing(
            "Networks trained on mini-batches against the constant kernel on the same batches.",
            against("width m", "sup |gap|/|Delta(0)|", {"B = 2": (widths, gaps, -0.5)}),
        ),
    )


def rescaling_gap(kernel: np.ndarray, start: np.ndarray, eta: float) -> float:
    """The largest relative gap between expected losses of the heavy ball at eta and of gradient
    descent at eta/(1 - beta), B = 1, until a thousandth is left. The ball starts at rest, and lags
    by beta/(1 - beta) steps."""
    end = 300 * (1 - BETA) / (eta * np.linalg.eigvalsh(kernel)[-1])
    counts = np.unique(np.linspace(0, end, 80).astype(int))
    ball, descent = (
        np.asarray(predict_stochastic(kernel, start, method, counts, batch_size=1).loss)
        for method in (heavy_ball(eta, BETA), gradient_descent(eta / (1 - BETA)))
    )
    shifted = np.exp(np.interp(counts - BETA / (1 - BETA), counts, np.log(descent)))
    seen = (counts > 3 / (1 - BETA)) & (ball > 1e-3 * ball[0])
    return float(np.max(np.abs(ball[seen] / shifted[seen] - 1)))


@claim(
    "remark-sgd-momentum",
    section="2",
    kind="rate",
    fault="hypothesis",
    under="constant kernel",
    note=r"""For small steps $s = x (1 + \beta)/((1 - \beta)(2 (1 + \beta) - x))$ is near $x/(2
    (1 - \beta))$: the heavy ball at $\eta$ is gradient descent at $\eta/(1 - \beta)$, and
    momentum buys nothing. The critical step grows with $B$ from about $(1 - \beta)$ times
    gradient descent's to $2(1 + \beta)/\lambda_{\max}$.""",
)
def remark_sgd_momentum(setting: Setting) -> Forms:
    H, lam = setting.kernel, setting.eigen[0]
    n, start = len(H), -np.asarray(setting.data.y)
    limit = critical_step(heavy_ball(1.0, BETA), H, batch_size=1).eta
    shares = np.array([0.5, 0.1, 0.05, 0.025])
    gaps = [rescaling_gap(H, start, c * limit) for c in shares]
    # between neighbouring steps, which tends to 1 as eta does to 0
    orders = np.diff(np.log(gaps[1:])) / np.diff(np.log(shares[1:]))
    sizes = sorted({*np.unique(np.geomspace(1, n, 8).astype(int)).tolist(), n})
    balls = [critical_step(heavy_ball(1.0, BETA), H, batch_size=B) for B in sizes]
    steps = [critical_step(gradient_descent(1.0), H, batch_size=B) for B in sizes]
    limits = np.array([found.eta for found in balls])
    first = limits[0] / ((1 - BETA) * steps[0].eta)
    last = limits[-1] * lam[-1] / (2 * (1 + BETA))
    return (
        within(
            r"at batch 1 momentum only rescales the step: the heavy ball at $\eta$ is gradient "
            r"descent at $\eta/(1 - \beta)$, within 10 %",
            f"{setting.on_kernel}, beta = {BETA}, half the critical step: largest relative gap of "
            "the expected losses until a thousandth is left",
            gaps[0],
            0.0,
            0.1,
        ),
        every(
            r"the gap vanishes in proportion to $\eta$; the critical step grows with the batch "
            r"from about $(1 - \beta)$ that of gradient descent to $2(1 + \beta)/\lambda_{\max}$",
            f"{setting.on_kernel}, beta = {BETA}, from a tenth of the critical step down; B from 1 "
            "to n",
            {
                "in proportion to eta": abs(orders[-1] - 1) < 0.2,
                "ever closer": abs(orders[-1] - 1) < abs(orders[0] - 1) + 0.02,
                "the critical step grows with B": np.all(np.diff(limits) > 0),
                "small batch": 2 / 3 < first < 3 / 2,
                "full batch": abs(last - 1) < 1e-6,
            },
            0.5,
            gaps=gaps,
            orders=orders,
            small_batch_ratio=first,
            full_batch_ratio=last,
        ),
        within(
            r"the closure's limit, $\sum\tau s/(1 + \tau s) = 1$, is that of the exact recursion "
            "within 15 %",
            f"{setting.on_kernel}, beta = {BETA}, B from 1 to n: largest error",
            float(max(abs(found.error) for found in balls)),
            0.0,
            0.15,
        ),
        drawing(
            "Critical steps against the batch: in proportion to it below the critical batch, the "
            "full batch's above.",
            panel(
                "batch B",
                "critical eta, times lambda_max",
                line(sizes, [f.eta * lam[-1] for f in steps], "gradient descent"),
                line(sizes, limits * lam[-1], f"heavy ball, beta = {BETA}"),
                theory([1, n], [2 * (1 + BETA)] * 2, "2 (1 + beta)"),
                log="xy",
            ),
        ),
    )


@claim(
    "remark-sgd-nesterov",
    section="4",
    kind="rate",
    fault="false",
    under="constant kernel",
    note=r"""In the end the momentum of (4.1) is 1. A slow mode then rings at frequency
    $\sqrt{x}$ and is damped at $x/2$ only, so that $s \to 1/2$ for every mode, whatever its
    eigenvalue, and modes of different frequency do not correlate: $K \to (n \tau/2)/(1 + \tau/2)
    U^2 (U^2)^\top$, whose largest eigenvalue is 1 at $\tau(n - 1) = 2, B = n/3$, since $U^2$ is
    doubly stochastic. For smaller batches the expected loss grows in the end at every step.""",
)
def remark_sgd_nesterov(setting: Setting) -> Forms:
    H = setting.kernel
    n, start = len(H), -np.asarray(setting.data.y)
    limits = [critical_step(nesterov(1.0, 3.0), H, batch_size=B).eta for B in range(1, n + 1)]
    first = 1 + int(np.argmax(np.array(limits) > 0))
    eta = 0.1 / setting.eigen[0][-1]
    counts = np.unique(np.geomspace(1, 20_000, 60).astype(int))
    with warnings.catch_warnings():  # that it grows is what is shown
        warnings.filterwarnings("ignore", "the expected loss leaves the numbers", RuntimeWarning)
        small, large = (
            np.asarray(predict_stochastic(H, start, nesterov(eta, 3.0), counts, batch_size=B).loss)
            for B in (max(1, n // 10), max(1, n // 2))
        )
    constant = critical_step(constant_nesterov(1.0, BETA), H, batch_size=1).eta
    return (
        within(
            "the convergence of (4.1) extends to mini-batches, for small steps",
            f"{setting.on_kernel}, B = {max(1, n // 10)}, eta = 0.1/lambda_max: expected loss "
            "after 20,000 steps over its smallest",
            float(small[-1] / np.min(small)),
            0.0,
            1.0,
        ),
        every(
            "for batches above $n/3$ the expected loss converges, and a constant momentum has a "
            "stable step at every batch",
            f"{setting.on_kernel}, B = {n // 2} with k/(k + 3), B = 1 with beta = {BETA}",
            {
                "k/(k + 3) converges": large[-1] < 1e-3 * large[0],
                "a constant momentum": constant > 0,
            },
            share_left=large[-1] / large[0],
        ),
        every(
            "the smallest batch at which any step is stable is the first above $n/3$",
            f"{setting.on_kernel}, k/(k + 3), every B from 1 to n = {n}",
            {"the first above n/3": first == n // 3 + 1},
            smallest=first,
            expected=n // 3 + 1,
        ),
        drawing(
            "(4.1) on mini-batches: below $n/3$ noise wins in the end.",
            panel(
                "step k",
                "E L / L(0)",
                line(counts, small / np.sum(start**2) * 2, f"B = {max(1, n // 10)}"),
                line(counts, large / np.sum(start**2) * 2, f"B = {n // 2}"),
                log="xy",
            ),
        ),
    )


@claim(
    "remark-sgd-power-law",
    section="4",
    kind="rate",
    under="constant kernel",
    note=r"""For eigenvalues $k^{-\nu}$ and errors whose sum over $j \ge k$ of $c_j^2 \sim
    k^{-\nu\zeta}$, gradient descent's loss falls like $t^{-\zeta}$. Noise adds $\sum_j K(k - j)
    L(j)$ with $K \sim t^{-2 + 1/\nu}$, which falls faster for $\zeta < 2 - 1/\nu$ and is then
    absorbed in a constant: a constant momentum rescales time and keeps the exponent (Velikanov,
    Kuznedelev and Yarotsky 2022), on batches too.""",
)
def remark_sgd_power_law(setting: Setting) -> Forms:
    nu, zeta, B = 1.5, 0.6, 16
    n = 3000 if setting.size == "smoke" else 20_000
    lam = jnp.arange(1.0, n + 1) ** -nu
    tails = jnp.append(lam**zeta, 0.0)
    start = jnp.sqrt(tails[:-1] - tails[1:])[:, None]
    counts = np.unique(np.geomspace(1, 10_000, 40).astype(int))
    saved = jnp.asarray(counts, jnp.int32)

    def losses(method: AbstractOptimizer, tau: float) -> np.ndarray:
        steps = linear_steps(method, int(counts[-1]), lam.dtype)
        found: Any = closure_moments(steps, saved, lam, jnp.ones_like(lam), start, tau, 1, None)
        return np.asarray(jnp.sum(found.mean**2, axis=(1, 2)) + jnp.sum(found.variance, axis=1)) / 2

    noisy, quiet = (n - B) / (B * (n - 1)), 0.0
    eta = 0.3
    curves = {
        "gradient descent, full batch": losses(gradient_descent(eta), quiet),
        f"gradient descent, B = {B}": losses(gradient_descent(eta), noisy),
        f"heavy ball, B = {B}": losses(heavy_ball(eta * (1 - BETA), BETA), noisy),
    }
    late = counts >= 100
    exponents = {name: -slope(counts[late], values[late])[0] for name, values in curves.items()}
    descent, ball = (exponents[f"{name}, B = {B}"] for name in ("gradient descent", "heavy ball"))
    return (
        within(
            "SGD with a constant momentum has SGD's exponent on power laws",
            f"lambda_k = k^-{nu}, zeta = {zeta}, n = {n}, B = {B}, beta = {BETA}: difference of "
            "the exponents over steps 100 to 10,000",
            abs(ball - descent),
            0.0,
            0.03,
            exponents=exponents,
        ),
        None,
        within(
            r"and it is the full batch's, $\zeta$",
            "the same: exponent of gradient descent on batches",
            descent,
            zeta - 0.06,
            zeta + 0.06,
        ),
        drawing(
            "Power laws: noise and a constant momentum shift the curve and keep its slope.",
            panel(
                "step k",
                "E L",
                *(line(counts, values, name) for name, values in curves.items()),
                theory(counts, curves[f"heavy ball, B = {B}"][-1] * (counts / counts[-1]) ** -zeta,
                       "slope -zeta"),
                log="xy",
            ),
        ),
    )  # fmt: skip

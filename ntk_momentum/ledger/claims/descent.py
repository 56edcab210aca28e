"""Section 2: gradient descent, its flow, and what a neuron that slides along its kink does to (2.4)
and (2.5)."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ...data import Dataset
from ...kernel import empirical_ntk
from ...method import gradient_descent
from ...network.model import outputs
from ...network.two_layer import TwoLayerNet
from ..check import Forms, claim, every, identity, typed, within
from ..drawing import against, drawing, line, panel, points, theory
from .fits import agrees, slope
from .setting import Setting, predictions

# The sliding neuron. One neuron w in R^2, a = 1, two unit inputs with x_1 . x_2 = c = 0.6, y = (-1,
# 2), and w on the kink of x_1 with w . x_2 = 1. Then Delta = (1, -1): from either side the gradient
# flow pushes w back onto the kink, so it slides along it with the Filippov fraction theta = -c
# Delta_2 / Delta_1 and Delta_2 = -exp(-(1 - c^2) t).
SLIDE = (
    "one neuron on the kink of x_1: a = 1, x_1.x_2 = 0.6, y = (-1, 2), w.x_1 = 0, w.x_2 = "
    "1, so Delta = (1, -1)"
)
_C = 0.6
_GRAM = np.array([[1.0, _C], [_C, 1.0]])
_DELTA = np.array([1.0, -1.0])
_THETA = -_C * _DELTA[1] / _DELTA[0]
_TRUE_RATE = np.array([0.0, -(1 - _C**2) * _DELTA[1]])


def _slide_by_descent(eta: float, until: float) -> np.ndarray:
    """Delta(until) of plain gradient descent from the kink, in preactivations z = (w . x_1, w .
    x_2)."""
    z, y = np.array([0.0, 1.0]), np.array([-1.0, 2.0])
    for _ in range(round(until / eta)):
        active = (z >= 0).astype(float)
        z = z - eta * _GRAM @ (active * (active * z - y))
    return np.maximum(z, 0.0) - y


def _sliding_kernel(fraction: float) -> np.ndarray:
    J = np.array([fraction, 1.0])
    return _GRAM * np.outer(J, J)


def _numpy_gradient(
    hidden: np.ndarray, output: np.ndarray, X: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """dL/dw_r = (a_r / sqrt m) sum_i Delta_i x_i 1{w_r . x_i >= 0}."""
    z = hidden @ X.T
    scale = output[:, None] / np.sqrt(len(output))
    residual = (scale * np.maximum(z, 0)).sum(0) - y
    return (scale * (z >= 0) * residual[None]) @ X, residual


@claim(
    "eq-2.1",
    section="2",
    kind="definition",
    note=r"""Gradient descent with $\partial L/\partial w_r = m^{-1/2} a_r \sum_i \Delta_i x_i
    \mathbb 1\{w_r\cdot x_i \ge 0\}$. The program's optimizer is compared with this recursion,
    written out.""",
)
def eq_2_1(setting: Setting) -> Forms:
    net, eta = setting.network(64, 0), 0.1
    X, y = np.asarray(setting.points.X).reshape(setting.points.n, -1), np.asarray(setting.points.y)
    hidden = np.asarray(net.hidden)
    method, state, mine = gradient_descent(eta), (), np.array(hidden)
    error = 0.0
    for _ in range(10):
        gradient, _ = _numpy_gradient(mine, np.asarray(net.output), X, y)
        step, state = method.update(
            jnp.asarray(_numpy_gradient(hidden, np.asarray(net.output), X, y)[0]), state
        )
        hidden, mine = hidden + np.asarray(step), mine - eta * gradient
        error = max(error, float(np.abs(hidden - mine).max()))
    return (
        identity(
            r"$w_r(k+1) = w_r(k) - \eta\partial L/\partial w_r$",
            f"{setting.on_points}, m = 64, eta = 0.1, ten steps",
            error,
            1e-12,
        ),
    )


@claim(
    "eq-2.2",
    section="2",
    kind="definition",
    under="network",
    note=r"""Gradient descent is Euler's method on (2.2) with $t = k \eta$: global error of order
    1. Where a neuron meets a kink with $a_r \Delta_i > 0$ pushing it back from both sides, (2.2)
    has no classical solution; the limit of gradient descent is Filippov's solution, which
    slides: velocity $= \theta$ (right side, active) $+ (1 - \theta)$ (right side, inactive), $0
    < \theta < 1$.""",
)
def eq_2_2(setting: Setting) -> Forms:
    net = setting.network(128, 0)
    X, y = np.asarray(setting.points.X).reshape(setting.points.n, -1), np.asarray(setting.points.y)

    def descend(eta: float, until: float = 4.0) -> np.ndarray:
        hidden = np.array(net.hidden)
        for _ in range(round(until / eta)):
            hidden = hidden - eta * _numpy_gradient(hidden, np.asarray(net.output), X, y)[0]
        return _numpy_gradient(hidden, np.asarray(net.output), X, y)[1]

    etas = 0.2 / 2.0 ** np.arange(6)
    ends = [descend(eta) for eta in etas]
    gaps = [np.linalg.norm(a - b) for a, b in itertools.pairwise(ends)]
    order, half = slope(etas[:-1], gaps)
    slide_errors = [
        abs(_slide_by_descent(eta, 1.0)[1] + np.exp(-(1 - _C**2))) for eta in (0.01, 0.0025)
    ]
    outer = {"active side": float(-(_GRAM @ _DELTA)[0]), "inactive side": float(-_C * _DELTA[1])}
    return (
        within(
            r"gradient descent tends to (2.2) with $t = k \eta$, at order 1",
            f"{setting.on_points}, m = 128, t = 4",
            order,
            0.8,
            1.3,
            half_width=half,
            eta=etas,
            gaps=gaps,
        ),
        every(
            r"in the sense of Filippov: where a neuron slides, the limit is $\Delta_2 = "
            r"-\exp(-(1 - c^2) t)$",
            SLIDE,
            {
                "error at eta = 0.0025 below 0.01": slide_errors[1] < 0.01,
                "shrinks with eta": slide_errors[1] < slide_errors[0],
                "both sides push towards the kink": outer["active side"]
                < 0
                < outer["inactive side"],
            },
            0.01,
            errors=slide_errors,
            velocity_of_w_x1=outer,
        ),
        drawing(
            r"Gradient descent halved in $\eta$: the difference of $\Delta(4)$ falls like $\eta$; "
            "and the sliding neuron against Filippov's solution.",
            against(
                "eta",
                "|Delta(4) at eta - at eta/2|",
                {
                    "network": (etas[:-1], gaps, 1.0),
                    "sliding neuron, t = 1": ([0.01, 0.0025], slide_errors, 1.0),
                },
            ),
        ),
    )


@claim(
    "eq-2.3",
    section="2",
    kind="identity",
    fault="notation",
    note=r"""With $f$ in $\mathbb R^n$ the derivative $\partial f/\partial w_r$ is $n \times p$,
    and $-(f - y) \partial f/\partial w_r$ multiplies an n-vector $(n \times 1)$ into it: the
    inner sizes are 1 and $n$ ($\Delta = f - y$ is a column in (2.4) and (2.5)). A transpose is
    missing: $dw_r/dt = -(\partial f/\partial w_r)^\top (f - y) = -\sum_i (f_i - y_i) \partial
    f_i/\partial w_r$.""",
)
def eq_2_3(setting: Setting) -> Forms:
    net, points = setting.network(64, 0), setting.points
    gradient = jax.grad(lambda w: 0.5 * jnp.sum((predictions(net, w, points.X) - points.y) ** 2))(
        net.hidden
    )
    J = jax.jacrev(lambda w: predictions(net, w, points.X))(net.hidden)
    residual = outputs(net, points.X) - points.y
    error = float(jnp.abs(jnp.einsum("irp,i->rp", J, residual) - gradient).max())
    instance = f"{setting.on_points}, m = 64"
    return (
        typed(
            r"$dw_r/dt = -(f - y) \partial f/\partial w_r$: the inner sizes of $(n \times 1)(n "
            r"\times p)$ agree",
            instance,
            (1,),
            (points.n,),
        ),
        identity(
            r"$\partial L/\partial w_r = (\partial f/\partial w_r)^\top (f - y)$",
            instance,
            error,
            1e-12,
        ),
    )


def _rate_along_gradient(net: TwoLayerNet, points: Dataset) -> Array:
    """df/dt = df/dw . (-dL/dw), by forward mode."""
    gradient = jax.grad(lambda w: 0.5 * jnp.sum((predictions(net, w, points.X) - points.y) ** 2))(
        net.hidden
    )
    return jax.jvp(lambda w: predictions(net, w, points.X), (net.hidden,), (-gradient,))[1]


@claim(
    "eq-2.4",
    section="2",
    kind="identity",
    fault="hypothesis",
    under="network, off the sliding set",
    note=r"""Printed without a quantifier. The chain rule needs $w(t)$ off the kinks, and sliding
    on one lasts a positive time, so "for almost every $t$" alone is no repair: for almost every
    $t$ off the sliding set. On a sliding neuron $f_1$ stays 0, so $df_1/dt = 0$, whereas
    $-\sum_r (\partial f/\partial w_r)(\partial f/\partial w_r)^\top (f - y)$ with $\mathbb
    1\{w\cdot x_1 \ge 0\} = 1$ gives $-(\Delta_1 + c \Delta_2) = -0.4$. Off the sliding set, and
    on it with $\partial f_1/\partial w = \theta x_1$, the equation holds.""",
)
def eq_2_4(setting: Setting) -> Forms:
    net, points = setting.network(256, 0), setting.points
    rate = _rate_along_gradient(net, points)
    expected = -empirical_ntk(net, points.X) @ (outputs(net, points.X) - points.y)
    error = float(jnp.abs(rate - expected).max())
    slide = float(np.abs(_TRUE_RATE + _sliding_kernel(1.0) @ _DELTA).max())
    repaired = float(np.abs(_TRUE_RATE + _sliding_kernel(_THETA) @ _DELTA).max())
    ts = np.linspace(0, 2, 41)
    slid = np.array([_slide_by_descent(0.005, t) for t in ts])
    return (
        identity(
            r"$df/dt = -\sum_r (\partial f/\partial w_r)(\partial f/\partial w_r)^\top (f - y)$ at "
            "every time",
            SLIDE,
            slide,
            1e-10,
        ),
        identity(
            "the same for almost every $t$ off the sliding set, and on it with Filippov's "
            r"fraction $\theta = 0.6$ for $\mathbb 1\{w\cdot x_1 \ge 0\}$",
            f"{setting.on_points}, m = 256; and {SLIDE}",
            max(error, repaired),
            1e-12,
            network=error,
            sliding=repaired,
        ),
        drawing(
            r"The sliding neuron under gradient descent, $\eta = 0.005$: $\Delta_1$ stays 1, "
            "where (2.4) with the indicator 1 gives the rate -0.4.",
            panel(
                "t",
                "Delta",
                line(ts, slid[:, 0], "Delta_1"),
                line(ts, slid[:, 1], "Delta_2"),
                theory(ts, -np.exp(-(1 - _C**2) * ts), "Filippov"),
                theory(ts, 1 - 0.4 * ts, "Delta_1 by (2.4)"),
            ),
        ),
    )


def _sliding_pairs(
    w: np.ndarray,
    output: np.ndarray,
    X: np.ndarray,
    y: np.ndarray,
    eta: float = 0.01,
    until: float = 4.0,
) -> int:
    """Pairs (r, i) whose indicator changes at least six times along gradient descent: sliding
    neurons chatter about their kink."""
    active = w @ X.T >= 0
    changes = np.zeros(active.shape, int)
    for _ in range(round(until / eta)):
        w = w - eta * _numpy_gradient(w, output, X, y)[0]
        now = w @ X.T >= 0
        changes, active = changes + (now != active), now
    return int(np.sum(changes >= 6))


@claim(
    "eq-2.5",
    section="2",
    kind="identity",
    fault="hypothesis",
    under="network, off the sliding set",
    note=r"""Printed without a quantifier; true for almost every $t$ off the sliding set. While a
    neuron slides, for a positive time, neither convention for $\mathbb 1\{w\cdot x = 0\}$ gives
    the true rate: the fraction $\theta$ must stand in $J, H = J J^\top$. On networks some
    neurons do slide, so $\Delta(t) - \Delta(0) + \int H \Delta$, with the indicator in $H$, does
    not vanish with the step of gradient descent; with the indicator averaged over a short
    window, which tends to $\theta$, it does. About $m^{1/2}$ pairs meet their kink, and a fixed
    share of them is pushed back from both sides.""",
)
def eq_2_5(setting: Setting) -> Forms:
    conventions = {
        name: float(np.abs(_TRUE_RATE + _sliding_kernel(v) @ _DELTA).max())
        for name, v in (("active", 1.0), ("inactive", 0.0))
    }
    sliding = float(np.abs(_TRUE_RATE + _sliding_kernel(_THETA) @ _DELTA).max())
    net = setting.network(256, 0)
    X, y = np.asarray(setting.points.X).reshape(setting.points.n, -1), np.asarray(setting.points.y)
    gram, output = X @ X.T, np.asarray(net.output)

    def miss(eta: float, averaged: bool, until: float = 4.0) -> float:
        """sup_t |Delta(t) - Delta(0) + int H Delta| / |Delta(0)| along gradient descent."""
        hidden, work, worst = np.array(net.hidden), np.zeros_like(y), 0.0
        gradient, start = _numpy_gradient(hidden, output, X, y)
        residual, fraction = start, (hidden @ X.T >= 0).astype(float)
        for _ in range(round(until / eta)):
            active = (hidden @ X.T >= 0).astype(float)
            fraction = (
                fraction + (active - fraction) * min(1.0, np.sqrt(eta) / 0.3)
                if averaged
                else active
            )
            work = work + eta * (gram * (fraction.T @ fraction) / len(output)) @ residual
            hidden = hidden - eta * gradient
            gradient, residual = _numpy_gradient(hidden, output, X, y)
            worst = max(worst, float(np.abs(residual - start + work).max()))
        return worst / float(np.abs(start).max())

    etas = (0.01, 0.0025)
    raw, repaired = (
        {f"{eta:g}": miss(eta, averaged) for eta in etas} for averaged in (False, True)
    )
    where = (
        f"{setting.on_points}, m = 256, gradient descent to t = 4, eta = 0.01 and 0.0025; "
        f"and {SLIDE}"
    )
    widths = np.repeat(setting.sizes.widths, setting.sizes.seeds)
    nets = (setting.network(int(m), k % setting.sizes.seeds) for k, m in enumerate(widths))
    slid = np.array(
        [_sliding_pairs(np.asarray(net.hidden), np.asarray(net.output), X, y) for net in nets]
    )
    steepness, half = slope(widths, np.maximum(slid, 0.5))
    return (
        every(
            r"$\dot\Delta = -H(t) \Delta$ at every time, with $\mathbb 1\{w\cdot x \ge 0\}$ in "
            "$H$",
            where,
            {
                "on the sliding neuron": min(conventions.values()) < 1e-10,
                "integrated, on a network: vanishes with eta": raw["0.0025"] < 0.7 * raw["0.01"],
            },
            sliding_error_by_convention=conventions,
            network_error_by_eta=raw,
        ),
        every(
            "the same off the sliding set, and on it with Filippov's fraction",
            where,
            {
                "on the sliding neuron": sliding < 1e-12,
                "integrated, on a network: vanishes with eta": repaired["0.0025"]
                < 0.7 * repaired["0.01"],
                "below 0.005 at eta = 0.0025": repaired["0.0025"] < 0.005,
            },
            0.005,
            sliding_error=sliding,
            network_error_by_eta=repaired,
        ),
        every(
            "pairs that slide number about $m^{1/2}$",
            f"{setting.on_points}, gradient descent to t = 4, eta = 0.01, widths "
            f"{widths[0]}..{widths[-1]}, "
            f"{setting.sizes.seeds} seeds each; a pair slides if its indicator changes "
            "six times or more",
            {"slope near 1/2": agrees((steepness, half), 0.5)},
            0.15,
            slope=steepness,
            half_width=half,
            expected=0.5,
            pairs_by_width={str(m): slid[widths == m] for m in setting.sizes.widths},
        ),
        drawing(
            "What the integrated (2.5) misses along gradient descent on a network: with the "
            r"indicator it stays, with its average it vanishes with $\eta$. Right: pairs that "
            "slide, against the width.",
            panel(
                "eta",
                "what is missing / |Delta(0)|",
                points(etas, list(raw.values()), "indicator in H"),
                points(etas, list(repaired.values()), "averaged indicator"),
                log="xy",
            ),
            against("width m", "pairs", {"sliding": (widths, np.maximum(slid, 0.5), 0.5)}),
        ),
    )

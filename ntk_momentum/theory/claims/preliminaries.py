"""Section 2: gradient descent, its flow, the kernel, and Theorem 1."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from ...kernel import empirical_ntk
from ...method import GradientFlow, HeavyBall, gradient_descent
from ...network import outputs, split
from .. import bounds
from ..ledger import attained, bound, claim, every, identity, rarely, typed, within
from .setting import Setting, agrees, frozen, infinite_kernel, pair_eigenvalues, pair_lambda_min, slope, while_bounded

# The sliding neuron. One neuron w in R^2, a = 1, two unit inputs with x_1 . x_2 = c = 0.6, y = (-1, 2), and w on the kink
# of x_1 with w . x_2 = 1. Then Delta = (1, -1): from either side the gradient flow pushes w back onto the kink, so it
# slides along it with the Filippov fraction theta = -c Delta_2 / Delta_1 and Delta_2 = -exp(-(1 - c^2) t).
SLIDE = "one neuron on the kink of x_1: a = 1, x_1.x_2 = 0.6, y = (-1, 2), w.x_1 = 0, w.x_2 = 1, so Delta = (1, -1)"
_C = 0.6
_GRAM = np.array([[1.0, _C], [_C, 1.0]])
_DELTA = np.array([1.0, -1.0])
_THETA = -_C * _DELTA[1] / _DELTA[0]
_TRUE_RATE = np.array([0.0, -(1 - _C**2) * _DELTA[1]])


def _slide_by_descent(eta: float, until: float) -> np.ndarray:
    """Delta(until) of plain gradient descent from the kink, in preactivations z = (w . x_1, w . x_2)."""
    z, y = np.array([0.0, 1.0]), np.array([-1.0, 2.0])
    for _ in range(round(until / eta)):
        active = (z >= 0).astype(float)
        z = z - eta * _GRAM @ (active * (active * z - y))
    return np.maximum(z, 0.0) - y


def _sliding_kernel(fraction: float) -> np.ndarray:
    J = np.array([fraction, 1.0])
    return _GRAM * np.outer(J, J)


def _numpy_gradient(hidden, output, X, y):
    """dL/dw_r = (a_r / sqrt m) sum_i Delta_i x_i 1{w_r . x_i >= 0}."""
    z = hidden @ X.T
    scale = output[:, None] / np.sqrt(len(output))
    residual = (scale * np.maximum(z, 0)).sum(0) - y
    return (scale * (z >= 0) * residual[None]) @ X, residual


@claim(
    "eq-2.1",
    section="2",
    kind="definition",
    note="""Gradient descent with dL/dw_r = m^{-1/2} a_r sum_i Delta_i x_i 1{w_r.x_i >= 0}. The program's optimizer is compared
    with this recursion, written out.""",
)
def eq_2_1(setting: Setting):
    net, eta = setting.network(64, 0), 0.1
    X, y = np.asarray(setting.points.X).reshape(setting.points.n, -1), np.asarray(setting.points.y)
    hidden = np.asarray(net.hidden)
    method, state, mine = gradient_descent(eta), (), np.array(hidden)
    error = 0.0
    for _ in range(10):
        gradient, _ = _numpy_gradient(mine, np.asarray(net.output), X, y)
        step, state = method.update(jnp.asarray(_numpy_gradient(hidden, np.asarray(net.output), X, y)[0]), state)
        hidden, mine = hidden + np.asarray(step), mine - eta * gradient
        error = max(error, float(np.abs(hidden - mine).max()))
    return (identity("w_r(k+1) = w_r(k) - eta dL/dw_r", f"{setting.on_points}, m = 64, eta = 0.1, ten steps", error, 1e-12),)


@claim(
    "eq-2.2",
    section="2",
    kind="definition",
    note="""Gradient descent is Euler's method on (2.2) with t = k eta: global error of order 1. Where a neuron meets a kink with
    a_r Delta_i > 0 pushing it back from both sides, (2.2) has no classical solution; the limit of gradient descent is
    Filippov's solution, which slides: velocity = theta (right side, active) + (1 - theta)(right side, inactive), 0 <
    theta < 1.""",
)
def eq_2_2(setting: Setting):
    net = setting.network(128, 0)
    X, y = np.asarray(setting.points.X).reshape(setting.points.n, -1), np.asarray(setting.points.y)

    def descend(eta, until=4.0):
        hidden = np.array(net.hidden)
        for _ in range(round(until / eta)):
            hidden = hidden - eta * _numpy_gradient(hidden, np.asarray(net.output), X, y)[0]
        return _numpy_gradient(hidden, np.asarray(net.output), X, y)[1]

    etas = 0.2 / 2.0 ** np.arange(6)
    ends = [descend(eta) for eta in etas]
    gaps = [np.linalg.norm(a - b) for a, b in itertools.pairwise(ends)]
    order, half = slope(etas[:-1], gaps)
    slide_errors = [abs(_slide_by_descent(eta, 1.0)[1] + np.exp(-(1 - _C**2))) for eta in (0.01, 0.0025)]
    outer = {"active side": float(-(_GRAM @ _DELTA)[0]), "inactive side": float(-_C * _DELTA[1])}
    return (
        within(
            "gradient descent tends to (2.2) with t = k eta, at order 1",
            f"{setting.on_points}, m = 128, t = 4",
            order,
            0.8,
            1.3,
            half_width=half,
            eta=etas,
            gaps=gaps,
        ),
        every(
            "in the sense of Filippov: where a neuron slides, the limit is Delta_2 = -exp(-(1 - c^2) t)",
            SLIDE,
            {
                "error at eta = 0.0025 below 0.01": slide_errors[1] < 0.01,
                "shrinks with eta": slide_errors[1] < slide_errors[0],
                "both sides push towards the kink": outer["active side"] < 0 < outer["inactive side"],
            },
            0.01,
            errors=slide_errors,
            velocity_of_w_x1=outer,
        ),
    )


@claim(
    "eq-2.3",
    section="2",
    kind="identity",
    note="""With f in R^n the derivative df/dw_r is n x p, and -(f - y) df/dw_r multiplies an n-vector (n x 1) into it: the inner
    sizes are 1 and n (Delta = f - y is a column in (2.4) and (2.5)). A transpose is missing: dw_r/dt = -(df/dw_r)^T (f - y)
    = -sum_i (f_i - y_i) df_i/dw_r.""",
)
def eq_2_3(setting: Setting):
    net, points = setting.network(64, 0), setting.points
    gradient = jax.grad(lambda w: 0.5 * jnp.sum((_f(net, w, points.X) - points.y) ** 2))(net.hidden)
    J = jax.jacrev(lambda w: _f(net, w, points.X))(net.hidden)
    residual = outputs(net, points.X) - points.y
    error = float(jnp.abs(jnp.einsum("irp,i->rp", J, residual) - gradient).max())
    instance = f"{setting.on_points}, m = 64"
    return (
        typed("dw_r/dt = -(f - y) df/dw_r: the inner sizes of (n x 1)(n x p) agree", instance, (1,), (points.n,)),
        identity("dL/dw_r = (df/dw_r)^T (f - y)", instance, error, 1e-12),
    )


def _f(net, hidden, X):
    z = X.reshape(X.shape[0], -1) @ hidden.T
    return net.scale * (net.activation(z) @ net.output)


def _rate_along_gradient(net, points):
    """df/dt = df/dw . (-dL/dw), by forward mode."""
    gradient = jax.grad(lambda w: 0.5 * jnp.sum((_f(net, w, points.X) - points.y) ** 2))(net.hidden)
    return jax.jvp(lambda w: _f(net, w, points.X), (net.hidden,), (-gradient,))[1]


@claim(
    "eq-2.4",
    section="2",
    kind="identity",
    note="""Printed without a quantifier. The chain rule needs w(t) off the kinks, and sliding on one lasts a positive time,
    so "for almost every t" alone is no repair: for a.e. t off the sliding set. On a sliding neuron f_1 stays 0, so
    df_1/dt = 0, whereas -sum_r (df/dw_r)(df/dw_r)^T (f - y) with 1{w.x_1 >= 0} = 1 gives -(Delta_1 + c Delta_2) = -0.4.
    Off the sliding set, and on it with df_1/dw = theta x_1, the equation holds.""",
)
def eq_2_4(setting: Setting):
    net, points = setting.network(256, 0), setting.points
    rate = _rate_along_gradient(net, points)
    expected = -empirical_ntk(net, points.X) @ (outputs(net, points.X) - points.y)
    error = float(jnp.abs(rate - expected).max())
    slide = float(np.abs(_TRUE_RATE + _sliding_kernel(1.0) @ _DELTA).max())
    repaired = float(np.abs(_TRUE_RATE + _sliding_kernel(_THETA) @ _DELTA).max())
    return (
        identity("df/dt = -sum_r (df/dw_r)(df/dw_r)^T (f - y) at every time", SLIDE, slide, 1e-10),
        identity(
            "the same for almost every t off the sliding set, and on it with Filippov's fraction theta = 0.6 for 1{w.x_1 >= 0}",
            f"{setting.on_points}, m = 256; and {SLIDE}",
            max(error, repaired),
            1e-12,
            network=error,
            sliding=repaired,
        ),
    )


@claim(
    "eq-2.5",
    section="2",
    kind="identity",
    note="""Printed without a quantifier; true for almost every t off the sliding set. While a neuron slides, for a positive
    time, neither convention for 1{w.x = 0} gives the true rate: the fraction theta must stand in J, H = J J^T. On
    networks some neurons do slide, so Delta(t) - Delta(0) + int H Delta, with the indicator in H, does not vanish with
    the step of gradient descent; with the indicator averaged over a short window, which tends to theta, it does.""",
)
def eq_2_5(setting: Setting):
    conventions = {name: float(np.abs(_TRUE_RATE + _sliding_kernel(v) @ _DELTA).max()) for name, v in (("active", 1.0), ("inactive", 0.0))}
    sliding = float(np.abs(_TRUE_RATE + _sliding_kernel(_THETA) @ _DELTA).max())
    net = setting.network(256, 0)
    X, y = np.asarray(setting.points.X).reshape(setting.points.n, -1), np.asarray(setting.points.y)
    gram, output = X @ X.T, np.asarray(net.output)

    def miss(eta, averaged, until=4.0):
        """sup_t |Delta(t) - Delta(0) + int H Delta| / |Delta(0)| along gradient descent."""
        hidden, work, worst = np.array(net.hidden), np.zeros_like(y), 0.0
        gradient, start = _numpy_gradient(hidden, output, X, y)
        residual, fraction = start, (hidden @ X.T >= 0).astype(float)
        for _ in range(round(until / eta)):
            active = (hidden @ X.T >= 0).astype(float)
            fraction = fraction + (active - fraction) * min(1.0, np.sqrt(eta) / 0.3) if averaged else active
            work = work + eta * (gram * (fraction.T @ fraction) / len(output)) @ residual
            hidden = hidden - eta * gradient
            gradient, residual = _numpy_gradient(hidden, output, X, y)
            worst = max(worst, float(np.abs(residual - start + work).max()))
        return worst / float(np.abs(start).max())

    etas = (0.01, 0.0025)
    raw, repaired = ({f"{eta:g}": miss(eta, averaged) for eta in etas} for averaged in (False, True))
    where = f"{setting.on_points}, m = 256, gradient descent to t = 4, eta = 0.01 and 0.0025; and {SLIDE}"
    return (
        every(
            "Delta' = -H(t) Delta at every time, with 1{w.x >= 0} in H",
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
                "integrated, on a network: vanishes with eta": repaired["0.0025"] < 0.7 * repaired["0.01"],
                "below 0.005 at eta = 0.0025": repaired["0.0025"] < 0.005,
            },
            0.005,
            sliding_error=sliding,
            network_error_by_eta=repaired,
        ),
    )


@claim(
    "eq-2.6",
    section="2",
    kind="definition",
    note="""H = sum_r (df/dw_r)(df/dw_r)^T = J J^T with J the n x mp Jacobian, so it is positive semi-definite. Two routes:
    reverse-mode Jacobian against the structured kernel.""",
)
def eq_2_6(setting: Setting):
    net, points = setting.network(64, 0), setting.points
    J = jax.jacrev(lambda w: _f(net, w, points.X))(net.hidden).reshape(points.n, -1)
    H = empirical_ntk(net, points.X)
    error = float(jnp.abs(J @ J.T - H).max())
    return (
        identity(
            "H = sum_r (df/dw_r)(df/dw_r)^T", f"{setting.on_points}, m = 64", error, 1e-12, smallest_eigenvalue=jnp.linalg.eigvalsh(H)[0]
        ),
    )


@claim(
    "remark-lazy-training",
    section="2",
    kind="rate",
    figure="lazy_training",
    note="""The printed chain should begin with H_inf. Each entry of H(0) is a mean of m independent terms: ||H(0) - H_inf|| ~
    m^{-1/2}. Each neuron feels a force O(m^{-1/2}): displacement ~ m^{-1/2}; so O(m^{1/2}) pairs change sign, each
    moves H by O(1/m): ||H(t) - H(0)|| = O(m^{-1/2}). Were as many pairs to switch on as off, their signs would average to
    m^{-3/4}; but only an active neuron feels its own sample, so switching off prevails by a fixed share and -1/2 is the
    limit. With many samples the share is small, and -3/4 is what moderate widths show.""",
)
def remark_lazy_training(setting: Setting):
    widths, moved = setting.along_widths(lambda run: run.displaced.max())
    _, drift = setting.along_widths(lambda run: run.drift.max())
    _, pairs = setting.along_widths(lambda run: run.pairs)
    start_widths, start = setting.initial_distances
    _, left = setting.along_widths(lambda run: run.loss[-1] / run.loss[0])
    slopes = {
        name: slope(widths, values) for name, values in (("displacement", moved), ("||H(t)-H(0)||", drift), ("pairs that cross", pairs))
    }
    _, off = setting.along_widths(lambda run: -run.switch.sum() / run.switch.size)
    slopes["||H(0)-H_inf||"] = slope(start_widths, start)
    narrow, wide = widths == widths.min(), widths == widths.max()
    before, after = (start[start_widths == w].mean() for w in (start_widths.min(), start_widths.max()))
    expected = {"displacement": -0.5, "||H(0)-H_inf||": -0.5, "pairs that cross": 0.5}
    fall, half = slopes["||H(t)-H(0)||"]
    return (
        every(
            "W(t) stays near W(0) and H_inf ~ H(0) ~ H(t) while the loss changes largely",
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
            "slopes in m: -1/2 for displacement and ||H(0)-H_inf||, +1/2 for the pairs that cross, between -1/2 and -3/4 for ||H(t)-H(0)||",
            setting.on_crossings,
            {
                **{name: agrees(slopes[name], value) for name, value in expected.items()},
                "||H(t)-H(0)||": -0.9 - half <= fall <= -0.35 + half,
            },
            0.15,
            slopes={
                name: {"slope": s, "95% half width": h, "expected": expected.get(name, "-1/2 to -3/4")} for name, (s, h) in slopes.items()
            },
            surplus_of_switching_off={
                "share of crossings": float(off.mean()),
                "95% half width": float(1.96 * off.std(ddof=1) / np.sqrt(off.size)),
            },
        ),
    )


@claim(
    "pseudo-loss",
    section="2",
    kind="identity",
    note="""dL^/dDelta = H Delta with H held fixed, and L^ is lambda_min(H)-strongly convex in Delta. The text's "matrix ODE
    (2.2)" must read (2.5): the unknown of (2.2) is W, of shape (m, p), on which an n x n matrix H does not act, and W
    does not tend to 0.""",
)
def pseudo_loss(setting: Setting):
    n, (values, c) = setting.data.n, setting.eigen
    K = jnp.asarray(setting.kernel)
    D = -jnp.asarray(setting.data.y)
    error = float(jnp.abs(jax.grad(lambda d: 0.5 * d @ (K @ d))(D) - K @ D).max())
    run = frozen(GradientFlow(), values, c, np.linspace(0, 20 / values[0], 400))
    final = float(run.loss[-1] / run.loss[0])
    return (
        typed(
            "the matrix ODE (2.2) with a constant H: the unknown of (2.2) has as many rows as H",
            f"{setting.on_kernel}; W with m = 2n",
            (2 * n, setting.X.shape[1]),
            (n, setting.X.shape[1]),
        ),
        every(
            "(2.5) with constant H > 0 is the gradient flow of L^ = Delta.H Delta / 2 and tends to 0 at linear rate",
            setting.on_kernel,
            {"gradient is H Delta": error < 1e-12, "strongly convex": values[0] > 0, "tends to 0": final < 1e-10},
            1e-12,
            gradient_error=error,
            loss_ratio=final,
        ),
    )


@claim(
    "fact-2.1",
    section="2",
    kind="bound",
    note="""(H_inf)_ij = E[Z_i.Z_j 1{w.Z_i >= 0, w.Z_j >= 0}]. If the functions w -> Z_i 1{w.Z_i >= 0} were dependent, the
    dependence could be tested near the hyperplane of one i alone, where only its indicator jumps; so no two parallel
    inputs suffices. Z_i is the x_i of the other sections; here H_inf is compared with Monte Carlo.""",
)
def fact_2_1(setting: Setting):
    rng, K, X = np.random.default_rng(0), setting.points_kernel, np.asarray(setting.points.X).reshape(setting.points.n, -1)
    draws = 200_000
    S = (rng.standard_normal((draws, X.shape[1])) @ X.T >= 0).astype(float)
    error = float(np.abs(X @ X.T * (S.T @ S) / draws - K).max())
    smallest = {setting.points.name: setting.points_lam0, setting.data.name: float(setting.eigen[0][0])}
    for n, p in ((5, 2), (12, 3), (30, 4)):
        Z = rng.standard_normal((n, p))
        smallest[f"{n} random directions in R^{p}"] = float(np.linalg.eigvalsh(infinite_kernel(Z))[0])
    return (
        every(
            "no two parallel inputs: lambda0 > 0",
            ", ".join(smallest),
            {name: value > 1e-9 for name, value in smallest.items()},
            lambda0=smallest,
        ),
        within("the closed form is the expectation", f"{setting.on_points}, {draws} draws", error, 0.0, 5 * 0.5 / np.sqrt(draws)),
    )


@claim(
    "fact-2.2",
    section="2",
    kind="bound",
    note="""x.x' (1/2 - arccos(x.x')/(2 pi)) = t/4 + t arcsin(t)/(2 pi) at t = x.x': the even part t arcsin t is strictly
    positive definite on axes, the odd part is linear. Sharp, unit inputs: lambda0 > 0 iff no two inputs coincide and the
    axes of the antipodal pairs are linearly independent. So {+-e_i} has lambda0 = 1/2, a regular hexagon 0. The arccos
    form needs |x_i| = 1, which the fact forgets to say; for other norms the angle must stand in its place.""",
)
def fact_2_2(setting: Setting):
    X = setting.X
    gram = np.clip(X @ X.T, -1, 1)
    error = float(np.abs((0.5 - np.arccos(gram) / (2 * np.pi)) * gram - setting.kernel).max())
    rng = np.random.default_rng(1)

    def smallest(Z):
        return float(np.linalg.eigvalsh(infinite_kernel(Z))[0])

    angles = np.arange(6) * np.pi / 3
    hexagon = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    sets = {
        "{+-e_i}, R^3": np.concatenate([np.eye(3), -np.eye(3)]),
        "regular hexagon": hexagon,
        "a duplicate": np.eye(3)[[0, 1, 1]],
        "hexagon without one vertex": hexagon[:5],
    }
    for k, p, extra in ((2, 3, 3), (3, 3, 0), (4, 3, 2), (5, 4, 1)):
        axes = rng.standard_normal((k + extra, p))
        axes /= np.linalg.norm(axes, axis=1, keepdims=True)
        sets[f"{k} antipodal pairs and {extra} single points in R^{p}"] = np.concatenate([axes, -axes[:k]])
    found = {name: smallest(Z) for name, Z in sets.items()}
    predicted = {name: _positive(Z) for name, Z in sets.items()}
    return (
        every(
            "H_inf has the arccos form, and lambda0 > 0 when no two inputs are parallel",
            setting.on_kernel,
            {"closed form": error < 1e-7, "lambda0 > 0": setting.eigen[0][0] > 0},
            1e-7,
            closed_form_error=error,
        ),
        None,
        every(
            "unit inputs: lambda0 > 0 iff no two coincide and the axes of the antipodal pairs are independent",
            "named sets and random ones",
            {name: (found[name] > 1e-9) == predicted[name] for name in sets},
            1e-9,
            lambda0=found,
            predicted=predicted,
        ),
    )


def _positive(Z: np.ndarray) -> bool:
    gram = Z @ Z.T
    pairs = np.argwhere(np.triu(gram < -1 + 1e-12, 1))
    coincide = np.any(np.triu(gram > 1 - 1e-12, 1))
    return bool(not coincide and (len(pairs) == 0 or np.linalg.matrix_rank(Z[pairs[:, 0]]) == len(pairs)))


@claim(
    "thm-1",
    section="2",
    kind="probability",
    figure="three_flows",
    note="""The width n^6/delta^3 does not see lambda0, so it cannot keep lambda_min(H) > lambda0/2 when lambda0 -> 0. Two inputs
    at angle theta: lambda0 ~ theta/(2 pi), but with m theta/pi << 1 no neuron tells them apart and lambda_min(H(0)) ~
    theta^2/4. Du et al. have n^6/(lambda0^4 delta^3). Given lambda_min(H(t)) >= lambda0/2, L' = -Delta.H Delta <=
    -lambda0 L gives (2.7).""",
)
def thm_1(setting: Setting):
    rng, delta = np.random.default_rng(2), 0.1
    printed, corrected, trials = {}, {}, setting.sizes.trials
    for theta in (1e-1, 1e-3, 1e-6, 1e-9):
        lam0, _ = pair_eigenvalues(theta)
        for k in (1, 1000):
            width = bounds.width_theorem_1_printed(2, delta, k)
            printed[f"angle {theta:g}, constant {k}"] = int(np.sum(pair_lambda_min(theta, width, trials, rng) <= lam0 / 2))
    for theta in (1.0, 0.1, 0.03):
        lam0, _ = pair_eigenvalues(theta)
        width = bounds.width_corrected(2, delta, lam0)
        corrected[f"angle {theta:g}"] = int(np.sum(pair_lambda_min(theta, width, trials, rng) <= lam0 / 2))
    values, c = setting.eigen
    ts = np.linspace(0, 60 / values[0], 512)
    run = frozen(GradientFlow(), values, c, ts)
    ratio = float(np.max(run.loss / bounds.gradient_flow_sharp(ts, values[0], run.loss[0])))
    tail = -float(np.log(run.loss[-1] / run.loss[-65]) / (ts[-1] - ts[-65]))
    return (
        rarely(
            "at m = Omega(n^6/delta^3), lambda_min(H(t)) > lambda0/2 with probability 1 - delta (here t = 0)",
            "n = 2 inputs at angles 0.1, 1e-3, 1e-6, 1e-9; delta = 0.1; constants 1 and 1000",
            printed,
            trials,
            delta,
        ),
        rarely(
            "the same at m = n^6/(delta^3 lambda0^4), t = 0 (for the whole path see width-thm-1)",
            "the same family, angles 1, 0.1, 0.03",
            corrected,
            trials,
            delta,
        ),
        every(
            "constant H: L(t) <= exp(-2 lambda_min t) L(0), and no larger exponent",
            setting.on_kernel,
            {"bound": ratio <= 1 + 1e-9, "exponent attained": abs(tail / bounds.gradient_flow_rate(values[0]) - 1) < 0.02},
            0.02,
            largest_ratio=ratio,
            tail_exponent=tail,
            expected=bounds.gradient_flow_rate(values[0]),
        ),
    )


@claim(
    "eq-2.7",
    section="2",
    kind="bound",
    figure="three_flows",
    note="""d/dt L = -Delta.H Delta <= -2 lambda_min(H) L <= -lambda0 L while lambda_min(H(t)) >= lambda0/2. For constant H the
    exponent is 2 lambda_min, so for H = lambda0/2 (2.7) is attained.""",
)
def eq_2_7(setting: Setting):
    run, lam0 = setting.gradient_run, setting.points_lam0
    ts, loss, lam = np.asarray(run.ts), np.asarray(run.loss), np.asarray(run.lambda_min)
    held = while_bounded(run, lam0 / 2)
    ratio = float(np.max((loss / bounds.theorem_1(ts, lam0, loss[0]))[held], initial=0.0))
    worst = frozen(GradientFlow(), [lam0 / 2], [1.0], ts)
    sharp = float(np.max(worst.loss / bounds.theorem_1(ts, lam0, worst.loss[0])))
    return (
        bound(
            "L(t) <= exp(-lambda0 t) L(0) while lambda_min(H(t)) >= lambda0/2",
            f"{setting.on_points}, gradient flow at m = {setting.wide}",
            ratio,
            smallest_lambda_min_over_lam0=lam.min() / lam0,
            times_checked=len(ts[held]),
            final_loss_over_bound=float(loss[-1] / bounds.theorem_1(ts[-1], lam0, loss[0])),
        ),
        None,
        attained("the exponent lambda0 cannot be improved under this hypothesis", "one mode with H = lambda0/2", sharp, 1e-9),
    )


@claim(
    "eq-2.8",
    section="2",
    kind="identity",
    note="""df_i/dw_r = m^{-1/2} a_r x_i 1{w_r.x_i >= 0}, and a_r^2 = 1 removes the output weights. With other output
    weights each term of the sum carries a_r^2.""",
)
def eq_2_8(setting: Setting):
    net, points = setting.network(64, 3, antisymmetric=False), setting.points
    X = np.asarray(points.X).reshape(points.n, -1)

    def printed(net, a2):
        S = (np.asarray(net.hidden) @ X.T >= 0).astype(float)
        return X @ X.T * ((S * a2[:, None]).T @ S) / net.width

    def by_autodiff(net):
        J = jax.jacrev(lambda w: _f(net, w, points.X))(net.hidden).reshape(points.n, -1)
        return np.asarray(J @ J.T)

    import equinox as eqx

    scaled = eqx.tree_at(lambda m: m.output, net, jnp.linspace(-2.0, 2.0, 64))
    trained = [leaf.shape for leaf in jax.tree.leaves(split(net)[0])]
    return (
        identity(
            "H_ij = x_i.x_j / m sum_r 1(w_r.x_i >= 0, w_r.x_j >= 0), a_r = +-1",
            f"{setting.on_points}, m = 64",
            float(np.abs(printed(net, np.ones(64)) - by_autodiff(net)).max()),
            1e-12,
            trained=trained,
        ),
        identity(
            "for any output weights, with a_r^2 inside the sum",
            f"{setting.on_points}, m = 64, a_r from -2 to 2",
            float(np.abs(printed(scaled, np.asarray(scaled.output) ** 2) - by_autodiff(scaled)).max()),
            1e-12,
        ),
    )


@claim(
    "remark-discrete",
    section="2",
    kind="rate",
    figure="discrete_vs_flow",
    note="""Constant kernel, x = eta lambda. Gradient descent has the root 1 - x, the heavy ball those of z^2 - (1 + beta -
    x) z + beta, Nesterov with constant beta those of z^2 - (1 + beta)(1 - x) z + beta (1 - x). Best rates over [mu,
    kappa mu]: (kappa-1)/(kappa+1), (sqrt kappa - 1)/(sqrt kappa + 1), and 1 - 2/sqrt(3 kappa + 1). At the second-order
    map of (3.1), -2 log|z|/h tends to r(b) as h^2.""",
)
def remark_discrete(setting: Setting):
    values = setting.eigen[0]
    b, lam = bounds.paper_friction(values[0]), values[0]
    hs = 0.4 / np.sqrt(values[-1]) / 2.0 ** np.arange(5)
    wide_b = 3 * np.sqrt(lam)
    gaps = []
    for h in hs:
        method, _ = HeavyBall(wide_b).discretize(float(h))
        gaps.append(
            abs(-2 * np.log(radius([1, -(1 + method.beta - method.eta * lam), method.beta])) / h - bounds.heavy_ball_rate(wide_b, lam))
        )
    order, half = slope(hs, gaps)
    kappa = 100.0
    best = {
        "gradient descent": (min(max(abs(1 - x), abs(1 - kappa * x)) for x in np.linspace(0.01, 0.03, 2001)), (kappa - 1) / (kappa + 1)),
        "heavy ball": (_best_heavy_ball(kappa), (np.sqrt(kappa) - 1) / (np.sqrt(kappa) + 1)),
        "Nesterov, constant beta": (_best_nesterov(kappa), 1 - 2 / np.sqrt(3 * kappa + 1)),
    }
    return (
        within(
            "the results extend to the discrete methods: the rate of the heavy ball tends to the flow's",
            f"{setting.on_kernel}, b = 3 sqrt(lambda_min)",
            gaps[-1] / bounds.heavy_ball_rate(wide_b, lam),
            0.0,
            1e-3,
            h=hs,
            b_of_paper=b,
        ),
        within("at the second-order map the gap closes as h^2", "the same", order, 1.8, 2.2, half_width=half, gaps=gaps),
        every(
            "best rates (kappa-1)/(kappa+1), (sqrt kappa-1)/(sqrt kappa+1), 1-2/sqrt(3 kappa+1)",
            "spectra with kappa = 100, parameters by search",
            {name: abs(found - formula) < 2e-3 for name, (found, formula) in best.items()},
            2e-3,
            found_and_formula={name: list(pair) for name, pair in best.items()},
        ),
    )


def radius(polynomial) -> float:
    """Largest modulus of the roots."""
    return float(np.abs(np.roots(np.asarray(polynomial, float))).max())


def _best_heavy_ball(kappa: float) -> float:
    xs = np.geomspace(1, kappa, 40) / kappa

    def worst(beta, top):
        return max(radius([1, -(1 + beta - top * x), beta]) for x in (xs[0], xs[20], xs[-1]))

    return min(worst(beta, top) for beta in np.linspace(0.6, 0.75, 31) for top in np.linspace(3.0, 3.6, 31))


def _best_nesterov(kappa: float) -> float:
    def worst(beta, top):
        return max(radius([1, -(1 + beta) * (1 - top * x), beta * (1 - top * x)]) for x in (1 / kappa, 0.3, 1.0))

    return min(worst(beta, top) for beta in np.linspace(0.7, 0.85, 31) for top in np.linspace(1.2, 1.34, 31))

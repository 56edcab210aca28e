"""Section 3: the heavy ball, its flow, Theorem 2 and the remarks around it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ...method import HeavyBall, heavy_ball
from ...network import outputs
from .. import bounds
from ..ledger import attained, bound, claim, every, identity, undefined, within
from .preliminaries import _f, radius
from .setting import Setting, frozen, infinite_kernel, slope, while_bounded

ONE = "n = 1, |x| = 1: H = lambda0 = 1/2, b = sqrt(2 lambda0) = 1, Delta(0) = 1"


def worst_modes(alpha: float, spread: float = 1e4) -> np.ndarray:
    """Eigenvalues from alpha^2 upwards, on which a bound for H >= alpha^2 must hold."""
    return alpha**2 * np.concatenate([np.linspace(1.0, 4.0, 32), np.geomspace(4.1, spread, 32)])


@claim(
    "eq-3.1",
    section="3",
    kind="definition",
    note="""On a mode with x = eta lambda: z^2 - (1 + beta - x) z + beta = 0, stable iff 0 < x < 2(1 + beta) and beta < 1.
    At beta = 1 the product of the roots is 1: nothing is lost. So beta lies in [0, 1), not [0, 1].""",
)
def eq_3_1(setting: Setting):
    betas, xs = np.linspace(0, 1, 11), np.linspace(0.01, 0.99, 20)
    closed = max(radius([1, -(1 + beta - x), beta]) for beta in betas for x in xs * 2 * (1 + beta))
    opened = max(radius([1, -(1 + beta - x), beta]) for beta in betas[:-1] for x in xs * 2 * (1 + beta))
    beyond = min(radius([1, -(1 + beta - x), beta]) for beta in betas for x in [2 * (1 + beta) * 1.001])
    rng = np.random.default_rng(0)
    H = rng.standard_normal((4, 4))
    H = H @ H.T / 8
    method = heavy_ball(0.3, 0.8)
    w = last = mine = rng.standard_normal(4)
    state, error = method.init(jnp.asarray(w)), 0.0
    for _ in range(20):
        step, state = method.update(jnp.asarray(H @ w), state)
        w = w + np.asarray(step)
        mine, last = mine - 0.3 * H @ mine + 0.8 * (mine - last), mine
        error = max(error, float(np.abs(w - mine).max()))
    return (
        every(
            "w(t+1) = w(t) - eta dL/dw + beta (w(t) - w(t-1)) with beta in [0, 1] (read: it converges for every such beta at small eta)",
            "one mode, x over its stable range, beta = 0, 0.1, ..., 1",
            {"largest root inside the unit circle": closed < 1 - 1e-9},
            largest_root=closed,
        ),
        every(
            "the same for beta in [0, 1)",
            "the same; and twenty steps on a random quadratic against the recursion",
            {"largest root inside the unit circle": opened < 1, "recursion": error < 1e-12},
            1e-12,
            largest_root=opened,
            recursion_error=error,
        ),
        every("stable iff x < 2(1 + beta)", "the same", {"inside": opened < 1, "outside": beyond > 1}, root_beyond=beyond),
    )


def _order(make, offset: float, hs: np.ndarray, lam: float = 1.0, b: float = 0.8, until: float = 4.0) -> tuple[float, list[float]]:
    """Order in h of the heavy ball's iterates against the flow's mode: sup over t <= `until`, less the start."""
    errors = []
    for h in hs:
        eta, beta = make(h, b)
        steps = round(until / h)
        w = last = 1.0
        track = []
        for _ in range(steps):
            w, last = w - eta * lam * w + beta * (w - last), w
            track.append(w)
        exact = frozen(HeavyBall(b), [lam], [1.0], (np.arange(1, steps + 1) + offset) * h).residual[:, 0]
        errors.append(float(np.abs(np.array(track) - exact).max()))
    return slope(hs, errors)[0], errors


@claim(
    "eq-3.2",
    section="3",
    kind="rate",
    figure="discrete_vs_flow",
    note="""h = sqrt(eta). beta = 1 - bh, exp(-bh) and (1 - bh/2)/(1 + bh/2) are all of first order from a cold start w_{-1} =
    w_0. Second order: central differences, beta = (1 - bh/2)/(1 + bh/2), eta = h^2/(1 + bh/2), a cold start being the
    flow at t = h/2.""",
)
def eq_3_2(setting: Setting):
    hs = 0.1 / 2.0 ** np.arange(5)
    naive = {
        "1 - bh": _order(lambda h, b: (h**2, 1 - b * h), 0.0, hs)[0],
        "exp(-bh)": _order(lambda h, b: (h**2, np.exp(-b * h)), 0.0, hs)[0],
        "(1 - bh/2)/(1 + bh/2)": _order(lambda h, b: (h**2, (1 - b * h / 2) / (1 + b * h / 2)), 0.0, hs)[0],
    }

    def centred(h, b):
        method, _ = HeavyBall(b).discretize(float(h))
        return method.eta, method.beta

    order, errors = _order(centred, 0.5, hs)
    return (
        every(
            "(3.1) tends to (3.2), t = k sqrt(eta)",
            "one mode, lambda = 1, b = 0.8, t = 4",
            {name: 0.8 < v < 1.2 for name, v in naive.items()},
            0.2,
            orders=naive,
        ),
        None,
        within(
            "with eta = h^2/(1 + bh/2), beta = (1 - bh/2)/(1 + bh/2), t = (k + 1/2) h the order is 2",
            "the same",
            order,
            1.8,
            2.2,
            errors=errors,
        ),
    )


@claim(
    "eq-3.3",
    section="3",
    kind="identity",
    note="""J is defined nowhere; if it were the Jacobian df/dw its derivative would vanish almost everywhere and no neuron would
    move. The force is dL/dw_r = (df/dw_r)^T (f - y).""",
)
def eq_3_3(setting: Setting):
    net, points = setting.network(64, 1), setting.points
    gradient = jax.grad(lambda w: 0.5 * jnp.sum((_f(net, w, points.X) - points.y) ** 2))(net.hidden)
    force = jax.vjp(lambda w: _f(net, w, points.X), net.hidden)[1](outputs(net, points.X) - points.y)[0]
    return (
        undefined("w_r'' + sqrt(2 lambda0) w_r' + dJ/dw_r (f - y) = 0", "any", "the paper does not define J"),
        identity(
            "the force is (df/dw_r)^T (f - y) = dL/dw_r", f"{setting.on_points}, m = 64", float(jnp.abs(force - gradient).max()), 1e-12
        ),
    )


@claim(
    "remark-friction-choice",
    section="3",
    kind="identity",
    note="""With mu = lambda0/2 the paper's friction is b = sqrt(2 lambda0) = 2 sqrt(mu): twice the square root of the strong
    convexity coefficient. b and sqrt(lambda) are both 1/time, so 2 mu has the wrong unit; the two agree only at
    lambda0 = 2. Theorem 2's b = sqrt(2 lambda0^2) has the wrong unit too.""",
)
def remark_friction_choice(setting: Setting):
    lam0 = np.array([0.5, 0.1, float(setting.eigen[0][0])])
    b = bounds.paper_friction(lam0)
    return (
        identity(
            "b = sqrt(2 lambda0) is twice the strong convexity coefficient lambda0/2",
            ONE + "; lambda0 = 0.1; digits",
            float(np.abs(b - 2 * lam0 / 2).max()),
            1e-9,
            b=b,
            twice_coefficient=lam0,
        ),
        identity("b = sqrt(2 lambda0) is twice its square root", "the same", float(np.abs(b - 2 * np.sqrt(lam0 / 2)).max()), 1e-12),
    )


def exponent(b: float, lam: float, until: float = 60.0) -> float:
    """Measured exponent of the envelope phi^2 + phi'^2/lambda of one mode, over the last third of [0, until / r(b)]."""
    end = until / float(bounds.heavy_ball_rate(b, lam))
    run = frozen(HeavyBall(b), [lam], [1.0], np.linspace(0, end, 512))
    tail = slice(342, None)
    envelope = run.residual[:, 0] ** 2 + run.velocity[:, 0] ** 2 / lam
    return float(-np.polyfit(run.ts[tail], np.log(envelope[tail]), 1)[0])


@claim(
    "remark-lipschitz",
    section="3",
    kind="bound",
    note="""For every mode lambda >= alpha^2, |phi| <= (1 + alpha t) e^{-alpha t}: no smoothness constant enters. Nor does it for
    any other b > 0: r(b) depends on lambda_min alone, so a Lipschitz gradient is not needed there either.""",
)
def remark_lipschitz(setting: Setting):
    alpha = 0.5
    ts = np.linspace(0, 40, 512)
    ratios = {}
    for top in (1e2, 1e4, 1e6):
        run = frozen(HeavyBall(2 * alpha), worst_modes(alpha, top), 1.0, ts)
        ratios[f"{top:g}"] = float(np.max(run.residual**2 / bounds.heavy_ball_critical(ts, alpha, 1.0)[:, None]))
    rates = {}
    for b in (0.25, 0.5, 1.0, 1.4, 3.0):
        rates[f"{b:g}"] = [min(exponent(b, lam) for lam in (0.25, 0.25 * 1e2, 0.25 * 1e4)), float(bounds.heavy_ball_rate(b, 0.25))]
    return (
        bound(
            "b = sqrt(2 lambda0) gives linear convergence without a Lipschitz constant",
            "modes lambda from alpha^2 to 1e2, 1e4, 1e6 times that, alpha = 1/2",
            max(ratios.values()),
            by_kappa=ratios,
        ),
        every(
            "every other b > 0 needs none either: the worst exponent over lambda_min <= lambda <= 1e4 lambda_min is r(b) > 0",
            "lambda_min = 1/4, b = 0.25 ... 3",
            {f"b = {b}": measured > 0 and abs(measured / predicted - 1) < 0.06 for b, (measured, predicted) in rates.items()},
            0.06,
            measured_and_predicted=rates,
        ),
    )


@claim(
    "remark-zero-velocity",
    section="3",
    kind="bound",
    note="""Start at Delta(0) = 0 with Delta'(0) = 1: L^(0) = 0, so every bound by L^(0) says Delta = 0 for ever, while Delta
    moves. With a velocity, V(0) = L^(0) + |alpha Delta(0) + Delta'(0)|^2/2 must stand on the right: L <= (2/lambda0)
    e^{-alpha t} V(0).""",
)
def remark_zero_velocity(setting: Setting):
    lam0, ts = 0.5, np.linspace(0, 30, 512)
    alpha = np.sqrt(lam0 / 2)
    run = frozen(HeavyBall(2 * alpha), [lam0], [1.0], ts)
    moving = -run.velocity[:, 0] / lam0  # psi = -phi'/lambda: from 0 at unit velocity
    worst = 0.0
    for lam in worst_modes(alpha, 1e3):
        mode = frozen(HeavyBall(2 * alpha), [lam], [1.0], ts)
        phi, psi = mode.residual[:, 0], -mode.velocity[:, 0] / lam
        for D, V in ((0.0, 1.0), (1.0, 1.0), (1.0, -1.0), (1.0, 3.0)):
            energy = 0.5 * lam * D**2 + 0.5 * (alpha * D + V) ** 2
            worst = max(worst, float(np.max(0.5 * (phi * D + psi * V) ** 2 / (2 / lam0 * np.exp(-alpha * ts) * energy))))
    reached = float(np.max(0.5 * moving**2))
    return (
        bound(
            "w'(0) = 0 without loss of generality: L(t) <= (4/lambda0) e^{-alpha t} L^(0) from any velocity",
            "n = 1, H = lambda0 = 1/2, Delta(0) = 0, Delta'(0) = 1: L^(0) = 0",
            np.inf if reached > 0 else 0.0,
            largest_loss=reached,
        ),
        bound("L(t) <= (2/lambda0) e^{-alpha t} V(0) from any velocity", "modes lambda >= alpha^2, four starts", worst),
    )


@claim(
    "footnote-2-fastest",
    section="3",
    kind="rate",
    note="""The exponent of L is r(b) = b up to b = 2 sqrt(lambda_min) and b - sqrt(b^2 - 4 lambda_min) beyond: best at b = 2
    sqrt(lambda_min), r = 2 sqrt(lambda_min). The paper's b is the best one for the worst kernel it allows, lambda_min
    = lambda0/2; if lambda_min = lambda0 it reaches 1/sqrt 2 of the best.""",
)
def footnote_2(setting: Setting):
    lam0 = 0.5
    grid = np.linspace(0.3, 4.0, 371) * np.sqrt(lam0)
    best = grid[np.argmax(bounds.heavy_ball_rate(grid, lam0))]
    paper = bounds.paper_friction(lam0)
    measured = {
        f"{b:.4g}": [exponent(b, lam0), float(bounds.heavy_ball_rate(b, lam0))]
        for b in (0.3, paper, bounds.best_friction(lam0) * 0.999, 2.0, 3.0)
    }
    ratio = exponent(paper, lam0) / exponent(bounds.best_friction(lam0) * 0.999, lam0)
    worst_best = grid[np.argmax([min(bounds.heavy_ball_rate(b, lam) for lam in (lam0 / 2, lam0, 10 * lam0)) for b in grid])]
    return (
        within(
            "b = sqrt(2 lambda0) is the fastest choice (lambda_min = lambda0)",
            "one mode, H = lambda0 = 1/2",
            ratio,
            0.99,
            1.01,
            exponent_ratio_to_best=ratio,
            best_b=best,
            paper_b=paper,
        ),
        within(
            "it is the fastest in the worst case lambda_min = lambda0/2",
            "H >= lambda0/2, lambda0 = 1/2, b on a grid",
            float(worst_best / paper),
            0.985,
            1.015,
        ),
        every(
            "r(b) = b - sqrt(b^2 - 4 lambda_min) beyond b = 2 sqrt(lambda_min), b before",
            "one mode, measured exponents",
            {b: abs(m / p - 1) < 0.06 for b, (m, p) in measured.items()},
            0.06,
            measured_and_predicted=measured,
        ),
    )


def theorem_2_ratio(setting: Setting, formula, lam0: float, low: float) -> float:
    """Largest L(t) / formula over modes with eigenvalue >= low at b = sqrt(2 lambda0)."""
    alpha = np.sqrt(lam0 / 2)
    ts = np.linspace(0, 20 / alpha, 512)
    lams = low * np.concatenate([np.linspace(1, 4, 32), np.geomspace(4.1, 1e4, 32)])
    run = frozen(HeavyBall(2 * alpha), lams, 1.0, ts)
    losses = 0.5 * run.residual**2
    return float(np.max(losses / formula(ts[:, None], lams[None, :])))


@claim(
    "thm-2",
    section="3",
    kind="bound",
    figure="three_flows",
    note="""V' = -alpha V - (alpha/2) Delta.(H - alpha^2) Delta - (alpha/2)|Delta'|^2 for constant H >= alpha^2 = lambda0/2, and
    V(0) = L^(0) + alpha^2 L(0) <= 2 L^(0), L <= (2/lambda0) L^: L <= (4/lambda0) e^{-alpha t} L^(0). Mode by mode,
    |phi| <= (1 + alpha t) e^{-alpha t}, with equality for H = alpha^2; if H >= lambda0 = 2 alpha^2, phi^2 e^{2 alpha
    t} <= lambda/(lambda - alpha^2) <= 2. The printed b = sqrt(2 lambda0^2) has exponent sqrt 2 lambda0, below
    sqrt(lambda0/2) when lambda0 < 1/4.""",
)
def thm_2(setting: Setting):
    lam0 = 0.1
    ts = np.linspace(0, 400, 512)
    slow = frozen(HeavyBall(np.sqrt(2 * lam0**2)), [lam0], [1.0], ts)
    printed = float(np.max(slow.loss / bounds.theorem_2_printed(ts, lam0, slow.pseudo_loss[0], "quadratic form")))
    run, points0 = setting.heavy_ball_run, setting.points_lam0
    times, loss = np.asarray(run.ts), np.asarray(run.loss)
    held = while_bounded(run, points0 / 2)
    network = float(np.max((loss / bounds.theorem_2_corrected(times, points0, float(run.pseudo_loss[0])))[held], initial=0.0))
    corrected = theorem_2_ratio(setting, lambda t, lam: bounds.theorem_2_corrected(t, lam0, 0.5 * lam), lam0, lam0 / 2)
    critical = theorem_2_ratio(setting, lambda t, lam: bounds.heavy_ball_critical(t, np.sqrt(lam0 / 2), 0.5), lam0, lam0 / 2)
    double = theorem_2_ratio(setting, lambda t, lam: bounds.heavy_ball_sharp(t, lam0, 0.5), lam0, lam0)
    return (
        bound(
            "b = sqrt(2 lambda0^2): L(t) <= exp(-sqrt(lambda0/2) t) Delta(0).H(0) Delta(0)",
            "one mode, H = lambda0 = 0.1, b = 0.1 sqrt 2, t <= 400",
            printed,
            exponent=bounds.heavy_ball_rate(np.sqrt(2 * lam0**2), lam0),
            claimed=np.sqrt(lam0 / 2),
        ),
        bound(
            "b = sqrt(2 lambda0), constant H >= lambda0/2: L(t) <= (4/lambda0) exp(-sqrt(lambda0/2) t) L^(0)",
            f"modes lambda >= lambda0/2; and, moving kernel, {setting.on_points} at m = {setting.wide}",
            max(corrected, network),
            modes=corrected,
            network=network,
            network_times_checked=len(times[held]),
        ),
        every(
            "(1 + alpha t)^2 e^{-2 alpha t} L(0) for H >= lambda0/2; 2 e^{-sqrt(2 lambda0) t} L(0) for H >= lambda0; both attained",
            "modes lambda from lambda0/2, or lambda0, to 1e4 times that",
            {
                "first": critical <= 1 + 1e-9,
                "first attained": critical > 1 - 1e-9,
                "second": double <= 1 + 1e-9,
                "second attained": double > 0.99,
            },
            1e-2,
            ratios=[critical, double],
        ),
    )


@claim(
    "eq-3.4",
    section="3",
    kind="bound",
    figure="three_flows",
    note="""Delta.H Delta = 2 L^, so the displayed equality is off by two. At t = 0 the second form demands L(0) <= L^(0), while
    L(0)/L^(0) reaches 1/lambda_min. By hand, n = 1, H = 1/2, b = 1: phi = e^{-t/2}(cos(t/2) + sin(t/2)), and the
    first form fails at sin t = 3/5 with ratio (8/5) e^{-0.3218} = 1.16. Best constant: sup (1 + s)^2 e^{-s} = 4/e at
    s = 1 gives 8/(e lambda0).""",
)
def eq_3_4(setting: Setting):
    lam0, ts = 0.5, np.concatenate([[0.0, np.arcsin(0.6)], np.linspace(0.01, 20, 510)])
    run = frozen(HeavyBall(1.0), [lam0], [1.0], ts)
    ratios = {
        reading: float(np.max(run.loss / bounds.theorem_2_printed(ts, lam0, run.pseudo_loss[0], reading)))
        for reading in ("quadratic form", "pseudo-loss")
    }
    corrected = theorem_2_ratio(setting, lambda t, lam: bounds.theorem_2_corrected(t, lam0, 0.5 * lam), lam0, lam0 / 2)
    best = theorem_2_ratio(setting, lambda t, lam: bounds.theorem_2_best(t, lam0, 0.5 * lam), lam0, lam0 / 2)
    return (
        every(
            "L(t) <= e^{-sqrt(lambda0/2) t} Delta.H Delta = e^{-sqrt(lambda0/2) t} L^(0)",
            ONE,
            {
                **{f"bound read as {reading}": ratio <= 1 + 1e-9 for reading, ratio in ratios.items()},
                "Delta.H Delta = L^": abs(2 * run.pseudo_loss[0] - run.pseudo_loss[0]) < 1e-12,
            },
            largest_ratio=ratios,
        ),
        bound(
            "L(t) <= (4/lambda0) e^{-sqrt(lambda0/2) t} L^(0) for constant H >= lambda0/2",
            "modes lambda >= lambda0/2, lambda0 = 1/2",
            corrected,
        ),
        attained("the best constant is 8/(e lambda0)", "the same; met at H = lambda0/2, t = 1/alpha", best, 1e-3),
    )


@claim(
    "remark-rate-comparison",
    section="3",
    kind="rate",
    note="""sqrt(lambda0/2) > lambda0 iff lambda0 < 1/2: equality at n = 1, and the other way round for inputs of norm 2. The
    comparison depends on units (t = k eta against t = k sqrt eta). Per iteration the guarantees are eta lambda0 and
    sqrt(eta lambda0/2); at eta ~ 1/lambda_max that is 1/kappa against 1/sqrt(2 kappa): this square root is what
    momentum gains.""",
)
def remark_rate_comparison(setting: Setting):
    lam0s = {"n = 1, |x| = 1": 0.5, "n = 1, |x| = 2": 2.0, setting.data.name: float(setting.eigen[0][0])}
    grid = np.linspace(0.01, 2.0, 200)
    gains = {}
    for kappa in (10.0, 100.0, 1000.0):
        eta = 1 / kappa  # lambda_max = kappa, lambda_min = 1
        b = np.sqrt(2 * 1.0)
        h = np.sqrt(eta)
        method, _ = HeavyBall(b).discretize(float(h))
        gains[f"{kappa:g}"] = np.log(radius([1, -(1 + method.beta - method.eta), method.beta])) / np.log(1 - eta)
    order, _ = slope([10.0, 100.0, 1000.0], list(gains.values()))
    return (
        every("sqrt(lambda0/2) > lambda0", ", ".join(lam0s), {name: np.sqrt(v / 2) > v for name, v in lam0s.items()}, lambda0=lam0s),
        every(
            "sqrt(lambda0/2) > lambda0 iff lambda0 < 1/2",
            "lambda0 = 0.01, 0.02, ..., 2",
            {"equivalent": np.all((np.sqrt(grid / 2) > grid * (1 + 1e-12)) == (grid < 0.5 - 1e-9))},
        ),
        within(
            "per iteration at eta = 1/lambda_max heavy ball gains a factor of order sqrt(kappa) over gradient descent",
            "kappa = 10, 100, 1000",
            order,
            0.45,
            0.55,
            rate_ratio_by_kappa=gains,
        ),
    )


@claim(
    "remark-lambda0-half",
    section="3",
    kind="bound",
    note="""tr H_inf = n/2 gives lambda0 <= 1/2, with equality iff H_inf = 1/2 I, that is iff every pair of inputs is orthogonal
    or antipodal; n = 1 included. Norms other than one scale it: |x| = 2 gives 2.""",
)
def remark_lambda0_half(setting: Setting):
    rng = np.random.default_rng(3)
    near = np.eye(3) + 0.05 * rng.standard_normal((3, 3))
    sets = {
        "one unit input": np.eye(2)[:1],
        "orthonormal basis of R^3": np.eye(3),
        "{+-e_i}, R^2": np.concatenate([np.eye(2), -np.eye(2)]),
        "nearly orthogonal, R^3": near / np.linalg.norm(near, axis=1, keepdims=True),
        setting.data.name: setting.X,
    }
    found = {name: float(np.linalg.eigvalsh(infinite_kernel(Z))[0]) for name, Z in sets.items()}
    flat = {name: bool(np.all((np.abs(Z @ Z.T) < 1e-12) | (np.abs(np.abs(Z @ Z.T) - 1) < 1e-12))) for name, Z in sets.items()}
    return (
        every("lambda0 < 1/2", "named sets", {name: v < 0.5 - 1e-12 for name, v in found.items()}, lambda0=found),
        every("unit inputs: lambda0 <= 1/2", "named sets", {name: v <= 0.5 + 1e-12 for name, v in found.items()}, 1e-12, lambda0=found),
        every(
            "with equality iff every pair is orthogonal or antipodal",
            "named sets",
            {name: (v > 0.5 - 1e-12) == flat[name] for name, v in found.items()},
            1e-12,
        ),
    )


@claim(
    "remark-oscillation",
    section="3",
    kind="rate",
    figure="three_flows",
    note="""L' = sum c_k^2 phi_k phi_k'. If b >= 2 sqrt(lambda_max) every phi_k decreases without changing sign, so L is monotone
    for every Delta(0); if b < 2 sqrt(lambda_max) the top mode crosses zero and comes back, so L is not monotone for
    Delta(0) along it. b = sqrt(2 lambda0) < 2 sqrt(lambda0) oscillates for every kernel H >= lambda0.""",
)
def remark_oscillation(setting: Setting):
    values, c = setting.eigen
    top = values[-1]
    ts = np.linspace(0, 40 / np.sqrt(top), 2048)

    def rises(b, coefficients):
        run = frozen(HeavyBall(b), values, coefficients, ts)
        return float(np.max(np.diff(run.loss)) / run.loss[0])

    along_top = np.where(np.arange(values.size) == values.size - 1, 1.0, 0.0)
    rng = np.random.default_rng(4)
    over = max(rises(2 * np.sqrt(top) * 1.0001, k) for k in [c, along_top, *rng.standard_normal((4, values.size))])
    under = frozen(HeavyBall(2 * np.sqrt(top) * 0.7), [top], [1.0], ts)
    rise = float(np.max(np.diff(under.loss)))
    paper = rises(bounds.paper_friction(values[0]), c)
    return (
        every(
            "heavy ball may have non-monotone losses",
            f"{setting.on_kernel}, b = sqrt(2 lambda0)",
            {"the loss rises": paper > 1e-9},
            largest_rise=paper,
        ),
        None,
        every(
            "L is monotone for every Delta(0) iff b >= 2 sqrt(lambda_max)",
            setting.on_kernel,
            {"monotone just above": over <= 1e-14, "not monotone at 0.7 of it": rise > 0},
            1e-14,
            largest_rise_above=over,
            largest_rise_below=rise,
        ),
    )

"""Section 3: the heavy ball, its flow, and the remarks on friction, rate and oscillation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np

from ...method import HeavyBall, heavy_ball
from ...method.base import Number
from ...network.model import outputs
from ...theory import bounds
from ..algebra import symbols
from ..check import Forms, claim, derived, every, identity, undefined, within
from ..drawing import against, drawing, line, panel, points, theory
from .fits import slope
from .modes import exponent, frozen, radius
from .setting import Setting, predictions

HALF = Fraction(1, 2)


@claim(
    "eq-3.1",
    section="3",
    kind="definition",
    fault="hypothesis",
    note=r"""On a mode with $x = \eta\lambda$: $z^2 - (1 + \beta - x) z + \beta = 0$, stable iff
    $0 < x < 2(1 + \beta)$ and $\beta < 1$. At $\beta = 1$ the product of the roots is 1: nothing
    is lost. So $\beta$ lies in $[0, 1)$, not [0, 1].""",
)
def eq_3_1(setting: Setting) -> Forms:
    betas = np.linspace(0, 1, 11)

    def root(beta: float, share: float) -> float:
        return radius([1, (2 * share - 1) * (1 + beta), beta])  # at this share of the limit

    largest = [max(root(beta, share) for share in np.linspace(0.01, 0.99, 20)) for beta in betas]
    closed, opened = max(largest), max(largest[:-1])
    beyond = min(root(beta, 1.001) for beta in betas)
    rng = setting.rng(0)
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
            r"$w(t+1) = w(t) - \eta\partial L/\partial w + \beta(w(t) - w(t-1))$ with $\beta$ "
            r"in $[0, 1]$ (read: it converges for every such $\beta$ at small $\eta$)",
            "one mode, x over its stable range, beta = 0, 0.1, ..., 1",
            {"largest root inside the unit circle": closed < 1 - 1e-9},
            largest_root=closed,
        ),
        every(
            r"the same for $\beta$ in $[0, 1)$",
            "the same; and twenty steps on a random quadratic against the recursion",
            {"largest root inside the unit circle": opened < 1, "same iterates": error < 1e-12},
            1e-12,
            largest_root=opened,
            recursion_error=error,
        ),
        every(
            r"stable iff $x < 2(1 + \beta)$",
            "the same",
            {"stable below it": opened < 1, "unstable above it": beyond > 1},
            root_beyond=beyond,
        ),
        drawing(
            r"Largest root of the heavy ball over its stable range of $\eta\lambda$: on the "
            r"unit circle at $\beta = 1$.",
            panel(
                "beta",
                "largest |z|",
                points(betas, largest),
                theory(betas, np.ones_like(betas), "unit circle"),
            ),
        ),
    )


def _order(
    make: Callable,
    offset: float,
    hs: np.ndarray,
    lam: float = 1.0,
    b: float = 0.8,
    until: float = 4.0,
) -> tuple[float, list[float]]:
    """Order in h of the heavy ball's iterates against the flow's mode: sup over t <= `until`, less
    the start."""
    errors = []
    for h in hs:
        eta, beta = make(h, b)
        steps = round(until / h)
        w = last = 1.0
        track = []
        for _ in range(steps):
            w, last = w - eta * lam * w + beta * (w - last), w
            track.append(w)
        exact = frozen(HeavyBall(b), [lam], [1.0], (np.arange(1, steps + 1) + offset) * h).residual[
            :, 0
        ]
        errors.append(float(np.abs(np.array(track) - exact).max()))
    return slope(hs, errors)[0], errors


@claim(
    "eq-3.2",
    section="3",
    kind="rate",
    experiment="discrete_vs_flow",
    note=r"""$h = \sqrt{\eta}$. $\beta = 1 - bh$, $\exp(-bh)$ and $(1 - bh/2)/(1 + bh/2)$ are all
    of first order from a cold start $w_{-1} = w_0$. Second order: central differences, $\beta =
    (1 - bh/2)/(1 + bh/2), \eta = h^2/(1 + bh/2)$, a cold start being the flow at $t = h/2$.""",
)
def eq_3_2(setting: Setting) -> Forms:
    hs = 0.1 / 2.0 ** np.arange(5)
    betas: dict[str, Callable] = {
        "1 - bh": lambda bh: 1 - bh,
        "exp(-bh)": lambda bh: np.exp(-bh),
        "(1 - bh/2)/(1 + bh/2)": lambda bh: (1 - bh / 2) / (1 + bh / 2),
    }
    naive, (plain, *_) = zip(
        *(_order(lambda h, b, of=of: (h**2, of(b * h)), 0.0, hs) for of in betas.values()),
        strict=True,
    )

    def centred(h: float, b: float) -> tuple[Number, Number]:
        method, _ = HeavyBall(b).discretize(float(h))
        return method.eta, method.beta

    order, errors = _order(centred, 0.5, hs)
    return (
        every(
            r"(3.1) tends to (3.2), $t = k \sqrt{\eta}$",
            "one mode, lambda = 1, b = 0.8, t = 4",
            {
                f"order 1, beta = {name}": 0.8 < v < 1.2
                for name, v in zip(betas, naive, strict=True)
            },
            0.2,
            orders=dict(zip(betas, naive, strict=True)),
        ),
        None,
        within(
            r"with $\eta = h^2/(1 + bh/2), \beta = (1 - bh/2)/(1 + bh/2), t = (k + 1/2) h$ "
            "the order is 2",
            "the same",
            order,
            1.8,
            2.2,
            errors=errors,
        ),
        drawing(
            "Iterates against the flow, one mode: order 1 from $t = kh$, order 2 from the "
            "second-order map at $t = (k + 1/2)h$.",
            against(
                "h",
                "sup |w_k - flow|",
                {"beta = 1 - bh": (hs, plain, 1.0), "second-order map": (hs, errors, 2.0)},
            ),
        ),
    )


@claim(
    "eq-3.3",
    section="3",
    kind="identity",
    fault="notation",
    note=r"""$J$ is defined nowhere; if it were the Jacobian $\partial f/\partial w$ its
    derivative would vanish almost everywhere and no neuron would move. The force is $\partial
    L/\partial w_r = (\partial f/\partial w_r)^\top (f - y)$.""",
)
def eq_3_3(setting: Setting) -> Forms:
    net, points = setting.network(64, 1), setting.points
    gradient = jax.grad(lambda w: 0.5 * jnp.sum((predictions(net, w, points.X) - points.y) ** 2))(
        net.hidden
    )
    force = jax.vjp(lambda w: predictions(net, w, points.X), net.hidden)[1](
        outputs(net, points.X) - points.y
    )[0]
    return (
        undefined(
            r"$\ddot w_r + \sqrt{2 \lambda_0} \dot w_r + \partial J/\partial w_r (f - y) = 0$",
            "any",
            "the paper does not define $J$",
        ),
        identity(
            r"the force is $(\partial f/\partial w_r)^\top (f - y) = \partial L/\partial w_r$",
            f"{setting.on_points}, m = 64",
            float(jnp.abs(force - gradient).max()),
            1e-12,
        ),
    )


@claim(
    "remark-friction-choice",
    section="3",
    kind="identity",
    fault="constant",
    note=r"""With $\mu = \lambda_0/2$ the paper's friction is $b = \sqrt{2 \lambda_0} = 2
    \sqrt{\mu}$: twice the square root of the strong convexity coefficient. $b$ and
    $\sqrt{\lambda}$ are both 1/time, so $2 \mu$ has the wrong unit; the two agree only at
    $\lambda_0 = 2$. Theorem 2's $b = \sqrt{2 \lambda_0^2}$ has the wrong unit too.""",
)
def remark_friction_choice(setting: Setting) -> Forms:
    (lam0,) = symbols("lambda0")
    squared, grid = 2 * lam0, np.linspace(0.01, 3, 200)
    program = abs(float(bounds.paper_friction(0.3)) ** 2 - 0.6) < 1e-15
    return (
        derived(
            r"$b = \sqrt{2 \lambda_0}$ is twice the strong convexity coefficient $\lambda_0/2$",
            "b^2 as a polynomial in lambda0",
            {"b^2 = (2 lambda0/2)^2": squared == (2 * (lam0 / 2)) ** 2},
        ),
        derived(
            r"$b = \sqrt{2 \lambda_0}$ is twice its square root",
            "the same",
            {"b^2 = 4 lambda0/2": squared == 4 * (lam0 / 2), "the program's": program},
        ),
        drawing(
            "The paper's friction is twice the square root of the strong convexity "
            r"coefficient $\mu = \lambda_0/2$, not twice $\mu$.",
            panel(
                "lambda0",
                "b",
                line(grid, bounds.paper_friction(grid), "sqrt(2 lambda0)"),
                theory(grid, 2 * np.sqrt(grid / 2), "2 sqrt(mu)"),
                line(grid, grid, "2 mu"),
            ),
        ),
    )


@claim(
    "footnote-2-fastest",
    section="3",
    kind="rate",
    fault="hypothesis",
    under="constant kernel",
    note=r"""The exponent of $L$ is $r(b) = b$ up to $b = 2 \sqrt{\lambda_{\min}}$ and $b -
    \sqrt{b^2 - 4 \lambda_{\min}}$ beyond: best at $b = 2 \sqrt{\lambda_{\min}}, r = 2
    \sqrt{\lambda_{\min}}$. The paper's $b$ is the best one for the worst kernel it allows,
    $\lambda_{\min} = \lambda_0/2$; if $\lambda_{\min} = \lambda_0$ it reaches $1/\sqrt{2}$ of
    the best.""",
)
def footnote_2(setting: Setting) -> Forms:
    lam0 = 0.5
    grid = np.linspace(0.3, 4.0, 371) * np.sqrt(lam0)
    best = grid[np.argmax(bounds.heavy_ball_rate(grid, lam0))]
    paper = bounds.paper_friction(lam0)
    measured = {
        f"{b:.4g}": [exponent(b, lam0), float(bounds.heavy_ball_rate(b, lam0))]
        for b in (0.3, paper, bounds.best_friction(lam0) * 0.999, 2.0, 3.0)
    }
    ratio = exponent(paper, lam0) / exponent(bounds.best_friction(lam0) * 0.999, lam0)
    shares = (0.8, 0.9, 1.0, 1.1, 1.25)
    worst = {
        f"{share:g}": min(exponent(share * paper, lam) for lam in (lam0 / 2, lam0, 10 * lam0))
        for share in shares
    }
    frictions = np.array([float(b) for b in measured])
    return (
        within(
            r"$b = \sqrt{2 \lambda_0}$ is the fastest choice ($\lambda_{\min} = \lambda_0$)",
            "one mode, H = lambda0 = 1/2",
            ratio,
            0.99,
            1.01,
            exponent_ratio_to_best=ratio,
            best_b=best,
            paper_b=paper,
        ),
        every(
            r"it is the fastest in the worst case $H \ge \lambda_0/2$",
            "the smallest measured exponent over H = lambda0/2, lambda0, 10 lambda0; lambda0 = "
            "1/2, b = 0.8, 0.9, 1, 1.1, 1.25 times it",
            {f"slower at {k} b": v < worst["1"] for k, v in worst.items() if k != "1"},
            0.1,
            worst_exponents=worst,
        ),
        every(
            r"$r(b) = b - \sqrt{b^2 - 4 \lambda_{\min}}$ beyond $b = 2 \sqrt{\lambda_{\min}}, b$ "
            "before",
            "one mode, measured exponents",
            {f"r(b) at b = {b}": abs(m / p - 1) < 0.06 for b, (m, p) in measured.items()},
            0.06,
            measured_and_predicted=measured,
        ),
        drawing(
            r"Exponent of $L$ against the friction, $H = \lambda_0 = 1/2$: the formula, and what "
            "is measured. The paper's $b$ is 1, the best is 1.41.",
            panel(
                "b",
                "exponent of L",
                points(frictions, [m for m, _ in measured.values()], "measured"),
                theory(grid, bounds.heavy_ball_rate(grid, lam0), "r(b)"),
            ),
        ),
    )


@claim(
    "remark-rate-comparison",
    section="3",
    kind="rate",
    fault="hypothesis",
    note=r"""$\sqrt{\lambda_0/2} > \lambda_0$ iff $\lambda_0 < 1/2$: equality at $n = 1$, and the
    other way round for inputs of norm 2. The comparison depends on units ($t = k\eta$ against $t
    = k\sqrt\eta$). Per iteration the guarantees are $\eta\lambda_0$ and
    $\sqrt{\eta\lambda_0/2}$; at $\eta\sim 1/\lambda_{\max}$ that is $1/\kappa$ against
    $1/\sqrt{2 \kappa}$: this square root is what momentum gains.""",
)
def remark_rate_comparison(setting: Setting) -> Forms:
    lam0s = {
        "n = 1, |x| = 1": 0.5,
        "n = 1, |x| = 2": 2.0,
        setting.data.name: float(setting.eigen[0][0]),
    }
    (s,), grid = symbols("lambda0"), np.linspace(0.01, 2.0, 200)
    gains = {}
    for kappa in (10.0, 100.0, 1000.0):
        eta = 1 / kappa  # lambda_max = kappa, lambda_min = 1
        method, _ = HeavyBall(np.sqrt(2.0)).discretize(float(np.sqrt(eta)))
        roots = radius([1, -(1 + method.beta - method.eta), method.beta])
        gains[f"{kappa:g}"] = np.log(roots) / np.log(1 - eta)
    order, _ = slope([10.0, 100.0, 1000.0], list(gains.values()))
    return (
        every(
            r"$\sqrt{\lambda_0/2} > \lambda_0$",
            ", ".join(lam0s),
            {name: np.sqrt(v / 2) > v for name, v in lam0s.items()},
            lambda0=lam0s,
        ),
        derived(
            r"$\sqrt{\lambda_0/2} > \lambda_0$ iff $\lambda_0 < 1/2$",
            "the difference of the squares as a polynomial in lambda0",
            {"lambda0/2 - lambda0^2 = lambda0 (1/2 - lambda0)": s / 2 - s**2 == s * (HALF - s)},
        ),
        within(
            r"per iteration at $\eta = 1/\lambda_{\max}$ heavy ball gains a factor of order "
            r"$\sqrt{\kappa}$ over gradient descent",
            "kappa = 10, 100, 1000",
            order,
            0.45,
            0.55,
            rate_ratio_by_kappa=gains,
        ),
        drawing(
            r"Left: the two guarantees cross at $\lambda_0 = 1/2$. Right: per iteration, what "
            "the heavy ball gains over gradient descent.",
            panel(
                "lambda0",
                "guaranteed exponent",
                line(grid, np.sqrt(grid / 2), "sqrt(lambda0/2)"),
                line(grid, grid, "lambda0"),
            ),
            against(
                "kappa",
                "ratio of rates per iteration",
                {"measured": ([10.0, 100.0, 1000.0], list(gains.values()), 0.5)},
            ),
        ),
    )


@claim(
    "remark-oscillation",
    section="3",
    kind="rate",
    under="constant kernel",
    experiment="three_flows",
    note=r"""$\dot L = \sum c_k^2 \phi_k \dot\phi_k$. If $b \ge 2 \sqrt{\lambda_{\max}}$ every
    $\phi_k$ decreases without changing sign, so $L$ is monotone for every $\Delta(0)$; if $b < 2
    \sqrt{\lambda_{\max}}$ the top mode crosses zero and comes back, so $L$ is not monotone for
    $\Delta(0)$ along it. $b = \sqrt{2 \lambda_0} < 2 \sqrt{\lambda_0}$ oscillates for every
    kernel $H \ge \lambda_0$.""",
)
def remark_oscillation(setting: Setting) -> Forms:
    values, c = setting.eigen
    top = values[-1]
    ts = np.linspace(0, 40 / np.sqrt(top), 2048)

    def rises(b: float, coefficients: np.ndarray) -> float:
        run = frozen(HeavyBall(b), values, coefficients, ts)
        return float(np.max(np.diff(run.loss)) / run.loss[0])

    along_top = np.where(np.arange(values.size) == values.size - 1, 1.0, 0.0)
    rng = setting.rng(4)
    over = max(
        rises(2 * np.sqrt(top) * 1.0001, k)
        for k in [c, along_top, *rng.standard_normal((4, values.size))]
    )
    share = 0.999  # the mode then returns after half a turn, 70/sqrt(lambda_max), far down
    late = np.linspace(0, 100 / np.sqrt(top), 2048)
    under = frozen(HeavyBall(2 * np.sqrt(top) * share), [top], [1.0], late).loss
    rise = float(np.max(np.diff(under) / under[:-1]))
    paper = rises(bounds.paper_friction(values[0]), c)
    curves = [
        line(
            np.sqrt(top) * ts,
            (r := frozen(HeavyBall(f * np.sqrt(top)), [top], [1.0], ts)).loss / r.loss[0],
            f"b = {f:g} sqrt(lambda_max)",
        )
        for f in (0.3, 1.4, 2.0)
    ]
    return (
        every(
            "heavy ball may have non-monotone losses",
            f"{setting.on_kernel}, b = sqrt(2 lambda0)",
            {"the loss rises": paper > 1e-9},
            largest_rise=paper,
        ),
        None,
        every(
            r"$L$ is monotone for every $\Delta(0)$ iff $b \ge 2 \sqrt{\lambda_{\max}}$",
            setting.on_kernel,
            {"monotone at 1.0001 of it": over <= 1e-14, "not monotone at 0.999": rise > 0},
            1e-3,
            largest_rise_above=over,
            largest_relative_rise_below=rise,
        ),
        drawing(
            r"Loss along the top mode: not monotone below $b = 2 \sqrt{\lambda_{\max}}$.",
            panel(
                "sqrt(lambda_max) t",
                "L(t)/L(0)",
                *(dataclasses.replace(curve, x=curve.x[:500], y=curve.y[:500]) for curve in curves),
            ),
        ),
    )

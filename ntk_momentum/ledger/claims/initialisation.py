"""Lemmas 4 and 5 and the size of the error at the start: what the random initialisation gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ...theory import bounds
from ..algebra import symbols
from ..check import Forms, claim, every, rarely
from ..drawing import drawing, panel, points, theory
from .fits import brackets
from .pairs import ANGLES, DELTA, FAMILY, pair_eigenvalues, pair_kernels, pair_lambda_min
from .setting import Setting

Draw = Callable[[int, int], tuple[np.ndarray, np.ndarray]]
"""(width, trials) -> (||H(0) - H_inf||_2, lambda_min(H(0))), each (trials,)."""


def _inputs(setting: Setting) -> np.ndarray:
    return np.asarray(setting.points.X).reshape(setting.points.n, -1)


def _patterns(setting: Setting, width: int, rng: np.random.Generator) -> np.ndarray:
    """1{w_r . x_i >= 0} of `width` random neurons on `points`, (width, n)."""
    X = _inputs(setting)
    return (rng.standard_normal((width, X.shape[1])) @ X.T >= 0).astype(np.float32)


def _kernels(setting: Setting, width: int, trials: int, stream: int) -> Iterator[np.ndarray]:
    """Kernels H(0) of `points` for the paper's initialisation."""
    rng, X = setting.rng(stream), _inputs(setting)
    for _ in range(trials):
        S = _patterns(setting, width, rng)
        yield X @ X.T * (S.T @ S) / width


def _on_pair(theta: float, rng: np.random.Generator) -> Draw:
    """Draws for two inputs at angle theta, by their exact law."""

    def draw(width: int, trials: int) -> tuple[np.ndarray, np.ndarray]:
        gap, middle = pair_eigenvalues(theta)[1], 0.5 - theta / (2 * np.pi)
        a, d, both = pair_kernels(theta, float(width), trials, rng).T - np.c_[[0.5, 0.5, middle]]
        far = np.abs((a + d) / 2) + np.sqrt(((a - d) / 2) ** 2 + ((1 - gap) * both) ** 2)
        return far, pair_lambda_min(theta, float(width), trials, rng)

    return draw


def _on_points(setting: Setting) -> Draw:
    def draw(width: int, trials: int) -> tuple[np.ndarray, np.ndarray]:
        found = [
            (np.linalg.norm(H - setting.points_kernel, 2), np.linalg.eigvalsh(H)[0])
            for H in _kernels(setting, width, trials, 12)
        ]
        return np.array(found).T[0], np.array(found).T[1]

    return draw


def _clouds(setting: Setting) -> dict[str, tuple[float, np.ndarray]]:
    """For each case lambda0 and draws of sqrt(m) (||H(0) - H_inf||, lambda0 - lambda_min(H(0)))
    in the limit of a wide net, (draws, 2): H(0) - H_inf is then Gaussian with one neuron's
    covariance, and lambda_min moves by its quadratic form in the lowest eigenvector."""
    rng, draws, cases = setting.rng(18), 4000, {}
    gram, S = _inputs(setting) @ _inputs(setting).T, _patterns(setting, 40_000, rng)
    laws = {setting.points.name: (setting.points_lam0, gram, S, np.full(len(S), 1 / len(S)))}
    for theta in ANGLES:  # the four patterns of two inputs, with their probabilities
        p, cos = theta / (2 * np.pi), np.cos(theta)
        laws[f"angle {theta:g}"] = (
            pair_eigenvalues(theta)[0],
            np.array([[1.0, cos], [cos, 1.0]]),
            np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], np.float32),
            np.array([0.5 - p, p, p, 0.5 - p]),
        )
    for name, (lam0, G, S, weight) in laws.items():
        upper = np.triu_indices(len(G))
        terms = G[upper] * S[:, upper[0]] * S[:, upper[1]]
        mean = weight @ terms
        root = np.linalg.svd((terms - mean) * np.sqrt(weight)[:, None], full_matrices=False)
        noise = rng.standard_normal((draws, len(root[1]))) * root[1] @ root[2]
        E = np.zeros((draws, *G.shape))
        E[:, upper[0], upper[1]] = E[:, upper[1], upper[0]] = noise
        H = np.zeros_like(G)
        H[upper] = H.T[upper] = mean
        low = np.linalg.eigh(H)[1][:, 0]
        cases[name] = (
            lam0,
            np.stack([np.linalg.norm(E, 2, axis=(1, 2)), -(E @ low) @ low], axis=1),
        )
    return cases


@claim(
    "lemma-4",
    section="A",
    kind="probability",
    under="network",
    experiment="concentration",
    note=r"""Each entry is a mean of $m$ independent numbers in an interval of length $|x_i\cdot
    x_j| \le 1$. Hoeffding and a union over $n^2$ entries give $\|H(0) - H^\infty\|_F \le n
    \sqrt{\log(2n^2/\delta)/(2m)}$, hence $m \ge (8 n^2/\lambda_0^2) \log(2 n^2/\delta)$ for
    $\lambda_0/4$, and $\lambda_{\min} \ge 3 \lambda_0/4$ with it. For $\lambda_{\min}$ alone:
    $H(0)$ is a mean of independent positive matrices $D_r X X^\top D_r$ of norm $\le \|X\|^2$,
    and matrix Chernoff at $1 - 1/4$ gives $n \exp(-m \lambda_0/(32 \|X\|^2)) \le \delta$. How
    wide it must be in fact: $\sqrt{m} (H(0) - H^\infty)$ tends to a Gaussian matrix $G$ with the
    covariance of one neuron, so the failure probability is $\delta$ at $m = 16 q^2/\lambda_0^2,
    q$ the $1 - \delta$ quantile of $\|G\|$, and for $\lambda_{\min}$ that of $-v\cdot Gv$, $v$
    the lowest eigenvector of $H^\infty$.""",
)
def lemma_4(setting: Setting) -> Forms:
    n, trials, rng = setting.points.n, 5 * setting.sizes.trials, setting.rng(11)
    failed: dict[str, int] = {}
    counts: dict[str, int] = {}
    asked, needed, sharp, frequencies = {}, {}, {}, {}
    for name, (lam0, cloud) in _clouds(setting).items():
        on_points = name == setting.points.name
        draw = _on_points(setting) if on_points else _on_pair(float(name.split()[1]), rng)
        gram = (
            2 - pair_eigenvalues(float(name.split()[1]))[1]
            if not on_points
            else float(np.linalg.norm(_inputs(setting), 2) ** 2)
        )
        size = n if on_points else 2
        asked[name] = [
            float(np.ceil(bounds.lemma_4_width(size, DELTA, lam0))),
            float(np.ceil(bounds.chernoff_width(size, DELTA, lam0, gram))),
        ]
        if not on_points or asked[name][0] * n < 4_000_000:  # wider ones take too long to draw
            counts[name] = trials if not on_points else 40
            far, low = draw(round(asked[name][0]), counts[name])
            failed[name] = int(np.sum((far > lam0 / 4) | (low < 0.75 * lam0)))
        needed[name] = [float(16 * np.quantile(part, 1 - DELTA) ** 2 / lam0**2) for part in cloud.T]
        for part, event in enumerate(("norm", "lambda_min")):
            # few neurons are not Gaussian, and too many take too long to draw
            if on_points and (part == 1 or needed[name][0] * n > 100_000):
                continue
            found = {}
            for factor, share in (("half", 0.5), ("twice", 2.0)):
                outcome = draw(max(round(share * needed[name][part]), 1), trials)
                missed = outcome[0] > lam0 / 4 if part == 0 else outcome[1] < 0.75 * lam0
                found[factor] = int(np.sum(missed))
            sharp[f"{event}, {name}"] = brackets(found, trials, DELTA)
            frequencies[f"{event}, {name}"] = {k: v / trials for k, v in found.items()}
    family = [name for name in asked if name != setting.points.name]
    lam0s = [pair_eigenvalues(theta)[0] for theta in ANGLES]
    return (
        rarely(
            r"$m = (8 n^2/\lambda_0^2) \log(2 n^2/\delta)$, which is $\Omega((n^2/\lambda_0^2) "
            r"\log(n^2/\delta))$: $\|H(0) - H^\infty\|_2 \le \lambda_0/4$ and "
            r"$\lambda_{\min}(H(0)) \ge 3 \lambda_0/4$ with probability $1 - \delta$",
            f"{FAMILY}; {setting.on_points}",
            failed,
            counts,
            DELTA,
        ),
        None,
        every(
            r"the failure probability is $\delta$ at $m = 16 q^2/\lambda_0^2, q$ the $1 - \delta$ "
            r"quantile of $\|G\|$, and of $-v\cdot Gv$ for $\lambda_{\min}$ alone, $G$ Gaussian "
            "with one neuron's covariance",
            f"{FAMILY}; {setting.on_points}; {trials} draws at half and at twice that width, 95% "
            "intervals above and below delta",
            sharp,
            2.0,
            failure_frequencies=frequencies,
            widths_needed=needed,
            widths_asked_by_Hoeffding_and_Chernoff=asked,
            asked_over_needed={
                name: [a / b for a, b in zip(asked[name], needed[name], strict=True)]
                for name in asked
            },
        ),
        drawing(
            "Widths on the family: what Lemma 4 and matrix Chernoff ask for, and what is needed.",
            panel(
                "lambda0",
                "width",
                points(lam0s, [asked[name][0] for name in family], "Lemma 4"),
                points(lam0s, [asked[name][1] for name in family], "matrix Chernoff"),
                theory(lam0s, [needed[name][0] for name in family], "needed, norm"),
                theory(lam0s, [needed[name][1] for name in family], "needed, lambda_min"),
                log="xy",
            ),
        ),
    )


def _drift(setting: Setting, radius: float, width: int, trials: int) -> np.ndarray:
    """(trials, 2): bounds of the largest ||H - H(0)||_2 over all weights within `radius` of their
    start.

    Above: every pair that can change is counted, in Frobenius' norm. Below: an attack, each neuron
    switched off on its nearest active sample if that is within reach.
    """
    rng, X = setting.rng(15), _inputs(setting)
    gram, found = X @ X.T, []
    for _ in range(trials):
        W = rng.standard_normal((width, X.shape[1]))
        z = W @ X.T
        near = np.abs(z) <= radius
        either = width - (~near).T.astype(float) @ (~near).astype(float)
        height = np.where(z > 0, z, np.inf)
        nearest = height.argmin(axis=1)
        least = height[np.arange(width), nearest]
        step = np.where(least <= radius / (1 + 1e-9), least * (1 + 1e-9), 0.0)
        S, S1 = z > 0, (W - step[:, None] * X[nearest]) @ X.T > 0
        change = S1.T.astype(float) @ S1 - S.T.astype(float) @ S
        found.append(
            (
                np.linalg.norm(gram * either / width),
                np.linalg.norm(gram * change / width, 2),
            )
        )
    return np.array(found)


@claim(
    "lemma-5",
    section="A",
    kind="probability",
    fault="hypothesis",
    under="network",
    experiment="lazy_training",
    note=r"""A pair $(r, i)$ can change sign only if $|w_r(0)\cdot x_i| \le R$, which has
    probability at most $2R/\sqrt{2 \pi}$. So $E \sum_{ij} |H_{ij} - H_{ij}(0)| \le 4 n^2
    R/\sqrt{2 \pi}$, and Markov's inequality with probability $\delta$ gives $\lambda_0/4$ at $R
    = c \delta\lambda_0/n^2, c = \sqrt{2 \pi}/16$. The second half, $\lambda_{\min}(H(t)) >
    \lambda_0/2$, needs the width of Lemma 4, which is not among the hypotheses: one neuron is
    inactive on two inputs with probability near $1/2$, and $H$ is then 0. $R$ is conservative:
    its $\delta$ is Markov's, while the number of pairs within reach concentrates, so at a large
    width the true radius does not fall with $\delta$, nor like $n^{-2}$.""",
)
def lemma_5(setting: Setting) -> Forms:
    n, lam0 = setting.points.n, setting.points_lam0
    width = min(int(np.ceil(bounds.lemma_4_width(n, DELTA, lam0))), 200_000)
    R, few = bounds.lemma_5_radius(n, DELTA, lam0), 20
    narrow = np.array([np.linalg.eigvalsh(H)[0] for H in _kernels(setting, 1, 400, 14)])
    moved = _drift(setting, R, width, few)[:, 0]
    start = np.array([np.linalg.eigvalsh(H)[0] for H in _kernels(setting, width, few, 15)])
    expected, d, s, m = symbols("lambda0 delta sqrt(2pi) n")
    # Markov: (4 n^2 R/sqrt(2 pi)) / (lambda0/4) = delta, solved for R
    solved = d * expected * s / 16 / m**2
    factors = 2.0 ** np.arange(3, 12)
    drifts = {f: _drift(setting, f * R, min(width, 20_000), 8) for f in factors}
    kept = max((f for f in factors if (drifts[f][:, 0] < lam0 / 4).all()), default=1.0)
    broken = min((f for f in factors if (drifts[f][:, 1] >= lam0 / 4).all()), default=np.inf)
    widest = setting.crossings[setting.wide]
    real = {
        "displacement over R": max(run.displaced.max() for run in widest) / R,
        "drift over lambda0": max(run.drift.max() for run in widest) / lam0,
    }
    return (
        rarely(
            r"$|w_r - w_r(0)| \le R = c \delta\lambda_0/n^2$ implies $\|H - H(0)\|_2 < "
            r"\lambda_0/4$ and $\lambda_{\min}(H) > \lambda_0/2$ with probability $1 - \delta$",
            f"{setting.on_points}, m = 1 and m = {width}, every neuron moved against it, c = "
            "sqrt(2 pi)/16",
            {
                "drift at Lemma 4's width": int(np.sum(moved >= lam0 / 4)),
                "lambda_min at m = 1": int(np.sum(narrow <= lam0 / 2)),
            },
            {"drift at Lemma 4's width": few, "lambda_min at m = 1": 400},
            DELTA,
            R=R,
            heavy_ball_at_the_largest_width=real,
        ),
        every(
            r"the same at the width of Lemma 4, $c = \sqrt{2 \pi}/16$",
            f"{setting.on_points}, m = {width}, {few} draws, every pair within reach changed",
            {
                "drift below lambda0/4": np.mean(moved >= lam0 / 4) <= DELTA,
                "lambda_min above lambda0/2": np.mean(start - moved <= lam0 / 2) <= DELTA,
                "c by Markov, exactly": 4 * m**2 * solved / s == d * expected / 4,
            },
            DELTA,
            c=np.sqrt(2 * np.pi) / 16,
        ),
        every(
            r"the radius that keeps $\|H - H(0)\|_2 < \lambda_0/4$ is larger than $R$ by the "
            "factor bracketed here",
            f"{setting.on_points}, m = {min(width, 20_000)}, 8 draws each: kept by every motion; "
            "broken by switching off what is near",
            {
                "R is too small by 8 at least": kept >= 8,
                "and by no more than": broken / kept <= 8,
            },
            8.0,
            kept_up_to_this_multiple=kept,
            broken_from_this_multiple=broken,
        ),
        drawing(
            "Neurons moved against $H$ by a multiple of $R$: what no motion exceeds, and what "
            "one does.",
            panel(
                "radius / R",
                "||H - H(0)|| / lambda0",
                *(
                    points(factors, [np.median(drifts[f][:, k]) / lam0 for f in factors], name)
                    for k, name in enumerate(("upper bound", "switching off"))
                ),
                theory(factors, 0.25 + 0 * factors, "1/4"),
                log="xy",
            ),
        ),
    )


@claim(
    "initial-error",
    section="A",
    kind="probability",
    under="network",
    theorem="Lemma 9",
    note=r"""The widths use $|\Delta(0)|^2 = O(n/\delta)$ with probability $1 - \delta$ (Du et
    al.): $E f_i(0)^2 = |x_i|^2/2$, so $E|\Delta(0)|^2 = n/2 + |y|^2$, and Markov. The power of
    $\delta$ is Markov's: $f(0)$ tends to a Gaussian vector with covariance $\Sigma_{ij} =
    \mathbb E[\sigma(w\cdot x_i)\,\sigma(w\cdot x_j)]$, trace $n/2$, so $|\Delta(0)| \le |y| +
    \sqrt{n/2} + \sqrt{2 \|\Sigma\| \log(1/\delta)}$ with probability $1 - \delta$: $\delta$
    enters the widths by its logarithm.""",
)
def initial_error(setting: Setting) -> Forms:
    rng, X, y = setting.rng(19), _inputs(setting), np.asarray(setting.points.y)
    n, width, trials = len(y), 256, 10 * setting.sizes.trials
    mean = n / 2 + float(y @ y)
    found = []
    for _ in range(trials):
        z = np.maximum(rng.standard_normal((width, X.shape[1])) @ X.T, 0.0)
        f = rng.choice([-1.0, 1.0], width) @ z / np.sqrt(width)
        found.append(float(np.sum((f - y) ** 2)))
    squares = np.array(found)
    cos = np.clip(X @ X.T, -1, 1)
    angle = np.arccos(cos)
    sigma = (np.sin(angle) + (np.pi - angle) * cos) / (2 * np.pi)
    top = float(np.linalg.eigvalsh(sigma)[-1])
    deltas = (0.1, 0.01)
    size = {
        d: np.linalg.norm(y) + np.sqrt(n / 2) + np.sqrt(2 * top * np.log(1 / d)) for d in deltas
    }
    error = float(squares.std() / np.sqrt(trials))
    return (
        rarely(
            r"$|\Delta(0)|^2 = O(n/\delta)$ with probability $1 - \delta$: at most $(n/2 + "
            r"|y|^2)/\delta$",
            f"{setting.on_points}, m = {width}",
            {f"delta = {d:g}": int(np.sum(squares > mean / d)) for d in deltas},
            trials,
            deltas[-1],
        ),
        None,
        every(
            r"$E|\Delta(0)|^2 = n/2 + |y|^2$ exactly, and $|\Delta(0)| \le |y| + \sqrt{n/2} + "
            r"\sqrt{2 \|\Sigma\| \log(1/\delta)}$",
            f"{setting.on_points}, m = {width}, {trials} draws, delta = 0.1, 0.01",
            {
                "mean": abs(squares.mean() - mean) < 4 * error,
                **{
                    f"quantile at delta = {d:g}": np.mean(squares > size[d] ** 2) <= d
                    for d in deltas
                },
            },
            4 * error / mean,
            mean=float(squares.mean()),
            expected=mean,
            standard_error=error,
            quantiles={f"{d:g}": float(np.quantile(squares, 1 - d)) for d in deltas},
            bounds={f"{d:g}": [float(size[d] ** 2), mean / d] for d in deltas},
        ),
        drawing(
            r"$|\Delta(0)|^2$ at the start: its quantiles, Markov's bound, and the Gaussian one.",
            panel(
                "delta",
                "|Delta(0)|^2",
                points(
                    [0.5, 0.1, 0.01],
                    [float(np.quantile(squares, 1 - d)) for d in (0.5, 0.1, 0.01)],
                    "measured",
                ),
                theory([0.5, 0.1, 0.01], [mean / d for d in (0.5, 0.1, 0.01)], "Markov"),
                theory(list(deltas), [float(size[d] ** 2) for d in deltas], "Gaussian"),
                log="xy",
            ),
        ),
    )

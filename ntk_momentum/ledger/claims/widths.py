"""Lemmas 4 and 5 and the widths of the three theorems, on families of data sets with lambda0 ->
0."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ...theory import bounds
from ..check import Check, Forms, bound, claim, every, rarely
from ..drawing import Drawing, by_name, drawing, panel, points, theory
from .fits import growth, slope
from .pairs import ANGLES, DELTA, FAMILY, pair_eigenvalues, pair_kernels, pair_lambda_min
from .setting import Setting


def _draw(setting: Setting, width: int, trials: int, seed: int) -> Iterator[np.ndarray]:
    """Kernels H(0) of `points` for the paper's initialisation."""
    rng, X = np.random.default_rng(seed), np.asarray(setting.points.X).reshape(setting.points.n, -1)
    for _ in range(trials):
        S = (rng.standard_normal((width, X.shape[1])) @ X.T >= 0).astype(np.float32)
        yield X @ X.T * (S.T @ S) / width


@claim(
    "lemma-4",
    section="A",
    kind="probability",
    experiment="concentration",
    note="""Each entry is a mean of m independent numbers in an interval of length |x_i.x_j| <= 1.
    Hoeffding and a union over n^2 entries give ||H(0) - H_inf||_F <= n sqrt(log(2n^2/delta)/(2m)),
    hence m >= (8 n^2/lambda0^2) log(2 n^2/delta) for lambda0/4. For lambda_min alone: H(0) is a
    mean of independent positive matrices D_r X X^T D_r of norm <= ||X||^2, and matrix Chernoff at 1
    - 1/4 gives n exp(-m lambda0/(32 ||X||^2)) <= delta.""",
)
def lemma_4(setting: Setting) -> Forms:
    rng, failed, chernoff, widths, trials = (
        np.random.default_rng(11),
        {},
        {},
        {},
        setting.sizes.trials,
    )
    for theta in ANGLES:
        lam0, gap = pair_eigenvalues(theta)
        width = float(np.ceil(bounds.lemma_4_width(2, DELTA, lam0)))
        a, d, both = (
            pair_kernels(theta, width, trials, rng).T
            - np.array([0.5, 0.5, 0.5 - theta / (2 * np.pi)])[:, None]
        )
        norm = np.abs((a + d) / 2) + np.sqrt(((a - d) / 2) ** 2 + ((1 - gap) * both) ** 2)
        failed[f"angle {theta:g}"] = int(np.sum(norm > lam0 / 4))
        smaller = float(np.ceil(bounds.chernoff_width(2, DELTA, lam0, 2 - gap)))
        chernoff[f"angle {theta:g}"] = int(
            np.sum(pair_lambda_min(theta, smaller, trials, rng) < 0.75 * lam0)
        )
        widths[f"{theta:g}"] = [width, smaller]
    n, lam0 = setting.points.n, setting.points_lam0
    width, few, far = int(np.ceil(bounds.lemma_4_width(n, DELTA, lam0))), 40, {}
    if width * n < 4_000_000:  # wider ones take too long to draw; the family stands alone then
        distances = [
            np.linalg.norm(H - setting.points_kernel, 2) for H in _draw(setting, width, few, 12)
        ]
        far[setting.points.name] = int(np.sum(np.array(distances) > lam0 / 4))
    gram_norm = np.linalg.norm(np.asarray(setting.points.X).reshape(n, -1), 2) ** 2
    small = int(np.ceil(bounds.chernoff_width(n, DELTA, lam0, gram_norm)))
    if small * n < 4_000_000:
        smallest = [np.linalg.eigvalsh(H)[0] for H in _draw(setting, small, trials // 4, 13)]
        chernoff[setting.points.name] = int(np.sum(np.array(smallest) < 0.75 * lam0))
    widths[setting.points.name] = [width, small]
    lam0s = [pair_eigenvalues(theta)[0] for theta in ANGLES]
    return (
        rarely(
            (
                "m = Omega((n^2/lambda0^2) log(n^2/delta)): ||H(0) - H_inf||_2 <= "
                "lambda0/4 with probability 1 - delta"
            ),
            f"{FAMILY}, at m = (8 n^2/lambda0^2) log(2 n^2/delta)",
            failed,
            trials,
            DELTA,
        ),
        rarely(
            "explicitly m >= (8 n^2/lambda0^2) log(2 n^2/delta)",
            f"{FAMILY}; {setting.on_points}",
            {**failed, **far},
            {**dict.fromkeys(failed, trials), **dict.fromkeys(far, few)},
            DELTA,
            width_on_points=width,
        ),
        rarely(
            "lambda_min(H(0)) >= 3 lambda0/4 already at m >= 32 (||X||^2/lambda0) log(n/delta)",
            f"{FAMILY}; {setting.on_points}",
            chernoff,
            {**dict.fromkeys(chernoff, trials), setting.points.name: trials // 4},
            DELTA,
            widths_of_both_forms=widths,
        ),
        drawing(
            (
                "Widths of the two forms on the family: Hoeffding asks for lambda0^-2, "
                "matrix Chernoff for lambda0^-1."
            ),
            panel(
                "lambda0",
                "width",
                points(lam0s, [widths[f"{theta:g}"][0] for theta in ANGLES], "Lemma 4"),
                points(lam0s, [widths[f"{theta:g}"][1] for theta in ANGLES], "matrix Chernoff"),
                log="xy",
            ),
        ),
    )


def _worst_drift(setting: Setting, radius: float, width: int, trials: int, seed: int) -> np.ndarray:
    """Upper bounds of ||H - H(0)||_F over all weights within `radius` of their start: every pair
    that can change is counted."""
    rng, X = np.random.default_rng(seed), np.asarray(setting.points.X).reshape(setting.points.n, -1)
    gram, norms = X @ X.T, []
    for _ in range(trials):
        near = np.abs(rng.standard_normal((width, X.shape[1])) @ X.T) <= radius
        either = width - (~near).T.astype(float) @ (~near).astype(float)
        norms.append(np.linalg.norm(gram * either / width))
    return np.array(norms)


@claim(
    "lemma-5",
    section="A",
    kind="probability",
    experiment="lazy_training",
    note="""A pair (r, i) can change sign only if |w_r(0).x_i| <= R, which has probability at most
    2R/sqrt(2 pi). So E sum_ij |H_ij - H_ij(0)| <= 4 n^2 R/sqrt(2 pi), and Markov's inequality with
    probability delta gives lambda0/4 at R = c delta lambda0/n^2, c = sqrt(2 pi)/16. Very
    conservative: the measured radius is far larger, and real trajectories leave R behind while H(t)
    stays close.""",
)
def lemma_5(setting: Setting) -> Forms:
    n, lam0, width = setting.points.n, setting.points_lam0, 4096
    R = bounds.lemma_5_radius(n, DELTA, lam0)
    trials = setting.sizes.trials // 4
    failures = {
        setting.points.name: int(np.sum(_worst_drift(setting, R, width, trials, 14) >= lam0 / 4))
    }
    factors = 2.0 ** np.arange(0, 12)
    holds = [
        f
        for f in factors
        if np.mean(_worst_drift(setting, f * R, width, 40, 15) >= lam0 / 4) <= DELTA
    ]
    widest = setting.crossings[setting.wide]
    real = {
        "displacement over R": max(run.displaced.max() for run in widest) / R,
        "drift over lambda0": max(run.drift.max() for run in widest) / lam0,
    }
    medians = [float(np.median(_worst_drift(setting, f * R, width, 20, 15))) for f in factors]
    return (
        rarely(
            (
                "|w_r - w_r(0)| <= R = c delta lambda0/n^2 implies ||H - H(0)||_2 < "
                "lambda0/4 with probability 1 - delta"
            ),
            f"{setting.on_points}, m = {width}, every neuron moved against it, c = sqrt(2 pi)/16",
            failures,
            trials,
            DELTA,
            R=R,
            conservative_by_at_least=max(holds, default=0.0),
            heavy_ball_at_the_largest_width=real,
        ),
        rarely(
            "explicitly c = sqrt(2 pi)/16",
            "the same",
            failures,
            trials,
            DELTA,
            c=np.sqrt(2 * np.pi) / 16,
        ),
        drawing(
            "Every neuron moved against H by a multiple of R: the drift stays far below lambda0/4.",
            panel(
                "radius / R",
                "median ||H - H(0)||_F / lambda0",
                points(factors, np.array(medians) / lam0, f"m = {width}"),
                theory(factors, 0.25 + 0 * factors, "1/4"),
                log="xy",
            ),
        ),
    )


def _exponents(
    width: Callable[[float, float, float], float],
    lam0s: Sequence[float] = (0.1, 0.01, 0.001),
    ns: Sequence[float] = (10.0, 100.0, 1000.0),
    deltas: Sequence[float] = (0.1, 0.01, 0.001),
) -> dict[str, float]:
    """Powers of n, delta and lambda0 in a width formula f(n, delta, lam0)."""
    return {
        "n": slope(ns, [width(n, 0.1, 0.1) for n in ns])[0],
        "delta": slope(deltas, [width(10.0, d, 0.1) for d in deltas])[0],
        "lambda0": slope(lam0s, [width(10.0, 0.1, v) for v in lam0s])[0],
    }


def _residual(n: float | int, delta: float) -> float:
    """|Delta(0)| <= C sqrt(n/delta) with probability 1 - delta (Markov), C = 1."""
    return np.sqrt(n / delta)


def _frozen_width(n: float | int, delta: float, lam0: float) -> float:
    return bounds.width_from_displacement(n, delta, lam0, _residual(n, delta))


def _suffices(setting: Setting) -> float:
    """Smallest width of the runs from which on lambda_min(H(t)) >= lambda0/2 in every seed and at
    all times."""
    kept = {
        width: all(run.lambda_min.min() >= setting.points_lam0 / 2 for run in runs)
        for width, runs in setting.crossings.items()
    }
    good = [w for w in kept if all(kept[v] for v in kept if v >= w)]
    return float(min(good)) if good else np.inf


def _asked(setting: Setting) -> dict[str, float]:
    """What every formula asks for on `points`, constants one, beside what suffices in fact."""
    n, lam0 = setting.points.n, setting.points_lam0
    gram_norm = np.linalg.norm(np.asarray(setting.points.X).reshape(n, -1), 2) ** 2
    return {
        "Theorem 1 printed": bounds.width_theorem_1_printed(n, DELTA),
        "Theorem 2 printed": bounds.width_theorem_2_printed(
            n, DELTA, lam0, bounds.paper_friction(lam0)
        ),
        "Theorem 3 printed": bounds.width_theorem_3_printed(n, DELTA, lam0),
        "n^6/(delta^3 lambda0^4)": bounds.width_corrected(n, DELTA, lam0),
        "with its constants": bounds.width_from_displacement(
            n, DELTA, lam0, float(np.linalg.norm(setting.points.y))
        ),
        "Lemma 4": bounds.lemma_4_width(n, DELTA, lam0),
        "matrix Chernoff": bounds.chernoff_width(n, DELTA, lam0, gram_norm),
        "suffices in fact": _suffices(setting),
    }


def _in_fact(setting: Setting) -> Check | None:
    """The width that suffices beside the one the proof asks for; None when no width that was run
    suffices."""
    asked = _asked(setting)
    ratio = asked["suffices in fact"] / asked["with its constants"]
    return (
        None
        if np.isinf(ratio)
        else bound("far smaller widths suffice in fact", setting.on_crossings, ratio, widths=asked)
    )


def _family_drift(setting: Setting, rng: np.random.Generator) -> dict[str, float]:
    """How often ||H(t) - H(0)|| could reach lambda0/4 on the family, at the width of the
    frozen-kernel proof, every near neuron flipped."""
    drift = {}
    for theta in ANGLES[:3]:
        lam0, _ = pair_eigenvalues(theta)
        m = min(int(_frozen_width(2, DELTA, lam0)), 10**18)
        moved = bounds.displacement_constant(2, m, lam0, _residual(2, DELTA))
        near = (
            rng.binomial(m, 2 * moved / np.sqrt(2 * np.pi), size=(setting.sizes.trials, 2)) / m
        )  # neurons that may flip on each input
        norm = np.sqrt(near[:, 0] ** 2 + near[:, 1] ** 2 + 2 * (near.sum(1)) ** 2)
        drift[f"{theta:g}"] = float(np.mean(norm >= lam0 / 4))
    return drift


def _proof_on_family(width: Callable) -> dict[str, float]:
    """R'/R of the frozen-kernel proof at a width formula, constants one, along the family: the
    proof closes only where it stays bounded."""
    lam0s = [pair_eigenvalues(theta)[0] for theta in ANGLES]
    return {
        f"{lam0:.3g}": bounds.displacement_constant(
            2, width(2, DELTA, lam0), lam0, _residual(2, DELTA)
        )
        / bounds.lemma_5_radius(2, DELTA, lam0)
        for lam0 in lam0s
    }


def _proof_drawing(family: dict[str, dict[str, float]]) -> Drawing:
    """R'/R along the family for the printed and for the corrected width."""
    lam0s = [float(k) for k in family["printed"]]
    return drawing(
        (
            "R'/R of the proof at the printed and at the corrected width, along the "
            "family: the proof closes only where it stays bounded."
        ),
        panel(
            "lambda0",
            "R'/R",
            points(lam0s, list(family["printed"].values()), "printed width"),
            points(lam0s, list(family["corrected"].values()), "n^6/(delta^3 lambda0^4)"),
            log="xy",
        ),
    )


@claim(
    "width-thm-1",
    section="2",
    kind="width",
    note="""|w_r(t) - w_r(0)| <= 2 sqrt(n)|Delta(0)|/(sqrt(m) lambda0) < R = c delta lambda0/n^2 and
    |Delta(0)|^2 = O(n/delta) give m = Omega(n^6/(delta^3 lambda0^4)) (Du et al.). n^6/delta^3
    without lambda0 is refuted by two inputs that approach each other.""",
)
def width_thm_1(setting: Setting) -> Forms:
    rng, printed = np.random.default_rng(16), {}
    for theta in (1e-3, 1e-6, 1e-9):
        lam0 = pair_eigenvalues(theta)[0]
        width = bounds.width_theorem_1_printed(2, DELTA, 100)
        printed[f"angle {theta:g}"] = int(
            np.sum(pair_lambda_min(theta, width, setting.sizes.trials, rng) <= lam0 / 2)
        )
    found, drift = _exponents(_frozen_width), _family_drift(setting, rng)
    return (
        rarely(
            "m = Omega(n^6/delta^3) keeps lambda_min(H(t)) > lambda0/2 with probability 1 - delta",
            "two inputs at angle 1e-3, 1e-6, 1e-9, delta = 0.1, constant 100, t = 0",
            printed,
            setting.sizes.trials,
            DELTA,
        ),
        every(
            "m = Omega(n^6/(delta^3 lambda0^4)), frozen-kernel displacement against Lemma 5",
            FAMILY,
            {
                "power of n": abs(found["n"] - 6) < 1e-6,
                "power of delta": abs(found["delta"] + 3) < 1e-6,
                "power of lambda0": abs(found["lambda0"] + 4) < 1e-6,
                **{f"drift < lambda0/4 at angle {k}": v <= DELTA for k, v in drift.items()},
            },
            1e-6,
            powers=found,
            failure_frequency_by_angle=drift,
            widths_on_the_points=_asked(setting),
        ),
        _in_fact(setting),
        drawing(
            (
                "Widths that the formulas ask for on these points, constants 1 where none "
                "is known, and the one that suffices."
            ),
            by_name("width", {k: v for k, v in _asked(setting).items() if np.isfinite(v)}, log="x"),
        ),
    )


@claim(
    "width-thm-2",
    section="3",
    kind="width",
    note="""The displayed condition sqrt(n L^(0)/(9 m alpha^2)) < c delta lambda0/n^2 with alpha^2 =
    lambda0/2 gives lambda0^{-3}; Theorem 2 prints lambda0^{-2.5} b^{-2} = lambda0^{-3.5}, the
    appendix "equivalently" lambda0^{-4}. The constant-kernel displacement gives n^6/(delta^3
    lambda0^4).""",
)
def width_thm_2(setting: Setting) -> Forms:
    def condition(
        n: float, delta: float, lam0: float
    ) -> float:  # printed displacement = R, L^(0) <= ||H|| |Delta(0)|^2/2 <= n |Delta(0)|^2/2
        pseudo0 = n * _residual(n, delta) ** 2 / 2
        return (
            bounds.displacement_printed(np.sqrt(lam0 / 2), n, 1.0, pseudo0) ** 2
            / bounds.lemma_5_radius(n, delta, lam0) ** 2
        )

    paper = lambda n, delta, lam0: bounds.width_theorem_2_printed(
        n, delta, lam0, bounds.paper_friction(lam0)
    )
    family = {
        "printed": _proof_on_family(paper),
        "corrected": _proof_on_family(bounds.width_corrected),
    }
    forms = {
        "Theorem 2": _exponents(paper),
        "appendix": _exponents(bounds.width_corrected),
        "displayed condition": _exponents(condition),
        "frozen kernel": _exponents(_frozen_width),
    }
    same = lambda a, b: all(abs(forms[a][k] - forms[b][k]) < 1e-6 for k in forms[a])
    return (
        every(
            (
                "m = Omega(n^5/(delta^2 lambda0^{2.5} b^2)), derived as the displayed "
                "condition, equivalent to n^6/(delta^3 lambda0^4)"
            ),
            f"powers of n, delta, lambda0 at b = sqrt(2 lambda0); {FAMILY}",
            {
                "R'/R bounded as lambda0 -> 0": growth(family["printed"]) < 1e-3,
                "theorem = appendix": same("Theorem 2", "appendix"),
                "appendix = displayed condition": same("appendix", "displayed condition"),
            },
            powers=forms,
            displacement_over_radius_by_lambda0=family["printed"],
        ),
        every(
            "m = Omega(n^6/(delta^3 lambda0^4)) for a frozen kernel",
            f"2 sqrt(n)|Delta(0)|/(sqrt(m) lambda0) = R, |Delta(0)|^2 = n/delta; {FAMILY}",
            {
                "frozen kernel = appendix": same("frozen kernel", "appendix"),
                "R'/R bounded as lambda0 -> 0": growth(family["corrected"]) < 1e-3,
            },
            1e-6,
            powers=forms["frozen kernel"],
            displacement_over_radius_by_lambda0=family["corrected"],
        ),
        _in_fact(setting),
        _proof_drawing(family),
    )


@claim(
    "width-thm-3",
    section="4",
    kind="width",
    note="""The displayed condition has lambda0^{-1} (lambda0/2)^{-(a-2)/2} on the left of (delta
    lambda0/n^2)^2, so m ~ lambda0^{-(2 + a/2)}, below lambda0^{-4} for every a > 4 and never
    lambda0^{-2.5}. The frozen-kernel displacement bound holds for Nesterov as for the other flows:
    n^6/(delta^3 lambda0^4).""",
)
def width_thm_3(setting: Setting) -> Forms:
    powers = {}
    for a in (4.5, 6.0):

        def condition(
            n: float, delta: float, lam0: float, a: float = a
        ) -> (
            float
        ):  # (2/(a-4))^2 16 n C L^ / (m lam0 (lam0/2)^{(a-2)/2} (2d-a-2)^2) = R^2, constants apart
            return (
                n
                * (n * _residual(n, delta) ** 2 / 2)
                / (lam0 * (lam0 / 2) ** ((a - 2) / 2))
                / bounds.lemma_5_radius(n, delta, lam0) ** 2
            )

        powers[f"a = {a:g}"] = _exponents(condition)["lambda0"]
    printed = _exponents(bounds.width_theorem_3_printed)["lambda0"]
    family = {
        "printed": _proof_on_family(bounds.width_theorem_3_printed),
        "corrected": _proof_on_family(bounds.width_corrected),
    }
    frozen_power = _exponents(_frozen_width)
    return (
        every(
            "the displayed condition is equivalent to m = Omega(n^5/(delta^2 lambda0^{2.5}))",
            f"power of lambda0, a = 4.5 and 6; {FAMILY}",
            {
                **{k: abs(v - printed) < 1e-6 for k, v in powers.items()},
                "R'/R bounded as lambda0 -> 0": growth(family["printed"]) < 1e-3,
            },
            powers=powers,
            printed=printed,
            displacement_over_radius_by_lambda0=family["printed"],
        ),
        every(
            (
                "m = Omega(n^6/(delta^3 lambda0^4)) for a frozen kernel; the displayed "
                "condition gives lambda0^{-(2 + a/2)}"
            ),
            "the same",
            {
                **{f"{k}": abs(v + 2 + float(k[4:]) / 2) < 1e-6 for k, v in powers.items()},
                "frozen kernel": abs(frozen_power["lambda0"] + 4) < 1e-6,
                "R'/R bounded as lambda0 -> 0": growth(family["corrected"]) < 1e-3,
            },
            1e-6,
            powers=powers,
            frozen=frozen_power,
            displacement_over_radius_by_lambda0=family["corrected"],
        ),
        _proof_drawing(family),
    )

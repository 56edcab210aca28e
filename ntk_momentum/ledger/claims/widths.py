"""The widths of the three theorems: what their proofs give, in exact arithmetic, and what suffices
in fact."""

from __future__ import annotations

import functools
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from ...theory import bounds
from ..algebra import Sum, symbols
from ..check import Check, Forms, claim, derived, every, rarely
from ..drawing import Drawing, by_name, drawing, panel, points
from .fits import APART, agrees, slope
from .pairs import DELTA, pair_eigenvalues, pair_lambda_min
from .setting import Setting

N, D, LAM, B = symbols("n delta lambda0 b")
HALF = Fraction(1, 2)
CORRECTED = N**6 * D**-3 * LAM**-4
PRINTED = {
    "Theorem 1": N**6 * D**-3,
    "Theorem 2": N**5 * D**-2 * LAM ** Fraction(-5, 2) * (LAM**HALF) ** -2,  # b = sqrt(2 lambda0)
    "Theorem 3": N**5 * D**-2 * LAM ** Fraction(-5, 2),
}
RADIUS = D * LAM * N**-2  # Lemma 5, constants apart
ERROR = N**HALF * D**-HALF  # |Delta(0)|, Markov


def _solved(displacement: Sum) -> Sum:
    """The width at which a displacement, written without its m^{-1/2}, meets Lemma 5's radius."""
    return (displacement / RADIUS) ** 2


FROZEN = _solved(N**HALF * ERROR / LAM)
"""From |w_r(t) - w_r(0)| <= 2 sqrt(n) |Delta(0)| / (sqrt(m) lambda0)."""
DISPLAYED = _solved(N**HALF * (N**HALF * ERROR) * LAM**-HALF)
"""From sqrt(n L^(0)/(9 m alpha^2)), with L^(0) <= ||H|| |Delta(0)|^2/2 and ||H|| <= n."""


def _displayed_nesterov(a: Fraction) -> Sum:
    """From the last display of appendix B, a for the paper's alpha."""
    return _solved(N**HALF * (N**HALF * ERROR) * (LAM * LAM ** ((a - 2) / 2)) ** -HALF)


def _powers(width: Sum) -> dict[str, str]:
    return {name: str(width.power(name)) for name in ("n", "delta", "lambda0")}


def _program_has(width: Sum, program: Callable[..., float]) -> bool:
    """Whether the program's formula has these powers: its factor when each argument is doubled."""
    at = (4.0, 0.25, 0.125)
    doubled = [[2 * v if k == j else v for j, v in enumerate(at)] for k in range(len(at))]
    return all(
        abs(np.log2(program(*changed) / program(*at)) - float(width.power(name))) < 1e-9
        for changed, name in zip(doubled, ("n", "delta", "lambda0"), strict=True)
    )


@functools.cache
def _frozen_width(n: float, delta: float, lam0: float) -> float:
    return float(bounds.width_from_displacement(n, delta, lam0, np.sqrt(n / delta)))


def _asked(setting: Setting) -> dict[str, float]:
    """What every formula asks for on `points`, constants one where none is known."""
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
    }


def _in_fact(setting: Setting) -> tuple[Check, dict[str, float]]:
    """The width that suffices: sup_t ||H(t) - H_inf|| <= C/sqrt(m), so (2 C/lambda0)^2."""
    widths, drift = setting.along_widths(lambda run: run.drift.max())
    _, start = setting.along_widths(
        lambda run: float(np.linalg.norm(run.kernel_start - setting.points_kernel, 2))
    )
    slopes = {
        "||H(t) - H(0)||": slope(widths, drift),
        "||H(0) - H_inf||": slope(*setting.initial_distances),
    }
    lam0, constant = setting.points_lam0, float(np.max((drift + start) * np.sqrt(widths)))
    enough = (2 * constant / lam0) ** 2
    kept = {
        f"lambda_min(H(t)) >= lambda0/2 at m = {width}": all(
            run.lambda_min.min() >= lam0 / 2 for run in runs
        )
        for width, runs in setting.crossings.items()
        if width >= enough
    }
    asked = _asked(setting) | {"suffices in fact": enough}
    lost = {
        str(width): float(np.mean([run.lambda_min.min() < lam0 / 2 for run in runs]))
        for width, runs in setting.crossings.items()
    }
    check = every(
        r"$\sup_t \|H(t) - H^\infty\|$ falls like $C m^{-1/2}$, so $m = (2 C/\lambda_0)^2$ "
        r"suffices: a power $\lambda_0^{-2}$, and far below what the proof asks for",
        setting.on_crossings,
        {
            **{f"slope -1/2 of {name}": agrees(fit, -0.5) for name, fit in slopes.items()},
            "below the proof's": enough < asked["with its constants"] / 100,
            **kept,
        },
        APART,
        slopes_and_half_widths={name: list(fit) for name, fit in slopes.items()},
        C=constant,
        widths=asked,
        share_of_runs_that_fell_below=lost,
    )
    return check, asked


@claim(
    "width-thm-1",
    section="2",
    kind="width",
    fault="hypothesis",
    under="network, impulses apart",
    note=r"""$|w_r(t) - w_r(0)| \le 2 \sqrt{n}|\Delta(0)|/(\sqrt{m} \lambda_0) < R = c
    \delta\lambda_0/n^2$ and $|\Delta(0)|^2 = O(n/\delta)$ give $m = \Omega(n^6/(\delta^3
    \lambda_0^4))$ (Du et al.): a derivation, in exact powers. $n^6/\delta^3$ without $\lambda_0$
    is refuted by two inputs that approach each other. In fact $\|H(t) - H^\infty\| \sim C
    m^{-1/2}$, which asks for $\lambda_0^{-2}$ only.""",
)
def width_thm_1(setting: Setting) -> Forms:
    rng, printed = setting.rng(16), {}
    for theta in (1e-3, 1e-6, 1e-9):
        lam0 = pair_eigenvalues(theta)[0]
        width = bounds.width_theorem_1_printed(2, DELTA, 100)
        printed[f"angle {theta:g}"] = int(
            np.sum(pair_lambda_min(theta, width, setting.sizes.trials, rng) <= lam0 / 2)
        )
    in_fact, asked = _in_fact(setting)
    return (
        rarely(
            r"$m = \Omega(n^6/\delta^3)$ keeps $\lambda_{\min}(H(t)) > \lambda_0/2$ with "
            r"probability $1 - \delta$",
            "two inputs at angle 1e-3, 1e-6, 1e-9, delta = 0.1, constant 100, t = 0",
            printed,
            setting.sizes.trials,
            DELTA,
        ),
        derived(
            r"$m = \Omega(n^6/(\delta^3 \lambda_0^4))$: frozen-kernel displacement against Lemma "
            "5",
            "powers of n, delta, lambda0, |Delta(0)|^2 = n/delta",
            {
                "the chain gives it": FROZEN == CORRECTED,
                "width_corrected has its powers": _program_has(CORRECTED, bounds.width_corrected),
                "width_from_displacement has": _program_has(CORRECTED, _frozen_width),
            },
            powers=_powers(FROZEN),
        ),
        in_fact,
        drawing(
            "Widths that the formulas ask for on these points, constants 1 where none is known, "
            "and the one that suffices.",
            by_name("width", {k: v for k, v in asked.items() if np.isfinite(v)}, log="x"),
        ),
    )


def _ratio(width: Sum) -> Sum:
    """R'/R of the frozen-kernel proof at a width: the proof closes as lambda0 -> 0 only if the
    power of lambda0 is not negative."""
    return N**HALF * ERROR / LAM / RADIUS / width**HALF


def _ratio_drawing(name: str, width: Sum) -> Drawing:
    lam0s = np.geomspace(1e-4, 0.5, 20)
    return drawing(
        r"$R'/R$ of the frozen-kernel proof as $\lambda_0 \to 0, n$ and $\delta$ fixed: it closes "
        "only where this stays bounded.",
        panel(
            "lambda0",
            "R'/R, up to a factor",
            points(lam0s, lam0s ** float(_ratio(width).power("lambda0")), name),
            points(lam0s, np.ones_like(lam0s), "n^6/(delta^3 lambda0^4)"),
            log="xy",
        ),
    )


@claim(
    "width-thm-2",
    section="3",
    kind="width",
    fault="constant",
    under="network, impulses apart",
    note=r"""The displayed condition $\sqrt{n \hat L(0)/(9 m \alpha^2)} < c \delta\lambda_0/n^2$
    with $\alpha^2 = \lambda_0/2$ gives $n^7/(\delta^3 \lambda_0^3)$; Theorem 2 prints
    $\lambda_0^{-2.5} b^{-2} = \lambda_0^{-3.5}$, the appendix "equivalently" $\lambda_0^{-4}$.
    The constant-kernel displacement gives $n^6/(\delta^3 \lambda_0^4)$. A derivation, in exact
    powers.""",
)
def width_thm_2(setting: Setting) -> Forms:
    forms = {
        "Theorem 2": PRINTED["Theorem 2"],
        "appendix": CORRECTED,
        "displayed condition": DISPLAYED,
        "frozen kernel": FROZEN,
    }
    printed = lambda n, delta, lam0: bounds.width_theorem_2_printed(
        n, delta, lam0, bounds.paper_friction(lam0)
    )
    return (
        derived(
            r"$m = \Omega(n^5/(\delta^2 \lambda_0^{2.5} b^2))$, derived as the displayed "
            r"condition, equivalent to $n^6/(\delta^3 \lambda_0^4)$",
            "powers of n, delta, lambda0 at b = sqrt(2 lambda0)",
            {
                "theorem = appendix": forms["Theorem 2"] == forms["appendix"],
                "appendix = displayed condition": forms["appendix"] == forms["displayed condition"],
                "R'/R bounded as lambda0 -> 0": _ratio(PRINTED["Theorem 2"]).power("lambda0") >= 0,
            },
            powers={name: _powers(form) for name, form in forms.items()},
        ),
        derived(
            r"$m = \Omega(n^6/(\delta^3 \lambda_0^4))$ for a frozen kernel",
            "2 sqrt(n)|Delta(0)|/(sqrt(m) lambda0) = R, |Delta(0)|^2 = n/delta",
            {
                "frozen kernel = appendix": forms["frozen kernel"] == forms["appendix"],
                "R'/R bounded as lambda0 -> 0": _ratio(CORRECTED).power("lambda0") >= 0,
                "the program's formulas": _program_has(CORRECTED, bounds.width_corrected)
                and _program_has(PRINTED["Theorem 2"], printed),
            },
            powers=_powers(FROZEN),
        ),
        _ratio_drawing("printed width", PRINTED["Theorem 2"]),
    )


@claim(
    "width-thm-3",
    section="4",
    kind="width",
    fault="constant",
    under="constant kernel",
    note=r"""The displayed condition has $\lambda_0^{-1} (\lambda_0/2)^{-(a-2)/2}$ on the left of
    $(\delta\lambda_0/n^2)^2$, so $m \sim \lambda_0^{-(2 + a/2)}$, below $\lambda_0^{-4}$ for
    every $a > 4$ and never $\lambda_0^{-2.5}$. The frozen-kernel displacement bound holds for
    Nesterov as for the other flows: $n^6/(\delta^3 \lambda_0^4)$. A derivation in exact powers.""",
)
def width_thm_3(setting: Setting) -> Forms:
    cases = {f"a = {a}": _displayed_nesterov(a) for a in (Fraction(9, 2), Fraction(6))}
    powers = {name: str(width.power("lambda0")) for name, width in cases.items()}
    printed = PRINTED["Theorem 3"]
    return (
        derived(
            r"the displayed condition is equivalent to $m = \Omega(n^5/(\delta^2 "
            r"\lambda_0^{2.5}))$",
            "powers of n, delta, lambda0, a = 9/2 and 6",
            {
                **{name: width == printed for name, width in cases.items()},
                "R'/R bounded as lambda0 -> 0": _ratio(printed).power("lambda0") >= 0,
            },
            powers_of_lambda0=powers,
            printed=_powers(printed),
        ),
        derived(
            r"$m = \Omega(n^6/(\delta^3 \lambda_0^4))$ for a frozen kernel; the displayed "
            r"condition gives $\lambda_0^{-(2 + a/2)}$",
            "the same",
            {
                **{
                    name: width.power("lambda0") == -2 - Fraction(name[4:]) / 2
                    for name, width in cases.items()
                },
                "frozen kernel": FROZEN == CORRECTED,
                "the program's formulas": _program_has(CORRECTED, bounds.width_corrected)
                and _program_has(printed, bounds.width_theorem_3_printed),
            },
            powers_of_lambda0=powers,
            frozen=_powers(FROZEN),
        ),
        _ratio_drawing("printed width", printed),
    )

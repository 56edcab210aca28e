"""Appendix B: Nesterov's Lyapunov function, Lemmas 8 and 9."""

from __future__ import annotations

from functools import partial

import numpy as np

from ...method import Nesterov
from ...theory import bounds
from ...theory.lyapunov import nesterov_energy
from ...theory.switching import switched_peaks
from ..algebra import symbols
from ..check import Forms, bound, claim, derived, every, identity, typed
from ..drawing import against, drawing, line, panel
from .fits import growth
from .modes import DS, bessel_reach, constant, frozen, reach, solved_error, solved_reach
from .setting import Setting


def _vanishing(d: float, t: float) -> float:
    return d / t


@claim(
    "eq-b.1",
    section="B",
    kind="definition",
    note=r"""With $\alpha = 2d/3$ this is the function of Su, Boyd, Candes (Theorem 8). It is not
    monotone, and the proof does not need it to be: $\dot V$ is bounded by a multiple of
    $t^{\alpha -3}|\Delta|^2$.""",
)
def eq_b_1(setting: Setting) -> Forms:
    rng, error = setting.rng(10), 0.0
    for d in (3.0, 6.0, 9.0):
        A = rng.standard_normal((4, 4))
        A, D, V, t = A @ A.T, rng.standard_normal(4), rng.standard_normal(4), 1.7
        error = max(
            error,
            abs(
                float(Nesterov(d).lyapunov(t, D, V, A)) - nesterov_energy(t, D, V, A, 2 * d / 3, d)
            ),
        )
    ts = np.linspace(0.05, 60, 3000)
    run = frozen(Nesterov(3.0), [0.5], [1.0], ts)
    values = np.array(
        [
            nesterov_energy(t, run.residual[i], run.velocity[i], np.array([[0.5]]), 2.0, 3.0)
            for i, t in enumerate(ts)
        ]
    )
    values9 = frozen(Nesterov(9.0), [0.5], [1.0], ts)
    energy9 = np.array(
        [
            nesterov_energy(
                t, values9.residual[i], values9.velocity[i], np.array([[0.5]]), 6.0, 9.0
            )
            for i, t in enumerate(ts)
        ]
    )
    rises = {
        "d = 3": float(np.max(np.diff(values) / values[:-1])),
        "d = 9": float(np.max(np.diff(energy9) / energy9[:-1])),
    }
    return (
        identity(
            r"$V = t^a \hat L + (2d-a)^2 t^{a-2}/8 |\Delta + 2t/(2d-a) \dot\Delta|^2$, as "
            "evaluated by the program",
            "random Delta, Delta', H in R^{4x4}; d = 3, 6, 9, a = 2d/3",
            error,
            1e-9,
            largest_relative_rise=rises,
        ),
        drawing(
            "Nesterov's Lyapunov function along one mode: bounded, not monotone.",
            panel("t", "V / V at its first time", line(ts, values / values[0], "d = 3")),
            panel("t", "V / its largest value", line(ts, energy9 / energy9.max(), "d = 9")),
        ),
    )


@claim(
    "eq-b.2",
    section="B",
    kind="definition",
    note="The pseudo-loss with the kernel of the moment; it jumps at crossings.",
)
def eq_b_2(setting: Setting) -> Forms:
    run = setting.heavy_ball_run
    residual, kernel = np.asarray(run.residual), np.asarray(run.kernel)
    error = float(
        np.abs(
            0.5 * np.einsum("ti,tij,tj->t", residual, kernel, residual)
            - np.asarray(run.pseudo_loss)
        ).max()
    )
    return (
        identity(
            r"$\hat L(t) = \Delta\cdot H(t) \Delta/ 2$",
            f"{setting.on_points}, heavy ball at m = {setting.wide}",
            error,
            1e-12,
        ),
    )


@claim("eq-b.3", section="B", kind="definition", note="Half the sum of squares, not a mean.")
def eq_b_3(setting: Setting) -> Forms:
    run = setting.heavy_ball_run
    error = float(
        np.abs(
            0.5 * np.sum((np.asarray(run.f) - np.asarray(setting.points.y)) ** 2, axis=1)
            - np.asarray(run.loss)
        ).max()
    )
    return (
        identity(
            r"$L(t) = \Delta\cdot \Delta/ 2$",
            f"{setting.on_points}, heavy ball at m = {setting.wide}",
            error,
            1e-12,
        ),
    )


@claim(
    "eq-b.4",
    section="B",
    kind="identity",
    fault="notation",
    note=r"""$(n \times p)(n \times 1)$ does not multiply: $(\partial f/\partial w_r)^\top$ is
    meant. Multiplied by $t^d$ it is $\frac{d}{dt}(t^d \dot w_r) = -t^d (\partial f/\partial
    w_r)^\top (f - y)$.""",
)
def eq_b_4(setting: Setting) -> Forms:
    n, p, d = 2, 3, 9
    t, v, force = symbols("t v force")
    acceleration = -d / t * v - force
    return (
        typed(
            r"$\ddot w_r + (d/t) \dot w_r + (\partial f/\partial w_r)(f - y) = 0$: the inner "
            r"sizes of $(n \times p)(n \times 1)$ agree",
            "n = 2, p = 3",
            (p,),
            (n,),
        ),
        derived(
            r"$\ddot w_r + (d/t) \dot w_r + (\partial f/\partial w_r)^\top (f - y) = 0$, that is "
            r"$\frac{d}{dt}(t^d \dot w_r) = -t^d (\partial f/\partial w_r)^\top (f - y)$",
            "d = 9, polynomials in t, w_r' and the force",
            {
                "integrating factor": (t**d * v).along({"t": t**0, "v": acceleration})
                == -(t**d) * force
            },
        ),
    )


@claim(
    "lemma-8",
    section="B",
    kind="bound",
    fault="false",
    under="constant kernel",
    theorem="Proposition 13, Theorem 14",
    note=r"""As printed the hypothesis is $\lambda_{\min}(H) \le \lambda_0/2$, which $H = 0$
    satisfies: $L$ stays $L(0)$ while $\hat L(0) = 0$. With $\ge$, the printed constant bounds
    $\hat L$; $L$ needs a further $2/\lambda_0$ (the ratio $L/\hat L(0)$ scales as $1/\lambda$,
    the printed bound as $\lambda^0$). $C(\alpha, r)$ and $C(\alpha, d)$ are one constant. With a
    moving kernel $\lambda_{\min}$ alone cannot suffice: the friction $d/t$ dies away, and $H$ in
    $\{1, 3/2\}$, soft on the way out, pumps a factor $\sqrt{3/2}$ per half cycle at any $d$.
    Constant $H$: $L \le (2/\lambda_0) C (\sqrt{\lambda_0/2} t)^{-a} \hat L(0), C = \sup s^a
    \Lambda_d^2$.""",
)
def lemma_8(setting: Setting) -> Forms:
    still = 0.5  # L(t) with H = 0, for ever; L^(0) = 0
    d, a = 9.0, 6.0
    C = reach(d, a)
    needed = {
        f"{lam0:g}": reach(d, a, lam0 / 2)
        / (0.5 * lam0)
        / (bounds.lemma_8_printed(1.0, a, lam0, 1.0, C))
        for lam0 in (0.5, 0.05, 0.005)
    }
    rates, predicted = {}, bounds.nesterov_switching_rate(1.5)
    for d_ in (3.0, 9.0):
        times, sizes = switched_peaks(partial(_vanishing, d_), 1.0, 1.5, 60, start=200.0)
        k = len(times) // 2
        friction = (
            d_ * np.log(times[-1] / times[k]) / (times[-1] - times[k])
        )  # what d/t takes off the exponent of L
        rates[f"d = {d_:g}"] = [
            float(2 * np.log(sizes[-1] / sizes[k]) / (times[-1] - times[k])),
            float(predicted - friction),
        ]
    ts = np.geomspace(0.05, 200, 2048)
    worst = 0.0
    for d_, a_ in ((3.0, 2.0), (6.0, 4.0), (9.0, 6.0), (3.0, 3.0)):
        lams = 0.25 * np.array([1.0, 1.5, 3.0, 10.0])
        run = frozen(Nesterov(d_), lams, 1.0, ts)
        worst = max(
            worst,
            float(
                np.max(
                    0.5
                    * run.residual**2
                    / bounds.lemma_8_corrected(
                        ts[:, None], a_, 0.5, 0.5 * lams[None], bessel_reach(d_, a_) * (1 + 1e-6)
                    )
                )
            ),
        )
    attained = {f"{d_:g}": bessel_reach(d_, d_) / constant(d_) for d_ in DS}
    lam0s = np.array([0.5, 0.05, 0.005])
    return (
        every(
            r"$\lambda_{\min}(H(s)) \le \lambda_0/2$ implies $L(t) \le 4 C/(\lambda_0 t^a "
            r"(\lambda_0/2)^{(a-2)/2}) \hat L(0)$",
            (
                "n = 1: H = 0; H = lambda0/2 with lambda0 = 0.5, 0.05, 0.005 (d = 9, a = "
                "6); H in {1, 1.5} switching (d = 3, 9)"
            ),
            {
                "H = 0": still <= 0.0,
                "one C for all lambda0 -> 0": growth(needed) < 1e-3,
                "the switched loss does not grow": max(r for r, _ in rates.values()) <= 0,
            },
            loss_at_H_0=still,
            multiple_of_C_needed_by_lambda0=needed,
            growing_like_lambda0_to_the_minus=growth(needed),
            switched_exponent_and_prediction=rates,
        ),
        bound(
            r"constant $H \ge \lambda_0/2$: $L(t) \le (2/\lambda_0) C (\sqrt{\lambda_0/2} "
            r"t)^{-a} \hat L(0), C = \sup s^a \Lambda_d(s)^2$, $a \le d$",
            "four modes from lambda0/2 = 1/4; (d, a) = (3,2), (6,4), (9,6), (3,3)",
            worst,
        ),
        every(
            r"$a = d$ is best, with $C = K_d$; and the switched loss grows at $\log h/(\pi/2 "
            "(1 + h^{-1/2})), h = 3/2$",
            "one mode; H in {1, 1.5} from t = 200",
            {
                **{f"K_d at d = {d_}": abs(v - 1) < 0.01 for d_, v in attained.items()},
                **{f"growth at {d_}": abs(r / q - 1) < 0.03 for d_, (r, q) in rates.items()},
            },
            0.03,
            supremum_over_K=attained,
            growth=rates,
            asymptotic_exponent=predicted,
        ),
        drawing(
            r"Left: $H$ in $\{1, 3/2\}$ switching from $t = 200, d = 9$: the amplitude grows in "
            "spite of the friction. Right: the constant that the printed bound needs grows like "
            r"$1/\lambda_0$.",
            panel("t", "|Delta| at its turning points", line(times, sizes, "d = 9"), log="y"),
            against(
                "lambda0",
                "multiple of C needed",
                {"H = lambda0/2": (lam0s, list(needed.values()), -1.0)},
            ),
        ),
    )


@claim(
    "lemma-9",
    section="B",
    kind="bound",
    fault="constant",
    under="constant kernel",
    theorem="Theorem 12",
    note=r"""Lemma 9 asks $d > 6$, Theorem 3 $d \ge 6$. $B(\alpha, d)$ free of $\lambda_0$ is
    impossible: $\sup_t t^{2d/3} L/L(0)$ is proportional to $\lambda^{-d/3}$. Corrected:
    $(\sqrt{\lambda_{\min}} t)^{-2d/3}$, or the sharp exponent $d$.""",
)
def lemma_9(setting: Setting) -> Forms:
    d = 9.0
    needed = {f"{lam:g}": solved_reach(d, 2 * d / 3, lam) for lam in (0.5, 0.05, 0.005)}
    B = bessel_reach(d, 2 * d / 3)
    ts, loss = solved_error(setting.points_kernel, -np.asarray(setting.points.y), d)
    lam0 = setting.points_lam0
    ratio = float(np.max(loss / (B * (np.sqrt(lam0) * ts) ** (-2 * d / 3) * loss[0])))
    met = solved_reach(d, 2 * d / 3, 1.0) / B
    return (
        every(
            r"$L(t) \le B(\alpha, d) t^{-2d/3} L(0)$ with one $B$ for all kernels",
            "n = 1, d = 9, H = 1/2, 1/20, 1/200, solved step by step: the B each needs",
            {"bounded as lambda -> 0": growth(needed) < 1e-3},
            needed_by_lambda=needed,
            growing_like_lambda_to_the_minus=growth(needed),
            predicted=d / 3,
        ),
        every(
            r"$L(t) \le B_d (\sqrt{\lambda_{\min}} t)^{-2d/3} L(0)$, constant $H, B_d = \sup "
            r"s^{2d/3} \Lambda_d(s)^2$ by Bessel's function, attained",
            f"H_inf of {setting.on_points}, d = 9; one mode, both solved step by step",
            {"L below it": ratio <= 1 + 1e-6, "attained by one mode": abs(met - 1) < 1e-4},
            1e-4,
            largest_ratio=ratio,
            supremum_of_one_mode_over_B=met,
        ),
        drawing(
            "The constant $B$ that each kernel needs: no single one serves.",
            against(
                "lambda", "B needed", {"d = 9": ([0.5, 0.05, 0.005], list(needed.values()), -d / 3)}
            ),
        ),
    )

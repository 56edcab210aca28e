"""Section 4's remarks on rates: which powers of 1/t, and whether no more than a power."""

from __future__ import annotations

import numpy as np
import scipy.optimize

from ...method import Nesterov
from ..check import Forms, claim, every
from ..drawing import drawing, line, panel, points, theory
from .fits import slope
from .modes import DS, amplitude, constant, frozen, radius, reach
from .setting import Setting


def _bouncing_exponent(d: float) -> float:
    """Exponent of E = x'^2/2 + |x| along x'' + (d/t) x' + sign(x) = 0, from x = 1 at rest, solved
    from zero to zero of x."""
    # on one side of 0: x = A + B t^{1-d} - s t^2/(2(1+d)), or with log t at d = 1
    power, slope_of = (
        (np.log, lambda t: 1 / t) if d == 1 else (lambda t: t ** (1 - d), lambda t: (1 - d) * t**-d)
    )
    t, side = float(np.sqrt(2 * (1 + d))), -1.0
    v, times, energies = -t / (1 + d), [t], [0.5 * (t / (1 + d)) ** 2]
    for _ in range(500):
        B = (v + side * t / (1 + d)) / slope_of(t)
        path = lambda u, t=t, B=B, side=side: (
            B * (power(u) - power(t)) - side * (u * u - t * t) / (2 * (1 + d))
        )
        turn = scipy.optimize.brentq(
            lambda u, B=B, side=side: B * slope_of(u) - side * u / (1 + d), t, t + 10 + 4 * abs(v)
        )
        u = scipy.optimize.brentq(path, turn, turn + 10 + 4 * abs(v))
        v, t, side = B * slope_of(u) - side * u / (1 + d), u, -side
        times.append(t)
        energies.append(0.5 * v * v)
    return -slope(times[100:], energies[100:])[0]


@claim(
    "remark-rate-exponents",
    section="4",
    kind="rate",
    under="constant kernel",
    theorem="Theorem 12",
    experiment="three_flows",
    note=r"""Three statements about convex functions, true as such: $t^{-2d/3}$ is the guarantee
    of Su, Boyd, Candes for strongly convex ones; $f(x) = |x|$ has $E' = -(d/t) x'^2$ with $x'^2
    = 2E/3$ on average over a bounce, so $E \sim t^{-2d/3}$, slower than $t^{-2}$ for every $d <
    3$; and $t^{-d}$ is reached. But the paper draws them on for $\hat L$, a quadratic for a
    frozen kernel: there the exponent is exactly $d$ for every $d > 0$, and $1/t^2$ fails only
    for $d < 2$.""",
)
def remark_rate_exponents(setting: Setting) -> Forms:
    found = {}
    for d in DS:
        run = frozen(Nesterov(d), [1.0], [1.0], np.linspace(20, 2000, 16384))
        envelope = run.residual[:, 0] ** 2 + run.velocity[:, 0] ** 2
        found[f"{d:g}"] = float(-np.polyfit(np.log(run.ts), np.log(envelope), 1)[0])
    absolute = {f"{d:g}": _bouncing_exponent(d) for d in (1.0, 2.0, 2.5)}
    middle = {
        f"{d:g}": reach(d, 2.0, until=1600.0) / reach(d, 2.0, until=100.0) for d in (1.5, 2.0, 2.5)
    }
    return (
        every(
            r"$O(t^{-2d/3})$ for $d \ge 3$, up to $O(1/t^d)$; for $d < 3$ some convex function "
            "fails $1/t^2$",
            (
                "one mode, d = 3, 6, 9; f(x) = |x| from x = 1 at rest, d = 1, 2, 2.5, "
                "exponent of the energy from the 100th to the 500th zero"
            ),
            {
                **{
                    f"at least 2d/3 and d reached at d = {d}": found[d] > 2 * float(d) / 3
                    and found[d] > float(d) - 0.02
                    for d in "369"
                },
                **{
                    f"|x| fails 1/t^2 at d = {d}": exponent < 1.9
                    for d, exponent in absolute.items()
                },
            },
            exponents=found,
            exponents_of_absolute_value=absolute,
            predicted_for_absolute_value={d: 2 * float(d) / 3 for d in absolute},
        ),
        every(
            "on a frozen kernel $1/t^2$ fails only for $d < 2$",
            "one mode: growth of sup t^2 L from t = 100 to t = 1600",
            {
                "fails at d = 1.5": middle["1.5"] > 1.5,
                "holds at d = 2": middle["2"] < 1.01,
                "holds at d = 2.5": middle["2.5"] < 1.01,
            },
            growth=middle,
        ),
        every(
            "the exponent is exactly $d$, every $d > 0$",
            "one mode, d = 0.5 ... 9, t from 20 to 2000",
            {f"exponent at d = {d}": abs(v - float(d)) < 0.02 for d, v in found.items()},
            0.02,
            exponents=found,
        ),
        drawing(
            "Exponents of Nesterov's flow: $d$ on a quadratic, $2d/3$ on $f(x) = |x|$.",
            panel(
                "d",
                "exponent",
                points([float(k) for k in found], list(found.values()), "frozen kernel"),
                points([float(k) for k in absolute], list(absolute.values()), "|x|"),
                theory([0.0, 9.0], [0.0, 9.0], "d"),
                theory([0.0, 9.0], [0.0, 6.0], "2d/3"),
            ),
        ),
    )


@claim(
    "remark-only-sublinear",
    section="4",
    kind="rate",
    fault="false",
    under="constant kernel",
    experiment="three_flows",
    note=r"""The abstract's word on NAG, a method; section 4 only says that no more is shown. For
    the flow (4.2) the power law is exact. For the algorithm (4.1) at a fixed step it is false:
    on a mode with $x = \eta\lambda < 1$ the momentum tends to 1 and $z^2 - 2(1 - x) z + (1 - x)$
    has $|z|^2 = 1 - x$, hence $L_k \sim k^{-d} (1 - x)^k$. For $1 < x < 4/3$ the root is $(x -
    1) + \sqrt{x(x - 1)}$.""",
)
def remark_only_sublinear(setting: Setting) -> Forms:
    d, fits = 3.0, {}
    for x in (0.05, 0.2, 0.6):
        steps = int(60 / x)
        w = last = R = 1.0
        log_scale, track = 0.0, []
        for k in range(steps):
            ahead = w - x * w
            w, R, last = ahead + k / (k + d) * (ahead - R), ahead, w
            energy = (
                w * w - 2 * (1 - x) * w * last + (1 - x) * last * last
            )  # falls by 1 - x a step when the momentum is one
            track.append(2 * log_scale + np.log(energy))
            size = abs(w) + abs(last)
            w, last, R, log_scale = w / size, last / size, R / size, log_scale + np.log(size)
        ks = np.arange(1, steps + 1)
        tail = slice(steps // 3, None)
        design = np.stack([np.log(ks[tail]), ks[tail], np.ones(steps)[tail]], axis=1)
        power, rate, _ = np.linalg.lstsq(design, np.array(track)[tail], rcond=None)[0]
        fits[f"{x:g}"] = {"exponent of k": power, "rate": rate, "log(1 - x)": np.log(1 - x)}
    roots = {
        f"{x:g}": [radius([1, -2 * (1 - x), 1 - x]), (x - 1) + np.sqrt(x * (x - 1))]
        for x in (1.05, 1.2, 1.33)
    }
    flow = {f"{d_:g}": reach(d_, d_, until=1600.0) / constant(d_) for d_ in DS}
    ts = np.linspace(1500, 1600, 512)
    late = {
        f"{d_:g}": float(
            np.max(ts**d_ * frozen(Nesterov(d_), [1.0], [1.0], ts).residual[:, 0] ** 2)
            / amplitude(d_)
        )
        for d_ in DS
    }
    late_k = np.arange(1, len(track) + 1)
    return (
        every(
            "NAG converges only sublinearly (algorithm (4.1) at a fixed step)",
            "one mode, d = 3, eta lambda = 0.05, 0.2, 0.6",
            {f"no linear rate at eta lambda = {x}": fit["rate"] > -1e-3 for x, fit in fits.items()},
            fits=fits,
        ),
        every(
            "the flow is sublinear, exactly $t^{-d}$",
            "one mode, d = 0.5 ... 9, t from 1500 to 1600",
            {f"d = {d_}": 0.9 < v < 1.1 for d_, v in late.items()},
            0.1,
            late_over_kappa=late,
            supremum_over_K=flow,
        ),
        every(
            r"the algorithm: $L_k \sim k^{-d} (1 - \eta\lambda)^k$; root $(x-1) + "
            r"\sqrt{x(x-1)}$ for $1 < x < 4/3$",
            "d = 3; x = 1.05, 1.2, 1.33",
            {
                **{
                    f"rate at {x}": abs(f["rate"] / f["log(1 - x)"] - 1) < 0.005
                    for x, f in fits.items()
                },
                **{f"power at {x}": abs(f["exponent of k"] + d) < 0.15 for x, f in fits.items()},
                **{f"root at {x}": abs(a - b) < 1e-9 for x, (a, b) in roots.items()},
            },
            0.15,
            fits=fits,
            roots=roots,
        ),
        drawing(
            r"Algorithm (4.1) at $\eta\lambda = 0.6, d = 3$: $k^d L_k$ falls linearly on a "
            r"logarithmic scale, like $(1 - \eta\lambda)^k$.",
            panel(
                "k",
                "log(k^d L_k)",
                line(late_k, np.array(track) + d * np.log(late_k), "algorithm"),
                theory(
                    late_k,
                    track[-1] + d * np.log(late_k[-1]) + (late_k - late_k[-1]) * np.log(1 - x),
                    "rate log(1 - eta lambda)",
                ),
            ),
        ),
    )

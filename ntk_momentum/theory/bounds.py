"""Every bound, rate and width of the paper as a function: as printed, as corrected, and as sharp as
it can be made.

Notation: lam0 = lambda_min(H_infinity), alpha = b/2, loss0 = L(0), pseudo0 = Delta(0) . H Delta(0)
/ 2 (the pseudo-loss at 0). Functions take numbers or numpy arrays and broadcast; curves take the
time first. The derivations are the notes of the claims; numbered theorems are those of
docs/theorems.md.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from jaxtyping import Array

Value = int | float | np.number | np.ndarray | Array


# Rates for a constant kernel: the exponent of L.


def gradient_flow_rate(lam_min: Value) -> Any:
    """2 lambda_min: the exponent of L under (2.5)."""
    return 2 * lam_min


def heavy_ball_rate(b: Value, lam_min: Value) -> Any:
    """r(b) = b for b <= 2 sqrt(lambda_min), else b - sqrt(b^2 - 4 lambda_min): the exponent of L
    under (3.5)."""
    return b - np.sqrt(np.maximum(b**2 - 4 * lam_min, 0.0))


def best_friction(lam_min: Value) -> Any:
    """b = 2 sqrt(lambda_min), which maximises `heavy_ball_rate`."""
    return 2 * np.sqrt(lam_min)


def paper_friction(lam0: Value) -> Any:
    """b = sqrt(2 lambda_0) = 2 sqrt(mu), mu = lambda_0 / 2: the choice of (3.3)."""
    return np.sqrt(2 * lam0)


def moving_kernel_rate(b: Value, center: Value, radius: Value) -> Any:
    """The exponent of L that is certain for every H(t) within `radius` of a fixed H_ref >= center,
    however it moves (Theorem 4):

        2 alpha - radius / sqrt(center - alpha^2)          if alpha^2 <= center - radius/2,
        2 alpha - 2 sqrt(alpha^2 - center + radius)        beyond,        alpha = b/2.

    No larger one is, for two samples and more (`switching.worst_kernel`). It is positive iff
    `moving_kernel_threshold` < b and radius < center.

    Two readings: near H_infinity, center = lambda_0 and radius the drift; for mu <= H(t) <= h mu,
    center = (1 + h) mu/2 and radius = (h - 1) mu/2, which at b = 2 sqrt(mu) leaves 2 sqrt(mu) -
    sqrt((h - 1) mu/2), positive iff h < 9.

    Proof: V = Delta.S Delta/2 + |beta Delta + Delta'|^2/2, S = H_ref - beta (b - beta), falls at
    rate b - sqrt((b - 2 beta)^2 + ||E S^{-1/2}||^2) (`lyapunov.reference_rate`); the best beta is
    b/2 in the first case and has center - beta (b - beta) = radius/2 in the second.
    """
    alpha, center, radius = np.asarray(b) / 2, np.asarray(center), np.asarray(radius)
    gap = np.maximum(center - alpha**2, radius / 2)  # of S, at the best beta
    beyond = np.maximum(alpha**2 - center + radius / 2, 0.0)
    spread = np.divide(radius, np.sqrt(gap), out=np.zeros(np.shape(gap + radius)), where=gap > 0)
    return (2 * alpha - np.sqrt(4 * beyond + spread**2))[()]


def best_moving_friction(center: Value, radius: Value) -> Any:
    """The b = 2 alpha that maximises `moving_kernel_rate` (Corollary 5): 2 (center - alpha^2)^{3/2}
    = radius alpha, a cubic: center - alpha^2 = (radius/sqrt 3) sinh(asinh(3 sqrt 3
    center/radius)/3).

    From 2 sqrt(center) without motion down to sqrt(2 center), `safe_friction`, at radius = center.
    """
    radius = np.maximum(radius, 1e-300 * np.asarray(center))
    gap = radius / np.sqrt(3) * np.sinh(np.arcsinh(3 * np.sqrt(3) * center / radius) / 3)
    return 2 * np.sqrt(center - gap)


def moving_kernel_threshold(center: Value, radius: Value) -> Any:
    """sqrt(center + radius) - sqrt(center - radius), that is sqrt(lambda_max) - sqrt(lambda_min):
    the heavy ball decays under every motion of H(t) between the two iff its friction exceeds it
    (n >= 2)."""
    return np.sqrt(center + radius) - np.sqrt(center - radius)


def allowed_drift(b: Value, lam0: Value) -> Any:
    """b sqrt(lambda_0 - b^2/4) for b <= sqrt(2 lambda_0), else lambda_0: every drift sup ||H(t) -
    H_infinity||_2 below it leaves a positive `moving_kernel_rate`."""
    b = np.minimum(b, np.sqrt(2 * lam0))
    return b * np.sqrt(lam0 - b**2 / 4)


def safe_friction(low: Value, high: Value) -> Any:
    """b = sqrt(lambda_min + lambda_max): with it the heavy ball decays under every motion of H(t)
    between the two, at `safe_rate`; no condition on how far it moves (Corollary 5)."""
    return np.sqrt(low + high)


def safe_rate(low: Value, high: Value) -> Any:
    """2 lambda_min / sqrt(lambda_min + lambda_max) > 0: `moving_kernel_rate` at `safe_friction`."""
    return 2 * low / np.sqrt(low + high)


# Curves of L(t).


def theorem_1(t: Value, lam0: Value, loss0: Value) -> Any:
    """(2.7): e^{-lambda_0 t} L(0), when lambda_min(H) >= lambda_0 / 2."""
    return np.exp(-lam0 * t) * loss0


def gradient_flow_sharp(t: Value, lam_min: Value, loss0: Value) -> Any:
    """e^{-2 lambda_min t} L(0), constant kernel."""
    return np.exp(-gradient_flow_rate(lam_min) * t) * loss0


def theorem_2_printed(
    t: Value,
    lam0: Value,
    pseudo0: Value,
    reading: Literal["quadratic form", "pseudo-loss"] = "pseudo-loss",
) -> Any:
    """(3.4) as printed: e^{-sqrt(lambda_0/2) t} times Delta . H Delta, or times half of it; the
    paper calls the two equal."""
    return np.exp(-np.sqrt(lam0 / 2) * t) * pseudo0 * (2.0 if reading == "quadratic form" else 1.0)


def theorem_2_corrected(t: Value, lam0: Value, pseudo0: Value) -> Any:
    """(4/lambda_0) e^{-sqrt(lambda_0/2) t} pseudo0, when H >= lambda_0/2 is constant and b = sqrt(2
    lambda_0)."""
    return 4 / lam0 * np.exp(-np.sqrt(lam0 / 2) * t) * pseudo0


def theorem_2_best(t: Value, lam0: Value, pseudo0: Value) -> Any:
    """The same with its best constant 8/(e lambda_0), attained by H = lambda_0/2 at t = 1/alpha."""
    return 8 / (np.e * lam0) * np.exp(-np.sqrt(lam0 / 2) * t) * pseudo0


def heavy_ball_critical(t: Value, alpha: Value, loss0: Value) -> Any:
    """(1 + alpha t)^2 e^{-2 alpha t} L(0), when H >= alpha^2 is constant and b = 2 alpha; equality
    for H = alpha^2 (Theorem 1)."""
    return (1 + alpha * t) ** 2 * np.exp(-2 * alpha * t) * loss0


def heavy_ball_sharp(t: Value, lam0: Value, loss0: Value) -> Any:
    """2 e^{-sqrt(2 lambda_0) t} L(0), when H >= lambda_0 is constant and b = sqrt(2 lambda_0)
    (Theorem 1)."""
    return 2 * np.exp(-np.sqrt(2 * lam0) * t) * loss0


def theorem_2_moving(t: Value, lam0: Value, pseudo0: Value) -> Any:
    """(2/lambda_0) e^{-sqrt(lambda_0/2) t} pseudo0: Lemma 6's right side, but with H_infinity in
    place of the printed H(0): pseudo0 = Delta(0) . H_infinity Delta(0)/2, b = sqrt(2 lambda_0)
    (Theorem 3).

    It holds, impulses apart, for any H(t) with sup ||H(t) - H_infinity||_2 <= lambda_0/2, which is
    what Lemmas 4 and 5 give together. As printed, by lambda_min(H(t)) >= lambda_0/2 alone, it
    fails.
    """
    return 2 / lam0 * np.exp(-np.sqrt(lam0 / 2) * t) * pseudo0


def pseudo_loss_printed(t: Value, alpha: Value, pseudo0: Value) -> Any:
    """(A.8) as printed, a bound of the pseudo-loss: e^{-alpha t} pseudo0."""
    return np.exp(-alpha * t) * pseudo0


def pseudo_loss_corrected(t: Value, alpha: Value, pseudo0: Value) -> Any:
    """2 e^{-alpha t} pseudo0, from V(0) <= 2 pseudo0; the best constant is 4/e."""
    return 2 * np.exp(-alpha * t) * pseudo0


def nesterov_printed(t: Value, d: Value, constant: Value, pseudo0: Value) -> Any:
    """(4.4) as printed: A t^{-2d/3} pseudo0 with A free of the kernel."""
    return constant * t ** (-2 * d / 3) * pseudo0


def nesterov_sharp(t: Value, d: Value, lam_min: Value, loss0: Value, decay_constant: Value) -> Any:
    """K_d (sqrt(lambda_min) t)^{-d} L(0), constant kernel, any d > 0 (Theorem 12); K_d = sup_s s^d
    Lambda_d(s)^2."""
    return decay_constant * (np.sqrt(lam_min) * t) ** (-d) * loss0


def nesterov_limsup(d: Value, eigenvalues: Value, coefficients: Value, kappa: Value) -> Any:
    """Theorem 12: limsup t^d L(t) = kappa_d sum_k c_k^2 lambda_k^{-d/2} / 2, for rationally
    independent sqrt(lambda_k)."""
    return kappa * np.sum(0.5 * np.square(coefficients) * eigenvalues ** (-d / 2))


def lemma_8_printed(t: Value, a: Value, lam0: Value, pseudo0: Value, constant: Value) -> Any:
    """Lemma 8 as printed: 4 C / (lambda_0 t^a (lambda_0/2)^{(a-2)/2}) pseudo0. It bounds the
    pseudo-loss."""
    return 4 * constant / (lam0 * t**a * (lam0 / 2) ** ((a - 2) / 2)) * pseudo0


def lemma_8_corrected(t: Value, a: Value, lam0: Value, pseudo0: Value, constant: Value) -> Any:
    """(2/lambda_0) C (sqrt(lambda_0/2) t)^{-a} pseudo0 with C = sup_s s^a Lambda_d(s)^2, constant H
    >= lambda_0/2, a <= d."""
    return 2 / lam0 * constant * (np.sqrt(lam0 / 2) * t) ** (-a) * pseudo0


# How far a neuron moves.


def displacement_printed(alpha: Value, n: Value, width: Value, pseudo0: Value) -> Any:
    """The last line of the proof of Lemma 6: sqrt(n pseudo0 / (9 m alpha^2))."""
    return np.sqrt(n * pseudo0 / (9 * width * alpha**2))


def displacement_corrected(alpha: Value, n: Value, width: Value, pseudo0: Value) -> Any:
    """(sqrt 2/alpha^3) sqrt(n pseudo0 / m) (Proposition 8), from `theorem_2_moving` and int |w_r'|
    <= int |dL/dw_r| / b; pseudo0 by H_infinity."""
    return np.sqrt(2) / alpha**3 * np.sqrt(n * pseudo0 / width)


def displacement_frozen(n: Value, width: Value, lam0: Value, residual0: Value) -> Any:
    """(1 + e^{-pi}) sqrt(n) |Delta(0)| / (sqrt(m) lambda_0): the heavy ball at b = sqrt(2
    lambda_0), constant kernel >= lambda_0; met by one sample, H = lambda_0, at its first turning
    point."""
    return (1 + np.exp(-np.pi)) * np.sqrt(n) * residual0 / (np.sqrt(width) * lam0)


def kernel_jump(n: Value, width: Value) -> Any:
    """(1 + sqrt(4n - 3)) / (2m): the most by which H can jump, in the spectral norm, where one
    neuron crosses one kink; unit inputs (Proposition 7). Approached when the inputs nearly
    coincide."""
    return (1 + np.sqrt(4 * n - 3)) / (2 * width)


def displacement_constant(n: Value, width: Value, lam_min: Value, residual0: Value) -> Any:
    """2 sqrt(n) |Delta(0)| / (sqrt(m) lambda_min): constant kernel, any of the three flows
    (Proposition 10)."""
    return 2 * np.sqrt(n) * residual0 / (np.sqrt(width) * lam_min)


# Widths, probabilities and radii. `constant` stands for the one that Omega(.) hides.


def width_theorem_1_printed(n: Value, delta: Value, constant: Value = 1.0) -> Any:
    """n^6 / delta^3."""
    return constant * n**6 / delta**3


def width_corrected(n: Value, delta: Value, lam0: Value, constant: Value = 1.0) -> Any:
    """n^6 / (delta^3 lambda_0^4) (Du et al. 2018), for all three flows with a frozen kernel."""
    return constant * n**6 / (delta**3 * lam0**4)


def width_theorem_2_printed(
    n: Value, delta: Value, lam0: Value, b: Value, constant: Value = 1.0
) -> Any:
    """n^5 / (delta^2 lambda_0^{2.5} b^2)."""
    return constant * n**5 / (delta**2 * lam0**2.5 * b**2)


def width_theorem_3_printed(n: Value, delta: Value, lam0: Value, constant: Value = 1.0) -> Any:
    """n^5 / (delta^2 lambda_0^{2.5})."""
    return constant * n**5 / (delta**2 * lam0**2.5)


def width_from_displacement(n: Value, delta: Value, lam0: Value, residual0: Value) -> Any:
    """The width at which `displacement_constant` meets `lemma_5_radius`: 4 n^5 |Delta(0)|^2 / (c^2
    delta^2 lambda_0^4)."""
    return (2 * np.sqrt(n) * residual0 / (lam0 * lemma_5_radius(n, delta, lam0))) ** 2


def lemma_4_width(n: Value, delta: Value, lam0: Value) -> Any:
    """(8 n^2 / lambda_0^2) log(2 n^2 / delta): Hoeffding entry by entry gives ||H(0) -
    H_infinity||_2 <= lambda_0/4."""
    return 8 * n**2 / lam0**2 * np.log(2 * n**2 / delta)


def chernoff_width(n: Value, delta: Value, lam0: Value, gram_norm: Value) -> Any:
    """32 (||X||_2^2 / lambda_0) log(n / delta): matrix Chernoff gives lambda_min(H(0)) >= 3
    lambda_0 / 4."""
    return 32 * gram_norm / lam0 * np.log(n / delta)


def lemma_5_radius(n: Value, delta: Value, lam0: Value) -> Any:
    """R = c delta lambda_0 / n^2 with c = sqrt(2 pi) / 16 (Markov on the expected number of
    flips)."""
    return np.sqrt(2 * np.pi) / 16 * delta * lam0 / n**2


# Switching kernels (counterexamples).


def heavy_ball_switching_factor(h: Value) -> Any:
    """Growth of the amplitude per half cycle when b = 2 sqrt(mu) and H is mu while moving out, h mu
    while moving in (Proposition 6)."""
    omega = np.sqrt(h - 1)
    return np.sqrt(h) * np.exp(-(np.pi - np.arctan(omega)) / omega - 1)


def nesterov_switching_rate(h: Value) -> Any:
    """Exponent of L when H is 1 while moving out and h while moving in, and the friction d/t has
    died away (Proposition 13)."""
    return np.log(h) / (np.pi / 2 * (1 + 1 / np.sqrt(h)))

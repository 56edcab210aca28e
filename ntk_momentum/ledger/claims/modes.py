"""Closed forms of a constant kernel, mode by mode: the three flows, roots of the discrete methods,
suprema that bounds must meet."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.integrate
import scipy.special

from ...method import AbstractFlow, HeavyBall, Nesterov
from ...method.special import decay_constant, kappa
from ...theory import bounds

ONE = "n = 1, |x| = 1: H = lambda0 = 1/2, b = sqrt(2 lambda0) = 1, Delta(0) = 1"


@jax.jit
def _modes(flow: AbstractFlow, eigenvalues: Any, ts: Any) -> Any:
    return flow.mode(eigenvalues, ts)


def mode_table(flow: AbstractFlow, eigenvalues: Any, ts: Any) -> tuple[np.ndarray, np.ndarray]:
    """(phi, phi') of every eigenvalue at every time, (times, n), in blocks of one length so that
    one program serves all."""
    eigenvalues, ts = (
        np.atleast_1d(np.asarray(eigenvalues, np.float64)),
        np.atleast_1d(np.asarray(ts, np.float64)),
    )
    flow = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), flow)
    shape, block = (ts.size, eigenvalues.size), 8192
    grid = np.stack(
        [
            np.broadcast_to(eigenvalues[None], shape).ravel(),
            np.broadcast_to(ts[:, None], shape).ravel(),
        ]
    )
    padded = np.pad(grid, ((0, 0), (0, -grid.shape[1] % block)), mode="edge")
    parts = [_modes(flow, *padded[:, i : i + block]) for i in range(0, padded.shape[1], block)]
    phi, dphi = (
        np.concatenate([np.asarray(part[k]) for part in parts])[: grid.shape[1]].reshape(shape)
        for k in (0, 1)
    )
    return phi, dphi


@dataclasses.dataclass(frozen=True)
class Frozen:
    """Error dynamics of a constant kernel in its eigenbasis: residual and velocity (times, n), loss
    and pseudo_loss (times,)."""

    ts: np.ndarray
    residual: np.ndarray
    velocity: np.ndarray
    loss: np.ndarray
    pseudo_loss: np.ndarray


def frozen(flow: AbstractFlow, eigenvalues: Any, coefficients: Any, ts: Any) -> Frozen:
    """The closed-form solution from rest at `coefficients`, given in the eigenbasis."""
    phi, dphi = mode_table(flow, eigenvalues, ts)
    c = np.broadcast_to(np.asarray(coefficients, np.float64), phi.shape[1:])
    residual, velocity = phi * c[None], dphi * c[None]
    squares = 0.5 * residual**2
    return Frozen(
        np.asarray(ts, float),
        residual,
        velocity,
        squares.sum(1),
        (squares * np.atleast_1d(eigenvalues)[None]).sum(1),
    )


def radius(polynomial: Sequence[Any]) -> float:
    """Largest modulus of the roots."""
    return float(np.abs(np.roots(np.asarray(polynomial, float))).max())


def worst_modes(alpha: float, spread: float = 1e4) -> np.ndarray:
    """Eigenvalues from alpha^2 upwards, on which a bound for H >= alpha^2 must hold."""
    return alpha**2 * np.concatenate([np.linspace(1.0, 4.0, 32), np.geomspace(4.1, spread, 32)])


def exponent(b: float, lam: float, until: float = 60.0) -> float:
    """Measured exponent of the envelope phi^2 + phi'^2/lambda of one mode, over the last third of
    [0, until / r(b)]."""
    end = until / float(bounds.heavy_ball_rate(b, lam))
    run = frozen(HeavyBall(b), [lam], [1.0], np.linspace(0, end, 512))
    tail = slice(342, None)
    envelope = run.residual[:, 0] ** 2 + run.velocity[:, 0] ** 2 / lam
    return float(-np.polyfit(run.ts[tail], np.log(envelope[tail]), 1)[0])


def theorem_2_ratio(formula: Callable, lam0: float, low: float) -> float:
    """Largest L(t) / formula over modes with eigenvalue >= low at b = sqrt(2 lambda0)."""
    alpha = np.sqrt(lam0 / 2)
    ts = np.linspace(0, 20 / alpha, 512)
    lams = low * np.concatenate([np.linspace(1, 4, 32), np.geomspace(4.1, 1e4, 32)])
    run = frozen(HeavyBall(2 * alpha), lams, 1.0, ts)
    losses = 0.5 * run.residual**2
    return float(np.max(losses / formula(ts[:, None], lams[None, :])))


DS = (0.5, 1.0, 2.0, 3.0, 6.0, 9.0)


@functools.cache
def _constants() -> dict[float, tuple[float, float]]:
    values = jax.jit(lambda d: (decay_constant(d), kappa(d)))(np.array(DS))
    return {d: (float(K), float(k)) for d, K, k in zip(DS, *values, strict=True)}


def constant(d: float) -> float:
    """K_d = sup_s s^d Lambda_d(s)^2."""
    return _constants()[d][0]


def amplitude(d: float) -> float:
    """kappa_d = limsup s^d Lambda_d(s)^2."""
    return _constants()[d][1]


def solved_error(kernel: np.ndarray, start: np.ndarray, d: float) -> tuple[np.ndarray, np.ndarray]:
    """(t, L) of Delta'' + (d/t) Delta' + H Delta = 0 from rest, step by step: no closed form.

    From t = 1e-2/sqrt(lambda_max) on, by the series Delta = D0 - t^2 H D0/(2(d+1)) + ..., whose
    next term is 1e-9 there; to 40/sqrt(lambda_min)."""
    values, vectors = np.linalg.eigh(np.atleast_2d(kernel))
    c, t0 = vectors.T @ start, 1e-2 / np.sqrt(values[-1])
    ts = np.geomspace(t0, 40 / np.sqrt(values[0]), 4096)
    n = len(c)
    run = scipy.integrate.solve_ivp(
        lambda t, s: np.concatenate([s[n:], -d / t * s[n:] - values * s[:n]]),
        (t0, ts[-1]),
        np.concatenate([c - t0**2 * values * c / (2 * (d + 1)), -t0 * values * c / (d + 1)]),
        t_eval=ts,
        rtol=1e-9,
        atol=1e-12,
        method="DOP853",
    )
    loss = 0.5 * np.sum(run.y[:n] ** 2, axis=0)
    return np.concatenate([[0.0], ts])[1:], np.concatenate([[0.5 * c @ c], loss[1:]])


def solved_reach(d: float, power: float, lam: float) -> float:
    """sup_t t^power phi(t)^2 of one mode, solved step by step."""
    ts, loss = solved_error(np.array([[lam]]), np.ones(1), d)
    return float(np.max(ts**power * 2 * loss))


def bessel_reach(d: float, power: float) -> float:
    """sup_s s^power Lambda_d(s)^2 by SciPy's Bessel function: Lambda_d = Gamma((d+1)/2)
    (2/s)^{(d-1)/2} J_{(d-1)/2}(s)."""
    s, order = np.geomspace(1e-3, 400, 200_000), (d - 1) / 2
    mode = scipy.special.gamma(order + 1) * (2 / s) ** order * scipy.special.jv(order, s)
    return float(np.max(s**power * mode**2))


def reach(d: float, power: float, lam: float = 1.0, until: float = 400.0) -> float:
    """sup_t t^power phi(t)^2 of one mode, t from 0 to until / sqrt(lambda)."""
    ts = np.linspace(1e-3, until, 8192) / np.sqrt(lam)
    return float(np.max(ts**power * frozen(Nesterov(d), [lam], [1.0], ts).residual[:, 0] ** 2))

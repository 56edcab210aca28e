"""Lyapunov functions of the flows: each is (A.6) of the heavy ball that its equation contains, and
falls along its own solutions."""

import jax.numpy as jnp
import numpy as np
import pytest

import ntk_momentum as nm
from ntk_momentum import method as m

RNG = np.random.default_rng(0)
D, V = RNG.standard_normal((2, 3))
H = (lambda A: A @ A.T + np.eye(3))(RNG.standard_normal((3, 3)))


def heavy_ball(b, velocity=V, kernel=H):
    """Delta . H Delta/2 + |b Delta/2 + Delta'|^2/2."""
    return 0.5 * D @ kernel @ D + 0.5 * np.sum((b / 2 * D + velocity) ** 2)


def test_energies_are_those_of_their_equations():
    cases = {
        "gradient flow": (nm.GradientFlow(), 0.5 * D @ D),
        "heavy ball": (nm.HeavyBall(0.7), heavy_ball(0.7)),
        # b(t) = 0.3 + t at t = 2
        "friction": (m.Friction(lambda t: 0.3 + t), heavy_ball(2.3)),
        "strongly convex": (m.NesterovStronglyConvex(0.25), heavy_ball(2 * 0.5)),
        # (1 + beta2) Delta'' + b Delta' + H Delta = 0, divided by 1 + beta2
        "multi-step": (m.MultiStepMomentum(0.7, 0.4), heavy_ball(0.5, kernel=H / 1.4)),
        # Delta' + gamma H Delta is the velocity of the equation without Hessian damping
        "Hessian damping": (
            m.HessianDamped(0.7, 0.2, 1.1),
            heavy_ball(0.7, V + 0.2 * H @ D) + 0.1 * 0.5 * D @ H @ D,
        ),
        "restarted": (m.RestartedNesterov(3.0, 5.0), heavy_ball(0.0)),
    }
    for name, (flow, expected) in cases.items():
        found = flow.lyapunov(2.0, jnp.asarray(D), jnp.asarray(V), jnp.asarray(H))
        assert float(found) == pytest.approx(float(expected), rel=1e-10), name


@pytest.mark.parametrize(
    "flow",
    [
        nm.GradientFlow(),
        nm.HeavyBall(1.0),
        m.HessianDamped(1.0, 0.3),
        m.MultiStepMomentum(1.0, 0.3),
    ],
)
def test_energies_fall_along_their_flows(flow):
    """alpha^2 is below the smallest eigenvalue."""
    eigenvalues, ts = jnp.asarray(np.linalg.eigvalsh(H)), jnp.linspace(0.0, 6.0, 40)
    phi, slope = flow.mode(eigenvalues[None, :], ts[:, None])
    energy = [
        float(flow.lyapunov(t, phi[i], slope[i], jnp.diag(eigenvalues))) for i, t in enumerate(ts)
    ]
    assert np.all(np.diff(energy) < 0)

"""A frozen step by a few products with the kernel is the one by its eigenvectors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntk_momentum as nm
from ntk_momentum.dynamics.solver import frozen_kernel
from ntk_momentum.dynamics.solver.frozen_kernel import remembered

N = 60
RNG = np.random.default_rng(0)
H = jnp.asarray(nm.infinite_ntk(nm.sphere(N, 12, key=jax.random.key(0)).X))
DELTA, JV = (jnp.asarray(RNG.standard_normal(N)) for _ in range(2))
TOP = float(jnp.linalg.eigvalsh(H)[-1])
FLOWS = [nm.GradientFlow(), nm.HeavyBall(0.7), nm.Nesterov(3.0)]


def step(flow, by_products, kernel, h, delta=DELTA, velocity=JV, allowed=1e-6):
    at = remembered(kernel, by_products)
    t = jnp.asarray(40.0)
    h, allowed = jnp.asarray(h), jnp.asarray(allowed)
    return frozen_kernel.frozen_step(flow, at, t, h, delta, velocity, allowed)


@pytest.mark.parametrize(
    ("flow", "most"),
    list(zip(FLOWS, (8, 30, 32), strict=True)),
    ids=["beyond", "within", "one size"],
)
def test_a_step_by_products_is_the_one_by_eigenvectors_as_far_as_was_allowed(
    flow, most, monkeypatch
):
    monkeypatch.setattr(frozen_kernel, "NEARLY_ALL", most)
    hs = jnp.asarray([1.0, 2.0]) * (30 / TOP if flow.init(0.0).v is None else 10 / TOP**0.5)
    kernels = jnp.stack([H, H * 0.8])
    both = [
        jax.jit(jax.vmap(lambda kernel, p=p: step(flow, p, kernel, hs)))(kernels)
        for p in (False, True)
    ]
    (exact, _, _), (found, missed, at) = both
    assert jnp.all(missed <= 1e-6) and jnp.all(at.products < frozen_kernel.capacity(N))
    assert jnp.all((at.products > most) == (most == 8))
    for a, b in zip(exact, found, strict=True):
        assert jnp.linalg.norm(a - b) <= 1e-6 * max(1.0, float(jnp.linalg.norm(a)))


def test_nothing_moves_where_nothing_pushes():
    found, missed, _ = step(FLOWS[1], True, H, 1.0, jnp.zeros(N), jnp.zeros(N))
    assert missed == 0 and all(jnp.all(part == 0) for part in found[:4])


def test_what_a_few_products_cannot_reach_is_solved_by_eigenvectors():
    flow, h = nm.GradientFlow(), 1e8 / TOP
    found, missed, at = step(flow, True, H, h, allowed=1e-12)
    exact, _, _ = step(flow, False, H, h)
    assert missed == 0 and at.products == frozen_kernel.capacity(N)
    np.testing.assert_allclose(found.impulse_w, exact.impulse_w, rtol=1e-11)


def test_a_step_by_products_has_the_derivatives_of_the_matrix_function():
    def end(by_products, kernel, delta, h):
        found, _, _ = step(nm.GradientFlow(), by_products, kernel, h, delta)
        return jnp.sum(jnp.cos(found.impulse_w) * found.residual)

    at, towards = (H, DELTA, jnp.asarray(3.0)), (H @ H / TOP, JV, jnp.asarray(1.0))
    gradient = jax.jit(jax.grad(end, (1, 2, 3)), static_argnums=0)
    plain, fast = (gradient(p, *at) for p in (False, True))
    for a, b in zip(plain, fast, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    rate = jax.jit(lambda: jax.jvp(lambda *x: end(True, *x), at, towards)[1])()
    np.testing.assert_allclose(rate, sum(map(jnp.vdot, plain, towards)), rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("flow", FLOWS[:2], ids=lambda flow: type(flow).__name__)
def test_a_run_by_products_takes_the_steps_of_one_by_eigenvectors(flow):
    data = nm.load_digits(N, key=jax.random.key(0))
    net = nm.init_two_layer(256, 64, key=jax.random.key(1))
    slow = flow.init(0.0).v is None
    ts = jnp.linspace(0.0, 100 / TOP if slow else 20 / TOP**0.5, 3)
    how = {"readouts": ["residual"], "config": nm.Numerics(tol=1e-4)}
    plain, fast = (
        nm.simulate(net, data, flow, ts, solver=nm.LazyExponential(products=p), **how)
        for p in (False, True)
    )
    assert abs(int(plain.accepted - fast.accepted)) <= 1
    gap = jnp.linalg.norm(plain.residual - fast.residual) / jnp.linalg.norm(plain.residual[0])
    assert gap < 1e-4

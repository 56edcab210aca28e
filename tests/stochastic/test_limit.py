"""The critical step against power iteration of the whole recursion, and limits known by hand."""

import jax
import numpy as np
import pytest

import ntk_momentum as nm
from ntk_momentum.errors import InputError
from ntk_momentum.stochastic.limit import _edge
from ntk_momentum.stochastic.linear import late_step
from ntk_momentum.stochastic.sampling import noise_strength

METHODS = (
    nm.gradient_descent(0.1),
    nm.heavy_ball(0.1, 0.9),
    nm.constant_nesterov(0.1, 0.9),
    nm.multi_step_momentum(0.1, 0.4, 0.2),
)
name = lambda method: type(method).__name__


def kernel_of(n=12):
    rng = np.random.default_rng(0)
    X = np.concatenate([np.r_[2, 0, 0] + 0.3 * rng.standard_normal((4, 3)),
                        rng.standard_normal((n - 4, 3))])  # fmt: skip
    return np.asarray(nm.infinite_ntk(X / np.linalg.norm(X, axis=1)[:, None]))


def growth(optimizer, kernel, B, sampling, iterations=2000):
    """The factor by which E zz^T grows at each step, by power iteration in the samples' own
    order: S <- (P x I + g e^T x H) S (...)^T + g g^T x H N H."""
    P, g = late_step(optimizer)
    n, s = len(kernel), len(g)
    tau = noise_strength(B, n, sampling)
    step = np.kron(P, np.eye(n)) + np.kron(np.outer(g, np.arange(s) == 0), kernel)
    push = np.kron(g[:, None], kernel)
    S = np.eye(s * n)
    for _ in range(iterations):
        A = S[:n, :n]
        S = step @ S @ step.T + push @ (tau * (n * np.diag(np.diag(A)) - A)) @ push.T
        size = np.trace(S)
        S = S / size
    return size


@pytest.mark.parametrize(
    "optimizer",
    [*METHODS[1:3], *(pytest.param(o, marks=pytest.mark.slow) for o in METHODS[::3])],
    ids=name,
)
@pytest.mark.parametrize("sampling", ["without_replacement", "with_replacement"])
def test_moments_neither_grow_nor_shrink_at_the_critical_step(optimizer, sampling):
    kernel = kernel_of()
    found = nm.critical_step(optimizer, kernel, batch_size=3, sampling=sampling)
    at = growth(optimizer, kernel * (found.eta / optimizer.eta), 3, sampling)
    assert abs(at - 1) < 1e-6
    assert found.eta < found.full_batch


@pytest.mark.parametrize("optimizer", METHODS, ids=name)
def test_the_full_batch_has_the_limit_of_each_method(optimizer):
    kernel = kernel_of()
    found = nm.critical_step(optimizer, kernel, batch_size=len(kernel))
    limit = nm.stability_limit(optimizer) * optimizer.eta / np.linalg.eigvalsh(kernel)[-1]
    np.testing.assert_allclose([found.eta, found.estimate], limit, rtol=1e-6)


@pytest.mark.parametrize("B", [1, 2, 5])
def test_isotropic_kernels_have_their_limits_by_hand(B):
    """(1 - x)^2 + tau (n - 1) x^2 = 1 at x = 2/(1 + tau (n - 1)) = 2 B/n; with momentum the sum
    over squared impulses is s = x (1 + beta)/((1 - beta)(2 (1 + beta) - x)), and tau (n - 1) s =
    1."""
    n = 10
    descent = nm.critical_step(nm.gradient_descent(1.0), np.eye(n), batch_size=B)
    np.testing.assert_allclose([descent.eta, descent.estimate], 2 * B / n, rtol=1e-6)
    beta = 0.8
    ball = nm.critical_step(nm.heavy_ball(1.0, beta), np.eye(n), batch_size=B)
    ratio = (n - B) / B
    x = 2 * (1 + beta) / (1 + ratio * (1 + beta) / (1 - beta))
    np.testing.assert_allclose([ball.eta, ball.estimate], x, rtol=1e-6)


@pytest.mark.parametrize("n, stable", [(11, True), (13, False)])
def test_nesterov_is_unstable_for_batches_below_a_third(n, stable):
    """At momentum 1 slow modes have s = 1/2 each and no correlations: tau (n - 1)/2 < 1 only for
    B > n/3, whatever the kernel."""
    found = nm.critical_step(nm.nesterov(1.0, 3.0), kernel_of(n), batch_size=4)
    assert (found.eta > 0) == (found.estimate > 0) == stable


def test_estimate_is_too_large_where_eigenvectors_are_localised():
    """Of a diagonal kernel each sample is its own mode, and the largest alone decides: 2 B/n."""
    values = np.geomspace(1.0, 100.0, 20)
    found = nm.critical_step(nm.gradient_descent(1.0), np.diag(values), batch_size=2)
    np.testing.assert_allclose(found.eta * values[-1], 0.2, rtol=1e-6)
    assert found.error > 1


def test_modes_that_the_kernel_does_not_see_do_not_matter():
    kernel = np.zeros((6, 6))
    kernel[:3, :3] = np.eye(3)
    found = nm.critical_step(nm.gradient_descent(1.0), kernel, batch_size=2)
    # three modes of six samples: (1 - x)^2 + x^2 tau (n - 1) = 1 still, noise stays in its sample
    np.testing.assert_allclose(found.eta, 2 * 2 / 6, rtol=1e-6)


def test_bad_input_is_told():
    ask = lambda optimizer, **kwargs: nm.critical_step(
        optimizer, np.eye(4), **{"batch_size": 2, **kwargs}
    )
    for match, optimizer, kwargs in (
        ("restarts", nm.restarted_nesterov(0.1, 3.0, 5), {}),
        ("do not close", nm.gradient_descent(0.1), {"sampling": "reshuffled"}),
        ("between 1 and the number of samples, 4", nm.gradient_descent(0.1), {"batch_size": 9}),
    ):
        with pytest.raises(InputError, match=match):
            ask(optimizer, **kwargs)
    with pytest.raises(InputError, match="positive eigenvalue"):
        nm.critical_step(nm.gradient_descent(0.1), np.zeros((3, 3)), batch_size=1)


def test_the_edge_of_the_full_batch_is_found_for_momentum_1():
    edge = _edge(late_step(nm.nesterov(0.5, 3.0)), 2.0)
    np.testing.assert_allclose(edge * 0.5 * 2.0, 4 / 3, rtol=1e-6)


def test_outputs_of_a_sample_share_its_draws():
    """Two outputs with one kernel: the full kernel's limit is that of one output."""
    kernel = kernel_of(6)
    one = nm.critical_step(nm.heavy_ball(1.0, 0.5), kernel, batch_size=2)
    full = np.einsum("ij,ab->iajb", kernel, np.eye(2))
    both = nm.critical_step(nm.heavy_ball(1.0, 0.5), full, batch_size=2)
    np.testing.assert_allclose(both.eta, one.eta, rtol=1e-5)


def test_sphere_limits_interpolate_between_both_ends():
    """From (1 - beta) B times a constant to 2 (1 + beta)/lambda_max."""
    data = nm.sphere(16, 4, key=jax.random.key(0))
    kernel = np.asarray(nm.infinite_ntk(data.X))
    limits = [
        nm.critical_step(nm.heavy_ball(1.0, 0.9), kernel, batch_size=B).eta
        for B in (1, 2, 4, 8, 16)
    ]
    assert np.all(np.diff(limits) > 0)
    np.testing.assert_allclose(limits[1] / limits[0], 2.0, rtol=0.15)
    np.testing.assert_allclose(limits[-1], 3.8 / np.linalg.eigvalsh(kernel)[-1], rtol=1e-6)


@pytest.mark.parametrize("optimizer", [METHODS[0], METHODS[1]], ids=name)
def test_the_critical_batch_is_the_first_that_is_near_the_full_batch(optimizer):
    kernel = kernel_of()
    limit = lambda B: nm.critical_step(optimizer, kernel, batch_size=B)
    B = nm.critical_batch(optimizer, kernel)
    assert limit(B).eta >= 0.9 * limit(B).full_batch
    assert B == 1 or limit(B - 1).eta < 0.9 * limit(B).full_batch

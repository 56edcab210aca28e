"""The kernel as an operator equals the kernel as a matrix, and Lanczos finds the ends of its
spectrum."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
import numpy as np
import pytest

from ntk_momentum.errors import InputError
from ntk_momentum.kernel import empirical_ntk, extreme_eigenvalues, ntk_operator
from ntk_momentum.network.two_layer import init_two_layer

KEY = jax.random.key(0)
MLP = eqx.nn.MLP(4, 2, 16, 1, key=KEY)
X = np.random.default_rng(0).standard_normal((7, 4))


@pytest.mark.parametrize(("options", "block_size"), [({}, 3), ({"trainable": "all"}, None)])
def test_the_operator_is_the_matrix(options, block_size):
    model = init_two_layer(50, 4, key=KEY) if options else MLP
    H = np.asarray(empirical_ntk(model, X, output="full", **options))
    operator = ntk_operator(model, X, block_size=block_size, **options)
    shape = H.shape[: H.ndim // 2]
    v = np.random.default_rng(1).standard_normal(shape)
    np.testing.assert_allclose(
        operator.mv(v), np.tensordot(H, v, axes=v.ndim), rtol=1e-12, atol=1e-13
    )
    assert lineax.is_symmetric(operator)
    assert lineax.is_positive_semidefinite(operator)
    solution = lineax.linear_solve(
        operator, v, lineax.CG(rtol=1e-12, atol=1e-12, max_steps=1000)
    ).value
    np.testing.assert_allclose(np.tensordot(H, solution, axes=v.ndim), v, atol=1e-9)


@pytest.mark.parametrize("block_size", [2, pytest.param(None, marks=pytest.mark.slow)])
def test_a_test_kernel_is_an_operator_too(block_size):
    net, rng = init_two_layer(16, 3, key=KEY), np.random.default_rng(3)
    x, other, v = rng.standard_normal((3, 3)), rng.standard_normal((5, 3)), rng.standard_normal(5)
    operator = ntk_operator(net, x, other, block_size=block_size)
    exact = empirical_ntk(net, x, other) @ v
    np.testing.assert_allclose(operator.mv(jnp.asarray(v)), exact, atol=1e-12)


@pytest.mark.slow
def test_lanczos_finds_the_ends_of_the_spectrum_within_its_own_error():
    net, x = init_two_layer(400, 10, key=KEY), np.random.default_rng(2).standard_normal((60, 10))
    exact = np.linalg.eigvalsh(empirical_ntk(net, x))
    operator = ntk_operator(net, x)
    ends = extreme_eigenvalues(operator, key=KEY, order=60)
    np.testing.assert_allclose([ends.lambda_min, ends.lambda_max], exact[[0, -1]], rtol=1e-10)
    rough = extreme_eigenvalues(operator, key=KEY, order=12)
    assert exact[0] <= rough.lambda_min
    assert rough.lambda_max <= exact[-1] * (1 + 1e-12)
    assert np.abs(exact - float(rough.lambda_min)).min() <= rough.error_min
    assert np.abs(exact - float(rough.lambda_max)).min() <= rough.error_max + 1e-10
    assert not rough.converged
    fine = extreme_eigenvalues(operator, key=KEY, order=12, rtol=1e-3)
    assert fine.steps in (24, 48, 60)
    assert fine.converged
    assert fine.error_min <= 1e-3 * fine.lambda_min
    assert float(fine.lambda_min) == pytest.approx(exact[0], rel=1e-3)
    short = extreme_eigenvalues(operator, key=KEY, order=12, rtol=1e-9, most=20)
    assert (short.steps, short.converged) == (20, False)
    with pytest.raises(InputError, match="order"):
        extreme_eigenvalues(operator, key=KEY, order=0)

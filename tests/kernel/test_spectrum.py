"""The spectrum of a kernel: known spectra, known times, and the loss curve it predicts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_momentum.data import sphere
from ntk_momentum.errors import InputError
from ntk_momentum.kernel import infinite_ntk, infinite_ntk_operator, spectrum
from ntk_momentum.method import GradientFlow, HeavyBall, Nesterov

EYE = jnp.eye(4)


def test_the_identity_and_a_rank_one_kernel_have_their_known_numbers():
    flat = spectrum(3 * EYE, jnp.ones(4))
    assert float(flat.kappa) == pytest.approx(1)
    assert float(flat.effective_rank) == pytest.approx(4)
    assert float(flat.alignment) == pytest.approx(0.5)
    y = jnp.array([1.0, -1.0, 2.0, 0.0])
    line = spectrum(jnp.outer(y, y), y)
    assert float(line.alignment) == pytest.approx(1)
    assert float(line.effective_rank) == pytest.approx(1)
    assert float(line.lambda_max) == pytest.approx(6)
    assert float(line.shares[-1]) == pytest.approx(1)


def test_shares_rebuild_the_quadratic_form():
    x = np.random.default_rng(0).standard_normal((9, 4))
    y = np.random.default_rng(1).standard_normal(9)
    H = infinite_ntk(x)
    s = spectrum(H, y)
    assert float(s.shares.sum()) == pytest.approx(1)
    assert float(s.eigenvalues @ s.shares) == pytest.approx(y @ H @ y / (y @ y))
    assert float(s.alignment) == pytest.approx(float(y @ H @ y / (y @ y) / np.linalg.norm(H)))
    assert float(s.kappa) == pytest.approx(np.linalg.cond(H))
    blocks = spectrum(jnp.einsum("ij,ab->iajb", H, jnp.eye(2)), np.stack([y, y], axis=1))
    np.testing.assert_allclose(blocks.eigenvalues[::2], s.eigenvalues, atol=1e-12)


@pytest.mark.parametrize("epsilon", [0.5, 1e-2, 1e-8])
def test_time_to_epsilon_of_one_mode_is_its_closed_form(epsilon):
    one = spectrum(0.25 * EYE)
    assert one.time_to(epsilon, GradientFlow()) == pytest.approx(-np.log(epsilon) / 0.5, rel=1e-6)
    critical = one.time_to(epsilon, HeavyBall(1.0))  # b = 2 sqrt(lambda): phi = (1 + t/2) exp(-t/2)
    assert ((1 + critical / 2) * np.exp(-critical / 2)) ** 2 == pytest.approx(epsilon, rel=1e-3)
    # phi = cos(t/2) touches every epsilon, over and over, and stays below none
    assert one.time_to(epsilon, HeavyBall(0.0)) == np.inf


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [0.3, 1e-2])
@pytest.mark.parametrize("flow", [HeavyBall(0.05), HeavyBall(1.0), Nesterov(1.0), Nesterov(3.0)])
def test_the_loss_stays_below_epsilon_from_then_on(flow, epsilon):
    s = spectrum(jnp.diag(jnp.array([0.04, 0.3, 1.0])), jnp.array([0.2, 1.0, 1.0]))
    found = s.time_to(epsilon, flow)
    ts = np.linspace(0.0, 20 * found, 200_001)
    last = ts[np.flatnonzero(np.asarray(s.loss(flow, ts)) > epsilon)[-1]]
    assert found == pytest.approx(last, abs=2 * ts[1])


def test_momentum_pays_on_an_ill_conditioned_kernel_and_nesterov_reaches_every_loss():
    s = spectrum(jnp.diag(jnp.array([1e-4, 1e-2, 1.0])), jnp.ones(3))
    gradient, ball = s.time_to(1e-6, GradientFlow()), s.time_to(1e-6, HeavyBall(2e-2))
    assert gradient == pytest.approx(np.log(1e6 / 3) / 2e-4, rel=1e-4)
    assert ball < gradient / 20
    assert s.time_to(1e-2, Nesterov(3.0)) < gradient


def test_what_the_kernel_cannot_see_is_never_learnt():
    blind = spectrum(jnp.diag(jnp.array([0.0, 1.0])), jnp.array([1.0, 2.0]))
    assert blind.time_to(0.5, GradientFlow()) < np.inf
    assert blind.time_to(0.1, GradientFlow()) == np.inf
    assert float(blind.kappa) == np.inf


def test_the_spectrum_works_under_jit():
    kappa = jax.jit(lambda H, y: spectrum(H, y).kappa)(2 * EYE, jnp.ones(4))
    assert float(kappa) == pytest.approx(1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spectrum(sphere(3, 4, key=jax.random.key(0))), "data.X"),
        (lambda: spectrum(jnp.ones((2, 3))), "shape"),
        (lambda: spectrum(jnp.array([[1.0, 2.0], [0.0, 1.0]])), "symmetric"),
        (lambda: spectrum(EYE * jnp.nan), "NaN"),
        (lambda: spectrum(EYE, jnp.ones(3)), "y must have"),
        (lambda: spectrum(EYE, jnp.zeros(4)), "must not be all zero"),
        (lambda: spectrum(EYE).alignment, "needs labels"),
        (lambda: spectrum(EYE).time_to(2.0, GradientFlow()), "epsilon"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.slow
def test_products_find_the_part_of_the_spectrum_that_the_labels_take_part_in():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 3)), rng.standard_normal(30)
    H = infinite_ntk(x)
    whole, few = spectrum(H, y), spectrum(infinite_ntk_operator(x), y, products=12)
    assert few.eigenvalues.shape == (12,) and few.eigenvectors.shape == (30, 12)
    assert float(few.shares.sum()) == pytest.approx(1)
    assert float(few.eigenvalues @ few.shares) == pytest.approx(y @ H @ y / (y @ y))
    assert whole.lambda0 <= few.lambda0 <= few.lambda_max <= whole.lambda_max * (1 + 1e-12)
    ts = np.array([0.0, 1.0, 5.0])
    np.testing.assert_allclose(
        few.loss(HeavyBall(0.3), ts), whole.loss(HeavyBall(0.3), ts), rtol=1e-6
    )
    for name in ("alignment", "effective_rank"):
        with pytest.raises(InputError, match="every eigenvalue"):
            getattr(few, name)
    with pytest.raises(InputError, match="looked for from y"):
        spectrum(infinite_ntk_operator(x))


def test_single_precision_says_which_eigenvalues_it_resolves():
    values = jnp.array([1e-9, 1.0, 2.0], jnp.float32)
    with pytest.warns(RuntimeWarning, match="float32 resolves eigenvalues of this kernel to about"):
        spectrum(jnp.diag(values)).kappa  # noqa: B018
    assert float(spectrum(jnp.diag(values[1:])).kappa) == 2.0
    assert float(spectrum(jnp.diag(values.astype(float))).kappa) == pytest.approx(2e9)

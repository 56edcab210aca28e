"""What can take long says how far it is, up to the end, and its answer is the same."""

import jax
import jax.numpy as jnp
import lineax
import numpy as np
import pytest

import ntk_momentum as nm

pytestmark = pytest.mark.slow  # programs of their own: five seconds
KERNEL, ERROR = jnp.diag(jnp.array([1.0, 2.0, 5.0])), jnp.ones(3)
OPERATOR = lineax.MatrixLinearOperator(KERNEL, lineax.symmetric_tag)
TS = [0.0, 1.0, 2.0]


@pytest.fixture(scope="module")
def run():
    data = nm.sphere(3, 2, key=jax.random.key(0))
    net = nm.init_two_layer(64, 2, key=jax.random.key(1))
    return nm.simulate(net, data, nm.GradientFlow(), TS, readouts=nm.judge.CERTIFICATE_READOUTS)


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        (lambda run, how: nm.advise(KERNEL, ERROR, **how), str),
        (lambda run, how: nm.certify(run, **how), lambda found: found.rate),
        (lambda run, how: nm.certify(run, "mean", **how), lambda found: found.rate),
        (
            lambda run, how: nm.extreme_eigenvalues(OPERATOR, key=jax.random.key(0), **how),
            lambda found: (found.lambda_min, found.lambda_max),
        ),
        (
            lambda run, how: nm.simulate_error(KERNEL, ERROR, nm.HeavyBall(1.0), TS, **how),
            lambda found: found.loss,
        ),
        (
            lambda run, how: nm.simulate_function(
                KERNEL, 0 * ERROR, ERROR, nm.GradientFlow(), TS, loss=nm.logistic, **how
            ),
            lambda found: found.loss,
        ),
    ],
    ids=[
        "advise",
        "certify",
        "of one reference",
        "extreme_eigenvalues",
        "simulate_error",
        "simulate_function",
    ],
)
def test_it_counts_to_the_end_and_finds_the_same(run, call, answer):
    said = []
    watched = answer(call(run, {"progress": lambda *pair: said.append(pair)}))
    plain = answer(call(run, {}))
    assert said[-1][0] == said[-1][1] >= len(said) - 1 > 0
    assert watched == plain if isinstance(plain, str) else np.allclose(watched, plain, rtol=1e-6)

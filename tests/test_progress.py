"""What can take more than ten seconds says how far it is, up to the end, and finds the same;
of every public function it is known whether it can."""

import inspect
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
import numpy as np
import pytest
from wrong_calls import CALLS, right

import ntk_momentum as nm
from ntk_momentum import progress

KERNEL, ERROR = jnp.diag(jnp.array([1.0, 2.0, 5.0])), jnp.ones(3)
OPERATOR = lineax.MatrixLinearOperator(KERNEL, lineax.symmetric_tag)
FAST = {
    "a few numbers": "amplification best_parameters best_restart_period constant_nesterov "
    "convergence_rate gradient_descent heavy_ball hessian_damped high_resolution_heavy_ball "
    "high_resolution_nesterov huber logistic multi_step_momentum nesterov nesterov_strongly_convex "
    "nesterov_torch restarted_nesterov restarted_response softmax_cross_entropy spectral_radius "
    "squared stability_limit triple_momentum",
    "reads or draws": "encode_labels init_two_layer load_digits load_mnist load_npz load_table "
    "normalize open_results sphere standardize",
    "computes nothing yet": "fully_connected_ntk infinite_ntk_operator linearize ntk_operator "
    "plan_ntk",
    "a formula, entry by entry": "infinite_ntk response",
}
"""The others, and why: memory is full before ten seconds are over, or nothing is computed."""
COUNTS = {
    "empirical_ntk": lambda how: nm.empirical_ntk(
        eqx.nn.Linear(5, 2, key=jax.random.key(0)), np.eye(5), block_size=2, **how
    ),
    "spectrum": lambda how: nm.spectrum(OPERATOR, ERROR, products=3, **how).eigenvalues,
    "extreme_eigenvalues": lambda how: nm.extreme_eigenvalues(
        OPERATOR, key=jax.random.key(0), **how
    )[:2],
    **{
        f"predict_stochastic, {method}": lambda how, method=method: (
            nm.predict_stochastic(
                KERNEL, ERROR, nm.heavy_ball(0.1, 0.5), [4, 9], batch_size=1, method=method, **how
            ).loss
        )
        for method in ("exact", "closure", "sampled")
    },
}
"""Calls whose programs count, beside the right ones of `wrong_calls`."""


ELSEWHERE = {"diagnose", "ensemble", "run_experiment", "simulate_checkpointed", "train", "verify"}
"""Tested in their own rooms."""


def certified(how):
    data = nm.sphere(3, 2, key=jax.random.key(0))
    net = nm.init_two_layer(64, 2, key=jax.random.key(1))
    names = nm.judge.CERTIFICATE_READOUTS
    run = nm.simulate(net, data, nm.GradientFlow(), [0.0, 1.0, 2.0], readouts=names)
    return nm.certify(run, **how).rate


COUNTS["certify"] = certified


def long_ones():
    functions = [name for name in CALLS if inspect.isfunction(getattr(nm, name))]
    return [name for name in functions if name not in " ".join(FAST.values()).split()]


def test_every_function_that_can_take_long_has_progress():
    for name in long_ones():
        assert "progress" in inspect.signature(getattr(nm, name)).parameters, name
    for name in " ".join(FAST.values()).split():
        assert "progress" not in inspect.signature(getattr(nm, name)).parameters, name


def told(call):
    """(what a call said, its answer)."""
    said = []
    return said, call({"progress": lambda *pair: said.append(pair)})


@pytest.mark.slow  # programs of their own: half a minute
@pytest.mark.parametrize("name", sorted({*long_ones(), *COUNTS} - ELSEWHERE))
def test_it_counts_to_the_end_and_finds_the_same(name):
    call = COUNTS.get(name, lambda how: getattr(nm, name)(**{**right(name), **how}))
    said, watched = told(call)
    shares = [done / total for done, total in said]
    assert shares == sorted(shares) and shares[-1] == 1
    assert len(said) > 2 or name not in COUNTS
    numbers = lambda found: [np.asarray(x) for x in jax.tree.leaves(found) if hasattr(x, "dtype")]
    for one, other in zip(numbers(watched), numbers(call({})), strict=True):
        if np.issubdtype(one.dtype, np.number):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-12)


def test_what_does_not_count_is_not_silent(monkeypatch):
    monkeypatch.setattr(progress, "SILENT_SECONDS", 0.01)
    slowly = progress.with_progress(lambda progress=None: time.sleep(0.1))
    said, _ = told(lambda how: slowly(**how))
    assert said[0] == (0, 1) and len(said) > 2 and said[-1] == (1, 1)


def test_what_progress_raises_ends_the_call():
    def refuse(done, total):
        raise KeyError(done)

    with pytest.raises(KeyError):
        nm.spectrum(OPERATOR, ERROR, products=3, progress=refuse)
    assert nm.spectrum(OPERATOR, ERROR, products=3).eigenvalues.shape == (3,)

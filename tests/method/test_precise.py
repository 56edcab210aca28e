"""Closed forms in float32 against float64, from early times to phases that float32 cannot hold."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import jax
import numpy as np
import pytest

import ntk_momentum as nm

_LAMBDAS = np.float32([1e-6, 0.37, 100.0])
_TIMES = np.float32([1.0, 1e3, 1e6, 3.3e7])


@pytest.mark.parametrize(
    "flow",
    [nm.GradientFlow(), nm.HeavyBall(0.0), nm.HeavyBall(0.3), nm.Nesterov(3.0)],
    ids=lambda flow: repr(flow),
)
def test_responses_in_float32_are_rounded_ones(flow: nm.AbstractFlow) -> None:
    single = nm.response(_LAMBDAS, flow, _TIMES)
    double = nm.response(_LAMBDAS.astype(float), flow, _TIMES.astype(float))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, double, rtol=0, atol=1e-7)


_EAGER = lambda lam, t: nm.response(lam[None], nm.HeavyBall(0.0), t[None])[0, 0]


@pytest.mark.parametrize(
    "response",
    [
        _EAGER,
        jax.jit(_EAGER),
        lambda lam, t: jax.vmap(_EAGER)(lam[None], t[None])[0],
        lambda lam, t: jax.jit(jax.value_and_grad(_EAGER))(lam, t)[0],
    ],
    ids=["eager", "jit", "vmap", "grad"],
)
def test_they_are_without_float64_switched_on(response: Callable[..., jax.Array]) -> None:
    lam, t = np.float32(0.37), np.float32(3.3e7)
    with jax.enable_x64(False):
        found = response(lam, t)
    assert found.dtype == np.float32
    assert float(found) == pytest.approx(np.cos(np.sqrt(float(lam)) * float(t)), abs=1e-7)


def test_their_derivatives_have_the_digits_of_their_phase() -> None:
    lam, t = np.float32(0.37), np.float32(1e6)
    with jax.enable_x64(False):
        by_reverse, by_forward = jax.grad(_EAGER)(lam, t), jax.jacfwd(_EAGER)(lam, t)
    rate = np.sqrt(float(lam))
    known = -np.sin(rate * float(t)) * float(t) / (2 * rate)
    np.testing.assert_allclose([by_reverse, by_forward], known, rtol=1e-6)


def test_predictions_tell_where_float32_eigenvalues_do_not_suffice() -> None:
    kernel, start = np.diag(np.float32([0.1, 100.0])), np.ones(2, np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nm.predict(kernel, start, nm.GradientFlow(), np.float32([100.0]))
        nm.predict(kernel.astype(float), start.astype(float), nm.GradientFlow(), [1e6])
    with pytest.warns(RuntimeWarning, match="eigenvalues in float32 fix the slow modes"):
        nm.predict(kernel, start, nm.GradientFlow(), np.float32([1e6]))

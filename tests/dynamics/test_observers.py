"""What is folded over steps: every step once, with both of its ends, and nothing forgotten."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntk_momentum as nm
from ntk_momentum.dynamics.function_space import FunctionProblem
from ntk_momentum.dynamics.readout import Flips, KernelRises, KernelVariation
from ntk_momentum.dynamics.snapshot import Snapshot
from ntk_momentum.loss import squared

DATA = nm.sphere(4, 3, key=jax.random.key(0))
NET = nm.init_two_layer(16, 3, key=jax.random.key(1))


class Steps(nm.Observer):
    """(t_1 - t_0, L(before), L(after)) of the last step."""

    def init(self, start):
        return jnp.stack([0 * start.t, start.loss, start.loss])

    def update(self, memory, before, after):
        return jnp.stack([after.t - before.t, before.loss, after.loss])


def test_observers_of_training_see_every_step():
    run = nm.train(
        NET, DATA, nm.heavy_ball(0.1, 0.8), 5, readouts={"step": Steps(), "loss": "loss"}
    )
    loss = np.asarray(run.loss)
    np.testing.assert_array_equal(run.step[1:, 0], 1.0)
    np.testing.assert_allclose(run.step[1:, 1], loss[:-1], rtol=1e-12)
    np.testing.assert_allclose(run.step[1:, 2], loss[1:], rtol=1e-12)


@pytest.mark.slow
def test_a_failure_is_not_forgotten_by_a_later_segment():
    """The second segment alone would succeed: its steps are counted anew."""
    flow, ts = nm.HeavyBall(0.5), np.array([20.0, 20.001])
    needed = int(nm.simulate(NET, DATA, flow, ts[:1], readouts=["loss"]).accepted)
    with pytest.warns(RuntimeWarning, match="failed"):
        run = nm.simulate(
            NET, DATA, flow, ts, readouts=["loss"], config=nm.Numerics(max_steps=needed * 7 // 10)
        )
    assert not run.ok and np.isnan(run.loss).all()


class Seen(Snapshot):
    """A snapshot of which only this is known."""

    def __init__(self, kernel, residual=(1.0, 2.0), pattern=None):
        known = {"kernel": jnp.asarray(kernel), "residual": jnp.asarray(residual)}
        self.__dict__ |= known | {"t": jnp.zeros(()), "pattern": pattern}


def test_kernel_rises_and_variation_are_their_definitions():
    kernels = [np.diag([1.0, 2.0]), np.diag([3.0, 2.0]), np.diag([3.0, 0.5])]
    moments = [Seen(kernel) for kernel in kernels]
    rises, variation = KernelRises(), KernelVariation()
    risen, varied = rises.init(moments[0]), variation.init(moments[0])
    for before, after in itertools.pairwise(moments):
        risen, varied = rises.update(risen, before, after), variation.update(varied, before, after)
    assert float(risen) == pytest.approx(0.5 * 2.0 * 1.0**2)  # the fall by 1.5 does not count
    assert float(varied) == pytest.approx(np.log(3.0) + np.log(4.0))


def test_flips_remember_what_came_back():
    on, off = jnp.array([[True, True]]), jnp.array([[False, True]])
    moments = [Seen(np.eye(1), [1.0], pattern) for pattern in (on, off, on)]
    flips = Flips()
    memory = flips.init(moments[0])
    for before, after in itertools.pairwise(moments):
        memory = flips.update(memory, before, after)
    assert int(flips.read(memory, moments[-1])) == 1


def test_the_kernel_of_several_outputs_moves_the_error():
    """Delta' = H Delta over samples and outputs flattened together, as the weights behind it."""
    K = np.array([[1.0, 0.3], [0.3, 0.7]])
    problem = FunctionProblem(
        jnp.asarray(K),
        jnp.zeros((2, 3)),
        jnp.arange(6.0).reshape(2, 3),
        None,
        None,
        squared,
        (2, 3),
    )
    c = jnp.arange(6.0).reshape(2, 3) / 7
    H, residual = problem.kernel(c), problem.residual(c)
    moved = problem.velocity(c, problem.gradient(c))
    np.testing.assert_allclose(moved.reshape(-1), H @ residual.reshape(-1), atol=1e-12)
    np.testing.assert_allclose(H, np.einsum("ij,ab->iajb", K, np.eye(3)).reshape(6, 6))

"""What is no number, or no loss, is refused at once, by name."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntk_momentum as nm
from ntk_momentum.errors import check_interval, check_positive
from ntk_momentum.loss import check_loss

# In a process of its own: here the types of arguments are checked before the values are.
PROGRAM = """
import ntk_momentum as nm
for make in [lambda: nm.HeavyBall("x"), lambda: nm.HeavyBall(None), lambda: nm.Nesterov({}),
             lambda: nm.gradient_descent(None), lambda: nm.heavy_ball(0.1, "x"),
             lambda: nm.MultiStepMomentum(1.0, None), lambda: nm.nesterov_strongly_convex(None, 1)]:
    try:
        made = make()
    except nm.InputError as error:
        print(error)
    else:
        print("made", made)
"""


def test_flows_and_optimizers_of_what_is_no_number_say_so():
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    lines = run.stdout.splitlines()
    assert run.returncode == 0 and len(lines) == 7
    assert all("must be a number, got" in line for line in lines)
    assert lines[0].startswith("the friction b must be a number, got 'x' of type str; try")


@pytest.mark.parametrize("number", [1, 1.0, np.int64(1), np.float32(1), np.ones(3), jnp.ones(())])
def test_numbers_of_python_numpy_and_jax_are_taken(number):
    check_positive("it", number)
    check_interval("it", number, 0.5, 1.5)


@pytest.mark.parametrize("thing", ["1", None, True, np.True_, 1j, object(), [1, None], jnp.float32])
def test_what_is_no_number_is_refused(thing):
    for check in (check_positive, lambda *args: check_interval(*args, 0.0, 1.0)):
        with pytest.raises(nm.InputError, match="it must be a number, got"):
            check("it", thing)


def test_tracers_are_numbers():
    np.testing.assert_allclose(jax.jit(lambda b: nm.HeavyBall(b).b * 2)(1.5), 3.0)
    assert jax.eval_shape(lambda b: nm.HeavyBall(b), jax.ShapeDtypeStruct((), float)).b.shape == ()


def test_a_loss_is_a_function_and_huber_has_to_be_called():
    for loss in (nm.squared, nm.logistic, nm.huber(1.0), lambda f, y: jnp.sum(f - y)):
        check_loss(loss)
    with pytest.raises(nm.InputError, match=r"call it: loss=nm.huber\(1.0\)"):
        check_loss(nm.huber)
    with pytest.raises(nm.InputError, match="try loss="):
        check_loss("squared")


def test_running_with_huber_not_called_says_to_call_it():
    data = nm.sphere(key=jax.random.key(0), n=3, p=2)
    net = nm.init_two_layer(4, 2, key=jax.random.key(1))
    with pytest.raises(nm.InputError, match="call it"):
        nm.train(net, data, nm.gradient_descent(0.1), 2, loss=nm.huber)

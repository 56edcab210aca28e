"""Wrong calls of every public name end in an `InputError` that says what was expected, what came
and what to try, at once; right ones, of numpy's numbers, lists and keys of both kinds, are taken.
"""

import re
import signal
import time
import warnings

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import wrong_calls
from wrong_calls import CALLS, KINDS, NO_CALLS, TOGETHER

import ntk_momentum as nm

EXPECTED = re.compile(r"\b(must|takes?|needs?|assumes?|unknown)\b")
REMEDY = re.compile(
    r"\b(try|use|pass|give|call|take|choose|drop|repair|keep|write|convert|put|save|leave|make|define|cast|"
    r"wrap|rename|close over|Did you mean|Known)\b",
    re.IGNORECASE,
)
CALLED = {
    "label": "column",
    "features": "columns?|features",
    "readouts": "read-?outs?",
    "claims": "claims?",
    "method": "method|solver",
    "name": "name|experiment",
    "out": "out|folder",
}
"""Arguments whose message may name what they are a list of."""


@pytest.fixture(autouse=True)
def as_users_call():
    """Without the checks of types that tests run with, and with an end."""

    def stop(*_):
        raise TimeoutError("a wrong call hangs")

    jaxtyping.config.update("jaxtyping_disable", True)
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    jaxtyping.config.update("jaxtyping_disable", False)


def outcome(make, again=True):
    """(the message of an InputError, None) or (None, what happened instead)."""
    start = time.process_time()
    try:
        made = make()
    except nm.InputError as error:
        late = time.process_time() - start
        if late > 1 and again:  # a first call imports what it needs
            return outcome(make, again=False)
        return str(error), f"after {late:.1f} s" if late > 1 else None
    except TimeoutError:
        raise
    except Exception as error:  # of another library
        return None, f"{type(error).__name__}: {error}"
    return None, f"accepted: {type(made).__name__}"


def shows(message, value):
    """Whether a message shows what came: the value itself, its type, shape, dtype or name, or what
    was found in it."""
    words = [repr(value), type(value).__name__, getattr(value, "__name__", None)]
    words += [f"{x:g}" for x in np.ravel(value)[:9]] if type(value) in (int, float) else []
    words += [str(getattr(value, "shape", None)), str(getattr(value, "dtype", None))]
    return any(word and word in message for word in words) or re.search(
        r"\bgot |unknown [^ ]+ ['\d]", message
    )


def lacking(message, argument, value):
    """What a message does not say."""
    parts = {
        f"names {argument}": re.search(rf"\b({CALLED.get(argument, argument)})\b", message),
        "says what was expected": EXPECTED.search(message),
        "shows what came": shows(message, value),
        "says what to try": REMEDY.search(message),
        "is a sentence": message.endswith("."),
    }
    return [part for part, found in parts.items() if not found]


@pytest.mark.parametrize("name", CALLS)
def test_wrong_values_are_refused_at_once_in_words(name):
    wrong = []
    for call in wrong_calls.wrong_calls(name):
        message, trouble = outcome(call.make)
        if message is not None and trouble is None:
            trouble = ", ".join(lacking(message, call.argument, call.value)) and (
                f"{lacking(message, call.argument, call.value)} in: {message}"
            )
        if trouble:
            wrong.append(f"{call}: {trouble}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("text", TOGETHER)
def test_calls_that_are_wrong_as_a_whole_are_refused_in_words(text):
    message, trouble = outcome(lambda: eval(text, vars(wrong_calls)))
    assert trouble is None, trouble
    assert re.search(TOGETHER[text], message), message
    assert REMEDY.search(message), message


def test_every_public_name_has_its_wrong_calls():
    assert set(CALLS) | set(NO_CALLS) == set(nm.__all__) and not set(CALLS) & set(NO_CALLS)
    assert sum(1 for name in CALLS for _ in wrong_calls.wrong_calls(name)) + len(TOGETHER) > 1500
    assert all(values for values in KINDS.values())


def test_every_number_may_be_numpys_or_jaxs():
    """Of every kind: a scalar of numpy, one of jax, an array without a dimension."""
    for number in (np.float64(0.5), np.float32(0.5), np.array(0.5), jnp.asarray(0.5)):
        assert float(nm.HeavyBall(number).b) == 0.5
        assert float(nm.heavy_ball(number, number).beta) == 0.5
        assert nm.Numerics(tol=number).tol == 0.5
        assert nm.huber(number) is nm.huber(0.5)
        assert nm.best_restart_period(number).period > 0
        nm.TwoLayerNet(np.eye(2), np.ones(2), scale=number)
    for whole in (np.int64(4), np.int32(4), np.uint8(4), np.array(4), jnp.asarray(4)):
        assert nm.sphere(whole, whole, key=wrong_calls.key).X.shape == (4, 4)
        assert nm.load_digits(whole, key=wrong_calls.key).n == 4
        assert nm.init_two_layer(whole, whole, key=wrong_calls.key).hidden.shape == (4, 4)
        assert nm.Numerics(max_steps=whole).max_steps == 4
        assert len(nm.fully_connected_ntk(depth=whole).weight_std) == 5
        assert nm.HeavyBall(whole).b == 4
        nm.restarted_nesterov(0.1, 3.0, whole)
    for flag in (np.True_, np.array(True), jnp.asarray(True)):
        nm.init_two_layer(4, 4, key=wrong_calls.key, antisymmetric=flag)


def test_keys_of_both_kinds_give_the_same_draws():
    new, old = jax.random.key(3), jax.random.PRNGKey(3)
    np.testing.assert_array_equal(nm.sphere(4, 3, key=new).X, nm.sphere(4, 3, key=old).X)
    nets = [nm.init_two_layer(4, 3, key=key).hidden for key in (new, old, np.asarray(old))]
    assert all(np.array_equal(net, nets[0]) for net in nets)
    assert np.array_equal(nm.load_digits(4, key=new).X, nm.load_digits(4, key=old).X)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(CALLS) - {"certify", "open_results", "load_mnist"}))
def test_right_calls_are_taken_with_numpys_numbers_and_lists(name):
    arguments = wrong_calls.right(name)
    getattr(nm, name)(**arguments)

    def other(value):
        if type(value) in (int, float):
            return np.asarray(value)
        if isinstance(value, np.ndarray):
            return value.tolist()
        return value

    getattr(nm, name)(**{argument: other(value) for argument, value in arguments.items()})

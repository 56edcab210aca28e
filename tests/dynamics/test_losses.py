"""Every loss on every shape of outputs and targets is a hand-written sum over samples, or it is
refused."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ntk_momentum as nm

N = 3  # samples, and classes: the shapes at which a slip broadcasts in silence
KEY = jax.random.key(0)
X = nm.sphere(N, 4, key=KEY).X
SIZES = {"(n,)": None, "(n,1)": 1, "(n,k)": N}


def mean_squares(f, y):
    """A user's loss, of any shapes that broadcast."""
    return jnp.mean((f - y) ** 2)


def classes(f, y):
    """A user's loss of integer labels."""
    return optax.softmax_cross_entropy_with_integer_labels(f, y).sum()


def by_softmax(f, y):
    shifted = np.exp(f - f.max(axis=1, keepdims=True))
    return -np.sum(y * np.log(shifted / shifted.sum(axis=1, keepdims=True)))


def by_label(f, y):
    return by_softmax(f, np.eye(f.shape[1])[y])


def by_huber(f, y):
    e = np.abs(f - y)
    return np.sum(np.where(e <= 1, e**2 / 2, e - 0.5))


def real(shape):
    return np.linspace(-1.5, 2.0, int(np.prod(shape))).reshape(shape)


def signs(shape):
    return np.where(np.arange(int(np.prod(shape))) % 2, 1.0, -1.0).reshape(shape)


def shares(shape):
    y = np.zeros(shape)
    y[:, 0] = 1
    return y


def whole(shape):
    return np.zeros(shape, int)


same, rows = (lambda f, y: f == y), (lambda f, y: f == y and len(f) == 2)
LOSSES = {  # loss: (hand-written sum, targets, shapes that it takes)
    "squared": (nm.squared, lambda f, y: 0.5 * np.sum((f - y) ** 2), real, same),
    "logistic": (nm.logistic, lambda f, y: np.sum(np.log1p(np.exp(-y * f))), signs, same),
    "softmax": (nm.softmax_cross_entropy, by_softmax, shares, rows),
    "huber": (nm.huber(1.0), by_huber, real, same),
    "a user's mean": (mean_squares, lambda f, y: np.mean((f - y) ** 2), real, same),
    "a user's mean of whole targets": (
        mean_squares,
        lambda f, y: np.mean((f - y) ** 2),
        whole,
        same,
    ),
    "labels": (classes, by_label, whole, lambda f, y: y == (N,) and f == (N, N)),
}


def case(loss, f, y):
    shapes = [(N,) if SIZES[size] is None else (N, SIZES[size]) for size in (f, y)]
    solved = LOSSES[loss][3](*shapes) and loss not in ("squared", "labels")  # seconds to compile
    marks = [pytest.mark.slow] if solved else []
    return pytest.param(*LOSSES[loss], f, shapes[1], marks=marks, id=f"{loss}, f {f}, y {y}")


CASES = [
    case(loss, f, y)
    for loss, f, y in itertools.product(LOSSES, SIZES, SIZES)
    if not (loss == "softmax" and y == "(n,)")
]


REFUSAL = r"\(n, k\)|must have one shape|broadcasting|must be a function"


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "by_hand", "targets", "takes", "f", "shape"), CASES)
def test_a_loss_is_the_sum_over_samples_or_refused(loss, by_hand, targets, takes, f, shape):
    size, y = SIZES[f], targets(shape)
    data = nm.Dataset(X, y)
    model = eqx.nn.Linear(4, "scalar" if size is None else size, key=KEY)
    f0 = np.asarray(jax.vmap(model)(X))
    calls = (
        lambda: nm.simulate(model, data, nm.GradientFlow(), [0.0], loss=loss, readouts=["loss"]),
        lambda: nm.train(model, data, nm.gradient_descent(0.1), 1, loss=loss, readouts=["loss"]),
        lambda: nm.simulate_function(
            np.eye(N), f0, y, nm.GradientFlow(), [0.0], loss=loss, readouts=["loss"]
        ),
    )
    for call in calls:
        if takes(f0.shape, shape):
            np.testing.assert_allclose(call().loss[0], by_hand(f0, y), rtol=1e-12)
        else:
            with pytest.raises(nm.InputError, match=REFUSAL):
                call()


def test_targets_of_a_classifier_are_checked_in_function_space_too():
    with pytest.raises(nm.InputError, match=r"y\[0\] is"):
        nm.simulate_function(
            np.eye(2), np.zeros(2), 0.5 * np.ones(2), nm.GradientFlow(), [1.0], loss=nm.logistic
        )
    with pytest.raises(nm.InputError, match="call it"):
        nm.simulate_function(
            np.eye(2), np.zeros(2), np.ones(2), nm.GradientFlow(), [1.0], loss=nm.huber
        )


def test_labels_follow_their_one_hot_rows_in_function_space():
    labels, options = np.array([0, 2, 1]), {"readouts": ["f"]}
    start = real((N, N)) / 3
    kernel = np.asarray(X @ X.T) + np.eye(N)
    call = lambda y, loss: nm.simulate_function(
        kernel, start, y, nm.HeavyBall(0.5), [0.5, 2.0], loss=loss, **options
    )
    ours = call(np.eye(N)[labels], nm.softmax_cross_entropy)
    np.testing.assert_allclose(call(labels, classes).f, ours.f, rtol=1e-9)

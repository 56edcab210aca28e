"""Schedules and weight decay: against the methods written out, torch's formula and optax's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ntk_momentum as nm
from ntk_momentum.ensembles.ensemble import flow_label

H = np.diag([1.0, 0.3])
W0 = np.array([1.0, -2.0])
SCHEDULE = optax.exponential_decay(0.2, 1, 0.7)
ETA = [0.2 * 0.7**k for k in range(8)]


def steps(method, count=8):
    w, state, path = jnp.asarray(W0), method.init(jnp.asarray(W0)), [W0]
    for _ in range(count):
        change, state = method.update(H @ w, state, w)
        w = w + change
        path.append(np.asarray(w))
    return np.stack(path)


def torch_sgd(lr, momentum, weight_decay, nesterov):
    """torch.optim.SGD, transcribed: the buffer is made, as a copy, by the first momentum that is
    not zero."""
    w, buffer, path = W0, None, [W0]
    for eta, mu in zip(lr, momentum, strict=True):
        g = H @ w + weight_decay * w
        if mu != 0:
            buffer = g.copy() if buffer is None else mu * buffer + g
            g = g + mu * buffer if nesterov else buffer
        w = w - eta * g
        path.append(w)
    return np.stack(path)


def test_weight_decay_is_torchs():
    beta = [0.6] * 8
    ours = steps(nm.heavy_ball(0.2, 0.6, weight_decay=0.3))
    np.testing.assert_allclose(ours, torch_sgd([0.2] * 8, beta, 0.3, False), rtol=1e-12)
    theirs = steps(optax.chain(optax.add_decayed_weights(0.3), optax.sgd(0.2, momentum=0.6)))
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    plain = steps(nm.gradient_descent(0.2, weight_decay=0.3))
    np.testing.assert_allclose(plain, torch_sgd([0.2] * 8, [0.0] * 8, 0.3, False), rtol=1e-12)
    authors = steps(nm.nesterov_torch(SCHEDULE, 3.0, weight_decay=0.3))
    growing = [k / (k + 3) for k in range(8)]
    np.testing.assert_allclose(authors, torch_sgd(ETA, growing, 0.3, True), rtol=1e-6)


def test_a_schedule_is_the_step_size_of_its_step():
    w = last = W0
    r = W0
    ball, nag = [W0], [W0]
    for eta in ETA:
        last, w = w, w - eta * H @ w + 0.6 * (w - last)
        ball.append(w)
    w = W0
    for k, eta in enumerate(ETA):
        ahead = w - eta * H @ w
        r, w = ahead, ahead + k / (k + 3) * (ahead - r)
        nag.append(w)
    np.testing.assert_allclose(steps(nm.heavy_ball(SCHEDULE, 0.6)), ball, rtol=1e-6)
    np.testing.assert_allclose(steps(nm.nesterov(SCHEDULE, 3.0)), nag, rtol=1e-6)
    np.testing.assert_allclose(
        steps(nm.gradient_descent(SCHEDULE)), steps(optax.sgd(SCHEDULE)), rtol=1e-6
    )


def test_scheduled_methods_are_predicted_and_decay_is_not():
    method, decayed = nm.heavy_ball(SCHEDULE, 0.6), nm.gradient_descent(0.1, weight_decay=0.2)
    path = nm.predict(H, W0, method, range(9)).residual
    np.testing.assert_allclose(path, steps(method), rtol=1e-6)
    assert [flow_label(optimizer) for optimizer in (method, decayed)] == [
        "heavy_ball eta=1 beta=0.6 schedule=schedule",
        "gradient_descent eta=0.1 weight_decay=0.2",
    ]
    for refused, said in (
        (lambda: nm.predict(H, W0, decayed, [1]), "not linear"),
        (lambda: nm.spectral_radius(decayed, 1.0), "not linear"),
        (lambda: nm.spectral_radius(method, 1.0), "from step to step"),
    ):
        with pytest.raises(nm.InputError, match=said):
            refused()


@pytest.mark.slow
def test_an_ensemble_takes_schedules_and_decay():
    data = nm.sphere(4, 3, key=jax.random.key(0))
    net = nm.init_two_layer(8, 3, key=jax.random.key(1))
    methods = [nm.heavy_ball(SCHEDULE, 0.6), nm.gradient_descent(0.1, weight_decay=0.2)]
    runs = nm.train_ensemble(data, methods, 8, [1], 4, readouts=["loss"])
    for i, method in enumerate(methods):
        one = nm.train(net, data, method, 4, readouts=["loss"])
        np.testing.assert_allclose(runs.loss[i, 0, 0], one.loss, rtol=1e-10)


def test_without_decay_or_schedule_a_method_is_the_plain_one():
    assert type(nm.heavy_ball(0.1, 0.5, weight_decay=0.0)) is nm.method.HeavyBallMethod
    for wrong, said in (
        (lambda: nm.heavy_ball(0.1, 0.5, weight_decay=-1.0), "weight_decay must be finite"),
        (lambda: nm.heavy_ball(lambda k: -1.0, 0.5), "must be finite and >= 0"),
        (lambda: nm.heavy_ball(lambda k: jnp.ones(2), 0.5), "one number"),
        (lambda: nm.heavy_ball(lambda: 0.1, 0.5), "function of the number of steps"),
        (lambda: nm.heavy_ball(lambda k: jnp.nan, 0.5), "must be finite and >= 0"),
        (lambda: nm.gradient_descent(0.1, weight_decay=0.1).update(W0, ()), "needs the weights"),
    ):
        with pytest.raises(nm.InputError, match=said):
            wrong()

"""Every optimizer of optax takes two steps through `train` as in a loop of ten lines: most of them
on mini-batches, some, those that compare one step with the next among them, on the whole data
set."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import ntk_momentum as nm
from ntk_momentum.dynamics.solver import Batches

KEY = jax.random.key(5)
DATA = nm.sphere(4, 4, key=jax.random.key(1))
NET = nm.init_two_layer(6, 4, key=jax.random.key(0), activation=jnp.tanh)
QUICK = ("lbfgs", "sam, opaque", "polyak_sgd")
WHOLE = (*QUICK, "lbfgs, backtracking", "adam")

OPTIMIZERS = {
    name: getattr(optax, name)(1e-2)
    for name in (
        "adabelief", "adadelta", "adafactor", "adagrad", "adam", "adamax", "adamaxw", "adamw",
        "adan", "amsgrad", "fromage", "lamb", "lars", "lion", "novograd", "optimistic_adam_v2",
        "optimistic_gradient_descent", "radam", "rmsprop", "rprop", "sgd", "sign_sgd", "sm3",
        "yogi",
    )
} | {
    "lbfgs": optax.lbfgs(),
    "lbfgs, backtracking": optax.lbfgs(linesearch=optax.scale_by_backtracking_linesearch(9)),
    "polyak_sgd": optax.polyak_sgd(1e-2),
    "noisy_sgd": optax.noisy_sgd(1e-2, key=jax.random.key(3)),
    "clipped": optax.chain(optax.clip_by_global_norm(0.1), optax.adam(1e-2)),
    "accumulated": optax.MultiSteps(optax.sgd(0.1), 2),
    "a schedule": optax.sgd(optax.cosine_decay_schedule(0.1, 10), momentum=0.9, nesterov=True),
    "injected": optax.inject_hyperparams(optax.adam)(1e-2),
    "sam": optax.contrib.sam(optax.sgd(1e-2), optax.sgd(1e-3)),
    "sam, opaque": optax.contrib.sam(optax.sgd(1e-2), optax.sgd(1e-3), opaque_mode=True),
    "schedule_free": optax.contrib.schedule_free(optax.sgd(1e-2), 1e-2),
    "schedule_free_adamw": optax.contrib.schedule_free_adamw(1e-2),
    "plateau": optax.chain(optax.sgd(1e-2), optax.contrib.reduce_on_plateau()),
    "momo": optax.contrib.momo(1e-2),
    "prodigy": optax.contrib.prodigy(1e-2),
    "muon": optax.contrib.muon(1e-2),
    "ademamix": optax.contrib.ademamix(1e-2),
    "mechanize": optax.contrib.mechanize(optax.sgd(1e-2)),
}  # fmt: skip


NEEDS = {
    "lbfgs": ("value", "grad", "value_fn"),
    "lbfgs, backtracking": ("value", "grad", "value_fn"),
    "polyak_sgd": ("value",),
    "plateau": ("value",),
    "momo": ("value",),
    "sam, opaque": ("grad_fn",),
}


def by_hand(optimizer, batches, needs):
    """f after a step on each batch, with all that the optimizer's own documentation hands over."""
    put = lambda W: nm.TwoLayerNet(W, NET.output, jnp.tanh)
    W, state, seen = NET.hidden, optimizer.init(NET.hidden), [NET.hidden]
    for rows in batches:
        X, y, scale = DATA.X[rows], DATA.y[rows], 4 / len(rows)
        loss = lambda W, X=X, y=y, c=scale: c * jnp.sum((jax.vmap(put(W))(X) - y) ** 2) / 2
        value, grad = jax.value_and_grad(loss)(W)
        told = {"value": value, "grad": grad, "value_fn": loss}
        told["grad_fn"] = lambda W, _, loss=loss: jax.grad(loss)(W)
        change, state = optimizer.update(grad, state, W, **{name: told[name] for name in needs})
        W = optax.apply_updates(W, change)
        seen.append(W)
    return np.stack([jax.vmap(put(W))(DATA.X) for W in seen])


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in OPTIMIZERS]
)
def test_two_steps_are_the_loop_by_hand(name):
    optimizer, options, rows = OPTIMIZERS[name], {}, [np.arange(4)] * 2
    if isinstance(optimizer, optax.MultiSteps):
        optimizer = optimizer.gradient_transformation()
    if name not in WHOLE:
        drawn = Batches(KEY, jnp.int32(0), (3,), "reshuffled")
        rows = [drawn.table(3, 4, jnp.int32(k))[0][0] for k in range(2)]  # an epoch has one
        options = {"batch_size": 3, "key": KEY, "sampling": "reshuffled"}
    run = nm.train(NET, DATA, optimizer, 2, readouts=["f"], **options)
    assert run.ok
    np.testing.assert_allclose(
        run.f, by_hand(optimizer, rows, NEEDS.get(name, ())), rtol=1e-9, atol=1e-11
    )


def test_an_optimizer_that_cannot_take_a_step_is_refused():
    by_sample = optax.contrib.differentially_private_aggregate(1.0, 1.0, key=jax.random.key(0))
    with pytest.raises(nm.InputError, match="cannot take a step"):
        nm.train(NET, DATA, by_sample, 1)

"""Discrete training: gradient descent (2.1), heavy ball (3.1), Nesterov (4.1), or any optax
transformation, on the whole data set or on mini-batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree, UInt32

from ..data import Dataset
from ..errors import InputError, check_key, check_whole, concrete, described, no_type_check
from ..loss import Loss, squared
from ..method import AbstractFlow
from ..numerics import Numerics, placed
from ..progress import OnProgress, check_progress
from .preparation import Choices, check_data
from .run import Run, count_off, glance, opening, refuse_no_start
from .solver import Progress, batches_of, check_batch
from .trajectory import Trajectory


class TrainState(eqx.Module):
    """Where training has come to: what `train(..., state=)` goes on from, with the same bits as if
    it had not stopped. Its arrays can be saved, e.g. by `eqx.tree_serialise_leaves`.

    progress: weights and the optimizer's state, in the run's coordinates. start: the trained
    weights at step 0, which displacements and the like are measured from. key: that of the
    mini-batches, as `jax.random.key_data`, of the generator `generator`.
    """

    progress: Progress
    start: PyTree
    key: UInt32[Array, " words"] | None
    generator: Any = eqx.field(static=True, default=None)

    @property
    def step(self) -> Int[Array, ""]:
        """Steps taken."""
        return self.progress.accepted


@no_type_check
def train(
    model: Any,
    data: Dataset,
    optimizer: Any,
    steps: int,
    *,
    batch_size: int | None = None,
    key: Any = None,
    sampling: str = "without_replacement",
    save_every: int = 1,
    loss: Loss = squared,
    trainable: Any = None,
    where: Callable | None = None,
    readouts: Sequence[str] | Mapping[str, Any] | None = None,
    reference: Any = None,
    state: TrainState | None = None,
    callback: Callable[[int, dict[str, np.ndarray]], Any] | None = None,
    progress: OnProgress | bool | None = None,
    config: Numerics = Numerics(),
) -> Trajectory:
    """Take `steps` steps and read the run off at k = 0, save_every, ..., steps.

        w_{k+1} = w_k - eta g_k,    g_k = (n/B) sum over i in batch k of grad l_i(w_k)      (2.1)

    or (3.1), (4.1), or any other update. The loss is a sum over samples, L = sum_i l_i without 1/n,
    and the factor n/B makes g_k its gradient in expectation, so that a step size means the same at
    every batch size; of a loss that is a mean over samples a batch's mean is taken. Without
    batch_size g_k = grad L. Read-outs are of the whole data set. Steps are exact:
    there is nothing to refine.

    Args:
        model: As in `simulate`.
        data: As in `simulate`.
        optimizer: One of `ntk_momentum.method`, or anything with optax's init and update (and
            `value=`, the loss, that of the batch where there are batches).
        steps: Steps taken, a multiple of save_every.
        batch_size: B, samples in a step, up to n unless with replacement. With B = n and
            without replacement the steps are those without batch_size, bit for bit.
        key: Of the batches, jax.random.key(0) for example. Step k's batch is a function of key and
            k alone. The same key may serve the model's initialisation.
        sampling: "without_replacement", a fresh uniform subset for every step;
            "with_replacement", B independent samples; "reshuffled", a permutation for every epoch
            of n // B steps, whose last n mod B samples are left out of that epoch.
        save_every: Steps between two saved ones.
        loss: As in `simulate`; with batches a sum or a mean over samples.
        trainable: As in `simulate`.
        where: As in `simulate`.
        readouts: As in `simulate`, without velocity and Lyapunov function.
        reference: As in `simulate`.
        state: The `state` of an earlier run with the same model, data and kind of optimizer, to go
            on from: `steps` more, and read-outs from where it was. The weights in `model` do not
            matter then. Both runs together are, bit for bit, the run that did not stop.
        callback: Called as callback(k, read-outs) on the host at every saved step, the first one
            included; the run stops there when it returns True.
        progress: Called as progress(saved so far, all to be saved); True for a bar.
        config: Precision; the tolerance is for flows.

    Returns:
        The read-outs at `ts`, which are step counts k, the model at the end, and the `state` there.
        A run that diverges has the verdict "left the finite numbers" and NaN read-outs.

    Raises:
        InputError: If something cannot be trained, or an optimizer needs the whole data set.

    Examples:
        >>> data = nm.sphere(5, 3, key=jax.random.key(0))
        >>> net = nm.init_two_layer(64, 3, key=jax.random.key(1))
        >>> run = nm.train(net, data, nm.heavy_ball(0.1, 0.9), 20, save_every=10, readouts=["loss"])
        >>> run.ts.tolist()
        [0.0, 10.0, 20.0]

        In batches of two, ten steps and ten more:

        >>> batches = dict(batch_size=2, key=jax.random.key(2), save_every=10, readouts=["loss"])
        >>> half = nm.train(net, data, nm.heavy_ball(0.02, 0.9), 10, **batches)
        >>> rest = nm.train(net, data, nm.heavy_ball(0.02, 0.9), 10, **batches, state=half.state)
        >>> whole = nm.train(net, data, nm.heavy_ball(0.02, 0.9), 20, **batches)
        >>> rest.ts.tolist(), bool(rest.loss[-1] == whole.loss[-1])
        ([10.0, 20.0], True)
    """
    check_steps(steps, save_every)
    check_data(data)
    progress = check_progress(progress, "train")
    check_optimizer(optimizer)
    if callback is not None and not callable(callback):
        raise InputError(
            "callback must be a function of the step and the read-outs there, got "
            f"{described(callback)}; try callback=print."
        )
    key = _key_of(key, state)
    batches = None
    if batch_size is not None:
        sizes = (check_batch(batch_size, data.n, sampling),)
        if key is None:
            raise InputError(
                "batch_size needs a key to draw the samples with; try key=jax.random.key(0)."
            )
        batches = batches_of(sizes, data.n, sampling, key)
    chosen = Choices(loss, trainable, where, None, readouts, reference, config)
    run = Run.prepare(model, data, optimizer, chosen, batches=batches)
    if state is not None:
        run = eqx.tree_at(lambda run: run.w, run, _alike("model", run.w, state.start))
    start = run.w
    run = run.within()
    saves = int(steps) // int(save_every)
    run.check_memory(1 << saves.bit_length())
    if state is None:
        now, row = opening(run)
        refuse_no_start(run, now)
    else:
        now = _gone_on(run, state)
        row = glance(run, now)
    if callback is None and progress is None:
        # Rows for read-outs: the next power of two, so that few numbers of saves mean a new
        # compilation. The loop runs to `saves`, an array; rows beyond are cut off.
        counts = placed(saves, np.int32), placed(save_every, np.int32)
        end, rows = count_off(run, now, row, *counts, 1 << (saves - 1).bit_length())
        rows = jax.tree.map(lambda rows: rows[: saves + 1], rows)
    else:
        end, rows = _on_the_host(run, now, row, saves, int(save_every), callback, progress)
    taken = saves if callback is None else (int(end.accepted) - int(now.accepted)) // save_every
    ts = now.t + jnp.asarray(step_counts(taken, int(save_every)), run.dtype)
    trained = run.problem.whole(end.state.w)
    drawn = () if key is None else (jax.random.key_data(key), jax.random.key_impl(key))
    reached = TrainState(end, start, *(drawn or (None,)))
    verdict, accepted, rejected = end.verdict, end.accepted, end.rejected
    return Trajectory(ts, rows, trained, verdict, accepted, rejected, state=reached)


def _on_the_host(
    run: Run,
    now: Progress,
    row: dict[str, Array],
    saves: int,
    every: int,
    callback: Callable[[int, dict[str, np.ndarray]], Any] | None,
    progress: OnProgress | None,
) -> tuple[Progress, dict[str, Array]]:
    """The end and the read-outs of a run that is shown to somebody on its way: at every saved step
    to a callback, else in some twenty blocks."""
    if concrete(now.t) is None:
        raise InputError(
            "callback and progress are called on the host, so not inside jit, vmap or grad; leave "
            "them out there."
        )
    at_once = 1 if callback is not None else max(1, -(-saves // 20))
    kept = [jax.tree.map(lambda value: np.asarray(value)[None], row)]
    if progress is not None:
        progress(1, saves + 1)
    done = 0
    while not (callback is not None and callback(int(now.accepted), jax.device_get(row)) is True):
        if done == saves:
            break
        count = min(at_once, saves - done)
        counts = jnp.asarray(count, jnp.int32), jnp.asarray(every, jnp.int32)
        now, rows = count_off(run, now, row, *counts, 1 << (at_once - 1).bit_length())
        kept.append(jax.tree.map(lambda rows, k=count: np.asarray(rows)[1 : k + 1], rows))
        row = jax.tree.map(lambda rows, k=count: rows[k], rows)
        done += count
        if progress is not None:
            progress(done + 1, saves + 1)
    return now, jax.tree.map(lambda *parts: jnp.concatenate(parts), *kept)


def _gone_on(run: Run, state: TrainState) -> Progress:
    """The progress of an earlier run, if this one can go on from it."""
    like = eqx.filter_eval_shape(Run.start, run)
    known = state.progress
    asked = [name for name in like.watched if name not in known.watched]
    if asked:
        raise InputError(
            f"the run of this state did not watch {', '.join(asked)} from its start; leave "
            f"{'it' if len(asked) == 1 else 'them'} out of readouts, or begin anew."
        )
    return known._replace(
        state=_alike("model", like.state, known.state),
        memory=_alike("optimizer", like.memory, known.memory),
        watched=_alike(
            "data set", like.watched, {name: known.watched[name] for name in like.watched}
        ),
    )


def _alike(what: str, like: PyTree, found: PyTree) -> PyTree:
    """A part of a state, in the place of one of this run. Raises `InputError` unless they are of
    one kind."""
    leaves = jax.tree_util.tree_leaves_with_path
    kinds = lambda tree: [
        (jax.tree_util.keystr(path), jnp.shape(leaf), jnp.result_type(leaf))
        for path, leaf in leaves(tree)
    ]
    if kinds(like) != kinds(found):
        raise InputError(
            f"state= is of a run with another {what}; go on with the model, data and kind of "
            "optimizer that it was made with."
        )
    return jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(found))


def _key_of(key: Any, state: Any) -> Any:
    """The key of a run's batches, from its arguments. Raises `InputError`."""
    if state is not None and not isinstance(state, TrainState):
        raise InputError(
            f"state must be that of an earlier run, got {described(state)}; try state=run.state."
        )
    kept = None
    if state is not None and state.key is not None:
        kept = jax.random.wrap_key_data(state.key, impl=state.generator)
    if key is None:
        return kept
    check_key("key", key)
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(jnp.asarray(key))
    given = concrete(jax.random.key_data(key))
    known = None if kept is None else concrete(jax.random.key_data(kept))
    if given is not None and known is not None and not np.array_equal(given, known):
        raise InputError(
            "the state has a key of its own, and this is another; leave out key, so that the run "
            "goes on with the batches that it would have had."
        )
    return key


def check_optimizer(optimizer: Any) -> None:
    """Raise `InputError` for what cannot train: neither of ours nor of optax's."""
    if isinstance(optimizer, AbstractFlow | type) or not (
        hasattr(optimizer, "init") and hasattr(optimizer, "update")
    ):
        hint = "nm.heavy_ball(eta, beta), or any of optax's, such as optax.adam(1e-3)"
        hint += "; flows go to nm.simulate" if isinstance(optimizer, AbstractFlow) else ""
        raise InputError(
            f"optimizer must have optax's init and update, got {described(optimizer)}; try {hint}."
        )


def step_counts(saves: int, save_every: int) -> np.ndarray:
    """k = 0, save_every, 2 save_every, ..."""
    return save_every * np.arange(saves + 1, dtype=float)


def check_steps(steps: Any, save_every: Any) -> None:
    """Raise `InputError` unless both are positive whole numbers, the one a multiple of the
    other."""
    steps, save_every = check_whole("steps", steps), check_whole("save_every", save_every)
    if save_every >= 2**31:
        raise InputError(f"save_every must be below 2^31, got {save_every}; save more often.")
    if steps % save_every:
        raise InputError(
            f"steps must be a multiple of save_every, got steps={steps}, save_every={save_every}; "
            "try "
            f"steps={save_every * -(-steps // save_every)}."
        )

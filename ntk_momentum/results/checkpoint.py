"""Long single solves that survive their process: the state of the solver on disk, on a schedule
that never changes.

A solve always proceeds from one saved time to the next by the same compiled programs, `every` saved
times in each, whether it was interrupted or not; so a resumed run equals an uninterrupted one bit
for bit. A checkpoint file is our mark with the identity of the run (`files`), a line with the
number of saved times done, and as NumPy arrays the decomposition of the inputs that gives the
coordinates and the leaves of the state.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .. import files
from ..data import Dataset
from ..dynamics.coordinates import Decomposition
from ..dynamics.preparation import Choices
from ..dynamics.run import Run, follow
from ..dynamics.simulation import check_flow, follow_times
from ..dynamics.solver import Progress
from ..dynamics.trajectory import Trajectory
from ..errors import InputError, check_path, check_whole, no_type_check
from ..loss import Loss, squared
from ..method import AbstractFlow
from ..numerics import Numerics
from ..progress import OnProgress, check_progress
from .provenance import identity_of
from .sources import code_of

KIND = "checkpoint"


@no_type_check
def simulate_checkpointed(
    model: Any,
    data: Dataset,
    flow: AbstractFlow,
    ts: Any,
    path: str | Path,
    *,
    every: int = 10,
    loss: Loss = squared,
    trainable: Any = None,
    where: Callable | None = None,
    solver: Any = None,
    readouts: Sequence[str] | Mapping[str, Any] | None = None,
    reference: Any = None,
    refine: bool | float = False,
    config: Numerics = Numerics(),
    progress: OnProgress | bool | None = None,
) -> Trajectory:
    """`simulate` with its state kept in a file, from where the same call goes on.

    It solves (2.2), (3.2) or (4.2). The state is written after every `every` saved times. A
    finished run is read from the file. A damaged checkpoint is set aside as `*.damaged`, with a
    warning, and the run starts again; a full disk is a warning too. Whatever else stands at `path`
    is left untouched.

    Args:
        model: As in `simulate`.
        data: As in `simulate`.
        flow: As in `simulate`.
        ts: As in `simulate`.
        path: The file.
        every: Saved times between two checkpoints.
        loss: As in `simulate`.
        trainable: As in `simulate`.
        where: As in `simulate`.
        solver: As in `simulate`.
        readouts: As in `simulate`.
        reference: As in `simulate`.
        refine: As in `simulate`; each finer run has a file of its own, `path` with `.fine1`,
            `.fine2` ... behind it.
        config: As in `simulate`.
        progress: Called as progress(saved times done, saved times); True for a bar.

    Returns:
        What `simulate` returns, to round-off; the same bits whether interrupted or not.

    Raises:
        InputError: If the folder cannot be written; `path` is a folder, a link or a file that is no
            checkpoint; or it belongs to another run: other weights, data, flow, times, options
            or code.

    Examples:
        >>> import tempfile
        >>> data = nm.sphere(5, 3, key=jax.random.key(0))
        >>> net = nm.init_two_layer(64, 3, key=jax.random.key(1))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     arguments = net, data, nm.GradientFlow(), [0.0, 1.0], folder + "/run.checkpoint"
        ...     run = nm.simulate_checkpointed(*arguments, readouts=["loss"])
        ...     again = nm.simulate_checkpointed(*arguments, readouts=["loss"])  # read, not solved
        >>> bool(np.all(run.loss == again.loss))
        True
    """
    check_flow(flow)
    progress = check_progress(progress, "simulate_checkpointed")
    every = check_whole("every", every, example=10)
    path = check_path("path", path)
    levels = 0 if refine is False else 1 if refine is True else 6
    finer = [path.with_name(f"{path.name}.fine{level + 1}") for level in range(levels)]
    for file in (path, *finer):
        files.check_file(file, KIND)
    chosen = Choices(loss, trainable, where, solver, readouts, reference, config).refining(refine)
    whole = Run.prepare(model, data, flow, chosen)
    # The decomposition that gives the coordinates is kept too: another machine's may differ.
    inputs = whole.decompose()
    names = iter((path, *finer))

    def solved(run: Run, ts: Any) -> Trajectory:
        run = eqx.tree_at(lambda r: r.numerics, whole, run.numerics)
        return _kept(run, inputs, ts, next(names), every, progress)

    return follow_times(whole if inputs is None else whole.within(inputs), ts, solved, refine)


def _kept(
    run: Run,
    inputs: Decomposition | None,
    ts: Any,
    path: Path,
    every: int,
    progress: OnProgress | None,
) -> Trajectory:
    """The run, not yet in other coordinates, from where its file has come to the end."""
    key = _identity(run, ts, every)
    kept = _load(path, key, run, inputs, ts)
    at, state = 0, None
    values: list[dict[str, np.ndarray]] = []
    if kept is not None:
        at, inputs, state, values = kept
    run = run if inputs is None else run.within(inputs)
    for done, now, block in follow(run, ts, every, at, state):
        state = now
        values = [jax.tree.map(lambda *parts: np.concatenate(parts), *values, block)]
        try:
            _save(path, key, done, (inputs, state, values))
        except InputError as error:  # the run itself can go on
            warnings.warn(f"no checkpoint: {error}", RuntimeWarning, stacklevel=5)
        if progress is not None:
            progress(done, ts.size)
    assert state is not None  # there is at least one saved time
    return run.trajectory(ts, state, jax.tree.map(jnp.asarray, values[0]))


def _identity(run: Run, ts: Any, every: int) -> str:
    """Of all arrays, of the structure that holds them, of the schedule and of the code."""
    leaves, structure = jax.tree.flatten((run, ts))
    digest = hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", str(structure)).encode())
    for leaf in leaves:
        if eqx.is_array(leaf):
            array = np.asarray(leaf)
            digest.update(
                f"|{array.dtype.str}{array.shape}".encode() + np.ascontiguousarray(array).tobytes()
            )
        else:
            digest.update(re.sub(r" at 0x[0-9a-f]+", "", f"|{leaf!r}").encode())
    code = code_of("dynamics.simulation")
    return identity_of(code, {"run": digest.hexdigest(), "every": every})


def _save(path: Path, key: str, done: int, tree: Any) -> None:
    def fill(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.write(f"{files.mark(KIND, key)}\n{done}\n".encode())
            eqx.tree_serialise_leaves(file, tree)

    files.atomically(path, fill)


def _load(
    path: Path, key: str, run: Run, inputs: Decomposition | None, ts: Any
) -> tuple[int, Decomposition | None, Progress, list[Any]] | None:
    """(saved times done, decomposition of the inputs, state, read-outs), or None when there is
    nothing to go on from."""
    found = files.whole(path, KIND)
    if found is not None and found.identity != key:
        raise InputError(
            f"{path} is the checkpoint of another run; give this one a file of its own, or "
            "remove that one."
        )
    if note := files.set_aside(path, KIND, key):
        warnings.warn(f"{note}, and the run starts again.", RuntimeWarning, stacklevel=3)
    if not path.exists():
        return None
    with path.open("rb") as file:
        file.readline()
        done = int(file.readline())
        run = run if inputs is None else run.within(inputs)
        state = eqx.filter_eval_shape(Run.start, run)
        like = eqx.filter_eval_shape(Run.proceed, run, state, ts[:done])
        template = (inputs, like[0], [jax.tree.map(_blank, like[1])])
        inputs, state, values = eqx.tree_deserialise_leaves(file, template)
    return done, inputs, state, values


def _blank(leaf: Any) -> np.ndarray:
    return np.empty(leaf.shape, leaf.dtype)

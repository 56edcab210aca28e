"""Long single solves that survive their process: the state of the solver on disk, on a schedule
that never changes.

A solve always proceeds from one saved time to the next by the same compiled programs, `every` saved
times in each, whether it was interrupted or not; so a resumed run equals an uninterrupted one bit
for bit. A checkpoint file is our mark (`files`), one line of JSON (what run this is, and how far),
and as NumPy arrays the decomposition of the inputs that gives the coordinates and the leaves of the
state.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
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
from ..dynamics import simulation
from ..dynamics.coordinates import Decomposition, decompose, in_span, why_not_in_span
from ..dynamics.prediction import check_times
from ..dynamics.solver import REASONS, Progress, RungeKutta
from ..dynamics.trajectory import Trajectory
from ..errors import InputError
from ..loss import Loss, squared
from ..method import AbstractFlow
from ..numerics import Numerics
from .provenance import JUDGEMENT, source_digest
from .store import canonical

KIND = "checkpoint"


def simulate_checkpointed(
    model: Any,
    data: Any,
    flow: Any,
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
    config: Numerics = Numerics(),
    progress: Callable[[int, int], None] | None = None,
) -> Trajectory:
    """`simulate`, with its state kept in the file `path` after every `every` saved times, from
    where the same call goes on.

    A finished run is read from the file. progress: called as progress(saved times done, saved
    times). The rest is as in `simulate`.

    A damaged checkpoint is set aside as `*.damaged`, with a warning, and the run starts again; a
    full disk is a warning too. Whatever else stands at `path` is left untouched.

    Raises:
        InputError: the folder cannot be written; `path` is a folder, a link or a file that is no
            checkpoint; or it belongs to another run: other weights, data, flow, times, options
            or code.
    """
    if not isinstance(flow, AbstractFlow):
        raise InputError(f"flow must be a flow such as nm.HeavyBall(b), got {type(flow).__name__}.")
    if every < 1:
        raise InputError(f"every must be at least 1 saved time, got {every}.")
    path = Path(path)
    files.check_file(path, KIND)
    problem, w = simulation.weight_problem(model, data, loss, trainable, where)
    dtype = jnp.result_type(*jax.tree.leaves(w))
    reference = (
        simulation.default_reference(model, data, trainable, where)
        if reference is None
        else jnp.asarray(reference, dtype)
    )
    chosen = simulation.chosen_readouts(readouts, model, reference)
    flow = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), flow)
    ts = check_times(ts).astype(dtype)
    integrator = simulation.as_integrator(solver, problem, w)
    run = _Run(
        *simulation.tolerance_apart(config, dtype), problem, w, flow, integrator, chosen, reference
    )
    identity = _identity(run, ts, every)
    inputs = decompose(problem.X) if why_not_in_span(problem, model, chosen) is None else None

    kept = _load(path, identity, run, inputs, ts)
    if kept is not None:
        inputs = kept[1]
    run = run.within(inputs)
    done, _, state, values = kept if kept is not None else (0, inputs, _begin(run, ts[:1]), [])
    while done < ts.size:
        state, read = _proceed(run, state, ts[done : done + every])
        values = [jax.tree.map(lambda *parts: np.concatenate(parts), *values, jax.device_get(read))]
        done = min(done + every, ts.size)
        try:
            _save(path, {"identity": identity, "done": done}, (inputs, state, values))
        except InputError as error:  # the run itself can go on
            warnings.warn(f"no checkpoint: {error}", RuntimeWarning, stacklevel=2)
        if progress is not None:
            progress(done, ts.size)
    if int(state.verdict) != 0:
        reason = REASONS[int(state.verdict)]
        warnings.warn(
            f"the solve failed and its read-outs are NaN from there on: {reason}",
            RuntimeWarning,
            stacklevel=2,
        )
    model = run.problem.whole(state.state.w)
    return Trajectory(
        ts,
        jax.tree.map(jnp.asarray, values[0]),
        model,
        state.verdict,
        state.accepted,
        state.rejected,
    )


class _Run(eqx.Module):
    """Everything about a solve but how far it is."""

    tol: Any
    config: Numerics = eqx.field(static=True)
    problem: Any
    w: Any
    flow: AbstractFlow
    integrator: Any
    readouts: dict[str, Any]
    reference: Any

    def within(self, inputs: Decomposition | None) -> _Run:
        """The run in the coordinates that `simulate` takes, of the decomposed inputs."""
        if inputs is None:
            return self
        whole = isinstance(self.integrator, RungeKutta)
        problem, w = in_span(
            self.problem, self.w, self.readouts, preactivations=whole, inputs=inputs
        )
        return dataclasses.replace(self, problem=problem, w=w)

    def numerics(self) -> Numerics:
        return dataclasses.replace(self.config, tol=self.tol)


@eqx.filter_jit
def _begin(run: _Run, ts: Any) -> Progress:
    return simulation.begin(
        run.problem, run.w, run.flow, run.integrator, run.readouts, run.numerics(), ts.dtype
    )


@eqx.filter_jit
def _proceed(run: _Run, state: Progress, ts: Any) -> tuple[Progress, dict[str, Any]]:
    return simulation.proceed(
        state,
        ts,
        run.problem,
        run.w,
        run.flow,
        run.integrator,
        run.readouts,
        run.reference,
        run.numerics(),
    )


def _identity(run: _Run, ts: Any, every: int) -> str:
    """A hash of all arrays, of the structure that holds them, of the schedule and of the code."""
    leaves, structure = jax.tree.flatten((run, ts))
    digest = hashlib.sha256(
        f"{every}|{source_digest(without=JUDGEMENT)}|{jax.__version__}|".encode()
    )
    digest.update(re.sub(r" at 0x[0-9a-f]+", "", str(structure)).encode())
    for leaf in leaves:
        if eqx.is_array(leaf):
            array = np.asarray(leaf)
            digest.update(
                f"|{array.dtype.str}{array.shape}".encode() + np.ascontiguousarray(array).tobytes()
            )
        else:
            digest.update(re.sub(r" at 0x[0-9a-f]+", "", f"|{leaf!r}").encode())
    return digest.hexdigest()


def _save(path: Path, header: dict[str, Any], tree: Any) -> None:
    def fill(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.write(f"{files.mark(KIND)}\n{canonical(header)}\n".encode())
            eqx.tree_serialise_leaves(file, tree)

    files.atomically(path, fill)


def _load(
    path: Path, identity: str, run: _Run, inputs: Decomposition | None, ts: Any
) -> tuple[int, Decomposition | None, Progress, list[Any]] | None:
    """(saved times done, decomposition of the inputs, state, read-outs), or None when there is
    nothing to go on from."""
    if not path.exists():
        return None
    if files.checksum(path, KIND) is None:
        note = files.set_aside(path, KIND)
        warnings.warn(f"{note}, and the run starts again.", RuntimeWarning, stacklevel=3)
        return None
    with path.open("rb") as file:
        file.readline()
        header = json.loads(file.readline())
        if header["identity"] != identity:
            raise InputError(
                f"{path} is the checkpoint of another run; give this one a file of its own, or "
                "remove that one."
            )
        run = run.within(inputs)
        state = eqx.filter_eval_shape(_begin, run, ts[:1])
        like = eqx.filter_eval_shape(_proceed, run, state, ts[: header["done"]])
        template = (inputs, like[0], [jax.tree.map(_blank, like[1])])
        inputs, state, values = eqx.tree_deserialise_leaves(file, template)
    return header["done"], inputs, state, values


def _blank(leaf: Any) -> np.ndarray:
    return np.empty(leaf.shape, leaf.dtype)

"""Peak memory of a solve, from its shapes alone: nothing runs out of memory by surprise.

One run on n samples with a network of m neurons on p inputs holds copies of its weights and
velocities (m p each), preactivations and slopes (n m each), kernels (n^2 each) and what it has read
off. The counts of copies are those of the compiled programs, rounded up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..errors import InputError
from ..kernel import plan_ntk
from ..kernel.plan import written
from ..memory import gib, refusal
from ..network.two_layer import DRAWN
from .objective import WeightProblem
from .readout import read_off, watch
from .solver.slopes import TILE

COPIES = {
    "lazy": (2.0, 3.0, 8.0),
    "lazy momentum": (6.0, 9.0, 8.0),
    "runge_kutta": (14.0, 3.0, 5.0),
    "runge_kutta momentum": (28.0, 3.0, 5.0),
}
"""Arrays alive at the peak of one run, fitted from above to compiled programs: (m, p); (n, m),
where something needs the preactivations of all neurons at once; and (n, n). All but the first hold
more to solve than to draw the network."""

HALVED = (1.5, 1.0)
"""And in float32 on a GPU, (m, p) and (n, m) in halves while a product is taken, see `products`."""

DRAWING = 6.0
"""Arrays alive while a part of the hidden layer is drawn."""

KEPT = 1.0
"""(n, m) kept by an explicit solver on a CPU where nothing needs them at once. The lazy one then
holds its copies for one tile only."""

JACOBIANS = 6.0
"""Copies of all activations, beside those of a gradient, while the Jacobians behind H are taken of
a model that is no sum over neurons."""


@dataclasses.dataclass(frozen=True)
class Peak:
    """Bytes at the peak of one run on one device, by what takes them."""

    state: int
    slab: int
    kernel: int
    readouts: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.state + self.slab + self.kernel + self.readouts

    def __str__(self) -> str:
        parts = {
            "weights": self.state,
            "neurons x samples": self.slab,
            "kernels": self.kernel,
            "read-outs": self.readouts,
        }
        return (
            f"{gib(self.total)} "
            f"({', '.join(f'{name} {gib(size)}' for name, size in parts.items())})"
        )


class Needs(NamedTuple):
    """What decides the memory of one run: its size, integrator, momentum, whether read-outs need H
    or whole preactivations, their shapes.

    entries: of Delta, samples times outputs. columns: of the weights of a two-layer net in the
    coordinates that are solved for. own: of any other model, its sizes as `estimate_own` takes
    them.
    """

    entries: int
    columns: int
    own: dict[str, Any] | None
    lazy: bool
    momentum: bool
    kernel: bool
    slabs: bool
    readouts: list[tuple[int, ...]]


def needs_of(make: Callable[[Any], Any], given: Any, times: int) -> Needs:
    """What one run needs, found by tracing its start.

    make(given) is the `run.Run`, read off at so many times. Nothing is computed. Raises
    `InputError` for what cannot be run.
    """
    found: dict[str, Any] = {}

    def start(given: Any) -> dict[str, Array]:
        run = make(given)
        problem, w = run.problem, run.w
        assert isinstance(problem, WeightProblem)
        first, observers = run.first(), watch(run.readouts, run.flow)
        watched = observers.init(problem, first.t, run.state)
        values = read_off(run.readouts, first, watched, jnp.array(True))
        kernel = "kernel" in vars(first)  # cached there when a read-out asks for it
        neurons, own = problem.neurons(w), None
        if neurons is None:
            making = 0
            if kernel:
                model = problem.model(w)
                making = plan_ntk(model, problem.X, trainable=problem.trained, output="full").bytes
            numbers = sum(leaf.size for leaf in jax.tree.leaves(w))
            forward = jax.make_jaxpr(lambda w, x: problem.model(w)(x))(w, problem.X[0])
            own = {"weights": numbers, "activations": written(forward), "kernel": making}
        remembered = run.state.v if run.flow is not None else run.method.init(w)
        found.update(
            entries=problem.residual_size(w),
            columns=0 if neurons is None else neurons[1],
            own=own,
            lazy=run.integrator.forms_kernel,
            momentum=bool(jax.tree.leaves(remembered)),
            kernel=kernel,
            slabs=kernel or bool(observers.observers),
        )
        return values

    shapes = jax.tree.leaves(eqx.filter_eval_shape(start, given))
    return Needs(**found, readouts=[(times, *leaf.shape) for leaf in shapes])


def peak_of(wants: Needs, *, samples: int, p: int, m: int, dtype: Any, devices: int = 1) -> Peak:
    """The peak of one run on so many samples: of a two-layer net of m neurons on p inputs or, where
    `wants.own` says so, any other model."""
    known: dict[str, Any] = {
        "itemsize": jnp.dtype(dtype).itemsize,
        "momentum": wants.momentum,
        "readouts": wants.readouts,
    }
    if wants.own is not None:
        return estimate_own(n=samples, entries=wants.entries, **wants.own, **known)
    return estimate(
        n=wants.entries,
        m=m,
        p=p,
        columns=wants.columns,
        **known,
        lazy=wants.lazy,
        slabs=wants.slabs or jax.default_backend() != "cpu",
        kernel=wants.kernel,
        halves=jax.default_backend() == "gpu" and jnp.dtype(dtype) == jnp.float32,
        devices=devices,
    )


def estimate(
    *,
    n: int,
    m: int,
    p: int,
    columns: int,
    itemsize: int,
    momentum: bool,
    lazy: bool,
    slabs: bool = True,
    kernel: bool = True,
    halves: bool = False,
    readouts: Iterable[tuple[int, ...]] = (),
    devices: int = 1,
) -> Peak:
    """Peak of one run whose neurons are spread over `devices`.

    columns: those of the weights in the coordinates that are solved for, see `coordinates`. slabs,
    kernel: whether a read-out needs whole preactivations, or H. halves: whether products are taken
    in halves. readouts: the shape of each, saved times included.
    """
    state, slab, square = COPIES[
        ("lazy" if lazy else "runge_kutta") + (" momentum" if momentum else "")
    ]
    if halves:
        state, slab = state + HALVED[0], slab + HALVED[1]
    # Bytes = itemsize * (state * m' p + slab * n m' + square * n^2 + 2 * saved), m' neurons here.
    mine = -(-m // devices)
    entries = slab * n * mine
    if not slabs and not lazy:
        entries = KEPT * n * mine
    elif not slabs and not momentum:
        entries = min(entries, slab * 2 * TILE)
    # Either the solve is the peak, or the drawing: two copies of all hidden weights, (m', p), and
    # what it takes to draw `DRAWN` weights of it at a time.
    weights = max(state * mine * columns, 2 * mine * p + DRAWING * min(mine * p, DRAWN))
    # Twice: as results, and once while they are stored.
    saved = sum(_product(shape) for shape in readouts)
    return Peak(
        state=int(weights * itemsize),
        slab=int(entries * itemsize),
        kernel=int(square * n * n * itemsize) if kernel or lazy else 0,
        readouts=2 * saved * itemsize,
    )


def estimate_own(
    *,
    n: int,
    entries: int,
    weights: int,
    activations: int,
    kernel: int,
    itemsize: int,
    momentum: bool,
    readouts: Iterable[tuple[int, ...]] = (),
) -> Peak:
    """Peak of one run of any model, solved by Runge-Kutta.

    entries: outputs on all n samples. weights: trained numbers. activations: numbers that a forward
    pass of one sample writes, all of which a backward pass keeps. kernel: bytes to make H, see
    `kernel.plan`, or 0 where no read-out needs it.
    """
    state, slab, square = COPIES["runge_kutta momentum" if momentum else "runge_kutta"]
    return Peak(
        state=int(state * weights * itemsize),
        slab=int((slab + (JACOBIANS if kernel else 0)) * n * activations * itemsize),
        kernel=int(square * entries * entries * itemsize) + kernel if kernel else 0,
        readouts=2 * sum(_product(shape) for shape in readouts) * itemsize,
    )


def refuse(
    what: str, needed: Peak, free: int | float, runs: int, splits: bool = True
) -> InputError:
    """The error for a unit that cannot fit: the numbers, and what to do about the largest.

    splits: whether neurons may be spread.
    """
    more = ", or more devices with layout='neurons'" if splits else ""
    remedies = {
        needed.state: f"use fewer neurons, float32{more}",
        needed.slab: f"use fewer neurons or samples, float32{more}",
        needed.kernel: "use fewer samples, float32, or read-outs that need no kernel: loss",
        needed.readouts * runs: (
            "save fewer times, leave out read-outs such as 'kernel', or give unit_runs= fewer runs"
        ),
    }
    remedy = remedies[max(remedies)]
    return refusal(what, f"{needed}, the read-outs times {runs} runs", free, remedy)


def _product(shape: Iterable[int]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size

"""Several devices and hosts, by JAX's own engine: meshes, where arrays lie, and joining a job of
several processes.

Runs are independent, so they are spread first, without communication. The neurons of one run are
spread when it does not fit: then f(x_i) = s sum_r a_r sigma(w_r . x_i) is a sum over devices, and
the compiler puts one all-reduce of n numbers wherever f, or an error of f in the step controller,
is formed. Kernels of large n are computed by block rows.
"""

from __future__ import annotations

import functools
import os
import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from ..errors import InputError, check_positive
from ..kernel import empirical_ntk
from ..network.two_layer import TwoLayerNet

AXIS = "devices"


def initialize(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> tuple[int, int]:
    """Join a job of several processes before anything else is asked of JAX; (this process, how
    many).

    Without arguments SLURM, Open MPI or a TPU pod say who is who. With them: the address
    "host:port" of process 0, how many there are, and which one this is. On CPUs they talk through
    gloo. Raises `InputError`.
    """
    given = (coordinator, num_processes, process_id)
    if any(value is not None for value in given) and any(value is None for value in given):
        raise InputError(
            "give --coordinator HOST:PORT, --num-processes and --process-id together, "
            "or none of them under SLURM."
        )
    if coordinator is not None and num_processes is not None and process_id is not None:
        check_positive("num_processes", num_processes)
        if not 0 <= process_id < num_processes:
            raise InputError(f"process_id must lie in 0 ... {num_processes - 1}, got {process_id}.")
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 2**16:
            raise InputError(
                "the coordinator is given as HOST:PORT, with a port from 1 to 65535, got "
                f"{coordinator!r}."
            )
        if num_processes == 1:  # nobody to talk to, so no runtime either
            return 0, 1
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id, _own_devices())
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"cannot join a job of several processes ({str(error).splitlines()[0]}); "
            "under SLURM start it with srun, "
            "elsewhere give --coordinator HOST:PORT, --num-processes and --process-id, "
            "and do it before any other use of JAX."
        ) from error
    return jax.process_index(), jax.process_count()


def _own_devices(environment: Any = os.environ) -> list[int] | None:
    """All GPUs of a node where SLURM starts one process on each, which JAX would give but one;
    elsewhere JAX's own choice."""
    tasks = environment.get(
        "SLURM_STEP_TASKS_PER_NODE", environment.get("SLURM_TASKS_PER_NODE", "")
    )
    gpus = environment.get("SLURM_GPUS_ON_NODE", "")
    alone = re.fullmatch(r"1(\(x\d+\))?", tasks) is not None
    return list(range(int(gpus))) if alone and gpus.isdecimal() and int(gpus) > 1 else None


@functools.cache
def mesh(devices: tuple[Any, ...] | None = None) -> Mesh:
    """A line of devices: this process's own by default, `tuple(jax.devices())` for those of all
    processes."""
    chosen = tuple(jax.local_devices()) if devices is None else devices
    return jax.make_mesh((len(chosen),), (AXIS,), axis_types=(AxisType.Auto,), devices=chosen)


def shard_neurons(model: TwoLayerNet, over: Mesh | None = None) -> TwoLayerNet:
    """The same network with its neurons spread over devices, for `simulate`; the width must be a
    multiple of their number."""
    over = mesh() if over is None else over
    if model.width % over.size:
        raise InputError(
            f"the width {model.width} is no multiple of {over.size} devices; try "
            f"{-(-model.width // over.size) * over.size}."
        )
    place = lambda leaf: (
        jax.device_put(leaf, NamedSharding(over, P(AXIS)))
        if eqx.is_array(leaf) and leaf.ndim
        else leaf
    )
    return jax.tree.map(place, model)


def ntk_by_rows(
    model: Any, X: Any, over: Mesh | None = None, **options: Any
) -> Float[Array, "n n"]:
    """`empirical_ntk` of one set of inputs, each device computing (and keeping) a block of rows.
    Options as there.

    Nothing is communicated; the symmetric half is computed twice.
    """
    over = mesh() if over is None else over
    X = jnp.asarray(X)
    n = X.shape[0]
    padded = jnp.pad(X, ((0, -n % over.size),) + ((0, 0),) * (X.ndim - 1), mode="edge")
    return _by_rows(model, padded, X, over, tuple(sorted(options.items())))[:n]


@eqx.filter_jit
def _by_rows(
    model: Any, rows: Array, columns: Array, over: Mesh, options: tuple[tuple[str, Any], ...]
) -> Array:
    arrays, static = eqx.partition(model, eqx.is_array)
    block = lambda arrays, mine, all: empirical_ntk(
        eqx.combine(arrays, static), mine, all, **dict(options)
    )
    return jax.shard_map(
        block, mesh=over, in_specs=(P(), P(AXIS), P()), out_specs=P(AXIS), check_vma=False
    )(arrays, rows, columns)

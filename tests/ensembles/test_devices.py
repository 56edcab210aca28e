"""Several devices give the numbers of one, and send no more than they must. Virtual CPU devices, in
processes of their own."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ntk_momentum import InputError, init_two_layer
from ntk_momentum.ensembles import devices

SCRIPT = Path(__file__).with_name("on_devices.py")
ROOT = SCRIPT.parents[2]


def start(case, count, *job):
    environment = {
        **os.environ,
        "JAX_NUM_CPU_DEVICES": str(count),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, str(SCRIPT), case, *map(str, job)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, err[-3000:]
    return json.loads(out.splitlines()[-1])


def agree(some, one, rtol):
    assert some["ok"] and some["steps"] == one["steps"]
    np.testing.assert_allclose(some["loss"], one["loss"], rtol=rtol)


@pytest.mark.slow
def test_eight_devices_give_the_numbers_of_one():
    found = finish(start("spread", 8))
    assert found["devices"] == 8
    agree(found["runs"], found["one"], 1e-12)
    agree(found["neurons"], found["one"], 1e-10)
    assert found["kernel"] < 1e-14


@pytest.mark.slow
def test_a_network_spread_by_hand_takes_the_same_steps():
    found = finish(start("by_hand", 4))
    assert found["lazy"][0] < 1e-10 and found["tsit5"][0] < 1e-10
    assert all(rest == [0, 4] for _, *rest in found.values())


@pytest.mark.slow
def test_spread_neurons_send_n_numbers_per_evaluation():
    """Tsit5: f in each of six evaluations, and f, J dw and J dv once a step for the error. With
    momentum a stage has not felt the last gradient, so two share an all-reduce. The lazy solver
    adds its n x n kernel."""
    found = finish(start("collectives", 8))
    n = 6
    assert {one["name"] for one in found} == {"all-reduce"}
    explicit = [one for one in found if one["solver"] == "tsit5"]
    deepest = max(one["depth"] for one in explicit)
    step = [one["sizes"] for one in explicit if one["depth"] == deepest]
    assert len(step) <= 6 and sum(sizes.count(n) for sizes in step) <= 6 + 3
    assert all(
        size <= n for one in explicit if one["depth"] > 1 for size in one["sizes"]
    )  # at the start of a run H may be formed once
    assert all(size <= n * n for one in found for size in one["sizes"])


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    running = [start("processes", 2, address, 2, rank) for rank in range(2)]
    first, second = [finish(process) for process in running]
    assert (first["process"], second["process"], first["processes"], first["devices"]) == (
        0,
        1,
        2,
        4,
    )
    for layout in ("runs", "neurons"):
        assert first[layout] == second[layout]
        agree(first[layout], first["one"], 1e-10)
    shared = {
        int(index): block for part in (first, second) for index, block in part["mine"].items()
    }
    assert (
        len(first["mine"]) == len(second["mine"])
        and [shared[i] for i in range(len(shared))] == first["all"]
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("localhost:1", None, 0), "together"),
        (("localhost:1", 2, 2), "0 ... 1"),
        (("localhost", 2, 0), "HOST:PORT"),
        (("localhost:1", 0, 0), "num_processes"),
    ],
    ids=str,
)
def test_a_job_of_several_processes_is_described_whole(given, message):
    with pytest.raises(InputError, match=message):
        devices.initialize(*given)


def test_a_process_alone_on_its_node_has_all_of_its_gpus():
    node = {"SLURM_STEP_TASKS_PER_NODE": "1(x4)", "SLURM_GPUS_ON_NODE": "8"}
    assert devices._own_devices(node) == list(range(8))
    for other in ({"SLURM_STEP_TASKS_PER_NODE": "8(x4)"}, {"SLURM_GPUS_ON_NODE": "1"}):
        assert devices._own_devices(node | other) is None
    assert devices._own_devices({}) is None


def test_neurons_are_spread_evenly_or_not_at_all():
    import jax

    mesh = devices.mesh()
    net = init_two_layer(4 * mesh.size, 3, key=jax.random.key(0))
    assert devices.shard_neurons(net).hidden.sharding.device_set == set(mesh.devices.flat)

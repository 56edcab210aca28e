"""One rule says how much memory is free, by every limit on the job: trees of files stand for
machines, containers and schedulers."""

import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ntk_momentum as nm
from ntk_momentum import memory

KEY = jax.random.key(1)
MB = 2**20
NOT_LIMITED = 2**63 - 4096  # what cgroup v1 says then


def machine(root, membership, groups, available=10**6 * MB, statm="1000 200 0 0 0 0 0"):
    """A tree with /proc and the files of control groups: path under sys/fs/cgroup -> contents."""
    texts = {
        "proc/self/cgroup": membership,
        "proc/self/statm": statm,
        "proc/meminfo": f"MemTotal: 9 kB\nMemAvailable: {available // 1024} kB\n",
        "sys/fs/cgroup/README": "",
    }
    texts |= {f"sys/fs/cgroup/{path}": str(text) for path, text in groups.items()}
    for path, text in texts.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def v2(folder, limit, current, stat=""):
    return {
        f"{folder}/memory.max": limit,
        f"{folder}/memory.current": current,
        f"{folder}/memory.stat": stat,
    }


def v1(folder, limit, usage, stat=""):
    return {
        f"memory/{folder}/memory.limit_in_bytes": limit,
        f"memory/{folder}/memory.usage_in_bytes": usage,
        f"memory/{folder}/memory.stat": stat,
    }


UNIFIED = {"cgroup.controllers": "memory cpu"}
V1_LINES = "5:cpu,cpuacct:/job\n4:memory:/slurm/job/step\n1:name=systemd:/\n"
TREES = {
    "no limit leaves what the system says": ("0::/a/b", UNIFIED | v2("a/b", "max", 5), 10**6),
    "the process's own group": ("0::/a/b", UNIFIED | v2("a/b", 300 * MB, 100 * MB), 200),
    "the job's group, above its own": (
        "0::/a/b/c",
        UNIFIED | v2("a", 400 * MB, 50 * MB) | v2("a/b", "max", 3) | v2("a/b/c", "max", 2),
        350,
    ),
    "the tightest of nested limits": (
        "0::/a/b",
        UNIFIED | v2("a", 400 * MB, 390 * MB) | v2("a/b", 100 * MB, 10 * MB),
        10,
    ),
    "file cache can be dropped": (
        "0::/a",
        UNIFIED
        | v2("a", 300 * MB, 290 * MB, f"anon 3\ninactive_file {200 * MB}\nactive_file {90 * MB}\n"),
        210,
    ),
    "no more cache is dropped than there is in use": (
        "0::/a",
        UNIFIED | v2("a", 300 * MB, 10 * MB, f"inactive_file {20 * MB}"),
        300,
    ),
    "more in use than allowed leaves nothing": ("0::/a", UNIFIED | v2("a", 3 * MB, 5 * MB), 0),
    "a container that sees only its own mount": (
        "0::/../../docker/f00",
        UNIFIED | v2(".", 64 * MB, 4 * MB),
        60,
    ),
    "version 1": (V1_LINES, v1("slurm/job/step", 500 * MB, 100 * MB), 400),
    "version 1, the job above the step": (
        V1_LINES,
        v1("slurm/job", 500 * MB, 200 * MB)
        | v1("slurm/job/step", NOT_LIMITED, 200 * MB)
        | v1(".", NOT_LIMITED, 900 * MB),
        300,
    ),
    "version 1 with file cache": (
        V1_LINES,
        v1("slurm/job", 500 * MB, 400 * MB, f"inactive_file 7\ntotal_inactive_file {250 * MB}\n"),
        350,
    ),
    "version 1 without limits": (V1_LINES, v1("slurm/job", NOT_LIMITED, 5 * MB), 10**6),
    "both versions, memory in the first": (
        V1_LINES + "0::/init\n",
        v1("slurm", 90 * MB, 10 * MB) | {"unified/init/cgroup.procs": "1"},
        80,
    ),
    "both versions, memory in the second": (
        "1:name=systemd:/\n0::/a\n",
        v2("unified/a", 70 * MB, 30 * MB),
        40,
    ),
    "a path with a colon": ("0::/a:b", UNIFIED | v2("a:b", 7 * MB, 3 * MB), 4),
    "files that say nothing": (
        "0::/a",
        UNIFIED | v2("a", "", "x", "inactive_file\ninactive_file x"),
        10**6,
    ),
    "text that is none": ("what?\n\n4:memory\n", {}, 10**6),
}


@pytest.mark.parametrize("tree", TREES)
def test_free_memory_is_the_least_of_what_the_job_may_take(tree, tmp_path):
    membership, groups, expected = TREES[tree]
    assert memory.host_memory(machine(tmp_path, membership, groups), {}) == expected * MB


def test_a_scheduler_s_word_counts_less_what_is_resident(tmp_path):
    page = 4096 * 256  # of resident memory: 256 pages
    root = machine(tmp_path, "", {}, statm="90000 256 0")
    said = lambda text: memory.host_memory(root, {"SLURM_MEM_PER_NODE": text})
    assert said("100") == pytest.approx(100 * MB - page, abs=16 * page)
    assert said("0") == said("") == said("4G?") == 10**6 * MB


def test_a_system_that_says_nothing_is_not_asked(tmp_path):
    assert memory.host_memory(tmp_path, {}) is None


def test_a_limit_on_addresses_counts():
    code = (
        "import resource; from ntk_momentum.memory import host_memory as free;"
        "resource.setrlimit(resource.RLIMIT_AS, (2**30, -1)); assert 2**28 < free() < 2**30, free()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_where_nobody_knows_the_question_is_silent_and_a_plan_asks_for_a_limit(monkeypatch):
    monkeypatch.setattr(memory, "_free", lambda device: None)
    memory.check_fits(10**30, "all", "use less")
    with pytest.raises(nm.InputError, match="memory_limit="):
        memory.available()


def test_devices_share_and_what_spreads_over_them_adds_up(monkeypatch):
    monkeypatch.setattr(memory, "_free", lambda device: 2**30)
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    ask = lambda x: memory.check_fits(2 * 2**30, "it", "use less", itemsize=1, of=x)
    with pytest.raises(nm.InputError, match="it would take about 2 GiB, but 922 MiB may be used"):
        ask(jnp.ones(3))
    jax.make_jaxpr(lambda x: ask(x) or x)(jnp.ones(3))


class Card:
    platform = "gpu"

    def __init__(self, **statistics):
        self.memory_stats = lambda: statistics or None


def test_an_accelerator_says_itself_what_is_free():
    assert memory.available(Card(bytes_limit=100, bytes_in_use=30)) == 70
    with pytest.raises(nm.InputError, match="memory_limit="):
        memory.available(Card())


def test_ordinary_sizes_are_not_looked_up(monkeypatch):
    monkeypatch.setattr(memory, "_free", None)
    memory.check_fits(memory.SMALL // 8, "it", "use less", itemsize=8)
    nm.infinite_ntk(np.eye(5))
    nm.predict(np.eye(5), np.ones(5), nm.GradientFlow(), [0.0, 1.0])


def test_saved_read_outs_are_counted_with_their_times(monkeypatch):
    monkeypatch.setattr(memory, "_free", lambda device: 10**9)
    values = {"loss": jax.ShapeDtypeStruct((), "float64"), "f": jax.ShapeDtypeStruct((9,), "f4")}
    memory.check_saved(values, 10**7)
    with pytest.raises(nm.InputError, match=r"at 100000000 times .* 8.2 GiB.*save fewer times"):
        memory.check_saved(values, 10**8)


@pytest.mark.parametrize(
    ("size", "words"),
    [(512, "512 B"), (2**21, "2 MiB"), (3 * 2**40, "3 TiB"), (10**400, "10^387 TiB")],
)
def test_bytes_are_said_in_words(size, words):
    assert memory.gib(size) == words


def test_training_on_many_samples_forms_no_kernel_unless_one_is_read(monkeypatch):
    monkeypatch.setattr(memory, "_free", lambda device: 50 * MB)  # the kernel takes 128 MB
    inputs = np.random.default_rng(0).standard_normal((2000, 3))
    data = nm.Dataset(inputs, np.stack([inputs[:, 0], inputs[:, 1]], 1))
    net = eqx.nn.Linear(3, 2, key=KEY)

    def run(readouts):
        return nm.train(net, data, optax.sgd(1e-3), 2, batch_size=8, key=KEY, readouts=readouts)

    largest = run({"loss": "loss", "largest": lambda s: jnp.max(s.f)}).largest
    np.testing.assert_allclose(largest[0], jnp.max(jax.vmap(net)(data.X)), rtol=1e-6)
    with pytest.raises(nm.InputError, match=r"over 4000 outputs .* readouts=\['loss', 'f'\]"):
        run(["kernel_drift"])

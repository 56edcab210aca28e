"""Tests run in float64, with strict rank promotion: slips of shape and dtype are errors.

Programs are compiled with few optimizations, on CPUs by JAX 0.10 also without XLA's fusion emitters
(later versions do not know the flag): each runs once, and compiling is most of the suite's time
(the emitters alone were half of it), nor split into parts that are compiled beside each other, each
with its own overhead: two workers fill the cores (a tenth of the time). They are let go at the end
of each file: a compiled program keeps about ten mappings of memory for itself, and a process may
hold 65,530 of them (`vm.max_map_count`). A folder keeps them for the other files, for the second
worker and for the processes that tests start, until the run ends.
"""

import gc
import os
import shutil
import tempfile

import jax
import pytest

KEPT = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # workers and processes of tests inherit it
    KEPT = tempfile.mkdtemp(prefix="ntk_momentum_tests_")
    for name, value in (
        ("JAX_COMPILATION_CACHE_DIR", KEPT),
        ("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", 0.0),
        ("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", -1),
    ):
        os.environ[name] = str(value)
        jax.config.update(name.lower(), value)

if jax.__version_info__[:2] == (
    0,
    10,
):  # read when a backend starts, here and in the processes that tests start
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"
        " --xla_cpu_parallel_codegen_split_count=1"
    )
# Workers inherit it before they load numpy: its threads wait for small matrices by spinning, which
# made two thirds of the processor time of the tests of certificates' soundness.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ["NTK_MOMENTUM_CACHE"] = "off"  # no test writes into the cache of who runs it
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_disable_most_optimizations", True)


def pytest_collection_finish(session):
    """What is there now stays: looking through it for garbage again and again took a twentieth."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def pytest_sessionfinish(session):
    if KEPT is not None:  # in the process that made it, which ends last
        shutil.rmtree(KEPT, ignore_errors=True)


@pytest.fixture(autouse=True, scope="module")
def programs_are_let_go():
    yield
    jax.clear_caches()


@pytest.fixture
def optimized():
    """For the few tests that compute longer than they compile."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def pretended(monkeypatch):
    """Units that cost nothing: the loss of seed s decays like exp(-(1 + s) t), and seed 2 fails.
    Returns the units computed."""
    import jax.numpy as jnp

    from ntk_momentum.ensembles import ensemble

    computed = []

    def run_unit(plan, unit):
        computed.append(unit.index)
        flows, widths = (
            tuple(plan.flows[i] for i in unit.flows),
            tuple(plan.widths[j] for j in unit.widths),
        )
        seeds, ts = (
            tuple(plan.seeds[k] for k in unit.seeds),
            jnp.asarray(plan.ts[unit.data, list(unit.flows)]),
        )
        shape, seed = (len(flows), len(widths), len(seeds)), jnp.asarray(seeds)
        loss = jnp.broadcast_to(
            jnp.exp(-(1 + seed[None, None, :, None]) * ts[:, None, None, :]), (*shape, ts.shape[1])
        )
        verdict = jnp.broadcast_to((seed == 2).astype(jnp.int32), shape)
        f = jnp.broadcast_to(loss[..., None], (*loss.shape, plan.data[0].n))
        return ensemble.Ensemble(
            flows, widths, seeds, ts, {"loss": loss, "f": f}, verdict, 7 + verdict, verdict
        )

    monkeypatch.setattr(ensemble, "run_unit", run_unit)
    return computed

"""Flows on the weights of networks: both solvers, alone and many at once, and the whole sweep."""

from __future__ import annotations

import functools
import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ntk_momentum as nm
from ntk_momentum import products as package

from . import host
from .measure import (
    Bench,
    NotSupported,
    Parts,
    Timing,
    called,
    compared,
    finished,
    gradient_of,
    halved,
    network,
    problem,
    rated,
    timed,
)
from .traces import traced

FLOWS: dict[str, tuple[Any, Callable[[float], float] | None]] = {
    # name: (flow, friction for the host)
    "gradient flow": (nm.GradientFlow(), None),
    "heavy ball": (nm.HeavyBall(1.0), lambda t: 1.0),
    "Nesterov": (nm.Nesterov(3.0), lambda t: 3.0 / t if t else np.inf),
}
STRATEGIES = ("vmap", "compacted", "map")
"""How runs share the device. On a CPU, where numbers mean little, most rows take some of them."""
CONFIG = nm.Numerics(tol=1e-3)
SHORT = 0.4
"""End of the short runs, over the time scale of the fastest mode."""
HOST_FLOPS = 1e12
"""What a run in float64 on the host may cost."""
SWEEP = 10.0
"""End of the sweep's runs, in the same unit."""


def ends(name: str, p: int, n: int, reach: float) -> float:
    """The time at which a run stops: in 1/λmax, with momentum in 1/√λmax."""
    top = problem(n, p)[1]
    return reach / top if FLOWS[name][1] is None else reach / top**0.5


def lazy(bench: Bench) -> Parts:
    """The lazy solver, three flows, many seeds at once in every way."""
    yield f"products of a step, m = {bench.sizes.lazy_width}", partial(step_products, bench)
    for j, strategy in enumerate(STRATEGIES):
        for k, name in enumerate(FLOWS):
            if not bench.accelerated and j != k:
                continue
            label = f"{name}, {strategy}, m = {bench.sizes.lazy_width}, {bench.sizes.seeds} seeds"
            taken: dict[int, float] = {}
            yield label, partial(lazy_runs, bench, name, strategy, SHORT, taken)
            if j == 0:
                yield f"{label}, long", partial(lazy_runs, bench, name, strategy, SWEEP, taken)
                width, seeds = bench.sizes.lazy_width, bench.sizes.seeds
                call = one_call(bench, name, strategy, width, seeds, SHORT, None)
                yield f"where the time goes, {label}", partial(traced, bench, call)


PRODUCTS = "the products of its steps"


def step_products(bench: Bench) -> dict[str, Any]:
    """The products of one gradient flow's step, all seeds at once, as the package takes them and
    nothing else: what lazy runs are divided by."""
    n, p, m, seeds = bench.sizes.n, bench.sizes.p, bench.sizes.lazy_width, bench.sizes.seeds
    X = problem(n, p)[0].X

    def step(W: jax.Array) -> tuple[jax.Array, ...]:
        with jax.default_matmul_precision("highest"):
            z = package.product(X, W.T)
            # as barriers, so that no product waits for what another one's result is made into
            push = package.of_two_values((z > 0).T.astype(W.dtype), (0.0, 1.0), X)
            slopes = jax.lax.optimization_barrier(jnp.clip(z, 0.0, 1.0))
            pulled = package.product(slopes.T, X)
            after = package.product(X, push.T)
            return after, pulled, package.product(slopes, slopes.T)

    timing = timed(jax.vmap(step), jnp.stack([network(m, p, seed).hidden for seed in range(seeds)]))
    flops = seeds * step_flops(n, p, m, False)
    record = rated(bench, timing, flops=flops)
    bench.ceilings[PRODUCTS] = flops / timing.seconds
    return record


def step_flops(n: int, p: int, m: int, momentum: bool) -> int:
    """Kernel, and products with X: z at the end and f, pulls of the force to predict and to move;
    with momentum those of the velocity besides."""
    return 2 * n**2 * m + (12 if momentum else 8) * n * p * m


def lazy_runs(
    bench: Bench, name: str, strategy: str, reach: float, taken: dict[int, float]
) -> dict[str, Any]:
    """A few steps, or many. The floor is that of their products; what a step more takes is told
    beside it, without what a run takes to start and end."""
    n, p, m = bench.sizes.n, bench.sizes.p, bench.sizes.lazy_width
    record, steps, timing = runs_of(bench, name, strategy, m, bench.sizes.seeds, reach, None)
    flops = step_flops(n, p, m, FLOWS[name][1] is not None)
    taken[record["most_steps"]] = timing.seconds
    if len(taken) == 2:
        (few, short), (many, long) = sorted(taken.items())
        one = (long - short) / (many - few)
        record["seconds_of_a_step"] = one
        record["step_over_its_products"] = one * bench.ceilings[PRODUCTS] / (flops * record["runs"])
    return record | rated(bench, timing, flops=flops * steps, unit=PRODUCTS)


def few_samples(bench: Bench) -> Parts:
    """Lazy runs of few samples, by the kernel's eigenvectors and by products with it."""
    for n in bench.sizes.few:
        for products in (False, True) if bench.accelerated else (True,):
            way = "products" if products else "eigenvectors"
            label = f"gradient flow by {way}, n = {n}, m = 1024, {bench.sizes.seeds} seeds"
            yield label, partial(few_runs, bench, n, products)


def few_runs(bench: Bench, n: int, products: bool) -> dict[str, Any]:
    """Seconds and steps."""
    data, top = problem(n, 32)
    how: dict[str, Any] = {"ts": np.array([0.0, SWEEP / top]), "readouts": ["loss"]}
    how |= {"config": CONFIG, "solver": nm.LazyExponential(products=products), "strategy": "vmap"}
    timing = called(
        bench, lambda: ensemble(data, FLOWS["gradient flow"][0], 1024, bench.sizes.seeds, **how)
    )
    steps = counts(timing.value)
    return {"steps": int(steps.sum()), "most_steps": int(steps.max())} | rated(bench, timing)


def tsit5(bench: Bench) -> Parts:
    """Tsit5 on the gradient flow: one batched gradient, then whole runs."""
    for width, runs in bench.sizes.tsit5:
        yield f"one gradient, m = {width}, {runs} runs", partial(gradients, bench, width, runs)
        for strategy in STRATEGIES if bench.accelerated else STRATEGIES[-1:]:
            label = f"Tsit5, {strategy}, m = {width}, {runs} runs"
            yield label, partial(tsit5_runs, bench, "gradient flow", strategy, width, runs, SHORT)
            if strategy == "vmap":
                how = (width, runs, SHORT, nm.RungeKutta())
                call = one_call(bench, "gradient flow", strategy, *how)
                yield f"where the time goes, {label}", partial(traced, bench, call)


def tsit5_runs(
    bench: Bench, name: str, strategy: str, width: int, runs: int, reach: float
) -> dict[str, Any]:
    """Six gradients a step, each two products."""
    record, steps, timing = runs_of(bench, name, strategy, width, runs, reach, nm.RungeKutta())
    n, p = bench.sizes.n, bench.sizes.p
    # up to p samples the solver takes preactivations as coordinates: one product with X Xᵀ
    evaluation = 2 * n * width * (n if n <= p else 2 * p)
    return record | rated(bench, timing, flops=6 * evaluation * steps)


def runs_of(
    bench: Bench, name: str, strategy: str, width: int, runs: int, reach: float, solver: Any
) -> tuple[dict[str, Any], int, Any]:
    """(what was found, steps of all runs, timing), for as many runs as fit."""
    n, p = bench.sizes.n, bench.sizes.p
    end = ends(name, p, n, reach)
    attempt = lambda runs: called(
        bench, one_call(bench, name, strategy, width, runs, reach, solver)
    )
    runs, timing = halved(runs, attempt)
    outcome = timing.value
    each = np.asarray(outcome["accepted"] + outcome["rejected"])
    record = {"runs": runs, "steps": int(each.sum()), "most_steps": int(each.max())}
    record["seconds_per_step_of_a_run"] = timing.seconds / max(1, int(each.sum()))
    found = float(outcome["readouts"]["loss"][0, 0, 0, -1])
    if reach <= 1 and 32 * 4 * n * p * width < HOST_FLOPS:
        record |= compared(found, host_loss(name, n, p, width, end), 1e-2)
    record["failed"] = int(np.count_nonzero(outcome["verdict"]))
    record["ok"] = record.get("ok", True) and record["failed"] == 0 and bool(np.isfinite(found))
    return record, record["steps"], timing


def one_call(
    bench: Bench, name: str, strategy: str, width: int, runs: int, reach: float, solver: Any
) -> Callable[[], dict[str, Any]]:
    """Many runs of a flow at once."""
    n, p = bench.sizes.n, bench.sizes.p
    how: dict[str, Any] = {"ts": np.array([0.0, ends(name, p, n, reach)]), "readouts": ["loss"]}
    how |= {"strategy": strategy, "solver": solver, "config": CONFIG, "unit_runs": runs}
    data = problem(n, p)[0]
    return lambda: ensemble(data, FLOWS[name][0], width, runs, **how).__dict__


@functools.cache
def host_loss(name: str, n: int, p: int, width: int, end: float) -> float:
    """The loss of seed 0 in float64, by the classical Runge-Kutta method."""
    return host.final_loss(problem(n, p)[0], network(width, p), end, FLOWS[name][1])


def gradients(bench: Bench, width: int, runs: int) -> dict[str, Any]:
    """The package's gradient of many networks at once; halved until they fit."""
    n, p = bench.sizes.n, bench.sizes.p
    data = problem(n, p)[0]
    net = network(width, p)
    gradient = gradient_of(net, data)
    runs = bench.fit(runs, 4.0 * (3 * width * p + 4 * n * width))

    def attempt(runs):
        shifts = 1 + jnp.arange(runs, dtype=jnp.float32)[:, None, None] / 1024
        return timed(jax.vmap(gradient), net.hidden[None] * shifts)

    runs, timing = halved(runs, attempt)
    wide = (np.asarray(part, np.float64) for part in (data.X, data.y, net.hidden, net.output))
    record = rated(
        bench,
        timing,
        flops=4 * n * p * width * runs,
        moved=4 * (2 * runs * width * p + n * p),
    )
    # an entry within round-off of its kink has either slope, so a few of n m differ
    return {"runs": runs} | record | compared(timing.value[0], host.gradient(*wide), 2e-3)


def headline(bench: Bench) -> Parts:
    """Three flows, every width, all seeds, to t = 10/λmax (10/√λmax), width by width."""
    for width in bench.sizes.headline:
        label = f"m = {width}, {bench.sizes.seeds} seeds"
        yield f"one gradient, {label}", partial(gradients, bench, width, bench.sizes.seeds)
        for name in FLOWS if bench.accelerated else ["Nesterov"]:
            part = partial(tsit5_runs, bench, name, "vmap", width, bench.sizes.seeds, SWEEP)
            yield f"{name}, {label}", part


SMALL: dict[str, Any] = {"n": 20, "p": 20, "width": 256, "end": 3.0}


def together(bench: Bench) -> Parts:
    """Small runs one after another, then batched: step counts, where TF32 would show itself."""
    runs = bench.sizes.small_runs
    alone: dict[str, Any] = {}
    label = f"{runs} runs, m = {SMALL['width']}, n = {SMALL['n']}"
    yield f"alone, {label}", partial(one_after_another, bench, runs, alone)
    for strategy in STRATEGIES if bench.accelerated else STRATEGIES[:1]:
        yield f"{strategy}, {label}", partial(batched, bench, runs, strategy, alone)
    if bench.accelerated:
        call = lambda: small_runs(runs, "vmap").__dict__
        yield f"where the time goes, vmap, {label}", partial(traced, bench, call)
        yield f"one core of the host, {label}", partial(one_core, bench, runs, alone)


def small_case() -> tuple[Any, dict[str, Any]]:
    """The data, and what `simulate` and `ensemble` are told beside."""
    data = nm.sphere(SMALL["n"], SMALL["p"], key=jax.random.key(4))
    return data, {"readouts": ["loss"], "config": CONFIG, "ts": np.linspace(0.0, SMALL["end"], 4)}


def one_after_another(bench: Bench, runs: int, alone: dict[str, Any]) -> dict[str, Any]:
    """A loop in Python over compiled solves; what it found is left in `alone`."""
    data, how = small_case()
    nets = [network(SMALL["width"], SMALL["p"], seed) for seed in range(runs)]

    def loop():
        found = [nm.simulate(net, data, nm.GradientFlow(), **how) for net in nets]
        return [counts(run) for run in found], found[0].loss[-1]

    timing = called(bench, loop)
    steps = np.concatenate(timing.value[0])
    exact = host.final_loss(data, nets[0], SMALL["end"], None, steps=400)
    alone.update(steps=steps, seconds=timing.seconds, exact=exact)
    return small_record(bench, timing, steps, timing.value[1], exact)


def batched(bench: Bench, runs: int, strategy: str, alone: dict[str, Any]) -> dict[str, Any]:
    """The same runs in one call; none may differ by more than two steps."""

    def call():
        found = small_runs(runs, strategy)
        return counts(found), found.loss[0, 0, 0, -1]

    timing = called(bench, call)
    alone[strategy] = timing.seconds
    steps, loss = timing.value
    apart = int(np.max(np.abs(steps - alone["steps"])))
    record = small_record(bench, timing, steps, loss, alone["exact"])
    record |= {"largest_difference_in_steps": apart, "ok": record["ok"] and apart <= 2}
    return record | {"speed_up": alone["seconds"] / timing.seconds}


def small_runs(runs: int, strategy: str) -> Any:
    """Many small runs in one call."""
    data, how = small_case()
    return ensemble(data, nm.GradientFlow(), SMALL["width"], runs, strategy=strategy, **how)


def one_core(bench: Bench, runs: int, alone: dict[str, Any]) -> dict[str, Any]:
    """The same call in a process that has one core and no accelerator, the way a CPU takes it."""
    code = (
        "import time, accelerator.flows as flows\n"
        f"call = lambda: flows.small_runs({runs}, 'map').loss\n"
        "call()\n"
        "begin = time.perf_counter(); call(); call(); call()\n"
        "print((time.perf_counter() - begin) / 3)"
    )
    if shutil.which("taskset") is None:
        raise NotSupported("absent: taskset, which keeps a process on one core")
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = ["taskset", "-c", "0", sys.executable, "-c", code]
    failed, output, errors = finished(command, environment, bench.left())
    if failed:
        return {"ok": False, "error": errors[-600:]}
    seconds = float(output.split()[-1])
    fastest = min(alone[strategy] for strategy in STRATEGIES)
    return {"seconds": seconds, "repeats": 3, "speed_up_of_the_device": seconds / fastest}


def spread(bench: Bench) -> Parts:
    """The sharded paths: runs, then neurons, over all devices that are there."""
    for layout in ("runs", "neurons"):
        yield f"{layout} over {jax.device_count()} devices", partial(spread_runs, bench, layout)


def spread_runs(bench: Bench, layout: str) -> dict[str, Any]:
    """Small runs against the host; on one device, spread over it alone."""
    data, how = small_case()
    runs, options = bench.sizes.small_runs, {"layout": layout, "strategy": "vmap"}

    def call():
        found = ensemble(data, nm.GradientFlow(), SMALL["width"], runs, **options, **how)
        return counts(found), found.loss[0, 0, 0, -1]

    timing = called(bench, call)
    net = network(SMALL["width"], SMALL["p"])
    exact = host.final_loss(data, net, SMALL["end"], None, steps=400)
    record = small_record(bench, timing, *timing.value, exact)
    return {"devices": jax.device_count()} | record


def small_record(
    bench: Bench, timing: Timing, steps: Any, loss: Any, exact: float
) -> dict[str, Any]:
    """Rates by the products of the lazy solver's steps."""
    n, p, m = SMALL["n"], SMALL["p"], SMALL["width"]
    flops = (2 * n**2 * m + 8 * n * p * m) * int(steps.sum())
    return (
        {"steps": int(steps.sum())}
        | rated(bench, timing, flops=flops)
        | compared(loss, exact, 2e-2)
    )


def counts(run: Any) -> np.ndarray:
    """Steps of each run, rejected ones too."""
    return np.asarray(run.accepted + run.rejected).reshape(-1)


def ensemble(data: Any, flow: Any, width: int, runs: int, *, strategy: str, **how: Any) -> Any:
    """`nm.ensemble`; a strategy that it does not know is `NotSupported`."""
    try:
        return nm.ensemble(data, flow, width, runs, strategy=strategy, dtype=jnp.float32, **how)
    except nm.InputError as error:
        if "strategy" in str(error):
            message = f"absent: this version has no strategy {strategy!r}"
            raise NotSupported(message) from error
        raise

"""What `test_devices` runs in processes of its own: `python on_devices.py CASE [coordinator
processes process]`, printing one JSON line."""

import json
import re
import sys

import jax

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_disable_most_optimizations", True)

import numpy as np  # noqa: E402

import ntk_momentum as nm  # noqa: E402
from ntk_momentum.dynamics.solver import RungeKutta  # noqa: E402
from ntk_momentum.ensembles import devices, program  # noqa: E402
from ntk_momentum.ensembles.ensemble import assemble, ensemble, plan, run_unit  # noqa: E402

TIMES = np.linspace(0, 2, 3)
FLOWS = [nm.HeavyBall(0.3), nm.HeavyBall(1.5)]


def data():
    return nm.sphere(6, 4, key=jax.random.key(1))


def numbers(runs):
    return {
        "loss": np.asarray(runs.loss).tolist(),
        "steps": np.asarray(runs.accepted + runs.rejected).tolist(),
        "ok": bool(runs.ok),
    }


def spread(solver=None):
    """Five runs on one device, on all of them, and with their neurons on all of them; kernels by
    rows."""
    case = lambda **more: numbers(
        ensemble(data(), FLOWS[:1], [30], 5, TIMES, readouts=["loss"], solver=solver, **more)
    )
    net = nm.init_two_layer(32, 4, key=jax.random.key(0))
    kernel = devices.ntk_by_rows(net, data().X)
    return {
        "devices": len(jax.devices()),
        "one": case(over=devices.mesh((jax.devices()[0],))),
        "runs": case(),
        "neurons": case(layout="neurons"),
        "kernel": float(np.max(np.abs(kernel - nm.empirical_ntk(net, data().X)))),
    }


def by_hand():
    """A network spread over the devices, in `simulate`, by both solvers."""
    net = nm.init_two_layer(32, 4, key=jax.random.key(0))
    found = {}
    for name, solver in (("lazy", None), ("tsit5", RungeKutta())):
        run = lambda net, solver=solver: nm.simulate(
            net, data(), FLOWS[0], TIMES, readouts=["loss"], solver=solver
        )
        alone, wide = run(net), run(devices.shard_neurons(net))
        difference = float(np.max(np.abs(wide.loss / alone.loss - 1)))
        found[name] = [
            difference,
            int(wide.accepted - alone.accepted),
            len(wide.model.hidden.sharding.device_set),
        ]
    return found


def collectives():
    """What one run with its neurons on all devices sends: the operation, its place, the numbers in
    it."""
    found = []
    for solver in (None, RungeKutta()):
        made = plan(
            data(), FLOWS[:1], [32], 1, TIMES, readouts=["loss"], layout="neurons", solver=solver
        )
        (unit,) = made.units
        how = made.how(unit)
        compiled = (
            program.ensemble_program.lower(made.batch(unit), how).compile().compiled.as_text()
        )
        names = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
        for result, name, place in re.findall(
            rf"= (\S.*?) ({names})(?:-start)?\(.*?op_name=\"([^\"]*)\"", compiled
        ):
            sizes = [
                int(np.prod([int(s) for s in shape.split(",") if s]))
                for shape in re.findall(r"\[([\d,]*)\]", result)
            ]
            label = "lazy" if solver is None else "tsit5"
            found.append(
                {"solver": label, "name": name, "depth": place.count("while/body"), "sizes": sizes}
            )
    return found


def processes():
    """An ensemble over the devices of all processes, runs and neurons; and its units shared out
    among processes."""
    everyone = devices.mesh(tuple(jax.devices()))
    outcome = {
        "process": jax.process_index(),
        "processes": jax.process_count(),
        "devices": len(jax.devices()),
    }
    for layout in ("runs", "neurons"):
        outcome[layout] = numbers(
            ensemble(data(), FLOWS, [30], 2, TIMES, readouts=["loss"], over=everyone, layout=layout)
        )
    made = plan(data(), FLOWS, [16, 30], 2, TIMES, readouts=["loss"], unit_runs=4)
    outcome["mine"] = {
        unit.index: numbers(run_unit(made, unit))
        for unit in made.units[jax.process_index() :: jax.process_count()]
    }
    if jax.process_index() == 0:
        outcome["all"] = [numbers(block) for block in (run_unit(made, unit) for unit in made.units)]
        one = plan(
            data(),
            FLOWS,
            [30],
            2,
            TIMES,
            readouts=["loss"],
            over=devices.mesh((jax.local_devices()[0],)),
        )
        outcome["one"] = numbers(assemble(one, [run_unit(one, unit) for unit in one.units]))
    return outcome


if __name__ == "__main__":
    case, *job = sys.argv[1:]
    if job:
        devices.initialize(job[0], int(job[1]), int(job[2]))
    print(
        json.dumps(
            {
                "spread": spread,
                "by_hand": by_hand,
                "collectives": collectives,
                "processes": processes,
            }[case]()
        )
    )

"""Flows times solvers times problems, each cell against something that knows nothing of the solver.

A new flow is one more entry of FLOWS; whatever applies to it follows. The references: a constant
kernel's closed form (for a flow without one the numerical mode, which steps the modes and not the
error), the discrete twin as h -> 0, the solver of another kind, and the chain rule.
"""

import functools

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntk_momentum as nm

KEY = jax.random.key(0)
DATA = nm.sphere(8, 5, key=jax.random.key(1))
TEST = nm.sphere(3, 5, key=jax.random.key(2)).X
KERNEL, ROWS = nm.infinite_ntk(DATA.X), nm.infinite_ntk(TEST, DATA.X)
TIMES = np.array([0.0, 0.5, 2.0, 6.0])
FINE = nm.Numerics(tol=1e-7)


class Annealed(nm.AbstractFlow):
    """A first-order flow that states its vector field and nothing else."""

    def vector_field(self, t, state, gradient):
        return state._replace(w=jax.tree.map(lambda g: -g / (1 + t), gradient))


class Fading(nm.AbstractMomentumFlow):
    """A momentum flow that states its friction and nothing else."""

    b: float

    def friction(self, t):
        return self.b / (1 + t)


# name -> (the flow, the order of its discrete twin, or None without one)
FLOWS = {
    "gradient flow": (nm.GradientFlow(), 1),
    "heavy ball": (nm.HeavyBall(0.5), 2),
    "heavy ball, overdamped": (nm.HeavyBall(4.0), 2),
    "Nesterov": (nm.Nesterov(3.0), 1),
    "Nesterov, d < 1": (nm.Nesterov(0.7), 1),
    "strongly convex": (nm.NesterovStronglyConvex(0.2), 1),
    "friction": (nm.Friction(lambda t: 1 / (1 + t)), 2),
    "Hessian damped": (nm.HessianDamped(0.5, 0.1), 1),
    "Hessian-damped Nesterov": (nm.HessianDampedNesterov(3.0, 0.1), 1),
    "multi-step": (nm.MultiStepMomentum(0.5, 0.3), 1),
    "restarted, fixed period": (nm.RestartedNesterov(3.0, 2.5), None),
    "restarted by speed": (nm.RestartedNesterov(3.0), None),
    "one's own, first order": (Annealed(), None),
    "one's own, momentum": (Fading(1.0), None),
}
# The others run with the slow tests: a cell takes about a second, most of it compiling.
QUICK = ("heavy ball",)
OTHER_NUMBERS = ("heavy ball, overdamped", "Nesterov, d < 1")  # of a flow that is here already
SOLVERS = {
    "lazy": nm.LazyExponential(),
    "Tsit5": nm.RungeKutta(),
    "Dopri5": nm.RungeKutta(diffrax.Dopri5()),
}


@functools.cache
def closed_form(name):
    f0, test0 = np.linspace(-1, 1, 8), np.array([0.3, 0.0, -2.0])
    exact = nm.predict(KERNEL, f0 - DATA.y, FLOWS[name][0], TIMES, test_kernel=ROWS, test0=test0)
    return f0, test0, exact


def constant_kernel_error(name, solver):
    """(2.5), (3.5), (4.3) against the closed form."""
    f0, _, exact = closed_form(name)
    run = nm.simulate_error(KERNEL, f0 - DATA.y, FLOWS[name][0], TIMES, solver=solver, config=FINE)
    for readout, within in (("residual", 2e-6), ("velocity", 2e-5), ("loss", 2e-5)):
        np.testing.assert_allclose(run[readout], getattr(exact, readout), atol=5 * within)


def function_space(name, solver):
    """The dual variable against the closed form, on training and test points."""
    f0, test0, exact = closed_form(name)
    run = nm.simulate_function(
        KERNEL,
        f0,
        DATA.y,
        FLOWS[name][0],
        TIMES,
        test_kernel=ROWS,
        test0=test0,
        solver=solver,
        readouts=["residual", "test"],
        config=FINE,
    )
    np.testing.assert_allclose(run.residual, exact.residual, atol=1e-5)
    np.testing.assert_allclose(run.test, exact.test, atol=1e-5)


def linear_network(name, solver):
    """A two-layer net without kinks, whose kernel stays, against the closed form."""
    net = nm.init_two_layer(16, 5, key=KEY, activation=lambda z: 1.5 * z)
    run = nm.simulate(
        net,
        DATA,
        FLOWS[name][0],
        TIMES,
        solver=solver,
        readouts=["residual", "kernel_drift"],
        config=FINE,
    )
    kernel = 2.25 * jnp.mean(net.output**2) * DATA.X @ DATA.X.T
    exact = nm.predict(kernel, run.residual[0], FLOWS[name][0], TIMES)
    np.testing.assert_allclose(run.residual, exact.residual, atol=1e-5)
    np.testing.assert_allclose(run.kernel_drift, 0, atol=1e-12)


@functools.cache
def reference(name):
    """f of the ReLU net below by small steps of the discrete twin; of Tsit5 where there is none."""
    net, (flow, order) = nm.init_two_layer(256, 5, key=KEY), FLOWS[name]
    if order is None:
        solver, fine = SOLVERS["Tsit5"], nm.Numerics(tol=1e-5)
        return nm.simulate(net, DATA, flow, [2.0], solver=solver, readouts="f", config=fine).f[-1]
    optimizer, offset = flow.discretize(0.005)
    runs = nm.train(net, DATA, optimizer, 400, readouts="f").f
    return jax.vmap(lambda f: jnp.interp(2.0, 0.005 * np.arange(401) + offset, f))(runs.T)


def network_with_kinks(name, solver):
    """A two-layer ReLU net, whose kernel moves."""
    net = nm.init_two_layer(256, 5, key=KEY)
    run = nm.simulate(
        net, DATA, FLOWS[name][0], [2.0], solver=solver, readouts="f", config=nm.Numerics(tol=1e-5)
    )
    np.testing.assert_allclose(run.f[-1], reference(name), atol=0.02)


def any_model(name, solver):
    """The chain rule L(t) - L(0) = int Delta . Delta' of a perceptron; Delta' = -H Delta under the
    gradient flow (2.5), and under a friction the energy's loss, -int b |v|^2 (3.2)."""
    model = eqx.nn.MLP(5, "scalar", 8, 1, jnp.tanh, key=KEY)
    ts, flow = 3 * np.linspace(0, 1, 121) ** 2, FLOWS[name][0]  # dense where it is fast
    rate = (
        (lambda s: -s.residual @ (s.kernel @ s.residual))
        if isinstance(flow, nm.GradientFlow)
        else (lambda s: s.residual @ s.velocity)
    )
    table = {"loss": "loss", "rate": rate}
    damped = isinstance(flow, nm.AbstractMomentumFlow) and "restarted" not in name
    if damped:
        table["kinetic"] = lambda s: s.kinetic_energy
    run = nm.simulate(model, DATA, flow, ts, solver=solver, readouts=table, config=FINE)
    lost = run.loss[-1] - run.loss[0]
    np.testing.assert_allclose(np.trapezoid(run.rate, ts), lost, rtol=5e-3)
    if damped:
        b = np.array([float(flow.friction(t)) for t in np.maximum(ts, 1e-9)])
        heat = np.trapezoid(2 * b * run.kinetic, ts)
        np.testing.assert_allclose(run.loss[-1] + run.kinetic[-1] + heat, run.loss[0], rtol=5e-3)


CELLS = (
    (constant_kernel_error, ("Tsit5", "Dopri5")),  # the latter for QUICK alone: no flow sees it
    (function_space, ("Tsit5",)),
    (linear_network, ("lazy",)),
    (network_with_kinks, ("lazy",)),
    (any_model, ("Tsit5",)),
)


@pytest.mark.parametrize(
    ("name", "solver", "problem"),
    [
        pytest.param(
            name,
            solver,
            problem,
            id=f"{name}-{solver}-{problem.__name__}",
            marks=[] if name in QUICK and solver == "lazy" else pytest.mark.slow,
        )
        for name in FLOWS
        for problem, solvers in CELLS
        for solver in solvers
        if (solver != "Dopri5" or name in QUICK)
        and (problem is not any_model or name not in OTHER_NUMBERS)
    ],
)
def test_a_flow_by_a_solver_on_a_problem_is_what_something_else_says(name, solver, problem):
    problem(name, SOLVERS[solver])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, (_, order) in FLOWS.items() if order])
def test_the_discrete_twin_has_the_stated_order(name):
    """Against the closed form at t = k h + offset, from h = 1/16 and 1/32."""
    (flow, order), start, errors = FLOWS[name], np.linspace(-1, 1, 8), []
    for steps in (64, 128):
        optimizer, offset = flow.discretize(4.0 / steps)
        counts = np.array([steps // 2, steps])
        discrete, exact = (
            nm.predict(KERNEL, start, method, ts).residual
            for method, ts in ((optimizer, counts), (flow, counts * 4.0 / steps + offset))
        )
        errors.append(float(jnp.max(jnp.abs(discrete - exact))))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.2)

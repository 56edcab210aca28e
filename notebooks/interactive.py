"""Friction, d, width and spectrum under sliders. `pip install 'ntk_momentum[interactive]'`, then
`marimo run notebooks/interactive.py`."""

import marimo

app = marimo.App(width="medium", app_title="Momentum on a constant kernel")


@app.cell
def _():
    import io
    import time

    import jax
    import marimo as mo
    import numpy as np
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    import ntk_momentum as nm
    from ntk_momentum.method import special
    from ntk_momentum.study import plotting
    from ntk_momentum.theory import bounds

    jax.config.update("jax_enable_x64", True)
    return Figure, bounds, io, jax, mo, nm, np, plotting, rc_context, special, time


@app.cell
def _(mo):
    source = mo.ui.dropdown(["sphere", "digits", "power law"], value="sphere", label="spectrum of")
    n = mo.ui.slider(2, 64, value=20, label="n", show_value=True)
    exponent = mo.ui.slider(0.0, 3.0, 0.1, value=1.0, label="power", show_value=True)
    b = mo.ui.slider(0.1, 6.0, 0.05, value=1.4, label="b/√λ₀", show_value=True)
    d = mo.ui.slider(0.5, 12.0, 0.1, value=3.0, label="d", show_value=True)
    m = mo.ui.slider(steps=[2**k for k in range(4, 13)], value=512, label="m", show_value=True)
    t_end = mo.ui.slider(5, 100, 5, value=30, label="T√λ₀", show_value=True)
    return b, d, exponent, m, n, source, t_end


@app.cell
def _(jax, nm, np, special):
    # The kernels of all 64 samples, of which the slider takes the first n: no size is compiled
    # twice.
    sets = {
        "sphere": nm.sphere(64, 20, key=jax.random.key(0)),
        "digits": nm.load_digits(64, key=jax.random.key(0)),
    }
    kernels = {name: np.asarray(nm.infinite_ntk(data.X)) for name, data in sets.items()}
    decay_constant = jax.jit(special.decay_constant)
    return decay_constant, kernels, sets


@app.cell
def _(exponent, kernels, n, np, sets, source):
    if source.value == "power law":
        kernel, start = (
            np.diag(0.5 * np.arange(1.0, n.value + 1) ** -exponent.value),
            np.ones(n.value),
        )
    else:
        kernel, start = (
            kernels[source.value][: n.value, : n.value],
            -np.asarray(sets[source.value].y)[: n.value],
        )
    values, vectors = np.linalg.eigh(kernel)
    eigenvalues, shares = (
        np.pad(values, (0, 64 - n.value), mode="edge"),
        np.pad((vectors.T @ start) ** 2, (0, 64 - n.value)),
    )
    lam0 = float(values[0])
    return eigenvalues, kernel, lam0, shares, start, values


@app.cell
def _(b, bounds, d, decay_constant, eigenvalues, lam0, nm, np, shares, t_end, time):
    clock = time.perf_counter()
    ts = np.linspace(0, t_end.value / np.sqrt(lam0), 401)
    flows = [nm.GradientFlow(), nm.HeavyBall(b.value * np.sqrt(lam0)), nm.Nesterov(d.value)]
    modes = {flow.name: np.asarray(nm.response(eigenvalues, flow, ts)) for flow in flows}
    losses = {name: np.maximum(0.5 * phi**2 @ shares, 1e-300) for name, phi in modes.items()}
    loss0, alpha = 0.5 * np.sum(shares), min(b.value / 2, 1) * np.sqrt(lam0)
    limits = {
        "gradient_flow": bounds.gradient_flow_sharp(ts, lam0, loss0),
        "heavy_ball": bounds.heavy_ball_critical(ts, alpha, loss0)
        if b.value <= 2
        else np.full(401, np.nan),
        "nesterov": bounds.nesterov_sharp(
            ts[1:], d.value, lam0, loss0, float(decay_constant(d.value))
        ),
    }
    solved = 1e3 * (time.perf_counter() - clock)
    return clock, flows, limits, losses, modes, solved, ts


@app.cell
def _(Figure, plotting):
    # The figure is made once, and only its lines move: axes and labels take longer to make than to
    # draw.
    figure = Figure(figsize=(9, 3))
    figure.subplots_adjust(0.09, 0.15, 0.99, 0.9, 0.15)
    left, right = figure.subplots(1, 2)
    slowest = {name: left.plot([], [], color=color)[0] for name, color in plotting.COLORS.items()}
    fastest = {
        name: left.plot([], [], color=color, linewidth=0.7, alpha=0.5)[0]
        for name, color in plotting.COLORS.items()
    }
    lines = {
        name: right.plot([], [], color=color, label=plotting.FLOW_NAMES[name])[0]
        for name, color in plotting.COLORS.items()
    }
    left.set(
        title="slowest mode (thick) and fastest (thin)",
        xlabel="time t",
        ylabel="share of the error left",
    )
    right.set(
        title="log₁₀ of the loss, and its sharp bound (dashed)", xlabel="time t"
    )  # a logarithmic axis takes longer to draw
    right.legend(loc="lower left")
    dashed = {
        name: right.plot([], [], "--", color=color, linewidth=1)[0]
        for name, color in plotting.COLORS.items()
    }
    return dashed, fastest, figure, left, lines, right, slowest


@app.cell
def _(
    clock,
    dashed,
    fastest,
    figure,
    io,
    left,
    limits,
    lines,
    losses,
    modes,
    n,
    np,
    rc_context,
    right,
    slowest,
    solved,
    time,
    ts,
):
    for name in lines:
        slowest[name].set_data(ts, modes[name][:, 0])
        fastest[name].set_data(ts, modes[name][:, n.value - 1])
        lines[name].set_data(ts, np.log10(losses[name]))
        dashed[name].set_data(ts[-len(limits[name]) :], np.log10(limits[name]))
    left.set(
        xlim=(0, ts[-1]), ylim=(min(-0.05, 1.05 * min(part.min() for part in modes.values())), 1.05)
    )
    bottom = max(np.log10(losses["heavy_ball"].min()), -16) - 1
    right.set(xlim=(0, ts[-1]), ylim=(bottom, np.log10(losses["heavy_ball"][0]) + 1.5))
    with rc_context({"svg.fonttype": "none"}):  # letters as text, not as outlines
        figure.savefig(closed := io.StringIO(), format="svg")
    drawn = 1e3 * (time.perf_counter() - clock) - solved
    return closed, drawn


@app.cell
def _(b, closed, d, drawn, exponent, lam0, m, mo, n, solved, source, t_end, values):
    mo.vstack(
        [
            mo.md("# Momentum: constant kernel and network"),
            mo.md(
                "n samples; friction b of the heavy ball; Nesterov's d; m neurons; "
                "until time T; power law λ ~ 1/k^power."
            ),
            mo.hstack(
                [mo.vstack([source, n, exponent]), mo.vstack([b, d]), mo.vstack([m, t_end])],
                justify="start",
                gap=2,
            ),
            mo.md(
                f"λ₀ = {lam0:.4g}, λmax = {values[-1]:.4g}, κ = "
                f"{values[-1] / lam0:.4g}; solved {solved:.0f} ms, drawn {drawn:.0f} ms"
            ),
            mo.Html(closed.getvalue()),
        ]
    )
    return


@app.cell
def _(flows, jax, m, mo, n, nm, np, sets, source, ts):
    mo.stop(
        source.value == "power law",
        mo.md("*A power law is a spectrum without a network: choose sphere or digits to see one.*"),
    )
    data = nm.Dataset(sets[source.value].X[: n.value], sets[source.value].y[: n.value])
    net = nm.init_two_layer(m.value, data.input_size, key=jax.random.key(1), antisymmetric=True)
    saved = np.asarray(ts)[::20]
    runs = {
        flow.name: nm.simulate(
            net, data, flow, saved, readouts=["loss"], config=nm.Numerics(tol=1e-3)
        )
        for flow in flows
    }
    return runs, saved


@app.cell
def _(losses, m, np, plotting, runs, saved, ts):
    chart, axes = plotting.panels(1, 1, height=2.8, width=9.0)
    for flow_name, run in runs.items():
        axes.semilogy(
            ts,
            losses[flow_name],
            color=plotting.COLORS[flow_name],
            label=plotting.FLOW_NAMES[flow_name],
        )
        axes.semilogy(saved, run.loss, "o", color=plotting.COLORS[flow_name])
    lowest = min(float(np.min(run.loss)) for run in runs.values())
    axes.set(
        title=f"lines: closed form; points: the weights of {m.value} neurons",
        xlabel="time t",
        ylabel="loss",
    )
    axes.set_ylim(lowest / 30, None)
    axes.legend()
    chart  # noqa: B018
    return


if __name__ == "__main__":
    app.run()

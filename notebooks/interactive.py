"""Step size, momentum, batch, width and spectrum under sliders, in steps; or a kernel of yours.

`pip install 'ntk_momentum[interactive]'`, then `marimo run notebooks/interactive.py`.
"""

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
    from ntk_momentum.study import plotting

    jax.config.update("jax_enable_x64", True)
    return Figure, io, jax, mo, nm, np, plotting, rc_context, time


@app.cell
def _(mo):
    source = mo.ui.dropdown(
        ["sphere", "digits", "power law", "file"], value="digits", label="spectrum of"
    )
    upload = mo.ui.file(filetypes=[".npy", ".npz"], label="H (.npy, .npz)")
    n = mo.ui.slider(2, 64, value=20, label="n", show_value=True)
    exponent = mo.ui.slider(0.0, 3.0, 0.1, value=1.0, label="power", show_value=True)
    eta = mo.ui.slider(0.05, 4.0, 0.05, value=1.0, label="η λmax", show_value=True)
    beta = mo.ui.slider(0.0, 0.99, 0.01, value=0.8, label="β", show_value=True)
    d = mo.ui.slider(0.5, 12.0, 0.1, value=3.0, label="d", show_value=True)
    batch = mo.ui.slider(1, 64, value=64, label="batch", show_value=True)
    m = mo.ui.slider(steps=[2**k for k in range(4, 14)], value=512, label="m", show_value=True)
    last = mo.ui.slider(100, 2000, 100, value=200, label="steps", show_value=True)
    return batch, beta, d, eta, exponent, last, m, n, source, upload


@app.cell
def _(io, jax, nm, np):
    # The kernels of all 64 samples, of which the slider takes the first n: no size is compiled
    # twice.
    sets = {
        "sphere": nm.sphere(64, 20, key=jax.random.key(0)),
        "digits": nm.load_digits(64, key=jax.random.key(0)),
    }
    kernels = {name: np.asarray(nm.infinite_ntk(data.X)) for name, data in sets.items()}

    def read(contents):
        """(kernel, error at the start) of an uploaded file: an array, or H and perhaps y."""
        loaded = np.load(io.BytesIO(contents))
        H = np.asarray(loaded if isinstance(loaded, np.ndarray) else loaded["H"], float)
        return H, -np.asarray(loaded["y"]) if "y" in getattr(loaded, "files", ()) else np.ones(
            len(H)
        )

    return kernels, read, sets


@app.cell
def _(exponent, kernels, mo, n, np, read, sets, source, upload):
    mo.stop(
        source.value == "file" and not upload.value,
        mo.vstack([mo.md("*Choose a file with a kernel (n, n), symmetric.*"), source, upload]),
    )
    if source.value == "file":
        kernel, start = read(upload.contents())
    elif source.value == "power law":
        kernel = np.diag(0.5 * np.arange(1.0, n.value + 1) ** -exponent.value)
        start = np.ones(n.value)
    else:
        kernel = kernels[source.value][: n.value, : n.value]
        start = -np.asarray(sets[source.value].y)[: n.value]
    count = len(start)
    values, vectors = np.linalg.eigh(kernel)
    room = 64 * -(-count // 64)  # so that few sizes are compiled
    eigenvalues = np.pad(values, (0, room - count), mode="edge")
    parts = np.pad(vectors.T @ start, (0, room - count))
    return count, eigenvalues, kernel, parts, start, values


@app.cell
def _(batch, beta, count, d, eigenvalues, eta, kernel, last, nm, np, parts, start, time, values):
    clock = time.perf_counter()
    step = eta.value / float(values[-1])
    steps = np.unique(np.linspace(0, last.value, 101).astype(int))
    methods = {
        "gradient_flow": nm.gradient_descent(step),
        "heavy_ball": nm.heavy_ball(step, beta.value),
        "nesterov": nm.nesterov(step, d.value),
    }  # by the colour of the flow
    errors = {
        name: np.asarray(nm.predict(np.diag(eigenvalues), parts, method, steps).residual)
        for name, method in methods.items()
    }
    losses = {name: 0.5 * np.sum(error**2, axis=1) for name, error in errors.items()}
    stable = {
        name: float(np.max(nm.spectral_radius(method, values))) < 1
        for name, method in methods.items()
        if name != "nesterov"
    }
    solved = 1e3 * (time.perf_counter() - clock)
    noisy = {}
    if batch.value < count:  # the expected loss, exactly; one compilation for each n
        noisy = {
            name: np.asarray(
                nm.predict_stochastic(kernel, start, method, steps, batch_size=batch.value).loss
            )
            for name, method in methods.items()
        }
    return clock, errors, losses, methods, noisy, solved, stable, steps


@app.cell
def _(Figure, io, plotting, rc_context):
    def svg(figure):
        """A figure as text, no wider than the screen; its letters are text, not outlines."""
        with rc_context({"svg.fonttype": "none"}):
            figure.savefig(file := io.StringIO(), format="svg")
        return file.getvalue().replace("<svg ", '<svg style="max-width: 100%; height: auto" ', 1)

    # The figures are made once, and only their lines move: axes and labels take longer to make than
    # to draw.
    with rc_context({**plotting.STYLE, "figure.constrained_layout.use": False}):
        figures = [Figure(figsize=(4, 2.8)) for _ in range(2)]
        for figure in figures:
            figure.subplots_adjust(0.17, 0.15, 0.96, 0.9)
        left, right = (figure.add_subplot() for figure in figures)
    names = {**plotting.FLOW_NAMES, "gradient_flow": "gradient descent"}
    slowest = {name: left.plot([], [], color=color)[0] for name, color in plotting.COLORS.items()}
    fastest = {
        name: left.plot([], [], color=color, linewidth=0.7, alpha=0.5)[0]
        for name, color in plotting.COLORS.items()
    }
    lines = {
        name: right.plot([], [], color=color, label=names[name])[0]
        for name, color in plotting.COLORS.items()
    }
    left.set(
        title="slowest mode (thick) and fastest (thin)",
        xlabel="step",
        ylabel="share of the error left",
    )
    right.set(
        title="log₁₀ of the loss (dashed: on batches)", xlabel="step"
    )  # a logarithmic axis takes longer
    right.legend(loc="lower left", frameon=False)
    dashed = {
        name: right.plot([], [], "--", color=color, linewidth=1)[0]
        for name, color in plotting.COLORS.items()
    }
    return dashed, fastest, figures, left, lines, names, right, slowest, svg


@app.cell
def _(
    clock,
    count,
    dashed,
    errors,
    fastest,
    figures,
    left,
    lines,
    losses,
    noisy,
    np,
    parts,
    right,
    slowest,
    solved,
    steps,
    svg,
    time,
):
    def logs(loss):
        """log10 of a loss, cut off where a method diverges or has arrived."""
        return np.log10(np.clip(np.nan_to_num(loss, nan=1e12), 1e-16, 1e12))

    for name in lines:
        for line, mode in ((slowest, 0), (fastest, count - 1)):
            share = errors[name][:, mode] / (parts[mode] or 1.0)
            line[name].set_data(steps, np.clip(share, -2, 2))
        lines[name].set_data(steps, logs(losses[name]))
        dashed[name].set_data(steps if noisy else [], logs(noisy[name]) if noisy else [])
    left.set(xlim=(0, steps[-1]), ylim=(-1.05, 1.05))
    top = float(logs(losses["heavy_ball"])[0])
    lowest = min(float(logs(loss).min()) for loss in losses.values())
    right.set(xlim=(0, steps[-1]), ylim=(max(lowest, top - 16) - 1, top + 2))
    closed = [svg(figure) for figure in figures]
    drawn = 1e3 * (time.perf_counter() - clock) - solved
    return closed, drawn


@app.cell
def _(
    batch,
    beta,
    closed,
    d,
    drawn,
    eta,
    exponent,
    last,
    m,
    mo,
    n,
    names,
    solved,
    source,
    stable,
    upload,
    values,
):
    unstable = ", ".join(names[name] for name, ok in stable.items() if not ok)
    mo.vstack(
        [
            mo.md("# Momentum: constant kernel and network"),
            mo.md(
                "n samples; power law λ ~ 1/k^power; step η in units of 1/λmax; β of the heavy "
                "ball; Nesterov's d; samples in a batch (n or more: all); m neurons. A file has a "
                "kernel H of yours, or H and the targets y."
            ),
            mo.hstack(
                [
                    mo.vstack([source, upload, n, exponent]),
                    mo.vstack([eta, beta, d]),
                    mo.vstack([batch, m, last]),
                ],
                justify="start",
                gap=2,
                wrap=True,
            ),
            mo.md(
                f"λmin = {values[0]:.4g}, λmax = {values[-1]:.4g}, κ = "
                f"{values[-1] / values[0]:.4g}; solved {solved:.0f} ms, drawn {drawn:.0f} ms"
                + (f"; **unstable: {unstable}**" if unstable else "")
            ),
            mo.hstack([mo.Html(panel) for panel in closed], justify="start", gap=0.5, wrap=True),
        ]
    )
    return


@app.cell
def _(batch, jax, last, m, methods, mo, n, nm, sets, source):
    mo.stop(
        source.value not in sets,
        mo.md("*A spectrum without a network: choose sphere or digits to see one.*"),
    )
    data = nm.Dataset(sets[source.value].X[: n.value], sets[source.value].y[: n.value])
    net = nm.init_two_layer(m.value, data.input_size, key=jax.random.key(1), antisymmetric=True)
    drawn_of = (
        {"batch_size": batch.value, "key": jax.random.key(2)} if batch.value < n.value else {}
    )
    runs = {
        name: nm.train(
            net,
            data,
            method,
            last.value,
            save_every=last.value // 20,
            readouts=["loss"],
            **drawn_of,
        )
        for name, method in methods.items()
    }
    return (runs,)


@app.cell
def _(losses, m, mo, noisy, np, plotting, runs, rc_context, steps, svg):
    with rc_context(plotting.STYLE):
        chart, axes = plotting.panels(1, 1, height=2.8, width=4.0)
    for method_name, run in runs.items():
        foretold = np.clip((noisy or losses)[method_name], 1e-16, 1e12)
        color = plotting.COLORS[method_name]
        axes.semilogy(steps, foretold, color=color)
        axes.semilogy(run.ts, run.loss, plotting.MARKER_OF[color], color=color)
    title = "lines: closed form" + (", expected on batches" if noisy else "")
    axes.set(title=f"{title}\npoints: {m.value} neurons", xlabel="step", ylabel="loss")
    start_loss = float(losses["heavy_ball"][0])
    axes.set_ylim(
        max(min(float(np.nanmin(run.loss)) for run in runs.values()) / 30, 1e-14), 30 * start_loss
    )
    mo.Html(svg(chart))
    return


if __name__ == "__main__":
    app.run()

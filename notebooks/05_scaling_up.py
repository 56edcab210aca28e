# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Scaling up
#
# Wider networks, more samples, more runs: what each costs, and what keeps it small. The numbers
# printed here are of the machine that ran this page.

# %%
import time

import jax
import matplotlib.pyplot as plt
import numpy as np
from diffrax import Tsit5

import ntk_momentum as nm
from ntk_momentum.study.plotting import (
    CYCLE,
    STYLE,
    power_law,
    power_ticks,
    with_interval,
)

jax.config.update("jax_enable_x64", True)
plt.rcParams.update(
    {
        **STYLE,
        "figure.figsize": (6.0, 2.9),
        "figure.dpi": 120,
        "axes.prop_cycle": plt.cycler(color=CYCLE),
    }
)

# %% [markdown]
# ## Steps that the largest eigenvalue does not limit
# An explicit solver must resolve λmax, where nothing interesting happens. `LazyExponential`, the
# default for two-layer nets, solves the frozen network exactly and is limited only by how fast the
# activation pattern changes.

# %%
data = nm.load_digits(50, key=jax.random.key(0))
H = nm.infinite_ntk(data.X)
lam0 = float(nm.spectrum(H).lambda0)
net = nm.init_two_layer(1024, data.input_size, key=jax.random.key(1), antisymmetric=True)
ts = np.linspace(0, 4 / lam0, 11)
for name, solver in (("lazy", nm.LazyExponential()), ("Tsit5", Tsit5())):
    run = nm.simulate(
        net,
        data,
        nm.GradientFlow(),
        ts,
        solver=solver,
        readouts=["loss"],
        config=nm.Numerics(tol=1e-3),
    )
    plt.semilogy(
        ts,
        run.loss,
        "-" if name == "lazy" else "o",
        label=f"{name}: {int(run.accepted + run.rejected)} steps",
    )
plt.xlabel("time $t$")
plt.ylabel("loss, gradient flow")
plt.legend()
plt.show()

# %% [markdown]
# ## Many runs in one call
# `ensemble` takes flows × widths × seeds, and compiles once per width and kind of flow. How far a
# neuron moves, and how far the kernel, as the network widens:

# %%
flow, widths = nm.HeavyBall(2 * np.sqrt(lam0)), (128, 256, 512, 2048)
start = time.perf_counter()
names = ["loss", "kernel_drift", "displacement"]
runs = nm.ensemble(
    data,
    [flow],
    widths,
    3,
    np.linspace(0, 8, 9),
    antisymmetric=True,
    readouts=names,
    config=nm.Numerics(tol=1e-3),
)
print(
    f"{runs.loss[..., 0].size} networks in {time.perf_counter() - start:.1f} s, all "
    f"solved: {runs.ok}"
)
for name, color in (("displacement", CYCLE[0]), ("kernel_drift", CYCLE[1])):
    values = np.asarray(runs[name])[0, :, :, -1].T
    slope, half, prefactor = power_law(widths, values)
    plt.loglog(widths, values.T, ".", color=color)
    plt.loglog(
        widths,
        prefactor * np.array(widths) ** slope,
        color=color,
        label=f"{name}: slope {with_interval(slope, half)}",
    )
plt.xlabel("width $m$")
power_ticks(plt.gca().xaxis, widths)
plt.legend()
plt.show()

# %% [markdown]
# ## Kernels of more samples
# The two-layer kernel streams over neurons: memory n², not nm. Beyond that the kernel need not be
# formed: `ntk_operator` multiplies by H with one backward and one forward pass, and Lanczos finds
# the ends of the spectrum.

# %%
many = nm.load_digits(1000, key=jax.random.key(0))
wide = nm.init_two_layer(2048, many.input_size, key=jax.random.key(2), dtype=np.float32)
start = time.perf_counter()
kernel = nm.empirical_ntk(wide, many.X.astype(np.float32)).block_until_ready()
formed = time.perf_counter() - start
plan = nm.plan_ntk(wide, many.X.astype(np.float32), method="jacobian")
print(
    f"H of 1,000 samples and 2,048 neurons: {formed:.2f} s; by contracting Jacobians "
    f"it would take {plan.flops:.2g} flops"
)

start = time.perf_counter()
ends = nm.extreme_eigenvalues(
    nm.ntk_operator(wide, many.X.astype(np.float32)), key=jax.random.key(3), order=30
)
exact = np.linalg.eigvalsh(np.asarray(kernel))[-1]
print(
    f"largest eigenvalue without H, in {time.perf_counter() - start:.1f} s: "
    f"{ends.lambda_max:.3f}, exact {exact:.3f}"
)

# %% [markdown]
# ## Deeper, at infinite width
# Fully connected nets of any depth, activation and bias have a limit kernel in closed form;
# `predict` takes it like any other. Deeper ReLU kernels have a larger trace, so the time of each is
# divided by its mean eigenvalue.

# %%
few = nm.load_digits(200, key=jax.random.key(4))
ts = np.geomspace(1e-2, 1e3, 120)
for depth, color in zip((1, 2, 4), CYCLE, strict=False):
    kernel = nm.fully_connected_ntk(depth=depth, activation=jax.nn.relu, weight_std=np.sqrt(2.0))(
        few.X
    ).ntk
    kernel = kernel * len(kernel) / np.trace(kernel)
    loss = nm.predict(kernel, -few.y, nm.Nesterov(3.0), ts).loss
    plt.loglog(ts, loss, color=color, label=f"{depth} hidden, Nesterov's flow")
plt.xlabel("time $t$")
plt.ylabel("loss")
plt.ylim(1e-3, 3e3)
plt.legend(ncols=2, fontsize=7)
plt.show()

# %% [markdown]
# ## Larger still
# `ntk-momentum sweep` writes what it finishes and goes on from there; `--float32` halves the
# memory. On a GPU install `jax[cuda12]` and run the same commands. The page *On a cluster* plans
# widths and sample sizes over many hosts.

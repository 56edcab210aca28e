# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Your own Equinox model: is it lazy, and what would momentum do?
#
# The paper treats one hidden layer. Its argument, that the error obeys the optimizer's own ODE with
# the kernel in place of the loss, needs no architecture. So take any
# [Equinox](https://docs.kidger.site/equinox/) module that takes one input and returns what one
# target looks like, as it is: an `eqx.nn.MLP` for targets of shape (n,) says `out_size="scalar"`.

# %%
import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import ntk_momentum as nm
from ntk_momentum.study.plotting import (
    COLORS,
    CYCLE,
    STYLE,
    THEORY,
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
data = nm.load_digits(40, key=jax.random.key(0))


# %%
class Deep(eqx.Module):
    """Two hidden layers in the kernel's parametrisation: weights of size one, the scales in the
    formula."""

    layers: list[jax.Array]

    def __call__(self, x):
        for weights in self.layers[:-1]:
            x = jax.nn.relu(weights @ x) * jnp.sqrt(2 / len(weights))
        return self.layers[-1] @ x


def make(width, key):
    shapes = [(width, 64), (width, width), (width,)]
    return Deep(
        [
            jax.random.normal(k, shape)
            for k, shape in zip(jax.random.split(key, 3), shapes, strict=True)
        ]
    )


model = make(512, key=jax.random.key(1))

# %% [markdown]
# ## Its kernel
# `plan_ntk` says beforehand what the kernel will cost and how it will be computed. Frozen layers
# are one argument, and the layers' kernels sum to the whole.

# %%
plan = nm.plan_ntk(model, jax.ShapeDtypeStruct((1000, 64), np.float64))
print(
    f"1,000 samples: {plan.method}, {plan.flops:.2g} flops, {plan.bytes / 1e6:.0f} MB; the others:"
)
for other in plan.others:
    print(f"    {other.method:10} {other.flops:.2g} flops, {other.bytes / 1e6:.0f} MB")

H = nm.empirical_ntk(model, data.X)
layers = nm.empirical_ntk(model, data.X, per_layer=True)
last = nm.empirical_ntk(model, data.X, where=lambda net: net.layers[-1])
print(
    {name: round(float(np.trace(part) / np.trace(H)), 3) for name, part in layers.items()},
    "of the trace",
)

figure, (left, right) = plt.subplots(1, 2)
order = np.argsort(data.y)
left.imshow(np.asarray(H)[np.ix_(order, order)], cmap="Greys")
left.grid(visible=False)
left.set(title="$H(0)$, samples sorted by label")
for kernel, name, style in ((H, "all layers", "-"), (last, "last layer only", "--")):
    right.semilogy(nm.spectrum(kernel).eigenvalues[::-1], style, color=THEORY, label=name)
right.set(xlabel="eigenvalue number", title="its eigenvalues")
right.legend()
plt.show()

# %% [markdown]
# ## Is it lazy?
# `diagnose` trains the model and, beside it, its own linearisation, whose kernel never moves. The
# verdict comes from the distance between the two and from how far the kernel went. First gradient
# descent with η = 1/λmax.

# %%
eta = 1 / float(nm.spectrum(H).lambda_max)
descent = nm.diagnose(model, data, nm.gradient_descent(eta), steps=60)
print(descent)

# %% [markdown]
# The four questions have a number each. The last line names the heavy ball that is best for a
# kernel that stays. Let us take it.

# %%
momentum = nm.diagnose(model, data, descent.momentum, steps=60)
for run, flow, name in (
    (descent, "gradient_flow", "gradient descent"),
    (momentum, "heavy_ball", "heavy ball"),
):
    plt.semilogy(run.ts, run.loss, "o-", color=COLORS[flow], label=f"{name}: {run.verdict}")
    plt.semilogy(
        run.ts, run.predicted_loss, "--", color=COLORS[flow], label="its kernel's prediction"
    )
plt.xlabel("step")
plt.ylabel("loss")
plt.legend()
plt.show()
print(
    f"kernel moved by {descent.kernel_drift:.1%} under gradient descent, by "
    f"{momentum.kernel_drift:.0%} under the heavy ball"
)

# %% [markdown]
# The promised speed is there, but the same network is no longer lazy: near its stability limit the
# heavy ball swings widely along the largest eigenvalues, and every swing moves the kernel. Laziness
# belongs to the pair of model and optimizer.
#
# ## More room
# `margin` leaves room for the largest eigenvalue to grow: a smaller step, further from the limit.
# It costs steps and spares the kernel.

# %%
residual = jax.vmap(model)(data.X) - data.y
for margin in (0.1, 1.0, 4.0):
    best = nm.advise(H, residual, target=0.05, margin=margin)["heavy_ball"]
    run = nm.train(model, data, best.optimizer, 60, readouts=["loss", "kernel_drift"])
    moved = np.max(run.kernel_drift) * eta
    plt.semilogy(
        run.ts,
        run.loss,
        label=f"margin {margin:g}: η = {best.eta:.2g}, kernel moved by {moved:.0%} of λmax",
    )
plt.xlabel("step")
plt.ylabel("loss")
plt.legend()
plt.show()

# %% [markdown]
# ## Wider
# `train_ensemble`, and `ensemble` for flows, take a function of width and key in the place of the
# two-layer net. How far the last of these heavy balls moves the kernel, from eight seeds at four
# widths ($m^{-1/2}$ is expected):

# %%
widths = (64, 128, 256, 512)
runs = nm.train_ensemble(
    data,
    best.optimizer,
    widths,
    8,
    60,
    save_every=10,
    model=make,
    readouts=["loss", "kernel_drift"],
)
moved = eta * np.max(runs.kernel_drift[0], axis=-1).T  # (seed, width)
slope, half, prefactor = power_law(widths, moved)
plt.loglog(widths, moved.T, ".", color=COLORS["heavy_ball"])
plt.loglog(
    widths,
    prefactor * np.array(widths) ** slope,
    color=THEORY,
    label=f"slope {with_interval(slope, half)}",
)
plt.xlabel("width of both layers")
power_ticks(plt.gca().xaxis, widths)
plt.ylabel("kernel moved by, of λmax")
plt.legend()
plt.show()

# %% [markdown]
# From the shell, with your model in a file `mymodel.py` that has the same function
# `make(width, key)`:
#
# ```
# ntk-momentum diagnose --data mine.npz --model mymodel.py:make --optimizer adam --eta 1e-3
# ntk-momentum sweep --data mine.npz --model mymodel.py:make --widths 64 256 --out mine
# ```

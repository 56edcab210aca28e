# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Your own data
#
# What would gradient descent, the heavy ball and Nesterov's method do on *your* inputs and targets?
# Most of the answer lies in the spectrum of one matrix, the kernel at infinite width, and needs no
# training. Here: a table of 30 measurements of cells, from scikit-learn.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer

import ntk_momentum as nm
from ntk_momentum.study.plotting import COLORS, FLOW_NAMES, STYLE, THEORY

jax.config.update("jax_enable_x64", True)
plt.rcParams.update({**STYLE, "figure.figsize": (6.0, 2.9), "figure.dpi": 120})

# %% [markdown]
# ## Inputs of norm one
# The theorems assume ‖x‖ = 1, and the network has no bias: a constant coordinate acts as one.
# `Dataset` checks and never rescales. It refuses two equal inputs (λ₀ = 0, Fact 2.2), zero rows and
# NaN, and says which rows they are.

# %%
raw = load_breast_cancer()
X = (raw.data - raw.data.mean(axis=0)) / raw.data.std(axis=0)
X = np.column_stack([X, np.full(len(X), 3.0)])
X, y = X / np.linalg.norm(X, axis=1, keepdims=True), 2.0 * raw.target - 1
data, test_X, test_y = nm.Dataset(X[:60], y[:60], name="cells"), X[60:260], y[60:260]

try:
    nm.Dataset(np.vstack([X[:5], X[2]]), y[:6])
except nm.InputError as error:
    print(error)

# %% [markdown]
# ## The spectrum
# An error along an eigenvector with eigenvalue λ decays as e^{-λt} under gradient flow, at most as
# e^{-√λ t} under the heavy ball. So what matters is how the *labels* spread over the eigenvectors:
# here two thirds of them lie along the largest eigenvalue.

# %%
H = nm.infinite_ntk(data.X)
spectrum = nm.spectrum(H, data.y)
lam0 = float(spectrum.lambda0)
print(
    f"lambda_0 = {lam0:.4f}, kappa = {spectrum.kappa:.0f}, effective rank "
    f"{spectrum.effective_rank:.1f} of {data.n}"
)

figure, (left, right) = plt.subplots(1, 2)
left.semilogy(spectrum.eigenvalues[::-1], ".", color=THEORY)
left.set(xlabel="eigenvalue number", title="eigenvalues of $H^\\infty$")
right.plot(np.cumsum(spectrum.shares[::-1]), color=THEORY)
right.set(xlabel="eigenvalue number", ylim=(0, 1.02), title="labels explained, cumulated")
plt.show()

# %% [markdown]
# ## What to expect, before training
# Each flow in its own time unit, then as optimizers with the parameters that reach 1% of the loss
# in the fewest steps.

# %%
flows = [nm.GradientFlow(), nm.HeavyBall(2 * np.sqrt(lam0)), nm.Nesterov(3.0)]
for flow in flows:
    print(
        f"{FLOW_NAMES[flow.name]:15} 1% of the loss left at t = {spectrum.time_to(1e-2, flow):.1f}"
    )
advice = nm.advise(H, -data.y, target=1e-2)
print(advice)

# %% [markdown]
# ## A network of 4,096 neurons beside that
# Lines: the closed form for H∞, without a fitted parameter. Points: the weights of a network,
# solved. Where they part, the kernel has moved, `kernel_drift` says how much, or the solver has
# erred: `refine=True` solves once more with finer steps and returns the numerical error of every
# read-out, drawn as bars.

# %%
units = {"gradient_flow": 1 / lam0, "heavy_ball": lam0**-0.5, "nesterov": lam0**-0.5}
natural, fine = np.linspace(0, 2, 21), np.linspace(0, 2, 481)  # in units of each flow
network = nm.init_two_layer(4096, data.input_size, key=jax.random.key(1), antisymmetric=True)
_, (left, right) = plt.subplots(1, 2, sharey=True, figsize=(7.4, 2.9))
for flow in flows:
    unit, axes = units[flow.name], left if flow.name == "gradient_flow" else right
    run = nm.simulate(network, data, flow, natural * unit, refine=True)
    axes.semilogy(
        fine,
        nm.predict(H, -data.y, flow, fine * unit).loss,
        color=COLORS[flow.name],
        label=FLOW_NAMES[flow.name],
    )
    error = run.errors["loss"]
    axes.errorbar(natural, run.loss, error, fmt="o", capsize=2, color=COLORS[flow.name])
    bar = np.max(error / run.loss)
    print(
        f"{FLOW_NAMES[flow.name]:15} kernel drift {run.kernel_drift[-1]:.3f}, "
        f"{int(run.accepted)} steps, loss known to {bar:.2%}"
    )
left.set(xlabel="time $\\lambda_0 t$", ylabel="loss $L$")
right.set(xlabel="time $\\sqrt{\\lambda_0} t$")
left.legend()
right.legend()
plt.show()

# %% [markdown]
# ## Points it has not seen
# With the kernel between test and training points the same closed form predicts unseen points at
# every time. All flows end at the same function, K*H⁻¹y; they differ in when they pass the best
# one.

# %%
rows = nm.infinite_ntk(test_X, data.X)
_, (left, right) = plt.subplots(1, 2, sharey=True, figsize=(7.4, 2.9))
for flow in flows:
    axes = left if flow.name == "gradient_flow" else right
    f = nm.predict(H, -data.y, flow, fine * units[flow.name], test_kernel=rows).test
    axes.plot(
        fine[1:],
        np.mean(np.sign(f[1:]) == test_y, axis=1),
        color=COLORS[flow.name],
        label=FLOW_NAMES[flow.name],
    )
left.set(xlabel="time $\\lambda_0 t$", ylabel="test accuracy")
right.set(xlabel="time $\\sqrt{\\lambda_0} t$")
left.legend()
right.legend()
plt.show()

# %% [markdown]
# ## The advice, tried
# The recommended heavy ball on the network itself, step by step, against what the spectrum foretold
# for it.

# %%
best = advice["heavy_ball"]
steps = np.arange(int(best.steps) + 6)
trained = nm.train(network, data, best.optimizer, len(steps) - 1)
plt.semilogy(
    steps,
    nm.predict(H, -data.y, best.optimizer, steps).loss,
    color=THEORY,
    label="foretold from $H^\\infty$",
)
plt.semilogy(
    steps,
    trained.loss,
    "o",
    color=COLORS["heavy_ball"],
    label=f"network, η = {best.eta:.3g}, β = {best.beta:.3g}",
)
plt.axhline(1e-2 * trained.loss[0], color=THEORY, linestyle=":")
plt.xlabel("step")
plt.ylabel("loss")
plt.legend()
plt.show()

# %% [markdown]
# ## On mini-batches
# Drawing B samples a step adds noise to the gradient. The kernel foretells the expected loss, the
# largest stable step and the batch from which on a larger one does not help; the page on
# mini-batches has the formulas. Late a network of finite width lags behind: its kernel moves.

# %%
for batch in (2, 8, 32):
    found = nm.advise(H, -data.y, target=1e-2, batch_size=batch)["heavy_ball"]
    print(
        f"B = {batch}: η = {found.eta:.3g}, β = {found.beta:.2f},",
        f"{found.steps:.0f} steps, {found.examples:.0f} examples",
    )
print("the step grows no further from B =", nm.critical_batch(best.optimizer, H))

# %%
slow = nm.advise(H, -data.y, target=1e-2, batch_size=8)["heavy_ball"].optimizer
expected = nm.predict_stochastic(H, -data.y, slow, 200, batch_size=8)
spread = expected.loss_std
plt.semilogy(expected.ts, expected.loss, color=THEORY, label="expected, foretold")
plt.fill_between(expected.ts, expected.loss, expected.loss + spread, color=THEORY, alpha=0.2)
for seed in range(3):
    run = nm.train(
        network, data, slow, 200, batch_size=8, key=jax.random.key(seed), readouts=["loss"]
    )
    plt.semilogy(run.ts, run.loss, color=COLORS["heavy_ball"], linewidth=0.8)
plt.xlabel("step")
plt.ylabel("loss, three draws of batches")
plt.legend()
plt.show()

# %% [markdown]
# ## The paper's statements on these inputs
# Claims about data sets and networks run on yours. From the shell, with `np.savez("mine.npz", X=X,
# y=y)`:
#
# ```
# ntk-momentum verify --claims thm-1 lemma-4 --data mine.npz
# ntk-momentum advise --data mine.npz --check
# ntk-momentum sweep --data mine.npz --widths 256 1024 --seeds 4
# ```

# %%
for claim in nm.verify(["fact-2.2", "thm-1", "eq-2.8"], data=data):
    print(
        claim.id,
        "| printed:",
        claim.printed.ok,
        "| corrected:",
        claim.corrected and claim.corrected.ok,
        "|",
        claim.printed.instance,
    )

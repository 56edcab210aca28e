# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # The paper in twenty minutes
#
# A wide two-layer network $f(x) = m^{-1/2} \sum_r a_r\, \sigma(w_r \cdot x)$ is trained on
# $\tfrac12 |f - y|^2$. Its error $\Delta = f - y$ then obeys the *same* ODE as its weights, with
# the neural tangent kernel H in place of the loss: gradient flow (2.5), heavy ball (3.5), Nesterov
# (4.3).

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

import ntk_momentum as nm
from ntk_momentum.study.plotting import COLORS, STYLE, THEORY, shades

jax.config.update("jax_enable_x64", True)
plt.rcParams.update({**STYLE, "figure.figsize": (6.0, 2.9), "figure.dpi": 120})
data = nm.sphere(20, 20, key=jax.random.key(0))  # 20 unit inputs, targets ±1
H = nm.infinite_ntk(data.X)  # Fact 2.2: the kernel at infinite width
spectrum = nm.spectrum(H, data.y)
print(
    f"lambda_0 = {spectrum.lambda0:.3f} (never above 1/2 for unit inputs), kappa = "
    f"{spectrum.kappa:.1f}"
)

# %% [markdown]
# ## Three methods, no network yet
# For a constant kernel every flow, and every method, is solved mode by mode. Flows have units of
# time of their own, 1/λ₀ and 1/√λ₀; methods are compared in steps, each with the parameters that
# suit the kernel best. Here κ is small, so momentum saves few of them; it saves about √κ.

# %%
lam0 = float(spectrum.lambda0)
flows = [nm.GradientFlow(), nm.HeavyBall(np.sqrt(2 * lam0)), nm.Nesterov(3.0)]
advice = nm.advise(H, -data.y, target=1e-6)
steps = np.arange(26)
for flow, name in zip(flows, ("gradient_descent", "heavy_ball", "nesterov"), strict=True):
    method = advice[name].optimizer
    plt.semilogy(
        steps,
        nm.predict(H, -data.y, method, steps).loss,
        color=COLORS[flow.name],
        label=name.replace("_", " "),
    )
plt.xlabel("step")
plt.ylabel("loss $L$")
plt.ylim(1e-8, 30)
plt.legend()
plt.title("constant kernel $H^\\infty$: the closed form")
plt.show()

# %% [markdown]
# ## The same flows on networks
# The weights of real networks, from the same start (antisymmetric, so f(0) = 0). The wider, the
# closer to the closed form: "lazy training".

# %%
flow, ts = flows[1], np.linspace(0, 20, 101)
plt.semilogy(
    ts, nm.predict(H, -data.y, flow, ts).loss, color=THEORY, label="$H^\\infty$, closed form"
)
for width, tone in zip((64, 512, 4096), shades(COLORS["heavy_ball"], 3), strict=True):
    net = nm.init_two_layer(width, 20, key=jax.random.key(1), antisymmetric=True)
    run = nm.simulate(net, data, flow, ts)
    plt.semilogy(ts, run.loss, color=tone, label=f"m = {width}")
    print(
        f"m = {width:5}: kernel drift {run.kernel_drift[-1]:.3f}, farthest neuron "
        f"{run.displacement[-1]:.3f}, flips {run.flips[-1]:.0f}"
    )
plt.xlabel("time $t$")
plt.ylabel("loss $L(t)$")
plt.legend()
plt.title("heavy ball on the weights (3.2)")
plt.show()

# %% [markdown]
# ## From flow to optimizer and back
# β and η against friction b and step h: the map that is accurate to second order, and its inverse.

# %%
optimizer, offset = flow.discretize(0.2)
print(
    f"b = {flow.b:.3f}, h = 0.2  ->  eta = {optimizer.eta:.4f}, beta = "
    f"{optimizer.beta:.4f}, iterate k at t = 0.2 k + {offset}"
)
trained = nm.train(net, data, optimizer, 100)
plt.semilogy(ts, run.loss, color=COLORS["heavy_ball"], label="flow (3.2)")
plt.semilogy(
    0.2 * trained.ts + offset, trained.loss, ".", color=COLORS["heavy_ball"], label="method (3.1)"
)
plt.xlabel("time $t$")
plt.ylabel("loss $L(t)$")
plt.legend()
plt.show()

# %% [markdown]
# ## What is true?
# Every numbered statement can be run: as printed, corrected, and sharp. Theorem 2 as printed fails
# already for one sample with H = ½.

# %%
for claim in nm.verify(["thm-2", "eq-3.4", "eq-2.8"]):
    print(
        claim.id,
        "| printed:",
        claim.printed.ok,
        "| corrected:",
        claim.corrected and claim.corrected.ok,
        "|",
        claim.printed.instance,
    )

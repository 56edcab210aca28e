"""The headline in a hundred lines of JAX, to be read beside the paper; nothing of ntk_momentum.

Train a wide two-layer network with gradient descent, the heavy ball and Nesterov's method. Then let
the same three methods descend not the loss of the weights, but the quadratic Delta . H Delta / 2,
with the kernel H of the network at its start. If the network is wide, the two agree: that is the
paper. And the heavy ball needs fewer steps, by at most about the root of H's condition number.
"""

import jax
import jax.numpy as jnp

# Section 2: the network, its loss, its kernel.


def network(W, a, X):  # f_i = m^(-1/2) sum_r a_r relu(w_r . x_i), only W is trained  section 2
    return jax.nn.relu(X @ W.T) @ a / jnp.sqrt(len(a))


def loss(W, a, X, y):  # L = sum_i (f_i - y_i)^2 / 2
    return 0.5 * jnp.sum((network(W, a, X) - y) ** 2)


def kernel(W, X):  # H_ij = x_i . x_j (1/m) sum_r 1{w_r . x_i >= 0} 1{w_r . x_j >= 0}    (2.8)
    active = (X @ W.T >= 0).astype(float)
    return (X @ X.T) * (active @ active.T) / len(W)


def limit_kernel(X):  # its mean over w_r ~ N(0, I), where m goes to infinity          Fact 2.2
    c = jnp.clip(X @ X.T, -1, 1)
    return c * (jnp.pi - jnp.arccos(c)) / (2 * jnp.pi)


# Sections 3 and 4: methods for any gradient; beta = 0 is gradient descent, section 2. x is the
# weights W, or the error Delta: a method does not know, and that is the paper's whole argument.
# Each returns what `see` sees of x_1, x_2, ...


def heavy_ball(gradient, x, steps, see, eta, beta):  # (3.1), from x_{-1} = x_0
    def step(state, _):
        x, before = state
        new = x - eta * gradient(x) + beta * (x - before)
        return (new, x), see(new)

    return jax.lax.scan(step, (x, x), length=steps)[1]


def nesterov(gradient, x, steps, see, eta, d=3.0):  # R_{k+1} = x_k - eta grad(x_k), R_0 = x_0 (4.1)
    def step(state, k):  # x_{k+1} = R_{k+1} + k/(k + d) (R_{k+1} - R_k)
        x, R = state
        ahead = x - eta * gradient(x)
        new = ahead + k / (k + d) * (ahead - R)
        return (new, ahead), see(new)

    return jax.lax.scan(step, (x, x), jnp.arange(steps, dtype=float))[1]


def tuned(low, high):  # Polyak's (1964) fastest between low and high; for Nesterov the usual 1/high
    eta, root = 4 / (jnp.sqrt(high) + jnp.sqrt(low)) ** 2, jnp.sqrt(high / low)
    return {
        "gradient descent": (heavy_ball, {"eta": 2 / (high + low), "beta": 0.0}),
        "heavy ball": (heavy_ball, {"eta": eta, "beta": ((root - 1) / (root + 1)) ** 2}),
        "Nesterov": (nesterov, {"eta": 1 / high}),
    }


def start(n, p, m, key):  # unit inputs, targets +1 and -1, w_r ~ N(0, I), a_r = +1 or -1
    keys = jax.random.split(key, 3)
    X = jax.random.normal(keys[0], (n, p))
    y = jnp.where(jnp.arange(n) % 2 == 0, 1.0, -1.0)
    W, a = jax.random.normal(keys[1], (m, p)), jax.random.rademacher(keys[2], (m,), float)
    return X / jnp.linalg.norm(X, axis=1, keepdims=True), y, W, a


def until(errors, share):  # steps until L = |Delta|^2 / 2 stays below a share of its start
    losses = jnp.sum(errors**2, axis=1)
    return int(jnp.max(jnp.where(losses > share * losses[0], jnp.arange(len(losses)), -1))) + 1


def headline(n=20, p=5, m=32_768, steps=100, share=1e-3, seed=0):
    X, y, W, a = start(n, p, m, jax.random.key(seed))
    H, error = kernel(W, X), network(W, a, X) - y
    low, *_, high = jnp.linalg.eigvalsh(H)
    rows = {}
    for name, (method, given) in tuned(low, 1.1 * high).items():
        on_weights = lambda W: jax.grad(loss)(W, a, X, y)
        trained = method(on_weights, W, steps, lambda W: network(W, a, X) - y, **given)
        foretold = method(lambda error: H @ error, error, steps, lambda error: error, **given)
        both = (jnp.concatenate([error[None], path]) for path in (trained, foretold))
        rows[name] = tuple(until(path, share) for path in both)
    return float(high / low), rows


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    kappa, rows = headline()
    print(f"kappa = {kappa:.0f}, sqrt(kappa) = {kappa**0.5:.0f}; steps to 0.1 % of the loss:")
    for name, (trained, foretold) in rows.items():
        print(f"{name:16}  the network {trained:4}, its kernel foretold {foretold:4}")

"""Section 2: the kernel, its limit, when that is positive and how large, the pseudo-loss."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ...kernel import empirical_ntk
from ...method import GradientFlow
from ...network.model import split
from ...network.two_layer import TwoLayerNet
from ..check import Forms, claim, every, identity, typed, within
from ..drawing import by_name, drawing, line, panel, theory
from .modes import frozen
from .setting import Setting, infinite_kernel, predictions


@claim(
    "eq-2.6",
    section="2",
    kind="definition",
    note=r"""$H = \sum_r (\partial f/\partial w_r)(\partial f/\partial w_r)^\top = J J^\top$ with
    $J$ the $n \times mp$ Jacobian, so it is positive semi-definite. Two routes: reverse-mode
    Jacobian against the structured kernel.""",
)
def eq_2_6(setting: Setting) -> Forms:
    net, points = setting.network(64, 0), setting.points
    J = jax.jacrev(lambda w: predictions(net, w, points.X))(net.hidden).reshape(points.n, -1)
    H = empirical_ntk(net, points.X)
    error = float(jnp.abs(J @ J.T - H).max())
    return (
        identity(
            r"$H = \sum_r (\partial f/\partial w_r)(\partial f/\partial w_r)^\top$",
            f"{setting.on_points}, m = 64",
            error,
            1e-12,
            smallest_eigenvalue=jnp.linalg.eigvalsh(H)[0],
        ),
    )


@claim(
    "pseudo-loss",
    section="2",
    kind="identity",
    fault="notation",
    under="constant kernel",
    note=r"""$\partial\hat L/\partial\Delta = H \Delta$ with $H$ held fixed, and $\hat L$ is
    $\lambda_{\min}(H)$-strongly convex in $\Delta$. The text's "matrix ODE (2.2)" must read
    (2.5): the unknown of (2.2) is $W$, of shape $(m, p)$, on which an $n \times n$ matrix $H$
    does not act, and $W$ does not tend to 0.""",
)
def pseudo_loss(setting: Setting) -> Forms:
    n, (values, c) = setting.data.n, setting.eigen
    K = jnp.asarray(setting.kernel)
    D = -jnp.asarray(setting.data.y)
    error = float(jnp.abs(jax.grad(lambda d: 0.5 * d @ (K @ d))(D) - K @ D).max())
    run = frozen(GradientFlow(), values, c, np.linspace(0, 20 / values[0], 400))
    final = float(run.loss[-1] / run.loss[0])
    return (
        typed(
            "the matrix ODE (2.2) with a constant $H$: the unknown of (2.2) has as many rows as "
            "$H$",
            f"{setting.on_kernel}; W with m = 2n",
            (2 * n, setting.X.shape[1]),
            (n, setting.X.shape[1]),
        ),
        every(
            r"(2.5) with constant $H > 0$ is the gradient flow of $\hat L = \Delta\cdot H "
            r"\Delta/ 2$ and tends to 0 at linear rate",
            setting.on_kernel,
            {
                "gradient is H Delta": error < 1e-12,
                "strongly convex": values[0] > 0,
                "tends to 0": final < 1e-10,
            },
            1e-12,
            gradient_error=error,
            loss_ratio=final,
        ),
        drawing(
            "(2.5) with constant $H$ tends to 0 at linear rate.",
            panel(
                "lambda_min t",
                "L(t)/L(0)",
                line(values[0] * run.ts, run.loss / run.loss[0], "L"),
                theory(values[0] * run.ts, np.exp(-2 * values[0] * run.ts), "exp(-2 lambda_min t)"),
                log="y",
            ),
        ),
    )


@claim(
    "fact-2.1",
    section="2",
    kind="bound",
    note=r"""$(H^\infty)_{ij} = E[Z_i\cdot Z_j \mathbb 1\{w\cdot Z_i \ge 0, w\cdot Z_j \ge 0\}]$.
    If the functions $w \to Z_i \mathbb 1\{w\cdot Z_i \ge 0\}$ were dependent, the dependence
    could be tested near the hyperplane of one $i$ alone, where only its indicator jumps; so no
    two parallel inputs suffices. $Z_i$ is the $x_i$ of the other sections; here $H^\infty$ is
    compared with Monte Carlo.""",
)
def fact_2_1(setting: Setting) -> Forms:
    rng, K, X = (
        setting.rng(0),
        setting.points_kernel,
        np.asarray(setting.points.X).reshape(setting.points.n, -1),
    )
    draws = 200_000
    S = (rng.standard_normal((draws, X.shape[1])) @ X.T >= 0).astype(float)
    error = float(np.abs(X @ X.T * (S.T @ S) / draws - K).max())
    smallest = {
        setting.points.name: setting.points_lam0,
        setting.data.name: float(setting.eigen[0][0]),
    }
    for n, p in ((5, 2), (12, 3), (30, 4)):
        Z = rng.standard_normal((n, p))
        smallest[f"{n} random directions in R^{p}"] = float(
            np.linalg.eigvalsh(infinite_kernel(Z))[0]
        )
    return (
        every(
            r"no two parallel inputs: $\lambda_0 > 0$",
            ", ".join(smallest),
            {name: value > 1e-9 for name, value in smallest.items()},
            lambda0=smallest,
        ),
        within(
            "the closed form is the expectation",
            f"{setting.on_points}, {draws} draws",
            error,
            0.0,
            5 * 0.5 / np.sqrt(draws),
        ),
        drawing(
            r"Smallest eigenvalue of $H^\infty$ on sets without parallel inputs.",
            by_name("lambda0", smallest, log="x"),
        ),
    )


@claim(
    "fact-2.2",
    section="2",
    kind="bound",
    note=r"""$x\cdot x' (1/2 - \arccos(x\cdot x')/(2 \pi)) = t/4 + t\arcsin(t)/(2 \pi)$ at $t =
    x\cdot x'$: the even part $t\arcsin t$ is strictly positive definite on axes, the odd part is
    linear. Sharp, unit inputs: $\lambda_0 > 0$ iff no two inputs coincide and the axes of the
    antipodal pairs are linearly independent. So $\{\pm e_i\}$ has $\lambda_0 = 1/2$, a regular
    hexagon 0. The arccos form needs $|x_i| = 1$, which the fact forgets to say; for other norms
    the angle must stand in its place.""",
)
def fact_2_2(setting: Setting) -> Forms:
    X = setting.X
    gram = np.clip(X @ X.T, -1, 1)
    error = float(np.abs((0.5 - np.arccos(gram) / (2 * np.pi)) * gram - setting.kernel).max())
    rng = setting.rng(1)

    def smallest(Z: np.ndarray) -> float:
        return float(np.linalg.eigvalsh(infinite_kernel(Z))[0])

    angles = np.arange(6) * np.pi / 3
    hexagon = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    sets = {
        "{+-e_i}, R^3": np.concatenate([np.eye(3), -np.eye(3)]),
        "regular hexagon": hexagon,
        "a duplicate": np.eye(3)[[0, 1, 1]],
        "hexagon without one vertex": hexagon[:5],
    }
    for k, p, extra in ((2, 3, 3), (3, 3, 0), (4, 3, 2), (5, 4, 1)):
        axes = rng.standard_normal((k + extra, p))
        axes /= np.linalg.norm(axes, axis=1, keepdims=True)
        sets[f"{k} antipodal pairs and {extra} single points in R^{p}"] = np.concatenate(
            [axes, -axes[:k]]
        )
    found = {name: smallest(Z) for name, Z in sets.items()}
    predicted = {name: _positive(Z) for name, Z in sets.items()}
    return (
        every(
            r"$H^\infty$ has the arccos form, and $\lambda_0 > 0$ when no two inputs are parallel",
            setting.on_kernel,
            {"closed form": error < 1e-7, "lambda0 > 0": setting.eigen[0][0] > 0},
            1e-7,
            closed_form_error=error,
        ),
        None,
        every(
            r"unit inputs: $\lambda_0 > 0$ iff no two coincide and the axes of the antipodal "
            "pairs are independent",
            "named sets and random ones",
            {name: (found[name] > 1e-9) == predicted[name] for name in sets},
            1e-9,
            lambda0=found,
            predicted=predicted,
        ),
        drawing(
            r"Smallest eigenvalue of $H^\infty$ on sets with coinciding and antipodal inputs; "
            "0 exactly where two coincide or the axes depend.",
            by_name("lambda0", found),
        ),
    )


def _positive(Z: np.ndarray) -> bool:
    gram = Z @ Z.T
    pairs = np.argwhere(np.triu(gram < -1 + 1e-12, 1))
    coincide = np.any(np.triu(gram > 1 - 1e-12, 1))
    return bool(
        not coincide and (len(pairs) == 0 or np.linalg.matrix_rank(Z[pairs[:, 0]]) == len(pairs))
    )


@claim(
    "eq-2.8",
    section="2",
    kind="identity",
    note=r"""$\partial f_i/\partial w_r = m^{-1/2} a_r x_i \mathbb 1\{w_r\cdot x_i \ge 0\}$, and
    $a_r^2 = 1$ removes the output weights. With other output weights each term of the sum
    carries $a_r^2$.""",
)
def eq_2_8(setting: Setting) -> Forms:
    net, points = setting.network(64, 3, antisymmetric=False), setting.points
    X = np.asarray(points.X).reshape(points.n, -1)

    def printed(net: TwoLayerNet, a2: np.ndarray) -> np.ndarray:
        S = (np.asarray(net.hidden) @ X.T >= 0).astype(float)
        return X @ X.T * ((S * a2[:, None]).T @ S) / net.width

    def by_autodiff(net: TwoLayerNet) -> np.ndarray:
        J = jax.jacrev(lambda w: predictions(net, w, points.X))(net.hidden).reshape(points.n, -1)
        return np.asarray(J @ J.T)

    import equinox as eqx

    scaled = eqx.tree_at(lambda m: m.output, net, jnp.linspace(-2.0, 2.0, 64))
    trained = [leaf.shape for leaf in jax.tree.leaves(split(net)[0])]
    return (
        identity(
            r"$H_{ij} = x_i\cdot x_j / m \sum_r \mathbb 1\{w_r\cdot x_i \ge 0, w_r\cdot x_j \ge "
            r"0\}, a_r = \pm 1$",
            f"{setting.on_points}, m = 64",
            float(np.abs(printed(net, np.ones(64)) - by_autodiff(net)).max()),
            1e-12,
            trained=trained,
        ),
        identity(
            "for any output weights, with $a_r^2$ inside the sum",
            f"{setting.on_points}, m = 64, a_r from -2 to 2",
            float(
                np.abs(printed(scaled, np.asarray(scaled.output) ** 2) - by_autodiff(scaled)).max()
            ),
            1e-12,
        ),
    )


@claim(
    "remark-lambda0-half",
    section="3",
    kind="bound",
    fault="hypothesis",
    note=r"""$\mathrm{tr}\,H^\infty = n/2$ gives $\lambda_0 \le 1/2$, with equality iff $H^\infty
    = \frac12 I$, that is iff every pair of inputs is orthogonal or antipodal; $n = 1$ included.
    Norms other than one scale it: $|x| = 2$ gives 2.""",
)
def remark_lambda0_half(setting: Setting) -> Forms:
    rng = setting.rng(3)
    near = np.eye(3) + 0.05 * rng.standard_normal((3, 3))
    sets = {
        "one unit input": np.eye(2)[:1],
        "orthonormal basis of R^3": np.eye(3),
        "{+-e_i}, R^2": np.concatenate([np.eye(2), -np.eye(2)]),
        "nearly orthogonal, R^3": near / np.linalg.norm(near, axis=1, keepdims=True),
        setting.data.name: setting.X,
    }
    found = {name: float(np.linalg.eigvalsh(infinite_kernel(Z))[0]) for name, Z in sets.items()}
    flat = {
        name: bool(np.all((np.abs(Z @ Z.T) < 1e-12) | (np.abs(np.abs(Z @ Z.T) - 1) < 1e-12)))
        for name, Z in sets.items()
    }
    return (
        every(
            r"$\lambda_0 < 1/2$",
            "named sets",
            {name: v < 0.5 - 1e-12 for name, v in found.items()},
            lambda0=found,
        ),
        every(
            r"unit inputs: $\lambda_0 \le 1/2$",
            "named sets",
            {name: v <= 0.5 + 1e-12 for name, v in found.items()},
            1e-12,
            lambda0=found,
        ),
        every(
            "with equality iff every pair is orthogonal or antipodal",
            "named sets",
            {name: (v > 0.5 - 1e-12) == flat[name] for name, v in found.items()},
            1e-12,
        ),
        drawing(
            r"Smallest eigenvalue of $H^\infty$ against $1/2$, which some sets reach.",
            by_name("lambda0", found, 0.5),
        ),
    )

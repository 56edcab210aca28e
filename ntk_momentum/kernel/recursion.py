"""NNGP and NTK of infinitely wide fully connected networks of any depth, with weight and bias
scales.

    h^0 = sigma_w p^{-1/2} W x + sigma_b b,   h^{l+1} = sigma_w m^{-1/2} W phi(h^l) + sigma_b b
    Sigma^0 = sigma_w^2 x.x'/p + sigma_b^2,   Sigma^{l+1} = sigma_w^2 E[phi(u) phi(v)] + sigma_b^2
    Theta^0 = Sigma^0,   Theta^{l+1} = Sigma^{l+1} + sigma_w^2 E[phi'(u) phi'(v)] Theta^l

with all W, b ~ N(0, 1) and (u, v) ~ N(0, Sigma^l) (Jacot, Gabriel and Hongler 2018; Lee et al.
2018). The paper's network with both layers trained is depth 1 with weight_std (sqrt p, 1). Kernels
travel as variances and 1 -+ cos of the angle between (u, v), which keeps angles near 0 and pi to
round-off at every depth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..errors import InputError, check_positive, check_whole
from ..memory import check_fits, check_kernel, in_short
from ..network.two_layer import check_elementwise
from .infinite import Angles, by_strips, rows, safe_sqrt, symmetrised
from .patterns import kink
from .piecewise import pieces, piecewise_linear


class WideKernels(NamedTuple):
    """The kernels of the infinitely wide network: of its outputs at initialisation (nngp) and of
    its training (ntk)."""

    nngp: Float[Array, "n1 n2"]
    ntk: Float[Array, "n1 n2"]


Moments = tuple[Angles, Float[Array, "n1 n2"]]
Dual = Callable[[Angles], Moments]
"""Maps the preactivations' law to the activations' norms and angles, and to E[phi'(u) phi'(v)]."""


class FullyConnected(eqx.Module):
    """The infinitely wide fully connected network; call it on inputs x1, x2 for its
    `WideKernels`."""

    weight_std: tuple[float, ...]
    bias_std: tuple[float, ...]
    dual: Dual = eqx.field(static=True)

    def __call__(self, x1: Any, x2: Any = None) -> WideKernels:
        """Both kernels between x1 (n1, ...) and x2 (n2, ...); x2 = None means x1, and gives exactly
        symmetric kernels."""
        check_kernel("the kernels", x1, x2, 6)
        x1 = rows("x1", x1)
        x2 = None if x2 is None else rows("x2", x2)
        if x2 is not None and x1.shape[1] != x2.shape[1]:
            raise InputError(
                f"x1 and x2 must hold inputs of one size, got {x1.shape[1]} and "
                f"{x2.shape[1]} numbers; give one input per row."
            )
        kernels = _kernels(self, x1, x2)
        return kernels if x2 is not None else WideKernels(*map(symmetrised, kernels))


@eqx.filter_jit
def _kernels(network: FullyConnected, x1: Array, x2: Array | None) -> WideKernels:
    root = x1.shape[1] ** -0.5
    other = None if x2 is None else x2 * root
    # as one array: apart, XLA computes what they share twice, layer by layer
    both = lambda pairs: jax.lax.complex(*of_layers(network, pairs))
    found = by_strips(both, x1 * root, other)
    return WideKernels(found.real, found.imag)


def of_layers(network: FullyConnected, pairs: Angles) -> WideKernels:
    """Both kernels between inputs, divided by sqrt p, at these angles."""
    law = _affine(pairs, network.weight_std[0], network.bias_std[0])
    ntk = law.norms * law.cos
    for weight_std, bias_std in zip(network.weight_std[1:], network.bias_std[1:], strict=True):
        activations, slopes = network.dual(law)
        law = _affine(activations, weight_std, bias_std)
        ntk = law.norms * law.cos + weight_std**2 * slopes * ntk
    return WideKernels(law.norms * law.cos, ntk)


def _affine(law: Angles, weight_std: float, bias_std: float) -> Angles:
    """Norms and angles after weights and biases: 1 -+ cos as sums of positive terms, so nothing
    cancels."""
    p, q, s = weight_std * law.norm1, weight_std * law.norm2, bias_std**2
    if bias_std == 0:  # angles stay; those with a vector of no length do not count
        return Angles(p, q, law.near, law.far)
    norm1, norm2 = safe_sqrt(jnp.square(p) + s), safe_sqrt(jnp.square(q) + s)
    product, before = norm1[:, None] * norm2[None, :], p[:, None] * q[None, :]
    square = lambda a, b: jnp.square(p)[:, None] * a + jnp.square(q)[None, :] * b
    divisor = jnp.where(product > 0, product, 1)
    # With N1 = sqrt(p^2 + s), N2 = sqrt(q^2 + s),
    # N1 N2 - p q cos - s = p q (1 - cos) + (N1 N2 - p q - s), and the last bracket is
    # s (p - q)^2/(N1 N2 + p q + s), a square over a sum
    near = before * law.near + s * jnp.square(p[:, None] - q[None, :]) / jnp.where(
        product > 0, product + before + s, 1
    )
    # likewise N1 N2 + p q cos + s = p q (1 + cos) + s + (N1 N2 - p q), the bracket being
    # s (p^2 + q^2 + s)/(N1 N2 + p q)
    far = (
        before * law.far + s + s * (square(1, 1) + s) / jnp.where(product > 0, product + before, 1)
    )
    zero = product == 0
    return Angles(
        norm1, norm2, jnp.where(zero, 1, near / divisor), jnp.where(zero, 1, far / divisor)
    )


def homogeneous(identity: float, absolute: float) -> Dual:
    """phi(z) = identity z + absolute |z|: ReLU (1/2, 1/2), absolute value (0, 1), leaky ReLU, the
    identity. Closed forms.

    E[|u||v|] = |u||v| g, g = (2/pi)(sin t + (pi/2 - t) cos t), and E[sgn u sgn v] = 1 - 2 t/pi; odd
    and even parts do not mix.
    """
    a, b = identity**2, absolute**2

    def dual(law: Angles) -> Moments:
        t, narrow = law.acute, law.near <= law.far
        small = jnp.where(narrow, law.near, law.far)
        loss = small - (2 / jnp.pi) * (
            law.sin - t * (1 - small)
        )  # 1 - g, the same at theta and pi - theta
        near = (a * law.near + b * loss) / (a + b)
        far = (a * law.far + b * (2 - loss)) / (a + b)
        root = (a + b) ** 0.5
        slopes = a + b * jnp.where(narrow, 1 - 2 * t / jnp.pi, 2 * t / jnp.pi - 1)
        return Angles(root * law.norm1, root * law.norm2, near, far), slopes

    return dual


def _from_moments(v1: Array, v2: Array, cross: Array, slopes: Array) -> Moments:
    norm1, norm2 = safe_sqrt(v1), safe_sqrt(v2)
    product = norm1[:, None] * norm2[None, :]
    cos = jnp.clip(cross / jnp.where(product > 0, product, 1), -1, 1)
    return Angles(norm1, norm2, 1 - cos, 1 + cos), slopes


def _erf(law: Angles) -> Moments:
    """E[erf u erf v] = (2/pi) asin(2 S12 / sqrt((1 + 2 S11)(1 + 2 S22))) (Williams 1997)."""
    q1, q2, cross = jnp.square(law.norm1), jnp.square(law.norm2), law.norms * law.cos
    room = (1 + 2 * q1)[:, None] * (1 + 2 * q2)[None, :]
    variance = lambda q: (2 / jnp.pi) * jnp.arcsin(2 * q / (1 + 2 * q))
    # (1 + 2 S11)(1 + 2 S22) - 4 S12^2, as 1 + 2 S11 + 2 S22 + 4 S11 S22 sin^2
    rest = 1 + 2 * q1[:, None] + 2 * q2[None, :] + 4 * jnp.square(law.norms) * law.near * law.far
    return _from_moments(
        variance(q1),
        variance(q2),
        (2 / jnp.pi) * jnp.arcsin(2 * cross / jnp.sqrt(room)),
        (4 / jnp.pi) / jnp.sqrt(rest),
    )


def _wave(sign: float) -> Dual:
    """sin (sign = -1) and cos (+1): E = (exp(-|u - v|^2/2) + sign exp(-|u + v|^2/2)) / 2 with |u -+
    v|^2 = S11 + S22 -+ 2 S12."""

    def dual(law: Angles) -> Moments:
        gap = jnp.square(law.norm1[:, None] - law.norm2[None, :])
        close, opposite = (jnp.exp(-0.5 * gap - law.norms * side) for side in (law.near, law.far))
        variance = lambda norm: 0.5 * (1 + sign * jnp.exp(-2 * jnp.square(norm)))
        return _from_moments(
            variance(law.norm1),
            variance(law.norm2),
            0.5 * (close + sign * opposite),
            0.5 * (close - sign * opposite),
        )

    return dual


def gauss_hermite(activation: Callable, order: int = 80) -> Dual:
    """Any activation by Mehler's formula, E[phi(u) phi(v)] = sum_k a_k(|u|) a_k(|v|) cos^k, a_k(r)
    = E[phi(r z) h_k(z)], h_k Hermite.

    The `order` coefficients come from Gauss-Hermite quadrature with as many nodes; every partial
    sum is positive semi-definite. Converges geometrically for analytic activations; a kink away
    from 0 leaves an error of about 1/order in E[phi' phi'].
    """
    check_positive("order", order)
    what = f"a quadrature of order {in_short(order)}"
    check_fits(4 * int(order) ** 2, what, "use a smaller order", host=True)
    nodes, weights = np.polynomial.hermite_e.hermegauss(order)
    table = np.zeros((order, order))
    table[0] = 1
    # h_k orthonormal: sqrt(k) h_k = z h_{k-1} - sqrt(k - 1) h_{k-2}, stable upwards on the nodes,
    # which are the zeros of h_order
    for k in range(1, order):
        table[k] = (
            nodes * table[k - 1] - np.sqrt(k - 1) * table[max(k - 2, 0)] * (k > 1)
        ) / np.sqrt(k)
    table *= weights / np.sqrt(2 * np.pi)

    def dual(law: Angles) -> Moments:
        def coefficients(norm: Array) -> tuple[Array, Array]:
            z = norm[:, None] * jnp.asarray(nodes, norm.dtype)[None, :]
            value, slope = jax.jvp(activation, (z,), (jnp.ones_like(z),))
            project = jnp.asarray(table, norm.dtype)
            return project @ value.T, project @ slope.T

        def series(a1: Array, a2: Array) -> Array:
            step = lambda total, pair: (total * law.cos + pair[0][:, None] * pair[1][None, :], None)
            return jax.lax.scan(step, jnp.zeros_like(law.near), (a1, a2), reverse=True)[0]

        (value1, slope1), (value2, slope2) = coefficients(law.norm1), coefficients(law.norm2)
        total = lambda a: jnp.sum(jnp.square(a), axis=0)
        return _from_moments(
            total(value1), total(value2), series(value1, value2), series(slope1, slope2)
        )

    return dual


def dual_of(activation: Callable, order: int = 80) -> Dual:
    """The closed form where there is one (a z + b |z|, erf, sin, cos), one integral for other
    piecewise-linear activations (`piecewise`), Gauss-Hermite quadrature elsewhere."""
    closed = {
        jax.lax.erf: _erf,
        jax.scipy.special.erf: _erf,
        jnp.sin: _wave(-1.0),
        jnp.cos: _wave(1.0),
    }
    if activation in closed:
        return closed[activation]
    sides = kink(activation, jnp.zeros(()).dtype)
    if sides is not None:
        return homogeneous((sides[1] + sides[0]) / 2, (sides[1] - sides[0]) / 2)
    found = pieces(activation, jnp.zeros(()).dtype)
    if found is not None:
        return piecewise_linear(found)
    return gauss_hermite(activation, order)


def fully_connected_ntk(
    *,
    depth: int,
    activation: Callable = jax.nn.relu,
    weight_std: float | int | Sequence[float | int] | np.ndarray = 1.0,
    bias_std: float | int | Sequence[float | int] | np.ndarray = 0.0,
    order: int = 80,
) -> FullyConnected:
    """The kernels of an infinitely wide fully connected network of any depth, all layers trained.

        Sigma^0 = sigma_w^2 x.x'/p + sigma_b^2
        Sigma^{l+1} = sigma_w^2 E[phi(u) phi(v)] + sigma_b^2
        Theta^{l+1} = Sigma^{l+1} + sigma_w^2 E[phi'(u) phi'(v)] Theta^l,   Theta^0 = Sigma^0

    with (u, v) ~ N(0, Sigma^l) (Jacot, Gabriel and Hongler 2018; Lee et al. 2018). The paper's
    network with both layers trained is depth 1 with weight_std (sqrt p, 1).

    Args:
        depth: Hidden layers, at least 1; one output layer follows.
        activation: phi, a function of arrays built from jax.numpy.
        weight_std: sigma_w > 0, one number or one for each of the depth + 1 layers.
        bias_std: sigma_b >= 0, likewise.
        order: Of the quadrature, where the activation has no closed form
            (`kernel.recursion.dual_of`).

    Returns:
        The network; called on inputs (n1, ...) and (n2, ...) it gives its `nngp` and `ntk`, (n1,
        n2) each.

    Raises:
        InputError: If depth is no positive whole number, or a scale is out of its range.

    Examples:
        >>> network = nm.fully_connected_ntk(depth=1, weight_std=(2**0.5, 1.0))
        >>> x = jnp.eye(2)
        >>> bool(jnp.allclose(network(x).ntk, nm.infinite_ntk(x, trainable="all")))
        True
    """
    depth, order = check_whole("depth", depth), check_whole("order", order, example=80)
    check_elementwise(activation)
    what = f"the scales of {in_short(depth)} layers"
    check_fits(4 * depth, what, "use a smaller depth", host=True)
    stds = []
    for name, std, strict in (("weight_std", weight_std, True), ("bias_std", bias_std, False)):
        check_positive(name, std, strict=strict)
        std = tuple(float(s) for s in np.atleast_1d(np.asarray(std, float)))
        std = std * (depth + 1) if len(std) == 1 else std
        if len(std) != depth + 1:
            raise InputError(
                f"{name} must be one number or {depth + 1}, one per layer, got {len(std)}; give "
                "one "
                "for all layers."
            )
        stds.append(std)
    return FullyConnected(stds[0], stds[1], dual_of(activation, order))

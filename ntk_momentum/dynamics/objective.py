"""What a flow descends: the loss over weights, or the pseudo-loss over errors.

Both are a position w with a gradient, a residual Delta(w) and a kernel H(w), so one solver and one
set of read-outs serve the weight dynamics (2.2, 3.2, 4.2) and the error dynamics (2.5, 3.5, 4.3).
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree, Shaped

from ..errors import InputError
from ..kernel import empirical_ntk, sliding
from ..kernel.patterns import kink, slope_gram
from ..kernel.tangent import jvp
from ..kernel.two_layer import two_layer_ntk
from ..loss import Loss, output_gradient, squared
from ..method import State
from ..method.base import Number
from ..network.neurons import neuron_major, pullback
from ..network.two_layer import TwoLayerNet, outputs


class AbstractProblem(eqx.Module):
    """A position w, its gradient, and what the paper reads off it.

    Subclasses implement the abstract methods; what a network alone has is refused by name.
    """

    @abc.abstractmethod
    def gradient(self, w: PyTree) -> PyTree:
        """The gradient that drives the flow, shaped like w."""

    @abc.abstractmethod
    def residual(self, w: PyTree) -> Float[Array, n * k]:
        """Delta: f - y for the squared loss, dL/df for any other."""

    @abc.abstractmethod
    def velocity(self, w: PyTree, rate: PyTree) -> Float[Array, n * k]:
        """df/dt = J dw/dt."""

    @abc.abstractmethod
    def kernel(self, w: PyTree) -> Float[Array, "nk nk"]:
        """H at w, over samples and outputs flattened together."""

    @abc.abstractmethod
    def lambda_max(self, w: PyTree) -> Float[Array, ""]:
        """The largest eigenvalue of H at w, to the few digits that a step size needs."""

    @abc.abstractmethod
    def inner(self, v: PyTree, u: PyTree) -> Float[Array, ""]:
        """The Euclidean product of two changes of the weights, for errors that of the least weights
        behind them."""

    def residual_size(self, w: PyTree) -> int:
        """Entries of Delta, by shape."""
        return jax.eval_shape(self.residual, w).size

    @property
    def loss_function(self) -> Loss:
        """L(f, y)."""
        return squared

    def value(self, w: PyTree) -> Float[Array, ""]:
        """The loss at w; the paper's half-sum of squares unless a problem says otherwise."""
        return 0.5 * jnp.sum(jnp.square(self.residual(w)))

    def f(self, w: PyTree) -> Float[Array, n * k]:
        """Predictions on the training inputs."""
        raise self._no_network()

    def whole(self, w: PyTree) -> Any:
        """The model as the user gave it, with the weights w; None where there is none."""
        return None

    def lift_change(self, change: PyTree) -> PyTree:
        """A change of w, or its velocity, in the user's coordinates."""
        return change

    def orthonormal(self, change: PyTree) -> PyTree:
        """A change of w in coordinates that keep its length."""
        return change

    def preactivations(self, w: PyTree) -> Float[Array, "n m"]:
        """z_ir = w_r . x_i; linear in w, so also their velocities."""
        raise self._no_network()

    def outer(self, w: PyTree) -> Float[Array, " m"]:
        """s a_r, with which the neurons of a two-layer net enter f."""
        raise self._no_network()

    def gram(self) -> Float[Array, "n n"]:
        """X X^T of the inputs as the user gave them."""
        raise self._no_network()

    def slide(self, w: PyTree) -> tuple[Float[Array, "n n"], Int[Array, ""]]:
        """(H, pairs held) where neurons may slide along kinks."""
        raise self._no_network()

    def kinks(self, w: PyTree) -> tuple[float, float, float] | None:
        """The slopes at a kink along which neurons may slide; None where none is known."""
        return None

    def why_not_counted(self, state: State) -> str | None:
        """Where the kinks' impulses are counted one by one, if that is not here; else None."""
        return "on networks only"

    def pull(self, w: PyTree, cotangent: Callable[[Array], Array]) -> PyTree:
        """J^T u for u = cotangent(f), shaped like w."""
        raise self._no_network()

    def _no_network(self) -> InputError:
        return InputError(
            "the error dynamics has no network; read 'residual' instead of 'f', and "
            "leave out flips "
            "and displacement."
        )

    @abc.abstractmethod
    def relative_error(
        self, state: State, error: State, lambda_max: Number, floor: Number
    ) -> Float[Array, ""]:
        """An error of (w, v) as an error of f, relative to the size of the motion: one number,
        blind to padding and batching.

        The size is at least `floor` times |f|, see `roundoff`: a run that has converged stays so.

        Measured in f, since a neuron on its kink makes a jump of order m^{-1/2} in w but only 1/m
        in f.
        """


def roundoff(tol: Any, dtype: Any) -> Any:
    """The residual, as a share of |f|, below which a relative error of `tol` is round-off of f.

    f is known to some eps |f| (two are taken), so a residual r to eps |f| / r of itself; asked for
    more, a solver that has converged would shrink its steps without end.
    """
    return 2 * jnp.finfo(dtype).eps / tol


def norm(tree: PyTree) -> Float[Array, ""]:
    """Euclidean norm of all leaves together; zero for a tree without leaves, such as the momentum
    of a first-order flow."""
    return jnp.sqrt(sum((jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)), start=0.0))


class Metric(eqx.Module):
    """What makes preactivations z = W X^T, rows z_r (n,), coordinates of the hidden weights:
    |dw_r|^2 = dz_r . gram^{-1} dz_r.

    gram: X X^T; root: a square root of its inverse, so that dz_r root has the length of dw_r. f
    needs no product, and the gradient of f in z is multiplied by gram.
    """

    gram: Float[Array, "n n"]
    root: Float[Array, "n n"]


class WeightProblem(AbstractProblem):
    """The loss L(f(w), y) over the trained part w of a model.

    frozen: the rest of the model; trained: the tree of booleans that tells which leaf belongs to w.
    span: where the model is a two-layer net in other coordinates of the span of its inputs, the way
    back (`span.Span`). metric: where these are the preactivations; X is then the identity.
    """

    frozen: Any
    trained: PyTree
    X: Shaped[Array, "n ..."]
    y: Shaped[Array, "n ..."]
    loss: Loss = eqx.field(static=True)
    span: Any = None
    metric: Metric | None = None

    def model(self, w: PyTree) -> Any:
        """The model with w put back in place; it takes the inputs X of this problem."""
        return eqx.combine(w, self.frozen)

    def whole(self, w: PyTree) -> Any:
        """The model as the user gave it, with the weights w: `model`, lifted out of the span of the
        data."""
        return self.model(w) if self.span is None else self.span.lift(self.model(w))

    def f(self, w: PyTree) -> Float[Array, n * k]:
        """Predictions on the training inputs."""
        net = self.model(w)
        if self.metric is None:
            return outputs(net, self.X)
        return net.scale * (net.output @ net.activation(net.hidden))

    def lift_change(self, change: PyTree) -> PyTree:
        return change if self.span is None else self.span.lift_change(change)

    def orthonormal(self, change: PyTree) -> PyTree:
        if self.metric is None or change is None or change.hidden is None:
            return change
        return eqx.tree_at(lambda net: net.hidden, change, change.hidden @ self.metric.root)

    @property
    def loss_function(self) -> Loss:
        return self.loss

    def residual_size(self, w: PyTree) -> int:
        return jax.eval_shape(self.f, w).size

    def value(self, w: PyTree) -> Float[Array, ""]:
        return self.loss(self.f(w), self.y)

    def preactivations(self, w: PyTree) -> Float[Array, "n m"]:
        net = self._two_layer(w)
        if self.metric is not None:
            return net.hidden.T
        return self.X.reshape(self.X.shape[0], -1) @ net.hidden.T

    def outer(self, w: PyTree) -> Float[Array, " m"]:
        """s a_r, with which the neurons of a two-layer net enter f."""
        net = self._two_layer(w)
        return net.scale * net.output

    def _two_layer(self, w: PyTree) -> TwoLayerNet:
        net = self.model(w)
        if not isinstance(net, TwoLayerNet):
            raise InputError(
                "flips and impulses follow the signs of w_r . x_i and need a TwoLayerNet, got a "
                f"{type(net).__name__}; leave them out of readouts."
            )
        return net

    def gram(self) -> Float[Array, "n n"]:
        if self.metric is not None:
            return self.metric.gram
        X = self.X.reshape(self.X.shape[0], -1)
        return X @ X.T

    def why_not_counted(self, state: State) -> str | None:
        net = self.model(state.w)
        if not isinstance(net, TwoLayerNet):
            return f"for a TwoLayerNet, not for a {type(net).__name__}"
        if state.v is None:
            return "on velocities, so for flows with momentum only"
        if net.activation is not jax.nn.relu:
            return "for the activation jax.nn.relu alone"
        if len(jax.tree.leaves(state.w)) != 1 or state.w.hidden is None:
            return 'where the hidden layer alone is trained, trainable="hidden"'
        return None

    def gradient(self, w: PyTree) -> PyTree:
        return self.pull(w, lambda f: output_gradient(self.loss, f, self.y))

    def pull(self, w: PyTree, cotangent: Callable[[Array], Array]) -> PyTree:
        """J^T u for u = cotangent(f), shaped like w."""
        net = self.model(w)
        if why_not_by_neurons(net, w) is not None:
            f, back = jax.vjp(self.f, w)
            return back(cotangent(f))[0]
        if self.metric is None:
            X = self.X.reshape(self.X.shape[0], -1)
            layers = pullback(
                net.activation,
                X,
                net.hidden,
                net.output,
                lambda f: net.scale * cotangent(net.scale * f),
            )
        else:
            layers = neuron_major(
                net.activation,
                self.metric.gram,
                net.hidden,
                net.output,
                net.scale * cotangent(self.f(w)),
            )
        return eqx.filter(
            eqx.tree_at(lambda net: (net.hidden, net.output), net, layers), self.trained
        )

    def residual(self, w: PyTree) -> Float[Array, n * k]:
        return output_gradient(self.loss, self.f(w), self.y)

    def velocity(self, w: PyTree, rate: PyTree) -> Float[Array, n * k]:
        return jvp(self.f, w, rate)[1]

    def kernel(self, w: PyTree) -> Float[Array, "nk nk"]:
        net = self.model(w)
        if self.metric is not None:
            return self._kernel_of_preactivations(net, self.metric.gram)
        kernel = empirical_ntk(net, self.X, trainable=self.trained, output="full")
        size = math.prod(kernel.shape[: kernel.ndim // 2])
        return kernel.reshape(size, size)

    def _kernel_of_preactivations(
        self, net: TwoLayerNet, gram: Float[Array, "n n"]
    ) -> Float[Array, "n n"]:
        """(2.8) from the preactivations."""
        kernel = jnp.zeros_like(self.X)
        if self.trained.hidden:
            kernel = (
                net.scale**2
                * gram
                * slope_gram(net.activation, self.X, None, net.hidden, net.output)
            )
        if self.trained.output:
            kernel = kernel + two_layer_ntk(net, self.X, hidden=False, output=True)
        return kernel

    def kinks(self, w: PyTree) -> tuple[float, float, float] | None:
        """The slopes at the kink on which `slide` knows how neurons are held, see
        `kernel.patterns.kink`; None where it does not know."""
        net = self.model(w)
        if (
            not isinstance(net, TwoLayerNet)
            or self.loss is not squared
            or len(jax.tree.leaves(w)) != 1
            or w.hidden is None
        ):
            return None
        return kink(net.activation, net.output.dtype)

    def slide(self, w: PyTree) -> tuple[Float[Array, "n n"], Int[Array, ""]]:
        """(H, pairs held) of the gradient flow at w: J has Filippov's slopes where a kink holds a
        neuron, so Delta' = -H Delta there too.

        For the hidden layer of a two-layer net with a kink at zero and the squared loss; raises
        `InputError` otherwise.
        """
        net, ends = self.model(w), self.kinks(w)
        if ends is None:
            raise InputError(
                "sliding read-outs need a TwoLayerNet that is linear on both sides of "
                "a kink at zero, only its hidden layer trained, "
                "and the squared loss; leave them out."
            )
        X = self.X.reshape(self.X.shape[0], -1)
        gram = X @ X.T if self.metric is None else self.metric.gram
        z = X @ net.hidden.T if self.metric is None else net.hidden.T
        window = 0.2 / (
            net.scale**2 * jnp.sum(net.output**2) * jnp.trace(gram)
        )  # within a fifth of the fastest mode's time
        slopes, stays = sliding.held(
            gram, z, -net.scale * self.residual(w), net.output, *ends[:2], window
        )
        return net.scale**2 * gram * ((slopes * net.output[None, :] ** 2) @ slopes.T), jnp.sum(
            stays
        )

    def lambda_max(self, w: PyTree) -> Float[Array, ""]:
        f, net = jax.eval_shape(self.f, w), self.model(w)
        if (
            isinstance(net, TwoLayerNet) and f.size <= 60 * net.hidden.shape[1]
        ):  # 2 n^2 m flops for H, 20 times 6 n m p without it
            H = self.kernel(w)
            product = lambda u: (H @ u.reshape(-1)).reshape(u.shape)
        else:
            product = lambda u: self.velocity(w, self.pull(w, lambda f: u))

        def power(_: Array, u: Array) -> Array:
            u = product(u)
            return u / norm(u)

        return norm(
            product(jax.lax.fori_loop(0, 20, power, jnp.full(f.shape, f.size**-0.5, f.dtype)))
        )

    def inner(self, v: PyTree, u: PyTree) -> Float[Array, ""]:
        pairs = zip(
            jax.tree.leaves(self.orthonormal(v)), jax.tree.leaves(self.orthonormal(u)), strict=True
        )
        return sum((jnp.sum(a * b) for a, b in pairs), start=jnp.zeros(()))

    def relative_error(
        self, state: State, error: State, lambda_max: Number, floor: Number
    ) -> Float[Array, ""]:
        f, moved = jvp(self.f, state.w, error.w)
        size = jnp.sqrt(
            norm(output_gradient(self.loss, f, self.y)) ** 2 + norm(self.orthonormal(state.v)) ** 2
        )
        size = jnp.maximum(size, floor * norm(f))
        momentum = None if error.v is None else self.velocity(state.w, error.v)
        return (norm(moved) + norm(momentum) / jnp.sqrt(lambda_max)) / size


def why_not_by_neurons(model: Any, w: PyTree) -> str | None:
    """Why J^T u is taken by autodiff and not as the sum over neurons of `neurons.pullback`, or None
    when it is that."""
    if not isinstance(model, TwoLayerNet):
        return "the model is no TwoLayerNet"
    return None if w.scale is None else "the scale is trained"


class ErrorProblem(AbstractProblem):
    """The pseudo-loss Delta . H Delta / 2 over the error itself, with a constant kernel H (n,
    n)."""

    matrix: Float[Array, "n n"]

    def gradient(self, w: PyTree) -> PyTree:
        return self.matrix @ w

    def residual(self, w: PyTree) -> Float[Array, n * k]:
        return w

    def velocity(self, w: PyTree, rate: PyTree) -> Float[Array, n * k]:
        return rate

    def kernel(self, w: PyTree) -> Float[Array, "nk nk"]:
        return self.matrix

    def lambda_max(self, w: PyTree) -> Float[Array, ""]:
        return jnp.linalg.eigvalsh(self.matrix)[-1]

    def inner(self, v: PyTree, u: PyTree) -> Float[Array, ""]:
        eigenvalues, vectors = jnp.linalg.eigh(
            self.matrix
        )  # Delta = J w: products of w = J^T H^{-1} Delta
        seen = eigenvalues > jnp.finfo(v.dtype).eps * eigenvalues[-1]
        return jnp.sum(
            jnp.where(
                seen, (vectors.T @ v) * (vectors.T @ u) / jnp.where(seen, eigenvalues, 1.0), 0.0
            )
        )

    def relative_error(
        self, state: State, error: State, lambda_max: Number, floor: Number
    ) -> Float[Array, ""]:
        # Delta itself is the position here, and known to eps of itself however small it is
        size = jnp.sqrt(norm(state.w) ** 2 + norm(state.v) ** 2 / lambda_max)
        return (norm(error.w) + norm(error.v) / jnp.sqrt(lambda_max)) / size

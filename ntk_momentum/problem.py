"""What a flow descends: the loss over weights, or the pseudo-loss over errors.

Both are a position w with a gradient, a residual Delta(w) and a kernel H(w), so one solver and one set of read-outs serve
the weight dynamics (2.2, 3.2, 4.2) and the error dynamics (2.5, 3.5, 4.3).
"""

from __future__ import annotations

import abc
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from .errors import InputError
from .kernel import empirical_ntk
from .loss import Loss, output_gradient
from .method import State
from .network import TwoLayerNet, outputs


class AbstractProblem(eqx.Module):
    """A position w, its gradient, and what the paper reads off it."""

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
    def relative_error(self, state: State, error: State, lambda_max: Float[Array, ""]) -> Float[Array, ""]:
        """An error of (w, v) as an error of f, relative to the size of the motion: one number, blind to padding and batching.

        Measured in f, since a neuron on its kink makes a jump of order m^{-1/2} in w but only 1/m in f.
        """


def norm(tree: PyTree) -> Float[Array, ""]:
    """Euclidean norm of all leaves together; zero for a tree without leaves, such as the momentum of a first-order flow."""
    return jnp.sqrt(sum((jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)), start=0.0))


class WeightProblem(AbstractProblem):
    """The loss L(f(w), y) over the trained part w of a model.

    frozen: the rest of the model; trained: the tree of booleans that tells which leaf belongs to w.
    """

    frozen: Any
    trained: PyTree
    X: Float[Array, "n ..."]
    y: Float[Array, n * k]
    loss: Loss = eqx.field(static=True)

    def model(self, w: PyTree) -> Any:
        """The whole model with w put back in place."""
        return eqx.combine(w, self.frozen)

    def f(self, w: PyTree) -> Float[Array, n * k]:
        """Predictions on the training inputs."""
        return outputs(self.model(w), self.X)

    def value(self, w: PyTree) -> Float[Array, ""]:
        """L(f(w), y)."""
        return self.loss(self.f(w), self.y)

    def gradient(self, w):
        f, pullback = jax.vjp(self.f, w)
        return pullback(output_gradient(self.loss, f, self.y))[0]

    def residual(self, w):
        return output_gradient(self.loss, self.f(w), self.y)

    def velocity(self, w, rate):
        return jax.jvp(self.f, (w,), (rate,))[1]

    def kernel(self, w):
        kernel = empirical_ntk(self.model(w), self.X, trainable=self.trained, output="full")
        size = self.y.size
        return kernel.reshape(size, size)

    def lambda_max(self, w):
        f, pushforward = jax.linearize(self.f, w)
        pullback = jax.linear_transpose(pushforward, w)

        def power(_, u):
            u = pushforward(pullback(u)[0])
            return u / norm(u)

        start = jnp.ones_like(f) / f.size**0.5
        u = jax.lax.fori_loop(0, 20, power, start)
        return norm(pullback(u)[0]) ** 2

    def relative_error(self, state, error, lambda_max):
        f, pushforward = jax.linearize(self.f, state.w)
        size = jnp.sqrt(norm(output_gradient(self.loss, f, self.y)) ** 2 + norm(state.v) ** 2)
        momentum = None if error.v is None else pushforward(error.v)
        return (norm(pushforward(error.w)) + norm(momentum) / jnp.sqrt(lambda_max)) / size


class ErrorProblem(AbstractProblem):
    """The pseudo-loss Delta . H Delta / 2 over the error itself, with a constant kernel H (n, n)."""

    matrix: Float[Array, "n n"]

    def gradient(self, w):
        return self.matrix @ w

    def residual(self, w):
        return w

    def velocity(self, w, rate):
        return rate

    def kernel(self, w):
        return self.matrix

    def lambda_max(self, w):
        return jnp.linalg.eigvalsh(self.matrix)[-1]

    def relative_error(self, state, error, lambda_max):
        size = jnp.sqrt(norm(state.w) ** 2 + norm(state.v) ** 2 / lambda_max)
        return (norm(error.w) + norm(error.v) / jnp.sqrt(lambda_max)) / size


@functools.singledispatch
def activation_pattern(model: Any, X: Float[Array, "n ..."]) -> Bool[Array, "n m"]:
    """Which neurons are active on which samples, w_r . x_i > 0. Known for the two-layer net only."""
    raise InputError(
        f"flips count sign changes of w_r . x_i and need a TwoLayerNet, got a {type(model).__name__}; leave 'flips' out of readouts."
    )


@activation_pattern.register
def _(model: TwoLayerNet, X):
    return X.reshape(X.shape[0], -1) @ model.hidden.T > 0

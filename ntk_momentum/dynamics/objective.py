"""What a flow descends: the loss over weights, or the pseudo-loss over errors.

Both are a position w with a gradient, a residual Delta(w) and a kernel H(w), so one solver and one
set of read-outs serve the weight dynamics (2.2, 3.2, 4.2) and the error dynamics (2.5, 3.5, 4.3).
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree, Shaped

from ..errors import InputError
from ..kernel import empirical_ntk
from ..kernel.tangent import jvp
from ..loss import Loss, output_gradient, squared
from ..method import State
from ..method.base import Number
from ..network.model import outputs
from .coordinates import Decomposition


class AbstractProblem(eqx.Module):
    """A position w, its gradient, and what the paper reads off it.

    Subclasses implement the abstract methods; what a network alone has is refused by name, and
    what a sum over neurons alone has is answered by None. Integrators, coordinates and read-outs
    ask the problem, never what class its model is of.
    """

    default_readouts: ClassVar[tuple[str, ...]] = ("residual", "velocity", "loss", "pseudo_loss")
    """The read-outs by default, by name."""

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

    def gram(self) -> Float[Array, "n n"]:
        """X X^T of the inputs as the user gave them."""
        raise self._no_network()

    def pull(self, w: PyTree, cotangent: Callable[[Array], Array]) -> PyTree:
        """J^T u for u = cotangent(f), shaped like w."""
        raise self._no_network()

    def decompose(self, w: PyTree) -> Decomposition | None:
        """The decomposition of the inputs by which `within` turns w; None where it leaves w."""
        return None

    def within(
        self, w: PyTree, inputs: Decomposition | None = None, *, preactivations: bool = False
    ) -> tuple[AbstractProblem, PyTree]:
        """The problem and w in coordinates of the span of the inputs, or as they are where that
        cannot be done or is not worth it.

        For flows, and for optimizers that commute with rotations of w, as all of `method` do and
        those that scale coordinates one by one do not. Read-outs see no coordinates
        (`readout.Snapshot`), so any of them may be read off.

        Args:
            w: the trained weights.
            inputs: what `decompose` gave before, where it is known: it decides the coordinates to
                the last bit.
            preactivations: go on to W X^T where the inputs are independent and well conditioned,
                for those who move weights along J^T u alone: Runge-Kutta solvers, and optimizers
                linear in the gradient.
        """
        return self, w

    def neurons(self, w: PyTree) -> tuple[int, int] | None:
        """(m, columns of the hidden weights in these coordinates) of a sum over neurons; None for
        any other model."""
        return None

    def preactivations(self, w: PyTree) -> Float[Array, "n m"]:
        """z_ir = w_r . x_i; linear in w, so also their velocities."""
        raise self._no_neurons(w)

    def outer(self, w: PyTree) -> Float[Array, " m"]:
        """s a_r, with which the neurons of a two-layer net enter f."""
        raise self._no_neurons(w)

    def slide(self, w: PyTree) -> tuple[Float[Array, "n n"], Int[Array, ""]]:
        """(H, pairs held) where neurons may slide along kinks."""
        raise self._no_neurons(w)

    def why_not_counted(self, state: State) -> str | None:
        """Where the kinks' impulses are counted one by one, if that is not here; else None."""
        return "on networks only"

    def why_not_linear(self, w: PyTree) -> str | None:
        """Why f is not linear in w wherever no w_r . x_i changes sign, with the squared loss, so
        that (2.5), (3.5) and (4.3) hold from kink to kink; None where it is."""
        return "it solves weight dynamics; a constant kernel has the closed form nm.predict"

    def kinks(self, w: PyTree) -> tuple[float, float, float] | None:
        """(slope below, slope above, derivative by autodiff at the kink) of the activation where
        f is that linear; else None."""
        return None

    def _no_neurons(self, w: PyTree) -> InputError:
        """What to say where the preactivations of neurons are asked for and there are none."""
        return self._no_network()

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


class WeightProblem(AbstractProblem):
    """The loss L(f(w), y) over the trained part w of any model.

    frozen: the rest of the model; trained: the tree of booleans that tells which leaf belongs to w.
    A sum over neurons has a problem of its own, `two_layer.NeuronProblem`.
    """

    default_readouts: ClassVar[tuple[str, ...]] = (
        *("f", "loss", "pseudo_loss", "lambda_min", "lambda_max", "kernel_drift", "displacement"),
    )

    frozen: Any
    trained: PyTree
    X: Shaped[Array, "n ..."]
    y: Shaped[Array, "n ..."]
    loss: Loss = eqx.field(static=True)

    def model(self, w: PyTree) -> Any:
        """The model with w put back in place; it takes the inputs X of this problem."""
        return eqx.combine(w, self.frozen)

    def whole(self, w: PyTree) -> Any:
        return self.model(w)

    def f(self, w: PyTree) -> Float[Array, n * k]:
        """Predictions on the training inputs."""
        return outputs(self.model(w), self.X)

    @property
    def loss_function(self) -> Loss:
        return self.loss

    def residual_size(self, w: PyTree) -> int:
        return jax.eval_shape(self.f, w).size

    def value(self, w: PyTree) -> Float[Array, ""]:
        return self.loss(self.f(w), self.y)

    def gram(self) -> Float[Array, "n n"]:
        X = self.X.reshape(self.X.shape[0], -1)
        return X @ X.T

    def gradient(self, w: PyTree) -> PyTree:
        return self.pull(w, lambda f: output_gradient(self.loss, f, self.y))

    def pull(self, w: PyTree, cotangent: Callable[[Array], Array]) -> PyTree:
        f, back = jax.vjp(self.f, w)
        return back(cotangent(f))[0]

    def residual(self, w: PyTree) -> Float[Array, n * k]:
        return output_gradient(self.loss, self.f(w), self.y)

    def velocity(self, w: PyTree, rate: PyTree) -> Float[Array, n * k]:
        return jvp(self.f, w, rate)[1]

    def kernel(self, w: PyTree) -> Float[Array, "nk nk"]:
        kernel = empirical_ntk(self.model(w), self.X, trainable=self.trained, output="full")
        size = math.prod(kernel.shape[: kernel.ndim // 2])
        return kernel.reshape(size, size)

    def why_not_counted(self, state: State) -> str | None:
        return f"for a TwoLayerNet, not for a {type(self.model(state.w)).__name__}"

    def why_not_linear(self, w: PyTree) -> str | None:
        return f"it needs a TwoLayerNet, got a {type(self.model(w)).__name__}"

    def _no_neurons(self, w: PyTree) -> InputError:
        return InputError(
            "flips, impulses and sliding follow the signs of w_r . x_i and need a TwoLayerNet, got "
            f"a {type(self.model(w)).__name__}; leave them out of readouts."
        )

    def lambda_max(self, w: PyTree) -> Float[Array, ""]:
        f, product = jax.eval_shape(self.f, w), self._product(w)
        # one loop, in which the product is compiled once
        start = jnp.full(f.shape, f.size**-0.5, f.dtype)
        power = lambda _, u: product(u / norm(u))
        return norm(jax.lax.fori_loop(0, 21, power, start))

    def _product(self, w: PyTree) -> Callable[[Array], Array]:
        """u -> H u."""
        return lambda u: self.velocity(w, self.pull(w, lambda f: u))

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

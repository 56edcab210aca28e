"""The loss of a sum over neurons, f(x) = s sum_r a_r sigma(w_r . x) (section 2), as a problem: what
is special about the paper's network, in one place.

J^T u and H are sums over neurons (`network.neurons`, (2.8)); the hidden weights may be turned with
the inputs (`coordinates`); neurons cross kinks where w_r . x_i = 0, slide along them, and feel
their impulses. Any model that says `sums_neurons` comes here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from ..errors import InputError, concrete
from ..kernel import sliding
from ..kernel.patterns import kink, slope_gram
from ..kernel.two_layer import two_layer_ntk
from ..loss import squared
from ..method import State
from ..network.neurons import neuron_major, pullback
from ..products import product
from .coordinates import WORTH, Decomposition, Metric, Span, decompose
from .objective import WeightProblem


class NeuronProblem(WeightProblem):
    """The loss L(f(w), y) over the trained part w of a sum over neurons.

    span: where `within` has turned the hidden weights, the way back. metric: where they are the
    preactivations; X is then the identity.
    """

    default_readouts: ClassVar[tuple[str, ...]] = (*WeightProblem.default_readouts, "flips")

    span: Span | None = None
    metric: Metric | None = None

    def whole(self, w: PyTree) -> Any:
        return self.model(w) if self.span is None else self.span.lift(self.model(w))

    def f(self, w: PyTree) -> Float[Array, " n"]:
        if self.metric is None:
            return super().f(w)
        net = self.model(w)
        return net.scale * (net.output @ net.activation(net.hidden))

    def lift_change(self, change: PyTree) -> PyTree:
        return change if self.span is None else self.span.lift_change(change)

    def orthonormal(self, change: PyTree) -> PyTree:
        if self.metric is None or change is None or change.hidden is None:
            return change
        return eqx.tree_at(lambda net: net.hidden, change, change.hidden @ self.metric.root)

    def gram(self) -> Float[Array, "n n"]:
        return super().gram() if self.metric is None else self.metric.gram

    def neurons(self, w: PyTree) -> tuple[int, int]:
        return self.model(w).hidden.shape

    def preactivations(self, w: PyTree) -> Float[Array, "n m"]:
        hidden = self.model(w).hidden
        if self.metric is not None:
            return hidden.T
        return product(self.X.reshape(self.X.shape[0], -1), hidden.T)

    def outer(self, w: PyTree) -> Float[Array, " m"]:
        net = self.model(w)
        return net.scale * net.output

    def pull(self, w: PyTree, cotangent: Callable[[Array], Array]) -> PyTree:
        if w.scale is not None:  # trained, which `neurons` knows nothing of
            return super().pull(w, cotangent)
        net = self.model(w)
        if self.metric is None:
            layers = pullback(
                net.activation,
                self.X.reshape(self.X.shape[0], -1),
                net.hidden,
                net.output,
                lambda f: net.scale * cotangent(net.scale * f),
                two_slopes(net),
            )
        else:
            layers = neuron_major(
                net.activation,
                self.metric.gram,
                net.hidden,
                net.output,
                net.scale * cotangent(self.f(w)),
                two_slopes(net),
            )
        return eqx.filter(
            eqx.tree_at(lambda net: (net.hidden, net.output), net, layers), self.trained
        )

    def kernel(self, w: PyTree) -> Float[Array, "n n"]:
        if self.metric is None:
            return super().kernel(w)
        # (2.8) from the preactivations
        net, kernel = self.model(w), jnp.zeros_like(self.X)
        if self.trained.hidden:
            slopes = slope_gram(net.activation, self.X, None, net.hidden, net.output)
            kernel = net.scale**2 * self.metric.gram * slopes
        if self.trained.output:
            kernel = kernel + two_layer_ntk(net, self.X, hidden=False, output=True)
        return kernel

    def _product(self, w: PyTree) -> Callable[[Array], Array]:
        # 2 n^2 m flops for H, 20 times 6 n m p without it
        if jax.eval_shape(self.f, w).size > 60 * self.neurons(w)[1]:
            return super()._product(w)
        H = self.kernel(w)
        return lambda u: (H @ u.reshape(-1)).reshape(u.shape)

    def decompose(self, w: PyTree) -> Decomposition | None:
        n, (m, p) = self.X.shape[0], self.neurons(w)
        # Inputs that are being traced have no known rank; beyond m neurons the decomposition would
        # cost more than many evaluations.
        unknown = concrete(self.X) is None and n > WORTH * p
        return None if unknown or min(n, p) > m else decompose(self.X)

    def within(
        self, w: PyTree, inputs: Decomposition | None = None, *, preactivations: bool = False
    ) -> tuple[WeightProblem, PyTree]:
        inputs = self.decompose(w) if inputs is None else inputs
        if inputs is None:
            return self, w
        net, X = self.model(w), self.X.reshape(self.X.shape[0], -1)
        rows, metric = inputs.rows, None
        if preactivations and inputs.full and inputs.left is not None and inputs.sizes is not None:
            # X = left diag(sizes) rows, so z = W X^T has dw_r = dz_r gram^{-1} X, of length
            # |dz_r root|
            root = inputs.left / inputs.sizes[None, :]
            metric = Metric(X @ X.T, jnp.asarray(root, X.dtype))
            span = Span(X.T, jnp.asarray(root @ rows, X.dtype), net.hidden)
            coordinates = jnp.eye(X.shape[0], dtype=X.dtype)
        elif rows.shape[0] <= WORTH * X.shape[1]:
            basis = jnp.asarray(rows, X.dtype).T
            span, coordinates = Span(basis, basis.T, net.hidden), X @ basis
        else:
            return self, w
        small = eqx.tree_at(lambda net: net.hidden, net, net.hidden @ span.into)
        w, frozen = eqx.partition(small, self.trained)
        return NeuronProblem(frozen, self.trained, coordinates, self.y, self.loss, span, metric), w

    def _hidden_alone(self, w: PyTree) -> bool:
        """Whether the hidden layer is trained, and nothing else."""
        return len(jax.tree.leaves(w)) == 1 and w.hidden is not None

    def why_not_linear(self, w: PyTree) -> str | None:
        if not self._hidden_alone(w):
            return "it needs the hidden layer, and only that, to be trained"
        if self.loss is not squared:
            return "it needs the squared loss"
        net = self.model(w)
        if kink(net.activation, net.output.dtype) is None:
            return "it needs an activation that is linear on both sides of a kink at zero"
        return None

    def kinks(self, w: PyTree) -> tuple[float, float, float] | None:
        if self.why_not_linear(w) is not None:
            return None
        net = self.model(w)
        return kink(net.activation, net.output.dtype)

    def why_not_counted(self, state: State) -> str | None:
        if state.v is None:
            return "on velocities, so for flows with momentum only"
        if self.model(state.w).activation is not jax.nn.relu:
            return "for the activation jax.nn.relu alone"
        if not self._hidden_alone(state.w):
            return 'where the hidden layer alone is trained, trainable="hidden"'
        return None

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
        gram, z = self.gram(), self.preactivations(w)
        window = 0.2 / (
            net.scale**2 * jnp.sum(net.output**2) * jnp.trace(gram)
        )  # within a fifth of the fastest mode's time
        slopes, stays = sliding.held(
            gram, z, -net.scale * self.residual(w), net.output, *ends[:2], window
        )
        return net.scale**2 * gram * ((slopes * net.output[None, :] ** 2) @ slopes.T), jnp.sum(
            stays
        )


def two_slopes(net: Any) -> tuple[float, float] | None:
    """The two values of the activation's derivative, or None where it has others, if only at 0."""
    ends = kink(net.activation, net.output.dtype)
    return ends[:2] if ends is not None and ends[2] in ends[:2] else None

"""One moment of a run, as a read-out sees it: everything that is computed from weights and momentum
at a time, when first asked for.

A snapshot offers nothing that depends on the coordinates in which a run is solved (`coordinates`),
so a read-out of one's own costs what the same built-in one costs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..errors import InputError
from ..memory import check_fits
from ..method import AbstractFlow, GradientFlow, State
from .objective import AbstractProblem


class Snapshot:
    """One moment of a run, as a read-out sees it; a run makes them.

    A read-out of one's own is a function of a snapshot with an array as its value. Everything is
    computed when first asked for, once, in whatever coordinates the run is solved in, so that a
    read-out of one's own costs what the built-in one costs. Symbols are those of section 2: f,
    Delta = f - y, L, H.

    Args:
        problem: What is descended.
        flow: The flow; None in discrete training.
        t: The time, or the number of steps taken in discrete training.
        state: Weights and momentum, in the coordinates of the problem.
        start: The snapshot at t = 0; itself where None.
        reference: The kernel that H(t) is compared with, what computes it, or None.

    Raises:
        InputError: Where a read-out asks for what this run does not have, as dw/dt in discrete
            training.

    Examples:
        The share of the loss in the slowest mode of H(t):

        >>> def slowest(s):
        ...     vectors = jnp.linalg.eigh(s.kernel)[1]
        ...     return 0.5 * (vectors[:, 0] @ s.residual) ** 2 / s.loss
        >>> data = nm.sphere(5, 3, key=jax.random.key(0))
        >>> net = nm.init_two_layer(64, 3, key=jax.random.key(1))
        >>> run = nm.simulate(net, data, nm.GradientFlow(), [1.0, 4.0], readouts={"share": slowest})
        >>> bool(run.share[1] > run.share[0])
        True
    """

    def __init__(
        self,
        problem: AbstractProblem,
        flow: AbstractFlow | None,
        t: Array,
        state: State,
        start: Snapshot | None = None,
        reference: Array | Callable[[], Array] | None = None,
    ):
        self._problem, self._state, self._reference = problem, state, reference
        self.flow, self.t, self.start = flow, t, start or self

    @cached_property
    def f(self) -> Float[Array, n * k]:
        """Predictions on the training inputs."""
        return self._problem.f(self._state.w)

    @cached_property
    def loss(self) -> Float[Array, ""]:
        """L(f, y)."""
        return self._problem.value(self._state.w)

    @cached_property
    def residual(self) -> Float[Array, n * k]:
        """Delta = f - y (dL/df for other losses)."""
        return self._problem.residual(self._state.w)

    @cached_property
    def velocity(self) -> Float[Array, n * k]:
        """dDelta/dt = J dw/dt."""
        return self._problem.velocity(self._state.w, self._rate)

    @cached_property
    def kernel(self) -> Float[Array, "nk nk"]:
        """H(t), over samples and outputs flattened together."""
        entries = self._problem.residual_size(self._state.w)
        check_fits(
            3 * entries**2,
            f"the kernel over {entries} outputs of all samples, which a read-out asks for,",
            "choose read-outs that need none, such as readouts=['loss', 'f']",
            of=jax.tree.leaves(self._state.w)[0],
        )
        return self._problem.kernel(self._state.w)

    @cached_property
    def eigenvalues(self) -> Float[Array, " nk"]:
        """Of H(t), ascending."""
        return jnp.linalg.eigvalsh(self.kernel)

    def apply_kernel(self, u: Float[Array, n * k]) -> Float[Array, n * k]:
        """H(t) u = J (J^T u), without forming H."""
        return self._problem.velocity(self._state.w, self._problem.pull(self._state.w, lambda f: u))

    @cached_property
    def reference(self) -> Float[Array, "nk nk"] | None:
        """The kernel that H(t) is compared with, or None."""
        return self._reference() if callable(self._reference) else self._reference

    @cached_property
    def model(self) -> Any:
        """The model with its present weights."""
        self._network()
        return self._problem.whole(self._state.w)

    @cached_property
    def momentum(self) -> PyTree:
        """v, shaped like the trained weights; None for flows and methods without one."""
        return self._problem.lift_change(self._state.v)

    @cached_property
    def kinetic_energy(self) -> Float[Array, ""]:
        """|v|^2 / 2."""
        return 0.5 * self._problem.inner(self._state.v, self._state.v)

    @cached_property
    def displacement(self) -> Float[Array, ""]:
        """max_r |w_r(t) - w_r(0)| over the rows of every trained array."""
        moved = jax.tree.map(jnp.subtract, self._state.w, self.start._state.w)
        leaves = jax.tree.leaves(self._problem.orthonormal(moved))
        rows = [
            leaf.reshape(leaf.shape[0], -1) if leaf.ndim else leaf.reshape(1, 1) for leaf in leaves
        ]
        return jnp.max(jnp.stack([jnp.max(jnp.linalg.norm(row, axis=1)) for row in rows]))

    @cached_property
    def preactivations(self) -> Float[Array, "n m"]:
        """z_ir = w_r . x_i of a two-layer net."""
        return self._problem.preactivations(self._state.w)

    @cached_property
    def preactivation_rates(self) -> Float[Array, "n m"]:
        """v_r . x_i, which is dz/dt where the momentum is the velocity."""
        return self._problem.preactivations(self._state.v)

    @cached_property
    def pattern(self) -> Bool[Array, "n m"]:
        """Which neurons are active on which samples, w_r . x_i > 0."""
        return self.preactivations > 0

    @cached_property
    def outer(self) -> Float[Array, " m"]:
        """s a_r, with which the neurons of a two-layer net enter f."""
        return self._problem.outer(self._state.w)

    @property
    def gram(self) -> Float[Array, "n n"]:
        """X X^T of the inputs."""
        return self._problem.gram()

    @cached_property
    def slide(self) -> tuple[Float[Array, "n n"], Int[Array, ""]]:
        """(H, pairs held) of a gradient flow that may slide along kinks, see
        `NeuronProblem.slide`."""
        if not isinstance(self.flow, GradientFlow):
            raise InputError(
                "neurons slide under the gradient flow only; leave out the read-outs 'sliding...'."
            )
        self._network()
        return self._problem.slide(self._state.w)

    @property
    def loss_function(self) -> Any:
        """The loss, L(f, y)."""
        return self._problem.loss_function

    @property
    def has_momentum(self) -> bool:
        """Whether there is a v."""
        return self._state.v is not None

    @cached_property
    def pushed(self) -> Float[Array, n * k]:
        """H dL/df = J grad L."""
        return self._problem.velocity(self._state.w, self._problem.gradient(self._state.w))

    @cached_property
    def speed(self) -> Float[Array, n * k]:
        """J v with momentum, -J grad L without: dDelta/dt where the momentum is the velocity."""
        if self._state.v is None:
            return -self.pushed
        return self._problem.velocity(self._state.w, self._state.v)

    @cached_property
    def slides(self) -> bool:
        """Whether neurons may slide here, and how they do is known."""
        return self._state.v is None and self._problem.kinks(self._state.w) is not None

    @cached_property
    def driving_kernel(self) -> Float[Array, "nk nk"]:
        """H with which the error moves: with Filippov's slopes where neurons slide along kinks."""
        return self._problem.slide(self._state.w)[0] if self.slides else self.kernel

    @property
    def why_not_counted(self) -> str | None:
        """Where the kinks' impulses are counted one by one, if that is not here; else None."""
        return self._problem.why_not_counted(self._state)

    @cached_property
    def _rate(self) -> PyTree:
        """dw/dt, in the coordinates of the problem."""
        if self.flow is None:
            raise InputError(
                "dw/dt exists for flows only; leave 'velocity' and 'lyapunov' out of "
                "the read-outs of a discrete run."
            )
        gradient = self._problem.gradient(self._state.w)
        return self.flow.vector_field(self.t, self._state, gradient).w

    def _network(self) -> None:
        """Raise where there is none."""
        if self._problem.whole(self._state.w) is None:
            self._problem.f(self._state.w)

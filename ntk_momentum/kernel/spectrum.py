"""What a kernel's eigenvalues say about training: H = sum_k lambda_k u_k u_k^T.

For a constant kernel the residual decouples, `Delta(t) = sum_k phi(lambda_k, t) <u_k, Delta(0)>
u_k` (2.5, 3.5, 4.3), so the spectrum and the labels' share in each eigenvector fix every loss
curve. lambda_0 = lambda_min of H-infinity is the constant of Theorems 1-3.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from ..errors import InputError, check_interval, check_positive, check_real, concrete
from ..memory import check_fits, shape_of
from ..progress import OnProgress, with_progress
from . import lanczos
from .lanczos import Modes


class Spectrum(eqx.Module):
    """Eigenvalues in ascending order, eigenvectors in columns, and `shares_k = <u_k, y>^2 / |y|^2`
    of the labels (None without labels).

    From `nm.modes`, or an operator, they are Ritz values and vectors, fewer than n: those that y
    takes part in. Loss curves are as good as there, lambda0 is an upper bound of the smallest
    eigenvalue and lambda_max a lower bound of the largest. A Spectrum takes a kernel's place in
    `predict`, `advise` and `simulate_function`, so that one decomposition serves them all."""

    eigenvalues: Float[Array, " k"]
    eigenvectors: Float[Array, "n k"]
    shares: Float[Array, " k"] | None

    @property
    def lambda0(self) -> Float[Array, ""]:
        """The smallest eigenvalue. Warns where it is less than what the dtype resolves."""
        self.warn_of_precision()
        return self.eigenvalues[0]

    @property
    def lambda_max(self) -> Float[Array, ""]:
        """The largest eigenvalue."""
        return self.eigenvalues[-1]

    @property
    def resolution(self) -> Float[Array, ""]:
        """What a kernel's own round-off may move an eigenvalue by, sqrt(n) eps lambda_max, by which
        independent errors of its entries add up."""
        n = len(self.eigenvectors)
        return n**0.5 * jnp.finfo(self.eigenvalues.dtype).eps * self.eigenvalues[-1]

    @property
    def kappa(self) -> Float[Array, ""]:
        """The condition number lambda_max / lambda_0; infinite when lambda_0 <= 0. Warns where the
        dtype does not resolve lambda_0."""
        return jnp.where(
            self.lambda0 > 0,
            self.lambda_max / jnp.where(self.lambda0 > 0, self.lambda0, 1),
            jnp.inf,
        )

    @property
    def effective_rank(self) -> Float[Array, ""]:
        """exp of the entropy of lambda / tr H (Roy and Vetterli 2007): n for a multiple of the
        identity, 1 for rank one."""
        self._needs_all("effective_rank")
        share = jnp.maximum(self.eigenvalues, 0) / jnp.sum(jnp.maximum(self.eigenvalues, 0))
        return jnp.exp(
            -jnp.sum(jnp.where(share > 0, share * jnp.log(jnp.where(share > 0, share, 1)), 0))
        )

    @property
    def alignment(self) -> Float[Array, ""]:
        """`<H, y y^T> / (|H|_F |y|^2)` (Cristianini et al. 2001): 1 when H = c y y^T, 1/sqrt(n) for
        the identity."""
        self._needs_all("alignment")
        return jnp.sum(self.eigenvalues * self._labels()) / jnp.linalg.norm(self.eigenvalues)

    def loss(self, flow: Any, ts: ArrayLike) -> Float[Array, " times"]:
        """L(t) / L(0) from Delta(0) = -y, at rest; without labels, of the slowest mode. flow: any
        object with `mode(eigenvalue, t)`."""
        eigenvalues, shares = (
            (self.eigenvalues[:1], jnp.ones(1))
            if self.shares is None
            else (self.eigenvalues, self.shares)
        )
        phi, _ = flow.mode(
            jnp.maximum(eigenvalues, 0)[None, :], jnp.asarray(ts, eigenvalues.dtype)[:, None]
        )
        return jnp.square(phi) @ shares.astype(phi.dtype)

    def time_to(self, epsilon: float, flow: Any) -> float:
        """The time from which on L(t) <= epsilon L(0); infinite when L never stays below, as when a
        component that the kernel cannot see keeps it above, or nothing damps it.

        Args:
            epsilon: The share of the initial loss, in (0, 1).
            flow: Any object with `mode(eigenvalue, t)` and `fastest_rate(lambda_max)`.

        Returns:
            The time, between two points of a grid by interpolation of log L.

        Raises:
            InputError: If epsilon is out of its range.
        """
        check_interval(
            "epsilon", epsilon, 5e-324, 1.0, "It is the share of the initial loss that may remain."
        )
        fastest = float(flow.fastest_rate(self.lambda_max))
        # Before 1e-3 of the fastest time next to nothing is lost. Ratio 1.006 and the end at 1e15
        # are chosen, not measured. L has to stay below for three times as long: see `advise`.
        first, last = 1e-3 / fastest, 0.0
        low = first
        while low * fastest < 1e15:
            ts = low * np.geomspace(1, 1e5, 2**11)
            last = self._last_above(epsilon, flow, ts, last)
            low = ts[-1]
            if low >= 3 * last:
                break
        else:
            return float("inf")
        # Between points of that grid an oscillation may rise once more. A tenth of the time on, 17
        # points at as many phases have not seen one; there every tenth of a radian is looked at, as
        # far as a few million numbers go.
        most = max(2**11, 2**22 // self.eigenvalues.size)
        count = int(np.clip(last * fastest, 2**7, most))
        ts = np.linspace(last, 1.1 * last if last > 0 else first, count)
        last = self._last_above(epsilon, flow, ts, last)
        after = ts[min(int(np.searchsorted(ts, last, side="right")), count - 1)]
        ends = np.array([last, after])
        losses = np.maximum(np.asarray(self.loss(flow, ends), np.float64), 1e-300)
        return float(np.interp(-np.log(epsilon), -np.log(losses), ends))

    def _last_above(self, epsilon: float, flow: Any, ts: np.ndarray, last: float) -> float:
        """The last of the times with L > epsilon L(0), `last` if there is none."""
        above = np.flatnonzero(~(np.asarray(self.loss(flow, ts), np.float64) <= epsilon))
        return float(ts[above[-1]]) if above.size else last

    def _needs_all(self, name: str) -> None:
        if self.eigenvectors.shape[0] != self.eigenvectors.shape[1]:
            raise InputError(
                f"{name} needs every eigenvalue, and this spectrum holds Ritz values of an error; "
                "take nm.spectrum of the kernel as an array."
            )

    def warn_of_precision(self) -> None:
        """In single precision a remedy exists, so it is named."""
        low, floor = concrete(self.eigenvalues[0]), concrete(self.resolution)
        if low is None or floor is None or low.dtype != np.float32 or low > floor:
            return
        warnings.warn(
            f"float32 resolves eigenvalues of this kernel to about {floor:.2g}, and the smallest "
            f"is {low:.2g}: lambda_0, kappa and the loss at late times are not known. "
            'Try jax.config.update("jax_enable_x64", True) before any array is made.',
            RuntimeWarning,
            stacklevel=3,
        )

    def _labels(self) -> Array:
        if self.shares is None:
            raise InputError("this needs labels: spectrum(kernel, y).")
        return self.shares


@with_progress
def spectrum(
    kernel: Any,
    y: ArrayLike | None = None,
    *,
    products: int = 100,
    progress: OnProgress | bool | None = None,
) -> Spectrum:
    """The spectrum of a kernel, and the shares of labels in its eigenvectors.

        H = sum_k lambda_k u_k u_k^T,  shares_k = <u_k, y>^2 / |y|^2

    For a constant kernel they fix every loss curve, through

        Delta(t) = sum_k phi(lambda_k, t) <u_k, Delta(0)> u_k

    with phi solving (2.5), (3.5) or (4.3).

    Args:
        kernel: (n, n), or (n, k, n, k) with labels (n, k); or an operator on arrays like y, or
            `nm.modes`, for the part of the spectrum that y takes part in.
        y: Labels, (n,) or (n, k); of modes those they were found for.
        products: With an operator, so many products with it.
        progress: Called as progress(products done, products); True for a bar.

    Returns:
        Eigenvalues (ascending), eigenvectors and shares.

    Raises:
        InputError: Unless the kernel is square, symmetric to round-off and finite, and y non-zero
            and of its shape.

    Examples:
        >>> found = nm.spectrum(jnp.diag(jnp.array([1.0, 4.0])), jnp.array([1.0, 1.0]))
        >>> float(found.kappa), found.shares.round(3).tolist()
        (4.0, [0.5, 0.5])
    """
    if isinstance(kernel, Modes):
        if y is not None:
            raise InputError("modes hold the error they were found for; leave y out.")
        return _of_modes(kernel)
    if hasattr(kernel, "mv") and hasattr(kernel, "in_structure"):
        return _of_operator(kernel, y, products, progress is not None)
    check_fits(
        4 * math.prod(shape_of(kernel)),  # the eigenvectors, and what LAPACK works in
        f"the eigenvectors of a kernel of shape {shape_of(kernel)}",
        "use fewer samples, or extreme_eigenvalues for the ends",
        of=kernel,
    )
    check_real("kernel", kernel)
    kernel = jnp.asarray(kernel)
    half = kernel.shape[: kernel.ndim // 2]
    if kernel.ndim not in (2, 4) or kernel.shape != half * 2 or kernel.size == 0:
        raise InputError(
            f"kernel must have shape (n, n) or (n, k, n, k), got {kernel.shape}; pass that of one "
            "set of inputs, such as nm.infinite_ntk(X)."
        )
    H = kernel.reshape(int(np.prod(half)), -1)
    values = concrete(H)
    if (
        values is not None
        and np.abs(values - values.T).max()
        > 1e3
        * np.finfo(values.dtype).eps
        * np.abs(values).max()  # round-off of sums of a million terms
    ):
        raise InputError(
            "kernel must be symmetric, got one that is not; pass the kernel of one set of inputs."
        )
    eigenvalues, eigenvectors = jnp.linalg.eigh(H)
    if y is None:
        return Spectrum(eigenvalues, eigenvectors, None)
    check_real("y", y)
    y = jnp.asarray(y, H.dtype)
    if y.shape != half:
        raise InputError(
            f"y must have the shape {half} of the kernel's samples and outputs, got {y.shape}; "
            "give "
            "one label per sample."
        )
    norm = concrete(jnp.sum(jnp.square(y)))
    if norm is not None and not (np.isfinite(norm) and norm > 0):
        raise InputError(
            "y must not be all zero, got zeros only: they have no share in any eigenvector; leave "
            "y "
            "out."
        )
    return Spectrum(
        eigenvalues,
        eigenvectors,
        jnp.square(eigenvectors.T @ y.reshape(-1)) / jnp.sum(jnp.square(y)),
    )


def _of_modes(found: Modes) -> Spectrum:
    size = jnp.sum(jnp.square(found.start), axis=1)
    return Spectrum(found.values, found.vectors, size / jnp.sum(size))


def _of_operator(operator: Any, y: Any, products: int, told: bool) -> Spectrum:
    check_positive("products", products)
    structure = operator.in_structure()
    if y is None or np.shape(y) != getattr(structure, "shape", None):
        raise InputError(
            "the spectrum of an operator is looked for from y, shaped like what it acts on, "
            f"{getattr(structure, 'shape', structure)}, got "
            f"{None if y is None else np.shape(y)}; for its ends alone take nm.extreme_eigenvalues."
        )
    start = jnp.asarray(y, structure.dtype)
    count = min(int(products), start.size)
    run = lanczos.started(start.reshape(1, -1), count)
    run = lanczos.extend(run, operator, 0, count, told)
    return _of_modes(lanczos.ritz(run, lanczos.exhausted(run, count) or count, start.shape, 1.0))

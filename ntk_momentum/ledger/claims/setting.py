"""The data, the infinite kernel, and trajectories that are computed once for all claims."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ...data import Dataset, load_digits, normalize, sphere
from ...dynamics.simulation import simulate
from ...dynamics.trajectory import Trajectory
from ...errors import InputError, described
from ...kernel import infinite_ntk
from ...method import AbstractFlow, GradientFlow, HeavyBall
from ...network.two_layer import TwoLayerNet, init_two_layer
from ...numerics import Numerics
from ...theory.crossings import Crossings, heavy_ball_crossings


@dataclasses.dataclass(frozen=True)
class Effort:
    """How large the ledger is: samples of the kernel claims and of the network claims, widths,
    seeds, random trials."""

    samples: int
    network_samples: int
    widths: tuple[int, ...]
    seeds: int
    trials: int


EFFORTS = {
    "smoke": Effort(20, 6, (128, 256, 512, 1024, 2048), 4, 200),
    "full": Effort(50, 8, (128, 256, 512, 1024, 2048, 4096), 6, 1000),
}


class Setting:
    """The data and the shared computations of one run of the ledger; everything is computed when
    first asked for."""

    def __init__(
        self,
        size: Literal["smoke", "full"] = "smoke",
        data: Dataset | None = None,
        seed: int = 0,
    ):
        if data is not None and not isinstance(data, Dataset):
            raise InputError(
                f"data must be a Dataset, got {described(data)}; try nm.Dataset(X, y)."
            )
        if data is not None and (not data.unit or data.y.ndim != 1 or data.n < 2):
            norms = np.linalg.norm(np.asarray(data.X).reshape(data.n, -1), axis=1)
            raise InputError(
                "the paper's statements assume |x_i| = 1, targets (n,) and n >= 2, "
                f"got norms from {norms.min():.3g} to {norms.max():.3g}, "
                f"targets {data.y.shape} and n = {data.n}; scale to unit norm, X /= "
                "np.linalg.norm(X, axis=1, keepdims=True), and make "
                'nm.Dataset(X, y), or for --data np.savez("unit.npz", X=X, y=y).'
            )
        if data is not None:  # unit to double precision, whatever the dtype they came in
            data = Dataset(normalize(data.X), np.asarray(data.y, np.float64), name=data.name)
        self.size, self.sizes, self._given, self.seed = size, EFFORTS[size], data, seed
        self._networks: dict[tuple[int, int, bool], TwoLayerNet] = {}
        self._kept: dict[str, Any] = {}

    def rng(self, stream: int) -> np.random.Generator:
        """Random numbers of one claim; every claim has a stream of its own."""
        return np.random.default_rng([self.seed, stream])

    def once(self, name: str, compute: Callable[[], Any]) -> Any:
        """What claims share: computed by the first that asks."""
        if name not in self._kept:
            self._kept[name] = compute()
        return self._kept[name]

    # Data and kernels.

    @cached_property
    def data(self) -> Dataset:
        """Of the kernel claims: the given data, or scikit-learn's digits."""
        if self._given is not None:
            return self._given
        return load_digits(self.sizes.samples, key=jax.random.key(0))

    @cached_property
    def points(self) -> Dataset:
        """Of the network claims: a few samples of the given data, or random points on the
        sphere."""
        n = self.sizes.network_samples
        if self._given is not None:
            return Dataset(
                self._given.X.reshape(self._given.n, -1)[:n],
                self._given.y[:n],
                name=f"{self._given.name}[:{min(n, self._given.n)}]",
            )
        return sphere(n, n, key=jax.random.key(1))

    @cached_property
    def X(self) -> np.ndarray:
        return np.asarray(self.data.X, np.float64).reshape(self.data.n, -1)

    @cached_property
    def kernel(self) -> np.ndarray:
        """H_infinity of `data`."""
        return infinite_kernel(self.X)

    @cached_property
    def eigen(self) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues of H_infinity and the labels -y in its eigenbasis: the error at f = 0."""
        values, vectors = np.linalg.eigh(self.kernel)
        return values, -vectors.T @ np.asarray(self.data.y, np.float64)

    @cached_property
    def points_kernel(self) -> np.ndarray:
        """H_infinity of `points`."""
        return infinite_kernel(np.asarray(self.points.X).reshape(self.points.n, -1))

    @cached_property
    def points_lam0(self) -> float:
        return float(np.linalg.eigvalsh(self.points_kernel)[0])

    @property
    def on_kernel(self) -> str:
        """The instance of the kernel claims, in words."""
        values = self.eigen[0]
        return (
            f"H_inf of {self.data.name} (n = {self.data.n}, lambda0 = {values[0]:.4g}, "
            f"kappa = {values[-1] / values[0]:.4g}), Delta(0) = -y"
        )

    @property
    def on_points(self) -> str:
        return f"{self.points.name} (n = {self.points.n}, lambda0 = {self.points_lam0:.4g})"

    # Networks.

    def network(self, width: int, seed: int, antisymmetric: bool = True) -> TwoLayerNet:
        """The paper's initialisation, or with f = 0; drawn once."""
        named = (width, seed, antisymmetric)
        if named not in self._networks:
            key, p = jax.random.key(1000 * self.seed + seed), self.points.input_size
            self._networks[named] = init_two_layer(
                width, p, key=key, antisymmetric=antisymmetric, dtype=jnp.float64
            )
        return self._networks[named]

    @cached_property
    def crossings(self) -> dict[int, list[Crossings]]:
        """Exact heavy-ball runs at b = sqrt(2 lambda0), from kink to kink, by width; f(0) = 0."""
        b = float(np.sqrt(2 * self.points_lam0))
        return {
            width: [
                heavy_ball_crossings(
                    net.hidden,
                    net.output,
                    self.points.X.reshape(self.points.n, -1),
                    self.points.y,
                    b,
                    8 / b,
                )
                for net in (self.network(width, seed) for seed in range(self.sizes.seeds))
            ]
            for width in self.sizes.widths
        }

    @cached_property
    def initial_distances(self) -> tuple[np.ndarray, np.ndarray]:
        """(widths, ||H(0) - H_inf||_2) over many independent draws of the paper's
        initialisation."""
        rng, X = self.rng(7), np.asarray(self.points.X).reshape(self.points.n, -1)
        gram, distances = X @ X.T, []
        values, vectors = np.linalg.eigh(gram)
        root = vectors * np.sqrt(
            np.maximum(values, 0.0)
        )  # w . x_i jointly: n normals a neuron instead of p
        for width in self.sizes.widths:
            for _ in range(40 * self.sizes.seeds):
                S = (rng.standard_normal((width, self.points.n)) @ root.T >= 0).astype(float)
                distances.append(
                    (width, np.linalg.norm(gram * (S.T @ S) / width - self.points_kernel, 2))
                )
        widths, values = np.array(distances).T
        return widths, values

    @property
    def on_crossings(self) -> str:
        widths = self.sizes.widths
        return (
            f"{self.on_points}; heavy ball with b = sqrt(2 lambda0) to t = 8/b, widths "
            f"{widths[0]}..{widths[-1]}, "
            f"{self.sizes.seeds} antisymmetric seeds each, solved from kink to kink"
        )

    def along_widths(self, quantity: Callable[[Crossings], float]) -> tuple[np.ndarray, np.ndarray]:
        """(widths, values) of a function of a run, over all of `crossings`."""
        pairs = [(width, quantity(run)) for width, runs in self.crossings.items() for run in runs]
        return np.array([w for w, _ in pairs], float), np.array([v for _, v in pairs], float)

    @cached_property
    def wide(self) -> int:
        """The largest width of the network claims."""
        return self.sizes.widths[-1]

    def run(
        self, flow: AbstractFlow, until: float, width: int | None = None, seed: int = 0
    ) -> Trajectory:
        """A simulated network on `points` at 65 times from 0 to `until`, started at f = 0."""
        return _run(self, flow, until, width or self.wide, seed)

    @cached_property
    def gradient_run(self) -> Trajectory:
        return self.run(GradientFlow(), 6 / self.points_lam0)

    @cached_property
    def heavy_ball_run(self) -> Trajectory:
        b = float(np.sqrt(2 * self.points_lam0))
        return self.run(HeavyBall(b), 16 / b)


@jax.jit
def _infinite(X: Any) -> Any:
    return infinite_ntk(X)


def infinite_kernel(X: np.ndarray) -> np.ndarray:
    """H_infinity of the rows of X, padded to one shape so that small sets share a program."""
    n, p = X.shape
    padded = np.zeros((max(n, 32), max(p, 8)))
    padded[:n, :p], padded[n:, 0] = X, 1.0
    return np.asarray(_infinite(padded))[:n, :n]


def predictions(net: TwoLayerNet, hidden: Array, X: Array | np.ndarray) -> Array:
    """f(x_i) of the net with another hidden layer, (n,)."""
    z = X.reshape(X.shape[0], -1) @ hidden.T
    return net.scale * (net.activation(z) @ net.output)


READ = ("f", "loss", "pseudo_loss", "residual", "velocity", "lambda_min", "kernel", "displacement")
SEEN: dict[str, Any] = {
    **{name: name for name in (*READ, "lyapunov")},
    "kinetic": lambda s: s.kinetic_energy if s.has_momentum else jnp.zeros_like(s.t),
}


def _run(setting: Setting, flow: AbstractFlow, until: float, width: int, seed: int) -> Trajectory:
    ts = jnp.linspace(0.0, until, 65)
    # far below the default: the loss of these runs is then known to 1e-3, by refinement
    return simulate(
        setting.network(width, seed),
        setting.points,
        flow,
        ts,
        readouts=SEEN,
        config=Numerics(tol=1e-6),
    )

"""What a kernel's spectrum recommends: step size, momentum, friction and restarts for every method,
and how many steps they will take.

Under a constant kernel each eigenvalue follows its own recursion, so stability limits, rates and
the number of steps to a given loss are known before the first step. The parameters are those of
`best_parameters` on [cut, (1 + margin) lambda_max]: cut = lambda_min is best in the long run; a
larger one spends no effort on eigenvalues that the target does not need.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from ..dynamics import ritz
from ..dynamics.constant_kernel import check_semidefinite, is_operator
from ..dynamics.solver import Sampling
from ..dynamics.training import train
from ..errors import (
    InputError,
    check_choice,
    check_interval,
    check_positive,
    check_real,
    check_whole,
    described,
    no_type_check,
    unknown_name,
)
from ..kernel import Modes, Spectrum, spectrum
from ..method import (
    AbstractOptimizer,
    best_parameters,
    best_restart_period,
    nesterov,
    restarted_nesterov,
)
from ..numerics import Numerics
from ..progress import OnProgress, check_progress
from ..stochastic.levels import few_levels
from ..theory import bounds
from .batches import BatchedKernel
from .steps import count_steps

CUTS = 24
"""Candidates for the eigenvalue from which on a method is tuned, evenly spaced in its logarithm.
Chosen, not measured: for kappa = 1e6 neighbours differ by a factor 1.8, hence rates by 1.3."""
D = np.geomspace(1.0, 100.0, CUTS)
"""Nesterov's constants tried besides the standard 3. Chosen, not measured: a larger d damps
longer, and by 100 the momentum is below 1/2 for the first hundred steps."""
TRIED_STEPS = 20_000
"""Predicted steps up to which `check_advice` tries a method. Chosen, not measured: minutes."""
DRAWS = 16
"""Runs that advice for mini-batches is tried by. Chosen: their mean loss scatters by a quarter
where noise is as large as the loss, and the step at which it stays below a target by less."""
METHODS = (
    "gradient_descent",
    "heavy_ball",
    "constant_nesterov",
    "nesterov",
    "restarted_nesterov",
    "triple_momentum",
)


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """One method with its best parameters for a kernel.

    eta_limit: the step size at which this momentum turns unstable; rate: the factor of the slowest
    mode per step in the long run (nan where it changes from step to step); steps: predicted until
    the loss stays below the target, inf when more than max_steps; peak: the largest loss on the
    way, in units of the initial one, 1 where it never rises above; friction, time_step: of the flow
    it discretises (d/t for Nesterov's); period: steps between restarts.

    On mini-batches eta_limit is where the expected loss turns to grow for ever, steps those of the
    expected loss, epochs and examples what they draw, and critical_batch the smallest batch whose
    limit is within 10 % of the full batch's.
    """

    method: str
    optimizer: AbstractOptimizer
    eta: float
    eta_limit: float
    rate: float
    steps: float
    peak: float = 1.0
    beta: float | None = None
    d: float | None = None
    friction: float | None = None
    time_step: float | None = None
    period: int | None = None
    epochs: float | None = None
    examples: float | None = None
    critical_batch: int | None = None


@dataclasses.dataclass(frozen=True)
class Advice:
    """Recommendations by method, with the spectrum and the target (relative loss) they are for.
    Printed as a table. batch_size: None for the full batch."""

    lambda_min: float
    lambda_max: float
    target: float
    margin: float
    methods: dict[str, Recommendation]
    batch_size: int | None = None
    sampling: str = "without_replacement"

    def __getitem__(self, name: str) -> Recommendation:
        if name not in self.methods:
            raise unknown_name("method", name, self.methods)
        return self.methods[name]

    @property
    def safe_friction(self) -> float:
        """b = sqrt(lambda_min + (1 + margin) lambda_max): at it the heavy ball's flow decays under
        every motion of the kernel between the two, whatever its drift
        (`nm.theory.bounds.safe_friction`)."""
        return float(bounds.safe_friction(self.lambda_min, (1 + self.margin) * self.lambda_max))

    @property
    def safe_rate(self) -> float:
        """The exponent of L that is certain then: 2 lambda_min/`safe_friction`."""
        return float(bounds.safe_rate(self.lambda_min, (1 + self.margin) * self.lambda_max))

    @property
    def best(self) -> Recommendation:
        """The method with the fewest predicted steps; the first of those that tie."""
        return min(self.methods.values(), key=lambda r: (r.steps, r.rate))

    def __str__(self) -> str:
        head: tuple[str, ...] = (
            "method",
            "eta",
            "eta limit",
            "beta",
            "d",
            "friction b",
            "restart every",
            "rate",
            f"steps to {self.target:g} L(0)",
            "peak / L(0)",
        )
        body = [
            [
                r.method,
                *(_show(x) for x in (r.eta, r.eta_limit)),
                _show(r.beta, digits(r.beta)),
                _show(r.d),
                f"{r.d:.3g}/t" if r.d is not None and r.friction is None else _show(r.friction),
                _show(r.period),
                "" if math.isnan(r.rate) else f"{r.rate:.6f}",
                _show(r.steps),
                f"{r.peak:.4g}",
            ]
            for r in self.methods.values()
        ]
        if self.batch_size is not None:
            head += ("epochs", "examples", "critical batch")
            for row, r in zip(body, self.methods.values(), strict=True):
                row += [_show(x) for x in (r.epochs, r.examples, r.critical_batch)]
        widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (head, *body)
        ]
        kappa = self.lambda_max / self.lambda_min
        first = (
            f"lambda_min = {self.lambda_min:.4g}, lambda_max = {self.lambda_max:.4g}, "
            f"kappa = {kappa:.4g}, margin {self.margin:g}"
        )
        if self.batch_size is not None:
            first += f", batches of {self.batch_size} drawn {self.sampling.replace('_', ' ')}"
        safe = (
            f"heavy ball that decays however the kernel moves between lambda_min and (1 + margin) "
            f"lambda_max: friction b = {self.safe_friction:.4g}, L at least like "
            f"e^(-{self.safe_rate:.3g} t)"
        )
        return "\n".join([first, *lines, safe])


def digits(beta: float | None) -> int:
    """Digits that tell a momentum from 1: two of 1 - beta, four at least."""
    return max(4, 1 - math.floor(math.log10(1 - beta))) if beta is not None and beta < 1 else 4


def _show(value: float | int | None, figures: int = 4) -> str:
    return (
        ""
        if value is None
        else str(int(value))
        if value == int(min(value, 2**53))
        else f"{value:.{figures}g}"
    )


@no_type_check
def advise(
    kernel: Any,
    residual0: Any,
    *,
    target: float = 1e-3,
    margin: float = 0.1,
    objective: str = "steps",
    max_steps: int = 10**6,
    batch_size: int | None = None,
    sampling: Sampling = "without_replacement",
    probe: Any = None,
    progress: OnProgress | bool | None = None,
) -> Advice:
    """What a kernel's spectrum recommends: the best parameters of every method, and the steps they
    take.

        Delta_{k+1} = A(eta lambda, beta) Delta_k  for each eigenvalue lambda of a constant kernel

    so stability limits, rates and numbers of steps are known beforehand. Parameters are those of
    `nm.best_parameters` (Lessard, Recht and Packard 2016) on [cut, (1 + margin) lambda_max], with
    the best cut >= lambda_min. Squared loss, constant kernel.

    On mini-batches the steps are those of the expected loss, by the closure of
    `nm.predict_stochastic`, the step sizes stay below the limit that noise sets, and each method
    comes with its `nm.critical_batch`, below which momentum only rescales the step. Restarts are
    left out.

    Args:
        kernel: (n, n), or (n, k, n, k) for several outputs; its `nm.spectrum`, so that it is not
            decomposed again; an operator or `nm.modes`, whose smallest Ritz value stands for
            lambda_min, as good as the error asks for.
        residual0: f(0) - y, (n,) or (n, k); None with `nm.modes`, which hold it.
        target: The share of the initial loss to reach, and to stay below.
        margin: How much lambda_max may grow, by drift or for want of the exact kernel, before
            anything is unstable; 0 for the textbook parameters.
        objective: "steps", the fewest to the target for this error, or "rate", the best for any
            error in the long run.
        max_steps: Predicted steps beyond this are infinite.
        batch_size: B, samples a step; None for all of them.
        sampling: How they are drawn, as in `nm.predict_stochastic`; reshuffled ones, whose noise is
            smaller, are judged as if each were drawn afresh.
        probe: With `nm.modes` and a batch_size, the modes of random vectors, as in
            `nm.predict_stochastic`; limits are then the closure's, as from an operator.
        progress: Called as progress(methods done, methods); True for a bar.

    Returns:
        Recommendations by method, printed as a table.

    Raises:
        InputError: If an argument does not fit, or the kernel's null space keeps the target out of
            reach.

    Examples:
        >>> advice = nm.advise(jnp.diag(jnp.array([1.0, 100.0])), jnp.ones(2))
        >>> advice["gradient_descent"].steps > advice["heavy_ball"].steps
        True
    """
    progress = check_progress(progress, "advise")
    check_share(target)
    check_positive("margin", margin, strict=False, example=0.1)
    check_choice("objective", objective, ("steps", "rate"))
    max_steps = check_whole("max_steps", max_steps, example=10**6)
    few = None
    if batch_size is not None and (isinstance(kernel, Modes) or is_operator(kernel)):
        few = few_levels(kernel, residual0, probe, tol=0.1 * target**0.5)
        kernel, residual0 = few.modes, None
    elif probe is not None:
        raise InputError(
            "probe must be None unless kernel is nm.modes, with a batch_size, got "
            f"{described(probe)}; leave it out."
        )
    eigenvalues, size = modes_of(kernel, residual0, target)
    seen = eigenvalues > len(eigenvalues) * np.finfo(eigenvalues.dtype).eps * eigenvalues[-1]
    if not seen.any():
        raise InputError(
            f"kernel must have a positive eigenvalue, got none above {eigenvalues[-1]:.3g}: "
            "nothing "
            "can be learnt with it; drop inputs that are zero, or take another model."
        )
    share = float(np.sum(size[~seen] ** 2) / np.sum(size**2))
    if share >= target:
        raise InputError(
            f"{share:.2g} of the initial loss lies in the kernel's null space, so the "
            f"target {target:g} is out of reach; "
            "raise the target, or drop (near-)duplicate inputs."
        )
    low, high = float(eigenvalues[seen][0]), float(eigenvalues[-1]) * (1 + margin)
    found = {}
    batches = None if batch_size is None else BatchedKernel.of(kernel, batch_size, sampling, few)
    for k, name in enumerate(METHODS):
        if progress is not None:
            progress(k, len(METHODS))
        candidates = list(_candidates(name, low, high, objective))
        if batches is not None:
            if name != "restarted_nesterov":
                found[name] = _on_batches(
                    name, batches, candidates, margin, eigenvalues, size, target, max_steps
                )
            continue
        courses = count_steps(candidates, eigenvalues, size, target, max_steps)
        # The number of steps is no smooth function of the cut: it jumps where an oscillation more
        # or less fits in. So all candidates are tried, and none is refined. The first candidate is
        # the best in the long run, and what is left where none arrives.
        best = int(np.argmin([steps for steps, _ in courses])) if objective == "steps" else 0
        if math.isinf(courses[best][0]):
            best = 0
        found[name] = _describe(name, candidates[best], *courses[best], eigenvalues[seen])
    if progress is not None:
        progress(len(METHODS), len(METHODS))
    size_and_way = () if batches is None else (batches.size, batches.sampling)
    return Advice(low, float(eigenvalues[-1]), target, margin, found, *size_and_way)


def _on_batches(
    name: str,
    batches: BatchedKernel,
    candidates: list,
    margin: float,
    eigenvalues: np.ndarray,
    size: np.ndarray,
    target: float,
    max_steps: int,
) -> Recommendation:
    """The candidate that needs the fewest examples, described."""
    chosen, steps, peak = batches.tried(candidates, margin, eigenvalues, size, target, max_steps)
    eta_limit, critical = batches.limits(chosen)
    examples = steps * batches.size
    return dataclasses.replace(
        _describe(name, chosen, steps, peak, eigenvalues[eigenvalues > 0]),
        eta_limit=eta_limit,
        rate=math.nan,  # that of the expected loss is the expected loss's own, not one mode's
        examples=examples,
        epochs=examples / batches.n,
        critical_batch=critical,
    )


def check_share(target: Any) -> None:
    """Raise unless a target is a share of the initial loss."""
    hint = "It is the share of the initial loss that may remain; try 1e-3."
    check_interval("target", target, 1e-300, 1.0, hint)


def modes_of(kernel: Any, residual0: Any, target: float = 1e-3) -> tuple[np.ndarray, np.ndarray]:
    """(eigenvalues ascending, never negative, and the size of the error along each eigenvector);
    all outputs of a mode move together."""
    if is_operator(kernel):
        # a tenth of what remains of the error at the target
        kernel = ritz.modes(kernel, residual0, tol=0.1 * target**0.5)
        residual0 = None
    if isinstance(kernel, Modes):
        if residual0 is not None:
            ritz.check_own(kernel, residual0, None)
        found = spectrum(kernel)
        size = np.linalg.norm(np.asarray(kernel.start), axis=1)
    else:
        found = kernel if isinstance(kernel, Spectrum) else spectrum(kernel)
        size = np.linalg.norm(_along(found, residual0), axis=1)
    found.warn_of_precision()
    return np.maximum(np.asarray(found.eigenvalues), 0.0), size


def _along(found: Spectrum, residual0: Any) -> np.ndarray:
    check_real("residual0", residual0)
    check_semidefinite(found.eigenvalues)
    residual0 = np.asarray(residual0)
    n = found.eigenvectors.shape[0]
    if residual0.size == n:
        columns = residual0.reshape(n, 1)
    elif residual0.ndim == 2 and residual0.shape[0] == n:
        columns = residual0
    else:
        raise InputError(
            f"residual0 must match the kernel's {n} samples (times outputs), got shape "
            f"{residual0.shape}; try f0 - y of the same inputs."
        )
    if not np.any(columns):
        raise InputError(
            "residual0 = f(0) - y must not be all zero, got zeros only: there is nothing to learn; "
            "give other targets."
        )
    if not np.all(np.isfinite(columns)) or not np.any(columns):
        raise InputError("residual0 = f(0) - y must be finite and not all zero.")
    return np.asarray(found.eigenvectors).T @ columns


def _candidates(name: str, low: float, high: float, objective: str) -> Iterator[AbstractOptimizer]:
    """What is tried for a method, the best in the long run first.

    Tuned for [cut, high], a method drives eigenvalues above the cut down at the common rate of that
    shorter interval and leaves those below slower. That is the better bargain where they hold less
    of the error than the target allows, by how much depends on the error's share in each: hence
    the trials.
    """
    cuts = [
        low,
        *(np.geomspace(low, high, CUTS + 1)[1:] if objective == "steps" and high > low else ()),
    ]
    if name == "nesterov":
        # The momentum tends to 1, where eta (4/3) lambda is the limit; with d fixed the loss falls
        # as k^-d until it is geometric.
        yield from (
            nesterov(1 / high, float(d)) for d in (3.0, *(D if objective == "steps" else ()))
        )
    elif name == "restarted_nesterov":
        for cut in cuts:
            yield restarted_nesterov(
                1 / high, 3.0, max(1, round(best_restart_period(cut, 3.0).period * high**0.5))
            )
    else:
        yield from (best_parameters(name, float(cut), high).optimizer for cut in cuts)


def _describe(
    name: str, optimizer: Any, steps: float, peak: float, eigenvalues: np.ndarray
) -> Recommendation:
    """Limits and rates from the roots of z^2 - (1 + beta - (eta + delta) lambda) z + beta - delta
    lambda, which turn unstable at lambda = 2 (1 + beta)/(eta + 2 delta): delta = 0 for GD (beta =
    0) and HB, beta eta for Nesterov's method with constant momentum."""
    eta, d = float(optimizer.eta), getattr(optimizer, "d", None)
    beta, delta = float(getattr(optimizer, "beta", 0.0)), float(getattr(optimizer, "delta", 0.0))
    if d is not None:
        limit, rate = 4 / (3 * eigenvalues[-1]), math.nan  # momentum k/(k + d) tends to 1
    else:
        limit = 2 * (1 + beta) / (1 + 2 * delta / eta) / eigenvalues[-1]
        half, product = (1 + beta - (eta + delta) * eigenvalues) / 2, beta - delta * eigenvalues
        rate = float(
            np.max(
                np.abs(half) + np.sqrt(np.maximum(half**2 - product, 0.0)),
                where=half**2 >= product,
                initial=0.0,
            )
        )
        rate = max(rate, float(np.sqrt(np.max(product, where=half**2 < product, initial=0.0))))
    first = name == "gradient_descent"
    flow, h = optimizer.flow()
    return Recommendation(
        name,
        optimizer,
        eta,
        float(limit),
        rate,
        steps,
        peak,
        beta=None if first or d is not None else beta,
        d=None if d is None else float(d),
        friction=None if first or d is not None else float(flow.b),
        time_step=float(h),
        period=getattr(optimizer, "scheme", None),
    )


def check_advice(
    advice: Advice,
    model: Any,
    data: Any,
    *,
    trainable: Any = None,
    where: Callable | None = None,
    config: Numerics = Numerics(),
    key: Any = None,
    progress: OnProgress | bool | None = None,
) -> dict[str, tuple[float, float]]:
    """Train a model with each recommendation of up to `TRIED_STEPS` steps: (predicted, actual)
    steps until the loss stays below the target, by method; inf: not within twice the predicted,
    NaN: the loss rose tenfold above its predicted peak, or left the finite numbers. On mini-batches
    it is the mean loss of `DRAWS` runs, as the expected one is foretold. key: of the batches, where
    the advice is for them. progress: called as progress(steps done, all steps); True for a bar."""
    found = {}
    told = check_progress(progress, "check_advice")
    methods = {name: r for name, r in advice.methods.items() if r.steps <= TRIED_STEPS}
    counts = [2 * int(r.steps) + 10 for r in methods.values()]
    drawn: list[dict[str, Any]] = [{}]
    if advice.batch_size is not None:
        keys = jax.random.split(jax.random.key(0) if key is None else key, DRAWS)
        way = {"batch_size": advice.batch_size, "sampling": advice.sampling}
        drawn = [{**way, "key": one} for one in keys]
    before, total = 0, len(drawn) * sum(counts)
    for count, (name, r) in zip(counts, methods.items(), strict=True):
        losses = []
        for draw in drawn:
            run = train(
                model,
                data,
                r.optimizer,
                count,
                trainable=trainable,
                where=where,
                readouts=["loss"],
                config=config,
                progress=None if told is None else _part(told, before, count, total),
                **draw,
            )
            losses.append(np.asarray(run.loss))
            before += count
        loss = np.mean(losses, axis=0)
        stays = int(np.flatnonzero(~(loss <= advice.target * loss[0]))[-1]) + 1
        steady = np.max(loss) <= 10 * r.peak * loss[0]  # false for NaN
        actual = float(stays) if stays < len(loss) else math.inf
        found[name] = (r.steps, actual if steady else math.nan)
    if told is not None:
        told(total, total)
    return found


def _part(told: OnProgress, before: int, own: int, total: int) -> OnProgress:
    """The progress of a part of some work, of which so much was done before it."""
    return lambda done, of: told(before + own * done // of, total)

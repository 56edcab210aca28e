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
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..dynamics import ritz
from ..dynamics.constant_kernel import check_semidefinite, is_operator
from ..dynamics.solver import Sampling
from ..errors import (
    InputError,
    check_choice,
    check_interval,
    check_positive,
    check_real,
    check_whole,
    described,
    no_type_check,
)
from ..kernel import Modes, Spectrum, spectrum
from ..method import (
    AbstractOptimizer,
    best_parameters,
    best_restart_period,
    check_method_kind,
    nesterov,
    restarted_nesterov,
    spectral_radius,
    stability_limit,
)
from ..method.nesterov import AbstractNesterovMethod
from ..method.restart import RestartedNesterovMethod
from ..progress import OnProgress, check_progress
from ..stochastic.levels import few_levels
from ..stochastic.linear import changes
from .batches import BatchedKernel
from .recommendation import Advice, Recommendation
from .steps import count_steps

CUTS = 24
"""Candidates for the eigenvalue from which on a method is tuned, evenly spaced in its logarithm.
Chosen, not measured: for kappa = 1e6 neighbours differ by a factor 1.8, hence rates by 1.3."""
D = np.geomspace(1.0, 100.0, CUTS)
"""Nesterov's constants tried besides the standard 3. Chosen, not measured: a larger d damps
longer, and by 100 the momentum is below 1/2 for the first hundred steps."""
METHODS = (
    "gradient_descent",
    "heavy_ball",
    "constant_nesterov",
    "nesterov",
    "restarted_nesterov",
    "triple_momentum",
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
    optimizers: Any = None,
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
        optimizers: Methods with parameters of your own, judged in the place of tuned ones: a list,
            or a dictionary by name, of linear ones with one step size eta.
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
    given, few = _given(optimizers), None
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
    for k, name in enumerate(given or METHODS):
        if progress is not None:
            progress(k, len(given or METHODS))
        if name in given:
            if batches is not None:
                asked = [given[name]], margin, eigenvalues, size, target, max_steps
                found[name] = _on_batches(name, batches, *asked, as_given=True)
                continue
            told = _describe(name, given[name], math.inf, math.inf, eigenvalues[seen])
            if told.eta < told.eta_limit:  # else it never stays below
                course = count_steps([given[name]], eigenvalues, size, target, max_steps)[0]
                told = dataclasses.replace(told, steps=course[0], peak=course[1])
            found[name] = told
            continue
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
        progress(len(given or METHODS), len(given or METHODS))
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
    as_given: bool = False,
) -> Recommendation:
    """The candidate that needs the fewest examples, described; or the one that is given, with its
    own step."""
    chosen, steps, peak = candidates[0], math.inf, math.inf
    # where momentum tends to 1 no step may be stable for ever, and many long enough
    if not as_given or changes(chosen) or float(chosen.eta) < batches.limits(chosen)[0]:
        tried = candidates, margin, eigenvalues, size, target, max_steps
        chosen, steps, peak = batches.tried(*tried, scales=(1.0,) if as_given else None)
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


def _given(optimizers: Any) -> dict[str, AbstractOptimizer]:
    """Methods by name, or by kind and numbers."""
    if optimizers is None:
        return {}
    named = optimizers if isinstance(optimizers, Mapping) else {}
    several = optimizers if isinstance(optimizers, list | tuple) else [optimizers]
    some = list(optimizers.values() if isinstance(optimizers, Mapping) else several)
    for one in some:
        check_method_kind("optimizers", one, AbstractOptimizer)
        if not one.linear or not hasattr(one, "eta"):
            raise InputError(
                f"optimizers must be linear methods with one step size eta, got {described(one)}; "
                "try [nm.heavy_ball(0.1, 0.9)]."
            )
    if not some:
        raise InputError("optimizers must hold at least one method, got none; leave it out.")
    return dict(named) or {spelt(one): one for one in some}


def spelt(optimizer: Any) -> str:
    """A method as the command line takes it, heavy_ball:eta=0.1,beta=0.9; another by its type."""
    if not isinstance(optimizer, AbstractOptimizer):
        return f"an optimizer that is none of ours ({type(optimizer).__name__})"
    told = []
    for field in dataclasses.fields(optimizer):
        value = getattr(optimizer, field.name)
        if isinstance(value, str):
            told.append(f"{field.name}={value}")
        elif np.ndim(value) == 0 and not callable(value):  # no schedule
            told.append(f"{field.name}={float(value):.6g}")
    return f"{optimizer.name}:{','.join(told)}"


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
    first = optimizer.name == "gradient_descent"
    beta, delta = float(getattr(optimizer, "beta", 0.0)), float(getattr(optimizer, "delta", 0.0))
    if not first and d is None and not hasattr(optimizer, "beta"):
        limit = eta * (bearable(optimizer) or math.nan) / eigenvalues[-1]
        rate = float(np.max(spectral_radius(optimizer, eigenvalues)))
    elif d is not None:
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
    flow, h = optimizer.flow()
    return Recommendation(
        name,
        optimizer,
        eta,
        float(limit),
        rate,
        steps,
        peak,
        beta=None if first or not hasattr(optimizer, "beta") else beta,
        d=None if d is None else float(d),
        friction=None if first or d is not None else float(flow.b),
        time_step=float(h),
        period=getattr(optimizer, "scheme", None),
    )


def bearable(optimizer: Any) -> float | None:
    """The largest eigenvalue that an optimizer bears; None where no limit is known."""
    if isinstance(optimizer, AbstractNesterovMethod | RestartedNesterovMethod):
        return 4 / (3 * float(optimizer.eta))  # as its momentum tends to 1
    if not isinstance(optimizer, AbstractOptimizer):
        return None
    try:
        return stability_limit(optimizer)
    except InputError:  # it changes from step to step
        return None

"""What a diagnosis found: four questions, each with its number and its thresholds, the verdict that
follows from them, and what to do about it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from ..method import HeavyBallMethod, best_parameters
from .recommendation import digits

LAZY, RICH = 0.1, 0.5
"""From where on something has moved, and from where on far: conventions. Below a tenth, predictions
by the kernel are good to a digit; above a half, most of the motion is not the kernel's."""
DEAD = 1e-4
"""Share of the tangent features that tells inputs apart, below which a model is dead: what it has
to learn takes as many times the steps of a constant as that is small. Raw tables, whose rows are
all but parallel, have a hundredth, standardised ones nearly all. Chosen, not measured."""
DIVERGED, LOST = 10.0, 1e6
"""A run has diverged when its loss is no number, or ends at the first times its start. One that
only bounces on the way has not: above the limit of stability a network's loss rises, 900 times on
one table, until its kernel has fallen below it. Chosen, not measured: from the second times its
start on it is not that network which comes back, but what is left of it, as a constant where all
neurons are off."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One question of a diagnosis: the answer in a word, the number behind it, and what the number
    is and which thresholds it is held against."""

    question: str
    answer: str
    value: float
    meaning: str


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """How far a run is from its own kernel's prediction, by four questions with a number each.

    ts: saved step counts; loss, predicted_loss: of the model and of its linearisation; gap: |f -
    f_lin| over the predictions' largest motion max_k |f_lin(k) - f(0)|, at each saved step.
    kernel_drift, feature_drift, weight_drift: relative Frobenius distances of H, of the tangent
    features J and of the trained weights between the first and the last step; turn: the sine of the
    angle between the two kernels, 0 where H has only grown or shrunk; growth: |H|/|H_0|. contrast:
    the share of the features that tells inputs apart, sum_i |J_i - mean J|^2 / sum_i |J_i|^2, at
    the first and the last step. top: lambda_max of H, times
    the loss's curvature, at the first and the last step, and limit: the largest that the optimizer
    bears (None where none is known). highest: where the loss bounced, (lambda_max, step) at its
    largest up to the largest loss (None where it was not looked for). low: the smallest eigenvalue
    at the start above round-off.
    remedy: after a run that diverged, the largest of a few smaller steps that did not (None: none).
    trained_by: the optimizer.
    """

    ts: np.ndarray
    loss: np.ndarray
    predicted_loss: np.ndarray
    gap: np.ndarray
    kernel_drift: float
    turn: float
    feature_drift: float
    weight_drift: float
    top: tuple[float, float]
    limit: float | None
    low: float
    reason: str
    remedy: float | None = None
    highest: tuple[float, int] | None = None
    growth: float = 1.0
    contrast: tuple[float, float] = (1.0, 1.0)
    trained_by: str = ""

    @property
    def diverged(self) -> bool:
        """Whether the loss is no number, ends at ten times its start, or was a million times it."""
        last, start = float(self.loss[-1]), float(self.loss[0])
        most = float(np.max(self.loss))
        return not math.isfinite(most) or last > DIVERGED * start or most > LOST * start

    @property
    def bounced(self) -> bool:
        """Whether the loss rose on the way though the step was borne at the start and at the
        end."""
        most = (1 + LAZY) * max(self.loss[0], float(np.max(self.predicted_loss)))
        borne = self.limit is not None and max(self.top) < self.limit
        return borne and not self.diverged and bool(np.max(self.loss) > most)

    @property
    def stability(self) -> Finding:
        """Whether the optimizer bears the kernel's largest eigenvalue, at the start and as the
        kernel moves."""
        bears = math.nan if self.limit is None else max(self.limit, 1e-300)  # 0: no step is stable
        share = [top / bears for top in self.top]
        start, end = share
        meaning = (
            "no limit is known for this optimizer"
            if self.limit is None
            else f"lambda_max over what the step bears: {start:.3g} at the start, "
            + (f"{end:.3g} at the end" if math.isfinite(end) else "no number at the end")
            + "; a constant kernel is unstable from 1 on"
        )
        if self.bounced:
            at = int(np.argmax(self.loss))
            times = f"{self.loss[at] / self.loss[0]:.3g} times its start"
            meaning += f"; at step {self.ts[at]:.0f} the loss was {times}"
            if self.highest is not None:
                share.append(self.highest[0] / bears)
                meaning += f", and lambda_max {share[-1]:.3g} of that at step {self.highest[1]}"
        answer = (
            "diverged"
            if self.diverged
            else "loss is up"  # at the last step, above its start
            if self.loss[-1] > self.loss[0]
            else "unknown"
            if self.limit is None
            else ("bounced" if self.bounced else "stable" if end < 1 else "became unstable")
            if start < 1
            else ("unstable at first" if end < 1 else "unstable")
        )
        return Finding("is the step stable?", answer, max(share), meaning)

    @property
    def kernel(self) -> Finding:
        """How far the kernel moves."""
        return Finding(
            "does the kernel move?",
            _grade(self.kernel_drift, "stays", "moves", "moves far"),
            self.kernel_drift,
            f"|H - H_0| / |H_0| at the last step, where |H| / |H_0| is {self.growth:.3g}; stays "
            f"below {LAZY}, far from {RICH} on",
        )

    @property
    def function(self) -> Finding:
        """How far the function leaves the prediction."""
        worst = float(np.max(self.gap))
        at = self.ts[int(np.argmax(self.gap))]
        if not np.isfinite(self.predicted_loss).all() or (
            self.predicted_loss[-1] > DIVERGED * self.predicted_loss[0]
        ):
            meaning = "the prediction itself diverges: its kernel stays above the limit"
            return Finding("does f follow the prediction?", "no prediction", math.nan, meaning)
        return Finding(
            "does f follow the prediction?",
            _grade(worst, "follows", "in outline", "leaves it"),
            worst,
            f"largest |f - f_lin| over the predicted motion, at step {at:.0f}; follows below "
            f"{LAZY}, leaves from {RICH} on",
        )

    @property
    def features(self) -> Finding:
        """Whether the kernel turns, which a change of its size alone does not make it do."""
        return Finding(
            "do features change?",
            _grade(self.turn, "stay", "turn", "turn far"),
            self.turn,
            f"sine of the angle between H and H_0 (J itself moved by {self.feature_drift:.3g} "
            f"relative, the weights by {self.weight_drift:.3g}; {self.contrast[1]:.2g} of J tells "
            f"inputs apart); stay below {LAZY}, far from {RICH} on",
        )

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All four."""
        return self.stability, self.kernel, self.function, self.features

    @property
    def verdict(self) -> str:
        """In a word, the first of these that holds:

        dead where no input is told from another, at the start or, after a run that did not diverge,
        at the end; diverged; rich where the kernel or its features move by more than a half, and
        its features by more than a tenth; rescaled where the kernel changes its size, not its
        direction; unstable where the prediction diverges and the run does not; lazy where the
        kernel, and the function against its prediction if there is one, stay within a tenth; and
        between.

        The kernel counts too, since on the training points every run that fits the targets ends
        with no gap; and a gap alone makes no run rich, since momentum near its limit of stability
        makes a large one of a small change of the kernel.
        """
        moved = max(self.kernel_drift, self.turn)
        if self.contrast[0] < DEAD:
            return "dead"
        if self.diverged:
            return "diverged"
        if self.contrast[1] < DEAD:
            return "dead"
        if not math.isfinite(moved):
            return "diverged"
        if moved >= RICH and self.turn >= LAZY:
            return "rich"
        if moved >= LAZY and self.turn < LAZY:
            return "rescaled"
        gap = self.function.value
        if math.isnan(gap):
            return "unstable"
        return "lazy" if moved < LAZY and gap < LAZY else "between"

    @property
    def momentum(self) -> HeavyBallMethod:
        """The heavy ball that is best in the long run for a constant kernel with the spectrum of
        the start, its largest eigenvalue taken a tenth larger."""
        method: Any = best_parameters("heavy_ball", self.low, 1.1 * self.top[0]).optimizer
        return method

    @property
    def advice(self) -> str:
        """What to do about it."""
        if self.diverged and self.remedy is not None:
            return (
                f"take a smaller step: with eta = {self.remedy:.4g} the same number of steps ends "
                "below the start (tried)"
            )
        if self.diverged:
            return (
                "the loss left the finite numbers, or ended at ten times its start; scale inputs "
                "and targets to order one (nm.normalize), or take a much smaller step"
            )
        if self.verdict == "dead":
            return (
                "take other initial weights (a larger spread, smaller biases), or standardise the "
                "inputs' columns where rows hardly differ"
                + ("" if self.contrast[0] < DEAD else ", or a smaller step: it died on the way")
            )
        if self.verdict == "unstable" and self.limit:
            return (
                f"a step {1.1 * self.top[0] / self.limit:.3g} times smaller follows a constant "
                "kernel; this one waits until lambda_max has fallen"
            )
        if self.verdict == "rescaled":
            return (
                f"predict with {self.growth:.3g} times the kernel of the start where it ends, and "
                "tune to that; `ntk-momentum advise --check` trains with the advice"
            )
        if self.verdict != "lazy":
            return (
                "parameters tuned to H(0) hold for as long as the kernel stays; try larger widths, "
                "smaller targets, or `ntk-momentum advise --check`"
            )
        method, kappa = self.momentum, self.top[0] / self.low
        return (
            f"for a constant kernel of this spectrum (kappa = {kappa:.4g}) the best heavy ball is "
            f"eta = {method.eta:.4g}, beta = {method.beta:.{digits(float(method.beta))}g}: in the "
            f"long run {math.sqrt(kappa):.3g} times fewer steps than gradient descent, before that "
            "less; `ntk-momentum advise` counts them"
        )

    def __str__(self) -> str:
        meaning = {
            "lazy": "the run keeps its kernel; the theory of constant kernels applies",
            "between": "the kernel's prediction holds in outline only",
            "rich": (
                "the run leaves its kernel: features are learnt, and no constant kernel "
                "describes it"
            ),
            "rescaled": (
                f"the kernel ends {self.growth:.3g} times as large in the same direction, so that "
                "features stay and only the speed changes"
            ),
            "unstable": (
                "the prediction by a constant kernel diverges and the run does not, so that its "
                "theory says nothing of this run"
            ),
            "dead": (
                f"all but {DEAD:g} of the model's derivative is the same for all inputs, as where "
                "every ReLU is off, or one column dwarfs the others: it learns one number for all"
            ),
            "diverged": "this step is too large for this model",
        }
        at = np.unique(np.linspace(0, len(self.ts) - 1, min(6, len(self.ts))).astype(int))
        table = [
            (
                f"{self.ts[i]:8.0f}  {self.loss[i]:12.5g}  {self.predicted_loss[i]:12.5g}  "
                f"{self.gap[i]:10.3g}"
            )
            for i in at
        ]
        asked = [
            f"{one.question:30} {one.answer:18} {one.value:10.3g}  {one.meaning}"
            for one in self.findings
        ]
        return "\n".join(
            [
                f"{self.verdict}: {meaning[self.verdict]}.",
                *([f"trained by {self.trained_by}"] if self.trained_by else []),
                *asked,
                f"{'step':>8}  {'loss':>12}  {'predicted':>12}  {'gap of f':>10}",
                *table,
                self.advice,
            ]
        )


def _grade(value: float, small: str, middle: str, large: str) -> str:
    if not math.isfinite(value):
        return "no number"
    return small if value < LAZY else middle if value < RICH else large

"""A claim and what was measured become a verdict, by a rule that is fixed before anything runs.

With the 95 % interval of the effect: a difference, interaction, slope, ratio or log-rank test is *equivalent*
where the interval lies within the margin, *supported* where it lies wholly on the claimed side of no effect,
*refuted* where wholly on the other. Non-inferiority is supported where it lies wholly above minus the margin
on the better side, and refuted where wholly below. Equivalence is found by two one-sided tests at 5 %, which
reject a difference of the margin or more where the 90 % interval lies within it (Schuirmann, Journal of
Pharmacokinetics and Biopharmaceutics 15, 1987), and refuted where the 95 % interval lies wholly outside. What
is left is not decided.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from videonorm.study.contrasts import Grid
from videonorm.study.effects import Interval, OfVideos
from videonorm.study.evidence import evidence
from videonorm.study.measured import Measured
from videonorm.study.study_file import RATIOS, Claim, StudyFile
from videonorm.study.verdicts import Decision, Verdict
from videonorm.sweep.results import Result
from videonorm.sweep.scores import Scores

SHARES = ("val_top1", "val_top5", "best_possible_top1")  # are told in points


def decide(claim: Claim, interval: Interval) -> Decision:
    """The rule; margin and interval are on the scale of the test, which is of logs for ratios."""
    margin, at95 = scale(claim).inner(claim.margin), interval(0.95)
    low, high = (at95.low, at95.high) if claim.expected != "lower" else (-at95.high, -at95.low)
    if claim.statistic == "equivalence":
        at90 = interval(0.90)
        if -margin < at90.low and at90.high < margin:
            return "equivalent"
        return "refuted" if low > margin or high < -margin else "not decided"
    if claim.statistic == "non_inferiority":
        return "supported" if low > -margin else "refuted" if high < -margin else "not decided"
    if -margin < low and high < margin:
        return "equivalent"
    return "supported" if low > 0 else "refuted" if high < 0 else "not decided"


@dataclass(frozen=True)
class Scale:
    """How an effect is told, and the margin beside it.

    Attributes:
        unit: of both.
        outer: what is told of an effect of the test.
        inner: the test's margin for one that is told.
    """

    unit: str
    outer: Callable[[float], float] = float
    inner: Callable[[float], float] = float


def scale(claim: Claim) -> Scale:
    if claim.statistic in RATIOS:
        return Scale("x" if claim.statistic == "ratio" else "x (hazard)", _exp, math.log1p)
    per = f" per doubling of {claim.along}" if claim.along else ""
    if claim.measure.of_row in SHARES:
        return Scale(f"points{per}", lambda share: 100 * share, lambda points: points / 100)
    return Scale(f"{claim.measure.in_words}{per}")


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def verdict(
    study: StudyFile,
    claim: Claim,
    grid: Grid,
    results: Sequence[Result],
    measures: Sequence[Measured],
    scores: Scores,
) -> Verdict:
    """What the runs say of a claim.

    Args:
        grid: the coordinates of the study's runs.
        results: of those that have ended.
        measures: of these, for this claim and others.
        scores: of these on single videos, which decide what is claimed of top-1.
    """
    found = evidence(claim, grid, results, {of.run: of for of in measures if of.claim == claim.id}, scores)
    told, effect = scale(claim), found.effect
    decision: Decision = "not decided"
    value = low = high = None
    needs = found.lacks
    if effect:
        decision = decide(claim, effect.interval)
        if decision == "not decided":
            needs = effect.needs(lambda interval: decide(claim, interval) != "not decided")
        at95 = effect.interval(0.95)
        value = None if math.isnan(at95.value) else told.outer(at95.value)
        low, high = told.outer(at95.low), told.outer(at95.high)
    return Verdict(
        study.name,
        claim.id,
        claim.sentence,
        claim.source,
        claim.reported,
        claim.statistic,
        decision,
        value,
        low,
        high,
        told.unit,
        claim.margin,
        needs,
        found.seeds,
        effect.difference.num_videos if isinstance(effect, OfVideos) else None,
        len(found.runs),
        sum(run.train_seconds or 0.0 for run in found.runs) / 60,
    )

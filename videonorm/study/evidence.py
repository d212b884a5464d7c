"""The runs of a claim become the effect that decides it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from videonorm.differences import Tested, paired, resampled_top1, unpaired
from videonorm.intervals import mean_top1
from videonorm.messages import counted
from videonorm.study.contrasts import Grid, Place, contrast
from videonorm.study.effects import Effect, Hazards, OfSeeds, OfVideos
from videonorm.study.measured import Measured
from videonorm.study.study_file import Claim
from videonorm.sweep.results import Result
from videonorm.sweep.scores import Scores

TOP1 = "val_top1"


def least_seeds(claim: Claim) -> int:
    """Seeds that its statistic needs.

    Two have a spread. A log-rank test of three in each arm finds a difference in one of ten that are equal.
    """
    return 4 if claim.statistic == "log_rank" else 2


@dataclass(frozen=True)
class Evidence:
    """What there is on a claim.

    Attributes:
        runs: of its places, that have ended.
        seeds: of which every place has a value.
        effect: None where too little is there for one.
        lacks: what is then missing.
    """

    runs: Sequence[Result]
    seeds: int
    effect: Effect | None
    lacks: str = ""


def evidence(
    claim: Claim, grid: Grid, results: Sequence[Result], measured: Mapping[str, Measured], scores: Scores
) -> Evidence:
    """What the runs of a study say of a claim.

    Args:
        grid: the coordinates of the study's runs.
        results: of those that have ended.
        measured: the number of each for the claim, by run, as far as there is one.
        scores: of the runs on single videos.
    """
    weights = {place: weight for place, weight in contrast(claim, grid).items() if weight}
    largest = grid.left_open(claim)
    runs = [run for run in results if grid.without(grid.place(run), largest) in weights]
    of_place: dict[Place, dict[int, list[Result]]] = {place: {} for place in weights}
    for run in runs:
        if run.run in measured:
            of_place[grid.without(grid.place(run), largest)].setdefault(run.seed, []).append(run)
    tried = grid.values(largest) if largest else [""]
    complete = [{seed for seed, of in by.items() if len(of) == len(tried)} for by in of_place.values()]
    # A log-rank test is of two samples; all else is paired by seed.
    seeds = sorted(set.union(*complete) if claim.statistic == "log_rank" else set.intersection(*complete))
    count = min(map(len, complete)) if claim.statistic == "log_rank" else len(seeds)
    if (least := least_seeds(claim)) > count:
        return Evidence(runs, count, None, _lacking(least - count, runs, measured))
    if claim.statistic == "log_rank":
        return Evidence(runs, count, _hazards(weights, of_place, measured))
    if largest:
        effect: Effect | None = _between_steps(claim, grid, largest, weights, of_place, seeds, measured)
        return Evidence(runs, count, effect)
    if claim.measure.of_row == TOP1 and claim.statistic != "ratio":
        if not any(_is_above_chance([by[seed][0] for seed in seeds]) for by in of_place.values()):
            return Evidence(runs, count, None, "training that ends above chance: no cell does")
        effect = _of_videos(weights, of_place, seeds, scores)
        lacks = "" if effect else "the scores of all runs on single videos (scores.npz)"
        return Evidence(runs, count, effect, lacks)
    values = {
        place: np.array([measured[by[seed][0].run].value for seed in seeds]) for place, by in of_place.items()
    }
    if claim.statistic == "ratio":
        if any((of <= 0).any() for of in values.values()):
            return Evidence(runs, count, None, "values above 0 alone, of which there is a ratio")
        values = {place: np.log(of) for place, of in values.items()}
    mean = _weighted(weights, values, values)
    return Evidence(runs, count, OfSeeds(mean, mean, mean))


def _is_above_chance(runs: Sequence[Result]) -> bool:
    """Whether something was learnt: the accuracy of networks that have not is that of no norm."""
    classes = runs[0].num_classes  # None in a table of an earlier version
    top1 = [run.val_top1 or 0.0 for run in runs]
    return classes is None or mean_top1(top1, min(run.val_videos or 0 for run in runs)).low > 1 / classes


def _lacking(more: int, runs: Sequence[Result], measured: Mapping[str, Measured]) -> str:
    without = [run for run in runs if run.run not in measured]
    seeds = f"{counted(more, 'more seed')} with a value in every cell"
    if not without:
        return seeds
    which = f"{without[0].run}: {without[0].error}" if without[0].error else without[0].run
    return f"{seeds}: {len(without)} of {len(runs)} runs have none, such as {which}"


def _weighted(
    weights: Mapping[Place, float],
    positive: Mapping[Place, NDArray[np.float64]],
    negative: Mapping[Place, NDArray[np.float64]],
) -> NDArray[np.float64]:
    """The sum over places, of ``positive`` where the weight is above 0, else of ``negative``."""
    parts = [weight * (positive if weight > 0 else negative)[place] for place, weight in weights.items()]
    total: NDArray[np.float64] = np.stack(parts).sum(0)
    return total


def _between_steps(
    claim: Claim,
    grid: Grid,
    largest: str,
    weights: Mapping[Place, float],
    of_place: Mapping[Place, Mapping[int, Sequence[Result]]],
    seeds: Sequence[int],
    measured: Mapping[str, Measured],
) -> OfSeeds:
    """Of largest stable values: each is at least the one that was found, and below the next that was tried.

    Where none is stable it is 0 at least, and where all are it may be anything more.
    """
    at = grid.names.index(largest)
    bounds: dict[Place, NDArray[np.float64]] = {}  # (2, seeds)
    for place, by in of_place.items():
        pairs = []
        for seed in seeds:
            stable = [float(grid.place(run)[at]) for run in by[seed] if measured[run.run].value]
            least = max(stable, default=0.0)
            above = [value for run in by[seed] if (value := float(grid.place(run)[at])) > least]
            pairs.append((least, min(above, default=np.inf)))
        bounds[place] = np.array(pairs).T
    if claim.statistic == "ratio":
        with np.errstate(divide="ignore"):
            bounds = {place: np.log(of) for place, of in bounds.items()}
    low, high = ({place: of[side] for place, of in bounds.items()} for side in (0, 1))
    with np.errstate(invalid="ignore"):  # of two that are never stable there is no ratio
        quoted = _weighted(weights, low, low)
    return OfSeeds(quoted, _weighted(weights, low, high), _weighted(weights, high, low))


def _of_videos(
    weights: Mapping[Place, float],
    of_place: Mapping[Place, Mapping[int, Sequence[Result]]],
    seeds: Sequence[int],
    scores: Scores,
) -> OfVideos | None:
    """Of top-1, on the same videos where their scores are known, else by that of each seed; None for neither.

    Without scores only the difference of two shares is known to be of two shares.
    """
    runs = {place: [by[seed][0] for seed in seeds] for place, by in of_place.items()}
    every = [run for of in runs.values() for run in of]
    shares = [sum(w for w in weights.values() if w * sign > 0) for sign in (1, -1)]
    if all(run.run in scores.runs for run in every):
        top1 = {
            place: np.stack([scores.runs[run.run].top1[0] for run in of]).astype(np.float64)
            for place, of in runs.items()
        }
        zero = np.zeros((len(seeds), len(scores.path)))
        sides = [
            sum((abs(w) * top1[place] for place, w in weights.items() if w * sign > 0), zero)
            for sign in (1, -1)
        ]
        scored = ~np.isnan(np.concatenate(sides)).any(0)
        first, second = (side[:, scored].astype(np.float32) for side in sides)
        resampled = resampled_top1(np.concatenate([first, second]))
        count = len(seeds)
        found = paired(Tested(first, resampled[:count]), Tested(second, resampled[count:]))
        return OfVideos(found, most=max(map(abs, shares)))
    if not np.allclose(shares, (1, -1)):
        return None
    of_seed = {place: np.array([run.val_top1 for run in of]) for place, of in runs.items()}
    first, second = (
        np.sum([abs(w) * of_seed[place] for place, w in weights.items() if w * sign > 0], axis=0)
        for sign in (1, -1)
    )
    videos = min(run.val_videos or 0 for run in every)
    return OfVideos(unpaired(first.tolist(), second.tolist(), videos))


def _hazards(
    weights: Mapping[Place, float],
    of_place: Mapping[Place, Mapping[int, Sequence[Result]]],
    measured: Mapping[str, Measured],
) -> Hazards:
    times = [
        (measured[run.run], weights[place] > 0)
        for place, by in of_place.items()
        for of_seed in by.values()
        for run in of_seed
    ]
    return Hazards(
        np.array([time.value for time, _ in times]),
        np.array([not time.censored for time, _ in times]),
        np.array([is_of for _, is_of in times]),
    )

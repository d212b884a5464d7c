"""How often studies without an effect, or with one just at the margin, end in a false verdict.

1,000 simulated studies for each statistic, of 3 and 5 seeds (a log-rank test of 4 and 6, for it refuses 3).
At most 5 % may be supported, and 5 % refuted. -s prints the shares.
"""

import numpy as np
import pytest

from videonorm import differences as of_videos
from videonorm.study.claims import decide
from videonorm.study.effects import Hazards, OfSeeds, OfVideos
from videonorm.study.study_file import Claim, Measure

STUDIES = 1_000
MARGIN = 0.5  # of values whose spread between seeds is 1


def claim(statistic, margin=0.0, column="val_loss"):
    time = {"time_to": 1.0} if statistic == "log_rank" else {}
    return Claim(
        "S1",
        *("a", "b", "c"),
        Measure(column, **time),
        statistic,
        {"norm": "bn"},
        None if statistic == "slope" else {"norm": "gn"},
        [{"batch_size": 2}, {"batch_size": 32}] if statistic == "interaction" else None,
        "batch_size" if statistic == "slope" else None,
        None if statistic == "equivalence" else "higher",
        margin,
    )


def of_seeds(values):
    return [OfSeeds(of, of, of) for of in values]


def differences(draw, seeds, effect=0.0):
    """Of values (studies, cells, seeds) whose seeds share a part, as those of one data order do."""
    shared = draw.standard_normal((STUDIES, 1, seeds))
    values = draw.standard_normal((STUDIES, 2, seeds)) + shared
    return of_seeds(values[:, 0] - values[:, 1] + effect)


def interactions(draw, seeds):
    values = draw.standard_normal((STUDIES, 2, 2, seeds)) * np.array([1.0, 3.0])[:, None, None]
    return of_seeds(values[:, 0, 0] - values[:, 0, 1] - values[:, 1, 0] + values[:, 1, 1])


def slopes(draw, seeds):
    weights = np.linalg.pinv(np.stack([np.ones(4), np.arange(4)], axis=1))[1]
    return of_seeds(np.einsum("csk,c->sk", draw.standard_normal((4, STUDIES, seeds)), weights))


def ratios(draw, seeds):
    values = draw.lognormal(0.0, 0.5, (STUDIES, 2, seeds))
    return of_seeds(np.log(values[:, 0]) - np.log(values[:, 1]))


def largest(draw, seeds):
    """Ratios of the largest of values that double which lies below a limit of each training's own."""
    limits = draw.normal(4.3, 1.0, (2, STUDIES, seeds))
    of, against = np.clip(np.floor(limits), 0, 8)
    return [OfSeeds(a - b, a - b - 1, a + 1 - b) for a, b in zip(of, against, strict=True)]


def times(draw, seeds):
    """Steps of an even grid, as metrics are logged, a fifth of the runs censored by the budget."""
    steps = np.ceil(draw.exponential(10.0, (STUDIES, 2 * seeds)))
    reached = steps <= 16
    is_of = np.arange(2 * seeds) < seeds
    return [Hazards(np.minimum(of, 16), at, is_of) for of, at in zip(steps, reached, strict=True)]


def top1(draw, seeds, videos=200, studies=STUDIES):
    """Of two arms whose trainings and videos differ by chance alone."""
    skill = 0.2 * draw.standard_normal((studies, 2 * seeds, 1))
    ease = 2.0 * draw.standard_normal((studies, 1, videos))
    ease = ease + np.repeat(0.5 * draw.standard_normal((studies, 2, videos)), seeds, axis=1)
    chance = 1 / (1 + np.exp(-0.8 - skill - ease))
    scores = (draw.random(chance.shape) < chance).astype(np.float32)
    resampled = of_videos.resampled_top1(scores.reshape(-1, videos)).reshape(studies, 2 * seeds, -1)
    return [
        OfVideos(
            of_videos.paired(
                of_videos.Tested(of[:seeds], at[:seeds]), of_videos.Tested(of[seeds:], at[seeds:])
            )
        )
        for of, at in zip(scores, resampled, strict=True)
    ]


def shares(of, effects):
    found = [decide(of, effect.interval) for effect in effects]
    return {kind: found.count(kind) / len(found) for kind in ("supported", "refuted", "equivalent")}


CASES = {
    "difference": (claim("difference"), differences, (3, 5)),
    "difference with a margin": (claim("difference", MARGIN), differences, (3, 5)),
    "difference in top-1": (claim("difference", column="val_top1"), top1, (3, 5)),
    "interaction": (claim("interaction"), interactions, (3, 5)),
    "slope": (claim("slope"), slopes, (3, 5)),
    "ratio": (claim("ratio"), ratios, (3, 5)),
    "ratio of largest": (claim("ratio"), largest, (3, 5)),
    "log_rank": (claim("log_rank"), times, (4, 6)),
    "equivalence": (claim("equivalence", MARGIN), differences, (3, 5)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name, seeds", [(name, seeds) for name, of in CASES.items() for seeds in of[2]])
def test_without_an_effect_few_are_supported_or_refuted(name, seeds):
    of, simulate, _ = CASES[name]
    found = shares(of, simulate(np.random.default_rng(0), seeds))
    print(f"\n{name},{seeds},{found}")
    assert found["supported"] <= 0.05 and found["refuted"] <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5])
def test_a_difference_of_the_margin_is_seldom_equivalent(seeds):
    effects = differences(np.random.default_rng(0), seeds, effect=MARGIN)
    found = shares(claim("equivalence", MARGIN), effects)
    print(f"\nequivalence at its margin,{seeds},{found}")
    assert found["equivalent"] <= 0.05 and found["refuted"] <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5])
def test_what_is_worse_by_the_margin_is_seldom_found_no_worse(seeds):
    effects = differences(np.random.default_rng(0), seeds, effect=-MARGIN)
    found = shares(claim("non_inferiority", MARGIN), effects)
    print(f"\nnon_inferiority at its margin,{seeds},{found}")
    assert found["supported"] <= 0.05 and found["refuted"] <= 0.05


def test_few_of_some_studies_without_an_effect_are_decided():
    found = shares(claim("difference"), differences(np.random.default_rng(0), 3))
    assert found["supported"] <= 0.05 and found["refuted"] <= 0.05

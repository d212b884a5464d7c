"""Verdicts on made-up results: each statistic decides by its interval, and says what it lacks."""

import math

import numpy as np
import pytest
from scipy import stats

from videonorm.study.claims import verdict
from videonorm.study.contrasts import Grid
from videonorm.study.measures import measure
from videonorm.study.study_file import study_plan
from videonorm.sweep.records import planned
from videonorm.sweep.scores import RunScores, Scores, Views

LR = "model.optimizer.init_args.lr"
NO_SCORES = Scores(np.array([], np.str_), np.array([], np.int64), {})


@pytest.fixture
def decided(claimed, result, tmp_path):
    """The verdict on one claim, of runs that ``make`` gives values to, or an error."""

    def run(claim, make, seeds=3, scores=None, axes=None, **sweep):
        study = claimed(claim, seeds, axes=axes or {}, **sweep)
        plan = study_plan(study)
        rows = []
        for of in plan.runs:
            values = make(of.arm, of.shape.batch_size, of.seed, *of.axes.values())
            top1 = None if isinstance(values, str) else 0.5
            failed = {"error": values} if isinstance(values, str) else values
            row = {"run": of.name, "frame_stride": 2, "axes": planned(of)["axes"], **failed}
            rows.append(result(of.arm, 8, of.shape.batch_size, row.pop("val_top1", top1), of.seed, **row))
        grid = Grid(study.sweep.axes, map(planned, plan.runs))
        found = measure(study, grid, tmp_path, rows)
        of_runs = scores(rows) if scores else NO_SCORES
        return verdict(study, study.claims[0], grid, rows, found, of_runs)

    return run


def losses(gap, spread=0.1):
    return lambda arm, size, seed: {"val_loss": 1.0 + (arm == "bn") * (gap + spread * (seed - 1))}


def test_a_difference_is_decided_by_students_interval(decided):
    found = decided({}, losses(0.5))
    low, high = stats.ttest_1samp([0.4, 0.5, 0.6], 0).confidence_interval()
    assert (found.low, found.effect, found.high) == pytest.approx((low, 0.5, high))
    assert (found.verdict, found.unit, found.seeds, found.runs) == ("supported", "val_loss", 3, 12)
    assert found.core_minutes == pytest.approx(12) and found.videos is None and not found.needs
    assert decided({}, losses(-0.5)).verdict == "refuted"
    assert decided({"expected": "lower"}, losses(-0.5)).verdict == "supported"
    assert decided({"margin": 0.8}, losses(0.5)).verdict == "equivalent"
    assert decided({"margin": 0.7}, losses(0.5)).verdict == "supported"  # more than none, if perhaps not much


def test_what_is_not_decided_says_how_many_seeds_would_decide_it(decided):
    found = decided({}, losses(0.1))
    assert found.verdict == "not decided" and found.needs == "at least about 4 more seeds would be needed"
    assert stats.t.ppf(0.975, 6) * 0.1 / math.sqrt(7) < 0.1 < stats.t.ppf(0.975, 5) * 0.1 / math.sqrt(6)


def test_equivalence_and_non_inferiority(decided):
    equivalence = {"statistic": "equivalence", "expected": None, "margin": 0.2}
    assert decided(equivalence, losses(0.0)).verdict == "equivalent"  # 90 % reach to 0.17, 95 % to 0.25
    assert decided({**equivalence, "margin": 0.16}, losses(0.0)).verdict == "not decided"
    assert decided(equivalence, losses(0.5)).verdict == "refuted"
    no_worse = {"statistic": "non_inferiority", "expected": "lower", "margin": 0.3}
    assert decided(no_worse, losses(0.0)).verdict == "supported"
    assert decided(no_worse, losses(-9.0)).verdict == "supported"
    assert decided(no_worse, losses(0.1)).verdict == "not decided"
    assert decided(no_worse, losses(0.6)).verdict == "refuted"


def test_interactions_slopes_and_ratios(decided):
    def by_size(arm, size, seed):
        return {"val_loss": math.exp(0.001 * seed * (arm == "bn")) * (size if arm == "bn" else 4.0)}

    between = {"statistic": "interaction", "between": [{"batch_size": 4}, {"batch_size": 2}]}
    assert decided(between, by_size).effect == pytest.approx(2.0, rel=0.01)
    along = decided({"statistic": "interaction", "along": "batch_size"}, by_size)
    assert (
        along.effect == pytest.approx(2.0, rel=0.01) and along.unit == "val_loss per doubling of batch_size"
    )
    slope = {"statistic": "slope", "along": "batch_size", "against": None}
    assert decided(slope, by_size, batch_size=[1, 2, 4]).effect == pytest.approx(1.5, rel=0.01)
    ratio = decided({"statistic": "ratio", "of": {"norm": "bn", "batch_size": 2}, "margin": 0.5}, by_size)
    assert ratio.effect == pytest.approx(0.5, rel=0.01) and ratio.unit == "x" and ratio.verdict == "refuted"
    half = {"statistic": "ratio", "of": {"norm": "bn", "batch_size": 2}, "margin": 1.1}
    assert decided(half, by_size).verdict == "equivalent"  # it is within 1 / 2.1 and 2.1
    nothing = decided(half, lambda arm, size, seed: {"val_loss": float(arm == "bn")})
    assert nothing.needs == "values above 0 alone, of which there is a ratio"


def of_videos(share):
    """Scores by which an arm has ``share`` of 200 videos right, the easy ones."""

    def scores(rows):
        runs = {
            row.run: RunScores(
                (Views(8, 2, 1, 1),), (np.arange(200) < share(row.norm, row.seed))[None].astype("f4")
            )
            for row in rows
        }
        return Scores(np.arange(200).astype(np.str_), np.zeros(200, np.int64), runs)

    return scores


def test_networks_that_have_learnt_nothing_decide_nothing(decided):
    """Of 8 classes: each by chance, or one of the two above it."""
    claim = {"measure": "val_top1", "statistic": "equivalence", "expected": None, "margin": 10}
    found = decided(claim, lambda arm, size, seed: {"val_top1": 0.125 + 0.001 * seed})
    assert found.verdict == "not decided" and found.effect is None
    assert found.needs == "training that ends above chance: no cell does"
    one = decided(claim, lambda arm, size, seed: {"val_top1": 0.125 + 0.5 * (arm == "bn") + 0.001 * seed})
    assert one.verdict == "refuted"


def test_top1_is_compared_video_by_video(decided):
    def right(arm, seed):
        return 120 + seed + 20 * (arm == "bn")

    claim = {"measure": "val_top1", "of": {"norm": "bn", "batch_size": 2}}

    def top1(arm, size, seed):
        return {"val_top1": right(arm, seed) / 200}

    found = decided(claim, top1, scores=of_videos(right))
    assert (found.verdict, found.unit, found.videos) == ("supported", "points", 200)
    assert found.effect == pytest.approx(10) and 3 < found.low < 8 and 12 < found.high < 17
    alone = decided(claim, top1)  # without the scores it is less sure
    assert alone.effect == pytest.approx(10) and alone.low < found.low and alone.videos == 400
    near = decided(
        {**claim, "margin": 1}, top1, scores=of_videos(lambda arm, seed: 120 + seed + (arm == "bn"))
    )
    assert near.verdict == "not decided" and "more seeds" in near.needs and "more videos" in near.needs
    interaction = {"measure": "val_top1", "statistic": "interaction", "along": "batch_size"}
    both = decided(interaction, top1, scores=of_videos(right))
    assert both.effect == pytest.approx(0) and both.unit == "points per doubling of batch_size"
    assert decided(interaction, top1).needs == "the scores of all runs on single videos (scores.npz)"


def test_a_difference_of_differences_may_be_more_than_all_videos(decided):
    """bn loses at B = 4 what gn_ws gains: 90 points each."""

    def right(arm, size, seed):
        return 190 - seed if (arm == "bn") == (size == 2) else 10 + seed

    def scores(rows):
        of = {row.run: right(row.norm, row.batch_size, row.seed) for row in rows}
        views = (Views(8, 2, 1, 1),)
        runs = {
            run: RunScores(views, (np.arange(200) < count)[None].astype("f4")) for run, count in of.items()
        }
        return Scores(np.arange(200).astype(np.str_), np.zeros(200, np.int64), runs)

    claim = {"measure": "val_top1", "statistic": "interaction", "along": "batch_size", "expected": "lower"}
    found = decided(claim, lambda *of: {"val_top1": right(*of) / 200}, scores=scores)
    assert found.effect == pytest.approx(-178) and found.verdict == "supported"
    assert -200 <= found.low < found.effect < found.high < -160


def test_failed_runs_leave_fewer_seeds(decided):
    def fails(arm, size, seed):
        return "out of memory" if (arm, seed) == ("bn", 0) else {"val_loss": 1.0 + (arm == "bn") + seed / 10}

    found = decided({}, fails)
    assert (found.verdict, found.seeds, found.runs) == ("supported", 2, 12)
    found = decided({}, fails, seeds=2)
    assert (found.verdict, found.effect, found.seeds) == ("not decided", None, 1)
    lacks = (
        "1 more seed with a value in every cell: 2 of 8 runs have none, such as bn_8x2_b2_s0: out of memory"
    )
    assert found.needs == lacks


LARGEST = {"measure": {"largest": "lr"}, "statistic": "ratio", "of": {"norm": "bn", "batch_size": 2}}


def test_the_largest_stable_value_lies_between_two_that_were_tried(decided):
    diverged = "training loss must be finite: the run has diverged"

    def stable(limit):
        return lambda arm, size, seed, lr: diverged if lr > limit[arm] else {}

    axes = {LR: [0.01, 0.02, 0.04, 0.08]}
    found = decided(LARGEST, stable({"bn": 0.04, "gn_ws": 0.01}), axes=axes)
    assert found.verdict == "supported"
    assert (found.low, found.effect, found.high) == pytest.approx((2, 4, 8))
    same = decided(LARGEST, stable({"bn": 0.02, "gn_ws": 0.02}), axes=axes)
    assert same.verdict == "not decided" and (same.low, same.high) == pytest.approx((0.5, 2))
    assert same.needs == "1,000 seeds would not do; values between those that were tried, or beyond, might"
    never = decided(LARGEST, stable({"bn": 0.02, "gn_ws": 0}), axes=axes)
    assert never.verdict == "supported" and (never.low, never.effect, never.high) == (
        pytest.approx(2),
        None,
        math.inf,
    )
    always = decided(LARGEST, stable({"bn": 1, "gn_ws": 0.02}), axes=axes)
    assert (always.low, always.effect, always.high) == (pytest.approx(2), pytest.approx(4), math.inf)
    lost = decided(LARGEST, lambda arm, size, seed, lr: "out of memory" if lr > 0.02 else {}, axes=axes)
    assert lost.verdict == "not decided" and lost.seeds == 0


def test_time_to_a_target_is_a_log_rank_test(decided, tmp_path):
    for arm, first in (("bn", 60), ("gn-ws", 10)):
        for seed in range(4):
            folder = tmp_path / f"{arm}_8x2_b2_s{seed}"
            folder.mkdir()
            rows = "".join(f"{step - 1},{2.0 if step < first + seed else 0.5}\n" for step in range(1, 90))
            (folder / "metrics.csv").write_text(f"step,train/loss\n{rows}")
    time = {"measure": {"column": "train/loss", "time_to": 1.0}, "statistic": "log_rank"}
    claim = {**time, "of": {"norm": "bn", "batch_size": 2}}
    found = decided(claim, lambda arm, size, seed: {"steps": 100}, seeds=4)
    assert (found.verdict, found.unit, found.seeds, found.runs) == ("supported", "x (hazard)", 4, 8)
    assert found.low > 1 and found.effect > 2  # gn_ws is at the target so much more often, of those not there
    none = decided(
        {**claim, "measure": {**time["measure"], "time_to": 0.1}}, lambda *of: {"steps": 100}, seeds=4
    )
    assert none.effect is None and none.needs == "a target that runs reach within the budget"
    few = decided(claim, lambda arm, size, seed: "out of memory" if (arm, seed) == ("bn", 3) else {}, seeds=4)
    assert few.verdict == "supported"  # it had got there before

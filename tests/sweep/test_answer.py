import itertools
import random
import re

import pytest

from videonorm.sweep import answer as module
from videonorm.sweep.answer import Answer
from videonorm.sweep.cells import cells_of


def answer(cells, device=None) -> Answer:
    """The answer in ASCII, as it is easier to read and to write here."""
    found = module.answer(cells, device)
    return Answer(plain(found.headline), [plain(sentence) for sentence in found.details])


def plain(text: str) -> str:
    return text.replace("\u00a0", " ").replace("\u2212", "-")


def constant_frames(result, scores, **more):
    """Rows at 64 frames a step; scores: norm -> top-1 at T=4 and at T=32."""
    return [
        result(norm, length, 64 // length, top1, **more)
        for norm, pair in scores.items()
        for length, top1 in zip((4, 32), pair, strict=True)
    ]


def test_a_winner_is_named_with_its_uncertainty(result):
    rows = constant_frames(result, {"bn": (0.36, 0.19), "gn_ws": (0.39, 0.93)})
    found = answer(cells_of(rows), "2 CPU cores")
    assert found.headline == (
        "gn_ws at T=32, B=2 is best with 93.0 % top-1, having seen 20 clips; the others saw 20 to 160."
    )
    assert found.details == [
        "On 2 CPU cores, for this data: gn_ws, 32 x 1, B = 2; +57.0 points (95 % CI +51.4 to +62.0) over the "
        "best bn cell, at 1.00 of its speed, 0.5 GiB.",
        "gn_ws at T=32, B=2: 93.0 % (95 % CI 90.1 to 95.1; 400 videos, 1 seed, 64 frames a step, "
        "on 2 CPU cores).",
        "It is ahead of the nearest, gn_ws at T=4, B=16 with 39.0 %, by +54.0 points "
        "(95 % CI +48.3 to +59.1), p < 0.001 after Holm's correction over 3 comparisons, "
        "after 20 and 160 clips.",
        "The cells saw unequal numbers of clips, from 20 (T=32, B=2) to 160 (T=4, B=16), "
        "all in 640 frames and 10 steps.",
        "At T=32, B=2, bn reaches 19.0 %; gn_ws is ahead by +74.0 points (95 % CI +68.9 to +78.1).",
        "From T=4, B=16 to T=32, B=2, bn goes from 36.0 % to 19.0 %: -17.0 points (95 % CI -23.0 to -10.9), "
        "after 160 and 20 clips.",
        "From T=4, B=16 to T=32, B=2, gn_ws goes from 39.0 % to 93.0 %: +54.0 points "
        "(95 % CI +48.3 to +59.1), after 160 and 20 clips.",
        "Chance is 12.5 %.",
        "With one seed the intervals cover the choice of validation videos, not the luck of training; "
        "--seeds 3 covers both.",
        "The scores of the cells on single videos are not known (scores.npz); comparisons with them are not "
        "paired by video, and their intervals rather too wide.",
    ]


def test_a_tie_has_no_winner(result):
    rows = constant_frames(result, {"gn": (0.38, 0.92), "gn_ws": (0.39, 0.93)})
    found = answer(cells_of(rows))
    assert found.headline == (
        "No clear winner: gn_ws at T=32, B=2 leads with 93.0 % top-1, but 1 other cannot be told apart; "
        "cells saw 20 to 160 clips."
    )
    assert found.details[2].startswith(
        "gn at T=32, B=2 with 92.0 % cannot be told apart from it: difference +1.0 points"
    )
    assert "gn_ws cannot be told apart from it" in found.details[4]


def test_the_decision_of_a_tie_says_what_would_settle_it(result):
    found = answer(cells_of([result("bn", 8, 2, 0.90), result("gn", 8, 2, 0.92)]), "an H200")
    assert re.fullmatch(
        r"On an H200, for this data: no decision; gn, 8 x 1, B = 2 is not distinguishable from bn at T=8, "
        r"B=2: \+2.0 points \(95 % CI -2.* to \+.*\), at 1.00 of its speed, 0.5 GiB; more seeds, whose "
        r"spread one seed does not show, or at least about 1,\d{3} more videos, would be needed.",
        found.details[0],
    )


def test_the_decision_has_its_memory_and_its_further_axes(result):
    rows = [
        result("gn", 8, 2, top1, axes={"data.crop_size": size}, peak_memory_mib=61 * 1024.0)
        for size, top1 in (("112", 0.6), ("224", 0.9))
    ]
    found = module.answer(cells_of(rows), "an H200", device_memory_mib=80 * 1024.0)
    decision = plain(found.details[0])
    assert decision.startswith("On an H200, for this data: gn, 8 x 1, B = 2, crop_size 224; +30.0 points (")
    assert decision.endswith(" over the next cell, at 1.00 of its speed, 61 of 80 GiB.")
    assert found.headline.startswith("gn at T=8, B=2, crop_size 224 is best")


def test_many_ties_are_counted(result):
    rows = constant_frames(result, {"bn": (0.5, 0.5), "gn": (0.5, 0.5), "gn_ws": (0.5, 0.51)})
    found = answer(cells_of(rows))
    assert "but 5 others cannot be told apart" in found.headline
    assert found.details[2].startswith("5 others cannot be told apart from it, the nearest ")
    assert "a change that cannot be told from none, +1.0 points" in " ".join(found.details)


def test_the_best_of_many_must_be_clearer_than_the_best_of_two(result):
    two = [result("bn", 8, 2, 0.88), result("gn", 8, 2, 0.93)]
    assert "is best" in answer(cells_of(two)).headline
    clearly_worse = [result("gn", length, 2, 0.2) for length in range(10, 20)]
    assert "is best" in answer(cells_of(two + clearly_worse)).headline  # each of those leaves Holm one less
    many = two + [result("gn", length, 2, 0.88) for length in range(10, 20)]
    assert "No clear winner" in answer(cells_of(many)).headline


def test_seeds_that_disagree_leave_no_winner(result):
    rows = []
    for seed, (bn, gn) in enumerate([(0.60, 0.90), (0.70, 0.60), (0.50, 0.70)]):
        rows += [result("bn", 8, 2, bn, seed=seed), result("gn", 8, 2, gn, seed=seed)]
    found = answer(cells_of(rows))
    assert "No clear winner" in found.headline
    assert "3 seeds" in found.details[1]
    assert not any("With one seed" in sentence for sentence in found.details)


def test_in_a_grid_each_axis_is_moved_alone(result):
    rows = [
        result(norm, length, size, top1)
        for norm, gain in (("bn", 0.0), ("gn", 0.05))
        for (length, size), top1 in {(8, 2): 0.3, (8, 8): 0.4, (32, 2): 0.5, (32, 8): 0.8}.items()
        for top1 in [top1 + gain]
    ]
    details = " ".join(answer(cells_of(rows)).details)
    assert "From T=8, B=8 to T=32, B=8, gn goes from 45.0 % to 85.0 %" in details
    assert "From T=32, B=2 to T=32, B=8, bn goes from 50.0 % to 80.0 %" in details
    assert "B=2 to T=32, B=2" not in details


def test_strides_are_named_where_they_differ(result):
    rows = [result("gn", 32, 4, 0.72, frame_stride=2), result("gn", 64, 4, 0.93, frame_stride=1)]
    assert "gn at T=64x1, B=4 is best" in answer(cells_of(rows)).headline


def test_failed_runs_are_told_and_in_no_comparison(result):
    rows = [result("bn", 8, 2, None), result("gn", 8, 2, 0.5, best_possible_top1=None, num_classes=None)]
    found = answer(cells_of(rows))
    assert found.headline.endswith("no other cell has a result.")
    assert found.details[-1] == "1 of 2 runs failed and are in no comparison."
    assert answer(cells_of(rows[:1])).headline == "No run has a result: 1 failed."
    assert answer([]).headline == "No run has a result yet."


def test_the_ceiling_is_told(result):
    found = answer(cells_of([result("gn", 8, 2, 0.4)]))
    assert "Chance is 12.5 %. No model can exceed 50.0 % with 8 frames." in found.details


def test_no_winner_of_unequal_budgets_without_them(result):
    equal_steps = [
        result("gn", 8, 1, 0.41, clips_seen=150, steps=150, frames_seen=1200),
        result("gn", 8, 8, 0.85, clips_seen=1200, steps=150, frames_seen=9600),
    ]
    found = answer(cells_of(equal_steps))
    assert found.headline == (
        "gn at T=8, B=8 is best with 85.0 % top-1, having seen 1,200 clips; the others saw 150."
    )
    assert "from 150 (T=8, B=1) to 1,200 (T=8, B=8), all in 150 steps." in found.details[3]
    change = next(sentence for sentence in found.details if sentence.startswith("From T=8, B=1 to T=8, B=8"))
    assert change.endswith(", after 150 and 1,200 clips.")


def test_equal_budgets_are_not_mentioned(result):
    found = answer(cells_of([result("bn", 8, 2, 0.2), result("gn", 8, 2, 0.9)]))
    assert found.headline == "gn at T=8, B=2 is best with 90.0 % top-1."
    assert not any("clips" in sentence for sentence in found.details)


@pytest.mark.parametrize("strides", [(1,), (1, 2)])
@pytest.mark.parametrize("seeds", [1, 2])
def test_the_headline_is_one_sentence_of_at_most_25_words(result, strides, seeds):
    draw = random.Random(0)
    for arms, sizes, failing, spread in itertools.product((1, 4), ((2,), (2, 16)), (0.0, 0.3), (0.02, 0.5)):
        rows = [
            result(
                arm,
                64,
                size,
                None if draw.random() < failing else 0.4 + spread * draw.random(),
                seed=seed,
                frame_stride=stride,
                clips_seen=draw.choice([20_480, 1_234_567]) * size,
            )
            for arm in ("a_long_name_of_an_arm", "bn", "gn", "gn_ws")[:arms]
            for size in sizes
            for stride in strides
            for seed in range(seeds)
        ]
        headline = module.answer(cells_of(rows), "NVIDIA GeForce RTX 4090 Laptop GPU").headline
        assert len(headline.split()) <= 25, headline
        assert headline.endswith(".") and ". " not in headline


def test_signs_are_set_as_in_print(result):
    found = module.answer(cells_of([result("gn", 4, 2, 0.9), result("gn", 8, 2, 0.1)]))
    text = " ".join([found.headline, *found.details])
    assert "\u221280.0 points" in text and not re.search(r" -\d", text)
    assert "90.0\u00a0%" in text and " %" not in text

from random import Random

import pytest

from videonorm.data.sampling import (
    RandomClips,
    StretchedClips,
    UniformClips,
    clip_span,
    frame_indices,
    random_clip_start,
    uniform_clip_starts,
)
from videonorm.errors import UserError


def test_clip_span_counts_first_and_last_frame():
    assert clip_span(8, 8) == 57
    assert clip_span(1, 30) == 1


def test_random_start_reaches_every_position_that_fits():
    rng = Random(0)
    starts = {random_clip_start(20, 4, 5, rng) for _ in range(500)}
    assert starts == set(range(20 - 16 + 1))
    assert random_clip_start(10, 4, 5, rng) == 0


@pytest.mark.parametrize(
    "rule, starts",
    [
        ("linspace", [0, 3, 7, 10]),  # 10 * i / 3, rounded
        ("slowfast", [0, 2, 5, 7]),  # 10 * i / 4, rounded down
        ("offset", [0, 3, 6, 9]),  # 3 * i
    ],
)
def test_uniform_starts_by_rule(rule, starts):
    assert uniform_clip_starts(26, 4, 5, 4, rule) == starts  # 26 - 16 = 10 is the last that fits


@pytest.mark.parametrize("rule", ["linspace", "slowfast", "offset"])
def test_uniform_starts_always_fit(rule):
    for video_frames in (1, 5, 16, 17, 100, 301):
        for num_clips in (1, 2, 3, 10):
            starts = uniform_clip_starts(video_frames, 4, 5, num_clips, rule)
            last = max(video_frames - 16, 0)
            assert len(starts) == num_clips
            assert starts == sorted(starts)
            assert starts[0] >= 0 and starts[-1] <= last
            if num_clips == 1:
                assert starts == [last // 2]
            elif rule == "linspace":
                assert starts[-1] == last


def test_frame_indices():
    assert frame_indices(3, 4, 5, 19, "error") == [3, 8, 13, 18]
    assert frame_indices(0, 4, 5, 12, "loop") == [0, 5, 10, 3]
    assert frame_indices(0, 4, 5, 12, "repeat_last") == [0, 5, 10, 11]
    assert frame_indices(0, 3, 1, 1, "loop") == [0, 0, 0]
    with pytest.raises(ValueError, match="4 frames at frame_stride 5 do not fit into its 15"):
        frame_indices(0, 4, 5, 15, "error")


def test_clips_of_a_video():
    assert list(UniformClips(4, 5, num_clips=3).starts(36, Random(0))) == [0, 10, 20]
    assert list(RandomClips(4, 5, num_clips=2).starts(16, Random(0))) == [0, 0]


def test_frames_of_stretched_clips_are_as_far_apart_as_is_drawn():
    rng, clips = Random(0), StretchedClips(4, 3, 2, stretch=2)
    assert {clips.drawn(rng) for _ in range(100)} == {RandomClips(4, stride, 2) for stride in (3, 4, 5, 6)}
    assert StretchedClips(4, 3, stretch=1).drawn(rng) == RandomClips(4, 3)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: RandomClips(0, 1), r"num_frames \(0\) must be at least 1"),
        (lambda: RandomClips(4, -2), r"frame_stride \(-2\) must be at least 1"),
        (lambda: UniformClips(4, 2, num_clips=0), r"num_clips \(0\) must be at least 1"),
        (
            lambda: UniformClips(4, 2, 10, "even"),
            r"clip_starts \(even\) must be linspace, slowfast or offset",
        ),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(UserError, match=message):
        make()

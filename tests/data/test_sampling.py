from random import Random

import numpy as np
import pytest

from videonorm.data.sampling import (
    RandomClips,
    SlidingClips,
    StretchedClips,
    UniformClips,
    clip_span,
    frame_indices,
    nearest_frames,
    random_clip_start,
    uniform_clip_starts,
    uniform_start_times,
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


def test_by_time_they_are_up_to_so_many_times_as_long_apart():
    rng, clips = Random(0), StretchedClips(4, num_clips=2, stretch=2, frames_per_second=12)
    rates = [clips.drawn(rng).frames_per_second for _ in range(200)]
    assert 6 <= min(rates) < 6.2 and 11.8 < max(rates) <= 12


def at_rate(rate: float, video_frames: int) -> np.ndarray:
    return np.arange(video_frames) / rate


def at_varying_rate(rng: np.random.Generator, video_frames: int) -> np.ndarray:
    seconds = np.cumsum(rng.uniform(0.001, 0.2, video_frames))
    return seconds - seconds[0]


def test_nearest_frames_are_the_nearest():
    rng = np.random.default_rng(0)
    for _ in range(100):
        seconds = at_varying_rate(rng, 50)
        rate = rng.uniform(2, 40)
        start = rng.uniform(0, seconds[-1] - 7 / rate)
        wanted = start + np.arange(8) / rate
        nearest = np.abs(seconds - wanted[:, None]).argmin(1)
        assert nearest_frames(start, 8, rate, seconds, "error").tolist() == nearest.tolist()


def test_of_two_frames_as_near_it_is_the_earlier_one():
    assert nearest_frames(0.02, 4, 12.5, at_rate(25, 40), "error").tolist() == [0, 2, 4, 6]
    assert nearest_frames(0.0, 6, 20, at_rate(30, 40), "error").tolist() == [0, 1, 3, 4, 6, 7]
    assert nearest_frames(0.0, 5, 60, at_rate(30, 40), "error").tolist() == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("rate", [24, 25, 30000 / 1001])
@pytest.mark.parametrize("short_video", ["loop", "repeat_last"])
def test_at_a_constant_rate_a_clip_is_that_of_the_stride(rate, short_video):
    for video_frames in (1, 5, 16, 17, 40):
        for stride in (1, 3, 7):
            clip = frame_indices(0, 16, stride, video_frames, short_video)
            seconds = at_rate(rate, video_frames)
            if video_frames > 1:
                assert nearest_frames(0.0, 16, rate / stride, seconds, short_video).tolist() == clip
            one = UniformClips(16, stride).clips(seconds, Random(0), short_video)
            if video_frames >= clip_span(16, stride):
                centred = UniformClips(16, frames_per_second=rate / stride).clips(seconds, Random(0), "error")
                assert centred.tolist() == one.tolist()


def test_videos_of_any_rate_are_seen_at_the_same_times():
    sampling = UniformClips(8, num_clips=3, frames_per_second=5)
    for rate in (12, 25, 30, 59.94):
        seconds = at_rate(rate, round(10 * rate))
        clips = seconds[sampling.clips(seconds, Random(0), "error")]
        wanted = np.linspace(0, seconds[-1] - 7 / 5, 3)[:, None] + np.arange(8) / 5
        assert np.abs(clips - wanted).max() <= 0.5 / rate + 1e-6


def test_a_single_frame_is_shown_as_long_as_one_of_the_clip():
    one = np.zeros(1)
    assert nearest_frames(0.0, 3, 4.0, one, "loop").tolist() == [0, 0, 0]
    assert nearest_frames(0.0, 1, 4.0, one, "error").tolist() == [0]
    with pytest.raises(ValueError, match="2 frames at frames_per_second 4 do not fit into its 0.25 s"):
        nearest_frames(0.0, 2, 4.0, one, "error")


def test_start_times_by_rule():
    assert uniform_start_times(3.0, 4, "linspace") == uniform_start_times(3.0, 4, "offset") == [0, 1, 2, 3]
    assert uniform_start_times(3.0, 4, "slowfast") == [0, 0.75, 1.5, 2.25]
    assert {tuple(uniform_start_times(3.0, 1, rule)) for rule in ("linspace", "slowfast")} == {(1.5,)}


def test_random_start_times_are_even_over_those_that_fit():
    """Over time, where frames are more than half of them in the first tenth of it, too."""
    seconds = np.concatenate([np.arange(100) / 100, 1 + np.arange(91) / 10])  # 10 s
    sampling = RandomClips(2, num_clips=4000, frames_per_second=0.5)
    first, last = sampling.clips(seconds, Random(0), "error").T
    share, _ = np.histogram(seconds[first], bins=[0, 1, 2, 4, 6, 8.06])
    np.testing.assert_allclose(share / 4000, np.array([1, 1, 2, 2, 2]) / 8, atol=0.02)
    assert np.abs(seconds[last] - seconds[first] - 2).max() <= 0.1
    assert seconds[last].max() == 10 and seconds[first].min() == 0


def test_what_is_shorter_than_a_clip_does_not_fit():
    rng = np.random.default_rng(1)
    fitted = []
    for _ in range(200):
        sampling = RandomClips(int(rng.integers(1, 12)), frames_per_second=rng.uniform(3, 30))
        seconds = at_varying_rate(rng, int(rng.integers(1, 12)))
        fitted.append(sampling.length(seconds) >= sampling.span)
        try:
            clips = sampling.clips(seconds, Random(0), "error")
        except ValueError:
            assert not fitted[-1]
        else:
            assert fitted[-1] and clips.max() < len(seconds)
    assert 0.2 < np.mean(fitted) < 0.9


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: RandomClips(0, 1), r"num_frames \(0\) must be at least 1"),
        (lambda: RandomClips(4, -2), r"frame_stride \(-2\) must be at least 1"),
        (
            lambda: RandomClips(4, 2, frames_per_second=8),
            r"frame_stride \(2\) must be null beside frames_per_",
        ),
        (
            lambda: UniformClips(4, None),
            r"frame_stride \(null\) must be given, or frames_per_second in its pl",
        ),
        (lambda: RandomClips(4, frames_per_second=-1.5), r"frames_per_second \(-1.5\) must be above 0"),
        (
            lambda: RandomClips(4, frames_per_second=float("nan")),
            r"frames_per_second \(nan\) must be above 0",
        ),
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


@pytest.mark.parametrize(
    ("video_frames", "step", "starts"),
    [
        (
            20,
            None,
            [0, 8, 13],
        ),  # 4 frames, every second one: 8 source frames each, of which the last is not read
        (23, None, [0, 8, 16]),
        (20, 6, [0, 6, 12, 13]),
        (7, None, [0]),
        (3, 1, [0]),
    ],
)
def test_windows_go_from_beginning_to_end(video_frames, step, starts):
    assert SlidingClips(4, 2, step=step).starts(video_frames, Random(0)) == starts


def test_windows_in_time():
    sampling = SlidingClips(4, frames_per_second=2)
    assert sampling.start_times(5.0, Random(0)) == [0, 2, 4, 5]
    assert sampling.start_times(4.0, Random(0)) == [0, 2, 4]
    assert sampling.start_times(0.0, Random(0)) == [0]
    assert SlidingClips(4, frames_per_second=2, step=2.5).start_times(5.0, Random(0)) == [0, 2.5, 5]
    with pytest.raises(UserError, match=r"step \(0\) must be above 0"):
        SlidingClips(4, 2, step=0)

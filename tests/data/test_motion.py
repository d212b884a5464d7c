"""MotionClips: the files, and the claims made of them."""

import hashlib
import os
from random import Random

import av
import numpy as np
import pytest

from videonorm.data import RandomClips, motion, open_video
from videonorm.data.motion import CLASS_NAMES, DIRECTIONS, DRIFT, JITTER, NUM_FRAMES, MotionClips, render
from videonorm.errors import UserError


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    source = MotionClips(tmp_path_factory.mktemp("motion"), num_train=8, num_val=4, num_test=4)
    source.prepare()
    return source


def test_every_video_is_h264_with_all_its_frames(small):
    for split, size in (("train", 8), ("val", 4), ("test", 4)):
        manifest = small.manifest(split)
        assert [entry.label for entry in manifest.entries] == [n % 4 for n in range(size)]
        assert manifest.class_names == CLASS_NAMES
    with av.open(manifest.entries[0].path) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert len(list(container.decode(video=0))) == NUM_FRAMES


def decoded(path: str) -> np.ndarray:
    with av.open(path) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(int)


def test_a_stopped_run_goes_on_with_the_same_videos(small):
    lost, kept = (small.manifest("train").entries[number].path for number in (3, 4))
    before, stamp = decoded(lost), os.stat(kept).st_mtime_ns
    os.unlink(lost)
    small.prepare()
    # The pictures are the same; x264 may choose other frame types from run to run.
    assert np.abs(decoded(lost) - before).mean() < 2
    assert os.stat(kept).st_mtime_ns == stamp


def displacement(frames: np.ndarray) -> np.ndarray:
    """(y, x) from the first to the last frame of whole tori, by phase correlation in whole pixels."""
    first, last = (np.fft.fft2(frame.mean(-1)) for frame in (frames[0], frames[-1]))
    peak = np.fft.ifft2(last * first.conj() / (np.abs(last * first.conj()) + 1e-9)).real
    shift = np.array(np.unravel_index(peak.argmax(), peak.shape))
    return (shift + np.array(peak.shape) // 2) % np.array(peak.shape) - np.array(peak.shape) // 2


@pytest.mark.parametrize("label", range(4))
def test_the_texture_moves_in_the_direction_of_its_class(label, monkeypatch):
    monkeypatch.setattr(motion, "JITTER", 0.0)
    monkeypatch.setattr(motion, "SIZE", motion.TORUS)
    frames = render(label, np.random.default_rng(0))[:9]
    np.testing.assert_array_equal(displacement(frames), 8 * DRIFT * DIRECTIONS[label])


def test_the_ceiling_is_what_an_ideal_observer_reaches(small):
    rng = np.random.default_rng(0)
    for num_frames, stride in ((4, 1), (8, 1), (4, 2)):
        steps = (num_frames - 1) * stride
        moved = steps * DRIFT * DIRECTIONS[0] + np.sqrt(steps) * JITTER * rng.normal(size=(200_000, 2))
        right = (moved @ DIRECTIONS.T).argmax(1) == 0
        assert small.best_possible_top1(num_frames, stride) == pytest.approx(right.mean(), abs=0.005)


def test_the_ceiling_of_clips_in_time_is_that_of_their_widest(small):
    """Whatever the start; the files have 24 frames a second, and 32 of them."""
    with open_video(small.manifest("train").entries[0].path) as video:
        seconds = video.seconds
    for num_frames, rate in ((4, 24), (8, 12), (5, 6), (4, 10), (8, 17.5), (9, 60), (16, 1)):
        clips = RandomClips(num_frames, num_clips=200, frames_per_second=rate)
        frames = clips.clips(seconds, Random(0), "repeat_last")
        widest = (frames[:, -1] - frames[:, 0]).max()
        assert small.best_possible_top1(num_frames, None, rate) == small.best_possible_top1(2, widest)


def test_a_frame_does_not_tell_the_class():
    frames = {label: render(label, np.random.default_rng(7))[0].astype(int) for label in range(4)}
    # The same draws for another class: the same texture, moved by less than a drift of two frames.
    assert np.abs(frames[0] - frames[2]).mean() < frames[0].std()
    means = [
        np.mean([render(label, np.random.default_rng([label, n]))[0].mean() for n in range(20)])
        for label in (0, 1)
    ]
    assert abs(means[0] - means[1]) < 8


def test_a_network_of_other_classes_is_refused(small):
    small.settle_class_names(["right", "down", "left", "up"])
    with pytest.raises(UserError, match=r"class names of the network \(up, down\) must be those of right"):
        small.settle_class_names(["up", "down"])


def test_the_contrast_ratio_changes_contrast_alone(tmp_path):
    def frames(ratio: float, number: int) -> np.ndarray:
        return render(1, np.random.default_rng([0, 0, number]), ratio).astype(float)

    spread = {ratio: np.array([frames(ratio, n).std() for n in range(20)]) for ratio in (1.0, 4.0, 20.0)}
    middle = np.sqrt(4 * 80)
    np.testing.assert_allclose(spread[1.0], middle, rtol=0.01)
    assert middle / 2 * 0.98 < spread[4.0].min() and spread[4.0].max() < middle * 2 * 1.02
    # The same draw, of a narrower range: half the logarithm of the ratio is half the distance in logarithm.
    distance = {ratio: np.log(spread[ratio] / middle) for ratio in (4.0, 20.0)}
    faint = spread[20.0] < 40  # where nothing is clipped
    assert 10 < faint.sum() < 20
    narrower = np.log(4) / np.log(20) * distance[20.0]
    np.testing.assert_allclose(distance[4.0][faint], narrower[faint], atol=0.03)
    one, other = (frames(ratio, 0)[::8] - frames(ratio, 0)[::8].mean() for ratio in (1.0, 4.0))
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.999


def test_the_videos_of_the_default_ratio_are_those_they_have_always_been(tmp_path):
    frames = render(1, np.random.default_rng([0, 0, 5]))
    assert hashlib.sha256(frames.tobytes()).hexdigest().startswith("5d0a7b0035e9c780")
    named = {ratio: MotionClips(tmp_path, contrast_ratio=ratio).root.name for ratio in (20, 4, 1.5)}
    assert named == {
        20: "motion_v1_seed0_400_400_200",
        4: "motion_v1_seed0_400_400_200_contrast4",
        1.5: "motion_v1_seed0_400_400_200_contrast1.5",
    }
    for ratio in (0.5, float("inf"), float("nan")):
        with pytest.raises(UserError, match=r"contrast_ratio \(.*\) must be at least 1"):
            MotionClips(tmp_path, contrast_ratio=ratio)

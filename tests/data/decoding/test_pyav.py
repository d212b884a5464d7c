"""The default reader; that its frames are the right ones is tested in test_frame_exactness.py."""

import os
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from av.stream import Disposition

from videonorm.data.decoding import BadVideoError, open_video

COUNT = 40


def test_frames_show_their_numbers(videos, number_of):
    with open_video(videos("variable_rate.mp4")) as video:
        assert [number_of(frame) for frame in video.read(range(COUNT))] == list(range(COUNT))


def test_seconds_follow_the_timestamps(videos):
    times = np.cumsum(np.random.default_rng(3).integers(1, 9, COUNT))
    with open_video(videos("variable_rate.mp4")) as video:
        np.testing.assert_allclose(video.seconds, (times - times[0]) / 25, atol=1e-4)
    with open_video(videos("late_start.mp4")) as video:
        np.testing.assert_allclose(video.seconds, np.arange(COUNT) / 25, atol=1e-4)
        assert video.frame_rate == pytest.approx(25)


def test_rotated_video_is_turned_upright(videos, make_video, number_of, tmp_path):
    with open_video(videos("upright.mp4")) as video:  # 64 high and 80 wide as coded, turned by 90 degrees
        assert (video.height, video.width) == (80, 64)
        frame = video.read([37])[0]
    assert number_of(np.rot90(frame, -1)) == 37
    half = make_video(tmp_path / "half.mp4", count=5, width=80, rotation=180)
    with open_video(str(half)) as video:
        assert (video.height, video.width) == (64, 80)
        assert number_of(np.rot90(video.read([3])[0], 2)) == 3


@pytest.mark.parametrize(
    "name, short_side, size", [("odd_size.mp4", 32, (32, 38)), ("upright.mp4", 96, (120, 96))]
)
def test_short_side_is_exact_up_and_down(name, short_side, size, videos):
    with open_video(videos(name)) as video:
        scaled = video.read([0, 20], short_side)
        original = video.read([0, 20])
    assert scaled.shape == (2, *size, 3)
    # The same picture: block means agree.
    for axis in (1, 2):
        means = [
            [part.mean() for part in np.array_split(frames, 4, axis=axis)] for frames in (scaled, original)
        ]
        np.testing.assert_allclose(*means, atol=6)


@pytest.mark.parametrize("short_side", [32, 48, 96])
def test_scaling_adds_no_light(short_side, videos):
    with open_video(videos("b_frames.mp4")) as video:
        frames = torch.from_numpy(video.read(range(COUNT))).movedim(3, 1).float()
        scaled = video.read(range(COUNT), short_side).astype(float)
    exact = F.interpolate(frames, (short_side, short_side), mode="bilinear", antialias=True).movedim(1, 3)
    error = scaled - exact.numpy()
    assert abs(error.mean()) < 0.2
    assert np.abs(error).mean() < 6


def test_frames_cut_off_by_an_edit_list_do_not_count(make_video, tmp_path, number_of):
    path = str(make_video(tmp_path / "cut.mp4", times=list(range(-7, COUNT - 7))))
    with open_video(path) as video:
        assert [number_of(frame) for frame in video.read(range(video.num_frames))] == list(range(7, COUNT))
        assert number_of(video.read([20])[0]) == 27


def test_best_stream_of_several_is_read(make_video, videos, tmp_path, decode_in_order):
    small = str(make_video(tmp_path / "small.mp4", height=32, width=32))
    both = str(tmp_path / "both.mp4")
    with av.open(small) as first, av.open(videos("b_frames.mp4")) as second, av.open(both, "w") as output:
        inputs = [(source, source.streams.video[0]) for source in (first, second)]
        outputs = [output.add_stream_from_template(stream) for _, stream in inputs]
        outputs[0].disposition, outputs[1].disposition = Disposition(0), Disposition.default
        for (source, stream), target in zip(inputs, outputs, strict=True):
            for packet in source.demux(stream):
                if packet.dts is not None:
                    packet.stream = target
                    output.mux(packet)
    with open_video(both) as video:
        np.testing.assert_array_equal(video.read([0, 9]), decode_in_order(videos("b_frames.mp4"))[[0, 9]])


def test_frames_before_the_first_keyframe_do_not_count(videos, tmp_path, number_of):
    headless = str(tmp_path / "headless.mkv")
    with av.open(videos("b_frames.mp4")) as source, av.open(headless, "w") as output:
        stream = source.streams.video[0]
        target = output.add_stream_from_template(stream)
        for packet in list(source.demux(stream))[1:]:
            if packet.dts is not None:
                packet.stream = target
                output.mux(packet)
    with open_video(headless) as video:
        assert [number_of(frame) for frame in video.read(range(video.num_frames))] == list(range(12, COUNT))


def test_damage_spoils_frames_up_to_the_next_keyframe(videos, tmp_path, number_of):
    damaged = tmp_path / "damaged.mp4"
    content = bytearray(Path(videos("b_frames.mp4")).read_bytes())
    with av.open(videos("b_frames.mp4")) as container:
        packets = [(p.pos, p.size) for p in container.demux(container.streams.video[0]) if p.size]
    start, size = packets[14]  # the GOP of frames 12 to 23
    content[start + 4 : start + size] = bytes(size - 4)
    damaged.write_bytes(content)
    with open_video(str(damaged)) as video:
        for good in ([0, 5, 11], [24, 30, 39], [0, 39]):
            assert [number_of(frame) for frame in video.read(good)] == good
        with pytest.raises(
            BadVideoError, match="is damaged: 1 of the frames wanted cannot be decoded, the first"
        ):
            video.read([3, 20, 30])


def test_containers_are_closed(videos, tmp_path):
    with open_video(videos("b_frames.mp4")) as video:
        video.read([0])
    before = len(os.listdir("/proc/self/fd"))
    (tmp_path / "text.mp4").write_text("no video")
    for _ in range(20):
        with open_video(videos("b_frames.mp4")) as video:
            video.read([30])
        with pytest.raises(BadVideoError):
            open_video(str(tmp_path / "text.mp4"))
    assert len(os.listdir("/proc/self/fd")) == before

import numpy as np
import pytest
import torch

from videonorm.data import Batch, EvalTransform, TrainTransform
from videonorm.errors import UserError

MEAN, STD = (0.4, 0.45, 0.5), (0.2, 0.225, 0.25)


def make_batch(sizes=((12, 16), (15, 11)), num_clips=2, num_frames=3) -> Batch:
    """Random pictures, padded with 255, a value that must not be seen."""
    height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
    frames = torch.full((len(sizes), num_clips, num_frames, height, width, 3), 255, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    for row, (h, w) in zip(frames, sizes, strict=True):
        row[:, :, :h, :w] = torch.randint(0, 200, (num_clips, num_frames, h, w, 3), generator=generator)
    label = torch.arange(len(sizes))
    return Batch(frames, list(sizes), label, label, [])


def normalized(clip: np.ndarray) -> np.ndarray:
    """(T, H, W, 3) -> (3, T, H, W), by the definition."""
    return ((clip / 255.0 - MEAN) / STD).transpose(3, 0, 1, 2)


def test_random_crops_are_normalized_windows_of_the_picture():
    batch = make_batch()
    clips, label = TrainTransform(8, MEAN, STD)(batch, torch.Generator().manual_seed(1))
    assert clips.shape == (4, 3, 3, 8, 8)
    assert clips.dtype == torch.float32
    assert label.tolist() == [0, 0, 1, 1]
    for i, clip in enumerate(clips.numpy()):
        height, width = batch.sizes[i // 2]
        picture = batch.frames[i // 2, i % 2].numpy()[:, :height, :width]
        windows = [
            normalized(flipped)
            for top in range(height - 7)
            for left in range(width - 7)
            for window in [picture[:, top : top + 8, left : left + 8]]
            for flipped in (window, window[:, :, ::-1])
        ]
        assert sum(np.allclose(clip, window, atol=1e-5) for window in windows) == 1


def test_every_position_and_both_sides_are_drawn():
    batch = make_batch(sizes=((9, 10),), num_clips=1, num_frames=1)
    transform = TrainTransform(8, MEAN, STD)
    generator = torch.Generator().manual_seed(0)
    drawn = {transform(batch, generator)[0].numpy().tobytes() for _ in range(200)}
    assert len(drawn) == 2 * 3 * 2
    unflipped = TrainTransform(8, MEAN, STD, hflip=False)
    assert len({unflipped(batch, generator)[0].numpy().tobytes() for _ in range(100)}) == 2 * 3


def test_clips_of_one_video_differ_and_the_seed_repeats_them():
    batch = make_batch(sizes=((20, 20),), num_clips=1, num_frames=1)
    batch.frames[:] = batch.frames[:, :1]
    both = Batch(batch.frames.repeat(1, 6, 1, 1, 1, 1), batch.sizes, batch.label, batch.index, [])
    transform = TrainTransform(8)
    clips = transform(both, torch.Generator().manual_seed(3))[0]
    assert len({clip.numpy().tobytes() for clip in clips}) > 1
    assert torch.equal(clips, transform(both, torch.Generator().manual_seed(3))[0])
    torch.manual_seed(5)
    first = transform(both)[0]
    torch.manual_seed(5)
    assert torch.equal(first, transform(both)[0])


def test_centre_and_three_crops():
    batch = make_batch()
    clips, label = EvalTransform(8, MEAN, STD, num_crops=3)(batch)
    assert clips.shape == (2, 6, 3, 3, 8, 8)
    assert label.tolist() == [0, 1]
    wide, upright = batch.frames.numpy()
    for view in range(6):
        clip, crop = divmod(view, 3)
        left = (0, 4, 8)[crop]  # 16 wide
        top = (0, 3, 7)[crop]  # 15 high
        np.testing.assert_allclose(
            clips[0, view], normalized(wide[clip, :, 2:10, left : left + 8]), rtol=1e-5, atol=1e-5
        )
        np.testing.assert_allclose(
            clips[1, view], normalized(upright[clip, :, top : top + 8, 1:9]), rtol=1e-5, atol=1e-5
        )
    centre, _ = EvalTransform(8, MEAN, STD)(batch)
    assert torch.equal(centre, clips[:, 1::3])


@pytest.mark.parametrize("channels_last", [False, True])
def test_memory_format(channels_last):
    train = TrainTransform(8, channels_last=channels_last)(make_batch())[0]
    views = EvalTransform(8, channels_last=channels_last)(make_batch())[0].flatten(0, 1)
    memory_format = torch.channels_last_3d if channels_last else torch.contiguous_format
    assert train.is_contiguous(memory_format=memory_format)
    assert views.is_contiguous(memory_format=memory_format)


def test_mean_and_std_are_no_parameters_of_a_checkpoint():
    assert not TrainTransform(8).state_dict()


@pytest.mark.parametrize("transform", [TrainTransform(12), EvalTransform(12)])
def test_picture_smaller_than_the_crop(transform):
    message = (
        r"crop_size \(12\) must be at most the shorter side of every video, and one has 11 pixels; "
        r"short_side: 12 scales all of them"
    )
    with pytest.raises(UserError, match=message):
        transform(make_batch())


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: EvalTransform(8, num_crops=2), r"num_crops \(2\) must be 1 or 3"),
        (lambda: TrainTransform(8, mean=(0.5,)), r"mean \(\[0.5\]\) must have three values"),
        (lambda: TrainTransform(8, std=(0.5, 0.5, 0.0)), r"std \(.*\) must be above 0"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(UserError, match=message):
        make()

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.transforms import v2

from videonorm.data import Batch, EvalTransform, TrainTransform
from videonorm.data.transforms import Crop, RandomCrop, RandomResizedCrop, Window, mixup
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


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Fixed(Crop):
    def __init__(self, *window):
        self.window = Window(*window)

    def draw(self, height, width, crop_size):
        return self.window


class Watched(nn.Module):
    """Keeps what goes into a module, what comes out, and the random state that it starts from."""

    def __init__(self, module):
        super().__init__()
        self.module, self.calls = module, []

    def forward(self, frames):
        state = torch.get_rng_state()
        result = self.module(frames)
        self.calls.append((state, frames, result))
        return result


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


def test_centre_and_crops_from_end_to_end():
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
    five, _ = EvalTransform(8, MEAN, STD, num_crops=5)(batch)
    assert five.shape == (2, 10, 3, 3, 8, 8)
    assert torch.equal(five[:, [0, 2, 4, 5, 7, 9]], clips)
    two, _ = EvalTransform(8, MEAN, STD, num_crops=2)(batch)
    assert torch.equal(two, clips[:, [0, 2, 3, 5]])


@pytest.mark.parametrize("window", [(2, 3, 5, 6), (0, 1, 12, 12), (4, 0, 8, 8)])
def test_window_is_scaled_as_torchvision_does(window):
    batch = make_batch(sizes=((12, 16),), num_clips=1)
    clips, _ = TrainTransform(8, MEAN, STD, hflip=False, crop=Fixed(*window))(batch)
    expected = v2.functional.resized_crop(batch.frames[0, 0].permute(0, 3, 1, 2), *window, [8, 8])
    np.testing.assert_allclose(clips[0], normalized(expected.permute(0, 2, 3, 1).numpy()), atol=1e-5)


@pytest.mark.parametrize("crop", [RandomCrop(), RandomCrop((8, 14)), RandomResizedCrop((0.05, 1.0))])
def test_padding_is_never_seen(crop):
    batch = make_batch(num_clips=20)
    clips = TrainTransform(8, MEAN, STD, crop=crop)(batch, seeded(0))[0]
    assert (clips <= torch.from_numpy(normalized(np.full((1, 1, 1, 3), 199))) + 1e-5).all()


def test_short_side_of_each_clip_reaches_both_ends_of_its_range():
    crop = RandomCrop((256, 320))
    torch.manual_seed(0)
    windows = [crop.draw(256, 340, 224) for _ in range(2000)]
    assert all(top + height <= 256 and left + width <= 340 for top, left, height, width in windows)
    assert {w.height for w in windows} == {w.width for w in windows} == set(range(179, 225))
    smallest = [w for w in windows if w.height < 182]
    assert min(w.top for w in windows) == min(w.left for w in windows) == 0
    assert max(w.top for w in smallest) > 66 and max(w.left for w in smallest) > 145


def test_coarser_windows_are_as_large_as_before_and_down_to_the_size_of_the_clip():
    torch.manual_seed(0)
    for crop, smallest in ((RandomCrop(), 158), (RandomCrop((256, 320)), round(158 * 256 / 320))):
        windows = [crop.coarser(158 / 224).draw(256, 340, 158) for _ in range(2000)]
        assert all(top + height <= 256 and left + width <= 340 for top, left, height, width in windows)
        sides = [window.height for window in windows]
        assert max(sides) in (223, 224) and min(sides) == smallest
    everywhere = RandomResizedCrop()
    assert everywhere.coarser(0.5) is everywhere


def test_transform_at_another_size():
    batch, transform = make_batch(num_clips=2), TrainTransform(8, MEAN, STD)
    assert transform.at(8) is transform
    assert transform.at(4)(batch, seeded(0))[0].shape[3:] == (4, 4)
    assert transform(batch, seeded(0))[0].shape[3:] == (8, 8)


def test_short_side_is_that_of_the_whole_picture():
    """Scale the picture, then crop, is another way to the same clip, but for the pixels at the edge."""
    batch = make_batch(sizes=((24, 30),), num_clips=1)
    batch.frames[:] = F.interpolate(batch.frames[0, 0].permute(0, 3, 1, 2), (24, 30)).permute(0, 2, 3, 1)
    crop = RandomCrop((48, 48))  # twice the size: a crop of 20 pixels is 10 of the picture
    torch.manual_seed(0)
    assert crop.draw(24, 30, 20)[2:] == (10, 10)
    top, left, *_ = window = crop.draw(24, 30, 20)
    clips, _ = TrainTransform(20, MEAN, STD, hflip=False, crop=Fixed(*window))(batch)
    whole = v2.functional.resize(batch.frames[0, 0].permute(0, 3, 1, 2), [48]).permute(0, 2, 3, 1).numpy()
    expected = normalized(whole[:, 2 * top : 2 * top + 20, 2 * left : 2 * left + 20])
    np.testing.assert_allclose(clips[0, :, :, 1:-1, 1:-1], expected[:, :, 1:-1, 1:-1], atol=1e-5)


def test_resized_crops_are_drawn_as_torchvision_draws_them():
    crop, theirs = RandomResizedCrop((0.25, 1.0)), v2.RandomResizedCrop(224, (0.25, 1.0))
    torch.manual_seed(0)
    windows = [crop.draw(256, 340, 224) for _ in range(500)]
    torch.manual_seed(0)
    picture = torch.empty(3, 256, 340)
    assert windows == [Window(**theirs.make_params([picture])) for _ in range(500)]
    areas = [w.height * w.width / (256 * 340) for w in windows]
    shapes = [w.width / w.height for w in windows]
    assert 0.24 < min(areas) < 0.27 and max(areas) > 0.95
    assert 0.74 < min(shapes) < 0.77 and 1.3 < max(shapes) < 1.35


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_colours_of_each_frame_are_those_of_torchvision(name):
    factor = 0.2 if name == "hue" else 1.3
    jitter = v2.ColorJitter(**{name: (factor, factor)})
    batch = make_batch(sizes=((8, 8),), num_clips=2)
    levels = {"mean": (0, 0, 0), "std": (1 / 255, 1 / 255, 1 / 255)}
    clips, _ = TrainTransform(8, **levels, hflip=False, augment=[jitter])(batch)
    for clip, frames in zip(clips, batch.frames[0], strict=True):
        single = [getattr(v2.functional, f"adjust_{name}")(f.permute(2, 0, 1), factor) for f in frames]
        difference = (clip - torch.stack(single, dim=1)).abs()
        assert difference.max() < 1.01 and difference.mean() < 0.1  # its rounding varies with the layout


def test_augmentation_is_one_draw_for_the_frames_of_a_clip_and_another_for_each_clip():
    modules = [Watched(v2.RandAugment(3, 15)), Watched(v2.ColorJitter(0.4, 0.4, 0.4, 0.1))]
    batch = make_batch(sizes=((16, 16),), num_clips=8)
    TrainTransform(16, augment=modules)(batch, seeded(1))
    for watched in modules:
        assert len(watched.calls) == 8 and len({state.numpy().tobytes() for state, *_ in watched.calls}) == 8
        for state, frames, result in watched.calls:
            for i in range(len(frames)):
                torch.set_rng_state(state)
                single = watched.module(frames[i : i + 1])
                assert (single != result[i : i + 1]).float().mean() < 0.1  # rounding varies with the layout


def test_erasing_fills_the_same_rectangle_of_every_frame_with_noise():
    batch = make_batch(sizes=((40, 40),), num_clips=60)
    plain = TrainTransform(32, channels_last=True)(batch, seeded(0))[0]
    for probability, low, high in ((1.0, 60, 60), (0.5, 15, 45)):
        transform = TrainTransform(32, channels_last=True, random_erasing=probability)
        clips = transform(batch, seeded(0))[0]
        erased = clips != plain
        assert low <= erased.flatten(1).any(1).sum() <= high
        for mask in erased:
            assert (mask == mask[:1, :1]).all()
            rows, columns = mask[0, 0].any(1).nonzero(), mask[0, 0].any(0).nonzero()
            if len(rows):
                height, width = rows.max() - rows.min() + 1, columns.max() - columns.min() + 1
                assert mask[0, 0].sum() == height * width and 0.015 < height * width / 32**2 < 0.35
    noise = clips[erased]
    assert abs(noise.mean()) < 0.1 and abs(noise.std() - 1) < 0.1


def test_mixup_blends_clips_and_targets_alike():
    weights = set()
    for seed in range(3):
        torch.manual_seed(seed)
        clips, target = torch.eye(4).view(4, 4, 1, 1, 1), torch.eye(4)
        mixup(clips, target, alpha=1.0)
        torch.testing.assert_close(clips.flatten(1), target)
        torch.testing.assert_close(target.sum(dim=1), torch.ones(4))
        weight = target[0, 0].item()
        assert 0 < weight < 1 and target[0, 3] == pytest.approx(1 - weight)
        weights.add(weight)
    assert len(weights) == 3


@pytest.mark.parametrize("num_clips", [1, 2])
def test_mixed_batch_has_soft_labels_of_two_videos(num_clips):
    batch = make_batch(sizes=((8, 8), (8, 8), (8, 8)), num_clips=num_clips)
    plain, label = TrainTransform(8, hflip=False)(batch, seeded(0))
    clips, target = TrainTransform(8, hflip=False, mixup_alpha=0.4, num_classes=3)(batch, seeded(0))
    weight = target[0, 0].item()
    assert target.dtype == torch.float32 and 0 < weight < 1
    one_hot = torch.eye(3)[label]
    torch.testing.assert_close(target, weight * one_hot + (1 - weight) * one_hot.roll(num_clips, 0))
    torch.testing.assert_close(clips, weight * plain + (1 - weight) * plain.roll(num_clips, 0))


def everything(**options) -> TrainTransform:
    augment = [v2.RandAugment(), v2.ColorJitter(0.4, 0.4, 0.4, 0.1)]
    return TrainTransform(
        8,
        crop=RandomResizedCrop(),
        augment=augment,
        random_erasing=0.5,
        mixup_alpha=0.8,
        num_classes=2,
        **options,
    )


def test_every_number_follows_from_the_generator_and_no_other_is_touched():
    batch = make_batch(num_clips=4)
    batch.frames[:] = batch.frames[:, :1]
    transform, results = everything(), []
    for seed, global_seed in ((7, 0), (7, 1), (8, 1)):
        torch.manual_seed(global_seed)
        before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
        results.append(transform(batch, seeded(seed)))
        assert torch.equal(torch.get_rng_state(), before[0])
        assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]
    (clips, target), (again, target_again), (other, other_target) = results
    assert torch.equal(clips, again) and torch.equal(target, target_again)
    assert not torch.equal(clips, other) and not torch.equal(target, other_target)
    assert len({clip.numpy().tobytes() for clip in clips}) == 8


def test_generator_goes_on_when_augmentation_fails():
    class Broken(nn.Module):
        def forward(self, frames):
            raise RuntimeError

    before = torch.get_rng_state()
    with pytest.raises(RuntimeError):
        TrainTransform(8, augment=[Broken()])(make_batch(), seeded(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels_last", [False, True])
def test_memory_format_and_dtype(channels_last, dtype):
    clips = everything(channels_last=channels_last, dtype=dtype)(make_batch())[0]
    views = EvalTransform(8, channels_last=channels_last, dtype=dtype)(make_batch())[0].flatten(0, 1)
    memory_format = torch.channels_last_3d if channels_last else torch.contiguous_format
    for result in (clips, views):
        assert result.is_contiguous(memory_format=memory_format) and result.dtype == dtype


def every_value() -> Batch:
    """All 256 of them in each colour."""
    frames = torch.arange(256, dtype=torch.uint8).view(1, 1, 1, 16, 16, 1).repeat(1, 1, 1, 1, 1, 3)
    return Batch(frames, [(16, 16)], torch.zeros(1).long(), torch.zeros(1).long(), [])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_clips_are_rounded_once_as_autocast_rounds_them(dtype):
    whole = EvalTransform(16, MEAN, STD)(every_value())[0]
    clips = EvalTransform(16, MEAN, STD, dtype=dtype)(every_value())[0]
    assert torch.equal(clips, whole.to(dtype))
    conv = nn.Conv3d(3, 4, 1)
    with torch.autocast("cpu", dtype):
        assert torch.equal(conv(clips[0]), conv(whole[0]))


def test_normalized_values_against_float64():
    expected = torch.from_numpy(normalized(every_value().frames[0, 0].numpy().astype(np.float64)))
    single = EvalTransform(16, MEAN, STD)(every_value())[0][0, 0]
    double = EvalTransform(16, MEAN, STD, dtype=torch.float64)(every_value())[0][0, 0]
    assert (single - expected).abs().max() < 4e-7  # values reach 2.75, whose spacing is 2.4e-7
    assert (double - expected).abs().max() < 3e-15


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
        (lambda: EvalTransform(8, num_crops=0), r"num_crops \(0\) must be at least 1"),
        (lambda: TrainTransform(8, mean=(0.5,)), r"mean \(\[0.5\]\) must have three values"),
        (lambda: TrainTransform(8, std=(0.5, 0.5, 0.0)), r"std \(.*\) must be above 0"),
        (lambda: TrainTransform(8, random_erasing=1.5), r"random_erasing \(1.5\) must be a probability"),
        (lambda: TrainTransform(8, mixup_alpha=-1.0), r"mixup_alpha \(-1.0\) must be at least 0"),
        (lambda: TrainTransform(8, mixup_alpha=1.0), r"num_classes \(None\) must be known to mixup"),
        (
            lambda: RandomCrop((320, 256)),
            r"crop.short_side \(\(320, 256\)\) must be at least 1 pixel, a pair",
        ),
        (lambda: RandomResizedCrop((0.0, 1.0)), r"crop.scale \(\(0.0, 1.0\)\) must be fractions above 0"),
        (
            lambda: RandomResizedCrop(ratio=(2, 1)),
            r"crop.ratio \(\(2, 1\)\) must be above 0, from low to high",
        ),
        (
            lambda: TrainTransform(8, crop=RandomCrop((7, 9)))(make_batch()),
            r"crop.short_side \(\(7, 9\)\) must start at crop_size \(8\) or above",
        ),
        (
            lambda: TrainTransform(8, augment=[v2.ToDtype(torch.float32, scale=True)])(make_batch()),
            r"augment \(ToDtype\) must keep clips uint8 and \(3, 8, 8, 3\), not make them torch.float32",
        ),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(UserError, match=message):
        make()

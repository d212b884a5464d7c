import pytest
import torch
from torchvision.transforms import v2

from videonorm.data import Batch, TrainTransform
from videonorm.data.transforms import RandomCrop, RandomResizedCrop


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (2, 3, 4, 64, 80, 3), dtype=torch.uint8, generator=generator)
    return Batch(frames, [(64, 80), (60, 56)], torch.tensor([0, 2]), torch.arange(2), [])


@pytest.mark.parametrize("crop", [RandomCrop(), RandomCrop((48, 80)), RandomResizedCrop()])
def test_clips_are_those_of_the_cpu(batch, crop):
    transform = TrainTransform(48, crop=crop, mixup_alpha=0.4, num_classes=3, channels_last=True)
    clips, target = transform(batch, torch.Generator().manual_seed(1))
    on_gpu = transform.cuda()(batch.to("cuda"), torch.Generator().manual_seed(1))
    grey_level = 1 / (255 * 0.225)  # torchvision scales uint8 in fixed point on the CPU, in float on the GPU
    torch.testing.assert_close(on_gpu[0].cpu(), clips, rtol=0, atol=1.01 * grey_level)
    torch.testing.assert_close(on_gpu[1].cpu(), target)
    assert on_gpu[0].is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_clips_are_rounded_once(batch, dtype):
    whole, clips = (
        TrainTransform(48, dtype=asked).cuda()(batch.to("cuda"), torch.Generator().manual_seed(1))[0]
        for asked in (torch.float32, dtype)
    )
    assert torch.equal(clips, whole.to(dtype))


def test_every_number_follows_from_the_generator_and_no_other_is_touched(batch):
    transform = TrainTransform(
        48,
        crop=RandomResizedCrop(),
        augment=[v2.RandAugment(), v2.ColorJitter(0.4, 0.4, 0.4, 0.1)],
        random_erasing=1.0,
        mixup_alpha=0.8,
        num_classes=3,
    ).cuda()
    clips = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state(), torch.cuda.get_rng_state()
        clips.append(transform(batch.to("cuda"), torch.Generator().manual_seed(7))[0])
        assert torch.equal(torch.get_rng_state(), before[0])
        assert torch.equal(torch.cuda.get_rng_state(), before[1])
    assert torch.equal(*clips)


def test_nothing_as_large_as_the_uncropped_batch_is_made(batch):
    """The CPU makes float copies of a clip to normalize it; the GPU makes none."""
    large = Batch(
        batch.frames.repeat(4, 1, 4, 4, 4, 1), [(256, 320)] * 8, torch.zeros(8).long(), torch.arange(8), []
    )
    on_gpu, transform = large.to("cuda"), TrainTransform(224, hflip=False, dtype=torch.bfloat16).cuda()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    clips = transform(on_gpu, torch.Generator().manual_seed(0))[0]
    assert torch.cuda.max_memory_allocated() - before < clips.nbytes + 2**20

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

from videonorm.data import Manifests
from videonorm.errors import UserError
from videonorm.training.classifier import TrainClips, VideoClassifier, Views
from videonorm.training.datamodule import VideoDataModule


@pytest.fixture
def make(videos, tmp_path):
    """A data module, attached to what it uses of a trainer."""

    def make(stage="fit", source=None, num_classes=2, world_size=1, **options):
        source = source or Manifests(videos.train, videos.val_bad)
        data = VideoDataModule(source, **({"num_frames": 4, "frame_stride": 2, "crop_size": 16} | options))
        backbone = nn.Sequential(nn.Flatten(), nn.Linear(4, num_classes))
        data.trainer = SimpleNamespace(
            state=SimpleNamespace(fn=TrainerFn(stage)),
            lightning_module=VideoClassifier(backbone, torch.optim.SGD),
            strategy=SimpleNamespace(root_device=torch.device("cpu")),
            fit_loop=SimpleNamespace(total_batch_idx=0),
            world_size=world_size,
            global_rank=0,
            is_global_zero=True,
            num_devices=1,
            training=False,
            validating=False,
            sanity_checking=False,
            default_root_dir=tmp_path,
        )
        data.prepare_data()
        data.setup(stage)
        return data

    return make


def test_training_batch(make):
    data = make(batch_size=4)
    data.trainer.training = True
    loader = data.train_dataloader()
    assert len(loader) == 2  # of ten videos; the last two are left out
    batch = data.on_after_batch_transfer(next(iter(loader)), 0)
    assert isinstance(batch, TrainClips)
    assert batch.clips.shape == (4, 3, 4, 16, 16) and batch.clips.dtype == torch.float32
    bright = batch.clips.mean(dim=(1, 2, 3, 4)) > 0
    assert torch.equal(bright.long(), batch.label)  # normalized, and with the right label


def test_evaluation_batches_leave_the_bad_video_out_and_name_it(make, tmp_path):
    data = make(batch_size=4, num_val_clips=2, num_val_crops=3, max_bad_fraction=0.5)
    data.trainer.validating = True
    first, second = (data.on_after_batch_transfer(batch, 0) for batch in data.val_dataloader())
    assert isinstance(first, Views) and first.clips.shape == (4, 6, 3, 4, 16, 16)
    assert first.rows.tolist() == [0, 1, 2, 3] and second.rows.tolist() == [4]
    assert data.bad_videos.count("val") == 1 and "bad.mp4" in (tmp_path / "bad_videos.csv").read_text()


def test_batch_of_bad_videos_is_empty(make):
    data = make(batch_size=1, max_bad_fraction=0.5)
    data.trainer.validating = True
    *_, last = (data.on_after_batch_transfer(batch, 0) for batch in data.val_dataloader())
    assert len(last.clips) == len(last.label) == len(last.rows) == 0


def test_seed_decides_the_clips(make, monkeypatch):
    def first_frames(seed):
        monkeypatch.setenv("PL_GLOBAL_SEED", str(seed))
        return next(iter(make().train_dataloader())).frames

    assert torch.equal(first_frames(0), first_frames(0)) and not torch.equal(first_frames(0), first_frames(1))


def test_rehearsal_leaves_the_random_numbers_alone(make):
    """Only one process of a machine rehearses; the others must go on with the same numbers."""
    data = make()
    before = torch.get_rng_state()
    data.prepare_data()
    assert torch.equal(torch.get_rng_state(), before)


def test_no_validation_videos_is_no_mistake_in_training(make, videos):
    assert make(source=Manifests(train=videos.train)).val_dataloader() == []


def test_workers_by_default_none_on_the_cpu(make):
    assert make().train_dataloader().num_workers == 0
    assert make(num_workers=1).train_dataloader().num_workers == 1


MISTAKES = {
    "label": ({"num_classes": 1}, r"label \(1\) must be below num_classes \(1\) of the model"),
    "batch": ({"batch_size": 11}, r"batch_size \(11\) must be at most the number of training videos \(10\)"),
    "batches": (
        {"batch_size": 6, "world_size": 2},
        r"batch_size \(6\) x 2 devices must be at most .* \(10\)",
    ),
    "no_batch": ({"batch_size": 0}, r"batch_size \(0\) must be at least 1"),
    "crop": ({"crop_size": 25}, r"crop_size \(25\) must be at most the shorter side"),
    "fraction": ({"max_bad_fraction": 2.0}, r"max_bad_fraction \(2.0\) must be from 0 to 1"),
    "split": ({"stage": "test"}, "data.source must have a test split for videonorm test"),
    "num_frames": ({"num_frames": 0}, r"num_frames \(0\) must be at least 1"),
}


@pytest.mark.parametrize("options, message", MISTAKES.values(), ids=MISTAKES)
def test_mistakes(make, options, message):
    with pytest.raises(UserError, match=message):
        make(**options)

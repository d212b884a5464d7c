import warnings
from types import SimpleNamespace

import pytest
import torch
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision, MixedPrecision, Precision
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torchvision.transforms import v2

from videonorm.data import Manifests, RandomCrop, RandomResizedCrop, hold_out
from videonorm.data.batches import TrainClips, Views
from videonorm.errors import UserError
from videonorm.training.classifier import VideoClassifier
from videonorm.training.datamodule import VideoDataModule


@pytest.fixture
def make(videos, tmp_path):
    """A data module, attached to what it uses of a trainer."""

    def make(stage="fit", source=None, num_classes=2, world_size=1, precision=None, **options):
        source = source or Manifests(videos.train, videos.val_bad)
        data = VideoDataModule(source, **({"num_frames": 4, "frame_stride": 2, "crop_size": 16} | options))
        backbone = nn.Sequential(nn.Flatten(), nn.Linear(4, num_classes))
        data.trainer = SimpleNamespace(
            state=SimpleNamespace(fn=TrainerFn(stage)),
            lightning_module=VideoClassifier(backbone, torch.optim.SGD),
            strategy=SimpleNamespace(root_device=torch.device("cpu")),
            precision_plugin=precision or Precision(),
            fit_loop=SimpleNamespace(total_batch_idx=0),
            world_size=world_size,
            global_rank=0,
            is_global_zero=True,
            num_devices=1,
            accumulate_grad_batches=1,
            overfit_batches=0.0,
            limit_train_batches=1.0,
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


def test_clips_of_a_batch_follow_from_seed_and_batch_alone(make):
    """A resumed run makes the batches that the unbroken run would have made."""
    augmentation = {
        "crop": RandomResizedCrop(),
        "augment": [v2.RandAugment(), v2.ColorJitter(0.4, 0.4, 0.4, 0.1)],
        "random_erasing": 0.5,
        "mixup_alpha": 0.8,
    }
    data = make(batch_size=4, **augmentation)
    data.trainer.training = True
    batch = next(iter(data.train_dataloader()))
    first, again = (data.on_after_batch_transfer(batch, 0) for _ in range(2))
    assert torch.equal(first.clips, again.clips) and torch.equal(first.label, again.label)
    assert first.label.shape == (4, 2) and first.label.sum().item() == pytest.approx(4)
    data.trainer.fit_loop.total_batch_idx = 1
    other = data.on_after_batch_transfer(batch, 0)
    assert not torch.equal(first.clips, other.clips) and not torch.equal(first.label, other.label)


@pytest.mark.parametrize(
    "precision, dtype",
    [
        (Precision(), torch.float32),
        (MixedPrecision("bf16-mixed", "cpu"), torch.bfloat16),
        (HalfPrecision("16-true"), torch.float16),
        (DoublePrecision(), torch.float64),
    ],
)
def test_clips_have_the_dtype_that_the_network_computes_in(make, precision, dtype):
    data = make(batch_size=2, precision=precision)
    data.trainer.training = True
    assert data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0).clips.dtype == dtype
    data.trainer.training, data.trainer.validating = False, True
    assert data.on_after_batch_transfer(next(iter(data.val_dataloader())), 0).clips.dtype == dtype


def test_augmentation_is_set_by_class_path(tmp_path):
    (tmp_path / "data.yaml").write_text(
        """
source: videonorm.data.MotionClips
crop: {class_path: videonorm.data.RandomCrop, init_args: {short_side: [128, 160]}}
augment:
- torchvision.transforms.v2.RandAugment
- {class_path: torchvision.transforms.v2.ColorJitter, init_args: {brightness: 0.4, hue: 0.1}}
"""
    )
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_lightning_class_args(VideoDataModule, "data")
    config = parser.parse_args(["--data", str(tmp_path / "data.yaml")])
    again = parser.parse_string(parser.dump(config))  # what a run folder keeps
    for parsed in (config, again):
        data = parser.instantiate_classes(Namespace(data=parsed.data)).data
        assert isinstance(data.crop, RandomCrop) and data.crop.short_side == (128, 160)
        assert [type(module) for module in data.augment] == [v2.RandAugment, v2.ColorJitter]
        assert data.augment[1].hue == (-0.1, 0.1) and data.augment[1].contrast is None


def test_a_recipe_that_names_its_source_alone_takes_arguments_for_it():
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_lightning_class_args(VideoDataModule, "data")
    options = ["--data.source", "videonorm.data.MotionClips", "--data.source.init_args.contrast_ratio", "4"]
    data = parser.instantiate(parser.parse_args(options)).data
    assert data.source.root.name == "motion_v1_seed0_400_400_200_contrast4"


def test_evaluation_batches_leave_the_bad_video_out_and_name_it(make, tmp_path):
    data = make(batch_size=4, num_val_clips=2, num_val_crops=3, max_bad_fraction=0.5)
    data.trainer.validating = True
    first, second = (data.on_after_batch_transfer(batch, 0) for batch in data.val_dataloader())
    assert isinstance(first, Views) and first.clips.shape == (4, 6, 3, 4, 16, 16)
    assert first.rows.tolist() == [0, 1, 2, 3] and second.rows.tolist() == [4]
    assert data.bad_videos.count("val") == 1 and "bad.mp4" in (tmp_path / "bad_videos.csv").read_text()


def test_a_video_that_is_replaced_in_training_is_said_at_the_end_of_the_epoch(make, videos, tmp_path):
    data = make(source=Manifests(videos.val_bad), batch_size=2, max_bad_fraction=0.5)
    data.trainer.training = True
    for number in range(2):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(number)
        for batch in loader:
            data.on_after_batch_transfer(batch, 0)
        if number:
            with warnings.catch_warnings():  # what was said is no news
                warnings.simplefilter("error")
                data.share_bad_videos()
        else:
            sentence = r"train videos that cannot be used: 1, and others take their places: .*bad.mp4 "
            with pytest.warns(UserWarning, match=sentence):
                data.share_bad_videos()


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


@pytest.mark.parametrize("stage", ["fit", "validate"])
def test_held_out_videos_are_validated_on_and_never_trained_on(make, videos, monkeypatch, stage):
    source = Manifests(videos.train, "no such file.csv")  # the val split is not even read
    kept, apart = hold_out(source.manifest("train"), 0.4)
    assert (len(kept.entries), len(apart.entries)) == (6, 4)
    data = make(stage, source=source, held_out=0.4, batch_size=2)
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")  # which it does not depend on
    assert data.val_dataloader().dataset.manifest == apart
    if stage == "fit":
        assert data.train_dataloader().dataset.manifest == kept and len(data.train_dataloader()) == 3


def test_held_out_videos_leave_the_test_split_as_it_is(make, videos):
    data = make("test", source=Manifests(videos.train, test=videos.val_bad), held_out=0.4)
    assert len(data.test_dataloader().dataset) == 6


def test_workers_by_default_none_on_the_cpu(make):
    assert make().train_dataloader().workers is None
    data = make(num_workers=1, clips_per_video=2, batch_size=4)
    train, val = data.train_dataloader(), data.val_dataloader()
    assert train.workers is val.workers and train.workers.num_workers == 1
    batch = next(iter(train))
    assert batch.frames.shape[:2] == (2, 2)
    data.trainer.training = True
    assert len(data.on_after_batch_transfer(batch, 0).label) == 4
    data.teardown("fit")
    with pytest.raises(RuntimeError, match="the workers are closed"):
        next(iter(val))


def test_classes_that_no_training_video_has_are_said_once(make):
    with pytest.warns(UserWarning, match=r"without a video in .*: 3 of 5 \(num_classes\), 2, 3, 4$") as said:
        make(num_classes=5)
    assert len(said) == 1


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
    "mixup": ({"mixup_alpha": -1.0}, r"mixup_alpha \(-1.0\) must be at least 0"),
    "jitter": ({"crop": RandomCrop((8, 20))}, r"crop.short_side \(\(8, 20\)\) must start at crop_size"),
    "split": ({"stage": "test"}, "data.source must have a test split for videonorm test"),
    "num_frames": ({"num_frames": 0}, r"num_frames \(0\) must be at least 1"),
    "pace": ({"frames_per_second": 8.0}, r"frame_stride \(2\) must be null beside frames_per_second \(8\)"),
    "held_out": ({"held_out": 1.0}, r"held_out \(1\) must be at least 0 and below 1"),
    "held_out_epoch": ({"held_out": 0.4, "batch_size": 8}, r"number of training videos \(6\)"),
    "no_pace": ({"frame_stride": None}, r"frame_stride \(null\) must be given, or frames_per_second"),
}


@pytest.mark.parametrize("options, message", MISTAKES.values(), ids=MISTAKES)
def test_mistakes(make, options, message):
    with pytest.raises(UserError, match=message):
        make(**options)

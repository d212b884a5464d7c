"""The clips of a source, as Lightning wants them: loaders on the host, transforms on the device."""

import os
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch import LightningDataModule
from torch import nn
from torch.utils.data import DataLoader

from videonorm.data import (
    BadVideo,
    BadVideos,
    Batch,
    ClipStarts,
    Decoder,
    EvalTransform,
    Manifest,
    RandomClips,
    ShortVideo,
    Source,
    Split,
    TrainTransform,
    UniformClips,
    VideoDataset,
    collate,
)
from videonorm.errors import UserError
from videonorm.machine import available_cores
from videonorm.training.classifier import TrainClips, VideoClassifier, Views
from videonorm.training.loader import EpochSampler, ResumableLoader

SPLITS: dict[str, tuple[Split, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("test",),
}


class ViewPlan(NamedTuple):
    """How many clips of a video are scored, and how many crops of each."""

    num_clips: int
    num_crops: Literal[1, 3]


class VideoDataModule(LightningDataModule):
    """Training clips, a random one a video; evaluation clips, ``num_clips`` x ``num_crops`` views a video.

    Frames travel to the device as uint8; cropping, flipping and normalizing is done there.

    Args:
        source: where the videos are: ``videonorm.data.Manifests`` for files, ``videonorm.data.MotionClips``
            to make some.
        num_frames: frames of a clip, T.
        frame_stride: source frames from one frame of a clip to the next.
        batch_size: clips per device and step in training, videos in evaluation.
        crop_size: height and width of a clip in pixels.
        short_side: shorter side in training that frames are scaled to before the crop: pixels, or a range to
            draw from; None leaves them as they are.
        eval_short_side: the same in evaluation; None leaves them as they are.
        hflip: whether training clips are mirrored at random. Off where left and right are part of the label.
        num_val_clips, num_val_crops, num_test_clips, num_test_crops: views of a video in validation, and in
            test and predict. Clips are spread over the video; three crops over the longer side, one is the
            centre.
        clip_starts: how the clips are spread over the video.
        num_workers: decoding processes per device. None: on CUDA this device's share of the cores, at most 8;
            on the CPU none, as training has the cores.
        decoder: "auto" takes the first that is installed and works.
        short_video: what becomes of a video that is shorter than a clip.
        max_bad_fraction: share of an epoch's videos that may be undecodable before it is an error.
        mean, std: of red, green and blue in [0, 1].
        cache_mib: memory for decoded videos, in each process that decodes.
        channels_last: whether clips are channels_last_3d on the device; "auto" on CUDA.
    """

    def __init__(
        self,
        source: Source,
        num_frames: int = 16,
        frame_stride: int = 4,
        batch_size: int = 8,
        crop_size: int = 112,
        short_side: int | tuple[int, int] | None = None,
        eval_short_side: int | None = None,
        hflip: bool = True,
        num_val_clips: int = 1,
        num_val_crops: Literal[1, 3] = 1,
        num_test_clips: int = 10,
        num_test_crops: Literal[1, 3] = 3,
        clip_starts: ClipStarts = "linspace",
        num_workers: int | None = None,
        decoder: Decoder = "auto",
        short_video: ShortVideo = "loop",
        max_bad_fraction: float = 0.05,
        mean: tuple[float, float, float] = (0.45, 0.45, 0.45),
        std: tuple[float, float, float] = (0.225, 0.225, 0.225),
        cache_mib: int = 0,
        channels_last: bool | Literal["auto"] = "auto",
    ) -> None:
        super().__init__()
        for name, value in {"batch_size": batch_size, "crop_size": crop_size}.items():
            if value < 1:
                raise UserError(f"{name} ({value}) must be at least 1")
        if not 0 <= max_bad_fraction <= 1:
            raise UserError(f"max_bad_fraction ({max_bad_fraction}) must be from 0 to 1")
        self.source = source
        self.num_frames = num_frames
        self.frame_stride = frame_stride
        self.batch_size = batch_size
        self.crop_size = crop_size
        self.short_side = short_side
        self.eval_short_side = eval_short_side
        self.hflip = hflip
        self.val_views = ViewPlan(num_val_clips, num_val_crops)
        self.test_views = ViewPlan(num_test_clips, num_test_crops)
        self.clip_starts = clip_starts
        self.num_workers = num_workers
        self.decoder = decoder
        self.short_video = short_video
        self.max_bad_fraction = max_bad_fraction
        self.mean = mean
        self.std = std
        self.cache_mib = cache_mib
        self.channels_last = channels_last
        self.manifests: dict[Split, Manifest] = {}
        self.bad_videos = BadVideos()
        self._bad_here: list[BadVideo] = []  # met by this process since the processes last told each other

    @property
    def clip_settings(self) -> dict[str, Any]:
        """What is needed to prepare a clip for a model trained on these; part of every checkpoint."""
        return {
            "num_frames": self.num_frames,
            "frame_stride": self.frame_stride,
            "crop_size": self.crop_size,
            "eval_short_side": self.eval_short_side,
            "mean": list(self.mean),
            "std": list(self.std),
            "clip_starts": self.clip_starts,
            "short_video": self.short_video,
        }

    # Host

    def prepare_data(self) -> None:
        # Before Lightning makes the run folder: a source that cannot be used must leave nothing behind.
        self.source.prepare()
        assert self.trainer is not None and self.trainer.state.fn is not None
        stage = self.trainer.state.fn.value
        self.setup(stage)
        for split in SPLITS[stage]:
            if split in self.manifests:
                self._rehearse(split)

    def _rehearse(self, split: Split) -> None:
        """Take the first video of a split all the way: settings that do not fit it are found at once."""
        dataset = self._train_dataset(seed=0) if split == "train" else self._eval_dataset(split)
        batch = collate([dataset[0]])
        if len(batch.label):
            with torch.random.fork_rng(devices=[]):  # other processes rehearse nothing
                self._transform(split)(batch)

    def setup(self, stage: str) -> None:
        assert self.trainer is not None
        for split in SPLITS[stage]:
            manifest = self.source.manifest(split)
            if manifest is not None:
                self._check(split, manifest)
                self.manifests[split] = manifest
            elif split != "val" or stage == "validate":
                raise UserError(f"data.source must have a {split} split for videonorm {stage}")

    def _check(self, split: Split, manifest: Manifest) -> None:
        assert self.trainer is not None
        classifier, videos = self.trainer.lightning_module, len(manifest.entries)
        assert isinstance(classifier, VideoClassifier)
        label = max(entry.label for entry in manifest.entries)
        if label >= classifier.num_classes:
            raise UserError(
                f"label ({label}) must be below num_classes ({classifier.num_classes}) of the model; it is "
                f"in {manifest.path}"
            )
        if split == "train" and self.batch_size * self.trainer.world_size > videos:
            devices = f" x {self.trainer.world_size} devices" if self.trainer.world_size > 1 else ""
            raise UserError(
                f"batch_size ({self.batch_size}){devices} must be at most the number of training videos "
                f"({videos})"
            )

    def train_dataloader(self) -> ResumableLoader:
        assert self.trainer is not None
        dataset = self._train_dataset(self._seed)
        sampler = EpochSampler(dataset, self.trainer.world_size, self.trainer.global_rank, self._seed)
        return ResumableLoader(dataset, sampler=sampler, drop_last=True, **self._loading())

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        return DataLoader(self._eval_dataset("val"), **self._loading()) if "val" in self.manifests else []

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self._eval_dataset("test"), **self._loading())

    def predict_dataloader(self) -> DataLoader[Any]:
        return self.test_dataloader()

    def views(self, split: Split) -> ViewPlan:
        """The views of a video in evaluation."""
        return self.val_views if split == "val" else self.test_views

    def _train_dataset(self, seed: int) -> VideoDataset:
        return VideoDataset(
            self.manifests["train"],
            RandomClips(self.num_frames, self.frame_stride),
            short_side=self.short_side,
            seed=seed,
            replace_bad=True,
            **self._decoding(),
        )

    def _eval_dataset(self, split: Split) -> VideoDataset:
        return VideoDataset(
            self.manifests[split],
            UniformClips(self.num_frames, self.frame_stride, self.views(split).num_clips, self.clip_starts),
            short_side=self.eval_short_side,
            replace_bad=False,
            **self._decoding(),
        )

    def _decoding(self) -> dict[str, Any]:
        """How videos are read, in training and evaluation alike."""
        return {"decoder": self.decoder, "short_video": self.short_video, "cache_mib": self.cache_mib}

    def _loading(self) -> dict[str, Any]:
        """How batches are loaded, in training and evaluation alike."""
        num_workers = self.num_workers
        if num_workers is None:
            assert self.trainer is not None
            num_workers = min(available_cores() // self.trainer.num_devices, 8) if self._on_cuda else 0
        return {
            "batch_size": self.batch_size,
            "collate_fn": collate,
            "num_workers": num_workers,
            "persistent_workers": num_workers > 0,  # they keep their cache of decoded videos
            "pin_memory": self._on_cuda,
        }

    # Device

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> TrainClips | Views:
        """Crop, flip and normalize a batch that has arrived on the device."""
        split = self._split
        if batch.bad:
            self._bad_here += batch.bad
            self._add_bad_videos(split, batch.bad)
        if split == "train":
            clips, label = self._transforms["train"](batch, self._numbers_of_batch())
            return TrainClips(clips, label)
        if not len(batch.label):  # every video of the batch is bad
            return Views(batch.frames.float(), batch.label, batch.index)
        clips, label = self._transforms[split](batch)
        return Views(clips, label, batch.index)

    def _numbers_of_batch(self) -> torch.Generator:
        """Numbers that follow from seed, process and batch: a resumed run goes on with the same crops."""
        assert self.trainer is not None
        batch = self.trainer.fit_loop.total_batch_idx
        seed = Random(f"{self._seed} {self.trainer.global_rank} {batch}").getrandbits(63)
        return torch.Generator().manual_seed(seed)

    @property
    def _seed(self) -> int:
        """The --seed_everything of this run, on every process."""
        return int(os.environ.get("PL_GLOBAL_SEED", 0))

    @property
    def _split(self) -> Split:
        """The split that is being read now."""
        assert self.trainer is not None
        if self.trainer.training:
            return "train"
        return "val" if self.trainer.validating or self.trainer.sanity_checking else "test"

    @cached_property
    def _transforms(self) -> dict[Split, nn.Module]:
        return {split: self._transform(split).to(self._device) for split in ("train", "val", "test")}

    def _transform(self, split: Split) -> TrainTransform | EvalTransform:
        channels_last = self._on_cuda if self.channels_last == "auto" else self.channels_last
        if split == "train":
            return TrainTransform(self.crop_size, self.mean, self.std, self.hflip, channels_last)
        return EvalTransform(self.crop_size, self.mean, self.std, self.views(split).num_crops, channels_last)

    @property
    def _device(self) -> torch.device:
        assert self.trainer is not None
        return self.trainer.strategy.root_device

    @property
    def _on_cuda(self) -> bool:
        return self._device.type == "cuda"

    # Bad videos

    def _add_bad_videos(self, split: Split, videos: list[BadVideo]) -> None:
        """Note bad videos in bad_videos.csv.

        Raises:
            UserError: more than ``max_bad_fraction`` of the split is in it.
        """
        assert self.trainer is not None
        if not self.bad_videos.add(split, videos):
            return
        if self.trainer.is_global_zero:
            self.bad_videos.write(Path(self.trainer.default_root_dir) / "bad_videos.csv")
        self.bad_videos.check(split, len(self.manifests[split].entries), self.max_bad_fraction)

    def share_bad_videos(self) -> None:
        """Tell the other processes of the bad videos met here; at the end of an epoch, by all of them."""
        assert self.trainer is not None
        if self.trainer.world_size > 1:
            found: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(found, self._bad_here)
            self._add_bad_videos(self._split, [video for videos in found for video in videos])
        self._bad_here = []

"""The clips of a source, as Lightning wants them: loaders on the host, transforms on the device."""

import os
from functools import cached_property
from random import Random
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch import LightningDataModule
from torch import nn
from torch.utils.data import DistributedSampler

from videonorm.data import (
    Batch,
    ClipStarts,
    Crop,
    Decoder,
    EpochSampler,
    EvalTransform,
    Manifest,
    RandomClips,
    ShortVideo,
    Source,
    Split,
    TrainTransform,
    VideoDataset,
    VideoLoader,
    Workers,
    collate,
    decoding_workers,
    hold_out,
)
from videonorm.data.batches import TrainClips, Views
from videonorm.data.clip_spec import ClipSpec
from videonorm.errors import UserError
from videonorm.training.bad_videos import BadVideosOfRun
from videonorm.training.batch_sizes import check_epoch
from videonorm.training.classifier import VideoClassifier
from videonorm.training.grids import Plan

SPLITS: dict[str, tuple[Split, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("test",),
}


class ViewPlan(NamedTuple):
    """How many clips of a video are scored, and how many crops of each."""

    num_clips: int
    num_crops: int


class VideoDataModule(LightningDataModule):
    """Training clips, a random one a video; evaluation clips, ``num_clips`` x ``num_crops`` views a video.

    Frames travel to the device as uint8; what is done to them, from the crop to MixUp, is done there, and
    gives clips in the dtype that the trainer's precision computes in.

    Args:
        source: where the videos are: ``videonorm.data.Manifests`` for files, ``videonorm.data.MotionClips``
            to make some.
        num_frames: frames of a clip, T.
        frame_stride: source frames from one frame of a clip to the next; null beside frames_per_second.
        frames_per_second: frames of a clip that a second has, whatever the rate of the video: those nearest
            to the clip's times. In place of frame_stride.
        batch_size: clips per device and step in training, videos in evaluation.
        clips_per_video: random clips that training takes from a video each time it is opened, all into the
            same batch (repeated augmentation, Hoffer et al., arXiv:1901.09335); an epoch then has as many
            clips of each video. It must divide batch_size.
        crop_size: height and width of a clip in pixels.
        short_side: shorter side in training that frames are scaled to before the crop: pixels, or a range to
            draw from for each video; None leaves them as they are.
        eval_short_side: the same in evaluation; None leaves them as they are.
        crop: how training clips are cut out: videonorm.data.RandomCrop, also with a short side
            drawn for each clip, or videonorm.data.RandomResizedCrop. None: RandomCrop as it is.
        hflip: whether training clips are mirrored at random. Off where left and right are part of the label.
        augment: what else is done to training clips, such as torchvision.transforms.v2.RandAugment and
            ColorJitter: modules that take uint8 frames (T, 3, H, W) of one clip and keep dtype and shape.
        random_erasing: probability that a rectangle of a training clip becomes noise.
        mixup_alpha: MixUp's Beta parameter; 0 is off.
        num_val_clips, num_test_clips: clips of a video in validation, and in test and predict, spread over
            it; one is its middle.
        num_val_crops, num_test_crops: crops of each of them, spread over the longer side; one is the centre.
        clip_starts: how the clips are spread over the video, linspace, slowfast or offset: see
            ``videonorm.data.uniform_clip_starts``.
        num_workers: decoding processes per device, for training and validation together. None: on CUDA this
            device's share of the cores, at most 8; on the CPU none, as training has the cores.
        time_limit_seconds: what reading one video may take before its process is killed and the video counts
            as bad. Without num_workers nothing ends a decoder that hangs, or survives one that crashes.
        decoder: auto (which is pyav), pyav, torchcodec, torchcodec_cuda or decord.
        short_video: what becomes of a video that is shorter than a clip: loop, repeat_last or error.
        max_bad_fraction: share of an epoch's videos that may be undecodable before it is an error.
        mean, std: of red, green and blue in [0, 1].
        held_out: share of the training videos that is set apart and validated on in place of the val split,
            so that settings can be chosen without it; the same in every run (``videonorm.data.hold_out``).
        cache_mib: memory for decoded videos, in each process that decodes.
        channels_last: whether clips are channels_last_3d on the device; "auto" on CUDA.
    """

    def __init__(
        self,
        source: Source,
        num_frames: int = 16,
        frame_stride: int | None = 4,
        frames_per_second: float | None = None,
        batch_size: int = 8,
        crop_size: int = 112,
        clips_per_video: int = 1,
        short_side: int | tuple[int, int] | None = None,
        eval_short_side: int | None = None,
        crop: Crop | None = None,
        hflip: bool = True,
        augment: list[nn.Module] | None = None,
        random_erasing: float = 0.0,
        mixup_alpha: float = 0.0,
        num_val_clips: int = 1,
        num_val_crops: int = 1,
        num_test_clips: int = 10,
        num_test_crops: int = 3,
        clip_starts: ClipStarts = "linspace",
        num_workers: int | None = None,
        time_limit_seconds: float = 60.0,
        decoder: Decoder = "auto",
        short_video: ShortVideo = "loop",
        max_bad_fraction: float = 0.05,
        mean: tuple[float, float, float] = (0.45, 0.45, 0.45),
        std: tuple[float, float, float] = (0.225, 0.225, 0.225),
        held_out: float = 0.0,
        cache_mib: int = 0,
        channels_last: bool | Literal["auto"] = "auto",
    ) -> None:
        super().__init__()
        for name, value in {"batch_size": batch_size, "crop_size": crop_size}.items():
            if value < 1:
                raise UserError(f"{name} ({value}) must be at least 1")
        if clips_per_video < 1 or batch_size % clips_per_video:
            raise UserError(f"clips_per_video ({clips_per_video}) must divide batch_size ({batch_size})")
        if not 0 <= max_bad_fraction <= 1:
            raise UserError(f"max_bad_fraction ({max_bad_fraction}) must be from 0 to 1")
        if not 0 <= held_out < 1:
            raise UserError(f"held_out ({held_out:g}) must be at least 0 and below 1")
        self.source = source
        self.num_frames = num_frames
        self.frame_stride = frame_stride
        self.frames_per_second = frames_per_second
        self.batch_size = batch_size
        self.clips_per_video = clips_per_video
        self.crop_size = crop_size
        self.short_side = short_side
        self.eval_short_side = eval_short_side
        self.crop = crop
        self.hflip = hflip
        self.augment = augment or []
        self.random_erasing = random_erasing
        self.mixup_alpha = mixup_alpha
        self.val_views = ViewPlan(num_val_clips, num_val_crops)
        self.test_views = ViewPlan(num_test_clips, num_test_crops)
        self.clip_starts = clip_starts
        self.num_workers = num_workers
        self.time_limit_seconds = time_limit_seconds
        self.decoder = decoder
        self.short_video = short_video
        self.mean = mean
        self.std = std
        self.held_out = held_out
        self.cache_mib = cache_mib
        self.channels_last = channels_last
        self.plan: Plan | None = None  # of training whose shape changes, see ``Multigrid``
        self._train_loader: VideoLoader | None = None
        clips = num_frames, frame_stride, clips_per_video
        self._train_clips = RandomClips(*clips, frames_per_second=frames_per_second)
        self.manifests: dict[Split, Manifest] = {}
        self.bad_videos = BadVideosOfRun(max_bad_fraction)

    @property
    def clip_spec(self) -> ClipSpec:
        """The clips that a model trained on these is judged on; part of every checkpoint."""
        return ClipSpec(
            self.num_frames,
            self.frame_stride,
            self.crop_size,
            self.eval_short_side,
            list(self.mean),
            list(self.std),
            self.clip_starts,
            self.short_video,
            self.frames_per_second,
        )

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
        if "train" in self.manifests:
            self.manifests["train"].warn_of_empty_classes(self._classifier.num_classes)

    def _rehearse(self, split: Split) -> None:
        """Take the first video of a split all the way: settings that do not fit it are found at once."""
        dataset = self.train_dataset(seed=0) if split == "train" else self._eval_dataset(split)
        batch = collate([dataset[0]])
        if len(batch.label):
            with torch.random.fork_rng(devices=[]):  # other processes rehearse nothing
                self._transform(split)(batch)

    def setup(self, stage: str) -> None:
        assert self.trainer is not None
        for split in SPLITS[stage]:
            manifest = self.manifest_of(split)
            if manifest is not None:
                if not manifest.labelled and stage != "predict":
                    raise UserError(f"manifest ({manifest.path}) must have labels for videonorm {stage}")
                manifest.check_classes(self._classifier.num_classes)
                if split == "train":
                    check_epoch(len(manifest.entries), self.batch_size, self.clips_per_video, self.trainer)
                self.manifests[split] = manifest
            elif split != "val" or stage == "validate":
                raise UserError(f"data.source must have a {split} split for videonorm {stage}")

    def manifest_of(self, split: Split) -> Manifest | None:
        if not self.held_out or split == "test":
            return self.source.manifest(split)
        return self._sides[split == "val"]

    @cached_property
    def _sides(self) -> tuple[Manifest, Manifest]:
        """The videos to train on, and those held out."""
        train = self.source.manifest("train")
        if train is None:
            raise UserError(f"data.source must have a train split for held_out ({self.held_out:g})")
        return hold_out(train, self.held_out)

    def train_dataloader(self) -> VideoLoader:
        assert self.trainer is not None
        if self._train_loader is None:
            dataset = self.train_dataset(self.seed)
            sampler = EpochSampler(dataset, self.trainer.world_size, self.trainer.global_rank, self.seed)
            videos, plan = self.batch_size // self.clips_per_video, self.plan and self.plan.videos_and_clips
            self._train_loader = self.loader(dataset, videos, sampler, drop_last=True, plan=plan)
        if self.plan:  # of the epoch that comes Lightning is to learn how many batches it has
            epoch = self.trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]
            self._train_loader.sampler.set_epoch(self.plan.with_batches(epoch))  # type: ignore[attr-defined]
        return self._train_loader

    def val_dataloader(self) -> VideoLoader | list[Any]:
        return self._eval_loader("val") if "val" in self.manifests else []

    def test_dataloader(self) -> VideoLoader:
        return self._eval_loader("test")

    predict_dataloader = test_dataloader

    def views(self, split: Split) -> ViewPlan:
        """The views of a video in evaluation."""
        return self.val_views if split == "val" else self.test_views

    def train_dataset(self, seed: int) -> VideoDataset:
        return VideoDataset(
            self.manifests["train"],
            self._train_clips,
            decoder=self.decoder,
            short_side=self.short_side,
            seed=seed,
            replace_bad=True,
            short_video=self.short_video,
            cache_mib=self.cache_mib,
        )

    def _eval_dataset(self, split: Split) -> VideoDataset:
        num_clips = self.views(split).num_clips
        return self.clip_spec.dataset(
            self.manifests[split], num_clips, decoder=self.decoder, cache_mib=self.cache_mib
        )

    def _eval_loader(self, split: Split) -> VideoLoader:
        assert self.trainer is not None
        dataset, world_size = self._eval_dataset(split), self.trainer.world_size
        # Every process must have as many batches: some get a video a second time, which is scored once.
        sampler: DistributedSampler[Any] | None = None
        if world_size > 1:
            sampler = DistributedSampler(dataset, world_size, self.trainer.global_rank, shuffle=False)
        return self.loader(dataset, self.batch_size, sampler, drop_last=False)

    def loader(self, dataset: VideoDataset, batch_size: int, sampler: Any, **options: Any) -> VideoLoader:
        pin_for = self._device if self._on_cuda else None
        return VideoLoader(dataset, batch_size, self._workers, sampler=sampler, pin_for=pin_for, **options)

    @cached_property
    def _workers(self) -> Workers | None:
        assert self.trainer is not None
        how = self.num_workers, self.decoder, self.time_limit_seconds
        return decoding_workers(*how, self._device, self.trainer.num_devices)

    def on_exception(self, exception: BaseException) -> None:
        self.teardown("")  # Lightning calls that at a good end only

    def teardown(self, stage: str) -> None:
        self._train_loader = None
        if workers := self.__dict__.pop("_workers", None):
            workers.close()

    # Device

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> TrainClips | Views:
        """Make clips of a batch that has arrived on the device."""
        assert self.trainer is not None
        split = self._split
        if batch.bad:
            self.bad_videos.meet(self.trainer, split, batch.bad, len(self.manifests[split].entries))
        if split == "train":
            crop_size = self.plan.shape(self.trainer.global_step).crop_size if self.plan else self.crop_size
            return TrainClips(*self.transforms["train"].at(crop_size)(batch, self._numbers_of_batch()))
        if not len(batch.label):  # every video of the batch is bad
            return Views(batch.frames.float(), batch.label, batch.index)
        clips, label = self.transforms[split](batch)
        return Views(clips, label, batch.index)

    def _numbers_of_batch(self) -> torch.Generator:
        """Numbers that follow from seed, process and batch: a resumed run goes on with the same crops."""
        assert self.trainer is not None
        batch = self.trainer.fit_loop.total_batch_idx
        seed = Random(f"{self.seed} {self.trainer.global_rank} {batch}").getrandbits(63)
        return torch.Generator().manual_seed(seed)

    @property
    def seed(self) -> int:
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
    def transforms(self) -> dict[Split, Any]:
        return {split: self._transform(split).to(self._device) for split in ("train", "val", "test")}

    def _transform(self, split: Split) -> TrainTransform | EvalTransform:
        channels_last = self._on_cuda if self.channels_last == "auto" else self.channels_last
        if split == "train":
            return TrainTransform(
                self.crop_size,
                self.mean,
                self.std,
                self.hflip,
                channels_last,
                crop=self.crop,
                augment=self.augment,
                random_erasing=self.random_erasing,
                mixup_alpha=self.mixup_alpha,
                num_classes=self._classifier.num_classes,
                dtype=self._dtype,
            )
        num_crops = self.views(split).num_crops
        return self.clip_spec.transform(num_crops, channels_last=channels_last, dtype=self._dtype)

    @property
    def _classifier(self) -> VideoClassifier:
        assert self.trainer is not None and isinstance(self.trainer.lightning_module, VideoClassifier)
        return self.trainer.lightning_module

    @property
    def _dtype(self) -> torch.dtype:
        """What the network computes in: under mixed precision clips are cast once, here."""
        assert self.trainer is not None
        device = self._device.type
        with self.trainer.precision_plugin.forward_context():
            autocast = torch.is_autocast_enabled(device)
            return torch.get_autocast_dtype(device) if autocast else torch.get_default_dtype()

    @property
    def _device(self) -> torch.device:
        assert self.trainer is not None
        return self.trainer.strategy.root_device

    @property
    def _on_cuda(self) -> bool:
        return self._device.type == "cuda"

    # Bad videos

    def share_bad_videos(self) -> None:
        """Tell the other processes, and the user, of the bad videos met; at the end of an epoch, by all."""
        assert self.trainer is not None
        split = self._split
        self.bad_videos.share(self.trainer, split, len(self.manifests[split].entries))

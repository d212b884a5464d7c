"""Precise batch norm (``videonorm.layers.precise_statistics``) in `fit`, `validate`, `test` and `predict`."""

from collections.abc import Iterator
from itertools import count, islice
from random import Random

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, callbacks
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from videonorm.data import EpochSampler, VideoLoader
from videonorm.errors import UserError
from videonorm.layers import estimated_batch_norms, precise_statistics
from videonorm.messages import counted
from videonorm.training.callbacks import LastCheckpoint, parts, say
from videonorm.training.datamodule import VideoDataModule
from videonorm.training.throughput import clock_of


class PreciseBatchNorm(Callback):
    """Takes the statistics of batch norms of many batches before they are used, in place of a moving average.

    Training clips pass through the network as it is (Wu & Johnson, arXiv:2105.07576, section 3): in ``fit``
    before every validation, and at its end; in ``validate``, ``test`` and ``predict`` before the first video.
    So these statistics are what is scored, and what best.ckpt and, once training has ended, last.ckpt hold.
    Of several processes each takes its own batches, and all have the statistics of all.

    Training itself is as without, as batch norms train by the statistics of batches: only the moving average
    goes on from these. (The micro-batch form of BatchChannelNorm3d and BatchRenorm3d train by the moving
    average, and so go on from them, too.) Which clips are taken follows from seed and step alone: a run that
    goes on from a checkpoint, which holds the statistics of its moment, finds those of the unbroken run.

    Weights that a WeightAveraging before it in the list averages have statistics of their own.

    Args:
        batches: for each process, of batch_size clips as training's at the full shape, augmentation included.
    """

    def __init__(self, batches: int = 200) -> None:
        if batches < 1:
            raise UserError(f"batches ({batches}) must be at least 1")
        self.batches = batches
        self._loader: VideoLoader | None = None
        self._estimated: int | None = None  # the step that it was done at last

    def check(self, trainer: Trainer) -> None:
        classifier, data = parts(trainer)
        name = "trainer.callbacks (PreciseBatchNorm)"
        if data is None:
            raise UserError(f"{name} must be left out with another's data loader")
        frozen = {module for part in classifier.frozen for module in part.modules()}
        if frozen.issuperset(estimated_batch_norms(classifier.backbone).values()):
            raise UserError(f"{name} must have batch norms in model.backbone, and not frozen ones alone")
        others = trainer.callbacks  # type: ignore[attr-defined]
        behind = others[others.index(self) + 1 :]
        averaging = getattr(callbacks, "WeightAveraging", ())  # since Lightning 2.6
        if any(isinstance(other, PreciseBatchNorm) for other in behind):
            raise UserError(f"{name} must be there once")
        if any(isinstance(other, averaging) for other in behind):
            raise UserError(f"{name} must come behind WeightAveraging, whose weights it is of")
        if any(isinstance(other, averaging) for other in others) and not trainer.enable_validation:
            raise UserError(f"{name} must have videos to validate on beside WeightAveraging")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != TrainerFn.FITTING:  # which the model has checked
            self.check(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._loader = None

    # Not on_validation_start, when weights are not yet averaged, and the clock of training still runs.
    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._estimate(trainer)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._estimate(trainer)

    on_predict_epoch_start = on_test_epoch_start

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        clock = clock_of(trainer)
        validates = trainer.enable_validation and clock is not None  # as a RunRecord does, if need be
        if not validates and self._estimated != trainer.global_step:
            if clock:
                clock.stop()
            self._estimate(trainer)

    def _estimate(self, trainer: Trainer) -> None:
        classifier, data = parts(trainer)
        assert data is not None
        step, device = trainer.global_step, trainer.strategy.root_device
        of_cuda = [device] if device.type == "cuda" else []
        with (
            torch.random.fork_rng(of_cuda),  # dropout's: training goes on with its own
            torch.no_grad(),
            trainer.precision_plugin.forward_context(),
            precise_statistics(classifier) as norms,  # in whose training mode frozen parts are not
        ):
            torch.manual_seed(_number(data, trainer, step))
            for clips in islice(self._clips(trainer, data), self.batches):
                classifier.backbone(clips)
        data.bad_videos.share(trainer, "train", len(data.manifests["train"].entries))
        self._estimated = step
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, LastCheckpoint):
                callback.changed = True
        of_batches = f"{self.batches} batches of {counted(data.batch_size, 'clip')}"
        of_devices = f" x {trainer.world_size} devices" if trainer.world_size > 1 else ""
        say(trainer, f"statistics of {len(norms)} batch norms: of {of_batches}{of_devices}")

    def _clips(self, trainer: Trainer, data: VideoDataModule) -> Iterator[Tensor]:
        """Batches of training clips on the device, without end."""
        loader, step = self._loader or self._new_loader(trainer, data), trainer.global_step
        self._loader = loader
        passes = -(-self.batches // len(loader))
        transform, numbers = data.transforms["train"].at(data.crop_size), count()
        for epoch in range(passes):
            loader.sampler.set_epoch(step * passes + epoch)  # type: ignore[attr-defined]
            for batch in loader:
                if batch.bad:
                    data.bad_videos.meet(trainer, "train", batch.bad, len(data.manifests["train"].entries))
                generator = torch.Generator().manual_seed(_number(data, trainer, step, next(numbers)))
                clips, _ = transform(batch.to(trainer.strategy.root_device), generator)
                yield clips

    def _new_loader(self, trainer: Trainer, data: VideoDataModule) -> VideoLoader:
        if "train" not in data.manifests:  # of what is only judged
            manifest = data.manifest_of("train")
            if manifest is None:
                raise UserError(
                    "data.source must have a train split for trainer.callbacks (PreciseBatchNorm)"
                )
            data.manifests["train"] = manifest
        seed = Random(f"{data.seed} statistics").getrandbits(32)  # not the clips of training's next epoch
        dataset = data.train_dataset(seed)
        sampler = EpochSampler(dataset, trainer.world_size, trainer.global_rank, seed)
        loader = data.loader(dataset, data.batch_size // data.clips_per_video, sampler, drop_last=True)
        if not len(loader):
            raise UserError(
                f"data.batch_size ({data.batch_size}) must be at most the clips of the training videos for "
                "trainer.callbacks (PreciseBatchNorm)"
            )
        return loader


def _number(data: VideoDataModule, trainer: Trainer, *place: int) -> int:
    """What random numbers begin with: it follows from seed, process and place alone."""
    return Random(f"{data.seed} statistics {trainer.global_rank} {place}").getrandbits(63)

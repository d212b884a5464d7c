"""What is trained: a video model, its loss, its optimizer and its scores."""

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from videonorm.errors import UserError
from videonorm.evaluation.scores import VideoScores, view_logits
from videonorm.training.batch_sizes import BatchSizes, norm_layers
from videonorm.training.schedule import Schedule


class TrainClips(NamedTuple):
    """A training batch on the device."""

    clips: Tensor
    """(B, 3, T, H, W) float, normalized."""
    label: Tensor
    """(B,) int64, or (B, K) class probabilities where clips were mixed."""


class Views(NamedTuple):
    """An evaluation batch on the device: all views of B videos; B is 0 if none could be decoded."""

    clips: Tensor
    """(B, V, 3, T, H, W) float, normalized."""
    label: Tensor
    """(B,) int64."""
    rows: Tensor
    """(B,) int64: indices into the manifest."""


def parameter_groups(model: nn.Module, norm_weight_decay: bool) -> list[dict[str, Any]]:
    """The optimizer's parameter groups: with ``norm_weight_decay`` one, else a second one without decay.

    The second holds every parameter of a norm layer, whatever its class, and every vector (biases, gains).
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if norm_weight_decay:
        return [{"params": list(trained.values())}]
    of_norms = {id(parameter) for norm in norm_layers(model) for parameter in norm.parameters()}
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for parameter in trained.values():
        (kept if id(parameter) in of_norms or parameter.ndim <= 1 else decayed).append(parameter)
    return [{"params": decayed}, {"params": kept, "weight_decay": 0.0}]


class VideoClassifier(LightningModule):
    """Trains and scores a video classification model.

    Args:
        backbone: the model: clips (B, 3, T, H, W) to logits (B, num_classes).
        optimizer: by class path; called with the parameter groups.
        scheduler: a ``Schedule`` of this package (in fractions of training) or any torch scheduler, by class
            path.
        scheduler_interval: what a torch scheduler counts: optimizer steps or epochs.
        lr_per_256_clips: learning rate for 256 clips per optimizer step, scaled in proportion to the clips of
            a step over devices and accumulation (linear rule, Goyal et al., arXiv:1706.02677); it takes the
            place of the optimizer's own. None: the optimizer's own, whatever the batch.
        norm_weight_decay: whether weight decay also acts on norm layers and biases. The GN paper: yes in
            ImageNet training, no in COCO fine-tuning.
        label_smoothing: probability spread evenly over all classes.
    """

    def __init__(
        self,
        backbone: nn.Module,
        optimizer: Callable[[Iterable[Any]], Optimizer],
        scheduler: Schedule | Callable[[Optimizer], LRScheduler] | None = None,
        scheduler_interval: Literal["step", "epoch"] = "step",
        lr_per_256_clips: float | None = None,
        norm_weight_decay: bool = False,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise UserError(f"label_smoothing ({label_smoothing}) must be at least 0 and below 1")
        self.backbone = backbone
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.scheduler_interval = scheduler_interval
        self.lr_per_256_clips = lr_per_256_clips
        self.norm_weight_decay = norm_weight_decay
        self.label_smoothing = label_smoothing

    def forward(self, clips: Tensor) -> Tensor:
        """Clips (B, 3, T, H, W) to logits (B, num_classes)."""
        logits: Tensor = self.backbone(clips)
        return logits

    @cached_property
    def num_classes(self) -> int:
        """Classes K that the backbone tells apart: the width of its last linear layer."""
        linear = [module for module in self.backbone.modules() if isinstance(module, nn.Linear)]
        if not linear:
            raise UserError(f"backbone ({type(self.backbone).__name__}) must end in a linear layer")
        return linear[-1].out_features

    @property
    def batch_sizes(self) -> BatchSizes:
        """The five batch sizes of the run that this module is part of."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        return BatchSizes.of(
            self.backbone,
            batch_size=data.batch_size,
            accumulate=self.trainer.accumulate_grad_batches,
            world_size=self.trainer.world_size,
            num_frames=data.num_frames,
        )

    def prepare_data(self) -> None:
        # Before Lightning makes the run folder: a batch that the norms cannot be trained on must leave
        # nothing behind.
        if self.trainer.state.fn == TrainerFn.FITTING:
            _ = self.batch_sizes

    # Optimization

    @cached_property
    def total_steps(self) -> int:
        """Optimizer steps of the whole training."""
        return int(self.trainer.estimated_stepping_batches)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = self.optimizer(parameter_groups(self.backbone, self.norm_weight_decay))
        if self.lr_per_256_clips is not None:
            for group in optimizer.param_groups:
                group["lr"] = self.lr_per_256_clips * self.batch_sizes.global_batch / 256
        self.base_lr: float = optimizer.param_groups[0]["lr"]
        if self.scheduler is None:
            return optimizer
        if not isinstance(self.scheduler, Schedule):
            scheduler, interval = self.scheduler(optimizer), self.scheduler_interval
            return {
                "optimizer": optimizer,
                "lr_scheduler": {
                    "scheduler": scheduler,
                    "interval": interval,
                    "monitor": "val/loss",
                },
            }
        if self.trainer.max_steps == -1 and self.trainer.max_epochs == -1:
            raise UserError(
                "trainer.max_steps (-1) or trainer.max_epochs (-1) must be set for a schedule to follow"
            )
        schedule = self.scheduler
        # The total is asked for at the first step, not here: asking makes Lightning load the data, which must
        # not happen before it has restored a checkpoint.
        factors = LambdaLR(optimizer, lambda step: schedule.factor(step / self.total_steps if step else 0.0))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": factors, "interval": "step"}}

    # Training

    def training_step(self, batch: TrainClips, batch_idx: int) -> Tensor:
        clips, target = batch
        loss = F.cross_entropy(self.backbone(clips), target, label_smoothing=self.label_smoothing)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(clips))
        self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"], batch_size=len(clips))
        return loss

    # Scores: softmax averaged over the views of a video

    def _start_scores(self, dataset: Any) -> None:
        self._scored_dataset = dataset
        # The table lives on the device, so that NCCL can reduce it: 20,000 videos x 400 classes are 32 MB.
        self.scores = VideoScores(len(dataset), self.num_classes, self.device)

    def _score(self, batch: Views) -> Tensor:
        if not len(batch.clips):
            return torch.zeros(0, self.num_classes)
        return self.scores.add(batch.rows, batch.label, view_logits(self.backbone, batch.clips))

    def _finish_scores(self, stage: Literal["val", "test"]) -> None:
        self._gather_scores()
        metrics = {f"{stage}/{name}": value for name, value in self.scores.metrics().items()}
        top1 = f"{stage}/top1"
        # Every process has the same values; sync_dist only says so to Lightning.
        self.log(top1, metrics.pop(top1), prog_bar=True, sync_dist=True)
        self.log_dict(metrics, sync_dist=True)

    def _gather_scores(self) -> None:
        self.scores.gather(self._sum_over_processes)
        entries = self._scored_dataset.manifest.entries
        self.scores.check_finite(f"model at step {self.trainer.global_step}", lambda row: entries[row].path)

    def _sum_over_processes(self, tensor: Tensor) -> Tensor:
        total = self.trainer.strategy.reduce(tensor, reduce_op="sum")
        assert isinstance(total, Tensor)
        return total

    def on_validation_epoch_start(self) -> None:
        self._start_scores(self.trainer.val_dataloaders.dataset)  # type: ignore[union-attr]

    def validation_step(self, batch: Views, batch_idx: int) -> None:
        self._score(batch)

    def on_validation_epoch_end(self) -> None:
        self._finish_scores("val")

    def on_test_epoch_start(self) -> None:
        self._start_scores(self.trainer.test_dataloaders.dataset)  # type: ignore[union-attr]

    def test_step(self, batch: Views, batch_idx: int) -> None:
        self._score(batch)

    def on_test_epoch_end(self) -> None:
        self._finish_scores("test")

    def on_predict_epoch_start(self) -> None:
        self._start_scores(self.trainer.predict_dataloaders.dataset)  # type: ignore[union-attr]

    def predict_step(self, batch: Views, batch_idx: int) -> Tensor:
        return self._score(batch)

    def on_predict_epoch_end(self) -> None:
        self._gather_scores()

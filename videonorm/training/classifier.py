"""What is trained: a video model, its loss, its optimizer and its scores."""

import math
import warnings
from collections.abc import Callable, Iterable
from functools import cached_property, partial
from typing import Any, Literal, Self

import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from videonorm.data.batches import train_clips
from videonorm.errors import UserError
from videonorm.evaluation.scores import VideoScores
from videonorm.evaluation.start import Start, load_start
from videonorm.training.batch_sizes import BatchSizes, check_accumulation
from videonorm.training.compiled_network import CompileMode
from videonorm.training.divergence import FiniteLoss, check_finite_weights
from videonorm.training.micro_batches import MicroBatches, check_last_step, check_micro_batches
from videonorm.training.network_parts import freeze as freeze_parts
from videonorm.training.network_parts import parameter_groups
from videonorm.training.resume import settle_progress
from videonorm.training.run_folder import FolderLock
from videonorm.training.schedule import Schedule
from videonorm.training.scoring import EpochScores
from videonorm.training.step_execution import StepExecution
from videonorm.training.time_budget import TimeBudget
from videonorm.training.unfit_callbacks import check_averages, check_every_callback, check_resumed


class VideoClassifier(LightningModule):
    """Trains and scores a video classification model.

    With ``VideoDataModule``, or any data loader whose batches are pairs (clips, labels) or, as those of
    PyTorchVideo, mappings with "video" and "label": clips (B, 3, T, H, W) in the dtype to compute in, labels
    (B,) or, in training, class probabilities (B, K). Such clips are one view of a video each; to predict,
    clips alone will do.

    A training loss or weights that are not finite end a training, and are in no checkpoint.

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
        freeze: parts that stay as they are: ``norms`` for all that normalize, or submodules by name, such as
            stem or stages.0. Batch norms in them use their running statistics, as frozen ones do.
        lr_scales: parts, named likewise, whose learning rate is another: what it is multiplied by. Of parts
            within one another the later one counts.
        weights: what the backbone starts with: a file of torchvision, PyTorchVideo, PySlowFast, MMAction2 or
            3D-ResNets-PyTorch, of an image network of torchvision, timm or BiT, whose filters are inflated, a
            checkpoint of a run, or an exported folder. A run that goes on does not read it again.
        new: what of the backbone does not come from there: head (for other classes), norms, or the
            beginning of a tensor's name, such as stages.3; several as a list.
        compile: run the network by torch.compile in the steps of training: default, or reduce-overhead, which
            captures what comes of it as CUDA graphs. One graph for each shape of clips, or an error; the
            compiler decides what is kept for backward, in place of ``recompute``.
        cuda_graph: capture forward and backward of the network behind three batches, on one GPU and for clips
            of one shape, and replay them in the steps that follow.

    Attributes:
        start: of ``weights``, where they were read: what ``run.json`` says of them.
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
        freeze: list[str] | None = None,
        lr_scales: dict[str, float] | None = None,
        weights: str | None = None,
        new: str | list[str] | None = None,
        compile: CompileMode | None = None,
        cuda_graph: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise UserError(f"label_smoothing ({label_smoothing}) must be at least 0 and below 1")
        parts = [new] if isinstance(new, str) else new or []
        if parts and weights is None:
            raise UserError(f"new ({', '.join(parts)}) must be left out without weights")
        self.start: Start | None = None
        if weights is not None:
            self.start = load_start(backbone, weights, parts, name="model.weights", option="--model.new")
        self.backbone = backbone
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.scheduler_interval = scheduler_interval
        self.lr_per_256_clips = lr_per_256_clips
        self.norm_weight_decay = norm_weight_decay
        self.label_smoothing = label_smoothing
        self.lr_scales = lr_scales or {}
        for name, scale in self.lr_scales.items():
            if not 0 < scale < math.inf:
                raise UserError(f"lr_scales ({name}: {scale:g}) must be above 0, or freeze name the part")
        self.frozen = freeze_parts(backbone, freeze or [])
        """Modules in eval mode, whatever the rest is in."""
        self.train()
        self.clips_shape: tuple[int, ...] = ()  # (B, 3, T, H, W) of the last batch in training
        self._loss = FiniteLoss(scaled=False)
        self.execution = StepExecution(backbone, compile, cuda_graph)
        self._micro_batches = MicroBatches(backbone, self.execution)

    def forward(self, clips: Tensor) -> Tensor:
        """Clips (B, 3, T, H, W) to logits (B, num_classes)."""
        logits: Tensor = self.backbone(clips)
        return logits

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    @property
    def head(self) -> nn.Linear:
        """The layer that classifies: the backbone's last linear one."""
        linear = [module for module in self.backbone.modules() if isinstance(module, nn.Linear)]
        if not linear:
            raise UserError(f"backbone ({type(self.backbone).__name__}) must end in a linear layer")
        return linear[-1]

    @cached_property
    def num_classes(self) -> int:
        """Classes K that the backbone tells apart."""
        return self.head.out_features

    @property
    def batch_sizes(self) -> BatchSizes:
        """The five batch sizes of the run that this module is part of, as far as its data tells them."""
        data: Any = getattr(self.trainer, "datamodule", None)
        return BatchSizes.of(
            self.backbone,
            batch_size=data.batch_size if hasattr(data, "batch_size") else self._batch_size_of_loader,
            accumulate=self.trainer.accumulate_grad_batches,
            world_size=self.trainer.world_size,
            frozen=self.frozen,
            num_frames=getattr(data, "num_frames", self.clips_shape[2] if self.clips_shape else None),
        )

    @property
    def _batch_size_of_loader(self) -> int | None:
        """Of the training loader of another's."""
        if self.trainer.state.fn != TrainerFn.FITTING:
            return None
        # The trainer's own property has none before the learning rate is settled.
        loader = self.trainer.train_dataloader
        if loader is None:
            loader = self.trainer.fit_loop._data_source.instance
        size = getattr(loader, "batch_size", None) or getattr(
            getattr(loader, "batch_sampler", None), "batch_size", None
        )
        return size if isinstance(size, int) else None

    def prepare_data(self) -> None:
        # Before loggers make the run folder: a batch that the norms cannot be trained on must leave nothing
        # behind, nor a run in a folder that is taken.
        if self.trainer.state.fn == TrainerFn.FITTING:
            check_every_callback(self.trainer)
            _ = self.batch_sizes
            check_micro_batches(self.backbone, self.trainer)
            self.execution.check(self.trainer)
            if self.frozen:  # of which Lightning warns
                warnings.filterwarnings("ignore", ".*in eval mode at the start of training")
            for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, FolderLock):
                    callback.take(self.trainer)

    # Optimization

    @property
    def time_budget(self) -> TimeBudget | None:
        """What ends training, if it is time."""
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        return next((callback for callback in callbacks if isinstance(callback, TimeBudget)), None)

    @property
    def total_steps(self) -> int | None:
        """Optimizer steps of the whole training: with a ``TimeBudget`` a prediction until it ends.

        None where nothing but another callback ends it, or nothing is known yet.
        """
        return self._planned_steps if self.time_budget is None else self.time_budget.total_steps

    @cached_property
    def _planned_steps(self) -> int | None:
        plan = getattr(getattr(self.trainer, "datamodule", None), "plan", None)  # see ``Multigrid``
        steps = plan.total_steps if plan else self.trainer.estimated_stepping_batches
        return None if math.isinf(steps) else int(steps)

    def _progress(self, step: int) -> float:
        """Share of training that is over with ``step`` optimizer steps."""
        # The total is asked for at the first step, not before: asking makes Lightning load the data, which
        # must not happen before it has restored a checkpoint.
        if not step:
            return 0.0
        budget = self.time_budget
        return step / (self.total_steps or step) if budget is None else budget.progress(step)

    @property
    def warmup_steps(self) -> int | None:
        """Optimizer steps in which a ``Schedule`` still rises; None without a warm-up of such a one."""
        if not isinstance(self.scheduler, Schedule) or not self.scheduler.warmup:
            return None
        if self.time_budget is not None:
            return self.time_budget.warmup_steps
        return None if self.total_steps is None else self.scheduler.warmup_steps(self.total_steps)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        groups = parameter_groups(self.backbone, self.norm_weight_decay, self.lr_scales)
        optimizer = self.optimizer(groups)
        if self.lr_per_256_clips is not None:
            clips = self.batch_sizes.global_batch
            if clips is None:
                raise UserError(
                    f"lr_per_256_clips ({self.lr_per_256_clips:g}) must be null, or the data loader say its "
                    "batch_size: the learning rate is in proportion to it"
                )
            for group in optimizer.param_groups:
                group["lr"] = self.lr_per_256_clips * clips / 256
        self.base_lr: float = optimizer.param_groups[0]["lr"]
        for group in optimizer.param_groups:
            group["lr"] *= group.get("lr_scale", 1.0)
        self.schedule_name: str | None = None
        if self.scheduler is None:
            return optimizer
        if not isinstance(self.scheduler, Schedule):
            scheduler, interval = self.scheduler(optimizer), self.scheduler_interval
            self.schedule_name = type(scheduler).__name__
            return {
                "optimizer": optimizer,
                "lr_scheduler": {
                    "scheduler": scheduler,
                    "interval": interval,
                    "monitor": "val/loss",
                },
            }
        if self.trainer.max_steps == -1 and self.trainer.max_epochs == -1 and self.time_budget is None:
            raise UserError(
                "trainer.max_steps (-1) or trainer.max_epochs (-1) must be set for a schedule to follow, or "
                "trainer.callbacks have a TimeBudget"
            )
        schedule = self.scheduler
        self.schedule_name = repr(schedule)
        factors = LambdaLR(optimizer, lambda step: schedule.factor(self._progress(step)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": factors, "interval": "step"}}

    # Training

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.trainer.state.fn == TrainerFn.FITTING:
            check_resumed(self.trainer.callbacks, self.backbone)  # type: ignore[attr-defined]
            settle_progress(checkpoint, counts_steps=self.trainer.max_steps != -1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.trainer.state.fn == TrainerFn.FITTING:
            self._check_finite()
            check_finite_weights(self, self.trainer.global_step)

    def on_train_start(self) -> None:
        check_accumulation(self.trainer.accumulate_grad_batches, self.trainer.num_training_batches)
        check_last_step(self.backbone, self.trainer, self.batch_sizes.batch_size)
        rehearses = self.trainer.fast_dev_run  # type: ignore[attr-defined]
        if self.total_steps is not None and self.time_budget is None and not rehearses:
            check_averages(self.trainer.callbacks, self.total_steps)  # type: ignore[attr-defined]
        self._loss = FiniteLoss(scaled=getattr(self.trainer.precision_plugin, "scaler", None) is not None)
        self.execution.begin(self.trainer)
        # A checkpoint may be of a training of another length. Weight averaging takes the scheduler's place.
        for config in self.trainer.lr_scheduler_configs if isinstance(self.scheduler, Schedule) else ():
            factors: Any = config.scheduler
            if isinstance(factors, LambdaLR):
                every = zip(factors.optimizer.param_groups, factors.base_lrs, factors.lr_lambdas, strict=True)
                for group, base, factor in every:
                    group["lr"] = base * factor(factors.last_epoch)

    def loss(self, clips: Tensor, target: Tensor) -> Tensor:
        """What training lowers, of clips (B, 3, T, H, W) and labels (B,) or probabilities (B, K)."""
        return self._loss_of(self.backbone(clips), target)

    def _loss_of(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits, target, label_smoothing=self.label_smoothing)

    def on_train_epoch_start(self) -> None:
        self._micro_batches.clear()
        self.execution.settle()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        clips, target = train_clips(batch)
        self.clips_shape = tuple(clips.shape)
        made = self._micro_batches.loss(clips, partial(self._loss_of, target=target), self.trainer)
        if made is None:
            return None
        loss, num_batches = made
        self._loss.watch(loss, self.trainer.global_step)
        self.log("train/loss", loss.detach() / num_batches, prog_bar=True, batch_size=len(clips))
        first = self.trainer.optimizers[0].param_groups[0]
        self.log("train/lr", first["lr"] / first.get("lr_scale", 1.0), batch_size=len(clips))
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        interval = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if interval and self.trainer.global_step % interval == 0:  # where the loss is read anyway
            self._check_finite()

    def on_train_end(self) -> None:
        self._check_finite()
        self.execution.end()

    def _check_finite(self) -> None:
        """Raise UserError, on every process, if the loss of one has not been finite."""
        since = self._loss.diverged_at
        if self.trainer.strategy.reduce_boolean_decision(since is not None, all=False):
            of_which = self.trainer.global_step if since is None else since
            raise UserError(
                f"training loss must be finite, and is not since step {of_which}: the run has diverged"
            )

    # Scores: softmax averaged over the views of a video

    @property
    def scores(self) -> VideoScores:
        """Those of the last evaluation."""
        return self.epoch_scores.table

    def start_scores(self, loaders: Any) -> None:
        place = self.trainer.global_rank, self.trainer.world_size
        self.epoch_scores = EpochScores(loaders, self.num_classes, self.device, *place)

    def _finish_scores(self, stage: Literal["val", "test"]) -> None:
        self.gather_scores()
        metrics = {f"{stage}/{name}": value for name, value in self.scores.metrics().items()}
        top1 = f"{stage}/top1"
        # Every process has the same values; sync_dist only says so to Lightning.
        self.log(top1, metrics.pop(top1), prog_bar=True, sync_dist=True)
        self.log_dict(metrics, sync_dist=True)

    def gather_scores(self) -> None:
        self.epoch_scores.finish(f"model at step {self.trainer.global_step}", self.over_processes)

    def over_processes(self, tensor: Tensor, how: str) -> Tensor:
        """Reduce a tensor of each process by "sum" or "max"; it may be overwritten."""
        reduced = self.trainer.strategy.reduce(tensor, reduce_op=how)
        assert isinstance(reduced, Tensor)
        return reduced

    def on_validation_epoch_start(self) -> None:
        if self.trainer.state.fn == TrainerFn.FITTING:
            self._check_finite()  # or the scores would be blamed
        self.start_scores(self.trainer.val_dataloaders)

    # With several loaders Lightning tells which; EpochScores refuses them.
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.epoch_scores.add(batch, self.backbone)

    def on_validation_epoch_end(self) -> None:
        self._finish_scores("val")

    def on_validation_end(self) -> None:
        self.execution.settle()

    def on_test_epoch_start(self) -> None:
        self.start_scores(self.trainer.test_dataloaders)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.epoch_scores.add(batch, self.backbone)

    def on_test_epoch_end(self) -> None:
        self._finish_scores("test")

    def on_predict_epoch_start(self) -> None:
        self.start_scores(self.trainer.predict_dataloaders)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        return self.epoch_scores.add(batch, self.backbone)

    def on_predict_epoch_end(self) -> None:
        self.gather_scores()

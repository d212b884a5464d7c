"""Training under Lightning: `videonorm fit | validate | test | predict`."""

from videonorm.training.adaptive_gradient_clipping import AdaptiveGradientClipping
from videonorm.training.callbacks import LastCheckpoint
from videonorm.training.classifier import VideoClassifier
from videonorm.training.datamodule import VideoDataModule
from videonorm.training.evaluation_record import EvaluationRecord
from videonorm.training.multigrid import Multigrid
from videonorm.training.precise_batch_norm import PreciseBatchNorm
from videonorm.training.run_record import RunRecord
from videonorm.training.schedule import Schedule, WarmupCosine, WarmupSteps
from videonorm.training.score_at_lengths import ScoreAtLengths
from videonorm.training.time_budget import TimeBudget

__all__ = [
    "AdaptiveGradientClipping",
    "EvaluationRecord",
    "LastCheckpoint",
    "Multigrid",
    "PreciseBatchNorm",
    "RunRecord",
    "Schedule",
    "ScoreAtLengths",
    "TimeBudget",
    "VideoClassifier",
    "VideoDataModule",
    "WarmupCosine",
    "WarmupSteps",
]

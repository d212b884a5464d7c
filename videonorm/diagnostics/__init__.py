"""Recorders: Lightning callbacks that measure norms, activations and gradients in any `videonorm fit`."""

from videonorm.diagnostics.activations import Activations
from videonorm.diagnostics.batch_statistics import BatchStatistics
from videonorm.diagnostics.channels import Channels
from videonorm.diagnostics.largest_learning_rate import LargestLearningRate
from videonorm.diagnostics.logit_gradients import LogitGradients
from videonorm.diagnostics.loss_landscape import LossLandscape
from videonorm.diagnostics.recorder import Recorder

__all__ = [
    "Activations",
    "BatchStatistics",
    "Channels",
    "LargestLearningRate",
    "LogitGradients",
    "LossLandscape",
    "Recorder",
]

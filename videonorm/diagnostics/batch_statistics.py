"""Batch norms' statistics: how many values they rest on, and how far the running ones are from others."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from videonorm.diagnostics.recorder import Recorder, Row
from videonorm.diagnostics.subject import Subject, wide
from videonorm.errors import UserError
from videonorm.layers import estimated_batch_norms, precise_statistics
from videonorm.layers.effective_sizes import effective_sizes, of_median_channel
from videonorm.layers.statistics_batch import statistics_batch


class Statistics(NamedTuple):
    """Of C channels, the variance unbiased."""

    mean: Tensor
    var: Tensor


class ClipMoments(NamedTuple):
    """Of the clips of one batch, each by itself: (B, C), the variance biased, over ``values`` places."""

    mean: Tensor
    var: Tensor
    values: int

    def statistics(self) -> Statistics:
        """Those of the batch, as a batch norm has them."""
        count = len(self.mean) * self.values
        var = self.var.mean(dim=0) + self.mean.var(dim=0, correction=0)
        return Statistics(self.mean.mean(dim=0), var * count / max(count - 1, 1))


class BatchStatistics(Recorder):
    """batch_statistics.csv: a row for each batch norm that keeps running statistics and is not frozen.

    The first batches of training, until there are ``clips`` of them, pass through the weights of the moment,
    in training mode; each batch is as large as those of training.

    - ``n_eff``: how many independent values the statistics of one batch rest on, at the clips and frames of
      the run: the lesser of the two of ``videonorm.layers.effective_sizes``, each in its median channel; nan
      if no channel varies. Of batch norms over a part of a batch, over accumulated batches, or over those of
      all devices, it is that of so many clips. It is an estimate from ``clips`` clips.
    - ``running_to_batch``, ``running_to_precise``: how far the running statistics are from those of a batch
      (in the mean over the batches), and from those of all clips together, the precise ones (Wu & Johnson,
      arXiv:2105.07576). Between statistics (m, v) and (m', v') it is the distance of two normal
      distributions (Wasserstein's), in standard deviations of the second, as root of the mean over channels:

          root of mean_c [((m_c - m'_c)^2 + (root v_c - root v'_c)^2) / (v'_c + eps)]

      with unbiased v and the eps of the norm.

    It has rows from the first step on at which it is due and has its clips: unless the first batch has as
    many, that is not step 0. Cost: a forward for each batch, and the memory of so many clips on the CPU; they
    are in the checkpoints, too.

    Args:
        every_n_steps: see ``Recorder``.
        clips: at least as many are looked at, in whole batches.
    """

    tables = {"batch_statistics": ("layer", "n_eff", "running_to_batch", "running_to_precise")}

    def __init__(self, every_n_steps: int = 250, clips: int = 32) -> None:
        super().__init__(every_n_steps, clips)
        if clips < 2:
            raise UserError(f"clips ({clips}) must be at least 2")

    def require(self, network: nn.Module) -> None:
        if not any(norm.training for norm in estimated_batch_norms(network).values()):
            raise UserError(
                f"backbone ({type(network).__name__}) must have batch norms, and not frozen ones alone, for "
                "trainer.callbacks (BatchStatistics)"
            )

    def measure(self, subject: Subject) -> Mapping[str, Sequence[Row]]:
        trainer, module = subject.trainer, subject.module
        device, sizes = trainer.strategy.root_device, (trainer.world_size, trainer.accumulate_grad_batches)
        running = {name: _running(norm) for name, norm in estimated_batch_norms(module).items()}
        moments: dict[str, list[ClipMoments]] = {}
        with torch.no_grad(), subject.precision(), precise_statistics(module) as norms:
            handles = [
                norm.register_forward_pre_hook(
                    lambda _norm, inputs, name=name: moments.setdefault(name, []).append(of_clips(inputs[0]))
                )
                for name, norm in norms.items()
            ]
            try:
                for clips, _ in self.probe:
                    torch.manual_seed(0)
                    subject.network(clips.to(device))
            finally:
                for handle in handles:
                    handle.remove()
        rows: list[Row] = []
        for name, norm in norms.items():
            clips_of_batch = statistics_batch(norm, len(subject.clips), *sizes)
            assert clips_of_batch is not None
            to_batch = [distance(running[name], of.statistics(), norm.eps) for of in moments[name]]
            rows.append(
                {
                    "layer": name.removeprefix("backbone."),
                    "n_eff": n_eff(moments[name], clips_of_batch),
                    "running_to_batch": float(np.mean(to_batch)),
                    "running_to_precise": distance(running[name], _running(norm), norm.eps),
                }
            )
        return {"batch_statistics": rows}


def of_clips(x: Tensor) -> ClipMoments:
    """Of a batch (B, C, ...)."""
    var, mean = torch.var_mean(wide(x).flatten(2), dim=2, correction=0)
    return ClipMoments(mean.double(), var.double(), x[0, 0].numel())


def distance(statistics: Statistics, others: Statistics, eps: float) -> float:
    """See ``BatchStatistics``."""
    of_means = (statistics.mean - others.mean).square()
    of_scales = (statistics.var.sqrt() - others.var.sqrt()).square()
    return float(((of_means + of_scales) / (others.var + eps)).mean().sqrt())


def n_eff(moments: Sequence[ClipMoments], batch_size: int) -> float:
    """The lesser of the two effective sizes of batches of so many clips, each in its median channel."""
    means = torch.cat([batch.mean for batch in moments]).cpu().numpy()
    variances = torch.cat([batch.var for batch in moments]).cpu().numpy()
    return min(of_median_channel(effective_sizes(means, variances, batch_size)))


def _running(norm: _BatchNorm) -> Statistics:
    assert norm.running_mean is not None and norm.running_var is not None
    return Statistics(norm.running_mean.double().clone(), norm.running_var.double().clone())

"""What `fit` trains where not the training is looked at but what it is fed."""

import copy
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from videonorm.errors import UserError
from videonorm.evaluation.checkpoint import load_checkpoint, save_checkpoint
from videonorm.files import open_new
from videonorm.layers import BatchNorm3d, precise_statistics
from videonorm.models import convert


class Idle(nn.Module):
    """A network that costs nothing: logits that do not depend on the clips, of another's classes.

    Args:
        backbone: the other one. It is not kept.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        num_classes = [module.out_features for module in backbone.modules() if isinstance(module, nn.Linear)]
        self.classifier = nn.Linear(1, num_classes[-1])

    def forward(self, clips: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, classes)."""
        weight = self.classifier.weight
        logits: Tensor = self.classifier(torch.zeros(len(clips), 1, dtype=weight.dtype, device=weight.device))
        return logits


class Recorder(nn.Module):
    """Writes down the moments that the clips have, each by itself, where a network has its norms.

    The network is in training mode and learns nothing. One that is not trained yet has batch norms in the
    places of its norms: what a norm finds depends on those before it.

    Args:
        backbone: as the recipe starts it.
        ckpt: a checkpoint of `videonorm fit`, whose network takes the place of the other, as it is.
        passes: batches to look at.
        out: an .npz file, written behind the last of them: for each layer ``NAME.mean`` and ``NAME.variance``
            (biased) over all values of a clip, (clips, channels) in float64, in the order of the layers.

    Raises:
        UserError: the network has no norm over (B, C, T, H, W).
    """

    def __init__(self, backbone: nn.Module, ckpt: str | None, passes: int, out: str) -> None:
        super().__init__()
        self._passes, self._out = passes, out
        self._moments: dict[str, list[Tensor]] = {}
        network = backbone if ckpt is None else load_checkpoint(ckpt).network
        # Where a batch norm could be, a conversion knows.
        changed = convert(network if ckpt is None else copy.deepcopy(network), norm=BatchNorm3d).changed
        if not changed:
            raise UserError(f"backbone ({type(network).__name__}) must have norms over (B, C, T, H, W)")
        for change in changed:
            layer = network.get_submodule(change.name)
            layer.register_forward_pre_hook(lambda _, inputs, name=change.name: self._record(name, inputs[0]))
        self.network = network.requires_grad_(False)
        self.idle = Idle(network)

    def forward(self, clips: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, classes)."""
        if self._passes:
            with torch.no_grad():
                self.network(clips)
            self._passes -= 1
            if not self._passes:
                self._write()
        logits: Tensor = self.idle(clips)
        return logits

    def _record(self, name: str, x: Tensor) -> None:
        variance, mean = torch.var_mean(x.detach().float(), dim=(2, 3, 4), correction=0)
        self._moments.setdefault(name, []).append(torch.stack([mean, variance]).cpu().double())

    def _write(self) -> None:
        arrays: dict[str, Any] = {}
        for name, parts in self._moments.items():
            arrays[f"{name}.mean"], arrays[f"{name}.variance"] = torch.cat(parts, dim=1).numpy()
        with open_new(self._out, "wb") as file:
            np.savez(file, **arrays)


class Estimator(nn.Module):
    """Takes the statistics of a network's batch norms of all the batches that it is given.

    Args:
        ckpt: a checkpoint of the network.
        batches: how many there will be.
        out: another checkpoint, written behind the last of them.
        trust: see ``load_checkpoint``.
    """

    def __init__(self, ckpt: str, batches: int, out: str, trust: bool) -> None:
        super().__init__()
        self._left, self._out = batches, out
        self._checkpoint = load_checkpoint(ckpt, trust)
        self.network = self._checkpoint.network.requires_grad_(False)
        self.idle = Idle(self.network)
        self._estimation, self._begun = ExitStack(), False

    def forward(self, clips: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, classes)."""
        if self._left:
            if not self._begun:
                self._estimation.enter_context(precise_statistics(self.network))
                self._begun = True
            with torch.no_grad():
                self.network(clips)
            self._left -= 1
            if not self._left:
                self._estimation.close()
                save_checkpoint(self._out, replace(self._checkpoint, network=self.network.cpu().eval()))
        logits: Tensor = self.idle(clips)
        return logits

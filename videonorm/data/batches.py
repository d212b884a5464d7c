"""What the model is given: our data module's batches on the device, or those of another's data loader."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from videonorm.data.entries import UNLABELLED
from videonorm.errors import UserError


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


def train_clips(batch: Any) -> TrainClips:
    """Clips and labels of a batch: a pair, or a mapping with "video" and "label" as PyTorchVideo's.

    Raises:
        UserError: it is none of these, or no clips (B, 3, T, H, W).
    """
    if isinstance(batch, Mapping):
        parts: Any = batch.get("video"), batch.get("label")
    else:
        parts = batch if isinstance(batch, tuple | list) and len(batch) == 2 else (None, None)
    clips, label = parts
    if not isinstance(clips, Tensor) or not isinstance(label, Tensor) or clips.ndim != 5:
        raise UserError(
            f"batch ({_what(batch)}) must be (clips, labels) or {{'video': clips, 'label': labels}}, "
            "with clips (B, 3, T, H, W)"
        )
    return TrainClips(clips, label)


def one_view(batch: Any, first_row: int, stride: int) -> Views:
    """A batch of another's data loader as one view of each video; clips alone have no labels.

    Args:
        first_row, stride: the rows of the table of scores that its videos are entered into.
    """
    if isinstance(batch, Tensor):
        batch = batch, torch.full((len(batch),), UNLABELLED, device=batch.device)
    clips, label = train_clips(batch)
    return Views(clips[:, None], label, first_row + stride * torch.arange(len(clips)))


def _what(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return f"a mapping with {', '.join(map(str, batch))}"
    if isinstance(batch, tuple | list):
        return f"{len(batch)} of {', '.join(dict.fromkeys(type(part).__name__ for part in batch))}"
    return f"{type(batch).__name__}{f' {tuple(batch.shape)}' if isinstance(batch, Tensor) else ''}"

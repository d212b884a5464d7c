"""What a network makes of every view of every video, batch after batch: logits, or what else it is asked for.

Clips and views are those of `videonorm evaluate`; a video that cannot be used is named and the others go on.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import BatchSampler

from videonorm.data import BadVideo, Batch, EvalTransform, VideoDataset, VideoLoader, Workers
from videonorm.data.decoding.location import without_credentials
from videonorm.errors import UserError
from videonorm.evaluation.scores import view_logits


def view_outputs(
    network: Callable[[Tensor], Tensor],
    dataset: VideoDataset,
    transform: EvalTransform,
    device: torch.device,
    batch_size: int,
    workers: Workers | None = None,
    rows: Sequence[int] | None = None,
) -> Iterator[tuple[Batch, Tensor]]:
    """Each batch, without what is bad of it, with what ``outputs_of`` gives.

    Args:
        network: clips (B, 3, T, H, W) to (B, D), on ``device``.
        transform: on ``device``.
        rows: of the dataset's videos; by default all.
    """
    loader = VideoLoader(dataset, batch_size, workers, pin_for=device if device.type == "cuda" else None)
    if rows is not None:
        loader.batch_sampler = BatchSampler(rows, batch_size, drop_last=False)
    for loaded in loader:
        batch = _large_enough(loaded, dataset, transform.crop_size)
        empty = torch.empty(0, 0, 0, 0)
        yield batch, outputs_of(network, batch, transform, device) if len(batch) else empty


def outputs_of(
    network: Callable[[Tensor], Tensor], batch: Batch, transform: EvalTransform, device: torch.device
) -> Tensor:
    """Float32 outputs (B, num_clips, num_crops, D) on the CPU, of a batch that is not empty.

    One clip of each video is transformed at a time, and one crop of it goes through the network: the memory
    of a plain batch, however many views there are. All at once they would be floats, four times the bytes of
    the frames and more where crops overlap.
    """
    with torch.inference_mode():
        there = batch.to(device)
        views = (transform(there.clip(number))[0] for number in range(batch.frames.shape[1]))
        return torch.stack([view_logits(network, of) for of in views], dim=1).float().cpu()


def check_logits(logits: Tensor, num_classes: int) -> None:
    """Raise UserError unless ``logits`` are (B, V, K) of so many classes K."""
    if logits.shape[2:] != (num_classes,):
        raise UserError(
            f"artifact must give num_classes ({num_classes}) scores of a clip, and gives "
            f"{tuple(logits.shape[2:])}"
        )


def too_small(height: int, width: int, crop_size: int) -> str:
    """Why a picture has no crop, as a bad video's reason; or ""."""
    if min(height, width) >= crop_size:
        return ""
    return f"is smaller ({width} x {height}) than the crop; short_side {crop_size} would scale it"


def _large_enough(batch: Batch, dataset: VideoDataset, crop_size: int) -> Batch:
    """Without the videos whose pictures are smaller than the crop, which count as bad."""
    reasons = {row: why for row, size in enumerate(batch.sizes) if (why := too_small(*size, crop_size))}
    if not reasons:
        return batch
    for row, reason in reasons.items():
        path = without_credentials(dataset.manifest.entries[int(batch.index[row])].path)
        batch.bad.append(BadVideo(path, reason))
    return batch.without(reasons)

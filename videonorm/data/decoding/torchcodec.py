"""The decoder torchcodec: needs FFmpeg's shared libraries beside it, which its wheel does not bring."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torchcodec.decoders import VideoDecoder  # type: ignore[attr-defined,unused-ignore]

from videonorm.data.decoding.fallback import MATROSKA, MP4, RefusalError, check_count, check_proved
from videonorm.data.decoding.index_store import IndexStore, packet_index
from videonorm.data.decoding.orientation import Orientation
from videonorm.data.decoding.reader import Reader, scale, scaled_size
from videonorm.errors import UserError

PROVED = {
    MP4: ("av1", "h264", "hevc", "mpeg4", "vp9"),
    MATROSKA: ("av1", "h264", "hevc", "mpeg4", "vp8", "vp9"),
}
_FRAMES_AT_ONCE = 8  # scaled in fp32 on the GPU: 200 MB at 1080p


class TorchcodecReader(Reader):
    """See ``Reader``. Damage inside a file goes unnoticed: torchcodec does not report it.

    Args:
        device: ``cuda`` decodes and scales on the GPU (NVDEC), and copies the frames to the host.

    Raises:
        RefusalError: torchcodec cannot read the file, or not surely right.
        UserError: CUDA cannot be used in this process.
    """

    def __init__(
        self, path: str, store: IndexStore | None = None, device: Literal["cpu", "cuda"] = "cpu"
    ) -> None:
        if device == "cuda":
            _start_cuda()
        index = packet_index(path, store=store)
        check_proved(index.format, PROVED)
        if index.counted:
            raise RefusalError("needs timestamps to find frames")
        if not index.keys_are_whole:
            raise RefusalError(
                "returns wrong frames where pictures are refreshed bit by bit, without keyframes"
            )
        self.path = path
        self.seconds = index.seconds
        try:
            # "approximate" finds wrong frames at variable rates, and is no faster on short files.
            self._video = VideoDecoder(
                path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact", device=device
            )
        except (RuntimeError, ValueError) as error:
            raise RefusalError("cannot open it", error) from None
        check_count(len(self._video), self.num_frames)
        if (self._video.metadata.rotation or 0) % 360 != Orientation.of(index.format.matrix).degrees:
            raise RefusalError("mirrors no pictures, and turns only those whose container asks for it")
        if device == "cuda" and self._video.cpu_fallback:
            raise RefusalError("does not decode it on the GPU", self._video.cpu_fallback)

    def close(self) -> None:
        del self._video

    def read(self, indices: Sequence[int], short_side: int | None = None) -> NDArray[np.uint8]:
        try:
            frames: Tensor = self._video.get_frames_at(list(indices)).data
        except (RuntimeError, ValueError, IndexError) as error:
            raise RefusalError("cannot decode it", error) from None
        if frames.is_cuda:
            return scale_on_device(frames, short_side).cpu().numpy()
        return scale(frames.numpy(), short_side)


def scale_on_device(frames: Tensor, short_side: int | None) -> Tensor:
    """Scale frames (N, H, W, 3) as near as may be to what FFmpeg's bilinear scaler, which averages, does."""
    size = scaled_size(frames.shape[1], frames.shape[2], short_side)
    if size == frames.shape[1:3]:
        return frames
    parts = [
        F.interpolate(part.movedim(3, 1).float(), size, mode="bilinear", antialias=True)
        .round_()
        .clamp_(0, 255)
        .to(torch.uint8)
        for part in torch.split(frames, _FRAMES_AT_ONCE)
    ]
    return torch.cat(parts).movedim(1, 3).contiguous()


def _start_cuda() -> None:
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:  # a process forked from one that uses CUDA, or no GPU
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"decoder (torchcodec_cuda) must be used in a process that can use CUDA: {reason}"
        ) from None

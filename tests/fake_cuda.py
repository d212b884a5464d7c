"""Bytes that a forward pass keeps for backward, counted on fake CUDA tensors, where nothing is allocated."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode


@contextmanager
def cuda_autocast(dtype: torch.dtype = torch.bfloat16) -> Iterator[None]:
    """``torch.autocast("cuda", dtype)``, which turns itself off on a machine without a GPU."""
    torch.set_autocast_dtype("cuda", dtype)
    torch.set_autocast_enabled("cuda", True)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.autocast_decrement_nesting()
        torch.clear_autocast_cache()


def saved_bytes(make: Callable[[], nn.Module], num_clips: int, num_frames: int = 32, size: int = 224) -> int:
    with FakeTensorMode():
        with torch.device("cuda"):
            model = make()
        clips = torch.empty(num_clips, 3, num_frames, size, size, device="cuda")
        clips = clips.contiguous(memory_format=torch.channels_last_3d)
        parameters = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        saved = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            saved[storage._cdata] = storage  # held, so that no other gets its address
            return tensor.detach()

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), cuda_autocast():
            logits = model(clips)
        assert logits.dtype == torch.bfloat16
        return sum(storage.nbytes() for address, storage in saved.items() if address not in parameters)


def saved_bytes_per_clip(make: Callable[[], nn.Module], num_frames: int = 32, size: int = 224) -> int:
    """What one clip more costs: without bf16 copies of the weights, which all clips share."""
    few, more = (saved_bytes(make, num_clips, num_frames, size) for num_clips in (2, 3))
    return more - few

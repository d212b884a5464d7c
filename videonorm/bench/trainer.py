"""A model in training for `videonorm bench step`: the time of its steps, their memory, their saved bytes."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from videonorm.bench.names import REPLAYED
from videonorm.bench.records import Row
from videonorm.bench.sites import new_model
from videonorm.bench.timing import GIB, WARM_UP, attempt, take_turns
from videonorm.layers import BatchNorm3d, GroupNorm3d, Norm, WSConv3d

MIB = 2**20
STEPS = 3  # of a window


class TorchGroupNorm3d(Norm):
    """torch's own group norm, then the residual, then ReLU."""

    def __init__(self, num_channels: int, num_groups: int) -> None:
        super().__init__(num_channels)
        self.num_groups = num_groups
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))

    def normalize(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.num_groups, self.weight, self.bias)


@dataclass(frozen=True)
class Case:
    """A network and a size of batches; of 0 clips: as many as fit in ``limit_gib`` of GPU memory (0: all)."""

    net: str
    crop_size: int
    num_frames: int
    batch_size: int
    width: int = 64
    num_groups: int = 32
    limit_gib: float = 0.0

    @property
    def about(self) -> Row:
        return {
            "net": self.net if self.width == 64 else f"{self.net} of width {self.width}",
            "crop_size": self.crop_size,
            "num_frames": self.num_frames,
            "batch_size": self.batch_size or None,
        }

    def __str__(self) -> str:
        return f"{self.net} {self.num_frames} x {self.batch_size or 'as many clips as fit'}"

    def new_model(self, contender: str) -> nn.Module:
        """On torch's default device."""
        group_norm = partial(GroupNorm3d, num_groups=self.num_groups)
        parts: dict[str, dict[str, Any]] = {
            "bn": {"norm": partial(BatchNorm3d, min_clips=1)},
            "gn_torch": {"norm": partial(TorchGroupNorm3d, num_groups=self.num_groups)},
            "gn": {"norm": group_norm},
            "gn_ws": {"norm": group_norm, "conv": WSConv3d},
            "gn_ws_recompute": {"norm": group_norm, "conv": WSConv3d, "recompute": "norms"},
            "gn_ws_recompute_blocks": {"norm": group_norm, "conv": WSConv3d, "recompute": "blocks"},
            "gn_ws_recompute_8bit": {"norm": group_norm, "conv": WSConv3d, "recompute": "blocks_8bit"},
        }
        return new_model(self.net, width=self.width, **parts[contender])

    def new_batch(self, batch_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Clips and labels."""
        size = (batch_size, 3, self.num_frames, self.crop_size, self.crop_size)
        clips = torch.randn(size, device=device).contiguous(memory_format=torch.channels_last_3d)
        return clips, torch.zeros(batch_size, dtype=torch.long, device=device)


class Trainer:
    """A model, its optimizer, and a batch."""

    def __init__(self, case: Case, contender: str, device: torch.device) -> None:
        with device:
            model = case.new_model(contender)
        self.model = model.to(memory_format=torch.channels_last_3d)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-4, momentum=0.9)
        self.batch = case.new_batch(case.batch_size, device)

    def step(self) -> None:
        clips, labels = self.batch
        with torch.autocast(clips.device.type, torch.bfloat16):
            loss = F.cross_entropy(self.model(clips), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad()

    def capture(self) -> Callable[[], None]:
        """Its step as a CUDA graph: each call replays it.

        The steps before it, on a stream of their own as a capture asks, compile, choose algorithms and make
        the optimizer's buffers.
        """
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(STEPS):
                self.step()
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(self._graph):
                self.step()
        except torch.AcceleratorError as error:  # of the capture, after which the device is as it was
            raise RuntimeError(f"cannot be captured: {error}") from error
        return self._replay

    def _replay(self) -> None:
        self._graph.replay()


def new_step(case: Case, contender: str, device: torch.device) -> Callable[[], None]:
    """A training step of a contender, or the replay of one."""
    trainer = Trainer(case, contender.removesuffix(REPLAYED), device)
    return trainer.capture() if contender.endswith(REPLAYED) else trainer.step


def measure(case: Case, names: Sequence[str], repeats: int, device: torch.device) -> Iterator[Row]:
    """The rows of a case, one for each contender."""
    if not case.batch_size:
        yield from (most_clips(case, name, device) for name in names)
        return
    rows: dict[str, Row] = {name: case.about | {"contender": name} for name in names}
    for name, row in rows.items():
        if name.endswith(REPLAYED):  # what it needs is in a pool of the graph's own
            row["error"] = None
        else:
            row["error"] = attempt(partial(_measure_memory, case, name, device, row), device)
    seconds = {name: _Window(case, name, device) for name, row in rows.items() if not row["error"]}
    for name, error in take_turns(seconds, repeats, device).items():
        rows[name]["error"] = error
    for name, row in rows.items():
        if not row["error"]:
            step_seconds = median(seconds[name].taken[WARM_UP:])
            row["milliseconds"] = 1e3 * step_seconds
            row["clips_per_second"] = case.batch_size / step_seconds
    for name, row in rows.items():
        bn = rows.get(f"bn{REPLAYED}" if name.endswith(REPLAYED) else "bn", {}).get("milliseconds")
        if bn and not row["error"]:
            row["ratio_to_bn"] = row["milliseconds"] / bn
    yield from rows.values()


class _Window:
    """Called, it takes the time of STEPS steps. The model is made, or captured, at the first call."""

    def __init__(self, case: Case, contender: str, device: torch.device) -> None:
        self.taken: list[float] = []  # seconds of a step
        self._make = partial(new_step, case, contender, device)
        self._device = device
        self._step: Callable[[], None] | None = None

    def __call__(self) -> None:
        step = self._step = self._step or self._make()
        wait(self._device)
        start = time.perf_counter()
        for _ in range(STEPS):
            step()
        wait(self._device)
        self.taken.append((time.perf_counter() - start) / STEPS)


def _measure_memory(case: Case, name: str, device: torch.device, row: Row) -> None:
    """Enter saved bytes and, on a GPU, peak memory of a model that is alone there."""
    row["saved_bytes_per_clip"] = _saved_bytes_per_clip(replace(case, batch_size=0), name, device)
    if device.type != "cuda":
        return  # a process has no peak for each of its models
    trainer = Trainer(case, name, device)
    for steps in (2, 2):
        torch.cuda.reset_peak_memory_stats(device)
        for _ in range(steps):
            trainer.step()
        wait(device)
    row["peak_memory_mib"] = torch.cuda.max_memory_allocated(device) / MIB


@cache  # whatever the batch size: to count it takes longer than the steps
def _saved_bytes_per_clip(case: Case, name: str, device: torch.device) -> int:
    return saved_bytes(case, name, 3, device) - saved_bytes(case, name, 2, device)


def saved_bytes(case: Case, name: str, batch_size: int, device: torch.device) -> int:
    """What autograd keeps for backward, each storage once, without parameters, counted on fake tensors."""
    with FakeTensorMode():
        with device:
            model = case.new_model(name)
        clips, _ = case.new_batch(batch_size, device)
        own = {tensor.untyped_storage()._cdata for tensor in model.parameters()}
        saved = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            saved[storage._cdata] = storage  # held, so that no other gets its address
            return tensor.detach()

        hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        with hooks, torch.autocast(device.type, torch.bfloat16):
            graph = model(clips)
        total = sum(storage.nbytes() for address, storage in saved.items() if address not in own)
        del graph
        return total


def most_clips(case: Case, name: str, device: torch.device) -> Row:
    """The row of the largest batch that fits: found by doubling, then by halving the gap."""
    total = torch.cuda.get_device_properties(device).total_memory
    limit = min(case.limit_gib * GIB or total, total)
    row = case.about | {"contender": name, "memory_limit_mib": limit / MIB}

    def fits(batch_size: int) -> bool:
        torch.cuda.empty_cache()
        try:
            trainer = Trainer(replace(case, batch_size=batch_size), name, device)
            for _ in range(2):  # the second one has momentum
                trainer.step()
            wait(device)
        except torch.cuda.OutOfMemoryError:
            return False
        return True

    def search() -> None:
        fitting, too_many = 0, 1
        while fits(too_many):
            fitting, too_many = too_many, 2 * too_many
        while too_many - fitting > 1:
            middle = (fitting + too_many) // 2
            fitting, too_many = (middle, too_many) if fits(middle) else (fitting, middle)
        row["max_clips"] = fitting

    torch.backends.cudnn.benchmark = False  # it would try algorithms with the memory that there happens to be
    torch.cuda.set_per_process_memory_fraction(limit / total, device)
    row["error"] = attempt(search, device)
    torch.cuda.set_per_process_memory_fraction(1.0, device)
    return row


def wait(device: torch.device) -> None:
    """Until the device has done all that it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

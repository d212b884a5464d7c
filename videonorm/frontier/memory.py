"""What a training step has in memory at each of its moments, without running it.

The step is traced on fake tensors (torch's FakeTensorMode), which have sizes and no memory: a laptop traces
what only a large GPU could run. The size of every tensor of a step is linear in the batch size, and so are
the bytes that are alive at each moment: two batch sizes tell those at all others, and the peak is the largest
of as many straight lines as the step has operations.
"""

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

PRECISIONS = {  # Lightning's names -> dtype of the weights, and of autocast
    "32-true": (torch.float32, None),
    "16-true": (torch.float16, None),
    "bf16-true": (torch.bfloat16, None),
    "16-mixed": (torch.float32, torch.float16),
    "bf16-mixed": (torch.float32, torch.bfloat16),
}
# Statistics over a batch of one clip are refused. At three, no tensor is of a shape that two has not.
TRACED = (2, 3)

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Footprint:
    """The bytes of a training step on batches of B clips of one shape.

    Attributes:
        fixed: of weights, buffers and the optimizer's state, which stay between the steps.
        saved_per_clip: what a clip more makes autograd keep from forward for backward.
        at: (moments, 2) bytes alive behind each operation of a step: those of any B, and those of a clip.
    """

    fixed: int
    saved_per_clip: int
    at: NDArray[np.int64]

    def peak(self, batch_size: int) -> int:
        """Bytes at the fullest moment."""
        return int((self.at[:, 0] + self.at[:, 1] * batch_size).max())

    def largest_batch_size(self, limit: int) -> int:
        """The largest B whose peak is at most ``limit`` bytes; 0 if there is none."""
        base, per_clip = self.at.T
        if (base > limit).any():
            return 0
        grows = per_clip > 0
        return int(((limit - base[grows]) // per_clip[grows]).min())


def trace_step(
    make_model: Callable[[], nn.Module],
    make_optimizer: MakeOptimizer,
    clip: tuple[int, int, int],
    precision: str,
    accumulate: int = 1,
) -> Footprint:
    """The footprint of a step of cross entropy over logits, from the second step on.

    Args:
        make_model: a network (B, 3, T, H, W) -> (B, classes).
        clip: T, H, W.
        precision: one of PRECISIONS.
        accumulate: micro-batches of an optimizer step; more than one find the gradients of others in memory.

    Raises:
        RuntimeError: the step does not have the same operations at each batch size.
    """
    few, more = (_trace(make_model, make_optimizer, (b, 3, *clip), precision, accumulate) for b in TRACED)
    if len(few.alive) != len(more.alive):
        raise RuntimeError("the operations of a step depend on the batch size: its memory cannot be planned")
    alive = np.array([few.alive, more.alive], dtype=np.int64)
    per_clip = alive[1] - alive[0]
    at = np.unique(np.stack([alive[0] - TRACED[0] * per_clip, per_clip], axis=1), axis=0)
    return Footprint(few.fixed, more.saved - few.saved, at)


def refuses_one_clip(make_model: Callable[[], nn.Module], clip: tuple[int, int, int], precision: str) -> bool:
    """Whether the network does not train on a batch of a single clip, as those of batch norms may not."""
    try:
        with FakeTensorMode():
            _new_model(make_model, precision)(_clips((1, 3, *clip), precision))
    except ValueError:
        return True
    return False


@dataclass(frozen=True)
class _Trace:
    alive: list[int]
    fixed: int
    saved: int


class _AutocastOfCuda(TorchFunctionMode):
    """Inside ``torch.autocast("cpu")``: what is done in fp32 on a GPU and not on a CPU, and the other way.

    From "CUDA Op-Specific Behavior" and "CPU Op-Specific Behavior" of torch.amp's documentation, the
    operations of networks in them.
    """

    FP32 = frozenset(
        (
            *(F.group_norm, torch.group_norm, F.layer_norm, torch.layer_norm, F.softmax, torch.softmax),
            *(F.log_softmax, torch.log_softmax, F.softplus, F.cross_entropy, torch.exp, torch.log, torch.pow),
            *(
                torch.norm,
                torch.cumsum,
                torch.sum,
                Tensor.softmax,
                Tensor.log_softmax,
                Tensor.sum,
                Tensor.pow,
            ),
            *(Tensor.norm, Tensor.exp, Tensor.log, Tensor.cumsum),
        )
    )
    AS_IT_IS = frozenset(
        (
            *(F.max_pool3d, torch.max_pool3d, torch._C._nn.max_pool3d_with_indices, F.avg_pool3d),
            *(F.adaptive_avg_pool3d, torch._C._nn.adaptive_avg_pool3d, F.adaptive_max_pool3d, F.interpolate),
        )
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not torch.is_autocast_enabled("cpu") or func not in self.FP32 | self.AS_IT_IS:
            return func(*args, **kwargs)
        if func in self.FP32:
            args, kwargs = tree_map_only(Tensor, _to_fp32, (args, kwargs))
        with torch.autocast("cpu", enabled=False):
            return func(*args, **kwargs)


def _to_fp32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the storages that operations make, until nothing refers to them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0
        self.behind: list[int] = []  # each operation
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        self.behind.append(self.bytes)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        if address not in self._known:
            self._known.add(address)
            self.bytes += size
            weakref.finalize(storage, self._freed, address, size)

    def _freed(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.bytes -= size


def _trace(
    make_model: Callable[[], nn.Module],
    make_optimizer: MakeOptimizer,
    shape: tuple[int, ...],
    precision: str,
    accumulate: int,
) -> _Trace:
    _, autocast = PRECISIONS[precision]
    alive = _Alive()
    # A fake CUDA device would look for a real one in the backward pass; the sizes are those of the CPU.
    with FakeTensorMode(), alive, _AutocastOfCuda():
        model = _new_model(make_model, precision)
        optimizer = make_optimizer(model.parameters())

        def micro_batch(last: bool) -> int:
            clips = _clips(shape, precision)
            labels = torch.zeros(len(clips), dtype=torch.int64)
            before = alive.bytes
            with torch.autocast("cpu", autocast, enabled=autocast is not None):
                loss = F.cross_entropy(model(clips), labels)
            saved = alive.bytes - before
            loss.backward()  # type: ignore[no-untyped-call]
            if last:
                optimizer.step()
                optimizer.zero_grad()
            return saved

        for _ in range(2):  # the first makes the optimizer's state
            alive.behind.clear()
            saved = [micro_batch(index == accumulate - 1) for index in range(accumulate)][-1]
        return _Trace(list(alive.behind), alive.bytes, saved)


def _new_model(make_model: Callable[[], nn.Module], precision: str) -> nn.Module:
    torch.set_default_dtype(PRECISIONS[precision][0])  # fake weights cannot be converted
    try:
        return make_model()
    finally:
        torch.set_default_dtype(torch.float32)


def _clips(shape: tuple[int, ...], precision: str) -> Tensor:
    clips = torch.empty(shape, dtype=PRECISIONS[precision][0])
    return clips.contiguous(memory_format=torch.channels_last_3d)

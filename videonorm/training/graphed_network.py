"""The network of a training step as CUDA graphs: its forward and backward, captured once and replayed.

The network alone is captured. The loss, gradient scaling, clipping and the optimizer follow as ever: they
depend on the host (a learning rate, whether a scaled step is skipped, callbacks), which queues them while the
device is still busy with the graphs.

Gradients are handed out as copies. Autograd keeps the first gradient that it is given as ``.grad``; that of a
graph would be overwritten by the next replay, in the middle of an accumulated step.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from videonorm.errors import UserError
from videonorm.messages import first_line

WARM_UP = 3  # batches in which kernels are compiled and loaded, algorithms chosen, workspaces taken


class GraphedNetwork:
    """Clips (B, 3, T, H, W) to logits, with gradients of the parameters: captured behind ``WARM_UP`` batches.

    The warm-up is a part of the training, and the capture computes nothing: weights, running statistics and
    random numbers go on as without. Python of the network, its hooks too, runs in the warm-up and in the
    capture, and not again. The graphs keep their memory, about that of one step, while something else runs,
    such as validation.

    Args:
        network: in training mode, on a CUDA device.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._graphs: _Graphs | None = None
        self._circumstances: list[object] = []
        self._is_settled = True
        self._warm = 0
        self.replayed = 0
        """Batches that were replayed."""

    def __call__(self, clips: Tensor) -> Tensor:
        if not self._is_settled:
            self._is_settled = True
            if self._graphs is not None and self._circumstances != list(_circumstances(self._network)):
                self._graphs, self._warm = None, 0
        if self._graphs is None and self._warm < WARM_UP:
            self._warm += 1
            logits: Tensor = self._network(clips)
            return logits
        if self._graphs is None:
            self._graphs = self._capture(clips)
            self._circumstances = list(_circumstances(self._network))
        self.replayed += 1
        return self._graphs(clips)

    def settle(self) -> None:
        """Before the next batch, warm up and capture anew if modules or tensors are others than captured.

        To be called where they may change: a callback may have frozen a part or put other buffers in.
        """
        self._is_settled = False

    def _capture(self, clips: Tensor) -> "_Graphs":
        try:
            return _Graphs(self._network, clips)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise UserError(
                f"model.cuda_graph (true) must be false for {type(self._network).__name__}, which cannot be "
                f"captured: {first_line(error)}"
            ) from error


def _circumstances(network: nn.Module) -> Iterator[object]:
    """What a graph has taken for granted: modes, and where tensors are."""
    for module in network.modules():
        yield module.training
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            yield None if tensor is None else (tensor.data_ptr(), tensor.requires_grad)


class _Graphs:
    """Two graphs with the tensors that they read and write."""

    def __init__(self, network: nn.Module, clips: Tensor) -> None:
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.clips = clips.clone()
        self._forward, self._backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        # Another thread, that of a loader that pins memory, may do what this one may not while it captures.
        capture: Callable[..., Any] = partial(
            torch.cuda.graph, pool=torch.cuda.graph_pool_handle(), capture_error_mode="thread_local"
        )
        with capture(self._forward):
            logits: Tensor = network(self.clips)
        self.grad_logits = torch.zeros_like(logits)
        with capture(self._backward):
            self.grads = torch.autograd.grad(logits, self.parameters, self.grad_logits, allow_unused=True)
        self.logits = logits.detach()
        self._turn = 0

    def __call__(self, clips: Tensor) -> Tensor:
        if clips.shape != self.clips.shape or clips.dtype != self.clips.dtype:
            raise UserError(
                f"clips ({_form(clips)}) must be {_form(self.clips)} with model.cuda_graph (true), as those "
                "that were captured"
            )
        logits: Tensor = _Replay.apply(self, clips, *self.parameters)
        return logits

    def forward(self, clips: Tensor) -> tuple[Tensor, int]:
        """Logits, and the turn that they are of."""
        self._turn += 1
        self.clips.copy_(clips)
        self._forward.replay()
        return self.logits.clone(), self._turn

    def backward(self, grad_logits: Tensor, turn: int) -> Iterator[Tensor | None]:
        """The gradients of the parameters, by what the forward of that turn has kept."""
        if turn != self._turn:
            raise RuntimeError("the backward of a captured network must come before its next forward")
        self.grad_logits.copy_(grad_logits)
        self._backward.replay()
        copies = iter(torch._foreach_mul([grad for grad in self.grads if grad is not None], 1))
        return (None if grad is None else next(copies) for grad in self.grads)


def _form(clips: Tensor) -> str:
    return f"{tuple(clips.shape)}, {clips.dtype}"


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, graphs: _Graphs, clips: Tensor, *parameters: Tensor) -> Tensor:
        ctx.graphs = graphs
        logits, ctx.turn = graphs.forward(clips)
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logits: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *ctx.graphs.backward(grad_logits, ctx.turn)

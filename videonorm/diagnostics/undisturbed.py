"""Looking at a network in training so that it does not notice."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def undisturbed(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Have a network pass batches in training mode, and be as before: buffers, modes, random numbers.

    Inside its buffers, such as running statistics, are copies: the others are never touched.

    Args:
        device: whose random numbers are put back beside the CPU's.
    """
    of_cuda = [device] if device.type == "cuda" else []
    modes = {part: part.training for part in module.modules()}
    buffers = {part: dict(part._buffers) for part in module.modules()}
    copies: dict[int, Tensor] = {}  # a buffer may be in two places
    try:
        for part, own in buffers.items():
            for name, buffer in own.items():
                if buffer is not None:
                    part._buffers[name] = copies.setdefault(id(buffer), buffer.clone())
        module.train()
        with torch.random.fork_rng(of_cuda), torch.enable_grad():
            yield
    finally:
        for part, own in buffers.items():
            part._buffers.update(own)
        for part, training in modes.items():
            part.training = training


@contextmanager
def weights_of_its_own(module: nn.Module) -> Iterator[list[nn.Parameter]]:
    """The trained parameters, whose values and gradients may be changed inside: those from before come back.

    Their ``data`` is a copy there, so that no tensor of the training is written to, and none has another
    version by which it would seem to have changed.
    """
    trained = trained_parameters(module)
    kept = [(parameter, parameter.data, parameter.grad) for parameter in trained]
    try:
        for parameter in trained:
            parameter.data, parameter.grad = parameter.data.clone(), None
        yield trained
    finally:
        for parameter, data, grad in kept:
            parameter.grad = None
            parameter.data, parameter.grad = data, grad


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]

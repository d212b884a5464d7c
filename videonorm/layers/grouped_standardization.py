"""Weight standardization of many convolutions in one call of the operator."""

from collections import defaultdict
from collections.abc import Hashable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from videonorm.layers.leaf import is_traced
from videonorm.layers.reparametrized_conv import autocast_dtype, keep_at_hand, thread
from videonorm.layers.ws_conv import StandardizedConv3d
from videonorm.ops.weight_standardize import Formula, weight_standardize_layers

STORED_DIMENSIONS = 5  # (C_out, C_in / groups, k_T, k_H, k_W)


def group_weight_standardization(model: nn.Module) -> None:
    """Standardize the weights of a stage of `model` together when its forward begins: in one kernel launch.

    The groups are those direct children of `model` that hold a WSConv3d (or one of its halves); a child
    without a forward, such as a ModuleList, counts by its own children. So in DistributedDataParallel the
    gradients of a stage are on their way before those of the stage before it are computed. Outputs and
    gradients are the same to the bit as without.

    A convolution standardizes its own weight wherever that of its group is not what it would compute itself:
    where it is called without the forward of its group, under another autocast or grad mode than it, or in an
    activation checkpoint within it (checkpoint whole groups to have both); and where its weight is made or
    changed after the forward of its group began, by hooks, a parametrization, or FSDP around it.

    Calling this again groups what has come in since. ResNet3d and VGG3d are born grouped.
    """
    for group in _groups(model):
        if _standardize not in group._forward_pre_hooks.values():
            group.register_forward_pre_hook(_standardize)
            group.register_forward_hook(_forget, always_call=True)


def _groups(model: nn.Module) -> Iterator[nn.Module]:
    for child in model.children():
        # nn.Module has one that raises, and the class of a scripted module has none.
        if getattr(type(child), "forward", None) is nn.Module.forward:
            yield from _groups(child)
        elif not isinstance(child, StandardizedConv3d) and _convolutions(child):
            yield child


def _convolutions(group: nn.Module) -> list[StandardizedConv3d]:
    """In the order of ``group.modules()``, which takes five times as long."""
    found: dict[StandardizedConv3d, None] = {}  # each once
    waiting: list[nn.Module | None] = [group]
    while waiting:
        module = waiting.pop()
        if isinstance(module, StandardizedConv3d):
            found[module] = None
        elif module is not None:
            waiting += reversed(module._modules.values())
    return list(found)


_running: dict[tuple[object, int], list[StandardizedConv3d]] = {}
"""The convolutions of the groups whose forward runs now, by thread and group: those to be told of its end."""


# The hooks look for the convolutions anew, which may have been copied, swapped or cast since.
def _standardize(group: nn.Module, arguments: tuple[Any, ...]) -> None:
    if is_traced(*arguments):
        return  # a graph that torch.fx traces has no groups: each convolution is a node of its own
    alike: dict[Hashable, list[tuple[StandardizedConv3d, Tensor, Tensor | None, Formula]]] = defaultdict(list)
    for conv in _begin(group):
        weight = _whole_weight(conv)
        if weight is not None:
            gain, formula = conv.gain, conv.formula
            alike[_kind(weight, gain, formula)].append((conv, weight, gain, formula))
    for found in alike.values():
        convs, weights, gains, formulas = map(list, zip(*found, strict=True))
        gains = [] if gains[0] is None else gains
        dtype = autocast_dtype(weights[0])
        keep_at_hand(convs, weight_standardize_layers(weights, gains, formulas, dtype))


def _whole_weight(conv: StandardizedConv3d) -> Tensor | None:
    """The weight, if it is there already and is whole.

    Hooks and parametrizations (pruning, spectral norm) make it when the convolution is called; where FSDP
    wraps parts of a group, it is a shard until then.
    """
    weight = conv._parameters.get("weight")
    is_there = (
        weight is not None
        and weight.dim() == STORED_DIMENSIONS
        and (type(weight) is nn.Parameter or not hasattr(weight, "device_mesh"))
        and type(conv).effective_weight is StandardizedConv3d.effective_weight
        and ("gain" in conv._parameters or conv.gain is None)
    )
    return weight if is_there else None


def _kind(weight: Tensor, gain: Tensor | None, formula: Formula) -> Hashable:
    """Equal for convolutions that one call can serve. A frozen weight in it would get gradients computed."""
    requires_grad = weight.requires_grad, gain if gain is None else gain.requires_grad
    return formula[:4], weight.dtype, weight.device, requires_grad


def _forget(group: nn.Module, _arguments: tuple[Any, ...], _output: Any) -> None:
    for conv in _end(group):
        conv.forget()


def _begin(group: nn.Module) -> list[StandardizedConv3d]:
    convs = _convolutions(group)
    if not torch.compiler.is_compiling():  # where looking again costs nothing
        _running[thread(), id(group)] = convs
    return convs


def _end(group: nn.Module) -> list[StandardizedConv3d]:
    if torch.compiler.is_compiling():
        return _convolutions(group)
    return _running.pop((thread(), id(group)), [])

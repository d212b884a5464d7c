"""Weight standardization of many convolutions in one call of the operator."""

from collections import defaultdict
from collections.abc import Hashable, Iterator
from typing import Any

from torch import nn

from videonorm.layers.leaf import is_traced
from videonorm.layers.reparametrized_conv import autocast_dtype
from videonorm.layers.ws_conv import StandardizedConv3d
from videonorm.ops.weight_standardize import weight_standardize_layers

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


# The hooks look for the convolutions anew, which may have been copied, swapped or cast since.
def _standardize(group: nn.Module, arguments: tuple[Any, ...]) -> None:
    if is_traced(*arguments):
        return  # a graph that torch.fx traces has no groups: each convolution is a node of its own
    alike: dict[Hashable, list[StandardizedConv3d]] = defaultdict(list)
    for conv in _convolutions(group):
        if _has_its_weight(conv):
            alike[_kind(conv)].append(conv)
    for convs in alike.values():
        w_hats = weight_standardize_layers(
            [conv.weight for conv in convs],
            [conv.gain for conv in convs if conv.gain is not None],
            [conv.formula for conv in convs],
            autocast_dtype(convs[0].weight.device),
        )
        for conv, w_hat in zip(convs, w_hats, strict=True):
            conv.keep_at_hand(w_hat)


def _has_its_weight(conv: StandardizedConv3d) -> bool:
    """Whether the weight is there already and is whole.

    Hooks and parametrizations (pruning, spectral norm) make it when the convolution is called; where FSDP
    wraps parts of a group, it is a shard until then.
    """
    weight = conv._parameters.get("weight")
    return (
        weight is not None
        and weight.dim() == STORED_DIMENSIONS
        and not hasattr(weight, "device_mesh")
        and type(conv).effective_weight is StandardizedConv3d.effective_weight
        and ("gain" in conv._parameters or conv.gain is None)
    )


def _kind(conv: StandardizedConv3d) -> Hashable:
    """Equal for convolutions that one call can serve. A frozen weight in it would get gradients computed."""
    *same, _eps, _multiplier = conv.formula
    weight, gain = conv.weight, conv.gain
    requires_grad = weight.requires_grad, gain if gain is None else gain.requires_grad
    return *same, weight.dtype, weight.device, *requires_grad


def _forget(group: nn.Module, _arguments: tuple[Any, ...], _output: Any) -> None:
    for conv in _convolutions(group):
        conv.forget()

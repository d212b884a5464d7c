"""The blocks of a network, by their role."""

from torch import nn


def blocks(network: nn.Module) -> dict[str, nn.Module]:
    """What a network repeats one behind the other, by name.

    Residual blocks say themselves what they are (``is_block``): ours, and PyTorchVideo's. Where none does, a
    block is an entry of an ``nn.Sequential`` that is made of other modules and is no container itself, and
    that in no other block: a ``ConvNorm`` of VGG3d, a residual block of torchvision's and timm's networks.
    """
    said = {name: module for name, module in network.named_modules() if getattr(module, "is_block", False)}
    return said or _entries(network, "")


def _entries(module: nn.Module, prefix: str) -> dict[str, nn.Module]:
    found: dict[str, nn.Module] = {}
    for name, child in module.named_children():
        if isinstance(child, nn.Sequential) or not isinstance(module, nn.Sequential):
            found |= _entries(child, f"{prefix}{name}.")
        elif any(child.children()):
            found[prefix + name] = child
    return found

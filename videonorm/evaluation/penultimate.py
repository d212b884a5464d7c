"""What a network knows of a clip before it decides: what its last linear layer is fed."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from videonorm.errors import UserError


def module_of(network: Callable[[Tensor], Tensor], artifact: object) -> nn.Module:
    """The network of an artifact as the layers that it is made of.

    Raises:
        UserError: it is a program, which has operators alone; ``artifact`` names it.
    """
    if not isinstance(network, nn.Module) or isinstance(network, torch.fx.GraphModule):
        raise UserError(
            f"artifact ({artifact}) must be a folder or .safetensors of `videonorm export`, or a .ckpt of "
            "`videonorm fit`, to be looked into: a program has operators, no layers"
        )
    return network


class Penultimate:
    """Maps clips (B, 3, T, H, W) to the features (B, D) that the network's last linear layer is fed.

    Where that layer is applied to every place of a clip, as in PyTorchVideo's heads, features are averaged
    over the places, as the logits are.

    Args:
        artifact: names the network in an error.

    Raises:
        UserError, when it is called: the network does not end in a linear layer with an output a class.
    """

    def __init__(self, network: nn.Module, num_classes: int, artifact: object) -> None:
        self._network = network
        self._num_classes = num_classes
        self._artifact = artifact
        self._linear = [module for module in network.modules() if isinstance(module, nn.Linear)]

    def __call__(self, clips: Tensor) -> Tensor:
        last: tuple[nn.Linear, Tensor] | None = None

        def note(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            nonlocal last
            assert isinstance(layer, nn.Linear)
            last = layer, inputs[0]

        handles = [layer.register_forward_pre_hook(note) for layer in self._linear]
        try:
            self._network(clips)
        finally:
            for handle in handles:
                handle.remove()
        if last is None or last[0].out_features != self._num_classes:
            raise UserError(
                f"artifact ({self._artifact}) must end in a linear layer with an output for each of its "
                f"{self._num_classes} classes, or its features are not known"
            )
        features = last[1]
        return features.flatten(1, -2).mean(dim=1) if features.dim() > 2 else features

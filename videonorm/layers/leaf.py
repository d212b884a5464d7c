"""Layers in the graphs that torch.fx traces, such as those of torchvision's feature extractors."""

from typing import Any

from torch import Tensor, nn
from torch.fx import Proxy


def is_traced(*inputs: object) -> bool:
    """Whether torch.fx traces what is called with these inputs."""
    for value in inputs:  # noqa: SIM110  # a generator in `any` takes three times as long, at every layer
        if isinstance(value, Proxy):
            return True
    return False


def leaf(module: nn.Module, x: Any, *others: Any) -> Tensor:
    """The call of a module as one node of the graph, for its `forward` to return in place of what is in it.

    So torch.fx treats the layers of torch.nn, and no others. What a layer asks for is then asked when the
    graph runs: autocast, the training flag, how many clips there are.
    """
    node: Tensor = x.tracer.create_proxy("call_module", x.tracer.path_of_module(module), (x, *others), {})
    return node

"""How a converted network is described, so that whoever reads its checkpoint can build it."""

import pkgutil
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from videonorm.errors import UserError
from videonorm.evaluation.checkpoint import build_backbone
from videonorm.messages import arguments

Description = Mapping[str, Any]
INHERITED = ("eps", "momentum")  # by a norm from the one whose place it takes
PLAIN = {"norm": "videonorm.layers.NoNorm", "conv": "torch.nn.Conv3d"}


def of_converted(before: Description, network: nn.Module, parts: Mapping[str, Any]) -> dict[str, Any]:
    """The description of what `convert` made of a network by `parts`: its constructor's, if it can be.

    Args:
        before: of the network as it was.
        parts: `norm`, `conv` and `recompute`, as in a recipe.

    Raises:
        UserError: its constructor does not take `recompute`.
    """
    candidates = list(_with(before, parts))
    if "norm" in parts:
        candidates += _with(before, {**parts, "norm": _inheriting(parts["norm"], network)})
    if "recompute" not in parts:
        candidates.append(
            {"class_path": "videonorm.models.converted", "init_args": {"network": before, **parts}}
        )
    found = _first_like(network, candidates)
    if found is None:
        name = before["class_path"]
        raise UserError(f"backbone ({name}) must take recompute, as ResNet3d and VGG3d do, for that overlay")
    return found


def of_folded(before: Description, network: nn.Module, clips_shape: tuple[int, ...]) -> dict[str, Any]:
    """The description of what `fold` made of a network."""
    arguments_of_fold = {"network": before, "clips_shape": list(clips_shape)}
    candidates = [
        *_with(before, {"conv": PLAIN["conv"]}),
        *_with(before, PLAIN),
        {"class_path": "videonorm.models.folded", "init_args": arguments_of_fold},
    ]
    found = _first_like(network, candidates)
    assert found is not None  # the last one is what was done
    return found


def _with(before: Description, parts: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """With other arguments of its constructor; not every norm can be recomputed."""
    init_args = before.get("init_args", {})
    yield {**before, "init_args": {**init_args, **parts}}
    if init_args.get("recompute", "none") != "none":
        yield {**before, "init_args": {**init_args, "recompute": "none", **parts}}


def _inheriting(norm: Any, network: nn.Module) -> dict[str, Any]:
    """The norm with the eps and the momentum that one of the network has."""
    norm = norm if isinstance(norm, Mapping) else {"class_path": norm}
    cls = pkgutil.resolve_name(norm["class_path"])
    one = next((module for module in network.modules() if type(module) is cls), None)
    one = getattr(one, "batch_norm", one)
    known = {name: getattr(one, name) for name in INHERITED if hasattr(one, name) and name in arguments(cls)}
    return {**norm, "init_args": {**norm.get("init_args", {}), **known}}


def _first_like(network: nn.Module, candidates: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The first description of a network that prints itself as this one does, layer by layer."""
    for candidate in candidates:
        try:
            built = build_backbone(candidate, "the conversion", trust=True)
        except UserError:  # arguments that its constructor does not take, or not together
            continue
        if str(built) == str(network):
            return candidate
    return None

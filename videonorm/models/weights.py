"""Weights that others trained, for ResNet3d: torchvision's VideoResNet and PyTorchVideo's create_resnet.

Only names differ; tensors pass through untouched. A checkpoint of a BatchNorm network fits a ResNet3d with
`norm=BatchNorm3d`: for another norm load it first and `convert` then.
"""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from videonorm.errors import UserError

# torchvision numbers the parts of a convolution with its norm: stem.{0,1}, layer2.0.conv1.{0,1},
# layer2.0.downsample.{0,1}. Factorized ones are stem.{0,1,3,4} and layer2.0.conv1.0.{0,1,3} with
# layer2.0.conv1.1.
PARTS = {"0": "conv", "1": "norm"}
FACTORIZED_PARTS = {"0": "conv.0.conv", "1": "conv.0.norm", "3": "conv.1", "4": "norm"}


def load_foreign(model: nn.Module, weights: str | Path | Mapping[str, Tensor]) -> None:
    """Load weights of torchvision's VideoResNet or of PyTorchVideo's create_resnet into a ResNet3d.

    Args:
        weights: a file (see `read_state_dict`) or a state dict.

    Raises:
        ValueError: the weights do not fit the model; the message names what is missing, left over or of
            another shape. The model is as it was.
        UserError: the file cannot be read.
    """
    state_dict = read_state_dict(weights) if isinstance(weights, str | Path) else weights
    ours = translate(state_dict)
    expected = model.state_dict()
    misfits = {
        "missing": [name for name in expected if name not in ours],
        "left over": [name for name in ours if name not in expected],
        "of another shape": [
            f"{name} {tuple(ours[name].shape)} instead of {tuple(expected[name].shape)}"
            for name in ours
            if name in expected and ours[name].shape != expected[name].shape
        ],
    }
    if any(misfits.values()):
        found = "; ".join(f"{what}: {_shortened(names)}" for what, names in misfits.items() if names)
        raise ValueError(f"weights ({len(ours)} tensors) must fit {type(model).__name__}, {found}")
    model.load_state_dict(ours)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a file of `torch.save`, read with `weights_only=True`.

    PyTorchVideo and PySlowFast keep it under `model_state`; PySlowFast and DistributedDataParallel put
    `model.` and `module.` before each name. Both are taken off.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"weights ({path}) must be a file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"weights ({path}) must be a file that torch.load reads with weights_only: {reason}"
        ) from error
    if isinstance(content, dict):
        content = content.get("model_state", content)
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"weights ({path}) must hold a state dict, by itself or under model_state")
    for prefix in ("module.", "model."):
        if all(name.startswith(prefix) for name in content):
            content = {name.removeprefix(prefix): value for name, value in content.items()}
    return content


def translate(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under ResNet3d's names. Names that neither source has stay as they are.

    Raises:
        ValueError: the names are those of neither source.
    """
    if "stem.0.weight" in state_dict and "fc.weight" in state_dict:
        factorized = "stem.3.weight" in state_dict
        return {_from_torchvision(name, factorized): value for name, value in state_dict.items()}
    if "blocks.0.conv.weight" in state_dict:
        # i3d and c2d have a pool, which is a block without weights, between the stages.
        blocks = sorted(
            {int(name.split(".")[1]) for name in state_dict if re.match(r"blocks\.\d+\.res_blocks", name)}
        )
        stages = {block: stage for stage, block in enumerate(blocks)}
        return {_from_pytorchvideo(name, stages): value for name, value in state_dict.items()}
    raise ValueError(
        f"weights ({_shortened(list(state_dict))}) must have the names of torchvision's VideoResNet or of "
        "PyTorchVideo's create_resnet"
    )


def _from_torchvision(name: str, factorized: bool) -> str:
    if found := re.fullmatch(r"stem\.([0134])\.(\w+)", name):
        part, rest = found.groups()
        parts = FACTORIZED_PARTS if factorized else PARTS
        return f"stem.{parts.get(part, part)}.{rest}"
    if found := re.fullmatch(r"layer(\d)\.(\d+)\.(?:conv(\d)|downsample)\.([01])(?:\.([013]))?\.(\w+)", name):
        layer, block, conv, part, factor, rest = found.groups()
        where = "shortcut" if conv is None else f"branch.{int(conv) - 1}"
        place = PARTS[part] if factor is None else FACTORIZED_PARTS[factor]
        return f"stages.{int(layer) - 1}.{block}.{where}.{place}.{rest}"
    return re.sub(r"^fc\.", "head.", name)


def _from_pytorchvideo(name: str, stages: Mapping[int, int]) -> str:
    if found := re.fullmatch(
        r"blocks\.(\d+)\.res_blocks\.(\d+)\.branch(?:1_|2\.)(conv|norm)(?:_([abc]))?\.(\w+)", name
    ):
        block_index, block, part, unit, rest = found.groups()
        where = "shortcut" if unit is None else f"branch.{'abc'.index(unit)}"
        return f"stages.{stages[int(block_index)]}.{block}.{where}.{part}.{rest}"
    name = re.sub(r"^blocks\.0\.(conv|norm)\.", r"stem.\1.", name)
    return re.sub(r"^blocks\.\d+\.proj\.", "head.", name)


def _shortened(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more

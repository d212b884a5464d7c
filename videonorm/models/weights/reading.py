"""Tensors out of a file that anybody may have made: no code of it is run."""

import pickle
from pathlib import Path

import torch
from torch import Tensor

from videonorm.errors import UserError


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

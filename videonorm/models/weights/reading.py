"""Tensors out of a file that anybody may have made: no code of it is run."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from videonorm.errors import UserError
from videonorm.messages import first_line

ARTIFACT_WEIGHTS = "weights.safetensors"  # of a folder of `videonorm export`
# PyTorchVideo and PySlowFast; MMAction2, 3D-ResNets-PyTorch and Lightning; torchvision's references.
KEYS = ("model_state", "state_dict", "model")
# DistributedDataParallel; PyTorchVideo's networks in PySlowFast; the classifier of `videonorm fit`.
PREFIXES = ("module.", "model.", "backbone.")


class Weights(NamedTuple):
    """A state dict, and whether a checkpoint of `videonorm fit` or a folder of `videonorm export` has it."""

    tensors: dict[str, Tensor]
    is_ours: bool


def read_state_dict(path: str | Path, option: str = "weights") -> dict[str, Tensor]:
    """See `read_weights`."""
    return read_weights(path, option).tensors


def read_weights(path: str | Path, option: str = "weights") -> Weights:
    """The state dict in a file: of `torch.save`, safetensors, npz, or a folder of `videonorm export`.

    What stands around it is left out: other entries of a training checkpoint, and a prefix of every name.

    Args:
        option: what named the file, for messages.

    Raises:
        UserError: the file cannot be read, has code in it, or holds no state dict.
    """
    is_ours = Path(path).is_dir()
    path = file_of(path)
    if not path.is_file():
        raise UserError(f"{option} ({path}) must be an existing file")
    if path.suffix == ".safetensors":
        content: Any = read_safetensors(path, option)
    elif path.suffix == ".npz":
        content = _read_npz(path, option)
    else:
        content = read_torch(path, option)
    if isinstance(content, dict):
        is_ours = is_ours or isinstance(content.get("videonorm"), dict)
    if isinstance(content, dict) and "averaging_state" in content:
        try:
            content, _ = state_of_run(content)
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{option} ({path}) must tell its weights from their average") from error
    elif isinstance(content, dict):
        content = next((content[key] for key in KEYS if isinstance(content.get(key), dict)), content)
    if not is_state_dict(content) or not content:
        raise UserError(f"{option} ({path}) must hold a state dict, by itself or under {', '.join(KEYS)}")
    tensors: dict[str, Tensor] = content
    for name, tensor in tensors.items():
        # Others cannot be copied into a network, which would be found out with half of it loaded.
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_meta:
            raise UserError(f"{option} ({path}) must hold dense tensors of real numbers, as {name} is not")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(f"{option} ({path}) must hold finite numbers, and {name} has others")
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return Weights(tensors, is_ours)


def is_state_dict(content: Any) -> bool:
    """Whether all that a file holds are tensors by name."""
    return isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    )


def state_of_run(checkpoint: Mapping[str, Any]) -> tuple[dict[str, Tensor], int | None]:
    """The weights that a run is judged by, and of how many steps they are the average, if they are one.

    With Lightning's WeightAveraging `state_dict` is the average. Before its first step that is a copy of what
    training began with: the weights are then those of training, which stand beside it.
    """
    if "averaging_state" not in checkpoint:
        return checkpoint["state_dict"], None
    steps = int(checkpoint["averaging_state"]["n_averaged"])
    return (checkpoint["state_dict"], steps) if steps else (checkpoint["current_model_state"], None)


def file_of(path: str | Path) -> Path:
    """The file itself, where a folder of `videonorm export` is named."""
    path = Path(path)
    return path / ARTIFACT_WEIGHTS if path.is_dir() else path


def read_torch(path: str | Path, option: str) -> Any:
    """What a file of `torch.save` holds, on the CPU; read with `weights_only=True`, which runs no code.

    Raises:
        UserError: the file cannot be read, or has code in it, which is then named.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # garbage makes torch.load fail in any way
        # Of torch's own words only what the file would call: they advise to let it run its code.
        called = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise UserError(
            f"{option} ({path}) must be a checkpoint that torch can read, without code in it"
            + (f", and calls {called[1]}" if called else "")
        ) from error


def read_safetensors(path: str | Path, option: str) -> dict[str, Tensor]:
    """Raise UserError where the file is not whole."""
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{option} ({path}) must be a safetensors file ({first_line(error)})") from error
    return tensors


def _read_npz(path: Path, option: str) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays}
    except Exception as error:  # a zip file with anything in it
        raise UserError(
            f"{option} ({path}) must be an npz file of plain arrays, without objects ({first_line(error)})"
        ) from error

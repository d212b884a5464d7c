"""A checkpoint of `videonorm fit`, read without Lightning and without running code from it."""

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonargparse
import torch
from torch import Tensor, nn

from videonorm import __version__
from videonorm.data.clip_spec import ClipSpec
from videonorm.errors import UserError
from videonorm.evaluation.classes import check_classes
from videonorm.files import open_new
from videonorm.machine import versions
from videonorm.messages import first_line, one_line
from videonorm.models import read_torch
from videonorm.models.weights.reading import is_state_dict, state_of_run


@dataclass(frozen=True)
class Checkpoint:
    """A training checkpoint's network, without the training: built, weights loaded, in eval mode."""

    network: nn.Module
    backbone: dict[str, Any]
    input: ClipSpec
    class_names: list[str] | None
    step: int
    epoch: int
    version: str  # of videonorm, when it was written
    averaged: int | None = None  # steps over which WeightAveraging of Lightning has averaged the weights

    @property
    def clips_shape(self) -> tuple[int, int, int, int, int]:
        """(1, 3, T, H, W), of one clip as `input` says."""
        return 1, 3, self.input.num_frames, self.input.crop_size, self.input.crop_size

    def try_out(self) -> tuple[Tensor, Tensor]:
        """A clip of noise, always the same, and its logits (1, num_classes).

        Raises:
            UserError: the network does not take it, or gives something else.
        """
        shape = self.clips_shape
        try:
            noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
            with torch.inference_mode():
                logits: Tensor = self.network(noise)
            (_, _) = logits.shape
        except (RuntimeError, ValueError, TypeError, AttributeError, LookupError) as error:
            name = self.backbone["class_path"]
            raise UserError(
                f"backbone ({name}) must make logits (B, num_classes) of clips {shape} ({first_line(error)})"
            ) from error
        return noise, logits


def read_checkpoint(path: str | Path, option: str = "ckpt") -> dict[str, Any]:
    """Read all of a training checkpoint onto the CPU.

    Raises:
        UserError: the file, named by ``option``, cannot be read or is no checkpoint of `videonorm fit`.
    """
    if not Path(path).is_file():
        raise UserError(f"{option} ({path}) must be an existing file")
    checkpoint = read_torch(path, option)
    if (
        not isinstance(checkpoint, dict)
        or not {"state_dict", "global_step"} <= checkpoint.keys()
        or not is_state_dict(checkpoint["state_dict"])
    ):
        raise UserError(f"{option} ({path}) must be a checkpoint written by `videonorm fit`")
    return checkpoint


def load_checkpoint(path: str | Path, trust: bool = False) -> Checkpoint:
    """Load the network of a checkpoint of `videonorm fit`, on the CPU.

    Args:
        trust: let its description of the network name any class, and so run the code of any module.

    Raises:
        UserError: the file cannot be read, is no such checkpoint, or its weights do not fit its description.
    """
    checkpoint = read_checkpoint(path)
    try:
        ours = checkpoint["videonorm"]
        state, averaged = state_of_run(checkpoint)
        if not is_state_dict(state):
            raise TypeError("its weights are no tensors by name")
        read = Checkpoint(
            network=build_backbone(ours["backbone"], f"ckpt ({path})", trust),
            backbone=ours["backbone"],
            input=ClipSpec(**ours["input"]),
            class_names=ours["class_names"],
            step=checkpoint["global_step"],
            epoch=checkpoint["epoch"],
            version=ours["version"],
            averaged=averaged,
        )
    except KeyError as error:
        raise UserError(f"ckpt ({path}) must describe its model and clips, and {error} is missing") from error
    except UserError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"ckpt ({path}) must describe its model and clips ({error})") from error
    prefix = "backbone."
    weights = {k.removeprefix(prefix): w for k, w in state.items() if k.startswith(prefix)}
    load_weights(read.network, weights, f"ckpt ({path})")
    read.network.eval()
    return read


def save_checkpoint(path: str | Path, checkpoint: Checkpoint, **origin: Mapping[str, Any]) -> None:
    """Write what `load_checkpoint`, `videonorm export`, `validate` and `test` read; no training to go on.

    Args:
        origin: where the weights come from, by what was done.
    """
    weights = checkpoint.network.state_dict()
    about = {
        "version": __version__,
        "backbone": checkpoint.backbone,
        "input": dataclasses.asdict(checkpoint.input),
        "class_names": checkpoint.class_names,
        **origin,
    }
    content: dict[str, Any] = {
        "state_dict": {f"backbone.{name}": tensor for name, tensor in weights.items()},
        "global_step": checkpoint.step,
        "epoch": checkpoint.epoch,
        "pytorch-lightning_version": versions()["lightning"],  # which it asks for
        "videonorm": about,
    }
    if checkpoint.averaged is not None:
        content["averaging_state"] = {"n_averaged": torch.tensor(checkpoint.averaged)}
    write_checkpoint(path, content)


def write_checkpoint(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint whole or not at all."""
    with open_new(path, "wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # what torch makes of a write that failed
            if isinstance(error.__context__, OSError | SystemExit):  # or was broken off by a signal
                raise error.__context__ from None
            raise


def build_backbone(description: Mapping[str, Any], source: str, trust: bool = False) -> nn.Module:
    """Instantiate {"class_path", "init_args"} as a recipe's `model.backbone`, with random weights.

    Args:
        source: what the description comes from, for messages.
        trust: let it name any class, and so run the code of any module.

    Raises:
        UserError: the description names what it may not without trust, or cannot be built.
    """
    if not trust:
        check_classes(description, source)
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--backbone", type=nn.Module)
    try:
        backbone = parser.instantiate(parser.parse_object({"backbone": copy.deepcopy(description)})).backbone
    except Exception as error:  # a constructor may fail in any way on arguments that are not its own
        raise UserError(f"{source} must describe a backbone that can be built ({one_line(error)})") from error
    assert isinstance(backbone, nn.Module)
    return backbone


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Load `weights` into `network`; UserError names the first whose name or shape does not match."""
    check_weights(network.state_dict(), weights, source)
    network.load_state_dict(weights)


def check_weights(wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor], source: str) -> None:
    """Raise UserError, naming the first whose name or shape differs, if `weights` are not those `wanted`."""
    for name in sorted(wanted.keys() - weights.keys()):
        raise UserError(f"{source} must hold every weight of the model, and {name} is missing")
    for name in sorted(weights.keys() - wanted.keys()):
        raise UserError(f"{source} must hold no weight that the model lacks, as {name} is")
    for name, weight in weights.items():
        if weight.shape != wanted[name].shape:
            has, needs = tuple(weight.shape), tuple(wanted[name].shape)
            raise UserError(
                f"{source} must hold weights of the model's shapes, and {name} is {has} instead of {needs}"
            )

"""What leaves the project: a network's weights, and a card that says how to build it and what to feed it.

An artifact is a folder (`weights.safetensors` and `model.yaml`), or one `.pt2` file: a torch.export program
in standard operators with the same card inside. Both load without Lightning; the program needs no model code.
"""

import copy
import dataclasses
import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jsonargparse
import safetensors.torch
import torch
import yaml
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass

from videonorm.errors import UserError

WEIGHTS_FILE = "weights.safetensors"
CARD_FILE = "model.yaml"
PROGRAM_FILE = "model.pt2"
PROGRAM_CARD = "model.json"  # the card's name inside a .pt2

# What torch.load raises for a file that is damaged, or no checkpoint, or wants to run code.
UNREADABLE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    RuntimeError,
    OSError,
    EOFError,
    KeyError,
    ValueError,
)


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """The clips a network was trained to see. Frames are counted in the source video, lengths in pixels."""

    num_frames: int
    frame_stride: int
    crop_size: int
    short_side: int | None  # frames are resized to it before the crop; None leaves them as they are
    mean: list[float]  # of R, G and B in [0, 1]
    std: list[float]
    clip_starts: Literal["linspace", "slowfast", "offset"]
    short_video: Literal["loop", "repeat_last", "error"]


@dataclasses.dataclass(frozen=True)
class Card:
    """All that is needed to rebuild a network, feed it, and name its answers.

    `backbone` is {"class_path": ..., "init_args": {...}}, as in a recipe's `model.backbone`.
    """

    backbone: dict[str, Any]
    input: InputSpec
    num_classes: int
    class_names: list[str] | None


@dataclasses.dataclass(frozen=True)
class Artifact:
    """`network` maps clips (B, 3, T, H, W), normalized as `card.input` says, to logits (B, num_classes)."""

    network: Callable[[Tensor], Tensor]
    card: Card


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A training checkpoint's network, without the training: built, weights loaded, in eval mode."""

    network: nn.Module
    backbone: dict[str, Any]
    input: InputSpec
    class_names: list[str] | None
    step: int
    epoch: int
    version: str  # of videonorm, when it was written


def load_artifact(path: Path, device: torch.device) -> Artifact:
    """Load an artifact folder or a `.pt2` file onto `device`, ready for inference.

    Raises UserError if `path` is neither, if a file of it cannot be read, or if weights and model do not fit.
    """
    if path.is_dir():
        return _load_folder(path, device)
    if path.is_file() and path.suffix == ".pt2":
        return _load_program(path, device)
    raise UserError(f"artifact ({path}) must be a folder made by `videonorm export` or a .pt2 file")


def load_checkpoint(path: Path) -> Checkpoint:
    """Load the network of a checkpoint of `videonorm fit`, on the CPU; Lightning is not needed for it.

    Raises UserError if the file cannot be read or is no such checkpoint.
    """
    if not path.is_file():
        raise UserError(f"ckpt ({path}) must be an existing file")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        # Not torch's own words: they advise to let the file run its code.
        raise UserError(
            f"ckpt ({path}) must be a checkpoint that torch can read, without code in it"
        ) from error
    if not isinstance(checkpoint, dict) or not {"videonorm", "state_dict"} <= checkpoint.keys():
        raise UserError(
            f"ckpt ({path}) must be a checkpoint written by `videonorm fit`, with a `videonorm` entry"
        )
    prefix = "backbone."
    weights = {k.removeprefix(prefix): w for k, w in checkpoint["state_dict"].items() if k.startswith(prefix)}
    try:
        ours, data = checkpoint["videonorm"], checkpoint["videonorm"]["data"]
        read = Checkpoint(
            network=build_backbone(ours["backbone"], f"ckpt ({path})"),
            backbone=ours["backbone"],
            input=InputSpec(
                num_frames=data["num_frames"],
                frame_stride=data["frame_stride"],
                crop_size=data["crop_size"],
                short_side=data["eval_short_side"],
                mean=data["mean"],
                std=data["std"],
                clip_starts=data["clip_starts"],
                short_video=data["short_video"],
            ),
            class_names=ours["class_names"],
            step=checkpoint["global_step"],
            epoch=checkpoint["epoch"],
            version=ours["version"],
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"ckpt ({path}) must describe its model and clips, and {error} is missing") from error
    load_weights(read.network, weights, f"ckpt ({path})")
    read.network.eval()
    return read


def build_backbone(description: Mapping[str, Any], source: str) -> nn.Module:
    """Instantiate {"class_path", "init_args"} as a recipe's `model.backbone`, with random weights."""
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--backbone", type=nn.Module)
    try:
        backbone = parser.instantiate(parser.parse_object({"backbone": copy.deepcopy(description)})).backbone
    except (jsonargparse.ArgumentError, ValueError) as error:
        raise UserError(
            f"{source} must describe a backbone that can be built ({_one_line(error)})"
        ) from error
    assert isinstance(backbone, nn.Module)
    return backbone


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Load `weights` into `network`; UserError names the first whose name or shape does not match."""
    wanted = network.state_dict()
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
    network.load_state_dict(weights)


def _load_folder(folder: Path, device: torch.device) -> Artifact:
    for name in (CARD_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise UserError(
                f"artifact ({folder}) must hold {CARD_FILE} and {WEIGHTS_FILE}, and {name} is missing"
            )
    source = str(folder / CARD_FILE)
    try:
        card = parse_card(yaml.safe_load((folder / CARD_FILE).read_text()), source)
    except yaml.YAMLError as error:
        raise UserError(f"{source} must be YAML ({_one_line(error)})") from error
    network = build_backbone(card.backbone, source)
    try:
        weights = safetensors.torch.load_file(folder / WEIGHTS_FILE)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(
            f"{folder / WEIGHTS_FILE} must be a safetensors file ({_first_line(error)})"
        ) from error
    load_weights(network, weights, str(folder / WEIGHTS_FILE))
    return Artifact(network.eval().to(device), card)


def _load_program(path: Path, device: torch.device) -> Artifact:
    extra = {PROGRAM_CARD: ""}
    try:
        program = torch.export.load(path, extra_files=extra)
    except Exception as error:  # torch.export.load has no error class of its own for a damaged file
        raise UserError(
            f"{path} must be a program that torch.export can load ({_first_line(error)})"
        ) from error
    if not extra[PROGRAM_CARD]:
        raise UserError(f"{path} must be a program made by `videonorm export`, with {PROGRAM_CARD} inside")
    card = parse_card(json.loads(extra[PROGRAM_CARD]), f"{path}:{PROGRAM_CARD}")
    if device.type != "cpu":
        program = move_to_device_pass(program, device)
    return Artifact(program.module(), card)


def parse_card(fields: Any, source: str) -> Card:
    """Check a card read from a file: every key present, none unknown, each value of its type."""
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(InputSpec, "input")
    parser.add_argument("--num_classes", type=int, required=True)
    parser.add_argument("--class_names", type=list[str] | None, required=True)
    if not isinstance(fields, dict) or not isinstance(fields.get("backbone"), dict):
        raise UserError(f"{source} must be a model card, with a `backbone` entry")
    # The backbone stays a description: jsonargparse would make objects of the class paths in it.
    others = {name: value for name, value in fields.items() if name != "backbone"}
    try:
        card = parser.instantiate(parser.parse_object(others))
    except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
        raise UserError(f"{source} must be a model card ({_one_line(error)})") from error
    return Card(fields["backbone"], card.input, card.num_classes, card.class_names)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__

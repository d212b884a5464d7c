"""What leaves the project: a network's weights, and a card that says how to build it and what to feed it.

An artifact is a folder (`weights.safetensors` and `model.yaml`), or one `.pt2` file: a torch.export program
in standard operators with the same card inside. Both load without Lightning; the program needs no model code.
Neither can run code of its own, unless it is trusted.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonargparse
import safetensors.torch
import torch
import yaml
from torch import Tensor
from torch.export.passes import move_to_device_pass

from videonorm.data.clip_spec import ClipSpec
from videonorm.errors import UserError
from videonorm.evaluation.checkpoint import build_backbone, load_weights
from videonorm.evaluation.program_file import read_program
from videonorm.messages import first_line, one_line

WEIGHTS_FILE = "weights.safetensors"
CARD_FILE = "model.yaml"
PROGRAM_FILE = "model.pt2"
PROGRAM_CARD = "model.json"  # the card's name inside a .pt2

# Brackets in brackets take the loader in Python minutes.
SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclasses.dataclass(frozen=True)
class Card:
    """All that is needed to rebuild a network, feed it, and name its answers.

    `backbone` is {"class_path": ..., "init_args": {...}}, as in a recipe's `model.backbone`.
    """

    backbone: dict[str, Any]
    input: ClipSpec
    num_classes: int
    class_names: list[str] | None


@dataclasses.dataclass(frozen=True)
class Artifact:
    """`network` maps clips (B, 3, T, H, W), normalized as `card.input` says, to logits (B, num_classes)."""

    network: Callable[[Tensor], Tensor]
    card: Card


def load_artifact(path: Path, device: torch.device, trust: bool = False) -> Artifact:
    """Load an artifact folder or a `.pt2` file onto `device`, ready for inference.

    Args:
        trust: let the artifact run any code: a card may name any importable class, and a program is
            unpickled and compiled by torch.export, whoever made it.

    Raises:
        UserError: `path` is neither, a file of it cannot be read or may not without trust, or weights and
            model do not fit.
    """
    if path.is_dir():
        return _load_folder(path, device, trust)
    if path.is_file() and path.suffix == ".pt2":
        return _load_foreign_program(path, device) if trust else _load_program(path, device)
    raise UserError(f"artifact ({path}) must be a folder made by `videonorm export` or a .pt2 file")


def _load_folder(folder: Path, device: torch.device, trust: bool) -> Artifact:
    for name in (CARD_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise UserError(
                f"artifact ({folder}) must hold {CARD_FILE} and {WEIGHTS_FILE}, and {name} is missing"
            )
    source = str(folder / CARD_FILE)
    card = parse_card(_read_yaml(folder / CARD_FILE), source)
    network = build_backbone(card.backbone, source, trust)
    try:
        weights = safetensors.torch.load_file(folder / WEIGHTS_FILE)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(
            f"{folder / WEIGHTS_FILE} must be a safetensors file ({first_line(error)})"
        ) from error
    load_weights(network, weights, str(folder / WEIGHTS_FILE))
    return Artifact(network.eval().to(device), card)


def _read_yaml(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        # A few lines of references to one another would be a tree without end.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, SafeLoader)):
            raise UserError(f"{path} must be written out in full, without references (*) to other parts")
        return yaml.load(text, SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} must be YAML ({one_line(error)})") from error


def _load_program(path: Path, device: torch.device) -> Artifact:
    network, crop, text = read_program(path, device)
    card = _card_of_program(path, text)
    if crop != (card.input.crop_size, card.input.crop_size):
        raise UserError(
            f"{path}:{PROGRAM_CARD} must have the program's crop_size, and has {card.input.crop_size} "
            f"instead of {crop[0]} x {crop[1]}"
        )
    return Artifact(network, card)


def _load_foreign_program(path: Path, device: torch.device) -> Artifact:
    extra = {PROGRAM_CARD: ""}
    try:
        program = torch.export.load(path, extra_files=extra)
    except Exception as error:  # torch.export.load has no error class of its own for a damaged file
        raise UserError(
            f"{path} must be a program that torch.export can load ({first_line(error)})"
        ) from error
    if not extra[PROGRAM_CARD]:
        raise UserError(f"{path} must be a program made by `videonorm export`, with {PROGRAM_CARD} inside")
    if device.type != "cpu":
        program = move_to_device_pass(program, device)
    return Artifact(program.module(), _card_of_program(path, extra[PROGRAM_CARD]))


def _card_of_program(path: Path, text: str) -> Card:
    source = f"{path}:{PROGRAM_CARD}"
    try:
        return parse_card(json.loads(text), source)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{source} must be JSON ({one_line(error)})") from error


def parse_card(fields: Any, source: str) -> Card:
    """Check a card read from a file: every key present, none unknown, each value of its type."""
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(ClipSpec, "input")
    parser.add_argument("--num_classes", type=int, required=True)
    parser.add_argument("--class_names", type=list[str] | None)  # null is a value, which `required` refuses
    if not isinstance(fields, dict) or not isinstance(fields.get("backbone"), dict):
        raise UserError(f"{source} must be a model card, with a `backbone` entry")
    if "class_names" not in fields:
        raise UserError(f"{source} must be a model card, with a `class_names` entry")
    # The backbone stays a description: jsonargparse would make objects of the class paths in it.
    others = {name: value for name, value in fields.items() if name != "backbone"}
    try:
        card = parser.instantiate(parser.parse_object(others))
    except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
        raise UserError(f"{source} must be a model card ({one_line(error)})") from error
    if card.input.crop_size < 1:
        raise UserError(f"{source} must have a crop_size of at least 1, and has {card.input.crop_size}")
    if len(card.class_names or []) > card.num_classes:
        raise UserError(
            f"{source} must have a class for each of its class_names, and has {card.num_classes} for "
            f"{len(card.class_names)}"
        )
    return Card(fields["backbone"], card.input, card.num_classes, card.class_names)

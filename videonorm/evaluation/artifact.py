"""What leaves the project: a network's weights, and a card that says how to build it and what to feed it.

An artifact is a folder (`weights.safetensors` and `model.yaml`), or one file with the same card inside: the
`.safetensors` alone, a `.pt2`, which is a torch.export program in standard operators, an `.onnx`, or the
checkpoint (`.ckpt`) that they were made from. All load without Lightning; the program and the ONNX need no
model code. None can run code of its own, unless it is trusted.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonargparse
import safetensors
import torch
import yaml
from torch import Tensor
from torch.export.passes import move_to_device_pass

from videonorm.data.clip_spec import ClipSpec
from videonorm.errors import UserError
from videonorm.evaluation.checkpoint import Checkpoint, build_backbone, load_checkpoint, load_weights
from videonorm.evaluation.onnx_file import METADATA_CARD, read_onnx
from videonorm.evaluation.program_file import ReadProgram, read_program
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
    """Load an artifact of any kind onto `device`, ready for inference.

    Args:
        trust: let the artifact run any code: a card may name any importable class, and a program is
            unpickled and compiled by torch.export, whoever made it.

    Raises:
        UserError: `path` is none, a file of it cannot be read or may not without trust, weights and model do
            not fit, or a package that it needs is missing.
    """
    if path.is_dir():
        return _load_folder(path, device, trust)
    if path.is_file() and path.suffix == ".safetensors":
        return _load_weights(path, device, trust)
    if path.is_file() and path.suffix == ".pt2":
        if trust:
            return _load_foreign_program(path, device)
        return _of_program(read_program(path, device), f"{path}:{PROGRAM_CARD}")
    if path.is_file() and path.suffix == ".onnx":
        return _of_program(read_onnx(path, device), f"{path}:{METADATA_CARD}")
    if path.is_file() and path.suffix == ".ckpt":
        return _load_checkpoint(path, device, trust)
    raise UserError(
        f"artifact ({path}) must be a folder made by `videonorm export`, a .safetensors, .pt2 or .onnx file "
        "of it, or a .ckpt of `videonorm fit`"
    )


def _load_folder(folder: Path, device: torch.device, trust: bool) -> Artifact:
    for name in (CARD_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise UserError(
                f"artifact ({folder}) must hold {CARD_FILE} and {WEIGHTS_FILE}, and {name} is missing"
            )
    source, path = str(folder / CARD_FILE), folder / WEIGHTS_FILE
    card = parse_card(_read_yaml(folder / CARD_FILE), source)
    return _build(card, source, _read_weights(path)[0], path, device, trust)


def _load_weights(path: Path, device: torch.device, trust: bool) -> Artifact:
    weights, text = _read_weights(path)
    if text is None:
        raise UserError(
            f"{path} must be made by `videonorm export`, with a model card under {METADATA_CARD!r} among its "
            f"metadata, or be in a folder with {CARD_FILE}"
        )
    source = f"{path}:{METADATA_CARD}"
    return _build(_parse_json(text, source), source, weights, path, device, trust)


def _read_weights(path: Path) -> tuple[dict[str, Tensor], str | None]:
    """The tensors of a safetensors file, and the card among its metadata."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
            return weights, (file.metadata() or {}).get(METADATA_CARD)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path} must be a safetensors file ({first_line(error)})") from error


def _build(
    card: Card, source: str, weights: dict[str, Tensor], path: Path, device: torch.device, trust: bool
) -> Artifact:
    network = build_backbone(card.backbone, source, trust)
    load_weights(network, weights, str(path))
    return Artifact(network.eval().to(device), card)


def _load_checkpoint(path: Path, device: torch.device, trust: bool) -> Artifact:
    read = load_checkpoint(path, trust)
    _, logits = read.try_out()
    return Artifact(read.network.to(device), card_of(read, logits.shape[1], f"ckpt ({path})"))


def card_of(checkpoint: Checkpoint, num_classes: int, source: str) -> Card:
    """The card of a checkpoint, checked as one of a file is."""
    clips = dataclasses.asdict(checkpoint.input)
    fields = {"backbone": checkpoint.backbone, "input": clips, "num_classes": num_classes}
    return parse_card({**fields, "class_names": checkpoint.class_names}, source)


def _read_yaml(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        # A few lines of references to one another would be a tree without end.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, SafeLoader)):
            raise UserError(f"{path} must be written out in full, without references (*) to other parts")
        return yaml.load(text, SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} must be YAML ({one_line(error)})") from error


def _of_program(program: ReadProgram, source: str) -> Artifact:
    card = _parse_json(program.card, source)
    if any(size not in (None, card.input.crop_size) for size in program.crop):
        raise UserError(
            f"{source} must have the program's crop_size, and has {card.input.crop_size} "
            f"instead of {program.crop[0]} x {program.crop[1]}"
        )
    return Artifact(program.network, card)


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
    return Artifact(program.module(), _parse_json(extra[PROGRAM_CARD], f"{path}:{PROGRAM_CARD}"))


def _parse_json(text: str, source: str) -> Card:
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

"""`videonorm export`: a training checkpoint leaves the project as an artifact that stands by itself."""

from __future__ import annotations

import collections
import dataclasses
import importlib.util
import json
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from videonorm.errors import UserError
from videonorm.files import new_folder, sha256, write_json
from videonorm.interruption import stops
from videonorm.messages import first_line
from videonorm.options import Parser, add_trust

if TYPE_CHECKING:  # heavy: imported where it is used, so that --help answers at once
    from torch import Tensor, nn

    from videonorm.evaluation.checkpoint import Checkpoint

Format = Literal["safetensors", "pt2", "onnx"]
ONNX_FILE = "model.onnx"
TOLERANCE = 1e-4  # largest difference of a logit between a written file and the checkpoint,
ROUNDING = 1e-5  # and this of the largest logit, by which fp32 itself is off in a network of fifty layers
# B and T that a program is tried at beside one clip as the card has it: odd and even, and little work.
TRIED = ((2, 1), (1, 2), (1, 3))
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def main(argv: list[str]) -> None:
    parser = Parser(
        prog="videonorm export",
        description="Turn a training checkpoint into an artifact: a folder that holds weights.safetensors, "
        "model.yaml (how to build the network, what to feed it) and provenance.json (where it comes from). "
        "Each model file is loaded again, and its logits compared with the checkpoint's, before the folder "
        "appears.",
    )
    parser.add_argument(
        "--ckpt", required=True, type=Path, metavar="FILE", help="checkpoint written by `videonorm fit`"
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="folder to make; must not hold files yet"
    )
    parser.add_argument(
        "--format",
        nargs="+",
        action="extend",
        choices=get_args(Format),
        default=[],
        help="safetensors: the folder as above, which is always written. pt2: also model.pt2, a torch.export "
        "program for any number of clips and frames, which runs without videonorm. onnx: also model.onnx, as "
        "free, which onnxruntime runs (needs the extra [onnx])",
    )
    parser.add_argument(
        "--any_size",
        action="store_true",
        help="let pt2 and onnx take clips of any height and width, too, and not just of the crop size",
    )
    add_trust(parser, "the checkpoint")
    options = parser.parse_args(argv)
    with stops("nothing is written"):
        checkpoint = export_checkpoint(
            options.ckpt, options.out, options.format, options.trust, options.any_size
        )
    if checkpoint.averaged:
        print(f"weights: averaged over {checkpoint.averaged} steps of the run")
    print(f"{options.out}: {', '.join(sorted(file.name for file in options.out.iterdir()))}")


def export_checkpoint(
    ckpt: Path,
    out: Path,
    formats: Collection[Format] = (),
    trust: bool = False,
    any_size: bool = False,
) -> Checkpoint:
    """Write the artifact folder `out` from a checkpoint, whole or not at all, and return what was read.

    Args:
        ckpt: a checkpoint of `videonorm fit`.
        out: does not exist, or is an empty folder.
        formats: files to write besides the weights; see `--format`.
        trust: let the checkpoint name any class, and so run the code of any module.
        any_size: have pt2 and onnx take clips of any height and width.

    Raises:
        UserError: the checkpoint cannot be used, `out` is taken, a package is missing, or the logits of a
            written file differ from the checkpoint's by more than 1e-4 and what fp32 rounds of large ones. A
            program is tried with other numbers of clips, frames and, with `any_size`, pixels than it was
            traced with.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"out ({out}) must be a new or empty folder")
    if "onnx" in formats:
        for package in ONNX_PACKAGES:
            if importlib.util.find_spec(package) is None:
                raise UserError(f"format (onnx) must have {package} installed: pip install 'videonorm[onnx]'")
    with new_folder(out) as folder:  # before the minutes that a trace may take
        return _fill(folder, ckpt, formats, trust, any_size)


def _fill(folder: Path, ckpt: Path, formats: Collection[Format], trust: bool, any_size: bool) -> Checkpoint:
    """Write the files of an artifact, each of them checked."""
    import safetensors.torch
    import torch
    import yaml

    import videonorm.evaluation.program as program
    from videonorm.evaluation.artifact import (
        CARD_FILE,
        PROGRAM_FILE,
        WEIGHTS_FILE,
        card_of,
        load_artifact,
    )
    from videonorm.evaluation.checkpoint import load_checkpoint
    from videonorm.evaluation.onnx_file import METADATA_CARD
    from videonorm.machine import commit, versions

    checkpoint = load_checkpoint(ckpt, trust)
    network = checkpoint.network
    clip, logits = checkpoint.try_out()
    card = card_of(checkpoint, logits.shape[1], f"ckpt ({ckpt})")
    tried = [(clip, logits)]
    differences: dict[str, float] = {}

    def check(name: str, written: Callable[[Tensor], Tensor]) -> None:
        for clips, wanted in tried:
            try:
                with torch.inference_mode():
                    difference = (written(clips) - wanted).abs().max().item()
            except (RuntimeError, AssertionError) as error:  # a limit that tracing has found in the network
                raise UserError(
                    f"{name} must take clips of the shape {tuple(clips.shape)} as ckpt ({ckpt}) does "
                    f"({first_line(error)})"
                ) from error
            allowed = TOLERANCE + ROUNDING * wanted.abs().max().item()
            if not difference <= allowed:  # also where it is NaN
                raise UserError(
                    f"{name} (logits {difference:.1e} off) must agree with ckpt ({ckpt}) to {allowed:.1e}"
                )
            differences[name] = max(difference, differences.get(name, 0.0))

    cpu = torch.device("cpu")
    weights = {name: weight.contiguous().clone() for name, weight in network.state_dict().items()}
    metadata = {"format": "pt", METADATA_CARD: json.dumps(dataclasses.asdict(card))}
    (folder / WEIGHTS_FILE).write_bytes(safetensors.torch.save(weights, metadata=metadata))
    (folder / CARD_FILE).write_text(yaml.safe_dump(dataclasses.asdict(card), sort_keys=False))
    check(WEIGHTS_FILE, load_artifact(folder, cpu, trust).network)
    if {"pt2", "onnx"} & set(formats):
        traced = program.trace(network, card, any_size)
        size = card.input.crop_size
        for num_clips, num_frames in TRIED:
            height, width = (size + 32 * num_clips, size + 16) if any_size else (size, size)
            noise = torch.Generator().manual_seed(num_frames)
            clips = torch.randn(num_clips, 3, num_frames, height, width, generator=noise)
            with torch.inference_mode():
                tried.append((clips, network(clips)))
    if "pt2" in formats:
        program.save_program(traced, card, folder / PROGRAM_FILE)
        for trusted in {True, trust}:  # others load it as torch does
            check(PROGRAM_FILE, load_artifact(folder / PROGRAM_FILE, cpu, trusted).network)
    if "onnx" in formats:
        program.save_onnx(traced, card, folder / ONNX_FILE)
        check(ONNX_FILE, load_artifact(folder / ONNX_FILE, cpu).network)
    provenance = {
        "checkpoint": {
            "name": ckpt.name,
            "sha256": sha256(ckpt),
            "step": checkpoint.step,
            "epoch": checkpoint.epoch,
            "videonorm": checkpoint.version,
            "averaged_steps": checkpoint.averaged,
        },
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": versions(),
        "norms": _layers(network, lambda module: getattr(module, "is_norm", False)),
        "convolutions": _layers(network, lambda module: isinstance(module, torch.nn.Conv3d)),
        "input": dataclasses.asdict(card.input),
        "files": {
            file.name: {"sha256": sha256(file), "largest_logit_difference": differences.get(file.name)}
            for file in sorted(folder.iterdir())
        },
    }
    write_json(folder / "provenance.json", provenance)
    return checkpoint


def _layers(network: nn.Module, wanted: Callable[[nn.Module], bool]) -> dict[str, int]:
    """How often each of some layers occurs, as it prints itself: what was built, say with G = 16 for 32."""
    layers = (module for module in network.modules() if wanted(module))
    return dict(collections.Counter(f"{type(layer).__name__}({layer.extra_repr()})" for layer in layers))

"""Options of the commands that show videos to an artifact: which artifact, which views, on what."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from videonorm.options import positive_integer, seconds, whole_number

ANY_KIND = "folder, .pt2, .onnx or .safetensors file of `videonorm export`, or .ckpt of `videonorm fit`"
WITH_LAYERS = "folder or .safetensors file of `videonorm export`, or .ckpt of `videonorm fit`"


def add_artifact(group: argparse._ActionsContainer, kinds: str = ANY_KIND) -> None:
    """Args:
    kinds: of artifacts that will do.
    """
    group.add_argument("--artifact", required=True, type=Path, metavar="DIR|FILE", help=kinds)
    group.add_argument(
        "--trust",
        action="store_true",
        help="let the artifact run code, if you know who made it: a folder may then name any class that can "
        "be imported, not just networks and layers of videonorm, torch.nn, torchvision and pytorchvideo, and "
        "a .pt2 file may be any that torch.export can load, which unpickles it",
    )


def add_views(group: argparse._ArgumentGroup, num_clips: int, num_crops: int) -> None:
    """Args:
    num_clips, num_crops: by default.
    """
    clips = f"clips of each video, spread over it as the artifact says (default: {num_clips})"
    group.add_argument("--num_clips", type=positive_integer, default=num_clips, metavar="N", help=clips)
    crops = f"crops of each clip, side by side; 1 is the centre (default: {num_crops})"
    group.add_argument("--num_crops", type=positive_integer, default=num_crops, metavar="N", help=crops)
    side = "scale videos to it before the crop (default: as the artifact says)"
    group.add_argument("--short_side", type=positive_integer, metavar="PIXELS", help=side)


def add_device(group: argparse._ArgumentGroup) -> None:
    device = "cpu, cuda, cuda:1, ... (default: cuda if there is one)"
    group.add_argument("--device", default="auto", metavar="D", help=device)
    decoders = ["auto", "pyav", "torchcodec", "torchcodec_cuda", "decord"]
    group.add_argument("--decoder", choices=decoders, default="auto")


def add_loading(group: argparse._ArgumentGroup, batch: str) -> None:
    """Args:
    batch: what ``batch_size`` counts.
    """
    size = f"{batch} at a time (default: 8)"
    group.add_argument("--batch_size", type=positive_integer, default=8, metavar="N", help=size)
    workers = "decoding processes (default: up to 8 on CUDA, none on the CPU)"
    group.add_argument("--num_workers", type=whole_number, metavar="N", help=workers)
    limit: dict[str, Any] = {"type": seconds, "default": 60.0, "metavar": "S"}
    limit["help"] = "what reading one video may take in such a process before it counts as bad (default: 60)"
    group.add_argument("--time_limit_seconds", **limit)

"""`videonorm evaluate`: judge an exported artifact on a manifest of videos. One JSON is the result."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videonorm.errors import UserError

if TYPE_CHECKING:  # heavy: imported where it is used, so that --help answers at once
    import torch
    from torch import Tensor

    from videonorm.data import Decoder, Entry, Split
    from videonorm.evaluation.views import Precision


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="videonorm evaluate",
        description="Score every video of a manifest over num_clips x num_crops views, softmax averaged over "
        "them, as `videonorm test` does. A video that cannot be decoded is never replaced: it is listed with "
        "the reason.",
    )
    what = parser.add_argument_group("what is judged, and on what")
    what.add_argument(
        "--artifact",
        required=True,
        type=Path,
        metavar="DIR|F.pt2",
        help="folder or .pt2 file of `videonorm export`",
    )
    what.add_argument(
        "--data",
        required=True,
        type=Path,
        metavar="MANIFEST",
        help="CSV with the columns path,label[,start_seconds,end_seconds,split], list of `path label`, or "
        "folder with a folder of videos for each class",
    )
    what.add_argument(
        "--root", metavar="DIR|URL", help="where relative paths start (default: at the manifest)"
    )
    what.add_argument(
        "--split", choices=["train", "val", "test"], help="rows to take, if the CSV has a column split"
    )
    views = parser.add_argument_group("views; what is not given is as the artifact says")
    views.add_argument(
        "--num_clips", type=positive_integer, default=10, metavar="N", help="clips a video (default: 10)"
    )
    views.add_argument(
        "--num_crops", type=positive_integer, default=3, metavar="N", help="crops of each clip (default: 3)"
    )
    views.add_argument("--num_frames", type=positive_integer, metavar="T", help="frames of a clip")
    views.add_argument(
        "--frame_stride",
        type=positive_integer,
        metavar="N",
        help="source frames from one of them to the next",
    )
    views.add_argument(
        "--short_side", type=positive_integer, metavar="PIXELS", help="scale videos to it before the crop"
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--batch_size",
        type=positive_integer,
        default=8,
        metavar="N",
        help="videos at a time, one view of each at once (default: 8)",
    )
    how.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)"
    )
    how.add_argument(
        "--precision", choices=["fp32", "bf16"], default="fp32", help="bf16: autocast (default: fp32)"
    )
    decoders = ["auto", "pyav", "torchcodec", "torchcodec_cuda", "decord"]
    how.add_argument("--decoder", choices=decoders, default="auto")
    how.add_argument(
        "--num_workers",
        type=whole_number,
        metavar="N",
        help="decoding processes (default: up to 8 on CUDA, none on the CPU)",
    )
    how.add_argument(
        "--time_limit_seconds",
        type=float,
        default=60.0,
        metavar="S",
        help="what reading one video may take in such a process before it counts as bad (default: 60)",
    )
    how.add_argument(
        "--max_bad_fraction",
        type=float,
        default=0.05,
        metavar="X",
        help="share of the videos that may be undecodable before it is an error (default: 0.05)",
    )
    result = parser.add_argument_group("result")
    result.add_argument("--out", type=Path, metavar="FILE.json", help="default: standard output")
    result.add_argument(
        "--all_scores", action="store_true", help="every class's score of a video, not just the top 5"
    )
    options = vars(parser.parse_args(argv))

    out = options.pop("out")
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise UserError(f"out ({out}) must be a file in an existing folder")
    text = json.dumps(evaluate_artifact(**options), indent=2)
    if out is None:
        print(text)
    else:
        unfinished = out.with_name(f".{out.name}.{os.getpid()}")
        unfinished.write_text(text + "\n")
        unfinished.replace(out)


def positive_integer(text: str) -> int:
    return _at_least(1, int(text))


def whole_number(text: str) -> int:
    return _at_least(0, int(text))


def _at_least(least: int, number: int) -> int:
    if number < least:
        raise argparse.ArgumentTypeError(f"{number} must be at least {least}")
    return number


def evaluate_artifact(
    artifact: Path,
    data: Path,
    *,
    root: str | Path | None = None,
    split: Split | None = None,
    num_clips: int = 10,
    num_crops: int = 3,
    num_frames: int | None = None,
    frame_stride: int | None = None,
    short_side: int | None = None,
    batch_size: int = 8,
    device: str = "auto",
    precision: Precision = "fp32",
    decoder: Decoder = "auto",
    num_workers: int | None = None,
    time_limit_seconds: float = 60.0,
    max_bad_fraction: float = 0.05,
    all_scores: bool = False,
) -> dict[str, Any]:
    """Score an artifact on a manifest; shows a progress bar. The arguments are those of `videonorm evaluate`.

    Returns:
        top1, top5, mean_class_accuracy (fractions, over the videos that have scores), num_videos (that have
        scores), bad_videos, classes, videos, and what was done: views, artifact, data, precision and so on.

    Raises:
        UserError: an artifact, manifest or device that cannot be used, a label that the model does not know,
            more bad videos than allowed, or scores that are not finite.
    """
    import torch
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from videonorm.data import BadVideo, BadVideos, read_manifest
    from videonorm.evaluation.accuracy import accuracy, rank_of_label
    from videonorm.evaluation.artifact import load_artifact
    from videonorm.evaluation.views import score_videos
    from videonorm.machine import commit, machine, versions

    started = time.perf_counter()
    where = _device(device)
    loaded = load_artifact(artifact, where)
    card = loaded.card
    manifest = read_manifest(
        data, root, split=split, class_names=card.class_names, num_classes=card.num_classes
    )
    clips = dataclasses.replace(
        card.input,
        num_frames=num_frames or card.input.num_frames,
        frame_stride=frame_stride or card.input.frame_stride,
        short_side=short_side or card.input.short_side,
    )
    batches = score_videos(
        loaded,
        manifest,
        clips,
        where,
        num_clips=num_clips,
        num_crops=num_crops,
        batch_size=batch_size,
        precision=precision,
        decoder=decoder,
        num_workers=num_workers,
        time_limit_seconds=time_limit_seconds,
    )
    indices: list[int] = []
    scores: list[Tensor] = []
    bad: list[BadVideo] = []
    counted = BadVideos()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("videos", total=len(manifest.entries))
        for batch in batches:
            if not batch.probabilities.isfinite().all():
                raise UserError(f"artifact ({artifact}) must give finite scores; {precision} may not suit it")
            indices += batch.index.tolist()
            scores.append(batch.probabilities)
            bad += batch.bad
            if counted.add("test", batch.bad):
                counted.check("test", len(manifest.entries), max_bad_fraction)
            progress.advance(task, len(batch.index) + len(batch.bad))
    if not indices:
        raise UserError(f"data ({data}) must hold at least one video that can be decoded")
    entries = [manifest.entries[index] for index in indices]
    probabilities = torch.cat(scores)
    labels = [entry.label for entry in entries]
    ranks = rank_of_label(probabilities, labels)
    result = {
        **accuracy(labels, ranks, card.class_names),
        "num_videos": len(entries),
        "bad_videos": [video._asdict() for video in bad],
        "videos": [_video(*row, all_scores) for row in zip(entries, ranks, probabilities, strict=True)],
        "views": {"num_clips": num_clips, "num_crops": num_crops, **dataclasses.asdict(clips)},
        "artifact": str(artifact),
        "data": {"manifest": str(data), "split": split, "videos": len(manifest.entries)},
        "precision": precision,
        "batch_size": batch_size,
        "duration_seconds": time.perf_counter() - started,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": versions(),
        "machine": machine(where),
    }
    console.print(
        f"top-1 {result['top1']:.2%}, top-5 {result['top5']:.2%}, mean class accuracy "
        f"{result['mean_class_accuracy']:.2%}; {len(entries)} videos scored, {len(bad)} bad"
    )
    return result


def _video(entry: Entry, rank: int, probabilities: Tensor, all_scores: bool) -> dict[str, Any]:
    best = probabilities.topk(min(5, len(probabilities)))
    stretch = {"start_seconds": entry.start_seconds, "end_seconds": entry.end_seconds}
    return {
        "path": entry.path,
        **{name: seconds for name, seconds in stretch.items() if seconds is not None},
        "label": entry.label,
        "rank": rank,
        "top5": {
            label: score for label, score in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        },
        **({"scores": probabilities.tolist()} if all_scores else {}),
    }


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")  # as little use as an unknown one
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device ({name}) must be cpu or cuda, or one GPU as in cuda:0")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device ({name}) must be present, and this machine has {torch.cuda.device_count()} CUDA GPUs"
        )
    return device

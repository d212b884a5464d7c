"""`videonorm evaluate`: judge an exported artifact on a manifest of videos. One JSON is the result."""

from __future__ import annotations

import dataclasses
import json
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videonorm.errors import UserError
from videonorm.files import check_writable, write
from videonorm.interruption import stops
from videonorm.options import Parser, fraction, positive_integer, positive_number, seconds, whole_number

if TYPE_CHECKING:  # heavy: imported where it is used, so that --help answers at once
    from videonorm.data import Decoder, Manifest, Split
    from videonorm.evaluation.scores import VideoScores
    from videonorm.evaluation.views import Precision


def main(argv: list[str]) -> None:
    parser = Parser(
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
        metavar="DIR|FILE",
        help="folder, .pt2, .onnx or .safetensors file of `videonorm export`, or .ckpt of `videonorm fit`",
    )
    what.add_argument(
        "--trust",
        action="store_true",
        help="let the artifact run code, if you know who made it: a folder may then name any class that can "
        "be imported, not just networks and layers of videonorm, torch.nn, torchvision and pytorchvideo, and "
        "a .pt2 file may be any that torch.export can load, which unpickles it",
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
    pace = views.add_mutually_exclusive_group()
    pace.add_argument(
        "--frame_stride",
        type=positive_integer,
        metavar="N",
        help="source frames from one of them to the next",
    )
    pace.add_argument(
        "--frames_per_second",
        type=positive_number,
        metavar="X",
        help="or how many of them a second has: those nearest to the clip's times",
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
        type=seconds,
        default=60.0,
        metavar="S",
        help="what reading one video may take in such a process before it counts as bad (default: 60)",
    )
    how.add_argument(
        "--max_bad_fraction",
        type=fraction,
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
    if out is not None:
        try:
            check_writable(out)
        except OSError as error:
            raise UserError(f"out ({out}) must be a file that can be written ({error.strerror})") from error
    with stops("no result is kept, and the same command starts from the first video"):
        text = json.dumps(evaluate_artifact(**options), indent=2) + "\n"
    if out is None:
        print(text, end="")
        return
    try:
        write(out, text)
    except OSError as error:
        print(text, end="")  # what took hours must not be lost
        raise UserError(f"out ({out}) must be a file that can be written ({error.strerror})") from error


def evaluate_artifact(
    artifact: Path,
    data: Path,
    *,
    trust: bool = False,
    root: str | Path | None = None,
    split: Split | None = None,
    num_clips: int = 10,
    num_crops: int = 3,
    num_frames: int | None = None,
    frame_stride: int | None = None,
    frames_per_second: float | None = None,
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
        What `VideoScores.metrics` has, over the num_videos that have scores; bad_videos, classes, videos
        (rank: place of the label among the scores, from 1, the mean of its places where others tie with it),
        and what was done: views, artifact, data, precision and so on.

    Raises:
        UserError: an artifact, manifest or device that cannot be used, a label that the model does not know,
            more bad videos than allowed, or scores that are not finite.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from videonorm.data import read_manifest
    from videonorm.evaluation.artifact import load_artifact
    from videonorm.evaluation.views import score_videos
    from videonorm.machine import choose_device, commit, machine, versions

    started = time.perf_counter()
    where = choose_device(device)
    loaded = load_artifact(artifact, where, trust)
    card = loaded.card
    # A network without names knows its classes by their numbers alone.
    names = card.class_names or [str(label) for label in range(card.num_classes)]
    manifest = read_manifest(data, root, split=split, class_names=names)
    smallest = int(manifest.entries.labels.min())
    if smallest > 0 and data.is_file() and read_manifest(data, root, split=split).class_names is None:
        warnings.warn(f"labels count from 0, and the smallest in {data} is {smallest}", stacklevel=2)
    if frame_stride is None and frames_per_second is None:
        frame_stride, frames_per_second = card.input.frame_stride, card.input.frames_per_second
    clips = dataclasses.replace(
        card.input,
        num_frames=num_frames or card.input.num_frames,
        frame_stride=frame_stride,
        frames_per_second=frames_per_second,
        short_side=short_side or card.input.short_side,
    )
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("videos", total=len(manifest.entries))
        scores, bad = score_videos(
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
            max_bad_fraction=max_bad_fraction,
            progress=lambda videos: progress.advance(task, videos),
        )
    metrics = scores.metrics()
    num_videos = int(metrics.pop("videos"))
    console.print(
        f"top-1 {metrics['top1']:.2%}, top-5 {metrics['top5']:.2%}, mean class accuracy "
        f"{metrics['mean_class_accuracy']:.2%}; {num_videos} videos scored, {len(bad)} bad"
    )
    return {
        **metrics,
        "num_videos": num_videos,
        "bad_videos": [video._asdict() for video in bad],
        "classes": scores.classes(card.class_names),
        "videos": _videos(manifest, scores, all_scores),
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


def _videos(manifest: Manifest, scores: VideoScores, all_scores: bool) -> list[dict[str, Any]]:
    """What is told of each video that has scores."""
    best = scores.probabilities.topk(min(5, scores.probabilities.shape[1]))
    columns = zip(
        manifest.entries,
        scores.scored.tolist(),
        scores.rank.tolist(),
        best.indices.tolist(),
        best.values.tolist(),
        scores.probabilities,
        strict=True,
    )
    rows = []
    for entry, scored, rank, labels, values, probabilities in columns:
        if not scored:
            continue
        stretch = {"start_seconds": entry.start_seconds, "end_seconds": entry.end_seconds}
        rows.append(
            {
                "path": entry.path,
                **{name: seconds for name, seconds in stretch.items() if seconds is not None},
                "label": entry.label,
                "rank": int(rank) if rank.is_integer() else rank,
                "top5": dict(zip(labels, values, strict=True)),
                **({"scores": probabilities.tolist()} if all_scores else {}),
            }
        )
    return rows

"""`videonorm features`: what a network knows of videos before it decides, in a file that NumPy reads."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videonorm.errors import UserError
from videonorm.evaluation.videos import HELP, as_manifest, find_videos
from videonorm.evaluation.view_options import WITH_LAYERS, add_artifact, add_device, add_loading, add_views
from videonorm.files import check_writable
from videonorm.interruption import stops
from videonorm.messages import counted
from videonorm.options import Parser

if TYPE_CHECKING:  # heavy: imported where it is used, so that --help answers at once
    from numpy.typing import NDArray
    from torch import Tensor

    from videonorm.data import Batch, Manifest

DESCRIPTION = """\
Write the penultimate features of videos: what the last linear layer of a network is fed, averaged over the
crops of a clip, and over the clips of a video. The arrays of the .npz, for N videos of V clips:

  path (N), label (N)          where the video is; its number in the manifest's classes, -1 for none
  stretch_seconds (N, 2)       start and end of the stretch that a manifest asks for, nan for no bound
  clip_seconds (N, V, 2)       times of the first and the last frame of each clip
  clip_features (N, V, D)      float32
  video_features (N, D)        float32
  class_names                  of the manifest, by label; empty where it has none
  bad_path, bad_reason         videos that cannot be used: they have no row above
"""
EPILOG = """\
examples:
  videonorm features clips/ --artifact exported/motion --out features.npz
  videonorm features --data train.csv --artifact exported/motion --out train.npz --num_workers 8

What is done is kept in FILE.npz.parts until all is: the same command goes on from there, and ends with the
same file.

exit codes:
  0  every video has features
  1  some videos cannot be used: they are named on standard error and in the file
  2  no video can be used; or a mistake, or a file that cannot be written
  130, 143  stopped by Ctrl-C, SIGTERM; the same command goes on
"""


def main(argv: list[str]) -> None:
    parser = Parser(prog="videonorm features", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("videos", nargs="*", metavar="VIDEO", help=HELP)
    manifest = (
        "in place of VIDEO: CSV, list or folder of classes, as for evaluate; labels may be of any data set"
    )
    parser.add_argument("--data", type=Path, metavar="MANIFEST", help=manifest)
    root = "where the manifest's relative paths start (default: at the manifest)"
    parser.add_argument("--root", metavar="DIR|URL", help=root)
    split = "rows of the manifest, if it has a column split"
    parser.add_argument("--split", choices=["train", "val", "test"], help=split)
    add_artifact(parser, WITH_LAYERS)
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.npz", help="file to write")
    add_views(parser.add_argument_group("views"), num_clips=10, num_crops=1)
    how = parser.add_argument_group("how")
    add_loading(how, "videos")
    add_device(how)
    options = parser.parse_args(argv)
    if bool(options.videos) == bool(options.data):
        raise UserError("VIDEO or --data must be given, one of them (see videonorm features --help)")
    if options.out.suffix != ".npz":
        raise UserError(f"out ({options.out}) must be a .npz file")
    if options.data is None and (options.root or options.split):
        raise UserError("root and split must be left out without data")
    try:
        check_writable(options.out)
    except OSError as error:
        raise UserError(f"out ({options.out}) must be writable ({error.strerror})") from error

    videos = find_videos(options.videos)
    parts = f"{options.out}.parts"
    with stops(f"what is done is kept in {parts}, and the same command goes on from there"):
        if options.data:
            from videonorm.data import read_manifest

            given = read_manifest(options.data, options.root, split=options.split, labels_required=False)
        else:
            given = as_manifest(videos, num_classes=0)
        usable, bad = _write_features(given, options)
    if usable:
        each = counted(options.num_clips, "clip")
        print(f"{options.out}: features of {counted(usable, 'video')}, {each} each")
    for path, reason in bad:
        print(f"videonorm: {path} {reason}", file=sys.stderr)
    if bad:
        raise SystemExit(1 if usable else 2)


def _write_features(manifest: Manifest, options: Any) -> tuple[int, list[tuple[str, str]]]:
    """Write the file; returns how many videos are in it, and which could not be used and why."""
    from contextlib import closing, nullcontext

    import numpy as np
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from videonorm.data import decoding_workers
    from videonorm.evaluation.artifact import load_artifact
    from videonorm.evaluation.feature_file import FeatureFile
    from videonorm.evaluation.kept_parts import digest_of_artifact, digest_of_videos
    from videonorm.evaluation.outputs import view_outputs
    from videonorm.evaluation.penultimate import Penultimate, module_of
    from videonorm.machine import choose_device

    device = choose_device(options.device)
    artifact = load_artifact(options.artifact, device, options.trust)
    network = module_of(artifact.network, options.artifact)
    features = Penultimate(network, artifact.card.num_classes, options.artifact)
    clips = artifact.card.input
    if options.short_side:
        clips = dataclasses.replace(clips, short_side=options.short_side)
    dataset = clips.dataset(manifest, options.num_clips, decoder=options.decoder)
    transform = clips.transform(options.num_crops, channels_last=device.type == "cuda").to(device)
    asked = {
        "artifact": digest_of_artifact(options.artifact),
        "videos": digest_of_videos(manifest),
        "views": {
            "num_clips": options.num_clips,
            "num_crops": options.num_crops,
            **dataclasses.asdict(clips),
        },
        "batch_size": options.batch_size,
        "device": device.type,
        "decoder": options.decoder,
    }
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    limits = options.num_workers, options.decoder, options.time_limit_seconds
    with (
        closing(FeatureFile(options.out, asked, len(dataset), options.batch_size)) as file,
        decoding_workers(*limits, device) or nullcontext() as workers,
        Progress(*columns, console=Console(stderr=True), transient=True) as progress,
    ):
        rows = [row for part in file.todo for row in file.rows(part)]
        task = progress.add_task("videos", total=len(dataset), completed=len(dataset) - len(rows))
        outputs = view_outputs(features, dataset, transform, device, options.batch_size, workers, rows)
        for part in file.todo:
            of_part = file.rows(part)
            batches = islice(outputs, math.ceil(len(of_part) / options.batch_size))
            file.keep(part, _arrays(batches, manifest, options.num_clips))
            progress.advance(task, len(of_part))
        found = file.join()
        names = {"class_names": np.array(manifest.class_names or [], np.str_)}
        if usable := len(found["path"]):
            file.write(found | names)
        file.discard()
    return usable, list(zip(found["bad_path"].tolist(), found["bad_reason"].tolist(), strict=True))


def _arrays(
    batches: Iterable[tuple[Batch, Tensor]], manifest: Manifest, num_clips: int
) -> dict[str, NDArray[Any]]:
    """What is kept of the videos of some batches."""
    import numpy as np

    from videonorm.data.decoding.location import without_credentials

    rows: list[int] = []
    seconds: list[Any] = []
    features: list[NDArray[Any]] = []
    bad: list[tuple[str, str]] = []
    for batch, outputs in batches:
        bad += batch.bad
        if len(batch):
            rows += batch.index.tolist()
            seconds += batch.clip_seconds
            features.append(outputs.mean(dim=2).numpy())
    entries = [manifest.entries[row] for row in rows]
    of_clips = np.concatenate(features) if features else np.empty((0, num_clips, 0), np.float32)
    stretches = [(entry.start_seconds, entry.end_seconds) for entry in entries]
    return {
        "path": np.array([without_credentials(entry.path) for entry in entries], np.str_),
        "label": np.array([entry.label for entry in entries], np.int64),
        "stretch_seconds": np.array(stretches, np.float64).reshape(-1, 2),  # None is nan
        "clip_seconds": np.array(seconds, np.float64).reshape(-1, num_clips, 2),
        "clip_features": of_clips,
        "video_features": of_clips.mean(axis=1),
        "bad_path": np.array([path for path, _ in bad], np.str_),
        "bad_reason": np.array([reason for _, reason in bad], np.str_),
    }

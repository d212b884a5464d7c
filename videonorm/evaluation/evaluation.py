"""One artifact on the videos of one manifest: read up front, scored in parts, told as one record."""

import dataclasses
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from videonorm.data import BadVideo, BadVideos, Decoder, Manifest, Split, read_manifest
from videonorm.data.clip_spec import ClipSpec
from videonorm.data.decoding.location import without_credentials
from videonorm.errors import UserError
from videonorm.evaluation import artifact as artifacts
from videonorm.evaluation import views
from videonorm.evaluation.answers import class_names
from videonorm.evaluation.certainty import calibration_error, top1_estimate
from videonorm.evaluation.execution import Deviation, Execution, Precision, Way
from videonorm.evaluation.kept_parts import digest_of_artifact, digest_of_videos
from videonorm.evaluation.parts import Parts
from videonorm.evaluation.processes import Processes
from videonorm.evaluation.scores import VideoScores
from videonorm.look import CI
from videonorm.machine import choose_device, commit, machine, versions


@dataclasses.dataclass(frozen=True)
class Options:
    """How videos are scored: the options of `videonorm evaluate`, None where the artifact says."""

    trust: bool = False
    root: str | Path | None = None
    split: Split | None = None
    num_clips: int = 10
    num_crops: int = 3
    num_frames: int | None = None
    frame_stride: int | None = None
    frames_per_second: float | None = None
    short_side: int | None = None
    batch_size: int = 8
    device: str = "auto"
    precision: Precision = "fp32"
    channels_last: bool | None = None
    compile: bool = False
    decoder: Decoder = "auto"
    num_workers: int | None = None
    time_limit_seconds: float = 60.0
    max_bad_fraction: float = 0.05

    @property
    def ways(self) -> list[Way]:
        """What is asked for but the plain network."""
        asked: dict[Way, bool] = {
            "channels_last": bool(self.channels_last),
            "bf16": self.precision == "bf16",
            "compile": self.compile,
        }
        return [way for way, is_asked in asked.items() if is_asked]


class Evaluation:
    """An artifact and the videos that it is to be judged on.

    Args:
        artifact, data: paths of the artifact and the manifest.
        processes: that share the work.

    Attributes:
        scores: of every video, once ``score`` was called in all processes; in the first one alone.
        bad: the videos that have none.

    Raises:
        UserError: an artifact, manifest or device that cannot be used, or a label that the model does not
            know.
    """

    scores: VideoScores
    bad: list[BadVideo]

    def __init__(self, artifact: Path, data: Path, options: Options, processes: Processes) -> None:
        self.artifact, self.options, self.processes = artifact, options, processes
        self.device = choose_device(options.device)
        if processes.count > 1 and self.device.type == "cuda" and self.device.index is None:
            self.device = choose_device(f"cuda:{processes.local_rank}")
        loaded = artifacts.load_artifact(artifact, self.device, options.trust)
        self.network = Execution(loaded.network, self.device, options.ways, str(artifact))
        self.card = loaded.card
        self.manifest = _manifest(data, options, self.card)
        self.clips = _clips(options, self.card)
        self._parts: Parts | None = None

    @property
    def names(self) -> list[str]:
        """Of the classes."""
        return class_names(self.card)

    @property
    def views(self) -> dict[str, Any]:
        options = self.options
        return {
            "num_clips": options.num_clips,
            "num_crops": options.num_crops,
            **dataclasses.asdict(self.clips),
        }

    def score(self, folder: Path | None, progress: str) -> None:
        """Score all videos; shows a progress bar under the name ``progress``, in the first process.

        Args:
            folder: what is done is kept there, until ``discard``: the next session goes on from it, and
                processes share it.

        Raises:
            UserError: more bad videos than allowed, scores that are not finite, or a folder with the parts of
                another evaluation.
        """
        options, rank = self.options, self.processes.rank
        table = VideoScores(len(self.manifest.entries), self.card.num_classes)
        asked = self._asked() if folder else {}
        self._parts = parts = Parts(table, options.batch_size, folder, asked, rank, self.processes.count)
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=Console(stderr=True), disable=rank > 0) as bar:
            total, left = parts.num_videos(parts.own), parts.num_videos(parts.todo)
            several = f" of the first of {self.processes.count} processes" if self.processes.count > 1 else ""
            task = bar.add_task(f"{progress}{several}", total=total, completed=total - left)
            views.score_videos(
                self.network,
                self.manifest,
                self.clips,
                self.device,
                parts,
                num_clips=options.num_clips,
                num_crops=options.num_crops,
                channels_last=self._channels_last,
                decoder=options.decoder,
                num_workers=options.num_workers,
                time_limit_seconds=options.time_limit_seconds,
                max_bad_fraction=options.max_bad_fraction,
                progress=lambda videos: bar.advance(task, videos),
            )
        self.processes.wait_for_each_other()
        if rank:
            return
        self.bad, self.scores = parts.gather(), table
        counted = BadVideos()
        counted.add("test", self.bad)
        counted.check("test", len(self.manifest.entries), options.max_bad_fraction)
        if not table.scored.any():
            raise UserError(f"data ({self.manifest.path}) must hold at least one video that can be decoded")

    def discard(self) -> None:
        """What ``score`` has kept is no longer needed."""
        if self._parts:
            self._parts.discard()

    def close(self) -> None:
        """Let another process take the folder."""
        if self._parts:
            self._parts.close()

    @property
    def deviations(self) -> list[Deviation]:
        """Of the ways in which the network was run, from the plain one."""
        return [Deviation(**of) for of in (self._parts and self._parts.notes) or []]

    def summary(self) -> str:
        """A line of its accuracies."""
        metrics, estimate = self.scores.metrics(), top1_estimate(self.scores)
        return (
            f"top-1 {metrics['top1']:.2%} ({CI} {estimate.interval}), top-5 {metrics['top5']:.2%}, "
            f"mean class accuracy {metrics['mean_class_accuracy']:.2%}, "
            f"calibration error {calibration_error(self.scores):.2%}; "
            f"{metrics['videos']:.0f} videos scored, {len(self.bad)} bad"
        )

    def record(self, all_scores: bool = False) -> dict[str, Any]:
        """What `videonorm evaluate` writes; ``all_scores``: of every class, not just the best five."""
        metrics, estimate = self.scores.metrics(), top1_estimate(self.scores)
        num_videos = int(metrics.pop("videos"))
        return {
            **metrics,
            "top1_interval": [estimate.low, estimate.high],
            "calibration_error": calibration_error(self.scores),
            "num_videos": num_videos,
            "bad_videos": [
                {"path": without_credentials(video.path), "reason": video.reason} for video in self.bad
            ],
            "classes": self.scores.classes(self.names if self.card.class_names else None),
            "videos": video_records(self.manifest, self.scores, all_scores),
            "views": self.views,
            "artifact": str(self.artifact),
            "data": {
                "manifest": str(self.manifest.path),
                "split": self.options.split,
                "videos": len(self.manifest.entries),
            },
            "precision": self.options.precision,
            "channels_last": self._channels_last,
            "compile": self.options.compile,
            "deviations": [of.record() for of in self.deviations],
            "batch_size": self.options.batch_size,
            "processes": self.processes.count,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": commit(),
            "versions": versions(),
            "machine": machine(self.device),
        }

    @property
    def _channels_last(self) -> bool:
        asked = self.options.channels_last
        return self.device.type == "cuda" if asked is None else asked

    def _asked(self) -> dict[str, Any]:
        """All that the scores depend on."""
        return {
            "artifact": digest_of_artifact(self.artifact),
            "data": digest_of_videos(self.manifest),
            **self.views,
            "batch_size": self.options.batch_size,
            "device": self.device.type,
            "decoder": self.options.decoder,
            "precision": self.options.precision,
            "channels_last": self._channels_last,
            "compile": self.options.compile,
        }


def _manifest(data: Path, options: Options, card: artifacts.Card) -> Manifest:
    manifest = read_manifest(data, options.root, split=options.split, class_names=class_names(card))
    smallest = int(manifest.entries.labels.min())
    if smallest > 0 and data.is_file():
        bare = read_manifest(data, options.root, split=options.split).class_names is None
        if bare:
            warnings.warn(f"labels count from 0, and the smallest in {data} is {smallest}", stacklevel=2)
    return manifest


def _clips(options: Options, card: artifacts.Card) -> ClipSpec:
    pace = options.frame_stride, options.frames_per_second
    if pace == (None, None):
        pace = card.input.frame_stride, card.input.frames_per_second
    return dataclasses.replace(
        card.input,
        num_frames=options.num_frames or card.input.num_frames,
        frame_stride=pace[0],
        frames_per_second=pace[1],
        short_side=options.short_side or card.input.short_side,
    )


def video_records(manifest: Manifest, scores: VideoScores, all_scores: bool) -> list[dict[str, Any]]:
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
                "path": without_credentials(entry.path),
                **{name: seconds for name, seconds in stretch.items() if seconds is not None},
                "label": entry.label,
                "rank": int(rank) if rank.is_integer() else rank,
                "top5": dict(zip(labels, values, strict=True)),
                **({"scores": probabilities.tolist()} if all_scores else {}),
            }
        )
    return rows

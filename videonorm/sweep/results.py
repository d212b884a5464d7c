"""The one table of a sweep: a row for each cell that has ended, and its summary over seeds."""

import csv
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any

from videonorm.errors import UserError
from videonorm.sweep.intervals import Estimate, difference, mean_top1

COLUMNS = {
    "run": "folder of the run: norm, T x stride, clips per step, seed",
    "norm": "arm of the sweep: the name its overlays have in the sweep file",
    "conv": "class of the convolutions",
    "num_frames": "T: frames of a clip",
    "frame_stride": "source frames from one frame of a clip to the next",
    "batch_size": "B: clips per device and step; BatchNorm averages over these",
    "accumulate": "steps of B clips whose gradients are summed before the weights move",
    "frames_per_step": "T x B x devices x accumulate: frames the model sees for one update of its weights",
    "seed": "seed of weights, order, crops and flips",
    "lr": "learning rate, as the optimizer got it",
    "steps": "updates of the weights",
    "clips_seen": "training clips over all steps",
    "frames_seen": "training clips x T",
    "val_top1": "share of validation videos whose highest score, averaged over views, is of the right class",
    "val_top5": "share of validation videos with the right class among the five highest scores",
    "val_loss": "mean cross-entropy on the validation videos, in nats",
    "train_seconds": "time in training steps with their data, without validation",
    "clips_per_second": "training clips / train_seconds",
    "peak_memory_mib": "CUDA: most memory allocated by tensors; CPU: largest resident set of the process",
    "status": "done or failed",
    "val_videos": "validation videos that were scored",
    "best_possible_top1": "top-1 no model can exceed with clips of T frames, where the data set knows it",
    "num_classes": "classes; chance is 1 / num_classes",
    "error": "why a failed run failed",
}


@dataclass(frozen=True)
class Result:
    """One run that has ended. The fields are the columns of results.csv; None is an empty field."""

    run: str
    norm: str
    conv: str | None
    num_frames: int
    frame_stride: int
    batch_size: int
    accumulate: int
    frames_per_step: int
    seed: int
    lr: float | None
    steps: int | None
    clips_seen: int | None
    frames_seen: int | None
    val_top1: float | None
    val_top5: float | None
    val_loss: float | None
    train_seconds: float | None
    clips_per_second: float | None
    peak_memory_mib: float | None
    status: str
    val_videos: int | None
    best_possible_top1: float | None
    num_classes: int | None
    error: str | None

    @property
    def done(self) -> bool:
        return self.status == "done"


def write_results(path: Path, results: Iterable[Result]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(result) for result in results)
    write_file(path, text.getvalue())


def read_results(path: Path) -> list[Result]:
    """Rows of a results.csv.

    Raises:
        UserError: the file is missing, or is not a sweep's.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise UserError(f"results ({path}) must be a readable file: {error.strerror}") from error
    try:
        return [_from_text(row) for row in rows]
    except (KeyError, ValueError) as error:
        raise UserError(f"results ({path}) must have the columns of a sweep: {error}") from error


def _from_text(row: dict[str, str]) -> Result:
    parsers: dict[Any, Any] = {
        str: str,
        int: int,
        str | None: lambda text: text or None,
        int | None: lambda text: int(text) if text else None,
        float | None: lambda text: float(text) if text else None,
    }
    return Result(**{field.name: parsers[field.type](row[field.name]) for field in fields(Result)})


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all; text in UTF-8."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(temporary, path)


@dataclass(frozen=True)
class Summary:
    """The seeds of one norm at one T x stride and B."""

    norm: str
    num_frames: int
    frame_stride: int
    batch_size: int
    results: tuple[Result, ...]  # every seed that has ended, failed ones too

    @property
    def done(self) -> list[Result]:
        return [result for result in self.results if result.done]

    @property
    def top1_of_seed(self) -> dict[int, float]:
        return {result.seed: result.val_top1 for result in self.done if result.val_top1 is not None}

    @property
    def num_videos(self) -> int:
        return min(result.val_videos or 0 for result in self.done)

    @property
    def top1(self) -> Estimate:
        """Mean over seeds with its 95 % interval; at least one seed must be done."""
        return mean_top1(list(self.top1_of_seed.values()), self.num_videos)

    @property
    def best_possible_top1(self) -> float | None:
        return self.done[0].best_possible_top1

    @property
    def clips_per_second(self) -> float:
        return fmean(result.clips_per_second or 0.0 for result in self.done)

    @property
    def peak_memory_mib(self) -> float:
        return max(result.peak_memory_mib or 0.0 for result in self.done)

    def ahead_of(self, other: "Summary", confidence: float = 0.95) -> Estimate | None:
        """Top-1 of this cell - top-1 of the other, over the seeds both have; None where they share none."""
        seeds = [seed for seed in self.top1_of_seed if seed in other.top1_of_seed]
        if not seeds:
            return None
        ours = [self.top1_of_seed[seed] for seed in seeds]
        theirs = [other.top1_of_seed[seed] for seed in seeds]
        return difference(ours, theirs, min(self.num_videos, other.num_videos), confidence)


def summarize(results: Sequence[Result]) -> list[Summary]:
    """Group the seeds of each cell; norms stay in order of appearance, T and B ascend."""
    groups: dict[tuple[str, int, int, int], list[Result]] = {}
    for result in results:
        key = (result.norm, result.num_frames, result.frame_stride, result.batch_size)
        groups.setdefault(key, []).append(result)
    norms = list(dict.fromkeys(result.norm for result in results))
    ordered = sorted(groups, key=lambda key: (norms.index(key[0]), *key[1:]))
    return [Summary(*key, results=tuple(groups[key])) for key in ordered]


def is_tied(summaries: Sequence[Summary]) -> bool:
    """Whether T and B move together: each length has one batch size and each batch size one length."""
    pairs = {(summary.num_frames, summary.frame_stride, summary.batch_size) for summary in summaries}
    lengths = {pair[:2] for pair in pairs}
    return len(pairs) == len(lengths) == len({pair[2] for pair in pairs})

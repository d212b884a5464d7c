"""The one table of a sweep, results.csv: a row for each run that has ended."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from videonorm.files import from_cell
from videonorm.sweep.csv_table import from_text, read_table, write_table
from videonorm.sweep.shape import Shape

DIVERGED = "the run has diverged"  # of an error, by `fit` or by `flaw`


def column(description: str, style: str = "") -> Any:
    """A field with what its column holds, and how `format` shows a number of it."""
    return field(metadata={"description": description, "style": style})


@dataclass(frozen=True)
class Result:
    """One run that has ended. The fields are the columns of results.csv; None is an empty field."""

    run: str = column("folder of the run: arm, T x stride, clips per step, seed")
    norm: str = column("arm of the sweep: the name its overlays have in the sweep file")
    conv: str | None = column("class of the convolutions")
    num_frames: int = column("T: frames of a clip")
    frame_stride: int = column("source frames from one frame of a clip to the next")
    batch_size: int = column("B: clips per device and step; BatchNorm averages over these")
    accumulate: int = column("steps of B clips whose gradients are summed before the weights move")
    frames_per_step: int = column(
        "T x B x devices x accumulate: frames the model sees for one update of its weights"
    )
    seed: int = column("seed of weights, order, crops and flips")
    global_batch: int | None = column("clips of one update of the weights: B x accumulate x devices")
    statistics_batch: int | None = column("clips that share batch-norm statistics; none where no clip does")
    lr: float | None = column("learning rate, as the optimizer got it", ".4g")
    schedule: str | None = column("of the learning rate over the training")
    warmup_steps: int | None = column("updates in which the schedule still rises")
    steps: int | None = column("updates of the weights")
    epochs: float | None = column("passes over the training videos", ".4g")
    clips_seen: int | None = column("training clips over all steps")
    frames_seen: int | None = column("frames of all training clips")
    val_top1: float | None = column(
        "share of validation videos whose highest score, averaged over views, is of the right class", ".4f"
    )
    val_top5: float | None = column(
        "share of validation videos with the right class among the five highest scores", ".4f"
    )
    val_loss: float | None = column("mean cross-entropy on the validation videos, in nats", ".3f")
    train_seconds: float | None = column("time in training steps with their data, without validation", ".1f")
    clips_per_second: float | None = column("training clips / train_seconds", ".1f")
    peak_memory_mib: float | None = column(
        "CUDA: most memory allocated by tensors; CPU: largest resident set of the process", ",.0f"
    )
    status: str = column("done, or failed: then the run is in no comparison")
    val_videos: int | None = column("validation videos that were scored")
    best_possible_top1: float | None = column(
        "top-1 no model can exceed with clips of T frames, where the data set knows it", ".4f"
    )
    num_classes: int | None = column("classes; chance is 1 / num_classes")
    error: str | None = column("why a failed run failed")
    axes: Mapping[str, str] = field(
        default_factory=dict
    )  # of each further axis, a column by its option's name

    @property
    def done(self) -> bool:
        return self.status == "done"

    @property
    def diverged(self) -> bool:
        """It has failed by what was trained, not by the machine."""
        return not self.done and DIVERGED in (self.error or "")

    @property
    def shape(self) -> Shape:
        return Shape(self.num_frames, self.frame_stride, self.batch_size)


COLUMNS = {of.name: of for of in fields(Result) if of.name != "axes"}
SCORES = ("val_top1", "val_top5", "val_loss")  # of a run that has failed they are none


def flaw(recorded: Mapping[str, Any]) -> str | None:
    """Why the scores of a run are no result: it has diverged, or was not validated. None: they are one."""
    for name in ("val_top1", "val_loss", "val_videos"):
        value = recorded.get(name)
        if not isinstance(value, int | float) or not math.isfinite(value):
            reason = DIVERGED if name == "val_loss" else "the run has no validation"
            return f"{name} ({'null' if value is None else value}) must be a finite number: {reason}"
    if not 0 <= recorded["val_top1"] <= 1 or recorded["val_videos"] < 1:
        scores = f"val_top1 ({recorded['val_top1']}) of val_videos ({recorded['val_videos']})"
        return f"{scores} must be a share of at least one video"
    return None


def write_results(path: Path, results: Iterable[Result]) -> None:
    results = list(results)
    axes = list(dict.fromkeys(axis for result in results for axis in result.axes))
    rows = ({**{name: getattr(of, name) for name in COLUMNS}, **of.axes} for of in results)
    write_table(path, [*COLUMNS, *axes], rows)


def read_results(path: Path) -> list[Result]:
    """Rows of a results.csv. What is no result (see ``flaw``) is failed.

    Raises:
        UserError: the file is missing, or is not a sweep's.
    """
    return read_table(path, "results", "sweep", _result)


def _result(row: dict[str, str]) -> Result:
    optional = {name for name, of in COLUMNS.items() if of.type in (int | None, float | None, str | None)}
    texts = {
        **dict.fromkeys(optional & (COLUMNS.keys() - row.keys()), ""),
        **row,
    }  # an earlier version's table
    values = {name: _value(of.type, texts[name]) for name, of in COLUMNS.items()}
    values["axes"] = {name: from_cell(text) for name, text in row.items() if "." in name and text}
    if values["status"] == "done" and (reason := flaw(values)):
        values |= {"status": "failed", "error": reason, **dict.fromkeys(SCORES)}
    return Result(**values)


def _value(kind: Any, text: str) -> Any:
    """Infinities and nan are what a run that has diverged has: no number."""
    found = from_text(kind, text)
    return None if isinstance(found, float) and not math.isfinite(found) else found

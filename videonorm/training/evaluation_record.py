"""What an evaluation writes down: its scores, and a row for every video."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from videonorm.data import Split
from videonorm.files import open_new, to_cell, write_json
from videonorm.training.callbacks import parts, say
from videonorm.training.classifier import VideoClassifier


class EvaluationRecord(Callback):
    """Writes what `validate`, `test` and `predict` find, and the last validation of `fit`.

    validate.json, test.json: what ``VideoScores.metrics`` has, bad videos, views, checkpoint.
    val.csv (of `fit`), validate.csv, test.csv: a row a video with path, label, predicted class, rank of the
    label among the scores (see ``VideoScores.rank``) and loss. predictions.csv: path, label (empty where
    there is none), predicted class (of equal scores the lower) and the score of every class, with all its
    digits. A bad video has a row without results.
    """

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._write(trainer, "validate", "val")
        elif not trainer.sanity_checking and trainer.is_global_zero:
            self._write_ranks(Path(trainer.default_root_dir) / "val.csv", parts(trainer)[0])

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, "test", "test")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        classifier, data = parts(trainer)
        named = (data and data.source.class_names) or []
        names = [*named, *map(str, range(len(named), classifier.num_classes))]
        path = Path(trainer.default_root_dir) / "predictions.csv"
        scores = [[f"{score:.9g}" for score in row] for row in classifier.scores.probabilities.tolist()]
        _write_videos(path, classifier, names, scores)
        say(trainer, f"wrote {path}")

    def _write(self, trainer: Trainer, stage: str, split: Split) -> None:
        if not trainer.is_global_zero:
            return
        classifier, data = parts(trainer)
        path = Path(trainer.default_root_dir) / f"{stage}.json"
        metrics = classifier.scores.metrics()
        content = {
            **metrics,
            "videos": int(metrics["videos"]),
            "bad_videos": data and len(data.bad_videos),
            "num_clips": data and data.views(split).num_clips,
            "num_crops": data and data.views(split).num_crops,
            "checkpoint": str(trainer.ckpt_path) if trainer.ckpt_path else None,
        }
        try:
            write_json(path, content)
            self._write_ranks(path.with_suffix(".csv"), classifier)
        except OSError:  # what took so long to find is not to be lost with it
            say(trainer, json.dumps(content))
            raise
        say(trainer, f"wrote {path} and {path.with_suffix('.csv').name}")

    def _write_ranks(self, path: Path, classifier: VideoClassifier) -> None:
        ranks, losses = classifier.scores.rank.tolist(), classifier.scores.loss.tolist()
        results = [[f"{rank:g}", str(loss)] for rank, loss in zip(ranks, losses, strict=True)]
        _write_videos(path, classifier, ["rank", "loss"], results)


def _write_videos(
    path: Path, classifier: VideoClassifier, columns: Sequence[str], results: Sequence[Sequence[str]]
) -> None:
    """A CSV file with a row a video: path, label, predicted class and ``results``, empty for a bad video."""
    videos, scored = classifier.epoch_scores.videos, classifier.scores.scored.tolist()
    predicted = classifier.scores.probabilities.argmax(dim=1).tolist()
    with open_new(path) as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "predicted", *map(to_cell, columns)])
        for video, good, best, row in zip(videos, scored, predicted, results, strict=True):
            label = "" if video.label is None else video.label
            writer.writerow([to_cell(video.path), label, *([best, *row] if good else [""] * (len(row) + 1))])

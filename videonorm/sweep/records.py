"""The files of one run folder that a sweep writes or reads.

``cell.json`` is the sweep's: what was asked of the run, and how it ended. ``run.json`` is written by
``videonorm fit`` while it trains. ``log.txt`` is what it printed.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from videonorm.errors import UserError
from videonorm.sweep.plan import Cell
from videonorm.sweep.results import Result, write_file


@dataclass(frozen=True)
class RunFolder:
    """The folder of one cell's run."""

    path: Path
    cell: Cell

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def last_checkpoint(self) -> Path:
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def run_json(self) -> dict[str, Any]:
        """What ``fit`` has recorded so far; empty before it has."""
        return read_json(self.path / "run.json")

    @property
    def is_done(self) -> bool:
        run = self.run_json
        return run.get("status") == "done" and run.get("val_top1") is not None and bool(run.get("val_videos"))

    def check_unchanged(self) -> None:
        """Raise UserError if the folder holds a result or a checkpoint of another configuration."""
        asked = read_json(self.path / "cell.json").get("asked")
        if asked != self._asked() and (self.is_done or self.last_checkpoint.exists()):
            raise UserError(
                f"{self.path} holds a run with other settings than {self.cell.run} has now; "
                "give another --output, or delete that folder"
            )

    def open(self) -> None:
        """Make the folder and record what is asked of the run."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._write({"asked": self._asked(), "status": None, "error": None})

    def close(self, error: str | None) -> None:
        """Record how the run ended: ``error`` is None for done."""
        status = "failed" if error else "done"
        self._write({"asked": self._asked(), "status": status, "error": error})

    def result(self) -> Result | None:
        """The run's row of results.csv; None for a run that has not ended."""
        closed = read_json(self.path / "cell.json")
        if not self.is_done and closed.get("status") != "failed":
            return None
        cell, run = self.cell, self.run_json
        frames_per_step = cell.num_frames * cell.batch_size * cell.accumulate
        return Result(
            run=cell.run,
            norm=cell.norm,
            conv=run.get("conv"),
            num_frames=cell.num_frames,
            frame_stride=cell.frame_stride,
            batch_size=cell.batch_size,
            accumulate=cell.accumulate,
            frames_per_step=run.get("frames_per_step", frames_per_step),
            seed=cell.seed,
            lr=run.get("lr"),
            steps=run.get("steps"),
            clips_seen=run.get("clips_seen"),
            frames_seen=run.get("frames_seen"),
            val_top1=run.get("val_top1"),
            val_top5=run.get("val_top5"),
            val_loss=run.get("val_loss"),
            train_seconds=run.get("train_seconds"),
            clips_per_second=run.get("clips_per_second"),
            peak_memory_mib=run.get("peak_memory_mib"),
            status="done" if self.is_done else "failed",
            val_videos=int(run.get("val_videos") or 0) or None,
            best_possible_top1=run.get("best_possible_top1"),
            num_classes=run.get("num_classes"),
            error=None if self.is_done else closed.get("error"),
        )

    def _asked(self) -> dict[str, Any]:
        """Every setting of the run by content: neither a moved folder nor a new comment is a change."""
        cell = asdict(self.cell)
        configs = [yaml.safe_load(path.read_text()) for path in self.cell.configs]
        asked = {**cell, "configs": configs, "options": dict(self.cell.options)}
        return json.loads(json.dumps(asked, default=str))  # type: ignore[no-any-return]

    def _write(self, record: dict[str, Any]) -> None:
        write_file(self.path / "cell.json", json.dumps(record, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Contents of a JSON object; empty where there is none, or where a power cut left half of one."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return record if isinstance(record, dict) else {}

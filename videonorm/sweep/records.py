"""The files of one run folder that a sweep writes or reads.

``asked.json`` is the sweep's: what was asked of the run, and how it ended. ``run.json`` is written by
``videonorm fit`` while it trains. ``log.txt`` is what it printed.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml

from videonorm import files
from videonorm.errors import UserError
from videonorm.sweep.axes import as_text
from videonorm.sweep.locks import RUN
from videonorm.sweep.plan import Run
from videonorm.sweep.results import COLUMNS, SCORES, Result, flaw

LAST_CHECKPOINT = Path("checkpoints") / "last.ckpt"


class RunFolder:
    """One run: its folder, and where it is.

    Args:
        path: the folder; it need not exist.
        run: what is asked of it.
    """

    def __init__(self, path: Path, run: Run) -> None:
        self.path = path
        self.run = run
        self.log = path / "log.txt"
        self.last_checkpoint = path / LAST_CHECKPOINT
        self.lock = path / RUN
        self.error: str | None = None
        self._started_with = read_json(path / "asked.json").get("asked")
        self.read()
        self.status: Literal["waiting", "running", "done", "failed"] = "done" if self.is_done else "waiting"

    def read(self) -> None:
        """Take over what ``fit`` has written into run.json so far; nothing before it has."""
        self.recorded = read_json(self.path / "run.json")

    @property
    def is_done(self) -> bool:
        return _is_done(self.recorded)

    @property
    def seconds_silent(self) -> float:
        return seconds_silent(self.path)

    def hangs_at_its_end(self, seconds: float) -> bool:
        """Whether ``fit`` has recorded its end, be it an error, and has been silent since for so long."""
        ended = self.recorded.get("status") in ("done", "failed", "stopped")
        return ended and self.seconds_silent > seconds

    @property
    def has_ended(self) -> bool:
        return self.status in ("done", "failed")

    @property
    def top1(self) -> float | None:
        """Of the last validation."""
        return self.recorded.get("val_top1")

    @property
    def fraction(self) -> float:
        return fraction(self.recorded, self.run.steps)

    def check_unchanged(self) -> None:
        """Raise UserError if the folder holds a result or a checkpoint of another configuration."""
        if self._started_with != self._asked() and holds_work(self.path):
            raise UserError(
                f"{self.path} holds a run with other settings than {self.run.name} has now; "
                "give another --output, or delete that folder"
            )

    def start(self) -> None:
        """Make the folder and record what is asked of the run."""
        self.status, self.error = "running", None
        self._started_with = self._asked()  # what `fit` reads now, whatever the files say at its end
        self._write()

    def end(self, error: str | None) -> None:
        """Record how the run ended: ``error`` is None for done."""
        self.status, self.error = "failed" if error else "done", error
        self._write()

    def _write(self) -> None:
        record = {"asked": self._started_with, "status": self.status, "error": self.error}
        files.write_json(self.path / "asked.json", record)

    def _asked(self) -> dict[str, Any]:
        """Every setting of its training by content.

        Neither a moved folder nor a new comment is a change, nor a length more that models are tested at.
        """
        start = self.run.starts_from
        configs = [_content(path, path.stat().st_mtime_ns) for path in self.run.configs]
        run = replace(self.run, views=(), weights=Path(start) if start else None)
        options = {**run.overrides, **run.values, **run.options(Path())}
        asked = json.dumps({"configs": configs, "options": options}, default=str)
        return json.loads(asked, parse_constant=str)  # type: ignore[no-any-return]


@lru_cache
def _content(config: Path, changed: int) -> Any:
    return yaml.safe_load(config.read_text(encoding="utf-8"))


def planned(run: Run) -> dict[str, Any]:
    """What the sweep decides of a run before it is trained: columns of results.csv, and where it starts."""
    return {
        "run": run.name,
        "norm": run.arm,
        **run.shape._asdict(),
        "accumulate": run.accumulate,
        "frames_per_step": run.frames_per_step,
        "seed": run.seed,
        **({"starts_from": run.starts_from} if run.starts_from else {}),
        "axes": {name: as_text(value) for name, value in run.values.items()},
    }


def read_result(folder: Path, planned: Mapping[str, Any]) -> Result | None:
    """The row of a run, from its folder and what was ``planned``; None for one that has not ended."""
    recorded, closed = read_json(folder / "run.json"), read_json(folder / "asked.json")
    done = _is_done(recorded)
    if not done and closed.get("status") != "failed":
        return None
    failed = {"status": "failed", "error": closed.get("error"), **dict.fromkeys(SCORES)}
    steps, batches = recorded.get("steps"), recorded.get("batches_per_epoch")
    values = {
        **dict.fromkeys(COLUMNS),
        "epochs": steps * planned["accumulate"] / batches if steps and batches else None,
        **{key: value for key, value in recorded.items() if key in COLUMNS},
        **{key: value for key, value in planned.items() if key != "starts_from"},
        "frames_per_step": recorded.get("frames_per_step") or planned["frames_per_step"],  # counts devices
        "val_videos": int(recorded.get("val_videos") or 0) or None,
        **({"status": "done", "error": None} if done else failed),
    }
    return Result(**values)


def seconds_silent(folder: Path) -> float:
    """Since a run has last written into its record, its metrics or its log."""
    paths = [folder / name for name in ("run.json", "metrics.csv", "log.txt", "asked.json")]
    return time.time() - max(path.stat().st_mtime for path in paths if path.exists())


def fraction(recorded: Mapping[str, Any], planned_steps: int | None = None) -> float:
    """Of a run's steps, in [0, 1], by what it has recorded."""
    total = recorded.get("total_steps") or planned_steps
    return min(1.0, (recorded.get("step") or 0) / total) if total else 0.0


def holds_work(folder: Path) -> bool:
    """Whether a run folder has a result or a checkpoint that would be lost."""
    return (folder / LAST_CHECKPOINT).exists() or _is_done(read_json(folder / "run.json"))


def _is_done(recorded: Mapping[str, Any]) -> bool:
    return recorded.get("status") == "done" and flaw(recorded) is None


def read_json(path: Path) -> dict[str, Any]:
    """Contents of a JSON object; empty where there is none, or where a power cut left half of one.

    Numbers that are not finite are None, as ``files.write_json`` writes them.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return record if isinstance(record, dict) else {}

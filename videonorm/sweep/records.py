"""The files of one run folder that a sweep writes or reads.

``asked.json`` is the sweep's: what was asked of the run, and how it ended. ``run.json`` is written by
``videonorm fit`` while it trains. ``log.txt`` is what it printed.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from videonorm import files
from videonorm.errors import UserError
from videonorm.sweep.plan import Run
from videonorm.sweep.results import COLUMNS, Result


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run."""

    path: Path
    run: Run

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def last_checkpoint(self) -> Path:
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def recorded(self) -> dict[str, Any]:
        """What ``fit`` has written into run.json so far; empty before it has."""
        return read_json(self.path / "run.json")

    @property
    def is_done(self) -> bool:
        recorded = self.recorded
        scored = recorded.get("val_top1") is not None and bool(recorded.get("val_videos"))
        return scored and recorded.get("status") == "done"

    def check_unchanged(self) -> None:
        """Raise UserError if the folder holds a result or a checkpoint of another configuration."""
        asked = read_json(self.path / "asked.json").get("asked")
        if asked != self._asked() and (self.is_done or self.last_checkpoint.exists()):
            raise UserError(
                f"{self.path} holds a run with other settings than {self.run.name} has now; "
                "give another --output, or delete that folder"
            )

    def record(self, status: str | None = None, error: str | None = None) -> None:
        """Write what is asked of the run and how it ended; make the folder if need be."""
        record = {"asked": self._asked(), "status": status, "error": error}
        files.write_json(self.path / "asked.json", record)

    def result(self) -> Result | None:
        """The run's row of results.csv; None for a run that has not ended."""
        closed = read_json(self.path / "asked.json")
        done = self.is_done
        if not done and closed.get("status") != "failed":
            return None
        recorded = {key: value for key, value in self.recorded.items() if key in COLUMNS}
        values = {
            **dict.fromkeys(COLUMNS),
            "frames_per_step": self.run.frames_per_step,
            **recorded,
            "run": self.run.name,
            "norm": self.run.arm,
            **self.run.shape._asdict(),
            "accumulate": self.run.accumulate,
            "seed": self.run.seed,
            "val_videos": int(recorded.get("val_videos") or 0) or None,
            "status": "done" if done else "failed",
            "error": None if done else closed.get("error"),
        }
        return Result(**values)

    def _asked(self) -> dict[str, Any]:
        """Every setting of the run by content: neither a moved folder nor a new comment is a change."""
        configs = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in self.run.configs]
        options = {**self.run.overrides, **self.run.options(Path())}
        asked = json.dumps({"configs": configs, "options": options}, default=str)
        return json.loads(asked, parse_constant=str)  # type: ignore[no-any-return]


def read_json(path: Path) -> dict[str, Any]:
    """Contents of a JSON object; empty where there is none, or where a power cut left half of one."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return record if isinstance(record, dict) else {}

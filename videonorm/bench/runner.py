"""Runs the stages of `videonorm bench all`, each within its share of the time, and tells of them."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from videonorm.bench.stages import Stage
from videonorm.bench.summary import Outcome, Status, Summary
from videonorm.interruption import Stopped
from videonorm.messages import counted, of_file
from videonorm.processes import how_it_ended, started

LEAST_SECONDS = 5.0  # in less, a process has hardly begun
MORE = 1.25  # times its time before, for which a stage that was ended at its limit begins again


class Runner:
    """Enters into a summary what becomes of stages.

    Args:
        begin: when the command began, by the monotonic clock.
        seconds: that it may take from then on.
        environment: of the stages, added to this process's own.
        keep_open: descriptors that they hold with this process.
    """

    def __init__(
        self,
        summary: Summary,
        begin: float,
        seconds: float,
        environment: Mapping[str, str],
        keep_open: Sequence[int],
    ) -> None:
        self._summary = summary
        self._begin, self._end = begin, begin + seconds
        self._environment, self._keep_open = environment, keep_open

    def tell_plan(self, stages: Sequence[Stage]) -> None:
        """Say which stages there are, and what each may take if none before it is done early."""
        width = max(len(stage.name) for stage in stages)
        for stage in stages:
            how = f"{self._share(stage, stages):.0f} s or more"
            if self._is_done(stage):
                how = "done before"
            elif stage.missing:
                how = f"skipped: {stage.missing}"
            print(f"  {stage.name:{width}}  {stage.about}: {how}")
        print(flush=True)

    def run(self, stages: Sequence[Stage]) -> None:
        """Run those that are not done.

        Raises:
            Stopped: by Ctrl-C or SIGTERM, as all that was started has been ended.
        """
        for number, stage in enumerate(stages):
            if self._is_done(stage):
                continue
            before = self._summary.outcomes.get(stage.name)
            seconds = max(LEAST_SECONDS, self._share(stage, stages[number:]))
            if stage.missing:
                self._enter(Outcome(stage.name, "skipped", why=stage.missing))
            elif before and before.status == "in part" and seconds < MORE * before.seconds:
                self._say(f"{stage.name}: kept: it had {before.seconds:.0f} s, and now has {seconds:.0f} s")
            elif self._left >= LEAST_SECONDS:
                self._run_one(stage, seconds)
            elif before and before.seconds:
                self._say(f"{stage.name}: {before.status} before, and no time is left now")
            else:
                self._enter(Outcome(stage.name, "left out", why="no time is left"))

    def _run_one(self, stage: Stage, seconds: float) -> None:
        self._say(f"{stage.name}: {stage.about}; {seconds:.0f} s at most")
        self._summary.clear(stage.name)
        begin = time.monotonic()
        try:
            status, why = self._process(stage, seconds)
        except Stopped as stopped:
            taken = time.monotonic() - begin
            self._enter(Outcome(stage.name, "stopped", taken, f"by {stopped.signal.name}"))
            raise
        taken = time.monotonic() - begin
        if status == "done" and stage.has_rows:
            status, why = self._of_rows(stage)
        self._enter(Outcome(stage.name, status, taken, why))

    def _process(self, stage: Stage, seconds: float) -> tuple[Status, str]:
        """Run a stage's command. Returns how it ended, and why it is not done."""
        log = self._summary.log(stage.name)
        own = {**os.environ, "PYTHONUNBUFFERED": "1", **self._environment, **stage.environment}
        try:
            with (
                log.open("w", encoding="utf-8") as file,
                started(
                    stage.command,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=own,
                    pass_fds=self._keep_open,
                ) as process,
            ):
                code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            if self._summary.is_complete(stage.name):
                return "done", ""
            if self._summary.rows(stage.name):
                return "in part", f"ended after {seconds:.0f} s, its share"
            return "failed", f"no result in {seconds:.0f} s, its share; see {log}"
        except OSError as error:
            return "failed", of_file(error)
        if code:
            return "failed", f"{how_it_ended(code)}: {last_line(log)}; see {log}"
        return "done", ""

    def _of_rows(self, stage: Stage) -> tuple[Status, str]:
        """Whether a stage that came to its end has figures, and what it has not."""
        rows = self._summary.rows(stage.name)
        errors = [row["error"] for row in rows if row.get("error")]
        why = f"{len(errors)} of {counted(len(rows), 'row')} failed, first {errors[0]}" if errors else ""
        if len(errors) == len(rows):
            return "failed", why or f"no rows; see {self._summary.log(stage.name)}"
        return "done", why

    def _enter(self, outcome: Outcome) -> None:
        self._summary.enter(outcome)
        rows = len(self._summary.rows(outcome.name))
        text = f"{outcome.name}: {outcome.status}"
        text += f" in {outcome.seconds:.0f} s" if outcome.seconds else ""
        text += f", {counted(rows, 'row')}" if rows else ""
        self._say(text + (f": {outcome.why}" if outcome.why else ""))

    @property
    def _left(self) -> float:
        return self._end - time.monotonic()

    def _share(self, stage: Stage, stages: Sequence[Stage]) -> float:
        """Seconds of what is left for these stages."""
        weights = [one.weight for one in stages if not (one.missing or self._is_done(one))]
        return max(0.0, self._left) * stage.weight / max(stage.weight, sum(weights))

    def _is_done(self, stage: Stage) -> bool:
        before = self._summary.outcomes.get(stage.name)
        return before is not None and before.status == "done"

    def _say(self, text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self._begin), 60)
        print(f"[{minutes}:{seconds:02}] {text}", flush=True)


def last_line(log: Path) -> str:
    """What a process said last, without the lines that are drawn around it."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    texts = [text for line in lines if (text := line.strip(" =─━│└┘"))]
    return texts[-1][:200] if texts else "it said nothing"

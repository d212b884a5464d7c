"""Train the runs of a plan, each a ``videonorm fit`` in a process of its own; keep results.csv up to date.

Called again on the same folder, finished runs are kept and the others go on from their last checkpoint.
"""

import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any, Self

from rich.console import Console

from videonorm import files
from videonorm.errors import UserError
from videonorm.files import hold
from videonorm.sweep.plan import Plan
from videonorm.sweep.pool import SECONDS_TO_END, LocalPool, environments
from videonorm.sweep.ray_pool import RayPool
from videonorm.sweep.records import RunFolder, holds_work
from videonorm.sweep.results import Result, flaw, read_results, write_results
from videonorm.sweep.terminal import SweepDisplay

FIT = (sys.executable, "-m", "videonorm", "fit")
POLL_SECONDS = 0.2
QUIET_SECONDS = 600.0  # without a word from a run, until it is named


class Stopped(SystemExit):
    """The sweep was asked to end, and has; its exit code is a shell's for the signal, 130 or 143."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number)


def run_sweep(
    plan: Plan,
    output: Path,
    console: Console,
    *,
    jobs: int | None = None,
    ray: str | None = None,
    command: Sequence[str] = FIT,
) -> list[Result]:
    """Train what is not done yet, write ``output``/results.csv and sweep.json, and return the rows.

    Args:
        plan: the runs.
        output: folder of the sweep; it gets the run folders.
        console: where to show progress.
        jobs: runs at a time, in place of the plan's.
        ray: train as Ray tasks on the cluster at this address; "local" starts one here.
        command: what to call with a run's arguments.

    Raises:
        UserError: another sweep uses the folder, or it holds runs of another or of other settings.
        OSError: a file cannot be written; every process has ended.
        Stopped: on Ctrl-C, SIGTERM or SIGHUP, when every process has ended.
    """
    output = output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    with _locked(output) as lock:
        sweep = _Sweep(plan, output)
        waiting = sweep.waiting()
        if waiting:
            if ray:
                pool: LocalPool | RayPool = RayPool(ray, size=len(waiting))
                how = "on Ray"
            else:
                pool = LocalPool(
                    environments(jobs or plan.jobs, len(waiting), plan.on_cpu), keep_open=lock.fileno()
                )
                how = f"{pool.size} at a time"
            count = f"{len(waiting)} of {len(plan.runs)} runs"
            console.print(f"{count} to train, {how}, into {output}", soft_wrap=True)
            with _Signals() as asked:  # after Ray, which sets handlers of its own
                try:
                    sweep.train(waiting, pool, command, console, asked)
                except Stopped as stop:
                    done = sum(folder.is_done for folder in sweep.runs.values())
                    so_far = f"stopped by {stop.signal.name}: {done} of {len(plan.runs)} runs are done"
                    console.print(f"\n{so_far}; the same command goes on with the others", soft_wrap=True)
                    raise
        return sweep.results()


class _Signals:
    """While it is entered, what asks the process to end is noted, to be raised where nothing is in work.

    SIGHUP that is ignored, as under nohup, stays so. A second Ctrl-C waits for nothing.
    """

    def __init__(self) -> None:
        self._asked = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = number

    def check(self) -> None:
        """Raise Stopped if the process was asked to end."""
        if self._asked:
            raise Stopped(self._asked)


class _Sweep:
    """The runs of a plan by name."""

    def __init__(self, plan: Plan, output: Path) -> None:
        self.plan = plan
        self.output = output
        self.runs = {run.name: RunFolder(output / run.name, run) for run in plan.runs}
        for folder in self.runs.values():
            folder.check_unchanged()
        self._check_covered()
        self.write()

    def _check_covered(self) -> None:
        """Raise UserError if the folder has results, or checkpoints, of runs that are not in the plan."""
        table = self.output / "results.csv"
        rows = read_results(table) if table.exists() else []
        held = {row.run for row in rows if row.done}
        held |= {path.parent.name for path in self.output.glob("*/asked.json") if holds_work(path.parent)}
        if others := sorted(held - self.runs.keys()):
            more = f" and {len(others) - 1} more" if len(others) > 1 else ""
            raise UserError(
                f"{self.output} holds runs that this sweep has not ({others[0]}{more}), and its results.csv "
                "and report would lose them; give another --output, or all the arms, shapes and seeds it has"
            )

    def waiting(self) -> list[RunFolder]:
        """Runs to train, the longest first: the last to end is then a short one."""
        waiting = [folder for folder in self.runs.values() if folder.status == "waiting"]
        return sorted(waiting, key=lambda folder: -folder.run.cost)  # equal ones stay in order

    def train(
        self,
        waiting: list[RunFolder],
        pool: LocalPool | RayPool,
        command: Sequence[str],
        console: Console,
        asked: _Signals,
    ) -> None:
        """Train until all have ended, or the process is asked to."""
        running: dict[str, object] = {}  # name -> its run.json at the start
        quiet: set[str] = set()
        try:
            with SweepDisplay(list(self.runs.values()), console) as display:
                while waiting or running:
                    asked.check()
                    while waiting and len(running) < pool.size:
                        folder = waiting.pop(0)
                        folder.start()
                        arguments = [*command, *folder.run.arguments(folder.path)]
                        resumes = folder.last_checkpoint.exists()
                        if resumes:
                            arguments.append(f"--ckpt_path={folder.last_checkpoint}")
                        running[folder.run.name] = folder.recorded
                        pool.start(folder.run.name, arguments, folder.log)
                        display.changed(folder, "resumed" if resumes else "started")
                    time.sleep(POLL_SECONDS)
                    for name, before in running.items():
                        folder = self.runs[name]
                        folder.read()
                        if folder.recorded != before and folder.hangs_at_its_end(SECONDS_TO_END):
                            pool.kill(name)
                        if folder.seconds_silent < QUIET_SECONDS:
                            quiet.discard(name)
                        elif name not in quiet:
                            quiet.add(name)
                            display.quiet(folder)
                    for name, how in pool.ended().items():
                        folder = self.runs[name]
                        folder.read()
                        why = _why(folder, how, running.pop(name))
                        folder.end(None if folder.is_done else why)
                        self.write()
                        display.changed(folder)
                    display.refresh()
        finally:
            for name in pool.stop():
                waited = f"did not end within {SECONDS_TO_END:.0f} s and was killed"
                console.print(f"{name} {waited}; see {self.runs[name].log}", soft_wrap=True)
            for name in running:
                self.runs[name].read()
            self.write()

    def results(self) -> list[Result]:
        """A row for each run that has ended, in the order of the plan."""
        return [row for folder in self.runs.values() if (row := folder.result())]

    def write(self) -> None:
        """Write results.csv, and sweep.json: what was asked, and which machines and versions answered."""
        write_results(self.output / "results.csv", self.results())
        origins: list[dict[str, object]] = []
        for folder in self.runs.values():
            origin = {key: folder.recorded.get(key) for key in ("machine", "versions", "commit")}
            if folder.recorded and origin not in origins:
                origins.append(origin)
        asked = {"name": self.plan.name, "num_runs": len(self.runs), "sweep": self.plan.source}
        files.write_json(self.output / "sweep.json", {**asked, "origins": origins})


def _why(folder: RunFolder, how: str, recorded_before: object) -> str:
    """Why a run is not done, in one line."""
    recorded = folder.recorded
    if recorded != recorded_before and recorded.get("status") == "failed" and recorded.get("error"):
        return " ".join(str(recorded["error"]).split())
    if recorded.get("status") == "done" and (reason := flaw(recorded)):
        return f"{reason}; see {folder.log.name}"
    if recorded != recorded_before and recorded.get("status") == "stopped":
        return f"stopped by {recorded.get('error')} at step {recorded.get('step')}, to go on from there"
    if not how:
        return f"fit ended without a run.json that says done, see {folder.log.name}"
    if how.startswith("killed"):  # what it printed last has nothing to do with it
        return f"{how}; see {folder.log.name}"
    lines = folder.log.read_text(encoding="utf-8", errors="replace").splitlines()
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"{last} ({how})" if last else how


def _locked(output: Path) -> IO[str]:
    """Hold the folder for this sweep until the file is closed.

    The runs inherit the lock: should this process be killed outright, the folder stays taken until they end.
    """
    try:
        return hold(output / ".lock")
    except BlockingIOError as error:
        raise UserError(
            f"{output} {error.strerror}, another sweep or a run that it left going; "
            "wait for it or give another --output"
        ) from error

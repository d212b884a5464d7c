"""Train the runs of a plan, each a ``videonorm fit`` in a process of its own; keep results.csv up to date.

Called again on the same folder, finished runs are kept and the others go on from their last checkpoint.
"""

import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Self

from rich.console import Console

from videonorm.messages import one_line
from videonorm.sweep.folder import SweepFolder
from videonorm.sweep.live_report import LiveReport
from videonorm.sweep.locks import holding_shard, is_held
from videonorm.sweep.plan import Plan
from videonorm.sweep.pool import SECONDS_TO_END, LocalPool, environments
from videonorm.sweep.ray_pool import Lost, RayPool
from videonorm.sweep.records import RunFolder
from videonorm.sweep.results import Result, flaw
from videonorm.sweep.shards import WHOLE, Shard
from videonorm.sweep.terminal import SweepDisplay

FIT = (sys.executable, "-m", "videonorm", "fit")
POLL_SECONDS = 0.2
QUIET_SECONDS = 600.0  # without a word from a run, until it is named
LOSSES = 3  # of a run with its machine, without a new checkpoint, until it has failed


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
    shard: Shard = WHOLE,
    jobs: int | None = None,
    ray: str | None = None,
    command: Sequence[str] = FIT,
) -> list[Result]:
    """Train what is not done yet, keep ``output``/results.csv and sweep.json, and return all its rows.

    Args:
        plan: the runs.
        output: folder of the sweep; it gets the run folders.
        console: where to show progress.
        shard: the part of the runs that is trained here.
        jobs: runs at a time, in place of the plan's.
        ray: train as Ray tasks on the cluster at this address; "local" starts one here.
        command: what to call with a run's arguments.

    Raises:
        UserError: others use the folder, it holds runs of another sweep or of other settings, or a run asks
            for what the machine or the cluster has not.
        OSError: a file cannot be written; every process has ended.
        Stopped: on Ctrl-C, SIGTERM or SIGHUP, when every process has ended.
    """
    output = output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    with holding_shard(output, shard) as others_work:
        sweep = _Sweep(plan, output, shard, others_work)
        if waiting := sweep.waiting():
            devices = max(folder.run.devices for folder in waiting)
            pool: LocalPool | RayPool
            if ray:
                pool = RayPool(ray, plan.on_cpu, devices)
            else:
                pool = LocalPool(environments(jobs or plan.jobs, len(waiting), plan.on_cpu, devices))
            part = f"{shard}: " if shard.count > 1 else ""
            count = f"{part}{len(waiting)} of {len(sweep.runs)} runs"
            console.print(f"{count} to train, {pool.how}, into {output}", soft_wrap=True)
            with _Signals() as asked:  # after Ray, which sets handlers of its own
                try:
                    sweep.train(waiting, pool, command, console, asked)
                except Stopped as stop:
                    done = sum(folder.is_done for folder in sweep.runs.values())
                    so_far = f"stopped by {stop.signal.name}: {done} of {len(sweep.runs)} runs are done"
                    console.print(f"\n{so_far}; the same command goes on with the others", soft_wrap=True)
                    raise
        return sweep.folder.gather()


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
    """The runs of a shard by name."""

    def __init__(self, plan: Plan, output: Path, shard: Shard, others_work: bool) -> None:
        every = {run.name: RunFolder(output / run.name, run) for run in plan.runs}
        for folder in every.values():
            folder.check_unchanged()
        self.folder = SweepFolder(output)
        self.folder.take(plan, others_work)
        own = {run.name for run in shard.runs(plan.runs)}
        self.runs = {name: folder for name, folder in every.items() if name in own}
        self._running: dict[str, object] = {}  # name -> its run.json at the start
        self._quiet: set[str] = set()
        self._losses: dict[
            str, tuple[float, int]
        ] = {}  # name -> when its checkpoint was written, losses since

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
        report = LiveReport(self.folder.path)
        try:
            self._wait_for_orphans(waiting, console, asked)
            with SweepDisplay(list(self.runs.values()), console) as display:
                while waiting or self._running:
                    asked.check()
                    while folder := _startable(waiting, pool):
                        waiting.remove(folder)
                        self._start(folder, pool, command, display)
                    time.sleep(POLL_SECONDS)
                    self._look_at_running(pool, display)
                    for name, how in pool.ended().items():
                        folder = self.runs[name]
                        if self._goes_on_elsewhere(folder, how):
                            waiting.insert(0, folder)
                            display.lost(folder)
                        else:
                            self.folder.gather()
                            report.outdated()
                            display.changed(folder)
                    if trouble := report.poll():
                        display.tell(trouble)
                    display.refresh()
        finally:
            for name in pool.stop():
                waited = f"did not end within {SECONDS_TO_END:.0f} s and was killed"
                console.print(f"{name} {waited}; see {self.runs[name].log}", soft_wrap=True)
            report.stop()
            for name in self._running:
                self.runs[name].read()
            self.folder.gather()

    def _wait_for_orphans(self, waiting: list[RunFolder], console: Console, asked: _Signals) -> None:
        """Wait for runs that a killed sweep has left going: they use the machine, and are not lost so."""
        left = [folder for folder in waiting if is_held(folder.lock)]
        if left:
            names = ", ".join(folder.run.name for folder in left)
            console.print(f"waiting for what a killed sweep has left going: {names}", soft_wrap=True)
        while any(is_held(folder.lock) for folder in left):
            asked.check()
            time.sleep(POLL_SECONDS)
        for folder in left:
            folder.read()
            if folder.is_done:
                waiting.remove(folder)
                folder.end(None)

    def _start(
        self, folder: RunFolder, pool: LocalPool | RayPool, command: Sequence[str], display: SweepDisplay
    ) -> None:
        folder.read()
        folder.start()
        arguments = [*command, *folder.run.arguments(folder.path)]
        resumes = folder.last_checkpoint.exists()
        if resumes:
            arguments.append(f"--ckpt_path={folder.last_checkpoint}")
        self._running[folder.run.name] = folder.recorded
        pool.start(folder.run.name, arguments, folder.log, folder.run.devices)
        display.changed(folder, "resumed" if resumes else "started")

    def _look_at_running(self, pool: LocalPool | RayPool, display: SweepDisplay) -> None:
        """Read how far runs are, end those that have finished but hang, and name those that are silent."""
        for name, before in self._running.items():
            folder = self.runs[name]
            folder.read()
            if folder.recorded != before and folder.hangs_at_its_end(SECONDS_TO_END):
                pool.kill(name)
            if folder.seconds_silent < QUIET_SECONDS:
                self._quiet.discard(name)
            elif name not in self._quiet:
                self._quiet.add(name)
                display.quiet(folder)

    def _goes_on_elsewhere(self, folder: RunFolder, how: str) -> bool:
        """Record how a run has ended, unless it was lost with its machine: then it is to start again.

        LOSSES times without a new checkpoint make it a failed one.
        """
        folder.read()
        before = self._running.pop(folder.run.name)
        why = None if folder.is_done else _why(folder, how, before)
        by_itself = folder.recorded != before and folder.recorded.get("status") in ("done", "failed")
        if why and isinstance(how, Lost) and not by_itself:
            saved = folder.last_checkpoint.stat().st_mtime if folder.last_checkpoint.exists() else 0.0
            saved_then, times = self._losses.get(folder.run.name, (saved, 0))
            times = times + 1 if saved == saved_then else 1
            self._losses[folder.run.name] = saved, times
            if times <= LOSSES:
                folder.status, folder.error = "waiting", how
                return True
            why = f"lost {times} times without a new checkpoint, the last time: {how}"
        folder.end(why)
        return False


def _startable(waiting: Sequence[RunFolder], pool: LocalPool | RayPool) -> RunFolder | None:
    """The next run, where there is room for it; not one that still goes on where it was lost."""
    folder = next((of for of in waiting if not is_held(of.lock)), None)
    return folder if folder and pool.has_room(folder.run.devices) else None


def _why(folder: RunFolder, how: str, recorded_before: object) -> str:
    """Why a run is not done, in one line."""
    recorded = folder.recorded
    if recorded != recorded_before and recorded.get("status") == "failed" and recorded.get("error"):
        return one_line(str(recorded["error"]))
    if recorded.get("status") == "done" and (reason := flaw(recorded)):
        return f"{reason}; see {folder.log.name}"
    if recorded != recorded_before and recorded.get("status") == "stopped":
        return f"stopped by {recorded.get('error')} at step {recorded.get('step')}, to go on from there"
    if not how:
        return f"fit ended without a run.json that says done, see {folder.log.name}"
    if how.startswith("killed"):  # what it printed last has nothing to do with it
        return f"{how}; see {folder.log.name}"
    if not folder.log.exists():  # lost before it was started
        return how
    lines = folder.log.read_text(encoding="utf-8", errors="replace").splitlines()
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"{last} ({how})" if last else how

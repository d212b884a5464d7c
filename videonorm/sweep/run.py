"""Run the cells of a plan, each a ``videonorm fit`` in a process of its own, and keep results.csv up to date.

Run again on the same folder, finished cells are kept and the others go on from their last checkpoint.
"""

import contextlib
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from rich.console import Console

from videonorm.errors import UserError
from videonorm.sweep.plan import Plan
from videonorm.sweep.pool import LocalPool, Pool, environments
from videonorm.sweep.ray_pool import RayPool
from videonorm.sweep.records import RunFolder
from videonorm.sweep.results import Result, write_file, write_results
from videonorm.sweep.terminal import CellState, SweepDisplay

FIT = (sys.executable, "-m", "videonorm", "fit")
POLL_SECONDS = 0.2


def run_sweep(
    plan: Plan,
    output: Path,
    console: Console,
    *,
    jobs: int | None = None,
    ray: str | None = None,
    command: Sequence[str] = FIT,
) -> list[Result]:
    """Run what is not done yet, write ``output``/results.csv and sweep.json, and return the rows.

    Args:
        plan: the cells.
        output: folder of the sweep; it gets one run folder a cell.
        console: where to show progress.
        jobs: cells at a time, in place of the plan's.
        ray: run the cells as Ray tasks on the cluster at this address; "local" starts one here.
        command: what to call with a cell's arguments.

    Raises:
        UserError: another sweep uses the folder, or it holds runs of other settings.
        KeyboardInterrupt: on Ctrl-C, SIGTERM or SIGHUP, when every process has ended.
    """
    output = output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    with _locked(output) as lock:
        sweep = _Sweep(plan, output)
        if others := sum(path.parent.name not in sweep.folders for path in output.glob("*/cell.json")):
            console.print(f"{others} run folders of {output} are not in this sweep: not in its results.csv")
        waiting = sweep.waiting()
        if waiting:
            if ray is None:
                shares = environments(jobs or plan.jobs, len(waiting), plan.on_cpu)
                pool: Pool = LocalPool(shares, keep_open=lock)
            else:
                pool = RayPool(ray, size=len(waiting))
            how = "on Ray" if ray else f"{pool.size} at a time"
            total = len(sweep.folders)
            console.print(f"{len(waiting)} of {total} cells to run, {how}, into {output}", soft_wrap=True)
            with _interruptible():  # after Ray, which sets handlers of its own
                sweep.run(waiting, pool, command, console)
        return sweep.results()


class _Sweep:
    """The run folders of a plan and where each cell is."""

    def __init__(self, plan: Plan, output: Path) -> None:
        self.plan = plan
        self.output = output
        self.folders = {cell.run: RunFolder(output / cell.run, cell) for cell in plan.cells}
        self.states = {cell.run: CellState(cell) for cell in plan.cells}
        for run, folder in self.folders.items():
            folder.check_unchanged()
            self.states[run].read(folder.run_json)
            if folder.is_done:
                self.states[run].status = "done"
        self.write()

    def waiting(self) -> list[str]:
        """Cells to run, the longest first: the last to end is then a short one."""
        waiting = [run for run, state in self.states.items() if state.status == "waiting"]
        return sorted(waiting, key=lambda run: -self.states[run].cell.cost)  # equal ones stay in order

    def run(self, waiting: list[str], pool: Pool, command: Sequence[str], console: Console) -> None:
        """Run cells until all have ended."""
        running: dict[str, object] = {}  # run -> its run.json at the start
        try:
            with SweepDisplay(list(self.states.values()), console) as display:
                while waiting or running:
                    while waiting and len(running) < pool.size:
                        run = waiting.pop(0)
                        folder, state = self.folders[run], self.states[run]
                        folder.open()
                        arguments = folder.cell.arguments(folder.path)
                        resumes = folder.last_checkpoint.exists()
                        if resumes:
                            arguments.append(f"--ckpt_path={folder.last_checkpoint}")
                        running[run] = folder.run_json
                        pool.start(run, [*command, *arguments], folder.log)
                        state.status = "running"
                        display.changed(state, "resumed" if resumes else "started")
                    time.sleep(POLL_SECONDS)
                    for run, how in pool.ended().items():
                        folder, state = self.folders[run], self.states[run]
                        state.error = None if folder.is_done else _why(folder, how, running[run])
                        state.status = "failed" if state.error else "done"
                        state.read(folder.run_json)
                        folder.close(state.error)
                        del running[run]
                        self.write()
                        display.changed(state)
                    for run in running:
                        self.states[run].read(self.folders[run].run_json)
                    display.refresh()
        finally:
            pool.stop()
            self.write()

    def results(self) -> list[Result]:
        """A row for each cell that has ended, in the order of the plan."""
        rows = [folder.result() for folder in self.folders.values()]
        return [row for row in rows if row is not None]

    def write(self) -> None:
        """Write results.csv, and sweep.json: what was asked, and which machines and versions answered."""
        write_results(self.output / "results.csv", self.results())
        origins: list[dict[str, object]] = []
        for folder in self.folders.values():
            run = folder.run_json
            origin = {key: run.get(key) for key in ("machine", "versions", "commit")}
            if run and origin not in origins:
                origins.append(origin)
        cells = len(self.plan.cells)
        about = {"name": self.plan.name, "num_cells": cells, "sweep": self.plan.source, "origins": origins}
        write_file(self.output / "sweep.json", json.dumps(about, indent=1) + "\n")


def _why(folder: RunFolder, how: str, run_json_before: object) -> str:
    """Why a run is not done, in one line."""
    run = folder.run_json
    if run != run_json_before and run.get("status") == "failed" and run.get("error"):
        return " ".join(str(run["error"]).split())
    if not how:
        missing = "val_top1" if run.get("status") == "done" else "a run.json that says done"
        return f"fit ended without {missing}, see {folder.log.name}"
    if how.startswith("killed"):  # what it printed last has nothing to do with it
        return f"{how}; see {folder.log.name}"
    lines = folder.log.read_text(encoding="utf-8", errors="replace").splitlines()
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"{last} ({how})" if last else how


@contextlib.contextmanager
def _locked(output: Path) -> Iterator[int]:
    """Hold the folder for this sweep.

    The cells inherit the lock: should this process be killed outright, the folder stays taken until they end.
    """
    path = output / ".lock"
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = path.read_text().strip()
            raise UserError(
                f"{output} is in use by another sweep (process {holder}) or by cells that it left running; "
                "wait for them or give another --output"
            ) from error
        os.ftruncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
        yield lock
    finally:
        os.close(lock)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the sweep as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

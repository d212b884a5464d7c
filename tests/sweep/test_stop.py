"""A sweep that is asked to end; runs that hang or are killed; full disks: what is said, and what is left."""

import signal
import time
from pathlib import Path

import pytest
from rich.console import Console
from running import runs

from videonorm.sweep import folder as sweep_folder
from videonorm.sweep import pool, run, terminal
from videonorm.sweep.plan import read_plan
from videonorm.sweep.results import read_results

# A run with a worker that outlives it, as one does whose owner is killed.
WORKER = """
import subprocess
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
(folder / "pids").write_text(f"{os.getpid()} {worker.pid}")
record("running", step=4)
"""
SAVES = """
def save(number, frame):
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").write_text("step 4")
    record("stopped", error="SIGTERM", step=4)
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
"""
HANGS = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
ALL_RUN = """
until = time.monotonic() + 20
while len(list(folder.parent.glob("*/pids"))) < 2 and time.monotonic() < until:
    time.sleep(0.01)
"""


@pytest.fixture
def sweep(sweep_file, tmp_path, monkeypatch):
    """Runs the sweep file into tmp_path/out, two at a time."""
    monkeypatch.setattr(run, "POLL_SECONDS", 0.02)

    def start(command):
        console = Console(width=300)
        return run.run_sweep(read_plan(sweep_file), tmp_path / "out", console, jobs=2, command=command)

    return start


def left_running(out: Path) -> list[int]:
    """Processes of the runs, and of their workers, that have not ended."""
    pids = [int(pid) for path in out.glob("*/pids") for pid in path.read_text().split()]
    assert pids
    deadline = time.monotonic() + 2  # the kernel takes a moment to bury what was killed
    while any(map(runs, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return list(filter(runs, pids))


@pytest.mark.parametrize("name, code", [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_ends_every_run_and_its_workers(name, code, sweep, stand_in, tmp_path, capsys):
    once = f"if num_frames == 4: os.kill(os.getppid(), signal.{name})"  # a second Ctrl-C would not wait
    ask = f"{ALL_RUN}\n{once}\ntime.sleep(60)"
    before = signal.getsignal(getattr(signal, name))
    started = time.monotonic()
    with pytest.raises(run.Stopped) as end:
        sweep(stand_in(SAVES + WORKER + ask))
    assert end.value.code == code and time.monotonic() - started < 10
    assert signal.getsignal(getattr(signal, name)) == before
    assert not left_running(tmp_path / "out")
    said = f"stopped by {name}: 0 of 4 runs are done; the same command goes on with the others"
    assert said in capsys.readouterr().out
    assert read_results(tmp_path / "out" / "results.csv") == []

    if name == "SIGTERM":
        rows = sweep(stand_in("record()"))
        assert {row.status for row in rows} == {"done"}
        resumed = [path.parent for path in tmp_path.glob("out/*/checkpoints")]
        assert len(resumed) == 2
        for folder in resumed:
            assert f"--ckpt_path={folder}/checkpoints/last.ckpt" in (folder / "calls.txt").read_text()


def test_a_run_that_does_not_end_is_killed_and_named(sweep, stand_in, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pool, "SECONDS_TO_END", 0.2)
    monkeypatch.setattr(run, "SECONDS_TO_END", 0.2)
    ask = f"{ALL_RUN}\nos.kill(os.getppid(), signal.SIGTERM)\ntime.sleep(60)"
    with pytest.raises(run.Stopped):
        sweep(stand_in(HANGS + WORKER + ask))
    assert not left_running(tmp_path / "out")
    printed = capsys.readouterr().out
    for name in ("bn_4x2_b4_s0", "bn_8x2_b2_s0"):
        assert f"{name} did not end within 0 s and was killed; see {tmp_path}/out/{name}/log.txt" in printed


def test_a_run_that_has_recorded_its_end_but_hangs_is_killed(sweep, stand_in, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "SECONDS_TO_END", 0.2)
    hangs = "record(status='failed', error='no luck') if num_frames == 4 else record()\ntime.sleep(60)"
    started = time.monotonic()
    rows = {row.run: row for row in sweep(stand_in(WORKER + hangs))}
    assert time.monotonic() - started < 10
    assert not left_running(tmp_path / "out")
    assert rows["bn_4x2_b4_s0"].error == "no luck" and rows["bn_8x2_b2_s0"].done


def test_nohup_is_heeded(sweep, stand_in):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        rows = sweep(stand_in("os.kill(os.getppid(), signal.SIGHUP)\nrecord()"))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert {row.status for row in rows} == {"done"}


def test_a_killed_run_leaves_no_worker(sweep, stand_in, tmp_path):
    rows = sweep(stand_in(WORKER + "os.kill(os.getpid(), signal.SIGKILL)"))
    assert {row.error for row in rows} == {
        "killed by SIGKILL, as Linux does when memory runs out; see log.txt"
    }
    assert not left_running(tmp_path / "out")


def test_a_log_names_once_what_is_quiet_and_says_how_far_all_is(sweep, stand_in, capsys, monkeypatch):
    monkeypatch.setattr(run, "QUIET_SECONDS", 0.1)
    monkeypatch.setattr(terminal, "PROGRESS_SECONDS", 0.01)
    sweep(stand_in("if folder.name.startswith('bn_4'): time.sleep(0.4)\nrecord()"))
    printed = capsys.readouterr().out
    assert printed.count("quiet   bn_4x2_b4_s0  nothing written for 0 min: a long validation, or it") == 1
    assert "of 4 runs · 0:00:0" in printed


def test_a_full_disk_ends_the_runs_and_keeps_the_table(sweep, stand_in, tmp_path, monkeypatch):
    written = sweep_folder.write_results

    def full(path, results):
        if any(row.done for row in results):
            raise OSError(28, "No space left on device", str(path))
        written(path, results)

    monkeypatch.setattr(sweep_folder, "write_results", full)
    command = stand_in(WORKER + "record() if folder.name.startswith('bn_4') else time.sleep(60)")
    with pytest.raises(OSError, match="No space left on device: '.*/out/results.csv'"):
        sweep(command)
    assert not left_running(tmp_path / "out")
    assert read_results(tmp_path / "out" / "results.csv") == []
    monkeypatch.setattr(sweep_folder, "write_results", written)
    sweep(stand_in("record()"))
    calls = (tmp_path / "out" / "bn_4x2_b4_s0" / "calls.txt").read_text()
    assert len(calls.splitlines()) == 1

"""Sweeps in parts: who trains what, who may be in a folder at a time, and the one table of all."""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from rich.console import Console

from videonorm.errors import UserError
from videonorm.files import hold, is_held
from videonorm.sweep import run
from videonorm.sweep.command import main
from videonorm.sweep.folder import gather_again
from videonorm.sweep.plan import read_plan
from videonorm.sweep.results import read_results
from videonorm.sweep.shards import WHOLE, Shard, shard

# A process of its own that sweeps: python -c SWEEPER sweep.yaml output stand_in.py i/n
SWEEPER = """
import sys
from pathlib import Path
from rich.console import Console
from videonorm.sweep import run
from videonorm.sweep.plan import read_plan
from videonorm.sweep.shards import shard
run.POLL_SECONDS = 0.02
plan, output = read_plan(Path(sys.argv[1])), Path(sys.argv[2])
command, part = (sys.executable, sys.argv[3]), shard(sys.argv[4])
run.run_sweep(plan, output, Console(), shard=part, jobs=2, command=command)
"""
# Twenty steps that are saved, as `fit` does: one that is killed goes on where it was.
SAVES = """
(folder / "pid").write_text(str(os.getpid()))
saved = folder / "checkpoints" / "last.ckpt"
saved.parent.mkdir(exist_ok=True)
for step in range(int(saved.read_text() or 0) if "ckpt_path" in options else 0, 20):
    time.sleep(0.02)
    saved.with_suffix(".new").write_text(str(step + 1))
    os.replace(saved.with_suffix(".new"), saved)
    record("running", step=step + 1)
record(train_seconds=time.time())
"""


@pytest.fixture
def sweep(sweep_file, tmp_path, monkeypatch):
    """Runs a shard of the sweep file into a folder; returns all rows of its table by name."""
    monkeypatch.setattr(run, "POLL_SECONDS", 0.02)

    def start(command, part=WHOLE, out="out"):
        plan = read_plan(sweep_file)
        rows = run.run_sweep(plan, tmp_path / out, Console(quiet=True), shard=part, jobs=2, command=command)
        return {row.run: row for row in rows}

    return start


def without_timings(path):
    timings = dict.fromkeys(("train_seconds", "clips_per_second", "peak_memory_mib"))
    return [replace(row, **timings) for row in read_results(path / "results.csv")]


def test_shards_are_all_of_the_runs_and_alike_in_cost(sweep_file):
    sweep_file.write_text(sweep_file.read_text().replace("frames_per_step: 16", "batch_size: [1, 2, 5]"))
    runs = read_plan(sweep_file, num_seeds=3).runs
    for count in (1, 2, 3, 8, 50):
        parts = [Shard(index, count).runs(runs) for index in range(count)]
        assert sorted(run.name for part in parts for run in part) == sorted(run.name for run in runs)
        costs = [sum(run.cost for run in part) for part in parts]
        assert max(costs) - min(costs) <= max(run.cost for run in runs)


@pytest.mark.parametrize("text", ["8/8", "2/1", "1", "-1/2", "a/b", "0/0", "1/2/3", "1 / 2", "\u0661/2"])
def test_what_is_no_shard(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"must be i/n, part i of n counted from 0"):
        shard(text)
    with pytest.raises(UserError, match="--shard"):
        main(["-c", "absent.yaml", f"--shard={text}"])


def test_shards_write_one_table_one_after_the_other(sweep, stand_in, tmp_path):
    alone = sweep(stand_in("record()"), out="alone")
    command = stand_in("record()")
    assert len(sweep(command, Shard(0, 2))) == 2
    assert sweep(command, Shard(1, 2)) == alone
    assert (tmp_path / "out" / "results.csv").read_bytes() == (
        tmp_path / "alone" / "results.csv"
    ).read_bytes()
    for calls in (tmp_path / "out").glob("*/calls.txt"):
        assert len(calls.read_text().splitlines()) == 1
    assert sweep(stand_in("sys.exit('not again')"), Shard(2, 3)) == alone  # another division, later


def test_shards_that_overlap_are_refused(sweep, stand_in, tmp_path):
    before = sweep(stand_in("record()"), Shard(0, 2))
    for held, part, sentence in (
        ("1-of-2", Shard(1, 2), r"out is in use by process \d+, which is shard 1/2 too; wait for it"),
        ("1-of-2", Shard(1, 3), "out is in use by shard 1/2, and shard 1/3 would train the same runs"),
        ("1-of-2", WHOLE, "out is in use by shard 1/2, and a sweep would train the same runs"),
        ("0-of-1", Shard(0, 2), "out is in use by a sweep, and shard 0/2 would train the same runs"),
    ):
        lock = tmp_path / "out" / f".shard-{held}.lock"
        with hold(lock), pytest.raises(UserError, match=sentence):
            sweep(stand_in("record()"), part)
    assert {row.run for row in read_results(tmp_path / "out" / "results.csv")} == before.keys()


def test_shards_of_different_plans_are_refused(sweep, stand_in, sweep_file, tmp_path):
    sweep(stand_in("record()"), Shard(0, 2))
    sweep_file.write_text(sweep_file.read_text() + "seeds: [0, 1]\n")
    with (
        hold(tmp_path / "out" / ".shard-0-of-2.lock"),
        pytest.raises(UserError, match="shards of other runs"),
    ):
        sweep(stand_in("record()"), Shard(1, 2))


def test_the_table_is_joined_from_the_folders_that_are_there(sweep, stand_in, tmp_path):
    out = tmp_path / "out"
    rows = list(sweep(stand_in("record()")).values())
    (out / "results.csv").unlink()
    gather_again(out)
    assert read_results(out / "results.csv") == rows
    (out / rows[0].run).rename(tmp_path / "moved")  # its row is all that is left of it
    gather_again(out)
    assert read_results(out / "results.csv") == rows
    (out / "sweep.json").write_text('{"runs": [{"name": "bn"}], "origins": []}')
    with pytest.raises(UserError, match=r"sweep.json must be as a sweep writes it: KeyError 'run'"):
        gather_again(out)
    assert read_results(out / "results.csv") == rows


def sweeper(sweep_file, out, command, part="0/1"):
    arguments = [sys.executable, "-c", SWEEPER, sweep_file, out, command[1], part]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
def test_shards_at_the_same_time(sweep, stand_in, sweep_file, tmp_path):
    sweep_file.write_text(sweep_file.read_text() + "seeds: [0, 1, 2, 3, 4]\n")
    sweep(stand_in(SAVES), out="alone")
    shards = [sweeper(sweep_file, tmp_path / "out", stand_in(SAVES), f"{index}/4") for index in range(4)]
    for process in shards:
        printed, _ = process.communicate(timeout=120)
        assert process.returncode == 0, printed
    assert without_timings(tmp_path / "out") == without_timings(tmp_path / "alone")
    assert all(len(path.read_text().splitlines()) == 1 for path in (tmp_path / "out").glob("*/calls.txt"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_sweep_killed_ten_times_has_the_rows_of_one_left_alone(seed, sweep, stand_in, sweep_file, tmp_path):
    sweep_file.write_text(sweep_file.read_text() + "seeds: [0, 1, 2, 3, 4]\n")
    sweep(stand_in(SAVES), out="alone")
    random.seed(seed)
    for _ in range(10):
        process = sweeper(sweep_file, tmp_path / "out", stand_in(SAVES))
        time.sleep(random.uniform(0.1, 2.5))
        process.kill()
        process.communicate()
        if random.random() < 0.5:  # with the machine that it was on
            for lock in (tmp_path / "out").glob("*/.sweep.lock"):
                if is_held(lock) and (pid := lock.with_name("pid")).exists():
                    with contextlib.suppress(ProcessLookupError):  # of an earlier one
                        os.kill(int(pid.read_text()), signal.SIGKILL)
    process = sweeper(sweep_file, tmp_path / "out", stand_in(SAVES))
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0, printed
    assert without_timings(tmp_path / "out") == without_timings(tmp_path / "alone")

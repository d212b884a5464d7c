"""`videonorm bench all` with stand-ins for its stages: some fail, hang, or are not there."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from running import runs

from videonorm.bench import all as bench_all
from videonorm.bench import here, runner
from videonorm.bench.command import main
from videonorm.bench.here import Here
from videonorm.bench.stages import Stage
from videonorm.errors import UserError
from videonorm.files import hold
from videonorm.processes import started

MADE_ON = {
    **{"device": "a GPU", "torch": "2.11", "cuda": "13.0", "driver": "580.1", "videonorm": "0.1.0"},
    **{"commit": "0123456789abcdef", "python": "3.12"},
}
STEP = "contender,ratio_to_bn,error\nbn,1.0,\ngn_ws,0.9,\ngn,,OutOfMemoryError: no\n"
HANGS = """
import subprocess, sys, time
sleeps = [sys.executable, "-S", "-c", "import time; time.sleep(1000)"]
child = subprocess.Popen(sleeps, start_new_session=True)
rows = f"contender,max_clips\\nbn,10\\ngn_ws,12\\nchild,{child.pid}\\ngn_t"
open(sys.argv[1] + ".partial", "w").write(rows)
time.sleep(1000)
"""
HOST = "part,arm,direction,ratio_to_bn\nstep,gn_ws,all,1.2\n"
SLEEPS = "import time; time.sleep(1000)"
WRITES = "import sys; open(sys.argv[1], 'w').write(sys.argv[2]); print('written')"
FAILS = "import sys; print('before'); sys.exit('no such luck')"


def python(code, *arguments):
    return (sys.executable, "-S", "-c", code, *map(str, arguments))


@contextmanager
def started_without_haste(command, **how):
    """What hangs is at its limit when it has written; all else has the time that it needs."""
    with started(command, **how) as process:
        wait = process.wait

        def wait_without_haste(seconds=None):
            if seconds is None or "sleep(1000)" not in command[3]:
                return wait()
            written = Path(command[4] + (".partial" if command[3] == HANGS else ""))
            while not (written.exists() and written.read_text().endswith(("gn_t", "1.2\n"))):
                time.sleep(0.01)
            return wait(0.01)

        process.wait = wait_without_haste
        yield process


class Day:
    """A folder, its stages, and what a run of them makes there."""

    def __init__(self, out, stages, capsys):
        self.out, self.stages, self.capsys = out, stages, capsys

    def run(self, *options, minutes=10):
        """The exit code; ``said`` is what was printed."""
        try:
            main(["all", "--out", str(self.out), "--minutes", str(minutes), *options])
        except SystemExit as end:
            return end.code
        finally:
            self.said = self.capsys.readouterr().out
        return 0

    @property
    def summary(self):
        return json.loads((self.out / "summary.json").read_text())

    @property
    def outcomes(self):
        return {stage["name"]: stage for stage in self.summary["stages"]}

    @property
    def status(self):
        return {name: outcome["status"] for name, outcome in self.outcomes.items()}

    @property
    def goals(self):
        return {goal["goal"]: goal for goal in self.summary["goals"]}


@pytest.fixture
def day(tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"

    def rows(name, text):
        return Stage(name, f"rows of {name}", 1.0, python(WRITES, out / f"{name}.csv", text))

    stages = [
        Stage("doctor", "all is well", 1.0, python("print('fine')"), has_rows=False),
        Stage("tests", "a test fails", 1.0, python(FAILS), has_rows=False),
        rows("step", STEP),
        Stage("clips", "is never done", 1e-3, python(HANGS, out / "clips.csv")),
        Stage("host", "writes all, and hangs", 1e-3, python(f"{WRITES}\n{SLEEPS}", out / "host.csv", HOST)),
        Stage("memcheck", "has no program", 1.0, (str(tmp_path / "sanitizer"),), has_rows=False),
        Stage("replay", "is not for this machine", 1.0, ("no",), missing="needs a GPU"),
        rows("profile", "contender,kind,error\nbn,all,E: no\ngn,all,E: nor this\n"),
    ]
    monkeypatch.setattr(bench_all, "new_stages", lambda out, device: stages)
    monkeypatch.setattr(runner, "started", started_without_haste)
    monkeypatch.setattr(here, "ask", lambda device, seconds: Here("cuda", {"FROM_HERE": "1"}, dict(MADE_ON)))
    return Day(out, stages, capsys)


def test_a_stage_costs_only_itself(day):
    assert day.run() == 1
    assert day.status == {
        **{"doctor": "done", "tests": "failed", "step": "done", "clips": "in part"},
        **{"host": "done", "memcheck": "failed", "replay": "skipped", "profile": "failed"},
    }
    why = {name: outcome["why"] for name, outcome in day.outcomes.items()}
    assert why["tests"] == f"exit code 1: no such luck; see {day.out / 'tests.log'}"
    assert why["step"] == "1 of 3 rows failed, first OutOfMemoryError: no"
    assert why["clips"] == "ended after 5 s, its share"
    assert why["memcheck"] == f"{day.out.parent / 'sanitizer'}: No such file or directory"
    assert why["replay"] == "needs a GPU"
    assert why["profile"] == "2 of 2 rows failed, first E: no"
    assert (day.out / "tests.log").read_text() == "before\nno such luck\n"

    child = int((day.out / "clips.csv.partial").read_text().split("child,")[1].split()[0])
    while runs(child):  # it has been killed, and may need a moment
        time.sleep(0.01)

    assert day.summary["made_on"] == MADE_ON
    step, clips = day.goals["step of i3d-50, GN + WS over BN"], day.goals["most clips, GN + WS over BN"]
    assert (step["asked"], step["median"], step["verdict"]) == ("at most 1", 0.9, "met")
    assert (clips["median"], clips["verdict"]) == (1.2, "met")  # of the rows that are whole
    verdicts = [goal["verdict"] for goal in day.summary["goals"]]
    assert verdicts.count("unmeasured") == len(verdicts) - 3  # and that of host

    plan, _, progress = day.said.partition("\n\n[0:00]")
    head = f"looking at the device (auto)\n8 stages in 10 minutes on a GPU; results in {day.out}\n"
    assert plan.startswith(head)
    assert "replay    is not for this machine: skipped: needs a GPU" in plan
    assert "doctor: done in" in progress and "clips: in part in" in progress and ", 3 rows: ended" in progress
    assert "Made on a GPU; torch 2.11, cuda 13.0, driver 580.1" in progress
    assert str(day.out / "summary.json") in progress


def test_the_same_command_keeps_what_is_done(day, monkeypatch):
    day.run()
    monkeypatch.setattr(runner, "MORE", 1e9)
    day.stages[1] = Stage("tests", "mended", 1.0, python("import os; print(os.environ['FROM_HERE'])"), False)
    day.stages[-1] = Stage("profile", "mended", 1.0, python("print()"), False)
    done = (day.out / "step.csv").stat().st_mtime_ns
    assert day.run("--stage", "doctor", "tests", "step", "clips", "profile") == 0
    assert "doctor   all is well: done before" in day.said
    assert re.search(r"clips: kept: it had \d+ s, and now has 5 s", day.said)
    assert (day.out / "tests.log").read_text() == "1\n"
    assert (day.out / "step.csv").stat().st_mtime_ns == done
    assert day.status["tests"] == "done" and day.status["memcheck"] == "failed"  # that of the first run

    assert day.run("--stage", "clips", "memcheck", minutes=1e-3) == 1
    assert "memcheck: failed before, and no time is left now" in day.said and day.status["clips"] == "in part"

    monkeypatch.setattr(runner, "MORE", 1.0)
    rows = "contender,max_clips\nbn,10\n"
    day.stages[3] = Stage("clips", "with more time", 1.0, python(WRITES, day.out / "clips.csv", rows))
    assert day.run("--stage", "clips") == 0
    assert day.status["clips"] == "done" and not (day.out / "clips.csv.partial").exists()


def test_without_time_stages_are_left_out(day):
    assert day.run(minutes=1e-3) == 0
    assert day.status.pop("replay") == "skipped"
    assert {status for name, status in day.status.items() if name != "replay"} == {"left out"}
    day.stages[1:] = []
    assert day.run() == 0 and day.status["doctor"] == "done"


def test_on_a_cpu_most_goals_are_unmeasured(day, monkeypatch):
    monkeypatch.setattr(here, "ask", lambda device, seconds: Here("cpu", {}, dict(MADE_ON)))
    day.stages[:] = [day.stages[2]]
    assert day.run() == 0
    assert {goal["verdict"] for goal in day.summary["goals"]} == {"unmeasured"}


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped(day, monkeypatch, number, code):
    """The stage that runs is ended with its child, and the summary has what there is."""
    day.stages[:] = [day.stages[0], Stage("clips", "hangs", 1.0, python(HANGS, day.out / "clips.csv"))]
    partial = day.out / "clips.csv.partial"

    def stop():
        while not (partial.exists() and "gn_t" in partial.read_text()):
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    monkeypatch.setattr(runner, "started", started)
    threading.Thread(target=stop).start()
    assert day.run() == code
    assert day.status == {"doctor": "done", "clips": "stopped"}
    assert day.outcomes["clips"]["why"] == f"by {number.name}"
    assert day.goals["most clips, GN + WS over BN"]["median"] == 1.2
    while runs(int(partial.read_text().split("child,")[1].split()[0])):
        time.sleep(0.01)


def test_a_folder_of_its_own(day, monkeypatch):
    day.stages[:] = day.stages[:1]
    day.out.mkdir()
    (day.out / "doctor.log").touch()
    own = r"--out \(.*\) must be a folder of its own"
    with pytest.raises(UserError, match=rf"{own}: it holds doctor.log and no summary.json"):
        day.run()
    (day.out / "doctor.log").unlink()

    with hold(day.out / ".lock"), pytest.raises(UserError, match=r"--out .* is in use by process \d+: wait"):
        day.run()
    assert day.run() == 0
    monkeypatch.setitem(MADE_ON, "driver", "590.2")
    with pytest.raises(UserError, match=rf"{own}: .* made with driver 580.1, and here it is 590.2"):
        day.run()
    (day.out / "summary.json").write_text("{")
    with pytest.raises(UserError, match="summary.json must be a summary of `videonorm bench all`"):
        day.run()


def test_what_was_made_with_changed_files_is_not_taken_for_these(day, monkeypatch):
    monkeypatch.setitem(MADE_ON, "commit", "0123456789abcdef-dirty")
    day.stages[:] = day.stages[:1]
    assert day.run() == 0
    with pytest.raises(UserError, match="was made with changed files, which may be others now"):
        day.run()


def test_a_device_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"device \(gpu\) must be auto, cpu or cuda"):
        here.facts("gpu")
    device, environment, made_on = here.facts("cpu")
    assert (device, environment) == ("cpu", {}) and made_on["torch"] and made_on["cuda"] == ""
    assert json.loads(json.dumps(made_on)) == made_on


def test_one_gpu_of_several_is_all_that_a_stage_sees(monkeypatch):
    gpu = SimpleNamespace(total_memory=80 * 2**30, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    monkeypatch.setattr(here, "visible_gpus", lambda: ["3", "5"])
    device, environment, made_on = here.facts("cuda:1")
    assert (device, environment) == ("cuda", {"CUDA_VISIBLE_DEVICES": "5"})
    assert (made_on["device"], made_on["arch"], made_on["gpu_memory_mib"]) == ("GPU 1", "sm_90", 80 * 1024)


def test_a_device_that_does_not_answer(monkeypatch):
    def run(command, timeout, **how):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(UserError, match=r"device \(cuda\) must answer, and has not in 90 s"):
        here.ask("cuda", 90.0)

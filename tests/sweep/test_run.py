import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console
from running import runs

from videonorm.errors import UserError
from videonorm.files import hold
from videonorm.sweep import run
from videonorm.sweep.plan import read_plan
from videonorm.sweep.results import read_results

# A process of its own that sweeps: python -c SWEEPER sweep.yaml output stand_in.py
SWEEPER = """
import sys
from pathlib import Path
from rich.console import Console
from videonorm.sweep.plan import read_plan
from videonorm.sweep.run import run_sweep
plan, output = read_plan(Path(sys.argv[1])), Path(sys.argv[2])
run_sweep(plan, output, Console(), jobs=2, command=(sys.executable, sys.argv[3]))
"""
SLOW = """
(folder / "pid").write_text(str(os.getpid()))
record("running", step=4)
while not (folder.parent / "go").exists():
    time.sleep(0.02)
record()
"""


@pytest.fixture
def sweep(sweep_file, tmp_path, monkeypatch):
    """Runs the sweep file into tmp_path/out with a command; returns the results by run name."""
    monkeypatch.setattr(run, "POLL_SECONDS", 0.02)

    def start(command, **more):
        rows = run.run_sweep(
            read_plan(sweep_file), tmp_path / "out", Console(quiet=True), jobs=2, command=command, **more
        )
        assert read_results(tmp_path / "out" / "results.csv") == rows
        return {row.run: row for row in rows}

    return start


def calls(folder: Path) -> list[str]:
    return (folder / "calls.txt").read_text().splitlines()


def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_every_run_becomes_a_row(sweep, stand_in, tmp_path):
    rows = sweep(stand_in("record()\nprint('all is well')"))
    assert list(rows) == ["bn_4x2_b4_s0", "bn_8x2_b2_s0", "gn-ws_4x2_b4_s0", "gn-ws_8x2_b2_s0"]
    row = rows["gn-ws_8x2_b2_s0"]
    assert (row.status, row.norm, row.num_frames, row.frame_stride, row.batch_size) == (
        "done",
        "gn_ws",
        8,
        2,
        2,
    )
    assert (row.val_top1, row.val_videos, row.frames_per_step, row.peak_memory_mib) == (0.58, 400, 16, 300.5)
    folder = tmp_path / "out" / row.run
    assert (folder / "log.txt").read_text() == "all is well\n"
    about = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert about["num_runs"] == 4 and about["sweep"].startswith("name: tiny")
    assert about["origins"] == [
        {"machine": {"device": "cpu", "cores": 2}, "versions": {"torch": "2"}, "commit": "abc"}
    ]
    assert not list(tmp_path.glob("out/**/.*.json"))


def test_a_run_that_dies_is_recorded_and_the_others_go_on(sweep, stand_in):
    rows = sweep(
        stand_in("""
name = folder.name[:4]
if name == "bn_4":
    record("failed", error="OutOfMemoryError: CUDA out of memory.\\nTried to allocate", val_top1=None)
    sys.exit(1)
if name == "bn_8":
    print("working")
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)
if folder.name.startswith("gn-ws_4"):
    raise RuntimeError("no such thing")
record()
""")
    )
    assert [row.status for row in rows.values()] == ["failed", "failed", "failed", "done"]
    errors = [row.error for row in rows.values()]
    assert errors == [
        "OutOfMemoryError: CUDA out of memory. Tried to allocate",
        "killed by SIGKILL, as Linux does when memory runs out; see log.txt",
        "RuntimeError: no such thing (exit code 1)",
        None,
    ]


def test_a_run_without_a_score_is_not_done(sweep, stand_in):
    rows = sweep(stand_in("if num_frames == 4: record(val_top1=None)"))
    errors = [row.error for row in rows.values()]
    without_score = "val_top1 (null) must be a finite number: the run has no validation; see log.txt"
    without_run_json = "fit ended without a run.json that says done, see log.txt"
    assert errors == [without_score, without_run_json] * 2


def test_run_again_keeps_what_is_done_and_resumes_what_is_not(sweep, stand_in, tmp_path):
    sweep(
        stand_in("""
if folder.name.startswith("bn"):
    record("running", step=5)
    if num_frames == 8:
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "last.ckpt").touch()
    sys.exit("died")
record()
""")
    )
    rows = sweep(stand_in("record()"))
    assert [row.status for row in rows.values()] == ["done"] * 4
    out = tmp_path / "out"
    assert len(calls(out / "gn-ws_4x2_b4_s0")) == len(calls(out / "gn-ws_8x2_b2_s0")) == 1
    afresh, resumed = calls(out / "bn_4x2_b4_s0")[1], calls(out / "bn_8x2_b2_s0")[1]
    assert "--ckpt_path" not in afresh
    assert resumed.endswith(f"--ckpt_path={out / 'bn_8x2_b2_s0' / 'checkpoints' / 'last.ckpt'}")


def test_an_old_error_is_not_taken_for_a_new_one(sweep, stand_in):
    sweep(stand_in("record('failed', error='the first'); sys.exit(1)"))
    rows = sweep(stand_in("sys.exit('the second')"))
    assert {row.error for row in rows.values()} == {"the second (exit code 1)"}


def test_results_of_other_settings_are_not_mixed(sweep, stand_in, sweep_file, tmp_path):
    sweep(stand_in("record()"))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("# a comment\n" + recipe.read_text())
    sweep(stand_in("sys.exit('must not be called')"))
    recipe.write_text("data: {frame_stride: 2}\nmodel: {width: 16}\n")
    with pytest.raises(
        UserError, match="bn_4x2_b4_s0 holds a run with other settings than bn_4x2_b4_s0 has now; give"
    ):
        sweep(stand_in("record()"))
    assert len(calls(tmp_path / "out" / "bn_4x2_b4_s0")) == 1


def test_what_has_failed_from_the_start_may_be_mended(sweep, stand_in, tmp_path):
    sweep(stand_in("sys.exit('bad width')"))
    (tmp_path / "recipe.yaml").write_text("data: {frame_stride: 2}\nmodel: {width: 16}\n")
    assert {row.status for row in sweep(stand_in("record()")).values()} == {"done"}


def test_another_sweep_takes_no_results_away(sweep, stand_in, sweep_file, tmp_path):
    sweep(stand_in("sys.exit('no luck') if folder.name.startswith('bn_4') else record()"))
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    sweep_file.write_text(sweep_file.read_text().replace("[4, 8]", "[4, 16]"))
    for _ in range(2):
        with pytest.raises(UserError, match=r"out holds runs that .* has not \(bn_8x2_b2_s0 and 1 more\)"):
            sweep(stand_in("record()"))
        assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
        for path in (tmp_path / "out").glob("*_8x2_*/asked.json"):  # the table alone is enough
            path.unlink()
            before.pop(path)


def test_a_sweep_may_grow_and_drop_what_never_worked(sweep, stand_in, sweep_file):
    sweep(stand_in("sys.exit('no luck') if folder.name.startswith('bn') else record()"))
    text = sweep_file.read_text().replace("bn: [bn.yaml], ", "").replace("[4, 8]", "[4, 8, 16]")
    sweep_file.write_text(text)
    rows = sweep(stand_in("record()"))
    assert list(rows) == ["gn-ws_4x2_b4_s0", "gn-ws_8x2_b2_s0", "gn-ws_16x2_b1_s0"]


def test_a_foreign_table_is_not_replaced(sweep, stand_in, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"results \(.*results.csv\) must have the columns of a sweep"):
        sweep(stand_in("record()"))
    assert (tmp_path / "out" / "results.csv").read_text() == "a,b\n1,2\n"


def test_a_run_without_a_finite_score_is_failed_and_named(sweep, stand_in):
    rows = sweep(
        stand_in("""
record(**{
    "bn_4x2_b4_s0": {"val_loss": float("nan")},
    "bn_8x2_b2_s0": {"val_top1": "high"},
    "gn-ws_4x2_b4_s0": {"status": "stopped", "error": "SIGTERM", "step": 4},
    "gn-ws_8x2_b2_s0": {"status": "failed", "error": "weights must be finite"},
}[folder.name])
""")
    )
    assert [row.error for row in rows.values()] == [
        "val_loss (null) must be a finite number: the run has diverged; see log.txt",
        "val_top1 (high) must be a finite number: the run has no validation; see log.txt",
        "stopped by SIGTERM at step 4, to go on from there",
        "weights must be finite",
    ]
    for row in rows.values():
        assert row.status == "failed" and row.val_top1 is row.val_top5 is row.val_loss is None


def test_two_sweeps_do_not_share_a_folder(sweep, stand_in, tmp_path):
    lock = tmp_path / "out" / ".shard-0-of-1.lock"
    with hold(lock), pytest.raises(UserError, match=r"out is in use by process \d+, another sweep; wait"):
        sweep(stand_in("record()"))
    assert {row.status for row in sweep(stand_in("record()")).values()} == {"done"}


def start_sweeper(sweep_file, out, stand_in):
    script = stand_in(SLOW)[1]
    process = subprocess.Popen(
        [sys.executable, "-c", SWEEPER, sweep_file, out, script], stderr=subprocess.DEVNULL
    )
    until(lambda: len(list(out.glob("*/run.json"))) == 2)
    return process


def test_sigterm_ends_the_runs_and_leaves_a_folder_to_go_on_from(sweep, stand_in, sweep_file, tmp_path):
    out = tmp_path / "out"
    process = start_sweeper(sweep_file, out, stand_in)
    pids = [int(path.read_text()) for path in out.glob("*/pid")]
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) != 0
    assert not any(runs(pid) for pid in pids)
    assert read_results(out / "results.csv") == []
    assert {row.status for row in sweep(stand_in("record()")).values()} == {"done"}


def test_runs_outlive_a_killed_sweep_and_the_next_waits_for_them(sweep, stand_in, sweep_file, tmp_path):
    out = tmp_path / "out"
    process = start_sweeper(sweep_file, out, stand_in)
    process.kill()
    process.wait()
    left = [path.parent for path in out.glob("*/pid")]
    let_go = threading.Timer(0.5, (out / "go").touch)
    let_go.start()
    rows = sweep(stand_in("record() if (folder.parent / 'go').exists() else sys.exit('too early')"))
    assert {row.status for row in rows.values()} == {"done"}
    assert [len(calls(folder)) for folder in left] == [1, 1]


def test_a_run_is_recorded_with_the_settings_it_began_with(sweep, stand_in, tmp_path):
    (tmp_path / "new.yaml").write_text("data: {frame_stride: 2}\nmodel: {width: 16}\n")
    edits = "(folder.parents[1] / 'recipe.yaml').write_text((folder.parents[1] / 'new.yaml').read_text())"
    sweep(stand_in(f"{edits}\nrecord()"))
    asked = json.loads((tmp_path / "out" / "bn_4x2_b4_s0" / "asked.json").read_text())["asked"]
    assert asked["configs"][0]["model"] == {"width": 8}

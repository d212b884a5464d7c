"""A study from file to verdicts, trained by a stand-in for `fit`; killed, and run again."""

import multiprocessing
import os
import signal
import time
from functools import partial

import pytest
from rich.console import Console

from videonorm.errors import UserError
from videonorm.study import run as study_run
from videonorm.study.run import conclude, run_study
from videonorm.study.study_file import read_study, study_plan
from videonorm.study.verdicts import read_verdicts
from videonorm.sweep import run

# A run that ends at once, after it has recorded; the last ones of a study wait for a file named "go".
FIT = """
arm, seed = folder.name.split("_")[0], int(options["seed_everything"])
slope = 1.0 + seed / 10 if arm == "bn" else seed / 20
(folder / "depths.csv").write_text(f"step,block,slope\\n0,a,{slope}\\n")
if arm == "gn-ws" and batch_size == 4:
    record("running", step=4)
    while not (folder.parent / "go").exists():
        time.sleep(0.01)
record(val_loss=(2.0 if arm == "bn" else 1.0) + seed / 100)
"""
CLAIMS = [{}, {"measure": {"table": "depths", "column": "slope", "step": "first"}, "expected": "lower"}]


@pytest.fixture
def start(study_file, recorder, stand_in, monkeypatch):
    """Runs the study of two claims into a folder."""
    monkeypatch.setattr(run, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(run, "run_sweep", partial(run.run_sweep, command=stand_in(FIT)))
    monkeypatch.setattr(study_run, "write_report", lambda folder: None)  # of the sweep, whose tests draw it
    study = read_study(study_file(CLAIMS, recorders=[recorder]), quick=True)
    return lambda output: run_study(study, study_plan(study), output, Console(width=300), jobs=8)


def test_a_study_killed_and_run_again_has_the_same_verdicts(start, study_file, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    (one / "go").touch()
    whole = start(one)
    assert [of.verdict for of in whole.verdicts] == ["supported", "refuted"]
    assert len(whole.results) == 8 and len(whole.measures) == 16

    killed = multiprocessing.get_context("fork").Process(target=start, args=(two,))
    killed.start()
    deadline = time.monotonic() + 30
    while len(list(two.glob("*/run.json"))) < 8 or len(_rows(two)) < 6:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    assert [of.verdict for of in conclude(two).verdicts] == ["not decided"] * 2  # what there is of it
    (two / "go").touch()
    assert start(two).verdicts == whole.verdicts
    for table in ("verdicts.csv", "measures.csv", "study.yaml"):
        assert (two / table).read_text() == (one / table).read_text()
    assert all((path / "calls.txt").read_text().count("\n") == 1 for path in two.glob("*_b2_*"))

    other = read_study(study_file(sweep={"batch_size": [2]}), quick=True)
    with pytest.raises(UserError, match="holds a run with other settings"):
        run_study(other, study_plan(other), two, Console(width=300))
    assert (two / "study.yaml").read_text() == (one / "study.yaml").read_text()
    assert read_verdicts(two / "verdicts.csv") == conclude(two).verdicts == whole.verdicts


def _rows(folder):
    table = folder / "results.csv"
    return table.read_text().splitlines() if table.exists() else []


def test_a_folder_of_something_else_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"study \(.*study.yaml\) must be a readable file"):
        conclude(tmp_path)

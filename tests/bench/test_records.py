"""Results files."""

import importlib.metadata
import signal
import subprocess
import sys

import pytest
import torch

from videonorm import __version__
from videonorm.bench.records import LOADING_ORIGIN, ORIGIN, Records, origin, read_rows, sentence
from videonorm.errors import UserError
from videonorm.machine import available_cores, processor


def test_rows_become_the_file_at_the_end(tmp_path):
    path = tmp_path / "new" / "results.csv"
    with Records(path, ["name", "seconds", "error"]) as records:
        records.add([{"name": "a", "seconds": 1 / 3}])
        assert not path.exists()
        assert read_rows(records.partial) == [{"name": "a", "seconds": "0.333333", "error": ""}]
        records.add([{"name": "b", "error": 'no "room",\nat all'}])
    assert [row["name"] for row in read_rows(path)] == ["a", "b"]
    assert read_rows(path) == records.rows
    assert list(path.parent.iterdir()) == [path]


def test_a_killed_run_keeps_its_rows_and_the_file_of_the_run_before(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("the run before")
    code = (
        "import os, pathlib, signal, sys\n"
        "from videonorm.bench.records import Records\n"
        "with Records(pathlib.Path(sys.argv[1]), ['name']) as records:\n"
        "    records.add([{'name': 'a'}, {'name': 'b'}])\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == -signal.SIGKILL
    assert path.read_text() == "the run before"
    assert [row["name"] for row in read_rows(tmp_path / "results.csv.partial")] == ["a", "b"]


def test_a_stopped_run_keeps_its_rows_and_the_file_of_the_run_before(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("the run before")
    with pytest.raises(KeyboardInterrupt), Records(path, ["name"]) as records:
        records.add([{"name": "a"}])
        raise KeyboardInterrupt
    assert path.read_text() == "the run before"
    assert [row["name"] for row in read_rows(records.partial)] == ["a"]


def test_a_file_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    message = r"--out \(.*results.csv\) must be a file that can be written"
    with pytest.raises(UserError, match=message), Records(tmp_path / "file" / "results.csv", ["name"]):
        pass


def test_origin():
    made_on = origin([*ORIGIN, "error"], torch.device("cpu"))
    assert made_on.keys() == ORIGIN.keys()
    assert made_on["device"] == f"{processor()}, {available_cores()} cores"
    assert made_on["torch"] == importlib.metadata.version("torch") and made_on["videonorm"] == __version__
    assert made_on["cuda"] is made_on["driver"] is None
    assert origin(LOADING_ORIGIN, torch.device("cpu")).keys() == LOADING_ORIGIN.keys()


def test_an_error_is_one_line():
    assert (
        sentence(RuntimeError("CUDA out of memory.\n  Tried to"))
        == "RuntimeError: CUDA out of memory. Tried to"
    )
    assert sentence(KeyError()) == "KeyError"
    assert len(sentence(ValueError("x" * 5000))) == 300

"""Contenders run in processes of their own, and what becomes of one is no matter of the next."""

import subprocess
import sys

import pytest

from videonorm.bench import trial
from videonorm.bench.terminal import new_progress
from videonorm.bench.trial import Cost, Trial, library_path, take_turns
from videonorm.processes import family

CONTENDERS = """
import os, sys

def trial(case):
    loader = case["loader"]
    print("noise", flush=True)
    os.system("echo noise")
    if loader == "raises":
        raise RuntimeError("no such\\nthing")
    if loader == "dies" and case["number"] == 2:
        print("the last words", file=sys.stderr, flush=True)
        os.abort()
    if loader == "hangs":
        import subprocess
        subprocess.run(["sleep", "1000"])
    return {"pid": os.getpid(), "number": case["number"]}
"""


@pytest.fixture
def answers(tmp_path, monkeypatch):
    (tmp_path / "contenders.py").write_text(CONTENDERS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def answers(*processes):
        """The answers to each case of each process, which has a contender, a number of cases, and rounds."""
        trials = [
            [Trial({"loader": loader, "number": number}, rounds) for number in range(1, 1 + count)]
            for loader, count, rounds in processes
        ]
        with new_progress() as progress:
            take_turns("contenders", trials, progress)
        return [[trial.answers for trial in of_process] for of_process in trials]

    return answers


def test_take_turns(answers):
    works, dies, raises, once = answers(("works", 2, 2), ("dies", 3, 2), ("raises", 1, 2), ("works", 1, 1))
    assert [[answer["number"] for answer in found] for found in works] == [[1, 1], [2, 2]]
    (first, second), (third, fourth) = ([answer["pid"] for answer in found] for found in works)
    assert first == third != second == fourth

    error = "its process ended with signal 6: "
    assert [len(found) for found in dies] == [2, 1, 1]
    assert not any("error" in answer for answer in dies[0])
    assert dies[1][0]["error"].startswith(error) and dies[2][0]["error"].startswith(error)

    assert raises == [[{"error": "RuntimeError: no such thing"}]]
    assert [len(found) for found in once] == [1] and once[0][0]["pid"] not in (first, second)


def test_torch_has_one_thread(tmp_path, monkeypatch):
    code = "import torch\n\ndef trial(case):\n    return {'threads': torch.get_num_threads()}\n"
    (tmp_path / "threads.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("MKL_NUM_THREADS", "2")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    trial = Trial({"loader": "any"}, 1)
    with new_progress() as progress:
        take_turns("threads", [[trial]], progress)
    assert trial.answers == [{"threads": 1}]


def test_a_contender_that_hangs_is_ended(answers, monkeypatch):
    monkeypatch.setattr(trial, "SILENT_SECONDS", 2)
    [[[found]]] = answers(("hangs", 1, 1))
    assert found["error"].startswith("its process ended with signal 9")


def test_cost_counts_what_was_started():
    busy = "import time; begin = time.process_time()\nwhile time.process_time() < begin + 0.3: pass"
    with Cost() as cost:
        subprocess.run([sys.executable, "-c", busy], check=True)
    assert cost.seconds > 0.2 and cost.cpu_seconds > 0.25
    waiting = [sys.executable, "-c", f"{busy}\nprint(flush=True)\ninput()"]
    with subprocess.Popen(waiting, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        with Cost() as cost:
            running.stdout.readline()
        assert cost.cpu_seconds > 0.25
        assert running.pid in family()
        running.communicate(b"\n")


def test_torchcodec_finds_the_ffmpeg_of_pyav(tmp_path):
    environment = library_path(tmp_path)
    if not environment:
        pytest.skip("PyAV brings no FFmpeg here")
    assert any(tmp_path.glob("libavutil.so.*"))
    assert environment["LD_LIBRARY_PATH"].startswith(f"{tmp_path}:")

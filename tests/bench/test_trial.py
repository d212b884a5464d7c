"""Contenders run in processes of their own, and what becomes of one is no matter of the next."""

import subprocess
import sys

import pytest

from videonorm.bench import trial
from videonorm.bench.terminal import new_progress
from videonorm.bench.trial import Cost, Plan, family, library_path, take_turns

CONTENDERS = """
import os, sys

def trial(loader, case):
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

    def answers(plans, rounds):
        with new_progress() as progress:
            return list(take_turns("contenders", plans, rounds, progress))

    return answers


def test_take_turns(answers):
    cases = [{"number": 1}, {"number": 2}, {"number": 3}]
    found = answers([Plan("works", cases[:2]), Plan("dies", cases), Plan("raises", cases[:1])], 2)
    works = [answer for answer in found if answer["loader"] == "works"]
    assert [(answer["case"], answer["number"]) for answer in works] == [(0, 1), (1, 2)] * 2
    assert works[0]["pid"] == works[1]["pid"] != works[2]["pid"] == works[3]["pid"]

    dies = [(answer["case"], answer.get("error")) for answer in found if answer["loader"] == "dies"]
    error = "its process ended with signal 6: "
    assert dies[0] == (0, None) and [case for case, _ in dies] == [0, 1, 2, 0]
    assert dies[1][1].startswith(error) and dies[2][1].startswith(error)

    (raises,) = [answer for answer in found if answer["loader"] == "raises"]
    assert raises == {"loader": "raises", "case": 0, "error": "RuntimeError: no such thing"}


def test_a_contender_that_hangs_is_ended(answers, monkeypatch):
    monkeypatch.setattr(trial, "SILENT_SECONDS", 6)
    (found,) = answers([Plan("hangs", [{"number": 1}])], 1)
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

"""Tasks that end in every way that a decoder can."""

from argparse import Namespace

import pytest
from workers import Failed, run_all

TASKS = """
import os, signal, time

def task(item):
    if item == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if item == "hang":
        time.sleep(1000)
    if item == "raise":
        raise KeyError("x")
    return item.upper()
"""


@pytest.fixture
def task(tmp_path, monkeypatch):
    (tmp_path / "tasks_of_a_test.py").write_text(TASKS)
    monkeypatch.syspath_prepend(tmp_path)
    import tasks_of_a_test

    return tasks_of_a_test.task


@pytest.mark.parametrize("num_workers", [1, 2])
def test_each_item_has_one_result(task, num_workers):
    items = ["a", "crash", "b", "hang", "raise", "c"]
    results = list(run_all(task, items, "Testing", Namespace(num_workers=num_workers, time_limit_seconds=2)))
    assert sorted(number for number, _ in results) == list(range(6))
    assert [result for _, result in sorted(results)] == [
        "A",
        Failed("crashed the decoder (SIGSEGV)"),
        "B",
        Failed("took longer than 2 s"),
        Failed("cannot be processed: KeyError: 'x'"),
        "C",
    ]


def test_no_items(task):
    assert list(run_all(task, [], "Testing", Namespace(num_workers=2, time_limit_seconds=1))) == []

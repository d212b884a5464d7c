"""A table by step is whole after every save, and hides nothing."""

import csv
import math

from videonorm.step_table import StepTable


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_what_is_not_finite_is_written_as_such(tmp_path):
    table = StepTable(tmp_path / "run" / "of.csv", ["step", "block", "value"])
    table.save()
    assert not table.path.exists()  # without a row
    for step, value in enumerate((math.inf, math.nan, -math.inf, 0.1)):
        table.add({"step": step, "value": value, "block": "a"})
    table.save()
    assert table.path.read_text().split() == ["step,block,value", "0,a,inf", "1,a,nan", "2,a,-inf", "3,a,0.1"]


def test_rows_of_steps_that_come_once_more_are_dropped(tmp_path):
    first = StepTable(tmp_path / "of.csv", ["step", "value"])
    for step in range(4):
        first.add({"step": step, "value": step})
    first.save()
    second = StepTable(tmp_path / "of.csv", ["step", "value"], resume=True)
    second.drop_from(2)
    assert len(rows_of(tmp_path / "of.csv")) == 4  # until there is something to save
    second.add({"step": 3, "value": 30, "more": 1})
    second.save()
    assert [tuple(row.values()) for row in rows_of(tmp_path / "of.csv")] == [
        ("0", "0", ""),
        ("1", "1", ""),
        ("3", "30", "1"),
    ]
    StepTable(tmp_path / "of.csv", ["step"]).save()  # another run that has not begun to write
    assert len(rows_of(tmp_path / "of.csv")) == 3

"""The tables that a study leaves."""

import math
from dataclasses import replace

import pytest

from videonorm.errors import UserError
from videonorm.study.measured import Measured, read_measures, write_measures
from videonorm.study.verdicts import Verdict, read_verdicts, write_verdicts

VERDICT = Verdict(
    *("tiny", "S1", "=BN, is worse", "a paper", "10.6", "ratio", "supported"),
    *(2.0, 1.5, math.inf, "x", 0.1, "", 3, None, 6, 0.2),
)


def test_verdicts_come_back_as_they_were(tmp_path):
    undecided = replace(VERDICT, verdict="not decided", effect=None, low=None, high=None, videos=400)
    write_verdicts(tmp_path / "verdicts.csv", [VERDICT, undecided])
    assert read_verdicts(tmp_path / "verdicts.csv") == [VERDICT, undecided]
    assert "'=BN" in (tmp_path / "verdicts.csv").read_text()


def test_measures_come_back_as_they_were(tmp_path):
    measures = [Measured("S1", "bn_s0", 0.1), Measured("S1", "bn_s1", 40.0, True)]
    write_measures(tmp_path / "measures.csv", measures)
    assert read_measures(tmp_path / "measures.csv") == measures


@pytest.mark.parametrize("read", [read_verdicts, read_measures])
def test_what_is_no_table_is_one_sentence(read, tmp_path):
    with pytest.raises(UserError, match=r"none.csv\) must be a readable file: No such file"):
        read(tmp_path / "none.csv")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"other.csv\) must have the columns of a study"):
        read(tmp_path / "other.csv")


def test_a_verdict_is_one_of_four(tmp_path):
    write_verdicts(tmp_path / "verdicts.csv", [VERDICT])
    text = (tmp_path / "verdicts.csv").read_text()
    (tmp_path / "verdicts.csv").write_text(text.replace("supported", "proven"))
    with pytest.raises(UserError, match=r"verdict \(proven\) must be one of supported, refuted, equivalent"):
        read_verdicts(tmp_path / "verdicts.csv")

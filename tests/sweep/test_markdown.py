"""The table that goes into a README."""

from videonorm.sweep.answer import answer
from videonorm.sweep.cells import cells_of
from videonorm.sweep.markdown import as_markdown


def test_a_row_a_shape_and_a_column_an_arm(result):
    rows = [
        result("bn", 4, 16, 0.60),
        result("gn_ws", 4, 16, 0.61),
        result("gn_ws", 32, 2, 0.95),
    ]
    cells = cells_of(rows)
    origin = {
        "machine": {"device": "cpu", "cores": 2},
        "versions": {"torch": "2.15.0"},
        "commit": "0123456789abcdef",
    }
    text = as_markdown(cells, answer(cells), {"origins": [origin]})
    assert text.startswith(f"**{answer(cells).headline}**\n")
    *_, heading, rule, first, second, blank, made, end = text.split("\n")
    assert heading == "| T x stride | B | bn | gn_ws | best possible |"
    assert rule.count("|") == heading.count("|")
    low, high = cells[0].top1.low, cells[0].top1.high
    assert f"| 16 | 60.0 ({100 * low:.1f} to {100 * high:.1f}) | 61.0 (" in first
    assert "| 2 |  | 95.0 (" in second  # bn was not run there
    assert made.endswith("Made on 2 CPU cores; torch 2.15.0; commit 0123456789ab.")
    assert blank == end == ""

"""The tables of cells: in the terminal, and the one that goes into a README."""

import io

from rich.console import Console

from videonorm.sweep.answer import answer
from videonorm.sweep.cells import cells_of
from videonorm.sweep.tables import as_markdown, as_rich, figures


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
    assert heading == "| T x stride | B | clips seen | bn | gn_ws | best possible |"
    assert rule.count("|") == heading.count("|")
    low, high = cells[0].top1.low, cells[0].top1.high
    assert f"| 16 | 160 | 60.0 ({100 * low:.1f} to {100 * high:.1f}) | 61.0 (" in first
    assert "| 2 | 20 |  | 95.0 (" in second  # bn was not run there
    assert made.endswith("Made on 2 CPU cores; torch 2.15.0; commit 0123456789ab.")
    assert blank == end == ""


def test_what_users_write_is_no_markup(result):
    name = "a|b\nc <script>[x](y) `*_z_* &amp; ~~"
    cells = cells_of([result(name, 4, 16, 0.5)])
    origin = {"machine": {"device": "A|100\n"}, "commit": "0123"}
    text = as_markdown(cells, answer(cells, "A|100\n"), {"origins": [origin]})
    assert "a|b" not in text and "A|100" not in text
    shown = r"a\|b c \<script\>\[x\](y) \`\*\_z\_\* \&amp; \~\~"
    assert rf"| T x stride | B | clips seen | {shown} | best possible |" in text.split("\n")
    assert r"Made on A\|100" in text


def test_the_results_as_a_table(result):
    console = Console(width=120, file=io.StringIO())
    console.print(as_rich(cells_of([result("bn", 4, 2, 0.93), result("gn", 4, 2, None)])))
    text = console.file.getvalue()
    rows = [
        [part.strip() for part in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")
    ]
    assert rows == [
        ["bn", "4 x 1", "2", "20", "93.0\u00a0%", "90.1 to 95.1", "25.0", "504", "1 of 1"],
        ["gn", "4 x 1", "2", "", "failed", "", "", "", "0 of 1"],
    ]


def test_memory_that_was_not_measured_is_left_out(result):
    cells = cells_of([result("bn", 4, 2, 0.93, peak_memory_mib=None), result("gn", 4, 2, None)])
    headings, rows = figures(cells)
    assert "peak MiB" not in headings and {len(row) for row in rows} == {len(headings)}


def test_seeds_that_saw_other_numbers_of_clips_are_told(result):
    rows = [result("bn", 4, 2, 0.9, seed=seed, clips_seen=clips) for seed, clips in enumerate((1150, 1200))]
    _, ((_, _, clips, *_),) = figures(cells_of(rows))
    assert clips == "1,150 to 1,200"
    _, ((_, _, clips, *_),) = figures(cells_of([result("bn", 4, 2, 0.9, clips_seen=None)]))
    assert clips == "-"
